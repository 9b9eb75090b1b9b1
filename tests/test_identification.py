"""What a log can tell about the reward: counts, levels with their assumptions, the warning."""

import inspect
import pickle
import warnings

import joblib
import numpy as np
import pytest
from conftest import FAST
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import implicitrm_sk
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk._assumptions import Assumptions
from implicitrm_sk._features import HeadColumns
from implicitrm_sk._identification import (
    ADVICE,
    BOUNDED,
    IDENTIFIED,
    LEVEL_ONLY,
    MIN_RESPONSES,
    NOT_IDENTIFIED,
    RANKING_ONLY,
    Evidence,
    Identification,
    assess,
)
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk.objectives import OBJECTIVES, Naive, Objective, Stratified

nan = np.nan
QUICK = FAST | {"max_epochs": 2, "early_stopping": False}
rng = np.random.default_rng(0)
X = rng.normal(size=(100, 4))
Y = (rng.uniform(size=(100, 3)) < 0.4).astype(float)
#: Enough rows to show a level.
LIKED = rng.uniform(size=(1000, 1)) < 0.5
MANY = {
    "X": rng.normal(size=(1000, 4)),
    "y": (LIKED & (rng.uniform(size=(1000, 3)) < 0.6)).astype(float),
}


def labels(n, value=None, size=100):
    """Return labels of the last n responses, 0 and 1 in turn or all equal."""
    preference = np.full(size, nan)
    if n:
        preference[-n:] = np.arange(n) % 2 if value is None else value
    return preference


# ---------------------------------------------------------------- evidence


def count(y, *, e=0.0, **arguments):
    log, _ = FeedbackLog.from_arguments(
        y, len(y), Assumptions(false_action_rate=0.0), Stratified(), purpose="query", **arguments
    )
    return Evidence.of(log, np.full(log.actions.shape[1], e))


def test_counts_of_a_plain_log():
    evidence = count([1, 0, 1, nan])
    assert evidence == Evidence(n_responses=3, n_acted=2)


def test_counts_of_signals_logged_together():
    y = [[1, 0, 0], [0, 0, nan], [nan, 1, nan], [nan, nan, nan], [nan, 0, 1]]
    evidence = count(y, sample_weight=[1, 1, 1, 1, 0])
    assert evidence == Evidence(
        n_responses=3, n_acted=2, n_several_signals=2, n_three_signals=1, n_two_positive=2
    )
    # One signal each in two rows of a response were logged together too.
    y = [[1, nan, nan], [nan, 0, nan], [nan, nan, 0], [0, nan, nan]]
    assert count(y).n_several_signals == 0
    evidence = count(y, response_id=[0, 0, 0, 1])
    assert evidence == Evidence(
        n_responses=2, n_acted=1, n_several_signals=1, n_three_signals=1, n_two_positive=1
    )


def test_counts_of_repeated_exposures():
    expected = Evidence(n_responses=3, n_acted=2, n_repeated=2)
    assert count([1, 0, 1, 0], exposures=[2, 5, 1, 0]) == expected
    ids = [0] * 2 + [1] * 5 + [2]
    assert count([0, 1, 0, 0, 0, 0, 0, 1], response_id=ids) == expected
    assert count([0, 1, 0, 0, 0, nan, nan, nan, 1], response_id=[0, 0, *[1] * 6, 2]) == expected
    # Two signals once each are no repetition.
    assert count([[1, 0], [0, 0]]).n_repeated == 0


def test_counts_of_labels_and_known_propensities():
    evidence = count(
        [1, 0, nan, 0, 1],
        labels=[1, 0, 0.5, nan, 0],
        propensity=[0.5, nan, 0.5, 1, 0.5],
        sample_weight=[1, 1, 1, 1, 0],
    )
    assert evidence == Evidence(
        n_responses=4,
        n_acted=1,
        n_labels=3,
        n_labels_telling=2,
        n_known_propensity=2,
    )
    # Where actions may be false, given or to be estimated, the label of the first row tells.
    for e in (0.1, nan):
        assert count([1, 0, nan], labels=[1, 0, nan], e=e).n_labels_telling == 2
    # An action certain to follow preference disproves it.
    assert count([1, 0], labels=[nan, 0], propensity=[nan, 1]).n_labels_telling == 0


def test_labels_that_actions_prove_identify_nothing():
    y = (np.arange(100) < 60).astype(float)
    preference = np.where(np.arange(100) < 50, 1.0, nan)
    preference[98:] = [0, 1]
    est = ImplicitRewardEstimator(**QUICK)
    words = "50 of 52 labels add nothing.* 2 labels that add something are too few"
    selected = pytest.warns(UserWarning, match="83.3% of the responses with an action, .* Choice")
    with selected, pytest.warns(IdentificationWarning, match=words):
        est.fit(X, y, labels=preference)
    assert est.identification_.level == NOT_IDENTIFIED
    with pytest.warns(IdentificationWarning):
        est.fit(X, y, labels=np.where(np.arange(100) < 25, 1.0, nan))
    assert est.identification_.swap_symmetric  # nothing has been said that y does not say
    preference[70:98] = np.arange(28) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.fit(X, y, labels=preference)
    assert "30 responses are labelled" in est.identification_.reason
    assert "50 of 80 labels add nothing, because actions prove" in est.identification_.reason


IDLE = {
    "never acted": (
        np.zeros(100),
        "signal 1 of y is 0 in every row where it is logged: it carries",
    ),
    "always acted": (
        np.ones(100),
        "signal 1 of y is 1 in every row where it is logged: it carries",
    ),
    "never logged": (np.full(100, nan), "signal 1 of y is never logged: it carries"),
    "copy": (Y[:, 0], "signal 1 of y equals signal 0 wherever both are logged: a copy carries"),
    "copy with gaps": (np.where(np.arange(100) % 3, Y[:, 0], nan), "signal 1 of y equals signal 0"),
}


@pytest.mark.parametrize("case", IDLE)
@pytest.mark.parametrize("response_id", [None, np.arange(100) // 2], ids=["rows", "repeated"])
def test_signals_that_tell_nothing_identify_nothing(case, response_id):
    column, message = IDLE[case]
    est = ImplicitRewardEstimator(false_action_rate=0.0, **QUICK)
    x = X if response_id is None else X[response_id]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est.fit(x, np.column_stack([Y[:, 0], column]), response_id=response_id)
    assert any(message in str(warning.message) for warning in caught)
    if response_id is None:
        assert est.identification_.level == NOT_IDENTIFIED
        assert "Constant signals, copies and steps" in est.identification_.reason
        assert any(issubclass(warning.category, IdentificationWarning) for warning in caught)
    else:
        assert est.evidence_.n_several_signals == 0
        assert "independent signals" not in est.identification_.assumptions


def test_signals_that_differ_once_are_steps_of_one_action_and_rare_ones_are_not():
    y = np.column_stack([Y[:, 0], Y[:, 0]])
    y[np.flatnonzero(y[:, 1])[0], 1] = 0
    est = ImplicitRewardEstimator(**QUICK, shared_examination=False)
    with pytest.warns(UserWarning, match="signal 1 of y hardly ever happens without 0"):
        est.fit(X, y)
    assert est.identification_.level == "not identified"
    rare = np.zeros((100, 2))
    rare[: MIN_RESPONSES - 1] = 1
    assert est.fit(X, rare).identification_.level == "identified"


def test_evidence_adds_up():
    y = (rng.uniform(size=(60, 2)) < 0.5).astype(float)
    y[rng.uniform(size=y.shape) < 0.3] = nan
    arguments = {"labels": labels(9, size=60), "exposures": rng.integers(1, 4, size=60)}
    parts = [
        count(y[part], **{name: value[part] for name, value in arguments.items()})
        for part in np.array_split(np.arange(60), 3)
    ]
    assert sum(parts, Evidence()) == count(y, **arguments)
    assert Evidence() + parts[0] == parts[0]


def test_relation_of_the_columns():
    for reward, propensity, expected in (
        ([0, 1], [0, 1], "same"),
        ([0, 1], [2], "disjoint"),
        ([0, 1], [1, 2], "overlapping"),
        ([0, 1], [1], "overlapping"),
        ([1], [0, 1], "overlapping"),
    ):
        assert HeadColumns(np.array(reward), np.array(propensity), 9).relation == expected


# ---------------------------------------------------------------- levels

TWO = Evidence(n_responses=500, n_several_signals=500, n_two_positive=500)
THREE = TWO + Evidence(n_three_signals=500)
BOTH = Evidence(n_responses=500, n_several_signals=500, n_both=500)
TWO_OF_EACH = TWO + Evidence(n_both=500, n_two_negative=500)
LOOKED_AT = "independent signals of rows that were looked at"
LOOKING = "looking depends on x, not on the preference"
EXAMINED = ["independent signals", "every row was looked at"]
ONE = Evidence(n_responses=500)
FEW_LABELS = Evidence(n_responses=500, n_labels=30, n_labels_telling=MIN_RESPONSES - 1)
LABELS = Evidence(n_responses=500, n_labels=30, n_labels_telling=MIN_RESPONSES)
KNOWN = Evidence(n_responses=500, n_known_propensity=MIN_RESPONSES)
REPEATED = Evidence(n_responses=500, n_repeated=MIN_RESPONSES)
RATIO = "readiness for positive and negative actions in a constant ratio"
EXCLUSION = "the reward depends on its columns only, the propensity on its own"
CASES = {
    "one signal": (ONE, {}, NOT_IDENTIFIED, []),
    "two signals": (TWO, {"n_signals": 2}, BOUNDED, [LOOKED_AT]),
    "two signals, looked at": (TWO, {"n_signals": 2, "examined": True}, IDENTIFIED, EXAMINED),
    "three signals": (THREE, {"n_signals": 3, "examined": True}, IDENTIFIED, EXAMINED),
    "two signals, false actions given": (
        TWO,
        {"n_signals": 2, "false_actions": "given", "examined": True},
        IDENTIFIED,
        [*EXAMINED, "the false-action rate given"],
    ),
    "one of each": (BOTH, {"n_signals": 2}, BOUNDED, []),
    "one of each, looked at": (BOTH, {"n_signals": 2, "examined": True}, BOUNDED, []),
    "one of each in a constant ratio": (
        BOTH,
        {"n_signals": 2, "shared_propensity": True},
        RANKING_ONLY,
        [RATIO],
    ),
    "one of each in a constant ratio, and a rate": (
        BOTH,
        {"n_signals": 2, "shared_propensity": True, "preference_rate": (0.4, 0.4)},
        IDENTIFIED,
        [RATIO, "the preference rate is 0.4"],
    ),
    "two of each": (TWO_OF_EACH, {"n_signals": 4}, BOUNDED, [LOOKED_AT]),
    "two of each, looked at": (
        TWO_OF_EACH,
        {"n_signals": 4, "examined": True},
        IDENTIFIED,
        EXAMINED,
    ),
    "two of each, some not looked at": (
        TWO_OF_EACH,
        {"n_signals": 4, "examined": False},
        IDENTIFIED,
        [LOOKED_AT, LOOKING],
    ),
    "two signals that are hardly logged together": (
        Evidence(n_responses=500, n_several_signals=MIN_RESPONSES - 1),
        {"n_signals": 2},
        NOT_IDENTIFIED,
        [],
    ),
    "as few as may be": (
        Evidence(n_responses=500, n_several_signals=MIN_RESPONSES, n_two_positive=MIN_RESPONSES),
        {"n_signals": 2, "examined": True},
        IDENTIFIED,
        EXAMINED,
    ),
    "repeated exposures": (
        REPEATED,
        {},
        IDENTIFIED,
        ["independent exposures of one preference"],
    ),
    "labels": (LABELS, {}, IDENTIFIED, ["labels missing at random"]),
    "too few labels": (FEW_LABELS, {}, NOT_IDENTIFIED, []),
    "labels of acted rows": (
        LABELS,
        {"label_mechanism": "acted", "false_actions": "given"},
        IDENTIFIED,
        ["labels of acted rows missing at random", "the false-action rate given"],
    ),
    "labels of acted rows, false actions estimated": (
        LABELS,
        {"label_mechanism": "acted", "false_actions": "estimated"},
        NOT_IDENTIFIED,
        [],
    ),
    "labels, false actions estimated": (
        LABELS,
        {"false_actions": "estimated"},
        IDENTIFIED,
        ["labels missing at random", "constant false-action rates"],
    ),
    "known propensities": (KNOWN, {}, IDENTIFIED, ["the propensities given"]),
    "exclusion": (ONE, {"columns": "disjoint"}, RANKING_ONLY, [EXCLUSION]),
    "exclusion and a rate": (
        ONE,
        {"columns": "disjoint", "preference_rate": (0.4, 0.4)},
        IDENTIFIED,
        [EXCLUSION, "the preference rate is 0.4"],
    ),
    "exclusion and an interval": (
        ONE,
        {"columns": "disjoint", "preference_rate": (0.3, 0.5)},
        RANKING_ONLY,
        [EXCLUSION],
    ),
    "exclusion and two signals": (
        TWO,
        {"columns": "disjoint", "n_signals": 2, "examined": True},
        IDENTIFIED,
        EXAMINED,
    ),
    "overlap": (ONE, {"columns": "overlapping"}, NOT_IDENTIFIED, []),
    "a rate": (
        ONE,
        {"preference_rate": (0.4, 0.4)},
        LEVEL_ONLY,
        ["the preference rate is 0.4"],
    ),
    "an interval": (
        ONE,
        {"preference_rate": (0.3, 0.5)},
        LEVEL_ONLY,
        ["the preference rate is in [0.3, 0.5]"],
    ),
    "overlap and a rate": (
        ONE,
        {"columns": "overlapping", "preference_rate": (0.4, 0.4)},
        LEVEL_ONLY,
        ["the preference rate is 0.4"],
    ),
    "all at once": (
        TWO + LABELS + KNOWN + REPEATED,
        {"n_signals": 2, "preference_rate": (0.4, 0.4), "examined": True},
        IDENTIFIED,
        [
            *EXAMINED,
            "independent exposures of one preference",
            "labels missing at random",
            "the propensities given",
            "the preference rate is 0.4",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_level_and_assumptions(case):
    evidence, settings, level, assumptions = CASES[case]
    found = assess(evidence, objective=Stratified(), **settings)
    assert found.level == level
    assert list(found.assumptions) == assumptions
    assert found.reason.endswith(".") and found.reason.count(".") <= 3
    assert str(found) == (f"{level} (assuming {', '.join(assumptions)})" if assumptions else level)
    # Whatever does not settle it comes with a way out.
    assert found.advice or level == IDENTIFIED


def test_reasons_and_advice_fit_the_case():
    def found(case):
        evidence, settings, *_ = CASES[case]
        return assess(evidence, objective=Stratified(), **settings)

    one = found("one signal")
    assert one.reason == "one signal determines only the product of reward and propensity."
    assert one.advice[:2] == (ADVICE["signals"], ADVICE["negative"])
    assert one.advice[2:] == (ADVICE["labels"], ADVICE["exclusion"])
    assert not any("regenerate" in ADVICE[name] for name in ("signals", "third"))
    assert found("two signals").reason.startswith("500 responses have several logged signals, but")
    assert found("two signals").advice[0] == ADVICE["examined"]
    both = found("one of each")
    assert "between P(positive action) and 1 - P(negative action)" in both.reason
    looked_at = found("two signals, looked at")
    assert looked_at.reason == "500 responses have several logged signals."
    assert looked_at.advice == (ADVICE["third"], ADVICE["users"])
    assert found("three signals").advice == (ADVICE["users"],)
    assert (
        "only 19 responses have two signals logged"
        in found("two signals that are hardly logged together").reason
    )
    assert "19 labels that add something are too few" in found("too few labels").reason
    assert found("labels").reason == (
        "20 responses are labelled; 10 of 30 labels add nothing, because actions prove the "
        "preference of their responses."
    )
    assert ADVICE["level"] in found("exclusion").advice
    assert "up to a factor" in found("exclusion").reason
    assert found("exclusion and a rate").reason.endswith("the mean reward is held at 0.4.")
    assert found("an interval").reason.endswith("the mean reward is held in [0.3, 0.5].")
    assert "can be traded between them" in found("overlap").reason
    linear = assess(ONE, objective=Stratified(), linear=True)
    assert linear.level == NOT_IDENTIFIED
    assert "determined up to the swap R <-> A" in linear.reason


@pytest.mark.parametrize(
    ("evidence", "kinds"),
    [
        (TWO, ("two kinds", "negative")),
        (TWO + BOTH, ("a second kind", "negative")),
        (Evidence(n_responses=500, n_two_negative=500), ("two kinds", "positive")),
        (TWO_OF_EACH, None),
    ],
)
def test_the_advice_names_the_kinds_that_would_show_who_looked(evidence, kinds):
    advice = assess(evidence, objective=Stratified(), n_signals=2).advice
    assert (ADVICE["attention"] in advice) == (kinds is None)
    assert kinds is None or ADVICE["second"].format(*kinds) in advice
    assert sum(one.startswith("Log") and "of each polarity" in one for one in advice) == (
        kinds is not None
    )


class Other(Objective):
    """With a propensity, but not known to be symmetric."""


@pytest.mark.parametrize("evidence", [ONE, THREE, LABELS])
def test_naive_identifies_nothing(evidence):
    found = assess(evidence, objective=Naive(), n_signals=3, preference_rate=(0.4, 0.4))
    assert found.level == NOT_IDENTIFIED and not found.assumptions
    assert found.reason.startswith("Naive has no propensity")
    assert found.advice == ("Use objective='stratified'.",)
    assert not found.swap_symmetric


@pytest.mark.parametrize("name", [n for n, cls in OBJECTIVES.items() if cls.identifies is not None])
def test_who_has_several_signals_is_not_told_to_log_a_second_one(name):
    objective = OBJECTIVES[name]()
    one, two = (
        assess(evidence, objective=objective, n_signals=n_signals).advice
        for evidence, n_signals in ((ONE + KNOWN, 1), (TWO + KNOWN, 2))
    )
    if "propensity" in objective.uses:
        assert one == two != ()
        return
    assert one == (ADVICE["signals"], ADVICE["labels"])
    assert two == (ADVICE["several"], ADVICE["labels"])


@pytest.mark.parametrize("case", CASES)
def test_both_sides_of_the_swap_only_where_nothing_breaks_the_tie(case):
    evidence, settings, *_ = CASES[case]
    found = assess(evidence, objective=Stratified(), **settings)
    assert found.swap_symmetric == (case == "one signal")
    assert not assess(evidence, objective=Other(), **settings).swap_symmetric


def test_a_single_label_breaks_the_tie_without_settling_it():
    for evidence in (
        Evidence(n_responses=500, n_labels=1, n_labels_telling=1),
        Evidence(n_responses=500, n_known_propensity=1),
        Evidence(n_responses=500, n_repeated=1),
    ):
        found = assess(evidence, objective=Stratified())
        assert found.level == NOT_IDENTIFIED
        assert not found.swap_symmetric
    # False actions do not: the likelihood stays symmetric.
    assert assess(ONE, objective=Stratified(), false_actions="given").swap_symmetric


def test_identification_is_a_value():
    found = Identification(IDENTIFIED, ("a", "b"))
    assert str(found) == "identified (assuming a, b)"
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(AttributeError):
        found.level = NOT_IDENTIFIED


# ---------------------------------------------------------------- after fit

FITS = {
    "one signal": ({}, {"y": Y[:, 0]}, "not identified"),
    "one column": ({}, {"y": Y[:, :1]}, "not identified"),
    "two signals": ({}, {"y": Y[:, :2]}, f"bounded (assuming {LOOKED_AT})"),
    "two signals, looked at": (
        {"shared_examination": False},
        MANY | {"y": MANY["y"][:, :2]},
        f"identified (assuming {', '.join(EXAMINED)})",
    ),
    "one of each": (
        {"signals": ["positive", "negative"]},
        {"y": np.column_stack([Y[:, 0], (1 - Y[:, 0]) * Y[:, 1]])},
        "bounded",
    ),
    "one negative signal": ({"signals": ["negative"]}, {"y": Y[:, 0]}, "not identified"),
    "three signals": (
        {"shared_examination": False},
        MANY,
        f"identified (assuming {', '.join(EXAMINED)})",
    ),
    "two signals of few rows": (
        {"shared_examination": False},
        {"y": Y[:, :2]},
        "not identified",
    ),
    "three signals, false actions given": (
        {"false_action_rate": [0.0, 0.01, 0.0], "shared_examination": False},
        MANY,
        f"identified (assuming {', '.join(EXAMINED)}, the false-action rate given)",
    ),
    "false actions given": ({"false_action_rate": 0.1}, {"y": Y[:, 0]}, "not identified"),
    "one logged signal each": (
        {},
        {"y": np.where(np.arange(100)[:, None] % 2 == [0, 1], Y[:, :2], nan)},
        "not identified",
    ),
    "labels": (
        {"false_action_rate": 0.1},
        MANY | {"y": MANY["y"][:, 0], "labels": labels(300, size=1000)},
        "identified (assuming labels missing at random, the false-action rate given)",
    ),
    "too few labels": (
        {"false_action_rate": 0.1},
        {"y": Y[:, 0], "labels": labels(10)},
        "not identified",
    ),
    "counts": (
        {"false_action_rate": 0.0},
        {"y": Y[:, 0], "exposures": np.full(100, 3)},
        "identified (assuming independent exposures of one preference)",
    ),
    "long": (
        {"reward_features": [0], "propensity_features": [1], "false_action_rate": 0.0},
        {"y": Y[:, 0], "response_id": np.arange(100) // 2, "X": np.repeat(X[:50], 2, axis=0)},
        "identified (assuming independent exposures of one preference)",
    ),
    "known propensities": (
        {},
        {"y": Y[:, 0], "propensity": np.where(np.arange(100) < 30, 0.6, nan)},
        "identified (assuming the propensities given)",
    ),
    "exclusion": (
        {"propensity_features": [3]},
        {"y": Y[:, 0]},
        f"ranking only (assuming {EXCLUSION})",
    ),
    "overlap": (
        {"reward_features": [0, 1, 2], "propensity_features": [2, 3]},
        {"y": Y[:, 0]},
        "not identified",
    ),
    "exclusion and a rate": (
        {"propensity_features": [3], "preference_rate": 0.5},
        {"y": Y[:, 0]},
        f"identified (assuming {EXCLUSION}, the preference rate is 0.5)",
    ),
    "a rate": (
        {"preference_rate": 0.5},
        {"y": Y[:, 0]},
        "level only (assuming the preference rate is 0.5)",
    ),
    "an interval": (
        {"preference_rate": (0.5, 0.7)},
        {"y": Y[:, 0]},
        "level only (assuming the preference rate is in [0.5, 0.7])",
    ),
    "an interval that says nothing": (
        {"preference_rate": (0, 1)},
        {"y": Y[:, 0]},
        "not identified",
    ),
    "naive": ({"objective": "naive"}, {"y": Y[:, 0]}, "not identified"),
    "linear heads": ({"hidden_layer_sizes": ()}, {"y": Y[:, 0]}, "not identified"),
}
SYMMETRIC = {
    "one signal",
    "one negative signal",
    "one column",
    "false actions given",
    "an interval that says nothing",
    "linear heads",
}


@pytest.mark.parametrize("case", FITS)
def test_fit_tells_what_its_settings_tell(case):
    params, data, expected = FITS[case]
    estimator = ImplicitRewardEstimator(**QUICK | params)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        estimator.fit(**{"X": X} | data)
    assert str(estimator.identification_) == expected
    assert estimator.identification_.swap_symmetric == (case in SYMMETRIC)
    assert [warning.category for warning in record] == (
        [IdentificationWarning] if expected == "not identified" and case != "naive" else []
    )
    if case == "linear heads":
        assert "up to the swap" in estimator.identification_.reason


def test_no_weight_no_evidence():
    weight = np.ones(100)
    weight[:90] = 0
    estimator = ImplicitRewardEstimator(**QUICK).fit(X, Y[:, :2], sample_weight=weight)
    assert estimator.identification_.level == NOT_IDENTIFIED
    assert "only 10 responses have two signals" in estimator.identification_.reason


def test_partial_fit_adds_up_its_evidence():
    estimator = ImplicitRewardEstimator(**QUICK, shared_examination=False)
    for rows, level in ((slice(15), NOT_IDENTIFIED), (slice(15, 30), IDENTIFIED)):
        estimator.partial_fit(X[rows], Y[rows, :2])
        assert estimator.identification_.level == level
        estimator = pickle.loads(pickle.dumps(estimator))
    assert estimator.evidence_ == count(Y[:30, :2])
    # A fit starts anew.
    estimator.fit(X[:15], Y[:15, :2])
    assert estimator.identification_.level == NOT_IDENTIFIED


def test_partial_fit_goes_on_from_the_evidence_of_fit():
    preference = np.where(Y[:, 0] == 1, 1.0, labels(60))
    estimator = ImplicitRewardEstimator(**QUICK).fit(X, Y[:, 0], labels=preference)
    before = estimator.predict(X)
    estimator.partial_fit(X[:1], Y[:1, 0])
    assert estimator.identification_.level == IDENTIFIED
    assert np.abs(estimator.predict(X) - before).max() < 0.05


def test_the_mirror_image_goes_when_a_batch_breaks_the_tie():
    estimator = ImplicitRewardEstimator(**QUICK | {"n_estimators": 1}).partial_fit(X, Y[:, 0])
    assert estimator.identification_.swap_symmetric
    assert (estimator.predict(X, return_std=True)[1] > 0).all()
    preference = np.where(Y[:, 0] == 1, 1.0, labels(5, 0.0))
    with pytest.warns(UserWarning, match="labels are known of 100.0% of the responses with an"):
        estimator.partial_fit(X, Y[:, 0], labels=preference)
    assert not estimator.identification_.swap_symmetric
    assert np.isnan(estimator.predict(X, return_std=True)[1]).all()  # one member: no spread


def test_the_swap_on_columns_that_both_heads_are_given():
    both = {"reward_features": [0, 2], "propensity_features": [2, 0]}
    estimator = ImplicitRewardEstimator(**QUICK | both).fit(X, Y[:, 0])
    assert estimator.identification_.swap_symmetric
    plain = ImplicitRewardEstimator(**QUICK).fit(X[:, [0, 2]], Y[:, 0])
    assert_array_equal(estimator.predict(X), plain.predict(X[:, [0, 2]]))
    # The mirror image reads what the propensity reads, which is all there.
    assert_array_equal(estimator.predict(X[:, [0, 2]]), plain.predict(X[:, [0, 2]]))


# ---------------------------------------------------------------- the warning


def identification_warnings(function):
    """Return the IdentificationWarnings of a call; any other is an error."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("error")
        warnings.simplefilter("always", IdentificationWarning)
        function()
    return record


def test_fit_warns_once_at_the_users_line():
    def fit():
        estimator = ImplicitRewardEstimator(**QUICK)
        lines.append(inspect.currentframe().f_lineno + 1)
        estimator.fit(X, Y[:, 0])

    lines = []
    (warning,) = identification_warnings(fit)
    assert (warning.filename, warning.lineno) == (__file__, lines[0])
    text = str(warning.message)
    assert text.startswith("the reward is not identified: one signal determines only the product")
    assert "identification_.advice" in text
    assert text.endswith("filterwarnings('ignore', category=implicitrm_sk.IdentificationWarning).")
    # Every fit of one's own speaks for itself.
    assert len(identification_warnings(lambda: (fit(), fit()))) == 2


def test_partial_fit_warns_in_its_first_call():
    def fit():
        estimator = ImplicitRewardEstimator(**QUICK)
        lines.append(inspect.currentframe().f_lineno + 1)
        estimator.partial_fit(X, Y[:, 0])
        estimator.partial_fit(X, Y[:, 0])

    lines = []
    (warning,) = identification_warnings(fit)
    assert (warning.filename, warning.lineno) == (__file__, lines[0])


def search(estimator=None, **params):
    estimator = ImplicitRewardEstimator(**QUICK) if estimator is None else estimator
    name = "" if isinstance(estimator, ImplicitRewardEstimator) else "implicitrewardestimator__"
    grid = {f"{name}dropout": [0.0, 0.1]}
    return GridSearchCV(estimator, grid, cv=2, error_score="raise", **params)


def pipeline():
    return make_pipeline(StandardScaler(), ImplicitRewardEstimator(**QUICK))


@pytest.mark.parametrize(
    "fit",
    [
        lambda: pipeline().fit(X, Y[:, 0]),
        lambda: search().fit(X, Y[:, 0]),
        lambda: search(refit=False).fit(X, Y[:, 0]),
        lambda: search(pipeline()).fit(X, Y[:, 0]),
        lambda: make_pipeline(StandardScaler(), search()).fit(X, Y[:, 0]),
    ],
    ids=["pipeline", "search", "search without refit", "search of pipeline", "pipeline of search"],
)
def test_one_warning_per_pipeline_or_search(fit):
    assert len(identification_warnings(fit)) == 1
    assert len(identification_warnings(lambda: (fit(), fit()))) == 2


def test_one_warning_per_cross_validation():
    def fit():
        cross_validate(ImplicitRewardEstimator(**QUICK), X, Y[:, 0], cv=3, error_score="raise")

    for _ in range(3):  # one after another: the next may lie where the last one lay in memory
        assert len(identification_warnings(fit)) == 1


def test_one_warning_per_cross_validation_in_threads():
    def fit():
        with joblib.parallel_config("threading"):
            estimator = ImplicitRewardEstimator(**QUICK)
            cross_validate(estimator, X, Y[:, 0], cv=4, n_jobs=2, error_score="raise")

    assert len(identification_warnings(fit)) <= 1


@pytest.mark.slow
def test_one_warning_per_search_in_several_processes(capfd):
    assert len(identification_warnings(lambda: search(n_jobs=2).fit(X, Y[:, 0]))) == 1
    assert capfd.readouterr().err == ""
    assert not identification_warnings(lambda: search(n_jobs=2).fit(X, Y[:, :2]))


@pytest.mark.slow
def test_the_documented_line_silences_it(capfd):
    assert 'filterwarnings("ignore", category=implicitrm_sk.Ident' in IdentificationWarning.__doc__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=implicitrm_sk.IdentificationWarning)
        ImplicitRewardEstimator(**QUICK).fit(X, Y[:, 0]).partial_fit(X, Y[:, 0])
        search(pipeline()).fit(X, Y[:, 0])
        search(n_jobs=2).fit(X, Y[:, 0])
        cross_validate(ImplicitRewardEstimator(**QUICK), X, Y[:, 0], cv=2, n_jobs=2)
    assert capfd.readouterr().err == ""


def test_it_is_a_category_of_its_own():
    assert issubclass(IdentificationWarning, UserWarning)
    assert implicitrm_sk.IdentificationWarning is implicitrm_sk.exceptions.IdentificationWarning
