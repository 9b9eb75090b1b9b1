"""A comparison of models with and without rows that nobody looked at, by likelihood."""

import numpy as np

#: The model of rows that nobody looked at is named if it is better by more standard errors.
STANDARD_ERRORS = 2.0


def compare(plain, examined):
    """Return which model fits rows kept aside better, and by how much.

    Parameters
    ----------
    plain, examined : (ndarray of shape (units,), ndarray of shape (units,))
        Log-likelihoods of the mixture of the likeliest refits, and weights. Units (responses or
        users) do not depend on each other.

    Returns
    -------
    found : dict
        ``winner``, "plain" or "examined"; ``difference`` in log-likelihood of the mixture of the
        refits (nats per response) of the second from the first, and its ``standard_error``. The
        second has to be better by `STANDARD_ERRORS`.
    """
    (first, weight), (second, _) = plain, examined
    gain = second - first
    w = weight / weight.sum()
    difference = float(gain @ w)
    error = float(np.sqrt((gain - difference) ** 2 @ w**2))
    winner = "examined" if difference > STANDARD_ERRORS * error else "plain"
    return {"winner": winner, "difference": difference, "standard_error": error}
