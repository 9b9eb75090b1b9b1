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
_TOKEN = "implicitrm_sk search"
_SEARCHES = (
    os.path.join(os.path.dirname(sklearn.__file__), "model_selection") + os.sep,
    os.path.join(os.path.dirname(__file__), "_search.py"),
)
#: Functions that fit one candidate of a search, or several.
_FITS = ("_fit_and_score", "_fit_and_score_together")


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


def running_search():
    """Return a token of the search that this runs in, None outside of any.

    A worker, process or thread, cannot see which search it works for: all its fits have one token.
    """
    searches = [
        frame for frame in _library_frames() if frame.f_code.co_filename.startswith(_SEARCHES)
    ]
    if not searches:
        return None
    if in_worker():
        return "worker"
    # The frame's own id would be taken over by the next search.
    variables = searches[-1].f_locals
    if _TOKEN not in variables:
        variables[_TOKEN] = object()
    return variables[_TOKEN]


def searched_over(name, without):
    """Return whether a search that is running in this thread tries values of parameter `name`.

    Only if candidates are compared by the estimator's own `score`, and that is passed no metadata
    `without`.
    """
    for frame in _library_frames():
        if frame.f_code.co_name not in _FITS:
            continue
        values = frame.f_locals
        parameters = values.get("parameters") or {}
        own_score = type(values.get("scorer")).__name__ == "_PassthroughScorer"
        metadata = values.get("score_params") or {}
        if own_score and without not in metadata:
            return any(key.split("__")[-1] == name for key in parameters)
    return False
