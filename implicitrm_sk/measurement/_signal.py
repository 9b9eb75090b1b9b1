"""The base class of all kinds of feedback, and the arithmetic that they share."""

import math

import numpy as np
import torch


class Signal:
    """How one kind of feedback shows the preference r*: P(y | r*, x) of a block of columns of y.

    A kind of feedback is one class. Its constructor stores each argument under its own name, as in
    scikit-learn, so that it can be compared, cloned and saved. Results that depend on r* lead with
    a dimension of two: [0] given r*=0, [1] given r*=1.

    Shapes: y is (n, C), NaN where a column was not logged; u is (..., n, C * n_outputs), the logits
    of the propensity head for this block, column by column. Leading dimensions of u are members.

    Attributes
    ----------
    takes : frozenset of str
        What `terms`, `log_passive` and `log_shown` take beside u and y: "rate", the false-action
        rates of shape (C,) or (members, 1, C), None where all are 0; "exposures" and "propensity",
        of shape (n, C), None where not given.
    n_outputs : int
        How many logits of the propensity head a column needs.
    shows : tuple of int
        The preferences that the signal can show: (1,) for a positive action, (0,) for a negative
        one.
    """

    takes: frozenset = frozenset()
    shows: tuple = (0, 1)
    n_outputs: int = 1

    def get_params(self):
        """Return the constructor arguments by name."""
        return dict(vars(self))

    def __eq__(self, other):
        return type(self) is type(other) and self.get_params() == other.get_params()

    def __hash__(self):
        return hash((type(self), repr(sorted(self.get_params().items()))))

    def __repr__(self):
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    def check(self, y, name):
        """Return y as floats, or raise a ValueError in the words of this kind."""
        raise NotImplementedError

    def proves(self, y):
        """Return where y makes r* certain while no false actions happen, bool of shape (2, n)."""
        return np.zeros((2, len(y)), dtype=bool)

    def sample(self, u, preferred, rng):
        """Draw y given the preference.

        Parameters
        ----------
        u : ndarray of shape (n, P)
        preferred : ndarray of bool of shape (n,)
        rng : numpy.random.Generator
        """
        raise NotImplementedError

    def terms(self, u, y, grad=False):
        """Return log P(y | r*, x), of shape (2, ..., n), and its derivative in u.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n)
            Of the logged columns, 0 where none is logged.
        derivative : pair of Tensor of shape (..., n, P), or None
            Given r*=0 and given r*=1, None for one that is 0; None altogether unless `grad`.
        """
        raise NotImplementedError

    def log_passive(self, u, y):
        """Return log P(the user would not act | r*, y), of shape (2, ..., n).

        For the four groups. Acting means giving feedback that shows the r* at hand; of one that
        the kind does not show, what it would take to show the other.
        """
        raise NotImplementedError

    def log_shown(self, u):
        """Return what the feedback can show: log-probabilities, and the preferences they show.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n, D)
            log P(shown j | r*, x), D = C for kinds with one way of acting per column.
        shows : Tensor of int of shape (D,)
            The preference that each of them shows.
        """
        raise NotImplementedError


def full_precision(logit):
    """Return half-precision logits in float32, others as they are."""
    return logit.float() if logit.dtype in (torch.bfloat16, torch.float16) else logit


def log1mexp(x):
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012, Eq. 7)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def times(count, log_prob):
    """Return count * log_prob, 0 where the count is: what cannot and did not happen costs none."""
    return torch.where(count > 0, count * log_prob, log_prob.new_zeros(()))


def per_response(rows, response, n_responses):
    """Sum rows, the last dimension, over the rows of each response."""
    if response is None:
        return rows
    return rows.new_zeros((*rows.shape[:-1], n_responses)).index_add(-1, response, rows)
