"""Methods side by side, with means and standard errors across seeds."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..._optional import import_optional
from ...exceptions import ImplicitRMError
from ._base import axes_for, style

#: Share of a row's height that its series occupy.
_SPREAD = 0.6


class MethodComparisonDisplay:
    """Scores of methods, with means and standard errors across seeds.

    A single run of each method is not enough: the spread between seeds is often as large as the
    difference between methods. Runs with the same seed share their log, so differences are more
    precise than the scores themselves. With `baseline`, the differences are plotted, seed by seed.

    Create a display with `from_frame` or `from_scores`. All parameters are stored as attributes.

    Parameters
    ----------
    methods : list of str of length n_methods
        Names of the rows.
    series : list of str of length n_series
        Names of the things compared within a row (data sets, numbers of signals), or ``[None]``.
    scores : dict of (str, str) to ndarray of shape (n_seeds,)
        Scores by method and series, NaN for a failed run.
    baseline : str, default=None
        The method from which the scores are differences.
    score_name : str, default="score"
        Name of the scores, for the axis.

    Attributes
    ----------
    mean_, standard_error_ : ndarray of shape (n_methods, n_series)
        The plotted values. The standard error is NaN with fewer than two runs.
    errorbars_ : list of matplotlib ErrorbarContainer
        One per series.
    runs_ : list of matplotlib Line2D
        The single runs, one per series.
    ref_line_ : matplotlib Line2D or None
        Zero, if there is a baseline.
    ax_ : matplotlib Axes
        Axes with the rows.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    Notes
    -----
    The standard error is s / sqrt(n), where s is the standard deviation of the n runs, with n - 1
    in its denominator.

    Examples
    --------
    >>> from implicitrm_sk.inspection import MethodComparisonDisplay
    >>> display = MethodComparisonDisplay.from_scores(
    ...     {"naive": [-0.2, -0.1, -0.3], "two signals": [0.4, 0.5, 0.3]}, score_name="R2"
    ... )
    >>> display.mean_.round(2), display.standard_error_.round(3)
    (array([[-0.2],
           [ 0.4]]), array([[0.058],
           [0.058]]))
    """

    def __init__(
        self,
        *,
        methods: list[str],
        series: list[Any],
        scores: dict[tuple[str, Any], Any],
        baseline: str | None = None,
        score_name: str = "score",
    ) -> None:
        self.methods = methods
        self.series = series
        self.scores = scores
        self.baseline = baseline
        self.score_name = score_name

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Plot one row per method.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : MethodComparisonDisplay
            The display itself.

        Examples
        --------
        >>> from implicitrm_sk.inspection import MethodComparisonDisplay
        >>> display = MethodComparisonDisplay.from_scores({"naive": [0.1, 0.2], "root": [0.3, 0.4]})
        >>> [label.get_text() for label in display.plot().ax_.get_yticklabels()]
        ['naive', 'root']
        """
        shape = len(self.methods), len(self.series)
        self.mean_ = np.full(shape, np.nan)
        self.standard_error_ = np.full(shape, np.nan)
        incomplete = {}
        for i, method in enumerate(self.methods):
            for j, name in enumerate(self.series):
                runs = np.asarray(self.scores.get((method, name), ()))
                done = runs[~np.isnan(runs)]
                if len(done):
                    self.mean_[i, j] = done.mean()
                if len(done) > 1:
                    self.standard_error_[i, j] = done.std(ddof=1) / np.sqrt(len(done))
                if len(done) < len(runs):
                    incomplete.setdefault(method, []).append(f"{len(done)} of {len(runs)} runs")
        ax = axes_for(self, ax)
        rows = np.arange(len(self.methods))
        self.errorbars_, self.runs_ = [], []
        for j, name in enumerate(self.series):
            shift = (j - (shape[1] - 1) / 2) * _SPREAD / shape[1]
            settings = style(j) | {
                "linestyle": "none",
                "markersize": 7,
                "capsize": 4,
                "label": name,
            }
            container = ax.errorbar(
                self.mean_[:, j],
                rows + shift,
                xerr=self.standard_error_[:, j],
                **(settings | kwargs),
            )
            points = [
                (score, row + shift)
                for row, method in enumerate(self.methods)
                for score in self.scores.get((method, name), ())
            ]
            self.errorbars_.append(container)
            self.runs_ += ax.plot(
                *np.transpose(points), "|", color=container.lines[0].get_color(), alpha=0.6
            )
        self.ref_line_ = None
        label = f"{self.score_name} (mean ± standard error; ticks: runs)"
        if self.baseline is not None:
            self.ref_line_ = ax.axvline(0, color="0.5", linestyle="--", zorder=0)
            label = f"{self.score_name}, difference from {self.baseline!r}"
        ax.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        ax.set_yticks(
            rows,
            [
                f"{method}\n({'; '.join(incomplete[method])})" if method in incomplete else method
                for method in self.methods
            ],
        )
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        if any(name is not None for name in self.series):
            ax.legend()
        return self

    @classmethod
    def from_scores(
        cls,
        scores: Any,
        *,
        baseline: str | None = None,
        score_name: str = "score",
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Plot scores by method.

        Parameters
        ----------
        scores : mapping of str to array-like of shape (n_seeds,), or DataFrame
            Scores of each method, in the order of the rows; for a DataFrame, its columns. NaN marks
            a failed run.
        baseline : str, default=None
            Plot differences from this method, seed by seed. The i-th scores of all methods must
            then belong to one seed.
        score_name : str, default="score"
            Name of the scores, for the axis.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : MethodComparisonDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If there are no scores, or `baseline` is not one of the methods or has other seeds.

        Examples
        --------
        >>> from implicitrm_sk.inspection import MethodComparisonDisplay
        >>> display = MethodComparisonDisplay.from_scores(
        ...     {"naive": [0.1, 0.3], "two signals": [0.4, 0.6]}, baseline="naive"
        ... )
        >>> display.methods, display.mean_.round(1), display.standard_error_.round(1)
        (['two signals'], array([[0.3]]), array([[0.]]))
        """
        if not (isinstance(scores, Mapping) or hasattr(scores, "columns")):
            raise ImplicitRMError(
                "scores must be a mapping of methods to scores, or a DataFrame with a column per "
                f"method, got {type(scores).__name__}. Convert it."
            )
        runs = {
            (str(name), None): np.asarray(scores[name], dtype=np.float64) for name in scores.keys()
        }
        return cls._of(runs, baseline, score_name).plot(ax, **kwargs)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        method: str = "method",
        score: str = "score",
        seed: str = "seed",
        by: Any = None,
        baseline: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Plot a table with one row per run.

        Parameters
        ----------
        frame : DataFrame
            One row per method and seed (and value of `by`).
        method, score, seed : str
            Names of the columns with the method, the score and the seed.
        by : str, default=None
            Column whose values are compared within a method, for example the data set.
        baseline : str, default=None
            Plot differences from this method, matched by seed.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.errorbar``.

        Returns
        -------
        display : MethodComparisonDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If a column or a name in it is missing, a run occurs twice, or `baseline` is not one of
            the methods.

        Examples
        --------
        >>> import pandas as pd
        >>> from implicitrm_sk.inspection import MethodComparisonDisplay
        >>> frame = pd.DataFrame(
        ...     {
        ...         "method": ["naive", "naive", "upu", "upu"],
        ...         "seed": [0, 1, 0, 1],
        ...         "r2": [0.1, 0.3, 0.2, 0.5],
        ...     }
        ... )
        >>> display = MethodComparisonDisplay.from_frame(frame, score="r2", baseline="naive")
        >>> display.mean_.round(2)
        array([[0.15]])
        """
        import_optional("pandas", "data", "Comparing methods of a DataFrame")
        keys = [method, seed] if by is None else [method, seed, by]
        missing = [name for name in (*keys, score) if name not in frame.columns]
        if missing:
            raise ImplicitRMError(
                f"the table lacks the column {', '.join(map(repr, missing))}; it has "
                f"{list(frame.columns)}. Name its columns by method=, score=, seed= and by=."
            )
        unknown = frame[keys].isna().any()
        if unknown.any():
            raise ImplicitRMError(
                f"the columns {list(unknown.index[unknown])} have missing values; expected method, "
                "seed and by of each run. Fill them in, or leave these rows out."
            )
        twice = frame.duplicated(keys)
        if twice.any():
            raise ImplicitRMError(
                f"{twice.sum()} runs occur twice in the table, for example "
                f"{frame.loc[twice, keys].iloc[0].to_dict()}. Select one setting per method first."
            )
        series = [None] if by is None else list(dict.fromkeys(frame[by]))
        runs = {}
        for name in series:
            part = frame if by is None else frame[frame[by] == name]
            # Seeds become the rows, NaN if a method lacks one.
            table = part.pivot(index=seed, columns=method, values=score)
            for row in dict.fromkeys(frame[method]):
                if row in table:
                    label = None if name is None else str(name)
                    runs[str(row), label] = table[row].to_numpy(dtype=np.float64)
        return cls._of(runs, baseline, str(score)).plot(ax, **kwargs)

    @classmethod
    def _of(cls, runs, baseline, score_name):
        methods = list(dict.fromkeys(name for name, _ in runs))
        series = list(dict.fromkeys(name for _, name in runs))
        if not any(np.isfinite(scores).any() for scores in runs.values()):
            raise ImplicitRMError("there are no scores to plot. Pass at least one finite score.")
        if baseline is not None:
            if baseline not in methods:
                raise ImplicitRMError(
                    f"baseline={baseline!r} is not one of the methods {methods}. Correct it."
                )
            differences = {}
            for (method, name), scores in runs.items():
                base = runs.get((baseline, name), np.empty(0))
                if scores.shape != base.shape:
                    raise ImplicitRMError(
                        f"{method!r} has {len(scores)} scores but the baseline {baseline!r} has "
                        f"{len(base)}; expected one per seed, because differences are taken seed "
                        "by seed. Add the missing ones."
                    )
                if method != baseline:
                    differences[method, name] = scores - base
            runs, methods = differences, [name for name in methods if name != baseline]
        return cls(
            methods=methods, series=series, scores=runs, baseline=baseline, score_name=score_name
        )
