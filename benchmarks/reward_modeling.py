"""Every objective, and other packages, on real rated responses with simulated feedback.

    python -m benchmarks.reward_modeling --data-home DIR [--part table ...] [--seeds 5] [--jobs 2]

Parts:

- `table`: methods x data sets x feedback mechanisms x seeds, by what a method is given beside the
  actions of one signal;
- `rate`: step size and batch size (figure 2 of the ImplicitRM paper);
- `alpha`: the share of preferred responses that draw an action (its figure 3);
- `ablation`: the stratified objective without its parts;
- `leak`: the protocol of the public repository beside the honest one;
- `cost`: time per epoch against the stratified objective;
- `time`: whole fits of the size that the public repository was once timed at;
- `scale`: a larger set.

Protocol: fitted on the actions of the training prompts; early stopping and, with `--budget` above
1, the choice of settings by each method's own held-out criterion on actions; no true preference but
in the final numbers, and where a tier says so. A seed is a new log and a new initialisation. Groups
are prompts. Every cell is appended to a file as it is done, and a second run goes on from there.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from benchmarks.peers import PEERS, run_peer
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.inspection._plot._base import style
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.metrics import reward_metrics
from implicitrm_sk.objectives import OBJECTIVES, Stratified
from implicitrm_sk.objectives._base import cross_entropy

#: Methods that a log of one action is enough for.
ONE_SIGNAL = [name for name, cls in OBJECTIVES.items() if not cls.needs_both_polarities]
#: Name: (encoder, None for the only one; rating above which a response is preferred). The last
#: three are the paper's sets at full size, written by `benchmarks.prepare`.
DATA = {
    "beavertails_test": ("smollm2", 0.5),
    "pku_saferlhf_safe": ("smollm2", 0.5),
    "ultrafeedback_binarized_1200": ("smollm2", 6.5),
    "alpaca_eval2_gpt4turbo": ("minilm", 0.5),
    "helpsteer": (None, 2.0),
    "ultrafeedback": (None, 6.5),
    "pku_saferlhf": (None, 1.5),
}
SMALL = tuple(DATA)[:3]
#: Of `simulate_feedback`: alpha is its `rating_decay`.
MECHANISMS = {
    "covariate": {"propensity": "covariate"},
    "rating": {"propensity": "rating", "rating_decay": 0.2, "rate": 0.2},
    "rating-mild": {"propensity": "rating", "rating_decay": 0.5, "rate": 0.5},
}
METRICS = ("r2", "rmse", "nll", "auroc", "calibration_error", "mae")
N_LABELS = 100

# What a method is given beside the actions of one signal and the prompts.
CONSTANT, ONE, ESTIMATED = "constant", "nothing", "nothing (prior estimated)"
PRIOR, LABELS, PROPENSITY = "preference rate", f"{N_LABELS} labels", "propensities"
TWO, ALL = "a second signal", "all labels"
TIERS = (CONSTANT, ONE, ESTIMATED, PRIOR, LABELS, PROPENSITY, TWO, ALL)
NO_MORE = (ONE, ESTIMATED)


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    name: str
    tier: str
    objective: object = "stratified"
    params: dict = field(default_factory=dict)


def methods(mechanism="covariate"):
    """Return all rows of the table.

    Where the propensity depends on the rating, knowing it would be knowing the preference: that
    tier is left out.
    """
    rows = [Method("base rate", CONSTANT), Method("all ones", CONSTANT)]
    needs_prior = [name for name, cls in OBJECTIVES.items() if cls.needs_preference_rate]
    weighted = [name for name in OBJECTIVES if "propensity" in OBJECTIVES[name].uses]
    rows += [Method(name, ONE, name) for name in ONE_SIGNAL if name not in needs_prior]
    rows += [Method(name, ONE) for name, (_, prior) in PEERS.items() if not prior]
    for tier in (ESTIMATED, PRIOR):
        rows += [Method(name, tier, name) for name in needs_prior]
        rows += [Method(name, tier) for name, (_, prior) in PEERS.items() if prior]
    rows += [Method("stratified", PRIOR), Method("stratified", LABELS)]
    if mechanism == "covariate":
        rows += [Method(name, PROPENSITY, name) for name in weighted]
    rows += [Method(name, TWO, name) for name in ("naive", "root-naive", "stratified")]
    return [*rows, Method("naive", ALL, "naive")]


@lru_cache(maxsize=2)
def rated(name, data_home):
    """Return features, truth, rating, prompts and split of a data set."""
    encoder, threshold = DATA[name]
    data = load_rated_responses(name, data_home, encoder=encoder)
    return data.X, (data.rating > threshold).astype(int), data.rating, data.groups, data.is_test


@dataclass
class Problem:
    """A data set with the simulated log of one seed."""

    name: str
    mechanism: object
    seed: int
    data_home: str = None

    def __post_init__(self):
        self.X, self.truth, rating, self.groups, self.is_test = rated(self.name, self.data_home)
        settings = self.mechanism
        if isinstance(settings, str):
            settings = MECHANISMS[settings]
        log = simulate_feedback(
            self.truth, X=self.X, rating=rating, n_signals=2, random_state=self.seed, **settings
        )
        self.train = ~self.is_test
        self.actions, self.propensity = log.actions[self.train], log.propensity[self.train]
        self.labels = self.truth[self.train]
        self.prior = float(self.labels.mean())
        # Propensities of 0 are those of rows that could not draw an action.
        self.propensity = np.maximum(self.propensity, 1e-3)

    def some_labels(self):
        """Return the labels of a few random training rows, NaN elsewhere."""
        chosen = np.random.default_rng([self.seed, 2]).permutation(len(self.labels))[:N_LABELS]
        labels = np.full(len(self.labels), np.nan)
        labels[chosen] = self.labels[chosen]
        return labels

    def fit(self, objective="stratified", actions=None, params=None, **fit_params):
        """Return an estimator fitted on the training rows, without its usual warnings."""
        actions = self.actions[:, 0] if actions is None else actions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ImplicitRewardEstimator(objective, random_state=self.seed, **(params or {})).fit(
                self.X[self.train], actions, groups=self.groups[self.train], **fit_params
            )

    def fit_method(self, method, setting, objective=None):
        """Return the fitted estimator of a method that is no constant and no peer."""
        params = {**method.params, **setting}
        fit = partial(self.fit, objective or method.objective)
        if OBJECTIVES.get(method.objective, Stratified).needs_preference_rate:
            params["preference_rate"] = self.prior
            if method.tier == ESTIMATED:
                params["preference_rate"] = self.estimated_prior(setting)
        if method.tier == PRIOR:
            params["preference_rate"] = self.prior
        if method.tier == LABELS:
            return fit(params=params, labels=self.some_labels())
        if method.tier == PROPENSITY:
            return fit(params=params, propensity=self.propensity[:, 0])
        if method.tier == TWO:
            return fit(params=params, actions=self.actions)
        if method.tier == ALL:
            return fit(params=params, actions=self.labels)
        return fit(params=params)

    def estimated_prior(self, setting):
        """Return the mean reward that Elkan and Noto's method finds, from the actions alone."""
        return elkan_noto_prior(
            self.name, self.mechanism, self.seed, self.data_home, json.dumps(setting)
        )

    def metrics(self, reward):
        """Return the metrics of rewards of the test rows."""
        found = reward_metrics(self.truth[self.is_test], reward)
        return {name: found[name] for name in METRICS}

    def test_metrics(self, estimator):
        """Return the metrics of an estimator on the test rows."""
        return self.metrics(estimator.predict(self.X[self.is_test]))


@lru_cache(maxsize=8)
def elkan_noto_prior(name, mechanism, seed, data_home, setting):
    problem = Problem(name, mechanism, seed, data_home)
    estimator = problem.fit("elkan-noto", params=json.loads(setting))
    reward = estimator.predict(problem.X[problem.train])
    return float(np.clip(reward.mean(), 0.01, 0.99))


def candidate_settings(budget):
    """Return the defaults and budget - 1 random settings, the same for every method."""
    rng = np.random.default_rng(0)
    settings = [{}]
    while len(settings) < budget:
        width = (16, 64, 256)[rng.integers(3)]
        settings.append(
            {
                "learning_rate_init": float(10 ** rng.uniform(-4, -2.5)),
                "weight_decay": (0.01, 0.1, 1.0, 10.0)[rng.integers(4)],
                "dropout": (0.0, 0.2, 0.5)[rng.integers(3)],
                "hidden_layer_sizes": [width],
            }
        )
    return settings


def own_criterion(estimator):
    """Return the held-out criterion that early stopping kept, mean over the members."""
    losses = np.array([epoch["valid_loss"] for epoch in estimator.history_])
    return float(np.nanmin(losses, axis=0).mean())


def table_cell(cell, data_home):
    """Return the metrics of one method on one log."""
    problem = Problem(cell["data"], cell["mechanism"], cell["seed"], data_home)
    method = {(row.name, row.tier): row for row in methods()}[cell["method"], cell["tier"]]
    n_test = int(problem.is_test.sum())
    if method.tier == CONSTANT:
        level = problem.prior if method.name == "base rate" else 1.0
        return problem.metrics(np.full(n_test, level))
    if method.name in PEERS:
        return peer_metrics(problem, method)
    best = None
    for setting in candidate_settings(cell["x"]):
        estimator = problem.fit_method(method, setting)
        criterion = own_criterion(estimator)
        if best is None or criterion < best[0]:
            best = criterion, estimator, setting
    _, estimator, setting = best
    return problem.test_metrics(estimator) | {
        "epochs": estimator.n_iter_,
        "setting": json.dumps(setting),
    }


def peer_metrics(problem, method):
    train = problem.X[problem.train]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    X = (problem.X - mean) / np.where(scale > 0, scale, 1)
    prior = problem.prior
    if method.tier == ESTIMATED:
        prior = problem.estimated_prior({})
    reward = run_peer(
        method.name,
        X[problem.train],
        problem.actions[:, 0],
        X[problem.is_test],
        prior,
        problem.seed,
    )
    return problem.metrics(reward)


# Figures 2 and 3


RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
BATCHES = (64, 256, 1024)
ALPHAS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
FIGURE_METHODS = {
    "naive": (ONE, "naive"),
    "root-naive": (ONE, "root-naive"),
    "recrec-f": (ONE, "recrec-f"),
    "nnpu, preference rate": (PRIOR, "nnpu"),
    "stratified": (ONE, "stratified"),
    "stratified, two signals": (TWO, "stratified"),
    "all labels": (ALL, "naive"),
}


def figure_cell(cell, data_home):
    """Return the metrics of one method at one value of a setting or of the log."""
    setting, mechanism = {}, cell["mechanism"]
    if cell["part"] == "alpha":
        mechanism = {"propensity": "constant", "rate": cell["x"]}
    elif cell["sweep"] == "learning_rate_init":
        # The smallest would take thousands of epochs; the paper's budget was 200.
        setting = {"learning_rate_init": cell["x"], "max_epochs": 200}
    else:
        setting = {"batch_size": int(cell["x"])}
    problem = Problem(cell["data"], mechanism, cell["seed"], data_home)
    tier, objective = FIGURE_METHODS[cell["method"]]
    estimator = problem.fit_method(Method(cell["method"], tier, objective), setting)
    return problem.test_metrics(estimator) | {"epochs": estimator.n_iter_}


# Ablations


class _Ablation(Stratified):
    """E_pref + E_prop with the posteriors that `targets` returns."""

    single_signal = True
    uses = frozenset()

    def targets(self, batch, groups):
        raise NotImplementedError

    def loss(self, reward_logit, propensity_logit, batch):
        with torch.no_grad():
            groups = Measurement.of_actions(1).posterior(
                reward_logit, propensity_logit, batch.actions
            )
            preference, activity = self.targets(batch, groups)
        e_pref = cross_entropy(reward_logit, preference)
        if activity is None:
            return e_pref
        return e_pref + cross_entropy(propensity_logit[..., 0], activity)


class WithoutPropensityRisk(_Ablation):
    """E_pref alone: the propensity stays what it is at the start."""

    def targets(self, batch, groups):
        return groups[..., 0] + groups[..., 2], None


class WithoutStratification(_Ablation):
    """No action is taken for a dislike and for inactivity."""

    def targets(self, batch, groups):
        return batch.acted, batch.acted


class PrintedEquation(_Ablation):
    """NA and PP exchanged, as the paper's Eq. 6 is printed."""

    def targets(self, batch, groups):
        return groups[..., 0] + groups[..., 1], groups[..., 0] + groups[..., 2]


ABLATIONS = {
    "stratified": "stratified",
    "without E_prop": WithoutPropensityRisk(),
    "without stratification": WithoutStratification(),
    "printed Eq. 6 (NA and PP exchanged)": PrintedEquation(),
}


def ablation_cell(cell, data_home):
    problem = Problem(cell["data"], cell["mechanism"], cell["seed"], data_home)
    estimator = problem.fit(ABLATIONS[cell["method"]])
    return problem.test_metrics(estimator) | {"epochs": estimator.n_iter_}


# The leak


def stopped_by_truth(objective, truth):
    """Return the objective with early stopping on the true preference, as the repository does."""
    cls = OBJECTIVES[objective]
    where = "target" if objective == "counterif" else "stratum"

    class Leaky(cls):
        # A field of the batch that this objective does not use carries the truth.
        single_signal = True

        def prepare(self, log):
            fields = super().prepare(log)
            return fields | {where: truth.astype(float)}

        def validation_loss(self, reward_logit, propensity_logit, batch):
            n = reward_logit.shape[-1] // (2 if self.pairs else 1)
            return cross_entropy(reward_logit[:, :n], getattr(batch, where)[:n])

    return Leaky()


def leak_cell(cell, data_home):
    """Return the metrics of the honest and of the leaky choice among the same settings."""
    problem = Problem(cell["data"], cell["mechanism"], cell["seed"], data_home)
    method = Method(cell["method"], ONE, cell["method"])
    if OBJECTIVES[method.objective].needs_preference_rate:
        method = Method(cell["method"], PRIOR, cell["method"])
    rows = []
    for setting in candidate_settings(cell["x"]):
        honest = problem.fit_method(method, setting)
        leaky = problem.fit_method(
            method, setting, stopped_by_truth(method.objective, problem.labels)
        )
        rows.append((own_criterion(honest), problem.test_metrics(honest), leaky, setting))
    honest = min(rows, key=lambda row: row[0])[1]
    leaky = max(problem.test_metrics(row[2])["r2"] for row in rows)
    test_chosen = max(row[1]["r2"] for row in rows)
    return honest | {"leaky_r2": leaky, "test_chosen_r2": test_chosen}


# Cells: what there is to run


def cells(args):
    """Yield the cells of the parts asked for."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)

    def logs(data, mechanisms):
        for seed in seeds:
            for name in data:
                for mechanism in mechanisms:
                    yield {"data": name, "mechanism": mechanism, "seed": seed}

    for part in args.part:
        if part in ("table", "scale"):
            data = args.data if part == "table" else ["alpaca_eval2_gpt4turbo"]
            for log in logs(data, args.mechanisms):
                for method in methods(log["mechanism"]):
                    row = {"part": part, "method": method.name, "tier": method.tier}
                    if not args.methods or method.name in args.methods:
                        yield row | log | {"x": args.budget}
        elif part == "rate":
            for log in logs(args.data[:1], args.mechanisms[:1]):
                for sweep, values in (("learning_rate_init", RATES), ("batch_size", BATCHES)):
                    for x in values:
                        for method in args.methods or FIGURE_METHODS:
                            yield log | {"part": part, "method": method, "sweep": sweep, "x": x}
        elif part == "alpha":
            for log in logs(args.data[:1], ["constant"]):
                for x in ALPHAS:
                    for method in FIGURE_METHODS:
                        yield log | {"part": part, "method": method, "x": x}
        elif part == "ablation":
            for log in logs(args.data, args.mechanisms):
                for method in ABLATIONS:
                    yield log | {"part": part, "method": method}
        elif part == "leak":
            for log in logs(args.data[:1], args.mechanisms[:1]):
                for method in args.methods or ONE_SIGNAL:
                    yield log | {"part": part, "method": method, "x": max(args.budget, 4)}


RUN = {
    "table": table_cell,
    "scale": table_cell,
    "rate": figure_cell,
    "alpha": figure_cell,
    "ablation": ablation_cell,
    "leak": leak_cell,
}


def run_cell(cell, data_home):
    """Return a cell with its result and the CPU seconds that it took."""
    torch.set_num_threads(1)
    start = time.process_time()
    result = RUN[cell["part"]](cell, data_home)
    return cell | result | {"cpu_seconds": time.process_time() - start}


def key(cell):
    return json.dumps(
        {name: cell.get(name) for name in ("part", "data", "mechanism", "method", "tier", "seed")}
        | {"x": cell.get("x"), "sweep": cell.get("sweep")}
    )


def read_results(path):
    """Return the finished cells of a file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def run_all(todo, path, jobs, data_home):
    """Run the cells that are not done, appending each to the file."""
    done = {key(cell) for cell in read_results(path)}
    todo = [cell for cell in todo if key(cell) not in done]
    print(f"{len(todo)} cells to run, {len(done)} done before, in {path}", file=sys.stderr)
    start, n_done = time.perf_counter(), 0
    running = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(run_cell)(cell, data_home) for cell in todo
    )
    with path.open("a") as file:
        for result in running:
            file.write(json.dumps(result) + "\n")
            file.flush()
            n_done += 1
            elapsed = time.perf_counter() - start
            left = elapsed / n_done * (len(todo) - n_done)
            print(
                f"[{n_done}/{len(todo)}, {left / 60:.0f} min left] {result['part']} "
                f"{result['data']} {result['mechanism']} seed {result['seed']} {result['method']} "
                f"({result.get('tier') or result.get('x') or ''}): R2 {result['r2']:.3f}, "
                f"{result['cpu_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )


# Reports


def mean_and_error(values):
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return f"{values.mean():.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def markdown(rows, columns):
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def report_table(frame):
    """Print one table for each data set and mechanism, and the comparisons."""
    order = {(row.name, row.tier): position for position, row in enumerate(methods())}
    # An interrupted run must not compare methods on different seeds.
    size = frame.groupby(["data", "mechanism", "seed"]).method.transform("size")
    complete = size == frame.groupby(["data", "mechanism"]).method.transform(
        lambda rows: frame.loc[rows.index].groupby("seed").size().max()
    )
    if not complete.all():
        print(f"{(~complete).sum()} cells of unfinished logs are left out.\n")
        frame = frame[complete]
    for (data, mechanism), log in frame.groupby(["data", "mechanism"], sort=False):
        print(f"### {data}, {mechanism}, {log.seed.nunique()} seeds\n")
        rows = []
        grouped = dict(list(log.groupby(["method", "tier"])))
        for name in sorted(grouped, key=order.get):
            cell = grouped[name]
            rows.append(
                [
                    *name,
                    mean_and_error(cell.r2),
                    *(f"{cell[metric].mean():.3f}" for metric in METRICS[1:]),
                    f"{cell.cpu_seconds.mean():.1f}",
                ]
            )
        markdown(
            rows, ["method", "given", "R2", "RMSE", "NLL", "AUROC", "ECE", "MAE", "CPU seconds"]
        )
    summary(frame, order)
    # With `--methods`, what a comparison is with may be missing.
    names = set(zip(frame.method, frame.tier, strict=True))
    ours = {("stratified", ONE), ("stratified", TWO)}
    if names >= ours | {("root-naive", ONE), ("base rate", CONSTANT)}:
        compare(frame)
    if names >= {("all ones", CONSTANT), ("naive", ALL)}:
        lowest_mae(frame)


def summary(frame, order):
    """Print R2 of every method on every log."""
    print("### R2 of every method on every log\n")
    logs = list(frame.groupby(["data", "mechanism"], sort=False))
    rows = []
    for name in sorted(frame.groupby(["method", "tier"]).groups, key=order.get):
        cells = [by_seed(log, *name) for _, log in logs]
        rows.append([*name, *(mean_and_error(cell) if len(cell) else "" for cell in cells)])
    logs = [f"{data}, {mechanism} ({log.seed.nunique()} seeds)" for (data, mechanism), log in logs]
    markdown(rows, ["method", "given", *logs])


def by_seed(log, method, tier):
    rows = log[(log.method == method) & (log.tier == tier)]
    return rows.set_index("seed").r2.sort_index()


def difference(first, second):
    """Format the mean difference over the seeds and its standard error; return both."""
    gap = (first - second).dropna()
    return gap.mean(), gap.std(ddof=1) / np.sqrt(len(gap))


def compare(frame):
    """Print the default against the best with no more information, and two signals against all."""
    print("### The default against the best method that has no more information\n")
    one, two = [], []
    for (data, mechanism), log in frame.groupby(["data", "mechanism"], sort=False):
        ours = by_seed(log, "stratified", ONE)
        means = log[log.tier.isin(NO_MORE)].groupby(["method", "tier"]).r2.mean()
        best = means.idxmax()
        gap, error = difference(by_seed(log, *best), ours)
        rank = int((means > ours.mean()).sum()) + 1
        root = difference(ours, by_seed(log, "root-naive", ONE))
        constant = by_seed(log, "base rate", CONSTANT).mean()
        auroc = log[log.tier.isin(NO_MORE)].groupby(["method", "tier"]).auroc.mean()
        verdict = "yes" if gap <= error or best[0] == "stratified" else "no"
        one.append(
            [
                data,
                mechanism,
                mean_and_error(ours),
                f"{best[0]}: {means.max():.3f}",
                f"{gap:.3f} ± {error:.3f}",
                verdict,
                f"{rank} of {len(means)}",
                f"{root[0]:+.3f} ± {root[1]:.3f}",
                f"{auroc['stratified', ONE]:.3f}, {auroc[best]:.3f}",
                f"{constant:.3f}",
            ]
        )
        both = by_seed(log, "stratified", TWO)
        single = log[log.tier.isin((*NO_MORE, PRIOR, LABELS, PROPENSITY))]
        level = single.groupby(["method", "tier"]).r2.mean()
        plain = level[[tier in NO_MORE for _, tier in level.index]]
        two.append(
            [
                data,
                mechanism,
                mean_and_error(both),
                f"{plain.idxmax()[0]}: {plain.max():.3f}",
                "yes" if both.mean() > plain.max() else "no",
                f"{level.idxmax()[0]} with {level.idxmax()[1]}: {level.max():.3f}",
                "yes" if both.mean() > level.max() else "no",
            ]
        )
    markdown(
        one,
        [
            "data",
            "mechanism",
            "stratified",
            "best",
            "best − stratified, by seed",
            "within one standard error",
            "rank",
            "stratified − root-naive",
            "AUROC of the two",
            "base rate",
        ],
    )
    print("### Two signals against every single-signal method\n")
    markdown(
        two,
        [
            "data",
            "mechanism",
            "stratified, two signals",
            "best of one signal",
            "beaten",
            "best of one signal and more information",
            "beaten",
        ],
    )


def lowest_mae(frame):
    """Print what MAE rewards."""
    print("### MAE rewards overconfidence\n")
    rows = []
    for (data, mechanism), log in frame.groupby(["data", "mechanism"], sort=False):
        means = log.groupby(["method", "tier"])[["mae", "r2", "nll"]].mean()
        ones, all_labels = means.loc["all ones", CONSTANT], means.loc["naive", ALL]
        below = means[means.mae < all_labels.mae]
        worst = below.r2.idxmin() if len(below) else None
        rows.append(
            [
                data,
                mechanism,
                f"{ones.mae:.3f}",
                f"{all_labels.mae:.3f}",
                len(below),
                "" if worst is None else f"{worst[0]} ({worst[1]}): R2 {below.r2.min():.3f}",
            ]
        )
    markdown(
        rows,
        [
            "data",
            "mechanism",
            "MAE of all ones",
            "MAE of all true labels",
            "methods with a lower MAE than all labels",
            "the worst of these by R2",
        ],
    )


def report_sweep(frame, sweep):
    markdown(
        [
            [method, *(mean_and_error(rows[rows.x == x].r2) for x in sorted(frame.x.unique()))]
            for method, rows in frame.groupby("method", sort=False)
        ],
        [sweep, *(f"{x:g}" for x in sorted(frame.x.unique()))],
    )


def report_ablation(frame):
    columns = list(frame[["data", "mechanism"]].drop_duplicates().itertuples(index=False))
    markdown(
        [
            [
                method,
                *(
                    mean_and_error(rows[(rows.data == d) & (rows.mechanism == m)].r2)
                    for d, m in columns
                ),
            ]
            for method, rows in frame.groupby("method", sort=False)
        ],
        ["R2", *(f"{d}, {m}" for d, m in columns)],
    )


def report_leak(frame):
    rows = []
    for method, cell in frame.groupby("method", sort=False):
        leak = cell.leaky_r2 - cell.r2
        rows.append(
            [method, *map(mean_and_error, (cell.r2, cell.test_chosen_r2, cell.leaky_r2, leak))]
        )
    markdown(
        rows,
        ["method", "honest R2", "settings by test R2", "and stopped by true labels", "leak"],
    )


def report(frame, images):
    """Print the Markdown of every part in the frame, and draw the figures."""
    for part, rows in frame.groupby("part", sort=False):
        if part in ("rate", "alpha"):  # cells are there in the order in which they were done
            rows = rows.assign(method=pd.Categorical(rows.method, [*FIGURE_METHODS]))
            rows = rows.sort_values("method", kind="stable").astype({"method": str})
        print(f"## {part}\n")
        if part in ("table", "scale"):
            report_table(rows)
        elif part == "rate":
            for sweep, half in rows.groupby("sweep", sort=False):
                report_sweep(half, sweep)
        elif part == "alpha":
            report_sweep(rows, "alpha")
        elif part == "ablation":
            report_ablation(rows)
        elif part == "leak":
            report_leak(rows)
        if images is not None and part in ("rate", "alpha"):
            draw(part, rows, images)


def draw(part, frame, images):
    """Save the figure of a sweep."""
    import matplotlib.pyplot as plt

    halves = [("alpha", frame)] if part == "alpha" else list(frame.groupby("sweep", sort=False))
    figure, axes = plt.subplots(
        1, len(halves), figsize=(5.5 * len(halves), 4), layout="constrained", squeeze=False
    )
    labels = {
        "alpha": "share of preferred responses that draw an action",
        "learning_rate_init": "step size",
        "batch_size": "batch size",
    }
    for axis, (sweep, rows) in zip(axes[0], halves, strict=True):
        for method, curve in rows.groupby("method", sort=False):
            stats = curve.groupby("x").r2.agg(["mean", "sem"])
            look = style([*FIGURE_METHODS].index(method))
            axis.errorbar(stats.index, stats["mean"], stats["sem"], label=method, **look)
        axis.set_xlabel(labels[sweep])
        axis.set_ylabel("R2 against true preference")
        axis.axhline(0, color="grey", lw=0.8)
        axis.set_ylim(bottom=max(axis.get_ylim()[0], -1))
        if sweep != "alpha":
            axis.set_xscale("log")
    handles, names = axes[0][-1].get_legend_handles_labels()
    ncols = 2 * len(halves)
    figure.legend(handles, names, loc="outside lower center", ncols=ncols, frameon=False)
    Path(images).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(images) / f"reward_modeling_{part}.png", dpi=90)


# Cost


def report_cost(args):
    """Print the time per epoch of every objective against stratified, in turns in one run."""
    torch.set_num_threads(1)
    problem = Problem(args.data[0], args.mechanisms[0], args.first_seed, args.data_home)
    epochs = 20
    params = {"early_stopping": False, "max_epochs": epochs}

    def seconds(name):
        rate = {"preference_rate": problem.prior}
        needs = OBJECTIVES[name].needs_preference_rate
        # By difference: set-up and a support vector machine are no epoch. A preceding naive fit
        # has as many epochs and is counted with them.
        once = {}
        for n in (1, epochs + 1):
            start = time.process_time()
            problem.fit(name, params=params | {"max_epochs": n} | (rate if needs else {}))
            once[n] = time.process_time() - start
        return (once[epochs + 1] - once[1]) / epochs, once[epochs + 1]

    turns = {name: [] for name in ONE_SIGNAL}
    for _ in range(args.repeats):
        for name in ONE_SIGNAL:
            baseline, _ = seconds("stratified")
            own, _ = seconds(name)
            turns[name].append((own / baseline, own))
    print(f"{problem.train.sum()} x {problem.X.shape[1]}, 4 members, one thread, CPU time\n")
    markdown(
        [
            [
                name,
                f"{1e3 * np.median([own for _, own in runs]):.1f}",
                f"{np.median([ratio for ratio, _ in runs]):.2f}",
                "3" if OBJECTIVES[name].pairs else "1.5",
            ]
            for name, runs in turns.items()
        ],
        ["objective", "ms per epoch", "against stratified", "bound"],
    )


# Whole fits

#: Wall seconds of the public repository on 1,900 x 384 rows,
#: two CPU cores: measured once, elsewhere and not in the run that prints them.
REPOSITORY_SECONDS = {"naive": 27, "recrec-f": 97, "counterif": 255}


def report_time(args):
    """Print the wall time of default fits on 1,900 x 384 rows."""
    data = load_rated_responses("beavertails_test", args.data_home, encoder="minilm")
    truth = (data.rating > DATA["beavertails_test"][1]).astype(int)
    rows = np.random.default_rng(args.first_seed).permutation(np.flatnonzero(~data.is_test))[:1900]
    log = simulate_feedback(truth, X=data.X, rating=data.rating, random_state=args.first_seed)
    X, y, groups = data.X[rows], log.actions[rows], data.groups[rows]
    print(f"{len(X)} x {X.shape[1]}, defaults (4 members), {torch.get_num_threads()} threads\n")
    warnings.filterwarnings("ignore", category=IdentificationWarning)  # one signal, as there
    table = []
    for name, reference in REPOSITORY_SECONDS.items():
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            ImplicitRewardEstimator(name, random_state=args.first_seed).fit(X, y, groups=groups)
            times.append(time.perf_counter() - start)
        own = np.median(times)
        table.append([name, f"{own:.2f}", reference, f"{reference / own:.0f}"])
    markdown(table, ["objective", "seconds", "public repository, seconds", "times faster"])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--part", nargs="+", default=["table"], choices=[*RUN, "cost", "time"])
    parser.add_argument("--data", nargs="+", default=list(SMALL), choices=DATA)
    parser.add_argument(
        "--mechanisms", nargs="+", default=["covariate", "rating"], choices=MECHANISMS
    )
    parser.add_argument("--methods", nargs="+", help="names of rows; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--budget", type=int, default=1, help="settings tried per method; 1 is the defaults"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns of the parts cost and time")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder of the results"
    )
    parser.add_argument("--images", type=Path, help="folder to draw the figures into")
    parser.add_argument("--report", action="store_true", help="print what is there, run nothing")
    args = parser.parse_args(argv)
    for part, report_part in (("cost", report_cost), ("time", report_time)):
        if part in args.part:
            report_part(args)
            args.part.remove(part)
    if not args.part:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "cells.jsonl"
    todo = list(cells(args))
    start = time.perf_counter()
    if not args.report:
        run_all(todo, path, args.jobs, args.data_home)
    wanted = {key(cell) for cell in todo}
    found = [cell for cell in read_results(path) if key(cell) in wanted]
    frame = pd.DataFrame(sorted(found, key=lambda cell: list(DATA).index(cell["data"])))
    if frame.empty:
        parser.error(f"{path} holds none of these cells: run without --report")
    frame.to_parquet(args.out / f"reward_modeling_{'_'.join(args.part)}.parquet")
    report(frame, args.images)
    print(
        f"{len(frame)} of {len(todo)} cells, {frame.cpu_seconds.sum() / 60:.1f} CPU minutes in "
        f"all, {(time.perf_counter() - start) / 60:.1f} minutes for this run"
    )


if __name__ == "__main__":
    # By its own name, which worker processes can import.
    from benchmarks.reward_modeling import main as run

    run()
