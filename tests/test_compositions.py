"""What composes with scikit-learn: each line of the table in docs/sklearn.md is a test."""

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, LEARN, make_log
from joblib import parallel_config
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay, calibration_curve
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE, SelectFromModel, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import DecisionBoundaryDisplay, partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import RocCurveDisplay, brier_score_loss, roc_auc_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
    TimeSeriesSplit,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator
from implicitrm_sk.metrics import make_preference_scorer

# The fits are short: most members could have trained for longer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::implicitrm_sk.exceptions.IdentificationWarning"),
]
PAGE = Path(__file__).parents[1] / "docs" / "sklearn.md"

X, Y, TRUTH = make_log(n=240, n_signals=2)
y = Y[:, 0]
GRID = {"dropout": [0.0, 0.2]}


def quick(**settings):
    return ImplicitRewardEstimator(**FAST | {"max_epochs": 2, "early_stopping": False} | settings)


@pytest.fixture(scope="module")
def two():
    """Return an estimator that has learned from two signals."""
    return ImplicitRewardEstimator(**LEARN).fit(X, Y)


#: By the line of the table: what it says, and the test.
LINES = {}


def line(tool, works):
    def note(check):
        LINES[tool] = works, check
        return check

    return note


@line("`Pipeline` that ends in it", "yes")
def _(two):
    pipe = make_pipeline(StandardScaler(), quick()).fit(X, Y)
    assert pipe.predict(X).shape == (240,)
    assert pipe[-1].propensity(pipe[:-1].transform(X)).shape == (240, 2)


@line("`Pipeline` with a step after it", "no")
def _(two):
    with pytest.raises(TypeError, match="intermediate steps should be transformers"):
        make_pipeline(quick(), LogisticRegression()).fit(X, y)


@line("`ColumnTransformer`, `FeatureUnion`", "yes")
def _(two):
    for step in (
        make_column_transformer((StandardScaler(), [0, 1]), remainder="passthrough"),
        make_union(StandardScaler(), PolynomialFeatures(include_bias=False)),
    ):
        pipe = make_pipeline(step, quick()).fit(X, Y)
        assert pipe[-1].n_features_in_ == step.transform(X).shape[1]


@line("`set_output`", "yes")
def _(two):
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    pipe = make_pipeline(StandardScaler(), quick(propensity_features=["e5"]))
    pipe[:-1].set_output(transform="pandas")
    assert list(pipe.fit(frame, Y)[-1].feature_names_in_) == list(frame)
    assert isinstance(pipe.predict(frame), np.ndarray)


@line("`clone`, `pickle`, `joblib`, HTML display", "yes")
def _(two):
    assert not hasattr(clone(two), "model_")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(two)).predict(X), two.predict(X))
    assert "ImplicitRewardEstimator" in two._repr_html_()


@line("`FrozenEstimator`", "yes")
def _(two):
    frozen = FrozenEstimator(two).fit(X + 9, 1 - Y)
    np.testing.assert_array_equal(frozen.predict(X), two.predict(X))


@line("`GridSearchCV`, `RandomizedSearchCV`, `HalvingGridSearchCV`", "yes")
def _(two):
    for search in (
        GridSearchCV(quick(), GRID, cv=2),
        RandomizedSearchCV(quick(), GRID, cv=2, n_iter=2),
        HalvingGridSearchCV(quick(), GRID, cv=2, min_resources=120),
    ):
        assert search.fit(X, Y).predict(X).shape == (240,)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@line("`BatchedSearchCV` of this package", "yes")
def _(two):
    grid = {"dropout": [0.1, 0.3]}
    found = BatchedSearchCV(quick(), grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]
    known = GridSearchCV(quick(), grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, known, atol=1e-4)


@line("`n_jobs`", "yes")
def _(two):
    # Processes are tested in test_sklearn.py.
    with parallel_config("threading"):
        with_jobs = cross_val_score(quick(), X, Y, cv=2, n_jobs=2, error_score="raise")
    np.testing.assert_allclose(with_jobs, cross_val_score(quick(), X, Y, cv=2), atol=1e-5)


@line("`cross_validate`, `cross_val_score`", "yes")
def _(two):
    scores = cross_validate(quick(), X, Y, cv=2, error_score="raise")["test_score"]
    np.testing.assert_allclose(scores, cross_val_score(quick(), X, Y, cv=2))
    assert (scores < 0).all()


@line("`cross_val_predict`", "yes")
def _(two):
    missing = np.where(np.arange(240)[:, None] % 5, Y, np.nan)
    found = cross_val_predict(quick(), X, missing, cv=2)
    alone = quick().fit(X[120:], missing[120:]).predict(X[:120])
    np.testing.assert_allclose(found[:120], alone, atol=1e-6)


@line('`cross_val_predict(method="predict_proba")`', "if y has no NaN")
def _(two):
    found = cross_val_predict(quick(), X, y, cv=2, method="predict_proba")
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="turns NaN into 2"):
        missing = np.where(np.arange(240) % 5, y, np.nan)
        cross_val_predict(quick(), X, missing, cv=2, method="predict_proba")
    table, signs = pd.DataFrame(Y, columns=["a", "b"]), ["positive", "positive"]
    est = quick().set_params(signals=signs)
    found = cross_val_predict(est, X, table, cv=2, method="predict_proba")
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    est = quick().set_params(signals=dict(zip("ab", signs, strict=True)))
    assert cross_val_predict(est, X, table, cv=2).shape == (240,)
    with pytest.raises(ValueError, match="loses its names in scikit-learn's cross_val_predict"):
        cross_val_predict(est, X, table, cv=2, method="predict_proba")


@line('`cross_val_predict(method="propensity")`', "no")
def _(two):
    with pytest.raises(ValueError, match="'method' parameter"):
        cross_val_predict(quick(), X, Y, cv=2, method="propensity")


@line("`learning_curve`, `validation_curve`, `permutation_test_score`", "yes")
def _(two):
    settings = {"cv": 2, "error_score": "raise"}
    for incremental in (False, True):
        _, _, scores = learning_curve(
            quick(), X, Y, train_sizes=[0.5, 1.0], exploit_incremental_learning=incremental,
            **settings,
        )  # fmt: skip
        assert np.isfinite(scores).all()
    _, scores = validation_curve(
        quick(), X, Y, param_name="dropout", param_range=[0.0, 0.5], **settings
    )
    assert np.isfinite(scores).all()
    score, by_chance, _ = permutation_test_score(quick(), X, Y, cv=2, n_permutations=2)
    assert np.isfinite([score, *by_chance]).all()


@line("`KFold`, `GroupKFold`, `TimeSeriesSplit`", "yes")
def _(two):
    group = np.arange(240) // 4
    for splitter in (KFold(2), GroupKFold(2), TimeSeriesSplit(2)):
        splits = list(splitter.split(X, Y, group if isinstance(splitter, GroupKFold) else None))
        assert np.isfinite(cross_val_score(quick(), X, Y, cv=splits, error_score="raise")).all()


@line("`StratifiedKFold` on one signal", "if y has no NaN")
def _(two):
    assert np.isfinite(cross_val_score(quick(), X, y, cv=StratifiedKFold(2))).all()
    with pytest.raises(ValueError):
        missing = np.where(np.arange(240) % 5, y, np.nan)
        cross_val_score(quick(), X, missing, cv=StratifiedKFold(2))


@line("`StratifiedKFold` on several signals", "no")
def _(two):
    with pytest.raises(ValueError, match="Got 'multilabel-indicator' instead"):
        cross_val_score(quick(), X, Y, cv=StratifiedKFold(2))
    cv = list(StratifiedKFold(5).split(X, Y.any(axis=1)))
    shares = [Y[test].any(axis=1).mean() for _, test in cv]
    assert np.ptp(shares) < 0.03
    assert np.isfinite(cross_val_score(quick(), X, Y, cv=cv, error_score="raise")).all()


@line("`train_test_split(stratify=y)`", "yes")
def _(two):
    train, test = train_test_split(np.arange(240), stratify=Y, random_state=0)
    np.testing.assert_allclose(Y[train].mean(axis=0), Y[test].mean(axis=0), atol=0.02)


@line("metadata routing", "yes")
def _(two):
    labels = np.where(np.arange(240) % 10, np.nan, TRUTH)
    params = {"labels": labels, "true_preference": np.where(np.isnan(labels), TRUTH, np.nan)}
    pipe = make_pipeline(StandardScaler(), quick())
    scoring = make_preference_scorer("auroc")
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(pipe, X, y, params=params, scoring=scoring, cv=2)
    assert np.isfinite(scores).all()


@line("`ProgressBar`, `ScoringMonitor`", "yes")
def _(two):
    monitor = ScoringMonitor(scoring="roc_auc")
    quick().set_callbacks(ProgressBar(), monitor).fit(X, y)
    assert len([row for row in monitor.get_logs().data if row["task_name"] == "epoch"]) == 2


@line("`permutation_importance`", "yes")
def _(two):
    settings = {"n_repeats": 2, "random_state": 0}
    by_likelihood = permutation_importance(two, X, Y, **settings).importances_mean
    by_truth = permutation_importance(two, X, TRUTH, scoring="r2", **settings).importances_mean
    assert by_likelihood.argmax() == by_truth.argmax() == 0


@line("`SequentialFeatureSelector`", "yes")
def _(two):
    selector = SequentialFeatureSelector(quick(), n_features_to_select=1, cv=2)
    assert selector.fit(X[:, :3], Y).get_support().sum() == 1


@line("`RFE`, `SelectFromModel`", "no")
def _(two):
    with pytest.raises(ValueError, match="should have `coef_`"):
        RFE(quick()).fit(X, y)
    with pytest.raises(ValueError, match="should have `coef_`"):
        SelectFromModel(quick()).fit(X, y).transform(X)


@line("`partial_dependence`", "no")
def _(two):
    with pytest.raises(ValueError, match="must be a fitted regressor or classifier"):
        partial_dependence(two, X, [0])


@line("`DecisionBoundaryDisplay`", "yes")
def _(two):
    pytest.importorskip("matplotlib").use("agg")
    est = quick().fit(X[:, :2], Y)
    display = DecisionBoundaryDisplay.from_estimator(est, X[:, :2], grid_resolution=4)
    assert np.isfinite(display.response).all()


@line("`roc_auc_score`, `RocCurveDisplay.from_predictions`, `calibration_curve`", "yes")
def _(two):
    pytest.importorskip("matplotlib").use("agg")
    reward = two.predict(X)
    display = RocCurveDisplay.from_predictions(TRUTH, reward)
    assert display.roc_auc == pytest.approx(roc_auc_score(TRUTH, reward))
    assert len(calibration_curve(TRUTH, reward)[0])


@line("`RocCurveDisplay.from_estimator`, `CalibrationDisplay.from_estimator`", "no")
def _(two):
    pytest.importorskip("matplotlib").use("agg")
    for display in (RocCurveDisplay, CalibrationDisplay):
        with pytest.raises(ValueError, match="binary classifier"):
            display.from_estimator(two, X, TRUTH)


@line('`scoring="roc_auc"`, `"r2"`, `"average_precision"`', "runs, but")
def _(two):
    for scoring in ("roc_auc", "r2", "average_precision"):
        settings = {"scoring": scoring, "cv": 2, "error_score": "raise"}
        assert np.isfinite(cross_val_score(quick(), X, y, **settings)).all()
        with pytest.raises(ValueError):
            cross_val_score(quick(), X, Y, **settings)


@line('`scoring="accuracy"`, `"neg_log_loss"`, `"neg_brier_score"`', "no")
def _(two):
    for scoring in ("accuracy", "neg_log_loss", "neg_brier_score"):
        with pytest.raises(ValueError):
            cross_val_score(quick(), X, y, scoring=scoring, cv=2, error_score="raise")


@line("`CalibratedClassifierCV(FrozenEstimator(est))` on true preferences", "yes")
def _(two):
    naive = ImplicitRewardEstimator("naive", **LEARN).fit(X, y)  # its level is that of actions
    calibrated = CalibratedClassifierCV(FrozenEstimator(naive)).fit(X, TRUTH).predict_proba(X)[:, 1]
    assert calibrated.mean() == pytest.approx(TRUTH.mean(), abs=0.02)
    assert brier_score_loss(TRUTH, calibrated) < brier_score_loss(TRUTH, naive.predict(X)) - 0.02


@line("`CalibratedClassifierCV(est)` on actions", "runs, but")
def _(two):
    calibrated = CalibratedClassifierCV(quick(), cv=2).fit(X, y).predict_proba(X)[:, 1]
    assert calibrated.mean() == pytest.approx(y.mean(), abs=0.02)
    assert calibrated.mean() < TRUTH.mean() - 0.1


@line('`StackingClassifier(cv="prefit")` on true preferences', "yes")
def _(two):
    other = quick(hidden_layer_sizes=()).fit(X, Y)
    stack = StackingClassifier([("a", two), ("b", other)], cv="prefit").fit(X, TRUTH)
    assert roc_auc_score(TRUTH, stack.predict_proba(X)[:, 1]) > 0.8


@line("`StackingClassifier` on actions", "runs, but")
def _(two):
    stack = StackingClassifier([("a", quick())], cv=2).fit(X, y)
    assert stack.predict_proba(X)[:, 1].mean() == pytest.approx(y.mean(), abs=0.02)


@line("`StackingRegressor`, `VotingRegressor`, `VotingClassifier`", "no")
def _(two):
    for ensemble in (StackingRegressor, VotingRegressor, VotingClassifier):
        with pytest.raises(ValueError, match="should be a (regressor|classifier)"):
            ensemble([("a", quick())]).fit(X, y)


@line("`BaggingRegressor`", "yes")
def _(two):
    bag = BaggingRegressor(quick(), n_estimators=2, random_state=0).fit(X, Y)
    members = [member.predict(X) for member in bag.estimators_]
    np.testing.assert_allclose(bag.predict(X), np.mean(members, axis=0), atol=1e-6)


@line("`MultiOutputRegressor`, `RegressorChain`", "runs, but")
def _(two):
    several = MultiOutputRegressor(quick()).fit(X, Y)
    assert several.predict(X).shape == (240, 2)
    assert {est.n_signals_ for est in several.estimators_} == {1}
    assert all(est.identification_.level == "not identified" for est in several.estimators_)
    assert RegressorChain(quick()).fit(X, Y).predict(X).shape == (240, 2)


@line("`OneVsRestClassifier`, `AdaBoostRegressor`", "runs, but")
def _(two):
    rest = OneVsRestClassifier(quick()).fit(X, y).predict_proba(X)[:, 1]
    assert rest.mean() < TRUTH.mean() - 0.1
    assert AdaBoostRegressor(quick(), n_estimators=2).fit(X, y).predict(X).shape == (240,)


@line(
    "`SelfTrainingClassifier`, `FixedThresholdClassifier`, `TunedThresholdClassifierCV`",
    "no",
)
def _(two):
    partly = np.where(np.arange(240) % 3, y, -1)
    with pytest.raises((IndexError, ValueError)):
        SelfTrainingClassifier(quick()).fit(X, partly).predict(X)
    with pytest.raises(ValueError):
        FixedThresholdClassifier(quick()).fit(X, y).predict(X)
    with pytest.raises(ValueError):
        TunedThresholdClassifierCV(quick(), cv=2).fit(X, y)


@line("sparse X", "no")
def _(two):
    with pytest.raises(TypeError, match="toarray"):
        quick().fit(csr_matrix(X), Y)


def lines_of_the_page():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\|$", PAGE.read_text(), re.MULTILINE)
    return {tool: works for tool, works, _ in rows if tool != "tool"}


def test_the_page_lists_what_is_tested():
    assert lines_of_the_page() == {tool: works for tool, (works, _) in LINES.items()}


@pytest.mark.parametrize("tool", LINES)
def test_line(tool, two):
    LINES[tool][1](two)
