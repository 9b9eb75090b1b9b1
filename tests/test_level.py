"""The level of a fitted reward is moved to what its own log says of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import run_fit
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.measurement import _mixture
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.measurement._one_step import Patterns, one_step, reward_of
from implicitrm_sk.objectives import Stratified
from implicitrm_sk.training._data import member_logits
from implicitrm_sk.training._level import RIDGE, LevelRows

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::implicitrm_sk.IdentificationWarning"),
]

KINDS = ["positive", "positive", "negative"]
N = 1500


def draw(kinds=KINDS, ready=(0.5, 0.2, 0.2), **kwargs):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3)).astype(np.float32)
    R = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    ready = np.tile(ready, (N, 1))[:, : len(kinds)]
    log = simulate_feedback(R, signals=kinds, propensity=ready, random_state=0, **kwargs)
    return X, log.actions, log.true_preference


def fitted(X, y, adjust=None, kinds=KINDS, **params):
    settings = {
        "signals": kinds,
        "shared_examination": False,
        "hidden_layer_sizes": (8,),
        "learning_rate_init": 0.01,
        "n_estimators": 2,
        "max_epochs": 5,
        "random_state": 0,
    }
    fit_params = params.pop("fit_params", {})
    return run_fit(ImplicitRewardEstimator(**settings | params), X, y, adjust=adjust, **fit_params)


unmoved = partial(fitted, adjust=partial(replace, tells_level=False))


def one_step_mean(est, X, y, weight):
    """Return the fitted mean, the mean of one-step estimates and its standard error."""
    heads = ("reward_logit", "propensity_logit")
    f, u = member_logits(est.model_, X, est.scaler_, heads, est.dtype)
    f, u = _mixture.mean_logit(f), u.mean(0)
    patterns = Patterns(np.ones((1, len(KINDS)), dtype=bool), np.ones(1))
    values, _ = one_step(
        Measurement(est.signals_),
        reward_of,
        f,
        u,
        patterns,
        torch.as_tensor(y),
        None,
        None,
        ridge=RIDGE,
    )
    weight = weight / weight.sum()
    mean = weight @ values[:, 0]
    error = np.sqrt(weight**2 @ (values[:, 0] - mean) ** 2)
    return weight @ torch.sigmoid(f).numpy(), mean, error


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_moves_by_its_share_of_the_difference(weighted):
    X, y, preferred = draw()
    weight = np.where(X[:, 1] > 0, 3.0, 1.0) if weighted else np.ones(N)
    side = {"fit_params": {"sample_weight": weight}}
    before, after = unmoved(X, y, **side), fitted(X, y, **side)
    mean, told, error = one_step_mean(before, X, y.astype(float), weight)
    gap = told - mean
    assert abs(gap) > error  # the log is one whose fit ends far off
    expected = mean + gap * (1 - error**2 / gap**2)
    found = np.average(after.predict(X), weights=weight)
    assert found == pytest.approx(expected, abs=1e-5)
    truth = np.average(preferred, weights=weight)
    assert abs(found - truth) < abs(mean - truth) / 2


def test_it_is_one_constant_on_all_reward_logits():
    X, y, _ = draw()
    before, after = unmoved(X, y, n_estimators=1), fitted(X, y, n_estimators=1)
    shift = after.decision_function(X) - before.decision_function(X)
    assert abs(shift).min() > 0.1
    assert_allclose(shift, shift[0], atol=1e-4)
    assert before.history_ == after.history_
    # The propensities follow: the log is as likely, or more so.
    assert after.score(X, y) > before.score(X, y) - 1e-4


@pytest.mark.parametrize(
    ("kinds", "params"),
    [
        (["positive"], {}),
        (["positive", "negative"], {}),
        (KINDS, {"preference_rate": 0.4}),
        (KINDS, {"shared_propensity": True}),
        (KINDS, {"fit_params": {"exposures": np.full(N, 2)}}),
    ],
)
def test_a_mean_that_the_log_does_not_show_or_that_is_known_stays(kinds, params):
    X, y, _ = draw(kinds)
    before, after = (fit(X, y, kinds=kinds, **params) for fit in (unmoved, fitted))
    assert_array_equal(before.predict(X), after.predict(X))


@pytest.mark.parametrize("rate", [0.75, (0.7, 0.8), 0.5, (0.3, 0.6)])
def test_a_rate_that_the_log_contradicts_identifies_nothing(rate):
    X, y, liked = draw(["positive", "positive"], ready=[0.7, 0.6])
    assert liked.mean() == pytest.approx(0.5, abs=0.02)
    est = fitted(X, y, kinds=["positive", "positive"], preference_rate=rate, max_epochs=40)
    found = est.identification_
    if np.max(rate) < 0.7:
        assert found.level == "identified"
        return
    assert found.level == "not identified"
    assert "but the log shows a lower one, by" in found.against
    assert "Correct the rate" in found.advice[0]


def test_a_preference_interval_limits_the_move():
    X, y, _ = draw()
    free = fitted(X, y).predict(X).mean()
    est = fitted(X, y, preference_rate=(free + 0.03, 0.9))
    assert est.predict(X).mean() == pytest.approx(free + 0.03, abs=1e-4)


def test_labels_show_the_level_of_one_signal():
    X, y, preferred = draw(["positive"])
    label = np.where(np.random.default_rng(1).random(N) < 0.3, preferred, np.nan)
    side = {"kinds": ["positive"], "fit_params": {"labels": label}}
    before, after = (
        abs(fit(X, y, **side).predict(X).mean() - preferred.mean()) for fit in (unmoved, fitted)
    )
    assert after < before
    assert after < 0.03


def test_a_loss_of_ones_own_keeps_its_level():
    class Own(Stratified):
        def loss(self, reward_logit, propensity_logit, batch):
            return super().loss(reward_logit, propensity_logit, batch)

    X, y, _ = draw()
    before = unmoved(X, y)
    assert_array_equal(fitted(X, y, objective=Own()).predict(X), before.predict(X))
    assert (fitted(X, y).predict(X) != before.predict(X)).any()


def test_a_large_log_is_read_in_part(monkeypatch):
    """Every k-th row, from memory and from a file alike."""
    monkeypatch.setattr("implicitrm_sk.training._level.MAX_ROWS", 400)
    seen, move = [], LevelRows.move

    def spy(self, *args):
        seen.append(self.rows)
        return move(self, *args)

    monkeypatch.setattr(LevelRows, "move", spy)
    X, y, _ = draw()
    fitted(X, y)
    assert_array_equal(seen[0], np.arange(0, N, 4))


def test_a_file_gives_the_level_of_an_array(tmp_path):
    X, y, _ = draw()
    np.save(tmp_path / "x.npy", X)
    from_file = fitted(str(tmp_path / "x.npy"), y)
    assert_allclose(from_file.predict(X), fitted(X, y).predict(X), atol=1e-6)
    assert from_file.predict(X).mean() != unmoved(X, y).predict(X).mean()
