"""What each kind of further information is worth, and what broken assumptions cost.

    python -m benchmarks.identification --data-home DIR [--seeds 5] [--data synthetic ...]

Logs, true preference z: one to three signals with covariate-dependent propensity as in
`benchmarks.quality`; a log of one signal whose propensity depends on three context columns, drawn
independently of the response, only. A seed is a new log and a new initialisation. Data sets:

- `synthetic`: 20,000 training and 10,000 test rows of 64 standard normal columns;
  P(z = 1) = sigmoid(3 g), g a random one-layer tanh network of 16 units, standardised;
- three sets of rated responses with SmolLM2 embeddings, fitted on the training prompts.

Logs of both polarities have the signals up, down and copy. "both polarities": each propensity is
sigmoid(1.5 s - 0.4) with a direction of its own; "rare actions": sigmoid(1.5 s - 2); "against the
grain" (synthetic only): sigmoid(-3 g - 0.4) for all three, so that users act the less the more they
like a response.

R2 is of the reward on test rows against z; the contexts of test rows are not used. "share" is, for
the synthetic log, R2 / R2 of the same network trained on z in all training rows; for the others,
the gap closed between naive on one signal and that network, on the log that the row uses. The last
columns count the seeds in which the row beats the fit of one signal with nothing else on the same
log, and give the level of `identification_`. Below the table: in how many test rows of the log
against the grain the interval of `reward_interval` holds the true probability. It has 95 %
confidence, because 95 % of the rows are to be held.

Every row of the other logs was looked at, which is stated; for those of both polarities it is not.
All rows of a log have the same settings: the defaults for the synthetic data; for the others, of
some 2,000 training rows, those of the best held-out likelihood on seeds 100 to 104 of BeaverTails,
summed over rows with labels, two and three signals, and by itself for logs of context.

Parts: `ladder`, the table; `report`, what `identification_report` says of each row; `choice`, how
close held-out likelihood comes to the truth in choosing settings; `attention`, `users`, `limits`,
`starts`, `counts` and `levels`, rows that nobody looked at, users who differ, the starts of the
report, counts over exposures and levels of rare actions (`benchmarks.latent`), which need no data.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections import Counter
from functools import partial

import numpy as np
from joblib import Parallel, delayed

from benchmarks.latent import (
    print_attention,
    print_counts,
    print_levels,
    print_limits,
    print_looking,
    print_starts,
    print_users,
)
from benchmarks.quality import THRESHOLDS, mean_and_error
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.inspection import reward_interval
from implicitrm_sk.metrics import reward_metrics

SMALL_DATA = {
    "learning_rate_init": 1e-3,
    "dropout": 0.5,
    "weight_decay": 10.0,
    "n_estimators": 8,
}
SMALL_CONTEXT = SMALL_DATA | {"weight_decay": 3.0}
#: The row that shares refer to.
REFERENCE = "signals", "all labels"
N_CONTEXT = 3
N_USERS = 100
#: Users who differ in activity only, and its standard deviation on the logit.
N_FEW_USERS, USER_ACTIVITY = 150, 3.0
FALSE_ACTIONS = 0.05
#: Up, down and copy.
SIGNALS = ["positive", "negative", "positive"]
#: Of the intervals: replicates, and how often each is to hold the truth.
N_BOOTSTRAP, CONFIDENCE = 20, 0.95


class Problem:
    """One data set: features, true preference z, its probability where known, groups, split."""

    def __init__(self, name, data_home, seed, reporting=False):
        if name == "synthetic":
            rng = np.random.default_rng(seed)
            self.X = rng.normal(size=(30_000, 64)).astype(np.float32)
            g = np.tanh(1.5 * self.X @ rng.normal(size=(64, 16)) / 8) @ rng.normal(size=16)
            self.score = (g - g.mean()) / g.std()
            self.probability = 1 / (1 + np.exp(-3 * self.score))
            self.z = (rng.random(len(self.X)) < self.probability).astype(int)
            self.is_test = np.arange(len(self.X)) >= 20_000
            self.groups = np.arange(len(self.X))
            self.labels = {"1 % labels": 200, "5 % labels": 1000}
            self.params = self.context_params = {}
        else:
            data = load_rated_responses(name, data_home, encoder="smollm2")
            self.X, self.groups, self.is_test = data.X, data.groups, data.is_test
            self.z = (data.rating > THRESHOLDS[name]).astype(int)
            self.probability = None
            self.labels = {"100 labels": 100, "300 labels": 300}
            self.params, self.context_params = SMALL_DATA, SMALL_CONTEXT
        self.train = ~self.is_test
        self.seed = seed
        self.rng = np.random.default_rng([seed, 1])
        self.context = self.rng.normal(size=(len(self.X), N_CONTEXT)).astype(np.float32)
        self.user = self.rng.integers(N_USERS, size=len(self.X))
        self.reporting = reporting

    def simulate(self, **kwargs):
        """Return a simulated log of all rows."""
        kwargs = {"true_preference": self.z, "X": self.X, "random_state": self.seed} | kwargs
        return simulate_feedback(kwargs.pop("true_preference"), **kwargs)

    def some_labels(self, n, wrong=0.0, actions=None):
        """Return labels of n random training rows, a share of them wrong, NaN elsewhere."""
        rng = np.random.default_rng([self.seed, 2])
        label = np.full(len(self.X), np.nan)
        chosen = rng.permutation(np.flatnonzero(self.train))[:n]
        flip = rng.random(n) < wrong
        label[chosen] = np.where(flip, 1 - self.z[chosen], self.z[chosen])
        if wrong:
            # `fit` refuses labels that an action disproves; a user would take them out.
            label[(label == 0) & (actions == 1)] = np.nan
        return label[self.train]

    def evaluate(
        self,
        actions,
        columns=None,
        objective="stratified",
        params=None,
        exclusion=True,
        bounds=False,
        users=None,
        **fit_params,
    ):
        """Fit on the training rows and return the metrics of the reward on the test rows.

        `columns` are further columns for the propensity; test rows do without them. `users` has the
        user of each row, training and test. With `bounds`, the metrics hold how often
        `reward_interval` holds the true probability. With `reporting` set, return the
        identification report instead.
        """
        params = {"shared_examination": False} | self.params | (params or {})
        X = self.X[self.train]
        if columns is not None:
            X = np.hstack([X, columns[self.train]])
            if exclusion:
                params = {"reward_features": slice(self.X.shape[1])} | params
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IdentificationWarning)
            warnings.filterwarnings("ignore", message="Naive works on one signal")
            warnings.filterwarnings("ignore", message="signal .* a copy carries")
            estimator = ImplicitRewardEstimator(objective, random_state=self.seed, **params)
            log = X, actions[self.train]
            fit_params["groups"] = self.groups[self.train]
            if users is not None:
                fit_params["user_id"] = users[self.train]
            if self.reporting:
                return summary(identification_report(estimator, *log, **fit_params))
            estimator.fit(*log, **fit_params)
        test = self.X[self.is_test]
        if columns is not None and len(estimator.reward_columns_) > test.shape[1]:
            test = np.hstack([test, columns[self.is_test]])
        metrics = reward_metrics(self.z[self.is_test], estimator.predict(test))
        metrics["false_action_rate"] = estimator.false_action_rate_
        metrics["level"] = estimator.identification_.level
        if bounds and self.probability is not None:
            found = reward_interval(
                estimator, *log, test, n_bootstrap=N_BOOTSTRAP, confidence=CONFIDENCE, **fit_params
            )
            truth = self.probability[self.is_test]
            outside = np.maximum(found.low - truth, truth - found.high)
            metrics["bounds_hold"] = np.mean(outside <= [[0.0], [0.02], [0.05]], axis=1)
        return metrics


def cases(problem):
    """Yield (log, name, function that returns the metrics) of every row of the ladder."""
    p = problem
    log = p.simulate(n_signals=3)
    one = log.actions[:, 0]
    known = np.where(np.random.default_rng([p.seed, 3]).random(len(one)) < 0.1, 1, np.nan)
    known = (known * log.propensity[:, 0])[p.train]
    rate = p.z[p.train].mean()
    fit = p.evaluate

    yield "signals", "all labels", partial(fit, p.z, objective="naive")
    yield "signals", "naive", partial(fit, one, objective="naive")
    yield "signals", "none", partial(fit, one)
    yield "signals", "preference rate", partial(fit, one, params={"preference_rate": rate})
    for name, n in p.labels.items():
        yield "signals", name, partial(fit, one, labels=p.some_labels(n))
    yield "signals", "propensity of 10 % of rows", partial(fit, one, propensity=known)
    again = p.z * (np.random.default_rng([p.seed, 5]).random(len(one)) < log.propensity[:, 0])
    twice = {"exposures": np.full(p.train.sum(), 2), "params": {"false_action_rate": 0.0}}
    yield "signals", "shown twice", partial(fit, one + again, **twice)
    yield "signals", "two signals", partial(fit, log.actions[:, :2])
    yield "signals", "three signals", partial(fit, log.actions)
    few = next(iter(p.labels))
    yield (
        "signals",
        f"two signals, {few}",
        partial(fit, log.actions[:, :2], labels=p.some_labels(p.labels[few])),
    )

    context = p.simulate(X=p.context).actions
    fit_context = partial(fit, params=p.context_params)
    yield "context", "all labels", partial(fit_context, p.z, objective="naive")
    yield "context", "naive", partial(fit_context, context, objective="naive")
    yield "context", "none", partial(fit_context, context, p.context, exclusion=False)
    yield "context", "exclusion", partial(fit_context, context, p.context)
    yield (
        "context",
        "exclusion, preference rate",
        partial(fit, context, p.context, params=p.context_params | {"preference_rate": rate}),
    )

    false = p.simulate(n_signals=3, false_action_rate=FALSE_ACTIONS).actions
    yield "false actions", "naive", partial(fit, false[:, 0], objective="naive")
    yield "false actions", "none", partial(fit, false[:, 0])
    for shown, e in (("taken for 0", 0.0), ("given", FALSE_ACTIONS), ("estimated", "estimate")):
        yield (
            "false actions",
            f"three signals, rate {shown}",
            partial(fit, false, params={"false_action_rate": e}),
        )

    yield from cases_of_both_polarities(p)

    # Broken assumptions.
    for case, n_signals, rate_copied in (
        ("two signals, the second a copy of the first", 2, 1.0),
        ("three signals, one a copy", 3, 1.0),
        ("three signals, one half a copy", 3, 0.5),
    ):
        copied = p.simulate(
            n_signals=n_signals, copied_signal=(0, n_signals - 1), copied_rate=rate_copied
        )
        yield "copied signal", case, partial(fit, copied.actions)
    if p.probability is not None:
        for share in (0.3, 1.0):
            own = p.simulate(true_preference=p.probability, n_signals=3, own_preference=share)
            yield (
                "own preference",
                f"two signals, {share:.0%} of rows of users with their own r*",
                partial(fit, own.actions[:, :2]),
            )
    for share in (0.3, 1.0):
        shared = p.simulate(n_signals=3, shared_activity=share).actions
        for n_signals, shown in ((2, "two"), (3, "three")):
            yield (
                "shared activity",
                f"{shown} signals, {share:.0%} of rows of users active in all or nothing",
                partial(fit, shared[:, :n_signals]),
            )
    users = p.simulate(propensity="user", user_id=p.user, user_correlation=1.0, n_signals=3).actions
    one_hot = np.eye(N_USERS, dtype=np.float32)[p.user]
    yield "users", "naive", partial(fit, users[:, 0], objective="naive")
    yield "users", "none", partial(fit, users[:, 0])
    yield "users", "two signals, active users unknown", partial(fit, users[:, :2])
    yield (
        "users",
        "two signals, user columns in the propensity",
        partial(fit, users[:, :2], one_hot, params={"propensity_features": slice(None)}),
    )
    yield (
        "users",
        "one signal, user columns alone in the propensity",
        partial(fit, users[:, 0], one_hot),
    )
    yield "users", "two signals, users known", partial(fit, users[:, :2], users=p.user)
    few = p.rng.integers(N_FEW_USERS, size=len(p.X))
    differ = p.simulate(user_id=few, user_activity=USER_ACTIVITY, n_signals=2).actions
    yield "users who differ", "naive", partial(fit, differ[:, 0], objective="naive")
    yield "users who differ", "none", partial(fit, differ[:, 0])
    yield "users who differ", "two signals, users unknown", partial(fit, differ)
    yield "users who differ", "two signals, users known", partial(fit, differ, users=few)
    for off in (-0.2, 0.2):
        yield (
            "signals",
            f"preference rate off by {off:+.1f}",
            partial(fit, one, params={"preference_rate": rate + off}),
        )
        yield (
            "signals",
            f"two signals, preference rate off by {off:+.1f}",
            partial(fit, log.actions[:, :2], params={"preference_rate": rate + off}),
        )
    for name, n in p.labels.items():
        yield (
            "signals",
            f"{name}, 20 % wrong",
            partial(fit, one, labels=p.some_labels(n, 0.2, one)),
        )
    leak = p.context.copy()
    leak[:, 0] += (p.z - p.z.mean()) / p.z.std()
    leaking = p.simulate(X=leak).actions
    yield "leaking context", "all labels", partial(fit_context, p.z, objective="naive")
    yield "leaking context", "naive", partial(fit_context, leaking, objective="naive")
    yield "leaking context", "none", partial(fit_context, leaking, leak, exclusion=False)
    yield (
        "leaking context",
        "exclusion, but a context column tells of r*",
        partial(fit_context, leaking, leak),
    )


def cases_of_both_polarities(p):
    """Yield the rows of the logs of up, down and copy."""
    two, three = ({"signals": SIGNALS[:n], "shared_examination": None} for n in (2, 3))
    logs = {"both polarities": {}, "rare actions": {"intercept": -2.0}}
    if p.probability is not None:
        against = 1 / (1 + np.exp(3 * p.score + 0.4))
        logs["against the grain"] = {"propensity": np.repeat(against[:, None], 3, axis=1)}
    for log, propensity in logs.items():
        actions = p.simulate(signals=SIGNALS, **propensity).actions
        up, both = actions[:, 0], actions[:, :2]
        fit = p.evaluate
        yield log, "naive", partial(fit, up, objective="naive")
        yield log, "none", partial(fit, up)
        yield log, "up-down", partial(fit, both, objective="up-down", params=two)
        bounds = log == "against the grain"  # where the point fails
        yield log, "one of each", partial(fit, both, params=two, bounds=bounds)
        yield (
            log,
            "two positive, one negative",
            partial(fit, actions, params=three, bounds=bounds),
        )


def run_seed(name, data_home, seed, only=None):
    """Return the metrics of every case of one seed."""
    problem = Problem(name, data_home, seed)
    return {
        (log, case): evaluate()
        for log, case, evaluate in cases(problem)
        if only is None or log in only or (log, case) == REFERENCE
    }


def summary(report):
    """Return what is printed of a report."""
    test = report.independence
    return {
        "verdict": report.verdict,
        "spread": report.reward_spread,
        "swap": report.swap["applicable"] and report.swap["as_likely"],
        "dependent": "" if test is None else int(test.rejected),
        "one signal": bool(report.agreeing_signals),
    }


#: Rows of objectives whose splits of an action a report cannot compare.
NOT_REPORTED = ("all labels", "naive", "up-down")


def report_seed(name, data_home, seed, only=None):
    """Return the summaries of the reports on every case of one seed."""
    return {
        (log, case): evaluate()
        for log, case, evaluate in cases(Problem(name, data_home, seed, reporting=True))
        if case not in NOT_REPORTED and (only is None or log in only)
    }


def _mean_of_known(spreads):
    """Return the mean of the spreads of reports with several refits that are as likely."""
    known = [spread for spread in spreads if np.isfinite(spread)]
    return f"{np.mean(known):.3f}" if known else ""


def print_reports(name, runs):
    """Print what the reports of one data set say."""
    print(f"\nreports, {name}, {len(runs)} seeds\n")
    print(
        "| log | what the estimator is given | verdict (seeds) | spread of the reward "
        "| swap as likely | dependence found | one signal or two? |"
    )
    print("|---|---|---|---|---|---|---|")
    for log, case in runs[0]:
        found = [run[log, case] for run in runs]
        verdicts = Counter(one["verdict"] for one in found)
        cells = [
            log,
            case,
            "; ".join(f"{verdict} ({count})" for verdict, count in verdicts.most_common()),
            _mean_of_known([one["spread"] for one in found]),
            f"{sum(one['swap'] for one in found)}/{len(found)}",
            ""
            if found[0]["dependent"] == ""
            else f"{sum(one['dependent'] for one in found)}/{len(found)}",
            f"{sum(one['one signal'] for one in found)}/{len(found)}",
        ]
        print("| " + " | ".join(cells) + " |")


def print_ladder(name, runs):
    """Print the table of one data set."""
    print(f"\n{name}, {len(runs)} seeds (mean ± standard error)\n")
    share = "share of all labels" if name == "synthetic" else "gap closed"
    print(
        f"| log | what the estimator is given | R2 | {share} | worst seed | AUROC | MAE | > none "
        "| level (seeds) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for log, case in runs[0]:
        if not {(log, "none"), ("signals", "none")} & runs[0].keys():
            continue  # the reference alone
        r2 = np.array([run[log, case]["r2"] for run in runs])
        full, naive, none = (
            np.array([run[log if (log, row) in run else "signals", row]["r2"] for run in runs])
            for row in ("all labels", "naive", "none")
        )
        part = r2 / full if name == "synthetic" else (r2 - naive) / (full - naive)
        cells = [
            log,
            case,
            mean_and_error(r2),
            mean_and_error(part),
            f"{part.min():.3f}",
            *(f"{np.mean([run[log, case][m] for run in runs]):.3f}" for m in ("auroc", "mae")),
            f"{np.sum(r2 > none)}/{len(runs)}",
            ", ".join(
                f"{level} ({count})"
                for level, count in Counter(run[log, case]["level"] for run in runs).most_common()
            ),
        ]
        print("| " + " | ".join(cells) + " |")
    for key in runs[0]:
        if "bounds_hold" in runs[0][key]:
            held = np.array([run[key]["bounds_hold"] for run in runs])
            mean, worst = held.mean(axis=0), held.min(axis=0)
            print(
                f"\n{', '.join(key)}: the {CONFIDENCE:.0%} interval holds the true probability in "
                f"{mean[0]:.1%} of the test rows (worst seed {worst[0]:.1%}), to within 0.02 in "
                f"{mean[1]:.1%} ({worst[1]:.1%}), to within 0.05 in {mean[2]:.1%} ({worst[2]:.1%})"
            )
    estimated = "false actions", "three signals, rate estimated"
    if estimated in runs[0]:
        rates = np.array([run[estimated]["false_action_rate"] for run in runs])
        error = np.abs(rates - FALSE_ACTIONS)
        print(
            f"\nfalse-action rate, true {FALSE_ACTIONS}: estimated {rates.mean():.4f} on average, "
            f"largest error of a signal and seed {error.max():.4f}"
        )


def choice_settings():
    """Return the settings among which the held-out likelihood is to choose."""
    grid = {
        "hidden_layer_sizes": [(), (16,), (64,)],
        "dropout": [0.0, 0.2],
        "learning_rate_init": [3e-4, 3e-3],
        "weight_decay": [0.01, 1.0],
    }
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def choose(name, data_home, seed, n_signals):
    """Return held-out log-likelihood and R2 on the test rows of every setting."""
    p = Problem(name, data_home, seed)
    actions = p.simulate(n_signals=3).actions[:, :n_signals]
    # Chosen on a third of the training groups, judged on the test rows.
    ids = np.unique(p.groups[p.train])
    held = np.isin(p.groups, np.random.default_rng([seed, 4]).permutation(ids)[: len(ids) // 3])
    fit, held = p.train & ~held, p.train & held
    rows = []
    for params in choice_settings():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IdentificationWarning)
            estimator = ImplicitRewardEstimator(random_state=seed, **params).fit(
                p.X[fit], actions[fit], groups=p.groups[fit]
            )
        truth = p.z[p.is_test]
        rows.append(
            (
                estimator.score(p.X[held], actions[held]),
                reward_metrics(truth, estimator.predict(p.X[p.is_test]))["r2"],
            )
        )
    return np.array(rows)


def print_choice(name, data_home, seeds, jobs):
    """Print how close choosing by likelihood comes to choosing by truth."""
    print(f"\nchoice among {len(choice_settings())} settings, {name}, {len(seeds)} seeds\n")
    print(
        "| signals | R2, chosen by likelihood | R2, chosen by truth | R2, mean of the settings "
        "| rank correlation |"
    )
    print("|---|---|---|---|---|")
    for n_signals in (1, 2, 3):
        runs = Parallel(n_jobs=jobs)(
            delayed(choose)(name, data_home, seed, n_signals) for seed in seeds
        )
        cells = [
            mean_and_error([run[run[:, 0].argmax(), 1] for run in runs]),
            mean_and_error([run[:, 1].max() for run in runs]),
            mean_and_error([run[:, 1].mean() for run in runs]),
            mean_and_error([np.corrcoef(*run.argsort(0).argsort(0).T)[0, 1] for run in runs]),
        ]
        print(f"| {n_signals} | " + " | ".join(cells) + " |")
        sys.stdout.flush()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--data", nargs="+", default=["synthetic", *THRESHOLDS])
    parser.add_argument("--part", nargs="+", default=["ladder", "report", "choice"])
    parser.add_argument("--only", nargs="+", help="logs of the ladder and the report")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error("--seeds must be at least 2: a standard error needs them")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if "attention" in args.part:
        print_attention(seeds, args.jobs)
    if "looking" in args.part:
        print_looking(seeds, args.jobs)
    if "users" in args.part:
        print_users(seeds, args.jobs)
    if "limits" in args.part:
        print_limits(seeds, args.jobs)
    if "starts" in args.part:
        print_starts(seeds, args.jobs)
    if "counts" in args.part:
        print_counts(seeds, args.jobs)
    if "levels" in args.part:
        print_levels(seeds, args.jobs)
    if not {"ladder", "report", "choice"} & set(args.part):
        return
    for name in args.data:
        start = time.perf_counter()
        if "ladder" in args.part:
            runs = Parallel(n_jobs=args.jobs)(
                delayed(run_seed)(name, args.data_home, seed, args.only) for seed in seeds
            )
            print_ladder(name, runs)
        if "report" in args.part:
            runs = Parallel(n_jobs=args.jobs)(
                delayed(report_seed)(name, args.data_home, seed, args.only) for seed in seeds
            )
            print_reports(name, runs)
        if "choice" in args.part:
            print_choice(name, args.data_home, seeds, args.jobs)
        print(f"\n{time.perf_counter() - start:.0f} s")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
