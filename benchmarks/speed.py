"""What the package costs on top of bare torch, and what skorch's default loop would cost.

    python -m benchmarks.speed [--rows 20000] [--features 384] [--batch-size 512]
    python -m benchmarks.speed search [--hidden 64 32 8] [--jobs 2] [--device cuda --jobs 1]
    python -m benchmarks.speed rounds --data-home DIR [--hidden 64]
    python -m benchmarks.speed step [--hidden 64 32 16 8]
    python -m benchmarks.speed bfloat16

Every ratio is measured side by side in one run: the two programs take turns, and the ratio is the
median over the turns. The bare loop is what one would write by hand for the same model: resident
tensors, shuffled index batches, the same heads, AdamW, epochs and batch size, and the model's
likelihood as loss.

`search` compares `BatchedSearchCV`, without and with halving, with `GridSearchCV` on the same folds
and candidates, and says what of its time the bare arithmetic and the bare memory traffic of the
same training would take. Processor time remains comparable on a machine that others use too.
`rounds` shows on other logs what halving saves and loses by the epochs of its first round; its
default was chosen by it.
`step` times, in processor time of one thread, the training steps of one candidate by itself and of
as many as the search puts side by side, and the bare matrix products of the same steps.
`bfloat16` does so for steps in bfloat16 and in float32.
"""

import argparse
import itertools
import os
import platform
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid
from skorch import NeuralNet
from torch import nn
from torch.nn.functional import logsigmoid

from implicitrm_sk import BatchedSearchCV, IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk._fit import fit_side_by_side
from implicitrm_sk._search import n_side_by_side
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.inspection import identification_report
from implicitrm_sk.training._net import RewardNet

HIDDEN = 64
SETTINGS = {
    "hidden_layer_sizes": (HIDDEN,),
    "batch_size": 512,
    "dropout": 0.2,
    "learning_rate_init": 3e-4,
    "weight_decay": 0.01,
}


class BareModel(nn.Module):
    """The two heads as one would write them: two small MLPs."""

    def __init__(self, n_features):
        super().__init__()
        self.reward, self.propensity = (
            nn.Sequential(
                nn.Linear(n_features, HIDDEN),
                nn.ReLU(),
                nn.Dropout(SETTINGS["dropout"]),
                nn.Linear(HIDDEN, 1),
            )
            for _ in range(2)
        )

    def forward(self, X):
        return torch.cat([self.reward(X), self.propensity(X)], dim=1)


class BareLoss(nn.Module):
    """Negative log-likelihood of y = r* and a."""

    def forward(self, logits, y):
        f, u = logits.unbind(1)
        log_acted = logsigmoid(f) + logsigmoid(u)
        log_idle = torch.logaddexp(logsigmoid(f) + logsigmoid(-u), logsigmoid(-f))
        return -torch.where(y == 1, log_acted, log_idle).mean()


def bare_fit(X, y, epochs):
    """Train by hand and return the model."""
    X, y = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))
    X = (X - X.mean(0)) / X.std(0)
    model, criterion = BareModel(X.shape[1]), BareLoss()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=SETTINGS["learning_rate_init"],
        weight_decay=SETTINGS["weight_decay"],
        fused=True,
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(SETTINGS["batch_size"]):
            optimizer.zero_grad()
            criterion(model(X[rows]), y[rows]).backward()
            optimizer.step()
    return model


def skorch_fit(X, y, epochs):
    """Train by skorch with its default DataLoader."""
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    return NeuralNet(
        BareModel,
        BareLoss,
        module__n_features=X.shape[1],
        optimizer=torch.optim.AdamW,
        optimizer__lr=SETTINGS["learning_rate_init"],
        optimizer__weight_decay=SETTINGS["weight_decay"],
        optimizer__fused=True,
        batch_size=SETTINGS["batch_size"],
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).fit(X, y.astype(np.float32))


def estimator_fit(X, y, epochs, **params):
    """Train the estimator for a fixed number of epochs."""
    return ImplicitRewardEstimator(
        **SETTINGS
        | {"n_estimators": 1, "early_stopping": False, "max_epochs": epochs, "random_state": 0}
        | params
    ).fit(X, y)


def seconds(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(first, second, repeats):
    """Return the median times of two programs and the median of their ratio, taken in turns."""
    first(), second()
    times = np.array([(seconds(first), seconds(second)) for _ in range(repeats)])
    low, ratio, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    return *np.median(times, axis=0), ratio, f"{low:.2f} to {high:.2f}"


def import_seconds(package, name):
    """Return the wall time of a fresh interpreter importing the class `name` of `package`.

    A package whose names load on first use would look free by itself.
    """
    statement = f"from {package} import {name}"
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    )


def run_python(*words):
    subprocess.run([sys.executable, *words], capture_output=True, check=True)


def report(what, first, second, ratio, spread, bound):
    print(f"| {what} | {first:.3f} | {second:.3f} | {ratio:.2f} | {spread} | {bound} |", flush=True)


# Searches

#: Sixteen candidates: step sizes around the default, dropout and weight decay.
GRID = {
    "learning_rate_init": [3e-4, 1e-3, 3e-3, 1e-2],
    "dropout": [0.1, 0.3],
    "weight_decay": [0.01, 0.3],
}


def score_and_epochs(estimator, X, y):
    """Score a fit, and count the epochs of its members, whose losses stand still afterwards."""
    losses = np.array([epoch["valid_loss"] for epoch in estimator.history_])
    moved = np.diff(losses, axis=0, prepend=np.nan) != 0
    epochs = len(losses) - moved[::-1].argmax(axis=0)
    return {"score": estimator.score(X, y), "member_epochs": float(epochs.sum())}


def matmul_seconds(n, d, width, device, repeats=20):
    """Return the seconds of a bare product of (n, d) and (d, width), on one thread of a CPU."""
    x, w = torch.randn(n, d, device=device), torch.randn(d, width, device=device)
    return min(seconds(torch.mm, x, w) for _ in range(repeats))


def copy_rate(device, megabytes=256):
    """Return bytes read and written per second by a bare copy."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(target.copy_, source) for _ in range(10))


def on_one_thread(function, *args):
    torch.set_num_threads(1)
    return function(*args)


def at_once(function, n_jobs, *args):
    """Return what a function returns while `n_jobs` processes run it, on average."""
    return np.mean(
        Parallel(n_jobs=n_jobs)(delayed(on_one_thread)(function, *args) for _ in range(n_jobs))
    )


def search_table(X, y, args):
    """Print the table of searches and, under it, its roofline."""
    print(
        "| units | search | time (s) | GridSearchCV / this | best candidate | score |\n"
        "|---|---|---|---|---|---|"
    )
    at_once(copy_rate, args.jobs, "cpu")  # so that the processes are there before the first search
    notes = []
    for hidden in args.hidden:
        estimator = ImplicitRewardEstimator(
            hidden_layer_sizes=(hidden,), device=args.device, random_state=0
        )
        options = {
            "cv": KFold(5),
            "n_jobs": args.jobs,
            "scoring": score_and_epochs,
            "refit": "score",
        }
        searches = {
            f"GridSearchCV(n_jobs={args.jobs})": GridSearchCV(estimator, GRID, **options),
            "BatchedSearchCV": BatchedSearchCV(estimator, GRID, **options),
            "BatchedSearchCV(factor=3)": BatchedSearchCV(estimator, GRID, factor=3, **options),
        }
        times = {name: [] for name in searches}
        for _ in range(args.repeats):
            for name, search in searches.items():
                times[name].append(seconds(search.fit, X, y))
        (_, grid), (_, batched), (_, halved) = searches.items()
        first = np.array(times[next(iter(times))])
        for name, search in searches.items():
            spent, gain = np.median(times[name]), np.median(first / np.array(times[name]))
            best = ", ".join(f"{value:g}" for value in search.best_params_.values())
            print(
                f"| {hidden} | {name} | {spent:.1f} | {gain:.2f} | {best} | "
                f"{search.best_score_:.5f} |",
                flush=True,
            )
        notes += [
            f"{hidden} units: " + note
            for note in (
                *agreement(X, y, grid, batched, halved),
                roofline(X, hidden, batched, np.median(times["BatchedSearchCV"]), args),
            )
        ]
    print("\n" + "\n".join(f"- {note}" for note in notes))


def agreement(X, y, grid, batched, halved):
    """Return how far the results of the searches lie apart, in standard errors."""
    p = np.clip(grid.best_estimator_.predict_action(X).astype(float), 1e-12, 1 - 1e-12)
    rows = np.log(np.where(y == 1, p, 1 - p))
    n_splits = grid.n_splits_
    error = rows.std() / np.sqrt(len(rows) / n_splits)
    apart = max(
        np.abs(grid.cv_results_[key] - batched.cv_results_[key]).max()
        for key in (f"split{split}_test_score" for split in range(n_splits))
    )
    yield f"fold scores of BatchedSearchCV within {apart / error:.3f} standard errors ({error:.4f})"
    best = grid.cv_results_["mean_test_score"]
    loss = best.max() - best[halved.best_index_]
    yield (
        f"the candidate that halving chose scores {loss / (error / np.sqrt(n_splits)):.2f} "
        "standard errors of the mean below the best, both trained to the end"
    )


def roofline(X, hidden, search, spent, args):
    """Return what part of a search its arithmetic and its memory traffic take by themselves."""
    device = "cuda" if args.device.startswith("cuda") else "cpu"
    rows = len(X) * 0.8  # of each fold; 0.8 of them to train on, the others to validate
    batch, d = 256, X.shape[1]
    member_epochs = sum(
        search.cv_results_[f"split{split}_test_member_epochs"].sum()
        for split in range(search.n_splits_)
    )
    # Two heads; forward and the gradient of the weights in training, forward in validation.
    products = 2 * member_epochs * rows * (2 * 0.8 + 0.2)
    flop = products * 2 * d * hidden
    width = 1024
    rate = (
        args.jobs
        * 2
        * batch
        * d
        * width
        / at_once(matmul_seconds, args.jobs, batch, d, width, device)
    )
    # AdamW reads weights, gradients and two moments and writes all but the gradients, per batch.
    traffic = 2 * member_epochs * rows * 0.8 / batch * 7 * 4 * d * hidden
    copying = args.jobs * at_once(copy_rate, args.jobs, device)
    return (
        f"{flop / 1e12:.1f} TFLOP, {flop / rate:.1f} s at the {rate / 1e9:.0f} GFLOP/s of bare "
        f"products ({flop / rate / spent:.0%} of the time of BatchedSearchCV); AdamW alone moves "
        f"{traffic / 1e12:.2f} TB, {traffic / copying:.1f} s at the {copying / 1e9:.0f} GB/s of "
        "bare copies, unless the caches hold it"
    )


#: Logs that `search` does not use: name, encoder, threshold of the rating, signals.
LOGS = (
    ("beavertails_test", "smollm2", 0.5, 1),
    ("beavertails_test", "minilm", 0.5, 2),
    ("pku_saferlhf_safe", "smollm2", 0.5, 2),
    ("ultrafeedback_binarized_1200", "smollm2", 6.25, 2),
)
FIRST_ROUNDS = (1, 2, 3, 5, 8)


def rounds_table(args):
    """Print what halving saves and loses by the number of epochs of its first round."""
    columns = " | ".join(map(str, FIRST_ROUNDS))
    print(f"| log | units | {columns} |\n|---|---|" + "---|" * len(FIRST_ROUNDS))
    for name, encoder, threshold, n_signals in (("synthetic", "", 0, 1), *LOGS):
        if name == "synthetic":
            X, _, y = make_data(args.rows // 2, args.features, seed=11)
        else:
            data = load_rated_responses(name, args.data_home, encoder=encoder)
            X, preference = data.X, data.rating > threshold
            y = simulate_feedback(preference, X=X, n_signals=n_signals, random_state=100).actions
        for hidden in args.hidden:
            estimator = ImplicitRewardEstimator(hidden_layer_sizes=(hidden,), random_state=0)
            options = {
                "cv": KFold(5, shuffle=True, random_state=0),
                "n_jobs": args.jobs,
                "scoring": score_and_epochs,
                "refit": "score",
            }
            full = BatchedSearchCV(estimator, GRID, **options).fit(X, y).cv_results_
            best = full["mean_test_score"].argmax()
            error = full["std_test_score"][best] / 2  # of the mean of five folds
            cells = []
            for first in FIRST_ROUNDS:
                search = BatchedSearchCV(estimator, GRID, factor=3, min_resources=first, **options)
                search.fit(X, y)
                loss = full["mean_test_score"][best] - full["mean_test_score"][search.best_index_]
                epochs = "mean_test_member_epochs"
                saved = full[epochs].sum() / search.cv_results_[epochs].sum()
                cells.append(f"{loss / error:.2f}, {saved:.1f}x")
            print(f"| {name} {encoder} | {hidden} | {' | '.join(cells)} |", flush=True)


class Stopwatch:
    """Gathers the processor time of each training step while it is entered."""

    def __enter__(self):
        self.times, self.step = [], RewardNet.train_step

        def timed(net, batch, **kwargs):
            start = time.thread_time()
            result = self.step(net, batch, **kwargs)
            self.times.append(time.thread_time() - start)
            return result

        RewardNet.train_step = timed
        return self

    def __exit__(self, *_):
        RewardNet.train_step = self.step


def step_milliseconds(X, y, estimators):
    """Return the processor time of a step of estimators side by side, of one if it is alone."""
    with Stopwatch() as watch:
        if len(estimators) == 1:
            estimators[0].fit(X, y)
        else:
            fit_side_by_side(estimators, X, y, seed=0, paused=[None] * len(estimators))
    # A low quantile: the steps that nothing disturbed.
    return 1e3 * np.quantile(watch.times, 0.1)


def product_milliseconds(d, width, batch=256):
    """Return the processor time of the products of a step: two heads, forward and backward."""
    x, w, g = (torch.randn(*shape) for shape in ((batch, d), (d, width), (batch, width)))
    times = []
    for _ in range(100):
        start = time.thread_time()
        x @ w
        x.t() @ g
        times.append(time.thread_time() - start)
    return 2e3 * np.quantile(times, 0.1)


def step_table(X, y, args):
    """Print what a step costs by itself and side by side, beside its bare products."""
    settings = [
        dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())
    ]
    print(
        "| units | alone (ms) | side by side, per candidate (ms) | alone / side by side | "
        "bare products (ms) | alone / products | products / side by side |"
    )
    print("|---|---|---|---|---|---|---|")
    for hidden in args.hidden:
        params = {
            "hidden_layer_sizes": (hidden,),
            "early_stopping": False,
            "max_epochs": 4,
            "random_state": 0,
        }
        estimators = [ImplicitRewardEstimator(**params | setting) for setting in settings]
        alone = step_milliseconds(X, y, estimators[:1])
        size = n_side_by_side(estimators[0], X, len(settings), 5, 2)
        beside = step_milliseconds(X, y, estimators[:size]) / size
        products = product_milliseconds(X.shape[1], 4 * size * hidden) / size
        print(
            f"| {hidden} | {alone:.2f} | {beside:.2f} ({size} candidates) | {alone / beside:.2f} | "
            f"{products:.2f} | {alone / products:.2f} | {products / beside:.2f} |",
            flush=True,
        )


def bfloat16_table(args):
    """Print training steps in bfloat16 against the same in float32."""
    print("| columns | units | float32 (ms) | bfloat16 (ms) | float32 / bfloat16 | R2 | R2 |")
    print("|---|---|---|---|---|---|---|")
    for d, hidden in itertools.product((384, 4096), (64, 512)):
        X, preference, y = make_data(args.rows // 4, d)
        times, scores = [], []
        for dtype in ("float32", "bfloat16"):
            estimator = ImplicitRewardEstimator(
                hidden_layer_sizes=(hidden,),
                max_epochs=4,
                early_stopping=False,
                dtype=dtype,
                random_state=0,
            )
            times.append(step_milliseconds(X, y, [estimator]))
            scores.append(r2_score(preference, estimator.predict(X)))
        print(
            f"| {d} | {hidden} | {times[0]:.2f} | {times[1]:.2f} | {times[0] / times[1]:.2f} | "
            f"{scores[0]:.4f} | {scores[1]:.4f} |",
            flush=True,
        )


def make_data(rows, features, seed=0):
    """Return X, preferences and the actions of one signal."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    preference = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    return X, preference, simulate_feedback(preference, X=X, random_state=seed).actions


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", default="fit", choices=("fit", "search", "rounds", "step", "bfloat16")
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, help="default 7, of a search 1")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[64, 32, 16, 8], help="of a search and step"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of a search")
    parser.add_argument("--device", default="cpu", help="of a search")
    parser.add_argument("--data-home", help="folder of the data sets of rounds")
    parser.add_argument("--batch-size", type=int, default=SETTINGS["batch_size"])
    args = parser.parse_args(argv)
    SETTINGS["batch_size"] = args.batch_size
    args.repeats = args.repeats or (1 if args.what in ("search", "rounds") else 7)
    warnings.filterwarnings("ignore", message=".*still improving")
    warnings.filterwarnings("ignore", category=IdentificationWarning)

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    turns = "one turn" if args.repeats == 1 else f"median of {args.repeats} turns"
    described = f"{args.rows} x {args.features}, "
    if args.what == "bfloat16":
        described = f"{args.rows // 4} rows, "
    elif args.what == "rounds":
        described = f"synthetic log of {args.rows // 2} x {args.features}, "
    if args.what in ("step", "bfloat16"):
        torch.set_num_threads(1)
        turns = "lowest tenth of the steps"
    elif args.what == "fit":
        described += f"{args.epochs} epochs, batch {args.batch_size}, "
    elif args.what == "search":
        described += f"{len(ParameterGrid(GRID))} candidates x 5 folds, {args.jobs} processes, "
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{described}{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; "
        f"{turns}; load average at the start {load}\n"
    )
    if args.what in ("bfloat16", "rounds"):
        {"bfloat16": bfloat16_table, "rounds": rounds_table}[args.what](args)
        return
    X, _, y = make_data(args.rows, args.features)
    if args.what != "fit":
        {"search": search_table, "step": step_table}[args.what](X, y, args)
        return
    print("| A against B | A (s) | B (s) | A / B | quartiles | aim |")
    print("|---|---|---|---|---|---|")

    def ours(**params):
        return estimator_fit(X, y, args.epochs, **params)

    def bare():
        return bare_fit(X, y, args.epochs)

    report("fit, one member / bare loop", *compare(ours, bare, args.repeats), "<= 1.05")
    report(
        "skorch's default loop / fit, one member",
        *compare(lambda: skorch_fit(X, y, args.epochs), ours, max(args.repeats // 2, 3)),
        ">= 2",
    )
    report(
        "fit, 8 members / one member",
        *compare(lambda: ours(n_estimators=8), ours, max(args.repeats // 2, 3)),
        "<= 7 on two cores",
    )

    def default():
        # The default but for batches and the number of epochs, which follows the data.
        return ImplicitRewardEstimator(
            batch_size=args.batch_size, max_epochs=args.epochs, random_state=0
        ).fit(X, y)

    report(
        "fit, default configuration (4 members, early stopping) / bare loop",
        *compare(default, bare, max(args.repeats // 2, 3)),
        "",
    )
    report(
        "identification_report / fit, default configuration",
        *compare(lambda: identification_report(default(), X, y), default, 3),
        "<= 6",
    )

    fitted, model = ours(), bare().eval()
    mean, scale = X.mean(0), X.std(0)

    def bare_predict():
        with torch.inference_mode():
            logits = model((torch.from_numpy(X) - torch.from_numpy(mean)) / torch.from_numpy(scale))
            return torch.sigmoid(logits[:, 0]).numpy()

    report(
        "predict, one member / one bare forward",
        *compare(lambda: fitted.predict(X), bare_predict, 4 * args.repeats),
        "<= 1.2",
    )
    times = np.array(
        [
            (
                import_seconds("implicitrm_sk", "ImplicitRewardEstimator"),
                import_seconds("skorch", "NeuralNet"),
            )
            for _ in range(args.repeats)
        ]
    )
    low, ratio, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    report(
        "import ImplicitRewardEstimator / import skorch.NeuralNet",
        *np.median(times, axis=0),
        ratio,
        f"{low:.2f} to {high:.2f}",
        "<= 1.15",
    )
    statement = "from implicitrm_sk import ImplicitRewardEstimator"
    report(
        "process of implicitrm --help / process of import ImplicitRewardEstimator",
        *compare(
            lambda: run_python("-m", "implicitrm_sk.cli", "--help"),
            lambda: run_python("-c", statement),
            args.repeats,
        ),
        "",
    )


if __name__ == "__main__":
    main()
