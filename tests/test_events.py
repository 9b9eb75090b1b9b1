"""Events in long form become actions: which row each belongs to, and until when it counts."""

import json
import time
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from implicitrm_sk.datasets import actions_from_events, read_feedback_log
from implicitrm_sk.signals import Action, Choice

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
#: Each run tries the same examples.
PROPERTY = hypothesis.settings(deadline=None, derandomize=True, database=None)
COPY = {"copy": "positive"}


def shown(*rows, names="response_id user_id time"):
    return pd.DataFrame([dict(zip(names.split(), row, strict=True)) for row in rows])


def done(*rows, names="response_id user_id time kind"):
    return shown(
        *(row if len(row) == len(names.split()) else (*row, "copy") for row in rows), names=names
    )


def column(responses, events, kinds=COPY, **arguments):
    return actions_from_events(responses, events, kinds, **arguments).actions.iloc[:, 0].tolist()


THREE = shown(("a", "ann", 0), ("a", "bob", 1), ("b", "bob", 2))


def test_users_of_one_response_are_kept_apart():
    data = actions_from_events(
        THREE, done(("a", "bob", 5), ("b", "ann", 5), ("a", "bob", 6), ("c", "bob", 6)), COPY
    )
    assert data.actions["copy"].tolist() == [0, 1, 0]
    assert data.summary.left_out == {
        "events of no response in the log": 1,
        "events whose user has no row of the response": 1,
    }
    assert data.summary.found["events that repeat another one"] == 1
    assert data.user_id.tolist() == ["ann", "bob", "bob"] and data.signals == COPY


NOT_KNOWN = "actions that are not known because the user of an event or of its row is missing"


@pytest.mark.parametrize("with_times", [False, True])
def test_actions_of_a_missing_user_are_not_taken_for_silence(with_times):
    """Who acted, or who was shown the response, is not known: the action is neither 1 nor 0."""
    rows = shown(("a", None, 0), ("b", None, 1), ("c", "ann", 2), ("d", "bob", 3), ("e", "bob", 3))
    events = done(("a", "ann", 5), ("b", None, 5), ("c", None, 5), ("d", "bob", 5), ("e", "ann", 6))
    if not with_times:
        rows, events = rows.drop(columns="time"), events.drop(columns="time")
    data = actions_from_events(rows, events, COPY)
    np.testing.assert_array_equal(data.actions["copy"], [np.nan, 1, np.nan, 1, 0])
    assert data.summary.found[NOT_KNOWN] == 2
    assert data.summary.left_out == {"events whose user has no row of the response": 3}


def test_an_event_without_a_user_is_of_the_last_response_of_the_conversation():
    names = "conversation_id user_id time"
    rows = shown(("x", "ann", 0), ("x", "ann", 3), ("x", "ann", 8), names=names)
    events = done(("x", None, 5, "copy"), names=f"{names} kind")
    np.testing.assert_array_equal(column(rows, events), [0, np.nan, 0])
    # After its window, it says nothing.
    assert column(rows, events, window=1, now=20) == [0, 0, 0]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
def test_events_of_a_file_are_those_of_the_table(tmp_path, ending):
    events = done(("a", "bob", 5), ("b", "ann", 5), ("a", "bob", 6))
    path = tmp_path / f"events.{ending}"
    if ending == "jsonl":
        events.to_json(path, orient="records", lines=True)
    elif ending == "parquet":
        events.to_parquet(path)
    else:
        events.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    assert column(THREE, path) == column(THREE, str(path)) == column(THREE, events)
    with pytest.raises(FileNotFoundError, match="none.csv does not exist"):
        column(THREE, tmp_path / "none.csv")


def test_an_event_belongs_to_what_was_shown_last():
    again = shown(("a", "ann", 0), ("a", "ann", 10), ("a", "ann", 20))
    events = done(("a", "ann", 10), ("a", "ann", 19), ("a", "ann", 25), ("a", "ann", -1))
    data = actions_from_events(again, events, COPY)
    assert data.actions["copy"].tolist() == [0, 1, 1]
    assert data.summary.left_out == {"events before the response was shown": 1}
    turns = shown((1, 0), (1, 10), (2, 5), names="conversation_id time")
    events = done((1, 3), (2, 7), (1, 10), names="conversation_id time kind")
    assert column(turns, events) == [1, 1, 1]
    assert column(turns, events[:1]) == [1, 0, 0]


def test_windows_by_time():
    responses = shown(("a", 0), ("b", 0), ("c", 6), ("d", 7), names="response_id time")
    events = done(("a", 5), ("b", 6), ("d", 8), names="response_id time kind")
    data = actions_from_events(responses, events, COPY, window=5, now=11)
    # The event on d has happened, but its row is too young to count what did not happen.
    np.testing.assert_array_equal(data.actions["copy"], [1, 0, 0, np.nan])
    assert data.summary.left_out == {"events after the window": 1}
    assert data.summary.found["rows whose window of 5 is not closed"] == 1


def test_windows_by_turn():
    names = "response_id conversation_id time"
    responses = shown(("a", 1, 0), ("b", 1, 10), ("c", 2, 0), ("d", 2, 0), ("e", 2, 4), names=names)
    events = done(("a", 9), ("a", 10), ("b", 50), ("c", 4), names="response_id time kind")
    found = column(responses, events, window="next_turn")
    np.testing.assert_array_equal(found, [1, np.nan, 0, 0, np.nan])
    found = column(responses, events, window=("next_turn", 20), now=60)
    np.testing.assert_array_equal(found, [1, 0, 0, 0, 0])
    found = column(responses, events, window=("next_turn", 3), now=50)
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 0])
    found = column(responses, events, window=("next_turn", 50), now=53)
    np.testing.assert_array_equal(found, [1, np.nan, 0, 0, np.nan])


def test_dates():
    times = pd.to_datetime(["2026-01-01 10:00", "2026-01-02 10:00", "2026-01-03 10:00"], utc=True)
    responses = pd.DataFrame({"response_id": ["a", "b", "c"], "time": times})
    late = times + pd.Timedelta("1h")
    forms = [
        late, late.strftime("%Y-%m-%dT%H:%M:%SZ"), late.tz_convert("Asia/Tokyo"),
        pd.Series(late).astype("timestamp[ns, UTC][pyarrow]"), late.to_pydatetime(),
        pd.Series(late).astype(str).astype("string[pyarrow]"),
    ]  # fmt: skip
    for form in forms:
        events = pd.DataFrame({"response_id": ["a", "b", "c"], "kind": "copy", "time": form})
        for window, expected in (("90min", [1, 1, np.nan]), ("30min", [0, 0, 0])):
            now = "2026-01-03T11:00Z"
            found = column(responses, events, window=window, now=now)
            np.testing.assert_array_equal(found, expected)


def test_not_tracked():
    responses = shown(("a", "web"), ("b", "ios"), ("c", None), names="response_id client")
    events = done(("a", "copy"), ("b", "copy"), ("b", "share"), names="response_id kind")
    data = actions_from_events(
        responses, events, {"copy": "positive", "share": "positive"}, tracked={"copy": ["web"]}
    )
    np.testing.assert_array_equal(data.actions, [[1, 0], [np.nan, 1], [np.nan, 0]])
    assert data.summary.left_out == {"actions copy of clients that do not track it": 1}
    assert column(responses, events[:2], tracked={"copy": "ios"})[1] == 1


def test_kinds_are_named():
    events = done(("a", "ann", 1, "copy"), ("a", "ann", 1, "view"), ("b", "bob", 3, "view"))
    with pytest.raises(ValueError, match=r"1 kind that kinds does not name: 'view' \(2\)"):
        actions_from_events(THREE, events, COPY)
    kinds = {"view": None, "thumb": "negative", "copy": Action()}
    data = actions_from_events(THREE, events, kinds)
    assert list(data.actions) == ["thumb", "copy"]
    assert data.signals == {"thumb": "negative", "copy": Action()}
    assert data.summary.left_out == {"events of ignored kinds": 2}
    (warned,) = data.summary.warnings
    assert warned.startswith("'thumb' has no event that counts. Check its name, and that")


def test_anonymous_users():
    responses = shown(("a", None, 0), ("a", "bob", 0))
    events = done(("a", None, 1), ("a", "eve", 1))
    assert column(responses, events) == [1, 0]
    # The row may be of eve.
    np.testing.assert_array_equal(column(responses, events[1:]), [np.nan, 0])


def test_missing_ids_of_events_are_counted():
    data = actions_from_events(THREE, done((None, "ann", 1), ("a", "ann", 2)), COPY)
    assert data.actions["copy"].tolist() == [1, 0, 0]
    assert data.summary.left_out == {"events without response_id": 1}


def test_no_events():
    for events in (done(("a", "ann", 1))[:0], done(("x", "ann", 1))):
        data = actions_from_events(THREE, events, COPY)
        assert data.actions["copy"].tolist() == [0, 0, 0]
        assert "'copy' has no event" in str(data.summary)


def test_regenerations_and_edits_of_chat_trees():
    names = "response_id user_id prompt_id parent_id time"
    responses = shown(
        ("r1", "ann", "p1", None, 0),
        ("r2", "ann", "p1", None, 5),  # r1 was regenerated
        ("r3", "bob", "p1", None, 9),  # of another user
        ("r4", "ann", "p2", "r2", 10),
        ("r5", "ann", "p3", "r2", 20),  # the prompt of r4 was edited
        ("r6", "ann", "p3", "r2", 30),
        ("r7", None, "p3", "r2", 40),
        ("r8", None, "p3", "r2", 50),
        names=names,
    )
    kinds = {"regenerated": "negative", "edited": "negative"}
    infer = {"regenerated": "regenerate", "edited": "edit"}
    events = done(("r3", "bob", 11, "regenerated"))
    data = actions_from_events(responses, events, kinds, infer=infer)
    assert data.actions["regenerated"].tolist() == [1, 0, 1, 0, 1, 0, 0, 0]
    assert data.actions["edited"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert data.summary.found["rows with regenerated inferred"] == 2
    found = actions_from_events(responses, events, kinds, infer=infer, window=5, now=100).actions
    assert found["regenerated"].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    assert found["edited"].tolist() == [0] * 8
    turn = responses.assign(conversation_id=[1, 1, 2, 1, 1, 1, 3, 3])
    found = actions_from_events(turn, events, kinds, infer=infer, window="next_turn").actions
    np.testing.assert_array_equal(found["regenerated"], [1, 0, np.nan, 0, 1, np.nan, 1, np.nan])


def test_regenerations_need_no_events():
    """What is inferred is the same whatever the events of other kinds, and without any."""
    chats = [
        {"prompt": q, "response": a, "user_id": u, "time": float(t), "id": f"r{t}"}
        for t, (u, q, a) in enumerate(["xpa", "xpb", "yqa", "xqc", "yqd"])
    ]
    kinds, infer = {"again": "negative"}, {"again": "regenerate"}
    named = {"prompt": "prompt", "response": "response"}
    for log in (
        read_feedback_log(chats, **named),  # without the id of the responses
        read_feedback_log(chats, response_id="id", **named),
        pd.DataFrame(chats).rename(columns={"prompt": "prompt_id"}),
    ):
        data = actions_from_events(log, None, kinds, infer=infer, window=3, now=7)
        np.testing.assert_array_equal(data.actions["again"], [1, 0, 1, 0, 0])
        assert data.summary.found["rows with again inferred"] == 2
        open_ = actions_from_events(log, None, kinds, infer=infer, window=3, now=6).actions["again"]
        np.testing.assert_array_equal(open_, [1, 0, 1, 0, np.nan])
    with pytest.raises(
        ValueError, match="events is None, but kinds names 'copy', which infer does"
    ):
        actions_from_events(log, None, kinds | COPY, infer=infer)


def test_messages_name_the_columns_of_data_that_were_read():
    chats = [{"response": "a", "id": 1, "sent": 2.0}, {"response": "b", "id": 2, "sent": 3.0}]
    log = read_feedback_log(chats, response_id="id", time="sent")
    with pytest.raises(ValueError, match="column 'id' of responses numbers, so they would never"):
        actions_from_events(log, [{"response_id": "1", "kind": "copy", "time": 2.0}], COPY)
    with pytest.raises(
        ValueError, match="column 'sent' of responses holds numbers; column 'at' of"
    ):
        actions_from_events(
            log, [{"response_id": 1, "kind": "copy", "at": "2026-01-01"}], COPY,
            columns={"time": "at"},
        )  # fmt: skip


@pytest.mark.parametrize("circle", [("r1", "r1"), ("r2", "r1")])
def test_circles_of_replies_are_refused(circle):
    responses = shown(
        ("r1", 1, "p1", circle[0], 0), ("r2", 1, "p2", circle[1], 1),
        names="response_id conversation_id prompt_id parent_id time",
    )  # fmt: skip
    with pytest.raises(ValueError, match="row 0 of responses follows .*Correct parent_id"):
        actions_from_events(
            responses, done(("r1", 1), names="response_id time kind"),
            COPY | {"edited": "negative"}, infer={"edited": "edit"},
        )  # fmt: skip


def test_data_that_were_read_get_actions():
    chats = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
         "user_id": "u", "time": float(t), "id": t, "thumb": 1}
        for t, (q, a) in enumerate([("q", "a"), ("q", "b"), ("r", "c")])
    ]  # fmt: skip
    log = read_feedback_log(chats, response_id="id", signals=["thumb"])
    events = done((2, "u", 9, "copy"))
    kinds = COPY | {"regenerated": "negative"}
    data = actions_from_events(log, events, kinds, infer={"regenerated": "regenerate"})
    assert data.actions.to_dict("list") == {
        "thumb": [1, 1, 1], "copy": [0, 0, 1], "regenerated": [1, 0, 0]
    }  # fmt: skip
    assert data.signals == {"thumb": "positive"} | kinds
    assert data.X is log.X
    assert data.fit_params().keys() == {"user_id", "groups", "response_id"}
    assert data.summary.source == "the list" and data.summary.columns["events"] == "1"
    with pytest.raises(ValueError, match="already has the actions 'thumb'"):
        actions_from_events(log, events, {"thumb": "positive", "copy": None})


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_times_of_data_that_were_read_keep_their_zone(zone):
    log = read_feedback_log(
        [{"response": "r", "id": 1, "time": f"2026-01-01T10:00{zone}"}], response_id="id"
    )
    events = done((1, f"2026-01-01T10:30{zone}"), names="response_id time kind")
    arguments = {"window": "1h", "now": f"2026-01-02T00:00{zone}"}
    data = actions_from_events(log, events, COPY, **arguments)
    assert data.actions["copy"].tolist() == [1]
    table = pd.DataFrame({"response_id": [1], "time": log.time})
    np.testing.assert_array_equal(
        actions_from_events(table, events, COPY, **arguments).time, log.time
    )
    other = done((1, "2026-01-01T10:30" + ("Z" if not zone else "")), names="response_id time kind")
    with pytest.raises(ValueError, match="times cannot be compared"):
        actions_from_events(log, other, COPY)


TABLES = {
    "pandas": lambda frame: frame,
    "records": lambda frame: frame.to_dict("records"),
    "Arrow": pa.Table.from_pandas,
    "polars": lambda frame: pytest.importorskip("polars").from_pandas(frame),
    "lazy": lambda frame: pytest.importorskip("polars").from_pandas(frame).lazy(),
    "categorical": lambda frame: frame.astype("category").astype({"time": float}),
    "object": lambda frame: frame.astype(object),
    "Arrow dtypes": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "nullable": lambda frame: frame.convert_dtypes(),
}


@pytest.mark.parametrize("of_events", TABLES)
@pytest.mark.parametrize("of_responses", TABLES)
def test_tables(of_responses, of_events):
    events = done(("a", "bob", 5), ("b", "ann", 5))
    data = actions_from_events(TABLES[of_responses](THREE), TABLES[of_events](events), COPY)
    assert data.actions["copy"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 2), (2**62 + 1, 2**62 + 2), ("1", "01"), (uuid.UUID(int=1), uuid.UUID(int=2)), (1.0, 2)],
)
def test_ids_of_every_type(first, second):
    responses = pd.DataFrame({"response_id": [first, second]})
    for ids in ([second], [second, None]):
        events = pd.DataFrame({"response_id": pd.Series(ids, dtype=object), "kind": "copy"})
        assert column(responses, events) == [0, 1]


# ---------------------------------------------------------------------- against one event at a time


def slowly(responses, events, window, now):
    """The rules of the docstring, event by event."""
    acted = np.zeros(len(responses))
    for _, event in events.iterrows():
        fits = responses[
            (responses["response_id"] == event["response_id"])
            & (responses["user_id"] == event["user_id"])
            & (responses["time"] <= event["time"])
        ]
        if len(fits):
            row = fits["time"].idxmax()
            if window is None or event["time"] - responses["time"][row] <= window:
                acted[row] = 1
    if window is not None:
        acted[(responses["time"] + window > now).to_numpy()] = np.nan
    return acted


ROW = st.tuples(st.sampled_from("abc"), st.sampled_from("uv"), st.integers(0, 8))


@pytest.mark.slow
@hypothesis.settings(PROPERTY, max_examples=150)
@hypothesis.given(
    st.lists(ROW, min_size=1, max_size=8, unique=True), st.lists(ROW, max_size=12),
    st.none() | st.integers(1, 5), st.integers(8, 12), st.randoms(use_true_random=False),
)  # fmt: skip
def test_agrees_with_one_event_at_a_time(rows, of_events, window, now, shuffler):
    responses = shown(*rows)
    events = done(*of_events) if of_events else done(("a", "u", 0))[:0]
    arguments = {} if window is None else {"window": window, "now": now}
    expected = slowly(responses, events, window, now)
    np.testing.assert_array_equal(column(responses, events, **arguments), expected)
    # The order of rows, events and columns changes nothing else.
    order = shuffler.sample(range(len(rows)), len(rows))
    mixed = responses.iloc[order][["time", "user_id", "response_id"]]
    events = events.iloc[shuffler.sample(range(len(events)), len(events))]
    np.testing.assert_array_equal(column(mixed, events, **arguments), expected[order])


# ---------------------------------------------------------------------- what is refused

EVENTS = done(("a", "ann", 1))
REFUSED = {
    "no kinds": (THREE, EVENTS, {}, {}, TypeError, "kinds is {}"),
    "list of kinds": (THREE, EVENTS, ["copy"], {}, TypeError, "expected a dict"),
    "sign": (THREE, EVENTS, {"copy": "good"}, {}, ValueError, r"kinds\['copy'\] is 'good'"),
    "nothing left": (THREE, EVENTS, {"copy": None}, {}, ValueError, "leaves out every kind"),
    "no now": (THREE, EVENTS, COPY, {"window": 5}, ValueError, "without now="),
    "early now": (THREE, EVENTS, COPY, {"now": 0}, ValueError, "earlier than the last event"),
    "window": (THREE, EVENTS, COPY, {"window": "5h", "now": 9}, ValueError, "times are numbers"),
    "window 0": (THREE, EVENTS, COPY, {"window": 0, "now": 9}, ValueError, "a number > 0"),
    "windows": (THREE, EVENTS, COPY, {"window": (1, 2), "now": 9}, ValueError, "both in a tuple"),
    "turn": (THREE, EVENTS, COPY, {"window": "next_turn"}, ValueError, "column 'conversation_id'"),
    "no time": (
        THREE, EVENTS.drop(columns="time"), COPY, {"window": 1, "now": 3}, ValueError,
        "events lacks the column 'time'"),
    "no kind": (THREE, EVENTS.drop(columns="kind"), COPY, {}, ValueError, "the column 'kind'"),
    "missing kind": (THREE, EVENTS.assign(kind=None), COPY, {}, ValueError, "lacks 'kind' in 1 "),
    "missing time": (
        THREE, EVENTS.assign(time=None), COPY, {}, ValueError, "lacks 'time' in 1 row;"),
    "missing time of a response": (
        THREE.assign(time=[0, None, 1]), EVENTS, COPY, {}, ValueError, "the first is row 1"),
    "missing id": (
        THREE.assign(response_id=["a", None, "b"]), EVENTS, COPY, {}, ValueError,
        "responses lacks 'response_id' in 1 row; the first is row 1"),
    "no ids": (
        THREE, EVENTS.rename(columns={"response_id": "id"}), COPY, {}, ValueError,
        "cannot be matched"),
    "types": (
        THREE.assign(response_id=[1, 1, 2]), EVENTS, COPY, {}, ValueError,
        "'response_id' of events holds text and column 'response_id' of responses numbers"),
    "users of events only": (
        THREE.drop(columns="user_id"), EVENTS, COPY, {}, ValueError, "'user_id' but"),
    "users of responses only": (
        THREE, EVENTS.drop(columns="user_id"), COPY, {}, ValueError, "'a' was shown to several"),
    "which exposure": (
        shown(("a", "ann"), ("a", "ann"), names="response_id user_id"),
        EVENTS.drop(columns="time"), COPY, {}, ValueError, "up to 2 rows.*Add 'time'"),
    "kinds of times": (
        THREE, EVENTS.assign(time="2026-01-01"), COPY, {}, ValueError, "times cannot be compared"),
    "no date": (
        THREE, EVENTS.assign(time="soon"), COPY, {}, ValueError, "row 0 of events holds 'soon'"),
    "zones": (
        THREE.assign(time="2026-01-01T00:00Z"), EVENTS.assign(time="2026-01-01T01:00"), COPY, {},
        ValueError, "times cannot be compared.* Add the time zone .* 2026-03-08T00:00Z"),
    "a value": (
        THREE, EVENTS, {"copy": Choice({"up": 1, "down": 0})}, {}, ValueError,
        "is a Choice, but an event happens or does not happen"),
    "tracked": (THREE, EVENTS, COPY, {"tracked": {"copy": "web"}}, ValueError, "column 'client'"),
    "tracked what": (THREE, EVENTS, COPY, {"tracked": {"x": "web"}}, ValueError, "names 'x'"),
    "infer what": (THREE, EVENTS, COPY, {"infer": {"x": "edit"}}, ValueError, "infer names 'x'"),
    "rule": (THREE, EVENTS, COPY, {"infer": {"copy": "stop"}}, ValueError, r"infer\['copy'\]"),
    "prompts": (THREE, EVENTS, COPY, {"infer": {"copy": "edit"}}, ValueError, "column 'prompt_id'"),
    "whose": (
        THREE.assign(prompt_id=1).drop(columns="user_id"), EVENTS.drop(columns="user_id")[:0],
        COPY, {"infer": {"copy": "regenerate"}}, ValueError, "neither 'user_id' nor"),
    "path": ("events.jsonl", EVENTS, COPY, {}, FileNotFoundError, "events.jsonl does not exist"),
    "numbers": (THREE, [1, 2], COPY, {}, TypeError, "row 0 of events is a int"),
    "no rows": (THREE[:0], EVENTS, COPY, {}, ValueError, "responses has no rows"),
    "two columns": (
        pd.DataFrame([[1, 2]], columns=["response_id"] * 2), EVENTS, COPY, {}, ValueError,
        "responses has two columns 'response_id'"),
    "kinds that are lists": (
        THREE, [{"response_id": "a", "user_id": "ann", "time": 1, "kind": ["copy"]}], COPY, {},
        TypeError, "kinds that are not names"),
    "no columns": (pd.DataFrame({"x": [1]}), EVENTS, COPY, {}, ValueError, "none of the columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decided_is_refused(name):
    responses, events, kinds, arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        actions_from_events(responses, events, kinds, **arguments)


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ({"response_id": "\ud83d"}, {}, r"events holds text that is not Unicode \('.ud83d'\)"),
        (1, {}, "row 1 of events is a int; expected a dict"),
        (None, {}, "row 1 of events is a NoneType; expected a dict"),
        ({}, {"window": 1, "now": float("nan")}, "now is nan; expected the time of the export"),
    ],
)
def test_odd_events_are_refused_with_their_place(row, arguments, message):
    event = {"response_id": "a", "time": 1, "kind": "copy"}
    events = [event, event | row if isinstance(row, dict) else row]
    with pytest.raises((ValueError, TypeError), match=message):
        actions_from_events([{"response_id": "a", "time": 0}], events, COPY, **arguments)


@pytest.mark.alone
@pytest.mark.slow
def test_ten_million_events_in_a_minute():
    rng = np.random.default_rng(0)
    m, n = 1_000_000, 10_000_000
    second = np.timedelta64(1, "s")
    times = np.datetime64("2026-01-01", "us") + rng.integers(0, 30 * 86_400, m) * second
    responses = pd.DataFrame(
        {
            "response_id": np.char.add("r", np.arange(m).astype(str)),
            "user_id": np.char.add("u", rng.integers(0, 50_000, m).astype(str)),
            "conversation_id": rng.integers(0, 200_000, m),
            "time": times,
        }
    )
    row = rng.integers(0, m, n)
    events = responses.iloc[row][["response_id", "user_id"]].reset_index(drop=True)
    events["kind"] = rng.choice(np.array(["copy", "share", "regenerate"]), n)
    events["time"] = times[row] + rng.integers(0, 2 * 86_400, n) * second
    kinds = {"copy": "positive", "share": "positive", "regenerate": "negative"}
    began = time.process_time()
    data = actions_from_events(
        responses, events, kinds, window=("next_turn", "24h"), now="2026-02-05"
    )
    assert time.process_time() - began <= 60
    assert sum(data.summary.left_out.values()) + int(data.actions.sum().sum()) <= n


# ---------------------------------------------------------------------- names and forms of columns


def test_columns_of_events_may_have_other_names(tmp_path):
    responses = [{"response_id": "a"}, {"response_id": "b"}]
    events = [{"type": "copy", "data": {"message": {"id": "b"}}}, {"type": "copy", "data": {}}]
    columns = {"kind": "type", "response_id": "data.message.id"}
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, events)))
    for source in (events, iter(events), path):
        data = actions_from_events(responses, source, {"copy": "positive"}, columns=columns)
        assert data.actions["copy"].tolist() == [0, 1]
        assert data.summary.left_out == {"events without data.message.id": 1}
    for library in ("pandas", "polars"):
        table = pytest.importorskip(library).DataFrame({"type": ["copy"], "id": ["a"]})
        renamed = {"kind": "type", "response_id": "id"}
        data = actions_from_events(responses, table, {"copy": "positive"}, columns=renamed)
        assert data.actions["copy"].tolist() == [1, 0]
    for wrong, message in (
        (
            {"kind": "sort"},
            "events has no column 'sort', which was named for 'kind'. It has type, d",
        ),
        ({"sort": "type"}, "columns names 'sort', which events do not have"),
        (["type"], "columns is .* expected a dict from response_id"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            actions_from_events(responses, events, {"copy": "positive"}, columns=wrong)


def test_events_that_match_nothing_are_said_so():
    """Ids of another form never match, as with and without hyphens."""
    responses = [{"response_id": str(uuid.UUID(int=1))}]
    events = [{"response_id": uuid.UUID(int=1).hex, "kind": "copy"}]
    for ids, warns in ((events, True), ([events[0] | responses[0]], False)):
        data = actions_from_events(responses, ids, {"copy": "positive"})
        assert any("No event belongs to a row" in text for text in data.summary.warnings) == warns
    empty = pd.DataFrame({"response_id": [], "kind": []})
    data = actions_from_events([{"response_id": "a"}], empty, {"copy": "positive"})
    assert data.actions["copy"].tolist() == [0]
    with pytest.raises(ValueError, match="events has no rows"):
        actions_from_events(responses, [], {"copy": "positive"})


@pytest.mark.parametrize("kind", ["list", "polars", "arrow", "batch", "lazy", "nullable"])
def test_large_ids_are_not_rounded_where_one_is_missing(kind):
    """A missing value makes floats of integers, and neighbours beyond 2**53 become one."""
    polars = pytest.importorskip("polars")
    make = {
        "list": lambda rows: rows,
        "polars": polars.DataFrame,
        "lazy": polars.LazyFrame,
        "arrow": pa.Table.from_pylist,
        "batch": lambda rows: pa.Table.from_pylist(rows).to_batches()[0],
        "nullable": lambda rows: pd.DataFrame(rows, dtype=object).astype({"user_id": "Int64"}),
    }[kind]
    users = [2**60 + 1, 2**60 + 2, None]
    responses = [{"response_id": f"r{i}", "user_id": user} for i, user in enumerate(users)]
    events = [
        {"response_id": "r0", "user_id": 2**60 + 1, "kind": "copy"},
        {"response_id": "r1", "user_id": 2**60 + 1, "kind": "copy"},  # not the user of the row
        {"response_id": "r2", "user_id": None, "kind": "copy"},
    ]
    data = actions_from_events(make(responses), make(events), COPY)
    assert data.actions["copy"].tolist() == [1, 0, 1]
    assert data.user_id.tolist() == users


def test_ids_that_were_rounded_are_refused():
    responses = pd.DataFrame({"response_id": ["a", "b"], "user_id": [2**60 + 1, None]})
    events = shown(("a", 2**60 + 1, "copy"), names="response_id user_id kind")
    with pytest.raises(ValueError, match="column 'user_id' of responses has ids that are floats"):
        actions_from_events(responses, events, COPY)


def test_ids_of_two_types_are_refused():
    one = uuid.UUID(int=1)
    for of_response, of_event in ((one, str(one)), (str(one), one), (b"a", "a")):
        with pytest.raises(ValueError, match="in two forms: 1 occur as another type"):
            actions_from_events(
                [{"response_id": of_response}], [{"response_id": of_event, "kind": "copy"}], COPY
            )


@pytest.mark.parametrize("name", ["response_id", "conversation_id"])
def test_rows_of_one_id_and_time_are_not_chosen_from(name):
    """The result would depend on the order of the rows."""
    names = f"{name} user_id time"
    responses = shown(("a", "ann", 1), ("a", "ann", 1), ("b", "ann", 1), names=names)
    late = done(("a", "ann", 2), names=f"{names} kind")
    for order in ([0, 1, 2], [2, 1, 0]):
        with pytest.raises(
            ValueError, match=f"{name!r} 'a' was shown in several rows .*of 1 event"
        ):
            actions_from_events(responses.iloc[order], late, COPY)
    events = done(("b", "ann", 2), names=f"{names} kind")
    assert column(responses, events) == [0, 0, 1]
    apart = responses.assign(user_id=["ann", "bob", "ann"])
    assert column(apart, late) == [1, 0, 0]


def test_data_sets_of_hugging_face_in_any_format():
    datasets = pytest.importorskip("datasets")
    responses = datasets.Dataset.from_list([{"response_id": 1}, {"response_id": 2}])
    events = datasets.Dataset.from_list([{"response_id": 2, "kind": "copy"}])
    for kind in (None, "numpy", "torch", "pandas", "arrow"):
        assert column(responses.with_format(kind), events.with_format(kind)) == [0, 1]


def test_numbers_of_two_units_are_not_compared():
    second = 1_772_000_000
    rows = pd.DataFrame({"response_id": ["a", "b"], "time": [second, second + 1]})
    events = pd.DataFrame({"response_id": ["a"], "time": [second * 1000], "kind": ["copy"]})
    with pytest.raises(
        ValueError, match="responses looks like seconds since 1970; .* of events looks like"
    ):
        actions_from_events(rows, events, COPY)
    events["time"] //= 1000
    with pytest.raises(ValueError, match="now looks like milliseconds since 1970"):
        actions_from_events(rows, events, COPY, window=60, now=second * 1000)


@pytest.mark.parametrize(
    "times", [["1712010812345"] * 2, ["2026", "2027"], ["2026-01-01", "2027"], ["1767225600"] * 2]
)
def test_numbers_as_text_are_not_dates(times):
    responses = [{"response_id": 1, "time": times[0]}]
    events = [{"response_id": 1, "time": times[1], "kind": "copy"}]
    with pytest.raises(ValueError, match="row 0 of .* holds '.*' in column 'time'"):
        actions_from_events(responses, events, COPY)


def regenerated(rows):
    """Return by brute force which rows were followed by a response that was new to the user."""
    found = []
    for row in rows:
        mine = [
            r for r in rows if (r["user_id"], r["prompt_id"]) == (row["user_id"], row["prompt_id"])
        ]
        seen = {r["response_id"] for r in mine if r["time"] <= row["time"]}
        found.append(float(any(r["response_id"] not in seen for r in mine)))
    return found


@hypothesis.settings(PROPERTY, max_examples=100)
@hypothesis.given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from("uv"),
                "prompt_id": st.sampled_from("pq"),
                "response_id": st.sampled_from("abc"),
                "time": st.integers(0, 5),
            }
        ),
        min_size=1,
        max_size=9,
    )
)
def test_a_response_that_is_shown_again_is_not_another_one(rows):
    kinds, infer = {"again": "negative"}, {"again": "regenerate"}
    assert column(rows, None, kinds, infer=infer) == regenerated(rows)
    texts = [
        {"prompt": r["prompt_id"], "response": r["response_id"]}
        | {k: r[k] for k in ("user_id", "time")}
        for r in rows
    ]
    assert column(read_feedback_log(texts), None, kinds, infer=infer) == regenerated(rows)
