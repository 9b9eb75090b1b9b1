"""Ways to pass real logs, judged by real truth.

    python -m benchmarks.real_feedback --data-home DIR --output FILE.parquet [--logs oasst1 ...]

Logs: those of `load_feedback_log` but ifllm, whose actions say nothing of its truth. Two questions:

- "predict": how good is an unseen response, from X alone;
- "posterior": how good is this response, given what users did with it.

Fitted on four folds and scored on the fifth. wikimedia_mvp has 50 responses: all are fitted and
scored, the posterior only. Truth enters the scores, and the rows that name it: "all true labels",
and those with a number of labels. The recommended way, the same with beta-binomial counts, one
action alone, baselines and labels as a calibration or in a regression are scored on five folds, the
other ways and objectives on fold 0.
Labels in the likelihood take a fit of their own for each number: on five folds for logs of less
than 2,000 rows, on fold 0 for kuairand and coat. This was settled by the time that cells take,
before any such cell was scored.

Each cell is appended to FILE.jsonl as it is done, and a second run goes on from there. The table
has one row per log, way, question and fold; a way that `fit` refuses has no scores and the verdict
"refused".

Labels that also weigh X against the actions were added after the other rows had been scored. This
was settled on labels of folds 1 to 4 of three logs, with the fit that leaves out fold 0.

The recommended way of each log follows from its structure and was written down before any fold was
scored (`RECOMMENDED`):

- thumbs are counted and viewers are not known: up among up and down as exposures, since who does
  not react is not in the log; the rates are estimated;
- both polarities are counted over known exposures: both signals, over all exposures, with rates;
- single views with several positive actions: all of them, with rates, attention not stated;
- one widget per row: a `Choice`.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.peers import run_peer
from benchmarks.reward_modeling import markdown, mean_and_error, read_results
from implicitrm_sk import ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import load_feedback_log
from implicitrm_sk.inspection import user_taste
from implicitrm_sk.metrics import reward_metrics
from implicitrm_sk.objectives import OBJECTIVES
from implicitrm_sk.signals import Action, Choice

LOGS = ("oasst1", "wikimedia_relevance", "wikimedia_mvp", "kuairand", "coat")
RECOMMENDED = {
    "oasst1": "up among thumbs",
    "wikimedia_relevance": "yes and no over exposures",
    "wikimedia_mvp": "yes and no over exposures",
    "kuairand": "six actions, rates estimated",
    "coat": "choice of high, mid, low",
}
#: What was chosen after somebody had seen the truth; it stands in the tables.
AFTER_TRUTH = {
    "oasst1": (
        "the threshold 0.5 of quality. An earlier comparison with the truth had shown that up "
        "among thumbs does well"
    ),
    "wikimedia_relevance": (
        "the published threshold, a relevance above 1 of 3. Users already answer yes at a "
        "relevance little above 0"
    ),
    "wikimedia_mvp": (
        'the threshold at "ok". The same 50 pairs are fitted and scored, and the scores are far '
        "above those of `wikimedia_relevance`"
    ),
    "kuairand": "to leave out the video id, which gives the label away; to let labels weigh X",
    "coat": "nothing",
}
COLUMNS = [
    "log",
    "way",
    "recommended",
    "question",
    "fold",
    "auroc",
    "r2",
    "nll",
    "level_error",
    "calibration_error",
    "verdict",
]
N_LABELS = (50, 100, 200, 400)
#: Labels in the likelihood are scored on fold 0 only: each number of labels is one more fit.
LARGE = ("kuairand", "coat")
REFUSED = "refused"
#: Beside a way: each user has a taste, `inspection.user_taste`.
TASTE = "; taste by user"
#: Rewards are kept this far from 0 and 1 where their logit or likelihood is taken.
EDGE = 1e-6


# What a log is made of


@dataclass
class Log:
    """A log as arrays: what users did in counts, and the rows of a fold."""

    name: str
    X: np.ndarray
    frame: pd.DataFrame
    truth: np.ndarray
    groups: np.ndarray
    user_id: np.ndarray
    fold: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    shown: np.ndarray
    actions: pd.DataFrame
    signals: dict
    exposures: np.ndarray

    def parts(self, fold):
        """Return the rows to fit and the rows to score."""
        known = np.isfinite(self.truth)
        if self.name == "wikimedia_mvp":
            return np.arange(len(self.truth)), np.flatnonzero(known)
        return np.flatnonzero(self.fold != fold), np.flatnonzero((self.fold == fold) & known)


@lru_cache(maxsize=1)
def read_log(name, data_home):
    """Return a log; exposures of one response are counted, where nothing else tells them apart."""
    data = load_feedback_log(name, data_home)
    frame, truth, groups, X = data.frame, data.true_preference, data.groups, data.X
    user_id, fold = data.user_id, data.fold
    if name == "wikimedia_mvp":
        rows = frame.assign(truth=truth, one=1.0).groupby("response_id")
        frame = rows[["yes", "no", "dismiss", "one"]].sum()
        frame.columns = ["n_yes", "n_no", "n_dismiss", "exposures"]
        truth, fold = rows["truth"].first().to_numpy(), rows["fold"].first().to_numpy()
        groups = rows["prompt_id"].first().to_numpy()
        X, user_id = np.ones((len(frame), 1), dtype=np.float32), None
        actions = frame[["n_yes", "n_no"]]
        signals = {"n_yes": "positive", "n_no": "negative"}
        exposures = np.column_stack([frame["exposures"]] * 2)
    else:
        actions, signals, exposures = data.actions, data.signals, data.exposures
    if name.startswith("wikimedia"):
        counted = frame["n_yes"], frame["n_no"], frame["exposures"].fillna(0)
    elif name == "oasst1":
        counted = frame["n_up"], frame["n_down"], frame["n_up"] + frame["n_down"]
    elif name == "kuairand":
        counted = actions.sum(axis=1), np.zeros(len(frame)), np.full(len(frame), 6)
    else:
        counted = frame["high"], frame["low"], np.ones(len(frame))
    counted = [np.asarray(part, dtype=float) for part in counted]
    return Log(name, X, frame, truth, groups, user_id, fold, *counted, actions, signals, exposures)


# Ways to pass a log to the estimator


@dataclass(frozen=True)
class Way:
    """A way to pass a log: y, and what goes with it."""

    name: str
    #: Function of a log that returns y and further arguments of `fit`.
    passed: Callable
    params: dict = field(default_factory=dict)
    objective: str = "stratified"
    #: Whether it breaks the model, as people do who have not read the page on negative actions.
    trap: bool = False
    #: Whether it is scored on all folds.
    every_fold: bool = False


def columns(*names, inverted=(), **exposures):
    """Return a function of a log that gives 0/1 columns, or counts with exposures."""

    def passed(log):
        table = log.frame[[*names, *inverted]].astype(float)
        shown = exposures.get("exposures")
        if shown is None:
            for name in inverted:
                table[name] = 1 - table[name]
            return table, {}
        shown = shown(log)
        for name in inverted:
            table[name] = shown - table[name]
        return table, {"exposures": np.column_stack([shown] * table.shape[1])}

    return passed


def over_exposures(log):
    return log.shown


def among_reactions(log):
    return log.positive + log.negative


def recommended(log):
    return log.actions, {} if log.exposures is None else {"exposures": log.exposures}


def six_of_users(log):
    """Return six actions, with the users who took them; those to be scored are new."""
    return log.frame[list(SIX)].astype(float), {"user_id": log.user_id}


def thumb(log):
    """Return up, down or none; a response with more of one than of the other counts for it."""
    sign = np.sign(log.positive - log.negative)
    return pd.DataFrame({"thumb": np.select([sign > 0, sign < 0], ["up", "down"], "none")}), {}


def thumbs_as_labels(log):
    """Return up, and as labels which thumb prevails."""
    sign = np.sign(log.positive - log.negative)
    labels = np.where(sign == 0, np.nan, (sign > 0).astype(float))
    # An up proves preference while no rate is given.
    labels = np.where(log.positive > 0, np.where(labels == 0, np.nan, labels), labels)
    return log.frame[["up"]].astype(float), {"labels": labels}


def ratings_as_labels(log):
    """Return rated as an action, and high or low ratings as its labels."""
    labels = np.select([log.frame["high"] == 1, log.frame["low"] == 1], [1.0, 0.0], np.nan)
    return log.frame[["rated"]].astype(float), {"labels": labels}


def dispersed(name, **target):
    """Return the recommended way of a log, with beta-binomial counts."""
    signals = {column: Action(shows, counts="beta-binomial") for column, shows in target.items()}
    way = f"{RECOMMENDED[name]}, beta-binomial"
    return Way(way, recommended, {"signals": signals}, every_fold=True)


EITHER = {"up": "positive", "down": "negative"}
THUMB = {"thumb": Choice({"up": 1, "down": 0}, silent="none")}
REACTED = {"thumb": Choice({"up": 1, "down": 0}, silent="none", given_reaction=True)}
LOOKED = {"shared_examination": False}
ESTIMATE = {"false_action_rate": "estimate"}
ZERO = {"false_action_rate": 0.0}
SIX = ("click", "long_view", "profile_enter", "comment", "follow", "forward")


def ways(name):
    """Return the ways of a log: the recommended one, one action alone, and others."""
    if name == "oasst1":
        found = [
            Way("up", columns("up"), every_fold=True),
            dispersed(name, n_up=1),
            Way("up and down", columns("up", "down"), {"signals": EITHER}),
            Way("choice of up, down", thumb, {"signals": THUMB}),
            Way("choice of up, down, given a reaction", thumb, {"signals": REACTED}),
            Way("up and inverted down", columns("up", inverted=["down"]), LOOKED, trap=True),
            Way(
                "up and inverted down, flag, skip",
                columns("up", inverted=["down", "flag", "skip_reply"]),
                LOOKED,
                trap=True,
            ),
            Way("up, thumbs as labels", thumbs_as_labels, trap=True),
            Way(
                "up and down among thumbs",
                columns("n_up", "n_down", exposures=among_reactions),
                {"signals": {"n_up": "positive", "n_down": "negative"}},
            ),
        ]
    elif name.startswith("wikimedia"):
        both = {"signals": {"n_yes": "positive", "n_no": "negative"}}
        yes = columns("n_yes", exposures=over_exposures)
        inverted = columns("n_yes", inverted=["n_no"], exposures=over_exposures)
        found = [
            Way("yes over exposures", yes, every_fold=True),
            dispersed(name, n_yes=1, n_no=0),
            Way("yes among answers", columns("n_yes", exposures=among_reactions)),
            Way("yes over exposures, e = 0", yes, ZERO, trap=True),
            Way("yes and inverted no, e = 0", inverted, ZERO, trap=True),
            Way("yes and inverted no", inverted, trap=True),
            Way(
                "yes and no over exposures, e = 0",
                columns("n_yes", "n_no", exposures=over_exposures),
                both | ZERO,
                trap=True,
            ),
        ]
    elif name == "kuairand":
        found = [
            Way("click", columns("click"), every_fold=True),
            Way("click and long_view", columns("click", "long_view")),
            Way("click and long_view, looked at", columns("click", "long_view"), LOOKED, trap=True),
            Way("six actions, e = 0", columns(*SIX)),
            Way("six actions, e = 0, looked at", columns(*SIX), LOOKED, trap=True),
            Way(
                "six actions, rates estimated, looked at",
                columns(*SIX),
                LOOKED | ESTIMATE,
                trap=True,
            ),
            Way("six actions, e = 0, users", six_of_users),
            Way("six actions, e = 0, users, looked at", six_of_users, LOOKED, trap=True),
        ]
    else:
        found = [
            Way("high", columns("high"), every_fold=True),
            Way(
                "high and low",
                columns("high", "low"),
                {"signals": {"high": "positive", "low": "negative"}},
            ),
            Way("high and inverted low", columns("high", inverted=["low"]), LOOKED, trap=True),
            Way("rated and high", columns("rated", "high"), LOOKED, trap=True),
            Way("rated, ratings as labels", ratings_as_labels, trap=True),
        ]
    params = ESTIMATE if name == "kuairand" else {}
    return [Way(RECOMMENDED[name], recommended, params, every_fold=True), *found]


def objectives(name):
    """Return the other objectives on the log's own positive action, and on both polarities."""
    if name == "wikimedia_mvp":
        return []  # one constant column
    passed = {
        "oasst1": columns("up"),
        "wikimedia_relevance": columns("n_yes", exposures=over_exposures),
        "kuairand": columns("click"),
        "coat": columns("high"),
    }[name]
    found = []
    for objective, cls in OBJECTIVES.items():
        if objective == "stratified" or cls.needs_preference_rate:
            continue  # no log tells the rate
        if cls.needs_both_polarities:
            if name == "oasst1":
                both = columns("up", "down")
                found.append(
                    Way(
                        "up-down", both, {"signals": EITHER} | {"false_action_rate": 0.1}, objective
                    )
                )
            continue
        found.append(Way(f"{objective}, one action", passed, {}, objective))
    return found


# Fits and scores


def signals_of(log, way):
    return way.params.get("signals", log.signals if way.passed is recommended else None)


def fit_way(log, way, rows, seed, labels=None):
    """Return the fitted estimator of a way, without its usual warnings."""
    y, side = way.passed(log)
    params = {name: value for name, value in way.params.items() if name != "signals"}
    side = {name: value[rows] for name, value in side.items()}
    if labels is not None:
        side["labels"] = labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImplicitRewardEstimator(
            way.objective, signals=signals_of(log, way), random_state=seed, **params
        ).fit(log.X[rows], y.iloc[rows], groups=log.groups[rows], **side)


def rewards(log, way, estimator, rows):
    """Return the reward of rows by question."""
    found = {"predict": estimator.predict(log.X[rows])}
    if estimator.objective_.models_actions and not estimator.objective_.single_signal:
        y, side = way.passed(log)
        side = {name: value[rows] for name, value in side.items() if name != "labels"}
        groups = estimator.predict_proba(log.X[rows], y.iloc[rows], **side).astype(float)
        found["posterior"] = groups[:, 0] + groups[:, 2]
    if log.name == "wikimedia_mvp":
        del found["predict"]
    return found


def scores(truth, reward):
    """Return the scores of rewards."""
    reward = np.clip(np.asarray(reward, dtype=float), 0, 1)
    found = reward_metrics(truth, np.clip(reward, EDGE, 1 - EDGE))
    return {
        "auroc": found["auroc"],
        "r2": found["r2"],
        "nll": found["nll"],
        "level_error": float(reward.mean() - truth.mean()),
        "calibration_error": found["calibration_error"],
    }


def way_cell(log, way, fold):
    """Return the rows of one way: its own, and of the recommended one those with labels."""
    train, test = log.parts(fold)
    try:
        estimator = fit_way(log, way, train, fold)
    except ValueError as error:
        print(f"{log.name}, {way.name}: refused: {error}", file=sys.stderr)
        return [{"way": way.name, "question": "predict", "verdict": REFUSED}]
    verdict = estimator.identification_.level
    found = [
        {"way": way.name, "question": question, "verdict": verdict}
        | scores(log.truth[test], reward)
        for question, reward in rewards(log, way, estimator, test).items()
    ]
    if way.name == RECOMMENDED[log.name]:
        of_rows = [rewards(log, way, estimator, rows) for rows in (train, test)]
        found += calibrated_rows(log, way.name, *of_rows, train, test, fold)
        if log.user_id is not None:
            found += taste_rows(log, way, estimator, *of_rows, train, test, fold)
    return found


def taste_rows(log, way, estimator, of_train, of_test, train, test, fold):
    """Return the rows of the recommended way with a taste for each user, and of labels beside it.

    The posterior of a row then contains all rows of its user, with or without truth. `of_train` and
    `of_test` are the rewards without tastes.
    """
    y, side = way.passed(log)

    def of(rows):
        given = {name: value[rows] for name, value in side.items()}
        users = log.user_id[rows]
        taste = user_taste(estimator, log.X[rows], y.iloc[rows], users, **given)
        return pd.Series(taste.posterior, rows)

    of_test = of_test | {"posterior": of(np.flatnonzero(log.fold == fold))[test].to_numpy()}
    of_train = of_train | {"posterior": of(train).to_numpy()}
    name = way.name + TASTE
    own = {"way": name, "question": "posterior", "verdict": estimator.identification_.level}
    return [
        own | scores(log.truth[test], of_test["posterior"]),
        *calibrated_rows(log, name, of_train, of_test, train, test, fold, ["posterior"]),
    ]


# Labels


def some_labels(log, rows, n, fold):
    """Return positions in `rows` of random ones whose truth is known, None if there are too few."""
    known = np.flatnonzero(np.isfinite(log.truth[rows]))
    if len(known) < n or log.name == "wikimedia_mvp":  # there every label would be scored too
        return None
    return np.random.default_rng([fold, n]).permutation(known)[:n]


def logit(reward):
    reward = np.clip(np.asarray(reward, dtype=float), EDGE, 1 - EDGE)
    return np.log(reward / (1 - reward))[:, None]


def calibrated_rows(log, name, of_train, of_test, train, test, fold, questions=None):
    """Return the rows of a Platt scaling of the rewards, by question, of a fit without labels.

    The posterior is also scaled with a second column, the logit of `predict`: the labels then weigh
    what X says and what users did.
    """
    found = []
    for n in N_LABELS:
        chosen = some_labels(log, train, n, fold)
        if chosen is None:
            continue
        steps = [(question, "calibrate", [question]) for question in questions or of_test]
        if "posterior" in of_test:
            steps.append(("posterior", "calibrate and weigh X", ["posterior", "predict"]))
        for question, how, columns in steps:
            of_label, of_row = (
                np.hstack([logit(reward[column]) for column in columns])
                for reward in (of_train, of_test)
            )
            platt = LogisticRegression().fit(of_label[chosen], log.truth[train[chosen]])
            found.append(
                {"way": f"{name}; {n} labels {how}", "question": question}
                | {"verdict": "calibrated by labels"}
                | scores(log.truth[test], platt.predict_proba(of_row)[:, 1])
            )
    return found


def label_cell(log, n, fold):
    """Return the rows of labels in the likelihood of the recommended way."""
    train, test = log.parts(fold)
    chosen = some_labels(log, train, n, fold)
    if chosen is None:
        return []
    labels = np.full(len(train), np.nan)
    labels[chosen] = log.truth[train[chosen]]
    way = ways(log.name)[0]
    name = f"{way.name}; {n} labels in the likelihood"
    try:
        estimator = fit_way(log, way, train, fold, labels)
    except ValueError as error:
        print(f"{log.name}, {name}: refused: {error}", file=sys.stderr)
        return [{"way": name, "question": "predict", "verdict": REFUSED}]
    return [
        {"way": name, "question": question, "verdict": estimator.identification_.level}
        | scores(log.truth[test], reward)
        for question, reward in rewards(log, way, estimator, test).items()
    ]


def regression(X, y, X_test, weight=None):
    """Return the predictions of a logistic regression on standardised columns."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    fit = {} if weight is None else {"logisticregression__sample_weight": weight}
    return model.fit(X, y, **fit).predict_proba(X_test)[:, 1]


def counts_of(log):
    """Return what users did as columns of a regression."""
    if log.name == "kuairand":
        return log.actions.to_numpy(float)
    if log.name == "coat":
        return log.frame[["high", "mid", "low"]].to_numpy(float)
    reacted = log.positive + log.negative
    share = (log.positive + 0.5) / (reacted + 1)
    return np.column_stack([np.log1p(log.positive), np.log1p(log.negative), share])


def plain_rows(log, fold, n=None):
    """Return the rows of a regression of labels on X, and on X and what users did."""
    train, test = log.parts(fold)
    if log.name == "wikimedia_mvp":
        return []
    known = np.flatnonzero(np.isfinite(log.truth[train]))
    chosen = known if n is None else some_labels(log, train, n, fold)
    if chosen is None:
        return []
    rows = train[chosen]
    name = "all true labels" if n is None else f"{n} labels, logistic regression"
    acted = np.column_stack([log.X, counts_of(log)])
    return [
        {"way": name, "question": question, "verdict": ""}
        | scores(log.truth[test], regression(X[rows], log.truth[rows], X[test]))
        for question, X in (("predict", log.X), ("posterior", acted))
    ]


# What people do otherwise


def wilson(positive, total, z=1.96):
    """Return the lower bound of a share (Wilson 1927)."""
    share = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    centre = share + z**2 / (2 * np.maximum(total, EDGE))
    half = z * np.sqrt(
        share * (1 - share) / np.maximum(total, EDGE) + (z / (2 * np.maximum(total, EDGE))) ** 2
    )
    return np.where(total > 0, (centre - half) / (1 + z**2 / np.maximum(total, EDGE)), 0.0)


def latent_class(log, train, test):
    """Return the posterior of two latent classes with constant rates, by EM; five starts.

    The class with the higher share of positive less negative actions is the preferred one. Counts
    are binomial over exposures; thumbs without known viewers over reactions.
    """
    if log.name == "kuairand":
        counts = log.actions.to_numpy(float)
        shown = np.ones_like(counts)
        sign = np.ones(counts.shape[1])
    else:
        counts = np.column_stack([log.positive, log.negative])
        shown = np.column_stack([log.shown] * 2)
        sign = np.array([1.0, -1.0])
    if log.name == "oasst1":  # up and down add up to the reactions
        counts, shown, sign = counts[:, :1], shown[:, :1], sign[:1]
    # Equal rows are counted once: six actions have few patterns.
    patterns, number = np.unique(
        np.column_stack([counts, shown])[train], axis=0, return_counts=True
    )
    counts_of_train, shown_of_train = np.split(patterns, 2, axis=1)

    def log_joint(counts, shown, prior, rate):
        rate = np.clip(rate, 1e-9, 1 - 1e-9)
        each = counts[:, None] * np.log(rate) + (shown - counts)[:, None] * np.log1p(-rate)
        return each.sum(axis=2) + np.log(np.clip([1 - prior, prior], 1e-9, 1))

    best = None
    for start in range(5):
        rng = np.random.default_rng(start)
        base = number @ counts_of_train / (number @ shown_of_train)
        factor = np.exp(rng.uniform(0.2, 1.5, counts.shape[1]))
        rate = np.clip(np.stack([base / factor**sign, base * factor**sign]), 1e-6, 0.999)
        prior = 0.5
        for _ in range(300):
            joint = log_joint(counts_of_train, shown_of_train, prior, rate)
            total = np.logaddexp(joint[:, 0], joint[:, 1])
            weight = np.exp(joint - total[:, None]) * number[:, None]
            prior = weight[:, 1].sum() / number.sum()
            rate = (weight.T @ counts_of_train) / np.maximum(weight.T @ shown_of_train, EDGE)
        if best is None or number @ total > best[0]:
            best = number @ total, prior, rate
    _, prior, rate = best
    if (rate[0] @ sign) > (rate[1] @ sign):
        prior, rate = 1 - prior, rate[::-1]
    joint = log_joint(counts[test], shown[test], prior, rate)
    return 1 / (1 + np.exp(np.clip(joint[:, 0] - joint[:, 1], -50, 50)))


def baseline_cell(log, fold):
    """Return the rows of what people do without this package."""
    train, test = log.parts(fold)
    reacted = log.positive + log.negative
    share = (log.positive + 0.5) / (reacted + 1)
    rate = np.divide(log.positive, log.shown, out=np.zeros(len(share)), where=log.shown > 0)
    majority = (np.sign(log.positive - log.negative) + 1) / 2
    if log.name == "kuairand":
        majority = (log.positive >= 3).astype(float)
    posterior = {
        "raw rate": rate[test],
        "latent class, EM": latent_class(log, train, test),
        "majority": majority[test],
    }
    if log.negative.any():
        posterior["share of up among up and down"] = share[test]
        posterior["Wilson lower bound"] = wilson(log.positive, reacted)[test]
    predict = {}
    if log.name != "wikimedia_mvp":
        predict = on_features(log, train, test, fold)
    found = [
        {"way": way, "question": question, "verdict": ""} | scores(log.truth[test], reward)
        for question, rows in (("predict", predict), ("posterior", posterior))
        for way, reward in rows.items()
    ]
    for n in (None, *N_LABELS):
        found += plain_rows(log, fold, n)
    return found


def on_features(log, train, test, fold):
    """Return the rewards of classifiers of the actions."""
    X, X_test = log.X[train], log.X[test]
    acted = (log.positive > 0)[train].astype(int)
    found = {}
    if 0 < acted.mean() < 1:
        found["logistic regression on any positive action"] = regression(X, acted, X_test)
        if find_spec("pulearn"):
            scaler = StandardScaler().fit(X)
            found["pulearn ElkanotoPuClassifier"] = run_peer(
                "pulearn ElkanotoPuClassifier",
                scaler.transform(X),
                acted,
                scaler.transform(X_test),
                None,
                fold,
            )
    if not log.negative.any():
        return found
    # One row per thumb: up and down of one response weigh by their numbers.
    twice = np.r_[train, train]
    y = np.repeat([1, 0], len(train))
    weight = np.r_[log.positive[train], log.negative[train]]
    kept = weight > 0
    rows, y, weight = twice[kept], y[kept], weight[kept]
    found["logistic regression on thumbs"] = regression(log.X[rows], y, X_test, weight)
    # KTO weighs desirable and undesirable examples to equal sums.
    sums = np.array([weight[y == 0].sum(), weight[y == 1].sum()])
    balanced = weight * sums.sum() / (2 * sums[y])
    found["KTO-style weighting of thumbs"] = regression(log.X[rows], y, X_test, balanced)
    return found


# Reports


def report_cell(log, way):
    """Return the verdict of the identification report on the rows that fold 0 fits."""
    rows, _ = log.parts(0)
    y, side = way.passed(log)
    params = {name: value for name, value in way.params.items() if name != "signals"}
    side = {name: value[rows] for name, value in side.items()}
    estimator = ImplicitRewardEstimator(signals=signals_of(log, way), random_state=0, **params)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = identification_report(
                estimator, log.X[rows], y.iloc[rows], n_starts=4, groups=log.groups[rows], **side
            )
    except ValueError as error:
        print(f"{log.name}, {way.name}: report refused: {error}", file=sys.stderr)
        return REFUSED
    return report.level


# Cells


def cells(args):
    """Yield the cells to run, what matters most first."""
    folds = {name: [0] if name == "wikimedia_mvp" else range(args.folds) for name in args.logs}
    for name in args.logs:
        for fold in folds[name]:
            yield {"log": name, "kind": "baselines", "way": "", "fold": fold}
            for way in ways(name):
                if way.every_fold:
                    yield {"log": name, "kind": "way", "way": way.name, "fold": fold}
    for name in args.logs:
        for way in ways(name):
            if not way.every_fold:
                yield {"log": name, "kind": "way", "way": way.name, "fold": 0}
    for name in args.logs:
        if name == "wikimedia_mvp":  # every label would be scored too
            continue
        for fold in [0] if name in LARGE else folds[name]:
            for n in N_LABELS:
                yield {"log": name, "kind": "labels", "way": str(n), "fold": fold}
    for name in args.logs:
        for way in objectives(name):
            yield {"log": name, "kind": "way", "way": way.name, "fold": 0}
        for way in ways(name) if args.reports else ():
            yield {"log": name, "kind": "report", "way": way.name, "fold": 0}


def key(cell):
    return tuple(cell[name] for name in ("log", "kind", "way", "fold"))


def run_cell(cell, data_home):
    """Return a cell with its rows and the CPU seconds that it took."""
    torch.set_num_threads(1)
    start = time.process_time()
    log = read_log(cell["log"], data_home)
    by_name = {way.name: way for way in [*ways(log.name), *objectives(log.name)]}
    if cell["kind"] == "baselines":
        rows = baseline_cell(log, cell["fold"])
    elif cell["kind"] == "labels":
        rows = label_cell(log, int(cell["way"]), cell["fold"])
    elif cell["kind"] == "report":
        rows = [{"report": report_cell(log, by_name[cell["way"]])}]
    else:
        rows = way_cell(log, by_name[cell["way"]], cell["fold"])
    return cell | {"rows": rows, "cpu_seconds": time.process_time() - start}


def run_all(todo, path, jobs, data_home):
    """Run the cells that are not done, appending each to the file."""
    done = {key(cell) for cell in read_results(path)}
    todo = [cell for cell in todo if key(cell) not in done]
    print(f"{len(todo)} cells to run, {len(done)} done before, in {path}", file=sys.stderr)
    running = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(run_cell)(cell, data_home) for cell in todo
    )
    with path.open("a") as file:
        for position, result in enumerate(running, 1):
            file.write(json.dumps(result) + "\n")
            file.flush()
            shown = " ".join(map(str, key(result)))
            print(
                f"[{position}/{len(todo)}] {shown}: {result['cpu_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )


# Tables


def tidy(found):
    """Return the table of all scored rows, one per log, way, question and fold."""
    rows = [
        {"log": cell["log"], "fold": cell["fold"]}
        | row
        | {"recommended": row["way"] == RECOMMENDED[cell["log"]]}
        for cell in found
        for row in cell["rows"]
        if cell["kind"] != "report"
    ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def report(frame, found):
    """Print a table for each log and question, the best ranking first."""
    reports = {
        (cell["log"], cell["way"]): cell["rows"][0]["report"]
        for cell in found
        if cell["kind"] == "report"
    }
    traps = {(name, way.name) for name in LOGS for way in ways(name) if way.trap}
    for (name, question), log in frame.groupby(["log", "question"], sort=False):
        print(f"### {name}, {question}\n")
        print(f"Chosen after seeing the truth: {AFTER_TRUTH[name]}.\n")
        rows = []
        grouped = log.groupby("way", sort=False)
        for way, cell in sorted(grouped, key=lambda pair: -np.nan_to_num(pair[1].auroc.mean())):
            verdicts = cell.verdict.value_counts()
            if cell.recommended.any():
                way_shown = f"**{way}** (recommended)"
            else:
                way_shown = f"{way} (a trap)" if (name, way) in traps else way
            rows.append(
                [
                    way_shown,
                    len(cell),
                    *(
                        mean_and_error(cell[metric]) if cell[metric].notna().all() else ""
                        for metric in COLUMNS[5:10]
                    ),
                    verdicts.index[0],
                    reports.get((name, way), ""),
                ]
            )
        markdown(
            rows,
            ["way", "folds", "AUROC", "R2", "NLL", "level error", "ECE", "fit says", "report says"],
        )
    compare(frame)
    summary(frame)
    of_labels(frame)
    of_traps(frame, traps)


#: Ways of the short table beside the recommended one and one action alone.
SHOWN = (
    "latent class, EM",
    "share of up among up and down",
    "logistic regression on thumbs",
    "KTO-style weighting of thumbs",
    "logistic regression on any positive action",
    "100 labels, logistic regression",
    "all true labels",
)


def summary(frame):
    """Print a short table of all logs: what is recommended, what people do, and labels."""
    print("### Summary\n")
    rows = []
    for (name, question), log in frame.groupby(["log", "question"], sort=False):
        own, alone = (way.name for way in ways(name)[:2])
        further = (f"{own}{what}; 100 labels calibrate" for what in ("", TASTE))
        for way in (own, f"{own}, beta-binomial", f"{own}{TASTE}", alone, *further, *SHOWN):
            cell = log[log.way == way]
            if cell.empty or cell.auroc.isna().any():
                continue
            shown = f"**{way}**" if way == own else way
            scored = [mean_and_error(cell[metric]) for metric in ("auroc", "r2", "level_error")]
            rows.append([name, question, shown, len(cell), *scored, cell.verdict.mode()[0]])
    markdown(rows, ["log", "question", "way", "folds", "AUROC", "R2", "level error", "fit says"])


def of_labels(frame):
    """Print what a few labels are worth: as a calibration, in the likelihood, and by themselves."""
    print("### Labels\n")
    rows = []
    for (name, question), log in frame.groupby(["log", "question"], sort=False):
        own = ways(name)[0].name
        for n in N_LABELS:
            for shown, way in (
                ("calibrate the recommended way", f"{own}; {n} labels calibrate"),
                ("calibrate it, weighing X", f"{own}; {n} labels calibrate and weigh X"),
                ("calibrate it with tastes", f"{own}{TASTE}; {n} labels calibrate"),
                (
                    "calibrate it with tastes, weighing X",
                    f"{own}{TASTE}; {n} labels calibrate and weigh X",
                ),
                ("in its likelihood", f"{own}; {n} labels in the likelihood"),
                ("logistic regression", f"{n} labels, logistic regression"),
            ):
                cell = log[log.way == way]
                if cell.empty or cell.auroc.isna().any():
                    continue
                scored = [mean_and_error(cell[metric]) for metric in ("auroc", "r2", "level_error")]
                rows.append([name, question, n, shown, len(cell), *scored, cell.verdict.mode()[0]])
    markdown(
        rows,
        ["log", "question", "labels", "how", "folds", "AUROC", "R2", "level error", "fit says"],
    )


def draw(frame, path):
    """Save a figure of the ranking and of the level, posterior, by log and way."""
    import matplotlib.pyplot as plt

    posterior = frame[frame.question == "posterior"]
    styles = {
        "best of what people do": ("X", "#d55e00"),
        "recommended way": ("o", "#0072b2"),
        "the same, calibrated by 100 labels": ("D", "#009e73"),
        "all true labels": ("s", "black"),
    }
    figure, axes = plt.subplots(2, 1, figsize=(6.5, 7), layout="constrained", sharey=True)
    logs = list(dict.fromkeys(posterior.log))
    for row, name in enumerate(logs):
        log, own = posterior[posterior.log == name], ways(name)[0].name
        shown = (
            best_usual(log),
            own,
            f"{own}; 100 labels calibrate",
            "all true labels",
        )
        for step, (way, (marker, colour)) in enumerate(zip(shown, styles.values(), strict=True)):
            cell = log[log.way == way]
            if cell.empty:
                continue
            for axis, metric in zip(axes, ("auroc", "level_error"), strict=True):
                error = cell[metric].sem() if len(cell) > 1 else None
                axis.errorbar(
                    cell[metric].mean(), row + 0.16 * (step - 1.5), xerr=error, fmt=marker, c=colour
                )
    for axis, label, neutral in zip(
        axes, ("AUROC of the posterior", "its mean less the true rate"), (0.5, 0), strict=True
    ):
        axis.axvline(neutral, c="grey", lw=0.8)
        axis.set(xlabel=label, yticks=range(len(logs)), yticklabels=logs)
    axes[0].invert_yaxis()
    handles = [
        plt.Line2D([], [], marker=marker, c=colour, ls="", label=label)
        for label, (marker, colour) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def best_usual(log):
    """Return the way with the best ranking of those that need neither this package nor labels."""
    usual = log[log.verdict == ""]
    usual = usual[~usual.way.str.contains("labels")]
    return usual.groupby("way", sort=False).auroc.mean().idxmax()


def of_traps(frame, traps):
    """Print what `fit` says of the ways that break the model, and how far off they are."""
    print("### Ways that break the model\n")
    rows = []
    for (name, way), cell in frame.groupby(["log", "way"], sort=False):
        if (name, way) not in traps:
            continue
        last = cell.iloc[-1]
        scored = [
            "" if np.isnan(last[metric]) else f"{last[metric]:.3f}"
            for metric in ("auroc", "r2", "level_error")
        ]
        rows.append([name, way, *scored, last.verdict])
    markdown(rows, ["log", "way", "AUROC", "R2", "level error", "fit says"])


def compare(frame):
    """Print paired differences over folds of the recommended way and what is given less."""
    print("### Recommended against less, paired by fold\n")
    rows = []
    for name, log in frame.groupby("log", sort=False):
        own = log[log.recommended]
        for question, mine in own.groupby("question", sort=False):
            others = log[(log.question == question) & ~log.recommended]
            for way, other in others.groupby("way", sort=False):
                both = mine.merge(other, on="fold")
                if len(both) < 3 or both.auroc_y.isna().any():
                    continue
                rows.append(
                    [name, question, way]
                    + [
                        mean_and_error(both[f"{metric}_x"] - both[f"{metric}_y"])
                        for metric in ("auroc", "r2")
                    ]
                )
    markdown(rows, ["log", "question", "against", "AUROC", "R2"])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-home", help="folder of the logs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/real.parquet"))
    parser.add_argument("--logs", nargs="+", default=list(LOGS), choices=LOGS)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--reports", action="store_true", help="the report's verdicts too")
    parser.add_argument("--report", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--figure", type=Path, help="file to draw a figure into")
    args = parser.parse_args(argv)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    path = args.output.with_suffix(".jsonl")
    todo = list(cells(args))
    start = time.perf_counter()
    if not args.report:
        run_all(todo, path, args.jobs, args.data_home)
    wanted = {key(cell) for cell in todo}
    found = [cell for cell in read_results(path) if key(cell) in wanted]
    if not found:
        parser.error(f"{path} holds none of these cells: run without --report")
    order = {key(cell): position for position, cell in enumerate(todo)}
    found.sort(key=lambda cell: order[key(cell)])
    frame = tidy(found)
    frame.to_parquet(args.output)
    report(frame, found)
    if args.figure:
        draw(frame, args.figure)
    minutes = sum(cell["cpu_seconds"] for cell in found) / 60
    print(
        f"{len(found)} of {len(todo)} cells, {minutes:.1f} CPU minutes in all, "
        f"{(time.perf_counter() - start) / 60:.1f} minutes for this run"
    )


if __name__ == "__main__":
    # By its own name, which worker processes can import.
    from benchmarks.real_feedback import main as run

    run()
