"""Tables of all kinds behave as pandas' floats and strings do."""

import datetime
import decimal
import uuid
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV, GroupKFold  # noqa: E402

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator  # noqa: E402
from implicitrm_sk._keys import codes_of  # noqa: E402
from implicitrm_sk._log import number_users  # noqa: E402
from implicitrm_sk._tables import as_numbers, as_values, column_names, opened, taken  # noqa: E402
from implicitrm_sk._validation import check_groups  # noqa: E402
from implicitrm_sk.embedding._text import read_text  # noqa: E402
from implicitrm_sk.inspection import (  # noqa: E402
    PropensityDisplay,
    ReliabilityDisplay,
    StratificationDisplay,
    compare_groups,
    identification_report,
    label_queue,
    reward_interval,
    sensitivity_report,
    shift_report,
    user_taste,
)
from implicitrm_sk.integrations import evaluate_pairs, rank, to_preference_dataset  # noqa: E402
from implicitrm_sk.metrics import paired_accuracy, reward_metrics  # noqa: E402
from implicitrm_sk.signals import Choice  # noqa: E402

N = 120


def small(**settings):
    settings = {"n_estimators": 1, "max_epochs": 2, "batch_size": 64, "random_state": 0} | settings
    return ImplicitRewardEstimator(**settings)


def fitted(X, y, *, propensity_features=None, false_action_rate=None, **side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a log of this size does not show
        return small(
            propensity_features=propensity_features, false_action_rate=false_action_rate
        ).fit(X, y, **side)


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


def _day(i):
    return f"2026-01-{int(i[1:]) + 1:02d}"


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
    "strange index": lambda values: pandas.Series(values, index=np.arange(N)[::-1] + N),
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
    "timestamps": lambda ids: pandas.to_datetime([i and _day(i) for i in ids]),
    "timestamps with a zone": lambda ids: pandas.Series(
        pandas.to_datetime([i and _day(i) for i in ids], utc=True)
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


LABELS = ["pandas arrow", "pandas nullable", "polars", "polars lazy", "arrow", "arrow batch"]


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_a_choice_of_any_table(log, kind):
    X, y, _ = log
    thumb = Choice({"up": 1, "down": 0}, silent="none")
    shown = np.where(X["b"] > 0, np.where(y["copied"] == 1, "up", "none"), "down").astype(object)
    shown[::9] = None
    frame = pandas.DataFrame({"thumb": shown, "copied": y["copied"]})
    est = small(signals={"thumb": thumb, "copied": "positive"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference, found = clone(est).fit(X, frame), clone(est).fit(X, FRAMES[kind](frame))
    assert np.array_equal(found.predict(X), reference.predict(X))
    assert found.score(X, FRAMES[kind](frame)) == reference.score(X, frame)


# ---------------------------------------------------------------------- what is matched by name


@pytest.mark.slow
def test_exposures_and_propensities_follow_the_names_of_the_signals(log):
    X, y, _ = log
    y = y.fillna(0)
    shown = pandas.DataFrame({"copied": np.full(N, 3.0), "shared": np.full(N, 1.0)})
    known = pandas.DataFrame({"copied": np.full(N, 0.9), "shared": np.full(N, np.nan)})
    for name, table in (("exposures", shown), ("propensity", known)):
        reference = fitted(X, y, false_action_rate=0.0, **{name: table.to_numpy()}).predict(X)
        turned = table[["shared", "copied"]]
        assert not np.array_equal(
            fitted(X, y, false_action_rate=0.0, **{name: turned.to_numpy()}).predict(X), reference
        )
        for make in FRAMES.values():
            assert np.array_equal(
                fitted(X, y, false_action_rate=0.0, **{name: make(turned)}).predict(X), reference
            )
        with pytest.raises(ValueError, match=f"{name} has the columns .*'liked'.* same names"):
            fitted(
                X, y, false_action_rate=0.0, **{name: turned.rename(columns={"copied": "liked"})}
            )


def test_restricted_columns_are_matched_by_name(log):
    X, y, _ = log
    est = fitted(X, y, propensity_features=["c"])
    for make in FRAMES.values():
        turned = make(X[["c", "a", "b"]].assign(more=1.0))
        assert np.array_equal(est.propensity(turned), est.propensity(X))


def test_responses_of_equal_id_are_one_whatever_the_type(log):
    X, y, _ = log
    half = [f"r{i // 2:02d}" for i in range(N)]
    X = X.iloc[[i // 2 * 2 for i in range(N)]].reset_index(drop=True)
    reference = fitted(X, y, false_action_rate=0.0, response_id=np.array(half)).predict(X)
    for kind in (
        "polars categorical",
        "arrow dictionary",
        "uuid",
        "mixed types",
        "masked",
        "chats",
    ):
        keys = IDS[kind]([key.replace("r", "u") for key in half])
        found = fitted(X, y, false_action_rate=0.0, response_id=keys).predict(X)
        assert np.array_equal(found, reference), kind


# ---------------------------------------------------------------------- vectors in cells

CELLS = {
    "pandas lists": lambda X: pandas.Series(X.tolist()),
    "pandas arrays": lambda X: pandas.Series(list(X)),
    "frame of one column": lambda X: pandas.DataFrame({"embedding": list(X)}),
    "arrow-backed": lambda X: pandas.Series(
        X.tolist(), dtype=pandas.ArrowDtype(pyarrow.list_(pyarrow.float64()))
    ),
    "polars lists": lambda X: polars.Series(X.tolist()),
    "polars arrays": lambda X: polars.Series(X),
    "polars frame": lambda X: polars.DataFrame({"embedding": X.tolist()}).lazy(),
    "arrow": lambda X: pyarrow.array(X.tolist()),
    "arrow fixed": lambda X: pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(X.ravel()), X.shape[1]
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_column_of_vectors_is_read_like_the_frame(log, kind):
    X, y, _ = log
    X, make = X.to_numpy(), CELLS[kind]
    est, reference = fitted(make(X), y), fitted(X, y)
    assert np.array_equal(est.predict(make(X)), reference.predict(X))
    assert np.array_equal(rank(est, None, make(X)).order, rank(reference, None, X).order)


@pytest.mark.parametrize("wrong", [None, [1.0], [1.0, 2.0, None]])
def test_vectors_that_are_not_one_table_are_named(log, plain, wrong):
    X = log[0].to_numpy().tolist()
    X[7] = wrong
    if wrong == [1.0, 2.0, None]:
        plain = fitted(polars.Series(log[0].to_numpy().tolist()), log[1])
    with pytest.raises(ValueError, match="row 7|NaN"):
        plain.predict(polars.Series(X))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (polars.Series(["x"] * N), "X holds text"),
        (pyarrow.array(["x"] * N), "X holds text"),
        (polars.DataFrame({"a": ["x"] * N}), "X holds text"),
        (pandas.DataFrame({"a": pandas.to_datetime(["2026-01-01"] * N)}), "holds times in .*'a'"),
        (polars.DataFrame({"a": [datetime.date(2026, 1, 1)] * N}), "holds times in .*'a'"),
        (pandas.DataFrame(np.ones((N, 2)), columns=["a", "a"]), "has two columns 'a'.*Rename one"),
        (polars.DataFrame({"a": [1.0] * (N - 1) + [None]}), "Input X contains NaN"),
        (np.ma.masked_array(np.ones((N, 2)), [[True, False]] * N), "Input X contains NaN"),
    ],
)
def test_what_holds_no_numbers_is_named(log, X, message):
    with pytest.raises(ValueError, match=message):
        fitted(X, log[1])


# ---------------------------------------------------------------------- in every function


@pytest.mark.parametrize("kind", FRAMES)
def test_functions_take_what_fit_takes(log, plain, kind):
    X, y, ids = log
    make = FRAMES[kind]
    found = rank(plain, None, make(X))
    assert np.array_equal(found.order, rank(plain, None, X).order)
    chosen, rejected = X[:60], X[60:]
    reference = evaluate_pairs(plain, (chosen, rejected)).accuracy
    assert evaluate_pairs(plain, (make(chosen), make(rejected))).accuracy == reference
    frame = y.assign(prompt="?", response=[f"r{i}" for i in range(N)], prompt_id=ids)
    arguments = {"form": "paired", "output": "pandas", "actions": ["copied", "shared"]}
    reference = to_preference_dataset(plain, frame, X=X, **arguments)
    if kind not in ("pandas decimal",):
        found = to_preference_dataset(plain, make(frame), X=make(X), **arguments)
        assert found.equals(reference)


@pytest.mark.parametrize("kind", ["pandas arrow", "polars lazy"])
def test_report_of_any_table(log, kind):
    X, y, ids = log
    make = FRAMES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = small().fit(X, y)
        arguments = {"n_starts": 2, "groups": ids}
        found = identification_report(est, make(X), make(y), **arguments)
        assert str(found) == str(identification_report(est, X, y, **arguments))
        found = shift_report(est, make(X[:50]), make(X[50:]), groups_log=ids[50:])
        assert str(found) == str(shift_report(est, X[:50], X[50:], groups_log=ids[50:]))


@pytest.mark.parametrize("kind", ["pandas object with NA", "pandas arrow", "polars", "arrow"])
@pytest.mark.parametrize("search", [GridSearchCV, BatchedSearchCV])
def test_searches_take_what_fit_takes(log, search, kind):
    X, y, ids = log
    make = FRAMES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = [
            search(small(), {"learning_rate_init": [0.01, 0.1]}, cv=2, error_score="raise")
            .fit(make(X) if given else X, make(y) if given else y)
            .cv_results_["mean_test_score"]
            for given in (True, False)
        ]
    assert np.array_equal(*scores)


def test_batched_search_takes_lazy_tables_and_missing_groups(log):
    X, y, ids = log
    search = BatchedSearchCV(small(), {"learning_rate_init": [0.01, 0.1]}, cv=GroupKFold(2))
    codes = codes_of(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = [
            clone(search).fit(FRAMES[kind](X), FRAMES[kind](y), groups=groups).best_score_
            for kind, groups in (("polars lazy", ids), ("arrow batch", ids), ("polars", codes))
        ]
    assert len(set(scores)) == 1


# ---------------------------------------------------------------------- text and pairs

TEXTS = {
    "pandas arrow": FRAMES["pandas arrow"],
    "polars": FRAMES["polars"],
    "polars lazy": FRAMES["polars lazy"],
    "arrow": FRAMES["arrow"],
    "arrow batch": FRAMES["arrow batch"],
    "hugging face": lambda frame: datasets_of().Dataset.from_pandas(frame),
}


def datasets_of():
    return pytest.importorskip("datasets")


@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_any_table(kind):
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    for frame in (
        pandas.DataFrame({"prompt": ["a", "b"], "response": ["c", "d"]}),
        pandas.DataFrame({"messages": [chat, chat]}),
        pandas.DataFrame({"prompt": [chat[:1]] * 2, "response": [chat[1:]] * 2}),
    ):
        assert read_text(TEXTS[kind](frame)) == read_text(frame)


@pytest.mark.parametrize("kind", TEXTS)
def test_pairs_are_of_one_prompt_and_teach_something(plain, kind):
    frame = pandas.DataFrame(
        {
            "prompt": ["p"] * 4 + ["q", "r"] + ["s"] * 4,
            "prompt_id": ["1"] * 4 + [None, None] + ["4", "5", "5", "5"],
            "response": ["a", "b", "a", "b", "c", "d", "e", "f", "f", "f"],
        }
    )
    X = pandas.DataFrame(np.linspace(2, -2, 10)[:, None] * [1.0, 0, 0], columns=["b", "a", "c"])
    found = to_preference_dataset(
        plain, TEXTS[kind](frame), form="paired", X=X, pairs_per_prompt=2, output="pandas"
    )
    assert len(found) == 1
    assert sorted(found.iloc[0][["chosen", "rejected"]]) == ["a", "b"]
    frame["prompt_id"] = "1"  # of four prompts
    found = to_preference_dataset(
        plain, TEXTS[kind](frame), form="paired", X=X, pairs_per_prompt=9, output="pandas"
    )
    assert set(found.prompt) == {"p", "s"}


# ---------------------------------------------------------------------- any values at all

DTYPES = {
    int: (
        lambda values: pandas.Series(values, dtype="Int64"),
        lambda values: pandas.Series(values, dtype="int64[pyarrow]"),
        lambda values: polars.Series(values, dtype=polars.Int64),
        lambda values: pyarrow.array(values, pyarrow.int64()),
        lambda values: pandas.Series([pandas.NA if v is None else v for v in values], dtype=object),
        lambda values: np.ma.masked_array(
            np.array([0 if v is None else v for v in values], dtype=np.int64),
            [v is None for v in values],
        ),
    ),
    str: (
        lambda values: pandas.Series(values, dtype="string"),
        lambda values: pandas.Series(values, dtype="category"),
        lambda values: polars.Series(values, dtype=polars.String),
        lambda values: pyarrow.array(values, pyarrow.large_string()).dictionary_encode(),
        lambda values: np.array(values, dtype=object),
    ),
    datetime.datetime: (
        lambda values: pandas.Series(values, dtype="datetime64[us]"),
        lambda values: polars.Series(values, dtype=polars.Datetime),
        lambda values: pyarrow.array(values, pyarrow.timestamp("us")),
        lambda values: np.array(values, dtype="datetime64[us]"),
    ),
}
KINDS = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=3),
    datetime.datetime: st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(KINDS)), seed=st.randoms(use_true_random=False))
def test_ids_are_equal_whatever_holds_them_and_in_any_order(data, kind, seed):
    some = data.draw(st.lists(KINDS[kind], min_size=1, max_size=4))
    values = data.draw(st.lists(st.sampled_from([None, *some]), min_size=1, max_size=12))
    expected = codes_of(values)
    users, ids = number_users(values, len(values))
    order = list(range(len(values)))
    seed.shuffle(order)
    for make in DTYPES[kind]:
        made = make(values)
        assert codes_of(as_values(made)).tolist() == expected.tolist()
        groups = check_groups(made, len(values))
        same = groups[:, None] == groups
        assert (same == (expected[:, None] == expected)).all()
        turned = check_groups(make([values[i] for i in order]), len(values))
        assert (same[np.ix_(order, order)] == (turned[:, None] == turned)).all()
        found, found_ids = number_users(made, len(values))
        assert ((found[:, None] == found) == (users[:, None] == users)).all()
        assert set(found_ids.tolist()) == set(ids.tolist())


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, None]), min_size=3, max_size=3), min_size=1, max_size=9
    ),
    order=st.permutations([0, 1, 2]),
)
def test_actions_are_equal_whatever_holds_them(rows, order):
    values = np.array(rows, dtype=float)
    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    for make in FRAMES.values():
        assert np.array_equal(as_numbers(make(frame)), values, equal_nan=True)
        assert column_names(opened(make(frame))) == ["a", "b", "c"]
        part = taken(opened(make(frame)), order)
        assert np.array_equal(as_numbers(part), values[:, order], equal_nan=True)
    for make in ARRAYS.values():
        assert np.array_equal(np.asarray(as_numbers(make(frame)), float), values, equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(["a", "b", "c"]),
    rows=st.permutations(range(8)),
    kind=st.sampled_from(list(FRAMES)),
)
def test_rewards_are_equal_in_any_order(by_name, order, rows, kind):
    est, X = by_name
    turned = FRAMES[kind](X.iloc[rows][order].reset_index(drop=True))
    assert np.allclose(est.predict(turned), est.predict(X)[rows], rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def by_name(log):
    X, y, _ = log
    return fitted(X, y, propensity_features=["c"]), X[:8]


@pytest.mark.parametrize("name", ["y", "user_id", "sample_weight"])
def test_row_labels_in_another_order_are_refused(log, name):
    """Rows go by position; a table of pandas with the same labels elsewhere is not meant so."""
    X, y, _ = log
    n = len(X)
    order = np.random.default_rng(0).permutation(n)
    arguments = {"y": y, "user_id": pandas.Series(np.arange(n) % 7), "sample_weight": np.ones(n)}
    frame = pandas.DataFrame(np.asarray(X))
    arguments["y"] = pandas.DataFrame(np.asarray(y))
    arguments["sample_weight"] = pandas.Series(arguments["sample_weight"])
    mixed = arguments | {name: arguments[name].iloc[order]}
    est = ImplicitRewardEstimator(max_epochs=1, n_estimators=1, early_stopping=False)
    with pytest.raises(ValueError, match=f"^{name} has the row labels of X in another order"):
        est.fit(frame, **mixed)
    fitted(frame, arguments["y"].set_axis(range(n, 2 * n)))  # other labels say nothing
    model = fitted(frame.iloc[order], arguments["y"].iloc[order])
    with pytest.raises(ValueError, match="^y has the row labels of X in another order"):
        model.score(frame, arguments["y"].iloc[order])


ENTRIES = {
    "compare_groups by": lambda est, X, y, s: compare_groups(est, X, y, s),
    "compare_groups user_id": lambda est, X, y, s: compare_groups(est, X, y, y[0], user_id=s),
    "sensitivity_report by": lambda est, X, y, s: sensitivity_report(est, X, y, s),
    "label_queue labels": lambda est, X, y, s: label_queue(est, X, y, 2, labels=s),
    "reward_interval groups": lambda est, X, y, s: reward_interval(est, X, y, X, groups=s),
    "identification_report labels": lambda est, X, y, s: identification_report(est, X, y, labels=s),
    "user_taste user_id": lambda est, X, y, s: user_taste(est.fit(X, y), X, y, s),
    "BatchedSearchCV user_id": lambda est, X, y, s: BatchedSearchCV(
        est, {"weight_decay": [0, 1]}
    ).fit(X, y, user_id=s),
    "partial_fit sample_weight": lambda est, X, y, s: est.partial_fit(X, y, sample_weight=s),
    "score true_preference": lambda est, X, y, s: est.fit(X, y).score(X, None, true_preference=s),
    "predict_proba actions": lambda est, X, y, s: est.fit(X, y).predict_proba(X, y.loc[s.index]),
    "ReliabilityDisplay true_preference": lambda est, X, y, s: ReliabilityDisplay.from_estimator(
        est.fit(X, y), X, s
    ),
    "StratificationDisplay by": lambda est, X, y, s: StratificationDisplay.from_estimator(
        est.fit(X, y), X, y, by=s
    ),
    "PropensityDisplay by": lambda est, X, y, s: PropensityDisplay.from_estimator(
        est.fit(X, y), X, by=s
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_row_labels_in_another_order_are_refused_wherever_rows_are_matched(log, entry):
    X, y, _ = log
    X, y = pandas.DataFrame(np.asarray(X)), pandas.DataFrame(np.asarray(y))
    order = np.random.default_rng(0).permutation(len(X))
    turned = pandas.Series(np.arange(len(X)) % 2, dtype=float).iloc[order]
    est = ImplicitRewardEstimator(max_epochs=1, n_estimators=1, early_stopping=False)
    name = entry.split()[1]
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=f"^{name} has the row labels of X in another order"),
    ):
        warnings.simplefilter("ignore")
        ENTRIES[entry](est, X, y, turned)
