"""The verdict on logs in the image of real ones: broken ways are refused, sound ones are not.

The shapes are those of the public logs of `load_feedback_log`: sizes, rates, exposures, what
co-occurs. No row of them is copied.
"""

import functools
import re
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from implicitrm_sk import (
    IdentificationWarning,
    ImplicitRewardEstimator,
    identification_report,
)
from implicitrm_sk._identification import with_activity
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import label_queue
from implicitrm_sk.signals import Choice

LOOKED_AT = {"shared_examination": False}


def features(n, rng, d=8):
    """Return X, and a preference of the given mean that depends on it."""
    X = rng.normal(size=(n, d)).astype(np.float32)
    return X, X[:, 0] + 0.7 * X[:, 1] * (X[:, 2] > 0)


def preference(score, rate, rng):
    shift = np.quantile(score, 1 - rate)
    return (rng.random(len(score)) < 1 / (1 + np.exp(-3 * (score - shift)))).astype(int)


def draw(p, rng):
    return (rng.random(p.shape) < p).astype(float)


# Simulated logs: X, y, further arguments of fit, parameters, truth


def thumbs(rng, way):
    """Like oasst1: 800 answers, 82 % good, 1.7 thumbs; users are wrong at rates of .16 and .32."""
    X, score = features(812, rng)
    r = preference(score, 0.82, rng)
    if way == "sound":
        chances = [np.where(r == c, p, 0.0) for c, p in ((1, 0.7), (0, 0.7), (0, 0.3))]
        params = LOOKED_AT | {"signals": ["positive", "negative", "negative"]}
        return X, np.column_stack([draw(p, rng) for p in chances]), {}, params, r
    n_up = rng.poisson(np.where(r == 1, 1.4, 0.5))
    n_down = rng.poisson(np.where(r == 1, 0.3, 1.4))
    up, down = (n_up > 0).astype(float), (n_down > 0).astype(float)
    flag = down * draw(np.full(len(r), 0.1), rng)
    if way == "inverted":
        return X, np.column_stack([up, 1 - down, 1 - flag]), {}, LOOKED_AT, r
    label = np.where(n_up > 0, 1.0, np.where(n_down > 0, 0.0, np.nan))
    return X, up, {"labels": label}, {}, r


def survey(rng, way):
    """Like wikimedia: 950 pairs, 27 % relevant, some 100 exposures, nine in ten are silent."""
    X, score = features(951, rng)
    r = preference(score, 0.27, rng)
    shown = np.round(12 + rng.exponential(80, len(r)))
    if way == "yes, sound":
        n_yes = rng.binomial(shown.astype(int), np.where(r == 1, 0.13, 0.02)).astype(float)
        return X, n_yes, {"exposures": shown}, {}, r
    if way == "yes":
        # What is liked says little, and how readily readers answer much: columns know most of it,
        # so that counts vary by a third more than binomial ones only.
        ready = np.exp(0.6 * X[:, 3] + 0.25 * rng.normal(size=len(r)))
        yes = np.minimum(np.where(r == 1, 0.07, 0.04) * ready, 0.5)
        n_yes = rng.binomial(shown.astype(int), yes).astype(float)
        return X, n_yes, {"exposures": shown}, {}, r
    yes, no = np.where(r == 1, 0.07, 0.03), np.where(r == 1, 0.05, 0.1)
    if way != "sound":  # pairs differ in how readily readers answer, and in the answer
        yes, no = (rng.beta(p * 8, (1 - p) * 8) for p in (yes, no))
    n_yes, n_no = (rng.binomial(shown.astype(int), p).astype(float) for p in (yes, no))
    if way == "stray yes":
        params = {"false_action_rate": 0.0}
        return X, n_yes, {"exposures": shown}, params, r
    if way == "inverted":
        y = np.column_stack([n_yes, shown - n_no])
        shown = np.column_stack([shown, shown])
        return X, y, {"exposures": shown}, {"false_action_rate": 0.0}, r
    params = {"signals": ["positive", "negative"]}
    shown = np.column_stack([shown, shown])
    return X, np.column_stack([n_yes, n_no]), {"exposures": shown}, params, r


def few_pairs(rng, way):
    """Like wikimedia_mvp: 50 pairs of which nothing is known but some 230 answers to each."""
    r = (rng.random(50) < 0.55).astype(int)
    shown = np.round(20 + rng.exponential(210, 50))
    chances = np.where(r == 1, 0.13, 0.04), np.where(r == 1, 0.1, 0.26)
    if way != "sound":
        chances = (rng.beta(p * 12, (1 - p) * 12) for p in chances)
    n_yes, n_no = (rng.binomial(shown.astype(int), p).astype(float) for p in chances)
    X = np.ones((50, 1), dtype=np.float32)
    if way == "sound":
        params = {"signals": ["positive", "negative"]}
        side = {"exposures": np.column_stack([shown, shown]), "groups": np.arange(50)}
        return X, np.column_stack([n_yes, n_no]), side, params, r
    if way == "stray yes":
        return X, n_yes, {"exposures": shown}, {"false_action_rate": 0.0}, r
    y = np.column_stack([n_yes, shown - n_no])
    side = {"exposures": np.column_stack([shown, shown])}
    return X, y, side, {"false_action_rate": 0.0}, r


def views(rng, way):
    """Like kuairand: verdicts on videos, 79 % liked, but whether they were watched decides."""
    X, score = features(4000, rng)
    r = preference(score, 0.79, rng)
    if way == "sound":
        y = r[:, None] * draw(np.tile([0.6, 0.4, 0.3], (len(r), 1)), rng)
        return X, y, {}, LOOKED_AT, r
    # What is opened depends on the columns in a direction of its own.
    click = draw(1 / (1 + np.exp(-(0.7 + 2 * X[:, 3]))), rng)
    long_view = click * draw(np.full(len(r), 0.7), rng)
    if way == "steps":
        return X, np.column_stack([click, long_view]), {}, LOOKED_AT, r
    own = [draw(np.where(r == 1, p, p / 2) * (0.2 + 0.8 * long_view), rng) for p in (0.3, 0.2)]
    most = np.where(draw(np.full(len(r), 0.9), rng) > 0, long_view, 1 - long_view)
    # Not one part of another, but all of one watch.
    other = np.where(draw(np.full(len(r), 0.85), rng) > 0, click, 0.0)
    return X, np.column_stack([most, other, *own]), {}, LOOKED_AT, r


def ratings(rng, way):
    """Like coat: one in twelve is rated, by choice; high and low exclude each other."""
    X, score = features(6000, rng)
    r = preference(score, 0.18, rng)
    rated = draw(np.where(r == 1, 0.14, 0.07), rng)
    high = rated * np.where(r == 1, draw(np.full(len(r), 0.8), rng), 0.0)
    low = rated * (1 - high)
    if way == "sound":
        choice = np.select([(rated == 1) & (r == 1), rated == 1], ["high", "low"], "none")
        params = LOOKED_AT | {"signals": [Choice({"high": 1, "low": 0}, silent="none")]}
        label = np.where(draw(np.full(len(r), 0.1), rng) == 1, r, np.nan)
        return X, choice, {"labels": label}, params, r
    if way == "inverted":
        return X, np.column_stack([high, 1 - low]), {}, LOOKED_AT, r
    if way == "part":
        return X, np.column_stack([rated, high]), {}, LOOKED_AT, r
    if way == "labels":  # on what was rated, and on a few others
        asked = draw(np.full(len(r), 0.05), rng) * (1 - rated)
        label = np.where(rated == 1, high, np.where(asked == 1, r, np.nan)).astype(float)
        return X, high, {"labels": np.where(high == 1, 1.0, label)}, {}, r
    choice = np.select([high == 1, low == 1], ["high", "low"], "none")
    params = {"signals": [Choice({"high": 1, "low": 0}, silent="none")]}
    return X, choice, {}, params, r


@functools.cache
def fitted(simulator, way, seed):
    """Return the level, the level error and the AUROC of the reward of a way to pass a log."""
    X, y, side, params, r = simulator(np.random.default_rng(seed), way)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = ImplicitRewardEstimator(
            learning_rate_init=0.003, n_estimators=2, random_state=seed, **params
        ).fit(X, y, **side)
    reward = est.predict(X)
    return est.identification_, abs(reward.mean() - r.mean()), roc_auc_score(r, reward)


BROKEN = [
    (thumbs, "inverted"),
    (thumbs, "labels"),
    (survey, "stray yes"),
    (survey, "inverted"),
    (survey, "over-dispersed"),
    (survey, "yes"),
    (few_pairs, "stray yes"),
    (few_pairs, "inverted"),
    (views, "steps"),
    (views, "watched"),
    (ratings, "inverted"),
    (ratings, "part"),
    (ratings, "labels"),
    (ratings, "exclusive"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("simulator", "way"), BROKEN)
def test_a_broken_way_is_not_called_identified(simulator, way):
    found, level_error, auroc = fitted(simulator, way, seed=0)
    assert found.level != "identified" or (level_error <= 0.15 and auroc >= 0.6), found.reason


@pytest.mark.slow
@pytest.mark.parametrize(("simulator", "way"), BROKEN)
def test_a_broken_way_is_not_called_identified_on_other_logs(simulator, way):
    for seed in range(1, 6):
        found, level_error, auroc = fitted(simulator, way, seed)
        assert found.level != "identified" or (level_error <= 0.15 and auroc >= 0.6), seed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulator", "way"),
    [
        (thumbs, "sound"),
        (survey, "sound"),
        (survey, "yes, sound"),
        (few_pairs, "sound"),
        (views, "sound"),
        (ratings, "sound"),
    ],
)
def test_logs_that_satisfy_the_model_are_called_identified(simulator, way):
    levels = [fitted(simulator, way, seed)[0].level for seed in range(40)]
    assert levels.count("identified") >= 36, levels


def test_one_answer_that_satisfies_the_model_is_called_identified():
    found, level_error, auroc = fitted(survey, "yes, sound", seed=0)
    assert found.level == "identified", found.reason
    assert level_error <= 0.05
    assert auroc >= 0.8


def test_counts_of_one_answer_are_tested_on_all_responses():
    # The 190 responses that are held out of this fit are too few to show it.
    found, level_error, _ = fitted(survey, "yes", seed=1)
    assert level_error > 0.15
    assert found.level == "not identified"
    assert "times as large on 951 responses" in found.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulator", "way", "words"),
    [
        (thumbs, "labels", "labels are not counted: which responses have one depends on what"),
        (survey, "over-dispersed", "counts of one response vary more than exposures of one"),
        (views, "steps", "steps of one action"),
        (ratings, "inverted", "actions on most rows that would each prove preference"),
    ],
)
def test_the_reason_names_the_cause(simulator, way, words):
    found, _, _ = fitted(simulator, way, seed=0)
    assert found.level == "not identified"
    assert words in found.reason


def test_steps_and_inverted_signals_are_named():
    X, y, side, params, _ = views(np.random.default_rng(0), "steps")
    est = ImplicitRewardEstimator(max_epochs=1, early_stopping=False, **params)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        est.fit(X, y, **side)
    messages = [str(each.message) for each in given]
    assert any("signal 1 of y hardly ever happens without 0" in text for text in messages)
    X, y, side, params, _ = ratings(np.random.default_rng(0), "inverted")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        est.fit(X, y, **side)
    messages = [str(each.message) for each in given]
    assert any("signal '1' of y is 1 on 9" in text for text in messages)


def dependent_logs():
    """Yield logs of two sound negative actions, and two positive ones that depend on each other."""
    rng = np.random.default_rng(0)
    X, score = features(2000, rng)
    r, one = preference(score, 0.5, rng), np.ones(2000)
    negative = [np.where(r == 0, draw(one * p, rng), 0) for p in (0.5, 0.4)]
    accept = np.where(r == 1, draw(one * 0.5, rng), 0)
    share = np.where((r == 1) & (accept == 0), draw(one * 0.5, rng), 0)
    positive = {
        "sound": np.where(r == 1, draw(one * 0.5, rng), 0),
        "equals": accept,
        "hardly ever happens without": accept * draw(one * 0.9, rng),
        "hardly ever happens together with": share,
    }
    for words, other in positive.items():
        yield pytest.param(X, np.column_stack([accept, other, *negative]), r, words, id=words)


@pytest.mark.parametrize("users", [False, True])
@pytest.mark.parametrize(("X", "y", "r", "words"), list(dependent_logs()))
def test_dependent_signals_lower_the_verdict_whatever_else_identifies(X, y, r, words, users):
    est = ImplicitRewardEstimator(
        signals=["positive", "positive", "negative", "negative"],
        learning_rate_init=0.01,
        random_state=0,
        **LOOKED_AT,
    )
    user = {"user_id": np.arange(len(X)) % 250} if users else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, y, **user)
    found = est.identification_
    if words == "sound":
        assert found.level == "identified"
        return
    assert found.level == "not identified"
    assert words in found.against
    if words != "hardly ever happens together with":
        assert abs(est.predict(X).mean() - r.mean()) > 0.08  # so it is not a formality


@pytest.mark.parametrize(("X", "y", "r", "words"), list(dependent_logs()))
def test_dependent_signals_lower_the_verdict_of_batches(X, y, r, words, tmp_path):
    signs = ["positive", "positive", "negative", "negative"]
    est = ImplicitRewardEstimator(signals=signs, random_state=0, **LOOKED_AT)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for rows in np.array_split(np.arange(len(X)), 100):  # in none of them could it be seen
            est.partial_fit(X[rows], y[rows])
        whole = est.coincidences_
        est.save(tmp_path / "model")
        est = ImplicitRewardEstimator.load(tmp_path / "model").partial_fit(X[:20], y[:20])
    found = est.identification_
    given = [w for w in given if issubclass(w.category, IdentificationWarning)]
    if words == "sound":
        assert found.level == "identified" and not given
        return
    assert found.level == "not identified" and words in found.against
    assert len(given) == 1 and words in str(given[0].message)
    assert whole.logged.max() == len(X) == est.coincidences_.logged.max() - 20


def test_what_a_whole_log_contradicts_stays_contradicted_by_batches():
    X, y = next(dependent_logs()).values[:2]
    y[::2] = 0  # half of the rows were not looked at
    signs = ["positive", "positive", "negative", "negative"]
    est = ImplicitRewardEstimator(signals=signs, random_state=0, **LOOKED_AT)
    with pytest.warns(IdentificationWarning, match="silent together"):
        est.fit(X, y)
    before = est.identification_
    assert before.level == "not identified"
    est.partial_fit(X[:500], y[:500])
    assert est.identification_ == before
    assert est.evidence_.n_responses == len(X) + 500


def test_bounds_of_dependent_signals_stay_and_users_do_not_raise_them():
    logs = {log.id: log.values for log in dependent_logs()}
    X, y, _, _ = logs["hardly ever happens without"]
    y = np.column_stack([y[:, :3], logs["sound"][1][:, 1]])
    est = ImplicitRewardEstimator(
        signals=["positive", "positive", "negative", "positive"], max_epochs=1, early_stopping=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, y)
    found = est.identification_
    assert found.level == "bounded"
    assert "hardly ever happens without" in found.against
    active = with_activity(found, np.array([3.0]), np.full(300, 40), looked_at=True)
    assert active.level == "bounded"


#: Signals, propensities and false-action rate of logs that break no assumption, some actions rare.
RARE = {
    "two positive": ("pp", (0.18, 0.21), 0.0),
    "three positive": ("ppp", (0.1, 0.15, 0.2), 0.0),
    "rare negative": ("ppn", (0.55, 0.18, 0.21), 0.0),
    "rare negative, false actions": ("ppn", (0.55, 0.18, 0.21), 0.02),
    "two of each": ("ppnn", (0.5, 0.2, 0.2, 0.1), 0.0),
}


def fitted_to_rare_actions(kinds, propensity, rate, seed, **params):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2100, 4))
    R = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    signals = ["positive" if kind == "p" else "negative" for kind in kinds]
    log = simulate_feedback(
        R,
        signals=signals,
        propensity=np.tile(propensity, (len(R), 1)),
        false_action_rate=rate,
        random_state=seed,
    )
    est = ImplicitRewardEstimator(
        signals=signals,
        false_action_rate=rate,
        learning_rate_init=0.003,
        random_state=0,
        **LOOKED_AT | params,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)
        est.fit(X, log.actions)
    return est, est.predict(X).mean() - R.mean(), X, log.actions


@pytest.mark.slow
@pytest.mark.parametrize("kind", RARE)
def test_level_where_actions_are_rare(kind):
    found = [fitted_to_rare_actions(*RARE[kind], seed)[:2] for seed in range(3)]
    # One log in many contradicts independence by chance.
    assert sum(est.identification_.level == "identified" for est, _ in found) >= 2
    errors = np.array([error for _, error in found])
    assert np.abs(errors).max() < 0.11
    assert np.abs(errors).mean() < 0.075


def test_a_log_too_small_for_its_level_is_called_that():
    """Two rare negative actions and a rarer positive one: the level was off by 0.33."""
    est, error, X, y = fitted_to_rare_actions("nnp", (0.3, 0.2, 0.1), 0.0, 0)
    assert abs(error) > 0.15
    found = est.identification_
    assert found.level == "not identified"
    assert "too small to show the level" in found.reason and "Collect more" in found.advice[0]
    with pytest.warns(IdentificationWarning, match="More rows help"):
        clone(est).fit(X, y)
    report = identification_report(est, X, y, n_starts=2)
    assert report.level == "not identified"


def test_labels_that_contradict_the_signals_are_noticed():
    rng = np.random.default_rng(0)
    X, score = features(3000, rng)
    r = preference(score, 0.8, rng)
    # Both signals show whether a video was watched, which has nothing to do with the preference.
    watched = draw(np.full(len(r), 0.5), rng)
    y = np.column_stack([watched * draw(np.full(len(r), p), rng) for p in (0.6, 0.5)])
    label = np.full(len(r), np.nan)
    label[:100] = r[:100]
    label[:100][y[:100].any(axis=1)] = np.nan  # those whose preference e = 0 proves tell nothing
    y[:100] = 0
    label[:100] = r[:100]
    est = ImplicitRewardEstimator(
        false_action_rate=0.05, random_state=0, n_estimators=2, **LOOKED_AT
    )
    with (
        pytest.warns(UserWarning, match="labels are known of 0.0% of the responses with an action"),
        pytest.warns(IdentificationWarning, match="the labels contradict the signals"),
    ):
        est.fit(X, y, labels=label)
    assert est.identification_.level == "not identified"
    assert "LogisticRegression" in est.identification_.advice[0]


@pytest.mark.parametrize(
    ("mechanism", "level", "words"),
    [
        ("random", "bounded", "depends on what users did"),
        ("asked", "identified", "label_mechanism='asked'"),
    ],
)
def test_labels_of_a_queue_count_if_it_is_said_that_they_were_asked_for(mechanism, level, words):
    """With false actions no row is proved, but the queue still avoids rows with an action."""
    rng = np.random.default_rng(0)
    X, score = features(1500, rng)
    r = preference(score, 0.8, rng)
    y = r[:, None] * draw(np.full((len(r), 2), 0.5), rng)
    y = np.maximum(y, draw(np.full(y.shape, 0.05), rng))
    est = ImplicitRewardEstimator(
        false_action_rate=0.05, label_mechanism=mechanism, random_state=0, max_epochs=20
    )
    rows = label_queue(est, X, y, 120)
    label = np.full(len(r), np.nan)
    label[rows] = r[rows]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        est.fit(X, y, labels=label)
        report = identification_report(est, X, y, labels=label, n_starts=2)
    doubts = [one for one in record if "labels are known of" in str(one.message)]
    assert bool(doubts) == (mechanism == "random")
    assert all("set label_mechanism='asked'" in str(one.message) for one in doubts)
    assert est.identification_.level == report.settings.level == level
    assert report.labels_selected == (mechanism == "random") and words in str(report)
    n_counted = 0 if mechanism == "random" else len(rows)
    assert (f"{n_counted} responses are labelled" in est.identification_.reason) == bool(n_counted)


@pytest.mark.parametrize(
    "way", ["of what is disliked", "at random", "asked where nothing is proved"]
)
def test_labels_that_depend_on_the_reward_are_noticed(way):
    """Users rate what they dislike; whether they act hardly tells which responses these are."""
    rng = np.random.default_rng(0)
    X, score = features(3000, rng)
    r = preference(score, 0.6, rng)
    y = r[:, None] * draw(np.full((len(r), 2), 0.3), rng)
    share = np.where(score < np.median(score), 0.3, 0.08)
    if way == "at random":
        share = np.full(len(r), 0.19)
    label = np.where(rng.random(len(r)) < share, r, np.nan)
    if way == "asked where nothing is proved":
        label[y.any(axis=1)] = np.nan
    est = ImplicitRewardEstimator(random_state=0, n_estimators=2, max_epochs=20, **LOOKED_AT)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        est.fit(X, y, labels=label)
    said = [str(one.message) for one in record if "labels are known of" in str(one.message)]
    assert len(said) == (way == "of what is disliked")
    if said:
        assert re.search(
            r"known of 1\d\.\d% of the responses whose fitted .* 2\d\.\d% of the others",
            said[0],
        )
        assert "label_queue" in said[0] and "Choice" in said[0]
        assert est.identification_.level == "identified"  # chosen by X, which the model knows
