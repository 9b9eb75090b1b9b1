"""Compare the configurations bit for bit between the working tree and a commit.

    python tests/golden/compare.py [COMMIT]    # HEAD, unless another is named
    python tests/golden/compare.py --write     # expected.json anew, where a change is meant

Both sides run the `configurations.py` beside this file, each on its own package, in a process of
its own with one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def write():
    """Write what the configurations give in the working tree, as the test expects it."""
    import configurations

    expected = {name: _rounded(name, configurations) for name in configurations.CONFIGURATIONS}
    # A line per array: a later change shows what it has changed.
    text = ",\n".join(
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        + "\n }"
        for name, values in expected.items()
    )
    (HERE / "expected.json").write_text(f"{{\n{text}\n}}\n")


def _rounded(name, configurations):
    _, values = configurations.run(name)
    return {key: [float(f"{x:.12g}") for x in value] for key, value in values.items()}


def print_digests():
    """Print the digests of all configurations; None for one that fails."""
    import configurations

    found = {}
    for name in configurations.CONFIGURATIONS:
        try:
            found[name] = configurations.digests(name)
        except Exception:  # the others are compared all the same
            traceback.print_exc()
            found[name] = None
    print(json.dumps(found))


def digests_of(tree):
    """Return the digests of all configurations with the package of a working tree."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [sys.executable, str(HERE / "compare.py"), "--digests-of", str(tree)],
        cwd=tree,
        env=os.environ | threads | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def compare(commit):
    """Print which configurations differ from those of a commit, and return whether any does."""
    git = ("git", "-C", str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
        try:
            before = digests_of(tree)
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", tree], check=True)
    now = digests_of(ROOT)
    n_different = 0
    for name, new in now.items():
        old = before[name]
        if new is None or old is None:
            failing = [
                side for side, side_digests in ((commit, old), ("now", new)) if not side_digests
            ]
            difference = f"DIFFERS (fails: {', '.join(failing)})"
        else:
            parts = [part for part in new if new[part] != old[part]]
            difference = f"DIFFERS ({', '.join(parts)})" if parts else None
        n_different += difference is not None
        print(f"{name:<32}{difference or 'equal'}")
    print(f"{n_different} of {len(now)} differ from {commit}")
    return n_different > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--write", action="store_true", help="write expected.json anew")
    parser.add_argument("--digests-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tree = arguments.digests_of or ROOT
    if not (arguments.write or arguments.digests_of):
        return int(compare(arguments.commit))

    import torch

    torch.set_num_threads(1)
    import implicitrm_sk

    # An installed package, or that of the other tree, would make everything look equal.
    found = Path(implicitrm_sk.__file__).resolve().parent
    if found != (tree / "implicitrm_sk").resolve():
        raise SystemExit(f"{found} was imported instead of the package in {tree}.")
    write() if arguments.write else print_digests()
    return 0


if __name__ == "__main__":
    sys.exit(main())
