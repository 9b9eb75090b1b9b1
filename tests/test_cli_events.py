"""Events beside a log: every command that reads a log makes the same actions of them."""

import functools
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from test_cli import QUICK, run  # noqa: F401

from implicitrm_sk import ImplicitRewardEstimator, _fit, inspection, integrations
from implicitrm_sk.datasets import actions_from_events

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

START = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
NOW = "2026-03-05T00:00:00+00:00"
KINDS = {"copy": "positive", "share": "positive", "regenerate": "negative", "scroll": None}
SIGNED = ["--actions", "copy,share", "--negative", "regenerate"]
WHEN = ["--window", "12h", "--now", NOW]
COLUMNS = "kind=event,response_id=properties.message,user_id=who,time=at"
READING = {
    "inspect": ("inspect", "log.jsonl"),
    "fit": ("fit", "log.jsonl", "-o", "other"),
    "report": ("report", "reward", "log.jsonl"),
    "interval": ("interval", "reward", "log.jsonl", "-o", "out.jsonl", "--replicates", "2"),
    "compare": ("compare", "log.jsonl", "--by", "half"),
    "sensitivity": ("sensitivity", "reward", "log.jsonl"),
    "label-queue": ("label-queue", "reward", "log.jsonl", "-n", "5", "-o", "queue.jsonl"),
    "predict": ("predict", "reward", "log.jsonl", "-o", "p.jsonl"),
    "export": ("export", "reward", "pairs.parquet", "--as", "paired", "--log", "log.jsonl"),
}
FITTED = ("report", "interval", "sensitivity", "label-queue")


@pytest.fixture
def rows(tmp_path):
    """A log of vectors and text, its events as a tracker sends them, and both as tables."""
    rng = np.random.default_rng(0)
    log, events = [], []
    for i in range(400):
        x = rng.normal(size=3)
        shown = START + timedelta(minutes=15 * i)
        log.append(
            {
                "id": f"r{i // 2}",  # two users saw each
                "embedding": x.tolist(),
                "prompt": f"prompt {i % 50}",
                "response": f"response {i}",
                "user_id": f"u{i % 20}",
                "created_at": shown.isoformat(),
                "half": i % 2,
            }
        )
        happens = {
            "copy": x[0] > 0 and rng.random() < 0.6,
            "share": x[0] > 0 and rng.random() < 0.4,
            "regenerate": x[0] < 0 and rng.random() < 0.5,
            "scroll": True,
        }
        for kind in (kind for kind, does in happens.items() if does):
            at = shown + timedelta(hours=float(rng.exponential(3)))
            if at.isoformat() <= NOW:
                message = {"message": f"r{i // 2}"}
                events.append(
                    {
                        "event": kind,
                        "properties": message,
                        "who": f"u{i % 20}",
                        "at": at.isoformat(),
                    }
                )
    write(tmp_path / "log.jsonl", log)
    write(tmp_path / "events.jsonl", events)
    return log, events


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))


def expected(log, events, **options):
    responses = pandas.DataFrame(log).rename(columns={"id": "response_id", "created_at": "time"})
    columns = dict(part.split("=") for part in COLUMNS.split(","))
    return actions_from_events(responses, events, KINDS, columns=columns, **options)


def options(*more):
    named = ["--events", "events.jsonl", "--event-columns", COLUMNS, "--id", "id", "--ignore"]
    return [*named, "scroll", *WHEN, *more]


def test_all_commands_make_the_same_actions(rows, run, monkeypatch):  # noqa: F811
    wanted = expected(*rows, window="12h", now=NOW)
    assert 0 < wanted.actions["copy"].isna().sum() < 100
    code, out, err = run("fit", "log.jsonl", *options(*SIGNED), "-o", "reward", *QUICK)
    assert code == 0, err
    n = wanted.summary.left_out
    assert f"events.jsonl: {len(rows[1])} events; left out: " in err
    assert f"{n['events of ignored kinds']} events of ignored kinds" in err
    assert n["events after the window"] > 0
    assert f"{n['events after the window']} events after the window" in " ".join(err.split())
    given = []

    def stop(of, name):
        """Let a function or method end where it gets the actions."""
        whole = getattr(of, name)

        @functools.wraps(whole)
        def stub(*args, **params):
            given.append(params.get("actions", args[2] if len(args) > 2 else None))
            raise ValueError("enough")

        monkeypatch.setattr(of, name, stub)

    for name in ("identification_report", "reward_interval", "compare_groups", "label_queue"):
        stop(inspection, name)
    stop(inspection, "sensitivity_report")
    stop(integrations, "to_preference_dataset")
    stop(_fit, "identify")
    for name in ("fit", "predict_proba"):
        stop(ImplicitRewardEstimator, name)
    for name, command in READING.items():
        more = [] if name in FITTED else SIGNED
        if name in ("predict", "export"):
            more = ["--actions", "regenerate,share,copy"]  # the names decide
        code, _, err = run(*command, *options(*more))
        assert code == 2 and "error: enough" in err, (name, err)
        y = pandas.DataFrame(given.pop(), columns=["copy", "share", "regenerate"])
        assert_actions(y, wanted.actions)


def assert_actions(found, wanted):
    pandas.testing.assert_frame_equal(found.astype(float), wanted[list(found)].astype(float))


def test_the_summary_counts_events(rows, run):  # noqa: F811
    wanted = expected(*rows, window="12h", now=NOW)
    code, out, err = run("inspect", "log.jsonl", *options(*SIGNED))
    assert code == 0, err
    text = str(wanted.summary)
    for line in text.splitlines()[1:]:
        if "  left out" in line or "signal" in line or "window" in line or "copy" in line:
            assert line.split() in [each.split() for each in out.splitlines()], (line, out)


def test_columns_of_the_log_beside_events(rows, run, tmp_path, monkeypatch):  # noqa: F811
    """Names that the log has are its columns; both kinds of actions obey one window."""
    log, _ = rows
    thumb = ["up", "down", None, None]
    write(tmp_path / "log.jsonl", [r | {"thumb": thumb[i % 4], "saved": i % 3} for i, r in
                                   enumerate(log) if i % 3 < 2])  # fmt: skip
    given = []
    monkeypatch.setattr(_fit, "identify", lambda *args: given.append(args) or 1 / 0)
    monkeypatch.setattr(
        ImplicitRewardEstimator, "fit", lambda *args, **_: given.append(args) or 1 / 0
    )
    signs = ["--actions", "saved,copy", "--negative", "regenerate", "--ignore", "share"]
    choice = ["--choice", "thumb:up=positive,down=negative,null=silent"]
    for command in ("inspect", "fit"):
        with pytest.raises(ZeroDivisionError):
            run(*READING[command], *options(*signs, *choice))
    (est, n, y, _), (fitted, _, z) = given
    assert list(y) == list(z) == ["saved", "copy", "regenerate", "thumb"]
    assert n == len(y) == len(z)
    assert_actions(y[["saved", "copy", "regenerate"]], z)
    assert y["thumb"].isna().equals(z["thumb"].isna()) and (y["thumb"] == z["thumb"]).any()
    open_ = y["copy"].isna()
    assert open_.any() and y["saved"].isna().equals(open_) and y["thumb"].isna().equals(open_)
    assert est.signals == fitted.signals


def test_rows_without_a_response_take_their_events_with_them(run, tmp_path, monkeypatch):  # noqa: F811
    chats = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    log = [
        {"response_id": i, "messages": chats[: 1 if i == 1 else 2], "score": i} for i in range(5)
    ]
    write(tmp_path / "log.jsonl", log)
    write(tmp_path / "events.jsonl", [{"response_id": i, "kind": "copy"} for i in (1, 2, 4)])
    given = []
    monkeypatch.setattr(_fit, "identify", lambda *args: given.append(args[2]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("inspect", "log.jsonl", "--events", "events.jsonl", "--actions", "copy")
    assert given[0]["copy"].tolist() == [0, 1, 0, 1]


def test_models_with_users_are_asked_with_users(rows, run, monkeypatch):  # noqa: F811
    fit = ["fit", "log.jsonl", *options(*SIGNED), "--user", "user_id", "-o", "reward"]
    code, out, err = run(*fit, *QUICK)
    assert code == 0, err
    given = []

    def stop(*args, **params):
        given.append(params.get("user_id"))
        raise ValueError("enough")

    monkeypatch.setattr(ImplicitRewardEstimator, "predict_proba", stop)
    monkeypatch.setattr(integrations, "to_preference_dataset", stop)
    for name in ("predict", "export"):
        command = [*READING[name], *options("--actions", "copy,share,regenerate")]
        code, _, err = run(*command)
        text = " ".join(err.split())
        assert given.pop() is None and "enough" in err
        assert "reward was fitted with --user. Without it, each user counts as one of" in text
        code, _, err = run(*command, "--user", "user_id")
        assert list(given.pop()) == [row["user_id"] for row in rows[0]]
        assert "fitted with --user" not in " ".join(err.split())


def test_models_of_late_actions_are_asked_with_the_age_of_rows(rows, run, tmp_path):  # noqa: F811
    late = ["--events", "events.jsonl", "--event-columns", COLUMNS, "--id", "id", "--ignore"]
    now = "2026-03-07T00:00:00+00:00"
    late = [*late, "scroll", "--now", now]
    code, _, err = run("fit", "log.jsonl", *late, *SIGNED, "--late", "copy", "-o", "reward", *QUICK)
    assert code == 0, err
    asked = ["--actions", "copy,share,regenerate"]
    code, _, err = run(*READING["predict"], *late, *asked)
    assert code == 0, err
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    wanted = expected(*rows).actions.to_numpy()
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    shown = pandas.to_datetime([row["created_at"] for row in rows[0]])
    age = (pandas.Timestamp(now) - shown).to_numpy()
    groups = est.predict_proba(np.array([row["embedding"] for row in rows[0]]), wanted, age=age)
    p = [row["p_preferred"] for row in found]
    np.testing.assert_allclose(p, groups[:, 0] + groups[:, 2], atol=1e-5)
    code, _, err = run(*READING["export"], *late, *asked)
    assert code == 0, err
    frame = pandas.DataFrame(rows[0])[["prompt", "response"]]
    X = np.array([row["embedding"] for row in rows[0]])
    pairs = integrations.to_preference_dataset(
        est, frame, form="paired", X=X, actions=wanted, age=age, output="pandas"
    )
    exported = pandas.read_parquet(tmp_path / "pairs.parquet")
    assert len(pairs) > 10 and exported["chosen"].tolist() == pairs["chosen"].tolist()
    np.testing.assert_allclose(exported["reward_gap"], pairs["reward_gap"], atol=1e-5)
    with pytest.raises(ValueError, match="age is given without actions and has no effect"):
        integrations.to_preference_dataset(est, frame, X=X, age=age, output="pandas")
    for name in ("predict", "export"):
        code, _, err = run(*READING[name], *late[:-2], *asked, "--force")
        text = " ".join(err.split())
        assert code == 2 and "is not known. Add --now, the time of the export, or leave" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ignore", "copy"], "--ignore has no effect without --events"),
        (["--events", "log.jsonl"], "--events names log.jsonl, which is the log"),
        (
            ["--events", "e.jsonl", "--ignore", "copy"],
            "--ignore leaves out 'copy', which --actions",
        ),
        (["--events", "e.jsonl", "--event-columns", "kind"], "expected NAME=COLUMN,NAME=COLUMN"),
        (["--events", "e.jsonl", "--event-columns", "sort=x"], "one of kind, response_id"),
        (["--events", "e.jsonl", "--event-columns", "time=x,time=y"], "each NAME once"),
        (["--events", "e.jsonl", "--window", "1h"], "--window 1h needs --now, the time of the exp"),
    ],
)
@pytest.mark.parametrize("name", READING)
def test_contradictions_are_refused_before_reading(name, more, message, run):  # noqa: F811
    code, out, err = run(*READING[name], "--actions", "copy", *more)  # the files do not exist
    assert code == 2 and message in err and out == "", err


def test_what_belongs_to_actions_needs_actions(run):  # noqa: F811
    for name in ("predict", "export"):
        for more in (["--events", "e.jsonl"], ["--user", "who"]):
            code, _, err = run(*READING[name], *more)
            assert code == 2 and f"{more[0]} has no effect without --actions" in err, err
    code, _, err = run("fit", "log.jsonl", "-o", "x", "--now", "2026-01-01")
    assert code == 2 and "--now has no effect without --window, --late or --events" in err
    code, _, err = run("fit", "log.jsonl", "-o", "x", "--events", "e.jsonl", "--exposures", "n")
    assert code == 2 and "--exposures and --events cannot be combined" in err


@pytest.mark.parametrize("name", ["inspect", "fit"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"--ignore": None},
            "events.jsonl has 1 kind of events that no option names: 'scroll' (3",
        ),
        ({"--actions": "copy,shared"}, "'shared' is neither a column of log.jsonl nor a kind of"),
        (
            {"--event-columns": None},
            "events.jsonl has none of the columns response_id, conversation_id, user_id, time",
        ),
        (
            {"--event-columns": "kind=event"},
            "no column 'response_id' or 'conversation_id'. Name it",
        ),
        (
            {"--event-columns": "kind=event,response_id=properties.message"},
            "--window 12h: events.jsonl has no column 'time'. Name it by --event-columns time=COL",
        ),
        (
            {"--event-columns": COLUMNS.replace("kind=event", "kind=")},
            "events.jsonl has no column 'kind'. Name it by --event-columns kind=COLUMN",
        ),
        ({"--event-columns": COLUMNS.replace("=at", "=sent")}, "events.jsonl has no column 'sent'"),
        (
            {"--id": None},
            "log.jsonl has no column 'response_id' to match with that of events.jsonl",
        ),
        ({"--id": "nowhere"}, "'nowhere'"),
        ({"--window": "soon"}, "--window 'soon', but the times are dates"),
        ({"--now": "2026-03-01T05:00Z"}, "is earlier than the last event"),
        ({"--now": "2026-03-05T00:00"}, "times cannot be compared"),
        ({"--events": "nothing.jsonl"}, "nothing.jsonl does not exist"),
    ],
)
def test_messages_about_events(name, change, message, rows, run):  # noqa: F811
    given = {
        "--events": "events.jsonl",
        "--event-columns": COLUMNS,
        "--id": "id",
        "--ignore": "scroll",
        "--actions": "copy,share",
        "--negative": "regenerate",
        "--window": "12h",
        "--now": NOW,
    }
    given = {name: value for name, value in (given | change).items() if value is not None}
    code, _, err = run(*READING[name], *[part for pair in given.items() for part in pair])
    text = " ".join(err.split())
    assert code == 2 and message in text, text
    for word in ("columns gives", "kinds does", "Pass now", "now='"):
        assert word not in text, text


@pytest.mark.parametrize("name", ["inspect", "fit"])
def test_logs_that_do_not_fit_their_events(name, rows, run, tmp_path):  # noqa: F811
    log, events = rows

    def refused(*more, log=log, events=events):
        write(tmp_path / "log.jsonl", log)
        write(tmp_path / "events.jsonl", events)
        code, _, err = run(*READING[name], *options(*SIGNED, *more))
        assert code == 2, err
        return " ".join(err.split())

    bare = [{k: v for k, v in row.items() if k != "user_id"} for row in log]
    text = refused(log=bare)
    assert "Name the column of the log by --user, or write --event-columns user_id= to" in text
    text = refused(log=[row | {"copy": 1} for row in log])
    assert "'copy' is a column of log.jsonl and a kind of event in events.jsonl" in text
    late = [{k: v for k, v in row.items() if k != "created_at"} for row in log]
    assert "--window 12h needs the time of each row: name its column by --time" in refused(log=late)
    numbers = [row | {"id": i} for i, row in enumerate(log)]
    text = refused(log=numbers)
    assert "column 'properties.message' of events.jsonl holds text and column 'id' of log" in text
    lost = [event | {"event": None} for event in events]
    text = refused(events=lost)
    assert "events.jsonl lacks 'event' in" in text and "the first is line 1 of events.jsonl" in text
    lost = [row | {"id": None} if i == 3 else row for i, row in enumerate(log)]
    text = refused(log=lost)
    places = {
        "inspect": "line 4 of log.jsonl has no column 'id'",
        "fit": "log.jsonl lacks 'id' in 1 row; the first is row 3 of log.jsonl",
    }
    assert places[name] in text
    copied = next(i for i, event in enumerate(events) if event["event"] == "copy")
    lost = [event | {"properties": {}} if i == copied else event for i, event in enumerate(events)]
    write(tmp_path / "log.jsonl", log)
    write(tmp_path / "events.jsonl", lost)
    code, out, err = run(*READING[name], *options(*SIGNED), *QUICK)
    assert code == 0 and "1 events without properties.message" in " ".join((out + err).split())


def number(name):
    return int(name[1:])


@pytest.mark.parametrize("name", ["inspect", "fit"])
def test_ids_that_are_numbers_in_some_rows(name, rows, run, tmp_path):  # noqa: F811
    log, events = rows
    places = {"response_id": ("id", "properties.message"), "user_id": ("user_id", "who")}

    def refused(role):
        code, _, err = run(*READING[name], *options(*SIGNED))
        text = " ".join(err.split())
        assert code == 2 and "in two forms" in text and "Convert all ids to text" in text, text
        of_log, of_events = places[role]
        both = f"column {of_log!r} of log.jsonl and column {of_events!r} of events.jsonl have ids"
        assert both in text and " (int) and '" in text, text
        return text

    clean = [
        event | {"properties": {"message": number(event["properties"]["message"])}}
        for event in events
    ]
    write(tmp_path / "events.jsonl", clean)
    forms = (int, str)
    write(
        tmp_path / "log.jsonl",
        [r | {"id": forms[i // 2 % 2](number(r["id"]))} for i, r in enumerate(log)],
    )
    rows_of_events = f"of {len(events):,} rows of events.jsonl have such an id"
    assert rows_of_events in refused("response_id")
    write(
        tmp_path / "log.jsonl",
        [r | {"user_id": forms[i // 7 % 2](i % 20)} for i, r in enumerate(log)],
    )
    write(tmp_path / "events.jsonl", [event | {"who": number(event["who"])} for event in events])
    refused("user_id")


def test_times_of_events_are_named_with_their_file(rows, run, tmp_path):  # noqa: F811
    code, wanted, err = run(*READING["inspect"], *options(*SIGNED))
    assert code == 0, err
    spelled = [
        event | {"at": event["at"].replace("T", " ").replace("+00:00", " UTC")} for event in rows[1]
    ]
    write(tmp_path / "events.jsonl", spelled)
    code, out, err = run(*READING["inspect"], *options(*SIGNED))
    assert code == 0 and out == wanted, err
    spelled[4]["at"] = "soon"
    write(tmp_path / "events.jsonl", spelled)
    code, _, err = run(*READING["inspect"], *options(*SIGNED))
    text = " ".join(err.split())
    assert code == 2 and "line 5 of events.jsonl holds 'soon' in column 'at'" in text, text
    assert "Convert the column first" in text


@pytest.mark.slow
def test_fit_and_inspect_count_the_same_duplicates(rows, run, tmp_path):  # noqa: F811
    same = [row | {"response": "r", "prompt": "p", "user_id": None} for row in rows[0][:40]]
    same = [row | {"copied": i % 2, "created_at": None} for i, row in enumerate(same)]
    for records, n in ((same, 0), (same + same[:3], 3)):
        write(tmp_path / "log.jsonl", records)
        for command in (("inspect",), ("fit", "-o", "x", "--embedder", "none/none")):
            _, out, err = run(
                command[0], "log.jsonl", *command[1:], "--actions", "copied", "--response-id", "id"
            )
            found = [line for line in (out + err).splitlines() if "exact duplicates" in line]
            assert [line.split()[0] for line in found] == [str(n)] * (n > 0), (command, out, err)


def test_a_window_of_log_and_events_is_counted_once(rows, run, tmp_path):  # noqa: F811
    write(
        tmp_path / "log.jsonl", [row | {"thumb": int(row["embedding"][0] > 0)} for row in rows[0]]
    )
    code, out, err = run(
        *READING["inspect"], *options("--actions", "copy,share,thumb", "--negative", "regenerate")
    )
    assert code == 0 and out.count("rows whose window") == 1, out + err


def test_events_and_logs_may_be_csv(rows, run, tmp_path):  # noqa: F811
    """Whatever the form of the two files, the same summary is printed."""
    log, events = rows
    code, wanted, err = run(*READING["inspect"], *options(*SIGNED))
    assert code == 0, err
    flat = [event | event["properties"] for event in events]
    pandas.DataFrame(flat).drop(columns="properties").to_csv(tmp_path / "events.csv", index=False)
    numbers = pandas.DataFrame(log).drop(columns="embedding")
    numbers.to_csv(tmp_path / "log.csv", index=False)
    given = [part.replace("events.jsonl", "events.csv").replace("properties.", "")
             for part in options(*SIGNED)]  # fmt: skip
    for source in ("log.jsonl", "log.csv"):
        code, out, err = run("inspect", source, *given)
        assert code == 0, err
        lines, expected = (
            [line for line in text.splitlines() if "embedding" not in line]
            for text in (out, wanted.replace("log.jsonl", source))
        )
        assert [line for line in lines if line in expected] == expected
        more = {line.split()[0] for line in lines if line not in expected}
        assert more <= {"prompt", "response"}, more


def test_fit_and_predict_on_csv(rows, run, tmp_path):  # noqa: F811
    log = pandas.DataFrame(rows[0])
    X = np.array(log["embedding"].tolist())
    for k in range(3):
        log[f"embedding_{k}"] = X[:, k]
    log = log.drop(columns="embedding").assign(
        copied=np.where(np.arange(400) % 9, X[:, 0] > 0, np.nan),
        number=[f"{i:04}" for i in range(400)],
    )
    log.to_csv(tmp_path / "log.csv", index=False)
    log.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    for kind in ("csv", "jsonl"):
        code, _, err = run(
            "fit", f"log.{kind}", "--actions", "copied", "-o", kind, "--groups", "prompt", *QUICK
        )
        assert code == 0, err
        code, _, err = run("predict", kind, f"log.{kind}", "-o", f"p-{kind}.jsonl")
        assert code == 0, err
    found = [
        [json.loads(line) for line in (tmp_path / f"p-{kind}.jsonl").read_text().splitlines()]
        for kind in ("csv", "jsonl")
    ]
    assert found[0] == found[1] and found[0][7]["number"] == "0007"


CHATS = ["--conversation", "chat", "--groups", "prompt", "--user", "user_id"]
TURNS = {
    "next turn": (["--window", "next_turn"], {"window": "next_turn"}),
    "next turn or time": (
        ["--window", "next_turn,12h", "--now", NOW],
        {"window": ("next_turn", "12h"), "now": NOW},
    ),
    "regenerations": (["--infer", "regenerate"], {"infer": {"regenerate": "regenerate"}}),
    "both": (
        ["--infer", "regenerate", "--window", "next_turn"],
        {"infer": {"regenerate": "regenerate"}, "window": "next_turn"},
    ),
}


@pytest.fixture
def chats(rows, tmp_path):
    """The log with chats of one user about one prompt, some of it repeatedly."""
    log = [row | {"chat": f"c{i % 20 * 7 + i // 100}", "prompt": f"p{i % 20}-{i // 60}"}
           for i, row in enumerate(rows[0])]  # fmt: skip
    write(tmp_path / "log.jsonl", log)
    return log, rows[1]


@pytest.mark.parametrize("name", TURNS)
def test_windows_by_turn_and_regenerations(name, chats, run, monkeypatch):  # noqa: F811
    more, arguments = TURNS[name]
    responses = pandas.DataFrame(chats[0]).rename(
        columns={"id": "response_id", "created_at": "time", "chat": "conversation_id"}
    )
    responses["prompt_id"] = responses["prompt"]
    columns = dict(part.split("=") for part in COLUMNS.split(","))
    wanted = actions_from_events(responses, chats[1], KINDS, columns=columns, **arguments)
    plain = actions_from_events(responses, chats[1], KINDS, columns=columns)
    assert not wanted.actions.equals(plain.actions)
    given = []
    monkeypatch.setattr(_fit, "identify", lambda *args: given.append(args[2]) or 1 / 0)
    monkeypatch.setattr(
        ImplicitRewardEstimator, "fit", lambda *args, **_: given.append(args[2]) or 1 / 0
    )
    events = options()[: -len(WHEN)]
    for command in ("inspect", "fit"):
        with pytest.raises(ZeroDivisionError):
            run(*READING[command], *events, *SIGNED, *CHATS, *more)
        assert_actions(given.pop(), wanted.actions)


def test_kinds_that_only_some_clients_send(rows, run, tmp_path, monkeypatch):  # noqa: F811
    log = [row | {"app": i % 3} for i, row in enumerate(rows[0])]
    write(tmp_path / "log.jsonl", log)
    named = [row | {"client": str(row["app"])} for row in log]
    plain = expected(*rows, window="12h", now=NOW)
    wanted = expected(
        named, rows[1], window="12h", now=NOW, tracked={"copy": ["0", "2"], "share": ["1"]}
    )
    assert wanted.actions["copy"].isna().sum() > plain.actions["copy"].isna().sum()
    given = []
    monkeypatch.setattr(_fit, "identify", lambda *args: given.append(args[2]) or 1 / 0)
    monkeypatch.setattr(
        ImplicitRewardEstimator, "fit", lambda *args, **_: given.append(args[2]) or 1 / 0
    )
    clients = ["--tracked", "copy@0,share@1", "--tracked", "copy@2", "--client", "app"]
    for command in ("inspect", "fit"):
        with pytest.raises(ZeroDivisionError):
            run(*READING[command], *options(*SIGNED, *clients))
        assert_actions(given.pop(), wanted.actions)
        for wrong, message in (
            (["--tracked", "copy@0"], "--tracked needs the client of each row"),
            (["--tracked", "copy@9", "--client", "app"], "names the client '9', which no row has"),
            (["--tracked", "copied@0", "--client", "app"], "--tracked names 'copied', which is"),
            (["--tracked", "copy", "--client", "app"], "expected KIND@CLIENT,KIND@CLIENT"),
            (["--client", "app"], "--client has no effect without --tracked"),
        ):
            code, _, err = run(*READING[command], *options(*SIGNED, *wrong))
            assert code == 2 and message in " ".join(err.split()), err


def test_regenerations_without_events(chats, run, tmp_path, monkeypatch):  # noqa: F811
    write(tmp_path / "log.jsonl", [row | {"copied": i % 2} for i, row in enumerate(chats[0])])
    given = []
    monkeypatch.setattr(_fit, "identify", lambda *args: given.append(args[2]) or 1 / 0)
    monkeypatch.setattr(
        ImplicitRewardEstimator, "fit", lambda *args, **_: given.append(args[2]) or 1 / 0
    )
    names = {"created_at": "time", "prompt": "prompt_id"}
    responses = pandas.DataFrame(chats[0]).rename(columns=names)
    wanted = actions_from_events(
        responses[["prompt_id", "user_id", "time"]], None, {"again": "negative"},
        infer={"again": "regenerate"}, window="12h", now=NOW,
    ).actions["again"]  # fmt: skip
    assert 0 < wanted.mean() < 1 and wanted.isna().any()
    more = ["--actions", "copied", "--negative", "again", "--infer", "again", *WHEN]
    for command in ("inspect", "fit"):
        with pytest.raises(ZeroDivisionError):
            run(*READING[command], *more, "--groups", "prompt", "--user", "user_id")
        y = given.pop()
        np.testing.assert_array_equal(y["again"], wanted)
        assert y["copied"].isna().equals(wanted.isna())


@pytest.mark.parametrize("name", ["inspect", "fit"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--window", "next_turn"], "--window next_turn is for actions of --events or --infer"),
        (["--infer", "shared", *WHEN], "--infer names 'shared', which no option names"),
        (["--infer", "copied", *WHEN], "--infer names 'copied', which is a column of log.jsonl"),
        (["--negative", "again", "--infer", "again", "--window", "next_turn",
          "--conversation", "chat"],
         "--window next_turn is for events, but 'copied' is a column of log.jsonl"),
        (["--negative", "again", "--infer", "again", "--time", "when"], "when"),
        (["--infer", "again", "--ignore", "scroll"], "--ignore has no effect without --events"),
        (["--conversation", "chat"], "--conversation has no effect without --events"),
    ],
)  # fmt: skip
def test_what_cannot_be_inferred_is_refused(name, more, message, chats, run, tmp_path):  # noqa: F811
    write(tmp_path / "log.jsonl", [row | {"copied": i % 2} for i, row in enumerate(chats[0])])
    code, _, err = run(*READING[name], "--actions", "copied", "--groups", "prompt", *more)
    assert code == 2 and message in " ".join(err.split()), err


def test_an_id_that_is_missing_speaks_of_no_other_option(rows, run, tmp_path):  # noqa: F811
    write(tmp_path / "log.jsonl", [rows[0][0] | {"id": None}, *rows[0][1:]])
    for name in ("inspect", "fit"):
        code, _, err = run(*READING[name], *options(*SIGNED))
        assert code == 2 and "--response-id" not in err, err


def test_a_response_that_is_shown_again_is_not_regenerated(run, tmp_path):  # noqa: F811
    """All commands say so, whether responses are known by their ids or by their text."""
    rng = np.random.default_rng(0)
    log = []
    for i in range(300):
        x = rng.normal(size=2)
        row = {
            "id": f"r{i}",
            "embedding": x.tolist(),
            "prompt": f"prompt {i}",
            "response": f"response {i}",
            "user_id": f"u{i % 9}",
            "copied": int(x[0] > 0 and i % 3 > 0),
            "time": 2.0 * i,
        }
        again = row | {"time": 2.0 * i + 1}
        if i % 2 and x[0] < 0:  # another response, else the same one
            again |= {"id": f"s{i}", "response": f"other {i}"}
        log += [row, again]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    n = sum(row["id"].startswith("s") for row in log)
    asked = ["--infer", "again", "--negative", "again", "--actions", "copied"]
    asked += ["--groups", "prompt", "--user", "user_id"]
    code, out, err = run("inspect", "log.jsonl", *asked)
    assert code == 0 and f"{n / len(log):.1%}" in out, err
    code, out, err = run("fit", "log.jsonl", *asked, "-o", "reward", *QUICK)
    assert code == 0 and f"{n:,} rows with again inferred" in err, err
    for row in log:
        row["response"] = "the same text"
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    code, out, err = run("inspect", "log.jsonl", *asked, "--response-id", "id")
    assert f"{n / len(log):.1%}" in out
