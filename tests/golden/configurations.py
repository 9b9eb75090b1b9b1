"""Small fits of every kind, whose results are not to change while the code is rearranged.

Written against the public interface alone, so that one file runs on commits before and after a
change of structure. Few epochs, in float64: rounding, which differs between processors, is not
amplified into something that a test could see.
"""

import hashlib
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicitrm_sk import (
    BatchedSearchCV,
    IdentificationWarning,
    ImplicitRewardEstimator,
    identification_report,
)

SETTINGS = {
    "n_estimators": 2,
    "hidden_layer_sizes": (6,),
    "learning_rate_init": 0.01,
    "dropout": 0.0,
    "batch_size": 32,
    "max_epochs": 5,
    "early_stopping": False,
    "device": "cpu",
    "dtype": "float64",
    "random_state": 0,
}
#: Rows of X that predictions are compared on.
FIRST = 6
#: By name: functions that return (fitted estimators, {name: numbers}).
CONFIGURATIONS = {}


def configuration(function):
    """Register a configuration under the name of its function."""
    CONFIGURATIONS[function.__name__] = function
    return function


def run(name):
    """Return the fitted estimators of a configuration, and its numbers as flat lists by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Few epochs and, in some, one signal are what is wanted here.
        warnings.simplefilter("ignore", IdentificationWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", ".* works on one signal")
        fitted, values = CONFIGURATIONS[name]()
    return fitted, {
        key: np.asarray(value, dtype=float).ravel().tolist() for key, value in values.items()
    }


def digests(name):
    """Return sha256 of all weights, and of all numbers, of a configuration."""
    fitted, values = run(name)
    weights, numbers = hashlib.sha256(), hashlib.sha256()
    for est in fitted:
        for array in _weights(est):
            weights.update(f"{array.dtype}{array.shape}".encode())
            weights.update(np.ascontiguousarray(array).tobytes())
    for key, value in sorted(values.items()):
        numbers.update(key.encode())
        numbers.update(np.asarray(value).tobytes())
    return {"weights": weights.hexdigest(), "values": numbers.hexdigest()}


def _weights(est):
    # The only place that knows how weights are held: no method of the estimator returns them.
    yield from (parameter.detach().numpy() for parameter in est.model_.parameters())
    if est.scaler_ is not None:
        yield from (est.scaler_.mean_, est.scaler_.scale_)


# ------------------------------------------------------------------------ data and what is compared


def estimator(objective="stratified", **settings):
    return ImplicitRewardEstimator(objective, **SETTINGS | settings)


def make_log(seed, n=200, d=5, n_signals=1):
    """Return a generator to go on with, X, actions (n,) or (n, n_signals), and preferences."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 0.5
    preferred = X[:, 0] + 0.4 * X[:, 1] + 0.3 * rng.normal(size=n) > 0.3
    chance = np.linspace(0.4, 0.7, n_signals)
    y = (preferred[:, None] & (rng.uniform(size=(n, n_signals)) < chance)).astype(float)
    return rng, X, y[:, 0] if n_signals == 1 else y, preferred.astype(float)


def compared(est, X, y, preferred, **given):
    """Return what an estimator predicts, how it scores and how its training ended.

    Parameters
    ----------
    given : dict
        What `score` and `predict_proba` take beside X and actions: response_id, exposures, ...
    """
    first = X[:FIRST]
    values = dict(zip(("reward", "reward_std"), est.predict(first, return_std=True), strict=True))
    values["logit"] = est.decision_function(first)
    values["r2"] = est.score(X, y, true_preference=preferred)
    values["false_action_rate"] = est.false_action_rate_
    values["n_iter"] = est.n_iter_
    for loss, members in est.history_[-1].items():
        values[loss] = members
    if hasattr(est, "predict_proba"):  # the objective models actions
        values["score"] = est.score(X, y, **given)
        values["posterior"] = est.predict_proba(
            first, y[:FIRST], **{name: value[:FIRST] for name, value in given.items()}
        )
        values["action"] = est.predict_action(first)
        values["propensity"] = est.propensity(first)
    return values


# ---------------------------------------------------------------------------- logs of various kinds


@configuration
def one_signal():
    _, X, y, preferred = make_log(1)
    est = estimator(n_estimators=3, propensity_hidden_layer_sizes=()).fit(X, y)
    return [est], compared(est, X, y, preferred)


@configuration
def three_signals_partly_logged():
    rng, X, y, preferred = make_log(2, n_signals=3)
    y[rng.uniform(size=y.shape) < 0.2] = np.nan
    y[3] = np.nan  # a row that tells nothing
    est = estimator(hidden_layer_sizes=(6, 4), standardize=False).fit(X / 3, y)
    return [est], compared(est, X / 3, y, preferred)


@configuration
def exposures():
    rng, X, _, preferred = make_log(3)
    shown = rng.integers(1, 5, size=(len(X), 2))
    y = rng.binomial(shown, preferred[:, None] * [0.3, 0.6]).astype(float)
    est = estimator().fit(X, y, exposures=shown)
    return [est], compared(est, X, y, preferred, exposures=shown)


@configuration
def repeated_rows_in_groups():
    rng, X, _, preferred = make_log(4, n=90)
    response = rng.permutation(np.repeat(np.arange(90), 3))  # the rows of an id lie apart
    X, preferred = X[response], preferred[response]
    X[:, 4] = rng.normal(size=len(X))  # varies from exposure to exposure
    y = ((preferred > 0)[:, None] & (rng.uniform(size=(len(X), 2)) < 0.5)).astype(float)
    est = estimator(
        reward_features=[0, 1, 2],
        propensity_features=[2, 3, 4],
        early_stopping=True,
        validation_fraction=0.3,
        false_action_rate=0.0,
    )
    est.fit(X, y, response_id=response, groups=response // 3)
    return [est], compared(est, X, y, preferred, response_id=response)


@configuration
def labels():
    rng, X, y, preferred = make_log(5, n=240)
    label = np.where(rng.uniform(size=len(X)) < 0.3, preferred, np.nan)
    graded = np.flatnonzero(y == 0)[:30]
    label[graded] = rng.uniform(size=30).round(2)
    label[y == 1] = np.where(np.isnan(label[y == 1]), np.nan, 1.0)
    weight = rng.uniform(0.2, 3.0, size=len(X))
    weight[:4] = 0
    est = estimator(early_stopping=True).fit(X, y, sample_weight=weight, labels=label)
    values = compared(est, X, y, preferred)
    values["weighted_score"] = est.score(X, y, sample_weight=weight)
    return [est], values


@configuration
def labels_of_acted():
    rng, X, y, preferred = make_log(6, n_signals=2)
    y = np.maximum(y, rng.uniform(size=y.shape) < 0.1)
    asked = y.any(axis=1) & (rng.uniform(size=len(X)) < 0.5)
    est = estimator(label_mechanism="acted", false_action_rate=0.1)
    est.fit(X, y, labels=np.where(asked, preferred, np.nan))
    return [est], compared(est, X, y, preferred)


@configuration
def propensity_partly_known():
    rng, X, _, preferred = make_log(7)
    chance = rng.uniform(0.3, 0.9, size=(len(X), 2)).round(3)
    y = ((preferred > 0)[:, None] & (rng.uniform(size=chance.shape) < chance)).astype(float)
    known = np.where(rng.uniform(size=chance.shape) < 0.4, chance, np.nan)
    est = estimator().fit(X, y, propensity=known)
    return [est], compared(est, X, y, preferred, propensity=known)


@configuration
def columns_of_their_own():
    _, X, y, preferred = make_log(8, d=6)
    est = estimator(reward_features=slice(0, 4)).fit(X, y)
    return [est], compared(est, X, y, preferred)


@configuration
def false_actions_given():
    rng, X, y, preferred = make_log(9, n_signals=2)
    y = np.maximum(y, rng.uniform(size=y.shape) < [0.05, 0.1])
    est = estimator(false_action_rate=[0.05, 0.1]).fit(X, y)
    return [est], compared(est, X, y, preferred)


@configuration
def false_actions_estimated():
    rng, X, y, preferred = make_log(10, n=300, n_signals=3)
    y = np.maximum(y, rng.uniform(size=y.shape) < 0.08)
    est = estimator(false_action_rate="estimate", max_epochs=6).fit(X, y)
    return [est], compared(est, X, y, preferred)


@configuration
def preference_rate_in_interval():
    _, X, y, preferred = make_log(11)
    est = estimator(preference_rate=(0.75, 0.8), early_stopping=True).fit(X, y)
    values = compared(est, X, y, preferred)
    return [est], values | {"mean_reward": est.predict(X).mean()}


# -------------------------------------------------------------------------------- other objectives


def _fit_objective(objective, n_signals=1, *, settings=None, **given):
    _, X, y, preferred = make_log(12, n_signals=n_signals)
    est = estimator(objective, **settings or {}).fit(X, y, **given)
    return [est], compared(est, X, y, preferred)


@configuration
def naive():
    return _fit_objective("naive")


@configuration
def naive_of_repeated_rows():
    """Several signals and rows become "any logged action"."""
    rng, X, y, preferred = make_log(13, n=120, n_signals=2)
    response = rng.permutation(np.repeat(np.arange(60), 2))
    X, preferred = X[response], preferred[response]
    y[rng.uniform(size=y.shape) < 0.2] = np.nan
    est = estimator("recrec-i").fit(X, y, response_id=response)
    return [est], {
        "reward": est.predict(X[:FIRST]),
        "score": est.score(X, y, response_id=response),
        "posterior": est.predict_proba(X, y, response_id=response)[:FIRST],
        "train_loss": est.history_[-1]["train_loss"],
    }


@configuration
def ips_partly_known():
    """The objective fits what is not known before it trains."""
    rng = np.random.default_rng(14)
    known = np.where(rng.uniform(size=200) < 0.5, 0.5, np.nan)
    return _fit_objective("ips", settings={"early_stopping": True}, propensity=known)


@configuration
def dr_of_two_signals():
    return _fit_objective("dr", n_signals=2)


@configuration
def bpr():
    return _fit_objective("bpr", settings={"early_stopping": True}, groups=np.arange(200) // 5)


def _some_propensities():
    """Small ones among them, where clipped and non-negative objectives differ from the others."""
    rng = np.random.default_rng(23)
    return np.where(rng.uniform(size=200) < 0.7, rng.uniform(0.02, 0.9, size=200), np.nan)


def _add_objective(name, settings, given):
    def fit():
        return _fit_objective(name, settings={"max_epochs": 4, **settings}, **given)

    fit.__name__ = name.replace("-", "_")
    configuration(fit)


for _name in ("balanced", "root-naive", "mtips", "mtdr", "sdr"):
    _add_objective(_name, {}, {})
for _name in ("elkan-noto", "sar-em", "recrec-f", "counterif"):
    _add_objective(_name, {}, {})
for _name in ("upu", "nnpu"):  # a rate so high that the risk of the second would become negative
    _add_objective(_name, {"preference_rate": 0.9, "learning_rate_init": 0.05}, {})
for _name in ("rmf", "ncrmf", "ubpr", "cubpr", "uprl"):
    _add_objective(_name, {}, {"propensity": _some_propensities()})


# --------------------------------------------------------------------------------- ways of training


@configuration
def early_stopping_and_dropout():
    """Members stop at different epochs, and keep the weights of the best one."""
    _, X, y, preferred = make_log(15, n=300, n_signals=2)
    est = estimator(
        n_estimators=3,
        dropout=0.3,
        early_stopping=True,
        validation_fraction=0.3,
        n_iter_no_change=1,
        tol=0.01,
        learning_rate_init=0.05,
        max_epochs=12,
    ).fit(X, y)
    return [est], compared(est, X, y, preferred)


@configuration
def batch_by_batch():
    """`partial_fit`, saved and loaded between two batches."""
    _, X, y, preferred = make_log(16, n=300, n_signals=2)
    est = estimator(dropout=0.2)
    est.partial_fit(X[:100], y[:100]).partial_fit(X[100:200], y[100:200])
    with tempfile.TemporaryDirectory() as folder:
        est.save(Path(folder) / "model")
        loaded = ImplicitRewardEstimator.load(Path(folder) / "model")
    loaded.partial_fit(X[200:], y[200:])
    est.partial_fit(X[200:], y[200:])
    values = compared(est, X, y, preferred)
    return [est, loaded], values | {"reward_of_loaded": loaded.predict(X[:FIRST])}


@configuration
def warm_start():
    _, X, y, preferred = make_log(17, n=300)
    est = estimator(warm_start=True, max_epochs=3).fit(X[:150], y[:150]).fit(X[150:], y[150:])
    return [est], compared(est, X, y, preferred)


@contextmanager
def _everything_is_large():
    """Let files of a few kB count as too large for memory.

    No argument does this. The limits are set in whatever module they lie, under their names.
    """
    limits = {"STREAM_BYTES": 1000, "BLOCK_BYTES": 400, "WINDOW_BYTES": 4000}
    before = [
        (module, name, getattr(module, name))
        for path, module in list(sys.modules.items())
        if path.split(".")[0] == "implicitrm_sk"
        for name in limits
        if hasattr(module, name)
    ]
    if {name for _, name, _ in before} != set(limits):
        raise RuntimeError(f"no module of the package has all of {', '.join(limits)} any more.")
    try:
        for module, name, _ in before:
            setattr(module, name, limits[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@configuration
def streamed_file():
    _, X, y, preferred = make_log(18, n=300, n_signals=2)
    est = estimator(batch_size=16, early_stopping=True, dropout=0.2, max_epochs=4)
    with tempfile.TemporaryDirectory() as folder, _everything_is_large():
        path = Path(folder) / "X.npy"
        np.save(path, X)
        est.fit(path, y)
        values = compared(est, X, y, preferred)
        values["reward_of_file"] = est.predict(path)[:FIRST]
        values["score_of_file"] = est.score(path, y)
        try:
            estimator("bpr").fit(path, y[:, 0])
        except ValueError:
            pass  # pairs need rows in any order, which what is streamed cannot give
        else:
            raise RuntimeError("the file was not streamed.")
    return [est], values


# ------------------------------------------------------------------------- searches and reports


def _search(est, prefix="", **settings):
    rng, X, y, preferred = make_log(19, n=240, n_signals=2)
    grid = {prefix + "learning_rate_init": [0.003, 0.02], prefix + "dropout": [0.1, 0.3]}
    weight = rng.uniform(0.5, 2.0, size=len(X))
    step = prefix.removesuffix("__")
    search = BatchedSearchCV(est, grid, cv=2, error_score="raise", **settings)
    search.fit(X, y, **{prefix + "sample_weight": weight})
    best = search.best_estimator_
    if step:
        X, best = best[:-1].transform(X), best[-1]
    times = ("mean_fit_", "std_fit_", "mean_score_", "std_score_", "param")
    results = {
        name: value for name, value in search.cv_results_.items() if not name.startswith(times)
    }
    return [best], compared(best, X, y, preferred) | results | {"best": search.best_index_}


@configuration
def search():
    return _search(estimator(max_epochs=4), return_train_score=True)


@configuration
def search_with_early_stopping():
    est = estimator(early_stopping=True, n_iter_no_change=1, tol=0.02, max_epochs=8)
    return _search(est)


@configuration
def search_with_preference_rate():
    return _search(estimator(preference_rate=0.6, max_epochs=4))


@configuration
def search_of_pipeline():
    est = make_pipeline(StandardScaler(), estimator(standardize=False, max_epochs=4))
    return _search(est, prefix="implicitrewardestimator__")


@configuration
def search_by_halving():
    return _search(estimator(early_stopping=True, max_epochs=6), factor=2, min_resources=1)


@configuration
def search_by_ordinary_fits():
    """What learns from the whole log before it trains does not train side by side."""
    _, X, y, preferred = make_log(20)
    search = BatchedSearchCV(
        estimator("recrec-f", max_epochs=3), {"learning_rate_init": [0.003, 0.02]}, cv=2
    ).fit(X, y)
    best = search.best_estimator_
    scores = {"mean_test_score": search.cv_results_["mean_test_score"]}
    return [best], compared(best, X, y, preferred) | scores


def _report(est, X, y, **given):
    report = identification_report(est, X, y, n_starts=3, **given)
    values = {f"refits_{name}": report.refits[name] for name in report.refits}
    spread = report.reward_spread
    if report.refits["as_likely"].sum() == 1:  # was 0 when these values were written, is NaN now
        spread = 0.0 if np.isnan(spread) else spread
    values |= {"bounds": report.bounds(X[:FIRST]), "reward_spread": spread}
    values["reward"] = report.estimator.predict(X[:FIRST])
    if report.swap["applicable"]:
        values["swap"] = [report.swap["difference"], report.swap["standard_error"]]
    if report.independence is not None:
        values["independence"] = [report.independence.statistic, report.independence.p_value]
    return [report.estimator], values


@configuration
def report_of_one_signal():
    _, X, y, _ = make_log(21, n=240)
    return _report(estimator(), X, y)


@configuration
def report_of_three_signals():
    rng, X, y, preferred = make_log(22, n=300, n_signals=3)
    label = np.where(rng.uniform(size=len(X)) < 0.2, preferred, np.nan)
    return _report(estimator(early_stopping=True), X, y, labels=label)
