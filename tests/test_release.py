"""What a release says about itself agrees."""

import re
from pathlib import Path

from implicitrm_sk import __version__

ROOT = Path(__file__).parents[1]


def numbers(version):
    return [int(part) for part in version.split(".")]


def test_the_version_is_that_of_the_changelog_and_the_citation():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## \[(\d[^\]]*)\] - ([\d-]+)$", changelog, re.MULTILINE).groups()
    citation = (ROOT / "CITATION.cff").read_text()
    assert version == re.search(r"^version: (.*)$", citation, re.MULTILINE)[1]
    assert date == re.search(r"^date-released: (.*)$", citation, re.MULTILINE)[1]
    # Between releases the package is ahead of them.
    assert numbers(__version__.split(".dev")[0]) >= numbers(version)


def test_the_version_stands_in_one_place():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert not re.search(r"^version *=", text, re.MULTILINE)
