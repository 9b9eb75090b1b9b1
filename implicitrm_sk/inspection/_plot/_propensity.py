"""Reward against propensity."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from ..._fit import signal_names
from ..._pipeline import split_pipeline
from ..._typing import RandomState, Rows
from ..._validation import check_same_rows, check_sample_weight, check_vector
from ...exceptions import ImplicitRMError
from ...measurement._model import Measurement
from ._base import MAX_POINTS, axes_for, categories, column_of, style

#: Number of parts of the rows, by reward, for the mean propensity.
_N_PARTS = 10
#: Probabilities of an action with a contour line.
_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


class PropensityDisplay:
    """Reward against propensity, row by row, with lines of equal action probability.

    On a line, every row has the same probability of an action, and with one signal the log cannot
    distinguish the places on it. A classifier of actions is wrong about the responses far from the
    diagonal. Some are liked but rarely acted on (lower right). Others are often acted on although
    less liked (upper left). Users take a negative action on responses that they dislike, so its
    lines are mirrored: disliked but rarely acted on is at the lower left.

    Create a display with `from_estimator` or `from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    reward : ndarray of shape (n_samples,)
        P(r*=1 | x) of the rows to plot, where r* is 1 if the response is preferred.
    propensity : ndarray of shape (n_samples,)
        P(y=1 | r*=target, x) of one signal.
    mean_reward, mean_propensity : ndarray of shape (n_parts,)
        Weighted means over tenths of all rows by their reward.
    by : ndarray of shape (n_samples,), default=None
        Values that the colour and shape of the points represent.
    false_action_rate : float, default=0.0
        P(y=1 | r*=1 - target), for the lines.
    name : str, default=None
        Name of the signal.
    by_name : str, default=None
        Name of the values of `by`.
    target : {1, 0}, default=1
        The preference that the signal shows: 1 for a positive action, 0 for a negative one.

    Attributes
    ----------
    points_ : list of matplotlib PathCollection
        The points, one collection per category.
    line_ : matplotlib Line2D
        The means.
    contours_ : matplotlib ContourSet
        Lines of equal P(y=1 | x).
    ax_ : matplotlib Axes
        Axes with the points.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    implicitrm_sk.ImplicitRewardEstimator.propensity : The propensity.

    Notes
    -----
    The lines are P(y=1 | x) = R A + (1 - R) e, with the reward R, the propensity A and the
    false-action rate e. For a negative action they are (1 - R) A + R e.

    Examples
    --------
    >>> from implicitrm_sk.inspection import PropensityDisplay
    >>> display = PropensityDisplay.from_predictions([0.9, 0.2, 0.6], [0.3, 0.5, 0.4])
    >>> display.mean_propensity
    array([0.5, 0.4, 0.3])
    """

    def __init__(
        self,
        *,
        reward: NDArray[np.float64],
        propensity: NDArray[np.float64],
        mean_reward: NDArray[np.float64],
        mean_propensity: NDArray[np.float64],
        by: NDArray[Any] | None = None,
        false_action_rate: float = 0.0,
        name: str | None = None,
        by_name: str | None = None,
        target: int = 1,
    ) -> None:
        self.reward = reward
        self.propensity = propensity
        self.mean_reward = mean_reward
        self.mean_propensity = mean_propensity
        self.by = by
        self.false_action_rate = false_action_rate
        self.name = name
        self.by_name = by_name
        self.target = target

    def plot(
        self,
        ax: Any = None,
        *,
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the points, their means and the lines of equal action probability.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        scatter_kwargs : dict, default=None
            Further arguments of ``Axes.scatter``, for all points.
        line_kwargs : dict, default=None
            Further arguments of ``Axes.plot``, for the line of the means.

        Returns
        -------
        display : PropensityDisplay
            The display itself.

        Examples
        --------
        >>> from implicitrm_sk.inspection import PropensityDisplay
        >>> display = PropensityDisplay.from_predictions([0.9, 0.2], [0.3, 0.5])
        >>> display.plot().ax_.get_xlabel()
        'reward P(r* = 1 | x)'
        """
        ax = axes_for(self, ax)
        grid = np.linspace(0, 1, 201)
        e = self.false_action_rate
        R, A = np.meshgrid(grid, grid)
        matching = R if self.target else 1 - R
        P = matching * A + (1 - matching) * e
        self.contours_ = ax.contour(R, A, P, levels=_LEVELS, colors="0.6", linewidths=0.8, zorder=0)
        parts = {None: np.arange(len(self.reward))} if self.by is None else categories(self.by)
        self.points_ = []
        for number, (label, rows) in enumerate(parts.items()):
            look = style(number)
            settings = {
                "color": look["color"],
                "marker": look["marker"],
                "s": 14,
                "alpha": 0.5,
                "linewidths": 0,
                "label": label,
            }
            self.points_.append(
                ax.scatter(
                    self.reward[rows], self.propensity[rows], **(settings | (scatter_kwargs or {}))
                )
            )
        settings = {
            "color": "black",
            "marker": "o",
            "markerfacecolor": "white",
            "linewidth": 2,
            "label": "mean of each tenth",
        }
        (self.line_,) = ax.plot(
            self.mean_reward, self.mean_propensity, **(settings | (line_kwargs or {}))
        )
        labels = ax.clabel(
            self.contours_,
            fmt="%.1f",
            fontsize="small",
            colors="0.3",
            manual=[
                (level**0.5 if self.target else 1 - level**0.5, level**0.5) for level in _LEVELS
            ],
            zorder=3,
        )
        for label in labels:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8})
        signal = "" if self.name is None else f" of {self.name!r}"
        ax.set(
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            xlabel="reward P(r* = 1 | x)",
            ylabel=f"propensity{signal} P(y = 1 | r* = {self.target}, x)",
        )
        legend = ax.legend(
            [*self.contours_.legend_elements()[0][:1], *ax.get_legend_handles_labels()[0]],
            ["equal P(y = 1 | x)", *ax.get_legend_handles_labels()[1]],
            title=self.by_name,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=3,
            frameon=False,
        )
        for handle in legend.legend_handles:
            handle.set_alpha(1)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Rows,
        *,
        signal: str | int | None = None,
        by: Any = None,
        sample_weight: ArrayLike | None = None,
        subsample: int | None = MAX_POINTS,
        random_state: RandomState = 0,
        ax: Any = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the reward and the propensity of an estimator.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator or Pipeline
            A fitted estimator, with an objective that models P(y | x).
        X : array-like of shape (n_samples, n_features), or text
            The responses.
        signal : str or int, default=None
            Name or position of the action; None means the first.
        by : str or array-like of shape (n_samples,), default=None
            Colour the points by this column of X, or by these values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the means.
        subsample : int or None, default=1000
            Plot at most this number of points, chosen at random; the means cover all rows.
        random_state : int, RandomState instance or None, default=0
            Seed of the choice of points.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        scatter_kwargs, line_kwargs : dict, default=None
            Further arguments of ``Axes.scatter`` and ``Axes.plot``.

        Returns
        -------
        display : PropensityDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If the signal or column does not exist, or the signal has several outcomes that show a
            preference.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import PropensityDisplay
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> display = PropensityDisplay.from_estimator(est.fit(X, y), X, signal=1)
        >>> display.reward.shape
        (200,)
        """
        fitted, transform = split_pipeline(estimator)
        names = signal_names(fitted)
        if signal is None:
            signal = names[0]
        if signal not in names and signal not in range(len(names)):
            raise ImplicitRMError(
                f"signal={signal!r} does not exist; the estimator has {names}. Correct it."
            )
        k = names.index(signal) if signal in names else signal
        shows = [
            Measurement([kind]).log_shown(torch.zeros(1, kind.n_outputs))[1].tolist()
            for kind in fitted.signals_
        ]
        if len(shows[k]) != 1:
            raise ImplicitRMError(
                f"signal {names[k]!r} has {len(shows[k])} outcomes that show a preference; "
                "expected one. Pass the column of propensity(X) of one of them, and target=, to "
                "from_predictions."
            )
        check_same_rows(X, sample_weight=sample_weight)
        vectors = transform(X)
        reward, propensity = fitted.predict(vectors), fitted.propensity(vectors)
        values, by_name = column_of(by, X, len(reward))
        return cls.from_predictions(
            reward,
            propensity.reshape(len(reward), -1)[:, sum(map(len, shows[:k]))],
            by=values,
            false_action_rate=float(fitted.false_action_rate_[k]),
            name=str(names[k]) if hasattr(fitted, "signal_names_in_") else None,
            by_name=by_name,
            target=shows[k][0],
            sample_weight=sample_weight,
            subsample=subsample,
            random_state=random_state,
            ax=ax,
            scatter_kwargs=scatter_kwargs,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        reward: ArrayLike,
        propensity: ArrayLike,
        *,
        by: Any = None,
        false_action_rate: float = 0.0,
        name: str | None = None,
        by_name: str | None = None,
        target: int = 1,
        sample_weight: ArrayLike | None = None,
        subsample: int | None = MAX_POINTS,
        random_state: RandomState = 0,
        ax: Any = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot a reward against the propensity of one signal.

        Parameters
        ----------
        reward : array-like of shape (n_samples,)
            P(r*=1 | x), in [0, 1].
        propensity : array-like of shape (n_samples,)
            P(y=1 | r*=target, x), in [0, 1].
        by : array-like of shape (n_samples,), default=None
            Values to colour the points by.
        false_action_rate : float, default=0.0
            P(y=1 | r*=1 - target), for the lines of equal action probability.
        name : str, default=None
            Name of the signal.
        by_name : str, default=None
            Name of `by`; None means that of a Series.
        target : {1, 0}, default=1
            The preference that the signal shows: 1 for a positive action, 0 for a negative one.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the means.
        subsample : int or None, default=1000
            Plot at most this number of points, chosen at random.
        random_state : int, RandomState instance or None, default=0
            Seed of the choice of points.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        scatter_kwargs, line_kwargs : dict, default=None
            Further arguments of ``Axes.scatter`` and ``Axes.plot``.

        Returns
        -------
        display : PropensityDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If shapes differ, a value is not a probability, or `target` is neither 1 nor 0.

        Examples
        --------
        >>> from implicitrm_sk.inspection import PropensityDisplay
        >>> display = PropensityDisplay.from_predictions([0.9, 0.2], [0.3, 0.5], name="copy")
        >>> display.ax_.get_ylabel()
        "propensity of 'copy' P(y = 1 | r* = 1, x)"
        """
        reward = check_vector(reward, len(reward), "reward")
        propensity = check_vector(propensity, len(reward), "propensity")
        for what, values in (("reward", reward), ("propensity", propensity)):
            if values.min() < 0 or values.max() > 1:
                raise ImplicitRMError(
                    f"{what} must lie in [0, 1], got values from {values.min():g} to "
                    f"{values.max():g}. Pass probabilities, not logits."
                )
        if target not in (0, 1):
            raise ImplicitRMError(f"target must be 1 or 0, got {target!r}. Pass one of them.")
        if subsample is not None and not (isinstance(subsample, int) and subsample > 0):
            raise ImplicitRMError(
                f"subsample must be a positive integer or None, got {subsample!r}. Pass 1000."
            )
        weight = check_sample_weight(sample_weight, len(reward))
        by, own_name = column_of(by, None, len(reward))
        parts = [
            rows
            for rows in np.array_split(np.argsort(reward, kind="stable"), _N_PARTS)
            if weight[rows].any()
        ]
        shown = np.arange(len(reward))
        if subsample is not None and subsample < len(reward):
            shown = np.sort(
                check_random_state(random_state).choice(len(reward), subsample, replace=False)
            )
        display = cls(
            reward=reward[shown],
            propensity=propensity[shown],
            mean_reward=np.array(
                [np.average(reward[rows], weights=weight[rows]) for rows in parts]
            ),
            mean_propensity=np.array(
                [np.average(propensity[rows], weights=weight[rows]) for rows in parts]
            ),
            by=None if by is None else by[shown],
            false_action_rate=false_action_rate,
            name=name,
            by_name=own_name if by_name is None else by_name,
            target=target,
        )
        return display.plot(ax, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)
