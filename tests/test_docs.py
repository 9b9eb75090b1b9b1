"""The code of the README runs as printed; that of the other pages runs; links lead somewhere."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import sklearn

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/index.md", "docs/benchmarks.md")
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
                list(map(float, NUMBER.findall(expected))), abs=0.021
            )


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
