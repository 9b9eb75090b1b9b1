"""Bad arguments of the estimator: each message names the value, its place and a remedy."""

import datetime
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, make_log
from sklearn.exceptions import UndefinedMetricWarning

from implicitrm_sk import ImplicitRewardEstimator

X, Y, PREFERRED = make_log(n=120, d=4, n_signals=2)
NAMES = [f"f{i}" for i in range(X.shape[1])]
QUICK = FAST | {"max_epochs": 2, "early_stopping": False}


def fitted(X=X, y=Y, settings=None, **side):
    return ImplicitRewardEstimator(**QUICK | (settings or {})).fit(X, y, **side)


def changed(values, position, value, dtype=float):
    values = np.array(values, dtype=dtype)
    values[position] = value
    return values


BAD_X = {
    "NaN": (changed(X, (3, 2), np.nan), "Input X contains NaN in row 3, column 2; expected finite "
            "numbers. 1 row is not finite. Leave"),
    "infinity": (changed(X, ([5, 9], 1), np.inf), "Input X contains infinity in row 5, column 1; "
                 "expected finite numbers. 2 rows are not finite."),
    "NaN in a frame": (pd.DataFrame(changed(X, (3, 2), np.nan), columns=NAMES),
                       "row 3, column 'f2'"),
    "None among objects": (changed(X, (3, 2), None, object), "contains NaN in row 3, column 2"),
    "ragged": ([[1.0, 2.0], [3.0]] * 60, "X holds 1 values in row 1, but 2 values in row 0; exp"),
    "nothing": (None, "X is None; expected numbers of shape (n_samples, n_features). Pass"),
    "1-d": (X[:, 0], "Expected 2D array, got 1D array instead: X has the shape (120,); expected"),
    "3-d": (X[None], "Found array with dim 3: X has the shape (1, 120, 4)"),
    "complex": (X + 1j, "Complex data not supported: X holds complex numbers; expected real ones"),
    "times": (X.astype("datetime64[s]"), "X holds times; expected numbers. Encode them first"),
    "durations": (X.astype("timedelta64[s]"), "X holds times; expected numbers. Encode them"),
    "bytes": (X.round().astype("S5"), "X holds text; expected embeddings"),
    "text below numbers": (changed(X, (3, 2), "1", object), "X holds '1' (str) in row 3, column 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.parametrize("settings", [{}, {"propensity_features": [0, 1]}])
def test_bad_X(case, settings):
    bad, message = BAD_X[case]
    if settings and case in ("NaN", "infinity", "NaN in a frame", "None among objects"):
        pytest.skip("test_features.py has the messages of heads with columns of their own")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fitted(bad, settings=settings)
    assert "sklearn" not in str(error.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (X[:, :3], "X has 3 features, but ImplicitRewardEstimator is expecting 4 features as "
         "input. Pass the columns of fit, in their order."),
        (X[0], "Expected 2D array, got 1D array instead: X has the shape (4,)"),
        (changed(X, (0, 0), np.nan), "contains NaN in row 0, column 0"),
    ],
)  # fmt: skip
def test_bad_X_of_predict(bad, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted().predict(bad)


def test_missing_columns_of_predict():
    frame = pd.DataFrame(X, columns=NAMES)
    est = fitted(frame)
    with pytest.raises(ValueError, match=r"yet now missing:\n- f1\nPass the columns of fit, X\["):
        est.predict(frame.drop(columns="f1"))


BAD_NUMBERS = {
    "text": (lambda v: v.astype(int).astype(str), "'{}' (str)"),
    "lists of text": (lambda v: v.astype(int).astype(str).tolist(), "'{}' (str)"),
    "objects": (lambda v: changed(v, 0, "1", object), "'1' (str)"),
    "bytes": (lambda v: v.astype(int).astype("S1"), "b'{}' (bytes)"),
    "points in time": (lambda v: v.astype("datetime64[s]"), "1970-01-01T00:00:0{} (datetime64)"),
    "durations": (lambda v: v.astype(int).astype("timedelta64[s]"), "{} seconds (timedelta64)"),
    "dates": (lambda v: changed(v, 0, datetime.date(2026, 1, 1), object), "2026-01-01 (date)"),
}


@pytest.mark.parametrize("kind", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["y", "labels", "sample_weight", "propensity", "exposures"])
def test_what_is_no_number_is_not_converted(name, kind):
    make, held = BAD_NUMBERS[kind]
    y, side = Y[:, 0], {}
    values = make(np.where(y > 0, 1.0, 1.0) if name != "y" else y)
    held = held.format(int(y[0]) if name == "y" else 1)
    if name == "y":
        y = values
    else:
        side = {name: values}
    message = f"{name} must be numbers, but holds {held} in row 0. Expected "
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(X, y, **side)


def test_text_of_a_table_is_not_converted():
    for table in (
        pd.DataFrame(Y.astype(int).astype(str), columns=["a", "b"]),
        pd.DataFrame(Y.astype(int).astype(str), columns=["a", "b"]).astype("category"),
    ):
        with pytest.raises(ValueError, match=r"y must be numbers, but holds '\d' \(str\) in row 0"):
            fitted(X, table)


def test_ragged_actions():
    with pytest.raises(ValueError, match="y holds 1 values in row 1, but 2 values in row 0"):
        fitted(X, [[0, 1], [1]] * 60)


@pytest.mark.parametrize(
    ("value", "shown"), [(1 + 1e-9, "1.000000001"), (1e-12, "1e-12"), (0.5, "0.5"), (3, "3")]
)
def test_a_value_that_is_nearly_an_action_is_shown_as_it_is(value, shown):
    message = rf"something else: {re.escape(shown)}\. The first is in row 7"
    with pytest.raises(ValueError, match=message):
        fitted(X, changed(Y, (7, 1), value))


@pytest.mark.parametrize("named", [True, False])
def test_columns_of_y_are_called_columns(named):
    signals = ["positive", "positive", "negative"]
    y = np.column_stack([Y, PREFERRED < 0.5]).astype(float)
    y[4, 0] = 2.5
    if named:
        y = pd.DataFrame(y, columns=["a", "b", "c"])
    shown = "columns 'a' and 'b' of y" if named else "columns 0 and 1 of y"
    with pytest.raises(ValueError, match=f"^{shown} must be an action in"):
        fitted(X, y, {"signals": signals})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "sample_weight contains NaN in row 3; expected finite numbers. 1 row is"),
        (np.inf, "sample_weight contains infinity in row 3"),
    ],
)
def test_weights_are_finite(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(sample_weight=changed(np.ones(120), 3, value))


@pytest.mark.parametrize(
    ("rows", "groups", "message"),
    [
        (np.zeros_like(X), None, "X has 1 different value in all 120 rows, and rows of equal X are "
         "never separated. Check X, or pass groups="),
        (np.where(np.arange(120)[:, None] < 118, X[0], X), None,
         "X has 3 different values in all 120 rows"),
        (X, np.zeros(120), "groups= has 1 different value, and rows of one group are never"),
    ],
)  # fmt: skip
def test_a_split_that_groups_prevent_says_so(rows, groups, message):
    with pytest.warns(UserWarning, match=re.escape(message)) as given:
        fitted(rows, settings={"early_stopping": True, "validation_fraction": 0.01}, groups=groups)
    text = next(str(w.message) for w in given if "early_stopping" in str(w.message))
    assert "Collect more" not in text and text.endswith("set early_stopping=False and max_epochs.")


def test_impossible_actions_are_warned_of():
    y = np.column_stack([PREFERRED > 0.5, PREFERRED <= 0.5])
    est = fitted(X, y, {"signals": ["positive", "negative"], "false_action_rate": 0.0})
    possible = [[1, 0], [0, 0], [0, 1]]
    impossible = [[1, 0], [1, 1], [1, 1]]
    message = (
        r"2 responses have {} that are impossible under the model, such as a positive and a "
        r"negative action with false_action_rate=0; the first is row 1. So {}"
    )
    with pytest.warns(UserWarning, match=message.format("actions", "their groups are NaN")):
        found = est.predict_proba(X[:3], impossible)
    assert np.isnan(found[1:]).all() and np.isfinite(found[0]).all()
    with pytest.warns(UserWarning, match=message.format("y", "the score is -inf")):
        assert est.score(X[:3], impossible) == -np.inf
    with pytest.warns(UserWarning, match=r"1 response has y .* the first is row 1"):
        est.score(X[[0, 1, 1]], impossible, response_id=[0, 1, 1])
    assert np.isfinite(est.predict_proba(X[:3], possible)).all()
    assert np.isfinite(est.score(X[:3], impossible, sample_weight=[1, 0, 0]))


def test_R2_of_one_class_is_warned_of():
    est = fitted()
    for truth in (np.ones(120), np.where(np.arange(120) < 9, 0.3, np.nan)):
        with pytest.warns(UndefinedMetricWarning, match="R2 is not defined: all .* 0 is returned"):
            assert est.score(X, None, true_preference=truth) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.score(X, None, true_preference=np.arange(120) % 2)
