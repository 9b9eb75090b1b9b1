"""A score test whether some rows were not looked at, for a fit that takes all rows to be."""

from dataclasses import dataclass

from ._score_test import ScoreTest, score_tests

#: Rows not looked at contradict a fit if they explain the log better by more standard errors ...
Z = 3.3
#: ... and if their share is estimated to be larger than this.
SHARE = 0.05


@dataclass(frozen=True)
class ExaminationTest(ScoreTest):
    """The result of `examination_test`: the share of rows that nobody looked at, and its score."""

    @property
    def rejected(self):
        """Whether the log contradicts that every row was looked at."""
        return self.z > Z and self.share > SHARE

    def __str__(self):
        return (
            "the signals of a row are silent together more often than they would be if every row "
            f"was looked at, by {self.z:.1f} standard errors"
        )


def can_show_examination(est, log):
    """Return whether the likelihood distinguishes rows not looked at from dislike.

    It does with two signals of each polarity. With fewer, the model in which every row was looked
    at fits the same data exactly, with v R in place of the reward R.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        Fitted.
    log : FeedbackLog
    """
    return (
        est.evidence_.shown_twice == (0, 1)
        and "shared_examination=True" in est.objective_.uses
        and log.exposures is None
        and log.propensity is None
        and all(signal.silence is not None for signal in log.signals)
    )


def examination_test(rows, log):
    """Return the score test of a share of rows that nobody looked at; None with too few rows.

    If nobody looked at a row, all of its signals are silent.

    Parameters
    ----------
    rows : Rows
        Without examination in their measurement.
    log : FeedbackLog
        As for `score_tests`.

    Returns
    -------
    test : ExaminationTest or None
    """

    def silent(rows, y):
        silence = y.new_tensor([signal.silence for signal in rows.measurement.signals])
        return (y == silence).all(-1).to(y)

    (found,) = score_tests(rows, log, [silent])
    return None if found is None else ExaminationTest(found.share, found.z, found.n_rows)
