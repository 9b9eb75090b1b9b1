"""The result of a sensitivity analysis."""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._identification import IDENTIFIED, Identification
from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ._comparison import WIDTH, side_by_side
from ._plot._base import COLOURS, MARKERS

#: The model of the settings, without a violation.
BASE = "none"
#: Kinds of violations in words.
VIOLATIONS = {
    "false_positive": "false positive actions at a rate of",
    "false_negative": "false negative actions at a rate of",
    "not_looked_at": "rows that nobody looked at, a share of",
    "ratio": "readiness, negative to positive, in a ratio of",
    "preference_rate": "a preference rate of",
    "left_out": "without the signal",
    "sign": "with the sign turned of",
}
#: Chance may turn a difference of fewer standard errors round: its 90 % interval holds 0.
DOUBTFUL = 1.645
#: A violation that is likelier than the base by more standard errors contradicts the base.
PREFERRED = 3.3
#: The amount at which a violation starts: nothing is broken, or the ratio is 1.
NOTHING = {"false_positive": 0.0, "false_negative": 0.0, "not_looked_at": 0.0, "ratio": 1.0}


@dataclass(frozen=True, eq=False)
class SensitivityReport:
    """How a reward and a comparison change if their assumptions are violated. Prints as text.

    Attributes
    ----------
    rows : list of dict
        The results under each violation, the base first; see `to_frame`.
    groups : ndarray of shape (n_groups - 1,)
        The groups compared with the reference.
    reference : object
        None without groups.
    identification : Identification
        The verdict on the log under the base assumptions.
    n_rows : int
        Number of rows with information.
    errors : dict of object to float
        The standard error of each difference of the base, by group, as in the intervals of
        `compare_groups`. Empty if the base does not determine the reward.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import sensitivity_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 2))
    >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> report = sensitivity_report(est, X, y, violations={"left_out": [0]})
    >>> [row["violation"] for row in report.rows]
    ['none', 'left_out']
    """

    rows: list[dict[str, Any]]
    groups: NDArray[Any]
    reference: Any
    identification: Identification
    n_rows: int
    errors: dict[Any, float]

    @property
    def robustness(self) -> dict[str, dict[Any, float]]:
        """The smallest amount of each violation that reverses each comparison; inf if none does.

        It is NaN if no amount that was tried gives an estimate.
        It covers violations with a number. For a ratio it is the amount nearest to 1, and for a
        preference rate the amount nearest to the mean reward of the base.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import sensitivity_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(600, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> sensitivity_report(est, X, y, violations={"left_out": [0]}).robustness
        {}
        """
        found: dict[str, dict[Any, float]] = {}
        for kind in dict.fromkeys(row["violation"] for row in self.rows[1:]):
            if kind not in (*NOTHING, "preference_rate"):
                continue
            first, *rows = self._curve(kind)
            found[kind] = {
                group: _crossing(
                    first["amount"],
                    first[f"difference_{group}"],
                    [(row["amount"], row[f"difference_{group}"]) for row in rows],
                    is_ratio=kind == "ratio",
                )
                for group in self.groups.tolist()
            }
        return {kind: values for kind, values in found.items() if values}

    def _curve(self, kind):
        """Return the rows of a violation with a number, beginning with the one without a violation.

        For a ratio, the first one is equal readiness, because the base does not assume a ratio.
        """
        rows = [row for row in self.rows if row["violation"] == kind]
        if kind == "ratio":
            return sorted(rows, key=lambda row: row["amount"] != NOTHING[kind])
        start = NOTHING.get(kind, self.rows[0]["mean_reward"])
        return [self.rows[0] | {"amount": start}, *rows]

    def to_frame(self) -> Any:
        """Return the report as a DataFrame.

        Returns
        -------
        frame : DataFrame
            One row per violation, the base first, which is the estimate of `compare_groups`. The
            columns are violation, amount and mean_reward. Then rank_correlation, of the reward with
            that of the base. Then log_likelihood of rows that the refit has not seen, minus that of
            the refit without a violation, in nats per row. Then its standard_error. Without a
            signal both are NaN; -inf means that the log has impossible rows. Then rejected, whether
            it is less by two standard errors. Then determined, whether the mean reward rests on
            one-step estimates instead of the convention of the fit. Then difference_GROUP from the
            reference.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import sensitivity_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(600, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> report = sensitivity_report(est, X, y, violations={"left_out": [0]})
        >>> report.to_frame()["violation"].tolist()
        ['none', 'left_out']
        """
        pandas = import_optional("pandas", "data", "The DataFrame form of the report")
        return pandas.DataFrame(self.rows)

    def __repr__(self):
        base = self.rows[0]
        lines = [
            f"Sensitivity of the reward, {self.n_rows:,} rows",
            f"The reward is {self.identification}: {self.identification.reason}",
        ]
        if not base["determined"]:
            lines.append(
                "The base does not determine the reward: its mean is the convention of the fit."
            )
        lines = [part for line in lines for part in textwrap.wrap(line, WIDTH)] + [""]
        lines += [*self._table(), ""]
        for sentence in self._sentences():
            lines += textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
        return "\n".join(lines)

    def _table(self):
        """Return the lines of the table: the amounts of each kind of violation, below its name."""
        index, rows = ["nothing broken"], self.rows[:1]
        for kind in dict.fromkeys(row["violation"] for row in self.rows[1:]):
            mine = [row for row in self.rows if row["violation"] == kind]
            index += [VIOLATIONS[kind], *map(_shown, mine)]
            rows += [None, *mine]
        columns = {
            name: ["" if row is None else cell(row) for row in rows]
            for name, cell in self._columns().items()
        }
        return side_by_side(index, columns)

    def _columns(self):
        """Return what computes the cell of a row, by the name of the column."""

        def gap(name):
            def cell(row):
                nothing = "ruled out" if np.isneginf(row["log_likelihood"]) else "no estimate"
                return _cell(row[name], "+.2f") or nothing

            return cell

        columns = {
            "mean reward": lambda row: _cell(row["mean_reward"], ".2f"),
            "order": lambda row: _cell(row["rank_correlation"], ".2f"),
        }
        for group in self.groups.tolist():
            columns[f"{group} to {self.reference}"] = gap(f"difference_{group}")
        return columns

    def _sentences(self):
        yield '"order" is the rank correlation of the rewards with those of "nothing broken".'
        if self.rows[0]["determined"]:
            if self.identification.level == IDENTIFIED:
                start = "is the estimate of compare_groups"
            else:
                start = (
                    f"takes the settings to be true, which this log does not show: the reward is "
                    f"{self.identification.level}, and compare_groups gives bounds"
                )
            yield (
                f'"nothing broken" {start}. Each other line adds to it '
                "how far a refit with the violation is from the same refit without."
            )
        for group, error in self.errors.items():
            gap = self.rows[0][f"difference_{group}"]
            said = f"{group}, {self.reference}: the standard error of {gap:+.2f} is {error:.2f}"
            if abs(gap) < DOUBTFUL * error:
                said += ", so chance may turn it round before any violation does"
            yield said + "."
        for kind, values in self.robustness.items():
            for group, amount in values.items():
                what = VIOLATIONS[kind]
                if np.isnan(amount):
                    tried = min(r["amount"] for r in self.rows if r["violation"] == kind)
                    yield f"{group}, {self.reference}: no estimate from {what} {tried:.2g} on."
                elif np.isinf(amount):
                    rows = (r for r in self.rows if r["violation"] == kind)
                    tried = max(r["amount"] for r in rows if not np.isnan(r[f"difference_{group}"]))
                    yield (
                        f"{group}, {self.reference}: not turned round by {what} up to {tried:.2g}."
                    )
                else:
                    yield f"{group}, {self.reference}: turned round by {what} {amount:.2g}."
        for group in self.groups.tolist():
            name = f"difference_{group}"
            for row in self.rows[1:]:
                if row["violation"] in ("left_out", "sign") and row[name] * self.rows[0][name] < 0:
                    yield (
                        f"{group}, {self.reference}: turned round "
                        f"{VIOLATIONS[row['violation']]} {row['amount']}"
                        + (", which the data reject." if row["rejected"] else ".")
                    )
        rejected = sum(row["rejected"] for row in self.rows)
        marked = " (*)" if rejected else ""
        tried = len(self.rows) - 1
        yield f"The held-out likelihood rejects {rejected} of {tried} violations{marked}."
        for kind in dict.fromkeys(row["violation"] for row in self.rows[1:]):
            mine = [row for row in self.rows if row["violation"] == kind]
            best = max(mine, key=lambda row: np.nan_to_num(row["log_likelihood"], nan=-np.inf))
            if best["log_likelihood"] > PREFERRED * best["standard_error"]:
                yield (
                    f"It is higher with {VIOLATIONS[kind]}{_shown(best)[1:]}, by "
                    f"{best['log_likelihood']:.4f} ± {best['standard_error']:.4f} nats per row: "
                    '"nothing broken" does not fit this log.'
                )

    def plot(self, axes: Any = None) -> Any:
        """Plot mean reward, or differences, against the amount of each violation.

        Parameters
        ----------
        axes : array-like of matplotlib Axes, default=None
            One for each kind of violation with a number. None makes a figure.

        Returns
        -------
        axes : ndarray of Axes
            Hollow marks are violations that the data reject.

        Raises
        ------
        ValueError
            If no violation with a number was tried.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import sensitivity_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(600, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> report = sensitivity_report(est, X, y, violations={"false_positive": [0.05]})
        >>> report.plot()[0].get_ylabel()
        'mean reward'
        """
        pyplot = import_optional("matplotlib.pyplot", "plot", "Plotting the report")
        kinds = [
            kind
            for kind in dict.fromkeys(row["violation"] for row in self.rows[1:])
            if kind in (*NOTHING, "preference_rate")
        ]
        if not kinds:
            raise ImplicitRMError(
                "no violation with a number was tried, so there is nothing to plot. Print the "
                "report, or name more in violations=."
            )
        if axes is None:
            size = (4.5 * len(kinds), 3.5)
            _, axes = pyplot.subplots(1, len(kinds), figsize=size, layout="constrained")
        axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
        names = [f"difference_{group}" for group in self.groups.tolist()] or ["mean_reward"]
        for kind, ax in zip(kinds, axes, strict=True):
            rows = sorted(self._curve(kind), key=lambda row: row["amount"])
            for k, name in enumerate(names):
                colour = COLOURS[k % len(COLOURS)]
                amounts, values = [r["amount"] for r in rows], [r[name] for r in rows]
                ax.plot(amounts, values, "-", color=colour, label=name.removeprefix("difference_"))
                for row in rows:
                    fill = "white" if row["rejected"] else colour
                    ax.plot(
                        row["amount"], row[name], MARKERS[k % len(MARKERS)], color=colour, mfc=fill
                    )
            if len(self.groups):
                ax.axhline(0, color="0.6", linewidth=1)
                ax.legend()
            if kind == "ratio":
                ax.set_xscale("log")
                ax.set_xticks([row["amount"] for row in rows], [f"{r['amount']:.2g}" for r in rows])
                ax.minorticks_off()
            else:
                ax.locator_params(axis="x", nbins=5)
            what = f"difference to {self.reference}" if len(self.groups) else "mean reward"
            ax.set(xlabel=kind.replace("_", " "), ylabel=what)
        return axes


def _cell(value, form):
    return "" if np.isnan(value) else format(value, form)


def _shown(row):
    amount = row["amount"]
    shown = f"{amount:.2g}" if isinstance(amount, float) else str(amount)
    return f"  {shown}{' *' if row['rejected'] else ''}"


def _crossing(start, base, points, is_ratio):
    """Return the amount nearest to `start` at which the sign of the difference changes.

    Parameters
    ----------
    start, base : float
        Amount and difference without a violation.
    points : list of (float, float)
        Amounts and differences.
    is_ratio : bool
        Whether the amounts are compared by their logarithms.
    """
    scale = np.log if is_ratio else np.asarray
    found = []
    for side in (-1, 1):
        before = (float(scale(start)), base)
        mine = [(float(scale(amount)), gap) for amount, gap in points if not np.isnan(gap)]
        mine = [point for point in mine if side * (point[0] - before[0]) > 0]
        for at, gap in sorted(mine, key=lambda point: side * point[0]):
            if gap * base < 0:
                share = before[1] / (before[1] - gap)
                found.append(before[0] + share * (at - before[0]))
                break
            before = at, gap
    if not found:
        return np.nan if all(np.isnan(gap) for _, gap in points) else np.inf
    nearest = min(found, key=lambda at: abs(at - float(scale(start))))
    return float(np.exp(nearest)) if is_ratio else float(nearest)
