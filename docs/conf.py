"""Sphinx configuration of the documentation: `make docs`."""

import contextlib
import io
import os
import re
import sys
import unittest.mock
from pathlib import Path

import implicitrm_sk
from implicitrm_sk import cli

sys.path.insert(0, str(Path(__file__).parent))  # for gallery_rules, which Sphinx asks by name

project = "implicitrm-sk"
author = copyright = "The implicitrm-sk developers"
release = version = implicitrm_sk.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
# gallery/ holds the sources of examples/; api/ is written by autosummary.
exclude_patterns = ["_build", "_templates", "gallery", "api/backreferences"]
templates_path = ["_templates"]
default_role = "literal"  # the docstrings put names of parameters in single backticks
# A name that leads nowhere is a warning, and a warning fails the build. No inventories of other
# projects are fetched, so that the build needs no network; their objects stay plain text.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(sklearn|numpy|pandas|matplotlib|torch|transformers|trl|datasets|scipy)\..*")
]

myst_heading_anchors = 4

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc says more
numpydoc_show_class_members = False  # the template lists them

copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": "implicitrm_sk",
    "backreferences_dir": "api/backreferences",
    "reference_url": {"implicitrm_sk": None},
    "reset_modules": ("matplotlib", "gallery_rules.hold"),
    "reset_modules_order": "both",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # a page that loads scripts from elsewhere
}

html_theme = "pydata_sphinx_theme"
html_title = "implicitrm-sk"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": []}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def _leave_out_request_setters(app, what, name, obj, skip, options):
    """Leave out `set_fit_request` and its like, documented by scikit-learn with its own links."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def _linked_to_examples(text, ending):
    """Point links to scripts of examples, which lead somewhere on a code host, to their pages."""
    text = text.replace("](gallery/GALLERY_HEADER.rst)", f"](examples/index.{ending})")
    return re.sub(r"\]\(gallery/(plot_\w+)\.py\)", rf"](examples/\1.{ending})", text)


def _prepare(app, docname, source):
    source[0] = _linked_to_examples(source[0], "rst")
    source[0] = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", source[0])  # not broken over lines


def _wrap_figures(app, pagename, templatename, context, doctree):
    """Put each figure of an example into a box of its own, which scrolls sideways on a phone."""
    figure = r'(<img [^>]*class = "sphx-glr-single-img"/>)'
    if "body" in context:
        box = r'<div class="figure-of-example">\1</div>'
        context["body"] = re.sub(figure, box, context["body"])


def _help_of(command):
    """Return what `implicitrm COMMAND --help` prints, at a width that fits the page."""
    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
        unittest.mock.patch.dict(os.environ, COLUMNS="88"),
    ):
        cli.main([command, "--help"])
    return output.getvalue().strip()


def _help_of_the_commands(app, docname, source):
    """Put the help of each command where the page of the command line asks for it."""
    commands = re.findall(r"^\| `implicitrm (\S+)` \|", source[0], re.MULTILINE)
    text = "\n\n".join(f"## {name}\n\n```text\n{_help_of(name)}\n```" for name in commands)
    source[0] = source[0].replace("<!-- help of the commands -->", text)


def _write_markdown(app, exception):
    """Write the pages as Markdown beside the HTML, and `llms.txt`, the list of them."""
    if exception is not None or app.builder.name != "html":
        return
    docs, out = Path(app.srcdir), Path(app.outdir)
    for page in docs.glob("*.md"):
        source = [page.read_text()]
        _help_of_the_commands(app, page.stem, source)
        text = _linked_to_examples(source[0], "html")
        text = re.sub(r"\]\((\w+)\.rst\)", r"](\1.html)", text)
        text = re.sub(r"```\{toctree\}.*?```\n", "", text, flags=re.DOTALL)
        include = re.compile(r"```\{include\} (\S+)\n```\n")
        text = include.sub(lambda match: (docs / match[1]).read_text(), text)
        (out / page.name).write_text(text.rstrip() + "\n")
    summary = (out / "index.md").read_text().split("\n## ")[0].split("\n\n", 1)
    sections = ("use", "understand", "reference", "evidence")
    lists = [(out / f"{name}.md").read_text().replace("# ", "## ", 1) for name in sections]
    title, text = summary
    quote = "> " + " ".join(text.split())
    (out / "llms.txt").write_text("\n\n".join([title, quote, *map(str.strip, lists)]) + "\n")


def setup(app):
    """Connect the hooks above."""
    app.connect("autodoc-skip-member", _leave_out_request_setters)
    app.connect("source-read", _prepare)
    app.connect("source-read", _help_of_the_commands)
    app.connect("html-page-context", _wrap_figures)
    app.connect("build-finished", _write_markdown)
