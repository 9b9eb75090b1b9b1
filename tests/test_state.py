"""What a call leaves behind that does not come to its end, and forks of a process that fitted."""

import copy
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from conftest import FAST, make_log, make_tiny_model
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, LLMEmbedder, _estimator, _fit
from implicitrm_sk.training._data import TrainingData
from implicitrm_sk.training._net import RewardNet
from implicitrm_sk.training._plan import FitPlan

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)
#: Where a fit is interrupted: at the first steps, in training, after it.
STAGES = {
    "embedder": (_fit, "set_embedder"),
    "columns": (_fit, "select_features"),
    "log": (_fit.FeedbackLog, "from_arguments"),
    "verdict": (_fit, "assess"),
    "split": (TrainingData, "split"),
    "scaler": (_fit, "update_scaler"),
    "preparation": (_fit, "prepare_objective"),
    "model": (FitPlan, "new_model"),
    "training": (RewardNet, "fit_loop"),
    "step": (RewardNet, "train_step"),
    "held out": (_fit, "check_verdict"),
    "end": (_fit, "warn_still_improving"),
}


def interrupt_after(monkeypatch, owner, name, error=KeyboardInterrupt):
    """Let a function do its work, and an error come up as soon as it has."""
    original = getattr(owner, name)

    def interrupted(*args, **kwargs):
        original(*args, **kwargs)
        raise error("of the test")

    monkeypatch.setattr(owner, name, interrupted)


def assert_unchanged(est, before, X, y):
    """Check an estimator against a copy made before: attributes, rewards, and how it goes on."""
    assert vars(est).keys() == vars(before).keys()
    if not hasattr(before, "model_"):
        with pytest.raises(NotFittedError):
            est.predict(X)
        return
    np.testing.assert_array_equal(est.predict(X), before.predict(X))
    assert est.history_ == before.history_
    assert est.n_iter_ == before.n_iter_
    assert est.identification_ == before.identification_
    np.testing.assert_array_equal(est.scaler_.mean_, before.scaler_.mean_)
    for one in (est, before):
        one.partial_fit(X[:100], y[:100])
    np.testing.assert_array_equal(est.predict(X), before.predict(X))


@pytest.fixture(scope="module")
def log():
    X, y, _ = make_log(n_signals=2)
    return X, y


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("was", ["new", "fitted", "warm"])
def test_an_interrupted_fit_leaves_the_estimator_as_it_was(stage, was, log, monkeypatch):
    X, y = log
    est = ImplicitRewardEstimator(**FAST | {"max_epochs": 2})
    if was != "new":
        est.fit(X[:200], y[:200]).set_params(warm_start=was == "warm")
    before = copy.deepcopy(est)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, *STAGES[stage])
        est.fit(X[200:] + 1, y[200:])
    assert_unchanged(est, before, X, y)


@pytest.mark.parametrize("stage", ["log", "scaler", "model", "step", "training"])
def test_an_interrupted_partial_fit_leaves_the_estimator_as_it_was(stage, log, monkeypatch):
    X, y = log
    places = STAGES | {"scaler": (_estimator, "update_scaler")}
    est = ImplicitRewardEstimator(**FAST).partial_fit(X[:200], y[:200])
    before = copy.deepcopy(est)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, *places[stage])
        est.partial_fit(X[200:] + 1, y[200:])
    assert_unchanged(est, before, X, y)
    new = ImplicitRewardEstimator(**FAST)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, *places[stage])
        new.partial_fit(X, y)
    assert vars(new).keys() == new.get_params().keys()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda X, y: (X, y[:-1], {}),
        lambda X, y: (X, y + 5, {}),
        lambda X, y: (X[:, :0], y, {}),
        lambda X, y: (np.where(X > 2, np.nan, X), y, {}),
        lambda X, y: (X, np.zeros_like(y), {}),
        lambda X, y: (X, y, {"labels": np.zeros(len(y))}),
        lambda X, y: (X, y, {"sample_weight": -np.ones(len(y))}),
        lambda X, y: (X, y, {"response_id": np.zeros(len(y))}),
        lambda X, y: (X * 1e30, y, {}),
    ],
)
def test_a_failed_fit_leaves_the_estimator_as_it_was(wrong, log):
    X, y = log
    est = ImplicitRewardEstimator(**FAST | {"max_epochs": 2}).fit(X, y)
    before = copy.deepcopy(est)
    given, actions, further = wrong(X, y)
    if np.isfinite(given).all() and given.size and np.abs(given).max() > 1e20:
        est.set_params(standardize=False, learning_rate_init=1e30)
        before.set_params(standardize=False, learning_rate_init=1e30)
    with pytest.raises((ValueError, FloatingPointError)):
        est.fit(given, actions, **further)
    for one in (est, before):
        one.set_params(standardize=True, learning_rate_init=0.01)
    assert_unchanged(est, before, X, y)


def test_a_warning_that_is_an_error_fails_the_whole_fit(log):
    X, y = log
    est = ImplicitRewardEstimator(**FAST | {"max_epochs": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning):
            est.fit(X, y)
    assert vars(est).keys() == est.get_params().keys()


def test_users_and_other_arguments_are_forgotten_too(log, monkeypatch):
    X, y = log
    user = np.arange(len(X)) % 20
    est = ImplicitRewardEstimator(**FAST | {"max_epochs": 2}).fit(X, y, user_id=user)
    activity = est.user_activity_
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, _fit, "fit_users")
        est.fit(X, y, user_id=user[::-1])
    assert est.user_activity_ is activity
    with pytest.raises(ValueError, match="user_id has shape"):
        est.fit(X, y, user_id=user[:3])
    assert est.user_activity_ is activity
    assert np.isfinite(est.propensity(X, user_id=user)).all()


def test_ctrl_c_in_an_epoch(log):
    X, y = log

    class PressCtrlC:
        def setup(self, estimator, context):
            self.epochs = 0

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.epochs += context.task_name == "epoch"
            if self.epochs == 3:
                signal.raise_signal(signal.SIGINT)

    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    before = copy.deepcopy(est)
    # A process of pytest-xdist ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            est.set_callbacks(PressCtrlC()).fit(X + 1, y)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert_unchanged(est.set_callbacks(), before, X, y)
    # And it can be fitted again.
    np.testing.assert_array_equal(
        est.fit(X, y).predict(X), ImplicitRewardEstimator(**FAST).fit(X, y).predict(X)
    )


def test_an_interrupted_search_is_as_it_was(log, monkeypatch):
    X, y = log
    base = ImplicitRewardEstimator(**FAST | {"max_epochs": 2})
    grid = {"learning_rate_init": [0.003, 0.01]}
    search = BatchedSearchCV(base, grid, cv=2)
    for stage in ("training", "columns"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(patch, *STAGES[stage])
            search.fit(X, y)
        assert vars(search).keys() == search.get_params(deep=False).keys()
        assert vars(base).keys() == base.get_params().keys()
    search.fit(X, y)
    found = search.best_estimator_, search.cv_results_
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, *STAGES["end"])
        search.fit(X, y)
    assert (search.best_estimator_, search.cv_results_) == found


def test_an_embedder_that_cannot_be_settled_is_as_it_was(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    embedder = LLMEmbedder(folder, cache_dir=None).fit()
    before = dict(vars(embedder))
    with pytest.raises(ValueError, match="layer=7"):
        embedder.set_params(layer=7).fit()
    assert vars(embedder) == before | {"layer": 7}


# ---------------------------------------------------------------------- forks

FORK = """
    import os, sys, time, warnings
    import numpy as np, torch
    from implicitrm_sk import ImplicitRewardEstimator
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 64)).astype(np.float32)
    y = ((X[:, :1] > 0) & (rng.random((4000, 2)) < 0.5)).astype(int)
    settings = {"hidden_layer_sizes": (128,), "max_epochs": 1, "random_state": 0}
    est = ImplicitRewardEstimator(**settings).fit(X, y)
    reward = est.predict(X)
    calls = [
        lambda: np.abs(est.predict(X) - reward).max() < 1e-5,
        lambda: est.score(X, y) < 0,
        lambda: est.partial_fit(X, y) is est,
        lambda: ImplicitRewardEstimator(**settings).fit(X, y).n_iter_ == 1,
    ]
    children = []
    for call in calls:
        child = os.fork()
        if not child:
            os._exit(0 if call() else 1)
        children.append(child)
    end = time.monotonic() + 200
    codes = [None] * len(children)
    while None in codes and time.monotonic() < end:
        for number, child in enumerate(children):
            if codes[number] is None:
                ended, status = os.waitpid(child, os.WNOHANG)
                codes[number] = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.05)
    for code, child in zip(codes, children):
        if code is None:
            os.kill(child, 9)
    assert torch.get_num_threads() == 2
    print(codes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_of_a_process_that_has_fitted_do_not_hang():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr
