"""Rows not looked at, users, starts, counts, levels: parts of `benchmarks.identification`.

    python -m benchmarks.identification --part attention looking users limits starts counts levels
        [--seeds 5]

A seed is a new log and a new initialisation: 16,000 training and 8,000 test rows of 32 standard
normal columns; P(z = 1) = sigmoid(3 g), g a random one-layer tanh network of 16 units.
All settings are the defaults. "share" is R2 of the reward on test rows against z, divided by that
of the same network trained on z of all training rows.

Attention: up to two positive and two negative actions, propensities as in `benchmarks.quality`.
"half": a row is looked at with probability sigmoid(1.5 h), h a network like g; "all": every row is.
The bounds are those of the report, the intervals those of `reward_interval`. These have 95 %
confidence, because 95 % of the rows are to be held. They have 10 replicates, because 20 take 150
seconds of a processor for each log. Only the plain model has them: where the log does not identify
the reward, the examined one is not to be used.

Looking: two positive and two negative actions on logs of four columns, R = sigmoid(1.5 x0). The
settings state that every row was looked at, which is so or not. Propensities differ with a random
direction of x by a standard deviation of 0.5 logits, and in some logs by user, 60 users with a
standard deviation of 1. The table says how many logs `fit` calls contradicted, and the error of the
mean of `predict`. Default settings but a step size of 0.003.

Users: one positive action with the propensity sigmoid(1.5 s - 0.4 + sd b), s a random direction of
x and b the activity of the user. 1,000 users drawn at random for each row, or 4,000 of 4 training
rows each. Two logs break what the model of users assumes. "tastes": the logit of P(z = 1) differs
by user with sd 1, and R2 is of the mean reward of all users, which is what `predict` gives.
"shown by activity": who is more active is shown better responses (rank correlation of about 0.5).

Limits: logs like those of the users, of fewer users, fewer rows of each, and smaller differences,
for the rule by which `user_id` identifies the reward. The level error is the mean reward on test
rows minus the share preferred, "with no users" the same where users are ignored.

Starts: what `identification_report` says of small logs of five columns with 2 to 16 starts. "level
error" is the mean over seeds of |mean reward - share preferred| of the refits that are as likely as
the best; standard deviation and range are of the mean rewards of these refits.

Counts: 1,000 responses of five columns, P(z = 1) = sigmoid(2.5 (x0 + tanh x1)), and how often users
said yes, or yes and no, over a number of exposures. The propensities are those of
`simulate_feedback`, false-action rates 0.1, the correlation of two exposures as the table says. The
rates are estimated, with small settings. Scores are of 2,000 further responses: R2 of `predict` and
of the posterior given the counts, and the mean reward less the share preferred.

Levels: logs of four columns, R = sigmoid(1.5 x0 + c) with c = -1.5, 0 and 1.5, so that a seed has
three logs of each kind. Propensities are constant, or differ with a random direction of x by a
standard deviation of 1 logit; every row is looked at, which is stated, and no other assumption is
broken either. Default settings but a step size of 0.003. The error is the mean of `predict` on the
log minus that of R. "unmoved" is the fit whose level is left where training ends.
"""

import itertools
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from benchmarks.quality import mean_and_error
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator, identification_report
from implicitrm_sk._fit import run_fit
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import reward_interval
from implicitrm_sk.metrics import reward_metrics
from implicitrm_sk.signals import Action

N_TRAIN, N_TEST, WIDTH = 16_000, 8_000, 32
#: Which columns of y, up to two positive and two negative ones.
TWO_OF_EACH = ("positive", "positive", "negative", "negative")
LOGS = {"two of each": 4, "two positive, one negative": 3, "two positive": 2}
#: Of the intervals of rows that nobody looked at: replicates, and how often each is to hold.
N_BOOTSTRAP, CONFIDENCE = 10, 0.95
#: Actions, their propensities, users, rows and share looked at.
LOOKING = [
    *(
        (name, propensity, 0, n_rows, seen)
        for name, propensity in (
            ("frequent", (0.6, 0.45, 0.5, 0.4)),
            ("rare", (0.3, 0.15, 0.2, 0.1)),
        )
        for n_rows in (2_000, 8_000)
        for seen in (1.0, 0.9, 0.75)
    ),
    *(("frequent", (0.6, 0.45, 0.5, 0.4), 60, 8_000, seen) for seen in (1.0, 0.75)),
]
#: Of the levels: name, signals, propensities, whether they depend on x, false actions, rows.
LEVELS = (
    ("two positive, rare", "pp", (0.18, 0.21), False, 0.0, 2100),
    ("two positive, rare, by x", "pp", (0.18, 0.21), True, 0.0, 2100),
    ("three positive, rare", "ppp", (0.1, 0.15, 0.2), False, 0.0, 2100),
    ("two positive, rare negative", "ppn", (0.55, 0.18, 0.21), False, 0.0, 2100),
    ("two positive, rare negative, false actions", "ppn", (0.55, 0.18, 0.21), False, 0.02, 2100),
    ("the same", "ppn", (0.55, 0.18, 0.21), False, 0.02, 10_000),
    ("two positive, rare negative, by x", "ppn", (0.5, 0.2, 0.2), True, 0.0, 2100),
    ("two negative, rare positive", "nnp", (0.3, 0.2, 0.1), False, 0.0, 2100),
    ("two of each, rare", "ppnn", (0.5, 0.2, 0.2, 0.1), False, 0.0, 2100),
    ("two positive, one negative, frequent", "ppn", (0.55, 0.5, 0.5), False, 0.0, 2100),
)
OFFSETS, STEP_OF_LEVELS = (-1.5, 0.0, 1.5), 0.003


class Synthetic:
    """Features, reward, preference and a second function of x like the reward."""

    def __init__(self, seed, n_train=N_TRAIN):
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.X = self.rng.normal(size=(n_train + N_TEST, WIDTH)).astype(np.float32)
        self.R = 1 / (1 + np.exp(-3 * self._network()))
        self.other = self._network()
        self.z = (np.random.default_rng([seed, 9]).random(len(self.X)) < self.R).astype(int)
        self.train, self.test = np.arange(n_train), np.arange(n_train, len(self.X))

    @cached_property
    def full(self):
        """R2 of the network trained on z of all training rows."""
        est = ImplicitRewardEstimator("naive", random_state=self.seed)
        return self.r2(est.fit(self.X[self.train], self.z[self.train]))

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
                    if option is None:
                        interval = reward_interval(
                            est,
                            p.X[p.train],
                            y,
                            p.X[p.test],
                            n_bootstrap=N_BOOTSTRAP,
                            confidence=CONFIDENCE,
                        )
                        inside = (interval.low <= truth) & (truth <= interval.high)
                        one["intervals hold"] = np.mean(inside)
                        one["interval width"] = np.mean(interval.high - interval.low)
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
        "(seeds) | the report names (seeds) | bounds hold, worst seed | mean width | "
        "intervals hold, worst seed | mean width |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key in runs[0]:
        found = [run[key] for run in runs]
        share = np.array([one["share"] for one in found])
        cells = [
            *map(str, key),
            mean_and_error(share),
            f"{share.min():.3f}",
            _counted(one["level"] for one in found),
            _counted(one["winner"] for one in found if "winner" in one),
        ]
        for ends, width in (("bounds hold", "width"), ("intervals hold", "interval width")):
            held = [one[ends] for one in found if ends in one]
            cells.append(f"{np.mean(held):.1%}, {min(held):.1%}" if held else "")
            widths = [one[width] for one in found if width in one]
            cells.append(f"{np.mean(widths):.2f}" if held else "")
        print("| " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


#: Standard deviation of activity, number of users, and what else differs by user.
USERS = (
    (3.0, 1000, ""),
    (1.5, 1000, ""),
    (1.5, 4000, ""),
    (0.0, 1000, ""),
    (1.5, 1000, "tastes"),
    (1.5, 1000, "shown by activity"),
)


def users_seed(seed):
    """Return share, loading and level of every case of a seed, with users and without."""
    p, found = Synthetic(seed), {}
    rng = np.random.default_rng([seed, 4])
    for sd, n_users, broken in USERS:
        user = rng.integers(n_users, size=len(p.X))
        if n_users == 4000:
            user = np.arange(len(p.X)) % n_users
        given, preference = {"X": p.X, "user_activity": sd, "random_state": seed}, p.z
        if broken == "tastes":
            given["user_taste"], preference = 1.0, p.R
        if broken == "shown by activity":
            # The simulator draws the same activity again, since it numbers the users alike.
            activity = simulate_feedback(p.z, user_id=user, **given).user_effect
            wanted = np.argsort(rankdata(p.R) / len(p.R) + 0.5 * rng.normal(size=len(p.R)))
            user[wanted] = user[np.argsort(activity, kind="stable")]
        log = simulate_feedback(preference, user_id=user, **given)
        for modelled in (False, True):
            est = ImplicitRewardEstimator(shared_examination=False, random_state=seed)
            ids = {"user_id": user[p.train]} if modelled else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", IdentificationWarning)
                est.fit(p.X[p.train], log.actions[p.train], **ids)
            found[sd, n_users, broken, modelled] = {
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
        "| sd of activity | users | also | `user_id` | R2 | share of all labels | worst seed | "
        "better than ignored | sd found | level (seeds) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for *case, modelled in runs[0]:
        found = [run[*case, modelled] for run in runs]
        share, ignored = (
            np.array([run[*case, ids]["share"] for run in runs]) for ids in (modelled, False)
        )
        sd, n_users, broken = case
        loading = np.array([one["loading"] for one in found])
        cells = [
            f"{sd:g}",
            f"{n_users:,}",
            broken,
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


#: Users, rows of each, standard deviation of activity.
LIMITS = tuple(
    (*size, sd)
    for size in ((50, 40), (200, 5), (200, 15), (200, 40), (1000, 5), (1000, 15))
    for sd in (0.7, 1.4, 2.5)
)


def limits_seed(seed):
    """Return what user ids give, and what a fit without them gives, in each log of a seed."""
    found = {}
    for (n_users, n_rows), cases in itertools.groupby(LIMITS, key=lambda one: one[:2]):
        p = Synthetic(seed, n_users * n_rows)
        user = np.arange(len(p.X)) % n_users
        truth = p.z[p.test].mean()
        for *_, sd in cases:
            log = simulate_feedback(p.z, X=p.X, user_id=user, user_activity=sd, random_state=seed)
            for modelled in (False, True):
                est = ImplicitRewardEstimator(shared_examination=False, random_state=seed)
                ids = {"user_id": user[p.train]} if modelled else {}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", IdentificationWarning)
                    est.fit(p.X[p.train], log.actions[p.train], **ids)
                found[n_users, n_rows, sd, modelled] = {
                    "error": float(est.predict(p.X[p.test]).mean() - truth),
                    "share": float(p.r2(est) / p.full),
                    "loading": float(est.user_loading_[0]) if modelled else np.nan,
                    "identified": est.identification_.level == "identified",
                }
    return found


def print_limits(seeds, jobs):
    """Print how far the level is off by spread of activity, rows and users."""
    start = time.perf_counter()
    runs = _all(limits_seed, seeds, jobs)
    print(f"\nlimits of users, {len(runs)} seeds (mean ± standard error)\n")
    print(
        "| users | rows of each | sd of activity | level error | largest | largest with no users | "
        "share of all labels | worst seed | with no users | sd found | identified (seeds) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for n_users, n_rows, sd in LIMITS:
        plain, known = (
            {
                name: np.array([run[n_users, n_rows, sd, modelled][name] for run in runs])
                for name in ("error", "share", "loading", "identified")
            }
            for modelled in (False, True)
        )
        cells = [
            f"{n_users:,}",
            str(n_rows),
            f"{sd:g}",
            mean_and_error(known["error"]),
            f"{np.abs(known['error']).max():.3f}",
            f"{np.abs(plain['error']).max():.3f}",
            mean_and_error(known["share"]),
            f"{known['share'].min():.3f}",
            f"{plain['share'].mean():.3f}",
            f"{known['loading'].min():.2f} to {known['loading'].max():.2f}",
            str(known["identified"].sum()),
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


STARTS = (2, 4, 8, 16)
SMALL = {"hidden_layer_sizes": (16,), "learning_rate_init": 3e-3}


def _small_logs(seed):
    """Yield name, settings, X, actions, preference and further arguments of small logs."""
    for n in (400, 1000, 3000):
        rng = np.random.default_rng([seed, n])
        X = rng.normal(size=(n, 5)).astype(np.float32)
        z = rng.random(n) < 1 / (1 + np.exp(-2.5 * (X[:, 0] + np.tanh(X[:, 1]))))
        y = simulate_feedback(z.astype(int), X=X, n_signals=2, random_state=seed).actions
        yield f"two positive, {n:,} rows", {"shared_examination": False}, X, y, z, {}
    for n_labels in (40, 900):
        labels = np.where(np.arange(n) < n_labels, z, np.nan)
        yield f"one positive, {n_labels} labels", {}, X, y[:, 0], z, {"labels": labels}
    counts = {"exposures": np.full(300, 2)}
    y = rng.binomial(2, 0.25 * z[:300])
    yield "two exposures, 300 responses", {"false_action_rate": 0.01}, X[:300], y, z[:300], counts


def starts_seed(seed):
    """Return what the report says of each log with each number of starts."""
    found = {}
    for name, params, X, y, z, side in _small_logs(seed):
        est = ImplicitRewardEstimator(**SMALL | params, random_state=seed)
        for n in STARTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = identification_report(est, X, y, n_starts=n, **side)
            means = report.refits["mean_reward"][report.refits["as_likely"]]
            found[name, n] = {
                "identified": report.level == "identified",
                "error": float(np.abs(means - z.mean()).mean()),
                "sd": float(means.std(ddof=1)) if len(means) > 1 else np.nan,
                "range": float(np.ptp(means)),
            }
    return found


def print_starts(seeds, jobs):
    """Print how the spread of refits, and the verdict on it, depend on the number of starts."""
    start = time.perf_counter()
    runs = _all(starts_seed, seeds, jobs)
    print(f"\nrefits from several starts, {len(runs)} seeds\n")
    print(
        "| log | starts | standard deviation, median | range, median | level error | identified |"
    )
    print("|---|---|---|---|---|---|")
    for name, n in runs[0]:
        of = {what: np.array([run[name, n][what] for run in runs]) for what in runs[0][name, n]}
        known = ~np.isnan(of["sd"])
        cells = [
            f"{np.median(of['sd'][known]):.3f}" if known.any() else "",
            f"{np.median(of['range'][known]):.3f}" if known.any() else "",
            f"{of['error'].mean():.3f}",
            f"{of['identified'].sum()} of {len(runs)}",
        ]
        print(f"| {name} | {n} | " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


#: What was counted, over how many exposures of each response, and their correlation.
ANSWERS = {"yes and no": (1, 0), "yes": (1,)}
COUNTS = (
    *itertools.product(["yes and no"], (4, 8, 32), (0.0, 0.2)),
    *itertools.product(["yes"], (8, 32), (0.2,)),
)
SMALL_COUNTS = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.01, "n_estimators": 2}


def counts_seed(seed):
    """Return what binomial and beta-binomial counts give in each log of a seed."""
    rng, found = np.random.default_rng(seed), {}
    X = rng.normal(size=(3000, 5)).astype(np.float32)
    z = (rng.random(3000) < 1 / (1 + np.exp(-2.5 * (X[:, 0] + np.tanh(X[:, 1]))))).astype(int)
    train, test = slice(1000), slice(1000, None)
    for answers, n, rho in COUNTS:
        log = simulate_feedback(
            z,
            X=X,
            signals=[Action(target) for target in ANSWERS[answers]],
            false_action_rate=0.1,
            exposures=np.full(len(z), n),
            exposure_correlation=rho,
            random_state=seed,
        )
        for counts in ("binomial", "beta-binomial"):
            signals = [Action(target, counts=counts) for target in ANSWERS[answers]]
            est = ImplicitRewardEstimator(signals=signals, **SMALL_COUNTS, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                est.fit(X[train], log.actions[train], exposures=log.exposures[train])
            groups = est.predict_proba(X[test], log.actions[test], exposures=log.exposures[test])
            reward, posterior = est.predict(X[test]), (groups[:, 0] + groups[:, 2]).astype(float)
            found[answers, n, rho, counts] = {
                "error": float(reward.mean() - z[test].mean()),
                "predict": reward_metrics(z[test], reward)["r2"],
                "posterior": reward_metrics(z[test], posterior)["r2"],
                "correlation": float(est.exposure_correlation_[0]),
                "rate": float(est.false_action_rate_[0]),
                "auroc": roc_auc_score(z[test], posterior),
                "level": est.identification_.level,
            }
    return found


def print_counts(seeds, jobs):
    """Print what a correlation of exposures costs, and what modelling it gives."""
    start = time.perf_counter()
    runs = _all(counts_seed, seeds, jobs)
    print(f"\ncounts over correlated exposures, {len(runs)} seeds (mean ± standard error)\n")
    print(
        "| counted | exposures | correlation | `counts` | level error | largest | R2 of `predict` "
        "| R2 of the posterior | its AUROC | correlation found | rate found | level (seeds) |"
    )
    print("|" + "---|" * 12)
    for case in runs[0]:
        of = {what: np.array([run[case][what] for run in runs]) for what in runs[0][case]}
        *shown, counts = case
        found = {
            what: f"{of[what].min():.2f} to {of[what].max():.2f}"
            for what in ("correlation", "rate")
        }
        cells = [
            *map(str, shown),
            counts,
            mean_and_error(of["error"]),
            f"{np.abs(of['error']).max():.3f}",
            mean_and_error(of["predict"]),
            mean_and_error(of["posterior"]),
            mean_and_error(of["auroc"]),
            "" if counts == "binomial" else found["correlation"],
            found["rate"],
            _counted(of["level"].tolist()),
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


def level_of(kinds, propensity, by_x, rate, n_rows, offset, seed):
    """Return the error of a fit, that of one that is not moved, and the level of the verdict."""
    rng = np.random.default_rng([seed, len(kinds), round(10 * offset) % 100])
    X = rng.normal(size=(n_rows, 4))
    R = 1 / (1 + np.exp(-1.5 * X[:, 0] - offset))
    u = np.log(propensity) - np.log1p(-np.array(propensity))
    direction = rng.normal(size=(4, len(kinds))) / 2
    u = u + by_x * X @ direction
    signals = ["positive" if kind == "p" else "negative" for kind in kinds]
    log = simulate_feedback(
        R,
        signals=signals,
        propensity=1 / (1 + np.exp(-u)),
        false_action_rate=rate,
        random_state=seed,
    )
    found = []
    for adjust in (None, partial(replace, tells_level=False)):
        est = ImplicitRewardEstimator(
            signals=signals,
            false_action_rate=rate,
            shared_examination=False,
            learning_rate_init=STEP_OF_LEVELS,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IdentificationWarning)
            run_fit(est, X, log.actions, adjust=adjust)
        found.append(est.predict(X).mean() - R.mean())
        found.append(est.identification_.level)
    return found[0], found[2], found[1]


def looking_of(propensity, n_users, seen, n_rows, seed):
    """Return whether `fit` notices rows not looked at, and the error of its mean reward."""
    rng = np.random.default_rng([seed, n_rows, n_users])
    X = rng.normal(size=(n_rows, 4))
    R = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    u = np.log(propensity) - np.log1p(-np.array(propensity))
    u = u + X @ rng.normal(size=(4, 4)) / 4
    side = {}
    if n_users:
        side["user_id"] = rng.integers(n_users, size=n_rows)
        u = u + rng.normal(size=n_users)[side["user_id"], None]
    signals = ["positive", "positive", "negative", "negative"]
    log = simulate_feedback(
        R,
        signals=signals,
        propensity=1 / (1 + np.exp(-u)),
        examination=np.full(n_rows, seen),
        random_state=seed,
    )
    est = ImplicitRewardEstimator(
        signals=signals,
        shared_examination=False,
        learning_rate_init=STEP_OF_LEVELS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)
        est.fit(X, log.actions, **side)
    found = est.identification_
    return "silent together" in found.against, est.predict(X).mean() - R.mean(), found.level


def print_looking(seeds, jobs):
    """Print how often `fit` contradicts that every row was looked at."""
    print(f"\nlooking, {len(seeds)} seeds\n")
    print(
        "| actions | users | rows | looked at | contradicted | error of the level | identified |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, propensity, n_users, n_rows, seen in LOOKING:
        runs = Parallel(n_jobs=jobs)(
            delayed(looking_of)(propensity, n_users, seen, n_rows, seed) for seed in seeds
        )
        noticed, error, level = zip(*runs, strict=True)
        users = f"{n_users}" if n_users else "alike"
        print(
            f"| {name} | {users} | {n_rows:,} | {seen:.0%} | {sum(noticed)} of {len(runs)} | "
            f"{mean_and_error(np.array(error))} | {level.count('identified')} of {len(runs)} |"
        )
        sys.stdout.flush()


def print_levels(seeds, jobs):
    """Print how far the level of `predict` is off where actions are rare."""
    print(f"\nlevels, {len(seeds)} seeds, {len(OFFSETS)} logs each\n")
    print(
        "| log | rows | error | largest | unmoved | largest | identified | largest of these |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name, *log in LEVELS:
        runs = Parallel(n_jobs=jobs)(
            delayed(level_of)(*log, offset, seed) for seed in seeds for offset in OFFSETS
        )
        moved, unmoved = (np.abs([run[k] for run in runs]) for k in (0, 1))
        identified = np.array([run[2] == "identified" for run in runs])
        largest = f"{moved[identified].max():.3f}" if identified.any() else ""
        cells = [
            mean_and_error(moved),
            f"{moved.max():.3f}",
            mean_and_error(unmoved),
            f"{unmoved.max():.3f}",
            f"{identified.sum()} of {len(runs)}",
            largest,
        ]
        print(f"| {name} | {log[-1]:,} | " + " | ".join(cells) + " |")
        sys.stdout.flush()
