"""The examples of the gallery are short and have one title each; `make docs` runs them."""

from pathlib import Path

import pytest

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
