"""What an example of the gallery must keep, checked while `make docs` runs it.

An example starts with the settings of a new process, and a warning stops it. It draws a picture and
leaves no file behind. sphinx-gallery calls `hold` before and after each.
"""

import contextlib
import warnings
from pathlib import Path

import sklearn
from sphinx.util import logging

from implicitrm_sk.exceptions import IdentificationWarning

DOCS = Path(__file__).parent
SETTINGS = contextlib.ExitStack()
FILES = set()


def hold(gallery_conf, fname, when):
    """Set warnings to errors before an example; afterwards report what it left, and what not."""
    name = Path(fname).stem
    files = set((DOCS / "gallery").iterdir()) - {DOCS / "gallery" / "__pycache__"}
    picture = DOCS / gallery_conf["gallery_dirs"] / "images" / f"sphx_glr_{name}_001.png"
    if when == "before":
        FILES.update(files)
        picture.unlink(missing_ok=True)  # of an earlier build
        SETTINGS.enter_context(sklearn.config_context())
        SETTINGS.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        warnings.simplefilter("default", IdentificationWarning)  # part of the page
        warnings.filterwarnings("ignore", message=".*non-interactive")  # plt.show() at a desktop
        for category in (DeprecationWarning, FutureWarning, ResourceWarning):  # of TRL
            warnings.simplefilter("ignore", category)
        return
    SETTINGS.close()
    report = logging.getLogger(__name__).warning
    if not picture.exists():
        report("%s: expected a picture, got none", name)
    if left := sorted(path.name for path in files - FILES):
        report("%s: leaves %s in its folder; write into a temporary one", name, ", ".join(left))
