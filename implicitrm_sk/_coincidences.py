"""How often the signals of a log coincide, and which of them are plainly not independent."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from ._assumptions import MIN_RESPONSES

#: An action is a step of another if more than this share of its rows have the other too.
NESTED = 0.98
#: An action that coincides with others of its sign less often than this share of what chance gives
#: is not a second signal of the same responses.
APART = 0.25


@dataclass(frozen=True, eq=False)
class Coincidences:
    """Numbers of rows on which two acts were logged and done; ``+`` adds batches.

    Rows without weight do not count.

    Attributes
    ----------
    column, target, bounds : ndarray of shape (K',)
        As in `Acts`.
    logged : ndarray of int of shape (K', K')
        Rows on which both acts were logged.
    acted : ndarray of int of shape (K', K')
        Those of them with the act of the row, whatever that of the column.
    both : ndarray of int of shape (K', K')
        Those of them with both.
    unequal : ndarray of int of shape (K', K')
        Those of them on which the counts of the two differ.
    passive : ndarray of int of shape (K',)
        Rows on which the act was possible and, at least once, not done.
    counts_exposures : bool
        Whether counts are over exposures. Then it is not known which actions of a row coincide.
    """

    column: np.ndarray
    target: np.ndarray
    bounds: np.ndarray
    logged: np.ndarray
    acted: np.ndarray
    both: np.ndarray
    unequal: np.ndarray
    passive: np.ndarray
    counts_exposures: bool

    @classmethod
    def of(cls, log):
        """Count the rows of a `FeedbackLog`."""
        acts, counted = log.acts, log.per_row(log.sample_weight) > 0
        counts = acts.counts[counted]
        known, done = ~np.isnan(counts), counts > 0
        pairs = np.zeros((4, counts.shape[1], counts.shape[1]), dtype=int)
        for k in range(counts.shape[1]):
            logged = known[:, [k]] & known
            differ = counts[:, [k]] != counts
            kinds = logged, logged & done[:, [k]], done[:, [k]] & done, logged & differ
            pairs[:, k] = [kind.sum(axis=0) for kind in kinds]
        passive = (log.not_acted()[counted] > 0).sum(axis=0)
        exposed = log.exposures is not None
        return cls(acts.column, acts.target, acts.bounds, *pairs, passive, exposed)

    def __add__(self, other):
        names = ("logged", "acted", "both", "unequal", "passive")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        exposed = self.counts_exposures or other.counts_exposures
        return replace(self, **sums, counts_exposures=exposed)

    def idle(self):
        """Return the acts that carry no information, and why: they are constant, or copies.

        Returns
        -------
        idle : dict of int to str or int
            For each such act, "never" or "always" if it never or always fires where it is logged,
            or "not logged". For a copy, the earlier act that it equals.
        """
        idle = {}
        for k in range(len(self.column)):
            fires, rests = self.acted[k, k] > 0, self.passive[k] > 0
            if not fires or not rests:
                kinds = {(0, 1): "never", (1, 0): "always", (0, 0): "not logged"}
                idle[k] = kinds[fires, rests]
                continue
            same = (self.unequal[k] == 0) & (self.acted[k] >= MIN_RESPONSES)
            originals = [j for j in range(k) if same[j] and j not in idle]
            if originals:
                idle[k] = originals[0]
        return idle

    def steps(self):
        """Return pairs (k, j) of acts of one sign where k hardly ever happens without j.

        Example: a video watched to its end was also opened. The two are steps of one act.
        """
        found = []
        for k, j in itertools.permutations(self._comparable(), 2):
            if j not in self._others(k) or self.acted[k, j] < MIN_RESPONSES:
                continue
            share, expected = (
                self.both[k, j] / self.acted[k, j],
                self.acted[j, k] / self.logged[k, j],
            )
            if share >= NESTED and 1 - share < (1 - expected) / 4:
                found.append((k, j))
        return found

    def apart(self):
        """Return (k, seen, expected) of acts that hardly coincide with others of their sign.

        Two actions that show the same preference coincide at least as often as chance gives, unless
        they happen to different responses. Then each of them is a single signal there, independent
        given x or not. A wrong sign looks the same where x predicts the preference.
        """
        found = []
        for k in self._comparable():
            others = self._others(k)
            by_chance = self.acted[k] * self.acted[:, k] / np.maximum(self.logged[k], 1)
            seen, expected = int(self.both[k, others].sum()), float(by_chance[others].sum())
            if expected >= MIN_RESPONSES and seen < APART * expected:
                found.append((k, seen, expected))
        return found

    def dependent(self, names):
        """Return, in words, which acts are not independent of others of their sign.

        Parameters
        ----------
        names : sequence
            Names of the signals.
        """
        names = [f"signal {names[column]!r}" for column in self.column]
        copies = [(k, j) for k, j in self.idle().items() if not isinstance(j, str)]
        return [
            *(f"{names[k]} equals {names[j]} wherever both are logged" for k, j in copies),
            *(f"{names[k]} hardly ever happens without {names[j]}" for k, j in self.steps()),
            *(
                f"{names[k]} hardly ever happens together with others of its sign"
                for k, _, _ in self.apart()
            ),
        ]

    def _comparable(self):
        """Return the acts that may be steps or apart."""
        if self.counts_exposures:
            return []
        idle = self.idle()
        return [int(k) for k in np.flatnonzero(self.bounds) if k not in idle]

    def _others(self, k):
        """Return the comparable acts of other columns that show what act k shows."""
        return [
            j
            for j in self._comparable()
            if self.target[j] == self.target[k] and self.column[j] != self.column[k]
        ]
