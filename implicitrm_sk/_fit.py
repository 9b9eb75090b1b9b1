"""The steps of a fit: from X, y and parameters to data and a plan, then to fitted attributes.

`fit`, the refits of a report and the candidates of a search share these steps. They get the
estimator as an argument and set its fitted attributes, using its public names only.
"""

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from ._activity import fit_users
from ._assumptions import Assumptions
from ._checkpoint import Checkpoint
from ._features import (
    HeadColumns,
    embed_text,
    select_features,
    set_embedder,
    signals_not_offered,
    warn_of_actions,
)
from ._held_out import HeldOut, check_verdict
from ._identification import (
    IDENTIFIED,
    Evidence,
    assess,
    before_activity,
    contradicted,
    contradicted_rate,
    dependent,
    imprecise,
    warn_not_identified,
    with_activity,
)
from ._log import FeedbackLog, KnownSignals
from ._sklearn import begin_callbacks
from ._transaction import all_or_nothing
from ._typing import same
from ._validation import check_same_rows
from ._warnings import siblings_of, warn
from .exceptions import ImplicitRMError
from .measurement._model import GROUP_NAMES
from .objectives import OBJECTIVES, Objective
from .training._data import TrainingData
from .training._plan import FitPlan, Hooks, check_same_setting
from .training._preliminary import estimate_false_action_rates, prepare_objective


def own_random_state(random_state):
    """Return the generator of a parameter `random_state`."""
    if random_state is None:
        # None means numpy's global generator in scikit-learn; a fit must not advance it.
        return np.random.RandomState()
    return check_random_state(random_state)


def read_log(est, n_samples, y, side_information, purpose="fit"):
    """Return the checked log and the assumptions; store the signals on the estimator.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    n_samples : int
        Rows of X.
    y : array-like
    side_information : dict
        Arguments of `fit`: sample_weight, response_id, exposures, labels, propensity.
    purpose : {"fit", "batch"}
        As in `FeedbackLog.from_arguments`.
    """
    est.objective_ = (
        copy.deepcopy(est.objective)
        if isinstance(est.objective, Objective)
        else OBJECTIVES[est.objective]()
    )
    log, assumptions = FeedbackLog.from_arguments(
        y, n_samples, Assumptions.of(est), est.objective_, purpose=purpose, **side_information
    )
    est.n_signals_ = log.n_signals
    est.signals_ = log.signals
    est.one_dimensional_ = log.one_dimensional
    est.classes_ = np.array([0, 1])
    est.group_names_ = GROUP_NAMES
    est.false_action_rate_ = assumptions.false_action_rate
    for name in ("signal_names_in_", "null_is_silent_", "user_activity_", "user_loading_"):
        vars(est).pop(name, None)
    if log.names is not None:
        est.signal_names_in_ = log.names
    return log, assumptions


def reread_log(est, n_samples, y, side_information, *, purpose="query", name="y"):
    """Return the checked log for a method other than the first fit."""
    return FeedbackLog.from_arguments(
        y,
        n_samples,
        Assumptions.of(est).with_rates(est.false_action_rate_),
        est.objective_,
        purpose=purpose,
        name=name,
        known=KnownSignals.of(est),
        **side_information,
    )[0]


def signal_names(est):
    """Return the names of the signals of a fitted estimator, or their positions."""
    return list(getattr(est, "signal_names_in_", range(est.n_signals_)))


def _check_level(est, result, token, in_search):
    """Lower a verdict, with a warning, if the log hardly shows the level, or another one."""
    levels = [level for level in result.levels if level is not None]
    if not levels:
        return
    before = found = est.identification_
    interval = result.plan.assumptions.preference_interval
    # Several levels are those of members with starts of their own.
    if interval is not None:
        found = contradicted_rate(found, min(levels, key=lambda one: abs(one.mean - one.fitted)))
    if interval is None or interval[0] < interval[1]:
        found = imprecise(found, min(level.error for level in levels))
    est.identification_ = found
    if found is not before:
        warn_not_identified(est.identification_, est.objective_, token, in_search=in_search)


def take_evidence(est, log, assumptions):
    """Set what a log and the parameters identify about the reward; the log may contradict them."""
    rate = assumptions.false_action_rate
    evidence = Evidence.of(log, rate, log.telling_signals(rate))
    _assess(est, evidence, log.coincidences, assumptions)
    against = [found for found, _ in log.refuted(assumptions)]
    if against:
        est.identification_ = contradicted(est.identification_, "; ".join(against), "rates")


def add_evidence(est, log, assumptions, *, first):
    """Set what the batches so far and the parameters identify; warn of what contradicts it.

    Contradictions that a fit to a whole log has found stay. Batches are not tested for them, and
    more rows do not mend them.
    """
    evidence, coincidences = Evidence.of(log, assumptions.false_action_rate), log.coincidences
    before, known = None, ""
    if not first:
        before, known = est.identification_, _dependence(est, est.coincidences_)
        evidence, coincidences = evidence + est.evidence_, coincidences + est.coincidences_
    _assess(est, evidence, coincidences, assumptions)
    if before is not None and before.against != known:
        est.identification_ = before
    elif first or (est.identification_.against and not known):
        warn_not_identified(est.identification_, est.objective_, token_of(est, None))


def _assess(est, evidence, coincidences, assumptions):
    """Set what counts of a log and the parameters identify about the reward."""
    objective = est.objective_
    sizes = est.hidden_layer_sizes, est.propensity_hidden_layer_sizes
    if objective.single_signal:
        # Whether a response was acted on at all is what these learn from, once per response.
        evidence = replace(evidence, n_repeated=0)
    est.evidence_, est.coincidences_ = evidence, coincidences
    is_constant = objective.propensity_form == "constant"
    est.identification_ = assess(
        evidence,
        objective=objective,
        columns="disjoint" if is_constant else HeadColumns.of(est).relation,
        preference_rate=assumptions.preference_interval,
        false_actions=assumptions.false_actions,
        label_mechanism=assumptions.label_mechanism,
        linear=all(size in ((), [], None) for size in sizes) and sizes[0] is not None,
        n_signals=est.n_signals_,
        signals=est.signals_,
        examined=assumptions.examined,
        shared_propensity=assumptions.shared_propensity,
    )
    against = _dependence(est, coincidences)
    if against:
        est.identification_ = dependent(est.identification_, against)


def _dependence(est, coincidences):
    """Return, in words, which signals are not independent though the objective takes them as so."""
    objective = est.objective_
    if not objective.models_propensity or objective.single_signal or objective.identifies:
        return ""
    return "; ".join(coincidences.dependent(signal_names(est)))


def known_users(found, signals, loading, n_rows, looked_at):
    """Return an `Identification` with what users who differ in activity add.

    Very active users show the reward only in signals whose shares bound it.

    Parameters
    ----------
    found : Identification
    signals : tuple of Signal
    loading : ndarray of shape (signals,) or longer
        As `user_loading_`.
    n_rows : ndarray of int of shape (users,)
    looked_at : bool
        Whether it is stated that every row was looked at.
    """
    telling = [k for k, signal in enumerate(signals) if signal.bounds]
    return with_activity(found, loading[telling], n_rows, looked_at) if telling else found


def expected_users(est, log):
    """Set what an estimator expects of the users of a log, after `identify`."""
    if any(signal.bounds for signal in est.signals_):
        est.identification_ = before_activity(
            est.identification_, log.rows_of_users, est.shared_examination is False
        )


def identify(est, n_samples, y, side_information):
    """Set what a log identifies about the reward, before training; return log and assumptions."""
    log, assumptions = read_log(est, n_samples, y, side_information)
    take_evidence(est, log, assumptions)
    return log, assumptions


@dataclass(eq=False)
class BegunFit:
    """A fit before it trains.

    Attributes
    ----------
    plan : FitPlan
    data : TrainingData
    random_state : numpy.random.RandomState
        The generator, in its state after the draws so far.
    further : dict of str to ndarray
        Further fields of `Batch`.
    keeps_weights : bool
        Whether training continues from the weights of the estimator.
    """

    plan: FitPlan
    data: TrainingData
    random_state: np.random.RandomState
    further: dict
    keeps_weights: bool

    def model(self, fitted):
        """Return the heads where training starts, `fitted` being the estimator's earlier heads."""
        if self.keeps_weights:
            return self.plan.model_like(fitted, self.data)
        return self.plan.initial_model(self.data, self.random_state)


def begin_fit(est, X, y, groups=None, **side_information):
    """Check and split the data, run the preliminary fits, and return the plan of a fit.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    X : array-like of shape (n_samples, n_features), or Source
        Vectors.
    y, groups, **side_information
        Arguments of `fit`.

    Returns
    -------
    begun : BegunFit
    """
    keeps_weights = est.warm_start and hasattr(est, "model_")
    users = side_information.get("user_id") is not None
    if keeps_weights and (users or est.model_.log_loading is not None):
        raise ImplicitRMError(
            "warm_start=True is not available with user_id: two models are fitted and only one is "
            "kept, so the other has no start. Set warm_start=False."
        )
    before = HeadColumns.of(est) if keeps_weights else None
    X = select_features(est, X, reset=True)
    columns = HeadColumns.of(est)
    if keeps_weights:
        check_same_setting(est.model_, "n_in", X.shape[1])
        columns.check_same_as(before)
    random_state = own_random_state(est.random_state)
    log, assumptions = identify(est, len(X), y, side_information)
    repeated = warn_of_actions(X, log, columns)
    _check_offered(est, signals_not_offered(X, log, columns, repeated))
    data = TrainingData(
        X,
        log,
        columns,
        est.objective_,
        response_id=side_information.get("response_id"),
        groups=groups,
    )
    if est.early_stopping:
        data.split(est.validation_fraction, random_state, est.max_epochs)
    update_scaler(est, data, reset=not keeps_weights)
    measurement = assumptions.measurement(data.log.signals)
    tells_level = bool(est.evidence_.shown_twice) or est.identification_.level == IDENTIFIED
    plan = FitPlan.of(est, columns, est.objective_, measurement, assumptions, tells_level)
    if assumptions.estimates_false_actions:
        plan = estimate_false_action_rates(plan, data, random_state)
        est.false_action_rate_ = plan.assumptions.false_action_rate
    further = prepare_objective(plan, data, random_state)
    return BegunFit(plan, data, random_state, further, keeps_weights)


def _check_offered(est, found):
    """Warn of signals that were not offered in a part of the log, and lower a verdict by them."""
    if not found:
        return
    texts = [text for text, _ in found[:3]]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    warn(
        f"{'; '.join(texts)}{more}. If the signal was not offered or not logged there, use NaN "
        "in place of 0."
    )
    against = next((text for text, matters in found if matters), None)
    verdict = est.identification_
    if against is not None and "independent signals" in verdict.assumptions:
        est.identification_ = contradicted(verdict, against, "offered")


def update_scaler(est, data, *, reset):
    """Let the estimator's scaler learn from the training rows."""
    scaler = None
    if est.standardize:
        scaler = None if reset else getattr(est, "scaler_", None)
        scaler = StandardScaler() if scaler is None else scaler
    data.update_scaler(scaler)
    est.scaler_ = scaler


@same(all_or_nothing)
@same(with_callbacks)
def run_fit(est, X, y, *, adjust=None, **fit_params):
    """Fit an estimator and run its callbacks.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        With valid parameters.
    X, y, **fit_params
        Arguments of `fit`.
    adjust : callable(FitPlan) -> FitPlan, default=None
        Changes the plan before it runs.
    """
    check_same_rows(X, y=y, **fit_params)
    set_embedder(est)
    # Callbacks score on X in every epoch; X must not be embedded each time.
    X = embed_text(est, X, reset=True)
    begun = begin_fit(est, X, y, **fit_params)
    if adjust is not None:
        begun.plan = adjust(begun.plan)
    est.model_ = begun.model(getattr(est, "model_", None))
    est.history_ = []
    epochs = begun.plan.n_epochs(begun.data, est.early_stopping)
    context = begin_callbacks(est, epochs)
    in_search = context.parent is not None
    token = token_of(est, context.parent)
    has_users = begun.data.log.user is not None
    if not has_users:
        warn_not_identified(est.identification_, est.objective_, token, in_search=in_search)
    weight = fit_params.get("sample_weight")
    details = {
        "X": X,
        "y": y,
        "metadata": None if weight is None else {"sample_weight": weight},
        "reconstruction_attributes": lambda: _fitted_attributes(est),
    }
    context.call_on_fit_task_begin(estimator=est, **details)
    held_out = HeldOut.of(begun.data)
    hooks = _hooks(est, context, details)
    if has_users:
        result = fit_users(est, begun, epochs, hooks)
        est.identification_ = known_users(
            est.identification_,
            est.signals_,
            est.user_loading_,
            est.user_activity_.n_rows,
            est.shared_examination is False,
        )
        warn_not_identified(est.identification_, est.objective_, token, in_search=in_search)
    else:
        result = begun.plan.run(
            begun.data,
            est.model_,
            epochs,
            begun.random_state,
            hooks=hooks,
            further=begun.further,
        )
    est.n_iter_ = len(est.history_)
    _check_level(est, result, token, in_search)
    if est.objective_.models_actions:
        check_verdict(est, held_out, token, in_search)
    for leftover in ("optimizer_state_", "random_state_", "fine_tuning_"):  # of earlier training
        vars(est).pop(leftover, None)
    context.call_on_fit_task_end(estimator=est, **details)
    warn_still_improving(est, result.n_running)
    if hooks.checkpoint is not None:
        hooks.checkpoint.remove()
    return est


@same(with_callbacks)
def run_plan(est, begun, plan, model, data=None):
    """Train a model by a plan that is not that of its estimator, and run the estimator's callbacks.

    They get neither data nor a fitted estimator, because the model is not that of one.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    begun : BegunFit
    plan : FitPlan
    model : RewardModel
        Trained in place.
    data : TrainingData, default=None
        None: that of `begun`.

    Returns
    -------
    result : FitResult
    """
    data = begun.data if data is None else data
    epochs = plan.n_epochs(data, est.early_stopping)
    context = begin_callbacks(est, epochs)
    context.call_on_fit_task_begin(estimator=est)
    hooks = _watched(est, context, {}, lambda record: None)
    result = plan.run(data, model, epochs, begun.random_state, hooks=hooks, further=begun.further)
    context.call_on_fit_task_end(estimator=est)
    return result


def _hooks(est, context, details):
    """Return the functions that report each epoch of a fit, and where it is kept."""
    hooks = _watched(est, context, details, partial(log_epoch, est))
    return replace(hooks, checkpoint=Checkpoint.of(est))


def _watched(est, context, details, log):
    """Return the functions that report each epoch to the callbacks of an estimator."""
    epoch = None

    def epoch_begin():
        nonlocal epoch
        epoch = context.subcontext(task_name="epoch")
        epoch.call_on_fit_task_begin(estimator=est, **details)

    def epoch_end(record):
        log(record)
        return epoch.call_on_fit_task_end(estimator=est, **details)

    return Hooks(epoch_begin, epoch_end)


def log_epoch(est, record):
    """Append the losses of an epoch to the history of an estimator, and print them if verbose."""
    est.history_.append(record)
    if est.verbose:
        losses = ", ".join(f"{name} {np.mean(loss):.4f}" for name, loss in record.items())
        print(f"[ImplicitRewardEstimator] epoch {len(est.history_)}: {losses}")  # noqa: T201
    return False


def _fitted_attributes(est):
    fitted = {k: v for k, v in vars(est).items() if k.endswith("_") and not k.startswith("_")}
    return fitted | {"model_": copy.deepcopy(est.model_), "n_iter_": len(est.history_)}


def token_of(est, parent):
    """Return the object shared by fits that need only one warning, None for a single fit.

    Within a search or pipeline, it is the root of the callback contexts. Functions such as
    `cross_validate` do not have a context, but they fit clones of one estimator.

    Parameters
    ----------
    est : ImplicitRewardEstimator
    parent : CallbackContext or None
        The context of the search or pipeline.
    """
    return siblings_of(est) if parent is None else parent.root_uuid


def warn_still_improving(est, n_members):
    """Warn if members were still improving when training stopped."""
    if n_members and est.n_iter_ == est.max_epochs:
        warn(
            f"{n_members} of {est.n_estimators} members were still improving after "
            f"max_epochs={est.max_epochs} epochs. Increase max_epochs or learning_rate_init.",
            ConvergenceWarning,
        )


def fit_side_by_side(heads, X, y, *, seed, paused, pause=None, token=None, **fit_params):
    """Fit several estimators that differ only in `SIDE_BY_SIDE`, in one pass over the data.

    Each result equals that of a separate fit, up to rounding.

    Parameters
    ----------
    heads : list of ImplicitRewardEstimator
        Without callbacks; fitted in place.
    X, y, **fit_params
        Arguments of `fit`, but not user_id, with which a fit trains two models in turn.
    seed : int
        Seed for ``random_state=None``, so that every round draws the same numbers.
    paused : list of dict or None
        The state from which each paused head continues; None for a new one.
    pause : int, default=None
        The epoch after which to pause.
    token : object, default=None
        Token of the search, see `token_of`.

    Returns
    -------
    progress : list of dict or None
        The state from which each paused head continues, empty if it is done. None if it has
        diverged, in which case it is not fitted.
    """
    lead = copy.copy(heads[0])
    lead.max_epochs = max(head.max_epochs for head in heads)
    if lead.random_state is None:
        lead.random_state = seed
    set_embedder(lead)
    begun = begin_fit(lead, embed_text(lead, X, reset=True), y, **fit_params)
    plan = begun.plan
    plan = begun.plan = FitPlan.stack(
        FitPlan.of(
            head,
            plan.columns,
            plan.objective,
            plan.measurement,
            plan.assumptions,
            plan.tells_level,
        )
        for head in heads
    )
    model = begun.model(None)
    warn_not_identified(lead.identification_, lead.objective_, token, in_search=True)
    history: list[dict[str, Any]] = []
    result = plan.run(
        begun.data,
        model,
        plan.n_epochs(begun.data, lead.early_stopping),
        begun.random_state,
        hooks=Hooks(epoch_end=history.append),
        progress=None if paused[0] is None else paused,
        pause=pause,
    )
    parameters = lead.get_params(deep=False)
    fitted = {name: value for name, value in vars(lead).items() if name not in parameters}
    found = []
    for number, (head, before, own) in enumerate(zip(heads, paused, result.unstack(), strict=True)):
        if own is None:
            found.append(None)
            continue
        part = slice(number * plan.n_members, (number + 1) * plan.n_members)
        earlier = [] if before is None else before["history"]
        vars(head).update(fitted)
        head.model_, head.n_iter_ = own.model, own.n_epochs
        head.history_ = earlier + [
            {name: losses[part] for name, losses in record.items()}
            for record in history[: own.n_epochs - len(earlier)]
        ]
        if own.progress is None:
            warn_still_improving(head, own.n_running)
            found.append({})
        else:
            found.append(own.progress | {"history": head.history_})
    return found
