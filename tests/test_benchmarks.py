"""The benchmark of all methods on a small made-up data set, and the preparation of real ones."""

import os
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')

from benchmarks import (  # noqa: E402
    gpu,
    identification,
    late,
    prepare,
    real_feedback,
    reward_modeling,
    scale,
    verdict,
)
from implicitrm_sk import ImplicitRewardEstimator  # noqa: E402
from implicitrm_sk.datasets import load_feedback_log, load_rated_responses  # noqa: E402
from tests.test_datasets import helpsteer  # noqa: E402
from tests.test_feedback_logs import oasst1  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data_home(tmp_path_factory):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    rating = (X[:, 0] + 0.5 * rng.normal(size=400) > 0).astype(float)
    pd.DataFrame(
        {
            "prompt": [f"p{i // 2}" for i in range(400)],
            "response": [f"r{i}" for i in range(400)],
            "rating": rating,
            "split": np.where(np.arange(400) < 300, "train", "test"),
        }
    ).to_parquet(folder / "beavertails_test.parquet")
    save_file({"embeddings": X}, folder / "beavertails_test_smollm2.safetensors")
    return folder


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    def estimator(objective, **params):
        defaults = {"max_epochs": 3, "n_estimators": 2, "hidden_layer_sizes": (8,)}
        return ImplicitRewardEstimator(objective, **(defaults | params))

    monkeypatch.setattr(reward_modeling, "ImplicitRewardEstimator", estimator)


def run(data_home, out, *args):
    reward_modeling.main(
        ["--data-home", str(data_home), "--data", "beavertails_test", "--jobs", "1"]
        + ["--out", str(out), *args]
    )


ROWS = ["base rate", "all ones", "naive", "root-naive", "nnpu", "stratified"]


def test_table_is_resumed_and_reported(data_home, tmp_path, capsys):
    table = ["--methods", *ROWS, "--mechanisms", "covariate", "--seeds", "2"]
    run(data_home, tmp_path, *table[:-1], "1")
    first = capsys.readouterr()
    n_rows = sum(row.name in ROWS for row in reward_modeling.methods())
    assert f"{n_rows} cells to run, 0 done before" in first.err
    lines = (tmp_path / "cells.jsonl").read_text().splitlines()
    # What an interruption leaves: half a line.
    (tmp_path / "cells.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20] + "\n")
    run(data_home, tmp_path, *table)
    again = capsys.readouterr()
    assert f"{n_rows + 1} cells to run, {n_rows - 1} done before" in again.err
    assert f"{2 * n_rows} of {2 * n_rows} cells" in again.out
    frame = pd.read_parquet(tmp_path / "reward_modeling_table.parquet")
    assert len(frame) == 2 * n_rows
    assert {"data", "mechanism", "method", "tier", "seed", "r2", "cpu_seconds"} <= set(frame)
    run(data_home, tmp_path, *table, "--report")
    assert capsys.readouterr().out.split("CPU minutes")[0] == again.out.split("CPU minutes")[0]
    base = frame[frame.method == "base rate"].mae.iloc[0]
    assert "| base rate | constant |" in again.out
    assert f"{base:.3f}" in again.out
    assert "### The default against the best method" in again.out


def test_cost_is_printed_of_every_objective_that_the_log_suits(data_home, tmp_path, capsys):
    run(data_home, tmp_path, "--part", "cost", "--repeats", "1")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == reward_modeling.ONE_SIGNAL


def test_no_truth_reaches_a_fit_of_the_honest_tiers(data_home):
    """Whatever the labels are, the model is the same; only the numbers differ."""
    problem = reward_modeling.Problem("beavertails_test", "covariate", 0, str(data_home))
    other = reward_modeling.Problem("beavertails_test", "covariate", 0, str(data_home))
    other.truth, other.labels, other.prior = 1 - other.truth, 1 - other.labels, 0.123
    other.propensity = other.propensity * 0 + 0.5
    for method in reward_modeling.methods():
        if method.tier not in reward_modeling.NO_MORE or method.name in reward_modeling.PEERS:
            continue
        if method.name not in ("stratified", "ips", "bpr", "nnpu"):
            continue
        one, two = (p.fit_method(method, {"max_epochs": 3}) for p in (problem, other))
        np.testing.assert_array_equal(one.predict(problem.X), two.predict(problem.X))


def test_settings_are_chosen_by_the_own_criterion(data_home, monkeypatch):
    candidates = [{"max_epochs": 1}, {"max_epochs": 30, "learning_rate_init": 0.01}]
    monkeypatch.setattr(reward_modeling, "candidate_settings", lambda budget: candidates)
    cell = {"data": "beavertails_test", "mechanism": "covariate", "seed": 0, "method": "naive"}
    cell |= {"part": "table", "tier": reward_modeling.ONE, "x": 2}
    found = reward_modeling.run_cell(cell, str(data_home))
    assert found["epochs"] > 1
    assert "0.01" in found["setting"]


def test_budget_gives_every_method_the_same_settings():
    settings = reward_modeling.candidate_settings(5)
    assert settings[0] == {}
    assert settings == reward_modeling.candidate_settings(6)[:5]
    assert len({str(setting) for setting in settings}) == 5


def test_scale_brings_its_own_data_set(data_home, tmp_path, capsys, monkeypatch):
    encoder = {"alpaca_eval2_gpt4turbo": reward_modeling.DATA["beavertails_test"]}
    monkeypatch.setattr(reward_modeling, "DATA", reward_modeling.DATA | encoder)
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data_home.iterdir():
        renamed = path.name.replace("beavertails_test", "alpaca_eval2_gpt4turbo")
        (folder / renamed).write_bytes(path.read_bytes())
    scale = ["--part", "scale", "--mechanisms", "covariate", "--seeds", "2", "--methods", *ROWS]
    run(folder, tmp_path, *scale)
    assert "### alpaca_eval2_gpt4turbo, covariate, 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["ablation", "leak"])
def test_other_parts(part, data_home, tmp_path, capsys):
    methods = ["--methods", "naive", "counterif"] if part == "leak" else []
    run(data_home, tmp_path, "--part", part, "--mechanisms", "covariate", "--seeds", "1", *methods)
    out = capsys.readouterr().out
    names = ["naive", "counterif"] if part == "leak" else list(reward_modeling.ABLATIONS)
    for name in names:
        assert f"| {name} |" in out
    if part == "leak":
        frame = pd.read_parquet(tmp_path / "reward_modeling_leak.parquet")
        assert (frame.test_chosen_r2 >= frame.r2).all()


def test_figures(data_home, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    monkeypatch.setattr(reward_modeling, "ALPHAS", (0.3, 0.6))
    keep = {name: reward_modeling.FIGURE_METHODS[name] for name in ("naive", "stratified")}
    monkeypatch.setattr(reward_modeling, "FIGURE_METHODS", keep)
    run(data_home, tmp_path, "--part", "alpha", "--seeds", "2", "--images", str(tmp_path))
    assert (tmp_path / "reward_modeling_alpha.png").stat().st_size > 5000
    assert "| naive |" in capsys.readouterr().out


def test_a_method_looks_the_same_in_all_panels(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    from matplotlib.figure import Figure

    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    cells = pd.DataFrame(
        {"part": "rate", "sweep": sweep, "method": method, "x": x, "r2": x + len(method)}
        for sweep, methods in (
            ("learning_rate_init", ("all labels", "naive", "stratified")),
            ("batch_size", ("stratified", "all labels", "naive")),  # in the order they were done
        )
        for method in methods
        for x in (1, 1, 2, 2)
    )
    reward_modeling.report(cells, tmp_path)
    (figure,) = found
    left, right = (
        {
            label: (bars.lines[0].get_color(), bars.lines[0].get_marker())
            for bars, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        for axis in figure.axes
    )
    assert list(left) == ["naive", "stratified", "all labels"]
    assert left == right
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row in ("| naive", "| stratified", "| all labels")] == [
        "| naive", "| stratified", "| all labels"] * 2  # fmt: skip


def test_prepared_data_set_is_read_by_the_benchmark(tmp_path, monkeypatch):
    class Embedder:
        def fit_transform(self, pairs):
            return np.array([[len(p), len(r)] for p, r in pairs], dtype=np.float16)

    repository = tmp_path / "repository"
    repository.mkdir()
    helpsteer(repository)
    prepare.prepare("helpsteer", Embedder(), tmp_path / "home", repository)
    data = load_rated_responses("helpsteer", tmp_path / "home")
    assert data.X.tolist() == [[2, 2]] * 4
    assert data.is_test.tolist() == [False] * 3 + [True]
    X, truth, rating, groups, is_test = reward_modeling.rated("helpsteer", str(tmp_path / "home"))
    assert truth.tolist() == [1, 0, 1, 0]
    assert groups.tolist() == [0, 0, 1, 0]


@pytest.mark.slow
def test_what_further_information_is_worth_on_the_synthetic_log():
    """A seed that the tables of the documentation do not have."""
    wanted = {
        ("signals", "all labels"): None,
        ("signals", "5 % labels"): 0.85,
        ("signals", "two signals"): 0.85,
        ("signals", "three signals"): 0.93,
        ("context", "exclusion"): 0.90,
        ("false actions", "three signals, rate estimated"): None,
    }
    problem = identification.Problem("synthetic", None, seed=7)
    found = {
        (log, name): evaluate()
        for log, name, evaluate in identification.cases(problem)
        if (log, name) in wanted
    }
    assert found.keys() == wanted.keys()
    full = found["signals", "all labels"]["r2"]
    assert full > 0.4
    for row, share in wanted.items():
        if share is not None:
            assert found[row]["r2"] >= share * full, row
    rates = found["false actions", "three signals, rate estimated"]["false_action_rate"]
    np.testing.assert_allclose(rates, 0.05, atol=0.01)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache as on Linux")
def test_scale_runs(tmp_path, capsys):
    with warnings.catch_warnings():
        scale.main(["--gb", "0.02", "--rows", "30000", "--repeats", "2", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    for line in (
        "| .npy | 4 GiB |",
        "| folder of safetensors |",
        "to the power of",
        "3,000 users",
    ):
        assert line in printed
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="GB are needed"):
        scale.main(["stream", "--gb", "1e9", "--folder", str(tmp_path)])


@pytest.mark.slow
def test_gpu_runs_on_a_processor(capsys):
    gpu.main(
        ["--device", "cpu", "--rows", "300", "--features", "8", "--batch-size", "100"]
        + ["--copy", "100000"]
    )
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [int(row[0]) for row in rows] == [1, 4, 8]
    assert rows[0][-1].strip() == "1.00x"
    assert all(float(row[1]) >= 0 and row[3].strip().endswith("%") for row in rows)


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.sh")))
def test_commands_of_a_script_are_known(script):
    """The options of each `python -m benchmarks.NAME` of it, to the parser of that module."""
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    commands = re.findall(r"-m (benchmarks\.\w+)(.*)", script.read_text())
    assert len(commands) >= 5
    for module, options in commands:
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in text, (module, option)


# Real logs


@pytest.fixture
def real_logs(tmp_path, monkeypatch):
    """A log of thumbs in the form of our files, and short fits."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    n = 300
    X = rng.normal(size=(n, 4)).astype(np.float32)
    good = (X[:, 0] + 0.5 * rng.normal(size=n) > -0.5).astype(int)
    counts = {
        "n_up": rng.poisson(np.where(good, 1.5, 0.5)),
        "n_down": rng.poisson(np.where(good, 0.3, 1.5)),
        "n_flag": rng.poisson(0.2, n),
        "n_skip_reply": rng.poisson(0.2, n),
    }
    frame = {
        "prompt": [f"p{i // 2}" for i in range(n)],
        "response": [f"r{i}" for i in range(n)],
        "prompt_id": np.arange(n) // 2,
        "rating": good.astype(float),
        "true_preference": good,
        "fold": np.arange(n) // 2 % 5,
    }
    acted = {name.removeprefix("n_"): (count > 0).astype(int) for name, count in counts.items()}
    pd.DataFrame(frame | counts | acted).to_parquet(tmp_path / "log_oasst1.parquet")
    save_file({"embeddings": X}, tmp_path / "log_oasst1_minilm.safetensors")

    def estimator(objective, **params):
        short = {"max_epochs": 2, "n_estimators": 2, "hidden_layer_sizes": (8,)}
        return ImplicitRewardEstimator(objective, **(params | short))

    monkeypatch.setattr(real_feedback, "ImplicitRewardEstimator", estimator)
    monkeypatch.setattr(real_feedback, "objectives", lambda name: [])
    real_feedback.read_log.cache_clear()
    return tmp_path


@pytest.mark.slow
def test_real_feedback_is_resumed_and_tidy(real_logs, tmp_path, capsys):
    output = tmp_path / "out" / "real.parquet"
    arguments = ["--data-home", str(real_logs), "--output", str(output), "--jobs", "1"]
    arguments += ["--logs", "oasst1", "--folds", "1"]
    real_feedback.main(arguments)
    first = capsys.readouterr()
    assert "0 done before" in first.err
    frame = pd.read_parquet(output)
    assert list(frame) == [
        *("log", "way", "recommended", "question", "fold", "auroc", "r2", "nll"),
        *("level_error", "calibration_error", "verdict"),
    ]
    assert frame["recommended"].dtype == bool
    own = frame[frame["recommended"]]
    assert set(own["way"]) == {"up among thumbs"}
    assert set(own["question"]) == {"predict", "posterior"}
    refused = frame[frame["verdict"] == "refused"]
    # Of the tiny log, too few responses were shown four times.
    assert list(refused["way"]) == ["up among thumbs, beta-binomial", "up and down"]
    assert refused["auroc"].isna().all()
    scored = frame[frame["verdict"] != "refused"]
    assert scored[["auroc", "r2", "nll", "level_error", "calibration_error"]].notna().all().all()
    for way in (
        *("all true labels", "KTO-style weighting of thumbs", "latent class, EM", "majority"),
        *("up among thumbs; 50 labels calibrate", "50 labels, logistic regression"),
        *("up among thumbs; 50 labels in the likelihood", "Wilson lower bound"),
    ):
        assert way in set(frame["way"])
    assert "Chosen after seeing the truth: the threshold 0.5" in first.out
    assert "**up among thumbs** (recommended)" in first.out
    real_feedback.main(arguments)
    again = capsys.readouterr()
    assert "0 cells to run" in again.err
    assert pd.read_parquet(output).equals(frame)


def test_recommended_ways_are_those_of_the_loader():
    for name in real_feedback.LOGS:
        own = real_feedback.ways(name)[0]
        assert own.name == real_feedback.RECOMMENDED[name]
        assert own.passed is real_feedback.recommended
        names = [way.name for way in real_feedback.ways(name)]
        assert len(set(names)) == len(names)


def test_latent_classes_are_found_and_named_by_their_signs():
    rng = np.random.default_rng(0)
    good = rng.random(400) < 0.4
    shown = np.full(400, 50.0)
    log = real_feedback.Log(
        "wikimedia_mvp",
        None,
        None,
        good.astype(float),
        *[None] * 3,
        rng.binomial(50, np.where(good, 0.3, 0.1)).astype(float),
        rng.binomial(50, np.where(good, 0.05, 0.2)).astype(float),
        shown,
        *[None] * 3,
    )
    rows = np.arange(400)
    assert ((real_feedback.latent_class(log, rows, rows) > 0.5) == good).mean() > 0.97


def test_prepared_logs_are_loaded(tmp_path):
    source, home = tmp_path / "source", tmp_path / "home"
    (source / "data").mkdir(parents=True)
    views = {name: [1, 0, 1, 1] for name in prepare.VIEWS}
    views |= {name: [5, 6, 7, 8] for name in ("play_time_ms", "duration_ms", "comment_stay_time")}
    views |= {"user_id": [3, 3, 4, 4], "time_ms": [1_650_000_000_000] * 4}
    views |= {"is_like": [1, 0, 0, 1], "is_hate": [0, 1, 0, 1], "video_id": [1, 2, 3, 4]}
    pd.DataFrame(views).to_csv(source / "data" / "log_standard.csv")
    prepare.main(["--data", "log_kuairand", "--path", str(source), "--data-home", str(home)])
    data = load_feedback_log("kuairand", home)
    assert data.true_preference.tolist() == [1, 0]
    assert data.actions["click"].tolist() == [1, 0]
    assert "video_id" not in data.frame

    np.savetxt(source / "train.ascii", [[5, 0, 1], [3, 0, 0]])
    np.savetxt(source / "test.ascii", [[4, 2, 0], [0, 4, 5]])
    (source / "user_item_features").mkdir()
    for kind, n in (("user", 2), ("item", 3)):
        np.savetxt(source / "user_item_features" / f"{kind}_features.ascii", np.eye(n))
    prepare.main(["--data", "log_coat", "--path", str(source), "--data-home", str(home)])
    data = load_feedback_log("coat", home)
    assert data.actions["rating"].tolist() == ["high", "none", "low", "mid", "none", "none"]
    assert np.nan_to_num(data.true_preference, nan=-1).tolist() == [-1, 0, -1, -1, 1, 1]
    assert data.X.shape == (6, 5)

    events = {
        "session_id": ["a", "b", "c"],
        "ts": ["2017-08-04T00:00:45Z"] * 3,
        "article": ["A", "A", "B"],
        "choice": ["yes", "timeout", "no"],
        "query": ["q"] * 3,
        "question": ["?"] * 3,
    }
    pd.DataFrame(events).to_csv(source / "data" / "17069968.tsv", sep="\t")
    opinions = {"query": ["q"] * 2, "opinion": ["best", "bad"], "article": ["A", "B"]}
    pd.DataFrame(opinions | {"rating": [2, -1]}).to_csv(
        source / "data" / "trey_opinion.tsv", sep="\t", index=False
    )
    prepare.main(["--data", "log_wikimedia_mvp", "--path", str(source), "--data-home", str(home)])
    data = load_feedback_log("wikimedia_mvp", home)
    assert data.actions["yes"].tolist() == [1, 0, 0]
    assert data.true_preference.tolist() == [1, 1, 0]
    with pytest.raises(SystemExit, match="log_coat needs --path"):
        prepare.main(["--data", "log_coat", "--data-home", str(home)])


def test_prepared_oasst1_is_loaded(tmp_path):
    class Embedder:
        def fit_transform(self, pairs):
            return np.ones((len(pairs), 3), dtype=np.float32)

    source = tmp_path / "source"
    source.mkdir()
    prepare.prepare_oasst1(Embedder(), tmp_path, oasst1(source))
    data = load_feedback_log("oasst1", tmp_path)
    assert data.X.shape == (4, 3)
    assert data.actions["n_up"].tolist() == [2, 0, 0, 2]


@pytest.mark.filterwarnings("ignore:.*still improving:sklearn.exceptions.ConvergenceWarning")
def test_late_actions_are_passed_in_every_way(monkeypatch, capsys):
    monkeypatch.setattr(late, "N_TRAIN", 600)
    monkeypatch.setattr(late, "N_TEST", 200)
    monkeypatch.setattr(late, "SETTINGS", late.SETTINGS | {"max_epochs": 3})
    late.main(["--seeds", "2", "--only", "1 day, mean delay 1"])
    table = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if "mean delay" in line
    ]
    assert [row[1] for row in table] == list(late.WAYS)
    assert [row[2] == "too few rows" for row in table] == [
        way in ("window 2", "window 5") for way in late.WAYS
    ]
    assert all("±" in row[4] for row in table if row[1].startswith("delay"))


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("name", [*verdict.SOUND, *verdict.BROKEN])
def test_every_log_of_the_battery_can_be_drawn(name):
    log = (verdict.SOUND | verdict.BROKEN)[name](np.random.default_rng(0))
    assert len(log.X) == len(log.y) == len(log.reward) == len(log.z)
    assert ((log.reward >= 0) & (log.reward <= 1)).all() and log.z.mean() == pytest.approx(
        log.reward.mean(), abs=0.05
    )
    for value in log.given.values():
        assert len(value) == len(log.X)


def test_the_tables_of_verdicts(monkeypatch, capsys):
    def estimator(**params):
        return ImplicitRewardEstimator(max_epochs=2, n_estimators=1, **params)

    monkeypatch.setattr(verdict, "ImplicitRewardEstimator", estimator)
    verdict.main(["--seeds", "1", "--kinds", "two_positive", "capped_counts", "--jobs", "1"])
    found = capsys.readouterr()
    rows = [line for line in found.out.splitlines() if line.startswith("| ")]
    assert [row.split(" |")[0][2:].split(":")[0] for row in rows] == [
        "log", "two_positive", "log", "capped_counts",
    ]  # fmt: skip
    assert "failed" not in found.err and found.err.count("\n") == 2
