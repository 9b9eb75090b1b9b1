import os
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from implicitrm_sk import ImplicitRewardEstimator, demo

SHARED = Path(os.environ.get("IMPLICITRM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def write(folder, name="toy", n=240, *, embeddings=True, rating=None, **columns):
    """Write rated responses, two to a prompt, with a preference that the features tell in part."""
    pandas = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    preferred = X[:, 0] + 0.5 * rng.normal(size=n) > 0
    rating = preferred.astype(float) if rating is None else np.resize(rating, n)
    frame = {"prompt": [f"prompt {row // 2}" for row in range(n)], "rating": rating}
    frame["response"] = [f"response {row}" for row in range(n)]
    pandas.DataFrame(frame | columns).to_parquet(folder / f"{name}.parquet")
    if embeddings:
        save_file({"embeddings": X}, folder / f"{name}_tiny.safetensors")
    return folder / f"{name}.parquet"


def run(capsys, *argv):
    """Return exit code, output with single spaces, and errors."""
    code = demo.main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return code, " ".join(captured.out.split()), captured.err


def failure(capsys, *argv):
    """Return the one line of error of a run that must fail."""
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: ")
    return err


def cells(out, row):
    """Return the numbers of a table row, NaN for "-"."""
    (line,) = [line for line in out.splitlines() if line.startswith(row + "  ")]
    return [np.nan if cell == "-" else float(cell) for cell in line[len(row) :].split()]


def check_picture(path):
    from matplotlib.image import imread

    picture = imread(path)[:, :, :3]
    assert picture.shape[0] > 900 and picture.shape[1] > 700
    for half in np.array_split(picture, 2, axis=0):
        assert (np.ptp(half, axis=2) > 0.3).mean() > 0.001  # colours, not only black text


@pytest.fixture
def fast(monkeypatch):
    """Fit roughly where the quality of the fit does not matter."""
    parameters = {"learning_rate_init": 0.03, "n_estimators": 1, "n_iter_no_change": 3}
    estimator = partial(ImplicitRewardEstimator, **parameters)
    monkeypatch.setattr(demo, "ImplicitRewardEstimator", estimator)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    folder = tmp_path_factory.mktemp("default")
    paths = {"PYTHONPATH": str(Path(demo.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "cwd": folder, "env": os.environ | paths}
    command = [sys.executable, "-W", "error", "-m", "implicitrm_sk.demo"]
    process = subprocess.run(command, **options)
    assert (process.returncode, process.stderr) == (0, "")
    return folder, process.stdout


@pytest.mark.slow
def test_default_table(default_run):
    names = ["naive, 1 signal", "estimator, 1 signal", "naive, any of 2 signals"]
    names += ["estimator, 2 signals", "naive, any of 3 signals", "estimator, 3 signals"]
    table = np.array([cells(default_run[1], name) for name in [*names, "all true labels"]])
    r2, mae, auroc, calibration_error, log_likelihood, constant = table.T
    assert r2[3] > r2[0] + 0.4
    assert (r2[1:6:2] > r2[0:6:2]).all() and r2[6] > r2[5] > r2[1]
    assert (0 < calibration_error).all() and (calibration_error <= mae).all()
    assert (mae < 0.5).all() and (auroc > 0.5).all()
    assert (constant < log_likelihood).all() and constant[0] == constant[1]


@pytest.mark.slow
def test_default_text_and_figure(default_run):
    folder, out = default_run
    text = " ".join(out.split())
    assert "A digit represents a response" in text and "The log is simulated" in text
    low, high = re.search(r"comes on (\d+)% .* on (\d+)% in the highest", text).groups()
    assert int(low) < 30 and int(high) > 70
    assert re.search(r"without any action is \d+% with 1 signal, \d+% with 2 and \d+% with 3", text)
    assert "One signal does not identify the reward: it determines only the product of" in text
    assert max(map(len, out.splitlines())) <= 80 and len(out.splitlines()) <= 40
    assert f"Figure: {demo.DEFAULT_FIGURE}" in out
    check_picture(folder / demo.DEFAULT_FIGURE)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_rated_file_and_seed(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    path = write(tmp_path)
    code, out, err = run(capsys, "--data", path, "--figure", tmp_path / "plot.pdf")
    assert code == 0 and err == ""
    assert "toy, 240 responses, 4 features each (embeddings 'tiny')" in out
    assert "168 rows of 84 prompts train, 72 of 36 test, 0 prompts are in both" in out
    assert "rating above 0.5" in out
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")
    assert run(capsys, "--data", path, "--no-figure")[1] == out[: out.index(" Figure")]
    assert run(capsys, "--data", path, "--no-figure", "--seed", 4)[1] not in out


@pytest.mark.usefixtures("fast")
def test_name_encoder_threshold_and_split(capsys, tmp_path, monkeypatch):
    split = np.where(np.arange(240) < 160, "train", "test")
    write(tmp_path, rating=[1, 2, 3, 4, 4], split=split)
    options = ("--threshold", 2, "--no-figure")
    home = ("--data-home", tmp_path, "--encoder", "tiny")
    code, out, _ = run(capsys, "--data", "toy", *home, *options)
    assert code == 0 and "Figure" not in out
    assert "rating above 2 (60% of the rows)" in out and "160 rows of 80 prompts train" in out
    (tmp_path / "toy_tiny.safetensors").rename(tmp_path / "vectors.safetensors")
    monkeypatch.setenv("IMPLICITRM_DATA", str(tmp_path))
    file = ("--embeddings", tmp_path / "vectors.safetensors")
    assert "(embeddings 'vectors')" in run(capsys, "--data", "toy", *file, *options)[1]


@pytest.mark.usefixtures("fast")
def test_from_text(capsys, tmp_path, tiny_model):
    path = write(tmp_path, embeddings=False)
    code, out, err = run(capsys, "--data", path, "--embedder", tiny_model(), "--no-figure")
    assert code == 0 and "embedding 240 texts: 100%" in err
    text = " ".join(out.split())
    assert f"32 features each (embeddings '{tiny_model()}, mean of at most 512 tokens')" in text


@pytest.mark.usefixtures("fast")
def test_without_matplotlib_the_table_still_comes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(capsys, "--data", write(tmp_path))
    assert code == 0 and "all true labels" in out
    assert err.startswith("no figure: ") and 'pip install "implicitrm-sk[plot]"' in err
    assert 'implicitrm-sk[plot]"' in failure(capsys, "--figure", "a.png")
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert 'implicitrm-sk[data]"' in failure(capsys, "--data", "toy.parquet", "--no-figure")


@pytest.mark.slow
def test_real_log(capsys, tmp_path):
    if not (SHARED / "realhumaneval_copy.parquet").is_file():
        pytest.skip(f"needs realhumaneval_copy in {SHARED} (or the folder in IMPLICITRM_DATA)")
    for module in ("pyarrow", "matplotlib"):
        pytest.importorskip(module, reason='needs pip install "implicitrm-sk[demo]"')
    picture = str(tmp_path / "log.png")
    argv = ["--data", "realhumaneval_copy", "--data-home", str(SHARED), "--figure", picture]
    assert demo.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == "" and "R2" not in out and "AUROC" not in out
    assert "No preference is known" in out and "std. error (21 users)" in out
    assert "One signal identifies only the product" in " ".join(out.split())
    constant = cells(out, "constant (base rate)")[0]
    for name in ("logistic regression", "naive classifier", "estimator"):
        log_likelihood, gain, error = cells(out, name)
        assert gain == pytest.approx(log_likelihood - constant, abs=0.0011)
        assert gain > 0 and error > 0
    action, reward = cells(out, "P(action | response)"), cells(out, "reward")
    assert action == sorted(action) and np.less(action, reward).all()
    check_picture(picture)


@pytest.mark.usefixtures("fast")
def test_log_flag_users_and_counts(capsys, tmp_path):
    path = write(tmp_path)
    assert "72 of 36 test, 0 prompts" in run(capsys, "--data", path, "--log", "--no-figure")[1]
    path = write(tmp_path, "counselchat_upvotes", rating=[0, 1, 0, 3], user_id=np.arange(240) // 8)
    argv = ("--data", path, "--no-figure")
    assert "--threshold 0" in failure(capsys, *argv)
    code, out, _ = run(capsys, *argv, "--threshold", 0)
    assert code == 0 and "std. error (9 users)" in out and "0 users are in both" in out
    assert "the user acted in 50.0% of the rows (rating above 0, however often" in out


@pytest.mark.usefixtures("fast")
def test_estimates_obey_the_bounds_that_the_text_states():
    rng = np.random.default_rng(0)
    X, rows = rng.normal(size=(300, 3)), np.arange(300)
    y = (rng.uniform(size=300) < 1 / (1 + np.exp(1 - X[:, 0]))).astype(int)
    problem = demo.Problem("", X, y, rows, "row", rows >= 200, True)
    action, reward, _, propensity = demo.describe_log(problem)
    assert (reward >= action).all() and (reward <= 1).all()
    np.testing.assert_allclose(reward * propensity, action, rtol=1e-4)


@pytest.mark.usefixtures("fast")
def test_warnings_come_as_one_line(capsys, tmp_path):
    path = write(tmp_path, n=100, split=np.where(np.arange(100) < 30, "train", "test"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run(capsys, "--data", path, "--log", "--no-figure")
    assert code == 0 and err
    assert all(line.startswith("note: early_stopping") for line in err.splitlines())


def test_constant_log_likelihood():
    train, test = np.array([0, 0, 1]), np.array([1, 0])
    np.testing.assert_allclose(demo.constant_log_likelihood(train, test), np.log([2 / 5, 3 / 5]))
    train, test = np.array([[0, 0], [1, 0], [1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])
    np.testing.assert_allclose(demo.constant_log_likelihood(train, test), np.log([3 / 8, 1 / 8]))


def test_mean_gain_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    expected = values.mean(), values.std(ddof=1) / np.sqrt(50)
    assert demo.mean_gain(values, np.arange(50)) == pytest.approx(expected)
    # Each row ten times in one group is no more evidence; ten times on its own would be.
    repeated = demo.mean_gain(np.repeat(values, 10), np.repeat(np.arange(50), 10))
    assert repeated == pytest.approx(expected)
    assert np.isnan(demo.mean_gain(values, np.zeros(50))[1])


def test_usage_errors(capsys):
    for argv, message in (
        (["--data-home", "1"], "--data-home needs --data"),
        (["--log"], "--log needs --data"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--no-figure", "--figure", "a.png"], "not allowed with"),
    ):
        with pytest.raises(SystemExit) as exit_:
            demo.main(argv)
        assert exit_.value.code == 2 and message in capsys.readouterr().err


def test_data_errors(capsys, tmp_path):
    fail = partial(failure, capsys, "--no-figure", "--data-home", tmp_path, "--data")
    write(tmp_path)
    write(tmp_path, "bare", embeddings=False)
    write(tmp_path, "alone", prompt=["one"] * 240)
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "no data set 'none'" in fail("none")
    assert "could not be read" in fail("broken")
    assert "'bare' does not have embeddings" in fail("bare")
    assert "by --encoder='big'" in fail("toy", "--encoder", "big")
    assert "0 of the 168 training rows" in fail("toy", "--threshold", 5)
    assert "All rows belong to one prompt" in fail("alone")
    assert "Seed must be" in failure(capsys, "--no-figure", "--seed=-1")
    pytest.importorskip("matplotlib", reason='needs pip install "implicitrm-sk[plot]"')
    for path in ("a.doc", "", tmp_path / "none" / "a.png"):
        assert "existing folder" in failure(capsys, "--figure", path)
