"""The report on what a log identifies of the reward: settings, refits and tests."""

import warnings
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone

from .._activity import with_users
from .._association import association_test
from .._assumptions import Assumptions
from .._estimator import ImplicitRewardEstimator
from .._examination import can_show_examination
from .._features import HeadColumns, embed_text, select_features, set_embedder
from .._fit import known_users, own_random_state, read_log, reread_log, run_fit, take_evidence
from .._held_out import (
    FEW_RESPONSES,
    advice_on_dispersion,
    against_labels,
    dispersion_of,
    independence_of,
    signs_of,
    split_of,
    tests_independence,
)
from .._identification import (
    ADVICE,
    BOUNDED,
    EXPOSURES,
    IDENTIFIED,
    LOOKING,
    NOT_IDENTIFIED,
    contradicted_signs,
)
from .._independence import exposures_that_agree, signals_that_agree
from .._prediction import HEADS, FittedMixture, OfUsers
from .._sklearn import safe_indexing, validate_params
from .._tables import opened
from .._typing import Rows
from .._validation import check_groups, check_same_rows
from ..exceptions import IdentificationWarning, ImplicitRMError
from ..measurement import _mixture
from ..measurement._action import Action
from ..training._data import TrainingData
from . import _attention
from ._arguments import of_fit
from ._report import IdentificationReport

#: Refits whose held-out likelihoods differ by fewer standard errors are equally likely.
STANDARD_ERRORS = 2.0


#: If the standard deviation of the mean reward over equally likely refits is larger, the log does
#: not show the reward. It does not grow with the number of refits, as their range does.
#: Two refits that differ by 0.1 have this standard deviation.
LARGE_SPREAD = 0.071


#: Share of the responses that is kept aside to compare likelihoods.
HELD_OUT = 0.25


def identification_report(
    est: Any, X: Rows, y: ArrayLike, *, n_starts: int = 8, **fit_params: Any
) -> IdentificationReport:
    """Report what a log identifies of the reward, and which information would identify more.

    The settings are refitted from `n_starts` different starts in one pass, on three quarters of the
    responses. The highest start is a reward near 1: users who do not act are passive. The lowest is
    near the probability of an action: they dislike the response. The refits are compared on the
    other quarter. If different rewards have equal likelihood, the reward is not identified.

    The settings are also fitted to the whole log. The report includes the verdict of this fit, and
    its level is never higher.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        The settings to report on. It need not be fitted and is not changed.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        The responses of the log.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    n_starts : int, default=8
        Number of refits, at least 2. The verdict does not become stricter with more. With 2 it
        depends more on chance.
    **fit_params : dict
        Further arguments of `fit`: sample_weight, groups, response_id, exposures, labels,
        propensity, user_id, age, delay.

    Returns
    -------
    report : IdentificationReport
        The report, which prints as text; `to_frame` and `plot` are its other forms.

    Raises
    ------
    TypeError
        If `est` is not an `ImplicitRewardEstimator`, or an argument is not one of `fit`.
    ValueError
        If the log is too small to keep a quarter aside, or `n_starts` is below 2. If the objective
        does not split each action into reward and propensity.

    Notes
    -----
    *Size.* A log that identifies the reward in principle may be too small to show it. Refits that
    are as likely as the best, to within two standard errors of the paired difference on held-out
    rows, then have different mean rewards. The level falls to "not identified" if the standard
    deviation of these means exceeds 0.071. Two refits that differ by 0.1 have that standard
    deviation (n - 1 in the denominator). Its expectation does not grow with the number of starts,
    whereas the range of the means does. Simulated logs of known mean reward have less if they
    identify it, and more with few labels or few counts: ``python -m benchmarks.identification
    --part starts``.

    *Signs.* Every pair of signals is tested on the rows kept aside. Given x, two signals of one
    sign should not co-occur less often than if they were independent, and two of opposite signs not
    more often [1]_. A pair contradicts its signs if the p-value is below 0.01, corrected for the
    number of pairs. Seen and expected co-occurrences must also differ by more than 20 %. Rows of
    one of `groups` may depend on each other. `fit` does the same on the rows that early stopping
    holds out.

    *Attention.* With two positive and two negative signals, the settings are fitted with and
    without rows that nobody looked at (``shared_examination``). The report names the model with
    such rows if its likelihood on the rows kept aside is better by two standard errors. With fewer
    signals the data cannot decide, and it names none. `fit` has a test of its own without refits.
    It is the score test of a share of rows that nobody looked at, with the errors of the fit
    projected out [2]_. It counts against ``shared_examination=False`` beyond 3.3 standard errors,
    if the share is estimated above 0.05.

    *Users.* With `user_id`, the refits find out as `fit` does whether users differ in activity, and
    integrate over it if they do. Likelihoods are then of all rows of a user together, given those
    that the refits saw. If users differ, the test of counts and the swap test are left out.
    Independence is then tested given the user, on rows of well-known users.

    *Independence* of three or more signals given preference is tested by likelihood ratio on the
    rows kept aside. It counts against identification if the p-value is below 0.001 and the log odds
    ratio of some pair exceeds 0.5. Users who differ in how readily they act, in ways that the
    features do not show, make signals dependent too. With more than five signals, the most often
    logged are tested; with more than 2**20 / 2**K rows (K signals), a random part. Signals that
    agree on 95 % of the rows on which either acted count as one, and so do exposures of a response.

    *Counts* over exposures are compared with beta-binomial ones of the same means. They count
    against identification if the p-value of binomial counts is below 0.001 and they are less likely
    by more than 0.05 nats per response. *Labels* count against it if their mean differs by more
    than 3.3 standard errors and 0.1 from what the refits expect given the actions. `fit` does the
    same.

    References
    ----------
    .. [1] Shah & Peters, "The Hardness of Conditional Independence Testing and the Generalised
       Covariance Measure", Annals of Statistics 48 (3), 2020.
    .. [2] Neyman, "Optimal asymptotic tests of composite statistical hypotheses", in Probability
       and Statistics, ed. Grenander, 1959.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(800, 2))
    >>> y = ((X[:, :1] > 0) & (rng.random((800, 2)) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(
    ...     shared_examination=False, learning_rate_init=0.01, random_state=0
    ... )
    >>> identification_report(est, X, y[:, 0], n_starts=4).verdict
    'not identified'
    >>> identification_report(est, X, y, n_starts=4).verdict
    'identified (assuming independent signals, every row was looked at)'
    """
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est must be an ImplicitRewardEstimator, got {type(est).__name__}. For a pipeline, "
            "pass its last step, and X as transformed by the others: "
            "identification_report(pipe[-1], pipe[:-1].transform(X), y)."
        )
    if not isinstance(n_starts, Integral) or n_starts < 2:
        raise ImplicitRMError(
            f"n_starts must be an integer, at least 2 to compare refits, got {n_starts!r}."
        )
    fit_params = of_fit("identification_report", fit_params, {})
    check_same_rows(X, y=y, **fit_params)
    embedding = clone(est)
    set_embedder(embedding)
    X = embed_text(embedding, X, reset=True)  # once, for all the refits
    if isinstance(fit_params.get("sample_weight"), Real):
        del fit_params["sample_weight"]  # one weight for all is none
    whole, labelled_share, log, fitted, held = _read_settings(est, X, y, fit_params)
    settings = whole.identification_
    frequent = log.signals_of_nearly_all()
    starts = np.linspace(0.1, 0.9, n_starts)
    parts = [(*_take(part, X, y), _take_params(part, fit_params)) for part in (fitted, held)]
    rows = _refitted(est, starts, *parts)
    refit, refits = rows.refit, _compare_refits(rows, starts)
    as_likely = refits["as_likely"]
    loading = None
    if log.user is not None:
        loading = rows.loadings(as_likely)
        n_rows = np.bincount(log.user, minlength=log.n_users)[: len(log.user_ids)]
        settings = known_users(
            settings, log.signals, loading, n_rows, est.shared_examination is False
        )
    examination = _compare_attention(est, starts, rows, as_likely, parts)
    independence = _test_independence(rows, as_likely)
    signals, exposures = _agreement(rows)
    swap = _swap_test(rows, as_likely)
    of_all = partial(_HeldOut, refit, X, y, fit_params)
    dispersion = _test_counts(dispersion_of, rows, as_likely, of_all)
    split = _test_counts(split_of, rows, as_likely, of_all)
    associations = _test_signs(rows, as_likely, _take_params(held, fit_params).get("groups"))
    level, assumptions, reason, advice = _verdict(
        _with_signs(settings, associations),
        independence,
        signals,
        exposures,
        swap,
        refits["mean_reward"][as_likely],
        dispersion,
        advice_on_dispersion(log),
        split,
        _against_labels(rows, as_likely),
        examination,
        rows.differs,
        _found_by_fit(est, whole.evidence_, X, y, fit_params),
    )
    advice += tuple(
        f"Check {name!r}: if it says that a negative action did not happen, pass 1 - y as a "
        "negative signal."
        for name, _ in frequent
    )
    rewards = torch.sigmoid(rows.reward_logit).numpy()[as_likely]
    shown_twice = refit.evidence_.shown_twice if level == BOUNDED else ()
    lower, upper = rows.bounds(as_likely, shown_twice)
    return IdentificationReport(
        level=level,
        assumptions=assumptions,
        reason=reason,
        advice=advice,
        settings=settings,
        refits=refits,
        reward_spread=float(rewards.std(axis=0, ddof=1).mean()) if len(rewards) > 1 else np.nan,
        swap=swap,
        independence=independence,
        associations=associations,
        frequent_signals=frequent,
        agreeing_signals=signals,
        agreeing_exposures=exposures,
        labelled_share=labelled_share,
        labels_selected=(
            whole.label_mechanism == "random" and whole.evidence_.n_labels_selected > 0
        ),
        dispersion=dispersion,
        split=split,
        examination=examination,
        user_loading=loading,
        estimator=refit,
        _held_out={
            "mean": rewards.mean(axis=0),
            "low": rewards.min(axis=0),
            "high": rewards.max(axis=0),
            "lower_bound": lower,
            "upper_bound": upper,
            "repeated": rows.repeated,
            "examined": rows.measurement.examined,
            "differs": rows.differs,
        },
    )


def _refitted(est, starts, fitted, held):
    """Return the refits of an estimator's settings, on rows kept aside.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    starts : ndarray of shape (n_starts,)
    fitted, held : (X, y, dict)
        Rows to fit on and to compare on, with further arguments of `fit`.
    """
    refit = clone(est).set_params(n_estimators=len(starts), warm_start=False)
    validate_params(refit)
    X, y, fit_params = fitted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)
        adjust = partial(replace, starts=starts)
        run_fit(refit, X, y, adjust=adjust, **fit_params)
    return _HeldOut(refit, *held)


def _compare_attention(est, starts, rows, as_likely, parts):
    """Return whether rows that nobody looked at show in the likelihood, None without a test."""
    if not can_show_examination(rows.refit, rows.log):
        return None
    is_examined = rows.measurement.examined
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first refits give them
        other = clone(est).set_params(shared_examination=None if is_examined else True)
        others = _refitted(other, starts, *parts)
    kept = _compare_refits(others, starts)["as_likely"]
    found = [rows.of_mixture(as_likely), others.of_mixture(kept)]
    return _attention.compare(*(found[::-1] if is_examined else found))


def _read_settings(est, X, y, fit_params):
    """Return an estimator that knows the evidence, labelled shares, log, and rows of each part."""
    whole = clone(est)
    side = {name: value for name, value in fit_params.items() if name != "groups"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fit gives them
        features = select_features(whole, X, reset=True)
        log, assumptions = read_log(whole, len(features), y, side, "batch")
    take_evidence(whole, log, assumptions)
    if not whole.objective_.models_propensity or whole.objective_.single_signal:
        raise ImplicitRMError(
            f"the report compares splits of an action into reward and propensity, which "
            f"{type(whole.objective_).__name__} does not model for every signal. Use "
            "objective='stratified'."
        )
    labelled_share = None
    if log.labels is not None:
        labelled, acted = ~np.isnan(log.labels), log.fired()
        w = log.sample_weight
        labelled_share = {
            name: float(np.average(labelled, weights=w * kind)) if w @ kind > 0 else float("nan")
            for name, kind in (("acted", acted), ("not acted", ~acted))
        }
    data = TrainingData(
        features,
        log,
        HeadColumns.of(whole),
        whole.objective_,
        response_id=side.get("response_id"),
        groups=fit_params.get("groups"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.split(HELD_OUT, own_random_state(whole.random_state), whole.max_epochs)
    if not len(data.valid):
        raise ImplicitRMError(
            f"{len(data.usable)} responses with actions are too few to compare likelihoods on a "
            "quarter of them. At least 20 with and 20 without action are needed, in several "
            "groups. Pass more rows."
        )
    is_fitted, is_held = np.zeros((2, log.n_responses), dtype=bool)
    is_fitted[data.train] = is_held[data.valid] = True
    return (
        whole,
        labelled_share,
        log,
        np.flatnonzero(log.per_row(is_fitted)),
        np.flatnonzero(log.per_row(is_held)),
    )


def _take(rows, *arrays):
    return [safe_indexing(array, rows) for array in map(opened, arrays)]


def _take_params(rows, fit_params):
    return {name: _take(rows, value)[0] for name, value in fit_params.items()}


class _HeldOut:
    """Logits and log-likelihoods of every refit on the rows kept aside.

    Attributes
    ----------
    weight : ndarray of shape (m,)
        Weights of the responses.
    log_likelihood : ndarray of shape (refits, units)
        Nats per row of units that do not depend on each other: responses or, where ids are given,
        users.
    unit_weight : ndarray of shape (units,)
    differs : bool
        Whether users differ in activity according to the refits.
    """

    def __init__(self, refit, X, y, fit_params):
        X = select_features(refit, X, reset=False)
        side = {k: v for k, v in fit_params.items() if k not in ("groups", "user_id")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log = reread_log(refit, len(X), y, side, purpose="batch")
        self.refit = refit
        self.log = log
        self.weight = log.sample_weight
        self.repeated = log.exposures is not None or log.response is not None
        self.mixture = mixture = FittedMixture.of(refit)
        logit, self.propensity_logit = mixture.members(X, *HEADS)
        self.reward_logit = logit if log.first is None else logit[:, log.first]
        self.measurement = mixture.measurement
        self.false_action_rate = mixture.false_action_rate
        self.differs = mixture.differs
        self.unit_weight, self._units = self.weight, None
        user_id = fit_params.get("user_id")
        if user_id is not None:
            self._units = OfUsers.among(mixture, log, user_id)
            self.unit_weight = self._units.weight
        self.log_likelihood = self.likelihood_of(self.reward_logit, self.propensity_logit)

    def likelihood_of(self, reward_logit, propensity_logit):
        """Return log P(y, labels | x) of each refit and unit, per row."""
        if self._units is not None:
            all_rows = slice(None), reward_logit, propensity_logit
            total = self._units.log_likelihood([all_rows]).numpy()
            return total / np.where(self.unit_weight > 0, self.unit_weight, 1.0)
        label = self.log.labels
        return self.measurement.log_likelihood(
            reward_logit,
            propensity_logit,
            **self.log.tensors(),
            false_action_rate=self.false_action_rate,
            labels=None if label is None else torch.as_tensor(label),
        ).numpy()

    def of_mixture(self, members):
        """Return log-likelihoods of the mixture of some refits, per row of units, and weights."""
        weight = self.unit_weight
        times = 1.0 if self._units is None else np.where(weight > 0, weight, 1.0)
        total = self.log_likelihood[members] * times
        return (np.logaddexp.reduce(total, axis=0) - np.log(len(total))) / times, weight

    def loadings(self, members):
        """Return `user_loading_` of some refits, 0 where users do not differ."""
        if not self.differs:
            return np.zeros(len(self.measurement.signals) + self.measurement.examined)
        loadings = self.refit.model_.loadings().detach().to("cpu", torch.float64)
        return loadings.numpy()[members].mean(axis=0)

    def activity(self, members):
        """Return mean and sd of the activity of each row's user in some refits, (m,) each.

        Given the rows kept aside and, of users who have such, those of the refits.
        """
        all_rows = slice(None), self.reward_logit, self.propensity_logit
        return self._units.activity([all_rows], members)

    def averaged(self, members):
        """Return the logits of some refits over all users, and the log-weights, None if equal."""
        logits = self.reward_logit[members], self.propensity_logit[members]
        return with_users(self.refit.model_, *logits, torch.as_tensor(members))

    def mean_and_error(self, values, weight=None):
        """Return weighted mean and standard error of values, of responses or these weights."""
        w = self.weight if weight is None else weight
        w = w / w.sum()
        mean = values @ w
        return mean, np.sqrt(((values - mean[..., None]) ** 2) @ w**2)

    def bounds(self, members, shown_twice):
        """Return the lower and the upper bound of the reward of each response."""
        f, u = self.reward_logit[members], self.propensity_logit[members]
        if self.log.first is not None:
            u = u[:, self.log.first]
        low, high = self.mixture.bounds(f, u, shown_twice, torch.as_tensor(members))
        return low.amin(0).numpy(), high.amax(0).numpy()


def _compare_refits(rows, starts):
    values, weight = rows.log_likelihood, rows.unit_weight
    mean, _ = rows.mean_and_error(values, weight)
    best = mean.argmax()
    difference, error = rows.mean_and_error(values - values[best], weight)
    rewards = torch.sigmoid(rows.reward_logit).numpy()
    return {
        "start": starts,
        "log_likelihood": mean,
        "difference": difference,
        "standard_error": error,
        "as_likely": difference >= -STANDARD_ERRORS * error,
        "mean_reward": rows.mean_and_error(rewards)[0],
    }


def _swap_test(rows, as_likely):
    """Exchange reward and propensity (of the signal that changes least by it) and compare."""
    refit, log = rows.refit, rows.log
    if rows.differs:
        return {"applicable": False, "why": "users who differ in activity distinguish the two"}
    if HeadColumns.of(refit).relation != "same":
        return {"applicable": False, "why": "reward and propensity read different columns"}
    if rows.measurement.examined:
        return {"applicable": False, "why": "the model has rows that nobody looked at"}
    if not all(isinstance(signal, Action) for signal in log.signals):
        return {"applicable": False, "why": "only propensities of actions can be exchanged"}
    if log.can_show(0) and log.can_show(1):
        return {"applicable": False, "why": "signals of both polarities distinguish the two"}
    f, u = rows.reward_logit, rows.propensity_logit
    sign = -1 if log.can_show(0) else 1  # for negative signals 1 - R is exchanged
    results = []
    for k in rows.measurement.own_logits():
        reward = sign * (u[..., k] if log.first is None else u[:, log.first, k])
        swapped = u.clone()
        swapped[..., k] = sign * (f if log.response is None else f[:, log.response])
        change = rows.likelihood_of(reward, swapped) - rows.log_likelihood
        # A label that the exchanged model rules out makes it infinitely unlikely.
        change = np.maximum(change, -50.0)[as_likely].mean(axis=0)
        difference, error = rows.mean_and_error(change, rows.unit_weight)
        mean_reward = rows.mean_and_error(torch.sigmoid(reward).numpy()[as_likely].mean(axis=0))[0]
        results.append(
            {
                "applicable": True,
                "difference": float(difference),
                "standard_error": float(error),
                "as_likely": bool(difference >= -STANDARD_ERRORS * error - 1e-9),
                "mean_reward": float(mean_reward),
            }
        )
    best = max(results, key=lambda result: result["difference"])
    interval = Assumptions.of(refit).preference_interval
    if interval is not None:
        inside = interval[0] - 0.02 <= best["mean_reward"] <= interval[1] + 0.02
        best["as_likely"] = best["as_likely"] and inside
    return best


def _test_independence(rows, as_likely):
    """Return the test of independence given preference, None where there is none."""
    log = rows.log
    if not tests_independence(log) or rows.measurement.examined:
        return None
    f, u = rows.reward_logit[as_likely], rows.propensity_logit[as_likely]
    activity = None
    if rows.differs:
        activity = rows.loadings(as_likely), *rows.activity(as_likely)
    return independence_of(log, f, u, rows.false_action_rate, activity)


def _test_counts(test, rows, as_likely, of_all):
    """Return a test of counts over exposures, None where nothing was shown repeatedly.

    With too few responses kept aside, all are tested, as in `fit`.
    """
    if not rows.repeated or rows.measurement.examined or rows.differs:
        return None

    def result(rows):
        f, u = rows.reward_logit[as_likely], rows.propensity_logit[as_likely]
        return test(rows.log, f, u, rows.refit.false_action_rate_)

    found = result(rows)
    return result(of_all()) if found is None or found.n_responses < FEW_RESPONSES else found


def _against_labels(rows, as_likely):
    """Return what the labels that were kept aside say against the refits, or None."""
    log = rows.log
    if log.labels is None or log.response is not None:
        return None
    labelled = np.flatnonzero(~np.isnan(log.labels) & (log.sample_weight > 0))
    f, u, log_weight = rows.averaged(as_likely)
    return against_labels(
        log.part(labelled, labelled),
        rows.measurement,
        f[:, labelled],
        u[:, labelled],
        rows.false_action_rate,
        log_weight,
    )


def _test_signs(rows, as_likely, groups):
    """Return an `Association` for every pair of signals, none with repeated exposures."""
    if rows.repeated or len(rows.log.acts.column) < 2:
        return []
    *logits, log_weight = rows.averaged(as_likely)
    covariates = _mixture.logits_of_all(
        rows.measurement, *logits, rows.false_action_rate, log_weight
    )
    if groups is not None:
        groups = check_groups(groups, len(rows.weight))
    return association_test(
        covariates=covariates.numpy(), **signs_of(rows.log, groups, slice(None))
    )


def _with_signs(settings, associations):
    """Return the verdict of the settings, unless signals contradict their signs."""
    contradiction = any(pair.contradicts for pair in associations)
    return contradicted_signs(settings, associations) if contradiction else settings


def _found_by_fit(est, evidence, X, y, fit_params):
    """Return the verdict of a fit to the whole log that found a contradiction, or None.

    So the report never says more than `fit`. If `est` was fitted to the same log, its verdict
    counts too, since other start values may find other things.
    """
    whole = clone(est).set_params(warm_start=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the refits give them
        run_fit(whole, X, y, **fit_params)
    found = [whole.identification_]
    if getattr(est, "evidence_", None) == evidence:
        found.append(est.identification_)
    return next((one for one in found if one.against and one.level == NOT_IDENTIFIED), None)


def _agreement(rows):
    """Return the signals that look like one, and those whose exposures do."""
    log = rows.log
    if log.response is not None:
        log, _ = log.sorted()
    acts, names = log.acts, log.act_names()
    weight = log.per_row(log.sample_weight)
    signals = [
        (str(names[j]), str(names[k]), share)
        for j, k, share in signals_that_agree(acts.counts, weight)
    ]
    if not rows.repeated:
        return signals, []
    agreeing = exposures_that_agree(acts.counts, log.exposures, log.response, weight)
    return signals, [(str(names[k]), share) for k, share in agreeing]


def _verdict(
    settings,
    independence,
    signals,
    exposures,
    swap,
    mean_rewards,
    dispersion,
    advice_if_dispersed,
    split,
    against_labels,
    examination,
    differs,
    found_by_fit,
):
    """Return level, assumptions, reason and advice of the settings, unless the data contradict."""
    level, assumptions = settings.level, settings.assumptions
    reason, advice = settings.reason, list(settings.advice)
    against = None
    independent = any(each.startswith("independent signals") for each in assumptions)
    if independent and signals:
        pairs = "; ".join(f"{j} and {k} ({share:.1%})" for j, k, share in signals)
        against = f"signals that look like one logged twice: {pairs}"
        advice.insert(0, "Drop a signal that repeats another, or log one that does not.")
    elif independent and independence and independence.rejected:
        against = "the signals do not fire independently given preference"
        if differs:
            against += " and user"
        advice.insert(0, ADVICE["labels" if differs else "users"])
    elif set(EXPOSURES.values()) & set(assumptions) and exposures:
        found = "; ".join(f"{name} ({share:.1%})" for name, share in exposures)
        against = f"repeated exposures that look like one logged twice: {found}"
        advice.insert(0, "Drop rows that repeat an exposure: check how the log was joined.")
    elif EXPOSURES[False] in assumptions and dispersion is not None and dispersion.rejected:
        against = str(dispersion)
        advice.insert(0, ADVICE[advice_if_dispersed])
    elif EXPOSURES[True] in assumptions and split is not None and not split.shown:
        against = str(split)
        advice.insert(0, ADVICE["dispersion"])
    elif level == IDENTIFIED and against_labels:
        against = against_labels
        advice.insert(0, ADVICE["calibrate"])
    elif found_by_fit is not None and level != NOT_IDENTIFIED:
        against = found_by_fit.against
        advice.insert(0, found_by_fit.advice[0])
    winner = None if examination is None else examination["winner"]
    if winner == "examined" and "every row was looked at" in assumptions:
        against = "the model of rows that nobody looked at is more likely"
    if winner == "examined" and LOOKING not in assumptions:
        advice = [ADVICE["unseen"], *(one for one in advice if one != ADVICE["examined"])]
    if winner == "plain":
        advice = [each for each in advice if each != ADVICE["attention"]]
    if against:
        level, assumptions = NOT_IDENTIFIED, ()
        reason = f"{reason} But {against}."
    doubts = []
    if swap["applicable"] and swap["as_likely"]:
        doubts.append("the swap of reward and propensity is as likely")
    if len(mean_rewards) > 1 and mean_rewards.std(ddof=1) > LARGE_SPREAD:
        doubts.append(
            f"equally likely refits differ by {np.ptp(mean_rewards):.2f} in the mean reward of the "
            f"log (standard deviation {mean_rewards.std(ddof=1):.2f})"
        )
    if level == IDENTIFIED and doubts:
        level, assumptions = NOT_IDENTIFIED, ()
        reason = f"{reason} But this log is too small to show it: {', and '.join(doubts)}."
        advice.insert(0, ADVICE["more"])
    return level, assumptions, reason, tuple(dict.fromkeys(advice))
