"""Fine-tuning: what it is worth against frozen vectors, what a step costs, what it takes.

    python -m benchmarks.fine_tune --data-home DIR [--only PART ...]

Parts: `quality`, R2 and AUROC against true preference of a frozen and a tuned language model that
learn from the same two signals, and from all labels; `step`, time and memory of a step beside a
bare Trainer with a cross-entropy head; `costs`, arithmetic. The log is the one of
`implicitrm_sk.datasets.simulate_feedback`; nothing is chosen on true preferences. `--rows` takes a
part of the rows, for a look at whether it runs. With `--output` a second run goes on where the
first one was stopped. Models: the packages that `make models`
installs (extra `finetune`).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.embedding._models import packaged_model
from implicitrm_sk.integrations import _fine_tune, fine_tune
from implicitrm_sk.metrics import reward_metrics

from .embedding import mean_and_error

MAX_LENGTH = 256
PARTS = ("quality", "step", "costs")
SOURCES = ("actions", "labels")
#: Of all weights of a small encoder, chosen by the held-out likelihood of actions of another seed.
#: Half precision makes steps on a CPU with bfloat16 products 1.6 times as fast.
FULL_RECIPE = {"num_train_epochs": 4, "learning_rate": 5e-5, "bf16": True}
#: Parameters in 10^9, hidden size and layers of models of these sizes, for the arithmetic.
SIZES = {
    "MiniLM": (0.022, 384, 6),
    "SmolLM2": (0.135, 576, 30),
    "1B": (1.2, 2048, 16),
    "8B": (8.0, 4096, 32),
}


def make_estimator(args, folder, objective, seed, signals=None):
    embedder = LLMEmbedder(packaged_model(args.encoder), max_length=MAX_LENGTH, cache_dir=folder)
    return ImplicitRewardEstimator(objective, embedder=embedder, signals=signals, random_state=seed)


def quality(args, folder):
    """Compare frozen and tuned on the same actions, and on all labels."""
    data = load_rated_responses(args.data, args.data_home, encoder=args.encoder)
    path = Path(folder) / "quality.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for source in args.sources:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            setting = {
                "data": args.data,
                "encoder": args.encoder,
                "trained": "all weights" if args.full else "LoRA",
                "rows": args.rows,
                "epochs": args.epochs,
                "source": source,
                "seed": seed,
            }
            if not any(setting.items() <= result.items() for result in done):
                result = setting | compare(args, folder, data, source, seed)
                with path.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), file=sys.stderr, flush=True)
    done = [json.loads(line) for line in path.read_text().splitlines()]
    setting = {name: setting[name] for name in ("data", "encoder", "trained", "rows", "epochs")}
    print_quality(setting, [result for result in done if setting.items() <= result.items()])


def compare(args, folder, data, source, seed):
    """Return the metrics of a frozen and a tuned model that learned from the same feedback."""
    truth, test = data.rating > 0.5, data.is_test
    pairs = list(zip(data.prompt, data.response, strict=True))
    train = np.flatnonzero(~test)[: args.rows]
    rated = np.flatnonzero(test)[: args.rows]
    texts, held_out = [pairs[i] for i in train], [pairs[i] for i in rated]
    if source == "labels":
        objective, y = "naive", truth[train].astype(int)
    else:
        log = simulate_feedback(truth, X=data.X, n_signals=2, random_state=seed)
        objective, y = "stratified", log.actions[train]
    run = Path(folder) / f"{source}-{seed}-{args.encoder}-{args.full}-{args.rows}-{args.epochs}"
    settings = dict(FULL_RECIPE) if args.full else {}
    settings |= {"num_train_epochs": args.epochs} if args.epochs else {}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = make_estimator(args, folder, objective, seed)
        frozen.fit(texts, y, groups=data.groups[train])
        tuned = fine_tune(
            frozen,
            texts,
            y,
            groups=data.groups[train],
            output_dir=run,
            lora=not args.full,
            args=settings | {"resume_from_checkpoint": run.exists()},
        )
        found = {
            name: reward_metrics(truth[rated], est.predict(held_out))
            for name, est in (("frozen", frozen), ("tuned", tuned))
        }
    shutil.rmtree(run)
    return found | {
        "n_train": len(train),
        "kept": tuned is not frozen,
        "run": getattr(tuned, "fine_tuning_", None),
        "seconds": round(time.perf_counter() - start),
    }


def print_quality(setting, results):
    """Print the mean over seeds of each metric, and the gain of each seed."""
    print(", ".join(f"{name} {value}" for name, value in setting.items() if value) + "\n")
    print("| learned from | language model | R2 | AUROC | MAE | ECE | tuned model kept |")
    print("|---|---|---|---|---|---|---|")
    metrics = ("r2", "auroc", "mae", "calibration_error")
    for source in SOURCES:
        of_source = [result for result in results if result["source"] == source]
        if not of_source:
            continue
        of, n = f"{source}, {of_source[0]['n_train']:,} rows", len(of_source)
        kept = f"{sum(result['kept'] for result in of_source)} of {n}"
        for name in ("frozen", "tuned"):
            cells = [shown([result[name][metric] for result in of_source]) for metric in metrics]
            print(f"| {of} | {name} | {' | '.join(cells)} | {kept if name == 'tuned' else ''} |")
        gains = [
            shown([result["tuned"][metric] - result["frozen"][metric] for result in of_source])
            for metric in metrics
        ]
        print(f"| {of} | gain | {' | '.join(gains)} | |")
    print()


def shown(values):
    return mean_and_error(values) if len(values) > 1 else f"{values[0]:.3f}"


# ---------------------------------------------------------------------- a step


def step(args, folder):
    """Compare time and memory of a step with a bare Trainer, each in a process of its own."""
    # In those processes no text is embedded, which would take more memory than a step.
    _, texts, _ = step_log(args)
    make_estimator(args, folder, "stratified", 0).embedder.transform(texts)
    print(f"{args.encoder}, batches of 16, {args.steps} steps, {torch.get_num_threads()} threads\n")
    print("| | seconds per step | ratio | MB at most | ratio |")
    print("|---|---|---|---|---|")
    found = {"bare": [], "fine_tune": []}
    for number in range(args.repeats):
        for side in sorted(found, reverse=number % 2):
            command = [sys.executable, "-m", "benchmarks.fine_tune", "--only", f"step-{side}"]
            command += ["--encoder", args.encoder, "--steps", str(args.steps)]
            command += ["--data", args.data, "--output", folder]
            if args.data_home:
                command += ["--data-home", args.data_home]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[side].append([float(value) for value in output.split()[-2:]])
    best = {side: np.min(values, axis=0) for side, values in found.items()}
    for side, (seconds, size) in best.items():
        ratio = best[side] / best["bare"]
        print(f"| {side} | {seconds:.3f} | {ratio[0]:.2f} | {size:.0f} | {ratio[1]:.2f} |")
    print()


def step_log(args):
    """Return rows, texts and log that steps are timed on."""
    data = load_rated_responses(args.data, args.data_home, encoder=args.encoder)
    rows = np.flatnonzero(~data.is_test)[:320]
    texts = [(data.prompt[i], data.response[i]) for i in rows]
    return rows, texts, simulate_feedback(data.rating > 0.5, X=data.X, n_signals=2, random_state=0)


def one_side(args, side, folder):
    """Print seconds per step and the largest resident size in MB of one of the two trainers."""
    rows, texts, log = step_log(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = make_estimator(args, folder, "stratified", 0).set_params(max_epochs=2)
        est.fit(texts, log.actions[rows])
    settings = {
        "max_steps": args.steps,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    config = _fine_tune.training_arguments(est, folder, settings, lora=False)
    run = _fine_tune.Run.of(est, texts, log.actions[rows], None, {}, None, config, None)
    trainer = run.trainer()
    if side == "bare":
        trainer = bare_trainer(trainer)
    # The time of this process, not of others beside it; on a GPU, which it waits for, the clock.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    trainer.train()
    seconds = (clock() - start) / args.steps
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class Bare(torch.nn.Module):
    """The same language model with a mean over tokens and a cross-entropy head."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.head = torch.nn.Linear(network.config.hidden_size, 2)

    def forward(self, input_ids, attention_mask, labels):
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[:, :, None]
        logits = self.head((hidden * mask).sum(1) / mask.sum(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


def bare_trainer(trainer):
    """Return a plain Trainer of the same language model on the same batches."""
    from transformers import Trainer

    collate, sampler = trainer.data_collator, trainer.get_train_sampler()

    def bare(numbers):
        batch = collate(numbers)
        mask = batch["attention_mask"]
        mask = torch.ones_like(batch["input_ids"]) if mask is None else mask
        ids, mask = (part[batch["text"]] for part in (batch["input_ids"], mask))
        acted = batch["fields"]["actions"].nan_to_num().amax(1).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": acted}

    class Sampled(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return sampler

    return Sampled(
        Bare(trainer.model.trunk.network),
        trainer.args,
        data_collator=bare,
        train_dataset=trainer.train_dataset,
    )


# ---------------------------------------------------------------------- arithmetic


def costs(args, folder):
    """Print memory and time by model size: arithmetic, not measured."""
    print("| model | parameters | frozen, GB | LoRA, GB | all weights, GB | LoRA, h | all, h |")
    print("|---|---|---|---|---|---|---|")
    tokens, epochs, speed = 300, 3, 0.4 * 1e15
    for name, (billions, width, layers) in SIZES.items():
        n = billions * 1e9
        # Rank 16 on seven square layers, roughly; weights, gradient and two moments in float32.
        low_rank = 16 * 2 * 7 * width * layers
        # Inputs of each layer for a batch of 16 texts, recomputed within: 2 bytes a number.
        activations = 16 * tokens * width * layers * 2
        memory = (2 * n, 2 * n + 16 * low_rank + activations, 16 * n + activations)
        hours = [f * n * tokens * 1e6 * epochs / speed / 3600 for f in (6, 8)]
        print(
            f"| {name} | {billions:g} x 10^9 | "
            + " | ".join(f"{value / 1e9:.2g}" for value in memory)
            + " | "
            + " | ".join(f"{value:.2g}" for value in hours)
            + " |"
        )
    print()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--data", default="beavertails_test")
    sides = ("step-bare", "step-fine_tune")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=(*PARTS, *sides))
    parser.add_argument("--encoder", default="minilm", choices=("minilm", "smollm2"))
    parser.add_argument("--full", action="store_true", help="train all weights, not LoRA")
    parser.add_argument("--rows", type=int, help="rows to train and to rate (default: all)")
    parser.add_argument("--epochs", type=float, help="default: that of the recipe")
    parser.add_argument("--sources", nargs="+", default=SOURCES, choices=SOURCES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", help="folder of vectors, runs and results, to go on from")
    args = parser.parse_args(argv)
    for part in args.only:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.output or temporary
            if part in sides:
                one_side(args, part.removeprefix("step-"), folder)
            else:
                {"quality": quality, "step": step, "costs": costs}[part](args, folder)


if __name__ == "__main__":
    main()
