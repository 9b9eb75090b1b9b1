"""Sphinx configuration of the documentation: `make docs`."""

import re

import implicitrm_sk

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
# Pages without a section of their own: no empty sidebar.
html_sidebars = {
    page: []
    for page in (
        *("index", "start", "recipes", "faq", "benchmarks"),
        *("how_it_works", "changelog", "references"),
    )
}
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


def _link_to_examples(app, docname, source):
    """Point links to scripts of examples, which lead somewhere on a code host, to their pages."""
    source[0] = re.sub(r"\]\(gallery/(plot_\w+)\.py\)", r"](examples/\1.rst)", source[0])


def setup(app):
    """Connect the hooks above."""
    app.connect("autodoc-skip-member", _leave_out_request_setters)
    app.connect("source-read", _link_to_examples)
