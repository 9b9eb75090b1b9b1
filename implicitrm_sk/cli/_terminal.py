"""The output of commands: notes, progress, and names in words."""

import contextlib
import re
import sys
import textwrap
import threading
import time


def note(text):
    """Print a note for the user beside the result."""
    print(textwrap.fill(" ".join(str(text).split()), 100), file=sys.stderr)


def say(text):
    """Print a part of the result."""
    print(text, flush=True)


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
