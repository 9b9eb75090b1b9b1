"""The linter of prose finds what it should, and nothing in the pages."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def prose(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("prose")


@pytest.mark.parametrize(
    "sentence",
    [
        "The spread is no confidence interval.",
        "X is text, but expected is a number.",
        "One signal cannot tell dislike from silence.",
        "Code draws more actions than chat.",
        "A number stands for the posterior.",
        "Training goes on from the file.",
        "A label speaks for a rate of 0.01.",
        "Chats are cut behind the last turn.",
        "There are three settings, of which one is free.",
        "The gain is owed to the split.",
        "Ask whoever acted on it.",
        "What it returns is a reward.",
        "That users looked is assumed.",
        "One " + "word " * 25 + "more.",
    ],
)
def test_each_rule_finds_its_case(prose, sentence):
    assert len(list(prose.findings(sentence))) == 1
    page = f"# A title\n\nA first paragraph.\n\n- {sentence} Another sentence.\n"
    code = f'"""Say.\n\n{sentence}\n"""\nraise ValueError(f"{{x}} " + "{sentence}")\n'
    example = f'"""\nA title\n=======\n\n{sentence}\n"""\n\n# %%\n# A title\n# -------\n'
    example += f"# {sentence}\nx = 1\n"
    for split, text, lines in (
        (prose.paragraphs_of_markdown, page, [5]),
        (prose.paragraphs_of_module, code, [3, 5]),
        (prose.paragraphs_of_example, example, [5, 11]),
    ):
        found = [line for line, paragraph in split(text) for _ in prose.findings(paragraph)]
        assert found == lines


@pytest.mark.parametrize(
    "text",
    [
        "There is no label. It is no longer used. It is not a label.",
        "What does it return? That is the reward.",
        "R(x) = P(r* = 1 | x), " + "A_k(x) = P(y_k = 1 | r* = 1, x), " * 9 + "is a formula.",
        "Use `what it tells, and what stands for it`, or [a page](of_which.md).",
        "    what it tells is code\n",
        "```text\nwhat it tells is printed.\n```\n",
        "| row | R2 |\n|---|---|\n| what it tells | 0.5 |\n",
    ],
)
def test_it_leaves_the_rest_alone(prose, text):
    for _, paragraph in prose.paragraphs_of_markdown(text):
        assert list(prose.findings(paragraph)) == []


def test_all_that_it_checks_is_clean(prose, capsys):
    assert prose.main([]) == 0, capsys.readouterr().out
