"""The findings of a reader in a log, in numbers and in words."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

#: A summary shows the shares of so many labels of one signal.
MAX_LABELS = 6
_HINT = (
    "Check the sign of these signals, and whether one excludes the other (as the outcomes of one "
    "widget do). Check also whether 0 was logged where one was not offered."
)


_NEVER = (
    "{!r} is logged in {:,} of {:,} rows, and users acted in all of them. If only actions are "
    "written, users look too eager: fill 0 into rows in which the response was shown."
)


@dataclass(frozen=True)
class LogSummary:
    """The contents of a log, the rows left out, and oddities; ``print`` shows it.

    Attributes
    ----------
    source : str
        Name of the source.
    n_read, n_rows : int
        Rows of the source, and rows kept.
    columns : dict
        The column that each role was read from; the names of guessed ones end with " (guessed)".
    left_out : dict
        Number of rows or events left out, by reason.
    found : dict
        Number of rows that were kept but may be wrong, by the oddity.
    users, prompts : tuple of int or None
        Their number, and the fewest, median and most rows of one; None if not known.
    signals : dict
        For each name: the preference it shows, the number of rows where it is logged, and the share
        of these in which users acted. With exposures it is the share of these. For other kinds the
        first is the name of the kind. The last is then a dict with the share of each label, or the
        lowest, median and highest degree.
    pairs : list of tuple
        Two signals, the number of rows with both logged, the number of rows with both actions, and
        its expectation if they are independent.
    warnings : list of str
        Contradictions with the signs of the signals, signals that are never silent, and ids in
        forms that do not match.

    Examples
    --------
    >>> from implicitrm_sk.datasets import read_feedback_log
    >>> rows = [
    ...     {"prompt": "2 + 2?", "response": "4", "copied": 1},
    ...     {"prompt": "2 + 2?", "response": "", "copied": 0},
    ... ]
    >>> print(read_feedback_log(rows, signals=["copied"]).summary)
    the list: 2 rows
      prompt    prompt (guessed)
      response  response (guessed)
      prompts   1, 2 rows of each
      1 empty responses
      signal  logged       share acted
      copied  2 (100%)           50.0%
    """

    source: str
    n_read: int
    n_rows: int
    columns: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    users: tuple | None = None
    prompts: tuple | None = None
    signals: dict = field(default_factory=dict)
    pairs: list = field(default_factory=list)
    warnings: list = field(default_factory=list)

    def __str__(self):
        kept = "" if self.n_rows == self.n_read else f" read, {self.n_rows:,} kept"
        counts = [f"  left out: {n:,} {what}" for what, n in self.left_out.items() if n]
        counts += [f"  {n:,} {what}" for what, n in self.found.items() if n]
        groups = [
            (name, _sizes(*found))
            for name, found in (("users", self.users), ("prompts", self.prompts))
            if found is not None
        ]
        lines = [*_aligned([*self.columns.items(), *groups]), *counts]
        lines += [line for table in self._of_signals() for line in _aligned(table)]
        lines += [f"  warning: {text}" for text in self.warnings]
        return "\n".join([f"{self.source}: {self.n_read:,} rows{kept}", *lines])

    def _of_signals(self):
        rows = [("signal", f"{'logged':<12} {'share acted':>11}")]
        for name, (kind, logged, share) in self.signals.items():
            part = logged / max(self.n_rows, 1)
            sign = "" if kind == "positive" else f" ({kind})"
            shown = f"{f'{logged:,} ({part:.0%})':<12} {_share(share):>11}"
            rows.append((f"{name}{sign}", shown))
        pairs = [("both signals", f"{'in rows':>9} {'expected if independent':>24} {'of':>9}")]
        pairs += [
            (f"{first}, {second}", f"{seen:>9,.0f} {expected:>24,.0f} {n:>9,}")
            for first, second, n, seen, expected in self.pairs
        ]
        return [table for table in (rows, pairs) if len(table) > 1]


def _share(share):
    """Return how often users acted, in words."""
    if isinstance(share, dict):
        shown = [f"{label} {part:.1%}" for label, part in list(share.items())[:MAX_LABELS]]
        return ", ".join(shown + ["..."] * (len(share) > MAX_LABELS))
    if isinstance(share, tuple):
        low, median, high = share
        return f"{low:g} to {high:g}, median {median:g}"
    return "" if np.isnan(share) else f"{share:.1%}"


def _aligned(rows):
    width = min(max((len(label) for label, _ in rows), default=0), 40)
    return [f"  {label:<{width}}  {text}".rstrip() for label, text in rows]


def _sizes(n, fewest, median, most):
    if fewest == most:
        return f"{n:,}, {most:,} row{'s' if most > 1 else ''} of each"
    return f"{n:,}, {fewest:,} to {most:,} rows of each, median {median:g}"


def sizes(codes):
    """Return the number of groups, and the fewest, median and most rows of one."""
    if not len(codes):
        return 0, 0, 0, 0
    counts = np.bincount(codes)
    return len(counts), int(counts.min()), float(np.median(counts)), int(counts.max())


def of_signals(actions, signals, clusters=None, exposures=None):
    """Return the parts of a summary that describe actions.

    Parameters
    ----------
    actions : dict of str to ndarray of shape (n,)
        0, 1 or NaN. For other kinds, degrees with NaN, or labels as objects with None.
    signals : dict
        "positive", "negative" or a Signal by name.
    clusters : ndarray of int of shape (n,) or None
        Rows of one cluster may depend on each other.
    exposures : ndarray of shape (n,) or (n, K) or None
        How often each row was shown; actions are then counts, whose signals are not compared.

    Returns
    -------
    parts : dict
        `signals`, `pairs` and `warnings` of a `LogSummary`.
    """
    rates, tested, never = {}, [], []
    for k, (name, column) in enumerate(actions.items()):
        if not is_action(signals[name]):
            rates[name] = (type(signals[name]).__name__, *_of_values(column))
            continue
        logged = ~np.isnan(column)
        shown = np.ones(len(column))
        if exposures is not None:
            shown = exposures if exposures.ndim == 1 else exposures[:, k]
            logged &= shown > 0
        share = column[logged].sum() / shown[logged].sum() if logged.any() else np.nan
        rates[name] = (sign_of(signals[name]), int(logged.sum()), float(share))
        if exposures is None:
            tested.append(name)
            if share == 1 and not logged.all():
                never.append(_NEVER.format(name, int(logged.sum()), len(column)))
    pairs, warnings = [], []
    for k, second in enumerate(tested):
        for first in tested[:k]:
            both = ~np.isnan(actions[first]) & ~np.isnan(actions[second])
            a, b = actions[first][both], actions[second][both]
            if len(a):
                pairs.append((first, second, len(a), float(a @ b), float(a.sum() * b.mean())))
    if len(tested) > 1:
        warnings = _contradictions(actions, signals, tested, clusters)
    return {"signals": rates, "pairs": pairs, "warnings": never + warnings}


def _of_values(column):
    """Return in how many rows a signal with labels or degrees is logged, and with which values."""
    if column.dtype != object:
        values = column[~np.isnan(column)]
        low, median, high = np.quantile(values, [0, 0.5, 1]) if len(values) else [np.nan] * 3
        return len(values), (float(low), float(median), float(high))
    counts = Counter(value for value in column if value is not None)
    n = counts.total()
    return n, {label: count / n for label, count in counts.most_common()}


def is_action(signal):
    """Return whether a signal is an act that happens or does not, without importing torch."""
    return isinstance(signal, str) or type(signal).__name__ == "Action"


def sign_of(signal):
    """Return "positive" or "negative" for a signal that is an action."""
    if isinstance(signal, str):
        return signal
    return "positive" if signal.shows == (1,) else "negative"


def _contradictions(actions, signals, names, clusters):
    from .._association import association_test  # importing scikit-learn takes a second

    counts = np.column_stack([actions[name] for name in names])
    n = len(counts)
    found = association_test(
        counts,
        np.zeros((n, 1)),  # as if all responses were alike
        np.ones(n),
        clusters,
        np.array([int(sign_of(signals[name]) == "positive") for name in names]),
        np.arange(len(names)),
        names,
    )
    return [
        f"{each.signals[0]!r} and {each.signals[1]!r} "
        f"{'show the same preference' if each.same_sign else 'show opposite preferences'}, but "
        f"{each.seen:.0f} of {each.n_rows:,} rows have both, where independence gives "
        f"{each.expected:.0f} if all responses are alike. {_HINT}"
        for each in found
        if each.contradicts
    ]
