"""How readily users act: the activity of the users of a log."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._fit import signal_names
from ..._pipeline import split_pipeline
from ...exceptions import ImplicitRMError
from ._base import COLOURS, axes_for

#: How far the axis reaches at least, in standard deviations of users.
_REACH = 4


class ActivityDisplay:
    """How readily users act: what is known of each user, and what the model takes for granted.

    Activity is taken as normal among users. The users of the log together, each with its
    uncertainty, should have the same density. If theirs has two humps or a long tail, the
    assumption is wrong. The means alone spread less than the users do, the less so the more rows
    of each user there are.

    It is recommended to make one by `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    mean, sd : ndarray of shape (n_users,)
        Activity of each user given the rows of that user, in standard deviations of users.
    n_rows : ndarray of int of shape (n_users,)
        Rows of each user.
    loading : dict of str to float
        By how many logits one standard deviation shifts the propensity of each signal, by name.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        The histogram of the means.
    line_ : matplotlib Line2D
        The density of all users together.
    population_ : matplotlib Line2D
        The standard normal density.
    ax_ : matplotlib Axes
        Axes with the histogram.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    implicitrm_sk.ImplicitRewardEstimator.propensity : The propensity of a known user.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.inspection import ActivityDisplay
    >>> display = ActivityDisplay(
    ...     mean=np.array([-0.5, 0.5]),
    ...     sd=np.full(2, 0.8),
    ...     n_rows=np.full(2, 20),
    ...     loading={"copy": 2},
    ... )
    >>> display.plot().ax_.get_title()
    '2 users of 20 rows (median); one unit is 2.0 logits of copy'
    """

    def __init__(
        self,
        *,
        mean: NDArray[np.float64],
        sd: NDArray[np.float64],
        n_rows: NDArray[np.int64],
        loading: Mapping[str, float],
    ) -> None:
        self.mean = mean
        self.sd = sd
        self.n_rows = n_rows
        self.loading = loading

    def plot(
        self,
        ax: Any = None,
        *,
        bar_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the histogram and the two densities.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        bar_kwargs : dict, default=None
            Further arguments of ``Axes.hist``, for the means.
        line_kwargs : dict, default=None
            Further arguments of ``Axes.plot``, for the density of all users together.

        Returns
        -------
        display : ActivityDisplay
            The display itself.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.inspection import ActivityDisplay
        >>> values = {"mean": np.zeros(2), "sd": np.ones(2), "n_rows": np.ones(2, int)}
        >>> ActivityDisplay(**values, loading={"copy": 0.0}).plot().ax_.get_xlabel()
        'activity, in standard deviations of users'
        """
        ax = axes_for(self, ax)
        reach = max(_REACH, int(np.ceil(np.abs(self.mean).max(initial=0))))  # of every user
        grid = np.linspace(-reach, reach, 50 * reach + 1)
        settings = {
            "bins": np.linspace(-reach, reach, 8 * reach + 1),
            "density": True,
            "color": "0.8",
            "label": "means of users",
        } | dict(bar_kwargs or {})
        *_, self.bars_ = ax.hist(self.mean, **settings)
        # In parts: a table of a million users is too large.
        density = np.zeros(len(grid))
        for start in range(0, len(self.mean), 4096):
            mean, sd = (part[start : start + 4096, None] for part in (self.mean, self.sd))
            sd = np.maximum(sd, 0.02)  # as wide as a pixel
            density += (np.exp(-0.5 * ((grid - mean) / sd) ** 2) / sd).sum(0)
        density /= len(self.mean) * np.sqrt(2 * np.pi)
        settings = {"color": COLOURS[0], "linewidth": 2, "label": "users with their uncertainty"}
        (self.line_,) = ax.plot(grid, density, **(settings | dict(line_kwargs or {})))
        (self.population_,) = ax.plot(
            grid,
            np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi),
            color="black",
            linestyle="--",
            label="assumed: normal",
        )
        shifts = ", ".join(f"{size:.1f} logits of {name}" for name, size in self.loading.items())
        found = f"one unit is {shifts}" if any(self.loading.values()) else "they do not differ"
        ax.set(
            xlabel="activity, in standard deviations of users",
            ylabel="density",
            xlim=(-reach, reach),
            title=f"{len(self.mean):,} users of {np.median(self.n_rows):g} rows (median); {found}",
        )
        ax.legend(loc="upper left", frameon=False)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Any = None,
        bar_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the activity of the users that an estimator was fitted on.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator or Pipeline
            Fitted with `user_id`.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        bar_kwargs, line_kwargs : dict, default=None
            Further arguments of ``Axes.hist`` and ``Axes.plot``.

        Returns
        -------
        display : ActivityDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If it knows no users: fitted without, or loaded from a file without ids.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import ActivityDisplay
        >>> rng = np.random.default_rng(0)
        >>> X, user = rng.normal(size=(2000, 2)), np.arange(2000) % 20
        >>> ready = np.where(user < 10, 0.9, 0.1)
        >>> y = ((X[:, 0] > 0) & (rng.random(2000) < ready)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> display = ActivityDisplay.from_estimator(est.fit(X, y, user_id=user))
        >>> display.mean.shape
        (20,)
        """
        fitted, _ = split_pipeline(estimator)
        known = getattr(fitted, "user_activity_", None)
        if known is None or not len(known.mean):
            raise ImplicitRMError(
                "the estimator knows no users. Fit it with user_id; of a saved one, save it with "
                "users=True."
            )
        names = [str(name) for name in signal_names(fitted)]
        names += ["looking"] * (len(fitted.user_loading_) - len(names))
        display = cls(
            mean=known.mean,
            sd=known.sd,
            n_rows=known.n_rows,
            loading=dict(zip(names, map(float, fitted.user_loading_), strict=True)),
        )
        return display.plot(ax, bar_kwargs=bar_kwargs, line_kwargs=line_kwargs)
