"""Tests of a verdict on rows that the fit has not seen."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ._activity import HEADS, with_users
from ._association import MAX_ROWS, association_test
from ._assumptions import MIN_RESPONSES, Assumptions
from ._dispersion import dispersion_test, split_test
from ._examination import can_show_examination, examination_test
from ._false_actions import rates_against
from ._goodness import (
    activity_against,
    copies_against,
    counts_against,
    propensity_against,
    restless_against,
)
from ._identification import (
    CONTRADICTS_DIFFERENCE,
    CONTRADICTS_Z,
    EXPOSURES,
    IDENTIFIED,
    LOOKED_AT,
    NOT_IDENTIFIED,
    contradicted,
    contradicted_signs,
    unseen,
    warn_not_identified,
)
from ._independence import dependence_against, independence_test
from ._labels import warn_of_selected_by_reward
from ._log import FeedbackLog, number_responses
from ._score_test import Rows
from ._sources import picked
from .measurement import _mixture
from .measurement._action import Action
from .measurement._model import Measurement, mean_delays
from .measurement._one_step import Activity
from .training._data import member_logits
from .training._users import quadrature

#: With fewer responses held out, the counts of all responses are tested. A fit lets the counts that
#: it has seen vary less around it, so that this does not favour a rejection.
FEW_RESPONSES = 1000
#: Independence given preference and user is tested on rows of users whose activity is known so well
#: that what is left of it changes no log odds ratio of two signals by more than this, which is
#: half of what counts as dependence.
MOST_LEFT = 0.25


@dataclass(eq=False)
class HeldOut:
    """Rows whose feedback is compared with the predictions of a fit that has not seen them.

    Attributes
    ----------
    X : ndarray or StreamedX of shape (n_samples, d)
        The columns that the heads read, of all rows.
    rows : ndarray of int of shape (m,)
        The rows of X that some test needs, sorted. They are read once.
    log : FeedbackLog
        The log of the rows held out; the rows of a response are adjacent.
    at : ndarray of int of shape (n,)
        The positions of these among `rows`.
    groups : ndarray of shape (n_responses,) or None
    labelled : FeedbackLog or None
        All rows with a label, because too few of them would be held out.
    labelled_at : ndarray of int of shape (n_labels,) or None
    whole : FeedbackLog or None
        Rows of the whole log, seen by the fit or not, at most `MAX_ROWS`; None if responses were
        shown in several rows.
    whole_at : ndarray of int of shape (n_whole,) or None
    """

    X: Any
    rows: np.ndarray
    log: FeedbackLog
    at: np.ndarray
    groups: np.ndarray | None
    labelled: FeedbackLog | None = None
    labelled_at: np.ndarray | None = None
    whole: FeedbackLog | None = None
    whole_at: np.ndarray | None = None

    @classmethod
    def of(cls, data, whole=True):
        """Return the rows of `TrainingData` that early stopping holds out, at most `MAX_ROWS`.

        Without early stopping, these are all rows. Residuals of training rows are too small in both
        signals, which the regression of `association_test` corrects only in part. All rows are also
        used if few responses were shown repeatedly. `whole` says whether rows of the whole log are
        wanted.
        """
        log = data.log
        repeated = log.exposures is not None or log.response is not None
        responses = data.valid if len(data.valid) else data.train
        if repeated and len(responses) < FEW_RESPONSES:
            responses = data.usable
        responses = responses[:: -(-len(responses) // MAX_ROWS)]
        held = responses
        if log.response is not None:
            held = np.flatnonzero(np.isin(log.response, responses))
        groups = None if data.groups is None else data.groups[responses]
        rows = {"at": held}
        logs = {"log": log.part(held, responses)}
        if whole and log.response is None:
            rows["whole_at"] = data.usable[:: -(-len(data.usable) // MAX_ROWS)]
        if log.labels is not None and log.response is None:
            labelled = ~np.isnan(log.labels) & (log.sample_weight > 0)
            rows["labelled_at"] = np.flatnonzero(labelled)[:MAX_ROWS]
        for name in rows.keys() - {"at"}:
            logs[name.removesuffix("_at")] = log.part(rows[name], rows[name])
        read = np.unique(np.concatenate(list(rows.values())))
        at = {name: np.searchsorted(read, some) for name, some in rows.items()}
        return cls(X=data.X, rows=read, groups=groups, **logs, **at)

    def logits(self, est):
        """Return the logits of the members at `rows`, (members, m) and (members, m, P)."""
        parts = [
            member_logits(est.model_, block, est.scaler_, HEADS, est.dtype)
            for _, block in picked(self.X, self.rows)
        ]
        return tuple(torch.cat(part, 1) for part in zip(*parts, strict=True))


def signs_of(log, groups, rows):
    """Return the arguments of `association_test` for some rows of a log, as a dict.

    Parameters
    ----------
    log : FeedbackLog
    groups : ndarray of shape (n,) or None
        Rows of one group may depend on each other.
    rows : ndarray of int or slice
    """
    return {
        "counts": log.acts.counts[rows],
        "weight": log.sample_weight[rows],
        "clusters": None if groups is None else number_responses(groups[rows])[0],
        "target": log.acts.target,
        "column": log.acts.column,
        "names": log.act_names(),
    }


def check_verdict(est, held_out, token=None, in_search=False):
    """Lower the level of a fitted estimator, with a warning, if the data contradict it.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    held_out : HeldOut
    token, in_search
        As in `warn_not_identified`.
    """
    before = est.identification_
    model_rates = Assumptions().with_rates(est.false_action_rate_).model_rates(est.objective_)
    logits = held_out.logits(est)
    f, u = (part[:, held_out.at] for part in logits)
    measurement = Measurement(est.signals_, est.model_.config["examination"])
    log, (*averaged, log_weight) = held_out.log, with_users(est.model_, f, u)
    log = log.matured(mean_delays(est.model_, measurement))
    if log.exposures is None and log.response is None and len(log.acts.column) > 1:
        covariates = _mixture.logits_of_all(measurement, *averaged, model_rates, log_weight).numpy()
        tested = association_test(
            covariates=covariates, **signs_of(log, held_out.groups, slice(None))
        )
        if any(each.contradicts for each in tested):
            est.identification_ = contradicted_signs(est.identification_, tested)
    plain = not measurement.examined and log_weight is None
    independent = "independent signals" in est.identification_.assumptions
    if not measurement.examined and independent and tests_independence(log):
        activity = None
        if log_weight is not None:
            codes = np.where(log.user < len(log.user_ids), log.user, -1)
            known = est.user_activity_
            of_rows = np.r_[known.mean, 0.0][codes], np.r_[known.sd, np.inf][codes]
            activity = est.user_loading_, *of_rows
        test = independence_of(log, f, u, model_rates, activity)
        if test is not None and test.rejected:
            est.identification_ = contradicted(
                est.identification_,
                "the signals do not fire independently given preference"
                + ("" if activity is None else " and user"),
                "users" if activity is None else "labels",
            )
    if plain and EXPOSURES[False] in est.identification_.assumptions:
        test = dispersion_of(log, f, u, est.false_action_rate_)
        if test is not None and test.rejected:
            est.identification_ = contradicted(
                est.identification_, str(test), advice_on_dispersion(log)
            )
    if plain and EXPOSURES[True] in est.identification_.assumptions:
        split = split_of(log, f, u, est.false_action_rate_)
        if split is not None and not split.shown:
            est.identification_ = contradicted(est.identification_, str(split), "dispersion")
    if held_out.labelled is not None and est.identification_.level == IDENTIFIED:
        of_labelled = (part[:, held_out.labelled_at] for part in logits)
        *averaged, log_weight = with_users(est.model_, *of_labelled)
        against = against_labels(held_out.labelled, measurement, *averaged, model_rates, log_weight)
        if against:
            est.identification_ = contradicted(est.identification_, against, "calibrate")
    _lower(est, _unlike_the_fit(est, log, measurement, f, u))
    if held_out.whole is not None:
        f, u = (part[:, held_out.whole_at] for part in logits)
        _check_whole(est, f, u, held_out.whole, measurement, model_rates)
    if est.identification_ is not before and est.identification_.level == NOT_IDENTIFIED:
        warn_not_identified(est.identification_, est.objective_, token, in_search=in_search)


def _unlike_the_fit(est, log, measurement, reward_logit, propensity_logit):
    """Yield tests whether a log is unlike its fit, and the key of the advice; as `_lower` does."""
    if est.model_.log_loading is not None:
        # Real activity is hardly normal, and bounds rest on it far less than a level does.
        if est.identification_.level == IDENTIFIED:
            log_prior = quadrature()[1].numpy()
            known = est.user_activity_.log_weight
            yield partial(activity_against, known, log_prior), "everything"
        return
    if measurement.examined or log.age is not None:
        return
    f, rates = _mixture.mean_logit(reward_logit).numpy(), est.false_action_rate_
    if log.exposures is not None or log.response is not None:
        u = propensity_logit.mean(0).numpy()[:, measurement.own_logits()]
        if log.response is not None and len(f) > log.n_responses:
            f = f[log.first]
        yield partial(copies_against, log), "exposures"
        yield partial(counts_against, log, f, u, rates), "exposures"


def _check_whole(est, reward_logit, propensity_logit, log, measurement, rates):
    """Lower the level, or correct the advice, by tests on rows that a fit may have seen."""
    f, u = _mixture.mean_logit(reward_logit), propensity_logit.mean(0)
    rows = Rows(measurement, f, u, rates, None)
    _lower(est, _unlike_the_whole(est, rows, log))
    if log.labels is not None and est.label_mechanism == "random":
        preferred, not_preferred = log.proved(est.false_action_rate_)
        warn_of_selected_by_reward(log, preferred | not_preferred, f.numpy())
    is_shown = not measurement.examined and can_show_examination(est, log)
    if est.model_.log_loading is not None and (is_shown or _has_three_signals(log)):
        activity = _activity_of_rows(est, measurement, f, u, log, rates)
        rows = replace(rows, activity=activity)
    if is_shown:
        test = examination_test(rows, log)
        if test is not None and test.rejected:
            knows_users = hasattr(est, "user_loading_")
            est.identification_ = unseen(est.identification_, str(test), knows_users)
            return  # rows that nobody looked at make signals dependent too
    if _has_three_signals(log):
        _lower(est, _of_three_signals(est, rows, log))


def _unlike_the_whole(est, rows, log):
    """Yield tests of what was stated of a log, and the key of the advice; as `_lower` takes them.

    Those that need single rows are not on counts over exposures, and not on actions still to come.
    """
    f, u, e = rows.reward_logit, rows.propensity_logit, est.false_action_rate_
    differ = est.model_.log_loading is not None
    if log.propensity is not None and log.exposures is None and not differ:
        yield partial(propensity_against, log, f.numpy(), e), "propensities"
    if differ and log.exposures is None and log.age is None:
        nodes, log_prior = quadrature()
        shift = nodes[:, None] * est.model_.loading().detach().to("cpu", torch.float64).mean(0)
        yield (
            partial(restless_against, rows.measurement, f, u, shift, log_prior, log, rows.rates),
            "everything",
        )


def _has_three_signals(log):
    """Return whether single rows have three signals, which `_of_three_signals` tests."""
    side = log.exposures, log.age, log.propensity
    return log.n_signals >= 3 and all(value is None for value in side)


def _of_three_signals(est, rows, log):
    """Yield tests that only three signals of a row allow, and the key of the advice."""
    looked_at = LOOKED_AT in est.identification_.assumptions
    if not Assumptions.of(est).estimates_false_actions:
        yield partial(rates_against, rows, log, looked_at), "false actions"
    # Rows that nobody looked at make signals of both signs dependent. Those of one sign are taken
    # for dislike.
    if looked_at or len(set(log.acts.target)) == 1:
        yield partial(dependence_against, rows, log), "users"


def _lower(est, tests):
    """Lower the level of an estimator by the first of several tests that contradicts it.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    tests : iterable of (callable, str)
        Each returns what contradicts the verdict, in words, or None. And the key of the advice.
    """
    for test, advice in tests:
        if est.identification_.level == NOT_IDENTIFIED:
            return
        against = test()
        if against is not None:
            est.identification_ = contradicted(est.identification_, against, advice)


def _activity_of_rows(est, measurement, f, u, log, rates):
    """Return the activity of the user of each row, given the other rows of the user."""
    nodes, prior = quadrature()
    loading = est.model_.loading().detach().to("cpu", torch.float64).mean(0)
    shift = nodes[:, None, None] * loading.expand_as(u)
    known = torch.as_tensor(est.user_activity_.log_weight, dtype=torch.float64)
    known = torch.logsumexp(known, 1) - np.log(known.shape[1])
    codes = np.where(log.user < len(known), log.user, len(known))
    of_rows = torch.cat([known, prior[None]])[codes].T
    actions = torch.as_tensor(log.actions)
    own = torch.stack([measurement.log_likelihood(f, u + one, actions, rates) for one in shift])
    own = torch.where(torch.as_tensor(codes < len(known)), own, 0.0)
    return Activity(shift, torch.log_softmax(of_rows - own, 0), of_rows[:, :0].T)


def tests_independence(log):
    """Return whether a log has the signals that the test of independence needs."""
    return (
        log.n_signals >= 3
        and log.exposures is None
        and log.response is None
        and all(signal.shows == (1,) and "rate" in signal.takes for signal in log.signals)
    )


def independence_of(log, reward_logit, propensity_logit, rates, activity=None):
    """Return the test of independence given preference on rows not used in a fit, or None.

    Signals of users who differ depend on each other unless the user is known. For them, the test is
    on rows of users whose activity is known well, given its mean.

    Parameters
    ----------
    log : FeedbackLog
    reward_logit, propensity_logit : Tensors of shape (members, n) and (members, n, K)
    rates : Tensor of shape (K,) or None
    activity : (ndarray of shape (K,), ndarray of shape (n,), ndarray of shape (n,)), default=None
        Loadings, and mean and sd of the activity of the user of each row. None: users do not
        differ.
    """
    f, u = _mixture.mean_logit(reward_logit), propensity_logit.mean(0)
    actions, weight = log.actions, log.sample_weight
    if activity is not None:
        loading, mean, sd = activity
        # What is not known of a user shifts the log odds ratio of two signals by up to this.
        left = np.prod(np.sort(loading)[-2:]) * sd**2
        rows = np.flatnonzero(left < MOST_LEFT)
        shift = mean[rows, None] * loading
        f, u = f[rows], u[rows] + torch.as_tensor(shift)
        actions, weight = actions[rows], weight[rows]
    return independence_test(f, u, actions, weight, rates)


def dispersion_of(log, reward_logit, propensity_logit, false_action_rate):
    """Return the test of binomial counts of responses, or None if nothing can be tested.

    Parameters
    ----------
    log : FeedbackLog
        Repeated exposures, as counts or as adjacent rows of one response.
    reward_logit : Tensor of shape (members, n or m)
    propensity_logit : Tensor of shape (members, n, K)
    false_action_rate : ndarray of shape (K,)
    """
    counts = _counts_of(log, reward_logit, propensity_logit, false_action_rate, dispersed=False)
    return None if counts is None else dispersion_test(**counts)


def split_of(log, reward_logit, propensity_logit, false_action_rate):
    """Return the test whether beta-binomial counts show preferences, or None; as `dispersion_of`.

    Beside binomial counts, these show them.
    """
    counts = _counts_of(log, reward_logit, propensity_logit, false_action_rate, dispersed=True)
    if counts is None or len(counts["target"]) < log.n_signals:
        return None
    return split_test(**counts)


def _counts_of(log, reward_logit, propensity_logit, false_action_rate, dispersed):
    """Return arguments of a test of the columns whose exposures are correlated, or of the others.

    None without such columns, or if a kind is not an action.
    """
    if not all(isinstance(signal, Action) for signal in log.signals):
        return None
    mine = [k for k, signal in enumerate(log.signals) if signal.is_dispersed == dispersed]
    if not mine:
        return None
    logged = log.logged()
    counts = np.where(logged, log.actions, 0.0)[:, mine]
    shown = (logged * (1.0 if log.exposures is None else log.exposures))[:, mine]
    f, u = _mixture.mean_logit(reward_logit), propensity_logit.mean(0)
    u = u[:, Measurement(log.signals).own_logits()][:, mine]
    if log.response is not None:
        if len(f) > log.n_responses:
            f = f[log.first]
        counts, shown, u = (
            np.column_stack([log.per_response(column) for column in part.T])
            for part in (counts, shown, u.numpy())
        )
        u = torch.as_tensor(u / np.bincount(log.response)[:, None])
    return {
        "reward_logit": f,
        "propensity_logit": u,
        "counts": counts,
        "exposures": shown,
        "weight": log.sample_weight,
        "rate": false_action_rate[mine],
        "target": np.array([log.signals[k].target for k in mine]),
    }


def advice_on_dispersion(log):
    """Return the key of the advice for counts that vary more than binomial ones.

    A correlation of exposures can be estimated if enough responses were shown often enough.
    """
    least = Action(counts="beta-binomial").least_exposures
    often = (log.observations()[log.sample_weight > 0] >= least).any(axis=1)
    return "dispersed" if np.count_nonzero(often) >= MIN_RESPONSES else "dispersion"


def against_labels(log, measurement, reward_logit, propensity_logit, rates, log_weight=None):
    """Describe how labels contradict the model's expectation of their responses, or return None.

    Parameters
    ----------
    log : FeedbackLog
        The labelled responses.
    measurement : Measurement
    reward_logit, propensity_logit, log_weight
        As `with_users` returns them: logits of shape (components, n) and (components, n, K).
    rates : Tensor of shape (K,) or None
    """
    if log.n_responses < MIN_RESPONSES:
        return None
    groups = _mixture.group_posterior(
        measurement,
        reward_logit,
        propensity_logit,
        false_action_rate=rates,
        log_weight=log_weight,
        **{name: value for name, value in log.tensors().items() if value is not None},
    )
    expected = (groups[:, 0] + groups[:, 2]).double().numpy()
    w = log.sample_weight / log.sample_weight.sum()
    difference = w @ (expected - log.labels)
    error = np.sqrt(w**2 @ (expected * (1 - expected)).clip(0.01))
    if abs(difference) <= max(CONTRADICTS_Z * error, CONTRADICTS_DIFFERENCE):
        return None
    return (
        f"the labels contradict the signals: the mean of the {log.n_responses} labels that were "
        f"tested is {w @ log.labels:.2f}, where the model expects {w @ expected:.2f} given what "
        "users did"
    )
