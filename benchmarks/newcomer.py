"""A product log as a newcomer brings it: chats of two models, four topics, users who differ.

    python -m benchmarks.newcomer [--seeds 5] [--first-seed 0]

3,600 rows of 240 users, prompts from 320 texts. A text has a vector of 16 normal numbers, a topic
and an offset of the propensities (1.0, 0.6, -1.2, -1.8 by topic). X is its vector, the topics
and the model as 0 and 1, and 4 numbers of the response. What users like depends on all of these.
Users differ in activity b ~ N(0, 0.9^2):

    copied = liked and sigmoid(offset + 0.6 b), shared = liked and sigmoid(0.3 offset - 1 + 0.6 b),
    regenerated = disliked and sigmoid(-0.6 + 0.5 b), up on 5 % of liked rows, down on 5 to 12 % of
    disliked ones, by topic

The table has R2 and AUROC against the true preference on the last third of the texts, the seeds in
which a row is at least as good as copied and shared in either, and the verdict.
`shared_examination=False` is stated in all rows.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from implicitrm_sk import ImplicitRewardEstimator

OFFSETS = np.array([1.0, 0.6, -1.2, -1.8])
DOWN = np.array([0.05, 0.07, 0.1, 0.12])
#: Columns, and which of them are named as negative.
ROWS = {
    "copied, shared": (["copied", "shared"], []),
    "copied, regenerated (negative)": (["copied", "regenerated"], ["regenerated"]),
    "copied, shared, regenerated (negative)": (
        ["copied", "shared", "regenerated"],
        ["regenerated"],
    ),
    "copied, regenerated (as positive)": (["copied", "regenerated"], []),
    "copied, shared, regenerated (as positive)": (["copied", "shared", "regenerated"], []),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def newcomer_log(seed, n=3600, n_users=240, n_texts=320):
    """Return X, a DataFrame of actions, text and user of each row, and the true preference."""
    rng = np.random.default_rng(seed)
    topic_of, vectors = rng.integers(4, size=n_texts), rng.normal(size=(n_texts, 16))
    text, user = rng.integers(n_texts, size=n), rng.integers(n_users, size=n)
    model = rng.integers(2, size=n)
    topic, response = topic_of[text], rng.normal(size=(n, 4))
    b = 0.9 * rng.normal(size=n_users)[user]
    direction, own = rng.normal(size=16) / 4, rng.normal(size=4) / 2
    score = 1.5 * vectors[text] @ direction + 1.5 * response @ own
    score += 0.6 * model + rng.normal(size=4)[topic] * 0.5
    liked = rng.random(n) < sigmoid(1.5 * score)
    offset = OFFSETS[topic]

    def happens(p):
        return rng.random(n) < p

    actions = pd.DataFrame(
        {
            "copied": liked & happens(sigmoid(offset + 0.6 * b)),
            "shared": liked & happens(sigmoid(0.3 * offset - 1 + 0.6 * b)),
            "regenerated": ~liked & happens(sigmoid(-0.6 + 0.5 * b)),
            "up": liked & happens(0.05),
            "down": ~liked & happens(DOWN[topic]),
        }
    ).astype(int)
    X = np.column_stack([vectors[text], np.eye(4)[topic], model, response])
    return X, actions, text, user, liked.astype(int)


def evaluate(seed):
    """Yield (row, R2, AUROC, verdict) on one log."""
    X, actions, text, _, liked = newcomer_log(seed)
    train = text < 213
    for row, (columns, negative) in ROWS.items():
        signals = {name: "negative" if name in negative else "positive" for name in columns}
        est = ImplicitRewardEstimator(signals=signals, shared_examination=False, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            est.fit(X[train], actions.loc[train, columns], groups=text[train])
        reward = est.predict(X[~train])
        r2 = est.score(X[~train], None, true_preference=liked[~train])
        yield row, r2, roc_auc_score(liked[~train], reward), est.identification_


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args(argv)
    found = {row: [] for row in ROWS}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for row, *values in evaluate(seed):
            found[row].append(values)
    print(
        "| signals | R2, mean (worst) | AUROC, mean (worst) | R2, AUROC at least those of copied, "
        "shared | verdicts |"
    )
    print("|---|---|---|---|---|")
    reference = np.array([v[:2] for v in next(iter(found.values()))], dtype=float)
    for row, values in found.items():
        r2, auroc = np.array([v[:2] for v in values], dtype=float).T
        wins = (np.column_stack([r2, auroc]) >= reference).sum(axis=0)
        levels = pd.Series([v[2].level for v in values]).value_counts()
        verdicts = ", ".join(f"{level} ({count})" for level, count in levels.items())
        print(
            f"| {row} | {r2.mean():.3f} ({r2.min():.3f}) | {auroc.mean():.3f} ({auroc.min():.3f}) "
            f"| {'/'.join(map(str, wins))} of {len(values)} | {verdicts} |"
        )


if __name__ == "__main__":
    main()
