"""The code of the documentation runs as printed; links lead somewhere."""

import contextlib
import io
import os
import re
import sys
import warnings
from pathlib import Path

import pytest
import sklearn
from conftest import make_tiny_model

from implicitrm_sk.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/index.md",
    "docs/identification.md",
    "docs/benchmarks.md",
    "docs/rlhf.md",
    "docs/methods.md",
    "docs/methods_tables.md",
    "docs/text.md",
)
NUMBER = re.compile(r"-?\d+\.\d+")
BLOCK = re.compile(r"```python( data)?\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
SHARED = Path(os.environ.get("IMPLICITRM_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize(
    ("page", "n_outputs", "data"),
    [
        ("README.md", 2, False),
        ("docs/identification.md", 9, False),
        ("docs/methods.md", 0, False),
        ("docs/identification.md", 1, True),
    ],
)
def test_page_runs_as_printed(page, n_outputs, data, monkeypatch):
    """Blocks marked `data` need other people's data, and with it only they and the first run."""
    blocks = BLOCK.findall((ROOT / page).read_text())
    if data:
        if not (SHARED / "counselchat_upvotes.parquet").exists():
            pytest.skip("counselchat_upvotes.parquet is not in ../shared/data nor IMPLICITRM_DATA")
        monkeypatch.setenv("IMPLICITRM_DATA", str(SHARED))
        first, *rest = blocks
        blocks = [first] + [block for block in rest if block[0]]
    else:
        blocks = [block for block in blocks if not block[0]]
    assert sum(bool(expected) for _, _, expected in blocks) == n_outputs
    run(blocks, page)


def run(blocks, page):
    """Run the blocks of a page one after the other, and compare what they print."""
    namespace = {}
    # The pages switch routing on and a warning off.
    with sklearn.config_context(), warnings.catch_warnings():
        for _, code, expected in blocks:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, page, "exec"), namespace)
            printed = output.getvalue().strip()
            assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected.strip())
            # Two machines may round differently in training.
            assert list(map(float, NUMBER.findall(printed))) == pytest.approx(
                list(map(float, NUMBER.findall(expected))), abs=0.021
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of TRL
def test_page_on_rlhf_runs_as_printed(tmp_path, monkeypatch):
    """With a tiny language model in place of the one of the hub."""
    pytest.importorskip("trl")
    page = "docs/rlhf.md"
    text = (ROOT / page).read_text()
    name = '"HuggingFaceTB/SmolLM2-135M-Instruct"'
    assert name in text
    model = make_tiny_model(tmp_path / "tiny", model_class="LlamaForCausalLM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    blocks = BLOCK.findall(text.replace(name, repr(model)))
    assert sum(bool(expected) for _, _, expected in blocks) == 4
    run(blocks, page)


def test_code_of_the_documentation_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    for code in blocks:
        namespace = {}
        exec(compile(code, "docs/index.md", "exec"), namespace)
    X, y = sklearn.datasets.make_classification(200, random_state=0)
    estimator = namespace["estimator"].set_params(max_epochs=2, early_stopping=False)
    assert estimator.fit(X, y).predict(X).shape == (200,)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_table_of_the_methods_is_what_they_declare():
    text = (ROOT / "docs/methods.md").read_text()
    table = text.split("## What each one assumes")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0].strip("`") for row in rows] == list(OBJECTIVES)
    for name, _, _, takes, calibrated, models_actions, stops_on in rows:
        cls = OBJECTIVES[name.strip("`")]
        assert calibrated == ("yes" if cls.calibrated else "no"), name
        assert models_actions == ("yes" if cls.models_actions else "no"), name
        assert stops_on == ("likelihood" if cls.models_actions else "its own risk"), name
        if cls.single_signal:
            assert ("`propensity`" in takes) == ("propensity" in cls.uses), name
            assert ("`preference_rate`" in takes) == cls.needs_preference_rate, name
            assert ("`groups`" in takes) == bool(cls.pairs), name
