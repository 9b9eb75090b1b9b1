"""The estimator within scikit-learn: pipelines, searches, routing, callbacks, pandas."""

import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import FAST, exposed, make_log
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import token_of
from implicitrm_sk._sklearn import searches_by_own_score
from implicitrm_sk.metrics import make_preference_scorer

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


def test_is_a_plain_estimator():
    tags = sklearn.utils.get_tags(ImplicitRewardEstimator())
    assert tags.estimator_type is None
    assert tags.target_tags.required
    assert isinstance(ImplicitRewardEstimator(), BaseEstimator)


# ---------------------------------------------------------------- pipelines, searches, scorers


def test_pipeline_grid_search_and_scorers():
    X, y, preference = make_log(n=240)
    X = X.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), ImplicitRewardEstimator(**FAST))
    grid = {"implicitrewardestimator__weight_decay": [0.0, 0.1]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    serial = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert_allclose(
        search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"], atol=1e-5
    )
    assert_allclose(search.predict(X), serial.predict(X), atol=1e-5)

    proba = cross_val_predict(pipeline, X, y, cv=StratifiedKFold(2), method="predict_proba")
    assert proba.shape == (240, 4)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    scores = cross_validate(
        pipeline,
        X,
        y,
        cv=2,
        error_score="raise",
        scoring=["r2", "neg_mean_absolute_error", "roc_auc", "average_precision"],
    )
    assert (scores["test_roc_auc"] > 0.6).all()
    default = cross_validate(pipeline, X, y, cv=2, error_score="raise")["test_score"]
    assert ((default > -1) & (default < 0)).all()
    # roc_auc scores the reward, not some column of predict_proba.
    fitted = clone(pipeline).fit(X, y)
    assert sklearn.metrics.get_scorer("roc_auc")(fitted, X, preference) == pytest.approx(
        sklearn.metrics.roc_auc_score(preference, fitted.predict(X))
    )
    with pytest.raises(ValueError):
        sklearn.metrics.get_scorer("accuracy")(fitted, X, y)


def test_cross_val_predict_names_the_cause_of_encoded_nan():
    X, y, _ = make_log(n=200)
    y = y.astype(float)
    y[::5] = np.nan
    with pytest.raises(ValueError, match="cross_val_predict encodes y .* turns NaN into 2"):
        cross_val_predict(ImplicitRewardEstimator(**FAST), X, y, cv=2, method="predict_proba")


def test_data_frames_and_pandas_output():
    X, y, _ = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    reference = ImplicitRewardEstimator(**FAST).fit(X, y)
    with sklearn.config_context(transform_output="pandas"):
        pipeline = make_pipeline(StandardScaler(), ImplicitRewardEstimator(**FAST))
        pipeline.fit(frame, pd.Series(y))
        estimator = pipeline[-1]
        assert_array_equal(estimator.feature_names_in_, frame.columns)
        assert isinstance(pipeline.predict(frame), np.ndarray)
        assert_allclose(pipeline.predict(frame), reference.predict(X), atol=1e-4)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[frame.columns[::-1]])


# ---------------------------------------------------------------- callbacks


def test_progress_bar_nests_in_a_search(capsys):
    X, y, _ = make_log()
    search = GridSearchCV(
        ImplicitRewardEstimator(**FAST), {"dropout": [0.0, 0.1]}, cv=2, error_score="raise"
    )
    search.set_callbacks(ProgressBar()).fit(X, y)
    plain = clone(search).set_callbacks().fit(X, y)
    assert "ImplicitRewardEstimator - fit" in capsys.readouterr().out
    assert_array_equal(search.predict(X), plain.predict(X))


def test_scoring_monitor_scores_each_epoch():
    X, y, _ = make_log()
    monitor = ScoringMonitor(scoring="roc_auc")
    estimator = ImplicitRewardEstimator(**FAST).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs()
    epochs = [row["roc_auc"] for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == estimator.n_iter_ == 8
    assert epochs[-1] > epochs[0]


class StopAfter:
    """A callback that ends training after some epochs and keeps what it was given."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.rewards = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name == "epoch":
            self.rewards.append(fitted_estimator.predict(X))
        return len(self.rewards) >= self.epochs


def test_callback_sees_each_epoch_and_may_stop():
    X, y, _ = make_log()
    callback = StopAfter(3)
    estimator = ImplicitRewardEstimator(**FAST | {"early_stopping": False})
    estimator.set_callbacks(callback).fit(X, y)
    assert estimator.n_iter_ == 3
    assert len(callback.rewards) == 3
    assert not np.array_equal(callback.rewards[0], callback.rewards[1])
    assert_array_equal(callback.rewards[-1], estimator.predict(X))


def test_failed_fit_in_a_callback_leaves_no_context():
    class Broken(StopAfter):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("stop")

    X, y, _ = make_log(n=160)
    estimator = ImplicitRewardEstimator(**FAST).set_callbacks(Broken(1))
    with pytest.raises(RuntimeError, match="stop"):
        estimator.fit(X, y)
    assert not hasattr(estimator, "_callback_fit_ctx")


# ---------------------------------------------------------------- routing


class Spy(ImplicitRewardEstimator):
    """Records which metadata each call got."""

    calls = []

    def fit(self, X, y, sample_weight=None, groups=None):
        self.calls.append(("fit", len(X), sample_weight, groups))
        return super().fit(X, y, sample_weight, groups)

    def score(self, X, y, true_preference=None, sample_weight=None):
        self.calls.append(("score", len(X), true_preference, sample_weight))
        return super().score(X, y, true_preference, sample_weight)


@pytest.mark.parametrize("scoring", [None, make_preference_scorer("r2")])
def test_true_preference_reaches_score_and_no_fit(scoring):
    X, y, preference = make_log(n=240)
    Spy.calls = []
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Spy(**FAST)),
            {"spy__dropout": [0.0, 0.3]},
            cv=2,
            scoring=scoring,
            error_score="raise",
        ).fit(X, y, true_preference=preference)
        assert search.cv_results_["mean_test_score"].shape == (2,)
        assert search.score(X, y, true_preference=preference) == pytest.approx(
            r2_score(preference, search.predict(X)), abs=1e-6
        )
    fits = [call for call in Spy.calls if call[0] == "fit"]
    scores = [call for call in Spy.calls if call[0] == "score"]
    assert len(fits) == 5
    assert all(call[2] is None and call[3] is None for call in fits)
    if scoring is None:
        assert all(len(call[2]) == call[1] for call in scores)
    with pytest.raises(TypeError, match="true_preference"):
        Spy(**FAST).fit(X, y, true_preference=preference)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_fit_refuses_the_truth_and_says_what_to_pass(method):
    X, y, preference = make_log(n=40)
    message = f"^{method} got true_preference, which is for evaluation.* labels="
    with pytest.raises(TypeError, match=message):
        getattr(ImplicitRewardEstimator(**FAST), method)(X, y, true_preference=preference)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_routing_with_and_without_weights_and_groups(weighted, grouped):
    X, y, _ = make_log(n=240)
    Spy.calls = []
    params = {}
    if weighted:
        params["sample_weight"] = np.linspace(0.5, 2, 240)
    if grouped:
        params["groups"] = np.arange(240) // 3
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(PCA(3, random_state=0), Spy(**FAST))
        cv = GroupKFold(2) if grouped else 2
        result = cross_validate(pipeline, X, y, cv=cv, params=params, error_score="raise")
        assert np.isfinite(result["test_score"]).all()
        pipeline.fit(X, y, **params).score(
            X, y, **{k: v for k, v in params.items() if k == "sample_weight"}
        )
        reward, std = pipeline.predict(X, return_std=True)
        assert std.shape == (240,)
        assert pipeline.predict_proba(X, actions=y).shape == (240, 4)
    fits = [call for call in Spy.calls if call[0] == "fit"]
    assert all((call[2] is not None) == weighted for call in fits)
    assert all((call[3] is not None) == grouped for call in fits)
    if weighted:
        assert all(call[3] is not None for call in Spy.calls if call[0] == "score")


def test_groups_and_ids_go_through_cross_validation():
    X, _, _, rows, acted = exposed()
    params = {"response_id": rows, "groups": rows // 2}
    with sklearn.config_context(enable_metadata_routing=True):
        result = cross_validate(
            make_pipeline(StandardScaler(), ImplicitRewardEstimator(false_action_rate=0.0, **FAST)),
            X[rows],
            acted,
            cv=GroupKFold(3),
            params=params,
            error_score="raise",
        )
    assert np.isfinite(result["test_score"]).all()


ROUTED = {
    "sample_weight",
    "groups",
    "response_id",
    "exposures",
    "labels",
    "propensity",
    "true_preference",
}


class Recorder(ImplicitRewardEstimator):
    """Records what reached fit and score, and of which rows."""

    calls = []

    def fit(
        self,
        X,
        y,
        sample_weight=None,
        groups=None,
        response_id=None,
        exposures=None,
        labels=None,
        propensity=None,
    ):
        given = {
            name: value for name, value in vars().items() if name in ROUTED and value is not None
        }
        self.calls.append(("fit", X[:, 0], y, given))
        return super().fit(X, y, **given)

    def score(
        self,
        X,
        y,
        true_preference=None,
        sample_weight=None,
        response_id=None,
        exposures=None,
        propensity=None,
    ):
        given = {
            name: value for name, value in vars().items() if name in ROUTED and value is not None
        }
        self.calls.append(("score", X[:, 0], y, given))
        return super().score(X, y, **given)


def routed_search(cv, **params):
    Recorder.calls = []
    return GridSearchCV(
        # The first column numbers the rows, and stays as it is.
        make_pipeline(FunctionTransformer(), Recorder(false_action_rate=0.05, **FAST)),
        {"recorder__dropout": [0.0, 0.3]},
        cv=cv,
        error_score="raise",
        **params,
    )


def test_preference_reaches_fit_and_true_preference_score():
    X, y, _ = make_log(n=240)
    X[:, 0] = np.arange(240)
    # Every row has values of its own.
    preference = np.where(np.arange(240) % 3 == 0, (np.arange(240) + 0.25) / 240, np.nan)
    truth = (np.arange(240) + 0.75) / 240
    cv = KFold(3, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        search = routed_search(cv=cv).fit(X, y, labels=preference, true_preference=truth)
        found = search.score(X, y, true_preference=truth)
        assert found == pytest.approx(r2_score(truth, search.predict(X)), abs=1e-6)
    everything = np.arange(240)
    expected = [rows for _ in range(2) for fold in cv.split(X) for rows in fold]
    expected += [everything, everything]  # the refit, and the score above
    assert len(Recorder.calls) == len(expected)
    for i, (kind, numbers, actions, given) in enumerate(Recorder.calls):
        rows = expected[i]
        assert_array_equal(numbers, rows)
        assert_array_equal(actions, y[rows])
        if i % 2 == 0:
            assert kind == "fit" and set(given) == {"labels"}
            assert_array_equal(given["labels"], preference[rows])
        else:
            assert kind == "score" and set(given) == {"true_preference"}
            assert_array_equal(given["true_preference"], truth[rows])
    assert "true_preference" not in inspect.signature(ImplicitRewardEstimator.fit).parameters
    assert "labels" not in inspect.signature(ImplicitRewardEstimator.score).parameters


@pytest.mark.filterwarnings("ignore:labels are known of")
def test_side_information_of_fit_and_score_goes_to_both():
    X, y, _ = make_log(n=240)
    X[:, 0] = np.arange(240)
    side = {
        "sample_weight": (np.arange(240) + 1) / 240,
        "response_id": np.array([f"r{i}" for i in range(240)]),
        "exposures": 1 + np.arange(240) % 3,
        "propensity": np.where(np.arange(240) % 2, 0.5 + np.arange(240) / 1000, np.nan),
    }
    only_fit = {"labels": np.where(y == 0, np.arange(240) / 1000, np.nan)}
    with sklearn.config_context(enable_metadata_routing=True):
        routed_search(cv=2, refit=False).fit(X, y, **side, **only_fit)
    assert len(Recorder.calls) == 8
    for kind, rows, _, given in Recorder.calls:
        expected = side | (only_fit if kind == "fit" else {})
        assert set(given) == set(expected)
        for name, value in expected.items():
            assert_array_equal(given[name], value[rows.astype(int)])


# ---------------------------------------------------------------- searches that rank by score


class Asks(ImplicitRewardEstimator):
    """Asks in each fit whether a search compares values of a parameter by `score`."""

    answers = []

    def fit(self, X, y):
        name, without = "dropout", "true_preference"
        self.answers.append(searches_by_own_score(name, without))
        return super().fit(X, y)


def answers(fit):
    Asks.answers = []
    fit(*make_log(n=80))
    return Asks.answers


def ask(**params):
    return Asks(**FAST | {"max_epochs": 1, "early_stopping": False} | params)


def grid(name="dropout", estimator=None, **params):
    estimator = ask() if estimator is None else estimator
    return GridSearchCV(estimator, {name: [0.1]}, cv=2, error_score="raise", **params)


def test_outside_a_search_nothing_is_ranked():
    assert answers(lambda X, y, _: ask().fit(X, y)) == [False]
    assert answers(lambda X, y, _: make_pipeline(StandardScaler(), ask()).fit(X, y)) == [False]
    assert answers(lambda X, y, _: cross_validate(ask(), X, y, cv=2)) == [False] * 2


def test_a_search_by_score_ranks_what_it_varies():
    # The refit is outside the search.
    assert answers(lambda X, y, _: grid().fit(X, y)) == [True, True, False]
    pipeline = make_pipeline(StandardScaler(), ask())
    found = answers(lambda X, y, _: grid("asks__dropout", pipeline).fit(X, y))
    assert found == [True, True, False]
    for other in (
        grid("weight_decay", refit=False),  # it varies something else
        grid(scoring="r2", refit=False),
    ):
        assert answers(lambda X, y, _, other=other: other.fit(X, y)) == [False] * 2
    with sklearn.config_context(enable_metadata_routing=True):
        for search in (
            grid(refit=False),  # `score` compares with the truth
            grid(scoring=make_preference_scorer("r2"), refit=False),
        ):

            def fit(X, y, truth, search=search):
                search.fit(X, y, true_preference=truth)

            assert answers(fit) == [False] * 2


# ---------------------------------------------------------------- one warning for several fits


def test_fits_of_clones_of_one_estimator_have_a_token_in_common():
    estimator = ImplicitRewardEstimator()
    assert token_of(estimator, None) is None
    one, other = clone(estimator), clone(estimator)
    assert token_of(one, None) is token_of(other, None) is not None
    assert token_of(estimator, None) is None  # it is no clone itself
    assert token_of(clone(ImplicitRewardEstimator()), None) is not token_of(one, None)
    assert token_of(clone(one), None) is not token_of(one, None)
    # Which of them are clones of one is a matter of one process.
    assert token_of(pickle.loads(pickle.dumps(one)), None) is None


def test_fits_of_one_search_have_the_root_in_common():
    parent = SimpleNamespace(root_uuid="root")
    estimator = ImplicitRewardEstimator()
    for fitted in (estimator, clone(estimator)):
        assert token_of(fitted, parent) == "root"
