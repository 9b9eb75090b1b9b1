"""The range of the reward over equally likely fits."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...exceptions import ImplicitRMError
from ._base import COLOURS, axes_for

#: Number of parts of the rows that are averaged; the range of a single row is too noisy to plot.
N_PARTS = 40


class IdentificationDisplay:
    """Range of the reward over fits that explain the log equally well.

    The band may be narrow beside the range that the actions alone leave open. This shows what
    further information (a second signal, labels ...) has identified. A wide band is the signature
    of a reward that is not identified: no amount of such data reduces it. A narrow band is not a
    proof, because fits with similar starts may agree by convention; see the level.

    Create a display with `from_report` or `from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    mean, low, high : ndarray of shape (n_parts,)
        Mean, lowest and highest reward over the equally likely fits, averaged over parts of the
        rows in the order of their mean reward.
    lower_bound : ndarray of shape (n_parts,), default=None
        Lowest reward that the action probabilities allow; None means 0.
    level : str, default=None
        The level of the report, for the title.
    upper_bound : ndarray of shape (n_parts,), default=None
        Highest reward that the action probabilities allow; None means 1.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The mean reward.
    band_ : matplotlib FillBetweenPolyCollection
        The range over the fits.
    bounds_ : matplotlib FillBetweenPolyCollection or None
        The range that the actions alone leave open, if a bound was given.
    ax_ : matplotlib Axes
        Axes with the band.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    implicitrm_sk.identification_report : The report, with advice and tests.

    Examples
    --------
    >>> from implicitrm_sk.inspection import IdentificationDisplay
    >>> display = IdentificationDisplay.from_predictions([[0.2, 0.9], [0.4, 0.9], [0.3, 0.6]])
    >>> display.low, display.high
    (array([0.2, 0.6]), array([0.4, 0.9]))
    """

    def __init__(
        self,
        *,
        mean: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        lower_bound: NDArray[np.float64] | None = None,
        level: str | None = None,
        upper_bound: NDArray[np.float64] | None = None,
    ) -> None:
        self.mean = mean
        self.low = low
        self.high = high
        self.lower_bound = lower_bound
        self.level = level
        self.upper_bound = upper_bound

    def plot(
        self,
        ax: Any = None,
        *,
        line_kwargs: Mapping[str, Any] | None = None,
        band_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the band.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        line_kwargs : dict, default=None
            Further arguments of ``Axes.plot``, for the mean.
        band_kwargs : dict, default=None
            Further arguments of ``Axes.fill_between``, for the range over the fits.

        Returns
        -------
        display : IdentificationDisplay
            The display itself.

        Examples
        --------
        >>> from implicitrm_sk.inspection import IdentificationDisplay
        >>> display = IdentificationDisplay.from_predictions([[0.2, 0.9], [0.4, 0.9]])
        >>> display.plot().ax_.get_ylabel()
        'reward'
        """
        ax = axes_for(self, ax)
        position = (np.arange(len(self.mean)) + 0.5) / len(self.mean)
        self.bounds_ = None
        if self.lower_bound is not None or self.upper_bound is not None:
            self.bounds_ = ax.fill_between(
                position,
                0 if self.lower_bound is None else self.lower_bound,
                1 if self.upper_bound is None else self.upper_bound,
                color="0.88",
                label="left open by the actions alone",
            )
        settings = {
            "facecolor": COLOURS[0],
            "edgecolor": COLOURS[0],
            "hatch": "|||",
            "alpha": 0.4,
            "label": "range of equally likely fits",
        }
        self.band_ = ax.fill_between(
            position, self.low, self.high, **(settings | (band_kwargs or {}))
        )
        settings = {"color": "black", "linewidth": 2, "label": "their mean"}
        (self.line_,) = ax.plot(position, self.mean, **(settings | (line_kwargs or {})))
        ax.set(
            xlabel="rows by reward, lowest to highest",
            ylabel="reward",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        if self.level is not None:
            ax.set_title(f"Reward: {self.level}")
        # Below the axes, because the areas leave no corner free.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
        return self

    @classmethod
    def from_report(
        cls,
        report: Any,
        *,
        ax: Any = None,
        line_kwargs: Mapping[str, Any] | None = None,
        band_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the refits of a report, on the rows that it kept aside.

        Parameters
        ----------
        report : IdentificationReport
            Made by `identification_report`.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        line_kwargs, band_kwargs : dict, default=None
            Further arguments of ``Axes.plot`` and ``Axes.fill_between``.

        Returns
        -------
        display : IdentificationDisplay
            The plotted display.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
        >>> from implicitrm_sk.inspection import IdentificationDisplay
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((400, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> report = identification_report(est, X, y, n_starts=2)
        >>> display = IdentificationDisplay.from_report(report)
        >>> display.mean.shape
        (40,)
        """
        rows = report._held_out
        bounds = rows["lower_bound"], rows["upper_bound"]
        display = cls._averaged(rows["mean"], rows["low"], rows["high"], *bounds, report.level)
        return display.plot(ax, line_kwargs=line_kwargs, band_kwargs=band_kwargs)

    @classmethod
    def from_predictions(
        cls,
        rewards: ArrayLike,
        *,
        lower_bound: ArrayLike | None = None,
        upper_bound: ArrayLike | None = None,
        level: str | None = None,
        ax: Any = None,
        line_kwargs: Mapping[str, Any] | None = None,
        band_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the rewards of any fits that explain the log equally well.

        Parameters
        ----------
        rewards : array-like of shape (n_fits, n_samples)
            Reward of each row in each fit, for example of other settings, seeds or months.
        lower_bound : array-like of shape (n_samples,), default=None
            Lowest reward that the action probabilities allow. It is the first column of the
            report's `bounds`, or `predict_action` of a positive action without false ones; None
            means 0.
        upper_bound : array-like of shape (n_samples,), default=None
            Highest reward that they allow: the second column of the report's `bounds`; None means
            1.
        level : str, default=None
            The level, for the title.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        line_kwargs, band_kwargs : dict, default=None
            Further arguments of ``Axes.plot`` and ``Axes.fill_between``.

        Returns
        -------
        display : IdentificationDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If `rewards` has fewer than two fits, or values that are not probabilities.

        Examples
        --------
        >>> from implicitrm_sk.inspection import IdentificationDisplay
        >>> display = IdentificationDisplay.from_predictions(
        ...     [[0.2, 0.9], [0.4, 0.9]], lower_bound=[0.1, 0.5]
        ... )
        >>> display.lower_bound
        array([0.1, 0.5])
        """
        rewards = np.asarray(rewards, dtype=np.float64)
        if rewards.ndim != 2 or len(rewards) < 2 or not rewards.size:
            raise ImplicitRMError(
                f"rewards has shape {rewards.shape}; expected (n_fits, n_samples) with at least "
                "two fits to compare. Pass more fits."
            )
        if not ((rewards >= 0) & (rewards <= 1)).all():
            raise ImplicitRMError(
                "rewards must be probabilities in [0, 1], without NaN. Pass the output of predict."
            )
        for name, bound in (("lower_bound", lower_bound), ("upper_bound", upper_bound)):
            if bound is not None and np.shape(bound) != rewards.shape[1:]:
                raise ImplicitRMError(
                    f"{name} has shape {np.shape(bound)}; expected one per row, "
                    f"{rewards.shape[1:]}."
                )
        lower_bound, upper_bound = (
            None if bound is None else np.asarray(bound, dtype=np.float64)
            for bound in (lower_bound, upper_bound)
        )
        display = cls._averaged(
            rewards.mean(axis=0),
            rewards.min(axis=0),
            rewards.max(axis=0),
            lower_bound,
            upper_bound,
            level,
        )
        return display.plot(ax, line_kwargs=line_kwargs, band_kwargs=band_kwargs)

    @classmethod
    def _averaged(cls, mean, low, high, lower_bound, upper_bound, level):
        order = np.argsort(mean, kind="stable")
        parts = np.array_split(order, min(N_PARTS, len(order)))
        return cls(
            **{
                name: None if values is None else np.array([values[rows].mean() for rows in parts])
                for name, values in (
                    ("mean", mean),
                    ("low", low),
                    ("high", high),
                    ("lower_bound", lower_bound),
                    ("upper_bound", upper_bound),
                )
            },
            level=level,
        )
