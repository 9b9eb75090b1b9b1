"""How much of the gap between the naive classifier and full labels the estimator closes.

    python -m benchmarks.quality --data-home DIR [--data beavertails_test ...] [--seeds 10]

Data: rated responses with ready embeddings of two encoders; preferred are those rated above a
threshold (`beavertails_test`: rated safe). Log: `simulate_feedback` with covariate-dependent
propensity, one random projection per signal; a seed is a new log and a new initialisation. Fitted
on the training prompts only, by actions only; the true preference enters the row "all labels" and
the R2 on the test prompts.

    gap closed = (R2 - R2 of naive, one signal) / (R2 of all labels - R2 of naive, one signal)

per seed, then averaged. Every row is the same network with the same, default settings.
"""

import argparse
import itertools
import sys
import time
import warnings

import numpy as np
from joblib import Parallel, delayed

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.metrics import reward_metrics

ENCODERS = ("smollm2", "minilm")
#: Name: rating above which a response is preferred.
THRESHOLDS = {
    "beavertails_test": 0.5,
    "pku_saferlhf_safe": 0.5,
    "ultrafeedback_binarized_1200": 6.5,
}


def fit_and_score(data, preference, actions, objective, seed):
    """Fit on the training rows and return the metrics of the reward on the test rows."""
    train = ~data.is_test
    with warnings.catch_warnings():
        # The reduction to "any action" is what the naive rows with several signals are about.
        warnings.filterwarnings("ignore", message="Naive works on one signal")
        warnings.simplefilter("ignore", IdentificationWarning)  # of the rows with one signal
        estimator = ImplicitRewardEstimator(objective, random_state=seed).fit(
            data.X[train], actions[train], groups=data.groups[train]
        )
    truth = preference[data.is_test]
    metrics = reward_metrics(truth, estimator.predict(data.X[data.is_test]))
    metrics["epochs"] = estimator.n_iter_
    return metrics


def run_seed(data, threshold, seed):
    """Return the metrics of every method on the log of one seed."""
    preference = data.rating > threshold
    log = simulate_feedback(preference, X=data.X, n_signals=3, random_state=seed)
    rows = {}
    for n_signals in (1, 2, 3):
        actions = log.actions[:, 0] if n_signals == 1 else log.actions[:, :n_signals]
        for objective in ("naive", "stratified"):
            rows[objective, n_signals] = fit_and_score(data, preference, actions, objective, seed)
    rows["all labels", 0] = fit_and_score(data, preference, preference, "naive", seed)
    return rows


def mean_and_error(values):
    """Format mean and standard error."""
    values = np.asarray(values)
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--data", nargs="+", choices=THRESHOLDS, default=["beavertails_test"])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error("--seeds must be at least 2: a standard error needs them")

    for name, encoder in itertools.product(args.data, args.encoders):
        start = time.perf_counter()
        data = load_rated_responses(name, args.data_home, encoder=encoder)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        runs = Parallel(n_jobs=args.jobs)(
            delayed(run_seed)(data, THRESHOLDS[name], seed) for seed in seeds
        )
        r2 = {row: np.array([run[row]["r2"] for run in runs]) for row in runs[0]}
        naive, full = r2["naive", 1], r2["all labels", 0]
        print(f"\n{name}, {encoder}, {args.seeds} seeds (mean ± standard error)\n")
        print("| method | signals | R2 | gap closed | MAE | AUROC | ECE | epochs |")
        print("|---|---|---|---|---|---|---|---|")
        for (method, n_signals), values in r2.items():
            cells = [
                method,
                str(n_signals or "labels"),
                mean_and_error(values),
                mean_and_error((values - naive) / (full - naive)),
                *(
                    f"{np.mean([run[method, n_signals][name] for run in runs]):.3f}"
                    for name in ("mae", "auroc", "calibration_error")
                ),
                f"{np.mean([run[method, n_signals]['epochs'] for run in runs]):.0f}",
            ]
            print("| " + " | ".join(cells) + " |")
        print(f"\n{time.perf_counter() - start:.0f} s")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
