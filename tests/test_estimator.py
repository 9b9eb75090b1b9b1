"""The estimator: objectives, fit, partial_fit, persistence, odd input, errors."""

import io
import pickle
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from conftest import FAST, exposed, make_log
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.objectives import Naive, Objective, Stratified

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


# ---------------------------------------------------------------- objectives


class Brier(Objective):
    """A third party's objective without a model of the actions."""

    single_signal = True
    models_propensity = False
    models_actions = False

    def __init__(self, power=2.0):
        self.power = power

    def loss(self, reward_logit, propensity_logit, batch):
        return (torch.sigmoid(reward_logit) - batch.actions[:, 0]).abs() ** self.power


def test_third_party_objective():
    X, y, preference = make_log()
    estimator = ImplicitRewardEstimator(Brier(), **FAST)
    assert estimator.get_params()["objective__power"] == 2.0
    estimator = clone(estimator).set_params(objective__power=1.5, max_epochs=40).fit(X, y)
    assert estimator.objective_.power == 1.5
    assert sklearn.metrics.roc_auc_score(preference, estimator.predict(X)) > 0.6
    assert estimator.score(X, y, true_preference=preference) < 1
    with pytest.raises(ValueError, match="Brier does not model P.*true_preference"):
        estimator.score(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict(X), estimator.predict(X))


@pytest.mark.parametrize("objective", [Stratified(), Naive()])
def test_objective_by_name_and_by_object_agree(objective):
    X, y, _ = make_log()
    name = type(objective).__name__.lower()
    by_name = ImplicitRewardEstimator(name, **FAST).fit(X, y)
    by_object = ImplicitRewardEstimator(objective, **FAST).fit(X, y)
    assert_array_equal(by_name.predict(X), by_object.predict(X))
    assert by_object.objective_ is not objective


@pytest.mark.parametrize("partial", [False, True])
def test_objectives_say_what_they_make_no_use_of(partial):
    X, y, preference = make_log(n_signals=3)
    for name, value in (
        ("labels", np.where(np.arange(400) < 30, preference, np.nan)),
        ("propensity", np.full(400, 0.5)),
    ):
        estimator = ImplicitRewardEstimator("naive", **FAST)
        with pytest.raises(ValueError, match=f"Naive makes no use of {name}. Leave it out, or use"):
            (estimator.partial_fit if partial else estimator.fit)(X, y[:, 0], **{name: value})
    with pytest.raises(
        ValueError, match="Brier makes no use of preference_rate, false_action_rate="
    ):
        ImplicitRewardEstimator(
            Brier(), preference_rate=0.5, false_action_rate="estimate", **FAST
        ).fit(X, y)


@pytest.mark.parametrize("loss", [0.5, torch.zeros(3)])
def test_loss_of_a_wrong_shape_is_named(loss):
    class Wrong(Objective):
        def loss(self, reward_logit, propensity_logit, batch):
            return loss

    with pytest.raises(ValueError, match=r"Wrong.loss must return a tensor of shape \(members"):
        ImplicitRewardEstimator(Wrong(), **FAST).fit(X_GOOD, Y_GOOD)


# ---------------------------------------------------------------- fit


def test_same_seed_same_bits_and_global_generators_untouched():
    X, y, _ = make_log()
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    first = ImplicitRewardEstimator(**FAST).fit(X, y)
    second = ImplicitRewardEstimator(**FAST).fit(X, y)
    for seed in (None, np.random.RandomState(4)):
        ImplicitRewardEstimator(**FAST | {"random_state": seed}).fit(X, y).partial_fit(X, y)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(first.predict(X), second.predict(X))
    assert first.history_ == second.history_
    other = ImplicitRewardEstimator(**FAST | {"random_state": 1}).fit(X, y)
    assert not np.array_equal(first.predict(X), other.predict(X))


@pytest.mark.slow
def test_thread_count_changes_next_to_nothing():
    X, y, _ = make_log(n=3000, d=64)
    params = {"random_state": 0, "max_epochs": 12, "learning_rate_init": 0.001}
    threads = torch.get_num_threads()
    rewards = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            rewards.append(ImplicitRewardEstimator(**params).fit(X, y).predict(X))
    finally:
        torch.set_num_threads(threads)
    assert_allclose(*rewards, atol=1e-5)


def test_early_stopping_keeps_the_best_epoch_of_each_member():
    X, y, _ = make_log(n=600)
    estimator = ImplicitRewardEstimator(
        **FAST | {"max_epochs": 200, "learning_rate_init": 0.05, "n_iter_no_change": 4}
    ).fit(X, y)
    assert estimator.n_iter_ == len(estimator.history_) < 200
    losses = np.array([record["valid_loss"] for record in estimator.history_])
    assert losses.shape == (estimator.n_iter_, 2)
    assert (losses.argmin(axis=0) < estimator.n_iter_ - 1).any()
    assert np.isfinite([record["train_loss"] for record in estimator.history_]).all()


def test_warnings_point_to_the_users_line():
    X, y, _ = make_log()
    constant = np.column_stack([y, np.zeros(400)])
    few = np.arange(400) < 9
    for params, actions in [({}, constant), ({}, few), ({"learning_rate_init": 1e-4}, y)]:
        with pytest.warns() as record:
            ImplicitRewardEstimator(**FAST | params).fit(X, actions)
        assert {warning.filename for warning in record} == {__file__}


def test_warns_when_the_epochs_run_out():
    X, y, _ = make_log()
    with pytest.warns(ConvergenceWarning, match="Increase max_epochs or learning_rate_init"):
        ImplicitRewardEstimator(**FAST | {"learning_rate_init": 1e-4}).fit(X, y)
    X, y, _ = make_log(n_signals=2)  # of which nothing else is to be said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImplicitRewardEstimator(early_stopping=False, **FAST).fit(X, y)


def test_silent_by_default_and_verbose_on_request(capsys):
    X, y, _ = make_log()
    ImplicitRewardEstimator(**FAST).fit(X, y)
    output = capsys.readouterr()
    assert output.out == output.err == ""
    ImplicitRewardEstimator(verbose=True, **FAST).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert re.fullmatch(r"\[.*\] epoch 1: train_loss \d\.\d+, valid_loss \d\.\d+", lines[0])


def test_signal_names():
    X, y, _ = make_log(n_signals=2)
    frame = pd.DataFrame(y, columns=["copy", "share"])
    estimator = ImplicitRewardEstimator(**FAST).fit(X, frame)
    assert_array_equal(estimator.signal_names_in_, ["copy", "share"])
    assert estimator.score(X, frame) == estimator.score(X, y)
    swapped = frame[["share", "copy"]]
    message = r"the signals are \['share', 'copy'\], but the estimator was fitted with \['copy', 's"
    for method in (estimator.score, estimator.predict_proba, estimator.partial_fit):
        with pytest.raises(ValueError, match=message):
            method(X, swapped)
    assert_array_equal(estimator.partial_fit(X, y).signal_names_in_, ["copy", "share"])
    for unnamed in (y, pd.DataFrame(y)):
        estimator.fit(X, unnamed)
        assert not hasattr(estimator, "signal_names_in_")
        estimator.score(X, swapped)
    assert not hasattr(estimator.fit(X, frame["copy"]), "signal_names_in_")
    assert_array_equal(estimator.fit(X, frame[["copy"]]).signal_names_in_, ["copy"])


def test_graded_labels_on_acted_rows_are_raised_with_one_warning():
    X, y, preference = make_log()
    graded = np.where(np.arange(400) < 60, 0.8, np.nan)
    raised = np.where((graded == 0.8) & (y == 1), 1.0, graded)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        # Two epochs: labels that a short fit does not expect are another warning.
        warnings.simplefilter("ignore", IdentificationWarning)
        estimator = ImplicitRewardEstimator(**FAST | {"max_epochs": 2, "early_stopping": False})
        estimator.fit(X, y, labels=graded)
    assert [str(warning.message).split(" were")[0] for warning in record] == [
        f"{(y[:60] == 1).sum()} graded labels",
    ]
    assert {warning.filename for warning in record} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        twin = clone(estimator).fit(X, y, labels=raised)
    assert_array_equal(estimator.predict(X), twin.predict(X))


# ---------------------------------------------------------------- partial_fit


def test_partial_fit_learns_and_survives_a_pickle_in_between():
    X, y, preference = make_log(n=2000, n_signals=2)
    batches = np.array_split(np.arange(2000), 10)
    estimator = ImplicitRewardEstimator(**FAST)
    twin = ImplicitRewardEstimator(**FAST)
    for _ in range(8):
        for batch in batches:
            estimator.partial_fit(X[batch], y[batch])
            twin = pickle.loads(pickle.dumps(twin)).partial_fit(X[batch], y[batch])
    assert estimator.n_iter_ == 80
    assert_array_equal(estimator.predict(X), twin.predict(X))
    assert estimator.score(X, y, true_preference=preference) > 0.3
    assert_allclose(estimator.scaler_.mean_, X.mean(axis=0), atol=1e-12)
    assert_allclose(estimator.scaler_.scale_, X.std(axis=0), rtol=1e-12)

    ImplicitRewardEstimator(**FAST).partial_fit(X[:5], np.zeros((5, 2)))
    estimator.partial_fit(X[:5], np.zeros((5, 2)))  # a batch without any action
    with pytest.raises(ValueError, match="y has 1 signal"):
        estimator.partial_fit(X[:5], np.zeros(5))
    with pytest.raises(ValueError, match="X has 3 features"):
        estimator.partial_fit(X[:5, :3], np.zeros((5, 2)))
    with pytest.raises(ValueError, match="logs nothing"):
        estimator.partial_fit(X[:5], np.full((5, 2), np.nan))


def test_weights_weigh_one_batch_of_partial_fit_against_another():
    X, y, _ = make_log()
    losses = []
    for factor in (1.0, 3.0):
        estimator = ImplicitRewardEstimator(**FAST).partial_fit(X, y, np.full(400, factor))
        losses.append(estimator.history_[0]["train_loss"][0])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-3)


def test_partial_fit_may_start_without_any_action():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).partial_fit(X[:20], np.zeros(20))
    assert np.isfinite(estimator.partial_fit(X, y).predict(X)).all()


def test_partial_fit_takes_side_information_but_no_whole_population():
    X, _, _, rows, acted = exposed()
    labels = np.where(acted == 1, 1.0, np.nan)
    labels[acted == 0] = np.where(rows[acted == 0] % 5 == 0, 0.3, np.nan)
    labels = np.where(np.isin(rows, rows[acted == 1]) & (acted == 0), np.nan, labels)
    estimator = ImplicitRewardEstimator(false_action_rate=0.0, **FAST)
    for _ in range(2):
        with pytest.warns(UserWarning, match="labels are known of 100.0% of the responses with an"):
            estimator.partial_fit(
                X[rows], acted, response_id=rows, labels=labels, propensity=np.full(len(rows), 0.9)
            )
    assert estimator.identification_.level == "identified"
    assert np.isfinite(estimator.predict(X)).all()
    estimator.partial_fit(X, np.ones(120), exposures=np.full(120, 3))
    for params, message in (
        ({"preference_rate": 0.5}, "preference_rate=0.5 applies to the whole population"),
        (
            {"false_action_rate": "estimate"},
            "partial_fit cannot estimate false actions",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ImplicitRewardEstimator(**FAST | params).partial_fit(X, np.ones((120, 3)))


# ---------------------------------------------------------------- persistence


@pytest.mark.parametrize("objective", ["stratified", "naive"])
def test_pickle_joblib_and_skops(objective, tmp_path):
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(objective, **FAST).fit(X, y)
    copies = [pickle.loads(pickle.dumps(estimator))]
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    copies.append(joblib.load(buffer))
    stored = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("implicitrm_sk.") for name in untrusted), untrusted
    copies.append(skops.io.loads(stored, trusted=untrusted))
    for copy in copies:
        assert_array_equal(copy.predict(X), estimator.predict(X))
        assert copy.score(X, y) == estimator.score(X, y)
        assert copy.get_params().keys() == estimator.get_params().keys()
        assert copy.history_ == estimator.history_
        copy.partial_fit(X, y)


def test_pickle_holds_arrays_not_tensors():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).partial_fit(X, y)
    assert b"torch" not in pickle.dumps(estimator)


SELECTIONS = {
    "names": ["e0", "e1"],
    "positions": [0, 1],
    "slice": slice(0, 2),
    "slice of names": slice("e0", "e1"),
    "mask": np.arange(6) < 2,
    "callable": make_column_selector("e[01]"),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selections_survive_clone_and_pickle(case):
    X, y, _ = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    estimator = ImplicitRewardEstimator(reward_features=SELECTIONS[case], **FAST)
    assert estimator.get_params()["reward_features"] is SELECTIONS[case]
    twin = clone(estimator).fit(frame, y)
    repr(twin)
    loaded = pickle.loads(pickle.dumps(twin))
    assert_array_equal(loaded.predict(frame[["e0", "e1"]]), twin.predict(frame))
    assert_array_equal(loaded.propensity(frame), twin.propensity(frame))
    loaded.partial_fit(frame, y)
    assert loaded.identification_.level == "ranking only"
    stored = skops.io.dumps(twin.set_params(reward_features=None))
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("implicitrm_sk.") for name in untrusted), untrusted
    restored = skops.io.loads(stored, trusted=untrusted)
    assert_array_equal(restored.predict(frame[["e0", "e1"]]), twin.predict(frame))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fitted_on_cuda_loads_on_cpu():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(device="cuda", **FAST).fit(X, y)
    state = estimator.__getstate__()
    state["device"] = "cpu"
    loaded = ImplicitRewardEstimator.__new__(ImplicitRewardEstimator)
    loaded.__setstate__(state)
    assert_allclose(loaded.predict(X), estimator.predict(X), atol=0.02)


def test_missing_device_falls_back_to_the_cpu_on_loading():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y)
    # As a machine with CUDA would have pickled it.
    stored = pickle.dumps(estimator.set_params(device="xpu:7"))
    with pytest.warns(UserWarning, match="device='xpu:7' is not available here"):
        loaded = pickle.loads(stored)
    assert_array_equal(loaded.predict(X), estimator.predict(X))


# ---------------------------------------------------------------- odd but legal input


def test_odd_inputs_give_the_same_reward(tmp_path):
    X, y, _ = make_log()
    X = X.astype(np.float32)
    reference = ImplicitRewardEstimator(**FAST).fit(X, y).predict(X)
    padded = np.zeros((800, 12), dtype=np.float32)
    padded[::2, ::2] = X
    mapped = np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    read_only = X.copy()
    read_only.flags.writeable = False
    for data in (
        padded[::2, ::2],
        np.asfortranarray(X),
        np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="r", shape=X.shape),
        read_only,
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
    ):
        estimator = ImplicitRewardEstimator(**FAST).fit(data, y)
        assert_allclose(estimator.predict(data), reference, atol=1e-5)
    for actions in (y.astype(np.int8), y.astype(bool), torch.from_numpy(y), list(y)):
        assert_array_equal(ImplicitRewardEstimator(**FAST).fit(X, actions).predict(X), reference)
    for data in (X.astype(np.float16), torch.from_numpy(X).bfloat16(), X.astype(np.float64)):
        estimator = ImplicitRewardEstimator(**FAST).fit(data, y)
        assert np.isfinite(estimator.predict(data)).all()


def test_nullable_and_named_actions():
    X, y, _ = make_log(n_signals=2)
    y = y.astype(float)
    y[::5, 1] = np.nan
    reference = ImplicitRewardEstimator(**FAST).fit(X, y).predict(X)
    frame = pd.DataFrame(y, columns=["copy", "share"])
    for actions in (
        frame,
        frame.astype("Int8"),
        frame.astype("boolean"),
        [[None if np.isnan(v) else int(v) for v in row] for row in y],
    ):
        assert_array_equal(ImplicitRewardEstimator(**FAST).fit(X, actions).predict(X), reference)


def test_unstandardized_read_only_input():
    X, y, _ = make_log()
    X = X.astype(np.float32)
    X.flags.writeable = False
    estimator = ImplicitRewardEstimator(standardize=False, **FAST).fit(X, y)
    assert estimator.scaler_ is None
    assert np.isfinite(estimator.predict(X)).all()
    with pytest.raises(ValueError, match="beyond the range of torch.float32.*dtype='float64'"):
        estimator.predict(np.full((1, 6), 1e200))


def test_one_feature_and_many_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100_000, 1)).astype(np.float32)
    y = (X[:, 0] > 0) & (rng.uniform(size=100_000) < 0.5)
    estimator = ImplicitRewardEstimator(
        **FAST | {"max_epochs": 2, "batch_size": 4096, "early_stopping": False}
    ).fit(X, y)
    reward = estimator.predict(X)
    assert reward.shape == (100_000,)
    assert reward[X[:, 0] > 1].mean() > reward[X[:, 0] < -1].mean()


# ---------------------------------------------------------------- errors


X_GOOD, Y_GOOD, _ = make_log(n=160)


BAD_FIT = {
    "a rating": (X_GOOD, Y_GOOD * 5, "y must be an action in {0,1}.*something else: 5"),
    "minus one": (X_GOOD, Y_GOOD * 2 - 1, "y must be an action in {0,1}.*: -1"),
    "all zero": (X_GOOD, Y_GOOD * 0, "y has one class only: all 160 logged actions are 0"),
    "all one": (X_GOOD, Y_GOOD * 0 + 1, "y has one class only: all 160 logged actions are 1"),
    "nothing logged": (X_GOOD, Y_GOOD * np.nan, "y logs nothing"),
    "too short": (X_GOOD, Y_GOOD[:-1], "y has 159 rows but X has 160"),
    "3-d": (X_GOOD, np.zeros((160, 2, 2)), "y has 3 dimensions"),
    "no signal": (X_GOOD, np.zeros((160, 0)), "y has no columns"),
    "strings": (X_GOOD, np.array(["copied", "no"] * 80), "y must be numbers.*Expected actions"),
    "no y": (X_GOOD, None, "requires y to be passed"),
    "X with NaN": (np.where(X_GOOD > 2, np.nan, X_GOOD), Y_GOOD, "Input X contains NaN"),
    "X with inf": (np.where(X_GOOD > 1, np.inf, X_GOOD), Y_GOOD, "Input X contains infinity"),
    "empty X": (X_GOOD[:0], Y_GOOD[:0], "0 sample"),
    "1-d X": (X_GOOD[:, 0], Y_GOOD, "Expected 2D array, got 1D array"),
    "3-d X": (X_GOOD[None], Y_GOOD, "dim 3"),
    "text": ([("prompt", "response")] * 160, Y_GOOD, "X holds text"),
    "a frame of text": (pd.DataFrame({"response": ["text"] * 160}), Y_GOOD, "X holds text"),
    "plain text": (["response"] * 160, Y_GOOD, "X holds text"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_bad_data(case):
    X, y, message = BAD_FIT[case]
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        ImplicitRewardEstimator(**FAST).fit(X, y)


def test_sparse_X():
    import scipy.sparse

    with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data"):
        ImplicitRewardEstimator(**FAST).fit(scipy.sparse.csr_array(X_GOOD), Y_GOOD)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sample_weight": -np.ones(160)}, "sample_weight has 160 negative"),
        ({"sample_weight": np.zeros(160)}, "sample_weight is zero for every row"),
        ({"sample_weight": np.ones(159)}, r"sample_weight has shape \(159,\)"),
        ({"sample_weight": np.full(160, np.nan)}, "sample_weight contains NaN"),
        ({"sample_weight": "balanced"}, "sample_weight must be one number per row.*'balanced'"),
        ({"groups": np.ones(3)}, r"groups has shape \(3,\)"),
    ],
)
def test_bad_side_information(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**FAST).fit(X_GOOD, Y_GOOD, **kwargs)


BAD_SIDE_INFORMATION = {
    "a label above 1": (
        {},
        {"labels": np.where(np.arange(160) < 3, 5.0, np.nan)},
        r"labels must lie in \[0, 1\] .* 3 value\(s\) lie outside, e.g. 5. Rescale",
    ),
    "a label below 0": ({}, {"labels": np.full(160, -1.0)}, "labels must lie in"),
    "a selector that selects nothing": (
        {"propensity_features": []},
        {},
        "propensity_features selects none of the columns of X; expected at least one",
    ),
    "a selector of a missing column": (
        {"reward_features": ["a", "user"]},
        {"X": pd.DataFrame(X_GOOD, columns=list("abcdef"))},
        "reward_features names the column 'user', which X lacks. X has the columns a, b, c, d, e",
    ),
    "a reversed interval": (
        {"preference_rate": (0.7, 0.3)},
        {},
        r"preference_rate=\(0.7, 0.3\) is reversed; .* Pass \(0.3, 0.7\)",
    ),
    "an interval beyond 1": (
        {"preference_rate": (0.7, 1.3)},
        {},
        r"preference_rate must lie in \[0, 1\], got \(0.7, 1.3\)",
    ),
    "three ends": ({"preference_rate": (0.1, 0.2, 0.3)}, {}, "preference_rate must be a number or"),
    "no end": (
        {"preference_rate": (None, 0.5)},
        {},
        r"preference_rate must lie in \[0, 1\]",
    ),
    "a rate above 1": ({"preference_rate": 1.5}, {}, "'preference_rate' parameter"),
    "a rate in words": ({"preference_rate": "half"}, {}, "'preference_rate' parameter"),
    "nobody likes anything": ({"preference_rate": 0}, {}, "no response is preferred, which leaves"),
    "everybody likes it all": ({"preference_rate": (1, 1)}, {}, "every response is preferred"),
    "a propensity of 0": (
        {},
        {"propensity": np.zeros(160)},
        r"propensity must lie in \(0, 1\], NaN where it is not known, but 160 value\(s\) do not",
    ),
    "a propensity above 1": ({}, {"propensity": np.full(160, 2.0)}, r"propensity must lie in \(0"),
    "a propensity below the false actions": (
        {"false_action_rate": 0.1},
        {"propensity": np.full(160, 0.1)},
        "propensity is not above false_action_rate in 160 value",
    ),
    "ids of the wrong length": (
        {},
        {"response_id": np.arange(159)},
        r"response_id has shape \(159,\); expected one value per row of X, \(160,\)",
    ),
    "missing ids": (
        {},
        {"response_id": np.where(np.arange(160) < 2, np.nan, 1.0)},
        r"response_id is missing \(NaN\) in 2 rows; the first is row 0. Give each response an id",
    ),
    "exposures smaller than actions": (
        {},
        {"y": np.full(160, 3), "exposures": np.full(160, 2)},
        "y counts more actions than exposures in 160 rows. The first is row 0: 3 actions in 2 exp",
    ),
    "exposures of the wrong length": (
        {},
        {"exposures": np.ones(159)},
        "exposures has 159 rows but",
    ),
    "counts without exposures": ({}, {"y": Y_GOOD * 3}, "Pass counts together with exposures="),
    "always acted on": (
        {"false_action_rate": 0.0},
        {"y": np.full(160, 2), "exposures": np.full(160, 2)},
        "y has one class only",
    ),
    "a label that an action contradicts": (
        {},
        {"labels": np.zeros(160)},
        f"labels are 0 on {Y_GOOD.sum()} responses that have an action: with false_action_rate",
    ),
    "labels where users acted": (
        {},
        {"labels": np.where(Y_GOOD == 1, 1.0, np.nan)},
        "labels are not missing at random",
    ),
    "an unknown mechanism": ({"label_mechanism": "mnar"}, {}, "'label_mechanism' parameter"),
}


@pytest.mark.parametrize("case", BAD_SIDE_INFORMATION)
def test_bad_side_information_is_named(case):
    params, data, message = BAD_SIDE_INFORMATION[case]
    estimator = ImplicitRewardEstimator(**FAST | params)
    with pytest.raises(ValueError, match=message) as error:
        estimator.fit(**{"X": X_GOOD, "y": Y_GOOD} | data)
    assert "\n" not in str(error.value)
    with pytest.raises(NotFittedError):
        estimator.predict(X_GOOD)


@pytest.mark.parametrize(
    ("column", "message"),
    [(np.zeros(400), "'share' of y is 0 in every row"), (np.full(400, np.nan), "is never logged")],
)
def test_useless_signal_is_named(column, message):
    X, y, _ = make_log()
    with pytest.warns(UserWarning, match=message):
        ImplicitRewardEstimator(**FAST).fit(X, pd.DataFrame({"copy": y, "share": column}))


def test_false_action_rate_above_the_action_rate_is_named():
    with pytest.warns(UserWarning, match=r"false_action_rate=0.6 of signal 0 .* only 0\.\d+"):
        ImplicitRewardEstimator(**FAST | {"false_action_rate": 0.6}).fit(X_GOOD, Y_GOOD)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective": "nonsense"}, "'objective' parameter of ImplicitRewardEstimator must be"),
        ({"objective": Stratified}, "'objective' parameter"),
        ({"hidden_layer_sizes": 0}, "'hidden_layer_sizes' parameter"),
        ({"hidden_layer_sizes": (8, -1)}, r"hidden_layer_sizes must be .* got \(8, -1\)"),
        ({"propensity_hidden_layer_sizes": (2.5,)}, "propensity_hidden_layer_sizes must be"),
        ({"false_action_rate": 1.0}, "'false_action_rate' parameter"),
        ({"false_action_rate": [0.1, 0.1]}, r"false_action_rate has shape \(2,\).*\(1,\)"),
        ({"false_action_rate": [1.5]}, r"false_action_rate must lie in \[0, 1\)"),
        ({"false_action_rate": ["a"]}, "false_action_rate must be a number, one per .* 'estimate'"),
        ({"n_estimators": 0}, "'n_estimators' parameter"),
        ({"learning_rate_init": 0.0}, "'learning_rate_init' parameter"),
        ({"weight_decay": -1.0}, "'weight_decay' parameter"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"max_epochs": 0}, "'max_epochs' parameter"),
        ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
        ({"n_iter_no_change": 0}, "'n_iter_no_change' parameter"),
        ({"tol": -1.0}, "'tol' parameter"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"random_state": "x"}, "'random_state' parameter"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**FAST | params).fit(X_GOOD, Y_GOOD)


# ---------------------------------------------------------------- import


def test_import_is_light():
    code = (
        "import sys, implicitrm_sk; "
        "print([m for m in ('matplotlib', 'transformers.models', 'skops') "
        "if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr
