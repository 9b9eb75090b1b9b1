"""The base class of all kinds of feedback, and the arithmetic that they share."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .._typing import Floats
from ..exceptions import ImplicitRMError


class Signal:
    """Base class of a kind of feedback: P(y | r*, x) of its columns of y, given the preference r*.

    r* is 1 if the user prefers the response, and 0 if not. A kind of feedback is one class. Its
    constructor stores each argument under its own name, as in scikit-learn, so that it can be
    compared, cloned and saved. A kind with finitely many `values` needs `log_prob` and `seen`; the
    other methods follow from these two. Any other kind also defines `check`, `sample` and
    `log_shown`. Closed forms of `terms` and `log_passive` are faster and may replace them.

    The feedback y has shape (n, C), NaN where a column was not logged. The logits u have shape
    (..., n, C * n_outputs). They come from the propensity head, for one column after the other.
    Leading dimensions of u are members.

    Attributes
    ----------
    values : tuple of float, or None
        All numbers that y can be, except NaN; None if there are infinitely many.
    shows : tuple of int
        The preferences that the signal can show: (1,) for a positive action, (0,) for a negative
        one.
    n_outputs : int
        Number of logits of the propensity head that a column needs.
    n_shared : int
        How many of them, at the end, are parameters that all rows share, such as cut points or the
        rate of a delay.
    takes : frozenset of str
        The arguments that the signal can be combined with. `terms`, `log_passive` and `log_shown`
        get these as further arguments. The "rate" is the false-action rates, of shape (C,) or
        (members, 1, C), None if all are 0. The others are "exposures", "propensity", "age" and
        "delay", of shape (n, C), None if not given. `log_shown` gets "rate" only, and
        `initial_logits` gets "age" and "delay". The name "shared_propensity" means that each logit
        is the propensity of one outcome.
    bounds : bool
        Whether the share of responses that show the wrong preference is known. Only then do shares
        bound the reward.
    given : int or None
        The preference given which `propensity` reports all outcomes; None means the one that each
        outcome shows.
    least_exposures : int
        How often a response has to be shown, so that counts over `exposures` show its preference.
    silence : float or None
        The value of y if users did nothing, as on a row that nobody looked at. None if there is no
        such value; `shared_examination` is then not available.
    identifies : {"identified", "ranking only"} or None
        The part of the reward that the signal identifies by itself, given its `assumption`; None
        means nothing.
    assumption : str
        The condition for this. If the kind identifies nothing, the condition for not misleading.

    Examples
    --------
    >>> import torch
    >>> from torch.nn.functional import logsigmoid
    >>> from implicitrm_sk.signals import Signal
    >>> class Thanked(Signal):  # the same as Action()
    ...     values, shows, bounds = (0.0, 1.0), (1,), True
    ...
    ...     def seen(self, y):
    ...         return y > 1, y == 1
    ...
    ...     def log_prob(self, u, y, preferred):
    ...         if not preferred:
    ...             return torch.where(y == 1, -torch.inf, 0.0)
    ...         return logsigmoid(torch.where(y == 1, u[..., 0], -u[..., 0]))
    >>> Thanked().terms(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))[0].exp()
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000]])
    """

    values: tuple | None = None
    shows: tuple = (0, 1)
    n_outputs: int = 1
    n_shared: int = 0
    takes: frozenset = frozenset()
    bounds: bool = False
    given: int | None = None
    least_exposures: int = 2
    silence: float | None = None
    identifies: str | None = None
    assumption: str = ""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor arguments by name.

        Parameters
        ----------
        deep : bool, default=True
            Ignored; needed by the `clone` of scikit-learn.

        Returns
        -------
        params : dict
            Arguments by name.

        Examples
        --------
        >>> from implicitrm_sk.signals import Action
        >>> Action(0).get_params()
        {'target': 0, 'false_rate': None, 'delay': None, 'counts': 'binomial'}
        """
        return dict(vars(self))

    def __eq__(self, other):
        return type(self) is type(other) and self.get_params() == other.get_params()

    def __hash__(self):
        return hash((type(self), repr(sorted(self.get_params().items()))))

    def __repr__(self):
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    # ------------------------------------------------------------------ what a kind defines

    def log_prob(self, u: torch.Tensor, y: torch.Tensor, preferred: int) -> torch.Tensor:
        """Return log P(y | r*, x) of each column.

        Parameters
        ----------
        u : Tensor of shape (..., n, C, n_outputs)
            Logits of the propensity head.
        y : Tensor of shape (n, C)
            Feedback; the result for NaN is ignored.
        preferred : {0, 1}
            The preference r*.

        Returns
        -------
        log_prob : Tensor of shape (..., n, C)
            The probabilities of all `values` sum to 1.

        Raises
        ------
        NotImplementedError
            If the kind does not define it.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Choice
        >>> thumb = Choice({"up": 1, "down": 0}, silent="none")
        >>> u = torch.zeros(1, 1, 2)
        >>> [thumb.log_prob(u, torch.tensor([[code]]), 1).exp().item() for code in thumb.values]
        [0.5, 0.5, 0.0]
        """
        raise NotImplementedError

    def seen(self, y: Any) -> tuple[Any, Any]:
        """Return where y shows r*=0, and where it shows r*=1.

        Parameters
        ----------
        y : ndarray or Tensor
            Feedback of any shape.

        Returns
        -------
        no, yes : bool of the shape of y
            False where y is NaN.

        Raises
        ------
        NotImplementedError
            If the kind does not define it.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.signals import Action
        >>> no, yes = Action(0).seen(np.array([1.0, 0.0, np.nan]))
        >>> no, yes
        (array([ True, False, False]), array([False, False, False]))
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ what follows

    def settled(self, column: ArrayLike, name: str) -> "Signal":
        """Return the signal with everything that it takes from the log of `fit`; by default itself.

        Parameters
        ----------
        column : array-like of shape (n,)
            The column as users pass it.
        name : str
            Name of the column, for messages.

        Returns
        -------
        signal : Signal
            The signal that `signals_` holds.

        Examples
        --------
        >>> from implicitrm_sk.signals import Action
        >>> Action().settled([1, 0], "copied")
        Action(target=1, false_rate=None)
        """
        return self

    def encode(self, column: ArrayLike, name: str) -> ArrayLike:
        """Return a column as numbers; needed only for kinds that have labels.

        Parameters
        ----------
        column : array-like of shape (n,)
            Labels, or missing values.
        name : str
            Name of the column, for messages.

        Returns
        -------
        codes : array-like of shape (n,)
            NaN where a label is missing. By default the column itself.

        Examples
        --------
        >>> from implicitrm_sk.signals import Choice
        >>> Choice({"up": 1, "down": 0}, silent="none").encode(["down", None, "none"], "thumb")
        array([ 2., nan,  0.])
        """
        return column

    def check(self, y: Floats, name: str) -> Floats:
        """Return the feedback if it is valid.

        Parameters
        ----------
        y : ndarray of float of shape (n, C)
            Feedback.
        name : str
            Name of y, for messages.

        Returns
        -------
        y : ndarray of float of shape (n, C)
            NaN also where it carries no information.

        Raises
        ------
        ValueError
            If y contains an impossible value. The message describes it for this kind.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.signals import Action
        >>> Action().check(np.array([[1.0], [np.nan]]), "y")
        array([[ 1.],
               [nan]])
        """
        bad = ~(np.isnan(y) | np.isin(y, self.values))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ImplicitRMError(
                f"{name} is {y[row, column]:g} in row {row}; expected one of "
                f"{', '.join(f'{value:g}' for value in self.values)} for {self!r}, or NaN where "
                "it was not logged. Correct the column, or its kind in signals."
            )
        return y

    def sample(self, u: Floats, preferred: ArrayLike, rng: np.random.Generator) -> NDArray[Any]:
        """Draw feedback given the preference.

        Parameters
        ----------
        u : ndarray of shape (n, C * n_outputs)
            Logits of the propensity.
        preferred : array-like of bool of shape (n,)
            The preferences r*.
        rng : numpy.random.Generator
            The generator to draw from.

        Returns
        -------
        y : ndarray of shape (n, C)
            Feedback as users pass it, with labels if the kind has labels.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.signals import Choice
        >>> thumb = Choice({"up": 1, "down": 0}, silent="none")
        >>> thumb.sample(np.full((2, 2), 9.0), [True, False], np.random.default_rng(0))
        array([['up'],
               ['down']], dtype=object)
        """
        shape = (len(u), u.shape[-1] // self.n_outputs)
        logit = torch.as_tensor(u, dtype=torch.float64).reshape(*shape, self.n_outputs)
        of_values = [torch.full(shape, value, dtype=torch.float64) for value in self.values or ()]
        log_prob = torch.stack(
            [torch.stack([self.log_prob(logit, y, c) for y in of_values], -1) for c in (0, 1)]
        )
        cumulative = log_prob.exp().cumsum(-1).numpy()
        cumulative = np.where(np.asarray(preferred, dtype=bool)[:, None, None], *cumulative[::-1])
        drawn = (rng.random((*shape, 1)) * cumulative[..., -1:] >= cumulative).sum(-1)
        return np.asarray(self.values, dtype=float)[drawn]

    def terms(
        self, u: torch.Tensor, y: torch.Tensor, grad: bool = False
    ) -> tuple[torch.Tensor, tuple | None]:
        """Return the log-probability of rows and its derivative, by default with autograd.

        Parameters
        ----------
        u : Tensor of shape (..., n, C * n_outputs)
            Logits of the propensity head.
        y : Tensor of shape (n, C)
            Feedback.
        grad : bool, default=False
            Whether to compute the derivative.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n)
            The values log P(y | r*, x) of the logged columns, given r*=0 and given r*=1; 0 if none
            is logged.
        derivative : pair of Tensor of the shape of u, or None
            Given r*=0 and given r*=1; None for a derivative that is 0. None instead of the pair
            unless `grad`.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Action
        >>> log_prob, (no, yes) = Action().terms(torch.zeros(2, 1), torch.eye(2)[:, :1], grad=True)
        >>> log_prob.exp()
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000]])
        >>> no, yes
        (None, tensor([[ 0.5000],
                [-0.5000]]))
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
                derivative = None
                if total.requires_grad:
                    (derivative,) = torch.autograd.grad(total, logits)
                    # An impossible value has no derivative, and no weight in the gradient.
                    derivative = torch.nan_to_num(derivative)
                derivatives.append(derivative)
                parts[-1] = parts[-1].detach()
        return torch.stack(parts), tuple(derivatives) if grad else None

    def log_passive(self, u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return log P(the user would not act | r*, y), for the four groups.

        Acting means feedback that shows this r*. If the kind cannot show this r*, it means feedback
        that would show the other one.

        Parameters
        ----------
        u : Tensor of shape (..., n, C * n_outputs)
            Logits of the propensity head.
        y : Tensor of shape (n, C)
            Feedback.

        Returns
        -------
        log_passive : Tensor of shape (2, ..., n)
            Given r*=0 and given r*=1.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Action
        >>> y = torch.tensor([[1.0], [0.0], [torch.nan]])
        >>> Action().log_passive(torch.zeros(3, 1), y)[1].exp()
        tensor([0.0000, 1.0000, 0.5000])
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

    def log_shown(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the feedback can show: log-probabilities, and the preferences shown.

        Parameters
        ----------
        u : Tensor of shape (..., n, C * n_outputs)
            Logits of the propensity head.

        Returns
        -------
        log_prob : Tensor of shape (2, ..., n, D)
            The values log P(shown j | r*, x), column by column, for each of the `values` that
            shows a preference.
        shows : Tensor of int of shape (D,)
            The preference that each of them shows.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Choice
        >>> log_prob, shows = Choice({"up": 1, "down": 0}, "none").log_shown(torch.zeros(1, 2))
        >>> log_prob.exp(), shows
        (tensor([[[0.0000, 0.5000]],
        <BLANKLINE>
                [[0.5000, 0.0000]]]), tensor([1, 0]))
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

    def initial_logits(
        self, y: Floats, weight: Floats, reward: float | Floats, acted: float
    ) -> Floats:
        """Return the logits at which the propensities of one column start; by default zeros.

        Parameters
        ----------
        y : ndarray of shape (n,)
            The column.
        weight : ndarray of shape (n,)
            Weights of the rows.
        reward : float, or ndarray of shape (members, 1)
            The reward at the start.
        acted : float
            Share of rows with an action, without false actions.

        Returns
        -------
        logits : ndarray of shape (n_outputs,) or (members, n_outputs)
            The logits at the start of training.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.signals import Action
        >>> Action().initial_logits(np.array([1.0, 0.0]), np.ones(2), reward=0.5, acted=0.25)
        array([0.])
        """
        return np.zeros((*np.shape(reward)[:-1], self.n_outputs))


def full_precision(logit):
    """Return half-precision logits in float32, others unchanged."""
    return logit.float() if logit.dtype in (torch.bfloat16, torch.float16) else logit


def log1mexp(x):
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012, Eq. 7)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def times(count, log_prob):
    """Return count * log_prob, or 0 if the count is 0 (an impossible event that did not happen)."""
    return torch.where(count > 0, count * log_prob, log_prob.new_zeros(()))


def per_response(rows, response, n_responses):
    """Sum rows, the last dimension, over the rows of each response."""
    if response is None:
        return rows
    return rows.new_zeros((*rows.shape[:-1], n_responses)).index_add(-1, response, rows)


def initial_logit(probability):
    """Return the logit of a probability to start from, clipped away from the extremes."""
    p = np.clip(probability, 0.01, 0.99)
    return np.log(p / (1 - p))
