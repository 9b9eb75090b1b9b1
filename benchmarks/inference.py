"""Intervals of group comparisons, and sensitivity curves, against simulated truth.

    python -m benchmarks.inference [--part coverage interval sensitivity labels cost] [--logs 40]
        [--seeds 5] [--first-seed 0] [--jobs 2] [--out inference.jsonl]

Coverage: logs of 5,000 rows of 16 standard normal columns and two groups, assigned at random. The
reward is sigmoid(g) with g a fixed nonlinear function of x, shifted in the second group so that its
mean is higher by 0, 0.05 or 0.1. Responses of the second group draw fewer positive and more
negative actions, whatever they are worth: the logit of each propensity, which depends on x, is
shifted by 0.7. The cases are two positive actions and a negative one, and two positive ones, all
rows looked at, which is stated; and one positive action with 500 users whose activity has a
standard deviation of 1.5 logits. A log covers if the 90 % interval of the difference holds the true
one. "rates wrong": the raw rate of the first action has the other sign; at no difference, that a
90 % interval of its difference leaves out 0. Lines of --out that are there are not run again; nor
are fits of the labels.

Sensitivity: the simulator breaks one assumption by a known amount, and the curve of
`sensitivity_report` is read at that amount. On a log of 5,000 rows the difference of the groups has
a standard error of 0.04 and more, so that the mean error over logs is printed with its own. The
limit is what a curve becomes as the log grows, from the probabilities of the simulator: the best
fit of the violated model at each x. It shows whether the violation can turn the sign, and where.

Intervals: 90 % intervals of `reward_interval`, 12 and 20 replicates, on 1,500 rows beside logs of
5,000: two positive actions, all rows looked at, which is stated; and one of each polarity, whose
propensity is sigmoid(-g - 0.4), so that users act the less the more they like a response.

Labels: R2 against the true preference on test rows of the synthetic log of
`benchmarks.identification`, one positive action, default settings; with 100 labels of random rows,
or of those of `label_queue`.

Cost: a grid of 20 violations, a comparison and 50 bootstrap fits against one fit, 5,000 rows of 384
columns, default settings.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone

from benchmarks.identification import Problem
from benchmarks.quality import mean_and_error
from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import (
    SensitivityReport,
    compare_groups,
    label_queue,
    reward_interval,
    sensitivity_report,
)
from implicitrm_sk.metrics import reward_metrics

N_ROWS, WIDTH, N_USERS = 5_000, 16, 500
CASES = {
    "two positive, one negative": ("positive", "positive", "negative"),
    "two positive": ("positive", "positive"),
    "one positive, users": ("positive",),
}
DIFFERENCES = (0.0, 0.05, 0.1)
SETTINGS = {"learning_rate_init": 0.01, "n_estimators": 2, "random_state": 0}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def utility(X):
    """Return the logit of the reward of the first group."""
    return 1.5 * X[:, 0] + 0.7 * X[:, 1] * X[:, 2] + 0.5 * np.tanh(2 * X[:, 3])


def shift_for(difference):
    """Return the shift of the logit that raises the mean reward by so much."""
    g = utility(np.random.default_rng(12345).normal(size=(200_000, WIDTH)))
    low, high = 0.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        if sigmoid(g + middle).mean() - sigmoid(g).mean() < difference:
            low = middle
        else:
            high = middle
    return low


class Log:
    """A simulated log of two groups with a known difference.

    The propensities are `ready` of the two groups, if given; the utility is multiplied by their
    `spread`.
    """

    def __init__(
        self,
        signals,
        difference,
        seed,
        *,
        n=N_ROWS,
        width=WIDTH,
        ready=None,
        spread=(1, 1),
        **broken,
    ):
        rng = np.random.default_rng([seed, len(signals), round(1000 * difference)])
        self.X = rng.normal(size=(n, width)).astype(np.float32)
        self.group = rng.integers(2, size=n)
        self.signals = list(signals)
        g = utility(self.X) * np.array(spread)[self.group]
        self.reward = sigmoid(g + shift_for(difference) * self.group)
        sign = np.array([1.0 if one == "positive" else -1.0 for one in signals])
        direction = rng.normal(size=(width, len(signals))) / np.sqrt(width)
        u = 0.2 + 0.8 * self.X @ direction - 0.7 * self.group[:, None] * sign
        self.propensity = sigmoid(u) if ready is None else np.array(ready)[self.group]
        self.user = rng.integers(N_USERS, size=n)
        self.y = simulate_feedback(
            self.reward,
            signals=self.signals,
            propensity=self.propensity,
            user_id=self.user,
            random_state=seed,
            **broken,
        ).actions
        means = [self.reward[self.group == g].mean() for g in (0, 1)]
        self.mean, self.difference = self.reward.mean(), means[1] - means[0]

    def estimator(self, **params):
        return ImplicitRewardEstimator(**{"signals": self.signals} | SETTINGS | params)


def coverage_of(case, difference, seed):
    """Return what one log shows."""
    signals = CASES[case]
    with_users = len(signals) == 1
    log = Log(signals, difference, seed, **({"user_activity": 1.5} if with_users else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare_groups(
            log.estimator(shared_examination=False),
            log.X,
            log.y,
            log.group,
            reference=0,
            user_id=log.user if with_users else None,
        )
    rates = [log.y[log.group == g, 0] for g in (0, 1)]
    gap = rates[1].mean() - rates[0].mean()
    error = np.sqrt(sum(rate.var() / len(rate) for rate in rates))
    low, high = found.difference_interval[1]
    return {
        "case": case,
        "difference": difference,
        "seed": seed,
        "estimated": found.estimated,
        "level": found.identification.level,
        "estimate": float(found.difference[1]),
        "low": float(low),
        "high": float(high),
        "covers": bool(low <= difference <= high),
        "rates_wrong": bool(gap < 0 if difference else abs(gap) > 1.645 * error),
    }


def kept_lines(path):
    """Return what earlier runs have written."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def print_coverage(args):
    """Run the logs that are not in the file, and print the table."""
    start, path = time.perf_counter(), Path(args.out)
    done = [one for one in kept_lines(path) if "case" in one]
    known = {(one["case"], one["difference"], one["seed"]) for one in done}
    missing = [
        (case, difference, seed)
        for seed in range(args.logs)
        for case in args.cases
        for difference in DIFFERENCES
        if (case, difference, seed) not in known
    ]
    runs = Parallel(n_jobs=args.jobs, return_as="generator_unordered")(
        delayed(coverage_of)(*one) for one in missing
    )
    with path.open("a") as file:
        for found in runs:
            done.append(found)
            file.write(json.dumps(found) + "\n")
            file.flush()
    done = [one for one in done if one["seed"] < args.logs and one["case"] in args.cases]
    print(
        "\n| log | true difference | logs | the result is | covered | mean estimate | standard ",
        end="",
    )
    print("deviation | mean half width / 1.645 | right sign | rates wrong |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in args.cases:
        for difference in DIFFERENCES:
            part = [one for one in done if (one["case"], one["difference"]) == (case, difference)]
            if not part:
                continue
            estimates = np.array([one["estimate"] for one in part])
            width = np.mean([(one["high"] - one["low"]) / 2 for one in part])
            estimated = all(one["estimated"] for one in part)
            cells = [
                case,
                f"{difference:g}",
                str(len(part)),
                "an estimate" if estimated else f"bounds ({part[0]['level']})",
                f"{np.mean([one['covers'] for one in part]):.0%}",
                f"{estimates.mean():.3f}" if estimated else "",
                f"{estimates.std():.3f}" if estimated else "",
                f"{width / 1.645:.3f}" if estimated else f"(half width {width:.2f})",
                f"{(estimates > 0).mean():.0%}" if estimated and difference else "",
                f"{np.mean([one['rates_wrong'] for one in part]):.0%}",
            ]
            print("| " + " | ".join(cells) + " |")
    estimated = [one for one in done if one["estimated"]]
    for name, part in (("all", done), ("estimated", estimated)):
        if part:
            share = np.mean([one["covers"] for one in part])
            print(f"pooled, {name}: {share:.1%} of {len(part)} logs covered")
    print(f"{len(missing)} logs run in {time.perf_counter() - start:.0f} s")


#: What the simulator breaks; groups and signals; the kind, the true amount, and those tried beside.
BROKEN = {
    "false positive actions, 0.05": (
        {"signals": ("positive", "positive"), "difference": 0.1, "false_action_rate": [0.05] * 2},
        ("false_positive", 0.05, [0.025, 0.075]),
    ),
    "false positive actions, 0.1, A far less ready": (
        {
            "signals": ("positive", "positive"),
            "difference": 0.1,
            "ready": [[0.4, 0.4], [0.9, 0.9]],
            "false_action_rate": [0.1] * 2,
        },
        ("false_positive", 0.1, [0.025, 0.05, 0.075]),
    ),
    "a fifth of the rows not looked at": (
        {
            "signals": ("positive", "positive", "negative"),
            "difference": 0.1,
            "examination": 0.8,
        },
        ("not_looked_at", 0.2, [0.1]),
    ),
    "a fifth not looked at, two of each": (
        {
            "signals": ("positive", "positive", "negative", "negative"),
            "difference": 0.1,
            "examination": 0.8,
        },
        ("not_looked_at", 0.2, [0.1]),
    ),
    "one of each, ratio 1/2": (
        {
            "signals": ("positive", "negative"),
            "difference": 0.1,
            "ready": [[0.6, 0.3], [0.6, 0.3]],
        },
        ("ratio", 0.5, [0.25, 1, 2]),
    ),
    "one of each, ratio 1/2, rewards of B all near 1/2": (
        {
            "signals": ("positive", "negative"),
            "difference": 0.0,
            "spread": (1, 0.1),
            "ready": [[0.6, 0.3], [0.6, 0.3]],
        },
        ("ratio", 0.5, [0.25, 1, 2]),
    ),
}


def chances(reward, ready, positive, rate, looked):
    """Return P(y | x) of all outcomes, shape (2**K, n)."""
    fires = [torch.where(positive == c, ready, rate) for c in (0, 1)]
    found = []
    for y in itertools.product((0.0, 1.0), repeat=len(positive)):
        y = torch.tensor(y, dtype=torch.float64)
        no, yes = ((p * y + (1 - p) * (1 - y)).prod(-1) for p in fires)
        found.append(looked * (reward * yes + (1 - reward) * no) + (1 - looked) * (y.sum() == 0))
    return torch.stack(found)


def limit_of(log, broken, kind, amount):
    """Return the error of a difference at an amount, as the log grows."""
    positive = torch.tensor([float(one == "positive") for one in log.signals])
    rate = broken.get("false_action_rate", [0.0] * len(positive))
    truth = chances(
        torch.as_tensor(log.reward),
        torch.as_tensor(log.propensity),
        positive,
        torch.tensor(rate, dtype=torch.float64),
        broken.get("examination", 1.0),
    )
    logits = torch.zeros(len(log.reward), 1 + len(positive), dtype=torch.float64)
    logits.requires_grad_()

    def model():
        reward, ready = torch.sigmoid(logits[:, 0]), torch.sigmoid(logits[:, 1:])
        rate = positive * amount if kind == "false_positive" else torch.zeros_like(positive)
        if kind == "ratio":
            free = ready[:, :1]  # of the more ready one
            share = torch.where((positive == 1) == (amount < 1), 1.0, min(amount, 1 / amount))
            ready = free * share
        return chances(
            reward,
            rate + (1 - rate) * ready,
            positive,
            rate.double(),
            1 - amount if kind == "not_looked_at" else 1.0,
        )

    search = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def step():
        search.zero_grad()
        loss = -(truth * torch.log(model().clamp_min(1e-12))).sum()
        loss.backward()
        return loss

    search.step(step)
    change = torch.sigmoid(logits[:, 0]).detach().numpy() - log.reward
    return change[log.group == 1].mean() - change[log.group == 0].mean()


def turns_at(curve, kind):
    """Return the robustness value of a curve, a dict from amounts to differences."""
    rows = [
        {"violation": "none" if amount is None else kind, "amount": amount, "difference_1": gap}
        for amount, gap in curve.items()
    ]
    rows[0]["mean_reward"] = np.nan
    return SensitivityReport(rows, np.array([1]), 0, None, 0, {}).robustness[kind][1]


def sensitivity_of(name, n, seed):
    """Return the errors of the base and of the curve at the true amount, and the curve."""
    settings, (kind, amount, beside) = BROKEN[name]
    log = Log(**settings, seed=seed, n=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = sensitivity_report(
            log.estimator(shared_examination=False),
            log.X,
            log.y,
            log.group,
            reference=0,
            violations={kind: sorted([amount, *beside])},
        )
    at = next(row for row in report.rows if row["amount"] == amount)
    errors = [
        row[column] - truth
        for column, truth in (("mean_reward", log.mean), ("difference_1", log.difference))
        for row in (report.rows[0], at)
    ]
    return errors, {row["amount"]: row["difference_1"] for row in report.rows}


def limits_of(name):
    """Return the curve to which those of growing logs tend."""
    settings, (kind, amount, beside) = BROKEN[name]
    log = Log(**settings, seed=0, n=1_000)
    broken = {k: v for k, v in settings.items() if k in ("false_action_rate", "examination")}
    amounts = {None: 1.0 if kind == "ratio" else 0.0} | {a: a for a in sorted([amount, *beside])}
    truth = settings["difference"]
    return {key: truth + limit_of(log, broken, kind, one) for key, one in amounts.items()}


def print_sensitivity(args):
    """Run the logs that are not in the file, and print the tables of sensitivity curves."""
    start, path = time.process_time(), Path(args.out)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    found = {
        (one["broken"], one["n"], one["seed"]): (one["errors"], dict(one["curve"]))
        for one in kept_lines(path)
        if "broken" in one
    }
    missing = [one for one in itertools.product(BROKEN, args.rows, seeds) if one not in found]
    runs = Parallel(n_jobs=args.jobs, return_as="generator")(
        delayed(sensitivity_of)(*one) for one in missing
    )
    with path.open("a") as file:
        for (name, n, seed), (errors, curve) in zip(missing, runs, strict=True):
            found[name, n, seed] = errors, curve
            line = {"broken": name, "n": n, "seed": seed, "errors": errors}
            file.write(json.dumps(line | {"curve": list(curve.items())}) + "\n")
            file.flush()
    for n in args.rows:
        print(f"\nlogs of {n:,} rows: error ± standard error over {len(seeds)} logs (largest)\n")
        print("| broken | mean reward, base | at the amount | difference, base | at the amount |")
        print("|---|---|---|---|---|")
        for name in BROKEN:
            columns = np.array([found[name, n, seed][0] for seed in seeds]).T
            cells = [f"{mean_and_error(one)} ({np.abs(one).max():.3f})" for one in columns]
            print("| " + " | ".join([name, *cells]) + " |")
    print("\n| broken | true difference | limit of the base; at the amount ", end="")
    print("| limit of the robustness value ", end="")
    print("".join(f"| robustness values, {n:,} rows " for n in args.rows) + "|")
    print("|---|---|---|---" + "|---" * len(args.rows) + "|")
    for name, (settings, (kind, amount, _)) in BROKEN.items():
        limit = limits_of(name)
        cells = [
            f"{settings['difference']:g}",
            f"{limit[None]:+.3f}; {limit[amount]:+.3f}",
            f"{turns_at(limit, kind):.3g}",
        ]
        for n in args.rows:
            values = [turns_at(found[name, n, seed][1], kind) for seed in seeds]
            cells.append(_in_short(values))
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    print(f"{len(missing)} logs run, {time.process_time() - start:.0f} s of this process")


def _in_short(values):
    """Return how many values are finite, with their median and range, and how many are not."""
    finite = np.array([value for value in values if np.isfinite(value)])
    parts = []
    if len(finite):
        low, middle, high = np.quantile(finite, [0, 0.5, 1])
        parts.append(f"{len(finite)}: {middle:.2g} ({low:.2g} to {high:.2g})")
    if len(finite) < len(values):
        parts.append(f"{len(values) - len(finite)}: inf")
    return "; ".join(parts)


N_NEW, REPLICATES = 1_500, (12, 20)
INTERVALS = {
    "two positive": ["positive", "positive"],
    "one of each, against the grain": ["positive", "negative"],
}


def interval_of(name, n_bootstrap, seed):
    """Return how often intervals hold the truth, how often to within 0.02, and their width."""
    rng, signals = np.random.default_rng([seed, 77]), INTERVALS[name]
    X = rng.normal(size=(N_ROWS + N_NEW, WIDTH)).astype(np.float32)
    reward = sigmoid(utility(X))
    if name == "two positive":
        propensity = sigmoid(0.2 + 0.8 * X @ rng.normal(size=(WIDTH, 2)) / np.sqrt(WIDTH))
    else:
        propensity = np.repeat(sigmoid(-utility(X) - 0.4)[:, None], 2, axis=1)
    log = simulate_feedback(reward, signals=signals, propensity=propensity, random_state=seed)
    est = ImplicitRewardEstimator(
        signals=signals,
        shared_examination=False if name == "two positive" else None,
        learning_rate_init=0.003,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reward_interval(
            est, X[:N_ROWS], log.actions[:N_ROWS], X[N_ROWS:], n_bootstrap=n_bootstrap
        )
    outside = np.maximum(found.low - reward[N_ROWS:], reward[N_ROWS:] - found.high)
    return np.mean(outside <= 0), np.mean(outside <= 0.02), np.mean(found.high - found.low)


def print_interval(args):
    """Print how often the intervals of single rewards hold the truth."""
    start = time.perf_counter()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"\n90 % intervals of single rewards, seeds {seeds[0]} to {seeds[-1]}\n")
    print("| log | replicates | held | worst seed | to within 0.02 | mean width |")
    print("|---|---|---|---|---|---|")
    for name in INTERVALS:
        for n_bootstrap in REPLICATES:
            runs = (delayed(interval_of)(name, n_bootstrap, seed) for seed in seeds)
            held, nearly, width = np.array(Parallel(n_jobs=args.jobs)(runs)).T
            cells = [f"{held.mean():.1%}", f"{held.min():.1%}", f"{nearly.mean():.1%}"]
            print(f"| {name} | {n_bootstrap} | {' | '.join(cells)} | {width.mean():.2f} |")
            sys.stdout.flush()
    print(f"{time.perf_counter() - start:.0f} s")


N_LABELS = 100


LABELLED = {"none": "none", "random": "of random rows", "queue": "of the queue"}


def labels_of(seed, kind):
    """Return R2 without labels, with labels of random rows, or with those of the queue."""
    p = Problem("synthetic", None, seed)
    X, truth = p.X[p.train], p.z[p.train]
    y = p.simulate(n_signals=3).actions[p.train, 0]
    est = ImplicitRewardEstimator(shared_examination=False, random_state=seed)
    rows, labels = [], np.full(len(X), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "random":
            rows = np.random.default_rng([seed, 2]).permutation(len(X))[:N_LABELS]
        elif kind == "queue":
            rows = label_queue(est, X, y, N_LABELS)
        labels[rows] = truth[rows]
        est.fit(X, y, labels=labels)
    return float(reward_metrics(p.z[p.is_test], est.predict(p.X[p.is_test]))["r2"])


def print_labels(args):
    """Run the fits that are not in the file, and print what labels of the queue are worth."""
    start, path = time.perf_counter(), Path(args.out)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    found = {(one["seed"], one["labels"]): one["r2"] for one in kept_lines(path) if "labels" in one}
    missing = [one for one in itertools.product(seeds, LABELLED) if one not in found]
    runs = Parallel(n_jobs=args.jobs, return_as="generator")(
        delayed(labels_of)(*one) for one in missing
    )
    with path.open("a") as file:
        for (seed, kind), r2 in zip(missing, runs, strict=True):
            found[seed, kind] = r2
            file.write(json.dumps({"seed": seed, "labels": kind, "r2": r2}) + "\n")
            file.flush()
    none, at_random, queue = (np.array([found[seed, kind] for seed in seeds]) for kind in LABELLED)
    print(f"\n{N_LABELS} labels, seeds {seeds[0]} to {seeds[-1]} (mean ± standard error)\n")
    print("| labels | R2 | gained over no labels | gained in each seed |")
    print("|---|---|---|---|")
    for name, r2 in zip(LABELLED.values(), (none, at_random, queue), strict=True):
        each = ", ".join(f"{gain:.3f}" for gain in r2 - none) if r2 is not none else ""
        gained = mean_and_error(r2 - none) if r2 is not none else ""
        print(f"| {name} | {mean_and_error(r2)} | {gained} | {each} |")
    ratio = (queue - none).mean() / (at_random - none).mean()
    print(f"\nthe queue gains {ratio:.2f} times as much as random rows")
    print(f"{time.perf_counter() - start:.0f} s")


CLOCKS = (time.perf_counter, time.process_time)
VIOLATIONS = {
    "false_positive": [0.01, 0.02, 0.03, 0.05, 0.1],
    "false_negative": [0.01, 0.02, 0.03, 0.05, 0.1],
    "not_looked_at": [0.05, 0.1, 0.15, 0.2],
    "left_out": [0, 1, 2],
    "sign": [0, 1, 2],
}


def seconds_of(function, *args, **params):
    """Return the seconds of a call, and those of the processor, which others hardly change."""
    start = [clock() for clock in CLOCKS]
    function(*args, **params)
    return np.array([clock() for clock in CLOCKS]) - start


def print_cost(args):
    """Print what a grid costs, as a multiple of one fit."""
    log = Log(CASES["two positive, one negative"], 0.1, 0, width=384)
    est = ImplicitRewardEstimator(signals=log.signals, shared_examination=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clone(est).set_params(max_epochs=1).fit(log.X, log.y)  # what only a first fit has to load
        grouped = est, log.X, log.y, log.group
        turns = []
        for _ in range(args.turns):
            turns.append(
                [
                    seconds_of(est.fit, log.X, log.y),
                    seconds_of(sensitivity_report, *grouped, reference=0, violations=VIOLATIONS),
                    seconds_of(est.fit, log.X, log.y),
                    seconds_of(compare_groups, *grouped, reference=0),
                    seconds_of(est.fit, log.X, log.y),
                    seconds_of(reward_interval, est, log.X, log.y, log.X[:100]),
                ]
            )
    turns = np.array(turns)
    one = np.median(turns[:, ::2].reshape(-1, 2), axis=0)
    grid, groups, bootstrap = np.median(turns[:, 1::2], axis=0)
    print(f"\nmultiples of one fit, {torch.get_num_threads()} threads, medians\n")
    print("| | seconds | multiple | seconds of the processor | multiple | bar |")
    print("|" + "---|" * 6)
    for name, found, bar in (
        ("one fit", one, ""),
        ("a grid of 20 violations", grid, "8"),
        ("a comparison of groups", groups, ""),
        ("intervals of 50 bootstrap fits, and the fit", bootstrap, ""),
        ("the bootstrap fits alone: less one fit", bootstrap - one, "15"),
    ):
        wall, processor = (f"{a:.1f} | {a / b:.1f}" for a, b in zip(found, one, strict=True))
        print(f"| {name} | {wall} | {processor} | {bar} |")


PARTS = {
    "coverage": print_coverage,
    "interval": print_interval,
    "sensitivity": print_sensitivity,
    "labels": print_labels,
    "cost": print_cost,
}


def main(argv=None):
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--logs", type=int, default=40, help="per cell of the coverage")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=5, help="of all but the coverage")
    parser.add_argument("--first-seed", type=int, default=0, help="of intervals and labels")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[5_000],
        help="of logs with a broken assumption",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--turns", type=int, default=3, help="of the part on cost; one fit is timed thrice in each"
    )
    parser.add_argument(
        "--out", default="inference.jsonl", help="what is kept of all but intervals and cost"
    )
    args = parser.parse_args(argv)
    for part in args.part:
        PARTS[part](args)


if __name__ == "__main__":
    main()
