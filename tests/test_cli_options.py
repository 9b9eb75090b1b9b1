"""Options that all commands share: widgets, late actions, users, windows, columns beside text."""

import argparse
import functools
import json
import re
import sys
import warnings

import numpy as np
import pytest
from test_cli import QUICK, log, make_frame, run, saved  # noqa: F401

from implicitrm_sk import ImplicitRewardEstimator, inspection
from implicitrm_sk.cli import _main
from implicitrm_sk.signals import Action, Choice, Graded

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

#: Commands that read a log, and what stands before its options.
READING = {
    "inspect": ("inspect", "log.parquet"),
    "fit": ("fit", "log.parquet", "-o", "other"),
    "report": ("report", "reward", "log.parquet"),
    "interval": ("interval", "reward", "log.parquet", "-o", "out.parquet", "--replicates", "3"),
    "compare": ("compare", "log.parquet", "--by", "half"),
    "sensitivity": ("sensitivity", "reward", "log.parquet", "--violation", "false_positive=0.1"),
    "label-queue": ("label-queue", "reward", "log.parquet", "-n", "5", "-o", "queue.parquet"),
}
#: Commands that know from the model what the columns are.
FITTED = ("report", "interval", "sensitivity", "label-queue")
THUMB = "thumb:up=positive,down=negative,null=silent"


@pytest.fixture
def thumbs(tmp_path):
    """A log with a thumb as text, a time, users and halves."""
    frame, X, preferred = make_frame()
    rng = np.random.default_rng(1)
    thumb = np.where(preferred, "up", "down").astype(object)
    thumb[rng.random(len(frame)) < 0.5] = None
    frame = frame.assign(
        thumb=thumb,
        day=np.arange(len(frame)) * 1.0,
        half=np.arange(len(frame)) % 2,
        user=np.arange(len(frame)) % 40,
        after=np.where(frame["copied"] == 1, 1.0, np.nan),
    )
    frame.to_parquet(tmp_path / "log.parquet")
    return frame, X


# ---------------------------------------------------------------------- widgets


def test_a_widget_of_text_through_all_commands(thumbs, run, tmp_path):  # noqa: F811
    frame, X = thumbs
    options = ["--choice", THUMB]
    fit = ["fit", "log.parquet", "--actions", "copied", *options, "-o", "reward", *QUICK]
    code, out, err = run(*fit)
    assert code == 0, err
    silent = frame["thumb"].isna().mean()
    assert f"thumb: offered in 400 rows: null {silent:.1%}, " in out
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert est.signals_[1] == Choice({"up": 1, "down": 0}, silent="null")
    python = ImplicitRewardEstimator(
        signals=list(est.signals_), random_state=0, max_epochs=3, n_estimators=2,
        hidden_layer_sizes=(8,),
    )  # fmt: skip
    y = frame[["copied", "thumb"]].fillna({"thumb": "null"})
    with pytest.warns(match="still improving"):
        python.fit(X.astype(float), y, groups=frame["prompt_id"])
    expected = python.predict(X.astype(float))
    np.testing.assert_allclose(est.predict(X.astype(float)), expected, rtol=1e-6)  # float32
    for name, command in READING.items():
        more = [] if name in FITTED else ["--actions", "copied", *options]
        if name not in ("inspect", *FITTED):
            more += QUICK
        code, out, err = run(*command, *more)
        assert code == 0, (name, err)
    found = pandas.read_parquet(tmp_path / "out.parquet")
    assert (found["reward_low"] <= found["reward"]).all()
    assert (found["reward"] <= found["reward_high"]).all()
    code, out, _ = run("inspect", "log.parquet", "--actions", "copied", *options)
    assert re.search(rf"thumb \(Choice\) +400 \(100%\) +null {silent:.1%}, ", out), out
    assert f"{frame['thumb'].isna().sum()} rows without thumb, read as 'null'" in out
    code, _, err = run(
        "predict", "reward", "log.parquet", "-o", "p.parquet", "--actions", "thumb,copied"
    )
    assert code == 0, err
    p = pandas.read_parquet(tmp_path / "p.parquet")["p_preferred"]
    assert (p[frame["thumb"] == "down"] < 1e-6).all() and (p[frame["thumb"] == "up"] > 0.99).all()


def test_mistakes_beside_a_widget_are_a_rate_of_the_widget(thumbs, run, tmp_path):  # noqa: F811
    """The message names the remedy, and the remedy works, by every command."""
    frame, _ = thumbs
    frame.loc[frame.index[frame["thumb"] == "down"][:3], "copied"] = 1
    frame.to_parquet(tmp_path / "log.parquet")
    fit = ["fit", "log.parquet", "--actions", "copied", "-o", "reward", *QUICK]
    code, _, err = run(*fit, "--choice", THUMB)
    assert code == 2 and "Contradiction in" in err
    said = " ".join(err.split())
    assert "correct --negative, --choice or --graded" in said
    assert "--set false_action_rate" in said and "and false_rate=0.01 in its --choice" in said
    known = ["--set", "false_action_rate=0.01", "--choice", THUMB + ",false_rate=0.02"]
    code, _, err = run(*fit, *known)
    assert code == 0, err
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert est.signals_[1] == Choice({"up": 1, "down": 0}, silent="null", false_rate=0.02)
    code, _, err = run(*READING["report"], "--n-starts", "2")
    assert code == 0, err


def test_values_of_a_widget_may_be_numbers(thumbs, run, tmp_path):  # noqa: F811
    frame, _ = thumbs
    frame["thumb"] = frame["thumb"].map({"up": 1, "down": -1})  # floats, since some are missing
    frame.to_parquet(tmp_path / "log.parquet")
    frame.loc[:50, "thumb"] = 0
    frame.to_parquet(tmp_path / "log.parquet")
    choice = "thumb:1=positive,-1=negative,0=silent"
    code, out, err = run("fit", "log.parquet", "--choice", choice, "-o", "reward", *QUICK)
    assert code == 0, err
    assert f"thumb: offered in {frame['thumb'].notna().sum()} rows: " in out  # null is not offered
    code, out, err = run("inspect", "log.parquet", "--choice", choice)
    assert code == 0, err
    assert f"thumb (Choice)  {frame['thumb'].notna().sum()}" in out


def test_empty_rows_of_a_widget_say_what_they_mean(thumbs, run):  # noqa: F811
    frame, _ = thumbs
    choice = "thumb:up=positive,down=negative,none=silent"
    empty = f"{frame['thumb'].isna().sum()} of 400 rows"
    commands = [["fit", "log.parquet", "-o", "x"], ["inspect", "log.parquet"]]
    for command in commands:
        code, _, err = run(*command, "--choice", choice)
        assert code == 2 and empty in err and "null=silent" in err and "null_is" not in err, err
    code, out, _ = run("inspect", "log.parquet", "--choice", choice + ",null=unlogged")
    assert code == 0 and f"thumb (Choice)  {frame['thumb'].notna().sum()}" in out
    code, _, err = run(*commands[0], "--choice", choice + ",null=unlogged", *QUICK)
    assert code == 0 and "signal 0 of y is never 'none', its label for silence" in err, err


def test_empty_rows_are_silent_where_the_widget_was_in_view(thumbs, run, tmp_path):  # noqa: F811
    frame, X = thumbs
    frame["seen"] = pandas.array(np.arange(400) % 4 > 0, dtype="boolean")
    frame.loc[7, "seen"] = pandas.NA
    frame.to_parquet(tmp_path / "log.parquet")
    seen = frame["seen"].fillna(False).astype(bool)
    empty = frame["thumb"].isna()
    read = "thumb:up=positive,down=negative,null=silent@seen"
    code, out, err = run("inspect", "log.parquet", "--choice", read)
    assert code == 0, err
    n = (~empty | seen).sum()
    assert f"{(empty & seen).sum()} rows without thumb, read as 'null'" in out
    assert f"{(empty & ~seen).sum()} rows without thumb where seen is not 1, not logged" in out
    assert f"{(~empty & ~seen).sum()} rows with thumb although seen is not 1" in out
    assert f"thumb (Choice)  {n} (" in out
    code, out, err = run("fit", "log.parquet", "--choice", read, "-o", "reward", *QUICK)
    assert code == 0, err
    assert f"thumb: offered in {n} rows: " in out
    assert f"{(~empty & ~seen).sum()} rows have 'thumb' although 'seen' is not 1" in err
    # The model knows which rows were silent, without --choice. Its label is plain.
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert est.signals_[0].silent == "null" and est.null_is_silent_ == {"thumb": "seen"}
    given = []
    report = inspection.identification_report
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            inspection, "identification_report", lambda *a, **k: given.append(a) or report(*a, **k)
        )
        for options in ([], ["--choice", read]):
            code, _, err = run("report", "reward", "log.parquet", *options)
            assert code == 0, err
    expected = frame["thumb"].where(~empty, "null").where(~empty | seen, None)
    for _, _, y in given:
        labels = y["thumb"] if hasattr(y, "columns") else y
        assert [v if isinstance(v, str) else None for v in labels] == [
            v if isinstance(v, str) else None for v in expected
        ]
    # A label for silence may stand beside it.
    frame.loc[frame.index[empty][:9], "thumb"] = "none"
    frame.to_parquet(tmp_path / "log.parquet")
    both = read.replace("null", "none=silent,null")
    code, out, err = run("fit", "log.parquet", "--choice", both, "-o", "two", *QUICK)
    assert code == 0 and f"thumb: offered in {(~frame.thumb.isna() | seen).sum()} rows" in out, err
    given.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "identification_report", lambda *a, **k: given.append(a) or 1 / 0)
        for options in ([], ["--choice", read.replace("null=silent@seen", "none=silent")]):
            with pytest.raises(ZeroDivisionError):
                run("report", "two", "log.parquet", *options)
            labels = pandas.Series(np.ravel(given.pop()[2]))
            assert (labels.isna() == (frame["thumb"].isna() & ~seen)).all()
            silent = frame["thumb"].eq("none") | (frame["thumb"].isna() & seen)
            assert labels.eq("none").equals(silent)
    frame["seen"] = 2
    frame.to_parquet(tmp_path / "log.parquet")
    for command in ("inspect", "fit"):
        code, _, err = run(*READING[command], "--choice", both)
        assert code == 2 and "row 0" in err and "'seen'" in err and "the widget was in view" in err


# ---------------------------------------------------------------------- degrees


def test_degrees_through_all_commands(thumbs, run, tmp_path):  # noqa: F811
    frame, X = thumbs
    rng = np.random.default_rng(2)
    dwell = np.exp(X[:, 0] + rng.normal(size=400)).round(3)
    dwell[::9] = np.nan
    tone = np.array(["cold", "fair", "warm"])[np.digitize(-X[:, 0], [-0.5, 0.5])]
    frame = frame.assign(dwell=dwell, tone=tone)
    frame.to_parquet(tmp_path / "log.parquet")
    options = ["--actions", "copied", "--graded", "dwell"]
    options += ["--graded", "tone:negative:cold,fair,warm"]
    code, out, err = run("fit", "log.parquet", *options, "-o", "reward", *QUICK)
    assert code == 0, err
    low, high = frame["dwell"].min(), frame["dwell"].max()
    assert f"dwell (graded): logged in 355 rows, from {low:g} to {high:g}, median" in out
    assert "tone: logged in 400 rows: " in out
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert est.signals == [Action(), Graded(), Graded(0, ("cold", "fair", "warm"))] or (
        est.signals == ["positive", Graded(), Graded(0, ("cold", "fair", "warm"))]
    )
    card = (tmp_path / "reward" / "README.md").read_text()
    assert '`"dwell"` (graded: high values show that a response is preferred)' in card
    assert '`"tone"` (graded: high values show that a response is not preferred)' in card
    python = ImplicitRewardEstimator(
        signals=est.signals, random_state=0, max_epochs=3, n_estimators=2, hidden_layer_sizes=(8,)
    )
    y = frame[["copied", "dwell", "tone"]]
    with pytest.warns(match="still improving"):
        python.fit(X.astype(float), y, groups=frame["prompt_id"])
    expected = python.predict(X.astype(float))
    np.testing.assert_allclose(est.predict(X.astype(float)), expected, rtol=1e-6)  # float32
    for name, command in READING.items():
        more = options if name in ("report", "inspect", "compare") else []
        more = [*more, *QUICK] if name == "compare" else more
        code, out, err = run(*command, *more, *(["--force"] if name == "fit" else []))
        if name != "fit":
            assert code == 0, (name, err)
        if name == "inspect":
            assert re.search(r"dwell \(Graded\) +355 \(89%\) +0\.\d+ to [\d.]+, median ", out), out
            assert re.search(r"tone \(Graded\) +400 \(100%\) +\w+ \d+\.\d%, ", out), out
    code, _, err = run("report", "reward", "log.parquet", "--actions", "copied", "--graded",
                       "dwell:positive:7", "--graded", "tone:negative:cold,fair,warm")  # fmt: skip
    assert code == 2 and "'dwell' is Graded(target=1, bins=7) here, but the model was" in err, err


# ---------------------------------------------------------------------- doubts and questions


def test_sensitivity_and_label_queue(thumbs, run, tmp_path):  # noqa: F811
    frame, X = thumbs
    fit = ["fit", "log.parquet", "--actions", "copied,shared", "--labels", "label"]
    assert run(*fit, "-o", "reward", *QUICK, "--set", "shared_examination=False")[0] == 0
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    y = frame[["copied", "shared"]]
    queue = ["label-queue", "reward", "log.parquet", "-n", "7", "--labels", "label"]
    code, out, err = run(*queue, "-o", "queue.jsonl")
    assert code == 0 and "7 responses to ask about, the most useful first: queue.jsonl" in out, err
    assert "label_mechanism='asked'" in out
    rows = [json.loads(line) for line in (tmp_path / "queue.jsonl").read_text().splitlines()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = inspection.label_queue(
            est, X.astype(float), y, 7, labels=frame["label"], groups=frame["prompt_id"]
        )
    assert [row["row"] for row in rows] == asked.tolist()
    assert [row["user"] for row in rows] == frame["user"][asked].tolist()
    assert all(row["label"] is None and "embedding" not in row for row in rows)
    code, _, err = run(*queue[:4], "401", "-o", "many.jsonl")
    assert code == 2 and "--number 401 is more than" in err, err

    doubts = ["sensitivity", "reward", "log.parquet", "--labels", "label"]
    amounts = ["--violation", "false_positive=0.05,0.1", "--violation", "left_out=shared"]
    code, out, err = run(*doubts, *amounts, "--by", "half", "--reference", "1", "-o", "d.parquet")
    assert code == 0, err
    found = pandas.read_parquet(tmp_path / "d.parquet")
    assert found["violation"].tolist() == ["none", *["false_positive"] * 2, "left_out"]
    assert "difference_0" in found and "Sensitivity of the reward, 400 rows" in out
    assert found["amount"].tolist()[1:] == ["0.05", "0.1", "shared"]  # one type in parquet
    code, out, err = run(*doubts, *amounts, "-o", "d.jsonl")
    lines = (tmp_path / "d.jsonl").read_text().splitlines()
    assert [json.loads(line)["amount"] for line in lines] == [None, 0.05, 0.1, "shared"]
    for options, message in (
        (["--violation", "ratio"], "expected KIND=AMOUNT,AMOUNT"),
        (["--violation", "ratio=big"], "expected numbers after ratio="),
        (["--reference", "1"], "--by is missing"),
        (["--violation", "left_out=none"], "none"),
    ):
        code, _, err = run(*doubts, *options)
        assert code == 2 and message in err, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--choice", "thumb"], "expected COLUMN:VALUE=MEANING"),
        (["--choice", "thumb:up"], "expected COLUMN:VALUE=MEANING"),
        (["--choice", THUMB + ",false_rate=1.5"], "false_rate is '1.5'; expected a number from 0"),
        (["--choice", THUMB + ",false_rate=few"], "false_rate is 'few'; expected a number from 0"),
        (["--choice", THUMB + ",false_rate=0,false_rate=0"], "expected COLUMN:VALUE=MEANING"),
        (["--choice", "thumb:up=good"], "a MEANING is positive, negative, neither or silent"),
        (["--choice", "thumb:up=positive,up=negative"], "'up' or 'silent' stands there twice"),
        (["--choice", "thumb:up=positive,null=negative"], "rows that are empty cannot show"),
        (["--choice", THUMB, "--choice", "thumb:down=negative"], "describes the column 'thumb'"),
        (["--choice", "thumb:up=positive,down=negative"], "Add it, for example none=silent"),
        (["--choice", "thumb:up=positive,null=silent"], "'down' in row"),
        (["--choice", "thumb:up=positive,null=silent,null=unlogged"], "expected COLUMN:VALUE"),
        (["--choice", "thumb:up=positive,null=silent@a,null=silent"], "'null' or 'silent' stands"),
        (["--choice", "thumb:up=positive,null=silent@"], "expected COLUMN:VALUE"),
        (["--choice", "thumb:up=positive,none=silent@day"], "expected COLUMN:VALUE"),
        (["--choice", THUMB + "@nowhere"], "no column 'nowhere'"),
        (
            ["--choice", "thumb:up=positive,down=negative,none=silent"],
            "no row holds 'none', its value for silence. Add null=silent",
        ),
        (["--graded", "day:good"], "expected COLUMN, COLUMN:SIGN or COLUMN:SIGN:BINS"),
        (["--graded", "day:positive:"], "expected COLUMN, COLUMN:SIGN or COLUMN:SIGN:BINS"),
        (["--graded", "day", "--graded", "day:negative"], "--graded describes the column 'day' tw"),
        (["--graded", "day", "--actions", "day"], "--graded describes day, which --actions or"),
        (["--graded", "thumb", "--choice", THUMB], "--choice and --graded both describe thumb"),
        (["--graded", "thumb"], "expected numbers (1 acted, 0 did not, or a degree), or"),
        (["--graded", "day:positive:2"], "BINS of --graded is 2; expected a number of quantile"),
        (["--graded", "day:positive:0,9,20,30"], "is 31 in row 31; expected a value from 0 to 30"),
        (["--graded", "thumb:positive:down,mid,top"], "holds 'up' in row"),
        (["--graded", "day", "--late", "day", "--now", "9"], "Only actions may come late"),
        (["--graded", "day", "--set", "signals=[1]"], "--graded and --set signals both say"),
        (["--choice", "none:up=positive,x=silent"], "no column 'none'"),
        (["--choice", THUMB, "--actions", "thumb"], "--choice describes thumb, which --actions or"),
        (["--choice", THUMB, "--late", "thumb", "--now", "9"], "Only actions may come late"),
        (["--choice", THUMB, "--set", "signals=[1]"], "--choice and --set signals both say"),
        (["--actions", "copied", "--late", "shared", "--now", "9"], "--late names shared, which"),
        (["--actions", "copied", "--correlated", "shared"], "--correlated names shared, which"),
        (["--choice", THUMB, "--correlated", "thumb"], "--correlated names thumb, which is not"),
        (["--actions", "copied", "--correlated", "copied"], "or leave --correlated out"),
        (
            ["--actions", "copied", "--correlated", "copied", "--late", "copied", "--time", "day",
             "--now", "9"],
            "--late and --correlated both name copied, but exposures of late actions",
        ),
        (["--actions", "copied", "--late", "copied"], "--late copied needs --now, the time"),
        (["--actions", "copied", "--late", "copied="], "expected COLUMN or COLUMN=DELAY"),
        (["--actions", "copied", "--late", "copied", "--now", "400"], "name its column by --time"),
        (
            ["--actions", "copied", "--late", "copied", "--time", "day", "--now", "2026-01-01"],
            "times cannot be compared",
        ),
        (
            ["--actions", "copied", "--late", "copied", "--time", "day", "--now", "9", "--window",
             "3"],
            "--window and --late cannot be combined: both say how long",
        ),
        (["--actions", "copied", "--late", "copied", "--time", "day", "--now", "9"], "age is 0"),
    ],
)  # fmt: skip
def test_bad_widgets_and_late_actions(options, message, thumbs, run):  # noqa: F811
    code, _, err = run("fit", "log.parquet", *options, "-o", "x", *QUICK)
    assert code == 2 and message in err, err


# ---------------------------------------------------------------------- late actions


def test_late_actions(thumbs, run, tmp_path, monkeypatch):  # noqa: F811
    given = {}
    whole = ImplicitRewardEstimator.fit

    def fit(est, X, y, **side):
        given.update(side, signals=est.signals)
        return whole(est, X, y, **side)

    monkeypatch.setattr(ImplicitRewardEstimator, "fit", fit)
    actions = ["--actions", "copied", "--negative", "shared"]
    late = ["--late", "copied=after", "--time", "day", "--now", "400"]
    frame, _ = thumbs
    frame["shared"] = frame["shared"].where(frame["copied"] == 0, 0.0)
    frame["day"] = np.arange(400.0)
    frame.loc[399, "after"] = np.nan
    frame.to_parquet(tmp_path / "log.parquet")
    code, out, err = run("fit", "log.parquet", *actions, *late, "-o", "reward", *QUICK)
    assert code == 0, err
    assert given["signals"] == [Action(1, delay="exponential"), "negative"]
    np.testing.assert_array_equal(given["age"], 400 - frame["day"])
    np.testing.assert_array_equal(given["delay"][:, 0], frame["after"])
    assert np.isnan(given["delay"][:, 1]).all()
    code, out, err = run("inspect", "log.parquet", *actions, *late)
    assert code == 0, err
    code, _, err = run("report", "reward", "log.parquet")
    assert code == 2 and "'copied' was fitted with --late" in err
    code, out, err = run("report", "reward", "log.parquet", *late)
    assert code == 0, err
    dates = pandas.Timestamp("2026-01-01", tz="UTC") + pandas.to_timedelta(frame["day"], unit="D")
    frame.assign(time=dates, after=np.nan).to_parquet(tmp_path / "log.parquet")
    late = ["--late", "copied", "--now", "2027-02-05T00:00:00Z"]
    code, out, err = run("fit", "log.parquet", *actions, *late, "-o", "dates", *QUICK)
    assert code == 0, err
    assert given["age"].dtype.kind == "m"
    np.testing.assert_allclose(given["age"] / np.timedelta64(1, "D"), 400 - frame["day"])


@pytest.mark.parametrize("name", [*READING, "fine-tune"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--user", "user"], "--user and --late cannot be combined: a link between activity"),
        (["--window", "3"], "--window and --late cannot be combined: both say how long"),
    ],
)
def test_late_actions_with_users_are_refused_before_reading(name, more, message, run):  # noqa: F811
    command = READING.get(name, ("fine-tune", "reward", "log.parquet", "-o", "x", "--run", "y"))
    late = ["--actions", "copied", "--late", "copied", "--now", "9"]
    code, out, err = run(*command, *late, *more)  # the files named do not exist
    assert code == 2 and message in err and out == "", err


# ---------------------------------------------------------------------- users and windows


#: What writes a file, and may write it again.
FORCED = dict.fromkeys(("interval", "label-queue"), ["--force"])


def test_fits_show_a_bar_on_a_terminal(thumbs, run, monkeypatch):  # noqa: F811
    fit = ["fit", "log.parquet", "--actions", "copied,shared", "-o", "reward", *QUICK]
    assert run(*fit)[0] == 0
    short = {"report": ["--n-starts", "2"], "compare": ["--n-folds", "2"]}
    short["sensitivity"] = ["--n-folds", "3"]
    for name in ("report", "compare", "interval", "sensitivity", "label-queue"):
        more = [] if name in FITTED else ["--actions", "copied,shared", *QUICK]
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True)
            code, out, err = run(*READING[name], *more, *short.get(name, []))
        assert code == 0, (name, err)
        n_bars = out.count("ImplicitRewardEstimator - fit")
        assert n_bars >= {"compare": 2, "sensitivity": 3, "interval": 2}.get(name, 1), (name, out)
        assert "Fitting" in err and "..." in err, err
        code, out, err = run(*READING[name], *more, *short.get(name, []), *FORCED.get(name, []))
        assert code == 0 and "ImplicitRewardEstimator - fit" not in out, (name, err)


def test_a_report_takes_as_many_starts_and_folds_as_are_asked(thumbs, run, monkeypatch):  # noqa: F811
    fit = ["fit", "log.parquet", "--actions", "copied,shared", "-o", "reward", *QUICK]
    assert run(*fit)[0] == 0
    given = {}
    for name in ("identification_report", "compare_groups", "sensitivity_report"):
        stub = functools.wraps(getattr(inspection, name))(lambda *_, **k: given.update(k) or 1 / 0)
        monkeypatch.setattr(inspection, name, stub)
    options = {"report": "n_starts", "compare": "n_folds", "sensitivity": "n_folds"}
    for name, option in options.items():
        more = [] if name in FITTED else ["--actions", "copied,shared"]
        asked = ["--" + option.replace("_", "-"), "3"]
        with pytest.raises(ZeroDivisionError):
            run(*READING[name], *more, *asked)
        assert given.pop(option) == 3
    code, _, err = run(*READING["report"], "--n-starts", "2", "--new", "log.parquet")
    assert code == 2 and "--n-starts has no effect with --new" in err


@pytest.mark.parametrize("name", ["report", "compare", "sensitivity"])
def test_too_few_starts_and_folds_are_refused_by_their_option(name, thumbs, run):  # noqa: F811
    fit = ["fit", "log.parquet", "--actions", "copied,shared", "-o", "reward", *QUICK]
    assert run(*fit)[0] == 0
    option = "--n-starts" if name == "report" else "--n-folds"
    more = [] if name in FITTED else ["--actions", "copied,shared"]
    code, _, err = run(*READING[name], *more, option, "1")
    assert code == 2 and f"{option} must be an integer" in " ".join(err.split()), err


@pytest.mark.parametrize("width", [40, 72])
def test_verdicts_are_as_wide_as_the_terminal(width, thumbs, run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", str(width))
    for command in (READING["inspect"], [*READING["fit"], *QUICK]):
        code, out, err = run(*command, "--actions", "copied,shared")
        assert code == 0, err
        lines = out[out.index("The reward is ") :].split("Saved:")[0].splitlines()
        assert len(lines) > 3 and max(map(len, lines)) <= width, lines


def test_users_and_windows_reach_report_interval_and_compare(
    thumbs,
    run,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    given = {}

    def stub(*args, **params):
        given.clear()
        given.update(params, y=args[2])
        raise ValueError("enough")

    for name in ("identification_report", "reward_interval", "compare_groups"):
        monkeypatch.setattr(inspection, name, stub)
    frame, _ = thumbs
    columns = ["--actions", "copied", "--negative", "shared"]
    frame["shared"] = frame["shared"].where(frame["copied"] == 0, 0.0)
    frame.to_parquet(tmp_path / "log.parquet")
    code, _, err = run("fit", "log.parquet", *columns, "-o", "reward", *QUICK)
    assert code == 0, err
    options = ["--user", "user", "--time", "day", "--window", "10", "--now", "300"]
    for name in ("report", "interval", "compare"):
        code, _, err = run(*READING[name], *columns, *options)
        assert code == 2 and "error: enough" in err, (name, err)
        assert "109 rows whose window of 10 is not closed" in err
        assert list(given["user_id"]) == frame["user"].tolist()
        y = pandas.DataFrame(given["y"])
        assert y["copied"].isna().tolist() == [day > 290 for day in frame["day"]]
    # What a column shows is what it showed in fit.
    for wrong in (["--actions", "shared", "--negative", "copied"], ["--negative", "copied,shared"]):
        code, _, err = run("report", "reward", "log.parquet", *wrong)
        assert code == 2 and "but the model was fitted with Action(target=" in err, err
    swapped = ["--negative", "shared", "--actions", "copied"]
    assert "enough" in run("report", "reward", "log.parquet", *swapped)[2]
    new = ["--new", "log.parquet", "--window", "10", "--now", "300"]
    code, _, err = run("report", "reward", "log.parquet", *new)
    assert code == 2 and "--window has no effect with --new" in err
    # A refit of a model that knows users is told of them.
    known = ["fit", "log.parquet", *columns, "--user", "user", "-o", "known", *QUICK]
    assert run(*known)[0] == 0
    for command in (["report"], ["interval", "-o", "out.parquet"]):
        code, _, err = run(command[0], "known", "log.parquet", *columns, *command[1:])
        assert code == 2 and "known was fitted with --user" in err, err


def test_inspect_says_when_users_would_identify_the_reward(run, tmp_path):  # noqa: F811
    """Its verdict is the one that fit starts from, and what fit may add to it."""
    rng = np.random.default_rng(0)
    n = 3200
    user = np.arange(n) % 200
    x = rng.normal(size=n)
    ready = 1 / (1 + np.exp(-3 * rng.normal(size=200)))[user]
    frame = pandas.DataFrame(
        {
            "copied": ((x > 0) & (rng.random(n) < ready)).astype(int),
            "user": user,
            "embedding": list(np.stack([x, rng.normal(size=n)], 1)),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    frame[frame["user"] < 30].to_parquet(tmp_path / "few.parquet")
    looked = ["--set", "shared_examination=False"]

    def said(path, *options):
        code, out, err = run("inspect", path, "--actions", "copied", *options)
        assert code == 0, err
        return " ".join(out.split("The reward is")[1].split())

    plain = said("log.parquet")
    assert (
        plain.startswith("not identified: one signal determines only")
        and "users" not in (plain.split("- ")[0])
    )
    text = said("log.parquet", "--user", "user", *looked)
    assert text.startswith(plain.split(". ")[0])
    assert "at least 200 users with a median of at least 15 rows" in text
    assert "at least 1.4" in text and "pass user_id" not in text and "--user or put" not in text
    assert "looked at (--set shared_examination=False), which is stated here." in text
    assert text.partition("This log has ")[2].startswith(
        "200 users of 16 rows (median): enough users and rows."
    )
    text = said("few.parquet", "--user", "user")
    assert "(--set shared_examination=False), which is not stated here." in text
    assert "30 users of 16 rows (median): too few users." in text
    # What it expects is what fit finds.
    settings = [
        "--set",
        "max_epochs=30",
        "--set",
        "learning_rate_init=0.01",
        "--set",
        "n_estimators=2",
    ]
    for name, level in (("log", "identified"), ("few", "not identified")):
        options = ["--actions", "copied", "--user", "user", *looked, *settings]
        code, out, err = run("fit", f"{name}.parquet", *options, "-o", name)
        assert code == 0 and f"The reward is {level}" in out, (out, err)
    # Already identified: fit adds its assumptions on users, and the level stays.
    two = frame.assign(shared=((x > 0) & (rng.random(n) < ready)).astype(int))
    two.to_parquet(tmp_path / "two.parquet")
    options = ["inspect", "two.parquet", "--actions", "copied,shared", "--user", "user", *looked]
    code, out, err = run(*options)
    out = " ".join(out.split())
    assert "The reward is identified (assuming independent signals" in out, err
    assert "If users differ in activity, fit also assumes that activity shifts" in out
    assert "are active in everything" not in out


def test_options_are_the_same_in_all_commands_that_read_a_log():
    (commands,) = (
        action
        for action in _main._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    names = "actions negative choice graded late time window now embedding messages prompt "
    names = {f"--{name}" for name in (names + "response turn groups user labels weight").split()}
    for name in (*READING, "fine-tune"):
        found = {option for action in commands.choices[name]._actions
                 for option in action.option_strings}  # fmt: skip
        assert names <= found, (name, names - found)


# ---------------------------------------------------------------------- beside text


def test_columns_beside_text(run, tmp_path, tiny_model):  # noqa: F811
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"q{i % 30}",
            "response": "".join(rng.choice(list("abcd"), 4)),
            "position": int(rng.integers(5)),
            "copied": int(rng.random() < 0.3),
        }
        for i in range(200)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    beside = ["--set", "propensity_features=['position']"]
    fit = ["fit", "log.jsonl", "--actions", "copied", "--embedder", tiny_model(), *beside]
    code, _, err = run(*fit, "-o", "reward", *QUICK)
    assert code == 0, err
    # One line for who pipes, no bar in two states.
    assert err.count("mbedding") == 1 and "Embedding 200 rows." in err
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert est.side_columns_ == ("position",)
    assert run("report", "reward", "log.jsonl")[0] == 0
    bare = [{k: row[k] for k in ("prompt", "response")} for row in rows]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, bare)))
    for name in ("log", "new"):  # the reward needs no position
        code, _, err = run("predict", "reward", f"{name}.jsonl", "-o", f"{name}_out.jsonl")
        assert code == 0, err
    texts = [(tmp_path / f"{name}_out.jsonl").read_text() for name in ("log", "new")]
    read = [[json.loads(line)["reward"] for line in text.splitlines()] for text in texts]
    assert read[0] == read[1]
    code, _, err = run(*fit[:-1], "propensity_features=['place']", "-o", "x", *QUICK)
    assert code == 2 and "'place', which X lacks" in err


# ---------------------------------------------------------------------- strict JSON


def test_results_are_strict_json(saved, log, run, tmp_path):  # noqa: F811
    frame = log[1].assign(note=[np.nan, 0.5] * 200)
    frame["parts"] = [{"a": [float("nan"), 1.0]}] * 400
    frame.to_parquet(tmp_path / "new.parquet")
    records = [
        {"embedding": list(map(float, row)), "note": float("nan"), "parts": {"a": [float("nan")]}}
        for row in log[2]
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, records)))

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    for name in ("new.parquet", "new.jsonl"):
        code, _, err = run("predict", saved, name, "-o", "out.jsonl", "--force")
        assert code == 0, err
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        first = json.loads(lines[0], parse_constant=refuse)
        assert first["note"] is None and first["parts"]["a"][0] is None
        assert len(lines) == 400
    frame.assign(note=np.inf).to_parquet(tmp_path / "new.parquet")
    code, _, err = run("predict", saved, "new.parquet", "-o", "out2.jsonl")
    assert code == 2 and "column 'note' holds inf in row 0, which JSON has no form for" in err
    assert not (tmp_path / "out2.jsonl").exists()


def test_intervals_of_new_rows(saved, log, run, tmp_path):  # noqa: F811
    log[1][["embedding"]][:30].to_parquet(tmp_path / "new.parquet")
    call = ["interval", saved, log[0], "--new", "new.parquet", "-o", "out.parquet"]
    code, out, err = run(*call, "--replicates", "4", "--confidence", "0.5")
    assert code == 0, err
    assert "30 rewards, 50% intervals, mean width" in out and "4 replicates side by side ..." in err
    found = pandas.read_parquet(tmp_path / "out.parquet")
    assert list(found.columns) == ["reward", "reward_low", "reward_high"]
    assert (found["reward_high"] > found["reward_low"]).all()
    code, _, err = run(*call, "--replicates", "1", "--force")
    assert code == 2 and "must be an integer of at least 2, got 1" in err
