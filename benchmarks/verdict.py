"""The verdict of a fit on logs that nobody tuned it on: sound ones, and ones that break the model.

    python -m benchmarks.verdict [--seeds 5] [--first-seed 0] [--kinds NAME ...] [--jobs 2]

A cell is one kind of log (`benchmarks.verdict_logs`) and one seed: a new log and a new
initialisation, default settings. The list of kinds was complete before it was run, and none was
changed or left out for its outcome.

Level error: mean predicted reward minus mean true probability, on the training rows. AUROC: of the
predicted reward against the preference that was drawn, on the same rows. The last column counts
logs that are called identified although the level error is beyond 0.15 or the AUROC below 0.6.
"refused" means that `fit` raised an error that says why. Each cell has a line on stderr. An
interrupt prints the tables of the cells that are done.
"""

import argparse
import sys
import time
import warnings
from collections import Counter

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import roc_auc_score

from benchmarks.verdict_logs import BROKEN, SOUND
from implicitrm_sk import ImplicitRewardEstimator

#: Beyond these a verdict of "identified" is wrong.
LEVEL_LIMIT, AUROC_LIMIT = 0.15, 0.6


def run(name, seed):
    """Simulate and fit a log; return its outcome."""
    start = time.perf_counter()
    kinds = SOUND | BROKEN
    found = {"kind": name, "seed": seed, "rows": 0, "level": np.nan, "auroc": np.nan, "why": ""}
    try:
        log = kinds[name](np.random.default_rng([seed, list(kinds).index(name)]))
        found["rows"] = log.n
        est = ImplicitRewardEstimator(random_state=seed, **log.settings)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                est.fit(log.X, log.y, **log.given)
        except ValueError as error:
            found |= {"verdict": "refused", "why": str(error)}
        else:
            reward = est.predict(log.X)
            found["verdict"] = est.identification_.level
            if found["verdict"] != "identified":
                found["why"] = est.identification_.against or est.identification_.reason
            found["level"] = float(reward.mean() - log.reward.mean())
            found["auroc"] = roc_auc_score(log.z, reward)
    except Exception as error:
        found |= {"verdict": "failed", "why": f"{type(error).__name__}: {error}"}
    cells = [name, seed, found["verdict"], f"{found['level']:+.3f}", f"{found['auroc']:.3f}"]
    cells += [f"{time.perf_counter() - start:.0f} s", found["why"]]
    print(*cells, sep=" | ", file=sys.stderr, flush=True)
    return found


def verdicts(runs, but=""):
    """Return the verdicts of some runs with their counts."""
    counts = Counter(run["verdict"] for run in runs if run["verdict"] != but)
    return ", ".join(f"{verdict} ({count})" for verdict, count in counts.most_common())


def mean_of_known(values):
    """Return the mean of those that are not NaN."""
    known = np.asarray(values)[~np.isnan(values)]
    return known.mean() if len(known) else np.nan


def print_row(*cells):
    """Print a row of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def print_sound(runs):
    """Print the table of sound logs."""
    print("\n| log | rows | logs | identified | other verdicts ", end="")
    print("| mean absolute level error | largest |")
    print("|---" * 7 + "|")
    for name, make in SOUND.items():
        own = [run for run in runs if run["kind"] == name]
        if own:
            errors = np.abs([run["level"] for run in own])
            identified = sum(run["verdict"] == "identified" for run in own)
            rows = f"{np.mean([run['rows'] for run in own]):,.0f}"
            cells = [f"{mean_of_known(errors):.3f}", f"{np.nanmax(errors, initial=0):.3f}"]
            log = f"{name}: {make.__doc__}"
            print_row(log, rows, len(own), identified, verdicts(own, "identified"), *cells)


def is_wrong(run):
    """Return whether a log is called identified although the reward is far off."""
    off = abs(run["level"]) > LEVEL_LIMIT or run["auroc"] < AUROC_LIMIT
    return run["verdict"] == "identified" and off


def print_broken(runs):
    """Print the table of broken logs."""
    print("\n| log | what is broken | logs | verdicts | level error | AUROC | identified, wrong |")
    print("|---" * 7 + "|")
    for name, make in BROKEN.items():
        own = [run for run in runs if run["kind"] == name]
        if own:
            level, auroc = (mean_of_known([run[key] for run in own]) for key in ("level", "auroc"))
            wrong = sum(is_wrong(run) for run in own)
            cells = [verdicts(own), f"{level:+.3f}", f"{auroc:.3f}", wrong]
            print_row(name, make.__doc__, len(own), *cells)


def main(arguments=None):
    """Run the cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=[*SOUND, *BROKEN], default=[*SOUND, *BROKEN])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(arguments)
    start, runs = time.perf_counter(), []
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    cells = (delayed(run)(name, seed) for seed in seeds for name in args.kinds)
    try:
        for found in Parallel(n_jobs=args.jobs, return_as="generator")(cells):
            runs.append(found)
    except KeyboardInterrupt:
        print("interrupted: the tables hold the cells that are done")
    print_sound(runs)
    print_broken(runs)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
