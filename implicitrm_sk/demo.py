"""A reward model from a feedback log: table on the screen, figure in a file.

By default the data are the digits of scikit-learn. They represent responses, and five of the ten
count as preferred. The actions of users are simulated. So the rewards learned from them can be
compared with the known preference. The option --data does the same with rated responses and their
embeddings, or with their text and --embedder. With --log, the rating is the action of a user, and
the preference is not known. Held-out actions are then predicted, and the estimates are shown.

Try:
  python -m implicitrm_sk.demo
  python -m implicitrm_sk.demo --data my.parquet --embeddings my.safetensors
  python -m implicitrm_sk.demo --data beavertails_test --data-home DIR
  python -m implicitrm_sk.demo --data beavertails_test --data-home DIR --embedder minilm
  python -m implicitrm_sk.demo --data realhumaneval_copy --data-home DIR

The exit code is 0 if done, 2 for wrong usage or data.
"""

import argparse
import re
import sys
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from . import IdentificationWarning, ImplicitRewardEstimator, LLMEmbedder
from ._optional import import_optional
from .datasets import load_rated_responses, simulate_feedback
from .exceptions import ImplicitRMError
from .metrics import reward_metrics

REAL_LOGS = ("realhumaneval_copy", "cups_copilot_accept", "counselchat_upvotes")
USER_COLUMNS = ("user_id", "programmer_id")  # of a real log; the first one found is taken
DEFAULT_FIGURE = "implicitrm_demo.png"
MIN_ROWS = 10  # fewer of one kind, among training or test rows, show nothing


@dataclass
class Problem:
    """One data set: n rows of features, the target, and a split."""

    description: str
    X: np.ndarray  # (n, d)
    y: np.ndarray  # (n,), 0 or 1: true preference, or in a real log the action
    groups: np.ndarray  # (n,), equal for rows of one prompt, or of one user in a log
    group_name: str
    is_test: np.ndarray  # (n,)
    is_log: bool = False


def bundled_problem(seed=0):
    """Make the default problem from handwritten digits; 5 to 9 count as preferred."""
    X, digit = load_digits(return_X_y=True)
    rows = np.arange(len(X))
    is_test = _random_split(rows, seed)
    description = (
        f"Data: {len(X):,} handwritten digits that come with scikit-learn ({(~is_test).sum():,} "
        f"train, {is_test.sum():,} test). A digit represents a response to a prompt, its "
        f'{X.shape[1]} features the embedding, and 5 to 9 count as "preferred". That is known here '
        "to check the result; only the last row of the table learns from it."
    )
    return Problem(description, X, (digit >= 5).astype(int), rows, "row", is_test)


def file_problem(args):
    """Make a problem of rated responses, or of a real log, from the command line."""
    data = load_rated_responses(
        args.data, args.data_home, encoder=args.encoder, embeddings=args.embeddings
    )
    if args.embedder is not None:
        data.X, data.encoder = embed(data, args.embedder)
    if data.X is None:
        raise ImplicitRMError(
            f"{data.name!r} does not have embeddings. Put {data.name}_ENCODER.safetensors beside "
            "its parquet file, or pass --embeddings FILE.safetensors, or --embedder MODEL."
        )
    is_log, threshold = args.log or data.name in REAL_LOGS, args.threshold
    groups, group_name = data.groups, "prompt"
    if is_log:
        column = next((name for name in USER_COLUMNS if name in data.frame.columns), None)
        if column is not None:
            users = data.frame[column].astype(str)
            groups, group_name = np.unique(users, return_inverse=True)[1], "user"
        if threshold is None and not np.isin(data.rating, (0, 1)).all():
            raise ImplicitRMError(
                f"The ratings of the log {data.name!r} must be what one user did, 0 or 1. With "
                "--threshold 0 any above 0 is one action, however often it was shown."
            )
    elif threshold is None:
        threshold = np.median(np.unique(data.rating))
    y = (data.rating > (threshold or 0)).astype(int)
    is_test = _random_split(groups, args.seed) if data.is_test is None else data.is_test
    for side, rows in (("training", ~is_test), ("test", is_test)):
        if not MIN_ROWS <= y[rows].sum() <= rows.sum() - MIN_ROWS:
            raise ImplicitRMError(
                f"{y[rows].sum()} of the {rows.sum()} {side} rows are preferred or acted on. At "
                f"least {MIN_ROWS} must be, and {MIN_ROWS} not: try another --threshold, more rows."
            )

    train_groups, test_groups = set(groups[~is_test]), set(groups[is_test])
    if is_log:
        meaning = f"A real log: the user acted in {y.mean():.1%} of the rows"
        if threshold is not None:
            meaning += f" (rating above {threshold:g}, however often it was shown)"
    else:
        meaning = f"Preferred is a rating above {threshold:g} ({y.mean():.0%} of the rows); only "
        meaning += "the last row of the table learns from it"
    description = (
        f"Data: {data.name}, {len(y):,} responses, {data.X.shape[1]} features each (embeddings "
        f"{data.encoder!r}); {(~is_test).sum():,} rows of {len(train_groups):,} {group_name}s "
        f"train, {is_test.sum():,} of {len(test_groups):,} test, {len(train_groups & test_groups)} "
        f"{group_name}s are in both. {meaning}."
    )
    return Problem(description, data.X, y, groups, group_name, is_test, is_log)


def embed(data, model):
    """Return vectors of the prompts and responses, and their description."""
    embedder = LLMEmbedder(model, verbose=True)
    X = embedder.fit_transform(list(zip(data.prompt, data.response, strict=True)))
    return X, f"{model}, {embedder.pooling_} of at most {embedder.max_length_} tokens"


def _random_split(groups, seed):
    """Return the mask of the test rows: 30 % of the groups."""
    if len(np.unique(groups)) < 2:
        raise ImplicitRMError(
            "All rows belong to one prompt or user. Add rows of others, or a column 'split'."
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.3, random_state=seed)
    return np.isin(np.arange(len(groups)), next(splitter.split(groups, groups=groups))[1])


# ---------------------------------------------------------------------- simulated log


def compare_rewards(problem, seed=0):
    """Simulate feedback, and print how rewards learned from it compare with true preference.

    Returns the simulated log of all rows, and the rewards of the test rows by model.
    """
    X, preference, groups, test = problem.X, problem.y, problem.groups, problem.is_test
    train = ~test
    log = simulate_feedback(preference, X=X, n_signals=3, random_state=seed)
    actions = log.actions  # (n, 3)
    preferred = preference == 1
    quarter = quarters(log.propensity[preferred, 0])
    low, high = (actions[preferred, 0][quarter == q].mean() for q in (0, 3))
    silent = [(actions[preferred, :k].max(axis=1) == 0).mean() for k in (1, 2, 3)]
    _say(
        "The log is simulated, and it misleads. Users act only on preferred responses. But signal "
        f"1 (say, a copy) comes on {low:.0%} of them in the quarter of lowest propensity, and on "
        f"{high:.0%} in the highest. The share of preferred responses without any action is "
        f"{silent[0]:.0%} with 1 signal, {silent[1]:.0%} with 2 and {silent[2]:.0%} with 3."
    )
    models = [
        ("naive, 1 signal", "naive", actions[:, 0]),
        ("estimator, 1 signal", "stratified", actions[:, 0]),
        ("naive, any of 2 signals", "naive", actions[:, :2].max(axis=1)),
        ("estimator, 2 signals", "stratified", actions[:, :2]),
        ("naive, any of 3 signals", "naive", actions.max(axis=1)),
        ("estimator, 3 signals", "stratified", actions),
        ("all true labels", "naive", preference),
    ]
    print(f"{'learned from':23}      R2    MAE  AUROC  calib. error  log-lik.  constant")
    print("-" * 79)
    rewards, r2 = {}, {}
    for name, objective, y in models:
        estimator = ImplicitRewardEstimator(objective, random_state=seed)
        _fit(estimator, X[train], y[train], groups[train])
        rewards[name] = estimator.predict(X[test])
        m = reward_metrics(preference[test], rewards[name])
        r2[name] = m["r2"]
        print(
            f"{name:23}  {m['r2']:6.3f}  {m['mae']:.3f}  {m['auroc']:.3f}  "
            f"{m['calibration_error']:12.3f}  {estimator.score(X[test], y[test]):8.3f}  "
            f"{constant_log_likelihood(y[train], y[test]).mean():8.3f}",
            flush=True,
        )
    print()
    _say(
        "The table compares the reward with the true preference on test rows (R2: 1 is perfect, 0 "
        "a constant). The log-likelihood, in nats, is that of the data that the model learns from, "
        "beside a constant prediction. Compare only models with the same constant."
    )
    _say(
        "One signal does not identify the reward: it determines only the product of reward and "
        "propensity. Naive classifier and estimator both predict that. The estimator splits it "
        f"evenly. So R2 is {r2['estimator, 1 signal']:.2f} instead of "
        f"{r2['naive, 1 signal']:.2f} by this convention, not by evidence."
    )
    _say(
        "Several signals of one user identify the reward if they fire independently given "
        "response and preference, as simulated here. R2 is "
        f"{r2['estimator, 2 signals']:.2f} with two and {r2['estimator, 3 signals']:.2f} with "
        "three signals. The naive classifier on any of them "
        f"gets {r2['naive, any of 2 signals']:.2f} and {r2['naive, any of 3 signals']:.2f}, true "
        f"labels {r2['all true labels']:.2f}."
    )
    return log, rewards


def _fit(estimator, X, y, groups):
    """Fit without the warning about a single signal, because the printed text says the same."""
    with warnings.catch_warnings():
        if y.ndim == 1:
            warnings.simplefilter("ignore", IdentificationWarning)
        estimator.fit(X, y, groups=groups)


def quarters(values):
    """Return in which quarter of all each value is, by rank: 0 (lowest) to 3."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return rank * 4 // len(values)


def constant_log_likelihood(train, test):
    """Compute the log-likelihood of test actions for a prediction that ignores X.

    It is the log frequency, among training rows, of each row's pattern of actions, (n,) or (n, K).
    One row of each of the 2^K patterns is added, so that every pattern is possible.
    """
    train, test = (y.reshape(len(y), -1).astype(int) for y in (train, test))
    powers = 2 ** np.arange(train.shape[1])
    counts = np.bincount(train @ powers, minlength=2 ** len(powers)) + 1
    return np.log(counts / counts.sum())[test @ powers]


# ---------------------------------------------------------------------- real log


def describe_log(problem, seed=0):
    """Fit a real log of one signal, and print what it shows and what it does not.

    Returns P(action | response), reward, its spread and propensity, estimated for the test rows.
    """
    X, y, groups, test = problem.X, problem.y, problem.groups, problem.is_test
    train = ~test
    # C = 1/d: the logits of standardised features then have variance about 1 a priori.
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1 / X.shape[1], max_iter=1000))
    logistic.fit(X[train], y[train])
    naive = ImplicitRewardEstimator("naive", random_state=seed)
    estimator = ImplicitRewardEstimator(random_state=seed)
    for model in (naive, estimator):
        _fit(model, X[train], y[train], groups[train])
    reward, spread = estimator.predict(X[test], return_std=True)
    action = estimator.predict_action(X[test])
    propensity = estimator.propensity(X[test])

    constant = constant_log_likelihood(y[train], y[test])
    error_name = f"std. error ({len(np.unique(groups[test]))} {problem.group_name}s)"
    print(f"model of the action   log-lik. per row    gain  {error_name}")
    print("-" * (48 + len(error_name)))
    print(f"constant (base rate)  {constant.mean():16.3f}       -  {'-':>{len(error_name)}}")
    for name, probability in (
        ("logistic regression", logistic.predict_proba(X[test])[:, 1]),
        ("naive classifier", naive.predict_action(X[test])),
        ("estimator", action),
    ):
        p = np.clip(probability.astype(float), 1e-7, 1 - 1e-7)
        values = np.where(y[test] == 1, np.log(p), np.log1p(-p))
        gain, error = mean_gain(values - constant, groups[test])
        print(f"{name:20}  {values.mean():16.3f}  {gain:+6.3f}  {error:{len(error_name)}.3f}")
    print("\nestimated, test rows      5 %    25 %    50 %    75 %    95 %\n" + "-" * 61)
    estimates = action, reward, spread, propensity
    names = "P(action | response)", "reward", "spread of the reward", "propensity"
    for name, values in zip(names, estimates, strict=True):
        percentiles = np.percentile(values, (5, 25, 50, 75, 95))
        print(f"{name:21}" + "".join(f"{value:8.3f}" for value in percentiles))
    print()
    _say(
        "No preference is known: the first table evaluates only predictions of the action, not the "
        "reward. One signal identifies only the product of reward and propensity. Any reward "
        "between P(action | response) and 1 (at the median, "
        f"{np.median(action):.2f} and 1) fits the log equally well. The estimator splits the "
        f"product evenly ({np.median(reward):.2f} at the median, about the square root of P). "
        "This is a convention, not evidence. The spread over the members of the model "
        f"({np.median(spread):.2f}) does not measure what the log leaves open. A second signal of "
        "the same users on the same responses would be evidence."
    )
    return estimates


def mean_gain(difference, groups):
    """Compute the mean of log-likelihood differences, and its standard error over groups.

    The error is sqrt(G / (G - 1) sum_g s_g^2) / n, because rows of one group may depend on each
    other. Here s_g is the sum over group g of the deviations from the mean. NaN for one group.
    """
    mean = difference.mean()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], difference - mean)
    if len(sums) == 1:
        return mean, np.nan
    return mean, np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(difference)


# ---------------------------------------------------------------------- figures

# The palette of Okabe and Ito for colour-blind readers; markers and dashes work without colour.
_STYLES = {
    "naive, 1 signal": ("o--", "#D55E00"),
    "estimator, 1 signal": ("^-.", "#56B4E9"),
    "estimator, 2 signals": ("s-", "#0072B2"),
    "estimator, 3 signals": ("D-", "#009E73"),
    "all true labels": ("x:", "#000000"),
}


def _save_figure(path, problem, found):
    """Plot the results in two panels, and save them."""
    import matplotlib
    from matplotlib.figure import Figure

    sizes = {"font.size": 14, "axes.titlesize": 15, "lines.linewidth": 2.2, "lines.markersize": 8}
    open_axes = {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(sizes | open_axes):
        # One below the other: legible on a telephone.
        figure = Figure(figsize=(7, 9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)
        draw = _draw_log if problem.is_log else _draw_rewards
        draw(*figure.subplots(2), problem, *found)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=110)
    print(f"Figure: {path}")


def _draw_rewards(upper, lower, problem, log, rewards):
    """Plot the calibration of the rewards, and their bias by propensity."""
    preference = problem.y[problem.is_test]
    preferred = preference == 1
    quarter = quarters(log.propensity[problem.is_test, 0][preferred])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, (marker, color) in _STYLES.items():
        bins = np.array_split(np.argsort(rewards[name], kind="stable"), 6)
        means = [[values[rows].mean() for rows in bins] for values in (rewards[name], preference)]
        upper.plot(*means, marker, color=color)
        means = [rewards[name][preferred][quarter == q].mean() for q in range(4)]
        lower.plot(means, marker, color=color, label=name)
    upper.set(ylabel="share truly preferred", title="Calibration: on the diagonal is right")
    upper.set_xlabel("estimated reward (mean of a sixth of the rows)")
    lower.set(ylabel="mean estimated reward", title="Preferred only: dotted is the goal")
    lower.set(xlabel="quarter of true propensity, signal 1", ylim=(-0.03, 1.03))
    lower.set_xticks(range(4), ["lowest", "2nd", "3rd", "highest"])


def _draw_log(upper, lower, problem, action, reward, spread, propensity):
    """Plot the estimated distributions, and what the log leaves open."""
    # Reward and propensity nearly coincide, so a thin line on a wide one shows both.
    upper.ecdf(action, label="P(action | response)", color="#D55E00", linestyle="--")
    upper.ecdf(reward, label="reward", color="#56B4E9", linewidth=5)
    upper.ecdf(propensity, label="propensity", color="#000000", linestyle=":")
    upper.set(xlabel="estimated probability", ylabel="share of test rows below", xlim=(0, 1))
    upper.set_title("What the estimator makes of the log")
    lower.fill_between([0, 1], [0, 1], [1, 1], color="#56B4E9", alpha=0.25, linewidth=0)
    lower.errorbar(action, reward, yerr=spread, fmt="none", ecolor="0.55", elinewidth=0.8, zorder=2)
    lower.plot(action, reward, "o", color="#0072B2", markersize=4, zorder=3)
    lower.text(0.03, 0.96, "any reward in the shaded area\nfits the log equally well", va="top")
    lower.set(xlabel="P(action | response)", ylabel="estimated reward (bars: spread)")
    lower.set(xlim=(0, 1), ylim=(0, 1.02), title="What one signal leaves open")


def _figure_path(args):
    """Return the path of the figure, None for no figure; checked before the fits, not after."""
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
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in known or not path.parent.is_dir():
        raise ImplicitRMError(f"--figure {path} needs an existing folder and an ending of {known}.")
    return path


# ---------------------------------------------------------------------- command line


def main(argv=None):
    """Run the demo with these arguments (None: those of the process), return the exit code."""
    args = _parse(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: print(f"note: {text}", file=sys.stderr)
            path = _figure_path(args)
            problem = bundled_problem(args.seed) if args.data is None else file_problem(args)
            _say(problem.description)
            found = (describe_log if problem.is_log else compare_rewards)(problem, args.seed)
            if path is not None:
                _save_figure(path, problem, found)
    except (ValueError, OSError, ImportError) as error:
        text = re.sub(r"\b(data_home|encoder|embeddings)=", r"--\1=", " ".join(str(error).split()))
        print(f"error: {text.replace('--data_home', '--data-home')}", file=sys.stderr)
        return 2
    return 0


def _say(text):
    print(textwrap.fill(text, 80, break_on_hyphens=False), end="\n\n", flush=True)


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m implicitrm_sk.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("your data (all need --data)")
    for option, metavar, text in (
        ("--data", "FILE|NAME", "parquet file (prompt, response, rating), or its name"),
        ("--data-home", "DIR", "of NAME (default: $IMPLICITRM_DATA, else ~/implicitrm_data)"),
        ("--embeddings", "FILE", "safetensors (default: NAME_ENCODER.safetensors beside it)"),
        ("--encoder", "NAME", "which of several embeddings to take"),
        ("--embedder", "MODEL", "embed the text: minilm, smollm2, a folder, .gguf file or hub id"),
    ):
        data.add_argument(option, metavar=metavar, help=text)
    text = "preferred (in a log: acted) is a rating > T (default: the middle one; in a log 0 or 1)"
    data.add_argument("--threshold", type=float, metavar="T", help=text)
    text = f"the ratings are what users did, 1 or 0 (always so for {', '.join(REAL_LOGS)})"
    data.add_argument("--log", action="store_true", help=text)
    figure = parser.add_mutually_exclusive_group()
    figure.add_argument("--figure", metavar="PATH", help=f"default: {DEFAULT_FIGURE}")
    figure.add_argument("--no-figure", action="store_true", help="save no figure")
    parser.add_argument("--seed", type=int, default=0, help="of split, log and fits (default: 0)")
    args = parser.parse_args(argv)
    if args.data is None:
        for name in ("data_home", "embeddings", "encoder", "embedder", "threshold", "log"):
            if getattr(args, name) not in (None, False):
                parser.error(f"--{name.replace('_', '-')} needs --data")
    return args


if __name__ == "__main__":
    sys.exit(main())
