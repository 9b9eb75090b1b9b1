"""The main job of the package in one command: a reward model from a feedback log.

Run ``python -m implicitrm_sk.demo``. By default it needs no data: scikit-learn's bundled digits
stand for responses, and five of the ten digits count as preferred, so that the reward can be
checked against a known preference. What users do with the responses is simulated by
:func:`~implicitrm_sk.datasets.simulate_feedback`: they act on preferred responses only, and much
more readily on some than on others. The demo fits the naive classifier (no action is a dislike) and
:class:`~implicitrm_sk.ImplicitRewardEstimator` on one, two and three action signals, prints a table
and saves a figure.

``--data`` runs the same on rated responses with ready embeddings, see
:func:`~implicitrm_sk.datasets.load_rated_responses`; the preference is then rating > threshold. In
a real feedback log (``--log``, and the sets of `REAL_LOGS`) the rating is what the user did and no
preference is known: the demo then reports how well held-out actions are predicted, and what the
estimator makes of them.

Exit codes: 0 done; 2 wrong usage or data, one line on stderr says what.
"""

import argparse
import sys
import textwrap
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._optional import import_optional
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.metrics import reward_metrics

#: Known data sets whose rating is what a user did, not what a user thinks.
REAL_LOGS = ("realhumaneval_copy", "cups_copilot_accept", "counselchat_upvotes")
#: Columns that name the user of a row in a log; the first one found is taken.
USER_COLUMNS = ("user_id", "programmer_id")
DEFAULT_FIGURE = "implicitrm_demo.png"
N_SIGNALS = 3
TEST_SIZE = 0.3
#: Fewer rows of one kind than this, among training or test rows, show nothing.
MIN_ROWS_PER_CLASS = 10
#: More than the default of the estimator: the fit on all true labels takes longest.
MAX_EPOCHS = 1000
PERCENTILES = (5, 25, 50, 75, 95)
LINE_WIDTH = 80


@dataclass(frozen=True)
class Problem:
    """Features, groups and split of one data set, with its preference or its actions.

    Attributes
    ----------
    description : list of str
        Paragraphs that say what the data are.
    X : ndarray of shape (n, d)
    target : ndarray of int of shape (n,)
        0 or 1: the true preference, or in a real log the action.
    groups : ndarray of int of shape (n,)
        Rows of one prompt, or of one user in a log.
    group_name : str
    is_test : ndarray of bool of shape (n,)
    is_log : bool
        Whether `target` is the action of a real log.
    """

    description: list
    X: np.ndarray
    target: np.ndarray
    groups: np.ndarray
    group_name: str
    is_test: np.ndarray
    is_log: bool = False


@dataclass(frozen=True)
class Result:
    """One model in the table of rewards.

    Attributes
    ----------
    objective : {"naive", "stratified", "labels"}
    n_signals : int
        0 for the fit on labels.
    reward : ndarray of shape (n_test,)
    metrics : dict of str to float
        Of the reward against the true preference of the test rows.
    log_likelihood, constant : float or None
        Mean log-likelihood, in nats, of the test actions: of the model, and of the frequencies of
        the action patterns in training. None where the model gives no probability of the actions.
    """

    objective: str
    n_signals: int
    reward: np.ndarray
    metrics: dict
    log_likelihood: float | None
    constant: float | None

    @property
    def name(self):
        """What to call the model."""
        return model_name(self.objective, self.n_signals)


def model_name(objective, n_signals):
    """Name a model by what it learns from.

    Parameters
    ----------
    objective : {"naive", "stratified", "labels"}
    n_signals : int

    Returns
    -------
    name : str
    """
    if objective == "labels":
        return "all true labels"
    signals = "1 signal" if n_signals == 1 else f"{n_signals} signals"
    if objective == "stratified":
        return f"estimator, {signals}"
    return f"naive, {signals}" if n_signals == 1 else f"naive, any of {signals}"


# ---------------------------------------------------------------------- data


def bundled_problem(random_state=0):
    """Make the default problem: handwritten digits, of which 5 to 9 count as preferred.

    Parameters
    ----------
    random_state : int, default=0
        Seed of the split.

    Returns
    -------
    problem : Problem
    """
    X, digit = load_digits(return_X_y=True)
    preference = (digit >= 5).astype(np.int64)
    groups = np.arange(len(X))
    is_test = _split(groups, random_state)
    return Problem(
        description=[
            f"Data: {len(X):,} handwritten digits that come with scikit-learn, {X.shape[1]} "
            "measured features each. A digit stands for a response to a prompt, its features for "
            'the embedding, and the digits 5 to 9 count as "preferred" '
            f"({preference.mean():.0%}). The preference is known here so that the result can be "
            "checked; only the last row of the table learns from it.",
            f"Split: {(~is_test).sum():,} rows train, {is_test.sum():,} test.",
        ],
        X=X,
        target=preference,
        groups=groups,
        group_name="row",
        is_test=is_test,
    )


def file_problem(
    name,
    data_home=None,
    *,
    encoder=None,
    embeddings=None,
    threshold=None,
    is_log=False,
    random_state=0,
):
    """Make a problem of rated responses, or of a real log, from a parquet file.

    Parameters
    ----------
    name, data_home, encoder, embeddings
        See :func:`~implicitrm_sk.datasets.load_rated_responses`.
    threshold : float, default=None
        The target is rating > threshold. None is the median of the distinct ratings; in a log it
        takes the rating, 0 or 1, as it is.
    is_log : bool, default=False
        Whether the rating is the action. The sets of `REAL_LOGS` are logs in any case.
    random_state : int, default=0
        Seed of the split, where the files have none.

    Returns
    -------
    problem : Problem

    Raises
    ------
    ValueError, OSError, ImportError
        If the files are not there, do not fit together or hold too little to learn from.
    """
    data = load_rated_responses(name, data_home, encoder=encoder, embeddings=embeddings)
    if data.X is None:
        raise ValueError(
            f"{data.name!r} has no embeddings. Put {data.name}_ENCODER.safetensors beside its "
            "parquet file, or pass --embeddings FILE.safetensors."
        )
    is_log = is_log or data.name in REAL_LOGS
    groups, group_name = _user_or_prompt(data, is_log)
    if data.is_test is None:
        is_test, origin = _split(groups, random_state), f"drawn at random by {group_name}"
    else:
        is_test, origin = data.is_test, "of the data set"
    target, meaning = (_log_target if is_log else _rated_target)(data, threshold)
    _check_both_sides(target, is_test, "action" if is_log else "preference")

    n_shared = len(np.intersect1d(groups[is_test], groups[~is_test]))
    return Problem(
        description=[
            f"Data: {data.name}, {len(target):,} responses, {data.X.shape[1]} features each "
            f"(embeddings {data.encoder!r}). {meaning}",
            f"Split {origin}: {_count(~is_test, groups, group_name)} train, "
            f"{_count(is_test, groups, group_name)} test, {n_shared} {group_name}s in both.",
        ],
        X=data.X,
        target=target,
        groups=groups,
        group_name=group_name,
        is_test=is_test,
        is_log=is_log,
    )


def _user_or_prompt(data, is_log):
    for column in USER_COLUMNS if is_log else ():
        if column in data.frame.columns:
            users = data.frame[column].astype(str).to_numpy(dtype=str)
            return np.unique(users, return_inverse=True)[1], "user"
    return data.groups, "prompt"


def _count(rows, groups, group_name):
    return f"{rows.sum():,} rows of {len(np.unique(groups[rows])):,} {group_name}s"


def _rated_target(data, threshold):
    if threshold is None:
        threshold = np.median(np.unique(data.rating))
    target = (data.rating > threshold).astype(np.int64)
    return target, (
        f"A response counts as preferred if its rating is above {threshold:g} "
        f"({target.mean():.0%} of the rows); only the last row of the table learns from that. What "
        "users do is simulated."
    )


def _log_target(data, threshold):
    if threshold is not None:
        target = (data.rating > threshold).astype(np.int64)
        return target, (
            f"A real log, in which a rating above {threshold:g} is taken for an action "
            f"({target.mean():.1%} of the rows). How often a response was shown is not accounted "
            "for. No preference is known."
        )
    other = data.rating[~np.isin(data.rating, (0, 1))]
    if len(other):
        raise ValueError(
            f"The rating of the log {data.name!r} must be what one user did, 0 or 1, but "
            f"{len(other):,} rows hold something else ({other[0]:g}). Counts of actions are not "
            "handled yet; --threshold 0 takes every rating above 0 for one action, however often "
            "the response was shown."
        )
    return data.rating.astype(np.int64), (
        f"A real log: the rating is what a user did ({data.rating.mean():.1%} of the rows have an "
        "action). No preference is known."
    )


def _check_both_sides(target, is_test, what):
    for side, rows in (("training", ~is_test), ("test", is_test)):
        n_positive, n_rows = target[rows].sum(), rows.sum()
        if min(n_positive, n_rows - n_positive) < MIN_ROWS_PER_CLASS:
            raise ValueError(
                f"{n_positive} of the {n_rows} {side} rows have {what} = 1. At least "
                f"{MIN_ROWS_PER_CLASS} with and {MIN_ROWS_PER_CLASS} without are needed: use more "
                "rows, or another --threshold."
            )


def _split(groups, random_state):
    """Return the mask of the test rows, a random share of the groups."""
    if len(np.unique(groups)) < 2:
        raise ValueError(
            "All rows are of one group, so that no test rows can be split off. Add the column "
            "'split' (train or test), or rows of other prompts or users."
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=TEST_SIZE, random_state=random_state)
    _, test = next(splitter.split(groups, groups=groups))
    return np.isin(np.arange(len(groups)), test)


# ---------------------------------------------------------------------- models


def fit(objective, X, y, groups, random_state):
    """Fit the estimator; that "naive" reduces several signals to any action is what is wanted.

    Parameters
    ----------
    objective : {"naive", "stratified"}
    X, y, groups, random_state
        See :class:`~implicitrm_sk.ImplicitRewardEstimator`.

    Returns
    -------
    estimator : ImplicitRewardEstimator
    """
    estimator = ImplicitRewardEstimator(objective, max_epochs=MAX_EPOCHS, random_state=random_state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Naive works on one signal", UserWarning)
        return estimator.fit(X, y, groups=groups)


def fit_logistic_regression(X, y, groups):
    """Fit scikit-learn's logistic regression, its strength of regularisation cross-validated.

    Parameters
    ----------
    X, y : ndarray of shape (n, d) and (n,)
    groups : ndarray of shape (n,)
        Kept together in cross-validation.

    Returns
    -------
    search : GridSearchCV
    """

    def mean_log_likelihood(model, X, y):
        return bernoulli_log_likelihood(y, model.predict_proba(X)[:, 1]).mean()

    n_splits = min(5, len(np.unique(groups)))
    if n_splits < 2:
        raise ValueError(
            "All training rows are of one user or prompt, so that nothing can be cross-validated. "
            "Add rows of others."
        )
    return GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": np.logspace(-4, -1, 4)},
        scoring=mean_log_likelihood,
        cv=list(StratifiedGroupKFold(n_splits).split(X, y, groups)),
        error_score="raise",
    ).fit(X, y)


def bernoulli_log_likelihood(actions, probability):
    """Compute the log-likelihood of each action.

    Parameters
    ----------
    actions : ndarray of shape (n,)
        0 or 1.
    probability : ndarray of shape (n,)
        P(y=1 | x).

    Returns
    -------
    log_likelihood : ndarray of shape (n,)
        In nats.
    """
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1 - 1e-7)
    return np.where(actions == 1, np.log(p), np.log1p(-p))


def pattern_log_likelihood(train_actions, test_actions):
    """Compute the log-likelihood of actions under the training frequency of their pattern.

    The best prediction that does not look at the response: with one signal the base rate, with K
    signals 2^K frequencies. One row of each pattern is added, so that none is impossible.

    Parameters
    ----------
    train_actions, test_actions : ndarray of shape (n,) or (n, K)
        0 or 1.

    Returns
    -------
    log_likelihood : ndarray of shape (n_test,)
        In nats.
    """
    n_signals = 1 if train_actions.ndim == 1 else train_actions.shape[1]
    train, test = (
        actions.reshape(len(actions), n_signals) @ 2 ** np.arange(n_signals)
        for actions in (train_actions, test_actions)
    )
    counts = np.bincount(train, minlength=2**n_signals) + 1
    return np.log(counts / counts.sum())[test]


# ---------------------------------------------------------------------- rated responses


def compare_rewards(problem, random_state=0, progress=None):
    """Simulate feedback, and compare what is learned from it with the true preference.

    Parameters
    ----------
    problem : Problem
        With preferences as its target.
    random_state : int, default=0
        Seed of the simulated log and of the fits.
    progress : callable, default=None
        Called with the name of each model before it is fitted.

    Returns
    -------
    log : Bunch
        The simulated log of all rows.
    results : list of Result
        Naive and estimator with 1, 2 and 3 signals, then the fit on all true labels.
    """
    X, preference, groups, test = problem.X, problem.target, problem.groups, problem.is_test
    log = simulate_feedback(preference, X=X, n_signals=N_SIGNALS, random_state=random_state)
    plan = [(name, k) for k in range(1, N_SIGNALS + 1) for name in ("naive", "stratified")]
    results = []
    for name, k in [*plan, ("labels", 0)]:
        if progress is not None:
            progress(model_name(name, k))
        y = log.actions[:, :k] if k > 1 else log.actions[:, 0] if k else preference
        model = fit("naive" if k == 0 else name, X[~test], y[~test], groups[~test], random_state)
        reward = model.predict(X[test])
        gives_likelihood = k == 1 or name == "stratified"
        results.append(
            Result(
                objective=name,
                n_signals=k,
                reward=reward,
                metrics=reward_metrics(preference[test], reward),
                log_likelihood=model.score(X[test], y[test]) if gives_likelihood else None,
                constant=(
                    pattern_log_likelihood(y[~test], y[test]).mean() if gives_likelihood else None
                ),
            )
        )
    return log, results


def quarters(values):
    """Return in which quarter of all each value is, from 0 (lowest) to 3, by rank.

    Parameters
    ----------
    values : ndarray of shape (n,)

    Returns
    -------
    quarter : ndarray of int of shape (n,)
    """
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return rank * 4 // len(values)


def bias_text(log):
    """Say how a log misleads: which of the preferred responses draw actions.

    Parameters
    ----------
    log : Bunch
        Of :func:`~implicitrm_sk.datasets.simulate_feedback`, actions of shape (n, K).

    Returns
    -------
    text : str
    """
    preferred = log.preference == 1
    actions = log.actions[preferred]
    quarter = quarters(log.propensity[preferred, 0])
    low, high = (actions[quarter == q, 0].mean() for q in (0, 3))
    silent = [(actions[:, : k + 1].max(axis=1) == 0).mean() for k in range(actions.shape[1])]
    return (
        "How the log misleads: users act on preferred responses only, but signal 1 (say, a copy) "
        f"comes on {low:.0%} of them in the quarter of lowest propensity and on {high:.0%} in the "
        f"highest. Preferred and yet without any action: {silent[0]:.0%} with 1 signal, "
        + ", ".join(f"{share:.0%} with {k}" for k, share in enumerate(silent[1:], 2))
        + "."
    )


def comparison_table(results):
    """Format the table of rewards.

    Parameters
    ----------
    results : list of Result

    Returns
    -------
    table : str
    """
    header = ["learned from", "R2", "MAE", "AUROC", "calib. error", "log-lik.", "constant"]
    cells = [header]
    for result in results:
        values = [result.metrics[name] for name in ("r2", "mae", "auroc", "calibration_error")]
        values += [result.log_likelihood, result.constant]
        cells.append([result.name, *("-" if v is None else f"{v:.3f}" for v in values)])
    return _aligned(cells)


COMPARISON_LEGEND = (
    "R2 (1 is perfect, 0 as good as a constant), MAE, AUROC and calibration error: reward against "
    "true preference, test rows. log-lik.: mean log-likelihood in nats of the test actions, and "
    "that of a constant prediction; compare it only between rows with the same constant. '-': the "
    "model predicts something else."
)


def comparison_text(results):
    """Say in words what the table shows, by its own numbers.

    Parameters
    ----------
    results : list of Result
        Of :func:`compare_rewards`.

    Returns
    -------
    paragraphs : list of str
    """
    found = {(result.objective, result.n_signals): result for result in results}
    naive, one = found["naive", 1], found["stratified", 1]

    def r2(objective, k):
        return found[objective, k].metrics["r2"]

    def against_any(k):
        ahead = r2("stratified", k) > r2("naive", k)
        behind = "" if ahead else " (here the estimator is not ahead)"
        return f"{r2('naive', k):.2f} on any of {k}{behind}"

    return [
        "One signal: the log determines only the product of reward and propensity. Naive "
        "classifier and estimator predict held-out actions (log-lik. "
        f"{naive.log_likelihood:.3f} and {one.log_likelihood:.3f}) and rank responses (AUROC "
        f"{naive.metrics['auroc']:.3f} and {one.metrics['auroc']:.3f}) much alike. The estimator "
        "shares the product out evenly; that R2 goes from "
        f"{r2('naive', 1):.2f} to {r2('stratified', 1):.2f} is owed to this convention, not to "
        "evidence.",
        "Several signals of the same user determine the reward, provided that they fire "
        "independently given response and preference, as simulated here: R2 "
        f"{r2('stratified', 2):.2f} with two and {r2('stratified', 3):.2f} with three, against "
        f"{r2('labels', 0):.2f} with all true labels. The naive classifier gets "
        f"{against_any(2)} and {against_any(3)}.",
    ]


# ---------------------------------------------------------------------- real logs


def describe_log(problem, random_state=0, progress=None):
    """Fit a real log of one signal, and collect what can honestly be said about it.

    Parameters
    ----------
    problem : Problem
        With actions as its target.
    random_state : int, default=0
    progress : callable, default=None
        Called with the name of each model before it is fitted.

    Returns
    -------
    log_likelihoods : dict of str to ndarray of shape (n_test,)
        By model, the log-likelihood of each test row in nats.
    estimates : dict of str to ndarray of shape (n_test,)
        Of the estimator: ``action`` P(y=1 | x), ``reward``, ``spread`` (standard deviation of the
        reward over the components of the mixture) and ``propensity``.
    """
    X, y, groups, test = problem.X, problem.target, problem.groups, problem.is_test
    train = X[~test], y[~test], groups[~test]
    log_likelihoods = {"constant (base rate)": pattern_log_likelihood(y[~test], y[test])}

    def add(name, make, predict):
        if progress is not None:
            progress(name)
        model = make()
        log_likelihoods[name] = bernoulli_log_likelihood(y[test], predict(model))
        return model

    add(
        "logistic regression",
        lambda: fit_logistic_regression(*train),
        lambda model: model.predict_proba(X[test])[:, 1],
    )
    for name, objective in (("naive classifier", "naive"), ("estimator", "stratified")):
        model = add(
            name,
            lambda objective=objective: fit(objective, *train, random_state),
            lambda model: model.predict_action(X[test]),
        )
    reward, spread = model.predict(X[test], return_std=True)
    return log_likelihoods, {
        "action": model.predict_action(X[test]),
        "reward": reward,
        "spread": spread,
        "propensity": model.propensity(X[test]),
    }


def mean_gain(log_likelihood, baseline, groups):
    """Compute the mean gain over a baseline, and its standard error over groups of rows.

    Parameters
    ----------
    log_likelihood, baseline : ndarray of shape (n,)
        Of the same rows.
    groups : ndarray of shape (n,)
        Rows of one group may depend on each other.

    Returns
    -------
    gain, standard_error : float
        In nats per row. The standard error, of differences of the same rows, is
        sqrt(G / (G - 1) sum_g s_g^2) / n with s_g the sum over group g of the deviations from the
        mean; NaN for one group.
    """
    difference = log_likelihood - baseline
    gain = difference.mean()
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, difference - gain)
    if len(sums) == 1:
        return gain, np.nan
    return gain, np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(difference)


def log_table(log_likelihoods, groups, group_name):
    """Format the table of held-out log-likelihoods.

    Parameters
    ----------
    log_likelihoods : dict of str to ndarray of shape (n_test,)
        Of :func:`describe_log`; the first one is the baseline.
    groups : ndarray of shape (n_test,)
    group_name : str

    Returns
    -------
    table : str
    """
    baseline = next(iter(log_likelihoods.values()))
    error_name = f"std. error ({len(np.unique(groups))} {group_name}s)"
    cells = [["model of the action", "log-lik. per row", "gain", error_name]]
    for name, values in log_likelihoods.items():
        gain, error = mean_gain(values, baseline, groups)
        shown = ["-", "-"] if values is baseline else [f"{gain:+.3f}", f"{error:.3f}"]
        cells.append([name, f"{values.mean():.3f}", *shown])
    return _aligned(cells)


ESTIMATE_NAMES = {
    "action": "P(action | response)",
    "reward": "reward",
    "spread": "spread of the reward",
    "propensity": "propensity",
}


def estimate_table(estimates):
    """Format percentiles of what the estimator says about the test rows.

    Parameters
    ----------
    estimates : dict of str to ndarray of shape (n_test,)
        Of :func:`describe_log`.

    Returns
    -------
    table : str
    """
    cells = [["estimated, test rows", *(f"{p} %" for p in PERCENTILES)]]
    for key, name in ESTIMATE_NAMES.items():
        cells.append([name, *(f"{v:.3f}" for v in np.percentile(estimates[key], PERCENTILES))])
    return _aligned(cells)


def log_text(estimates):
    """Say in words what the tables of a real log can and cannot show.

    Parameters
    ----------
    estimates : dict of str to ndarray of shape (n_test,)
        Of :func:`describe_log`.

    Returns
    -------
    paragraphs : list of str
    """
    action, reward, spread = (np.median(estimates[key]) for key in ("action", "reward", "spread"))
    return [
        "No preference is known here, so nothing above says how good the reward is: the first "
        "table judges predictions of the action only.",
        "With one signal the likelihood cannot tell reward from propensity, only their product. "
        "The reward of a response may be anything between P(action | response) and 1 (at the "
        f"median, between {action:.2f} and 1) and fit the log equally well. The estimator shares "
        f"the product out evenly: {reward:.2f} at the median, where the square root of P(action | "
        f"response) is {np.sqrt(action):.2f}. That is a convention, not evidence, and the spread "
        f"over the members of the model ({spread:.2f}) is no measure of what the log leaves open. "
        "A second signal of the same users on the same responses would be evidence.",
    ]


# ---------------------------------------------------------------------- figures

# Okabe and Ito's palette for colour-blind readers; markers and dashes tell the lines apart in grey.
_STYLES = {
    ("naive", 1): {"color": "#D55E00", "marker": "o", "linestyle": "--"},
    ("stratified", 1): {"color": "#56B4E9", "marker": "^", "linestyle": "-."},
    ("stratified", 2): {"color": "#0072B2", "marker": "s", "linestyle": "-"},
    ("stratified", 3): {"color": "#009E73", "marker": "D", "linestyle": "-"},
    ("labels", 0): {"color": "#000000", "marker": "x", "linestyle": ":"},
}
_RC = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 8,
}


def _new_figure():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)
    return figure, *figure.subplots(1, 2)


def comparison_figure(problem, log, results):
    """Draw the calibration of the rewards, and their bias by propensity.

    Parameters
    ----------
    problem : Problem
    log, results
        Of :func:`compare_rewards`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    import matplotlib

    preference = problem.target[problem.is_test]
    preferred = preference == 1
    quarter = quarters(log.propensity[problem.is_test, 0][preferred])
    with matplotlib.rc_context(_RC):
        figure, left, right = _new_figure()
        left.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for result in results:
            style = _STYLES.get((result.objective, result.n_signals))
            if style is None:
                continue
            bins = np.array_split(np.argsort(result.reward, kind="stable"), 6)
            left.plot(
                [result.reward[rows].mean() for rows in bins],
                [preference[rows].mean() for rows in bins],
                **style,
            )
            right.plot(
                [result.reward[preferred][quarter == q].mean() for q in range(4)],
                label=result.name,
                **style,
            )
        left.set(
            xlabel="estimated reward (mean of a sixth of the rows)",
            ylabel="share truly preferred",
            title="Calibration: on the diagonal is right",
        )
        right.set(
            xlabel="quarter of true propensity, signal 1",
            ylabel="mean estimated reward",
            ylim=(-0.03, 1.03),
            xticks=range(4),
            xticklabels=["lowest", "2nd", "3rd", "highest"],
            title="Preferred only: dotted is the goal",
        )
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def log_figure(estimates):
    """Draw the distributions that were estimated, and what the log leaves open.

    Parameters
    ----------
    estimates : dict of str to ndarray of shape (n_test,)
        Of :func:`describe_log`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    import matplotlib

    action, reward, spread = (estimates[key] for key in ("action", "reward", "spread"))
    with matplotlib.rc_context(_RC):
        figure, left, right = _new_figure()
        # Reward and propensity nearly coincide: a thin line on a wide one shows both.
        for key, color, linestyle, linewidth in (
            ("action", "#D55E00", "--", 2.2),
            ("reward", "#56B4E9", "-", 5),
            ("propensity", "#000000", ":", 2.2),
        ):
            left.ecdf(
                estimates[key],
                label=ESTIMATE_NAMES[key],
                color=color,
                linestyle=linestyle,
                linewidth=linewidth,
            )
        left.set(
            xlim=(0, 1),
            xlabel="estimated probability",
            ylabel="share of test rows below",
            title="What the estimator makes of the log",
        )
        right.fill_between([0, 1], [0, 1], [1, 1], color="#56B4E9", alpha=0.25, linewidth=0)
        right.errorbar(
            action, reward, yerr=spread, fmt="none", ecolor="0.55", elinewidth=0.8, zorder=2
        )
        right.plot(action, reward, "o", color="#0072B2", markersize=4, zorder=3)
        right.text(0.03, 0.96, "any reward in the shaded area\nfits the log equally well", va="top")
        right.set(
            xlim=(0, 1),
            ylim=(0, 1.02),
            xlabel="P(action | response)",
            ylabel="estimated reward (bars: spread)",
            title="What one signal leaves open",
        )
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


# ---------------------------------------------------------------------- command line


def main(argv=None):
    """Run the demo.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments of the command line; None takes those of the process.

    Returns
    -------
    exit_code : int
        0 done, 2 wrong data.

    Raises
    ------
    SystemExit
        With code 2 after wrong usage, 0 after ``--help``.
    """
    args = _parse(argv)
    try:
        with _one_thread(), _warnings_as_notes():
            _run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _run(args):
    figure_path = _figure_path(args)
    if args.data is None:
        problem = bundled_problem(args.seed)
    else:
        problem = file_problem(
            args.data,
            args.data_home,
            encoder=args.encoder,
            embeddings=args.embeddings,
            threshold=args.threshold,
            is_log=args.log,
            random_state=args.seed,
        )
    _say(*problem.description)
    if problem.is_log:
        log_likelihoods, estimates = describe_log(problem, args.seed, _Progress(3))
        groups = problem.groups[problem.is_test]
        print(log_table(log_likelihoods, groups, problem.group_name), end="\n\n")
        print(estimate_table(estimates), end="\n\n")
        _say(*log_text(estimates))
        figure = None if figure_path is None else log_figure(estimates)
    else:
        log, results = compare_rewards(problem, args.seed, _Progress(2 * N_SIGNALS + 1))
        _say(bias_text(log))
        print(comparison_table(results), end="\n\n")
        _say(COMPARISON_LEGEND, *comparison_text(results))
        figure = None if figure_path is None else comparison_figure(problem, log, results)
    if figure is not None:
        figure.savefig(figure_path, dpi=150)
        print(f"Figure: {figure_path}")


class _Progress:
    """Say on stderr which model is being fitted."""

    def __init__(self, total):
        self.done, self.total = 0, total

    def __call__(self, name):
        self.done += 1
        print(f"fitting {self.done}/{self.total}: {name}", file=sys.stderr, flush=True)


def _say(*paragraphs):
    for text in paragraphs:
        print(textwrap.fill(text, LINE_WIDTH), end="\n\n", flush=True)


def _aligned(cells):
    """Format rows of text as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


@contextmanager
def _one_thread():
    """Compute on one thread: more do not help with data this small, and hurt on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def _warnings_as_notes():
    """Show warnings, of too few rows for example, as one line each without the source code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        yield


def _figure_path(args):
    """Return where to save the figure; None where none is wanted or can be drawn."""
    if args.no_figure:
        return None
    try:
        import_optional("matplotlib", "plot", "Drawing the figure")
    except ImportError as error:
        if args.figure is not None:
            raise
        print(f"no figure: {error}", file=sys.stderr)
        return None
    from matplotlib.figure import Figure

    path = Path(DEFAULT_FIGURE if args.figure is None else args.figure)
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"--figure {path} must end in one of {', '.join(f'.{name}' for name in sorted(known))}."
        )
    if not path.parent.is_dir():
        raise ValueError(f"--figure {path}: there is no folder {str(path.parent)!r}.")
    return path


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (--help lists the options)\n")


def _seed(text):
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2^32 - 1, got {text!r}")
    return int(text)


def _finite(text):
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def _parse(argv):
    parser = _Parser(
        prog="python -m implicitrm_sk.demo",
        description=textwrap.fill(
            "Learn which responses users really prefer from a log of what they did (copied, "
            "clicked, shared), where no action is not a dislike and some responses draw actions "
            "more readily than others. Prints a table and saves a figure. Without any option it "
            "runs in less than a minute on data that come with scikit-learn.",
            LINE_WIDTH,
        ),
        epilog=(
            "examples:\n"
            "  python -m implicitrm_sk.demo\n"
            "  python -m implicitrm_sk.demo --data my.parquet --embeddings my.safetensors\n"
            "  python -m implicitrm_sk.demo --data beavertails_test --data-home DIR\n"
            "  python -m implicitrm_sk.demo --data realhumaneval_copy --data-home DIR\n"
        ),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=LINE_WIDTH),
    )
    data = parser.add_argument_group("your data (all need --data)")
    data.add_argument(
        "--data",
        metavar="FILE|NAME",
        help="a parquet file with the columns prompt, response and rating, one row per response, "
        "or the name of one in --data-home. What users do is simulated on it, and the rewards "
        "learned from that are compared with the ratings",
    )
    data.add_argument(
        "--data-home",
        metavar="DIR",
        help="folder of the named data sets (default: $IMPLICITRM_DATA, else ~/implicitrm_data)",
    )
    data.add_argument(
        "--embeddings",
        metavar="FILE",
        help="safetensors file with the tensor 'embeddings', one row per row of the parquet file "
        "(default: NAME_ENCODER.safetensors beside it)",
    )
    data.add_argument(
        "--encoder",
        metavar="NAME",
        help="which of several embeddings beside the parquet file to take",
    )
    data.add_argument(
        "--threshold",
        type=_finite,
        metavar="T",
        help="a response is preferred if its rating is above T (default: the median of the "
        "distinct ratings, hence 0.5 for ratings 0 and 1); in a log, an action is a rating above T",
    )
    data.add_argument(
        "--log",
        action="store_true",
        help="the ratings are no ratings but what users did, 1 or 0: a real log, with no "
        f"preference known to compare with (always so for {', '.join(REAL_LOGS)})",
    )
    figure = parser.add_mutually_exclusive_group()
    figure.add_argument(
        "--figure", metavar="PATH", help=f"where to save the figure (default: {DEFAULT_FIGURE})"
    )
    figure.add_argument("--no-figure", action="store_true", help="save no figure")
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of the split, the simulated log and the fits (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.data is None:
        for name in ("data_home", "embeddings", "encoder", "threshold", "log"):
            if getattr(args, name) not in (None, False):
                parser.error(f"--{name.replace('_', '-')} needs --data")
    if args.embeddings is not None and args.encoder is not None:
        parser.error("--embeddings and --encoder both say which embeddings to take: give one")
    return args


if __name__ == "__main__":
    sys.exit(main())
