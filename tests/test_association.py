"""Signals that co-occur as their signs do not allow are named, others are not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import FAST

from benchmarks.newcomer import newcomer_log
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk._association import explain, find_associations


def log(n=3000, seed=0, cause=None):
    """Return counts of three acts, covariates and signs; `cause` breaks what the signs say."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    R = 1 / (1 + np.exp(-2 * x))
    preferred = rng.random(n) < R
    up, share = preferred & (rng.random(n) < 0.4), preferred & (rng.random(n) < 0.5)
    down = ~preferred & (rng.random(n) < 0.4)
    if cause == "exclusive":
        share &= ~up
    counts = np.column_stack([up, share, down]).astype(float)
    covariates = np.log(np.column_stack([R, 1 - R]))
    return counts, covariates, np.array([1, 1, 1 if cause == "sign" else 0])


def found(counts, covariates, target, weight=None, clusters=None):
    weight = np.ones(len(counts)) if weight is None else weight
    names = ["up", "share", "down"]
    return find_associations(counts, covariates, weight, clusters, target, np.arange(3), names)


def test_what_agrees_with_its_signs_is_not_named():
    assert not any(found(*log(n, seed)) for n in (500, 3000) for seed in range(10))


def test_a_wrong_sign_is_named_with_its_counts():
    counts, covariates, target = log(cause="sign")
    pairs = found(counts, covariates, target)
    assert [each.signals for each in pairs] == [("up", "down"), ("share", "down")]
    assert all(each.same_sign and each.z < -5 and each.seen == 0 for each in pairs)
    text = explain(pairs)
    assert "'up' and 'down' (of the same sign) co-occur on 0 of 3000 rows" in text
    assert "'down' disagrees with each of the others" in text
    for cause in ("sign", "exclude each other", "not offered"):
        assert cause in text


def test_exclusive_outcomes_are_named_and_no_one_is_singled_out():
    pairs = found(*log(cause="exclusive"))
    assert [each.signals for each in pairs] == [("up", "share")]
    assert "one of them has the wrong sign" in explain(pairs)


def test_opposite_signs_that_go_together_are_named():
    counts, covariates, target = log()
    counts[:, 2] = counts[:, 0]
    pairs = found(counts, covariates, target)
    assert ("up", "down") in [each.signals for each in pairs]
    assert not next(each for each in pairs if each.signals == ("up", "down")).same_sign


def test_rows_of_one_cluster_are_no_evidence_of_their_own():
    counts, covariates, target = log(110, cause="sign")
    assert not found(counts, covariates, target)
    repeated = [np.repeat(part, 30, axis=0) for part in (counts, covariates)]
    assert found(*repeated, target)
    assert not found(*repeated, target, clusters=np.repeat(np.arange(110), 30))


@pytest.mark.parametrize(
    "columns", [["copied", "regenerated"], ["copied", "shared", "regenerated"]]
)
def test_a_negative_action_passed_as_positive_identifies_nothing(columns):
    X, actions, text, _, _ = newcomer_log(0)
    settings = {"shared_examination": False, "random_state": 0}
    with pytest.warns(IdentificationWarning, match="'copied' and 'regenerated'"):
        est = ImplicitRewardEstimator(**settings).fit(X, actions[columns], groups=text)
    assert est.identification_.level == "not identified"
    signals = {name: "negative" if name == "regenerated" else "positive" for name in columns}
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentificationWarning)
        est = ImplicitRewardEstimator(signals=signals, **settings)
        est.fit(X, actions[columns], groups=text)
    assert est.identification_.level == ("bounded" if len(columns) == 2 else "identified")


def test_a_response_with_both_is_a_contradiction():
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = pd.DataFrame({"copied": np.arange(60) % 2, "regenerated": (np.arange(60) % 3 == 1) * 1})
    signals = {"copied": "positive", "regenerated": "negative"}
    with pytest.raises(ValueError, match=r"10 responses .* row 1, has 'copied' .*'regenerated'"):
        ImplicitRewardEstimator(signals=signals, **FAST).fit(X, y)
