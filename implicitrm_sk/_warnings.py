"""Warnings that point to the user's line, however many library frames lie before it."""

import multiprocessing
import os
import sys
import threading
import warnings

import joblib
import sklearn

_LIBRARIES = tuple(
    os.path.dirname(path) + os.sep for path in (__file__, sklearn.__file__, joblib.__file__)
)


def _library_frames():
    """Return the frames of this package and of what calls it, innermost first."""
    frames = []
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frames.append(frame)
        frame = frame.f_back
    return frames


def warn(message, category=UserWarning):
    """Give a warning at the line that called into this package, scikit-learn or joblib."""
    warnings.warn(message, category, stacklevel=len(_library_frames()) + 2)


def in_worker():
    """Return whether this is not the main thread of the main process."""
    return (
        multiprocessing.parent_process() is not None
        or threading.current_thread() is not threading.main_thread()
    )
