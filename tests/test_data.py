"""The rows of a fit: how they are split, scaled, weighed and served; rows of one response."""

import itertools

import numpy as np
import pytest
from conftest import FAST, FULL_BATCH, exposed, make_log
from numpy.testing import assert_allclose, assert_array_equal

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._assumptions import Assumptions
from implicitrm_sk._features import HeadColumns
from implicitrm_sk._fit import begin_fit
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk.objectives import Naive, Stratified
from implicitrm_sk.training._data import TrainingData
from implicitrm_sk.training._modules import RewardModel
from implicitrm_sk.training._plan import Hooks

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


def data_of(X, y, **arguments):
    """Return the `TrainingData` of a fit, split."""
    estimator = ImplicitRewardEstimator(**FAST)
    return begin_fit(estimator, X, y, **arguments).data


# ---------------------------------------------------------------- split


def test_split_respects_groups():
    X, y, _ = make_log()
    groups = np.arange(400) // 4
    data = data_of(X, y, groups=groups)
    assert_array_equal(np.sort(np.r_[data.train, data.valid]), np.arange(400))
    assert not set(groups[data.valid]) & set(groups[data.train])
    assert 0.15 < len(data.valid) / 400 < 0.25

    data = data_of(np.concatenate([X, X]), np.concatenate([y, y]))
    chosen = np.isin(np.arange(800), data.valid)
    assert_array_equal(chosen[:400], chosen[400:])
    assert abs(y[chosen[:400]].mean() - y.mean()) < 0.03


def test_too_few_actions_train_a_fixed_number_of_epochs():
    X, y, _ = make_log()
    y = np.zeros(400)
    y[:9] = 1
    with pytest.warns(UserWarning, match=r"early_stopping needs at least 5 acted.*50 epochs"):
        estimator = ImplicitRewardEstimator(**FAST | {"max_epochs": 100}).fit(X, y)
    assert estimator.n_iter_ == 50
    assert "valid_loss" not in estimator.history_[0]


class Recording(RewardModel):
    """Keeps the first column of each batch, and whether it was trained on."""

    def __init__(self, **config):
        super().__init__(**config)
        self.batches = []

    def outputs(self, x, first=None):
        self.batches.append((self.training, x[:, 0].tolist()))
        return super().outputs(x, first)


def test_no_split_and_no_batch_cuts_an_id():
    X, _, _, rows, acted = exposed()
    numbered = np.c_[rows, X[rows]]
    params = FAST | {"standardize": False, "batch_size": 16, "max_epochs": 2}
    for groups in (None, rows // 3):
        begun = begin_fit(
            ImplicitRewardEstimator(**params), numbered, acted, response_id=rows, groups=groups
        )
        start = begun.model(None)
        model = Recording(**start.config)
        model.load_state_dict(start.state_dict())
        begun.plan.run(begun.data, model, 2, begun.random_state)
        passes = [
            (training, [batch for _, batch in batches])
            for training, batches in itertools.groupby(model.batches, lambda seen: seen[0])
        ]
        assert [training for training, _ in passes] == [True, False] * 2
        parts = []
        for training, batches in passes:
            assert max(map(len, batches)) < 16 + 4 or not training
            ids = [set(batch) for batch in batches]
            assert sum(map(len, ids)) == len(set().union(*ids))
            parts.append(set().union(*ids))
        assert parts[:2] == parts[2:]
        assert not parts[0] & parts[1]
        assert sum(len(batch) for _, batches in passes[:2] for batch in batches) == len(rows)
        if groups is not None:
            assert not {i // 3 for i in parts[0]} & {i // 3 for i in parts[1]}


# ---------------------------------------------------------------- weights and scale


def test_rows_without_weight_or_logged_action_change_nothing():
    X, y, _ = make_log(n_signals=2)
    y = y.astype(float)
    extra_X = np.concatenate([X, X[:50] + 5, X[:50] - 5])
    extra_y = np.concatenate([y, np.full((50, 2), np.nan), 1 - y[:50]])
    weight = np.concatenate([np.ones(450), np.zeros(50)])
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    extra = ImplicitRewardEstimator(**FAST).fit(extra_X, extra_y, sample_weight=weight)
    assert_allclose(extra.predict(X), plain.predict(X), atol=1e-6)


def test_full_batch_weights_equal_repeated_rows():
    X, y, _ = make_log(n=120, n_signals=2)
    weight = np.random.default_rng(0).integers(0, 4, size=120)
    weight[:2] = 1
    params = {
        "hidden_layer_sizes": (8,),
        "early_stopping": False,
        "max_epochs": 1,
        "batch_size": 10_000,
        "dropout": 0.0,
        "dtype": "float64",
        "random_state": 0,
    }
    gradients = []
    for data in [
        {"X": X, "y": y, "sample_weight": weight.astype(float)},
        {"X": np.repeat(X, weight, axis=0), "y": np.repeat(y, weight, axis=0)},
    ]:
        estimator = ImplicitRewardEstimator(**params).fit(**data)
        gradients.append([parameter.grad for parameter in estimator.model_.parameters()])
    for weighted, repeated in zip(*gradients, strict=True):
        assert_allclose(weighted, repeated, atol=1e-12)


def test_sample_weight_enters_training_validation_and_score():
    X, y, preference = make_log(n=1000)
    weight = np.where(X[:, 2] > 0, 10.0, 0.1)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    weighted = ImplicitRewardEstimator(**FAST).fit(X, y, sample_weight=weight)
    assert plain.history_[0]["valid_loss"] != weighted.history_[0]["valid_loss"]
    assert np.abs(plain.predict(X) - weighted.predict(X)).max() > 1e-3
    assert plain.score(X, y) != plain.score(X, y, sample_weight=weight)
    assert plain.score(X, y, preference) != plain.score(X, y, preference, sample_weight=weight)


def test_read_only_weights():
    X, y, _ = make_log()
    weight = np.ones(400)
    weight.flags.writeable = False
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    weighted = ImplicitRewardEstimator(**FAST).fit(X, y, sample_weight=weight)
    assert_array_equal(weighted.predict(X), plain.predict(X))


def test_scale_of_the_columns_does_not_matter():
    X, y, _ = make_log()
    X[:, 5] = 7.0
    shifted = X * 1e-3 + 1e3
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    other = ImplicitRewardEstimator(**FAST).fit(shifted, y)
    assert_allclose(plain.predict(X), other.predict(shifted), atol=1e-4)


# ---------------------------------------------------------------- rows of one response


def test_long_form_equals_counts():
    X, exposures, counts, rows, acted = exposed()
    ids = np.array([f"response {row}" for row in rows])
    params = FULL_BATCH | {"false_action_rate": 0.0}
    short = ImplicitRewardEstimator(**params).fit(X, counts, exposures=exposures)
    long = ImplicitRewardEstimator(**params).fit(X[rows], acted, response_id=ids)
    assert_allclose(long.predict(X), short.predict(X), atol=1e-9)
    assert_allclose(long.propensity(X), short.propensity(X), atol=1e-9)
    assert short.identification_.assumptions == long.identification_.assumptions

    expected = short.score(X, counts, exposures=exposures)
    assert short.score(X[rows], acted, response_id=ids) == pytest.approx(expected, rel=1e-9)
    # A response counts once, whatever the number of its rows.
    weight = np.linspace(0, 2, len(X))
    expected = short.score(X, counts, exposures=exposures, sample_weight=weight)
    found = short.score(X[rows], acted, response_id=ids, sample_weight=weight[rows])
    assert found == pytest.approx(expected, rel=1e-9)

    of_counts = short.predict_proba(X, counts, exposures=exposures)
    of_rows = short.predict_proba(X[rows], acted, response_id=ids)
    assert_allclose(of_rows.sum(axis=1), 1)
    assert_allclose(of_rows[:, [0, 2]].sum(axis=1), of_counts[rows][:, [0, 2]].sum(axis=1))
    assert_array_equal(of_counts[counts > 0], [[1, 0, 0, 0]] * (counts > 0).sum())


@pytest.mark.parametrize("form", ["counts", "long"])
def test_single_exposures_are_none(form):
    X, y, _ = make_log(n_signals=2)
    y = np.where(np.arange(400)[:, None] % 7 == [0, 3], np.nan, y)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    once = (
        {"exposures": np.ones(400)} if form == "counts" else {"response_id": np.arange(400)[::-1]}
    )
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y, **once)
    assert_allclose(estimator.predict(X), plain.predict(X), atol=1e-6)
    assert plain.score(X, y, **once) == pytest.approx(plain.score(X, y))
    assert_allclose(plain.predict_proba(X, y, **once), plain.predict_proba(X, y), atol=1e-6)


def test_what_knows_nothing_changes_nothing():
    X, y, _ = make_log()
    nothing = np.full(400, np.nan)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y, labels=nothing, propensity=nothing)
    assert_array_equal(estimator.predict(X), plain.predict(X))
    assert estimator.identification_ == plain.identification_


def test_naive_reduces_the_exposures_of_a_response():
    X, exposures, counts, rows, acted = exposed()
    any_action = (counts > 0).astype(int)
    expected = ImplicitRewardEstimator("naive", **FULL_BATCH).fit(X, any_action)
    for data in (
        {"X": X, "y": counts, "exposures": exposures},
        {"X": X[rows], "y": acted, "response_id": rows},
    ):
        estimator = ImplicitRewardEstimator("naive", **FULL_BATCH).fit(**data)
        assert_allclose(estimator.predict(X), expected.predict(X), atol=1e-9)
        assert estimator.score(**data) == pytest.approx(expected.score(X, any_action))


def test_rows_of_an_id_have_one_reward_weight_label_and_group():
    X, _, _, rows, acted = exposed()
    ids = np.array([f"r{row}" for row in rows])
    long = np.c_[X[rows], np.arange(len(rows))]
    first = next(i for i, row in enumerate(rows) if row in rows[:i])
    message = rf"X differs \(position 4 of the reward columns\).* is '{ids[first]}' \(row {first}\)"
    with pytest.raises(ValueError, match=rf"{message}.*name the columns .* propensity_features"):
        ImplicitRewardEstimator(**FAST).fit(long, acted, response_id=ids)
    estimator = ImplicitRewardEstimator(propensity_features=[4], **FAST)
    estimator.fit(long, acted, response_id=ids)
    moved = long.copy()
    moved[first, 0] += 1
    for method, kwargs in (
        (estimator.score, {"y": acted}),
        (estimator.predict_proba, {"actions": acted}),
        (estimator.partial_fit, {"y": acted}),
    ):
        with pytest.raises(ValueError, match=rf"X differs \(position 0 .* '{ids[first]}'"):
            method(moved, **kwargs, response_id=ids)
    for name in ("sample_weight", "groups", "labels"):
        value = np.ones(len(rows))
        value[first] = 0
        with pytest.raises(ValueError, match=rf"{name} differs? .* '{ids[first]}'"):
            estimator.fit(long, acted, response_id=ids, **{name: value})


# ---------------------------------------------------------------- the object


def test_data_of_a_log():
    """Rows of a response lie side by side; a log of one signal is reduced to what it works on."""
    X, _, _, rows, acted = exposed()
    log, _ = FeedbackLog.from_arguments(
        acted, len(rows), Assumptions(), Stratified(), response_id=rows
    )
    everything = HeadColumns(np.arange(4), np.arange(4), 4)
    arguments = {"response_id": rows, "groups": rows // 2}
    data = TrainingData(X[rows], log, everything, Stratified(), **arguments)
    assert (np.diff(data.log.response) >= 0).all()
    assert_array_equal(data.X[data.log.first], X[rows[log.first]])
    assert_array_equal(data.groups, rows[log.first] // 2)
    assert_array_equal(data.usable, np.arange(120))
    assert data.train is data.usable and not len(data.valid) and data.scaler is None
    assert_array_equal(data.log.fired(), log.fired())

    data = TrainingData(X[rows], log, everything, Naive(), **arguments)
    assert data.log.response is None and data.X.shape == (120, 4)
    assert_array_equal(data.X, X[rows[log.first]])
    assert_array_equal(data.log.actions[:, 0], log.fired())


def test_release_leaves_what_serves_rows():
    data = data_of(*make_log()[:2])
    X, scaler, columns = data.X, data.scaler, data.columns
    data.release()
    assert data.X is X and data.scaler is scaler and data.columns is columns
    for name in ("log", "groups", "usable", "train", "valid"):
        assert getattr(data, name) is None


@pytest.mark.parametrize("params", [{}, {"preference_rate": 0.6}], ids=["plain", "with a rate"])
def test_a_run_releases_the_log_before_it_trains(params):
    X, y, _ = make_log()
    begun = begin_fit(ImplicitRewardEstimator(**FAST | {"max_epochs": 2} | params), X, y)
    seen = []
    hooks = Hooks(epoch_begin=lambda: seen.append(begun.data.log))
    begun.plan.run(begun.data, begun.model(None), 2, begun.random_state, hooks=hooks)
    assert seen == [None, None]


def test_scaler_learns_the_rows_to_train_on():
    X, y, _ = make_log()
    weight = np.linspace(0.5, 2, 400)
    data = data_of(X, y, sample_weight=weight)
    rows = data.train
    mean = np.average(X[rows], axis=0, weights=weight[rows])
    assert_allclose(data.scaler.mean_, mean, atol=1e-12)
    variance = np.average((X[rows] - mean) ** 2, axis=0, weights=weight[rows])
    assert_allclose(data.scaler.var_, variance, rtol=1e-12)
    data.update_scaler(None)
    assert data.scaler is None


def test_weights_have_mean_one_on_each_side():
    X, y, _ = make_log()
    weight = np.linspace(0.5, 2, 400)
    data = data_of(X, y, sample_weight=weight)
    balanced = data.balanced_weights()
    for part in (data.train, data.valid):
        assert balanced[part].mean() == pytest.approx(1)
        assert_allclose(balanced[part], weight[part] / weight[part].mean())
    assert_array_equal(data.log.sample_weight, weight)
