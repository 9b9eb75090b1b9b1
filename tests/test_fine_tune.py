"""fine_tune: the same likelihood end to end, exactly; what cannot be tuned is said before."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tiny_model, some_labels
from transformers import TrainingArguments

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk._activity import held_out
from implicitrm_sk._prediction import FittedMixture
from implicitrm_sk.embedding import LowRankAdapter, _models
from implicitrm_sk.exceptions import IdentificationWarning, ModelFileError
from implicitrm_sk.integrations import _fine_tune, fine_tune, reward_function, to_transformers
from implicitrm_sk.objectives import Naive
from implicitrm_sk.persistence._values import Codec
from implicitrm_sk.training._users import posterior, quadrature

WORDS = ["good", "nice", "fine", "bad", "poor", "dull"]


def make_texts(n=160, seed=0):
    """Return texts, actions of both polarities, and which texts are liked."""
    rng = np.random.default_rng(seed)
    texts = [(f"q{i % 53}", " ".join(rng.choice(WORDS, size=rng.integers(1, 4)))) for i in range(n)]
    liked = np.array([answer.split()[0] in WORDS[:3] for _, answer in texts])
    fires = rng.random((n, 2)) < 0.8
    return texts, np.column_stack([liked & fires[:, 0], ~liked & fires[:, 1]]).astype(int), liked


def make_estimator(folder, *, dtype="float32", **settings):
    embedder = LLMEmbedder(
        folder, dtype=dtype, output_dtype=dtype, max_length=48, device="cpu", cache_dir=None
    )
    common = {
        "signals": ["positive", "negative"],
        "n_estimators": 2,
        "hidden_layer_sizes": (8,),
        "learning_rate_init": 0.01,
        "max_epochs": 5,
        "n_iter_no_change": 3,
        "random_state": 0,
        "device": "cpu",
    }
    return ImplicitRewardEstimator(embedder=embedder, **common | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(
        tmp_path_factory.mktemp("bert"), "bert", hidden_size=16, intermediate_size=24
    )


@pytest.fixture(scope="module")
def log():
    return make_texts()


@pytest.fixture(scope="module")
def fitted(folder, log):
    return fit(make_estimator(folder), log)


def fit(est, log, **fit_params):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few epochs do not suffice
        return est.fit(log[0], log[1], **fit_params)


def run_of(est, X, y, folder, *, lora=True, args=None, groups=None, eval_fraction=None, **side):
    """Return a run as `fine_tune` makes it, not yet trained, with heads at full scale."""
    _fine_tune.ensure_fitted(est.embedder_)
    config = _fine_tune.lora_config(est.embedder_, lora)
    args = _fine_tune.training_arguments(est, folder, args, lora=config is not None)
    run = _fine_tune.Run.of(est, X, y, groups, side, eval_fraction, args, config)
    run.head_scale = 1.0
    return run


def train(run):
    """Train whatever the guard would say, and return trainer and estimator."""
    trainer, _ = run.train()
    run.assemble(trainer)
    return trainer, run.tuned


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


# ---------------------------------------------------------------------- exact


@pytest.mark.parametrize("lora", [True, False])
def test_no_step_changes_nothing(fitted, log, tmp_path, lora):
    texts, y, _ = log
    args = {"learning_rate": 0.0, "max_steps": 2}
    trainer, tuned = train(run_of(fitted, texts, y, tmp_path / "run", lora=lora, args=args))
    assert trainer.state.global_step == 2
    assert tuned is not fitted
    for method in ("predict", "propensity", "predict_proba"):
        expected = getattr(fitted, method)(texts)
        np.testing.assert_allclose(getattr(tuned, method)(texts), expected, atol=1e-5)
    assert tuned.identification_ == fitted.identification_


def test_one_step_is_the_gradient_of_the_likelihood(tmp_path):
    """R a (1 - b) + ... by hand, in float64, of all rows of the training part."""
    import transformers

    log = texts, y, _ = make_texts(60)
    folder = make_tiny_model(
        tmp_path / "m", "bert", hidden_size=16, intermediate_size=24,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    est = make_estimator(
        folder, dtype="float64", n_estimators=1, hidden_layer_sizes=(), dropout=0.0
    )
    est.set_params(dtype="float64")
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(texts))
    fit(est, log, sample_weight=weight)
    args = {
        "max_steps": 1, "per_device_train_batch_size": len(texts), "optim": "sgd",
        "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "warmup_steps": 0,
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
    }  # fmt: skip
    run = run_of(est, texts, y, tmp_path / "run", lora=False, args=args, sample_weight=weight)
    trainer, _ = run.train()

    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64)
    heads = {name: p.detach().clone().requires_grad_() for name, p in est.model_.named_parameters()}
    mean, scale = (torch.as_tensor(a) for a in (est.scaler_.mean_, est.scaler_.scale_))
    loss, part = 0.0, run.data.train
    for i in part:
        (tokens,) = est.embedder_.tokenize([texts[i]])
        x = network(torch.tensor([tokens])).last_hidden_state[0].mean(0)
        x = (x - mean) / scale
        f = (x @ heads["reward.weights.0"][:, 0] + heads["reward.biases.0"][0, 0]).squeeze()
        u = x @ heads["propensity.weights.0"][:, 0] + heads["propensity.biases.0"][0, 0]
        R, A = torch.sigmoid(f), torch.sigmoid(u)
        copied, regenerated = y[i]
        # A preferred response is copied or not, and never regenerated; and the reverse.
        preferred = (A[0] if copied else 1 - A[0]) * (not regenerated)
        disliked = (A[1] if regenerated else 1 - A[1]) * (not copied)
        loss = loss - weight[i] * torch.log(R * preferred + (1 - R) * disliked)
    loss = loss / weight[part].sum()
    loss.backward()
    # Which the Trainer sums in float32.
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(loss.item(), abs=1e-6)
    found = weights_of(trainer)
    for name, parameter in heads.items():
        expected = (parameter - 0.1 * parameter.grad).detach()
        torch.testing.assert_close(found[f"heads.{name}"], expected, atol=1e-9, rtol=0)
    moved = 0.0
    for name, parameter in network.named_parameters():
        if "pooler" in name:
            continue
        expected = (parameter - 0.1 * parameter.grad).detach()
        torch.testing.assert_close(found[f"trunk.network.{name}"], expected, atol=1e-9, rtol=0)
        moved = max(moved, float((0.1 * parameter.grad).abs().max()))
    assert moved > 1e-5


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return the folder of a model without dropout."""
    return make_tiny_model(
        tmp_path_factory.mktemp("calm"), "bert", hidden_size=16, intermediate_size=24,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


STEPS = {
    "max_steps": 6, "learning_rate": 1e-3, "logging_steps": 1, "eval_steps": 3, "save_steps": 3,
}  # fmt: skip


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_average_of_the_weights_is_evaluated_and_kept(calm, log, tmp_path, monkeypatch):
    """Of six steps the first is the average, the second half of it, the others 1 / 2.4 of it."""
    from implicitrm_sk.integrations import _tuned

    est = fit(make_estimator(calm), log)
    seen = []
    average = _tuned.TunedReward.average

    def noted(self, share):
        seen.append((share, self.heads.reward.biases[-1].detach().clone()))
        average(self, share)

    monkeypatch.setattr(_tuned.TunedReward, "average", noted)
    args = STEPS | {"save_strategy": "no", "load_best_model_at_end": False}
    trainer, _ = run_of(est, *log[:2], tmp_path, args=args).train()
    assert [share for share, _ in seen] == pytest.approx([1.0, 0.5] + 4 * [1 / 2.4])
    expected = 0.0
    for share, bias in seen:
        expected = (1 - share) * expected + share * bias
    found = trainer.model.heads.reward.biases[-1]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.equal(found, seen[-1][1])
    loss = -trainer.held_out(trainer.mixture).sum() / trainer.weight.sum()
    last = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    assert last == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("normalize", [False, True])
def test_column_that_does_not_vary_leaves_the_others_their_gradient(tmp_path, log, normalize):
    """MiniLM has three of these: divided by their scale, the gradient of one is 1e30.

    Through the norm of a vector it is 1e-30, of which a step of AdamW is not small beside 1e-30.
    """
    folder = make_tiny_model(tmp_path / "m", "bert", hidden_size=16, intermediate_size=24)
    import transformers

    network = transformers.AutoModel.from_pretrained(folder)
    norm = network.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight[3], norm.bias[3] = 1e-30, 0.0
    network.save_pretrained(folder)
    est = make_estimator(folder)
    est.embedder.set_params(normalize=normalize)
    est = fit(est, log)
    assert 0 < est.scaler_.scale_[3] < 1e-29
    args = STEPS | {"weight_decay": 0.0, "save_strategy": "no", "load_best_model_at_end": False}
    trainer, _ = run_of(est, *log[:2], tmp_path / "run", lora=False, args=args).train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == 6
    assert max(norms) < 100
    found = trainer.model.trunk.network.encoder.layer[-1].output.LayerNorm
    assert found.weight[3] == norm.weight[3]
    assert (found.weight - norm.weight).abs().median() > 1e-4


def test_accumulation_is_a_larger_batch(calm, log, tmp_path):
    """Also of the last, smaller batch of an epoch."""
    est = fit(make_estimator(calm, dropout=0.0), log)
    found = []
    for batch, steps in ((32, 1), (16, 2)):
        args = STEPS | {
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": steps,
            "data_seed": 0, "max_steps": 4,
        }  # fmt: skip
        found.append(run_of(est, *log[:2], tmp_path / str(batch), args=args).train()[0])
    assert len(found[0].train_dataset) % 32
    for mine, other in zip(losses_of(found[0]), losses_of(found[1]), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


def test_resumed_is_uninterrupted(fitted, log, tmp_path, monkeypatch):
    """With dropout in language model and heads, and a constraint on the rate."""
    texts, y, _ = log
    est = fit(make_estimator(fitted.embedder.model, preference_rate=0.5), log)
    whole, _ = run_of(est, texts, y, tmp_path / "whole", args=STEPS).train()

    from implicitrm_sk.integrations import _tuned

    step = _tuned.RewardTrainer.training_step

    def breaks(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(_tuned.RewardTrainer, "training_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(est, texts, y, output_dir=tmp_path / "cut", args=STEPS)
    monkeypatch.undo()
    args = STEPS | {"resume_from_checkpoint": True}
    resumed_run = run_of(est, texts, y, tmp_path / "cut", args=args)
    resumed_run.claim(tmp_path / "cut")
    resumed, _ = resumed_run.train()
    assert losses_of(resumed) == pytest.approx(losses_of(whole), abs=1e-6)
    early = run_of(est, texts, y, tmp_path / "early", args=STEPS)
    early.claim(tmp_path / "early")  # and interrupted before the first checkpoint
    early = run_of(est, texts, y, tmp_path / "early", args=args)
    early.claim(tmp_path / "early")
    assert early.args.resume_from_checkpoint is None
    expected = weights_of(whole)
    for name, parameter in weights_of(resumed).items():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=0)
    other = run_of(est, texts[:-1], y[:-1], tmp_path / "cut", args=args)
    with pytest.raises(FileExistsError, match="does not hold a run of this estimator"):
        other.claim(tmp_path / "cut")


def train_calm(folder, output_dir, batch, *, lora=True, engine=None, cut=None):
    """Return what came of a run without dropout: losses, weights, likelihoods and rewards.

    With `cut` it is interrupted at that step, and resumed.
    """
    from implicitrm_sk.integrations import _tuned

    log = make_texts()
    est = fit(make_estimator(folder, dropout=0.0, preference_rate=0.5), log)
    args = STEPS | {"per_device_train_batch_size": batch} | (engine or {})

    def run(args):
        run = run_of(est, *log[:2], output_dir, lora=lora, args=args)
        run.claim(Path(output_dir))
        return run, *run.train()

    if cut is not None:
        step = _tuned.RewardTrainer.training_step

        def breaks(self, *args, **kwargs):
            if self.state.global_step == cut:
                raise KeyboardInterrupt
            return step(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(_tuned.RewardTrainer, "training_step", breaks)
            run(args)
        args = args | {"resume_from_checkpoint": True}
    run, trainer, frozen = run(args)
    run.assemble(trainer)
    run._verify(trainer)
    weights = dict(trainer.model.trunk.named_parameters())
    parts = [w.to_local().numel() < w.numel() for w in weights.values() if hasattr(w, "to_local")]
    assert any(parts) == ("fsdp" in args)
    weights = _tuned.whole(dict(trainer.model.named_parameters()), True)
    rewards = torch.as_tensor(run.tuned.predict(log[0]))
    return losses_of(trainer), weights, trainer.state.best_metric, frozen.tolist(), rewards


JOB = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import test_fine_tune
{before}
found = test_fine_tune.train_calm(sys.argv[2], sys.argv[3], 16, {settings})
if torch.distributed.get_rank() == 0:
    torch.save(found, sys.argv[4])
torch.distributed.destroy_process_group()
"""


def in_two_processes(folder, output_dir, saved, settings="", before=""):
    """Start two processes that call `train_calm`."""
    port = random.SystemRandom().randint(20000, 60000)
    jobs = []
    for rank in (0, 1):
        env = os.environ | {
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        job = JOB.format(settings=settings, before=before)
        arguments = [Path(__file__).parent, folder, output_dir, saved]
        command = [sys.executable, "-W", "ignore", "-c", job, *map(str, arguments)]
        jobs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    return jobs


def assert_same(jobs, saved, one):
    for job in jobs:
        _, errors = job.communicate(timeout=240)
        assert job.returncode == 0, errors[-3000:]
    two = torch.load(saved, weights_only=True)
    for mine, other in zip(two, one, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


@pytest.mark.alone
@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(calm, tmp_path):
    """Also of the constraint, which is on the mean reward of all."""
    jobs = in_two_processes(calm, tmp_path / "two", tmp_path / "found.pt")
    assert_same(jobs, tmp_path / "found.pt", train_calm(calm, tmp_path / "one", 32))


#: accelerate leaves CPUs out of FSDP, which torch does not; and where training is cut off.
ON_CPUS = """
from accelerate import state

make = state.AcceleratorState.__init__

def make_as_on_gpus(self, *args, **kwargs):
    state.PartialState(cpu=True)
    shared = state.PartialState._shared_state
    if shared["distributed_type"] == state.DistributedType.MULTI_CPU:
        shared["distributed_type"] = state.DistributedType.MULTI_GPU
    make(self, *args, **kwargs)

state.AcceleratorState.__init__ = make_as_on_gpus
"""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False])
def test_weights_that_are_spread_are_the_same(calm, tmp_path, lora):
    """FSDP gives what one process gives, also after a stop, and a result with whole weights."""
    engine, cut = {}, 5
    if not lora:  # biases of keys have no gradient but rounding, of which AdamW makes steps
        engine, cut = {"optim": "sgd", "learning_rate": 0.1}, None
    settings = f"lora={lora}, engine={engine | {'fsdp': True}}, cut={cut}"
    jobs = in_two_processes(calm, tmp_path / "two", tmp_path / "found.pt", settings, ON_CPUS)
    one = train_calm(calm, tmp_path / "one", 32, lora=lora, engine=engine)
    assert_same(jobs, tmp_path / "found.pt", one)


@pytest.mark.alone
@pytest.mark.slow
def test_numbers_of_the_log_keep_their_digits_in_half_precision(calm, tmp_path):
    """FSDP would cast all that a model is called with."""
    check = """
from implicitrm_sk.integrations import _tuned

forward = _tuned.TunedReward.forward

def checked(self, input_ids, *args, **fields):
    if fields.get("text") is not None:
        assert fields["sample_weight"].dtype == torch.float32
        assert self.heads.reward.biases[-1].dtype == torch.float32
    return forward(self, input_ids, *args, **fields)

_tuned.TunedReward.forward = checked
term = _tuned.RewardTrainer._rate_term

def of_checked(self, reward_logit, weight):
    assert reward_logit.dtype == torch.float32
    return term(self, reward_logit, weight)

_tuned.RewardTrainer._rate_term = of_checked
"""
    found = []
    for before, engine in ((check, {}), (ON_CPUS + check, {"fsdp": True})):
        saved = tmp_path / f"{len(engine)}.pt"
        settings, folder = f"engine={engine | {'bf16': True}}", saved.with_suffix("")
        jobs = in_two_processes(calm, folder, saved, settings, before)
        for job in jobs:
            _, errors = job.communicate(timeout=240)
            assert job.returncode == 0, errors[-3000:]
        found.append(torch.load(saved, weights_only=True))
    assert found[0][0] == pytest.approx(found[1][0], abs=0.01)
    torch.testing.assert_close(found[0][4], found[1][4], atol=0.01, rtol=0)


def side_of(kind, n, liked):
    rng = np.random.default_rng(3)
    return {
        "plain": {},
        "weight": {"sample_weight": rng.uniform(0.5, 2.0, n)},
        "labels": {"labels": some_labels(liked.astype(float), 0.3)},
        "exposures": {"exposures": np.full(n, 3)},
        "response_id": {"response_id": np.arange(n) // 2},
        "propensity": {"propensity": np.where(rng.random((n, 2)) < 0.2, 0.8, np.nan)},
    }[kind]


@pytest.mark.parametrize(
    "kind", ["plain", "weight", "labels", "exposures", "response_id", "propensity"]
)
def test_evaluation_is_the_score_on_held_out_rows(folder, tmp_path, kind):
    texts, y, liked = make_texts(120)
    if kind == "response_id":
        texts = [texts[i // 2] for i in range(120)]
        y, liked = y[np.arange(120) // 2 * 2], liked[np.arange(120) // 2 * 2]
    side = side_of(kind, 120, liked)
    est = fit(make_estimator(folder, false_action_rate=0.01), (texts, y), **side)
    run = run_of(est, texts, y, tmp_path, **side)
    trainer = run.trainer()
    frozen = trainer.log_likelihood(FittedMixture.of(est))
    valid = run.data.valid
    rows = np.isin(side["response_id"], valid) if kind == "response_id" else valid
    taken = {
        name: value[rows] if len(value) == 120 else value
        for name, value in side.items()
        if name != "labels"
    }
    score = est.score([texts[i] for i in np.arange(120)[rows]], y[rows], **taken)
    if kind != "labels":
        assert np.average(frozen, weights=trainer.weight) == pytest.approx(score, abs=1e-5)
        return
    # Of a label in addition P(r* | y), the groups PA and PP being those of preferred responses.
    held_out, label = [texts[i] for i in valid], side["labels"][valid]
    preferred = est.predict_proba(held_out, y[valid])[:, [0, 2]].sum(1)
    known = np.where(label == 1, preferred, 1 - preferred)
    plain = np.array([est.score([text], y[[i]]) for text, i in zip(held_out, valid, strict=True)])
    expected = plain + np.where(np.isnan(label), 0.0, np.log(known))
    np.testing.assert_allclose(frozen, expected, atol=1e-4)


@pytest.fixture(scope="module")
def of_users(calm):
    """Return texts, actions and users who differ in activity, and an estimator that knows it."""
    texts, _, liked = make_texts(600)
    rng = np.random.default_rng(0)
    user = rng.integers(60, size=600)
    ready = np.where(user < 30, 0.95, 0.1)
    y = (np.stack([liked, ~liked], 1) & (rng.random((600, 2)) < ready[:, None])).astype(int)
    ids = np.array([f"u{u}" for u in user])
    est = fit(make_estimator(calm, dropout=0.0, max_epochs=20), (texts, y), user_id=ids)
    assert est.model_.log_loading is not None
    return est, texts, y, ids


@pytest.mark.slow
def test_users_who_differ(of_users, tmp_path):
    """No step changes nothing; steps go by the weights of users; they are held out together."""
    est, texts, y, ids = of_users
    args = {
        "learning_rate": 0.0, "max_steps": 1, "logging_steps": 1,
        "per_device_train_batch_size": 600,
    }  # fmt: skip
    run = run_of(est, texts, y, tmp_path / "idle", args=args, user_id=ids)
    trainer, same = train(run)
    run._take_users(trainer)
    order = est.user_activity_.codes(same.user_activity_.user_id)
    np.testing.assert_allclose(same.user_activity_.mean, est.user_activity_.mean[order], atol=1e-4)
    np.testing.assert_allclose(same.user_loading_, est.user_loading_, rtol=1e-5)
    expected = est.predict_action(texts, user_id=ids)
    np.testing.assert_allclose(same.predict_action(texts, user_id=ids), expected, atol=1e-4)
    assert same.identification_ == est.identification_

    # Each row at each node of activity, by what the rows that train say of its user.
    rows = trainer.by_user(*trainer.logits(np.arange(len(run.tokens.lengths))))
    weight = posterior(rows.train, quadrature()[1]).exp()
    expected = -(weight * rows.train).sum((0, 2)).mean() / len(run.data.train)
    loss = trainer.state.log_history[0]["loss"]
    assert loss == pytest.approx(float(expected), abs=1e-4)
    valid = torch.logsumexp(held_out(rows), -1) - np.log(2)
    best = trainer.state.best_metric
    assert best == pytest.approx(-float(valid.sum()) / trainer.weight.sum(), abs=1e-6)


def test_rate_of_the_result_is_the_one_given(folder, log, tmp_path):
    texts, y, _ = log
    est = fit(make_estimator(folder, preference_rate=0.5), log)
    args = {"max_steps": 5, "learning_rate": 3e-3, "eval_strategy": "no", "save_strategy": "no"}
    _, tuned = train(run_of(est, texts, y, tmp_path, args=args))
    assert np.abs(tuned.predict(texts) - est.predict(texts)).max() > 0.01
    assert tuned.predict(texts).mean() == pytest.approx(0.5, abs=1e-4)


def test_split_is_that_of_fit_unless_told_otherwise(folder, log, tmp_path, monkeypatch):
    from implicitrm_sk.training import _data

    splits, split = [], _data.TrainingData.split

    def noted(self, *args):
        split(self, *args)
        splits.append((self.train, self.valid))

    monkeypatch.setattr(_data.TrainingData, "split", noted)
    texts, y, _ = log
    prompts = [prompt for prompt, _ in texts]
    est = fit(make_estimator(folder), log, groups=prompts)
    run = run_of(est, texts, y, tmp_path, groups=prompts)
    for mine, other in zip(*splits, strict=True):
        np.testing.assert_array_equal(mine, other)
    train, valid = ({prompts[i] for i in part} for part in splits[0])
    assert not train & valid
    half = run_of(est, texts, y, tmp_path, groups=prompts, eval_fraction=0.5)
    assert len(half.data.valid) > 2 * len(run.data.valid)


def test_each_text_is_tokenised_once_and_read_once_per_batch(fitted, log, tmp_path, monkeypatch):
    from implicitrm_sk.embedding import _embedder
    from implicitrm_sk.integrations import _tuned

    texts, y = [log[0][i % 40] for i in range(120)], log[1][np.arange(120) % 40]
    tokenised, read = [], []
    token_numbers = _embedder.token_numbers

    def counted(tokenizer, rows, special):
        tokenised.extend(row for row in rows if row != "a")
        return token_numbers(tokenizer, rows, special)

    monkeypatch.setattr(_embedder, "token_numbers", counted)
    forward = _tuned.TunedReward.forward

    def noted(self, input_ids, attention_mask=None, text=None, **kwargs):
        if text is not None:
            real = input_ids.numel() if attention_mask is None else int(attention_mask.sum())
            read.append((len(input_ids), len(text), real / input_ids.numel()))
        return forward(self, input_ids, attention_mask, text, **kwargs)

    monkeypatch.setattr(_tuned.TunedReward, "forward", noted)
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
    run_of(fitted, texts, y, tmp_path, args=args).train()
    assert len(tokenised) == len(set(tokenised)) == len(set(texts))
    assert {rows for _, rows, _ in read} == {4}
    assert min(n for n, _, _ in read) < 4
    # Texts of similar length come together: in random order a quarter would be padding.
    assert np.mean([share for *_, share in read]) > 0.85


@pytest.mark.slow
def test_activations_computed_again_change_nothing(tiny_model, log, tmp_path):
    texts, y, _ = log
    est = fit(make_estimator(tiny_model(), dropout=0.0), log)
    losses = []
    name = "activation_checkpointing"
    if not hasattr(TrainingArguments, name):  # transformers 4
        name = "gradient_checkpointing"
    for again in (False, True):
        args = {"max_steps": 2, "logging_steps": 1, name: again}
        args |= {"learning_rate": 1e-2, "warmup_steps": 0}
        trainer, _ = run_of(est, texts, y, tmp_path / str(again), args=args).train()
        losses.append(losses_of(trainer))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# ---------------------------------------------------------------------- the result


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """Return an estimator, what fine-tuning made of it, texts and the output folder."""
    log = make_texts(400, seed=1)
    est = fit(make_estimator(folder, max_epochs=40), log)
    output = tmp_path_factory.mktemp("tuned") / "run"
    args = {"num_train_epochs": 8, "learning_rate": 1e-2}
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = fine_tune(est, log[0], log[1], output_dir=output, args=args)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    return est, found, log, output


@pytest.mark.slow
def test_result_is_better_and_says_how_it_was_made(tuned):
    est, found, (texts, _, liked), output = tuned
    assert found is not est
    assert not hasattr(est, "fine_tuning_")
    run = found.fine_tuning_
    assert run["log_likelihood"] > run["log_likelihood_frozen"] + run["standard_error"]
    assert len(run["factors"]) == 2
    best = max(entry["log_likelihood"] for entry in run["history"])
    assert run["log_likelihood"] == pytest.approx(best, abs=1e-9)
    right = [((e.predict(texts) > 0.5) == liked).mean() for e in (est, found)]
    assert right[1] > right[0] + 0.05
    assert isinstance(found.embedder.adapter, LowRankAdapter)
    assert found.embedder_.adapter == found.embedder.adapter
    assert {"adapter", "run.json"} <= set(os.listdir(output))
    card = found.save(output / "card") or (output / "card" / "README.md").read_text()
    assert "## Fine-tuning" in card
    assert "LoRA, rank 16" in card
    assert f"{run['log_likelihood']:.4f}, before {run['log_likelihood_frozen']:.4f}" in card


@pytest.mark.slow
def test_over_confident_heads_are_softened(tuned, tmp_path, monkeypatch):
    """The factors undo what the logits of all members were multiplied by."""
    from implicitrm_sk.integrations import _tuned

    monkeypatch.setattr(_tuned, "SCALES", (0.01, 100.0))
    est, _, (texts, y, _), _ = tuned
    trainer = run_of(est, texts, y, tmp_path).trainer()
    mixture = FittedMixture.of(est)
    values, factors = trainer.held_out(mixture), trainer.factors
    logits = trainer.held_out_logits()
    assert values.sum() >= (trainer.log_likelihood(mixture) * trainer.weight).sum()
    apart = tuple(factor / wanted for factor, wanted in zip(factors, (0.4, 1.2), strict=True))
    trainer.model.scale_logits(apart)
    for found, logit, factor in zip(trainer.held_out_logits(), logits, apart, strict=True):
        torch.testing.assert_close(found, factor * logit, atol=1e-4, rtol=1e-4)
    again = trainer.held_out(mixture)
    assert trainer.factors == pytest.approx((0.4, 1.2), rel=0.02)
    assert again.sum() == pytest.approx(values.sum(), abs=1e-3)


def test_training_starts_with_halved_logits(fitted, log, tmp_path, monkeypatch):
    """The frozen model, at its own best factors, is as likely as ever."""
    from implicitrm_sk.integrations import _tuned

    monkeypatch.setattr(_tuned, "SCALES", (0.01, 100.0))
    values, logits = {}, {}
    for scale in (1.0, _fine_tune.HEAD_SCALE):
        run = run_of(fitted, *log[:2], tmp_path)
        run.head_scale = scale
        trainer = run.trainer()
        values[scale] = trainer.held_out(FittedMixture.of(fitted)).sum()
        logits[scale] = trainer.held_out_logits()
        trainer.model.take_average()  # of no steps: the start
        assert torch.equal(trainer.held_out_logits()[0], logits[scale][0])
    for full, half in zip(logits[1.0], logits[0.5], strict=True):
        torch.testing.assert_close(half, 0.5 * full, atol=1e-6, rtol=1e-6)
    assert values[0.5] == pytest.approx(values[1.0], abs=1e-3)


@pytest.mark.parametrize("name", ["reward", "reward.zip"])
def test_adapter_is_saved_beside_the_heads_once(tuned, tmp_path, name):
    _, found, (texts, *_), _ = tuned
    found.save(tmp_path / name)
    same = ImplicitRewardEstimator.load(tmp_path / name)
    assert same.embedder_.adapter == found.embedder_.adapter
    assert same.fine_tuning_ == found.fine_tuning_
    np.testing.assert_array_equal(same.predict(texts[:20]), found.predict(texts[:20]))
    if name == "reward":
        size = (tmp_path / name / "arrays.safetensors").stat().st_size
        adapter = found.embedder_.adapter
        numbers = sum(a.nbytes for part in (adapter.down, adapter.up) for a in part.values())
        assert numbers < size < 2 * numbers


def test_result_goes_where_others_go(tuned, tmp_path):
    _, found, (texts, *_), _ = tuned
    export = to_transformers(found, None, tmp_path / "rm")
    assert export.custom_code
    reward = reward_function(found)
    prompts, answers = zip(*texts[:5], strict=True)
    np.testing.assert_allclose(reward(prompts, answers), found.predict(texts[:5]), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapter_is_what_other_tools_load(tuned):
    import peft
    import transformers

    est, found, (texts, *_), output = tuned
    base = transformers.AutoModel.from_pretrained(est.embedder_.model)
    network = peft.PeftModel.from_pretrained(base, output / "adapter").merge_and_unload().eval()
    (tokens,) = found.embedder_.tokenize(texts[:1])
    with torch.no_grad():
        vector = network(torch.tensor([tokens])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vector, found.embedder_.transform(texts[:1])[0], atol=1e-5)


def test_tuned_is_tuned_again(tuned, tmp_path):
    """The second change is added to the first."""
    _, found, (texts, y, _), _ = tuned
    args = {"max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0}
    trainer, again = train(run_of(found, texts, y, tmp_path, args=args))
    ranks = {len(a) for a in again.embedder_.adapter.down.values()}
    assert ranks == {32}
    expected, _ = trainer.logits(np.arange(10))
    first = np.unique(found.embedder_.tokenize_distinct(texts)[0], return_index=True)[1][:10]
    rows = [texts[i] for i in first]
    from implicitrm_sk._prediction import component_logits

    (logits,) = component_logits(again, rows, "reward_logit")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert np.abs(again.predict(rows) - found.predict(rows)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "exposures", "response_id"])
def test_verdict_is_tested_on_the_tuned_vectors(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_fine_tune, "is_better", lambda *_: True)
    checked, check = [], _fine_tune.check_verdict

    def noted(est, held_out):
        checked.append(held_out)
        check(est, held_out)

    monkeypatch.setattr(_fine_tune, "check_verdict", noted)
    texts, y, liked = make_texts(120)
    if kind == "response_id":
        texts = [texts[i // 2 * 2] for i in range(120)]
    side = side_of(kind, 120, liked)
    frame = pd.DataFrame(texts, columns=["prompt", "response"])
    est = fit(make_estimator(folder, false_action_rate=0.05), (frame, y), **side)
    args = {"max_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0}
    found = fine_tune(est, frame, y, output_dir=tmp_path / "run", args=args, **side)
    (held_out,) = checked
    vectors = found.embedder_.transform(frame)
    known = {tuple(np.round(row, 3)) for row in vectors}
    assert {tuple(np.round(row, 3)) for row in held_out.X} <= known
    if kind == "labels":
        assert len(held_out.labelled_at) == (~np.isnan(side["labels"])).sum()
    assert found.evidence_ == est.evidence_


def test_what_the_log_contradicts_stays_contradicted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_fine_tune, "is_better", lambda *_: True)
    texts, _, liked = make_texts(400)
    y = (liked[:, None] & (np.random.default_rng(1).random((400, 2)) < 0.6)).astype(int)
    est = make_estimator(
        folder, signals=None, shared_examination=False, preference_rate=0.9, max_epochs=30
    )
    with pytest.warns(IdentificationWarning, match="preference_rate makes the mean reward 0.90"):
        est.fit(texts, y)
    with pytest.warns(IdentificationWarning, match="preference_rate makes the mean reward 0.90"):
        found = fine_tune(est, texts, y, output_dir=tmp_path / "run", args={"max_steps": 2})
    assert found is not est
    assert found.identification_ == est.identification_
    assert found.identification_.level == "not identified"


def test_arguments_of_the_trainer_are_taken_as_they_are(fitted, log, tmp_path):
    given = TrainingArguments(
        str(tmp_path / "other"), max_steps=3, learning_rate=0.5, use_cpu=True, report_to="none",
        dataloader_pin_memory=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    run = run_of(fitted, *log[:2], tmp_path / "run", args=given)
    assert given.output_dir == str(tmp_path / "other")
    assert run.args.output_dir == str(tmp_path / "run")
    assert (run.args.learning_rate, run.args.weight_decay) == (0.5, 0.0)
    trainer, _ = run.train()
    assert trainer.state.global_step == 3
    # No evaluation was asked for: the last weights count.
    assert not [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def test_all_weights_become_a_model_folder(fitted, log, tmp_path):
    texts, y, _ = log
    run = run_of(fitted, texts, y, tmp_path, lora=False, args={"max_steps": 2})
    trainer, found = train(run)
    assert found.embedder.model == str(tmp_path / "model")
    assert found.embedder.adapter is None
    found.embedder_.transform(texts[:2])
    run._verify(trainer)


def test_frozen_is_returned_where_it_is_not_beaten(fitted, log, tmp_path):
    args = {"max_steps": 2, "learning_rate": 0.0}
    with pytest.warns(UserWarning, match=r"is -\d\.\d{4}, and was -\d\.\d{4} \(standard error"):
        found = fine_tune(fitted, *log[:2], output_dir=tmp_path / "run", args=args)
    assert found is fitted


# ---------------------------------------------------------------------- refused


@pytest.fixture
def no_model(monkeypatch):
    def loads(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(_models, "new_network", loads)


def changed(est, **attributes):
    import copy

    est = copy.deepcopy(est)
    vars(est).update(attributes)
    return est


def test_refused_before_a_model_is_loaded(fitted, log, tmp_path, no_model):
    import peft

    texts, y, _ = log
    vectors = np.zeros((len(texts), 16))
    labels = np.full(len(texts), np.nan)
    labels[np.flatnonzero(y[:, 0])[0]] = 0.0
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    on_vectors = changed(fitted, embedder_=None)
    of_users = changed(fitted, user_loading_=np.zeros(2))
    beside = changed(fitted, side_columns_=("position",))
    naive = changed(fitted, objective_=Naive())
    naive.objective_.models_actions = False
    spread = changed(fitted)
    spread.embedder_.set_params(device_map="auto")
    lora = peft.LoraConfig(target_modules=["nothing"])
    cases = [
        (ValueError, "fitted on vectors", on_vectors, texts, {}),
        (TypeError, "est is a int", 3, texts, {}),
        (ValueError, "X holds vectors", fitted, vectors, {}),
        (ValueError, "X holds vectors", fitted, "file.npy", {}),
        (TypeError, "X is a NoneType", fitted, None, {}),
        (TypeError, "X is a generator", fitted, (text for text in texts), {}),
        (ValueError, r"reads the columns \['position'\] beside", beside, texts, {}),
        (TypeError, "'weight' is not an argument", fitted, texts, {"weight": 1}),
        (ValueError, "fitted without user_id, but", fitted, texts, {"user_id": labels}),
        (ValueError, "fitted with user_id, but", of_users, texts, {}),
        (ValueError, "Naive is not supported", naive, texts, {}),
        (ValueError, "device_map='auto'", spread, texts, {}),
        (ValueError, "labels are 0 on 1 resp", fitted, texts, {"labels": labels}),
        (ValueError, "eval_fraction must lie", fitted, texts, {"eval_fraction": 1.0}),
        (ValueError, "lie between 0 and 1, got '0.2'", fitted, texts, {"eval_fraction": "0.2"}),
        (TypeError, "output_dir must be a str or path", fitted, texts, {"output_dir": None}),
        (ValueError, "has no layers for this lora", fitted, texts, {"lora": lora}),
        (TypeError, "lora must be", fitted, texts, {"lora": "yes"}),
        (ValueError, "use_dora", fitted, texts, {"lora": peft.LoraConfig(use_dora=True)}),
        (ValueError, "bias='none'", fitted, texts, {"lora": peft.LoraConfig(bias="all")}),
        (FileExistsError, "holds another run", fitted, texts, {"output_dir": full}),
        (
            FileExistsError,
            "does not hold a run",
            fitted,
            texts,
            {"args": {"resume_from_checkpoint": True}},
        ),
        (ValueError, "'epochs', which is not", fitted, texts, {"args": {"epochs": 1}}),
        (ValueError, "args holds output_dir", fitted, texts, {"args": {"output_dir": "x"}}),
        (TypeError, "args must be a dict", fitted, texts, {"args": 3}),
        (ValueError, "learning_rate=-1", fitted, texts, {"args": {"learning_rate": -1}}),
        (ValueError, "learning_rate='x'", fitted, texts, {"args": {"learning_rate": "x"}}),
        (
            ValueError,
            "per_device_train_batch_size=0; expected a number of at least 1",
            fitted,
            texts,
            {"args": {"per_device_train_batch_size": 0}},
        ),
        (ValueError, "this is a single one", fitted, texts, {"args": {"fsdp": True}}),
        (
            ValueError,
            "another version than 2",
            fitted,
            texts,
            {"args": {"fsdp": True, "fsdp_config": {"version": 1}}},
        ),
        (
            ValueError,
            "cpu_ram_efficient_loading",
            fitted,
            texts,
            {"args": {"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}}},
        ),
    ]
    for error, message, est, X, more in cases:
        arguments = {"output_dir": tmp_path / "new"} | more
        with pytest.raises(error, match=message):
            fine_tune(est, X, y, **arguments)
        assert not (tmp_path / "new").exists()


def test_too_few_rows_to_hold_some_out(fitted, log, tmp_path, no_model):
    with pytest.raises(ValueError, match="too few rows can be held out of 12"):
        fine_tune(fitted, log[0][:12], log[1][:12], output_dir=tmp_path / "run")


def test_model_without_linear_layers(fitted, monkeypatch):
    monkeypatch.setattr(LLMEmbedder, "skeleton", lambda self: torch.nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="has no linear layers for LoRA"):
        _fine_tune.lora_config(fitted.embedder_, True)


@pytest.mark.parametrize("package", ["accelerate", "peft"])
def test_missing_package_is_named(fitted, log, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"'{package}'.*implicitrm-sk\[finetune\]"):
        fine_tune(fitted, *log[:2], output_dir=tmp_path / "run")


# ---------------------------------------------------------------------- the adapter


def test_adapter_of_a_file_is_checked():
    ones = np.ones((2, 2), dtype=np.float32)
    codec = Codec()
    content = codec.encode(LowRankAdapter({"0": ones}, {"0": ones}), "adapter")
    arrays = dict(codec.arrays)
    assert Codec(dict(arrays)).decode(content) == LowRankAdapter({"0": ones}, {"0": ones})
    name = next(iter(arrays))
    for changed_array, message in (
        (2 * ones, "not those of its digest"),
        (ones[:1], "expected .rank"),
        (ones * np.nan, "NaN"),
    ):
        with pytest.raises(ModelFileError, match=message):
            Codec(arrays | {name: changed_array}).decode(content)
    with pytest.raises(ModelFileError, match="is not in the file"):
        Codec().decode({"adapter": {"digest": "f"}})
    with pytest.raises(ModelFileError, match="an invalid adapter"):
        Codec().decode({"adapter": 3})


def test_adapter_that_does_not_fit_together():
    ones = np.ones((2, 2), dtype=np.float32)
    for down, up, message in (
        ({}, {}, "at least one"),
        ({"a": ones}, {"b": ones}, None),
        ({"a": ones.astype(float)}, {"a": ones}, "float32"),
        ({"a": ones[:1]}, {"a": ones}, r"\(1, 2\) and up \(2, 2\)"),
        ({"a": ones * np.nan}, {"a": ones}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            LowRankAdapter(down, up)
    adapter = LowRankAdapter({"0": ones}, {"0": ones})
    assert adapter == LowRankAdapter({"0": ones.copy()}, {"0": ones})
    assert adapter != LowRankAdapter({"0": 2 * ones}, {"0": ones})
    with pytest.raises(ValueError, match="weight of shape"):
        adapter.add_to(torch.nn.Sequential(torch.nn.Linear(3, 2)))
