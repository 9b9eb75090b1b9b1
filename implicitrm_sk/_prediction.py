"""Predictions of the fitted model: a mixture of members, and the methods that query it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._activity import Shown, UserActivity, with_users
from ._assumptions import Assumptions
from ._device import INFERENCE_ROWS
from ._features import HeadColumns, read_features
from ._fit import reread_log
from ._log import check_user_id, number_users
from ._sources import chunks
from ._tables import opened
from ._typing import F, Floats, Rows, same
from ._validation import check_out, check_same_rows, check_sample_weight
from ._warnings import warn
from .exceptions import ImplicitRMError
from .measurement import _mixture
from .measurement._model import Measurement, exposure_correlations, mean_delays
from .measurement._signal import Signal
from .metrics import PREFERENCE_METRICS
from .objectives import OBJECTIVES, Objective
from .training._data import member_logits
from .training._users import moments, quadrature

HEADS = ("reward_logit", "propensity_logit")


@dataclass(frozen=True, eq=False)
class FittedMixture:
    """The fitted heads as an equal-weight mixture of members, with their logits.

    If R and A can be swapped without changing the fit, the mirror images of the members are part
    of it. Its methods take X as `read_features` returns it.

    Attributes
    ----------
    model : RewardModel
    scaler : StandardScaler or None
    objective : Objective
    measurement : Measurement
        The measurement model of the signals, as the objective sees them.
    false_action_rate : Tensor of shape (K,) or None
    is_mirrored : bool
        Whether the mixture contains the mirror image of each member.
    dtype : str
        Number format to compute in, as in `ImplicitRewardEstimator`.
    activity : UserActivity or None
        The activity of users, if they differ.
    """

    model: Any
    scaler: Any
    objective: Objective
    measurement: Measurement
    false_action_rate: torch.Tensor | None
    is_mirrored: bool
    dtype: str
    activity: UserActivity | None = None

    @classmethod
    def of(cls, est):
        """Return the mixture of a fitted estimator."""
        check_is_fitted(est, "model_")
        assumptions = Assumptions().with_rates(est.false_action_rate_)
        return cls(
            est.model_,
            est.scaler_,
            est.objective_,
            Measurement.of_actions(1)
            if est.objective_.single_signal
            else Measurement(est.signals_, est.model_.config["examination"]),
            assumptions.model_rates(est.objective_),
            est.identification_.swap_symmetric,
            est.dtype,
            getattr(est, "user_activity_", None),
        )

    def members(self, X, *heads):
        """Return the logits of the members, each of shape (members, n) or (members, n, K)."""
        return member_logits(self.model, X, self.scaler, heads, self.dtype)

    def components(self, X, *heads):
        """Return the logits of all components, in float64 on the CPU."""
        if not self.is_mirrored:
            logits = self.members(X, *heads)
            if self.differs and "propensity_logit" in heads:
                f = logits[0] if heads[0] == "reward_logit" else logits[0][..., 0]
                f, u, _ = with_users(self.model, f, logits[-1])
                return [f, u][-len(heads) :]
            return logits
        target = self.measurement.signals[0].target
        logits = _mixture.with_mirror_images(*self.members(X, *HEADS), target)
        return logits if len(heads) == len(logits) else logits[:1]

    @property
    def has_spread(self):
        """Whether components differ. If users do, a fit may keep copies of a single member."""
        return self.is_mirrored or self.model.n_different > 1

    def spread(self, values):
        """Return a spread over the components, NaN if there is only one."""
        return values if self.has_spread else torch.full_like(values, torch.nan)

    @property
    def differs(self):
        """Whether users differ in activity. The components are then members at quadrature nodes."""
        return self.model.log_loading is not None

    def log_weight(self, codes=None):
        """Return log-weights of the components, (components,), or (components, n) for users.

        None means equal weights.

        Parameters
        ----------
        codes : ndarray of int of shape (n,), default=None
            Position in `activity` of the user of each row, -1 if unknown. None: all are unknown.
        """
        if not self.differs:
            return None
        n_members = self.model.config["n_members"]
        _, log_prior = quadrature()
        population = log_prior.repeat_interleave(n_members) - np.log(n_members)
        if codes is None:
            return population
        found = population[:, None].repeat(1, len(codes))
        known = np.flatnonzero(codes >= 0)
        if len(known):
            weight = torch.as_tensor(self.activity.log_weight[codes[known]], dtype=found.dtype)
            found[:, known] = weight.permute(2, 1, 0).flatten(0, 1) - np.log(n_members)
        return found

    def codes(self, user_id, n_rows):
        """Return the position in `activity` of each row's user, -1 if unknown; None without ids."""
        if user_id is None:
            return None
        ids = check_user_id(user_id, n_rows)
        if self.activity is None or not self.differs:
            return np.full(n_rows, -1)
        return self.activity.codes(ids)

    def reduce(self, X, heads, function, out=None):
        """Return arrays of `function(rows, *logits)`, tensors per row, computed in chunks of X."""
        results = None
        # Half the rows, so that rows, standardised rows and results fit into the cache together.
        for start, chunk in chunks(X, INFERENCE_ROWS // 2):
            rows = slice(start, start + len(chunk))
            parts = [part.numpy() for part in function(rows, *self.components(chunk, *heads))]
            if results is None:
                results = [np.empty((len(X), *part.shape[1:]), part.dtype) for part in parts]
                if out is not None:
                    results[0] = check_out(out, results[0])
            for result, part in zip(results, parts, strict=True):
                result[rows] = part
        return results

    def bounds(self, reward_logit, propensity_logit, shown_twice, members=None):
        """Return the bounds of the reward that each member gives, (members, n), over all users.

        Parameters
        ----------
        reward_logit, propensity_logit : Tensors of shape (members, n) and (members, n, P)
        shown_twice : tuple of {0, 1}
            As in `measurement._mixture.bounds`.
        members : Tensor of bool, default=None
            Which members of the model these are; None: all.
        """
        *logits, log_weight = with_users(self.model, reward_logit, propensity_logit, members)
        return _mixture.bounds(
            self.measurement,
            *logits,
            self.false_action_rate,
            shown_twice,
            None if log_weight is None else quadrature()[1],
        )

    def model_log(self, log):
        """Return a log in the form that the objective uses."""
        return log.reduced() if self.objective.single_signal else log

    def of_log(self, X, log, function, codes=None):
        """Return the result of a function of `measurement._mixture` on the logits and a log.

        `codes` are the codes of the users of the rows, see `log_weight`.
        """
        model_log = self.model_log(log)
        fields, rate = model_log.tensors(), self.false_action_rate
        if log.response is not None and self.differs:
            return self._of_shown(X, log, function, codes)
        if log.response is not None:
            reward_logit, propensity_logit = self.components(X, *HEADS)
            if model_log is not log:
                propensity_logit = propensity_logit[:, log.first]
            logits = reward_logit[:, log.first], propensity_logit
            return function(
                self.measurement,
                *logits,
                **fields,
                false_action_rate=rate,
                log_weight=None,
            ).numpy()

        def of_rows(rows, *logits):
            part = {k: None if value is None else value[rows] for k, value in fields.items()}
            part["log_weight"] = self.log_weight(None if codes is None else codes[rows])
            return (function(self.measurement, *logits, **part, false_action_rate=rate),)

        return self.reduce(X, HEADS, of_rows)[0]

    def _of_shown(self, X, log, function, codes):
        """Return what `of_log` does, where each row of a response has a user of its own."""
        logits, n_members = self.members(X, *HEADS), self.model.config["n_members"]
        shown = Shown.of(self.measurement, logits, log, self.false_action_rate, self.model)
        found, size = [], len(X)
        for rows, responses, local, u in shown.parts():
            weight = self.log_weight(np.full(len(rows), -1) if codes is None else codes[rows])
            of_users = weight.unflatten(0, (-1, n_members)) + np.log(n_members)
            seen = shown.audience(rows, responses, local, u, of_users)
            if function is _mixture.log_likelihood:
                size = log.n_responses
                values = torch.logsumexp(seen.log_likelihood, 0) - np.log(n_members)
                found.append((responses, values.numpy()))
                continue
            # The other rows of the response are part of what is known of each row.
            values = function(
                self.measurement,
                seen.others_logit.repeat(len(u), 1),
                u.flatten(0, 1),
                **shown.of_rows(rows),
                false_action_rate=self.false_action_rate,
                log_weight=weight + seen.log_others.repeat(len(u), 1),
            )
            found.append((rows, values.numpy()))
        result = np.empty((size, *found[0][1].shape[1:]), found[0][1].dtype)
        for where, values in found:
            result[where] = values
        return result

    def output(self, values):
        """Convert to the number format of the computation."""
        return values.to(next(self.model.parameters()).dtype)


def component_logits(est, X, *heads):
    """Return the logits of all components of a fitted estimator for X, vectors or text."""
    mixture = FittedMixture.of(est)
    X = read_features(est, X, with_propensity="propensity_logit" in heads)
    return mixture.components(X, *heads)


def user_codes(est, user_id, n_rows):
    """Return the code of the known user of each row, -1 if unknown, None without ids."""
    if user_id is not None and not hasattr(est, "user_loading_"):
        raise ImplicitRMError(
            "user_id was given, but the estimator was fitted without user_id. Fit with user_id, or "
            "leave it out."
        )
    mixture = FittedMixture.of(est)
    if user_id is not None and mixture.activity is None and mixture.differs:
        warn(
            "this model was saved without its users, so that each counts as one of average "
            "activity. Save it with users=True, or leave user_id out."
        )
    return mixture.codes(user_id, n_rows)


def _warn_of_impossible(wrong, log, name, result):
    """Warn of responses whose actions have probability 0 under the model.

    Parameters
    ----------
    wrong : ndarray of bool of shape (m,)
    log : FeedbackLog
    name : str
        The argument that holds the actions.
    result : str
        The effect on the result, in words.
    """
    n = int(wrong.sum())
    if not n:
        return
    first = int(wrong.argmax())
    row = first if log.first is None else int(log.first[first])
    whose = f"{n:,} response{'s' * (n > 1)} {'has' if n == 1 else 'have'}"
    warn(
        f"{whose} {name} that are impossible under the model, such as a positive and a negative "
        f"action with false_action_rate=0; the first is row {row}. So {result}. Check these rows, "
        "or fit with false_action_rate above 0 if users act by mistake."
    )


def log_likelihood(est, X, y, **side_information):
    """Return log P(y | x) of each response and its weight, which is 0 if nothing is logged."""
    return _log_likelihood(est, X, y, **side_information)[:2]


def _log_likelihood(est, X, y, **side_information):
    """Return what `log_likelihood` does, and the log."""
    mixture = FittedMixture.of(est)
    check_same_rows(X, y=y, **side_information)
    X = read_features(est, X)
    log = reread_log(est, len(X), y, side_information)
    if log.response is not None:
        reward_part = HeadColumns.of(est).reward_part(X)
        log.check_same_reward(reward_part, side_information["response_id"])
    values = mixture.of_log(X, log, _mixture.log_likelihood)
    return values, np.where(log.n_events() > 0, log.sample_weight, 0.0), log


@dataclass(frozen=True, eq=False)
class OfUsers:
    """The rows of a log by user, to take the likelihood of the rows of a user together.

    Attributes
    ----------
    mixture : FittedMixture
    log : FeedbackLog
    user : ndarray of int of shape (n,)
    response_weight : ndarray of shape (m,)
        Weights of the responses; without `response_id` each row is a response.
    weight : ndarray of shape (users,)
        Sums of the weights of a user's rows, which share that of their response.
    log_weight : Tensor of shape (nodes, members, users)
        Log-weights of each user over the nodes; one node of weight 1 where users do not differ.
    """

    mixture: FittedMixture
    log: Any
    user: NDArray[np.int64]
    response_weight: NDArray[np.float64]
    weight: NDArray[np.float64]
    log_weight: torch.Tensor

    @classmethod
    def among(cls, mixture, log, user_id):
        """Return those of a log.

        Known users have the weights of `fit`, others those of the population.
        """
        weight = np.where(log.n_events() > 0, log.sample_weight, 0.0)
        user, _ = number_users(user_id, len(log.actions))
        first = np.unique(user, return_index=True)[1]
        n_members = mixture.model.config["n_members"]
        log_weight = torch.zeros(1, n_members, len(first), dtype=torch.float64)
        if mixture.differs:
            codes = mixture.codes(user_id, len(user))[first]
            log_weight = mixture.log_weight(codes).unflatten(0, (-1, n_members)) + np.log(n_members)
        of_rows = weight
        if log.response is not None:
            of_rows = (weight / np.bincount(log.response))[log.response]
        return cls(mixture, log, user, weight, np.bincount(user, of_rows), log_weight)

    def log_likelihood(self, chunks_of_logits):
        """Return log P(rows of a user, labels | x) of the members, (members, users).

        Parameters
        ----------
        chunks_of_logits : iterable of (slice, Tensor, Tensor)
            Rows, and the logits of the members for them, (members, n) and (members, n, K).
        """
        mixture, label = self.mixture, self.log.labels
        if self.log.response is not None:
            # The rows of a response may lie in several chunks.
            _, f, u = zip(*chunks_of_logits, strict=True)
            logits, rate = (torch.cat(f, 1), torch.cat(u, 1)), mixture.false_action_rate
            shown = Shown.of(mixture.measurement, logits, self.log, rate, mixture.model, label)
            of_users = self.log_weight.permute(2, 1, 0)
            messages = shown.messages(self.user, self.response_weight, of_users)
            return torch.logsumexp(messages + of_users, -1).T
        return torch.logsumexp(self.messages(chunks_of_logits) + self.log_weight, 0)

    def messages(self, chunks_of_logits):
        """Return log P(rows of a user | x, node) without `response_id`, (nodes, members, users).

        The parameter is that of `log_likelihood`.
        """
        mixture, label = self.mixture, self.log.labels
        nodes, loading = torch.zeros(1, dtype=torch.float64), 0.0
        if mixture.differs:
            nodes, _ = quadrature()
            loading = mixture.model.loading().detach().to("cpu", torch.float64)
        fields = self.log.tensors() | {"labels": None if label is None else torch.as_tensor(label)}
        total = torch.zeros_like(self.log_weight)
        for rows, f, u in chunks_of_logits:
            part = {k: None if value is None else value[rows] for k, value in fields.items()}
            user, w = torch.as_tensor(self.user[rows]), torch.as_tensor(self.response_weight[rows])
            for node, messages in zip(nodes, total, strict=True):  # one by one: memory
                values = mixture.measurement.log_likelihood(
                    f, u + node * loading, false_action_rate=mixture.false_action_rate, **part
                )
                messages.index_add_(1, user, torch.where(w > 0, values * w, 0.0))
        return total

    def activity(self, chunks_of_logits, members):
        """Return mean and sd of the activity of the user of each row, (n,) each.

        Given these rows and, of known users, those of the fit. Both are means over the members, of
        the variance for the sd. Members that differ in the activity of a user differ in propensity
        the other way. Without `response_id`.

        Parameters
        ----------
        chunks_of_logits
            As for `log_likelihood`.
        members : ndarray of bool of shape (members,)
            The members of the mixture.
        """
        of_fit = self.log_weight - quadrature()[1][:, None, None]
        messages = self.messages(chunks_of_logits) + of_fit
        of_members = [
            moments(messages[:, [member]].permute(2, 1, 0)) for member in np.flatnonzero(members)
        ]
        mean, sd = (np.stack(part) for part in zip(*of_members, strict=True))
        return mean.mean(0)[self.user], np.sqrt((sd**2).mean(0))[self.user]


def log_likelihood_of_users(est, X, y, user_id, **side_information):
    """Return log P(y | x) of all rows, computed per user, and the sum of their weights.

    Known users have the weights that `fit` gave them, others those of the population.
    """
    mixture = FittedMixture.of(est)
    check_same_rows(X, y=y, **side_information)
    X = read_features(est, X)
    log = reread_log(est, len(X), y, side_information)
    if log.response is not None:
        reward_part = HeadColumns.of(est).reward_part(X)
        log.check_same_reward(reward_part, side_information["response_id"])
    users = OfUsers.among(mixture, log, user_id)
    values = users.log_likelihood(
        (slice(start, start + len(chunk)), *mixture.members(chunk, *HEADS))
        for start, chunk in chunks(X, INFERENCE_ROWS // 2)
    )
    joint = torch.logsumexp(values, 0) - np.log(len(values))
    return float(joint.sum()), float(users.weight.sum())


def available_if_objective(attribute: str, reason: str) -> Callable[[F], F]:
    """Hide a method unless the objective has an attribute; the error's cause gives the reason."""

    def check(estimator):
        objective = estimator.objective
        if isinstance(objective, str):
            objective = OBJECTIVES.get(objective, Objective)
        if not getattr(objective, attribute):
            name = objective.__name__ if isinstance(objective, type) else type(objective).__name__
            raise AttributeError(f"not available: {name} {reason}")
        return True

    return same(available_if(check))


_needs_actions_modelled = available_if_objective(
    "models_actions",
    "does not model P(y | x), only the reward. Use predict, or an objective that does, such as "
    "'stratified'.",
)


class PredictionMixin:
    """The methods of `ImplicitRewardEstimator` that query the fitted mixture."""

    shared_examination: bool | None
    model_: Any
    n_signals_: int
    one_dimensional_: bool
    signals_: tuple[Signal, ...]
    objective_: Objective

    @overload
    def predict(
        self, X: Rows, return_std: Literal[False] = False, out: NDArray[Any] | None = None
    ) -> Floats: ...

    @overload
    def predict(
        self, X: Rows, return_std: Literal[True], out: NDArray[Any] | None = None
    ) -> tuple[Floats, Floats]: ...

    def predict(
        self, X: Rows, return_std: bool = False, out: NDArray[Any] | None = None
    ) -> Floats | tuple[Floats, Floats]:
        """Predict the reward, the probability that the user prefers each response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        return_std : bool, default=False
            Also return the standard deviation over the components of the mixture: the members and,
            with one signal, the two sides of the swap. It is not a confidence interval. With one
            signal it understates the ambiguity, because all members start from the same split of
            the action probability and stay close to it. It is NaN if one member is left.
        out : ndarray of shape (n_samples,), default=None
            Floating array to write the reward to, for example an ``np.memmap``. None makes a new
            array.

        Returns
        -------
        reward : ndarray of shape (n_samples,)
            P(r*=1 | x), where r* is 1 if the user prefers the response; in [0, 1]. It is `out`, if
            given.
        std : ndarray of shape (n_samples,)
            Only if `return_std`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X has other columns than in `fit`, or values far outside their range. If `out` has
            another shape, is read-only or is not a floating array.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
        array([1., 0.], dtype=float32)
        >>> reward, std = est.predict(X, return_std=True)
        >>> std.shape
        (1000,)
        """
        mixture = FittedMixture.of(self)
        X = read_features(self, X, with_propensity=False)

        def moments(_, reward_logit):
            if not return_std:
                return (mixture.output(_mixture.mean(reward_logit)),)
            mean, std = _mixture.reward(reward_logit)
            return mixture.output(mean), mixture.output(mixture.spread(std))

        results = mixture.reduce(X, ("reward_logit",), moments, out)
        return tuple(results) if return_std else results[0]

    def decision_function(self, X: Rows) -> Floats:
        """Return the logit of the reward.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.

        Returns
        -------
        logit : ndarray of shape (n_samples,)
            Log-odds log(R / (1 - R)) of the reward R; finite even where `predict` rounds to 0 or 1.

        Raises
        ------
        NotFittedError, ValueError
            As in `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> logit = est.decision_function(X)
        >>> bool(np.allclose(1 / (1 + np.exp(-logit)), est.predict(X), atol=1e-5))
        True
        """
        mixture = FittedMixture.of(self)
        X = read_features(self, X, with_propensity=False)
        (logit,) = mixture.reduce(
            X, ("reward_logit",), lambda _, f: (mixture.output(_mixture.mean_logit(f)),)
        )
        return logit

    @_needs_actions_modelled
    def predict_proba(
        self,
        X: Rows,
        actions: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        age: ArrayLike | None = None,
    ) -> Floats:
        """Return the probabilities of the four latent groups, the posterior of the stratification.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        actions : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            The actions of the user, as in `fit`. None, like a row of NaN, means that nothing is
            known.
        response_id, exposures, propensity : array-like, default=None
            As in `fit`, for `actions`. Facts about a response from one row apply to all its rows.
        user_id : array-like of shape (n_samples,), default=None
            The user who sees each row. Users unknown to `fit`, and None, count as average users.
        age : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            As in `fit`, for `actions` that may come late. "Active" then includes actions yet to
            come.

        Returns
        -------
        proba : ndarray of shape (n_samples, 4)
            Columns PA, NA, PP, NP (`group_names_`); each row sums to 1. "Active" means that at
            least one of the signals would fire, in at least one of the exposures of the row.

        Raises
        ------
        AttributeError
            If the objective does not model P(y | x).
        ValueError
            If X or `actions` do not match those of `fit`, or if `response_id` or `exposures` are
            given without `actions`.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> x = [[2.0, 0.0]]
        >>> est.predict_proba(x, [[1, 0]]).round(1)  # copied: preferred and active, with certainty
        array([[1., 0., 0., 0.]], dtype=float32)
        >>> before, after = est.predict_proba(x), est.predict_proba(x, [[0, 0]])
        >>> bool(after[0, 2] > before[0, 2])  # no action makes preferred and passive likelier
        True
        """
        mixture = FittedMixture.of(self)
        side = {
            "response_id": response_id,
            "exposures": exposures,
            "propensity": propensity,
            "age": age,
        }
        check_same_rows(X, actions=actions, user_id=user_id, **side)
        X = read_features(self, X)
        if actions is None:
            for name, value in (
                ("response_id", response_id),
                ("exposures", exposures),
                ("age", age),
            ):
                if value is not None:
                    raise ImplicitRMError(
                        f"{name} is given without actions and has no effect. Pass "
                        f"actions too, or leave {name} out."
                    )
            actions = np.full((len(X), self.n_signals_), np.nan)
        log = reread_log(self, len(X), actions, side, name="actions")
        if log.response is not None:
            log.check_same_reward(HeadColumns.of(self).reward_part(X), response_id)
        codes = user_codes(self, user_id, len(X))
        groups = mixture.of_log(X, log, _mixture.group_posterior, codes)
        _warn_of_impossible(np.isnan(groups).any(axis=1), log, "actions", "their groups are NaN")
        groups = mixture.output(torch.from_numpy(groups)).numpy()
        return groups if len(groups) == len(X) else groups[log.response]

    @_needs_actions_modelled
    def predict_action(self, X: Rows, user_id: ArrayLike | None = None) -> Floats:
        """Predict the probability of each action, or of each outcome that shows a preference.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        user_id : array-like of shape (n_samples,), default=None
            Who sees each row, as in `predict_proba`.

        Returns
        -------
        action : ndarray of shape (n_samples,) or (n_samples, n_shown)
            P(y_k=1 | x) for each signal k, in the order of the signals. A `Choice` has one column
            for each outcome that shows a preference, in the order of its `outcomes`. A `Graded` has
            one column for each of its B grades, the lowest first. They sum to 1, and ``columns @
            np.arange(B)`` is the expected grade. 1-D if `fit` got 1-D actions and there is one
            column.

        Raises
        ------
        AttributeError, ValueError
            If the objective does not model P(y | x), or models several signals as one.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.predict_action(X).shape
        (1000, 2)
        >>> product = est.predict(X)[:, None] * est.propensity(X)
        >>> bool(np.allclose(est.predict_action(X), product, atol=1e-5))
        True
        """
        return self._per_signal("predict_action", X, _mixture.action, user_id)

    @_needs_actions_modelled
    def propensity(self, X: Rows, user_id: ArrayLike | None = None) -> Floats:
        """Predict P(action | matching preference), the propensity as in PU learning.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        user_id : array-like of shape (n_samples,), default=None
            Who sees each row, as in `predict_proba`.

        Returns
        -------
        propensity : ndarray of shape (n_samples,) or (n_samples, n_shown)
            With r* the preference: P(y_k=1 | r*=1, x) of a positive action, P(y_k=1 | r*=0, x) of a
            negative one, P(grade | r*=target, x) of a `Graded`. The columns are those of
            `predict_action`. With ``shared_examination=True`` it also covers all rows, looked at or
            not.

        Raises
        ------
        AttributeError, ValueError
            If the objective does not model P(y | x), or models several signals as one.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((2000, 2)) < [0.3, 0.7])).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.propensity([[1.0, 0.0]]).round(1)
        array([[0.3, 0.7]], dtype=float32)
        """
        return self._per_signal("propensity", X, _mixture.propensity, user_id)

    @_needs_actions_modelled
    def predict_examination(self, X: Rows) -> Floats:
        """Predict the probability that users look at a response.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.

        Returns
        -------
        examination : ndarray of shape (n_samples,)
            The probability v(x) that the row was looked at, in [0, 1].

        Raises
        ------
        AttributeError
            If the objective does not model P(y | x).
        ValueError
            If the estimator was fitted without ``shared_examination=True``.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 2))
        >>> shows = np.where(X[:, :1] > 0, [1, 1, 0, 0], [0, 0, 1, 1])
        >>> looked = rng.random((2000, 1)) < 0.6
        >>> y = (shows & looked & (rng.random((2000, 4)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(
        ...     signals=["positive", "positive", "negative", "negative"],
        ...     shared_examination=True,
        ...     learning_rate_init=0.01,
        ...     random_state=0,
        ... )
        >>> print(f"{est.fit(X, y).predict_examination(X).mean():.1f}")
        0.6
        """
        mixture = FittedMixture.of(self)
        if not mixture.measurement.examined:
            raise ImplicitRMError(
                "predict_examination is not available: the estimator was fitted with "
                f"shared_examination={self.shared_examination}, so that it did not model which "
                "rows were looked at. Fit with shared_examination=True."
            )
        X = read_features(self, X)

        def looked(_, u):
            log_v, log_weight = mixture.measurement.log_examined(u), mixture.log_weight()
            return (mixture.output(_mixture.mean_of_logs(log_v, log_weight)),)

        return mixture.reduce(X, ("propensity_logit",), looked)[0]

    @property
    def mean_delay_(self) -> Floats:
        """Mean delay of each signal that may come late, in the unit of `age`; NaN for others.

        The shape is (`n_signals_`,), averaged over the members.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.signals import Action
        >>> rng = np.random.default_rng(0)
        >>> X, age = rng.normal(size=(3000, 2)), rng.uniform(0, 5, size=3000)
        >>> copied, shared = (X[:, :1] > 0).T & (rng.random((2, 3000)) < 0.6)
        >>> shared = shared & (rng.exponential(2.0, size=3000) < age)
        >>> est = ImplicitRewardEstimator(
        ...     signals=["positive", Action(delay="exponential")],
        ...     learning_rate_init=0.01,
        ...     random_state=0,
        ... )
        >>> est = est.fit(X, np.column_stack([copied, shared]), age=age)
        >>> bool(1.4 < est.mean_delay_[1] < 2.6)
        True
        """
        check_is_fitted(self, "model_")
        if self.objective_.single_signal:
            return np.full(self.n_signals_, np.nan)
        return mean_delays(self.model_, Measurement(self.signals_))

    @property
    def exposure_correlation_(self) -> Floats:
        """Correlation of two exposures of a response, for beta-binomial counts; NaN for others.

        It is that given x and the preference. The shape is (`n_signals_`,), averaged over the
        members.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.signals import Action
        >>> rng = np.random.default_rng(0)
        >>> X, shown = rng.normal(size=(2000, 2)), np.full(2000, 8)
        >>> votes, logit = Action(counts="beta-binomial"), np.zeros(2000)
        >>> u = np.column_stack([logit, logit - 1.4])  # a correlation of 0.2
        >>> y = votes.sample(u, X[:, 0] > 0, rng, exposures=shown[:, None])
        >>> est = ImplicitRewardEstimator(
        ...     signals=[votes], false_action_rate=0.0, learning_rate_init=0.01, random_state=0
        ... )
        >>> est = est.fit(X, y, exposures=shown)
        >>> print(f"{est.exposure_correlation_[0]:.1f}")
        0.2
        """
        check_is_fitted(self, "model_")
        if self.objective_.single_signal:
            return np.full(self.n_signals_, np.nan)
        return exposure_correlations(self.model_, Measurement(self.signals_))

    def _per_signal(self, method, X, function, user_id=None):
        mixture = FittedMixture.of(self)
        if self.objective_.single_signal and self.n_signals_ > 1:
            raise ImplicitRMError(
                f"{method} is not available: {type(self.objective_).__name__} was fitted on "
                f'"any logged action" and does not model the {self.n_signals_} signals separately. '
                "Fit it on one signal, or use objective='stratified'."
            )
        X = read_features(self, X)
        codes = user_codes(self, user_id, len(X))

        def of_rows(rows, *logits):
            weight = mixture.log_weight(None if codes is None else codes[rows])
            rate = mixture.false_action_rate
            return (mixture.output(function(mixture.measurement, *logits, rate, weight)),)

        (values,) = mixture.reduce(X, HEADS, of_rows)
        return values[:, 0] if self.one_dimensional_ and values.shape[1] == 1 else values

    def score(
        self,
        X: Rows,
        y: ArrayLike | None,
        true_preference: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        age: ArrayLike | None = None,
        delay: ArrayLike | None = None,
    ) -> float:
        """Return the mean log-likelihood of held-out actions, or R2 against true preferences.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`. Not used with `true_preference`.
        true_preference : array-like of shape (n_samples,), default=None
            True preferences in [0, 1] for evaluation, NaN where unknown; these rows are left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        response_id, exposures, propensity : array-like, default=None
            As in `fit`, for the likelihood of `y`.
        user_id : array-like of shape (n_samples,), default=None
            The user who acted. The rows of a user are then evaluated together: the log-likelihoods
            of users are summed, and divided by the number of rows.
        age, delay : array-like, default=None
            As in `fit`. The likelihood of a known delay depends on the unit of time.

        Returns
        -------
        score : float
            Without `true_preference`: the weighted mean of log P(y | x) in nats per row, or per
            response with `response_id`. Only rows with a logged signal count. The log-likelihood is
            summed over signals and exposures; single-signal objectives use "any logged action". For
            counts it is that of the sequence of exposures, without the binomial coefficient. With
            `true_preference`: the R2 of the reward, over rows.

        Raises
        ------
        ValueError
            If nothing is logged in rows of positive weight, or fewer than two preferences are
            known. Without `true_preference`, also if the objective does not model P(y | x).

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 2))
        >>> preferred = X[:, 0] > 0
        >>> y = (preferred[:, None] & (rng.random((2000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> _ = est.fit(X[:1000], y[:1000])
        >>> round(est.score(X[1000:], y[1000:]), 1)
        -0.7
        >>> est.score(X[1000:], None, true_preference=preferred[1000:]) > 0.9
        True
        """
        check_is_fitted(self, "model_")
        if true_preference is not None:
            check_same_rows(X, true_preference=true_preference, sample_weight=sample_weight)
            reward = self.predict(X)
            weight = check_sample_weight(sample_weight, len(reward))
            return PREFERENCE_METRICS["r2"](true_preference, reward, sample_weight=weight)
        if not self.objective_.models_actions:
            raise ImplicitRMError(
                f"{type(self.objective_).__name__} does not model P(y | x), so actions cannot be "
                "scored by their likelihood. Pass true_preference, or use "
                "scoring=make_preference_scorer(...) of implicitrm_sk.metrics in a search."
            )
        side = {
            "sample_weight": sample_weight,
            "response_id": response_id,
            "exposures": exposures,
            "propensity": propensity,
            "age": age,
            "delay": delay,
        }
        nothing = (
            "y logs nothing in rows of positive weight, so the likelihood is not defined. Pass "
            "rows with logged actions."
        )
        if user_id is not None and self.model_.log_loading is not None:
            total, weight = log_likelihood_of_users(self, X, y, user_id, **side)
            if not weight:
                raise ImplicitRMError(nothing)
            if np.isneginf(total):
                values, weights, log = _log_likelihood(self, X, y, **side)
                wrong = np.isneginf(values) & (weights > 0)
                _warn_of_impossible(wrong, log, "y", "the score is -inf")
            return total / weight
        if user_id is not None:
            user_codes(self, user_id, len(opened(y)))
        values, weight, log = _log_likelihood(self, X, y, **side)
        if not weight.any():
            raise ImplicitRMError(nothing)
        counted = weight > 0
        _warn_of_impossible(np.isneginf(values) & counted, log, "y", "the score is -inf")
        return float(np.average(values[counted], weights=weight[counted]))
