"""The command line: a log becomes a reward without writing Python."""

import gzip
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from implicitrm_sk import ImplicitRewardEstimator, __version__, cli, inspection
from implicitrm_sk.cli import _main
from implicitrm_sk.objectives import OBJECTIVES
from implicitrm_sk.signals import Choice

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

#: With exposures above 1 the rates would be estimated.
NO_ERRORS = ["--set", "false_action_rate=0"]
QUICK = ["--set", "max_epochs=3", "--set", "n_estimators=2", "--set", "hidden_layer_sizes=[8]"]


def make_frame(n=400, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    preferred = X[:, 0] + 0.3 * rng.normal(size=n) > 0
    frame = pandas.DataFrame(
        {
            "prompt_id": np.arange(n) % (n // 4),
            "copied": (preferred & (rng.uniform(size=n) < 0.6)).astype(float),
            "shared": (preferred & (rng.uniform(size=n) < 0.5)).astype(float),
            "label": np.where(np.arange(n) < n // 4, preferred, np.nan),
            "embedding": list(X),
        }
    )
    frame.loc[::7, "shared"] = np.nan
    return frame, X, preferred


@pytest.fixture
def log(tmp_path):
    frame, X, _ = make_frame()
    frame.to_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet", frame, X


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in the temporary folder; returns code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")  # the width of what it prints

    def call(*args):
        code = cli.main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def saved(log, run):
    assert run("fit", log[0], "--actions", "copied,shared", "-o", "reward", *QUICK)[0] == 0
    return "reward"


# ---------------------------------------------------------------------- what it does


def test_user_ids_that_a_fit_leaves_out_are_named(log, run, tmp_path):
    _, frame, _ = log
    frame.assign(user_id=[f"u{i % 40}" for i in range(len(frame))]).to_parquet(
        tmp_path / "users.parquet"
    )
    fit = ["fit", "users.parquet", "--actions", "copied,shared", "-o", "reward", "--force", *QUICK]
    for options, named in (([], True), (["--user", "user_id"], False)):
        code, out, err = run(*fit, *options)
        assert code == 0, err
        assert ("Column user_id is not used. Pass --user user_id" in out) == named
    code, out, _ = run(*fit, "--groups", "user_id")
    assert code == 0 and "is not used" not in out


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_fit_predict_report(kind, log, run, tmp_path):
    _, frame, X = log
    if kind == "jsonl":
        frame.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    code, out, _ = run("fit", f"log.{kind}", "--actions", "copied,shared", "-o", "reward", *QUICK)
    assert code == 0
    assert f"log.{kind}: 400 rows, embeddings of 5 columns" in out
    assert "shared: logged in 342 rows" in out
    assert "The reward is bounded (assuming independent signals of rows" in out
    assert "Saved: reward" in out
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert list(est.signal_names_in_) == ["copied", "shared"]

    code, out, _ = run(
        "predict", "reward", f"log.{kind}", "-o", "scored.parquet", "--actions", "copied,shared"
    )
    assert code == 0
    assert "400 rewards, mean 0." in out
    scored = pandas.read_parquet(tmp_path / "scored.parquet")
    reward, std = est.predict(X, return_std=True)
    np.testing.assert_allclose(scored["reward"], reward, rtol=1e-5)
    np.testing.assert_allclose(scored["reward_std"], std, atol=1e-6)
    assert "embedding" not in scored and "prompt_id" in scored
    groups = est.predict_proba(X, frame[["copied", "shared"]])
    np.testing.assert_allclose(scored["p_preferred"], groups[:, 0] + groups[:, 2], atol=1e-5)

    code, out, _ = run("predict", "reward", f"log.{kind}", "-o", "scored.jsonl")
    assert code == 0
    assert len((tmp_path / "scored.jsonl").read_text().splitlines()) == 400

    code, out, _ = run("report", "reward", f"log.{kind}")
    assert code == 0
    assert "signals" in out
    code, out, _ = run("report", "reward", f"log.{kind}", "--new", f"log.{kind}")
    assert code == 0
    assert "domain classifier AUC" in out


def test_a_model_of_one_member_has_no_spread(log, run, tmp_path):
    few = [option.replace("n_estimators=2", "n_estimators=1") for option in QUICK]
    assert few != list(QUICK)
    assert run("fit", log[0], "--actions", "copied,shared", "-o", "reward", *few)[0] == 0
    code, out, _ = run("predict", "reward", log[0], "-o", "scored.jsonl")
    assert code == 0 and "no spread, since the model has one member" in out
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert {row["reward_std"] for row in scored} == {None}


def test_compare_models(log, run, tmp_path):
    path, frame, X = log
    frame["model"] = np.where(np.arange(400) % 3, "new", "old")
    frame["user"] = np.where(np.arange(400) < 4, None, np.arange(400) // 8)
    frame.to_parquet(path)
    actions = ("--actions", "copied,shared")
    looked = ("--set", "shared_examination=False")
    code, out, err = run(
        "compare", path, "--by", "model", *actions, *looked, *QUICK, "-o", "out.parquet"
    )
    assert code == 0, err
    assert "Comparison of 2 groups by model, 400 rows, reference new" in out
    assert "The mean rewards are identified" in out
    table = pandas.read_parquet(tmp_path / "out.parquet")
    est = ImplicitRewardEstimator(
        shared_examination=False, max_epochs=3, n_estimators=2, hidden_layer_sizes=[8],
        random_state=0,
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        found = inspection.compare_groups(
            est,
            X.astype(float),
            frame[["copied", "shared"]],
            frame["model"],
            groups=frame["prompt_id"],
        )
    pandas.testing.assert_frame_equal(table.set_index("model"), found.to_frame())
    code, out, err = run(
        "compare", path, "--by", "model", *actions, "--reference", "old", "--user", "user", *QUICK
    )
    assert code == 0, err
    assert "reference old" in out and "The mean rewards are bounded" in out
    assert "Next: If users looked at every row of the log, state it: --set" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "model"], "log.parquet has no column 'model'"),
        (["--by", "label"], "column 'label' of log.parquet is empty in 300 rows; the first is row"),
        (
            ["--by", "prompt_id"],
            "--by prompt_id has 100 different values in 400 rows; expected a few groups",
        ),
        (["--by", "half", "--reference", "c"], "--reference 'c' is not a group of --by half,"),
        (["--by", "half", "--confidence", "90"], "--confidence must lie in (0, 1), got 90.0"),
        (["--by", "half", "--n-folds", "1"], "--n-folds must be an integer of at least 2"),
        (["--by", "amount"], "--by amount has 400 different values in 400 rows; expected a few"),
        (["--by", "copied"], "--by copied is one of the actions; expected groups of responses"),
        (["--by", "half", "--set", "batch_size=a"], "batch_size=... must be a whole number of at"),
        (["--by", "half", "--preference-rate", "2"], "must be a number from 0 to 1 or LOW,HIGH. G"),
        (["--by", "half", "--set", "tol=-1"], "--set tol=... must be a number of at least 0. Got"),
        (["--by", "half", "--set", "standardize=a"], "standardize=... must be true or false. Got"),
        (["--by", "half", "--same-prompts", "--groups", "copied"], "2 prompts of"),
        (["--by", "half", "-o", "out.csv"], "must end with .parquet or .jsonl"),
    ],
)
def test_bad_comparisons(options, message, log, run):
    path, frame, _ = log
    frame["half"] = np.where(np.arange(400) % 2, "a", "b")
    frame["amount"] = np.arange(400) / 7
    frame.to_parquet(path)
    code, _, err = run("compare", path, "--actions", "copied,shared", *options, *QUICK)
    assert code == 2
    assert message in err and err.splitlines()[-1].startswith("error: ")
    assert "Fitting" not in err


@pytest.fixture
def both(log, tmp_path):
    """A log with two positive and two negative actions."""
    _, frame, X = log
    rng = np.random.default_rng(0)
    silent = frame["copied"].eq(0) & ~frame["shared"].eq(1)
    negative = {
        name: (silent & (rng.random(len(frame)) < rate)).astype(int)
        for name, rate in (("regenerated", 0.3), ("thumbs_down", 0.2))
    }
    frame = frame.assign(**negative)
    frame.to_parquet(tmp_path / "both.parquet")
    return frame, X


def test_negative_actions(both, run, tmp_path, monkeypatch):
    frame, X = both
    names = ["copied", "shared", "regenerated", "thumbs_down"]
    code, out, _ = run(
        "fit", "both.parquet", "--actions", "copied,shared", "--negative",
        "regenerated, thumbs_down", "-o", "both", *QUICK,
    )  # fmt: skip
    assert code == 0 and "The reward is " in out
    assert "\n  shared: logged" in out and "\n  regenerated (negative): logged" in out
    est = ImplicitRewardEstimator.load(tmp_path / "both")
    assert list(est.signal_names_in_) == names
    assert [signal.target for signal in est.signals_] == [1, 1, 0, 0]
    twin = ImplicitRewardEstimator(
        signals=["positive"] * 2 + ["negative"] * 2,
        max_epochs=3,
        n_estimators=2,
        hidden_layer_sizes=(8,),
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning):
        twin.fit(X, frame[names], groups=frame["prompt_id"].to_numpy())
    np.testing.assert_array_equal(est.predict(X), twin.predict(X))

    # The signs are known by the names, in any order.
    for order in (names, names[::-1]):
        code, _, err = run(
            "predict", "both", "both.parquet", "-o", "out.parquet", "--force", "--actions",
            ",".join(order),
        )  # fmt: skip
        assert code == 0, err
        scored = pandas.read_parquet(tmp_path / "out.parquet")
        assert (scored["p_preferred"][frame["regenerated"] == 1] < 1e-6).all()
        assert (scored["p_preferred"][frame["copied"] == 1] > 1 - 1e-6).all()
    given = report_arguments(monkeypatch)
    for options in ([], ["--actions", "thumbs_down,copied,regenerated,shared"]):
        assert run("report", "both", "both.parquet", *options)[0] == 0
        assert list(given["y"]) == names
    code, _, err = run("report", "both", "both.parquet", "--actions", "copied,shared")
    assert code == 2 and "with 4 columns of actions (copied, shared, regenerated" in err


def test_export_knows_negative_actions(both, run, tmp_path):
    frame, _ = both
    text = {"prompt": "q" + frame["prompt_id"].astype(str), "response": frame.index.astype(str)}
    frame.assign(**text).to_parquet(tmp_path / "both.parquet")
    columns = ["--actions", "copied", "--negative", "regenerated"]
    assert run("fit", "both.parquet", *columns, "-o", "both", *QUICK)[0] == 0
    code, _, err = run(
        "export", "both", "kto.parquet", "--as", "unpaired", "--log", "both.parquet",
        "--actions", "regenerated,copied",
    )  # fmt: skip
    assert code == 0, err
    kto = pandas.read_parquet(tmp_path / "kto.parquet")
    label = dict(zip(kto["completion"], kto["label"], strict=True))
    for row in frame.index:
        if frame["copied"][row] or frame["regenerated"][row]:
            assert label[str(row)] == bool(frame["copied"][row])


def test_default_names_beside_negative_actions(both, run, tmp_path):
    frame, _ = both
    renamed = {"copied": "action", "regenerated": "action_again", "shared": "unused"}
    frame.rename(columns=renamed).to_parquet(tmp_path / "named.parquet")
    for negative, positive in (("action_again", ["action"]), ("thumbs_down", None)):
        fit = ["fit", "named.parquet", "--negative", negative, "-o", negative]
        code, _, err = run(*fit, *NO_ERRORS, *QUICK)
        if positive is None:  # then action_again is positive, which contradicts thumbs_down
            assert code == 2 and "'action_again'" in err and "'thumbs_down'" in err
            continue
        assert code == 0, err
        est = ImplicitRewardEstimator.load(tmp_path / negative)
        assert list(est.signal_names_in_) == [*positive, negative]
        assert [signal.target for signal in est.signals_] == [1, 0]
    alone = ["fit", "both.parquet", "--negative", "regenerated", "-o", "alone"]
    assert run(*alone, *QUICK)[0] == 0
    est = ImplicitRewardEstimator.load(tmp_path / "alone")
    assert est.one_dimensional_ and [signal.target for signal in est.signals_] == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--actions", "copied,regenerated", "--negative", "regenerated"],
            "--actions and --negative both name regenerated. A column shows one preference",
        ),
        (["--actions", "copied", "--negative", "stopped"], "has no column 'stopped'"),
        (["--actions", "copied", "--negative", ","], "a list of columns is empty"),
        (["--actions", "copied,copied"], "copied,copied names the column 'copied' twice"),
        (
            ["--actions", "copied", "--negative", "regenerated", "--set", "signals=null"],
            "--negative and --set signals both say",
        ),
    ],
)
def test_bad_negative_actions(options, message, both, run):
    code, _, err = run("fit", "both.parquet", *options, "-o", "out", *QUICK)
    assert code == 2 and message in err


def test_labels_of_a_choice_are_read_as_they_are(log, run, tmp_path):
    path, frame, X = log
    thumb = frame["copied"].map({1.0: "up", 0.0: "none"}).to_numpy(object)
    thumb[::5] = np.where(frame["copied"][::5] == 1, "up", "down")
    thumb[3] = None
    frame.assign(thumb=thumb).to_parquet(path)
    est = ImplicitRewardEstimator(
        signals={"thumb": Choice({"up": 1, "down": 0}, silent="none")},
        max_epochs=2,
        n_estimators=2,
        hidden_layer_sizes=(8,),
    )
    with pytest.warns(ConvergenceWarning):
        est.fit(X, pandas.DataFrame({"thumb": thumb})).save(tmp_path / "thumb")
    options = ["predict", "thumb", path, "-o", "out.parquet", "--actions", "thumb"]
    code, _, err = run(*options)
    assert code == 0, err
    p = pandas.read_parquet(tmp_path / "out.parquet")["p_preferred"]
    assert (p[thumb == "up"] > 1 - 1e-6).all() and (p[thumb == "down"] < 1e-6).all()


def test_fit_is_the_fit_of_python(log, run, tmp_path):
    path, frame, X = log
    frame = frame.assign(weight=np.linspace(0.5, 1.5, 400))
    frame.to_parquet(path)
    code, out, _ = run(
        "fit", path, "--actions", "copied", "--labels", "label", "--weight", "weight",
        "--preference-rate", "0.3,0.7", "-o", "reward.zip", "--seed", "3", *QUICK,
    )  # fmt: skip
    assert code == 0
    est = ImplicitRewardEstimator(
        max_epochs=3,
        n_estimators=2,
        hidden_layer_sizes=(8,),
        preference_rate=(0.3, 0.7),
        random_state=3,
    )
    with pytest.warns(UserWarning):
        est.fit(
            X,
            frame["copied"].to_numpy(),
            labels=frame["label"].to_numpy(),
            sample_weight=frame["weight"].to_numpy(),
            groups=frame["prompt_id"].to_numpy(),
        )
    loaded = ImplicitRewardEstimator.load(tmp_path / "reward.zip")
    assert loaded.one_dimensional_
    np.testing.assert_array_equal(loaded.predict(X), est.predict(X))


def test_columns_of_numbers_repeated_exposures_and_default_names(run, tmp_path):
    frame, X, _ = make_frame()
    wide = pandas.DataFrame(X, columns=[f"embedding_{i}" for i in range(5)])
    wide["action"] = frame["copied"].astype(bool)
    wide["views"] = 2
    wide["response"] = np.arange(400) // 2
    wide.to_parquet(tmp_path / "wide.parquet")
    assert run("fit", "wide.parquet", "-o", "a", "--exposures", "views", *NO_ERRORS, *QUICK)[0] == 0
    wide["views"], wide["action"] = 4, 4 * wide["action"]
    wide.to_parquet(tmp_path / "counts.parquet")
    counted = ("--exposures", "views", "--correlated", "action", *NO_ERRORS, *QUICK)
    assert run("fit", "counts.parquet", "-o", "counted", *counted)[0] == 0
    assert ImplicitRewardEstimator.load("counted").signals_[0].counts == "beta-binomial"
    code, out, _ = run("fit", "wide.parquet", "--embedding", "embedding_*", "-o", "b", *QUICK)
    assert code == 0
    assert ImplicitRewardEstimator.load("b").n_features_in_ == 5
    assert run("predict", "b", "wide.parquet", "-o", "scored.parquet")[0] == 0
    code, _, err = run(
        *("fit", "wide.parquet", "-o", "c", "--response-id", "response"),
        *("--embedding", "embedding_*", *NO_ERRORS),
    )
    assert code == 2
    assert "A response has one reward" in err


def test_text(run, tmp_path, tiny_model, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "prompt": [f"q{i % 50}" for i in range(200)],
            "response": ["".join(rng.choice(list("abcdef!?"), 6)) for _ in range(200)],
        }
    )
    liked = frame["response"].str.contains("a")
    for name in ("copied", "shared"):
        frame[name] = (liked & (rng.uniform(size=200) < 0.7)).astype(int)
    frame.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    code, out, _ = run(
        "fit", "log.jsonl", "--actions", "copied,shared", "--embedder", tiny_model(), "-o",
        "reward", "--pooling", "mean", *QUICK,
    )  # fmt: skip
    assert code == 0
    assert "text for" in out
    assert run("predict", "reward", "log.jsonl", "-o", "scored.parquet")[0] == 0
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    expected = est.predict(frame[["prompt", "response"]])
    scored = pandas.read_parquet(tmp_path / "scored.parquet")
    np.testing.assert_allclose(scored["reward"], expected, atol=1e-5)
    assert run("report", "reward", "log.jsonl", "--new", "log.jsonl")[0] == 0

    tune = ["fine-tune", "reward", "log.jsonl", "-o", "tuned", "--run", "run"]
    quick = ["--set", "max_steps=4", "--set", "disable_tqdm=True", "--set", "learning_rate=0.01"]
    with monkeypatch.context() as patch:
        patch.setattr("implicitrm_sk.integrations._fine_tune.is_better", lambda *_: True)
        code, out, _ = run(*tune, *quick)
    assert code == 0
    assert "Tuned in 4 steps" in out
    tuned = ImplicitRewardEstimator.load(tmp_path / "tuned")
    assert tuned.fine_tuning_["learning_rate"] == 0.01
    assert "tuned is there already" in run(*tune, *quick)[2]
    code, _, err = run(*tune, *quick, "--force")
    assert code == 2
    assert "holds another run" in err
    code, out, err = run(
        *tune[:5], "--force", "--run", "idle", *quick[:4], "--set", "learning_rate=0.0"
    )
    assert code == 0
    assert "Not saved" in out
    assert "not better than the frozen one" in err

    code, out, _ = run("export", "reward", "rm", "--as", "transformers")
    assert code == 0
    assert "loads with trust_remote_code=True" in out
    assert (tmp_path / "rm" / "model.safetensors").exists()
    code, _, err = run("export", "reward", "rm2", "--as", "transformers", "--no-custom-code")
    assert code == 2
    assert "no stock class gives this reward" in err
    code, out, _ = run(
        "export", "reward", "pairs.parquet", "--as", "paired", "--log", "log.jsonl",
        "--min-confidence", "0.5", "--actions", "copied,shared",
    )  # fmt: skip
    assert code == 0
    pairs = pandas.read_parquet(tmp_path / "pairs.parquet")
    assert list(pairs) == ["prompt", "chosen", "rejected", "reward_gap", "confidence"]
    assert f"{len(pairs)} pairs" in out
    assert run("export", "reward", "kto.jsonl", "--as", "unpaired", "--log", "log.jsonl")[0] == 0
    assert len((tmp_path / "kto.jsonl").read_text().splitlines()) == 200


@pytest.mark.slow
def test_large_log(run, tmp_path):
    """30,000 rows, as a process of its own, as a user would run it."""
    rng = np.random.default_rng(0)
    n, d = 30_000, 32
    X = rng.normal(size=(n, d)).astype(np.float32)
    preferred = X[:, 0] > 0
    actions = [
        np.where(rng.uniform(size=n) < 0.1, np.nan, preferred & (rng.uniform(size=n) < 0.5))
        for _ in range(2)
    ]
    table = pyarrow.table(
        {
            "prompt_id": rng.integers(20_000, size=n),
            "copied": actions[0],  # NaN and null in one column are the same
            "shared": pyarrow.array(actions[1], from_pandas=True),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(X.ravel(), d),
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "implicitrm_sk.cli", "fit", "log.parquet", "--actions",
         "copied,shared", "-o", "reward", "--set", "max_epochs=2", "--set", "batch_size=4096",
         "--set", "learning_rate_init=0.003"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "30,000 rows, embeddings of 32 columns" in done.stdout
    assert "ImplicitRewardEstimator - fit" in done.stdout + done.stderr  # progress
    code, out, _ = run("predict", "reward", "log.parquet", "-o", "scored.parquet")
    assert code == 0
    assert "30,000 rewards" in out
    reward = parquet.read_table(tmp_path / "scored.parquet")["reward"].to_numpy()
    assert np.corrcoef(reward, preferred)[0, 1] > 0.7


def report_arguments(monkeypatch):
    given = {}

    def report(est, X, y, **params):
        given.update(y=y, **params)
        return "report"

    monkeypatch.setattr(inspection, "identification_report", report)
    return given


@pytest.mark.parametrize("option", ["labels", "weight", "response-id", "exposures"])
def test_report_reads_the_side_information_of_fit(option, run, tmp_path, monkeypatch):
    frame, X, _ = make_frame()
    frame = frame.assign(weight=1.5, views=2, response=np.arange(400) // 2)
    frame["embedding"] = list(X[np.arange(400) // 2])
    frame = frame.drop(columns="prompt_id")
    frame.to_parquet(tmp_path / "log.parquet")
    column = {"labels": "label", "response-id": "response", "exposures": "views"}.get(
        option, option
    )
    side = [f"--{option}", column]
    fit = ["fit", "log.parquet", "--actions", "copied", "-o", "reward"]
    code, _, err = run(*fit, *side, *NO_ERRORS, *QUICK)
    assert code == 0, err
    given = report_arguments(monkeypatch)
    code, out, err = run("report", "reward", "log.parquet", *side)
    assert code == 0, err
    name = {"weight": "sample_weight"}.get(option, option.replace("-", "_"))
    np.testing.assert_array_equal(given[name], frame[column])
    np.testing.assert_array_equal(given["y"], frame["copied"])  # one action is remembered, too


def test_the_report_that_fit_recommends_reads_the_same_columns(run, tmp_path, tiny_model):
    frame, _, _ = make_frame()
    frame["question"], frame["sql"] = "how many?", [f"SELECT {n}" for n in range(400)]
    frame = frame.drop(columns=["embedding", "prompt", "response"], errors="ignore")
    frame.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    columns = ["--prompt", "question", "--response", "sql", "--labels", "label"]
    fit = ["fit", "log.jsonl", "--actions", "copied", "--embedder", tiny_model()]
    code, out, err = run(*fit, *columns, "-o", "reward", *QUICK)
    assert code == 0, err
    command = shlex.split(out.split("large enough to show it: implicitrm ")[1].splitlines()[0])
    assert command[command.index("--response") + 1] == "sql"
    code, out, err = run(*command, "--n-starts", "2")
    assert code == 0 and "Identification report" in out, err


def test_report_agrees_with_fit_about_labels(log, run):
    args = ["--labels", "label"]
    code, out, _ = run("fit", log[0], "--actions", "copied", "-o", "reward", *args, *QUICK)
    assert code == 0
    assert "The reward is identified" in out
    assert f"large enough to show it: implicitrm report reward {log[0]} --labels label" in out
    code, out, _ = run("report", "reward", log[0], *args)
    assert code == 0
    # Identified by its labels, which are too few to show it.
    assert re.search(r"level +not identified\n +74 responses are labelled; 26 of 100 labels", out)
    assert "But this log is" in " ".join(out.split())
    assert re.search(r"level +not identified", run("report", "reward", log[0])[1])


def test_actions_where_the_model_knows_no_names(log, run, tmp_path, monkeypatch):
    path, frame, X = log
    est = ImplicitRewardEstimator(max_epochs=2, n_estimators=2, hidden_layer_sizes=(8,))
    with pytest.warns(UserWarning):
        est.fit(X, frame["copied"].to_numpy()).save(tmp_path / "reward")
    code, _, err = run("report", "reward", path)
    assert code == 2
    assert "which columns are actions?" in err
    code, _, err = run("report", "reward", path, "--actions", "copied,shared")
    assert code == 2
    assert "fitted with 1 columns of actions, but here are 2" in err
    given = report_arguments(monkeypatch)
    assert run("report", "reward", path, "--actions", "copied")[0] == 0
    np.testing.assert_array_equal(given["y"], frame["copied"])


def test_criterion_has_a_unit_where_it_is_a_likelihood(log, run):
    for objective, has_unit in (("nnpu", False), ("stratified", True)):
        code, out, _ = run(
            "fit", log[0], "--actions", "copied", "-o", objective, "--objective", objective,
            "--preference-rate", "0.5", *QUICK,
        )  # fmt: skip
        assert code == 0
        assert "Held-out criterion: " in out
        assert ("nats per row" in out) == has_unit


def test_listings_collapse_numbered_columns(run, tmp_path):
    frame = pandas.DataFrame(np.zeros((4, 384)), columns=[f"embedding_{i}" for i in range(384)])
    frame.insert(100, "clicked", 1.0)
    frame["shared"] = frame["copied_2"] = 0.0
    frame.to_parquet(tmp_path / "wide.parquet")
    expected = "embedding_0 ... embedding_383, clicked, shared, copied_2."
    for args in ([], ["--actions", "shard"]):
        code, _, err = run("fit", "wide.parquet", "-o", "x", *args)
        assert code == 2
        assert err.strip().endswith(f" {expected}")


def test_empty_exports_say_why(log, run, tmp_path, saved):
    frame = log[1].assign(prompt="q", response="r")
    frame["response"] += frame.index.astype(str)
    export = ["export", saved, "pairs.parquet", "--force", "--log", "log.parquet", "--as"]
    frame.to_parquet(tmp_path / "log.parquet")
    code, out, err = run(*export, "paired", "--min-margin", "1")
    assert code == 0
    assert "0 pairs" in out
    err = " ".join(err.split())
    assert "None of the 100 prompts with two or more responses has two" in err
    assert "--min-margin 1" in err
    assert run(*export, "paired")[2] == ""
    assert "No response reaches" in run(*export, "unpaired", "--min-confidence", "1")[2]
    code, _, err = run(*export, "paired", "--min-margin", "2")
    assert code == 2 and "--min-margin must be a number from 0 to 1, got 2.0" in err, err
    frame.assign(prompt_id=np.arange(400)).to_parquet(tmp_path / "log.parquet")
    code, _, err = run(*export, "paired")
    assert code == 0
    assert "A pair needs a prompt with two or more responses" in " ".join(err.split())


# ---------------------------------------------------------------------- what goes wrong


def bad_logs():
    frame, X, _ = make_frame()
    lists = frame["embedding"]
    mixed = frame["copied"].astype(object)
    mixed[3] = "yes"
    uneven, holes, numbers = lists.copy(), lists.copy(), lists.copy()
    uneven[5] = X[5][:3]
    holes[7] = None
    numbers[9] = np.full(5, np.nan, dtype=np.float32)
    return {
        "no rows": (frame[:0], "has no rows"),
        "no action column": (frame.drop(columns="shared"), "has no column 'shared'"),
        "no embedding": (frame.drop(columns="embedding"), "has no column 'embedding'"),
        "text as action": (
            frame.assign(copied=["yes", "no"] * 200),
            "column 'copied' of log.parquet holds 'yes' .str. in row 0; expected numbers",
        ),
        "third value": (frame.assign(copied=2.0), r"y must be an action in \{0,1\}"),
        "never logged": (
            frame.assign(copied=np.nan, shared=np.nan), "nothing|no action|NaN|logged"),
        "never acted": (frame.assign(copied=0.0, shared=0.0), "equal|0 in all|no action|all"),
        "uneven": (frame.assign(embedding=uneven), "different lengths, from 3 to 5"),
        "missing embedding": (frame.assign(embedding=holes), "is empty in 1 of 400 rows"),
        "NaN in embedding": (
            frame.assign(embedding=numbers), "NaN or infinity in 1 rows; the first is row 9"),
        "text as embedding": (frame.assign(embedding="abc"), "expected a list of numbers"),
        "dates": (
            frame.assign(copied=pandas.Timestamp("2026-01-01")),
            "holds '2026-01-01 00:00:00' .datetime. in row 0"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bad_logs())
def test_bad_logs_give_one_clear_line(name, run, tmp_path):
    frame, message = bad_logs()[name]
    frame.to_parquet(tmp_path / "log.parquet")
    code, out, err = run("fit", "log.parquet", "--actions", "copied,shared", "-o", "reward", *QUICK)
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in out + err
    assert not (tmp_path / "reward").exists()


def test_mixed_types_in_jsonl(run, tmp_path):
    rows = [{"copied": 1, "embedding": [0.0, 1.0]}, {"copied": "yes", "embedding": [1.0, 0.0]}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, _, err = run("fit", "log.jsonl", "--actions", "copied", "-o", "reward")
    assert code == 2
    assert (
        "column 'copied' of log.jsonl holds 'yes' (str) in line 2 of log.jsonl; expected num" in err
    )


def test_null_nan_and_booleans_are_actions(run, tmp_path):
    frame, X, _ = make_frame()
    rows = [
        {
            "copied": None if i % 5 == 0 else int(value),
            "shared": bool(value),
            "embedding": X[i].tolist(),
        }
        for i, value in enumerate(frame["copied"])
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run("fit", "log.jsonl", "--actions", "copied,shared", "-o", "reward", *QUICK)
    assert code == 0
    assert "copied: logged in 320 rows" in out
    assert "shared: logged in 400 rows" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "none.parquet", "-o", "x"], "none.parquet does not exist"),
        (["fit", ".", "-o", "x"], "holds the folder 'reward'; expected files"),
        (["fit", "empty.parquet", "-o", "x"], "is empty \\(0 bytes\\)"),
        (["fit", "empty.jsonl", "-o", "x"], "is empty \\(0 bytes\\)"),
        (["fit", "text.parquet", "-o", "x"], "cannot be read as parquet"),
        (["fit", "text.jsonl", "-o", "x"], "line 1 of text.jsonl is not JSON.*column 1"),
        (["fit", "table.csv", "-o", "x"], "table.csv has no rows"),
        (["fit", "table.xlsx", "-o", "x"], "expected .jsonl, .*, .csv"),
        (["fit", "log.parquet", "-o", "x"], "which columns are actions\\? Pass --actions"),
        (["fit", "log.parquet", "--actions", ",", "-o", "x"], "a list of columns is empty"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x.bin"], "ends with .zip"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--set", "epochs=3"],
         "this setting does not exist"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--set", "max_epochs"],
         "expected NAME=VALUE"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--set", "max_epochs=many"],
         "max_epochs"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--preference-rate", "high"],
         "expected a number, or LOW,HIGH"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--embedder", "m",
          "--embedding", "e"], "Give one of them"),
        (["fit", "log.parquet", "--actions", "copied", "-o", "x", "--embedder", "m"],
         "no column that is known to hold text"),
        (["predict", "none", "log.parquet", "-o", "x.parquet"], "^error: there is no saved model"),
        (["predict", "reward", "log.parquet", "-o", "x.csv"], "must end with .parquet or .jsonl"),
        (["predict", "text.jsonl", "log.parquet", "-o", "x.parquet"], "not a valid zip archive"),
        (["predict", "reward", "scored.parquet", "-o", "x.parquet"], "has a column 'reward'"),
        (["report", "reward", "few.parquet", "--new", "few.parquet"], "expected at least 20"),
        (["export", "reward", "x", "--as", "transformers"],
         "fitted on vectors, but --base-model is missing"),
        (["report", "reward", "log.parquet", "--new", "log.parquet", "--response-id", "label"],
         "--response-id has no effect with --new"),
        (["report", "reward", "log.parquet", "--actions", "copied"],
         r"2 columns of actions \(copied, shared\), but here are 1: copied"),
        (["export", "reward", "x.parquet", "--as", "paired"], "needs --log FILE"),
        (["fine-tune", "reward", "log.parquet", "-o", "x", "--run", "y"],
         "no language model to train. Fit it with --embedder MODEL"),
        (["fine-tune", "reward", "log.parquet", "-o", "x", "--run", "y", "--set", "a"],
         "expected NAME=VALUE"),
        (["export", "reward", "x.parquet", "--as", "paired", "--log", "log.parquet"],
         "no column that is known to hold text"),
    ],
)  # fmt: skip
def test_wrong_usage_gives_one_clear_line(args, message, saved, log, run, tmp_path):
    frame = log[1]
    for name, content in {
        "empty.parquet": "", "empty.jsonl": "", "text.parquet": "hello", "text.jsonl": "hello",
        "table.csv": "a,b", "table.xlsx": "a,b",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    frame.assign(reward=1.0).to_parquet(tmp_path / "scored.parquet")
    frame[:10].to_parquet(tmp_path / "few.parquet")
    before = set(tmp_path.iterdir())
    code, out, err = run(*args)
    assert code == 2
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
    assert set(tmp_path.iterdir()) == before


COMMAND_NAMES = ("inspect", "fit", "predict", "report", "fine-tune", "export")


def test_help_and_exit_codes(run, capsys):
    code, out, _ = run()
    assert code == 2
    assert "learn a reward from a log" in out
    for args in (
        ["--help"],
        *([name, "--help"] for name in COMMAND_NAMES),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(args)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "Example" in out or "Try:" in out
        assert max(map(len, out.splitlines())) <= 100
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"implicitrm {__version__}\n"
    for args in (["fit"], ["fit", "log", "--what"], ["export", "m", "o", "--as", "gguf"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(args)
        assert stop.value.code == 2
        capsys.readouterr()


# ---------------------------------------------------------------------- raw logs


@pytest.fixture
def chats(tmp_path):
    """A raw log of chats, one without a response, with users, of both polarities."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(201):
        answer = "".join(rng.choice(list("abcdef!?"), 6))
        liked = "a" in answer
        turns = [{"role": "user", "content": f"q{i % 50}"}]
        turns += [
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            {"role": "user", "content": "thanks"},
        ] * (i != 7)
        records.append(
            {
                "messages": turns,
                "user": None if i == 3 else f"u{i % 9}",
                "copied": int(liked and rng.random() < 0.7),
                "shared": int(liked and rng.random() < 0.6),
                "again": int(not liked and rng.random() < 0.6),
            }
        )
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    return records


RAW = ["--actions", "copied,shared", "--negative", "again", "--user", "user"]


def test_inspect(chats, run, tmp_path):
    code, out, err = run("inspect", "log.jsonl", *RAW)
    assert code == 0, err
    assert "log.jsonl: 201 rows read, 200 kept" in out
    assert "messages (guessed)" in out and "line 8 of log.jsonl" in out
    assert "again (negative)" in out and "rows without user_id" in out
    assert "The reward is bounded (assuming" in out
    code, more, err = run("inspect", "log.jsonl", *RAW, "--set", "shared_examination=False")
    assert code == 0 and "The reward is identified (assuming" in more
    signs = ["--set", "signals=['positive','negative']"]
    code, out, err = run("inspect", "log.jsonl", "--actions", "copied,again", *signs)
    assert code == 0 and "The reward is bounded" in out, err
    code, alone, err = run("inspect", "log.jsonl", "--actions", "copied")
    assert code == 0 and "The reward is not identified" in alone and err == ""
    assert "name it in --negative COLUMN" in " ".join(alone.split())
    code, out, err = run("inspect", "log.jsonl")
    assert code == 0 and "name them by --actions and --negative" in err
    rows = [r | {"action_x": r["copied"]} for r in chats]
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for options in ([], ["--negative", "again"]):
        code, out, err = run("inspect", "named.jsonl", *options)
        assert code == 0 and "action_x " in out and ("again (negative)" in out) == bool(options)


def test_inspect_of_vectors(log, run, tmp_path):
    code, out, err = run("inspect", log[0], "--actions", "copied,shared", "--labels", "label")
    assert code == 0, err
    assert "embedding (guessed)" in out and "The reward is identified" in out
    assert "Nothing is fitted here. `fit` also tests the log" in out
    wide = pandas.DataFrame({"embedding_0": [1.0] * 9, "embedding_1": 2.0, "action": [0, 1, 0] * 3})
    wide.to_parquet(tmp_path / "wide.parquet")
    for options in ([], ["--embedding", "embedding_*"]):
        code, out, err = run("inspect", "wide.parquet", *options)
        assert code == 0 and "duplicates" not in out, err
        assert "action  9 (100%)" in out and "The reward is not identified" in out


def test_inspect_of_counts(run, tmp_path):
    rng = np.random.default_rng(0)
    views = rng.integers(4, 9, 60)
    counts = pandas.DataFrame({"yes": rng.binomial(views, 0.5), "no": rng.binomial(views, 0.2)})
    counts["views"], counts["times"], counts["action"] = views, views, counts["yes"]
    counts.to_parquet(tmp_path / "counts.parquet")
    answers = ("--actions", "yes", "--negative", "no")
    for shown in ("views", "views,times"):
        code, out, err = run("inspect", "counts.parquet", *answers, "--exposures", shown)
        assert code == 0, err
        share = counts["no"].sum() / views.sum()
        assert "exposures" in out and "no (negative)  60 (100%)" in out
        assert f"{share:.1%}" in out and "both signals" not in out
        assert "identified (assuming independent exposures of one preference" in out
    code, out, err = run(
        *("inspect", "counts.parquet", *answers, "--exposures", "views", "--correlated", "yes,no")
    )
    assert code == 0 and "ranking only (assuming equally correlated exposures" in out, err
    # The default actions are those of fit.
    default = ("inspect", "counts.parquet", "--exposures", "views", "--correlated")
    code, out, err = run(*default, "action")
    assert code == 0 and "assuming equally correlated exposures" in out, err
    code, _, err = run(*default, "yes")
    assert code == 2 and "--correlated names yes, which is not among --actions" in err
    code, _, err = run("inspect", "counts.parquet", *answers)
    assert code == 2 and "name the exposures of counts by --exposures, or name another" in err
    code, _, err = run("inspect", "counts.parquet", *answers, "--exposures", "views,times,yes")
    assert code == 2 and "--exposures names 3 columns; expected one" in err
    counts.loc[7, "yes"] = 99
    counts.to_parquet(tmp_path / "counts.parquet")
    code, _, err = run("inspect", "counts.parquet", *answers, "--exposures", "views")
    assert code == 2 and "The first is row 7: 99 actions in" in err


def test_inspect_names_late_columns_that_are_not_actions(log, run):
    code, _, err = run(
        *("inspect", log[0], "--actions", "copied", "--late", "cpoied", "--now", "9")
    )
    assert code == 2 and "--late names cpoied, which is not among --actions and --negative" in err


def test_inspect_reads_folders_and_packed_files(chats, run, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "log.jsonl").rename(tmp_path / "logs" / "a.jsonl")
    with gzip.open(tmp_path / "logs" / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, chats)))
    code, out, _ = run("inspect", "logs", *RAW)
    assert code == 0 and "402 rows read, 400 kept" in out


def test_fit_on_chats(chats, run, tmp_path, tiny_model):
    fit = ["fit", "log.jsonl", *RAW, "--embedder", tiny_model(), "-o", "reward", *QUICK]
    code, out, err = run(*fit)
    assert code == 0, err
    assert "left out: 1 chats without an assistant turn (the first: line 8 of log.jsonl)" in out
    assert "chats cut after the turn acted on" in out
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    code, _, err = run("predict", "reward", "log.jsonl", "-o", "scored.parquet")
    assert code == 2 and "'messages' of log.jsonl holds values of several types" in err
    code, _, err = run("predict", "reward", "log.jsonl", "-o", "scored.jsonl")
    assert code == 0, err
    scored = list(map(json.loads, (tmp_path / "scored.jsonl").read_text().splitlines()))
    kept = [record for i, record in enumerate(chats) if i != 7]
    assert "1 row without an assistant turn is left out" in " ".join(err.split())
    expected = est.predict([record["messages"][:2] for record in kept])
    np.testing.assert_allclose([record.pop("reward") for record in scored], expected, atol=1e-5)
    assert [{k: v for k, v in r.items() if k != "reward_std"} for r in scored] == kept
    code, out, err = run("report", "reward", "log.jsonl", "--user", "user")
    assert code == 0, err


def test_settings_in_the_form_of_python_or_json(log, run, tmp_path):
    fit = ["fit", log[0], "--actions", "copied,shared", "-o", "reward", "--set", "max_epochs=2"]
    options = ["hidden_layer_sizes=(8,)", "n_estimators=2", "shared_examination=False"]
    options += ["early_stopping=False", "dtype='float64'", "preference_rate=None"]
    code, _, err = run(*fit, *(part for option in options for part in ("--set", option)))
    assert code == 0, err
    params = ImplicitRewardEstimator.load(tmp_path / "reward").get_params()
    assert params["hidden_layer_sizes"] == (8,) and params["dtype"] == "float64"
    assert params["shared_examination"] is False and params["preference_rate"] is None


def test_repeated_options_add_up_or_are_refused(log, run, tmp_path, capsys):
    fit = ["fit", log[0], "-o", "reward", "--force", "--actions", "copied"]
    code, out, err = run(*fit, "--actions", "shared", *QUICK)
    assert code == 0, err
    est = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert list(est.signal_names_in_) == ["copied", "shared"]
    for options, message in (
        (["--seed", "1", "--seed", "2"], "--seed is given twice: 1 and 2. Give it once."),
        (["--out", "other"], "--out is given twice: reward and other"),
    ):
        with pytest.raises(SystemExit):
            run(*fit, *options)
        assert message in capsys.readouterr().err
    for options, message in (
        (["--set", "max_epochs=1", "--set", "max_epochs=2"], "--set max_epochs is given twice"),
        (["--seed", "1", "--set", "random_state=2"], "--seed and --set random_state say the same"),
        (["--actions", "copied"], "copied,copied names the column 'copied' twice"),
    ):
        code, _, err = run(*fit, *options)
        assert code == 2 and message in err


def test_messages_are_in_words_of_the_command(log, run, chats):
    _, out, err = run("fit", log[0], "--actions", "copied", "-o", "reward", *QUICK)
    text = " ".join((out + err).split())
    assert "filterwarnings" not in text and "labels=" not in text and "signals=" not in text
    assert "pass them as --labels." in text and "name it in --negative COLUMN" in text
    code, _, err = run("inspect", "log.jsonl", "--prompt", "user")
    assert code == 2 and "--prompt 'user' is given without the column" in " ".join(err.split())


COMMANDS = {
    "help": (["--help"], 0, "Commands:"),
    "help of fit": (["fit", "--help"], 0, "--negative"),
    "version": (["--version"], 0, __version__),
    "usage": (["fit"], 2, "the following arguments are required"),
    "no file": (["fit", "none.jsonl", "-o", "x"], 2, "none.jsonl does not exist"),
    "no file to inspect": (["inspect", "none.jsonl"], 2, "none.jsonl does not exist"),
    "no JSON": (["inspect", "bad.jsonl"], 2, "line 1 of bad.jsonl is not JSON"),
    "no column": (["fit", "log.jsonl", "--actions", "b", "-o", "x"], 2, "no column"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_errors_need_no_torch(name, tmp_path):
    args, code, message = COMMANDS[name]
    (tmp_path / "bad.jsonl").write_text("hello")
    (tmp_path / "log.jsonl").write_text('{"a": 1}')
    script = (
        "import sys; from implicitrm_sk.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'sklearn', 'transformers', 'scipy'} & set(sys.modules)\n"
        "print(heavy or ''); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == code and message in done.stdout + done.stderr
    assert "{" not in done.stdout.splitlines()[-1], done.stdout


def test_the_parser_knows_all_objectives():
    assert _main.OBJECTIVES == tuple(OBJECTIVES)


def test_interrupt(run, monkeypatch, log):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImplicitRewardEstimator, "fit", interrupt)
    code, _, err = run("fit", log[0], "--actions", "copied", "-o", "reward")
    assert code == 130
    assert err == "interrupted\n"


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="implicitrm")
    assert command.load() is cli.main
