import pickle
from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from implicitrm_sk.metrics import (
    PREFERENCE_METRICS,
    calibration_error,
    make_preference_scorer,
    paired_accuracy,
    preference_nll,
    preference_scorers,
    reward_metrics,
)

NAMES = list(PREFERENCE_METRICS)


def metric_kwargs(name, groups):
    return {"groups": groups} if name == "paired_accuracy" else {}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    reward = rng.random(200).round(2)
    truth = (rng.random(200) < reward).astype(float)
    return truth, reward, rng.integers(0, 4, 200).astype(float), rng.integers(0, 40, 200)


# Functions


def test_agree_with_scikit_learn(data):
    truth, reward, weight, _ = data
    for w in (None, weight):
        m = reward_metrics(truth, reward, sample_weight=w)
        assert m["r2"] == pytest.approx(r2_score(truth, reward, sample_weight=w))
        assert m["mae"] == pytest.approx(mean_absolute_error(truth, reward, sample_weight=w))
        mse = mean_squared_error(truth, reward, sample_weight=w)
        assert m["rmse"] == pytest.approx(np.sqrt(mse))
        assert m["auroc"] == pytest.approx(roc_auc_score(truth, reward, sample_weight=w))
        assert m["nll"] == pytest.approx(log_loss(truth, reward, sample_weight=w))
    assert list(m) == NAMES[:-1]
    assert all(type(value) is float for value in m.values())


def test_reward_metrics_has_the_functions(data):
    truth, reward, weight, groups = data
    m = reward_metrics(
        truth, reward, sample_weight=weight, groups=groups, n_bins=7, strategy="quantile"
    )
    assert list(m) == NAMES
    kwargs = {"n_bins": 7, "strategy": "quantile"}
    assert m["calibration_error"] == calibration_error(
        truth, reward, sample_weight=weight, **kwargs
    )
    assert m["paired_accuracy"] == paired_accuracy(truth, reward, groups, sample_weight=weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nll_of_certain_rewards_is_clipped_as_in_scikit_learn(dtype):
    reward = np.array([0, 1, 1, 0.25], dtype=dtype)
    truth = np.array([1, 1, 0, 1])
    expected = log_loss(truth, reward)
    assert preference_nll(truth, reward) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(expected) and expected > 7


def test_nll_of_graded_preference():
    truth, reward = np.array([0.2, 0.9, 1.0]), np.array([0.3, 0.6, 0.8])
    expected = -np.mean(truth * np.log(reward) + (1 - truth) * np.log(1 - reward))
    assert preference_nll(truth, reward) == pytest.approx(expected)
    # lowest at the truth itself
    assert preference_nll(truth[:2], truth[:2]) < preference_nll(truth[:2], reward[:2])


def test_calibration_error_by_hand():
    reward = np.array([0.0, 0.1, 0.2, 0.85, 0.95, 1.0])
    truth = np.array([0, 1, 0, 1, 1, 0])
    # uniform, 5 bins: [0, 0.2] holds the first three, (0.8, 1] the others
    expected = abs(1 / 3 - 0.1) / 2 + abs(2 / 3 - 2.8 / 3) / 2
    assert calibration_error(truth, reward, n_bins=5) == pytest.approx(expected)
    pairs = np.abs([0.5 - 0.05, 0.5 - 0.525, 0.5 - 0.975]).mean()
    value = calibration_error(truth, reward, n_bins=3, strategy="quantile")
    assert value == pytest.approx(pairs)
    assert calibration_error(truth, reward, n_bins=1) == pytest.approx(abs(3 / 6 - 3.1 / 6))
    assert calibration_error(truth, np.full(6, 0.5)) == 0


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_calibration_error_of_a_calibrated_and_a_shifted_reward(strategy):
    rng = np.random.default_rng(0)
    reward = rng.random(50_000)
    truth = rng.random(50_000) < reward
    assert calibration_error(truth, reward, strategy=strategy) < 0.015
    shifted = reward / 2
    value = calibration_error(truth, shifted, strategy=strategy)
    assert value == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_integer_weights_are_repeated_rows(data, name):
    truth, reward, weight, groups = data
    metric = PREFERENCE_METRICS[name]
    weighted = metric(truth, reward, sample_weight=weight, **metric_kwargs(name, groups))
    rows = np.repeat(np.arange(200), weight.astype(int))
    repeated = metric(truth[rows], reward[rows], **metric_kwargs(name, groups[rows]))
    assert weighted == pytest.approx(repeated, rel=1e-12)
    if name == "calibration_error":
        weighted = metric(truth, reward, sample_weight=weight, strategy="quantile", n_bins=4)
        repeated = metric(truth[rows], reward[rows], strategy="quantile", n_bins=4)
        assert weighted == pytest.approx(repeated, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_preference_is_left_out(data, name):
    truth, reward, weight, groups = data
    known = np.arange(200) % 3 > 0
    metric = PREFERENCE_METRICS[name]
    value = metric(
        np.where(known, truth, np.nan), reward, sample_weight=weight, **metric_kwargs(name, groups)
    )
    expected = metric(
        truth[known],
        reward[known],
        sample_weight=weight[known],
        **metric_kwargs(name, groups[known]),
    )
    assert value == expected


def brute_paired_accuracy(truth, reward, groups, weight):
    right = total = 0.0
    for i, j in combinations(range(len(truth)), 2):
        if groups[i] == groups[j] and truth[i] != truth[j]:
            w = weight[i] * weight[j]
            total += w
            product = (truth[i] - truth[j]) * (reward[i] - reward[j])
            right += w * (product > 0) + w * (reward[i] == reward[j]) / 2
    return right / total


@pytest.mark.parametrize("n_groups", [1, 3, 30])
@pytest.mark.parametrize("levels", [2, 3, 50])
@pytest.mark.parametrize("reward_levels", [1, 2, 7, 1000])
def test_paired_accuracy_counts_pairs(n_groups, levels, reward_levels):
    rng = np.random.default_rng(levels)
    n = 90
    truth, reward = rng.integers(0, levels, n) / 7, rng.integers(0, reward_levels, n) - 3.0
    groups, weight = rng.integers(0, n_groups, n), rng.random(n)
    expected = brute_paired_accuracy(truth, reward, groups, weight)
    value = paired_accuracy(truth, reward, groups, sample_weight=weight)
    assert value == pytest.approx(expected, rel=1e-10)
    named = np.array([f"prompt {g}" for g in groups])
    unweighted = paired_accuracy(truth, reward, named)
    assert unweighted == pytest.approx(brute_paired_accuracy(truth, reward, groups, np.ones(n)))
    if reward_levels == 1:
        assert unweighted == 0.5


def test_paired_accuracy_is_auroc_within_one_group(data):
    truth, reward, weight, _ = data
    for w in (None, weight):
        value = paired_accuracy(truth, reward, np.zeros(200), sample_weight=w)
        assert value == pytest.approx(roc_auc_score(truth, reward, sample_weight=w))


def test_paired_accuracy_of_many_rows():
    rng = np.random.default_rng(0)
    n = 200_000  # 2e10 pairs in one group
    truth = rng.random(n)
    assert paired_accuracy(truth, truth**3, np.zeros(n)) == 1
    assert paired_accuracy(truth, -truth, np.arange(n) // 2) == 0
    assert paired_accuracy(truth, rng.random(n), np.zeros(n)) == pytest.approx(0.5, abs=0.01)


def test_paired_accuracy_needs_pairs():
    message = r"rows of different true_preference; found none among 3 group\(s\) of 3 row\(s\)"
    with pytest.raises(ValueError, match=message):
        paired_accuracy([0, 1, 1], [0.1, 0.2, 0.3], [0, 1, 2])
    with pytest.raises(ValueError, match="found none"):
        paired_accuracy([0.1, 0.1, 0.3], [0.1, 0.2, 0.3], [0, 0, 1])
    with pytest.raises(ValueError, match="found none"):
        paired_accuracy([0, 1, 1], [0.1, 0.2, 0.3], [0, 0, 0], sample_weight=[0, 1, 1])
    with pytest.raises(ValueError, match="groups must be given"):
        paired_accuracy([0, 1], [0.1, 0.2], None)


def test_undefined_metrics_are_nan_in_the_summary():
    graded = reward_metrics([0.2, 0.9, 0.4], [0.1, 0.8, 0.3], groups=[0, 1, 2])
    assert np.isnan(graded["auroc"]) and np.isnan(graded["paired_accuracy"])
    assert np.isfinite([graded[n] for n in ("r2", "mae", "rmse", "nll", "calibration_error")]).all()
    with pytest.warns(UndefinedMetricWarning, match="R2 is not defined: all 2 known values"):
        one_class = reward_metrics([1, 1], [0.1, 0.8])
    assert np.isnan(one_class["auroc"]) and one_class["r2"] == 0
    with pytest.raises(ValueError, match="auroc needs a binary true_preference, got graded.*0.2"):
        PREFERENCE_METRICS["auroc"]([0.2, 1.0], [0.1, 0.8])
    with pytest.raises(ValueError, match="auroc needs both kinds.*all 2 known rows are 1"):
        PREFERENCE_METRICS["auroc"]([1, 1], [0.1, 0.8])


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([0, 1], [0.1]), {}, "reward has 1 rows but true_preference has 2"),
        (([0, 1], [[0.1], [0.2]]), {}, r"reward must be one-dimensional, got shape \(2, 1\)"),
        (([0, 1], [0.1, np.nan]), {}, "reward holds NaN or infinity"),
        (([0, 1], [0.1, 1.2]), {}, r"reward must lie in \[0, 1\].*0.1 to 1.2.*not a logit"),
        (([0, 1], ["a", "b"]), {}, "reward must hold numbers"),
        (([0, 4], [0.1, 0.2]), {}, r"true_preference must lie in \[0, 1\].*0 to 4.*threshold"),
        (([0, np.inf], [0.1, 0.2]), {}, "true_preference holds infinity"),
        (([0, np.nan, np.nan], [0.1, 0.2, 0.3]), {}, r"known \(not NaN\) in 1 of 3 rows"),
        (([], []), {}, r"known \(not NaN\) in 0 of 0 rows"),
        (([0, 1], [0.1, 0.2]), {"sample_weight": [1]}, "sample_weight has 1 rows"),
        (([0, 1], [0.1, 0.2]), {"sample_weight": [1, -1]}, "finite and not negative"),
        (([0, 1], [0.1, 0.2]), {"sample_weight": [0, 0]}, "sample_weight is 0 in every row"),
        (([0, 1], [0.1, 0.2]), {"groups": [1, 2, 3]}, "groups has 3 rows"),
        (([0, 1], [0.1, 0.2]), {"groups": [[1, 2]]}, "groups must be one-dimensional"),
        (([0, 1], [0.1, 0.2]), {"n_bins": 0}, "n_bins must be an integer of at least 1, got 0"),
        (([0, 1], [0.1, 0.2]), {"strategy": "best"}, "strategy must be 'uniform' or 'quantile'"),
    ],
)
def test_bad_arguments(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        reward_metrics(*args, **kwargs)


def test_kinds_of_input(data):
    truth, reward, _, _ = data
    expected = reward_metrics(truth, reward)
    assert reward_metrics(truth.astype(bool), reward.tolist()) == expected
    assert reward_metrics(truth.astype(object), reward) == expected
    logits = np.log((reward + 0.01) / (1.01 - reward))
    assert PREFERENCE_METRICS["auroc"](truth, logits) == expected["auroc"]


# Scorers


class Toy(BaseEstimator):
    """Logistic regression on the actions that records what its fit sees."""

    __metadata_request__fit = {"sample_weight": True}
    seen: list = []

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y, sample_weight=None, **params):
        Toy.seen.append((np.asarray(y).copy(), sample_weight is not None, params))
        self.model_ = LogisticRegression(C=self.C).fit(X, y, sample_weight=sample_weight)
        return self

    def predict(self, X):
        Toy.n_predicted = getattr(Toy, "n_predicted", 0) + 1
        return self.model_.predict_proba(X)[:, 1]


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    truth = (X[:, 0] + rng.normal(size=300) / 2 > 0).astype(float)
    actions = truth * (rng.random(300) < 1 / (1 + np.exp(-2 * X[:, 1])))
    Toy.seen.clear()
    Toy.n_predicted = 0
    return X, actions, truth, rng.integers(0, 60, 300)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def pipeline():
    return make_pipeline(StandardScaler(), Toy())


def expected_scores(X, actions, truth, groups, metric, sign, cv, weight=None):
    scores = []
    for train, test in cv.split(X, actions, groups):
        w = None if weight is None else weight[train]
        scaled = StandardScaler().fit(X[train])
        model = LogisticRegression().fit(scaled.transform(X[train]), actions[train], w)
        reward = model.predict_proba(scaled.transform(X[test]))[:, 1]
        w = None if weight is None else weight[test]
        scores.append(sign * metric(truth[test], reward, sample_weight=w))
    return scores


def test_direct_call(log):
    X, actions, truth, _ = log
    model = Toy().fit(X, actions)
    scorer = make_preference_scorer("mae")
    value = scorer(model, X, actions, true_preference=truth)
    assert value == -mean_absolute_error(truth, model.predict(X))
    assert scorer(model, X, true_preference=truth) == value


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("scorer_name", [n for n in preference_scorers() if n != "paired_accuracy"])
def test_cross_validate_over_a_pipeline(log, scorer_name):
    X, actions, truth, groups = log
    name = scorer_name.removeprefix("neg_")
    cv = GroupKFold(4)
    result = cross_validate(
        pipeline(),
        X,
        actions,
        scoring=make_preference_scorer(name),
        cv=cv,
        params={"true_preference": truth, "groups": groups},
        error_score="raise",
    )
    sign = -1 if scorer_name.startswith("neg_") else 1
    expected = expected_scores(X, actions, truth, groups, PREFERENCE_METRICS[name], sign, cv)
    np.testing.assert_allclose(result["test_score"], expected, rtol=1e-6)
    assert len(Toy.seen) == 4
    for y, weighted, params in Toy.seen:
        assert np.isin(y, actions).all() and not weighted and params == {}


@pytest.mark.usefixtures("routing")
def test_grid_search_over_a_pipeline(log):
    X, actions, truth, _ = log
    search = GridSearchCV(
        pipeline(),
        {"toy__C": [1e-4, 1.0]},
        scoring=make_preference_scorer("auroc"),
        cv=3,
        error_score="raise",
    )
    search = clone(search).fit(X, actions, true_preference=truth)
    assert search.best_score_ > 0.75
    on_actions = GridSearchCV(pipeline(), {"toy__C": [1e-4, 1.0]}, scoring="roc_auc", cv=3)
    assert on_actions.scoring != search.scoring
    value = search.score(X, actions, true_preference=truth)
    assert value == pytest.approx(roc_auc_score(truth, search.predict(X)))
    for _, _, params in Toy.seen:
        assert params == {}
    clone(search).fit(X, actions, true_preference=truth)


@pytest.mark.usefixtures("routing")
def test_multimetric_with_groups_and_unknown_truth(log):
    X, actions, truth, groups = log
    truth[::5] = np.nan
    scorers = preference_scorers()
    assert list(scorers) == [
        "r2",
        "neg_mae",
        "neg_rmse",
        "neg_nll",
        "auroc",
        "neg_calibration_error",
        "paired_accuracy",
    ]
    kwargs = {
        "cv": GroupKFold(3),
        "params": {"true_preference": truth, "groups": groups},
        "error_score": "raise",
    }
    result = cross_validate(pipeline(), X, actions, scoring=scorers, **kwargs)
    for name in scorers:
        assert np.isfinite(result[f"test_{name}"]).all()
        if name != "r2":
            assert (result[f"test_{name}"] <= 0).all() == name.startswith("neg_")
    Toy.n_predicted = 0
    at_once = cross_validate(
        pipeline(), X, actions, scoring=make_preference_scorer(NAMES), **kwargs
    )
    assert Toy.n_predicted == 3
    for name in scorers:
        np.testing.assert_array_equal(result[f"test_{name}"], at_once[f"test_{name}"])

    search = GridSearchCV(
        pipeline(), {"toy__C": [0.1, 1]}, scoring=scorers, refit="neg_rmse", cv=GroupKFold(3)
    )
    search.fit(X, actions, true_preference=truth, groups=groups)
    assert "mean_test_paired_accuracy" in search.cv_results_


@pytest.mark.usefixtures("routing")
def test_sample_weight_reaches_fit_and_score(log):
    X, actions, truth, groups = log
    weight = np.random.default_rng(1).random(300)
    cv = GroupKFold(3)
    params = {"true_preference": truth, "groups": groups, "sample_weight": weight}
    pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), Toy())
    kwargs = {"cv": cv, "params": params, "error_score": "raise"}
    result = cross_validate(pipe, X, actions, scoring=make_preference_scorer("mae"), **kwargs)
    metric = PREFERENCE_METRICS["mae"]
    expected = expected_scores(X, actions, truth, groups, metric, -1, cv, weight)
    np.testing.assert_allclose(result["test_score"], expected, rtol=1e-6)
    assert all(weighted for _, weighted, _ in Toy.seen)
    scorer = make_preference_scorer("mae").set_score_request(sample_weight=False)
    unweighted = cross_validate(pipe, X, actions, scoring=scorer, **kwargs)
    assert (unweighted["test_score"] != result["test_score"]).all()


@pytest.mark.usefixtures("routing")
def test_alias(log):
    X, actions, truth, _ = log
    scorer = make_preference_scorer("r2").set_score_request(true_preference="survey")
    kwargs = {"cv": 3, "error_score": "raise"}
    a = cross_validate(Toy(), X, actions, scoring=scorer, params={"survey": truth}, **kwargs)
    b = cross_validate(
        Toy(),
        X,
        actions,
        scoring=make_preference_scorer("r2"),
        params={"true_preference": truth},
        **kwargs,
    )
    np.testing.assert_array_equal(a["test_score"], b["test_score"])
    with pytest.raises(TypeError, match=r"takes only \['sample_weight', 'true_preference'\]"):
        scorer.set_score_request(truth=True)


def test_missing_truth_says_what_to_do(log):
    X, actions, truth, _ = log
    message = (
        r"make_preference_scorer\('r2'\) did not get true_preference.*"
        r"set_config\(enable_metadata_routing=True\).*params=\{\"true_preference\": truth\}"
    )
    model = Toy().fit(X, actions)
    with pytest.raises(ValueError, match=message):
        make_preference_scorer()(model, X, actions)
    for on in (False, True):
        with (
            sklearn.config_context(enable_metadata_routing=on),
            pytest.raises(ValueError, match=message),
        ):
            cross_validate(Toy(), X, actions, scoring=make_preference_scorer(), error_score="raise")
    with pytest.raises(ValueError, match="did not get groups, the prompt of each row"):
        make_preference_scorer("paired_accuracy")(model, X, actions, true_preference=truth)


def test_routing_off_with_sample_weight_still_says_what_to_do(log):
    X, actions, _, _ = log
    search = GridSearchCV(Toy(), {}, scoring=make_preference_scorer(), error_score="raise")
    with pytest.raises(ValueError, match="did not get true_preference"):
        search.fit(X, actions, sample_weight=np.ones(300))


def test_made_before_routing_is_turned_on(log):
    X, actions, truth, _ = log
    scorer = make_preference_scorer("rmse")
    with sklearn.config_context(enable_metadata_routing=True):
        params = {"true_preference": truth}
        result = cross_validate(Toy(), X, actions, scoring=scorer, params=params)
    assert np.isfinite(result["test_score"]).all()


def test_repr_pickle_copy_and_request(log):
    X, actions, truth, _ = log
    scorer = make_preference_scorer("calibration_error", n_bins=4).set_score_request(
        sample_weight=False
    )
    assert repr(scorer) == "make_preference_scorer('calibration_error', n_bins=4)"
    model = Toy().fit(X, actions)
    expected = -calibration_error(truth, model.predict(X), n_bins=4)
    for copy in (scorer, pickle.loads(pickle.dumps(scorer)), deepcopy(scorer)):
        assert copy(model, X, actions, true_preference=truth) == expected
        request = get_routing_for_object(copy).score.requests
        assert request == {"true_preference": True, "sample_weight": False}
    deepcopy(scorer).set_score_request(sample_weight=True)
    assert get_routing_for_object(scorer).score.requests["sample_weight"] is False


@pytest.mark.parametrize(
    ("metric", "kwargs", "message"),
    [
        ("neg_mae", {}, r"metric must be one of \['r2', 'mae'.*got 'neg_mae'"),
        (r2_score, {}, "metric must be one of"),
        ([], {}, "metric must be one of"),
        (["r2", "f1"], {}, "metric must be one of"),
        ("r2", {"n_bins": 3}, "'n_bins' is not an option of metric='r2'"),
        ("paired_accuracy", {"groups": [1]}, "'groups' is not an option"),
    ],
)
def test_bad_scorer_arguments(metric, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_preference_scorer(metric, **kwargs)


def test_prediction_of_wrong_shape(log):
    X, actions, truth, _ = log

    class Wide(Toy):
        def predict(self, X):
            return np.zeros((len(X), 2))

    with pytest.raises(ValueError, match=r"reward must be one-dimensional, got shape \(300, 2\)"):
        make_preference_scorer()(Wide().fit(X, actions), X, actions, true_preference=truth)
