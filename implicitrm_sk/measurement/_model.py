"""The likelihood of all signals together: two classes, four groups, one gradient.

For features x of a response, R = P(r*=1 | x) is the reward, r* being 1 if the user prefers the
response. Each signal k depends on r*:

``P(y | x) = R prod_k P(y_k | r*=1, x) + (1 - R) prod_k P(y_k | r*=0, x)``

over the logged k. With one positive action and the false-action rate e = 0, this is the model of
ImplicitRM (Wang et al. 2026, arXiv 2603.23184). Its printed Eq. 6 swaps the groups NA and PP and is
not used. With `examined`, a row was looked at only with probability v(x), see `_examined`.

The methods share these arguments:

- ``reward_logit``, f, shape (..., m): one per response; m = n unless rows share a response;
- ``propensity_logit``, u, shape (..., n, P): for the signals, in the order of their outputs; with
  `examined`, one more at the end, the logit of v;
- ``actions``, y, shape (n, K), NaN where a signal was not logged, which drops it from the product;
- ``false_action_rate``, e, shape (K,) or (..., 1, K): one per column of y, None if all are 0;
- ``exposures``, shape (n, K): how often a response was shown; y then counts actions, 0 to
  exposures. Likelihoods are those of the sequence, without the binomial coefficient;
- ``response``, shape (n,): rows with the same integer, 0 to m - 1, share one r*, like a response
  shown repeatedly. The products then also run over the rows of a response;
- ``propensity``, shape (n, K): P(y_k=1 | the r* that k shows) where it is known, NaN elsewhere;
- ``age`` and ``delay``, shape (n, K): the time since the row was shown, and the time until a late
  action, NaN if not known;
- ``labels``, shape (m,): r* itself (0 or 1), or a graded label q in (0, 1) that replaces the
  posterior of r*; NaN if unknown.

Half-precision logits are converted to float32.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch.nn.functional import logsigmoid

from ._action import Action, action_log_probs
from ._examined import examined
from ._signal import Signal, full_precision, log1mexp, per_response, times

#: The four latent groups (r*, a), in the order of every last dimension of length 4.
GROUP_NAMES = ("PA", "NA", "PP", "NP")


@dataclass(frozen=True)
class Block:
    """A signal, with its columns of y and its outputs of the propensity head."""

    signal: Signal
    columns: tuple
    outputs: tuple


def _take(values, positions):
    """Return some entries of the last dimension, as a slice if they are adjacent."""
    if values is None:
        return None
    first, last = positions[0], positions[-1]
    if positions == tuple(range(first, last + 1)):
        return values[..., first : last + 1]
    return values[..., list(positions)]


class Measurement:
    """The model of how the preference shows in the signals of a log.

    Parameters
    ----------
    signals : sequence of Signal
        One per column of y. Columns with equal signals are computed as one block.
    examined : bool, default=False
        Whether rows that nobody looked at are modelled.

    Attributes
    ----------
    n_outputs : int
        Number of logits of the signals, without the logit of v.
    """

    def __init__(self, signals, examined=False):
        self.signals = tuple(signals)
        self.examined = examined
        by_signal, ends = {}, [0]
        for column, signal in enumerate(self.signals):
            by_signal.setdefault(signal, []).append(column)
            ends.append(ends[-1] + signal.n_outputs)
        self.n_outputs = ends[-1]
        self.blocks = tuple(
            Block(
                signal,
                tuple(columns),
                tuple(output for c in columns for output in range(ends[c], ends[c + 1])),
            )
            for signal, columns in by_signal.items()
        )

    @classmethod
    def of_actions(cls, n_signals):
        """Return the measurement of `n_signals` positive actions."""
        return cls([Action()] * n_signals)

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.signals == other.signals
            and self.examined == other.examined
        )

    def __hash__(self):
        return hash((self.signals, self.examined))

    def of_members(self, positions):
        """Return the measurement of some of the members, which is this one for all."""
        return self

    def shows(self, preference):
        """Return whether some signal can show this preference, 0 or 1."""
        return any(preference in block.signal.shows for block in self.blocks)

    def loads(self):
        """Return the loading of each logit: one per column of y, and one for looking."""
        outputs = [k for k, signal in enumerate(self.signals) for _ in range(signal.n_outputs)]
        return (*outputs, len(self.signals)) if self.examined else tuple(outputs)

    def shared_logits(self):
        """Return the positions of logits that all rows share, or None."""
        shared, end = [], 0
        for signal in self.signals:
            end += signal.n_outputs
            shared += range(end - signal.n_shared, end)
        return tuple(shared) or None

    def own_logits(self):
        """Return the positions of logits that each row has for itself, as a list."""
        return sorted(set(range(self.n_outputs)) - set(self.shared_logits() or ()))

    @property
    def estimated_rates(self):
        """Which columns have a false-action rate that can be estimated, bool of shape (K,)."""
        return torch.tensor(["rate" in s.takes and s.false_rate is None for s in self.signals])

    def _side(self, block, false_action_rate=None, **side):
        """Return the arguments of a signal other than u and y, for its own columns."""
        given = {"rate": false_action_rate} | side
        return {
            name: _take(value, block.columns)
            for name, value in given.items()
            if name in block.signal.takes
        }

    # ------------------------------------------------------------------ likelihood

    def log_joint(
        self,
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate=None,
        *,
        response=None,
        **side,
    ):
        """Return log P(r*, y | x), shape (2, ..., m), r*=0 first.

        `side` contains `exposures`, `propensity`, `age` and `delay`.
        """
        joint, *_ = self._log_joint(
            full_precision(reward_logit),
            propensity_logit,
            actions,
            response,
            {"false_action_rate": false_action_rate} | side,
        )
        return joint

    def _log_joint(self, f, u, actions, response, side, grad=False):
        rows, looked, derivatives = self._rows(u, actions, side, grad)
        prior = torch.stack([logsigmoid(-f), logsigmoid(f)])
        return prior + per_response(rows, response, f.shape[-1]), looked, derivatives

    def _rows(self, u, actions, side, grad=False):
        """Return log P(y | r*, x) of rows, who looked at them, and derivatives by block.

        Who looked is None, or the pair of log-probabilities of `examined`. The derivatives hold for
        rows that were looked at.
        """
        rows, derivatives = None, []
        for block in self.blocks:
            part, derivative = self._terms(block, u, actions, grad, side)
            rows = part if rows is None else rows + part
            derivatives.append(derivative)
        if not self.examined:
            return rows, None, derivatives
        rows, *looked = examined(rows, self._examination_logit(u), self._silent(actions))
        return rows, looked, derivatives

    def _terms(self, block, u, actions, grad, side):
        """Return log P(y | r*, x) of the signals of a block, and its derivative."""
        return block.signal.terms(
            _take(u, block.outputs),
            _take(actions, block.columns),
            grad,
            **self._side(block, **side),
        )

    def _examination_logit(self, u):
        return full_precision(u[..., -1])

    def _silent(self, actions):
        silence = actions.new_tensor([signal.silence for signal in self.signals])
        return (torch.isnan(actions) | (actions == silence)).all(-1)

    def log_rows(self, propensity_logit, actions, false_action_rate=None, **side):
        """Return log P(y | r*, x) of single rows, shape (2, ..., n), r*=0 first."""
        side = {"false_action_rate": false_action_rate} | side
        return self._rows(propensity_logit, actions, side)[0]

    def log_likelihood(
        self,
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate=None,
        *,
        labels=None,
        **log,
    ):
        """Return log P(y | x), or log P(y, r* | x) if r* is known, shape (..., m).

        It is summed over the logged signals of a response, and is 0 if nothing is logged. A graded
        label q gives q log P(y, r*=1 | x) + (1 - q) log P(y, r*=0 | x). Its gradient is that of
        generalised EM with q instead of the posterior of r*.
        """
        joint = self.log_joint(reward_logit, propensity_logit, actions, false_action_rate, **log)
        return labelled(joint, labels)

    def nll(
        self,
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate=None,
        *,
        response=None,
        labels=None,
        **side,
    ):
        """Return minus `log_likelihood`, differentiable once in both logits.

        Its closed-form gradient costs a fraction of autograd's. With q = P(r*=1 | y) or the label,
        d/df = R - q and d/du = -sum_c P(r*=c | y) d log P(y | c) / du. If rows may not have been
        looked at, P(r*=c, looked at | y) replaces P(r*=c | y), and the derivative in the logit of v
        is v - P(looked at | y). This is the gradient of E_pref + E_prop of ImplicitRM with the
        posteriors held fixed (generalised EM; Dempster, Laird & Rubin 1977).
        """
        side = {"false_action_rate": false_action_rate} | side
        return _NLL.apply(reward_logit, propensity_logit, self, actions, response, labels, side)

    # ------------------------------------------------------------------ groups

    def group_log_joint(
        self,
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate=None,
        *,
        response=None,
        **side,
    ):
        """Return log P(group, y | x) of the four groups, shape (..., n, 4).

        "Active" means that a signal that shows the row's own r* would fire in at least one exposure
        of the row, logged or not. This is a positive signal if r*=1, and a negative
        one if r*=0. If no signal shows r*=0, it means that a positive signal would fire if the
        response were preferred. This is independent of r* (and likewise for r*=1). For rows that
        share a response, y is that of all of them, but the activity is that of the row. A row that
        nobody looked at is passive.
        """
        given = {"false_action_rate": false_action_rate} | side
        f = full_precision(reward_logit)
        joint, looked, _ = self._log_joint(f, propensity_logit, actions, response, given)
        if response is not None:
            joint = joint[..., response]
        passive = [0.0, 0.0]
        for block in self.blocks:
            part = block.signal.log_passive(
                _take(propensity_logit, block.outputs),
                _take(actions, block.columns),
                **self._side(block, false_action_rate, **side),
            )
            for preference in (0, 1):
                if preference in block.signal.shows or not self.shows(preference):
                    passive[preference] = passive[preference] + part[preference]
        if looked is not None:
            passive = [
                torch.logaddexp(unseen, seen + part).clamp_max(0.0)
                for seen, unseen, part in zip(*looked, passive, strict=True)
            ]
        no, yes = joint
        return torch.stack(
            [
                yes + log1mexp(passive[1]),
                no + log1mexp(passive[0]),
                yes + passive[1],
                no + passive[0],
            ],
            dim=-1,
        )

    def posterior(self, reward_logit, propensity_logit, actions, false_action_rate=None, **log):
        """Return the stratification posterior P(group | y, x), shape (..., n, 4), summing to 1.

        With one positive action and e = 0, y = 1 gives PA = 1. Then y = 0 gives NA, PP, NP in
        proportion to (1-R)A, R(1-A), (1-R)(1-A) (ImplicitRM, Table 1 and appendix).
        """
        return torch.softmax(
            self.group_log_joint(reward_logit, propensity_logit, actions, false_action_rate, **log),
            dim=-1,
        )

    # ------------------------------------------------------------------ what the signals show

    def shown(self, actions, preference):
        """Return how often each column of y showed a preference, shape (n, K)."""
        parts = []
        for signal, y in zip(self.signals, actions.unbind(-1), strict=True):
            times_shown = y if "exposures" in signal.takes else torch.ones_like(y)
            parts.append(torch.where(signal.seen(y)[preference], times_shown, 0.0))
        return torch.stack(parts, -1)

    def log_shown(self, propensity_logit, false_action_rate=None):
        """Return log P(shown j | r*, x), shape (2, ..., n, D), and the preference each shows, (D,).

        The order is that of the columns of y; all rows count, looked at or not. For kinds with a
        preference `given`, that preference replaces the one that each shows.
        """
        log_prob, shows, column = self._log_shown(propensity_logit, false_action_rate)
        for k, signal in enumerate(self.signals):
            if signal.given is not None:
                shows = shows.masked_fill((column == k).to(shows.device), signal.given)
        if self.examined:
            log_prob = log_prob + self.log_examined(propensity_logit)[..., None]
        return log_prob, shows

    def log_examined(self, propensity_logit):
        """Return log v, that a row was looked at, shape (..., n); 0 if all rows were."""
        if self.examined:
            return logsigmoid(self._examination_logit(propensity_logit))
        return full_precision(propensity_logit).new_zeros(propensity_logit.shape[:-1])

    def log_acts(self, propensity_logit, false_action_rate=None):
        """Return log P(act | r*, x), (2, ..., n, K'), the preference each shows, and if it bounds.

        An act means that a column shows a preference, by any outcome. It holds for rows that were
        looked at.
        """
        log_prob, shows, column = self._log_shown(propensity_logit, false_action_rate)
        acts = [(k, c) for k, signal in enumerate(self.signals) for c in signal.shows]
        mine = [(column == k) & (shows == c) for k, c in acts]
        return (
            torch.stack([torch.logsumexp(log_prob[..., which], -1) for which in mine], -1),
            torch.tensor([c for _, c in acts]),
            torch.tensor([self.signals[k].bounds for k, _ in acts]),
        )

    def _log_shown(self, propensity_logit, false_action_rate):
        parts, shows, places = [], [], []
        for block in self.blocks:
            rate = {"rate": _take(false_action_rate, block.columns)}
            rate = rate if "rate" in block.signal.takes else {}
            log_prob, which = block.signal.log_shown(_take(propensity_logit, block.outputs), **rate)
            parts.append(log_prob)
            shows.append(which)
            per_column = log_prob.shape[-1] // len(block.columns)
            places += [column for column in block.columns for _ in range(per_column)]
        if len(parts) == 1:
            return parts[0], shows[0], torch.tensor(places)
        order = sorted(range(len(places)), key=places.__getitem__)
        column = torch.tensor(places)[order]
        return torch.cat(parts, -1)[..., order], torch.cat(shows)[order], column

    def false_action_counts(
        self,
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate,
        *,
        labels=None,
        **log,
    ):
        """Return the expected false actions of each signal given y, and their opportunities.

        Their ratio is the M-step of e_k: sum P(r* /= target | y) y_k / sum P(r* /= target | y) over
        the logged k (EM; Dempster, Laird & Rubin 1977).

        Returns
        -------
        false_actions, opportunities : Tensors of shape (..., n, K)
            Opportunities are the exposures of responses whose preference the action does not show.
        """
        response = log.pop("response", None)
        side = {"false_action_rate": false_action_rate} | log
        f = full_precision(reward_logit)
        joint, looked, _ = self._log_joint(f, propensity_logit, actions, response, side)
        q = class_posterior(joint, labels)
        q = q if response is None else q[..., response]
        if looked is not None:
            # Without anyone looking there was no opportunity.
            q = q * looked[0].exp()
        # 0 for kinds without such rates.
        contrary = torch.tensor(
            [[s.target == c if "rate" in s.takes else 0 for s in self.signals] for c in (1, 0)],
            dtype=q.dtype,
            device=q.device,
        )
        other = q[0][..., None] * contrary[0] + q[1][..., None] * contrary[1]
        acted, not_acted = torch.zeros_like(other), torch.zeros_like(other)
        for block in self.blocks:
            if "rate" in block.signal.takes:
                mine = list(block.columns)
                acted[..., mine], not_acted[..., mine] = block.signal.false_counts(
                    _take(propensity_logit, block.outputs),
                    _take(actions, block.columns),
                    _take(false_action_rate, block.columns),
                    _take(log.get("exposures"), block.columns),
                )
        return other * acted, other * (acted + not_acted)

    def propensity_risk(self, propensity_logit, target, false_action_rate=None):
        """Return the cross-entropy of A_k against known propensities, summed over k, (..., n).

        Parameters
        ----------
        propensity_logit : Tensor of shape (..., n, K)
            Logits of actions.
        target : Tensor of shape (n, K)
            NaN entries are left out.
        false_action_rate : Tensor of shape (K,) or (..., 1, K), or None
        """
        total = 0.0
        for block in self.blocks:
            if "propensity" not in block.signal.takes:
                continue
            logit, _ = block.signal.logits(_take(propensity_logit, block.outputs))
            log_a, log_not_a = action_log_probs(logit, _take(false_action_rate, block.columns))
            mine = _take(target, block.columns)
            # 0 * log 0 is 0, which an infinite logit (propensity 1) needs.
            least = torch.finfo(log_a.dtype).min
            t = torch.nan_to_num(mine)
            entropy = -(t * log_a.clamp_min(least) + (1 - t) * log_not_a.clamp_min(least))
            total = total + entropy.masked_fill(torch.isnan(mine), 0.0).sum(-1)
        return total

    def propensities(self, propensity_logit, false_action_rate, propensity, n_rows):
        """Return A_k of actions, known or not, and NaN for other kinds, shape (..., n, K)."""
        found = full_precision(propensity_logit).new_full(
            (*propensity_logit.shape[:-2], n_rows, len(self.signals)), torch.nan
        )
        for block in self.blocks:
            if "propensity" in block.signal.takes:
                logit, _ = block.signal.logits(_take(propensity_logit, block.outputs))
                log_a, _ = action_log_probs(
                    logit,
                    _take(false_action_rate, block.columns),
                    _take(propensity, block.columns),
                )
                found[..., list(block.columns)] = log_a.exp()
        return found


def mean_delays(model, measurement):
    """Return the mean delay of each signal, averaged over the members; NaN if not late."""
    late = [k for k, signal in enumerate(measurement.signals) if "age" in signal.takes]
    return _of_shared(model, measurement, late, lambda log_rate: (-log_rate).exp())


def exposure_correlations(model, measurement):
    """Return the correlation of exposures of each signal, averaged over the members, else NaN."""
    dispersed = [k for k, signal in enumerate(measurement.signals) if is_dispersed(signal)]
    return _of_shared(model, measurement, dispersed, torch.sigmoid)


def is_dispersed(signal):
    """Return whether a signal is an action whose exposures are correlated."""
    return isinstance(signal, Action) and signal.is_dispersed


def _of_shared(model, measurement, columns, function):
    """Return a function of the one logit that all rows of a column share, NaN for others."""
    found = torch.full((len(measurement.signals),), torch.nan, dtype=torch.float64)
    owners = [k for k, signal in enumerate(measurement.signals) for _ in range(signal.n_shared)]
    if columns:
        shared = model.shared().detach().to("cpu", torch.float64)[:, 0]
        mine = torch.tensor([owner in columns for owner in owners])
        found[columns] = function(shared[:, mine]).mean(0)
    return found.numpy()


def class_posterior(joint, labels):
    """Return P(r* | y, x), shape (2, ..., m), with labels in its place where they are known."""
    q = torch.softmax(joint, dim=0)
    if labels is None:
        return q
    label = labels.to(q)
    known = torch.stack([1 - label, label])
    return torch.stack(
        [torch.where(torch.isnan(label), q[c], known[c].expand_as(q[c])) for c in (0, 1)]
    )


def labelled(joint, labels):
    """Return log P(y | x) from log P(r*, y | x), or log P(y, r* | x) where r* has a label."""
    total = torch.logaddexp(joint[1], joint[0])
    if labels is None:
        return total
    q = torch.nan_to_num(labels)
    labelled = times(q, joint[1]) + times(1 - q, joint[0])
    return torch.where(torch.isnan(labels), total, labelled)


def _mean_derivative(weight, derivative):
    """Return minus the mean of the derivatives given r*, 0 if there are none."""
    parts = [-weight[c] * part for c, part in enumerate(derivative) if part is not None]
    return reduce(torch.add, parts) if parts else 0.0


class _NLL(torch.autograd.Function):
    """`Measurement.nll`."""

    @staticmethod
    def forward(ctx, reward_logit, propensity_logit, measurement, actions, response, label, side):
        f, u = full_precision(reward_logit), full_precision(propensity_logit)
        joint, looked, derivatives = measurement._log_joint(f, u, actions, response, side, True)
        q = class_posterior(joint, label)
        rows = (q if response is None else q[..., response])[..., None]
        if looked is not None:
            rows = rows * looked[0].exp()[..., None]
        blocks = measurement.blocks
        parts = [_mean_derivative(rows, derivative) for derivative in derivatives]
        if len(blocks) == 1 and looked is None:
            grad_u = parts[0]
        else:
            grad_u = torch.empty_like(u)
            for block, part in zip(blocks, parts, strict=True):
                grad_u[..., list(block.outputs)] = part
        if looked is not None:
            grad_u[..., -1] = torch.sigmoid(u[..., -1]) - rows[..., 0].sum(0)
        ctx.save_for_backward(torch.sigmoid(f) - q[1], grad_u, response)
        ctx.dtypes = reward_logit.dtype, propensity_logit.dtype
        return -labelled(joint, label)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad_f, grad_u, response = ctx.saved_tensors
        f_dtype, u_dtype = ctx.dtypes
        rows = (grad if response is None else grad[..., response])[..., None]
        return (grad * grad_f).to(f_dtype), (rows * grad_u).to(u_dtype), *[None] * 5
