"""Fits with users who differ in activity: two models side by side, and what is known of users."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._device import INFERENCE_ROWS
from ._sources import chunks
from .exceptions import ImplicitRMError
from .measurement import _mixture
from .measurement._audience import Audience
from .training._data import member_logits
from .training._plan import Hooks
from .training._users import moments, posterior, quadrature

HEADS = ("reward_logit", "propensity_logit")
#: Passes over the rows of a fit in which users who share responses find their weights.
SWEEPS = 4
#: From how many standard errors on `covariation` shows that users differ.
DIFFERENT = 2.0


@dataclass(frozen=True, eq=False)
class UserActivity:
    """The activity of each user, as a fit learned it, in standard deviations of users.

    Attributes
    ----------
    user_id : ndarray of shape (users,)
        The ids passed to `fit`, without rows that lack an id.
    mean, sd : ndarray of shape (users,)
        Mean and sd of the activity b_u of user u, given all rows of the user. In the population
        they are 0 and 1.
    n_rows : ndarray of int of shape (users,)
        Number of rows of the user.
    log_weight : ndarray of float32 of shape (users, members, nodes)
        Log-weights of a user over the quadrature nodes of each member.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X, user = rng.normal(size=(2000, 2)), np.arange(2000) % 20
    >>> ready = np.where(user < 10, 0.9, 0.1)  # half of the users act readily
    >>> y = ((X[:, 0] > 0) & (rng.random(2000) < ready)).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
    >>> activity = est.fit(X, y, user_id=user).user_activity_
    >>> bool(activity.mean[:10].min() > activity.mean[10:].max())
    True
    """

    user_id: NDArray[Any]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    n_rows: NDArray[np.int64]
    log_weight: NDArray[np.float32]

    def codes(self, user_id: NDArray[Any]) -> NDArray[np.int64]:
        """Return the position of each user in `user_id`, -1 for unknown users.

        Parameters
        ----------
        user_id : ndarray of shape (n,)
            Ids as `fit` gets them.

        Returns
        -------
        codes : ndarray of int of shape (n,)
            Positions.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk._activity import UserActivity
        >>> known = UserActivity(np.array(["b", "a"]), *[np.zeros(2)] * 3, np.zeros((2, 1, 1)))
        >>> known.codes(np.array(["a", "b", "c"]))
        array([ 1,  0, -1])
        """
        known = {user: code for code, user in enumerate(self.user_id.tolist())}
        return np.array([known.get(user, -1) for user in user_id.tolist()], dtype=np.int64)


@dataclass(eq=False)
class Rows:
    """Log-likelihoods of the rows of a fit by user.

    Attributes
    ----------
    train, valid : Tensor of shape (users, members, nodes)
        Sums over the rows of a user, those that train and those that validate.
    """

    train: torch.Tensor
    valid: torch.Tensor


@dataclass(frozen=True, eq=False)
class Shown:
    """Responses that several users saw, with logits at the nodes of each user's activity.

    Attributes
    ----------
    measurement : Measurement
    reward_logit : Tensor of shape (members, m)
    propensity_logit : Tensor of shape (members, n, P)
    response : ndarray of int of shape (n,)
    fields : dict of str to Tensor or None
        Actions, exposures and all else that the likelihood needs, by row.
    rate : Tensor of shape (K,) or None
        False-action rates.
    labels : ndarray of shape (m,) or None
    loading : Tensor of shape (members, 1, P)
    nodes : Tensor of shape (Q,)
    """

    measurement: Any
    reward_logit: torch.Tensor
    propensity_logit: torch.Tensor
    response: NDArray[np.int64]
    fields: dict[str, Any]
    rate: torch.Tensor | None
    labels: NDArray[np.float64] | None
    loading: torch.Tensor
    nodes: torch.Tensor

    @classmethod
    def of(cls, measurement, logits, log, rate, model, labels=None):
        """Return those of a log; `logits` are those of its rows, (members, n) and with P."""
        f, u = logits
        fields = {k: v for k, v in log.tensors().items() if k not in ("response", "propensity")}
        nodes, loading = torch.zeros(1, dtype=torch.float64), u.new_zeros(len(u), 1, u.shape[-1])
        if model.log_loading is not None:
            nodes, _ = quadrature()
            loading = model.loading().detach().to("cpu", torch.float64)
        f = f[:, log.first] if f.shape[1] > log.n_responses else f
        return cls(measurement, f, u, log.response, fields, rate, labels, loading, nodes)

    def parts(self, kept=None):
        """Yield rows, responses, the response of each row among them, and logits of the rows.

        Parameters
        ----------
        kept : ndarray of bool of shape (m,), default=None
            The responses to take; None: all.
        """
        n_rows = np.bincount(self.response)
        order = np.argsort(self.response, kind="stable")
        first = np.cumsum(n_rows) - n_rows
        responses = np.arange(len(n_rows)) if kept is None else np.flatnonzero(kept)
        part_of = np.cumsum(n_rows[responses]) // (INFERENCE_ROWS // 4)
        for chosen in np.split(responses, np.flatnonzero(np.diff(part_of)) + 1):
            local = np.repeat(np.arange(len(chosen)), n_rows[chosen])
            start = np.cumsum(n_rows[chosen]) - n_rows[chosen]
            rows = order[np.arange(len(local)) + (first[chosen] - start)[local]]
            u = self.propensity_logit[:, rows]
            u = u + self.nodes[:, None, None, None] * self.loading
            yield rows, chosen, torch.as_tensor(local), u

    def log_rows(self, rows, u):
        """Return log P(row | r*, node) of some rows, (2, Q, members, n)."""
        return self.measurement.log_rows(u, false_action_rate=self.rate, **self.of_rows(rows))

    def of_rows(self, rows):
        """Return `fields` of some rows."""
        return {k: None if v is None else v[rows] for k, v in self.fields.items()}

    def audience(self, rows, responses, local, u, log_weight, own=False):
        """Return the `Audience` of a part, given the log-weights of the users of its rows."""
        labels = None if self.labels is None else torch.as_tensor(self.labels[responses])
        f = self.reward_logit[:, responses]
        return Audience.of(self.log_rows(rows, u), f, log_weight, local, labels, own=own)

    def messages(self, user, weight, log_weight, own=False):
        """Return the sums of the messages of rows by user, of shape (users, members, Q).

        Parameters
        ----------
        user : ndarray of int of shape (n,)
        weight : ndarray of shape (m,)
            Weights of the responses, 0 for those to leave out.
        log_weight : Tensor of shape (users, members, Q)
            Log-weights of the users over the nodes.
        own : bool, default=False
            Whether the weights contain these rows.
        """
        total = torch.zeros_like(log_weight)
        for rows, responses, local, u in self.parts(weight > 0):
            mine = torch.as_tensor(user[rows])
            of_users = log_weight[mine].permute(2, 1, 0)
            seen = self.audience(rows, responses, local, u, of_users, own)
            shares = seen.shares(local) * torch.as_tensor(weight[responses])[local]
            total.index_add_(0, mine, shares.permute(2, 1, 0))
        return total


def _rows_of_shown(shown, log, weight, is_train, is_valid):
    """Return `Rows` of responses that several users saw."""
    log_prior = quadrature()[1] if len(shown.nodes) > 1 else torch.zeros(1, dtype=torch.float64)
    shape = log.n_users, len(shown.loading), len(log_prior)
    log_weight = log_prior.expand(shape)
    for sweep in range(SWEEPS if len(log_prior) > 1 else 1):
        train = shown.messages(log.user, weight * is_train, log_weight, own=sweep > 0)
        log_weight = posterior(train, log_prior)
    return Rows(train, shown.messages(log.user, weight * is_valid, log_weight))


def rows_by_user(model, plan, data, logits=None):
    """Return `Rows` of a model; without activity there is one node.

    Parameters
    ----------
    model : RewardModel
    plan : FitPlan
    data : TrainingData
    logits : callable(X) -> (Tensor, Tensor), default=None
        Returns the logits of the members for some rows of `data.X`; None: X are vectors.
    """
    if logits is None:

        def logits(X):
            return member_logits(model, X, data.scaler, HEADS, plan.dtype)

    log, nodes = data.log, torch.zeros(1, dtype=torch.float64)
    rate = plan.assumptions.model_rates(plan.objective)
    weight = data.balanced_weights()
    parts = [np.zeros(log.n_responses, dtype=bool) for _ in range(2)]
    parts[0][data.train] = parts[1][data.valid] = True
    if log.response is not None:
        shown = Shown.of(plan.measurement, logits(data.X), log, rate, model, log.labels)
        return _rows_of_shown(shown, log, weight, *parts)
    loading = torch.zeros(model.config["n_members"], 1, 1, dtype=torch.float64)
    if model.log_loading is not None:
        nodes, _ = quadrature()
        loading = model.loading().detach().to("cpu", torch.float64)
    shape = log.n_users, model.config["n_members"], len(nodes)
    found = [torch.zeros(shape, dtype=torch.float64) for _ in parts]
    fields = log.tensors() | {"labels": None if log.labels is None else torch.as_tensor(log.labels)}
    # Node by node: at all of them a chunk of rows is 15 times as large.
    for start, chunk in chunks(data.X, INFERENCE_ROWS // 2):
        rows = slice(start, start + len(chunk))
        f, u = logits(chunk)
        part = {k: None if v is None else v[rows] for k, v in fields.items()}
        for q, node in enumerate(nodes):
            values = plan.measurement.log_likelihood(
                f, u + node * loading, false_action_rate=rate, **part
            )
            for is_part, messages in zip(parts, found, strict=True):
                w = torch.as_tensor(np.where(is_part[rows], weight[rows], 0.0))
                user = torch.as_tensor(log.user[rows])
                kept = torch.where(w > 0, values * w, 0.0).T
                messages[..., q].index_add_(0, user, kept)
    return Rows(*found)


def held_out(rows):
    """Return log P(rows of a user that validate | those that train), of shape (users, members)."""
    if rows.train.shape[-1] == 1:
        return rows.valid[..., 0]
    prior = posterior(rows.train, quadrature()[1])
    return torch.logsumexp(prior + rows.valid, -1)


def is_better(activity, plain):
    """Return whether the model with activity predicts users better than the model without.

    The gain must exceed one standard error of the paired differences between users, with the
    validation rows of each user taken together.

    Parameters
    ----------
    activity, plain : Tensor of shape (users,)
    """
    gain = activity - plain
    error = torch.sqrt(((gain - gain.mean()) ** 2).sum())
    return bool(gain.sum() > error)


def covariation(model, plan, data):
    """Return by how many standard errors the actions of a user vary together, (members,).

    The score test of equal users [1]_. Each row has the derivative of log P(y | x) by a shift of
    its propensity logits, in a model without activity. If users are equally active, its mean is 0,
    and rows of different responses are independent. The test adds up the products of all pairs of
    such rows of a user, which are then uncorrelated. It uses every row of the fit, and so sees much
    smaller differences than the likelihood of the rows that validate does.

    Parameters
    ----------
    model : RewardModel
        Without activity.
    plan : FitPlan
    data : TrainingData

    References
    ----------
    .. [1] Commenges & Jacqmin-Gadda, "Generalized score test of homogeneity based on correlated
       random effects models", Journal of the Royal Statistical Society B 59 (1), 1997.
    """
    log = data.log
    weight, response = data.balanced_weights(), np.arange(len(log.user))
    if log.response is None:
        parts = chunks(data.X, INFERENCE_ROWS // 2)
        score = torch.cat([_shift_score(model, plan, data, *part) for part in parts], 1)
    else:
        weight, response = weight[log.response], log.response
        score = _shift_score(model, plan, data, 0, data.X)
    score = np.where(weight > 0, weight * score.numpy(), 0.0)
    score -= weight * (score.sum(1, keepdims=True) / weight.sum())
    code = log.user.astype(np.int64) * (1 + response.max()) + response
    _, first, cell = np.unique(code, return_index=True, return_inverse=True)
    pairs, variance = np.empty(len(score)), np.empty(len(score))
    for k, one in enumerate(score):
        of_cell = np.bincount(cell, one)
        total, own, fourth = (
            np.bincount(log.user[first], of_cell**power, log.n_users) for power in (1, 2, 4)
        )
        pairs[k] = (total**2 - own).sum()
        variance[k] = 2 * (own**2 - fourth).sum()
    return np.divide(pairs, np.sqrt(variance), out=np.zeros(len(pairs)), where=variance > 0)


def _shift_score(model, plan, data, start, X):
    """Return d log P(y | x) / d shift of the propensity logits of rows, (members, n)."""
    log, measurement = data.log, plan.measurement
    f, u = member_logits(model, X, data.scaler, HEADS, plan.dtype)
    fields = log.tensors() | {"labels": None if log.labels is None else torch.as_tensor(log.labels)}
    if log.response is None:
        rows = slice(start, start + len(X))
        fields = {name: None if value is None else value[rows] for name, value in fields.items()}
    elif f.shape[1] > log.n_responses:
        f = f[:, log.first]
    f, u = f.clone(), u.clone().requires_grad_()  # inference tensors before
    rate = plan.assumptions.model_rates(plan.objective)
    with torch.enable_grad():
        nll = measurement.nll(f, u, false_action_rate=rate, **fields)
    (gradient,) = torch.autograd.grad(nll.sum(), u)
    gradient[..., list(measurement.shared_logits() or ())] = 0.0
    return -gradient.sum(-1)


def fit_users(est, begun, epochs, hooks):
    """Fit one model without activity and one with it; keep one, and the activity of the users.

    The second is fitted only if the actions of users vary together (`covariation`). It is kept only
    if it predicts users better (`is_better`).

    The starts of the second may lead to different optima, which `member_log_weight` weighs. If the
    plan gives the starts, each member is kept, to be compared with the others.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        Whose `model_` are the heads at the start of the first of the two.
    begun : BegunFit
    epochs : int
    hooks : Hooks
        Hooks of the second fit.

    Returns
    -------
    result : FitResult
        The result of the model that is kept.
    """
    if hooks.checkpoint is not None:
        raise ImplicitRMError(
            "a Checkpoint is not available with user_id: two models are fitted, and it does not "
            "hold the weights of users. Leave one of the two out."
        )
    plan, data, random_state = begun.plan, begun.data, begun.random_state
    history: list[dict[str, Any]] = []
    # Copies, since a fit forgets the log.
    quiet = Hooks(epoch_end=history.append)
    plain = plan.run(copy.copy(data), est.model_, epochs, random_state, hooks=quiet)
    if covariation(plain.model, plan, data).mean() < DIFFERENT:
        return _without_activity(est, plan, data.log, plain, history)
    plan = replace(plan, n_users=data.log.n_users)
    est.model_ = plan.initial_model(data, random_state)
    active = plan.run(copy.copy(data), est.model_, epochs, random_state, hooks=hooks)
    rows = rows_by_user(active.model, plan, data)
    if len(data.valid):
        values = held_out(rows)
        log_weight = member_log_weight(values)
        without = held_out(rows_by_user(plain.model, plan, data))
        # Both choose among their members, which is worth something by chance.
        mixed = [torch.logsumexp(part + member_log_weight(part), -1) for part in (values, without)]
        if not is_better(*mixed):
            return _without_activity(est, plan, data.log, plain, history)
        if plan.starts is None:
            member = slots(log_weight.exp().numpy())
            est.model_ = active.model.like(plan.n_members)
            index = torch.as_tensor(member, device=next(est.model_.parameters()).device)
            est.model_.copy_members(active.model, index)
            rows = Rows(rows.train[:, member], rows.valid[:, member])
    loadings = est.model_.loadings().detach().to("cpu", torch.float64)
    est.user_loading_ = loadings.mean(0).numpy()
    est.user_activity_ = activity_of(rows, data.log)
    return active


def _without_activity(est, plan, log, plain, history):
    """Let the estimator have the model without activity, and return its result."""
    est.model_, est.history_[:] = plain.model, history
    est.user_loading_ = np.zeros(len(plan.measurement.signals) + plan.measurement.examined)
    est.user_activity_ = activity_of(None, log)
    return plain


def member_log_weight(values):
    """Return the logarithms of the weights of members: equal ones, unless some are worse.

    A member counts by its total held-out likelihood, after one standard error of its paired
    difference from the best is added. So noise alone does not leave one member.

    Parameters
    ----------
    values : Tensor of shape (users, members)
        Held-out log-likelihoods.
    """
    difference = values - values[:, [values.sum(0).argmax()]]
    error = torch.sqrt(((difference - difference.mean(0)) ** 2).sum(0))
    return torch.log_softmax((difference.sum(0) + error).clamp_max(0.0), 0)


def slots(weight):
    """Return the member in each place of an equal-weight mixture, in proportion to its weight.

    The largest remainders get the places that whole numbers leave.

    Parameters
    ----------
    weight : ndarray of shape (members,)
    """
    n = len(weight)
    counts = np.floor(n * weight).astype(int)
    rest = np.argsort(counts - n * weight, kind="stable")[: n - counts.sum()]
    counts[rest] += 1
    return np.repeat(np.arange(n), counts)


def activity_of(rows, log):
    """Return the activity of the users of a log given all of their rows; None: it is not known."""
    n = len(log.user_ids)
    n_rows = log.rows_of_users
    if rows is None:
        empty = np.zeros((n, 0, 0), dtype=np.float32)
        return UserActivity(log.user_ids, np.zeros(n), np.ones(n), n_rows, empty)
    messages = rows.train[:n] + rows.valid[:n]
    log_weight = posterior(messages, quadrature()[1])
    return UserActivity(log.user_ids, *moments(messages), n_rows, log_weight.float().numpy())


def with_users(model, reward_logit, propensity_logit, members=None):
    """Return the members at each node of the population, and the logarithms of their weights.

    As they are, with None, where users do not differ.

    Parameters
    ----------
    model : RewardModel
    reward_logit, propensity_logit : Tensors of shape (members, n) and (members, n, P)
    members : Tensor of bool, default=None
        Which members of the model these are; None: all.
    """
    if model.log_loading is None:
        return reward_logit, propensity_logit, None
    nodes, log_prior = quadrature()
    loading = model.loading().detach().to("cpu", torch.float64)
    if members is not None:
        loading = loading[members]
    logits = _mixture.with_nodes(reward_logit, propensity_logit, loading, nodes)
    n_members = len(loading)
    return *logits, log_prior.repeat_interleave(n_members) - np.log(n_members)
