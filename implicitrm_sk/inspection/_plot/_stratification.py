"""Shares of the four latent groups, overall and by a column."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._tables import as_numbers
from ..._typing import Rows
from ..._validation import check_same_rows, check_sample_weight
from ...exceptions import ImplicitRMError
from ...measurement._model import GROUP_NAMES
from ._base import axes_for, categories, column_of

#: Preference is shown by hue (blue or orange), activity by lightness and hatching.
_LOOKS = {
    "PA": ("#0072B2", "", "white", "preferred, active"),
    "PP": ("#A6D8F5", "//", "black", "preferred, passive"),
    "NP": ("#F7D68F", "\\\\", "black", "not preferred, passive"),
    "NA": ("#D55E00", "", "white", "not preferred, active"),
}
#: Smaller shares do not have room for a number.
_LEAST_TEXT = 0.07


class StratificationDisplay:
    """Shares of the four latent groups, overall and by a column of the log.

    The log shows who acted. It does not show who preferred a response without acting. This is the
    group PP, which a classifier of actions counts as dislikes. The display shows how large it is,
    by language, by user or by week.

    Active users would show their own preference: by a positive action if they prefer the response
    (PA), and by a negative one if not (NA). In a log of one polarity, active users are those who
    would act if their preference were the one that the actions show.

    Create a display with `from_estimator` or `from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    shares : ndarray of shape (n_categories, 4)
        Shares of PA, NA, PP and NP in each category; rows sum to 1, and the first row is all rows.
    labels : list of str of length n_categories
        Names of the categories.
    counts : ndarray of int of shape (n_categories,)
        Number of rows in each category.
    name : str, default=None
        Name of the column.

    Attributes
    ----------
    bars_ : dict of str to BarContainer
        The bars of each group, by its name.
    texts_ : ndarray of shape (n_categories, 4)
        The numbers in the bars, None if a bar is too short for one.
    ax_ : matplotlib Axes
        Axes with the bars.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    implicitrm_sk.ImplicitRewardEstimator.predict_proba : The probabilities of the groups.

    Examples
    --------
    >>> from implicitrm_sk.inspection import StratificationDisplay
    >>> proba = [[1, 0, 0, 0], [0, 0.1, 0.3, 0.6], [0, 0.2, 0.2, 0.6]]
    >>> display = StratificationDisplay.from_predictions(proba, by=["code", "code", "chat"])
    >>> display.labels
    ['all', 'chat', 'code']
    >>> display.shares.round(2)
    array([[0.33, 0.1 , 0.17, 0.4 ],
           [0.  , 0.2 , 0.2 , 0.6 ],
           [0.5 , 0.05, 0.15, 0.3 ]])
    """

    def __init__(
        self,
        *,
        shares: NDArray[np.float64],
        labels: list[str],
        counts: NDArray[np.int_],
        name: str | None = None,
    ) -> None:
        self.shares = shares
        self.labels = labels
        self.counts = counts
        self.name = name

    def plot(self, ax: Any = None, *, bar_kwargs: Mapping[str, Any] | None = None) -> Self:
        """Plot the shares as stacked bars.

        The preferred groups PA and PP are side by side at the left, so the line between them and
        the others is the mean reward.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        bar_kwargs : dict, default=None
            Further arguments of ``Axes.barh``, for all bars.

        Returns
        -------
        display : StratificationDisplay
            The display itself.

        Examples
        --------
        >>> from implicitrm_sk.inspection import StratificationDisplay
        >>> display = StratificationDisplay.from_predictions([[1, 0, 0, 0], [0, 0.1, 0.3, 0.6]])
        >>> display.plot().ax_.get_xlabel()
        'share of the rows'
        """
        ax = axes_for(self, ax)
        shares = np.asarray(self.shares)
        position = np.arange(len(shares))
        left = np.zeros(len(shares))
        self.bars_ = {}
        self.texts_ = np.full(shares.shape, None, dtype=object)
        for group, (colour, hatch, ink, meaning) in _LOOKS.items():
            column = GROUP_NAMES.index(group)
            width = shares[:, column]
            settings = {
                "color": colour,
                "hatch": hatch,
                "edgecolor": "white",
                "height": 0.75,
                "label": f"{group}: {meaning}",
            }
            self.bars_[group] = ax.barh(
                position, width, left=left, **(settings | (bar_kwargs or {}))
            )
            for row in np.flatnonzero(width >= _LEAST_TEXT):
                self.texts_[row, column] = ax.text(
                    left[row] + width[row] / 2,
                    row,
                    f"{width[row]:.0%}",
                    color=ink,
                    ha="center",
                    va="center",
                    fontweight="bold",
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
                )
            left = left + width
        ax.set(
            xlim=(0, 1),
            ylim=(len(shares) - 0.5, -0.5),
            xlabel="share of the rows",
            ylabel="" if self.name is None else self.name,
        )
        ax.set_yticks(
            position,
            [f"{label}\n(n = {n:,})" for label, n in zip(self.labels, self.counts, strict=True)],
        )
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Rows,
        actions: ArrayLike | None = None,
        *,
        by: Any = None,
        sample_weight: ArrayLike | None = None,
        predict_params: Mapping[str, Any] | None = None,
        ax: Any = None,
        bar_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the group shares of an estimator.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator or Pipeline
            A fitted estimator, with an objective that models P(y | x).
        X : array-like of shape (n_samples, n_features), or text
            The responses.
        actions : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            The actions of users; None means before actions are seen.
        by : str or array-like of shape (n_samples,), default=None
            Break the shares down by this column of X, or by these values. More than eight
            different numbers or dates are shown in quarters. With more than eight other values,
            the rarest are shown together.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        predict_params : dict, default=None
            Further arguments of `predict_proba`: response_id, exposures, propensity.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        bar_kwargs : dict, default=None
            Further arguments of ``Axes.barh``.

        Returns
        -------
        display : StratificationDisplay
            The plotted display.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import StratificationDisplay
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> display = StratificationDisplay.from_estimator(est.fit(X, y), X, y, by=X[:, 1] > 0)
        >>> display.labels
        ['all', 'False', 'True']
        """
        params = dict(predict_params or {})
        if actions is not None:
            params["actions"] = actions
        check_same_rows(X, sample_weight=sample_weight)
        proba = estimator.predict_proba(X, **params)
        values, by_name = column_of(by, X, len(proba))
        return cls.from_predictions(
            proba,
            by=values,
            name=by_name,
            sample_weight=sample_weight,
            ax=ax,
            bar_kwargs=bar_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        proba: ArrayLike,
        *,
        by: Any = None,
        name: str | None = None,
        sample_weight: ArrayLike | None = None,
        ax: Any = None,
        bar_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the shares of predicted groups.

        Parameters
        ----------
        proba : array-like of shape (n_samples, 4)
            Probabilities of PA, NA, PP and NP, as `predict_proba` returns them.
        by : array-like of shape (n_samples,), default=None
            Values for the breakdown, as in `from_estimator`.
        name : str, default=None
            Name of `by`; None means that of a Series.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        bar_kwargs : dict, default=None
            Further arguments of ``Axes.barh``.

        Returns
        -------
        display : StratificationDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If `proba` lacks four columns that sum to 1, or `by` lacks one value per row.

        Examples
        --------
        >>> from implicitrm_sk.inspection import StratificationDisplay
        >>> display = StratificationDisplay.from_predictions(
        ...     [[1, 0, 0, 0], [0, 0.1, 0.3, 0.6]], sample_weight=[3, 1]
        ... )
        >>> display.shares.round(3)
        array([[0.75 , 0.025, 0.075, 0.15 ]])
        """
        proba = np.asarray(as_numbers(proba), dtype=np.float64)
        if proba.ndim != 2 or proba.shape[1] != len(GROUP_NAMES):
            raise ImplicitRMError(
                f"proba has shape {proba.shape}; expected (n_samples, 4), the probabilities of "
                f"{', '.join(GROUP_NAMES)}. Pass the result of predict_proba."
            )
        if not np.allclose(proba.sum(axis=1), 1, atol=1e-3) or proba.min(initial=0) < 0:
            raise ImplicitRMError(
                "the rows of proba must be probabilities that sum to 1. Pass the result of "
                "predict_proba."
            )
        weight = check_sample_weight(sample_weight, len(proba))
        values, own_name = column_of(by, None, len(proba))
        parts = {"all": np.arange(len(proba))}
        if values is not None:
            for label, rows in categories(values).items():
                parts[label if label != "all" else "'all'"] = rows
        empty = [label for label, rows in parts.items() if not weight[rows].any()]
        if empty:
            raise ImplicitRMError(
                f"sample_weight is zero for all rows of {', '.join(empty)}, so there is no share "
                "to show. Leave these rows out."
            )
        display = cls(
            shares=np.array(
                [np.average(proba[rows], axis=0, weights=weight[rows]) for rows in parts.values()]
            ),
            labels=list(parts),
            counts=np.array([len(rows) for rows in parts.values()]),
            name=own_name if name is None else name,
        )
        return display.plot(ax, bar_kwargs=bar_kwargs)
