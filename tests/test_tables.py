"""Tables of all kinds behave as pandas' floats and strings do."""

import datetime
import decimal
import uuid
import warnings

import numpy as np
import pytest

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

from implicitrm_sk import ImplicitRewardEstimator  # noqa: E402
from implicitrm_sk.integrations import to_preference_dataset  # noqa: E402
from implicitrm_sk.metrics import paired_accuracy, reward_metrics  # noqa: E402

N = 120


def small(**settings):
    settings = {"n_estimators": 1, "max_epochs": 2, "batch_size": 64, "random_state": 0} | settings
    return ImplicitRewardEstimator(**settings)


def fitted(X, y, *, propensity_features=None, **side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a log of this size does not show
        return small(propensity_features=propensity_features).fit(X, y, **side)


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    X = pandas.DataFrame(rng.normal(size=(N, 3)), columns=["b", "a", "c"])
    y = pandas.DataFrame(
        ((X[["b"]].to_numpy() > 0) & (rng.random((N, 2)) < 0.5)).astype(float),
        columns=["copied", "shared"],
    )
    y.iloc[::7, 1] = np.nan
    ids = [None if i % 11 == 0 else f"u{i % 13:02d}" for i in range(N)]
    return X, y, ids


@pytest.fixture(scope="module")
def plain(log):
    X, y, _ = log
    return fitted(X, y)


def _arrow(frame):
    return pyarrow.Table.from_pandas(frame, preserve_index=False)


def _masked(frame):
    values = frame.to_numpy(dtype=float)
    return np.ma.masked_array(np.where(np.isnan(values), 1.0, values), np.isnan(values))


def _objects(frame):
    return frame.astype(object).where(frame.notna(), pandas.NA)


#: The same numbers, NaN missing.
FRAMES = {
    "pandas nullable": lambda frame: frame.convert_dtypes(),
    "pandas arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "pandas object with NA": _objects,
    "pandas object with None": lambda frame: frame.astype(object).where(frame.notna(), None),
    "pandas decimal": lambda frame: frame.map(
        lambda v: None if pandas.isna(v) else decimal.Decimal(float(v))
    ),
    "polars": lambda frame: polars.from_pandas(frame),
    "polars with NaN": lambda frame: polars.from_pandas(frame, nan_to_null=False),
    "polars lazy": lambda frame: polars.from_pandas(frame).lazy(),
    "arrow": _arrow,
    "arrow batch": lambda frame: pyarrow.RecordBatch.from_pandas(frame, preserve_index=False),
}
ARRAYS = {
    "masked": _masked,
    "array of objects": lambda frame: _objects(frame).to_numpy(),
    "list of lists": lambda frame: _objects(frame).to_numpy().tolist(),
    "fortran": lambda frame: np.asfortranarray(frame.to_numpy()),
    "big-endian": lambda frame: frame.to_numpy().astype(">f8"),
    "read-only": lambda frame: np.frombuffer(frame.to_numpy().tobytes()).reshape(frame.shape),
}


@pytest.mark.parametrize("kind", [*FRAMES, *ARRAYS])
def test_actions_of_any_table(log, plain, kind):
    X, y, _ = log
    make = (FRAMES | ARRAYS)[kind]
    est = fitted(X, make(y))
    assert np.array_equal(est.predict(X), plain.predict(X))
    if kind in FRAMES:
        assert list(est.signal_names_in_) == ["copied", "shared"]
    assert plain.score(X, make(y)) == plain.score(X, y)
    assert np.array_equal(plain.predict_proba(X, make(y)), plain.predict_proba(X, y))


@pytest.mark.parametrize("kind", [*FRAMES, *ARRAYS])
def test_vectors_of_any_table(log, plain, kind):
    X, y, _ = log
    make = (FRAMES | ARRAYS)[kind]
    est, X_ = fitted(make(X), y), X
    assert np.array_equal(est.predict(make(X)), plain.predict(X))
    if kind in FRAMES:
        assert list(est.feature_names_in_) == ["b", "a", "c"]
        assert np.array_equal(plain.predict(make(X)), plain.predict(X))
    else:
        X = X.to_numpy()
    restricted = fitted(make(X_), y, propensity_features=["c"] if kind in FRAMES else [2])
    reference = fitted(X, y, propensity_features=[2])
    assert np.array_equal(restricted.propensity(make(X_)), reference.propensity(X))


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_in_another_order_are_refused(log, plain, kind):
    X, y, _ = log
    make = FRAMES[kind]
    with pytest.raises(ValueError, match="order"):
        plain.predict(make(X[["a", "b", "c"]]))
    with pytest.raises(ValueError, match="order"):
        plain.score(X, make(y[["shared", "copied"]]))


#: A column of numbers, NaN missing.
VECTORS = {
    "nullable": lambda values: pandas.Series(values).convert_dtypes(),
    "arrow-backed": lambda values: pandas.Series(values).convert_dtypes(dtype_backend="pyarrow"),
    "object with NA": lambda values: (
        pandas.Series(values).astype(object).where(~np.isnan(values), pandas.NA)
    ),
    "array with NA": lambda values: VECTORS["object with NA"](values).to_numpy(),
    "list with None": lambda values: [None if np.isnan(v) else v for v in values],
    "polars": lambda values: polars.Series(values, nan_to_null=True),
    "arrow": lambda values: pyarrow.array(values, from_pandas=True),
    "arrow chunked": lambda values: pyarrow.chunked_array(
        [pyarrow.array(values[:50], from_pandas=True), pyarrow.array(values[50:], from_pandas=True)]
    ),
    "masked": lambda values: np.ma.masked_array(np.nan_to_num(values, nan=1.0), np.isnan(values)),
    "strange index": lambda values: pandas.Series(values, index=np.arange(N)[::-1]),
    "decimal": lambda values: pandas.Series(
        [None if np.isnan(v) else decimal.Decimal(float(v)) for v in values]
    ),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_one_column_of_numbers_of_any_kind(log, plain, kind):
    X, y, _ = log
    make = VECTORS[kind]
    one = y["shared"].to_numpy()
    est, reference = fitted(X, make(one)), fitted(X, one)
    assert np.array_equal(est.predict(X), reference.predict(X))
    label = np.where(np.arange(N) % 3 == 0, (X["b"] > 0).astype(float), np.nan)
    est, reference = fitted(X, y, labels=make(label)), fitted(X, y, labels=label)
    assert np.array_equal(est.predict(X), reference.predict(X))
    weight = np.where(np.arange(N) % 2, 1.0, 2.0)
    assert plain.score(X, y, sample_weight=make(weight)) == plain.score(X, y, sample_weight=weight)
    reward = plain.predict(X)
    assert plain.score(X, None, true_preference=make(label)) == plain.score(
        X, None, true_preference=label
    )
    assert reward_metrics(make(label), make(reward.astype(float)))["r2"] == pytest.approx(
        reward_metrics(label, reward.astype(float))["r2"], abs=0
    )


#: The same ids, each as another type; None is missing.
IDS = {
    "object": lambda ids: np.array(ids, dtype=object),
    "list": list,
    "string dtype": lambda ids: pandas.Series(ids, dtype="string"),
    "arrow string": lambda ids: pandas.Series(ids, dtype="string[pyarrow]"),
    "categorical": lambda ids: pandas.Series(ids, dtype="category"),
    "polars": lambda ids: polars.Series(ids),
    "polars categorical": lambda ids: polars.Series(ids, dtype=polars.Categorical),
    "arrow": lambda ids: pyarrow.array(ids),
    "arrow dictionary": lambda ids: pyarrow.array(ids).dictionary_encode(),
    "NA": lambda ids: [pandas.NA if i is None else i for i in ids],
    "NaN": lambda ids: [np.nan if i is None else i for i in ids],
    "nullable integers": lambda ids: pandas.Series([i and int(i[1:]) for i in ids], dtype="Int64"),
    "integers beyond 2^53": lambda ids: pandas.Series(
        [i and 2**60 + int(i[1:]) for i in ids], dtype="Int64"
    ),
    "polars integers beyond 2^53": lambda ids: polars.Series(
        [i and 2**60 + int(i[1:]) for i in ids]
    ),
    "floats": lambda ids: [np.nan if i is None else float(i[1:]) for i in ids],
    "uuid": lambda ids: [i and uuid.UUID(int=int(i[1:])) for i in ids],
    "timestamps": lambda ids: pandas.to_datetime([i and f"2026-01-{int(i[1:]) + 1:02d}" for i in ids]),
    "timestamps with a zone": lambda ids: pandas.Series(
        pandas.to_datetime([i and f"2026-01-{int(i[1:]) + 1:02d}" for i in ids], utc=True)
    ),
    "datetimes": lambda ids: [i and datetime.datetime(2026, 1, int(i[1:]) + 1) for i in ids],
    "dates": lambda ids: pandas.Series([i and datetime.date(2026, 1, int(i[1:]) + 1) for i in ids]),
    "polars dates": lambda ids: polars.Series(
        [i and datetime.date(2026, 1, int(i[1:]) + 1) for i in ids]
    ),
    "masked": lambda ids: np.ma.masked_array(
        [int(i[1:]) if i else 0 for i in ids], [i is None for i in ids]
    ),
    "bytes": lambda ids: [i and i.encode() for i in ids],
    "mixed types": lambda ids: [i and (int(i[1:]) if int(i[1:]) % 2 else i) for i in ids],
    "chats": lambda ids: [i and [{"role": "user", "content": i}] for i in ids],
}


@pytest.fixture(scope="module")
def with_groups(log):
    X, y, ids = log
    return fitted(X, y, groups=np.array([i or f"missing {n}" for n, i in enumerate(ids)]))


@pytest.mark.parametrize("kind", IDS)
def test_groups_of_any_kind(log, plain, with_groups, kind):
    X, y, ids = log
    groups = IDS[kind](ids)
    est = fitted(X, y, groups=groups)
    assert np.array_equal(est.predict(X), with_groups.predict(X))
    truth, reward = (X["b"] > 0).to_numpy(dtype=float), plain.predict(X)
    codes = np.array([i or f"missing {n}" for n, i in enumerate(ids)])
    assert paired_accuracy(truth, reward, groups) == paired_accuracy(truth, reward, codes)


@pytest.fixture(scope="module")
def with_users(log):
    X, y, ids = log
    return fitted(X, y, user_id=np.array(ids, dtype=object))


@pytest.mark.parametrize("kind", [k for k in IDS if k != "chats"])
def test_users_of_any_kind(log, with_users, kind):
    X, y, ids = log
    users = IDS[kind](ids)
    est = fitted(X, y, user_id=users)
    assert np.array_equal(est.predict(X), with_users.predict(X))
    assert len(est.user_activity_.user_id) == 13
    assert est.score(X, y, user_id=users) == with_users.score(X, y, user_id=ids)
    assert np.array_equal(
        est.predict_action(X, user_id=users), with_users.predict_action(X, user_id=ids)
    )


@pytest.mark.parametrize("kind", IDS)
def test_preference_pairs_by_ids_of_any_kind(log, plain, kind):
    X, _, ids = log
    frame = pandas.DataFrame({"prompt": "?", "response": [f"r{i}" for i in range(N)]})
    reference = to_preference_dataset(
        plain, frame.assign(prompt_id=ids), form="paired", X=X, output="pandas"
    )
    keys = IDS[kind](ids)
    if isinstance(keys, polars.Series):
        frame = polars.from_pandas(frame).with_columns(keys.alias("prompt_id"))
    elif isinstance(keys, pyarrow.Array):
        frame = _arrow(frame).append_column("prompt_id", keys)
    else:
        keys = keys.tolist() if isinstance(keys, np.ma.MaskedArray) else keys
        frame = frame.assign(prompt_id=keys)
    found = to_preference_dataset(plain, frame, form="paired", X=X, output="pandas")
    assert found.equals(reference)
    assert len(reference) == 13
