"""The output of commands: notes, progress, and names in words."""

import contextlib
import re
import shutil
import sys
import textwrap
import threading
import time

from .._optional import import_optional


def note(text):
    """Print a note for the user beside the result."""
    print(_filled(text), file=sys.stderr)


def say(text):
    """Print a part of the result."""
    print(text, flush=True)


def tell(text, bullet=""):
    """Print a part of the result that is sentences, as wide as the terminal or 100 characters."""
    say(_filled(text, initial_indent=bullet, subsequent_indent=" " * len(bullet)))


def _filled(text, **indents):
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(" ".join(str(text).split()), width, **indents)


@contextlib.contextmanager
def fitting(est, what):
    """Say what is fitted, and show how far it is: a bar for each fit on a terminal.

    It is said when the first fit begins, so after the checks of the arguments.
    """
    bars = _bars() if sys.stdout.isatty() else []
    began, lock = [], threading.Lock()
    with contextlib.ExitStack() as shown:

        def begin():
            with lock:
                if began:
                    return
                began.append(what)
            if bars:
                note(f"{what} ...")
            else:
                shown.enter_context(working(what))

        est.set_callbacks(_AtFirst(begin), *bars)
        yield


class _AtFirst:
    """A callback of scikit-learn that calls a function when a fit begins."""

    def __init__(self, begin):
        self._begin = begin

    def setup(self, estimator, context):
        """Call it."""
        self._begin()

    def teardown(self, estimator, context):
        """Do nothing when the fit has ended."""

    def on_fit_task_begin(self, estimator, context, **_):
        """Do nothing when an epoch begins."""

    def on_fit_task_end(self, estimator, context, **_):
        """Return that no epoch is the last for this reason."""
        return False


def add_progress(est):
    """Let the fits of an estimator show a bar, if they can."""
    est.set_callbacks(*_bars())


def _bars():
    """Return the callback that shows a bar for each fit; none without its library."""
    try:
        import_optional("rich", "progress", "A progress bar")
    except ImportError as error:
        note(f"no progress bar: {error}")
        return []
    from sklearn.callback import ProgressBar

    return [ProgressBar()]


@contextlib.contextmanager
def working(what):
    """Say what the command works on, and on a terminal for how long."""
    began, ended = time.monotonic(), threading.Event()
    if not sys.stderr.isatty():
        note(f"{what} ...")
        yield
        return

    def show():
        while not ended.wait(1.0):
            print(f"\r{what} ... {time.monotonic() - began:.0f} s", end="", file=sys.stderr)

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        yield
    finally:
        ended.set()
        shown.join()
        print(f"\r{what}: {time.monotonic() - began:.0f} s.", file=sys.stderr)


def listing(names):
    """Return names in words, many that differ in their number only (embeddings) as one entry."""
    n_names, numbers = len(names), {}
    # Quotes show the spaces of a name.
    names = [repr(name) if name != name.strip() or not name else name for name in names]
    for name in names:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()
        if number:
            numbers.setdefault(stem, {})[name] = int(number)
    for series in numbers.values():
        if len(series) > 4:
            first, last = min(series, key=series.get), max(series, key=series.get)
            names = [name for name in names if name == first or name not in series]
            names[names.index(first)] = f"{first} ... {last}"
    found = ", ".join(names[:12])
    return found + (f", ... ({n_names} in all)" if len(names) > 12 else "")
