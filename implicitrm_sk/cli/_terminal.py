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
    """Say what is fitted, and show how far it is: a bar for each fit on a terminal."""
    if not (sys.stdout.isatty() and add_progress(est)):
        with working(what):
            yield
        return
    note(f"{what} ...")
    yield


def add_progress(est):
    """Let the fits of an estimator and its copies show a bar; return whether they can."""
    try:
        import_optional("rich", "progress", "A progress bar")
    except ImportError as error:
        note(f"no progress bar: {error}")
        return False
    from sklearn.callback import ProgressBar

    est.set_callbacks(ProgressBar())
    return True


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
