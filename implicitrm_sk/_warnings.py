"""Warnings that point to the user's line, past all frames of libraries."""

import multiprocessing
import os
import sys
import threading
import warnings
import weakref

import joblib
import sklearn

_LIBRARIES = tuple(
    os.path.dirname(path) + os.sep for path in (__file__, sklearn.__file__, joblib.__file__)
)

#: For estimators, the object that their clones share; for clones, the object shared with the other
#: clones. They are not attributes, because those would be pickled, copied and saved.
_of_clones, _siblings = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()


def _library_frames():
    """Return the frames of this package and of its callers, innermost first."""
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


def note_clone(clone, original):
    """Remember that a clone belongs to the clones of an estimator."""
    _siblings[clone] = _of_clones.setdefault(original, object())


def siblings_of(estimator):
    """Return what an estimator shares with other clones of one, None if it is not a clone.

    Functions such as `cross_validate` fit clones, and one warning is enough for all of them.
    """
    return _siblings.get(estimator)
