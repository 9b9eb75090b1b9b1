"""What the package costs on top of bare torch, and what skorch's default loop would cost.

    python -m benchmarks.speed [--rows 20000] [--features 384] [--batch-size 512]

Every ratio is measured side by side in one run: the two programs take turns, and the ratio is the
median over the turns. The bare loop is what one would write by hand for the same model: resident
tensors, shuffled index batches, the same heads, AdamW, epochs and batch size, and the model's
likelihood as loss.
"""

import argparse
import platform
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from skorch import NeuralNet
from torch import nn
from torch.nn.functional import logsigmoid

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback

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


def import_seconds(package):
    """Return the wall time of a fresh interpreter importing `package`."""
    code = f"import time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    )


def report(what, first, second, ratio, spread, bound):
    print(f"| {what} | {first:.3f} | {second:.3f} | {ratio:.2f} | {spread} | {bound} |", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=SETTINGS["batch_size"])
    args = parser.parse_args(argv)
    SETTINGS["batch_size"] = args.batch_size
    warnings.filterwarnings("ignore", message=".*still improving")

    rng = np.random.default_rng(0)
    X = rng.normal(size=(args.rows, args.features)).astype(np.float32)
    preference = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    y = simulate_feedback(preference, X=X, random_state=0).actions
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(
        f"{args.rows} x {args.features}, {args.epochs} epochs, batch {args.batch_size}, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; median of "
        f"{args.repeats} turns\n"
    )
    print("| A against B | A (s) | B (s) | A / B | quartiles | aim |")
    print("|---|---|---|---|---|---|")

    def ours(**params):
        return estimator_fit(X, y, args.epochs, **params)

    def bare():
        return bare_fit(X, y, args.epochs)

    report("fit, one member / bare loop", *compare(ours, bare, args.repeats), "<= 1.1")
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
        [(import_seconds("implicitrm_sk"), import_seconds("skorch")) for _ in range(args.repeats)]
    )
    low, ratio, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    report(
        "import implicitrm_sk / import skorch",
        *np.median(times, axis=0),
        ratio,
        f"{low:.2f} to {high:.2f}",
        "<= 1.15",
    )


if __name__ == "__main__":
    main()
