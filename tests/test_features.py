"""Which columns the heads read: selection, checks of X, columns that a new response lacks."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST
from numpy.testing import assert_array_equal
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._features import HeadColumns, select_features

QUICK = FAST | {"max_epochs": 4, "early_stopping": False}
NAMES = list("abcde")
rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5))
FRAME = pd.DataFrame(X, columns=NAMES)
Y = (rng.uniform(size=(120, 2)) < 0.4).astype(int)


def select(X, reward_features=None, propensity_features=None):
    """Return the positions that the two heads read, and what select_features makes of X."""
    estimator = ImplicitRewardEstimator(
        reward_features=reward_features, propensity_features=propensity_features
    )
    values = select_features(estimator, X, reset=True)
    return estimator.reward_columns_.tolist(), estimator.propensity_columns_.tolist(), values


@pytest.fixture(scope="module")
def by_name():
    return ImplicitRewardEstimator(reward_features=["a", "b", "c"], **QUICK).fit(FRAME, Y)


@pytest.fixture(scope="module")
def by_position():
    return ImplicitRewardEstimator(reward_features=[0, 1, 2], **QUICK).fit(X, Y)


# ---------------------------------------------------------------- the columns of the heads


def columns_of(reward, propensity, n_features=5, names=None):
    return HeadColumns(np.array(reward), np.array(propensity), n_features, names)


@pytest.mark.parametrize(
    ("reward", "propensity", "used", "positions"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], (None, None)),
        ([1, 3], [1, 3], [1, 3], (None, None)),  # of the columns in use they are all
        ([1, 3], [0, 4], [0, 1, 3, 4], ((1, 2), (0, 3))),
        ([1, 3], [3], [1, 3], (None, (1,))),
        ([4], [0, 4], [0, 4], ((1,), None)),
    ],
)
def test_columns_of_the_heads(reward, propensity, used, positions):
    columns = columns_of(reward, propensity)
    assert_array_equal(columns.used, used)
    assert columns.positions == positions
    assert columns.are_restricted == (len(reward) < 5)
    chosen = X[:, used]
    assert_array_equal(columns.reward_part(chosen), X[:, reward])
    if positions[0] is None:
        assert columns.reward_part(chosen) is chosen


def test_columns_of_an_estimator(by_name, by_position):
    for estimator, names in ((by_name, NAMES), (by_position, None)):
        columns = HeadColumns.of(estimator)
        assert_array_equal(columns.reward, [0, 1, 2])
        assert_array_equal(columns.propensity, [3, 4])
        assert columns.n_features == 5 and columns.relation == "disjoint"
        assert columns.names is None if names is None else list(columns.names) == names
        assert columns.labels([0, 4]) == ([0, 4] if names is None else ["a", "e"])
        assert all(type(label) in (int, str) for label in columns.labels(np.array([0, 4])))


@pytest.mark.parametrize(
    ("reward", "propensity", "message"),
    [
        ([0, 2], [3], r"reward_features selected the columns \[0, 1\] and now selects \[0, 2\]"),
        ([0, 1], [2, 3], r"propensity_features selected the columns \[3\] and now selects \[2, 3"),
    ],
)
def test_columns_of_a_fit_that_goes_on(reward, propensity, message):
    before = columns_of([0, 1], [3])
    columns_of([0, 1], [3]).check_same_as(before)
    with pytest.raises(ValueError, match=f"training cannot continue .*{message}"):
        columns_of(reward, propensity).check_same_as(before)


# ---------------------------------------------------------------- selection

BY_NAME = {
    "a name": ("c", [2]),
    "names": (["d", "a"], [0, 3]),
    "a tuple of names": (("a", "b"), [0, 1]),
    "an index": (pd.Index(["a", "e"]), [0, 4]),
    "names of type object": (np.array(["b"], dtype=object), [1]),
    "a slice of names, inclusive": (slice("b", "d"), [1, 2, 3]),
    "from a name on": (slice("d", None), [3, 4]),
    "up to a name": (slice(None, "b"), [0, 1]),
    "every second name": (slice("a", "e", 2), [0, 2, 4]),
    "from a position to a name": (slice(1, "c"), [1, 2]),
    "a selector of names": (make_column_selector("a|b"), [0, 1]),
    "a callable to names": (lambda X: X.columns[-2:], [3, 4]),
}
BY_POSITION = {
    "a position": (2, [2]),
    "a position of numpy": (np.int64(3), [3]),
    "a negative position": (-1, [4]),
    "positions": ([3, 0], [0, 3]),
    "negative positions": ([-2, 0], [0, 3]),
    "a range": (range(1, 3), [1, 2]),
    "a slice": (slice(1, 3), [1, 2]),
    "a slice from the end": (slice(-2, None), [3, 4]),
    "a backward slice": (slice(4, 2, -1), [3, 4]),
    "a mask": ([True, False, False, True, False], [0, 3]),
    "a mask of numpy": (np.arange(5) > 2, [3, 4]),
    "a mask of pandas": (pd.Series(np.arange(5) > 2, index=NAMES), [3, 4]),
    "a callable to positions": (lambda X: [X.shape[1] - 1], [4]),
    "a callable to a mask": (lambda X: np.arange(X.shape[1]) < 1, [0]),
    "a callable to a slice": (lambda X: slice(2), [0, 1]),
}


@pytest.mark.parametrize("case", BY_NAME)
def test_selection_by_name(case):
    key, expected = BY_NAME[case]
    rest = np.setdiff1d(range(5), expected).tolist()
    assert select(FRAME, reward_features=key)[:2] == (expected, rest)
    assert select(FRAME, propensity_features=key)[:2] == (rest, expected)


@pytest.mark.parametrize("data", [X, FRAME, X.tolist(), torch.from_numpy(X)])
@pytest.mark.parametrize("case", BY_POSITION)
def test_selection_by_position(case, data):
    key, expected = BY_POSITION[case]
    rest = np.setdiff1d(range(5), expected).tolist()
    assert select(data, reward_features=key)[:2] == (expected, rest)
    assert select(data, propensity_features=key)[:2] == (rest, expected)


def test_none_is_all_columns_and_overlap_must_be_stated():
    everything = list(range(5))
    assert select(X)[:2] == (everything, everything)
    assert select(X, [0, 1], [1, 2])[:2] == ([0, 1], [1, 2])
    assert select(X, slice(None), [4])[:2] == (everything, [4])
    assert select(X, [4], slice(None))[:2] == ([4], everything)
    assert select(X, [0, 1], [0, 1])[:2] == ([0, 1], [0, 1])
    for params, restricted in (
        ({}, False),
        ({"reward_features": slice(None), "propensity_features": slice(None)}, False),
        ({"reward_features": slice(None), "propensity_features": [0]}, True),
        ({"reward_features": [0], "propensity_features": [0]}, True),
    ):
        estimator = ImplicitRewardEstimator(**params)
        select_features(estimator, X, reset=True)
        assert HeadColumns.of(estimator).are_restricted == restricted


def test_values_are_the_columns_in_use_in_the_order_of_X():
    estimator = ImplicitRewardEstimator(reward_features=[3, 0], propensity_features=[4, 3])
    assert_array_equal(select_features(estimator, X, reset=True), X[:, [0, 3, 4]])
    assert HeadColumns.of(estimator).positions == ((0, 1), (1, 2))
    estimator = ImplicitRewardEstimator(reward_features=[1, 0], propensity_features=[0, 1])
    assert_array_equal(select_features(estimator, X, reset=True), X[:, :2])
    assert HeadColumns.of(estimator).positions == (None, None)


@pytest.mark.parametrize("data", [X, FRAME])
@pytest.mark.parametrize("selection", [None, [0, 1]])
@pytest.mark.parametrize(
    ("given", "kept"),
    [("float16", "float16"), ("float32", "float32"), ("int32", "float64"), ("bool", "float64")],
)
def test_floats_are_kept_as_they_are(data, selection, given, kept):
    values = select(data.astype(given), selection)[2]
    assert isinstance(values, np.ndarray)
    assert values.dtype == kept


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([], "reward_features selects none of the columns of X; expected at least one"),
        ([False] * 5, "reward_features selects none of the columns of X"),
        (slice(7, 9), "reward_features selects none of the columns of X"),
        (slice("d", "b"), "reward_features selects none of the columns of X"),
        (lambda X: [], "reward_features selects none of the columns of X"),
        ("f", "names the column 'f', which X lacks. X has the columns a, b, c, d, e."),
        (["a", "f"], "names the column 'f', which X lacks"),
        (slice("a", "f"), "names the column 'f', which X lacks"),
        (["a", 1], "names the column '1', which X lacks"),
        (
            [True] * 4,
            "reward_features is a mask of length 4; expected one entry per column",
        ),
        ([0, 5], "reward_features selects column 5, but X has 5 columns. Use positions 0 to 4"),
        (-6, "reward_features selects column -6, but X has 5 columns. Use positions 0 to 4"),
        (["b", "a", "b"], "reward_features selects a column twice: ['b']"),
        ([0, -5], "reward_features selects a column twice: ['a']"),
        ([0.0], "reward_features must select columns by name, position, slice or mask"),
        ([[0, 1]], "reward_features must be a column, a list of columns, a slice, a mask or"),
        (True, "reward_features must be a column, a list of columns, a slice, a mask or"),
        (lambda X: None, "or a callable that returns one of these, got"),
        ({"a"}, "reward_features must be a column, a list of columns, a slice, a mask or"),
        (2.5, "The 'reward_features' parameter of ImplicitRewardEstimator must be"),
    ],
)
def test_bad_selection(key, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImplicitRewardEstimator(reward_features=key, **QUICK).fit(FRAME, Y)
    both = {"reward_features": slice(None), "propensity_features": key}
    with pytest.raises(ValueError, match=re.escape(message.replace("reward_f", "propensity_f"))):
        ImplicitRewardEstimator(**both, **QUICK).fit(FRAME, Y)


@pytest.mark.parametrize("key", [NAMES, slice(None), [True] * 5])
def test_all_columns_for_one_head_leave_none_for_the_other(key):
    one, other = "reward_features", "propensity_features"
    for a, b in ((one, other), (other, one)):
        message = f"{a} selects all 5 columns of X, .* are left for {b}=None.* Set both"
        with pytest.raises(ValueError, match=message):
            ImplicitRewardEstimator(**{a: key}, **QUICK).fit(FRAME, Y)


@pytest.mark.parametrize("key", ["a", ["a", "b"], slice("a", "b"), slice(None, "b")])
@pytest.mark.parametrize("data", [X, pd.DataFrame(X)])
def test_names_need_named_columns(key, data):
    message = "reward_features names the column '[ab]', but X does not have column names"
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(reward_features=key, **QUICK).fit(data, Y)


def test_many_columns_are_not_all_listed():
    wide = pd.DataFrame(np.zeros((3, 20)), columns=[f"e{i}" for i in range(20)])
    with pytest.raises(ValueError, match=r"X has the columns e0, .*, e9, \.\.\.\."):
        select(wide, "user")


# ---------------------------------------------------------------- what fit makes of it


def test_heads_read_their_columns_and_no_others():
    # One member: the propensity of a mixture is weighted by the rewards of the members.
    params = QUICK | {"n_estimators": 1, "reward_features": [0, 1, 2]}
    estimator = ImplicitRewardEstimator(**params).fit(X, Y)
    reward, propensity = estimator.predict(X), estimator.propensity(X)
    for column in range(5):
        moved = X.copy()
        moved[:, column] += 1
        assert np.array_equal(estimator.predict(moved), reward) == (column > 2)
        assert (np.abs(estimator.propensity(moved) - propensity).max() < 1e-6) == (column < 3)
    assert estimator.n_features_in_ == 5


def test_columns_that_neither_head_reads_do_not_matter():
    params = QUICK | {"reward_features": ["a", "b"], "propensity_features": ["c"]}
    plain = ImplicitRewardEstimator(**params).fit(FRAME[["a", "b", "c"]], Y)
    other = FRAME.assign(d="text", e=np.nan)
    estimator = ImplicitRewardEstimator(**params).fit(other, Y)
    assert_array_equal(estimator.predict(other), plain.predict(FRAME[["a", "b", "c"]]))
    assert estimator.n_features_in_ == 5
    assert_array_equal(estimator.feature_names_in_, NAMES)
    assert len(estimator.scaler_.mean_) == 3


def test_names_positions_and_masks_fit_the_same(by_name, by_position):
    expected = by_position.predict_proba(X)
    assert_array_equal(by_name.predict_proba(FRAME), expected)
    for selection in ({"propensity_features": slice("d", "e")}, {"reward_features": [True] * 3}):
        if "reward_features" in selection:
            selection["reward_features"] += [False] * 2
        estimator = ImplicitRewardEstimator(**selection, **QUICK).fit(FRAME, Y)
        assert_array_equal(estimator.predict_proba(FRAME), expected)


@pytest.mark.parametrize("n_actions", [None, 2])
def test_all_columns_stated_is_none_given(n_actions):
    y = Y if n_actions else Y[:, 0]
    stated = {"reward_features": slice(None), "propensity_features": slice(None)}
    estimator = ImplicitRewardEstimator(**stated, **QUICK).fit(X, y)
    plain = ImplicitRewardEstimator(**QUICK).fit(X, y)
    assert_array_equal(estimator.predict_proba(X), plain.predict_proba(X))
    assert estimator.identification_ == plain.identification_


def test_partial_fit_selects_too():
    params = QUICK | {"reward_features": ["a", "b"]}
    estimator = ImplicitRewardEstimator(**params).partial_fit(FRAME, Y)
    estimator.partial_fit(FRAME[NAMES[::-1]], Y)
    twin = ImplicitRewardEstimator(**params).partial_fit(FRAME, Y).partial_fit(FRAME, Y)
    assert_array_equal(estimator.predict(FRAME), twin.predict(FRAME))
    with pytest.raises(ValueError, match=r"X lacks the columns \['c', 'd', 'e'\]"):
        estimator.partial_fit(FRAME[["a", "b"]], Y)


# ---------------------------------------------------------------- columns of a new response


def frames_without():
    some = FRAME.copy()
    some.loc[::3, "e"] = np.nan
    return {
        "missing": FRAME[["a", "b", "c"]],
        "one missing": FRAME[["a", "b", "c", "e"]],
        "NaN": FRAME.assign(d=np.nan, e=np.nan),
        "NaN in some rows": some,
    }


def arrays_without():
    some = X.copy()
    some[::3, 4] = np.nan
    return {"missing": X[:, :3], "NaN": np.c_[X[:, :3], X[:, 3:] * np.nan], "some": some}


@pytest.mark.parametrize("case", frames_without())
def test_reward_does_without_named_propensity_columns(by_name, case):
    data = frames_without()[case]
    assert_array_equal(by_name.predict(data), by_name.predict(FRAME))
    assert_array_equal(by_name.decision_function(data), by_name.decision_function(FRAME))
    assert_array_equal(
        by_name.predict(data, return_std=True), by_name.predict(FRAME, return_std=True)
    )
    truth = Y[:, 0]
    assert by_name.score(data, None, true_preference=truth) == by_name.score(
        FRAME, None, true_preference=truth
    )
    lacking = {"missing": r"\['d', 'e'\]", "one missing": r"\['d'\]", "NaN": r"\['d', 'e'\]"}
    message = f"columns {lacking.get(case, re.escape(str(['e'])))}"
    for method in (by_name.propensity, by_name.predict_action, by_name.predict_proba):
        with pytest.raises(ValueError, match=message):
            method(data)
    with pytest.raises(ValueError, match=message):
        by_name.score(data, Y)


@pytest.mark.parametrize("case", arrays_without())
def test_reward_does_without_propensity_columns_of_arrays(by_position, case):
    data = arrays_without()[case]
    assert_array_equal(by_position.predict(data), by_position.predict(X))
    assert_array_equal(by_position.decision_function(data), by_position.decision_function(X))
    assert_array_equal(
        by_position.predict(data, return_std=True), by_position.predict(X, return_std=True)
    )
    message = r"columns \[4\]" if case == "some" else r"columns \[3, 4\]"
    for method in (by_position.propensity, by_position.predict_action, by_position.predict_proba):
        with pytest.raises(ValueError, match=message):
            method(data)
    with pytest.raises(ValueError, match=message):
        by_position.score(data, Y)


def test_columns_may_lack_before_and_between_those_of_the_reward():
    names = {"reward_features": ["b", "d"]}
    estimator = ImplicitRewardEstimator(**QUICK | names).fit(FRAME, Y)
    reward = estimator.predict(FRAME)
    for columns in (["b", "d"], ["d", "b"], ["d", "c", "b"], ["b", "d", "e"]):
        assert_array_equal(estimator.predict(FRAME[columns]), reward)
    estimator = ImplicitRewardEstimator(reward_features=[1, 3], **QUICK).fit(X, Y)
    assert_array_equal(estimator.predict(X[:, [1, 3]]), reward)


def test_shared_columns_are_needed_by_the_reward():
    params = QUICK | {"reward_features": ["a", "b", "c"], "propensity_features": ["c", "d"]}
    estimator = ImplicitRewardEstimator(**params).fit(FRAME, Y)
    reward = estimator.predict(FRAME)
    assert_array_equal(estimator.predict(FRAME[["a", "b", "c"]]), reward)
    assert_array_equal(estimator.predict(FRAME.assign(d=np.nan)), reward)
    with pytest.raises(ValueError, match=r"X lacks the columns \['c'\]"):
        estimator.predict(FRAME[["a", "b", "d"]])
    with pytest.raises(ValueError, match=r"in 120 rows of the reward columns \['c'\]"):
        estimator.predict(FRAME.assign(c=np.nan))


def test_fit_needs_every_column_in_use():
    for column, role in (("b", "reward"), ("d", "propensity")):
        for bad in (np.nan, np.inf):
            data = FRAME.copy()
            data.loc[:2, column] = bad
            message = rf"NaN or infinity in 3 rows of the {role} columns \['{column}'\]. Fill them"
            with pytest.raises(ValueError, match=message):
                ImplicitRewardEstimator(reward_features=["a", "b"], **QUICK).fit(data, Y)


def test_infinity_is_never_taken_for_missing(by_position):
    data = X.copy()
    data[0, 4] = np.inf
    for method in (by_position.predict, by_position.propensity):
        with pytest.raises(ValueError, match=r"infinity in 1 rows of the propensity columns \[4\]"):
            method(data)


# ---------------------------------------------------------------- names and width


def test_named_columns_are_found_wherever_they_are(by_name):
    """As in ColumnTransformer: order and further columns do not matter where columns are named."""
    moved = FRAME.assign(user="u1", other=np.nan)[["other", "e", "user", "c", "b", "d", "a"]]
    assert_array_equal(by_name.predict(moved), by_name.predict(FRAME))
    assert_array_equal(by_name.predict_proba(moved), by_name.predict_proba(FRAME))
    assert by_name.score(moved, Y) == by_name.score(FRAME, Y)


def test_without_a_selection_names_are_compared_as_ever():
    estimator = ImplicitRewardEstimator(**QUICK).fit(FRAME, Y)
    for data in (FRAME[NAMES[::-1]], FRAME.assign(f=0.0), FRAME[NAMES[:4]]):
        with pytest.raises(ValueError, match="feature names should match those"):
            estimator.predict(data)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_that_moved_are_named_with_the_remedy(library):
    estimator = ImplicitRewardEstimator(**QUICK).fit(FRAME, Y)
    table = FRAME if library == "pandas" else pytest.importorskip("polars").from_pandas(FRAME)
    moved = table[["b", "a", *NAMES[2:]]]
    message = "2 columns moved: 'a' is column 1, in fit 0; 'b' is column 0, in fit 1. Pass the "
    with pytest.raises(ValueError, match=message + "columns of fit in its order") as caught:
        estimator.predict(moved)
    remedy = re.search(r"X\[.*\]", str(caught.value)).group()
    X = eval(remedy, {"X": moved, "est": estimator})
    assert_array_equal(estimator.predict(X), estimator.predict(FRAME))
    if library == "pandas":
        with pytest.raises(ValueError, match="unseen at fit time:\n- f\nPass the columns of fit"):
            estimator.predict(FRAME.assign(f=0.0))


def test_width_goes_by_the_columns_in_use(by_name, by_position):
    for data in (X[:, :4], np.c_[X, X[:, 0]]):
        message = rf"X has {data.shape[1]} features, but .* expecting 5 .* the 3 reward columns"
        with pytest.raises(ValueError, match=message):
            by_position.predict(data)
    with pytest.raises(ValueError, match=r"X lacks the columns \['a', 'c'\]"):
        by_name.predict(FRAME[["b", "d", "e"]])


def test_names_on_one_side_only_are_a_warning(by_name, by_position):
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Implicit"):
        assert_array_equal(by_name.predict(X), by_position.predict(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Implicit"):
        assert_array_equal(by_name.predict(X[:, :3]), by_position.predict(X))
    with pytest.warns(UserWarning, match="X has feature names, but Implicit.* without feature na"):
        assert_array_equal(by_position.predict(FRAME), by_position.predict(X))


def test_columns_without_names_go_by_position(by_position):
    estimator = ImplicitRewardEstimator(reward_features=[0, 1, 2], **QUICK)
    estimator.fit(pd.DataFrame(X, columns=[10, 20, 30, 40, 50]), Y)
    assert not hasattr(estimator, "feature_names_in_")
    assert_array_equal(estimator.predict(pd.DataFrame(X)), by_position.predict(X))


def test_text_is_refused(by_name, by_position):
    text = FRAME.assign(**dict.fromkeys(NAMES, "text"))
    for data in (text, text.to_numpy(), [["text"] * 5] * 120, ["text"] * 120):
        with pytest.raises(ValueError, match="X holds text"):
            ImplicitRewardEstimator(reward_features=[0, 1, 2], **QUICK).fit(data, Y)
        if isinstance(data, pd.DataFrame):
            with pytest.raises(ValueError, match="X holds text"):
                by_name.predict(data)
        else:
            with pytest.raises(ValueError, match="X holds text"):
                by_position.predict(data)
    for column in ("a", "c", "e"):
        with pytest.raises(ValueError, match="X holds text|could not convert string to float"):
            ImplicitRewardEstimator(reward_features=["a", "b"], **QUICK).fit(
                FRAME.assign(**{column: "text"}), Y
            )


def test_half_precision_all_the_way(by_position):
    half = X.astype(np.float16)
    estimator = ImplicitRewardEstimator(reward_features=[0, 1, 2], **QUICK).fit(half, Y)
    assert estimator.predict(half).dtype == np.float32
    assert np.abs(estimator.predict(half) - by_position.predict(X)).max() < 0.01
    assert_array_equal(estimator.predict(half[:, :3]), estimator.predict(half))


def test_user_and_scenario_through_a_column_transformer():
    log = FRAME[["a", "b"]].assign(
        user=np.resize(["u1", "u2", "u3"], 120), scenario=np.resize(["code", "chat"], 120)
    )
    columns = ColumnTransformer(
        [
            ("reward", StandardScaler(), ["a", "b"]),
            (
                "context",
                OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
                ["user", "scenario"],
            ),
        ]
    ).set_output(transform="pandas")
    pipeline = make_pipeline(
        columns,
        ImplicitRewardEstimator(propensity_features=make_column_selector("^context__"), **QUICK),
    ).fit(log, Y[:, 0])
    estimator = pipeline[-1]
    names = estimator.feature_names_in_
    assert list(names[estimator.reward_columns_]) == ["reward__a", "reward__b"]
    assert list(names[estimator.propensity_columns_]) == [
        "context__user_u1",
        "context__user_u2",
        "context__user_u3",
        "context__scenario_chat",
        "context__scenario_code",
    ]
    assert estimator.identification_.level == "ranking only"
    reward = pipeline.predict(log)
    assert_array_equal(pipeline.predict(log.assign(user="new", scenario="none")), reward)
    # A response that nobody has seen: the reward columns alone.
    scaled = columns.transform(log)[["reward__a", "reward__b"]]
    assert_array_equal(estimator.predict(scaled), reward)
    with pytest.raises(ValueError, match=r"X lacks the columns \['context__user_u1', .*_code'\]"):
        estimator.propensity(scaled)


@pytest.mark.parametrize("form", [lambda a: a, lambda a: 2.5 * a - 1, lambda a: -a])
def test_an_action_among_the_columns_of_x_is_noticed(form):
    actions = pd.DataFrame(Y, columns=["copy", "thumb"])
    actions["thumb"] = actions["thumb"].astype(float).where(np.arange(len(Y)) % 7 > 0)
    logged = FRAME.assign(thumbs=form(Y[:, 1]), near=Y[:, 0] + X[:, 0] / 9)
    est = ImplicitRewardEstimator(reward_features=["b", "thumbs", "near"], **QUICK)
    with pytest.warns(UserWarning, match="column 'thumbs' of X repeats the signal 'thumb'"):
        est.fit(logged, actions)


def test_counts_and_file_columns_that_repeat_an_action_are_noticed(tmp_path, recwarn):
    counts = np.random.default_rng(1).binomial(6, 0.15, size=len(X))
    table = np.column_stack([X, counts / 6.0]).astype(np.float32)
    np.save(tmp_path / "x.npy", table)
    est = ImplicitRewardEstimator(**QUICK)
    for rows in (table, str(tmp_path / "x.npy")):
        with pytest.warns(UserWarning, match="column 5 of X repeats the signal 0"):
            est.fit(rows, counts, exposures=np.full(len(X), 6))
    recwarn.clear()
    est.fit(table[:, :5], counts, exposures=np.full(len(X), 6))
    assert not [one for one in recwarn if "repeats" in str(one.message)]
