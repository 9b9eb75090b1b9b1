"""Logs as products export them: every format, every table, and what is damaged."""

import csv
import gzip
import json
import random
import re
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import read_feedback_log
from implicitrm_sk.datasets._read import DIFFERING, DUPLICATES
from implicitrm_sk.embedding import response_text
from implicitrm_sk.embedding._text import read_text
from implicitrm_sk.signals import Action, Choice, Graded

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

#: Each run tries the same examples.
PROPERTY = hypothesis.settings(deadline=None, derandomize=True, database=None)
SIGNALS = {"copied": "positive", "regenerated": "negative"}


def chat(question="2 + 2?", answer="4"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def rows(n=6):
    """Return a small log as records, with everything missing once."""
    return [
        {
            "messages": chat(f"question {i // 2}", f"answer {i}"),
            "copied": None if i == 3 else int(i % 2 == 0),
            "regenerated": bool(i % 3 == 0),
            "user_id": None if i == 4 else f"u{i % 2}",
            "prompt_id": i // 2,
            "timestamp": f"2026-01-0{i + 1}T12:00:00+00:00",
        }
        for i in range(n)
    ]


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def same(a, b):
    """Assert that two logs are equal in all but the places."""
    assert read_text(a.X) == read_text(b.X)
    pd.testing.assert_frame_equal(a.actions, b.actions)
    np.testing.assert_array_equal(a.groups, b.groups)
    np.testing.assert_array_equal(a.user_id, b.user_id)
    np.testing.assert_array_equal(a.time, b.time)
    assert a.signals == b.signals


# ---------------------------------------------------------------------- sources


def table(**dtypes):
    frame = pd.DataFrame(rows())
    return frame.astype(dtypes)


def arrow_table():
    return pa.Table.from_pylist(rows())


def polars_table():
    return pytest.importorskip("polars").from_arrow(arrow_table())


def hugging_face():
    return pytest.importorskip("datasets").Dataset.from_list(rows())


TABLES = {
    "list": rows,
    "generator": lambda: iter(rows()),
    "pandas": table,
    "nullable": lambda: table(copied="Int8", regenerated="boolean", user_id="string"),
    "categorical": lambda: table(copied="category", user_id="category"),
    "object": lambda: table(copied=object, regenerated=object),
    "floats": lambda: table(copied="float32", regenerated="float64"),
    "decimals": lambda: table().assign(
        regenerated=[Decimal(int(r["regenerated"])) for r in rows()]
    ),
    "Arrow dtypes": lambda: table(
        copied="int8[pyarrow]", regenerated="bool[pyarrow]", user_id="string[pyarrow]"
    ),
    "dates": lambda: table().assign(timestamp=pd.to_datetime(table()["timestamp"])),
    "dates of another zone": lambda: table().assign(
        timestamp=pd.to_datetime(table()["timestamp"]).dt.tz_convert("Asia/Tokyo")
    ),
    "JSON strings": lambda: table().assign(messages=[json.dumps(r["messages"]) for r in rows()]),
    "other index": lambda: table().set_index(pd.Index(range(6, 0, -1))),
    "Arrow": arrow_table,
    "record batch": lambda: pa.Table.from_batches(arrow_table().to_batches(max_chunksize=2)),
    "polars": polars_table,
    "lazy": lambda: polars_table().lazy(),
    "Hugging Face": hugging_face,
    "Hugging Face with a format": lambda: hugging_face().with_format("numpy"),
    "iterable": lambda: hugging_face().to_iterable_dataset(),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    same(
        read_feedback_log(TABLES[name](), signals=SIGNALS),
        read_feedback_log(rows(), signals=SIGNALS),
    )


def as_array(path):
    path.write_text(json.dumps(rows(), indent=1))


def as_gzip(path):
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows())).encode()))


def as_zstd(path):
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write("\r\n".join(map(json.dumps, rows())).encode())


def as_feather(path):
    with pa.ipc.new_file(str(path), arrow_table().schema) as file:
        file.write_table(arrow_table(), max_chunksize=2)


def as_stream(path):
    with pa.ipc.new_stream(str(path), arrow_table().schema) as file:
        file.write_table(arrow_table())


def as_csv(path, separator=",", **options):
    frame = pd.DataFrame(rows()).assign(messages=[json.dumps(r["messages"]) for r in rows()])
    frame.to_csv(path, sep=separator, index=False, **options)


FILES = {
    "log.csv": as_csv,
    "log.tsv": lambda path: as_csv(path, "\t", lineterminator="\r\n", encoding="utf-8-sig"),
    "log.CSV.gz": lambda path: as_csv(path, quoting=csv.QUOTE_ALL, compression="gzip"),
    "log.jsonl": lambda path: write(path, rows()),
    "log.ndjson": lambda path: path.write_text(
        "\ufeff" + "\n\n".join(map(json.dumps, rows())) + "\n"
    ),
    "log.json": as_array,
    "log.JSONL.gz": as_gzip,
    "log.v2.jsonl.zst": as_zstd,
    "log.parquet": lambda path: pq.write_table(arrow_table(), path, row_group_size=2),
    "log.feather": as_feather,
    "log.arrow": as_stream,
}


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    FILES[name](tmp_path / name)
    found = read_feedback_log(tmp_path / name, signals=SIGNALS)
    same(found, read_feedback_log(rows(), signals=SIGNALS))
    assert found.summary.source == name


CELLS = {
    "integers": (["7", "", "-12", "12345678901234567890"], [7, None, -12, 12345678901234567890]),
    "leading zeros": (["007", "7", ""], ["007", "7", None]),
    "signs": (["+7", "7"], ["+7", "7"]),
    "minus zero": (["-0", "0"], ["-0", "0"]),
    "exponents": (["1e5", "100000"], ["1e5", "100000"]),
    "floats": (["1.0", "0.0", ""], [1.0, 0.0, None]),
    "floats and integers": (["0.25", "3"], [0.25, 3.0]),
    "fixed decimals": (["0.50", "10.25"], [0.5, 10.25]),
    "versions": (["1.1", "1.10"], ["1.1", "1.10"]),
    "versions and integers": (["1", "1.0", "1.10"], ["1", "1.0", "1.10"]),
    "integers with and without a point": (["1", "1.0", "0"], [1.0, 1.0, 0.0]),
    "long fractions": (["1.10", "1.12345678901234567890"], ["1.10", "1.12345678901234567890"]),
    "long integers": (["12345678901234567", "0.5"], ["12345678901234567", "0.5"]),
    "small numbers of Python": (["1e-05", "-3.2e-07", "0.5", "1"], [1e-05, -3.2e-07, 0.5, 1.0]),
    "exponents of others": (["1e5", "1E-5", "1e-5"], ["1e5", "1E-5", "1e-5"]),
    "exponents and versions": (["1e-05", "1.1", "1.10"], ["1e-05", "1.1", "1.10"]),
    "exponents and long integers": (["1e-05", "12345678901234567"], ["1e-05", "12345678901234567"]),
    "other digits": (["\u0661", "\u0662"], ["\u0661", "\u0662"]),
    "booleans": (["True", "False", ""], [True, False, None]),
    "spellings": (["True", "true"], ["True", "true"]),
    "yes and no": (["yes", "no"], ["yes", "no"]),
    "true and 1": (["true", "1"], ["true", "1"]),
    "1 and true": (["1", "true"], ["1", "true"]),
    "blanks": ([" 7", "7"], [" 7", "7"]),
    "words for nothing": (["NULL", "NaN", "7"], ["NULL", "NaN", "7"]),
    "quotes and line breaks": (['a "b", c', "d\n\r\ne"], ['a "b", c', "d\n\r\ne"]),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("files", [1, 2])
def test_cells_of_csv_are_numbers_only_if_they_differ_as_numbers(name, files, tmp_path):
    cells, values = CELLS[name]
    table = pd.DataFrame({"response": "r", "cell": cells}, dtype=object)
    half = len(cells) // files
    table[:half].to_csv(tmp_path / "a.csv", index=False)
    table[half:].to_csv(tmp_path / "b.csv", index=False)
    found = read_feedback_log(tmp_path, keep=["cell"]).cell.tolist()
    assert found == values and list(map(type, found)) == list(map(type, values))


def test_text_of_csv_is_text_and_may_be_long(tmp_path):
    limit = csv.field_size_limit()
    answers = ["4", "5", "x" * 10**6]
    pd.DataFrame({"prompt": ["1", "2", "3"], "response": answers}).to_csv(tmp_path / "log.csv")
    log = read_feedback_log(tmp_path / "log.csv")
    assert log.prompt.tolist() == ["1", "2", "3"] and log.response.tolist() == answers
    assert csv.field_size_limit() == limit


BAD_CSV = {
    "few cells": ("a,b\n1,2\n3\n", "line 3 of log.csv has 1 cells, but .* names 2 columns"),
    "many cells": ("a,b\n1,2,3\n", "line 2 of log.csv has 3 cells"),
    "many cells below two lines": ('a,b\n"1\n2",3\n1,2,3', "line 4 of log.csv has 3 cells"),
    "cut off in a text": ('a,b\n1,"2\n3', "line 2 of log.csv is not a row.*end of data"),
    "text behind quotes": ('a,b\n1,"2"3\n', "line 2 of log.csv is not a row"),
    "a name twice": ("a,a\n1,2\n", "two columns 'a'"),
    "semicolons": ("a;b\n1;2\n", "expected columns separated by ',', not by ';'"),
    "Latin-1": (b"a,b\n1,\xe9\n", "line 2 of log.csv holds a byte that is not UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "line 1 of log.csv holds a byte that is not UTF-8"),
    "an action": (
        "response,copied\na,1\n\nb,maybe\n",
        "line 4 of log.csv holds 'maybe' .*or name another column\\.$",
    ),
    "no rows": ("response,copied\n", "log.csv has no rows"),
    "nothing": ("", "log.csv has no rows"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_damaged_csv_is_refused_with_its_place(name, tmp_path):
    content, message = BAD_CSV[name]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_feedback_log(tmp_path / "log.csv", signals=["copied"])


def test_folder_in_the_order_of_names(tmp_path):
    pq.write_table(pa.Table.from_pylist(rows()[:2]), tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl", rows()[2:4])
    write(tmp_path / "c.jsonl", rows()[4:])
    (tmp_path / "_SUCCESS").touch()
    found = read_feedback_log(str(tmp_path), signals=SIGNALS)
    same(found, read_feedback_log(rows(), signals=SIGNALS))
    assert found.row.tolist() == list(range(6))
    assert "3, in the order of their names" in str(found.summary)
    assert re.search("files left out +_SUCCESS", str(found.summary))


def test_fit_takes_what_is_read():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    log = [
        {
            "vector": list(x),
            "action": int(x[0] > 0.5),
            "action_2": int(x[1] > 0),
            "prompt_id": i // 2,
        }
        for i, x in enumerate(X)
    ]
    data = read_feedback_log(log, embedding="vector")
    np.testing.assert_array_equal(data.X, X)
    assert data.signals == {"action": "positive", "action_2": "positive"} and data.prompt is None
    est = ImplicitRewardEstimator(signals=data.signals, max_epochs=2, early_stopping=False)
    est.fit(data.X, data.actions, **data.fit_params())
    assert list(est.signal_names_in_) == ["action", "action_2"]


# ---------------------------------------------------------------------- formats of the public


def openai():
    """Stored completions: a request with its messages, and what came back."""
    record = {
        "request": {
            "model": "m",
            "messages": [{"role": "developer", "content": "Be brief."}, *chat()[:1]],
        },
        "response": {"choices": [{"index": 0, "message": chat()[1] | {"refusal": None}}]},
        "thumbs": 1,
    }
    return [record], {"prompt": "request.messages", "response": "response.choices.0.message"}


def responses_api():
    record = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]}],
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "4"}],
            }
        ],
        "thumbs": 1,
    }
    return [record], {"prompt": "input", "response": "output"}


def share_gpt():
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "2 + 2?"}]
    return [{"id": "x", "conversations": [*turns, {"from": "gpt", "value": "4"}], "thumbs": 1}], {}


def hugging_face_chat():
    """As ultrachat has it: the prompt beside the messages that repeat it."""
    return [{"prompt": "2 + 2?", "prompt_id": "h", "messages": chat(), "thumbs": 1}], {}


def explicit_prompt():
    """As TRL has it: a prompt and a completion of messages."""
    return [{"prompt": chat()[:1], "completion": chat()[1:], "thumbs": 1}], {}


def lang_smith():
    run = {
        "id": str(uuid.UUID(int=1)),
        "run_type": "llm",
        "inputs": {"messages": [{"type": "human", "content": "2 + 2?"}]},
        "outputs": {"message": {"type": "ai", "content": "4", "tool_calls": []}},
        "feedback": [{"key": "thumbs", "score": 1}, {"key": "other", "score": 0.3}],
        "start_time": "2026-01-01T00:00:00.123456+00:00",
    }
    paths = {"prompt": "inputs.messages", "response": "outputs.message", "time": "start_time"}
    return [run], paths | {"signals": ["feedback.thumbs"], "response_id": "id"}


def langfuse():
    trace = {
        "id": "t1",
        "userId": "ann",
        "sessionId": "s1",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "input": {"messages": chat()[:1]},
        "output": chat()[1],
        "scores": [{"name": "thumbs", "value": 1, "dataType": "BOOLEAN"}],
    }
    paths = {"prompt": "input.messages", "response": "output", "user_id": "userId"}
    return [trace], paths | {"signals": ["scores.thumbs"], "conversation_id": "sessionId"}


PUBLIC = [
    openai,
    responses_api,
    share_gpt,
    hugging_face_chat,
    explicit_prompt,
    lang_smith,
    langfuse,
]


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("form", PUBLIC)
def test_public_formats(form, parquet, tmp_path):
    records, arguments = form()
    source = records
    if parquet:
        source = tmp_path / "log.parquet"
        pq.write_table(pa.Table.from_pylist(records), source)
    data = read_feedback_log(source, **({"signals": ["thumbs"]} | arguments))
    (row,) = read_text(data.X)
    assert row[-2:] == (("user", "2 + 2?"), ("assistant", "4")) and len(row) <= 3
    assert data.response.tolist() == ["4"] and data.actions.to_numpy().tolist() == [[1.0]]
    for name in set(arguments) - {"prompt", "response", "signals"}:
        assert len(data[name]) == 1


def test_tool_turns_are_part_of_the_response():
    call = {"function": {"name": "add", "arguments": '{"a": 2}'}}
    turns = [
        chat()[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "Thanks"},
    ]
    data = read_feedback_log([{"messages": turns}])
    assert data.prompt[0] == chat()[:1]
    assert [m["role"] for m in data.response[0]] == ["assistant", "tool", "assistant"]
    assert data.summary.found["chats cut after the turn acted on"] == 1
    assert len(read_text(data.X)[0]) == 4


def test_an_assistant_that_spoke_first_has_no_prompt():
    system = {"role": "system", "content": "Be brief."}
    data = read_feedback_log([{"messages": chat()[1:]}, {"messages": [system, chat()[1]]}])
    assert data.prompt.tolist() == [[], [system]] and data.response.tolist() == ["4", "4"]
    assert read_text(data.X) == [
        (("assistant", "4"),),
        (("system", "Be brief."), ("assistant", "4")),
    ]


# ---------------------------------------------------------------------- turns

LONG = [*chat("a", "b"), *chat("c", "d"), {"role": "user", "content": "e"}]
LONG = [message | {"id": f"m{i}"} for i, message in enumerate(LONG)]


@pytest.mark.parametrize(
    ("turn", "prompt", "response"),
    [(1, "a", "b"), (3, "c", "d"), ("m1", "a", "b"), ("m3", "c", "d"), (3.0, "c", "d")],
)
def test_turn_acted_on(turn, prompt, response):
    data = read_feedback_log([{"messages": LONG, "which": turn}], turn="which")
    assert data.prompt[0][-1]["content"] == prompt and data.response[0] == response
    assert data.summary.found["chats cut after the turn acted on"] == 1


def test_last_turn_and_equal_prompts():
    data = read_feedback_log([{"messages": LONG}, {"messages": LONG[:4]}, {"messages": LONG[:2]}])
    assert data.response.tolist() == ["d", "d", "b"]
    assert data.groups.tolist() == [0, 0, 1]
    assert data.summary.prompts == (2, 1, 1.5, 2)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (0, "row 0 of the list, column 'messages', has 5 turns.*is a turn of user"),
        (9, "is not there"),
        (-1, "is not there"),
        ("m7", "has no messages with the id 'm7'"),
        (None, "has None in column 'which'"),
        (1.5, "has 1.5 in"),
        (True, "has True in"),
    ],
)
def test_turn_that_is_not_there(turn, message):
    with pytest.raises(ValueError, match=message):
        read_feedback_log([{"messages": LONG, "which": turn}], turn="which")


# ---------------------------------------------------------------------- the summary


def test_summary_counts_what_it_finds():
    log = [
        *rows(),
        rows()[0],
        {"messages": chat()[:1]},
        {"messages": []},
        {"messages": chat("hi", " ")},
    ]
    data = read_feedback_log(log, signals=SIGNALS)
    found = data.summary
    assert (found.n_read, found.n_rows) == (10, 8) and len(data.X) == 8
    assert found.left_out == {"chats without an assistant turn (the first: row 7 of the list)": 2}
    assert data.row.tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    assert found.found["empty responses"] == 1
    assert found.found[DUPLICATES] == 1
    assert found.found["rows without user_id"] == 2
    assert found.found["rows without a time"] == 1
    assert found.users == (4, 1, 2.0, 3)  # two of them unknown
    assert found.signals["copied"] == ("positive", 6, pytest.approx(4 / 6))
    assert found.pairs == [("copied", "regenerated", 6, 2.0, pytest.approx(4 * 2 / 6))]
    text = str(found)
    assert "10 rows read, 8 kept" in text and "regenerated (negative)" in text
    assert all(len(line) <= 110 for line in text.splitlines())


def test_responses_that_repeat_their_prompt_are_counted():
    log = [{"prompt": "Say a.", "response": "Say a. a"}, {"prompt": "Say a.", "response": "a"}]
    data = read_feedback_log(log)
    assert data.summary.found["responses that begin with the text of their prompt"] == 1
    assert data.response.tolist() == ["Say a. a", "a"]


def test_summary_warns_of_wrong_signs():
    rng = np.random.default_rng(0)
    liked = rng.random(2000) < 0.5
    up, copied = (liked & (rng.random(2000) < 0.6)).astype(int), (liked & (rng.random(2000) < 0.6))
    down = (~liked & (rng.random(2000) < 0.5)).astype(int)
    log = [
        {"prompt": str(i), "response": "r", "up": int(a), "copied": int(b), "down": int(c)}
        for i, (a, b, c) in enumerate(zip(up, copied, down, strict=True))
    ]
    right = {"up": "positive", "copied": "positive", "down": "negative"}
    assert read_feedback_log(log, signals=right).summary.warnings == []
    wrong = read_feedback_log(log, signals=["up", "copied", "down"]).summary
    assert len(wrong.warnings) == 2 and "'down' show the same preference, but 0 of" in str(wrong)


def test_windows_that_are_not_closed():
    log = [{"response": "r", "copied": 1, "time": f"2026-01-0{i}T00:00"} for i in (1, 2, 3)]
    log.append({"response": "r", "copied": 1, "time": None})
    data = read_feedback_log(log, signals=["copied"], window="24h", now="2026-01-03")
    # What happened already counts no more than what did not: both are decided at its end.
    np.testing.assert_array_equal(data.actions["copied"], [1, 1, np.nan, np.nan])
    assert data.summary.found["rows whose window of 24h is not closed"] == 2
    data = read_feedback_log(
        [{"response": "r", "copied": 1, "time": t} for t in (1, 2)],
        signals=["copied"], window=1, now=2.5,
    )  # fmt: skip
    np.testing.assert_array_equal(data.actions["copied"], [1, np.nan])


def test_other_kinds_of_signals_keep_their_labels():
    thumb = Choice({"up": 1, "down": 0}, silent="none")
    log = [{"response": "r", "thumb": t, "copied": 1} for t in ("up", None, "none")]
    data = read_feedback_log(log, signals={"thumb": thumb, "copied": Action()})
    assert data.actions["thumb"].tolist() == ["up", None, "none"]
    assert data.signals == {"thumb": thumb, "copied": Action()}
    assert "thumb (Choice)" in str(data.summary)
    assert "up 50.0%, none 50.0%" in str(data.summary)


THUMB = Choice({"up": 1, "down": 0}, silent="none")


def thumb_log(*thumbs):
    return [{"response": "r", "thumb": t, "time": i} for i, t in enumerate(thumbs)]


def test_null_of_a_widget_is_what_the_user_says():
    log, signals = thumb_log("up", None, float("nan"), pd.NA), {"thumb": THUMB}
    with pytest.raises(ValueError, match="3 of 4 rows have no value in column 'thumb' .the first: "
                       "row 1 of the list.*null_is_silent=\\['thumb'\\]"):  # fmt: skip
        read_feedback_log(log, signals=signals)
    unlogged = read_feedback_log(log, signals=signals, null_is_silent=[])
    assert unlogged.actions["thumb"].tolist() == ["up", None, None, None]
    data = read_feedback_log(
        log, signals=signals, null_is_silent=["thumb"], time="time", window=2, now=4
    )
    assert data.actions["thumb"].tolist() == ["up", "none", "none", None]  # open: not logged
    assert data.summary.found["rows without thumb, read as 'none'"] == 3
    # What the log says itself needs no statement.
    stated = read_feedback_log(thumb_log("up", None, "none"), signals=signals)
    assert stated.actions["thumb"].tolist() == ["up", None, "none"]
    given = Choice({"up": 1, "down": 0}, given_reaction=True)
    data = read_feedback_log(log, signals={"thumb": given})
    assert data.actions["thumb"].tolist() == ["up", None, None, None]
    for named, message in (
        (["other"], "null_is_silent names 'other', which is not named in signals"),
        (["copied"], "null_is_silent names 'copied', which is 'positive'; expected a column"),
        (["thumb", "thumb"], "null_is_silent names the column 'thumb' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            read_feedback_log(log, signals=signals | {"copied": "positive"}, null_is_silent=named)


def test_degrees_are_numbers_of_the_log():
    values = ((3, "warm"), (None, "cold"), (Decimal("4.5"), None), (2.5, "cold"))
    log = [{"response": "r", "dwell": d, "tone": t, "copied": 1} for d, t in values]
    signals = {"dwell": Graded(), "tone": Graded(bins=["cold", "fair", "warm"]), "copied": Action()}
    data = read_feedback_log(log, signals=signals)
    np.testing.assert_array_equal(data.actions["dwell"], [3, np.nan, 4.5, 2.5])
    assert data.actions["tone"].tolist() == ["warm", "cold", None, "cold"]
    assert data.summary.signals["dwell"] == ("Graded", 3, (2.5, 3.0, 4.5))
    assert data.summary.pairs == []
    assert "2.5 to 4.5, median 3" in str(data.summary) and "cold 66.7%, warm" in str(data.summary)


BAD_VALUES = [
    (
        "thumb",
        "sideways",
        "'sideways' .str. in column 'thumb'.*expected one of 'up', 'down', 'none'",
    ),
    ("thumb", 1, "holds '1' .int. in column 'thumb'"),
    ("thumb", ["up"], "column 'thumb'"),
    ("thumb", {"up": 1}, "column 'thumb'"),
    ("tone", "hot", "expected one of 'cold', 'fair', 'warm'"),
    ("tone", {"cold"}, "column 'tone'"),
    ("dwell", "3s", "'3s' .str. in column 'dwell'; expected a finite number from 0 to 9"),
    ("dwell", True, "holds 'True' .bool. in column 'dwell'"),
    ("dwell", float("inf"), "column 'dwell'"),
    ("dwell", 10**400, "column 'dwell'"),
    ("dwell", 9.5, "expected a finite number from 0 to 9, or nothing"),
    ("dwell", [1], "column 'dwell'"),
]


@pytest.mark.parametrize(("column", "value", "message"), BAD_VALUES)
def test_bad_labels_and_degrees_have_a_place(column, value, message):
    signals = {
        "thumb": THUMB,
        "tone": Graded(bins=["cold", "fair", "warm"]),
        "dwell": Graded(bins=[0, 2, 5, 9]),
    }
    good = {"response": "r", "thumb": "none", "tone": "fair", "dwell": 2}
    with pytest.raises(ValueError, match=f"^row 1 of the list.*{message}"):
        read_feedback_log([good, good | {column: value}], signals=signals)


def test_duplicates_are_equal_in_all_columns_where_nothing_equals_nothing():
    row = {"response": "r", "message_id": 1, "user_id": None, "copied": None, "time": None}
    log = [row, dict(row), row | {"copied": 1}, row | {"message_id": 2}, row | {"message_id": 2}]
    found = read_feedback_log(log, signals=["copied"]).summary
    assert found.found[DUPLICATES] == 2
    assert found.found[DIFFERING.format("message_id")] == 1
    assert "df[~df.astype(str).duplicated()]" in str(found) and "keep one row of each" in str(found)
    others = [row | {"message_id": i} for i in range(3)]
    assert read_feedback_log(others, signals=["copied"]).summary.found[DUPLICATES] == 0
    users = [row | {"user_id": user, "copied": user == "a"} for user in "ab"]
    found = read_feedback_log(users, signals=["copied"]).summary.found
    assert found[DUPLICATES] == found[DIFFERING.format("message_id")] == 0


def test_ids_in_two_forms_are_named():
    log = [{"response": f"r{i}", "user_id": user} for i, user in enumerate([7, "7", 8, "9", 7.0])]
    text = str(read_feedback_log(log).summary)
    assert "warning: column 'user_id' has ids (user_id) in two forms: 1 occur as" in text
    assert "7 (int) and '7' (str)" in text
    log[1]["user_id"] = "10"
    assert "two forms" not in str(read_feedback_log(log).summary)
    X, y = np.zeros((4, 1)), np.array([[0.0, 1], [1, 0], [1, 1], [0, 0]])
    for name in ("user_id", "response_id"):
        with pytest.raises(ValueError, match=f"{name} has ids in two forms: 1 occur as a number"):
            ImplicitRewardEstimator().fit(X, y, **{name: [7, "7", 8, 9]})


def test_all_broken_lines_of_a_file_are_counted(tmp_path):
    good = json.dumps({"response": "r", "copied": 1})
    broken = ['{"response": "a\x01"}', "[1]", *['{"copied": '] * 5]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([good, broken[0], good, "", *broken[1:], good]) + "\n")
    with pytest.raises(ValueError, match="^line 2 of log.jsonl is not JSON") as caught:
        read_feedback_log(path, signals=["copied"])
    text = str(caught.value)
    assert "column 16: Invalid control character; expected" in text
    assert text.endswith("6 further lines are broken in this file: 5, 6, 7, 8, 9, ....")
    path.write_text('{"copied": \n')
    with pytest.raises(ValueError, match=r"read: column 12: Expecting value; .* remove it\.$"):
        read_feedback_log(path, signals=["copied"])


def test_times_with_a_zone_in_other_spellings():
    times = ["2026-05-02 00:23:23 UTC", "2026-05-02 02:23:23 +02:00", "2026-05-02 02:23:23+02",
             "2026-05-02T00:23:23.5 UTC", "2026-05-01T22:23:23 -0200", "2026-05-02 00:23:23Z",
             "2026-05-02 02:23:23 UTC+02:00", "2026-05-02 00:23:23 GMT"]  # fmt: skip
    data = read_feedback_log([{"response": "r", "time": time} for time in times])
    assert set(data.time.floor("s")) == {pd.Timestamp("2026-05-02T00:23:23Z")}
    with pytest.raises(ValueError, match="row 0 of the list holds '.* CET' in column 'time'.*utc="):
        read_feedback_log([{"response": "r", "time": "2026-05-02 00:23:23 CET"}])


def test_ids_of_every_type():
    for ids in (
        ["a", "b", "a"],
        [1, 2, 1],
        [2**63 + 1, 2**63 + 2, 2**63 + 1],
        [uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=1)],
        [datetime(2026, 1, 1), datetime(2026, 1, 2), datetime(2026, 1, 1)],
        [1, "1", 1],
        [{"$oid": "a"}, {"$oid": "b"}, {"$oid": "a"}],
        [chat(), chat("3?"), chat()],
        [b"a", b"b", b"a"],
    ):
        log = [{"response": "r", "who": i, "what": i} for i in ids]
        data = read_feedback_log(log, user_id="who", prompt_id="what", keep=["what"])
        assert data.groups.tolist() == [0, 1, 0] and data.summary.users[0] == 2
        assert data.user_id.tolist() == ids and data.what.tolist() == ids


def test_missing_ids_are_users_and_prompts_of_their_own():
    log = [
        {"response": "r", "user_id": i, "prompt_id": i} for i in (None, "a", float("nan"), pd.NA)
    ]
    data = read_feedback_log(log)
    assert data.user_id.tolist() == [None, "a", None, None]
    assert data.summary.users[0] == 4 and len(set(data.groups)) == 4


# ---------------------------------------------------------------------- properties


@hypothesis.settings(PROPERTY, max_examples=25)
@hypothesis.given(
    st.randoms(use_true_random=False),
    st.integers(1, 3),
    st.sampled_from(["jsonl", "parquet", "csv", "tsv.gz"]),
)
def test_order_of_rows_columns_and_files_changes_nothing_else(
    tmp_path_factory, shuffler, n_files, kind
):
    folder = tmp_path_factory.mktemp("log")
    records = [record | {"number": i} for i, record in enumerate(rows(9))]
    shuffler.shuffle(records)
    records = [dict(shuffler.sample(list(record.items()), len(record))) for record in records]
    for k in range(n_files):
        part = records[k::n_files]
        if kind == "jsonl":
            write(folder / f"{k}.jsonl", part)
        elif kind in ("csv", "tsv.gz"):
            frame = pd.DataFrame(part)
            frame["messages"] = frame["messages"].map(json.dumps)
            sep = "," if kind == "csv" else "\t"
            frame.to_csv(folder / f"{k}.{kind}", index=False, sep=sep)
        else:
            pq.write_table(pa.Table.from_pylist(part), folder / f"{k}.parquet")
    data = read_feedback_log(folder, signals=SIGNALS, keep=["number"])
    order = np.argsort(data.number.astype(int))
    plain = read_feedback_log(rows(9), signals=SIGNALS)
    text = read_text(data.X)
    assert [text[i] for i in order] == read_text(plain.X)
    np.testing.assert_array_equal(data.actions.to_numpy()[order], plain.actions)
    np.testing.assert_array_equal(data.user_id[order], plain.user_id)
    np.testing.assert_array_equal(data.time[order], plain.time)
    equal = data.groups[order][:, None] == data.groups[order]
    np.testing.assert_array_equal(equal, plain.groups[:, None] == plain.groups)
    for name in ("users", "prompts", "signals"):
        assert getattr(data.summary, name) == getattr(plain.summary, name)


VALUES = st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=8)
DTYPES = (object, "float32", "float64", "Int8", "UInt8", "Float32", "boolean", "category",
          "int8[pyarrow]", "double[pyarrow]", "bool[pyarrow]")  # fmt: skip


@hypothesis.settings(PROPERTY, max_examples=60)
@hypothesis.given(VALUES, st.sampled_from(DTYPES))
def test_any_dtype_of_actions_and_ids(values, dtype):
    series = pd.Series(values, dtype=object).astype("Int8").astype(dtype)
    ids = pd.Series([None if v is None else 10 * v for v in values], dtype="Int64")
    ids = ids if dtype in ("boolean", "bool[pyarrow]") else ids.astype(dtype)
    frame = pd.DataFrame({"response": ["r"] * len(values), "copied": series, "user_id": ids})
    data = read_feedback_log(frame, signals=["copied"])
    np.testing.assert_array_equal(
        data.actions["copied"], np.array([np.nan if v is None else v for v in values])
    )
    assert [None if u is None else int(u) for u in data.user_id] == [
        None if v is None else 10 * v for v in values
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.settings(PROPERTY, max_examples=150)
@hypothesis.given(
    st.sampled_from(["messages", "response", "copied", "user_id", "time", "prompt"]), JSON
)
def test_any_value_is_read_or_refused_with_its_place(column, value):
    log = [{"messages": chat(), "copied": 1, "user_id": "a", "time": 1.0}]
    if column in ("response", "prompt"):
        log = [{"prompt": "p", "response": "r", "copied": 1, "user_id": "a", "time": 1.0}]
    log.append(log[0] | {column: value})
    try:
        data = read_feedback_log(log, signals=["copied"])
    except (ValueError, TypeError) as error:
        assert "row 1 of the list" in str(error), error
        return
    assert data.summary.n_rows + sum(data.summary.left_out.values()) == 2


@hypothesis.settings(PROPERTY, max_examples=150)
@hypothesis.given(st.data())
def test_damaged_bytes_never_end_in_another_error(tmp_path_factory, data):
    """A byte of the file is changed or it is cut: an error with the file, or all rows counted."""
    name = data.draw(st.sampled_from(sorted(set(FILES) - {"log.ndjson", "log.arrow"})))
    path = tmp_path_factory.mktemp("log") / name
    FILES[name](path)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[place:]
    else:
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        found = read_feedback_log(path, messages="messages", signals=SIGNALS)
    except (ValueError, TypeError) as error:
        assert name in str(error), error
        return
    assert found.summary.n_rows + sum(found.summary.left_out.values()) == found.summary.n_read


# ---------------------------------------------------------------------- hostile input

GOOD = json.dumps({"messages": chat(), "copied": 1})


def with_value(column, text):
    """Return a good line and one with a value of a column, as JSON text."""
    record = {"messages": json.dumps(chat()), "copied": "1", "user_id": '"a"', "time": "1.5"}
    fields = ", ".join(f'"{name}": {value}' for name, value in (record | {column: text}).items())
    return f"{GOOD}\n{{{fields}}}"


BAD_LINES = {
    "cut off": ('{"copied": 1, "messages": [{"role"', "line 2 of log.jsonl is not JSON.*column"),
    "cut off in a string": ('{"copied": "1', "column 1[24]"),
    "two objects": ('{"copied": 1} {"copied": 0}', "column 15: Extra data"),
    "trailing comma": ('{"copied": 1,}', "column 1[34]"),
    "single quotes": ("{'copied': 1}", "column 2"),
    "no JSON": ("hello", "column 1: Expecting value"),
    "a list": ("[1, 2]", "line 2 of log.jsonl is a JSON list; expected an object"),
    "a number": ("3", "is a JSON int"),
    "a string": ('"a"', "is a JSON str"),
    "null": ("null", "is a JSON NoneType"),
    "duplicate key": ('{"copied": 1, "copied": 0}', "the key 'copied' occurs twice"),
    "duplicate key inside": ('{"m": {"a": 1, "a": 2}}', "the key 'a' occurs twice"),
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
    "a number of 10,000 digits": ('{"copied": ' + "9" * 10_000 + "}", "Exceeds the limit"),
    "control character": ('{"a": "\x01"}', "Invalid control character"),
    "NUL": ("\x00", "column 1"),
    "bad escape": ('{"a": "\\x"}', "Invalid .*escape"),
    "half an escape": ('{"a": "\\u12"}', "Invalid .*escape"),
    "byte order mark inside": ("\ufeff{}", "not JSON"),
    "CSV": ("copied,shared", "column 1"),
    "comment": ("// {}", "column 1"),
}
BAD_BYTES = {
    "UTF-8": (b'{"a": "\xff"}', "line 2 of log.jsonl.*byte 8 is not UTF-8"),
    "cut UTF-8": ('{"a": "é'.encode()[:-1], "is not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "not UTF-8"),
    "gzip": (gzip.compress(b"{}", mtime=0), "not (UTF-8|JSON)"),
    "overlong": (b'{"a": "\xc0\x80"}', "not UTF-8"),
    "surrogate as bytes": (b'{"a": "\xed\xa0\xbd"}', "not UTF-8"),
}
NOT_A_CHAT = (
    *("1", "1.5", "true", '"hello"', '"[1]"', '"[{}]"', '"{"', "{}", "[1]", '["a"]', "[[]]", "[{}]",
      "[null]", '[{"role": "user"}]', '[{"content": "a"}]', '{"role": 1}', '[{"speaker": "a"}]'),
)  # fmt: skip
CONTENT = ("1", "true", "{}", "[1]", '[{"type": "image_url"}]', "[{}]", '[{"type": "text"}]',
           "null", '[{"type": ["a"]}]', '[{"type": "input_audio", "text": "a"}]', '"\\ud83d"',
           '[{"type": "text", "text": 1}]', '["\\udc00"]')  # fmt: skip
CALLS = ("1", '"add()"', "[1]", "[null]", "[{}]", '[{"function": 1}]',
         '[{"function": {"name": 1}}]', '[{"name": "\\ud83d"}]')  # fmt: skip
ACTIONS = ("2", "-1", "0.5", '"yes"', '"1"', '""', "[1]", "{}", "1e999", "-Infinity", str(10**400),
           '"true"', "[]", '{"value": 1}')  # fmt: skip
TIMES = ('"yesterday"', '""', "true", "[]", "{}", "1e999", '"2026-13-01"', '"2026-01-01"',
         '"01/02/2026"',  '"1970-01-01T00:00:00+99:00"', '"9999-12-31T23:00-10:00"',
         str(10**400))  # fmt: skip


VECTORS = ("null", "1", '"a"', "[]", "[null]", '["a"]', "[1e999, 0]", "[NaN, 0]", "[[1, 2]]", "{}",
           "[1, 2, 3]", "true", "[true, false]", '["1", "2"]', f"[{10**400}, 1]")  # fmt: skip
TURNS = ("-1", "0", "2", "9", '"m9"', '""', "1.5", "null", "true", "[]", "{}", str(10**400))


def hostile():
    """Yield name, content of the file, and what the error says."""
    for name, (line, message) in BAD_LINES.items():
        yield f"line: {name}", f"{GOOD}\n{line}\n{GOOD}".encode(), message
    for name, (line, message) in BAD_BYTES.items():
        yield f"bytes: {name}", GOOD.encode() + b"\n" + line + b"\n", message
    place = "line 2 of log.jsonl"
    for value in NOT_A_CHAT:
        yield (
            f"chat: {value}",
            with_value("messages", value).encode(),
            f"{place}, column 'messages'",
        )
    for role in ("1", "null", "[]", '"\\ud83d"'):
        chats = f'[{{"role": {role}, "content": "a"}}]'
        yield f"role: {role}", with_value("messages", chats).encode(), place
    for content in CONTENT:
        chats = f'[{{"role": "assistant", "content": {content}}}]'
        yield f"content: {content}", with_value("messages", chats).encode(), place
        yield (
            f"content of the user: {content}",
            with_value("messages", f'[{{"role": "user", "content": {content}}}]').encode(),
            place,
        )
        chats = f'[{{"from": "gpt", "value": {content}}}]'
        yield f"value: {content}", with_value("messages", chats).encode(), place
        lines = f'{{"response": "r"}}\n{{"response": {content}}}'
        yield f"response: {content}", lines.encode(), place
        lines = f'{{"prompt": "p", "response": "r"}}\n{{"prompt": {content}, "response": "r"}}'
        yield f"prompt: {content}", lines.encode(), place
    for calls in CALLS:
        chats = f'[{{"role": "assistant", "content": null, "tool_calls": {calls}}}]'
        yield f"calls: {calls}", with_value("messages", chats).encode(), place
        chats = f'[{{"role": "assistant", "content": null, "function_call": {calls}}}]'
        yield f"call: {calls}", with_value("messages", chats).encode(), place
    for value in ACTIONS:
        yield f"action: {value[:20]}", with_value("copied", value).encode(), f"{place}.*'copied'"
    for value in TIMES:
        good = with_value("time", "1.5").replace(GOOD, GOOD[:-1] + ', "time": 2}')
        yield f"time: {value[:20]}", good.replace('"time": 1.5', f'"time": {value}').encode(), place
    for value in VECTORS:
        lines = f'{{"embedding": [1, 2]}}\n{{"embedding": {value}}}'
        yield f"embedding: {value[:20]}", lines.encode(), f"{place}.*'embedding'"
    for value in TURNS:
        lines = with_value("turn", value).replace(GOOD, GOOD[:-1] + ', "turn": 1}')
        yield f"turn: {value[:20]}", lines.encode(), f"{place}, column 'messages'.*'turn'"
    for name, text in (("[]", "has no rows"), ("", "has no rows"), ("\n \n", "has no rows"),
                       ("[1]", "entry 1 of the array"), ("[{}, null]", "entry 2 of the array"),
                       ("[{}", "line|column"), ('[{"a": 1, "a": 2}]', "occurs twice"),
                       ("[{}] x", "Extra data"), ("{}", "has no column that is known to hold text"),
                       ('{"a": 1}', "the columns 'a'"), ('{"messages": []}', "none of its chats"),
                       ("[" * 10**5, "nested too deeply")):  # fmt: skip
        yield f"whole: {name[:20]!r}", name.encode(), text


CASES = list(hostile())


def test_odd_files_that_hold_rows_are_read(tmp_path):
    line = GOOD.encode()
    for name, content, n in (
        ("crlf.jsonl", b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n", 2),
        ("blank.json", b"\n \n[" + line + b",\n" + line + b"]\n", 2),
        ("bom.json", b"\xef\xbb\xbf[" + line + b"]", 1),
        ("parts.jsonl.gz", gzip.compress(line + b"\n", mtime=0) + gzip.compress(line, mtime=0), 2),
        ("separator.jsonl", GOOD.replace("2 + 2", "2\u20282").encode(), 1),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_feedback_log(tmp_path / name, signals=["copied"]).summary.n_rows == n, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tail.jsonl.gz",
            gzip.compress(GOOD.encode() + b"\n", mtime=0) + b"tail",
            "after line 1 .Not a gz",
        ),
        (
            "cut.jsonl.gz",
            gzip.compress(GOOD.encode() * 9, mtime=0)[:-9],
            "is damaged or cut off after line",
        ),
        ("none.jsonl.gz", b"", "none.jsonl.gz has no rows"),
        ("none.parquet", b"", "is damaged or not a file of Parquet"),
        ("none.arrow", b"", "is damaged or not a file of Arrow"),
        ("cr.jsonl", f"{GOOD}\r{GOOD}".encode(), "line 1 of cr.jsonl is not JSON.*Extra data"),
        ("late.json", f"{GOOD}\n[{GOOD}]".encode(), "line 2 of late.json is a JSON list"),
        ("bad.json", f"\n\n[{GOOD},\n{GOOD[:-1]}]".encode(), "bad.json is not JSON.*: line 4, col"),
    ],
)
def test_odd_files_are_refused_with_their_place(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_feedback_log(tmp_path / name, signals=["copied"])


def test_odd_tables_are_read_or_refused(tmp_path):
    frame = pd.DataFrame({0: ["a"], 1: [1], "1": [0]})
    data = read_feedback_log(frame, response=0, signals=[1])
    assert data.response.tolist() == ["a"] and data.actions[1].tolist() == [1.0]
    signalling = [Decimal("NaN"), Decimal("sNaN"), Decimal(1)]
    data = read_feedback_log(
        [{"response": "r", "copied": d} for d in signalling], signals=["copied"]
    )
    np.testing.assert_array_equal(data.actions["copied"], [np.nan, np.nan, 1])
    far = pa.table({"response": ["a"], "time": pa.array([2**40], pa.timestamp("s"))})
    pq.write_table(far, tmp_path / "far.parquet")
    for source in (far, tmp_path / "far.parquet"):
        with pytest.raises(ValueError, match="a value in column 'time' that cannot be read .*9999"):
            read_feedback_log(source)
    for now in (float("nan"), None, pd.NaT):
        with pytest.raises(ValueError, match="now"):
            read_feedback_log([{"response": "r", "copied": 1, "time": 1.0}],
                              signals=["copied"], window=1, now=now)  # fmt: skip
    with pytest.raises(ValueError, match="source is an empty path"):
        read_feedback_log("")


def test_there_are_many_hostile_inputs():
    assert len(CASES) + len(BAD_CSV) + len(ARGUMENTS) >= 200


@pytest.mark.parametrize(("content", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_hostile_files_give_one_clear_error_with_the_place(content, message, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    arguments = {"signals": ["copied"]} if b'"copied"' in content else {}
    arguments |= {"turn": "turn"} if b'"turn"' in content else {}
    with pytest.raises((ValueError, TypeError)) as caught:
        read_feedback_log(path, **arguments)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "log.jsonl" in text and len(text) < 600 and "Traceback" not in text
    assert re.search(r"[Ee]xpected|Leave|Repair|Check|Name|Rename", text), text


def test_long_and_odd_texts_are_kept():
    texts = ["x" * 10**6, "\x00", "👩‍👩‍👧", "שלום", "\u202e", " ", "\r\n"]
    log = [{"messages": chat(text or "q", text)} for text in texts]
    assert read_feedback_log(log).response.tolist() == texts


ARGUMENTS = [
    ({"signals": ["shared"]}, "lacks the column 'shared'. It has the columns 'messages', 'copied'"),
    ({"signals": {"copied": "good"}}, r"signals\['copied'\] is 'good'; expected 'positive'"),
    ({"signals": ["copied", "copied"]}, "names the column 'copied' twice"),
    ({"keep": ["a", "a"]}, "keep names the column 'a' twice"),
    ({"keep": ["summary"]}, "keep names 'summary', which the result holds anyway"),
    ({"user_id": "who"}, "lacks the column 'who'"),
    ({"messages": "chat"}, "lacks the column 'chat'"),
    ({"messages": "messages", "response": "copied"}, "both name the text"),
    ({"prompt": "copied"}, "Pass response= too"),
    ({"turn": "which"}, "lacks the column 'which'"),
    ({"window": "1h"}, "without now=, the time of the export"),
    ({"window": "1h", "now": "2026-01-01"}, "needs the time of each row"),
    ({"signals": ["copied.x"]}, "holds '1' in 'copied', where 'x' is to be found"),
    ({"response_id": "user_id"}, "row 1 of the list has no column 'user_id'"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_wrong_arguments_are_named(arguments, message):
    log = [{"messages": chat(), "copied": 1}] * 2
    if "response_id" in arguments:
        log = [log[0] | {"user_id": "a"}, log[1] | {"user_id": None}]
    with pytest.raises(ValueError, match=message):
        read_feedback_log(log, **arguments)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("prompt", "response", "answer"), "'response' and 'answer'.*response='response'"),
        (("messages", "conversations"), "'messages' and 'conversations'"),
        (("messages", "response"), "'messages' and 'response', but only one of them"),
        (("response", "time", "timestamp"), "time='time'"),
    ],
)
def test_what_is_ambiguous_is_not_guessed(columns, message):
    with pytest.raises(ValueError, match=message):
        read_feedback_log([dict.fromkeys(columns, "a")])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.jsonl", FileNotFoundError, "none.jsonl does not exist"),
        ("s3://bucket/log.jsonl", ValueError, "is a URI"),
        ("table.csv", ValueError, "table.csv has no rows"),
        ("table.xlsx", ValueError, "ends with '.xlsx'; expected .jsonl, .*, .csv, .tsv"),
        ("log.gz", ValueError, "ends with '.gz'"),
        ("log.parquet.gz", ValueError, "ends with '.gz'"),
        ("folder", ValueError, "folder holds no files"),
        ("outer", ValueError, "holds the folder 'inner'"),
        (3, TypeError, "source is a int"),
        (b"x", TypeError, "source is a bytes"),
        ({"a": [1]}, TypeError, "source is a dict"),
        ([1, 2], TypeError, "row 0 of the list is a int"),
        ([], ValueError, "the list has no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "two columns 'a'"),
        (pa.table([[1], [2]], names=["a", "a"]), ValueError, "two columns 'a'"),
        (pd.DataFrame({"response": []}), ValueError, "has no rows"),
        (np.zeros((2, 2)), TypeError, "row 0 of the ndarray is a ndarray"),
    ],
)
def test_wrong_sources_are_named(source, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    for name in ("table.csv", "table.xlsx", "log.gz", "log.parquet.gz"):
        (tmp_path / name).write_text("a,b")
    with pytest.raises(error, match=message):
        read_feedback_log(source)


def test_ids_that_cannot_be_compared_are_named():
    with pytest.raises(TypeError, match="row 1 holds a set .* as an id"):
        read_feedback_log([{"response": "r", "user_id": i} for i in ("a", {1})])


def test_same_names_in_nested_scores_are_refused():
    log = [{"response": "r", "scores": [{"name": "t", "value": 1}, {"name": "t", "value": 0}]}]
    with pytest.raises(ValueError, match="row 0 of the list holds 2 entries named 't'"):
        read_feedback_log(log, signals=["scores.t"])


def test_times_of_two_kinds_are_refused():
    for a, b in (("2026-01-01", 3), ("2026-01-01", "2026-01-01T00:00Z")):
        log = [{"response": "r", "time": a}, {"response": "r", "time": b}]
        with pytest.raises(ValueError, match="row 0 of the list.*row 1 of the list.*compared"):
            read_feedback_log(log)
    zoned = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(ValueError, match="times cannot be compared: time holds dates with a time"):
        read_feedback_log([{"response": "r", "time": zoned}], window="1h", now="2026-01-02")


def test_times_of_two_units_are_refused():
    """Half of a log in milliseconds would lie in the far future, where no window is closed."""
    seconds = 1_772_000_000
    log = [{"response": "r", "time": t} for t in (seconds, seconds * 1000)]
    message = "1772000000 .row 0 of the list.*1772000000000 .row 1.*seconds and milliseconds since"
    with pytest.raises(ValueError, match=message):
        read_feedback_log(log)
    message = "time looks like milliseconds since 1970; now looks like seconds since 1970"
    with pytest.raises(ValueError, match=message):
        read_feedback_log(log[1:], window=86400, now=seconds)
    assert len(read_feedback_log(log[:1], window=86400, now=seconds).X) == 1
    # Small numbers have no such unit, and microseconds of a day may have any size.
    for times in ([0, seconds], [1e9, 5e10, 1e12]):
        read_feedback_log([{"response": "r", "time": t} for t in times])


@pytest.mark.alone
@pytest.mark.slow
def test_half_a_gigabyte_in_a_minute(tmp_path):
    """100,000 chats, streamed, within 2 GB."""
    import subprocess
    import sys

    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "naïve", "x"]
    with open(tmp_path / "log.jsonl", "w") as file:
        for i in range(100_000):
            turns = [" ".join(rng.choices(words, k=95)) for _ in range(10)]
            roles = ["user", "assistant"] * 5
            chats = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]
            record = {"messages": chats, "user_id": i % 5000, "copied": int(rng.random() < 0.2)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    code = (
        "import re, time; from implicitrm_sk.datasets import read_feedback_log; "
        "began = time.process_time(); read_feedback_log('log.jsonl', signals=['copied']); "
        # Not ru_maxrss: it begins at the peak of the process that runs the tests.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(time.process_time() - began, peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds <= 60 and kilobytes <= 2e6


def test_rows_without_a_value_are_silent_where_a_column_says_so():
    thumb = {"thumb": Choice({"up": 1, "down": 0}, "none"), "other": Choice({"a": 1}, "none")}
    rows = [
        {"response": "a", "thumb": label, "other": None, "view": {"on": view}}
        for label, view in (("up", True), (None, 1.0), (None, False), (None, None), ("down", 0))
    ]
    options = {"signals": thumb, "null_is_silent": {"thumb": "view.on", "other": None}}
    table = pa.Table.from_pylist([row | {"view": {"on": bool(row["view"]["on"])}} for row in rows])
    for source in (rows, table):
        log = read_feedback_log(source, **options)
        assert log.actions.thumb.tolist() == ["up", "none", None, None, "down"]
        assert log.actions.other.tolist() == ["none"] * 5
        text = str(log.summary)
        assert "2 rows without thumb where view.on is not 1, not logged" in text
        assert "1 rows without thumb, read as 'none'" in text
        assert "1 rows with thumb although view.on is not 1" in text
        assert "view.on" not in log
    for wrong, message in (
        ({"thumb": 3}, "null_is_silent\\['thumb'\\] is 3; expected the name of a column"),
        ({"shown": "view.on"}, "null_is_silent names 'shown', which is not named in signals"),
        ({"thumb": "shown"}, "lacks the column 'shown'"),
        ({"thumb": "response"}, "the column 'response' is the text"),
        ({"thumb": "view"}, "row 0 of the list holds .* .dict. in column 'view'; expected 1 or tr"),
    ):
        with pytest.raises(ValueError, match=message):
            read_feedback_log(rows, signals=thumb, null_is_silent=wrong)


@pytest.mark.parametrize("more", [{"signals": ["said"]}, {"signals": [], "keep": ["said"]}])
def test_a_column_of_text_is_nothing_else(more):
    for role in ("response", "messages"):
        with pytest.raises(ValueError, match=f"'said' is the text .{role}. and is named in signa"):
            read_feedback_log([{"said": chat()}], **{role: "said"}, **more)


def test_responses_of_apis_without_a_prompt():
    """One message, several, or a refusal in a field of its own."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    rows = [
        {"body": {"choices": [{"message": chat(answer="a")[1]}]}},
        {
            "body": {
                "choices": [{"message": {"role": "assistant", "content": None, "refusal": "b"}}]
            }
        },
        {"body": {"choices": [{"message": [call, chat(answer="c")[1]]}]}},
        {"body": {"choices": [{"message": "d"}]}},
    ]
    log = read_feedback_log(rows, response="body.choices.0.message")
    assert log.response.tolist()[:2] + log.response.tolist()[3:] == ["a", "b", "d"]
    called = '<tool_call>{"name": "f", "arguments": null}</tool_call>'
    assert response_text(log.X) == ["a", "b", f"{called}\nc", "d"]
    reasoning = [{"type": "reasoning", "summary": []}, chat()[1]]
    with pytest.raises(
        ValueError, match=r"a turn that is not a message .the keys \['type', 'summary"
    ):
        read_feedback_log([{"input": "q", "output": reasoning}], prompt="input", response="output")


def test_categories_of_langfuse_are_their_text():
    thumb = {"scores.thumb": Choice({"up": 1, "down": 0}, "none")}
    scores = [
        {"name": "thumb", "value": None, "stringValue": "up", "dataType": "CATEGORICAL"},
        {"name": "thumb", "value": 2, "stringValue": "down", "dataType": "CATEGORICAL"},
        {"name": "thumb", "value": "none"},
        {"name": "other", "value": 1},
    ]
    rows = [{"response": "a", "scores": [score]} for score in scores]
    log = read_feedback_log(rows, signals=thumb, null_is_silent=[])
    assert log.actions["scores.thumb"].tolist() == ["up", "down", "none", None]


def test_the_prompt_of_responses_that_are_named_is_read():
    log = read_feedback_log([{"prompt": "q", "text": "a"}], response="text")
    assert log.prompt.tolist() == ["q"] and log.response.tolist() == ["a"]
    assert "prompt (guessed)" in str(log.summary)
    # A chat that is named has its prompt in it.
    log = read_feedback_log([{"prompt": "p", "chat": chat()}], messages="chat")
    assert log.prompt.tolist() != ["p"]


def test_a_column_of_text_may_say_what_the_prompt_is():
    rows = [{"prompt": p, "response": "a", "messages": chat()} for p in ("p", "q", "p")]
    log = read_feedback_log(rows, prompt="prompt", response="response", prompt_id="prompt")
    assert log.groups.tolist() == [0, 1, 0] and log.prompt_id.tolist() == ["p", "q", "p"]
    log = read_feedback_log(rows, messages="messages", prompt_id="messages")
    assert log.groups.tolist() == [0, 0, 0]
    # A column that is named for the text is not a guess for anything else.
    log = read_feedback_log([{"time": "later", "created_at": 3}], response="time")
    assert log.time.tolist() == [3]


@pytest.mark.parametrize("window", ["12", "0h", "-3h", "soon"])
def test_a_window_on_dates_needs_a_unit(window):
    rows = [{"response": "a", "action": 1, "time": "2026-01-01T00:00Z"}]
    with pytest.raises(
        ValueError, match=f"window='{window}', but the times are dates; expected a d"
    ):
        read_feedback_log(rows, window=window, now="2026-01-02T00:00Z")


def test_counts_and_their_exposures():
    records = [
        {"response": "a", "yes": 3, "no": 0, "views": 4, "asked": 2},
        {"response": "b", "yes": 0, "no": 2.0, "views": 5, "asked": 2},
        {"response": "c", "yes": None, "no": Decimal(1), "views": 6, "asked": 0},
    ]
    signals = {"yes": "positive", "no": "negative"}
    data = read_feedback_log(records, signals=signals, exposures="views")
    assert data.actions["yes"].tolist()[:2] == [3, 0] and np.isnan(data.actions["yes"][2])
    assert data.fit_params()["exposures"].tolist() == [4, 5, 6]
    assert data.summary.signals["yes"] == ("positive", 2, 3 / 9)
    assert data.summary.signals["no"] == ("negative", 3, 3 / 15)
    assert data.summary.pairs == [] and data.summary.columns["exposures"] == "views"
    data = read_feedback_log(records, signals=signals, exposures=["views", "asked"])
    assert data.exposures.tolist() == [[4, 2], [5, 2], [6, 0]]
    assert data.summary.signals["no"] == ("negative", 2, 2 / 4)


@pytest.mark.parametrize(
    ("value", "exposures", "message"),
    [
        (
            1.5,
            "views",
            r"row 1 of the list holds '1.5' \(float\) in column 'yes'; expected a count",
        ),
        (-1, "views", "holds '-1' .* expected a count"),
        (float("inf"), "views", "holds 'inf' .* expected a count"),
        ("3", "views", r"holds '3' \(str\) in column 'yes'; expected a count"),
        (3, None, "name the exposures of counts by exposures=, or name another column"),
        (3, ["views", "views"], "exposures names the column 'views' twice"),
        (3, ["views", "view"], "lacks the column 'view'"),
        (3, ["views", "yes"], "exposures names 2 columns; expected one, or one for each of the 1"),
    ],
)
def test_what_is_not_a_count(value, exposures, message):
    records = [{"response": "a", "yes": 1, "views": 4}, {"response": "b", "yes": value, "views": 4}]
    with pytest.raises(ValueError, match=message):
        read_feedback_log(records, signals=["yes"], exposures=exposures)


NESTED = {"a": {"b": [{"name": "up", "value": 1}, {"name": "down", "value": 0}]}}


@pytest.mark.parametrize(
    ("row", "path", "value"),
    [
        ({"a": {"b": 1}}, "a.b", 1),
        ({"a": json.dumps({"b": 1})}, "a.b", 1),
        ({"a": {"b": json.dumps([{"key": "up", "score": 0}])}}, "a.b.up", 0),
        ({"a": [("b", 1.0), ("c", 0.0)]}, "a.b", 1),  # a map of Arrow
        ({"a": [{"b": 1}]}, "a.0.b", 1),
        ({"a": [{"name": "b", "value": None}]}, "a.b", None),
        ({"a": {"b": None}}, "a.b", None),
        (NESTED, "a.b.down", 0),
    ],
)
def test_paths_into_nested_values(row, path, value, tmp_path):
    log = [{"response": "r"} | row, {"response": "r", "a": None}, {"response": "r"}]
    data = read_feedback_log(log, signals=[path])
    expected = [np.nan if value is None else value, np.nan, np.nan]
    assert np.array_equal(data.actions[path], expected, equal_nan=True)


def test_maps_of_arrow_are_records(tmp_path):
    kind = pa.map_(pa.string(), pa.float64())
    thumbs = pa.array([[("up", 1.0)], [("up", 0.0), ("x", 1.0)], [], None], type=kind)
    table = pa.table({"response": list("abcd"), "scores": thumbs})
    pq.write_table(table, tmp_path / "log.parquet")
    for source in (table, tmp_path / "log.parquet"):
        actions = read_feedback_log(source, signals=["scores.up"]).actions["scores.up"]
        assert np.array_equal(actions, [1, 0, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("row", "path", "message"),
    [
        ({"a": {"b": 1}}, "a.c", "lacks the column 'a.c'.* 'a' of row 0 of the list holds b, and"),
        ({"a": {"b": {"x": 1}}}, "a.b.c", "'a.b' of row 0 of the list holds x, and no row"),
        ({"a": [{"name": "up", "value": 1}]}, "a.upp", "'a' of row 0 of the list holds up, and"),
        ({"a": [1]}, "a.3", "'a' of row 0 of the list holds 0, and"),
        ({"a": None}, "a.b", "lacks the column 'a.b'"),
        ({"a": ["up"]}, "a.up", "row 0 of the list holds .* in 'a', where 'up' is to be found"),
        ({"a": "up"}, "a.up", "holds 'up' in 'a', where 'up' is to be found"),
        ({"a": '{"b": 1, "b": 0}'}, "a.b", "in 'a', where 'b' is to be found"),
        (
            {"a": [{"name": "up", "feedback": {"value": True}}]},
            "a.up",
            "row 0 of the list holds the entry 'up' without a value; .*as in 'a.0.feedback'",
        ),
    ],
)
def test_paths_that_lead_to_nothing_are_not_missing_values(row, path, message):
    log = [{"response": "r"} | row] * 2
    for arguments in ({"signals": [path]}, {"user_id": path}, {"keep": [path]}):
        with pytest.raises(ValueError, match=message):
            read_feedback_log(log, **arguments)


def test_rows_that_differ_in_their_text_are_not_duplicates(tmp_path):
    def duplicates(log):
        return read_feedback_log(log).summary.found[DUPLICATES]

    row = {"prompt": "q", "response": "a", "action": 0}
    assert duplicates([row, row | {"response": "b"}, row | {"prompt": "p"}]) == 0
    assert duplicates([row, dict(row), row | {"response": "b"}]) == 1
    one, other = {"messages": chat(answer="a")}, {"messages": chat(answer="b")}
    assert duplicates([one, other]) == 0 and duplicates([one, other, one]) == 1
    later = {"messages": [*chat(answer="a"), {"role": "user", "content": "Thanks"}]}
    assert duplicates([one, later]) == 0  # equal up to the turn acted on
    ids = [{"messages": [turn | {"id": i} for turn in chat()]} for i in (1, 2, 1)]
    assert duplicates(ids) == 1
    pq.write_table(pa.Table.from_pylist(ids), tmp_path / "log.parquet")
    texts = [{"messages": json.dumps(each["messages"])} for each in ids]
    assert duplicates(tmp_path / "log.parquet") == duplicates(texts) == 1
    without = {"messages": chat()[:1]}
    assert duplicates([without, one, without, one]) == 1


def test_numbers_of_torch_are_numbers():
    """They equal nothing by `is`, and everything by ==, but are not missing."""
    torch = pytest.importorskip("torch")
    log = [{"response": "r", "user_id": torch.tensor(7), "action": i} for i in (0, 1)]
    data = read_feedback_log(log)
    assert data.summary.users[0] == 1 and data.summary.found["rows without user_id"] == 0
    log[1]["action"] = torch.tensor(1)
    with pytest.raises(ValueError, match="row 1 of the list holds 'tensor.1.'"):
        read_feedback_log(log)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([uuid.UUID(int=1), str(uuid.UUID(int=1))], "1 occur as another type and as text"),
        ([b"u1", "u1"], "in two forms: 1 occur as another type"),
        ([float(2**60), 1], "floats from 2..53 on, such as 1152921504606846976"),
        ([1, "1"], "1 occur as a number and as text"),
    ],
)
def test_ids_that_may_be_merged_or_split_are_named(ids, message):
    log = [{"response": "r", "user_id": one} for one in ids]
    assert re.search(message, "\n".join(read_feedback_log(log).summary.warnings))
    X, y = np.zeros((2, 1)), np.array([[0.0, 1], [1, 0]])
    with pytest.raises(ValueError, match=f"user_id has ids.*{message}"):
        ImplicitRewardEstimator().fit(X, y, user_id=ids)
    fine = [{"response": "r", "user_id": one} for one in (2**60, 2**60 + 1, None, 7.0)]
    assert read_feedback_log(fine).summary.warnings == []


def test_blank_ids_and_json_as_text_are_counted():
    said = json.dumps({"role": "assistant", "content": "a"})
    texts = [said, "[1]", "{not json}", "[see below]", "a"]
    log = [{"prompt": "[]", "response": text, "user_id": " "} for text in texts]
    found = read_feedback_log(log).summary.found
    counts = {name.partition(",")[0]: n for name, n in found.items()}
    assert counts["rows whose user_id is blank text"] == 5
    assert counts["responses that are an object or array of JSON"] == 2
    assert counts["prompts that are an object or array of JSON"] == 5


def test_the_roles_of_chats_without_a_response_are_named():
    model = [{"role": "user", "content": "q"}, {"role": "model", "content": "a"}]
    found = read_feedback_log([{"messages": chat()}, {"messages": model}]).summary.left_out
    assert found == {
        "chats without an assistant turn (the first: row 1 of the list, which has turns of "
        "'model')": 1
    }
    with pytest.raises(ValueError, match="row 0 of the list, which has turns of 'model'.. Check"):
        read_feedback_log([{"messages": model}])


@pytest.mark.parametrize("time", ["1712010812345", "1767225600", "1712010812.5", " 1712010812345"])
def test_numbers_as_text_are_not_dates(time):
    """Python reads the first as the year 1712."""
    with pytest.raises(ValueError, match="row 0 of the list holds '.*' in column 'time'"):
        read_feedback_log([{"response": "r", "time": time}])
    assert read_feedback_log([{"response": "r", "time": "20260301"}]).time.tolist() == [
        datetime(2026, 3, 1)
    ]


def test_actions_without_silence_are_named():
    log = [{"response": "r", "copied": 1, "shared": 1}, {"response": "s", "shared": 1}]
    warnings = read_feedback_log(log, signals=["copied", "shared"]).summary.warnings
    (warning,) = warnings
    assert "'copied' is logged in 1 of 2 rows, and users acted in all of them" in warning
    log[1]["copied"] = 0
    assert read_feedback_log(log, signals=["copied", "shared"]).summary.warnings == []


def test_a_batch_of_arrow_is_a_table():
    table = pa.Table.from_pylist(rows(3))
    batch, whole = (read_feedback_log(t, signals=SIGNALS) for t in (table.to_batches()[0], table))
    same(batch, whole)


def test_users_with_far_more_rows_than_others_are_counted():
    rows = [{"response": f"r{i}", "user_id": i % 100, "copied": i % 2} for i in range(400)]
    bots = [{"response": f"b{i}", "user_id": -i % 2 - 9, "copied": 1} for i in range(260)]
    summary = read_feedback_log(rows + bots, signals=["copied"]).summary
    assert "260 rows of 2 users with more than 20 times the rows of the median user" in str(summary)
    assert "the median user" not in str(read_feedback_log(rows, signals=["copied"]).summary)


def test_a_column_of_csv_that_began_as_booleans_says_why_it_is_text(tmp_path):
    (tmp_path / "log.csv").write_text("response,copied\na,true\nb,maybe\n")
    message = "line 2 of log.csv holds 'true' .* Line 3 of log.csv holds 'maybe', so the column is"
    with pytest.raises(ValueError, match=message):
        read_feedback_log(tmp_path / "log.csv", signals=["copied"])
