"""Mutation testing: change the package in one place at a time, and see whether its tests notice.

    python tests/mutate.py implicitrm_sk/measurement -t tests/test_measurement.py [-n 60] [--seed 0]

A mutant is one changed operator, comparison, condition or constant. Of all of them `-n` are drawn.
Each is tested in a fork of a process that has imported what takes seconds, on a copy of the
package. Printed are the survivors, as "file:line: what is changed", and how many mutants a test has
noticed. A survivor is a missing test, or a change that changes nothing: look at each.
"""

import argparse
import ast
import contextlib
import copy
import functools
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def changes_of(node):
    """Yield what can be changed in a node: a word, and a function that changes it in place."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        new = SWAPS[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", lambda n: setattr(n, "op", new())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new = SWAPS[type(node.ops[0])]
        word = f"{type(node.ops[0]).__name__} -> {new.__name__}"
        yield word, lambda n: n.ops.__setitem__(0, new())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "-x -> +x", lambda n: setattr(n, "op", ast.UAdd())
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield (
            "condition negated",
            lambda n: setattr(n, "test", ast.UnaryOp(op=ast.Not(), operand=n.test)),
        )
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)


def mutants_of(path):
    """Yield line, word and writer of every mutant of a module; messages and types stay."""
    tree = ast.parse(path.read_text())
    left_alone = set()
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Raise | ast.JoinedStr):
            parts = [node]
        if isinstance(node, ast.FunctionDef):
            parts = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            parts = [*filter(None, parts)] + ([node.returns] if node.returns else [])
        left_alone.update(id(inner) for part in parts for inner in ast.walk(part))
    for number, node in enumerate(ast.walk(tree)):
        for word, change in () if id(node) in left_alone else changes_of(node):
            yield node.lineno, word, functools.partial(source_of, tree, number, change)


def source_of(tree, number, change):
    """Return the source of a module with one of its nodes changed."""
    mutant = copy.deepcopy(tree)
    change(next(n for i, n in enumerate(ast.walk(mutant)) if i == number))
    return ast.unparse(ast.fix_missing_locations(mutant))


def noticed(folder, tests, limit):
    """Return whether a test fails on the package in a folder, or takes too long."""
    child = os.fork()
    if not child:
        # Imported from the copy, by the tests of this checkout.
        sys.path[:0] = [str(folder), str(ROOT)]
        sys.dont_write_bytecode = True  # which is found by seconds and size of the source
        import pytest

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests])
        os._exit(0 if code == 0 else 1)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, help="modules or packages to change")
    parser.add_argument("-t", "--tests", nargs="+", required=True, help="arguments of pytest")
    parser.add_argument("-n", type=int, help="how many mutants are drawn (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="leave out as many of them")
    parser.add_argument("--limit", type=float, default=120, help="seconds of one mutant")
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    import pytest  # noqa: F401
    import sklearn.utils.estimator_checks  # noqa: F401
    import torch

    import implicitrm_sk.datasets
    import implicitrm_sk.inspection  # noqa: F401

    # What the package imports stays, the package itself is imported from the copy.
    for name in [name for name in sys.modules if name.split(".")[0] == "implicitrm_sk"]:
        del sys.modules[name]
    torch.set_num_threads(1)
    files = [f for p in args.paths for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    mutants = [(f.resolve(), *mutant) for f in files for mutant in mutants_of(f)]
    random.Random(args.seed).shuffle(mutants)
    drawn = mutants[: args.n][args.first :]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "implicitrm_sk", Path(folder) / "implicitrm_sk")
        if noticed(folder, args.tests, args.limit):
            sys.exit("the tests fail on the package as it is, or take longer than --limit")
        killed = 0
        for number, (path, line, word, write) in enumerate(drawn, 1):
            name = path.relative_to(ROOT)
            copied = Path(folder) / name
            copied.write_text(write())
            found = noticed(folder, args.tests, args.limit)
            copied.write_text(path.read_text())
            killed += found
            if not found:
                code = path.read_text().splitlines()[line - 1].strip()
                print(f"{name}:{line}: {word}: {code}", flush=True)
            if number == len(drawn) or number % 10 == 0:
                print(f"{killed} of {number} noticed ({len(mutants)} possible)", flush=True)


if __name__ == "__main__":
    main()
