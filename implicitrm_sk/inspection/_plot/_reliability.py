"""Reliability curve: whether rewards of 0.8 are preferred in 80 % of the cases."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ..._typing import Rows
from ..._validation import check_same_rows
from ...exceptions import ImplicitRMError
from ...metrics import calibration_error, check_rewards, reward_bins
from ._base import axes_for, style

#: Number of bars of the histogram at the bottom, and the height of the tallest one.
_N_BARS = 20
_HEIGHT = 0.15


class ReliabilityDisplay:
    """Reliability curve of a reward against true preference, where it is known.

    Rows are grouped into bins by their reward. Each point is the mean preference of a bin against
    its mean reward, with an interval. On the diagonal, the reward is a calibrated probability. A
    classifier of actions lies above it, because it counts preferred responses without an action as
    dislikes. The bars at the bottom show the distribution of the reward.

    Create a display with `from_estimator` or `from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    mean_reward, mean_preference : ndarray of shape (n_bins,)
        Weighted means of the bins that are not empty.
    interval : ndarray of shape (n_bins, 2)
        Confidence interval of each mean preference.
    counts : ndarray of int of shape (n_bins,)
        Number of rows of known preference in each bin.
    heights : ndarray of shape (20,)
        Share of the rows by reward, in twentieths of [0, 1].
    error : float
        The calibration error, see `implicitrm_sk.metrics.calibration_error`.
    name : str, default=None
        Name of the reward in the legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve.
    errorbar_ : matplotlib ErrorbarContainer
        Curve and intervals.
    bars_ : matplotlib StepPatch
        The bars at the bottom.
    ref_line_ : matplotlib Line2D or None
        The diagonal; None if the Axes already had one.
    ax_ : matplotlib Axes
        Axes with the curve.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    implicitrm_sk.metrics.calibration_error : The distance from the diagonal as one number.
    sklearn.calibration.CalibrationDisplay : The same for classifiers, for labels without NaN.

    Notes
    -----
    The intervals are those of Wilson [1]_. With weights, n is the effective number of rows
    (sum w)^2 / sum w^2 [2]_. For graded preference, whose variance is smaller, they are too wide
    rather than too narrow.

    References
    ----------
    .. [1] Wilson, "Probable inference, the law of succession, and statistical inference", Journal
       of the American Statistical Association 22, 1927.
    .. [2] Kish, "Survey Sampling", Wiley, 1965.

    Examples
    --------
    >>> from implicitrm_sk.inspection import ReliabilityDisplay
    >>> display = ReliabilityDisplay.from_predictions(
    ...     [0, 1, 1, 0, float("nan")], [0.9, 0.9, 0.9, 0.1, 0.1], n_bins=2
    ... )
    >>> display.mean_preference.round(2), display.counts
    (array([0.  , 0.67]), array([1, 3]))
    """

    def __init__(
        self,
        *,
        mean_reward: NDArray[np.float64],
        mean_preference: NDArray[np.float64],
        interval: NDArray[np.float64],
        counts: NDArray[np.int_],
        heights: NDArray[np.float64],
        error: float,
        name: str | None = None,
    ) -> None:
        self.mean_reward = mean_reward
        self.mean_preference = mean_preference
        self.interval = interval
        self.counts = counts
        self.heights = heights
        self.error = error
        self.name = name

    def plot(
        self, ax: Any = None, *, name: str | None = None, ref_line: bool = True, **kwargs: Any
    ) -> Self:
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure. Several curves may share one.
        name : str, default=None
            Name in the legend; None means the stored one.
        ref_line : bool, default=True
            Whether to plot the diagonal.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : ReliabilityDisplay
            The display itself.

        Examples
        --------
        >>> from implicitrm_sk.inspection import ReliabilityDisplay
        >>> display = ReliabilityDisplay.from_predictions([0, 1, 1], [0.2, 0.9, 0.7])
        >>> display.plot(name="three signals").errorbar_.get_label()
        'three signals (calibration error 0.20)'
        """
        ax = axes_for(self, ax)
        self.ref_line_ = None
        label = "reward = share preferred"
        if ref_line and label not in ax.get_legend_handles_labels()[1]:
            (self.ref_line_,) = ax.plot([0, 1], [0, 1], "--", color="0.5", label=label, zorder=0)
        settings = style(len(ax.containers))
        settings |= {"capsize": 3, "linewidth": 1.8, "elinewidth": 1.2, "markersize": 6}
        name = self.name if name is None else name
        error = f"calibration error {self.error:.2f}"
        settings["label"] = error if name is None else f"{name} ({error})"
        settings |= kwargs
        # By rounding, a mean at the edge may lie outside its interval.
        reach = np.abs(self.interval.T - self.mean_preference)
        self.errorbar_ = ax.errorbar(self.mean_reward, self.mean_preference, yerr=reach, **settings)
        self.line_ = self.errorbar_.lines[0]
        self.bars_ = ax.stairs(
            self.heights / self.heights.max() * _HEIGHT,
            np.linspace(0, 1, _N_BARS + 1),
            fill=True,
            color=self.line_.get_color(),
            alpha=0.25,
        )
        ax.set(
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            xlabel="reward (mean of the bin; bars: share of the rows)",
            ylabel="share truly preferred",
        )
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Rows,
        true_preference: ArrayLike,
        *,
        n_bins: int = 10,
        strategy: str = "uniform",
        confidence_level: float = 0.95,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ref_line: bool = True,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the reliability curve of an estimator.

        Parameters
        ----------
        estimator : estimator instance
            A fitted estimator whose `predict` returns the reward, also a pipeline or search.
        X : array-like of shape (n_samples, n_features), or text
            Responses that were not used in `fit`.
        true_preference : array-like of shape (n_samples,)
            True preference in [0, 1], NaN if unknown; such rows are left out.
        n_bins : int, default=10
            Number of bins.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of about equal weight.
        confidence_level : float, default=0.95
            Confidence of the intervals, in (0, 1).
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        name : str, default=None
            Name in the legend; None means that of the class.
        ref_line : bool, default=True
            Whether to plot the diagonal.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : ReliabilityDisplay
            The plotted display.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import ReliabilityDisplay
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> display = ReliabilityDisplay.from_estimator(est.fit(X, y), X, X[:, 0] > 0)
        >>> int(display.counts.sum())
        200
        """
        check_same_rows(X, true_preference=true_preference, sample_weight=sample_weight)
        return cls.from_predictions(
            true_preference,
            estimator.predict(X),
            n_bins=n_bins,
            strategy=strategy,
            confidence_level=confidence_level,
            sample_weight=sample_weight,
            name=type(estimator).__name__ if name is None else name,
            ref_line=ref_line,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        true_preference: ArrayLike,
        reward: ArrayLike,
        *,
        n_bins: int = 10,
        strategy: str = "uniform",
        confidence_level: float = 0.95,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ref_line: bool = True,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the reliability curve of predicted rewards.

        Parameters
        ----------
        true_preference : array-like of shape (n_samples,)
            True preference in [0, 1], NaN if unknown; such rows are left out.
        reward : array-like of shape (n_samples,)
            Reward in [0, 1].
        n_bins : int, default=10
            Number of bins.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of about equal weight.
        confidence_level : float, default=0.95
            Confidence of the intervals, in (0, 1).
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        name : str, default=None
            Name in the legend.
        ref_line : bool, default=True
            Whether to plot the diagonal.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : ReliabilityDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If shapes differ, a value lies outside [0, 1], fewer than two rows are known, or an
            option is out of range.

        Examples
        --------
        >>> from implicitrm_sk.inspection import ReliabilityDisplay
        >>> display = ReliabilityDisplay.from_predictions(
        ...     [1, 0, 1, 1], [0.95, 0.95, 0.55, 0.55], strategy="quantile", n_bins=2
        ... )
        >>> display.mean_preference
        array([1. , 0.5])
        """
        if not 0 < confidence_level < 1:
            raise ImplicitRMError(
                f"confidence_level must lie in (0, 1), got {confidence_level!r}. Pass 0.95."
            )
        true_preference, reward, weight, _ = check_rewards(true_preference, reward, sample_weight)
        counted = weight > 0
        truth, weight = true_preference[counted], weight[counted]
        reward = reward[counted].astype(np.float64)
        bins = reward_bins(reward, weight, n_bins, strategy)
        used = np.flatnonzero(np.bincount(bins))
        total, squares, rewards, preferred = (
            np.bincount(bins, values)[used]
            for values in (weight, weight**2, weight * reward, weight * truth)
        )
        share = np.clip(preferred / total, 0, 1)
        display = cls(
            mean_reward=rewards / total,
            mean_preference=share,
            interval=_wilson(share, total**2 / squares, confidence_level),
            counts=np.bincount(bins)[used],
            heights=np.histogram(reward, _N_BARS, (0, 1), weights=weight)[0] / weight.sum(),
            error=calibration_error(
                truth, reward, sample_weight=weight, n_bins=n_bins, strategy=strategy
            ),
            name=name,
        )
        return display.plot(ax, ref_line=ref_line, **kwargs)


def _wilson(share, n, level):
    """Return Wilson's interval of a share of n, shape (len(share), 2)."""
    z = norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(np.column_stack([centre - reach, centre + reach]), 0, 1)
