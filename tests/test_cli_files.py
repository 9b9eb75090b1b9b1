"""The files of the command line: what is read, matched, written, and what is left as it was."""

import datetime
import decimal
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_cli import QUICK, log, make_frame, run, saved  # noqa: F401

from implicitrm_sk import ImplicitRewardEstimator

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FIT = ["--actions", "copied,shared", *QUICK]


def make_wide(n=200):
    """A log with the embedding in columns of numbers."""
    frame, X, _ = make_frame(n)
    wide = pandas.DataFrame(X.astype(float), columns=[f"embedding_{i}" for i in range(X.shape[1])])
    return pandas.concat([frame.drop(columns="embedding"), wide], axis=1)


def rewards(path):
    return pandas.read_parquet(path)["reward"].to_numpy()


def test_wide_columns_are_matched_by_name(run, tmp_path):  # noqa: F811
    wide = make_wide()
    wide.to_parquet(tmp_path / "log.parquet")
    wide[sorted(wide.columns, reverse=True)].to_parquet(tmp_path / "sorted.parquet")
    assert run("fit", "log.parquet", *FIT, "-o", "reward")[0] == 0
    for name in ("log", "sorted"):
        code, _, err = run("predict", "reward", f"{name}.parquet", "-o", f"{name}.out.parquet")
        assert code == 0 and err == "", err
    assert np.array_equal(rewards("log.out.parquet"), rewards("sorted.out.parquet"))
    named = ["--embedding", "embedding_*", "--force"]
    code, _, err = run("predict", "reward", "sorted.parquet", "-o", "named.out.parquet", *named)
    assert code == 0, err
    assert np.array_equal(rewards("log.out.parquet"), rewards("named.out.parquet"))
    assert rewards("log.out.parquet").std() > 0
    wide.drop(columns="embedding_3").to_parquet(tmp_path / "few.parquet")
    code, _, err = run("predict", "reward", "few.parquet", "-o", "few.out.parquet")
    assert code == 2 and "few.parquet has no column 'embedding_3'" in err


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_order_of_columns_without_names_is_said(run, tmp_path):  # noqa: F811
    wide = make_wide()
    names = [name for name in wide if name.startswith("embedding")]
    est = ImplicitRewardEstimator(max_epochs=2, n_estimators=1, random_state=0)
    est.fit(wide[names].to_numpy(), wide["copied"]).save(tmp_path / "reward")
    wide[sorted(wide.columns, reverse=True)].to_parquet(tmp_path / "sorted.parquet")
    code, _, err = run("predict", "reward", "sorted.parquet", "-o", "out.parquet")
    err = " ".join(err.split())
    assert (
        code == 0 and "by position only. Taken in the order of sorted.parquet: embedding_0" in err
    )


# ---------------------------------------------------------------------- results


def awkward(n):
    """Columns that lose something on the way through floats, text or pandas."""
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moments = [datetime.datetime(2026, 1, 1, 1, 2, 3, 456789 + i) for i in range(n)]
    return {
        "big": pyarrow.array([2**60 + i if i % 3 else None for i in range(n)]),
        "unsigned": pyarrow.array([2**64 - 1 - i for i in range(n)], pyarrow.uint64()),
        "flag": pyarrow.array([None if i % 4 == 0 else i % 2 == 0 for i in range(n)]),
        "small": pyarrow.array([1e-300 * (i + 1) / 3 for i in range(n)]),
        "single": pyarrow.array(np.arange(n, dtype=np.float32) / 3),
        "date": pyarrow.array([moment.date() for moment in moments]),
        "moment": pyarrow.array(moments, pyarrow.timestamp("ns")),
        "zoned": pyarrow.array([m.replace(tzinfo=zone) for m in moments]),
        "price": pyarrow.array([decimal.Decimal(i) / 100 for i in range(n)]),
        "nested": pyarrow.array([{"a": [i, None], "b": {"c": str(i)}} for i in range(n)]),
        "empty": pyarrow.array([[] for _ in range(n)], pyarrow.list_(pyarrow.int64())),
        "nothing": pyarrow.nulls(n),
        "kind": pyarrow.array([str(i % 3) for i in range(n)]).dictionary_encode(),
        "\ud55c\uad6d": pyarrow.array(["\u4f60\n"] * n),
    }


def test_results_keep_the_columns_as_they_were(saved, log, run, tmp_path):  # noqa: F811
    frame, n = log[1], len(log[1])
    columns = awkward(n)
    vectors = pyarrow.array([list(map(float, row)) for row in frame["embedding"]])
    binary = pyarrow.array([bytes([i % 256]) for i in range(n)])
    table = pyarrow.table(columns | {"embedding": vectors, "raw": binary})
    parquet.write_table(table, tmp_path / "new.parquet")
    code, _, err = run("predict", saved, "new.parquet", "-o", "out.parquet")
    assert code == 0, err
    found = parquet.read_table(tmp_path / "out.parquet")
    kept = parquet.read_table(tmp_path / "new.parquet").drop_columns(["embedding"])
    assert found.drop_columns(["reward", "reward_std"]).equals(kept)
    assert found.schema.field("big").type == pyarrow.int64()

    code, _, err = run("predict", saved, "new.parquet", "-o", "out.jsonl")
    assert code == 2 and "holds bytes" in err and "Write .parquet" in err
    assert not (tmp_path / "out.jsonl").exists()
    parquet.write_table(table.drop_columns(["raw"]), tmp_path / "text.parquet")
    code, _, err = run("predict", saved, "text.parquet", "-o", "out.jsonl")
    assert code == 0, err
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    for name in ("big", "unsigned", "flag", "small", "nested", "empty", "nothing", "kind"):
        assert [row[name] for row in rows] == columns[name].to_pylist(), name
    assert [datetime.datetime.fromisoformat(row["zoned"]) for row in rows] == (
        columns["zoned"].to_pylist()
    )


def test_results_of_json_keep_values_and_fields(saved, log, run, tmp_path):  # noqa: F811
    rows = [
        {"embedding": list(map(float, vector)), "id": 2**70 + i, "mixed": [0.5, 1, None, True]}
        for i, vector in enumerate(log[1]["embedding"])
    ]
    rows[1]["more"] = None
    rows[2] = {"small": 5e-324, "nested": {"a": []}} | rows[2]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("predict", saved, "new.jsonl", "-o", "out.jsonl")
    assert code == 0, err
    found = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    for row, other in zip(found, rows, strict=True):
        del row["reward"], row["reward_std"], other["embedding"]
        assert json.dumps(row) == json.dumps(other)
    code, _, err = run("predict", saved, "new.jsonl", "-o", "out.parquet")
    assert code == 2 and "can be written as .jsonl" in err


# ---------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "both"])
def test_a_folder_is_one_log_in_the_order_of_names(kind, log, run, tmp_path):  # noqa: F811
    _, frame, _ = log
    (tmp_path / "logs").mkdir()
    parts = [("a", frame[:100]), ("b", frame[100:250].iloc[:, ::-1]), ("c", frame[250:])]
    for name, part in parts[::-1]:  # whatever was written first
        if kind == "parquet" or (kind == "both" and name == "b"):
            part.to_parquet(tmp_path / "logs" / f"{name}.parquet")
        else:
            part.to_json(
                tmp_path / "logs" / f"{name}.jsonl", orient="records", lines=True,
                double_precision=15,
            )  # fmt: skip
    code, out, err = run("fit", "logs", *FIT, "-o", "parts")
    assert code == 0 and "files: 3, in the order of their names" in out, err
    assert run("fit", log[0], *FIT, "-o", "whole")[0] == 0
    for name, source in (("parts", "logs"), ("whole", "log.parquet")):
        code, _, err = run("predict", name, source, "-o", f"{name}.parquet")
        assert code == 0, err
    np.testing.assert_allclose(rewards("parts.parquet"), rewards("whole.parquet"), atol=1e-5)
    found = pandas.read_parquet(tmp_path / "parts.parquet")
    assert found["prompt_id"].tolist() == frame["prompt_id"].tolist()


def test_values_of_two_types_are_named_with_their_rows(run, tmp_path):  # noqa: F811
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").write_text("prompt,response,stars\nq,a,5.0\nr,b,3.0\n")
    rows = [{"prompt": "s", "response": "c", "stars": "5"}]
    (tmp_path / "logs" / "b.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    stars = "stars:5=positive,3=negative,null=silent"
    code, _, err = run("fit", "logs", "--choice", stars, "-o", "x", "--embedder", "model")
    assert code == 2
    assert "float: 5.0 in row 0, str: '5' in row 2" in " ".join(err.split())


def test_files_that_are_no_parts_of_one_table(log, saved, run, tmp_path):  # noqa: F811
    _, frame, _ = log
    (tmp_path / "logs").mkdir()
    frame[:200].to_parquet(tmp_path / "logs" / "a.parquet")
    frame[200:].assign(prompt_id="x").to_parquet(tmp_path / "logs" / "b.parquet")
    code, _, err = run("predict", saved, "logs", "-o", "out.parquet")
    assert code == 2 and "the files of logs hold a column in several types" in err
    (tmp_path / "logs" / "sub").mkdir()
    code, _, err = run("fit", "logs", *FIT, "-o", "x")
    assert code == 2 and "holds the folder 'sub'" in err


# ---------------------------------------------------------------------- users and windows


def test_users_are_passed_to_fit(log, run, tmp_path, monkeypatch):  # noqa: F811
    given = {}

    def fit(est, X, y, **side):
        given.update(side, y=y)
        raise ValueError("enough")

    monkeypatch.setattr(ImplicitRewardEstimator, "fit", fit)
    _, frame, _ = log
    users = [None if i % 5 == 0 else 2**60 + i % 7 for i in range(len(frame))]
    frame = frame.assign(user=pandas.array(users, dtype="Int64"), day=np.arange(len(frame)) * 1.0)
    frame.to_parquet(tmp_path / "log.parquet")
    frame.astype({"user": object}).where(frame.notna(), None).to_json(
        tmp_path / "log.jsonl", orient="records", lines=True
    )
    for kind in ("parquet", "jsonl"):
        code, _, err = run("fit", f"log.{kind}", *FIT, "-o", "x", "--user", "user")
        assert code == 2 and "error: enough" in err
        assert list(given["user_id"]) == users
        assert list(given["groups"]) == frame["prompt_id"].tolist()
        run("fit", f"log.{kind}", *FIT, "-o", "x", "--user", "user", "--groups", "user")
        assert list(given["groups"]) == users
        options = ["--time", "day", "--window", "10", "--now", "300"]
        code, _, err = run("fit", f"log.{kind}", *FIT, "-o", "x", *options)
        assert "109 rows whose window of 10 is not closed" in err
        assert given["y"]["copied"].isna().tolist() == [day > 290 for day in frame["day"]]
        code, out, err = run("inspect", f"log.{kind}", *FIT, *options, "--user", "user")
        assert code == 0 and "rows whose window of 10 is not closed" in out, err
        assert "user_id" in out
    for options, message in (
        (["--window", "10"], "--window 10 needs --now, the time of the export"),
        (
            ["--window", "10", "--now", "300"],
            "needs the time of each row: name its column by --time",
        ),
        (["--time", "day", "--window", "10", "--now", "2026-01-01"], "times cannot be compared"),
        (["--time", "day", "--window", "1h", "--now", "300"], "expected a number > 0"),
    ):
        code, _, err = run("fit", "log.parquet", *FIT, "-o", "x", *options)
        assert code == 2 and message in err, err


def test_a_reward_of_users(log, run, tmp_path):  # noqa: F811
    _, frame, _ = log
    frame.assign(user=np.arange(len(frame)) % 20).to_parquet(tmp_path / "log.parquet")
    code, out, err = run("fit", "log.parquet", *FIT, "-o", "reward", "--user", "user")
    assert code == 0 and "The reward is" in out, err
    code, _, err = run("predict", "reward", "log.parquet", "-o", "out.parquet")
    assert code == 0, err
    code, out, err = run("report", "reward", "log.parquet", "--user", "user")
    assert code == 0, err
    code, _, err = run("fit", "log.parquet", *FIT, "-o", "other", "--keep-users")
    assert code == 2 and "--keep-users needs --user" in err
    code, _, err = run(
        *("fit", "log.parquet", *FIT, "-o", "reward", "--user", "user", "--keep-users", "--force")
    )
    assert code == 0, err
    assert list(ImplicitRewardEstimator.load("reward").user_activity_.user_id) == list(range(20))


# ---------------------------------------------------------------------- what is left alone


def test_nothing_is_overwritten_without_force(saved, log, run, tmp_path):  # noqa: F811
    results = {
        "reward": ["fit", log[0], *FIT, "-o"],
        "out.parquet": ["predict", saved, log[0], "-o"],
        "out.jsonl": ["predict", saved, log[0], "-o"],
    }
    for name, command in results.items():
        path = tmp_path / name
        if not path.exists():
            path.write_text("precious")
        state = path.stat().st_mtime_ns
        code, _, err = run(*command, name)
        assert code == 2 and f"{name} is there already. Give another name, or --force" in err
        assert path.stat().st_mtime_ns == state
        code, _, err = run(*command, name, "--force")
        assert code == 0 and path.stat().st_mtime_ns != state, err
    code, _, err = run("export", saved, "out.parquet", "--as", "paired", "--log", log[0])
    assert code == 2 and "out.parquet is there already" in err
    code, _, err = run("predict", saved, log[0], "-o", log[0], "--force")
    assert code == 2 and "is the file that is read" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    code, _, err = run("fit", log[0], *FIT, "-o", "mine", "--force")
    assert code == 2 and (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("scheme", ["s3://", "gs://", "hf://", "https://", "file://", "memory://"])
def test_uris_are_refused(scheme, saved, log, run, tmp_path):  # noqa: F811
    before = set(os.listdir(tmp_path))
    for command in (
        ["fit", f"{scheme}bucket/log.parquet", *FIT, "-o", "x"],
        ["inspect", f"{scheme}bucket/log.parquet"],
        ["predict", saved, f"{scheme}bucket/log.parquet", "-o", "x.parquet"],
        ["predict", saved, log[0], "-o", f"{scheme}bucket/x.parquet"],
        ["fit", log[0], *FIT, "-o", f"{scheme}bucket/x"],
        ["export", saved, f"{scheme}bucket/x", "--as", "transformers"],
        ["predict", f"{scheme}bucket/model", log[0], "-o", "x.parquet"],
    ):
        code, _, err = run(*command)
        assert code == 2 and "is a URI" in err, (command, err)
    est = ImplicitRewardEstimator.load(saved)
    for call in (est.save, ImplicitRewardEstimator.load, est.predict):
        with pytest.raises(ValueError, match="is a URI"):
            call(f"{scheme}bucket/x.npy")
    assert set(os.listdir(tmp_path)) == before


def test_a_terminal_that_cannot_print_a_name(log, tmp_path):  # noqa: F811
    log[1].rename(columns={"label": "\u590d\u5236"}).to_parquet(tmp_path / "log.parquet")
    script = "import sys; from implicitrm_sk.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "inspect", "log.parquet", "--user", "\u590d\u5236"],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert rb"user_id    \u590d\u5236" in done.stdout


def nested(n=200):
    """A log whose actions and users are fields of records, lists and JSON."""
    frame, X, _ = make_frame(n)
    rows = []
    for i in range(n):
        shared = None if np.isnan(frame["shared"][i]) else bool(frame["shared"][i])
        rows.append(
            {
                "embedding": X[i].tolist(),
                "trace": {"copied": int(frame["copied"][i])},
                "scores": [] if shared is None else [{"name": "shared", "value": shared}],
                "meta": json.dumps({"user": f"u{i % 9}"}),
                "copied": int(frame["copied"][i]),
                "shared": shared,
                "user": f"u{i % 9}",
            }
        )
    return rows


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "folder"])
def test_columns_may_be_fields_of_nested_values(ending, run, tmp_path):  # noqa: F811
    rows = nested()
    (tmp_path / "log").mkdir()
    if ending == "jsonl":
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, tmp_path / "log.parquet")
        for part in (0, 1):
            parquet.write_table(table[part * 100 :][:100], tmp_path / "log" / f"{part}.parquet")
    name = "log" if ending == "folder" else f"log.{ending}"
    inner = ["--actions", "trace.copied,scores.shared", "--user", "meta.user"]
    found = {}
    for model, options in (
        ("inner", inner),
        ("outer", ["--actions", "copied,shared", "--user", "user"]),
    ):
        code, out, err = run("inspect", name, *options)
        assert code == 0, err
        code, out, err = run("fit", name, *options, "-o", model, *QUICK)
        assert code == 0, err
        assert run("predict", model, name, "-o", f"{model}.out.parquet")[0] == 0
        found[model] = rewards(f"{model}.out.parquet")
    assert np.array_equal(found["inner"], found["outer"])
    for command in (["inspect", name], ["fit", name, "-o", "other"]):
        code, _, err = run(*command, "--actions", "trace.copy")
        assert code == 2 and "lacks the column 'trace.copy'" in err
    written = parquet.read_table(tmp_path / "inner.out.parquet")
    assert "trace.copied" not in written.column_names and "trace" in written.column_names


def test_booleans_and_numbers_of_one_column_are_actions(run, tmp_path):  # noqa: F811
    rows = nested()
    for row in rows[::2]:
        row["copied"] = bool(row["copied"])
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shares = {}
    for command in (["inspect"], ["fit", "-o", "reward", *QUICK]):
        code, out, err = run(command[0], "log.jsonl", *command[1:], "--actions", "copied")
        assert code == 0, err
        shares[command[0]] = sum(row["copied"] for row in rows) / len(rows)
        assert f"{shares[command[0]]:.1%}" in out


def test_tables_written_as_json_keep_dates_and_digits(tmp_path):
    from implicitrm_sk.cli._results import write_frame

    frame = pandas.DataFrame(
        {
            "day": [datetime.date(2026, 3, 1), None],
            "time": pandas.to_datetime(["2026-03-01T00:00:00.123456Z", None]),
            "share": [0.1234567890123456, float("nan")],
            "id": [2**60 + 1, 2**60 + 2],
            "chosen": [[{"role": "assistant", "content": "\u00e4"}], []],
        }
    )
    write_frame(tmp_path / "out.jsonl", frame)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        {
            "day": "2026-03-01",
            "time": "2026-03-01T00:00:00.123456+00:00",
            "share": 0.1234567890123456,
            "id": 2**60 + 1,
            "chosen": [{"role": "assistant", "content": "\u00e4"}],
        },
        {"day": None, "time": None, "share": None, "id": 2**60 + 2, "chosen": []},
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 0.0], "holds '[1. 0.]' (ndarray) in line 2"),
        ([1], "holds '[1]' (list) in line 2"),
        ({"up": 1}, "holds \"{'up': 1}\" (dict) in line 2"),
        ("1", "holds '1' (str) in line 2"),
    ],
)
def test_actions_that_are_not_numbers_have_a_row(value, message, run, tmp_path):  # noqa: F811
    rows = nested()
    rows[0]["copied"], rows[1]["copied"] = None, value
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = run("fit", "log.jsonl", "--actions", "copied,shared", "-o", "reward", *QUICK)
    assert code == 2 and f"column 'copied' of log.jsonl {message}" in " ".join(err.split())


FORMS = {
    "exponents of C": lambda value: f"{value:.18e}",
    "exponents of a spreadsheet": lambda value: f"{value:.3E}",
    "a negative zero": lambda value: f"{value:.0f}.0",
    "signs and bare points": lambda value: f"{value:+.2f}".replace("0.", "."),
}


@pytest.mark.parametrize("form", FORMS)
def test_csv_vectors_are_numbers_in_any_usual_form(form, run, tmp_path):  # noqa: F811
    wide = make_wide()
    names = [name for name in wide if name.startswith("embedding_")]
    wide.loc[:1, names[0]] = [-0.2, 0.2]  # -0.0 beside 0.0 in one of the forms
    written = wide.assign(**{name: wide[name].map(FORMS[form]) for name in names})
    written.to_csv(tmp_path / "log.csv", index=False)
    wide.assign(**{name: written[name].astype(float) for name in names}).to_parquet(
        tmp_path / "log.parquet"
    )
    for name in ("log.csv", "log.parquet"):
        code, _, err = run("fit", name, *FIT, "-o", name.replace(".", "_"))
        assert code == 0, err
        code, _, err = run("inspect", name, "--actions", "copied,shared")
        assert code == 0 and "refuse" not in err, err
        code, _, err = run("predict", name.replace(".", "_"), name, "-o", f"{name}.out.parquet")
        assert code == 0, err
    assert np.array_equal(rewards("log.csv.out.parquet"), rewards("log.parquet.out.parquet"))


def test_csv_columns_of_known_meaning_are_numbers_in_any_usual_form(run, tmp_path):  # noqa: F811
    wide = make_wide().assign(weight=1.5, label=None)
    wide["copied"] = wide["copied"].map({1: "1.0", 0: "0.00"})
    wide["shared"] = ["0E+00" if value == 0 else "1e0" for value in wide["shared"]]
    wide["weight"] = np.where(wide.index % 2, "2E-01", "0.20")
    wide.loc[:40, "label"] = np.where(wide["copied"][:41] == "1.0", "1e0", "1.00")
    wide.to_csv(tmp_path / "log.csv", index=False)
    beside = ["--weight", "weight", "--labels", "label"]
    code, _, err = run("fit", "log.csv", *FIT, *beside, "-o", "model")
    assert code == 0, err
    code, _, err = run("inspect", "log.csv", "--actions", "copied,shared", *beside)
    assert code == 0, err
    # Ids keep the strict rule: 0.20 and 2E-01 are two.
    code, out, err = run("inspect", "log.csv", "--actions", "copied", "--user", "weight")
    assert code == 0 and "users      2" in out, out


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x", "'embedding_3' of log.csv holds 'x' (str) in line 4 of log.csv; expected a number, "
         "as the column is a part of the embedding."),
        ("0,25", "holds '0,25' (str) in line 4 of log.csv"),
        ("", "'embedding_3' of log.csv is empty in line 4 of log.csv; expected a finite number "
         "in each row, as it is a part of the embedding. 1 row is like this."),
    ],
)  # fmt: skip
def test_bad_vectors_of_csv_are_named_with_their_line(cell, message, run, tmp_path):  # noqa: F811
    wide = make_wide().astype({"embedding_3": object})
    wide.loc[2, "embedding_3"] = cell
    wide.to_csv(tmp_path / "log.csv", index=False)
    code, out, err = run("fit", "log.csv", *FIT, "-o", "model")
    assert code == 2 and message in err and "acted" not in err + out, err
    code, _, err = run("inspect", "log.csv", "--actions", "copied,shared")
    assert code == 0 and message in " ".join(err.split()), err


@pytest.mark.parametrize("command", ["fit", "inspect"])
def test_lists_in_csv_are_refused_with_what_csv_can_hold(command, run, tmp_path):  # noqa: F811
    frame, X, _ = make_frame(50)
    frame.assign(embedding=[str(list(row)) for row in X.tolist()]).to_csv(
        tmp_path / "log.csv", index=False
    )
    out = ["-o", "model"] if command == "fit" else []
    code, _, err = run(command, "log.csv", "--actions", "copied,shared", *out)
    assert code == 2 and "write one column for each number (embedding_0, embedding_1" in err, err


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--labels", "1 (preferred), 0 (not preferred)"), ("--weight", "a number of at least 0")],
)
@pytest.mark.parametrize("command", ["fit", "inspect"])
def test_text_is_refused_by_what_its_column_holds(
    command,
    option,
    expected,
    run,  # noqa: F811
    tmp_path,
):
    make_wide(50).assign(new="good").to_csv(tmp_path / "log.csv", index=False)
    out = ["-o", "model"] if command == "fit" else []
    code, _, err = run(command, "log.csv", "--actions", "copied", option, "new", *out)
    assert code == 2 and "holds 'good' (str) in line 2 of log.csv" in err, err
    assert expected in err and "1 acted" not in err


@pytest.mark.parametrize("command", ["fit", "inspect"])
@pytest.mark.parametrize("name", [" copied", "Copied"])
def test_names_that_differ_in_spaces_are_shown(command, name, run, tmp_path):  # noqa: F811
    make_wide(50).rename(columns={"copied": name}).to_csv(tmp_path / "log.csv", index=False)
    out = ["-o", "model"] if command == "fit" else []
    code, _, err = run(command, "log.csv", "--actions", "copied", *out)
    assert code == 2 and "column 'copied'" in err, err
    assert f"{name!r} differs in spaces or capitals only." in err


def test_missing_groups_are_named_with_their_line(run, tmp_path):  # noqa: F811
    wide = make_wide(50)
    wide["model"] = np.where(wide.index % 2, "a", "b")
    wide.loc[2, "model"] = None
    wide.to_csv(tmp_path / "log.csv", index=False)
    code, _, err = run("compare", "log.csv", "--actions", "copied", "--by", "model", *QUICK)
    assert code == 2 and "Fitting" not in err
    assert (
        "--by: column 'model' of log.csv is empty in 1 row; the first is line 4 of log.csv" in err
    )


def test_weights_that_are_missing_are_named_with_their_line(run, tmp_path):  # noqa: F811
    wide = make_wide(50).assign(weight=1.0)
    wide.loc[[2, 3], "weight"] = None
    wide.to_csv(tmp_path / "log.csv", index=False)
    code, _, err = run("fit", "log.csv", *FIT, "--weight", "weight", "-o", "model")
    assert code == 2 and "'weight' of log.csv is empty in line 4 of log.csv" in err, err
    assert "2 rows are like this" in err
