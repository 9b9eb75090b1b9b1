"""Search with candidates side by side: what separate fits give, faster; rounds; interface."""

import pickle
import re
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_log
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel

from implicitrm_sk import BatchedSearchCV, IdentificationWarning, ImplicitRewardEstimator, _search
from implicitrm_sk._fit import fit_side_by_side
from implicitrm_sk._search import n_side_by_side
from implicitrm_sk.metrics import make_preference_scorer
from implicitrm_sk.training._plan import FitPlan

CV = KFold(2)


def interacting(X, rng):
    """Return which responses are preferred: no linear reward tells."""
    return X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=len(X)) > 0


draw_log = partial(make_log, n=300, d=4, n_signals=2, preferred=interacting, propensity=0.5)


def make_estimator(**params):
    settings = {
        "hidden_layer_sizes": (6,),
        "n_estimators": 2,
        "learning_rate_init": 0.01,
        "batch_size": 64,
        "max_epochs": 15,
        "n_iter_no_change": 2,
        "dtype": "float64",
        "random_state": 0,
    }
    return ImplicitRewardEstimator(**settings | params)


class Calls:
    """Counts how candidates were fitted."""

    def __init__(self, monkeypatch):
        self.together, self.alone = [], 0
        alone = _search.fit_and_score

        def together(heads, *args, **kwargs):
            self.together.append(len(heads))
            return fit_side_by_side(heads, *args, **kwargs)

        def fit_and_score(*args, **kwargs):
            self.alone += 1
            return alone(*args, **kwargs)

        monkeypatch.setattr(_search, "fit_side_by_side", together)
        monkeypatch.setattr(_search, "fit_and_score", fit_and_score)


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def quiet_fit(search, *args, **kwargs):
    """Fit, whether members still improve at the end or not; both searches warn alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(*args, **kwargs)


def side_by_side(heads, X, y, paused=None, pause=None):
    """Return (fitted estimator, what it goes on from) of clones trained side by side."""
    heads = [clone(head) for head in heads]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        progress = fit_side_by_side(
            heads, X, y, seed=0, paused=paused or [None] * len(heads), pause=pause
        )
    return [(head, state or None) for head, state in zip(heads, progress, strict=True)]


def both(estimator, grid, X, y, cv=CV, fit_params=None, **options):
    fit_params = fit_params or {}
    return [
        quiet_fit(kind(estimator, grid, cv=cv, error_score="raise", **options), X, y, **fit_params)
        for kind in (GridSearchCV, BatchedSearchCV)
    ]


def assert_same_results(expected, found, atol=1e-6):
    assert list(expected.cv_results_) == list(found.cv_results_)
    assert expected.cv_results_["params"] == found.cv_results_["params"]
    for name, values in expected.cv_results_.items():
        if name.startswith(("split", "mean_t", "std_t")):
            np.testing.assert_allclose(found.cv_results_[name], values, rtol=0, atol=atol)
        elif name.startswith("rank"):
            # Candidates that stop before they differ have one score, but for the last digit, which
            # depends on their place in a batch. Ranks of others are the same.
            scores = expected.cv_results_[name.replace("rank", "mean")]
            rank = found.cv_results_[name]
            clear = scores[:, None] > scores + 1e-9
            assert (rank[:, None] < rank)[clear].all()
    best = expected.cv_results_["params"].index(found.best_params_)
    refit = found.refit if isinstance(found.refit, str) else "score"
    assert expected.cv_results_[f"mean_test_{refit}"][best] == pytest.approx(
        expected.best_score_, rel=0, abs=1e-9
    )
    assert found.best_score_ == pytest.approx(expected.best_score_, abs=atol)


# What separate fits give


WIDE = {
    "learning_rate_init": [0.003, 0.03],
    "dropout": [0.1, 0.4],
    "weight_decay": [0.01, 3.0],
}
LENGTHS = {
    "learning_rate_init": [0.003, 0.03],
    "tol": [0.0, 0.01],
    "n_iter_no_change": [1, 3],
    "max_epochs": [3, 20],
}


@pytest.mark.parametrize("grid", [WIDE, LENGTHS], ids=["steps", "lengths"])
def test_results_are_those_of_separate_fits(grid, calls):
    X, y, _ = draw_log()
    expected, found = both(make_estimator(), grid, X, y, return_train_score=True)
    assert_same_results(expected, found)
    assert sum(calls.together) == 2 * len(ParameterGrid(grid)) > len(calls.together)
    assert calls.alone == 0
    alone = quiet_fit(make_estimator(**found.best_params_), X, y)
    np.testing.assert_allclose(found.predict(X), alone.predict(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 0.0},
        {"early_stopping": False, "max_epochs": 4},
        {"hidden_layer_sizes": (5, 4), "propensity_hidden_layer_sizes": ()},
        {"preference_rate": 0.6},
        {"preference_rate": (0.2, 0.7), "false_action_rate": 0.01},
        {"standardize": False, "validation_fraction": 0.4},
        {"objective": "naive"},
        {"n_estimators": 1, "random_state": np.random.RandomState(3)},
        {"reward_features": [0, 1, 2], "propensity_features": [0, 3]},
    ],
    ids=lambda params: "-".join(params),
)
def test_settings(params, calls):
    X, y, _ = draw_log()
    estimator = make_estimator(**params)
    if params.get("objective") == "naive":
        y = y[:, 0]
    grid = {"learning_rate_init": [0.003, 0.03], "weight_decay": [0.0, 1.0]}
    assert_same_results(*both(estimator, grid, X, y))
    assert calls.alone == 0
    assert calls.together


def test_members_side_by_side_are_those_of_separate_fits():
    """Weights, losses and epochs, not only scores; a fit that ends early disturbs no other."""
    X, y, _ = draw_log()
    differ = ParameterGrid(LENGTHS | {"dropout": [0.2, 0.5], "tol": [0.01]})
    heads = [make_estimator(**params, batch_size=32) for params in differ]
    found = [clone(head) for head in heads]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        progress = fit_side_by_side(found, X, y, seed=0, paused=[None] * len(heads))
    assert not any(progress)
    messages = sorted(str(w.message) for w in warned if w.category is ConvergenceWarning)
    expected_messages = []
    lengths = set()
    for head, ours in zip(heads, found, strict=True):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            head.fit(X, y)
        expected_messages += [str(w.message) for w in warned if w.category is ConvergenceWarning]
        assert ours.n_iter_ == head.n_iter_
        lengths.add(head.n_iter_)
        for name in ("train_loss", "valid_loss"):
            np.testing.assert_allclose(
                [epoch[name] for epoch in ours.history_],
                [epoch[name] for epoch in head.history_],
                rtol=0,
                atol=1e-9,
            )
        for mine, theirs in zip(ours.model_.parameters(), head.model_.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
        assert ours.model_.config == head.model_.config
        np.testing.assert_allclose(ours.predict(X), head.predict(X), rtol=0, atol=1e-9)
        assert vars(ours).keys() == vars(head).keys()
    assert messages == sorted(expected_messages)
    assert len(lengths) > 3


def test_one_epoch_in_float32():
    X, y, _ = draw_log(n=1000)
    grid = ParameterGrid({"learning_rate_init": [3e-4, 3e-3], "dropout": [0.1, 0.3]})
    heads = [make_estimator(dtype="float32", max_epochs=1, **params) for params in grid]
    for head, (ours, _) in zip(heads, side_by_side(heads, X, y), strict=True):
        quiet_fit(head, X, y)
        for mine, theirs in zip(ours.model_.parameters(), head.model_.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_fold_scores_in_float32():
    """Rounding grows over whole fits, but stays far below what the rows of a fold leave open."""
    X, y, _ = draw_log(n=1500, d=16, n_signals=None)
    estimator = make_estimator(dtype="float32", max_epochs=60, n_iter_no_change=5, batch_size=128)
    expected, found = both(estimator, {"learning_rate_init": [3e-3, 0.01]}, X, y)
    p = expected.best_estimator_.predict_action(X).clip(1e-6, 1 - 1e-6)
    error = np.log(np.where(y == 1, p, 1 - p)).std() / np.sqrt(len(X) / 2)
    for split in range(2):
        name = f"split{split}_test_score"
        apart = np.abs(found.cv_results_[name] - expected.cv_results_[name])
        assert apart.max() < 0.1 * error


def test_side_information_is_split_like_the_rows(calls):
    X, y, preference = draw_log(n=300)
    rng = np.random.default_rng(0)
    fit_params = {
        "sample_weight": rng.uniform(0.5, 2, 300),
        "groups": np.repeat(np.arange(60), 5),
        "labels": np.where(rng.random(300) < 0.2, preference, np.nan),
        "true_preference": preference,
    }
    y = np.where(rng.random(y.shape) < 0.1, np.nan, y)
    fit_params["labels"][(y == 1).any(1)] = np.nan
    with config_context(enable_metadata_routing=True):
        expected, found = both(
            make_estimator(),
            {"learning_rate_init": [0.003, 0.03]},
            X,
            y,
            cv=GroupKFold(3),
            fit_params=fit_params,
        )
    assert_same_results(expected, found)
    assert calls.alone == 0
    assert calls.together


def test_repeated_responses(calls):
    X, y, _ = draw_log(n=200)
    X, y = np.repeat(X, 3, axis=0), np.repeat(y, 3, axis=0)
    fit_params = {"response_id": np.repeat(np.arange(200), 3)}
    grid = {"learning_rate_init": [0.003, 0.03]}
    estimator = make_estimator(false_action_rate=0.0)
    scoring = make_preference_scorer("r2")
    fit_params["true_preference"] = (X[:, 0] > 0).astype(float)
    with config_context(enable_metadata_routing=True):
        assert_same_results(
            *both(estimator, grid, X, y, cv=KFold(2), fit_params=fit_params, scoring=scoring)
        )
    assert calls.alone == 0


def test_pipelines_train_side_by_side(calls):
    X, y, _ = draw_log()
    pipeline = make_pipeline(StandardScaler(), make_estimator(standardize=False))
    grid = {
        "standardscaler__with_mean": [True, False],
        "implicitrewardestimator__learning_rate_init": [0.003, 0.01, 0.03],
    }
    expected, found = both(pipeline, grid, X, y)
    assert_same_results(expected, found)
    assert calls.alone == 0
    assert sorted(set(calls.together)) == [3]
    np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=1e-9)


def test_jobs_change_nothing():
    X, y, _ = draw_log()
    one, two = (
        quiet_fit(BatchedSearchCV(make_estimator(), WIDE, cv=CV, n_jobs=n_jobs), X, y)
        for n_jobs in (1, 2)
    )
    assert_same_results(one, two)


# Who trains beside whom


def test_candidates_train_apart_where_they_have_to(calls):
    X, y, _ = draw_log()
    grid = [
        {"learning_rate_init": [0.003, 0.03], "hidden_layer_sizes": [(4,), (6,)]},
        {"dropout": [0.0], "weight_decay": [0.0, 0.1]},
        {"batch_size": [16], "objective": ["naive"]},
    ]
    quiet_fit(BatchedSearchCV(make_estimator(), grid[:2], cv=CV, refit=False), X, y)
    assert sorted(calls.together) == [2, 2, 2, 2, 2, 2]
    assert calls.alone == 0


def test_what_cannot_be_batched_is_fitted_alone(calls):
    X, y, _ = draw_log(n_signals=3)
    estimator = make_estimator(max_epochs=3)
    grid = {"learning_rate_init": [0.003, 0.03], "false_action_rate": [0.0, "estimate"]}
    assert_same_results(*both(estimator, grid, X, y))
    assert (calls.together, calls.alone) == ([2, 2], 4)


class Mine(ImplicitRewardEstimator):
    pass


@pytest.mark.parametrize(
    "estimator", [make_estimator(objective="ips"), Mine(max_epochs=3)], ids=["prepares", "subclass"]
)
def test_ordinary_search_where_nothing_can_be_batched(estimator, calls):
    X, y, _ = draw_log(n_signals=None)
    estimator.set_params(max_epochs=3, random_state=0)
    grid = {"learning_rate_init": [0.003, 0.03]}
    assert_same_results(*both(estimator, grid, X, y, scoring="roc_auc"))
    assert (calls.together, calls.alone) == ([], 0)  # all of it is GridSearchCV's own


def test_callbacks_see_ordinary_fits(calls, capsys):
    X, y, _ = draw_log()
    search = BatchedSearchCV(make_estimator(max_epochs=2), {"tol": [0.0, 0.1]}, cv=CV)
    quiet_fit(search.set_callbacks(ProgressBar()), X, y)
    assert (calls.together, calls.alone) == ([], 0)
    assert capsys.readouterr().out


def test_any_other_estimator_is_searched_over_too():
    X, y, _ = draw_log(n_signals=None)
    assert_same_results(*both(LogisticRegression(), {"C": [0.1, 1.0]}, X, y))


def test_how_many_train_side_by_side():
    X = np.zeros((10, 384))
    small, default, large = (
        ImplicitRewardEstimator(hidden_layer_sizes=sizes) for sizes in ((8,), (64,), (4096, 4096))
    )
    assert n_side_by_side(small, X, 16, 5, 1) == 16
    assert 1 < n_side_by_side(default, X, 16, 5, 1) < 16
    assert n_side_by_side(large, X, 16, 5, 1) == 1
    # Five tasks do not share out over two jobs, ten do.
    assert n_side_by_side(small, X, 16, 5, 2) == 8
    assert n_side_by_side(small, X, 1, 5, 2) == 1


def test_several_gpus_have_a_process_each(monkeypatch):
    """Stubs in place of GPUs: which tasks would run on which device, and their results in order."""
    seen = []

    def stub(**task):
        seen.append((task["base"].device, task["number"]))
        return task["number"]

    monkeypatch.setattr(_search, "_fit_and_score_together", stub)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    parallel = Parallel(n_jobs=1)
    base = make_estimator(device="cuda")
    tasks = [{"base": base, "number": number} for number in range(7)]
    assert _search._run(parallel, tasks, base, n_jobs=4) == list(range(7))
    assert {device for device, _ in seen} == {"cuda:0", "cuda:1", "cuda:2"}
    assert [number for device, number in seen if device == "cuda:1"] == [1, 4]
    seen.clear()
    assert _search._run(parallel, tasks, base, n_jobs=1) == list(range(7))
    assert {device for device, _ in seen} == {"cuda"}  # one job: as it was given
    seen.clear()
    base = make_estimator(device="cpu")
    _search._run(parallel, [{"base": base, "number": 0}] * 4, base, n_jobs=4)
    assert {device for device, _ in seen} == {"cpu"}


# Rounds


def test_halving_drops_the_worst_and_trains_nothing_twice(monkeypatch):
    X, y, _ = draw_log()
    grid = {"learning_rate_init": [1e-6, 1e-5, 0.003, 0.01, 0.03], "max_epochs": [30]}
    estimator = make_estimator(early_stopping=False)
    full = quiet_fit(BatchedSearchCV(estimator, grid, cv=CV), X, y)
    trained = []
    original = FitPlan.run

    def run(self, *args, hooks, **kwargs):
        records = []
        result = original(self, *args, hooks=replace(hooks, epoch_end=records.append), **kwargs)
        for record in records:
            hooks.epoch_end(record)
        if self.fits:  # the refit is a fit by itself
            trained.append((len(self.fits), len(records)))
        return result

    monkeypatch.setattr(FitPlan, "run", run)
    search = BatchedSearchCV(estimator, grid, cv=CV, factor=2, min_resources=3)
    quiet_fit(search, X, y)
    # Rounds of 3, then 3 more epochs, then the rest, on two folds: no round starts afresh.
    assert trained == 2 * [(5, 3)] + 2 * [(3, 3)] + 2 * [(2, 24)]
    results = search.cv_results_
    assert sorted(results["iter"]) == [0, 0, 1, 2, 2]
    assert set(results["n_resources"][results["iter"] == 0]) == {3}
    assert set(results["n_resources"][results["iter"] == 2]) == {30}
    last = np.flatnonzero(results["iter"] == 2)
    for split in range(2):
        name = f"split{split}_test_score"
        np.testing.assert_allclose(
            results[name][last], full.cv_results_[name][last], rtol=0, atol=1e-9
        )
    assert search.best_index_ in last


def test_candidates_rank_behind_all_that_went_further():
    X, y, _ = draw_log()

    def fewer_epochs_are_better(estimator, X, y):
        return -len(estimator.history_) + estimator.learning_rate_init

    search = BatchedSearchCV(
        make_estimator(early_stopping=False),
        {"learning_rate_init": [0.001, 0.002, 0.003, 0.004]},
        cv=CV,
        factor=2,
        min_resources=3,
        scoring=fewer_epochs_are_better,
    )
    results = quiet_fit(search, X, y).cv_results_
    assert results["mean_test_score"].argmax() == 1
    assert results["rank_test_score"].tolist() == [4, 3, 2, 1]
    assert search.best_index_ == 3


@pytest.mark.parametrize(
    "params",
    [{}, {"early_stopping": False}, {"preference_rate": 0.6}, {"dropout": 0.0}],
    ids=lambda params: "-".join(params) or "default",
)
def test_pausing_changes_nothing(params):
    X, y, _ = draw_log()
    heads = [
        make_estimator(**{"max_epochs": 12, "batch_size": 32, "learning_rate_init": lr} | params)
        for lr in (0.003, 0.03, 0.1)
    ]

    straight, _ = zip(*side_by_side(heads, X, y), strict=True)
    _, paused = zip(*side_by_side(heads, X, y, pause=2), strict=True)
    paused = pickle.loads(pickle.dumps(paused))
    _, paused = zip(*side_by_side(heads, X, y, paused, pause=3), strict=True)
    assert all(state is not None for state in paused)
    # The last two go on without the first.
    resumed, states = zip(*side_by_side(heads[1:], X, y, paused[1:]), strict=True)
    assert states == (None, None)
    for whole, part in zip(straight[1:], resumed, strict=True):
        assert whole.n_iter_ == part.n_iter_
        for name in whole.history_[0]:
            losses = [[epoch[name] for epoch in head.history_] for head in (whole, part)]
            np.testing.assert_allclose(*losses, rtol=0, atol=1e-9)
        np.testing.assert_allclose(whole.predict(X), part.predict(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["estimator", "pipeline"])
def test_without_a_seed_every_round_draws_the_same(form, monkeypatch):
    X, y, _ = draw_log()
    seeds = []

    def spy(*args, seed, **kwargs):
        seeds.append(seed)
        return fit_side_by_side(*args, seed=seed, **kwargs)

    monkeypatch.setattr(_search, "fit_side_by_side", spy)
    estimator, prefix = make_estimator(random_state=None, early_stopping=False), ""
    if form == "pipeline":
        estimator = make_pipeline(GaussianRandomProjection(3), estimator)
        prefix = "implicitrewardestimator__"
    grid = {prefix + "learning_rate_init": [1e-6, 1e-5, 0.003, 0.03]}
    options = {"cv": CV, "refit": False}
    halved = quiet_fit(BatchedSearchCV(estimator, grid, factor=2, **options), X, y).cv_results_
    assert len(seeds) == 4
    assert len(set(seeds)) == 1
    estimator.set_params(
        **{name: seeds[0] for name in estimator.get_params() if name.endswith("random_state")}
    )
    full = quiet_fit(BatchedSearchCV(estimator, grid, **options), X, y).cv_results_
    last = halved["iter"] == 1
    np.testing.assert_allclose(
        halved["mean_test_score"][last], full["mean_test_score"][last], rtol=0, atol=1e-9
    )


def test_a_candidate_that_diverges_in_a_race_with_a_rate_leaves_it_to_the_others(calls):
    X, y, _ = draw_log()
    search = BatchedSearchCV(
        make_estimator(early_stopping=False, preference_rate=0.5),
        {"learning_rate_init": [0.003, 1e200, 0.03, 0.01]},
        cv=CV,
        factor=2,
        min_resources=3,
    )
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        with pytest.warns(UserWarning, match="non-finite"):
            quiet_fit(search, X, y)
    assert calls.alone == 2
    assert search.cv_results_["iter"][1] == 0
    assert search.cv_results_["iter"].sum() == 2
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False, False]


def test_halving_refuses_what_cannot_pause():
    X, y, _ = draw_log(n_signals=3)
    search = BatchedSearchCV(
        make_estimator(),
        {"false_action_rate": [0.0, "estimate"], "tol": [0.0, 0.1]},
        factor=2,
    )
    with pytest.raises(ValueError, match="factor=2 pauses candidates, but .*estimate"):
        search.fit(X, y)
    search = BatchedSearchCV(
        make_estimator(), {"tol": [0.0, 0.1]}, factor=2, scoring=["r2", "roc_auc"], refit=False
    )
    with pytest.raises(ValueError, match=r"by one score.*\(r2, roc_auc\) and refit=False"):
        search.fit(X, y[:, 0])
    search.set_params(
        scoring=lambda *_: {"a": 0.0, "b": 1.0}, refit=True, param_grid={"tol": [0.0, 0.1, 0.2]}
    )
    with pytest.raises(ValueError, match=r"by one score.*\(a, b\) and refit=True"):
        quiet_fit(search, X, y[:, 0])
    with pytest.raises(ValueError, match="factor"):
        BatchedSearchCV(make_estimator(), {"tol": [0.0]}, factor=1).fit(X, y)


def test_a_path_is_refused(tmp_path):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)
    for path in (tmp_path / "X.npy", str(tmp_path / "X.npy")):
        with pytest.raises(ValueError, match="X='.*X.npy' is a path.* array of some of the rows"):
            BatchedSearchCV(make_estimator(), {"tol": [0.0, 0.1]}).fit(path, y)


def test_a_large_mapped_array_is_refused_before_the_search(tmp_path, monkeypatch):
    X, y, _ = make_log()
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr("implicitrm_sk._sources.STREAM_BYTES", 1000)

    class NeverAsked(KFold):
        def get_n_splits(self, *_, **__):
            raise AssertionError("the search has begun")

    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="got an np.memmap"):
        BatchedSearchCV(make_estimator(), {"tol": [0.0, 0.1]}, cv=NeverAsked()).fit(mapped, y)


# The interface of scikit-learn's searches


def test_scoring_and_refit():
    X, y, _ = draw_log(n_signals=None)
    grid = {"learning_rate_init": [1e-5, 0.03]}
    scoring = {"auc": "roc_auc", "likelihood": lambda est, X, y: est.score(X, y)}
    expected, found = both(
        make_estimator(), grid, X, y, scoring=scoring, refit="auc", return_train_score=True
    )
    assert_same_results(expected, found)
    assert found.multimetric_
    assert found.score(X, y) == pytest.approx(expected.score(X, y))
    expected, found = both(make_estimator(), grid, X, y, refit=lambda results: 0)
    assert found.best_index_ == expected.best_index_ == 0
    assert not hasattr(found, "best_score_")
    (_, found) = both(make_estimator(), grid, X, y, refit=False, scoring="roc_auc")
    assert not hasattr(found, "best_estimator_")
    assert found.best_params_ == {"learning_rate_init": 0.03}


def test_it_is_an_estimator():
    X, y, _ = draw_log(n_signals=None)
    search = BatchedSearchCV(make_estimator(), {"learning_rate_init": [1e-5, 0.03]}, cv=CV)
    assert clone(search).get_params()["min_resources"] == 2
    assert "BatchedSearchCV(" in repr(search)
    quiet_fit(search, X, y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert search.predict_proba(X).shape == (len(X), 4)
    assert search.classes_.tolist() == [0, 1]
    assert search.n_features_in_ == 4
    assert search.refit_time_ > 0


def test_a_candidate_that_diverges_harms_no_other(calls):
    X, y, _ = draw_log()
    grid = {"learning_rate_init": [0.003, 1e200, 0.03]}
    search = BatchedSearchCV(make_estimator(), grid, cv=CV)
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 6"):
        with pytest.warns(UserWarning, match="non-finite"):
            quiet_fit(search, X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, True, False]
    assert calls.alone == 2
    alone = quiet_fit(
        GridSearchCV(make_estimator(), {"learning_rate_init": [0.003, 0.03]}, cv=CV), X, y
    )
    np.testing.assert_allclose(scores[[0, 2]], alone.cv_results_["mean_test_score"], atol=1e-9)
    with pytest.raises(FloatingPointError, match="training diverged in epoch"):
        quiet_fit(search.set_params(error_score="raise"), X, y)


def test_invalid_candidates_fail_as_in_a_grid_search():
    X, y, _ = draw_log()
    grid = {"learning_rate_init": [0.003, 0.03], "dropout": [0.2, 1.5]}
    search = BatchedSearchCV(make_estimator(), grid, cv=CV)
    with pytest.warns(FitFailedWarning, match="4 fits failed"):
        with pytest.warns(UserWarning, match="non-finite"):
            quiet_fit(search, X, y)
    assert np.isnan(search.cv_results_["mean_test_score"]).sum() == 2


def test_what_every_fit_refuses_is_refused():
    X, y, _ = draw_log()
    search = BatchedSearchCV(make_estimator(), {"tol": [0.0, 0.1]}, cv=CV)
    with pytest.raises(ValueError, match="All the 4 fits failed"):
        search.fit(X, y + 5)
    with pytest.raises(ValueError, match="y must be an action"):
        search.set_params(error_score="raise").fit(X, y + 5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        search.fit(X, y, colour=np.ones(len(X)))


@pytest.mark.parametrize("grid", [{"objective": ["naive", "stratified"], "tol": [0.0, 0.1]}])
def test_objectives_are_not_ranked_by_likelihood(grid):
    X, y, preference = draw_log(n_signals=None)
    search = BatchedSearchCV(make_estimator(), grid, cv=CV, error_score="raise")
    with pytest.raises(ValueError, match="cannot rank objectives"):
        quiet_fit(search, X, y)
    with config_context(enable_metadata_routing=True):
        quiet_fit(search, X, y, true_preference=preference)
    assert search.best_score_ > 0


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_one_identification_warning_per_search(n_jobs):
    X, y, _ = draw_log(n_signals=None)
    for _ in range(2):
        search = BatchedSearchCV(make_estimator(), {"tol": [0.0, 0.1]}, cv=CV, n_jobs=n_jobs)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            search.fit(X, y)
        given = [w for w in warned if w.category is IdentificationWarning]
        assert len(given) == 1
        assert given[0].filename == __file__


def test_global_generators_are_left_alone():
    X, y, _ = draw_log()
    before = torch.random.get_rng_state(), check_random_state(None).get_state()[1].copy()
    quiet_fit(BatchedSearchCV(make_estimator(random_state=None), {"tol": [0.0, 0.1]}, cv=CV), X, y)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(check_random_state(None).get_state()[1], before[1])


def test_verbose(capsys):
    X, y, _ = draw_log()
    grid = {"tol": [0.0, 0.1], "learning_rate_init": [1e-5, 0.01]}
    quiet_fit(BatchedSearchCV(make_estimator(), grid, cv=CV, factor=2, verbose=2), X, y)
    printed = capsys.readouterr().out
    assert "Fitting 2 folds for each of 4 candidates, totalling 8 fits" in printed
    assert "2 candidates continue after 2 epochs" in printed
    assert "[CV 2/2] END learning_rate_init=0.01, tol=0.1; score=" in printed


def test_verbose_of_one_shows_progress(capsys):
    """A line when candidates that trained side by side are done, and for each that trains alone."""
    X, y, _ = draw_log(n_signals=3)
    grid = [{"tol": [0.0, 0.1]}, {"false_action_rate": ["estimate"]}]
    search = BatchedSearchCV(make_estimator(max_epochs=2), grid, cv=CV, refit=False, verbose=1)
    quiet_fit(search, X, y)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "Fitting 2 folds for each of 3 candidates, totalling 6 fits"
    line = re.compile(r"\[CV (./2)\] (\d candidates?), \d+\.\d s")
    found = sorted(line.fullmatch(text).groups() for text in lines)
    sizes = ("1 candidate", "2 candidates")
    assert found == [(split, size) for split in ("1/2", "2/2") for size in sizes]


def test_verbose_of_one_shows_progress_of_candidates_that_fail_together(capsys):
    X, y, _ = draw_log()
    search = BatchedSearchCV(
        make_estimator(max_epochs=2, reward_features=[99]),
        {"tol": [0.0, 0.1]},
        cv=CV,
        verbose=1,
    )
    with pytest.raises(ValueError, match="All the 4 fits failed"):
        search.fit(X, y)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"[CV {k}/2] 2 candidates" for k in (1, 2)]


def test_a_fault_of_fits_side_by_side_is_told(monkeypatch):
    X, y, _ = draw_log()
    search = BatchedSearchCV(make_estimator(), {"dropout": [0.0, 0.3]}, cv=CV, refit=False)

    def broken(*args, **kwargs):
        raise RuntimeError("a shape that does not fit")

    monkeypatch.setattr(_search, "fit_side_by_side", broken)
    with pytest.warns(UserWarning, match="could not be fitted side by side.*a shape"):
        quiet_fit(search, X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
