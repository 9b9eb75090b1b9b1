"""A widget with exclusive outcomes: thumbs, or yes, no and dismiss."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch

from .._tables import as_values
from .._validation import is_missing
from ..exceptions import ImplicitRMError
from ._signal import Signal, full_precision, initial_logit


class Choice(Signal):
    """A widget with several outcomes; users choose one or none: thumbs; yes, no, dismiss.

    r* is 1 if the user prefers the response, and 0 if not. S_c is the softmax over silence and the
    outcomes that show r*=c or nothing. Silence has the logit 0, and each outcome has one logit, the
    same for both r*. T is the softmax over the outcomes that show the same preference. With the
    false rate e,

    ``P(y | r*=c, x) = (1 - s e) S_c(y) + e T(y)``

    Here s is the number of preferences that the widget can show. T(y) is 0 if y does not show a
    preference, and S_c(y) is 0 if y shows the other one. So e = P(an outcome that shows the other
    preference | r*). With one outcome for each preference and e = 0, this is a positive and a
    negative `Action` that exclude each other: P(up | r*=1) = sigmoid(u_1), and P(down | r*=0) =
    sigmoid(u_2).

    Parameters
    ----------
    outcomes : dict of label to {1, 0, None}
        The value of y for each outcome (a string or a number), and the preference that it shows.
        None means that the outcome does not show a preference (dismiss, unsure). Users choose it
        equally readily for both r*, relative to their other choices.
    silent : label, default=None
        The value of y if the widget was offered and users did not choose. Missing values (NaN,
        None) mean that it was not offered. Not needed with `given_reaction`.
    false_rate : float, default=0.0
        The rate e, P(an outcome that shows the other preference | r*), in [0, 1 / s).
    given_reaction : bool, default=False
        Whether to learn only from choices that show a preference: S_c is then T. Which responses
        users react to is not modelled, and other rows count as not logged. The reward is then
        P(r*=1 | x, reaction). It ranks responses like P(r*=1 | x) if the readiness to react to
        preferred responses and to others has a constant ratio.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.signals import Choice
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> pressed = np.where(X[:, 0] > 0, "up", "down")
    >>> thumb = np.where(rng.random(2000) < 0.3, pressed, "none")
    >>> y = pd.DataFrame({"thumb": thumb})
    >>> signals = {"thumb": Choice({"up": 1, "down": 0}, silent="none")}
    >>> est = ImplicitRewardEstimator(signals=signals, learning_rate_init=0.01, random_state=0)
    >>> est.fit(X, y).predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
    array([1., 0.], dtype=float32)
    >>> est.identification_.level
    'bounded'
    """

    def __init__(
        self,
        outcomes: Mapping[Hashable, int | None],
        silent: Hashable = None,
        false_rate: float = 0.0,
        given_reaction: bool = False,
    ) -> None:
        self.outcomes = outcomes
        self.silent = silent
        self.false_rate = false_rate
        self.given_reaction = given_reaction

    def __eq__(self, other):
        # Equal outcomes in another order are another widget: the logits follow this order.
        return super().__eq__(other) and list(self.outcomes) == list(other.outcomes)

    __hash__ = Signal.__hash__

    # ------------------------------------------------------------------ what follows from arguments

    @property
    def values(self):
        """Codes of the outcomes, from 1, and 0 for silence, which `given_reaction` leaves out."""
        if self.given_reaction:
            return tuple(1.0 + j for j in np.flatnonzero(self._showing))
        return tuple(float(code) for code in range(len(self.outcomes) + 1))

    @property
    def shows(self):
        """The preferences that the outcomes show."""
        return tuple(c for c in (0, 1) if c in self.outcomes.values())

    @property
    def n_outputs(self):
        """One logit for each outcome."""
        return len(self.outcomes)

    @property
    def takes(self):
        """A shared propensity, if each logit is the propensity for one preference."""
        alone = len(self.outcomes) == len(self.shows) and not self.given_reaction
        return frozenset({"shared_propensity"} if alone else ())

    @property
    def bounds(self):
        """Whether the shares of the outcomes are known."""
        return not self.given_reaction

    @property
    def silence(self):
        """The code of silence; None if it is left out."""
        return None if self.given_reaction else 0.0

    @property
    def identifies(self):
        """The order of the reward, with `given_reaction`."""
        return "ranking only" if self.given_reaction and len(self.shows) == 2 else None

    @property
    def assumption(self):
        """The ratio in which users react is constant."""
        return "readiness to show either preference in a constant ratio"

    @property
    def _preference(self):
        return np.array([-1 if c is None else c for c in self.outcomes.values()])

    @property
    def _showing(self):
        return self._preference >= 0

    # ------------------------------------------------------------------ y

    def _check(self):
        """Raise unless the arguments describe a widget."""
        try:
            shown = list(self.outcomes.values())
        except AttributeError:
            shown = []
        if not any(c in (0, 1) for c in shown) or not all(c in (0, 1, None) for c in shown):
            raise ImplicitRMError(
                f"outcomes of Choice is {self.outcomes!r}; expected a dict from each outcome to "
                "the preference that it shows, 1, 0 or None, such as {'up': 1, 'down': 0}."
            )
        if self.given_reaction and len(self.shows) < 2:
            raise ImplicitRMError(
                f"outcomes of Choice is {self.outcomes!r}; expected some outcomes that show 1 and "
                "some that show 0, because given_reaction=True learns from nothing else. Add the "
                "missing ones."
            )
        if self.silent is None and not self.given_reaction:
            raise ImplicitRMError(
                f"silent of {self!r} is None; expected the label of rows in which users were "
                "offered the widget and did not choose. Set silent, or set given_reaction=True if "
                "y does not have such rows."
            )
        if self.silent in self.outcomes:
            raise ImplicitRMError(
                f"silent={self.silent!r} of Choice is an outcome too; expected a label of its own. "
                "Leave it out of outcomes."
            )
        most = 1 / len(self.shows)
        if not 0 <= self.false_rate < most:
            raise ImplicitRMError(
                f"false_rate of Choice must lie in [0, {most:g}), got {self.false_rate!r}. It is "
                "the share of choices that show the wrong preference."
            )

    def encode(self, column, name):
        """Return the codes of labels: their position in `outcomes`, from 1, and 0 for silence.

        Raises
        ------
        ValueError
            If the arguments do not describe a widget, or a label is unknown.
        """
        self._check()
        labels = np.asarray(as_values(column), dtype=object)
        codes = {label: code for code, label in enumerate(self.outcomes, 1)}
        if self.silent is not None:
            codes[self.silent] = 0
        missing = is_missing(labels)
        found = np.full(len(labels), np.nan)
        for row in np.flatnonzero(~missing):
            label = labels[row]
            try:
                found[row] = codes[label]
            except (KeyError, TypeError):
                known = ", ".join(map(repr, codes))
                raise ImplicitRMError(
                    f"{name} is {label!r} in row {row}; expected one of {known}, or NaN where the "
                    "widget was not offered. Add the outcome to Choice, or correct the column."
                ) from None
        return found

    def check(self, y, name):
        """Return the codes; with `given_reaction`, NaN for outcomes that show no preference."""
        if not self.given_reaction:
            return super().check(y, name)
        no, yes = self.seen(y)
        return np.where(no | yes, y, np.nan)

    def seen(self, y):
        """Return where users chose an outcome that shows 0, and where one that shows 1."""
        found = []
        for c in (0, 1):
            here = y < 0
            for code in 1 + np.flatnonzero(self._preference == c):
                here = here | (y == int(code))
            found.append(here)
        return tuple(found)

    def _unlogged(self, y):
        if not self.given_reaction:
            return torch.isnan(y)
        no, yes = self.seen(y)
        return ~(no | yes)

    def sample(self, u, preferred, rng):
        """Draw labels."""
        labels = np.empty(len(self.outcomes) + 1, dtype=object)
        labels[:] = [self.silent, *self.outcomes]
        return labels[super().sample(u, preferred, rng).astype(int)]

    # ------------------------------------------------------------------ likelihood

    def _softmaxes(self, u):
        """Return log S_0, log S_1 and log T, each (..., n, C, 1 + n_outputs), silence first."""
        preference = np.append(-1, self._preference)
        silence = u.new_zeros(()).expand(*u.shape[:-1], 1)
        u = torch.cat([silence, u], -1)

        def log_softmax(kept):
            kept = torch.as_tensor(kept, device=u.device)
            return torch.log_softmax(u.masked_fill(~kept, -torch.inf), -1), kept

        log_t = torch.full_like(u, -torch.inf)
        for c in self.shows:
            each, mine = log_softmax(preference == c)
            log_t = torch.where(mine, each, log_t)
        if self.given_reaction:
            mine = [torch.as_tensor(preference == c, device=u.device) for c in (0, 1)]
            return *(log_t.masked_fill(~m, -torch.inf) for m in mine), log_t
        return *(log_softmax((preference == c) | (preference == -1))[0] for c in (0, 1)), log_t

    @property
    def _log_weights(self):
        """The logarithms of 1 - s e and of e."""
        with np.errstate(divide="ignore"):
            return np.log1p(-len(self.shows) * self.false_rate), np.log(self.false_rate)

    def log_prob(self, u, y, preferred):
        """Return the log-probability of the codes."""
        *log_s, log_t = self._softmaxes(full_precision(u))
        log_weight, log_e = (float(w) for w in self._log_weights)
        code = torch.nan_to_num(y).long()[..., None].expand(*log_t.shape[:-1], 1)
        log_own = log_weight + log_s[preferred].gather(-1, code)[..., 0]
        if not self.false_rate:
            return log_own
        return torch.logaddexp(log_own, log_e + log_t.gather(-1, code)[..., 0])

    def terms(self, u, y, grad=False):
        """Return log P(y | r*, x) and its derivative.

        Let a = (1 - s e) S_c(y) / P(y | r*=c, x). Let b = 1 - a if y shows a preference, else 0.
        Then d log P(y | r*=c, x) / du_j = a ([y = j] - S_c(j)) + b ([y = j] - T(j)). T(j) counts
        only if j shows the same preference as y.
        """
        u = full_precision(u)
        n_columns = y.shape[-1]
        u = u.unflatten(-1, (n_columns, self.n_outputs))
        *log_s, log_t = self._softmaxes(u)
        log_weight, log_e = (float(w) for w in self._log_weights)
        unlogged = self._unlogged(y)
        code = torch.nan_to_num(y).long()[..., None]
        at = code.expand(*u.shape[:-1], 1)
        chosen = torch.arange(self.n_outputs + 1, device=u.device) == code
        log_false = log_e + log_t.gather(-1, at)
        if grad and self.false_rate:
            preference = torch.as_tensor(np.append(-1, self._preference), device=u.device)
            same = preference == preference[code]
            false = _residual(torch.where(same, log_t, -torch.inf), chosen)
        parts, derivatives = [], []
        for each in log_s:
            log_own = log_weight + each.gather(-1, at)
            total = torch.logaddexp(log_own, log_false) if self.false_rate else log_own
            parts.append(total[..., 0].masked_fill(unlogged, 0.0).sum(-1))
            if grad:
                # 0 for impossible outcomes, which have no weight in the gradient.
                derivative = torch.nan_to_num((log_own - total).exp()) * _residual(each, chosen)
                if self.false_rate:
                    derivative = derivative + torch.nan_to_num((log_false - total).exp()) * false
                derivative = derivative.masked_fill(unlogged[..., None], 0.0)
                derivatives.append(derivative[..., 1:].flatten(-2))
        return torch.stack(parts), tuple(derivatives) if grad else None

    def log_passive(self, u, y):
        """Return log P(no outcome that shows r* | r*, y).

        If y is not logged, it is (1 - s e) S_c(silent or None) + e [the other preference can be
        shown].
        """
        u = full_precision(u).unflatten(-1, (y.shape[-1], self.n_outputs))
        *log_s, log_t = self._softmaxes(u)
        log_weight, log_e = (float(w) for w in self._log_weights)
        mute = [0, *(1 + np.flatnonzero(~self._showing))]
        seen, unlogged = self.seen(y), self._unlogged(y)
        passive = []
        for c in (0, 1):
            shown = c if c in self.shows else 1 - c
            log_not = log_weight + torch.logsumexp(log_s[shown][..., mute], -1)
            if 1 - shown in self.shows and self.false_rate:
                log_not = torch.logaddexp(log_not, log_not.new_tensor(log_e))
            if c == shown:
                log_not = log_not.masked_fill(~unlogged, 0.0).masked_fill(seen[c], -torch.inf)
            passive.append(log_not.sum(-1))
        return torch.stack(passive)

    def log_shown(self, u):
        """Return log P(outcome | r*, x) of the outcomes that show a preference, and which."""
        u = full_precision(u).unflatten(-1, (-1, self.n_outputs))
        *log_s, log_t = self._softmaxes(u)
        log_weight, log_e = (float(w) for w in self._log_weights)
        showing = 1 + np.flatnonzero(self._showing)
        log_prob = [
            torch.logaddexp(log_weight + each, log_e + log_t)[..., showing].flatten(-2)
            for each in log_s
        ]
        shows = torch.as_tensor(self._preference[self._showing], device=u.device)
        return torch.stack(log_prob), shows.repeat(u.shape[-2])

    def initial_logits(self, y, weight, reward, acted):
        """Return the logits at which S_c equals the shares of the outcomes in the log."""
        counts = np.bincount(
            np.nan_to_num(y).astype(int),
            weights=np.where(np.isnan(y), 0.0, weight),
            minlength=len(self.outcomes) + 1,
        )
        share = (counts[1:] + 1) / (counts.sum() + 2)
        reward = np.atleast_1d(reward)
        prior = np.stack([1 - reward, reward]).reshape(2, -1)
        preference, e = self._preference, self.false_rate
        share = np.where(self._showing, share - e, share)
        share = np.clip(share / (1 - len(self.shows) * e), 1e-3, None)
        # S_c(j) = share / P(r*=c); the share itself if j does not show a preference.
        own = share[:, None] / np.where(self._showing[:, None], prior[preference], 1.0)
        if len(self.outcomes) == len(self.shows):
            return initial_logit(own).T.reshape(*reward.shape[:-1], -1)
        rest = np.stack(
            [1 - own[(preference == c) | (preference == -1)].sum(axis=0) for c in (0, 1)]
        ).clip(0.01)
        silent = np.where(self._showing[:, None], rest[preference], rest.mean(axis=0))
        return np.log(own.clip(0.01, 0.99) / silent).T.reshape(*reward.shape[:-1], -1)


def _residual(log_softmax, chosen):
    """Return [chosen] - softmax; 1 - softmax as the sum of the others, which is never 0."""
    p = log_softmax.exp()
    others = p.masked_fill(chosen, 0.0).sum(-1, keepdim=True)
    return torch.where(chosen, others, -p)
