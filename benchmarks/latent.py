"""Rows that nobody looked at, and users who differ: two parts of `benchmarks.identification`.

    python -m benchmarks.identification --part attention [--seeds 5]

A seed is a new log and a new initialisation: 16,000 training and 8,000 test rows of 32 standard
normal columns; P(z = 1) = sigmoid(3 g), g a random one-layer tanh network of 16 units, standardised.
All settings are the defaults. "share" is R2 of the reward on test rows against z, divided by that
of the same network trained on z of all training rows.

Attention: up to two positive and two negative actions, propensities as in `benchmarks.quality`.
"half": a row is looked at with probability sigmoid(1.5 h), h a network like g; "all": every row is.
"""

import time
import warnings
from collections import Counter

import numpy as np
from joblib import Parallel, delayed

from benchmarks.quality import mean_and_error
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.metrics import reward_metrics

N_TRAIN, N_TEST, WIDTH = 16_000, 8_000, 32
#: Which columns of y, up to two positive and two negative ones.
TWO_OF_EACH = ("positive", "positive", "negative", "negative")
LOGS = {"two of each": 4, "two positive, one negative": 3, "two positive": 2}


class Synthetic:
    """Features, reward, preference and a second function of x like the reward."""

    def __init__(self, seed):
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.X = self.rng.normal(size=(N_TRAIN + N_TEST, WIDTH)).astype(np.float32)
        self.R = 1 / (1 + np.exp(-3 * self._network()))
        self.other = self._network()
        self.z = (np.random.default_rng([seed, 9]).random(len(self.X)) < self.R).astype(int)
        self.train, self.test = np.arange(N_TRAIN), np.arange(N_TRAIN, len(self.X))
        self.full = self.r2(
            ImplicitRewardEstimator("naive", random_state=seed).fit(
                self.X[self.train], self.z[self.train]
            )
        )

    def _network(self):
        g = np.tanh(1.5 * self.X @ self.rng.normal(size=(WIDTH, 16)) / np.sqrt(WIDTH))
        g = g @ self.rng.normal(size=16)
        return (g - g.mean()) / g.std()

    def r2(self, est):
        """Return R2 of the reward on the test rows."""
        return reward_metrics(self.z[self.test], est.predict(self.X[self.test]))["r2"]


def attention_seed(seed):
    """Return share, level, winner, and how often the bounds hold, of every case of a seed."""
    p, found = Synthetic(seed), {}
    for looked, v in (("half", 1 / (1 + np.exp(-1.5 * p.other))), ("all", 1.0)):
        log = simulate_feedback(
            p.z, X=p.X, signals=list(TWO_OF_EACH), examination=v, random_state=seed
        )
        for name, n_signals in LOGS.items():
            signals, y = list(TWO_OF_EACH[:n_signals]), log.actions[p.train, :n_signals]
            for option in (None, True):
                est = ImplicitRewardEstimator(
                    signals=signals, shared_examination=option, random_state=seed
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", IdentificationWarning)
                    est.fit(p.X[p.train], y)
                    report = None
                    if n_signals < 4 or option:
                        report = identification_report(est, p.X[p.train], y, n_starts=2)
                one = {"share": p.r2(est) / p.full, "level": est.identification_.level}
                if report is not None and report.level == "bounded":
                    low, high = report.bounds(p.X[p.test]).T
                    truth = p.R[p.test]
                    one["bounds hold"] = np.mean((low <= truth) & (truth <= high))
                    one["width"] = np.mean(high - low)
                if report is not None:
                    one["winner"] = (report.examination or {"winner": "none named"})["winner"]
                found[looked, name, option] = one
    return found


def print_attention(seeds, jobs):
    """Print the table of rows that nobody looked at."""
    start = time.perf_counter()
    runs = Parallel(n_jobs=jobs)(delayed(attention_seed)(seed) for seed in seeds)
    print(f"\nrows that nobody looked at, {len(runs)} seeds (mean ± standard error)\n")
    print(
        "| looked at | signals | `shared_examination` | share of all labels | worst seed | level "
        "(seeds) | the report names (seeds) | bounds hold, worst seed | mean width |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for key in runs[0]:
        found = [run[key] for run in runs]
        share = np.array([one["share"] for one in found])
        held = [one["bounds hold"] for one in found if "bounds hold" in one]
        cells = [
            *map(str, key),
            mean_and_error(share),
            f"{share.min():.3f}",
            _counted(one["level"] for one in found),
            _counted(one["winner"] for one in found if "winner" in one),
            f"{np.mean(held):.1%}, {min(held):.1%}" if held else "",
            f"{np.mean([one['width'] for one in found if 'width' in one]):.2f}" if held else "",
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


def _counted(values):
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common())
