"""Whether a log contradicts the false-action rates that were stated."""

import torch

from ._score_test import score_tests

#: A rate contradicts a log if another explains it better by more standard errors ...
Z = 4.5
#: ... and differs by more than this.
DIFFERENCE = 0.03
#: By how much a rate is changed; the probabilities of a row are linear in it.
STEP = 0.01


def rates_against(rows, log, looked_at):
    """Describe which false-action rate a log contradicts, or return None.

    If a row has three signals, the likelihood depends on each rate whatever the logits of the row
    are. So the score of a rate can be tested with the errors of the fit projected out
    (`score_tests`).

    Parameters
    ----------
    rows : Rows
    log : FeedbackLog
        As for `score_tests`.
    looked_at : bool
        Whether every row was looked at. Otherwise, rows that nobody looked at can make a rate look
        too large.
    """
    signals = rows.measurement.signals
    rates = torch.zeros(len(signals), dtype=torch.float64)
    if rows.rates is not None:
        rates = rates + rows.rates

    def with_more(k):
        more = rates.clone()
        more[k] += STEP
        return lambda rows, y: rows.probability(y, rates=more)

    tested = [k for k, signal in enumerate(signals) if "rate" in signal.takes]
    found = score_tests(rows, log, [with_more(k) for k in tested])
    found = [(test, k) for k, test in zip(tested, found, strict=True) if test is not None]
    if not found:
        return None
    test, k = max(found, key=lambda one: abs(one[0].z))
    rate = float(rates[k])
    change = max(STEP * test.share, -rate)  # no rate is below 0
    if abs(test.z) < Z or abs(change) < DIFFERENCE or (change < 0 and not looked_at):
        return None
    return (
        f"false_action_rate={rate:g} of signal {str(log.signal_names[k])!r} contradicts "
        f"the log: a {'larger' if test.z > 0 else 'smaller'} one explains it better, by "
        f"{abs(test.z):.1f} standard errors"
    )
