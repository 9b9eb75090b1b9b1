"""File paths as users pass them."""

import re
from pathlib import Path

from .exceptions import ImplicitRMError

#: A scheme; Path turns two slashes into one. A single letter is a drive.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(value):
    """Return a path on this machine.

    Raises
    ------
    ValueError
        If `value` is a URI, which as a path would mean a folder ``s3:``.
    """
    if _URI.match(str(value)):
        raise ImplicitRMError(
            f"{str(value)!r} is a URI; expected a path on this machine. Download the file first "
            "(fsspec and huggingface_hub do this), or upload the result."
        )
    return Path(value).expanduser()
