"""The README's code runs as printed and prints what is printed."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import sklearn

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+\.\d+")


def test_readme_runs_as_printed():
    blocks = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    namespace = {}
    with sklearn.config_context():  # the recipe switches routing on
        for code, expected in blocks:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, "README.md", "exec"), namespace)
            printed = output.getvalue()
            assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
            # Two machines may round differently in training.
            assert list(map(float, NUMBER.findall(printed))) == pytest.approx(
                list(map(float, NUMBER.findall(expected))), abs=0.02
            )


def test_links_of_the_readme_lead_somewhere():
    for name in ("README.md", "docs/index.md", "docs/benchmarks.md", "CONTRIBUTING.md"):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{name}: {target}"
