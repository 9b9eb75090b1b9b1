"""Paths of files as users give them."""

import re
from pathlib import Path

#: A scheme; Path makes one slash of two. A single letter is a drive.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(value):
    """Return a path as it is on this machine.

    Raises
    ------
    ValueError
        If `value` is a URI: as a path it would name a folder ``s3:``.
    """
    if _URI.match(str(value)):
        raise ValueError(
            f"{str(value)!r} is a URI; expected a path on this machine. Download what is "
            "there first (fsspec and huggingface_hub do), or upload the result."
        )
    return Path(value).expanduser()
