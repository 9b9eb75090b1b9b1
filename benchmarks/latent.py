"""Rows that nobody looked at, and users who differ: two parts of `benchmarks.identification`.

    python -m benchmarks.identification --part attention users [--seeds 5]

A seed is a new log and a new initialisation: 16,000 training and 8,000 test rows of 32 standard
normal columns; P(z = 1) = sigmoid(3 g), g a random one-layer tanh network of 16 units.
All settings are the defaults. "share" is R2 of the reward on test rows against z, divided by that
of the same network trained on z of all training rows.

Attention: up to two positive and two negative actions, propensities as in `benchmarks.quality`.
"half": a row is looked at with probability sigmoid(1.5 h), h a network like g; "all": every row is.

Users: one positive action with the propensity sigmoid(1.5 s - 0.4 + sd b), s a random direction of
x and b the activity of the user. 1,000 users drawn at random for each row, or 4,000 of 4 training
rows each.
"""

import sys
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
                    if option if n_signals == 4 else looked == "half":
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
    runs = _all(attention_seed, seeds, jobs)
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


#: Standard deviation of activity, number of users.
USERS = ((3.0, 1000), (1.5, 1000), (1.5, 4000), (0.0, 1000))


def users_seed(seed):
    """Return share, loading and level of every case of a seed, with users and without."""
    p, found = Synthetic(seed), {}
    rng = np.random.default_rng([seed, 4])
    for sd, n_users in USERS:
        user = rng.integers(n_users, size=len(p.X))
        if n_users == 4000:
            user = np.arange(len(p.X)) % n_users
        log = simulate_feedback(p.z, X=p.X, user_id=user, user_activity=sd, random_state=seed)
        for modelled in (False, True):
            est = ImplicitRewardEstimator(shared_examination=False, random_state=seed)
            ids = {"user_id": user[p.train]} if modelled else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", IdentificationWarning)
                est.fit(p.X[p.train], log.actions[p.train], **ids)
            found[sd, n_users, modelled] = {
                "share": p.r2(est) / p.full,
                "r2": p.r2(est),
                "loading": est.user_loading_[0] if modelled else np.nan,
                "level": est.identification_.level,
            }
    return found


def print_users(seeds, jobs):
    """Print the table of users who differ."""
    start = time.perf_counter()
    runs = _all(users_seed, seeds, jobs)
    print(f"\nusers who differ, {len(runs)} seeds (mean ± standard error)\n")
    print(
        "| sd of activity | users | `user_id` | R2 | share of all labels | worst seed | better "
        "than ignored | sd found | level (seeds) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for sd, n_users, modelled in runs[0]:
        found = [run[sd, n_users, modelled] for run in runs]
        share, ignored = (
            np.array([run[sd, n_users, ids]["share"] for run in runs]) for ids in (modelled, False)
        )
        loading = np.array([one["loading"] for one in found])
        cells = [
            f"{sd:g}",
            f"{n_users:,}",
            "yes" if modelled else "no",
            mean_and_error([one["r2"] for one in found]),
            mean_and_error(share),
            f"{share.min():.3f}",
            f"{np.sum(share > ignored)}/{len(runs)}" if modelled else "",
            f"{loading.min():.2f} to {loading.max():.2f}" if modelled else "",
            _counted(one["level"] for one in found),
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


def _all(run, seeds, jobs):
    """Return what a function gives for each seed; a line on each goes to the error stream."""
    found, start = [], time.perf_counter()
    work = Parallel(n_jobs=jobs, return_as="generator")(delayed(run)(seed) for seed in seeds)
    for seed, one in zip(seeds, work, strict=True):
        print(f"seed {seed}, {time.perf_counter() - start:.0f} s: {one}", file=sys.stderr)
        sys.stderr.flush()
        found.append(one)
    return found


def _counted(values):
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common())
