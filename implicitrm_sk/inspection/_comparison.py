"""The result of a comparison of groups of responses."""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._identification import Identification
from .._optional import import_optional
from .._typing import Floats
from ._plot._base import COLOURS, MARKERS

#: With fewer rows than this behind its error, a mean is not suited to a normal interval.
FEW_ROWS = 10
#: Width of the lines of a text: that of a terminal.
WIDTH = 79


@dataclass(frozen=True, eq=False)
class GroupComparison:
    """Mean rewards of groups of responses, beside their raw rates. Prints as text.

    Attributes
    ----------
    groups : ndarray of shape (n_groups,)
        The groups, in order.
    by : object
        Name of the property that defines the groups, or None.
    reference : object
        The group with which the others are compared.
    n_rows : ndarray of int of shape (n_groups,)
        Number of rows in the mean.
    n_clusters : int
        Number of independent parts: users, prompts or rows. With users and prompts, the smaller
        number.
    rates : dict of str to ndarray of shape (n_groups,)
        Share of the logged rows with an action, by signal.
    shows : dict of str to int
        The preference that each of these shows, 1 or 0.
    widgets : tuple of str
        The signals whose outcomes show both. They have two rates each, NAME_positive and
        NAME_negative.
    reward : ndarray of shape (n_groups,)
        Mean reward; NaN unless `estimated`.
    reward_interval : ndarray of shape (n_groups, 2)
        Its confidence interval. If not `estimated`, an interval of all values that the log allows.
    difference, difference_interval : ndarray of shape (n_groups,) and (n_groups, 2)
        The same for the mean reward minus that of the reference; 0 for the reference itself.
    confidence : float
        Confidence of the intervals, each separately.
    identification : Identification
        The verdict on the log, with its assumptions.
    estimated : bool
        Whether the log identifies the means. Otherwise the intervals are bounds.
    reason : str
        The reason for the verdict.
    same_prompts : bool
        Whether all groups are compared on the same prompts.
    n_effective : ndarray of shape (n_groups,)
        Number of rows of equal weight that would have equally uneven squared errors. If actions are
        rare, few rows have a large weight, and intervals are less certain than they look.
    knows_users : bool
        Whether users were passed. If they differ in activity and are not, an estimate from several
        signals is wrong, and no test may notice.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import compare_groups
    >>> rng = np.random.default_rng(0)
    >>> X, model = rng.normal(size=(600, 2)), np.arange(600) % 2
    >>> y = ((X[:, 0] > 0) & (rng.random(600) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> comparison = compare_groups(est, X, y, model)
    >>> comparison.estimated
    False
    >>> comparison.identification.level
    'not identified'
    """

    groups: NDArray[Any]
    by: Any
    reference: Any
    n_rows: NDArray[np.int64]
    n_clusters: int
    rates: dict[str, Floats]
    shows: dict[str, int]
    widgets: tuple[str, ...]
    reward: Floats
    reward_interval: Floats
    difference: Floats
    difference_interval: Floats
    confidence: float
    identification: Identification
    estimated: bool
    reason: str
    same_prompts: bool
    n_effective: Floats
    knows_users: bool

    @property
    def verdict(self) -> str:
        """Level and assumptions in one line.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import compare_groups
        >>> rng = np.random.default_rng(0)
        >>> X, model = rng.normal(size=(600, 2)), np.arange(600) % 2
        >>> y = np.column_stack([X[:, 0] > 0.3, X[:, 0] < -0.3]).astype(int)
        >>> est = ImplicitRewardEstimator(
        ...     signals=["positive", "negative"], max_epochs=5, early_stopping=False, random_state=0
        ... )
        >>> compare_groups(est, X, y, model).verdict
        'bounded'
        """
        return str(self.identification)

    def to_frame(self) -> Any:
        """Return the comparison as a DataFrame.

        Returns
        -------
        frame : DataFrame
            One row per group, with columns n_rows, rate_SIGNAL, reward, reward_low, reward_high,
            difference, difference_low and difference_high.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import compare_groups
        >>> rng = np.random.default_rng(0)
        >>> X, model = rng.normal(size=(600, 2)), np.arange(600) % 2
        >>> y = np.column_stack([X[:, 0] > 0.3, X[:, 0] < -0.3]).astype(int)
        >>> est = ImplicitRewardEstimator(
        ...     signals=["positive", "negative"], max_epochs=5, early_stopping=False, random_state=0
        ... )
        >>> compare_groups(est, X, y, model).to_frame()["n_rows"].tolist()
        [300, 300]
        """
        pandas = import_optional("pandas", "data", "The DataFrame form of the comparison")
        columns: dict[str, Any] = {"n_rows": self.n_rows}
        columns |= {f"rate_{name}": rate for name, rate in self.rates.items()}
        for name, value, interval in (
            ("reward", self.reward, self.reward_interval),
            ("difference", self.difference, self.difference_interval),
        ):
            columns[name] = value
            columns[f"{name}_low"], columns[f"{name}_high"] = interval.T
        return pandas.DataFrame(columns, index=pandas.Index(self.groups, name=self.by))

    # ------------------------------------------------------------------ in words

    def __repr__(self):
        by = "" if self.by is None else f" by {self.by}"
        level = f"{self.confidence:.0%}"
        lines = [
            f"Comparison of {len(self.groups)} groups{by}, {self.n_rows.sum():,} rows, reference "
            f"{self.reference}",
            f"The mean rewards are {self.verdict}: {self.reason}",
            f"{level} intervals of the sampling error"
            + (
                ""
                if self.estimated
                else "; the log does not determine the mean rewards, and these are bounds"
            )
            + (
                ", on the same prompts."
                if self.same_prompts
                else ", at each group's own responses."
            ),
            "",
        ]
        lines = [line for text in lines for line in (textwrap.wrap(text, WIDTH) or [""])]
        names = [str(group) for group in self.groups]
        lines += [*side_by_side(names, self._rewards()), ""]
        lines += [*textwrap.wrap(self._about_rates(), WIDTH), ""]
        rates = {n: [f"{value:.1%}" for value in rate] for n, rate in self.rates.items()}
        lines += [*side_by_side(names, rates), ""]
        for sentence in self._sentences():
            lines += textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
        return "\n".join(lines)

    def _rewards(self):
        """Return the cells of the table of rewards by the name of their column."""
        gaps = [
            "reference" if group == self.reference else _with_interval(gap, interval, "+")
            for group, gap, interval in zip(
                self.groups, self.difference, self.difference_interval, strict=True
            )
        ]
        rewards = zip(self.reward, self.reward_interval, strict=True)
        return {
            "rows": [f"{n:,}" for n in self.n_rows],
            "reward": [_with_interval(*one) for one in rewards],
            "difference": gaps,
        }

    def _about_rates(self):
        """Return what the percentages of the table of raw rates are."""
        said = "Raw rates: the share of the rows with a logged signal that have it."
        for name in self.widgets:
            said += (
                f" {name}_positive and {name}_negative are the outcomes of {name} that show that "
                "users prefer a response, and that they do not."
            )
        return said

    def _sentences(self):
        """Yield the results of the comparison in plain words."""
        at = int(np.flatnonzero(self.groups == self.reference)[0])
        for g, group in enumerate(self.groups):
            if g == at:
                continue
            low, high = self.difference_interval[g]
            between = f"the difference is between {low:+.2f} and {high:+.2f}"
            sign = 0
            if low > 0 or high < 0:
                sign = 1 if low > 0 else -1
                better, worse = (group, self.reference) if sign > 0 else (self.reference, group)
                said = f"Users prefer the responses of {better} to those of {worse}: {between}."
            elif self.estimated:
                said = f"{group} and {self.reference}: neither is shown to be better; {between}."
            else:
                said = (
                    f"{group}, {self.reference}: the log does not say which is better; {between}."
                )
            yield said + self._against(g, at, sign)
        if self.estimated and not self.knows_users:
            yield "This assumes equally active users. Pass user_id= if the log has their ids."
        if not self.estimated and self.identification.advice:
            # Beside the first one the second is often the other side of one question.
            yield f"Next: {' Or: '.join(self.identification.advice[:2])}"
        for g in np.flatnonzero(self.n_effective < FEW_ROWS):
            yield (
                f"The error of {self.groups[g]} comes from about {self.n_effective[g]:.0f} rows of "
                "large weight: actions are rare there, and its interval may be too short."
            )

    def _against(self, g, reference, sign):
        """Return which raw rates favour the other group."""
        found = []
        for name, rate in self.rates.items():
            gap = rate[g] - rate[reference]
            if sign * gap * (1 if self.shows[name] else -1) < 0:
                found.append(f"{name} ({gap:+.1%})")
        if not found:
            return ""
        return f" The raw rate of {', '.join(found)} points the other way."

    # ------------------------------------------------------------------ drawn

    def plot(self, axes: Any = None) -> NDArray[Any]:
        """Plot the raw rates beside the mean rewards.

        Parameters
        ----------
        axes : array-like of two matplotlib Axes, default=None
            None makes a figure.

        Returns
        -------
        axes : ndarray of two Axes
            The raw rates, and the mean rewards with their intervals.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import compare_groups
        >>> rng = np.random.default_rng(0)
        >>> X, model = rng.normal(size=(600, 2)), np.arange(600) % 2
        >>> y = np.column_stack([X[:, 0] > 0.3, X[:, 0] < -0.3]).astype(int)
        >>> est = ImplicitRewardEstimator(
        ...     signals=["positive", "negative"], max_epochs=5, early_stopping=False, random_state=0
        ... )
        >>> axes = compare_groups(est, X, y, model).plot()
        >>> axes[1].get_title()
        'Bounds of the mean reward'
        """
        pyplot = import_optional("matplotlib.pyplot", "plot", "Plotting the comparison")
        if axes is None:
            size = (10, 1.5 + 0.45 * len(self.groups) + 0.12 * len(self.rates))
            _, axes = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
        left, right = np.asarray(axes, dtype=object).ravel()
        place = np.arange(len(self.groups))
        for k, (name, rate) in enumerate(self.rates.items()):
            sign = "" if self.shows[name] else " (negative)"
            style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            left.plot(rate, place, linestyle="", label=f"{name}{sign}", **style)
        left.set(xlabel="share of rows with the action", title="Raw rates")
        left.set_yticks(place, [str(group) for group in self.groups])
        left.set_ylim(len(place) - 0.5, -0.5)
        # Below the label of the axis: inside, it would hide points.
        left.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4, ncols=2)
        low, high = self.reward_interval.T
        right.hlines(place, low, high, color=COLOURS[0], linewidth=2)
        if self.estimated:
            right.plot(self.reward, place, "o", color=COLOURS[0])
        right.set(
            xlabel=f"{self.confidence:.0%} interval",
            title="Mean reward" if self.estimated else "Bounds of the mean reward",
        )
        right.set_yticks(place, [str(group) for group in self.groups])
        right.set_ylim(len(place) - 0.5, -0.5)
        return np.array([left, right])


def _with_interval(value, interval, sign=""):
    found = "{:{s}.2f} to {:{s}.2f}".format(*interval, s=sign)
    return found if np.isnan(value) else f"{value:{sign}.2f} ({found})"


def side_by_side(index, columns):
    """Return the lines of a table as wide as its cells; what does not fit goes below.

    Parameters
    ----------
    index : list of str
        Names of the rows.
    columns : dict of str to list of str
        The cells by the name of their column, aligned on the right. A row without cells is a
        heading of those below it.
    """
    headings = [not any(cells) for cells in zip(*columns.values(), strict=True)]
    first = max(len(name) for name, heading in zip(index, headings, strict=True) if not heading)
    blocks, taken = [[]], first
    for name, cells in columns.items():
        size = 2 + max(len(cell) for cell in (name, *cells))
        if blocks[-1] and taken + size > WIDTH:
            blocks.append([])
            taken = first
        taken += size
        blocks[-1].append([f"{cell:>{size}}" for cell in (name, *cells)])
    lines = []
    for block in blocks:
        rows = zip(["", *index], *block, strict=True)
        lines += ["", *(f"{name:{first}}{''.join(cells)}".rstrip() for name, *cells in rows)]
    return lines[1:]
