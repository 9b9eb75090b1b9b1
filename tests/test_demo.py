import os
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from implicitrm_sk import ImplicitRewardEstimator, demo

SHARED = Path(os.environ.get("IMPLICITRM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def write(folder, name="toy", n=480, *, embeddings=True, rating=None, **columns):
    """Write rated responses, two to a prompt, with a preference that the features tell in part."""
    pandas = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    preferred = X[:, 0] + 0.7 * rng.normal(size=n) > 0
    frame = {
        "prompt": [f"prompt {row // 2}" for row in range(n)],
        "response": [f"response {row}" for row in range(n)],
        "rating": preferred.astype(float) if rating is None else np.resize(rating, n),
    }
    pandas.DataFrame(frame | columns).to_parquet(folder / f"{name}.parquet")
    if embeddings:
        save_file({"embeddings": X}, folder / f"{name}_tiny.safetensors")
    return folder / f"{name}.parquet"


def run(capsys, *argv):
    code = demo.main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def cells(out, row):
    """Return the cells of a table row, None for "-"."""
    (line,) = [line for line in out.splitlines() if line.startswith(row + "  ")]
    return [None if cell == "-" else float(cell) for cell in line[len(row) :].split()]


def failure(capsys, *argv):
    """Return the error message of a run that must fail, checking that it is one line."""
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert out == ""
    return err


def usage_failure(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        demo.main([str(arg) for arg in argv])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert err.count("\n") == 1 and err.startswith("error: ")
    return err


@pytest.fixture
def fast(monkeypatch):
    """Take larger steps where the quality of the fit does not matter."""
    estimator = partial(ImplicitRewardEstimator, learning_rate_init=0.03, n_estimators=2)
    monkeypatch.setattr(demo, "ImplicitRewardEstimator", estimator)


# The default


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    folder = tmp_path_factory.mktemp("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdout", open("out", "w"))
        with sys.stdout:
            assert demo.main([]) == 0
    return folder, (folder / "out").read_text()


def test_default_table(default_run):
    out = default_run[1]
    rows = {
        name: cells(out, name)
        for name in (
            "naive, 1 signal",
            "estimator, 1 signal",
            "naive, any of 2 signals",
            "estimator, 2 signals",
            "naive, any of 3 signals",
            "estimator, 3 signals",
            "all true labels",
        )
    }
    r2 = {name: row[0] for name, row in rows.items()}
    assert r2["estimator, 2 signals"] > r2["naive, 1 signal"] + 0.4
    assert r2["estimator, 2 signals"] > r2["naive, any of 2 signals"]
    assert r2["estimator, 3 signals"] > r2["naive, any of 3 signals"]
    assert r2["all true labels"] > r2["estimator, 3 signals"] > r2["estimator, 1 signal"]
    for name, (_, mae, auroc, calibration_error, log_likelihood, constant) in rows.items():
        assert 0 < calibration_error <= mae < 0.5 < auroc < 1
        if "any" in name or "labels" in name:
            assert log_likelihood is None and constant is None
        else:
            assert constant < log_likelihood < 0
    assert rows["naive, 1 signal"][5] == rows["estimator, 1 signal"][5]


def test_default_says_what_stands_for_what_and_how_the_log_misleads(default_run):
    text = " ".join(default_run[1].split())
    assert "A digit stands for a response" in text
    low, high = map(
        int, re.search(r"comes on (\d+)% .* and on (\d+)% in the highest", text).groups()
    )
    assert low < 30 and high > 70
    assert re.search(r"without any action: \d+% with 1 signal, \d+% with 2, \d+% with 3", text)
    assert "only the product of reward and propensity" in text


def test_default_fits_an_80_column_terminal(default_run):
    lines = [line for line in default_run[1].splitlines() if not line.startswith("Figure:")]
    assert max(map(len, lines)) <= 80


def test_default_figure(default_run):
    folder, out = default_run
    assert f"Figure: {demo.DEFAULT_FIGURE}" in out
    check_picture(folder / demo.DEFAULT_FIGURE)


def check_picture(path):
    from matplotlib.image import imread

    picture = imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    for half in np.array_split(picture[:, :, :3], 2, axis=1):
        assert (half < 0.9).any(axis=2).mean() > 0.01
    # Colours, not only black text.
    assert (np.ptp(picture[:, :, :3], axis=2) > 0.3).mean() > 0.001


def test_problem_and_split_follow_the_seed():
    first, again, other = (demo.bundled_problem(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.is_test, again.is_test)
    assert (first.is_test != other.is_test).any()
    assert first.is_test.mean() == pytest.approx(demo.TEST_SIZE, abs=0.01)


# Rated responses


@pytest.mark.usefixtures("fast")
def test_rated_file(capsys, tmp_path):
    path = write(tmp_path)
    code, out, err = run(capsys, "--data", path, "--figure", tmp_path / "plot.pdf")
    assert code == 0
    assert "toy, 480 responses, 4 features each" in out
    assert "rating is above 0.5" in out
    assert "336 rows of 168 prompts train, 144 rows of 72 prompts test, 0" in " ".join(out.split())
    assert cells(out, "all true labels")[2] > 0.8
    assert err.splitlines()[0] == "fitting 1/7: naive, 1 signal"
    assert len(err.splitlines()) == 7
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("fast")
def test_name_encoder_threshold_and_split_column(capsys, tmp_path):
    split = np.where(np.arange(480) < 320, "train", "test")
    write(tmp_path, rating=[1, 2, 3, 4], split=split)
    code, out, _ = run(
        capsys,
        *("--data", "toy", "--data-home", tmp_path, "--encoder", "tiny"),
        *("--threshold", 3, "--no-figure"),
    )
    text = " ".join(out.split())
    assert code == 0
    assert "rating is above 3 (25% of the rows)" in text
    assert "Split of the data set: 320 rows of 160 prompts train" in text
    assert "Figure" not in out


@pytest.mark.usefixtures("fast")
def test_embeddings_file_and_environment(capsys, tmp_path, monkeypatch):
    write(tmp_path)
    elsewhere = tmp_path / "vectors.safetensors"
    (tmp_path / "toy_tiny.safetensors").rename(elsewhere)
    monkeypatch.setenv("IMPLICITRM_DATA", str(tmp_path))
    code, out, _ = run(capsys, "--data", "toy", "--embeddings", elsewhere, "--no-figure")
    assert code == 0
    assert "embeddings 'vectors'" in " ".join(out.split())


@pytest.mark.usefixtures("fast")
def test_same_seed_same_output_and_threads_are_given_back(capsys, tmp_path):
    path = write(tmp_path)
    n_threads = torch.get_num_threads()
    outs = [run(capsys, "--data", path, "--no-figure", "--seed", seed)[1] for seed in (3, 3, 4)]
    assert outs[0] == outs[1] != outs[2]
    assert torch.get_num_threads() == n_threads


def test_reading_says_so_where_the_estimator_is_not_ahead():
    def result(objective, k, r2):
        metrics = {"r2": r2, "auroc": 0.7}
        return demo.Result(objective, k, np.zeros(2), metrics, -0.5, -0.6)

    results = [result("naive", 1, -0.1), result("stratified", 1, 0.2), result("labels", 0, 0.5)]
    results += [result("naive", 2, 0.3), result("stratified", 2, 0.2)]
    results += [result("naive", 3, 0.3), result("stratified", 3, 0.4)]
    text = demo.comparison_text(results)[1]
    assert "0.30 on any of 2 (here the estimator is not ahead) and 0.30 on any of 3." in text


# Real logs


@pytest.mark.skipif(
    not (SHARED / "realhumaneval_copy.parquet").is_file(),
    reason=f"needs realhumaneval_copy in {SHARED} (or the folder named by IMPLICITRM_DATA)",
)
def test_real_log(capsys, tmp_path):
    pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')
    picture = tmp_path / "log.png"
    code, out, err = run(
        capsys, "--data", "realhumaneval_copy", "--data-home", SHARED, "--figure", picture
    )
    text = " ".join(out.split())
    assert code == 0
    assert "No preference is known" in text
    assert "test, 0 users in both" in text
    assert "std. error (21 users)" in text
    constant = cells(out, "constant (base rate)")
    assert constant[1:] == [None, None]
    for name in ("logistic regression", "naive classifier", "estimator"):
        log_likelihood, gain, error = cells(out, name)
        assert gain == pytest.approx(log_likelihood - constant[0], abs=0.0011)
        assert gain > error > 0
    percentiles = {key: cells(out, name)[-5:] for key, name in demo.ESTIMATE_NAMES.items()}
    for key in ("action", "reward", "propensity"):
        assert 0 < percentiles[key][0] and percentiles[key] == sorted(percentiles[key])
    assert all(r > p for r, p in zip(percentiles["reward"], percentiles["action"], strict=True))
    assert "anything between P(action | response) and 1" in text
    assert "R2" not in out and "AUROC" not in out
    assert len(err.splitlines()) == 3
    check_picture(picture)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("user_column", [None, *demo.USER_COLUMNS])
def test_log_flag_and_user_column(capsys, tmp_path, user_column):
    users = {} if user_column is None else {user_column: np.arange(480) // 8}
    path = write(tmp_path, **users)
    code, out, _ = run(capsys, "--data", path, "--log", "--no-figure")
    assert code == 0
    expected = "240 prompts" if user_column is None else "60 users"
    n_train, n_test, name = re.search(
        r"of (\d+) \w+ train, \d+ rows of (\d+) (\w+) test, 0", " ".join(out.split())
    ).groups()
    assert f"{int(n_train) + int(n_test)} {name}" == expected
    assert f"std. error ({n_test} {name})" in out


@pytest.mark.usefixtures("fast")
def test_known_log_needs_no_flag_and_counts_need_a_threshold(capsys, tmp_path):
    path = write(tmp_path, "counselchat_upvotes", rating=[0, 1, 0, 3])
    message = failure(capsys, "--data", path, "--no-figure")
    assert "120 rows hold something else (3)" in message and "--threshold 0" in message
    code, out, _ = run(capsys, "--data", path, "--no-figure", "--threshold", 0)
    assert code == 0
    assert "How often a response was shown is not accounted for" in " ".join(out.split())


def test_estimates_obey_the_bounds_that_the_text_states():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    action = (rng.uniform(size=300) < 1 / (1 + np.exp(1 - X[:, 0]))).astype(int)
    problem = demo.Problem([], X, action, np.arange(300), "row", np.arange(300) >= 200, True)
    log_likelihoods, estimates = demo.describe_log(problem)
    reward, propensity = estimates["reward"], estimates["propensity"]
    assert (reward >= estimates["action"]).all() and (reward <= 1).all()
    np.testing.assert_allclose(reward * propensity, estimates["action"], rtol=1e-4)
    y = action[200:]
    np.testing.assert_allclose(
        log_likelihoods["estimator"],
        np.log(np.where(y, estimates["action"], 1 - estimates["action"])),
        rtol=1e-3,
    )


@pytest.mark.usefixtures("fast")
def test_warnings_come_as_one_line(capsys, tmp_path):
    path = write(tmp_path, n=100, split=np.where(np.arange(100) < 40, "train", "test"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run(capsys, "--data", path, "--log", "--no-figure")
    assert code == 0
    notes = [line for line in err.splitlines() if not line.startswith("fitting ")]
    assert notes and all(re.match("note: early_stopping needs at least", note) for note in notes)


# Parts


def test_pattern_log_likelihood():
    train, test = np.array([0, 0, 1]), np.array([1, 0])
    expected = np.log([2 / 5, 3 / 5])
    np.testing.assert_allclose(demo.pattern_log_likelihood(train, test), expected)
    train = np.array([[0, 0], [1, 0], [1, 0], [1, 1]])
    test = np.array([[1, 0], [0, 1]])
    np.testing.assert_allclose(demo.pattern_log_likelihood(train, test), np.log([3 / 8, 1 / 8]))


def test_mean_gain_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    gain, error = demo.mean_gain(values, np.zeros(50), np.arange(50))
    assert gain == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    # Each row ten times in one group is no more evidence; ten times on its own would be.
    _, repeated = demo.mean_gain(np.repeat(values, 10), np.zeros(500), np.repeat(np.arange(50), 10))
    assert repeated == pytest.approx(error)
    assert np.isnan(demo.mean_gain(values, np.zeros(50), np.zeros(50))[1])


def test_quarters():
    np.testing.assert_array_equal(demo.quarters(np.array([5, 1, 7, 3])), [2, 0, 3, 1])
    assert np.bincount(demo.quarters(np.zeros(10))).tolist() == [3, 2, 3, 2]


def test_only_the_expected_warning_is_filtered():
    X, y = np.random.default_rng(0).normal(size=(12, 2)), np.tile([[0, 1], [0, 0]], (6, 1))
    with pytest.warns(UserWarning, match="early_stopping needs|signal 0") as caught:
        demo.fit("naive", X, y, np.arange(12), 0)
    assert not any("works on one signal" in str(warning.message) for warning in caught)


# Errors


def test_usage_errors(capsys, tmp_path):
    for option, value in (
        ("--data-home", [tmp_path]),
        ("--embeddings", ["x.safetensors"]),
        ("--encoder", ["minilm"]),
        ("--threshold", ["1"]),
        ("--log", []),
    ):
        assert f"{option} needs --data" in usage_failure(capsys, option, *value)
    assert "2^32 - 1, got '-1'" in usage_failure(capsys, "--seed=-1")
    assert "got 'x'" in usage_failure(capsys, "--seed", "x")
    assert "finite number, got 'nan'" in usage_failure(capsys, "--data", "a", "--threshold", "nan")
    assert "finite number, got 'x'" in usage_failure(capsys, "--data", "a", "--threshold", "x")
    assert "--bogus" in usage_failure(capsys, "--bogus")
    assert "not allowed with" in usage_failure(capsys, "--no-figure", "--figure", "a.png")
    both = ("--data", "a", "--embeddings", "b", "--encoder", "c")
    assert "give one" in usage_failure(capsys, *both)


def test_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(["--help"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert max(map(len, out.splitlines())) <= 80
    for option in ("--data", "--embeddings", "--log", "--threshold", "--figure", "--seed"):
        assert option in out


def test_data_errors(capsys, tmp_path):
    home = ("--no-figure", "--data-home", tmp_path)
    path = write(tmp_path)
    write(tmp_path, "bare", embeddings=False)
    assert "no data set 'none'" in failure(capsys, *home, "--data", "none")
    assert "is no file" in failure(capsys, "--data", tmp_path / "none.parquet", "--no-figure")
    assert "by encoder='big'" in failure(capsys, *home, "--data", "toy", "--encoder", "big")
    missing = failure(capsys, *home, "--data", "bare")
    assert "'bare' has no embeddings" in missing and "--embeddings FILE.safetensors" in missing
    assert "is no file" in failure(capsys, *home, "--data", "bare", "--embeddings", tmp_path / "x")
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "could not be read" in failure(capsys, *home, "--data", "broken")
    few = failure(capsys, "--data", path, "--no-figure", "--threshold", 5)
    assert "0 of the 336 training rows have preference = 1" in few and "--threshold" in few
    graded = write(tmp_path, "graded", rating=[0.0, 1.0, 0.5])
    assert "hold something else (0.5)" in failure(capsys, "--data", graded, "--log", "--no-figure")
    alone = write(tmp_path, "alone", prompt=["one"] * 480)
    assert "All rows are of one group" in failure(capsys, "--data", alone, "--no-figure")
    split = np.where(np.arange(480) < 320, "train", "test")
    one_user = write(tmp_path, "one", split=split, user_id=np.arange(480) >= 320)
    code, _, err = run(capsys, "--data", one_user, "--log", "--no-figure")
    assert code == 2 and "training rows are of one user" in err


def test_missing_packages(capsys, tmp_path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    message = failure(capsys, "--data", path, "--no-figure")
    assert "pandas" in message and 'pip install "implicitrm-sk[data]"' in message
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = failure(capsys, "--figure", tmp_path / "a.png")
    assert "matplotlib" in message and 'pip install "implicitrm-sk[plot]"' in message


@pytest.mark.usefixtures("fast")
def test_without_matplotlib_the_table_still_comes(capsys, tmp_path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(capsys, "--data", path)
    assert code == 0
    assert len(cells(out, "estimator, 3 signals")) == 6
    assert err.startswith("no figure: ") and 'pip install "implicitrm-sk[plot]"' in err
    assert not (tmp_path / demo.DEFAULT_FIGURE).exists()


def test_figure_errors(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    assert "must end in one of" in failure(capsys, "--figure", tmp_path / "a.doc")
    assert "must end in one of" in failure(capsys, "--figure", "")
    assert "there is no folder" in failure(capsys, "--figure", tmp_path / "none" / "a.png")


def test_as_a_module(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "implicitrm_sk.demo", "--data", "none", "--data-home", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(demo.__file__).parents[1])},
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert process.stdout == ""
