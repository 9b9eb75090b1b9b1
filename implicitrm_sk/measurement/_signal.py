"""The base class of all kinds of feedback, and the arithmetic that they share."""

import math

import numpy as np
import torch


class Signal:
    """How one kind of feedback shows the preference r*: P(y | r*, x) of a block of columns of y.

    A kind of feedback is one class. Its constructor stores each argument under its own name, as in
    scikit-learn, so that it can be compared, cloned and saved. A kind with finitely many `values`
    needs `log_prob` and `seen`; the other methods follow from these two. Any other kind also
    defines `check`, `sample` and `log_shown`. `terms` and `log_passive` can be replaced by closed
    forms, which are faster.

    Shapes: y is (n, C), NaN where a column was not logged; u is (..., n, C * n_outputs), the logits
    of the propensity head for this block, column by column. Leading dimensions of u are members.

    Attributes
    ----------
    values : tuple of float, or None
        All numbers that y can be, NaN apart; None where there is no end of them.
    shows : tuple of int
        The preferences that the signal can show: (1,) for a positive action, (0,) for a negative
        one.
    n_outputs : int
        How many logits of the propensity head a column needs.
    takes : frozenset of str
        What the signal can be combined with. `terms`, `log_passive` and `log_shown` get the first
        three as further arguments: "rate", the false-action rates of shape (C,) or (members, 1, C),
        None where all are 0; "exposures" and "propensity", of shape (n, C), None where not given.
        "shared_propensity" says that each logit is that of the propensity of one outcome.
    bounds : bool
        Whether the share of responses that show the preference that they do not have is known:
        only then do shares bound the reward.
    identifies : {"identified", "ranking only"} or None
        What the signal determines by itself, given its `assumption`; None is nothing.
    assumption : str
        What has to hold for it.
    """

    values: tuple | None = None
    shows: tuple = (0, 1)
    n_outputs: int = 1
    takes: frozenset = frozenset()
    bounds: bool = False
    identifies: str | None = None
    assumption: str = ""

    def get_params(self, deep=True):
        """Return the constructor arguments by name; `deep` is not used."""
        return dict(vars(self))

    def __eq__(self, other):
        return type(self) is type(other) and self.get_params() == other.get_params()

    def __hash__(self):
        return hash((type(self), repr(sorted(self.get_params().items()))))

    def __repr__(self):
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    # ------------------------------------------------------------------ what a kind defines

    def log_prob(self, u, y, preferred):
        """Return log P(y | r*, x) of each column.

        Parameters
        ----------
        u : Tensor of shape (..., n, C, n_outputs)
        y : Tensor of shape (n, C)
            What is returned for NaN is not used.
        preferred : {0, 1}
            r*.

        Returns
        -------
        log_prob : Tensor of shape (..., n, C)
        """
        raise NotImplementedError

    def seen(self, y):
        """Return whether y shows r*=0, and whether it shows r*=1: two bool of the shape of y.

        y is an array or a tensor; False where it is NaN.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ what follows

    def encode(self, column, name):
        """Return a column as users give it, of shape (n,), as numbers; by default as it is.

        Only for kinds with labels of their own.
        """
        return column

    def check(self, y, name):
        """Return y as floats, or raise a ValueError in the words of this kind."""
        bad = ~(np.isnan(y) | np.isin(y, self.values))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name} is {y[row, column]:g} in row {row}; expected one of "
                f"{', '.join(f'{value:g}' for value in self.values)} for {self!r}, or NaN where "
                "it was not logged. Correct the column, or its kind in signals."
            )
        return y

    def sample(self, u, preferred, rng):
        """Draw y given the preference, as users would give it.

        Parameters
        ----------
        u : ndarray of shape (n, C * n_outputs)
        preferred : ndarray of bool of shape (n,)
        rng : numpy.random.Generator

        Returns
        -------
        y : ndarray of shape (n, C)
        """
        u = torch.as_tensor(u, dtype=torch.float64)
        shape = (len(u), u.shape[-1] // self.n_outputs)
        u = u.reshape(*shape, self.n_outputs)
        log_prob = torch.stack(
            [
                torch.stack([self.log_prob(u, u.new_full(shape, v), c) for v in self.values], -1)
                for c in (0, 1)
            ]
        )
        cumulative = log_prob.exp().cumsum(-1).numpy()
        cumulative = np.where(np.asarray(preferred, dtype=bool)[:, None, None], *cumulative[::-1])
        drawn = (rng.random((*shape, 1)) * cumulative[..., -1:] >= cumulative).sum(-1)
        return np.asarray(self.values, dtype=float)[drawn]

    def terms(self, u, y, grad=False):
        """Return log P(y | r*, x), of shape (2, ..., n), and its derivative in u.

        The first dimension is r*: 0, 1. By default the derivative is taken by autograd.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n)
            Of the logged columns, 0 where none is logged.
        derivative : pair of Tensor of shape (..., n, P), or None
            Given r*=0 and given r*=1, None for one that is 0; None altogether unless `grad`.
        """
        parts, derivatives = [], []
        for preferred in (0, 1):
            with torch.set_grad_enabled(grad or (torch.is_grad_enabled() and u.requires_grad)):
                logits = full_precision(u)
                logits = logits.detach().requires_grad_() if grad else logits
                each = self.log_prob(
                    logits.unflatten(-1, (y.shape[-1], self.n_outputs)), y, preferred
                )
                parts.append(each.masked_fill(torch.isnan(y), 0.0).sum(-1))
                total = parts[-1].sum()
            if grad:
                (derivative,) = torch.autograd.grad(total, logits, allow_unused=True)
                # What cannot happen has no derivative, and no weight in the gradient.
                derivatives.append(None if derivative is None else torch.nan_to_num(derivative))
                parts[-1] = parts[-1].detach()
        return torch.stack(parts), tuple(derivatives) if grad else None

    def log_passive(self, u, y):
        """Return log P(the user would not act | r*, y), of shape (2, ..., n).

        For the four groups. Acting means giving feedback that shows the r* at hand; of one that
        the kind does not show, what it would take to show the other.
        """
        log_prob, shows = self.log_shown(u)
        n_columns = y.shape[-1]
        seen, unlogged = self.seen(y), torch.isnan(y)
        passive = []
        for c in (0, 1):
            shown = c if c in self.shows else 1 - c
            mine = log_prob[shown].unflatten(-1, (n_columns, -1))[
                ..., shows[: len(shows) // n_columns] == shown
            ]
            log_not = log1mexp(torch.logsumexp(mine, -1).clamp_max(0.0))
            if c == shown:
                log_not = log_not.masked_fill(~unlogged, 0.0).masked_fill(seen[c], -torch.inf)
            passive.append(log_not.sum(-1))
        return torch.stack(passive)

    def log_shown(self, u):
        """Return what the feedback can show: log-probabilities, and the preferences they show.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n, D)
            log P(shown j | r*, x), column by column; each of the `values` that shows something.
        shows : Tensor of int of shape (D,)
            The preference that each of them shows.
        """
        u = full_precision(u).unflatten(-1, (-1, self.n_outputs))
        no, yes = self.seen(np.asarray(self.values, dtype=float))
        y = u.new_tensor(self.values)[torch.as_tensor(no | yes, device=u.device)]
        shape = u.shape[-3], u.shape[-2]
        log_prob = torch.stack(
            [
                torch.stack([self.log_prob(u, v.expand(shape), c) for v in y], -1).flatten(-2)
                for c in (0, 1)
            ]
        )
        shows = torch.as_tensor(yes[no | yes], device=u.device).long()
        return log_prob, shows.repeat(shape[1])

    def initial_logits(self, y, weight, reward, acted):
        """Return the logits at which the propensities of one column start; by default zeros.

        Parameters
        ----------
        y, weight : ndarray of shape (n,)
            The rows of the column, and their weights.
        reward : float, or ndarray of shape (members, 1)
            Where the reward starts.
        acted : float
            Share of rows with an action, false actions taken off.

        Returns
        -------
        logits : ndarray of shape (n_outputs,) or (members, n_outputs)
        """
        return np.zeros(self.n_outputs)


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


def initial_logit(probability):
    """Return the logit of a probability to start from, not an extreme one."""
    p = np.clip(probability, 0.01, 0.99)
    return np.log(p / (1 - p))
