"""Reports and help texts are those of the files in `snapshots/`, numbers aside.

A change in wording is seen there, as a reader sees it, and nowhere else. After a wanted one:
``pytest tests/test_snapshots.py --renew-snapshots``, then read the difference.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import FAST, make_log

from implicitrm_sk import ImplicitRewardEstimator, cli, demo, identification_report
from implicitrm_sk.cli import _main
from implicitrm_sk.inspection import (
    compare_groups,
    sensitivity_report,
    shift_report,
)

FOLDER = Path(__file__).parent / "snapshots"
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")
COMMANDS = _main._parser()._subparsers._group_actions[0].choices


def masked(text):
    """Return a text without what depends on machine and Python version."""
    # Python 3.13 names the metavar of an option once.
    text = re.sub(r"(-\w) [A-Z_]+, (--[\w-]+ )", r"\1, \2", text)
    return "\n".join(NUMBER.sub("#", line).rstrip() for line in text.strip().splitlines()) + "\n"


@pytest.fixture
def check(request):
    """Return a function that compares a text with the file of a name, or writes it there."""

    def compare(name, text):
        path, found = FOLDER / f"{name}.txt", masked(text)
        if request.config.getoption("--renew-snapshots"):
            path.write_text(found, encoding="utf-8")
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        # Lines break by the width of numbers.
        assert found.split() == expected.split(), (
            f"{path.relative_to(FOLDER.parents[1])} differs: pytest {Path(__file__).name} "
            "--renew-snapshots"
        )

    return compare


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_the_command(command, check, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        cli.main([*filter(None, [command]), "--help"])
    assert stop.value.code == 0
    check(f"help {command}".strip(), capsys.readouterr().out)


def test_help_of_the_demo(check, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    check("help of the demo", capsys.readouterr().out)


@pytest.fixture(scope="module")
def log():
    X, y, preference = make_log(n=600, n_signals=2, propensity=0.6)
    return X, y, preference, np.where(np.arange(600) % 2, "new", "old")


def estimator(**params):
    return ImplicitRewardEstimator(**FAST | {"early_stopping": False} | params)


def text_of(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(make())


def report_of_one_signal(X, y, preference, model):
    return identification_report(estimator(), X, y[:, 0], n_starts=2)


def report_of_two_signals(X, y, preference, model):
    signals = {"signals": ["positive", "negative"]}
    return identification_report(
        estimator(**signals), X, np.column_stack([y[:, 0], (1 - preference) * y[::-1, 1]])
    )


def report_of_labels(X, y, preference, model):
    labels = np.where(np.arange(len(y)) < 200, preference, np.nan)
    est = estimator(shared_examination=False)
    return identification_report(est, X, y, labels=labels, n_starts=2)


def comparison(X, y, preference, model):
    return compare_groups(estimator(shared_examination=False), X, y, model)


def sensitivity(X, y, preference, model):
    est = estimator(shared_examination=False, early_stopping=True)
    return sensitivity_report(est, X, y, by=model)


def shift(X, y, preference, model):
    return shift_report(estimator().fit(X, y), X + [3, 0, 0, 0, 0, 0], X)


def no_shift(X, y, preference, model):
    return shift_report(estimator().fit(X, y), X[1::2], X[::2])


REPORTS = (
    report_of_one_signal,
    report_of_two_signals,
    report_of_labels,
    comparison,
    sensitivity,
    shift,
    no_shift,
)


@pytest.mark.parametrize("make", REPORTS)
def test_report(make, log, check):
    check(make.__name__.replace("_", " "), text_of(lambda: make(*log)))


def test_every_file_is_compared():
    names = {"help", "help of the demo", *(f"help {name}" for name in COMMANDS)}
    names |= {make.__name__.replace("_", " ") for make in REPORTS}
    assert {path.stem for path in FOLDER.iterdir()} == names
