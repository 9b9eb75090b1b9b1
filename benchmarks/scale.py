"""Data larger than memory, cost against size, and prediction, each against what bounds it.

    python -m benchmarks.scale [stream] [linear] [predict] [users] [plan] [--gb 12] [--folder DIR]
    python -m benchmarks.scale users --turns 0 --rows 1010000 --features 8  # a million users

Without a part's name all are run. ``stream`` writes a ``.npy`` file and a folder of safetensors
shards of `--gb` gigabytes (10^9 bytes) each, one after the other, into a temporary folder in DIR
and removes them. Each fit runs in a process of its own, whose memory is read from /proc all the
while: RssAnon is what the process holds, VmPeak the most address space it had, "mapped" how much of
the data files it had mapped. Before each fit, and before the bare read, the files are dropped from
the page cache; how much of a file is in the cache later is up to the system, as it is for users.

``users`` compares an epoch with users who differ in activity, 10 rows of each, with one without,
turn by turn; then it fits nearly as many users as rows, and prints the memory.

``plan`` multiplies what a row costs here up to 10^9 responses.

"Arithmetic" is the time of an epoch on 200,000 rows of the same kind in memory, before and after
the fit, times the ratio of the numbers of rows.
"""

import argparse
import copy
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.base import clone

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import begin_fit
from implicitrm_sk.training._plan import Hooks

SETTINGS = {"random_state": 0, "batch_size": 2048, "learning_rate_init": 1e-3}
HIDDEN, MEMBERS = 64, 4  # of the default configuration
CHUNK = 16_384
READ_BYTES = 2**21
#: Of address space for each fit, a third of the default size of the files.
LIMIT_GIB = 4


def rows_of(rng, n, d):
    """Return rows, two signals, and the preference behind them."""
    X = rng.standard_normal((n, d), dtype=np.float32)
    preferred = X[:, 0] + X[:, 1] * X[:, 2] > 0
    signals = preferred[:, None] & (rng.random((n, 2)) < (0.5, 0.3))
    return X, signals.astype(np.float32), preferred


def write(folder, form, n, d):
    """Write n rows in a form, and the signals beside them; return the path of the rows."""
    rng = np.random.default_rng(0)
    signals = []
    path = folder / ("X.npy" if form == "npy" else "shards")
    sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
    if form == "npy":
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
            )
            for size in sizes:
                X, y, _ = rows_of(rng, size, d)
                file.write(X)
                signals.append(y)
    else:
        path.mkdir()
        for first in range(0, len(sizes), 16):
            parts = [rows_of(rng, size, d) for size in sizes[first : first + 16]]
            signals.extend(y for _, y, _ in parts)
            X = np.concatenate([X for X, _, _ in parts])
            save_file({"embedding": X}, path / f"{first:06d}.safetensors")
    np.save(folder / "y.npy", np.concatenate(signals))
    return path


def files_of(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


def drop_from_cache(path):
    for file in files_of(path):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_read(path):
    """Return how long reading the files from end to end takes."""
    buffer = memoryview(bytearray(READ_BYTES))
    start = time.perf_counter()
    for file in files_of(path):
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - start


# ---------------------------------------------------------------------- fits in their own process


class EpochTimes:
    """Callback that notes when epochs begin and end."""

    def __init__(self):
        self.times = []

    def setup(self, estimator, context):
        self.started = time.perf_counter()

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **_):
        if context.task_name == "epoch":
            self.times.append(time.perf_counter())

    def on_fit_task_end(self, estimator, context, **_):
        if context.task_name == "epoch":
            self.times[-1] = time.perf_counter() - self.times[-1]


def child(X, y, epochs):
    """Fit, and predict into a file; print times as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * 2**30,) * 2)
    warnings.filterwarnings("ignore", message=".*still improving")
    timer = EpochTimes()
    est = ImplicitRewardEstimator(max_epochs=epochs, **SETTINGS).set_callbacks(timer)
    signals = np.load(y)
    begin = time.perf_counter()
    est.fit(X, signals)
    fitted = time.perf_counter()
    out = np.lib.format.open_memmap(
        Path(y).with_name("reward.npy"), "w+", np.float32, (len(signals),)
    )
    est.predict(X, out=out)
    print(
        json.dumps(
            {
                "epochs": timer.times,
                "fit": fitted - begin,
                "before": fitted - begin - sum(timer.times),
                "predict": time.perf_counter() - fitted,
            }
        )
    )


def watched(folder, *args):
    """Run `child` in a process of its own and return its times and the peaks of its memory."""
    code = f"from benchmarks.scale import child; child(*{args!r})"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::UserWarning", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks = {"RssAnon": 0, "RssFile": 0, "VmPeak": 0, "mapped": 0}

    def watch():
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                maps = Path(f"/proc/{process.pid}/maps").read_text()
            except OSError:
                return
            for name, value in re.findall(r"(RssAnon|RssFile|VmPeak):\s+(\d+) kB", status):
                peaks[name] = max(peaks[name], int(value) * 1024)
            mapped = 0
            for line in maps.splitlines():
                if line.endswith((".npy", ".safetensors")) and "reward" not in line:
                    start, stop = (int(x, 16) for x in line.split()[0].split("-"))
                    mapped += stop - start
            peaks["mapped"] = max(peaks["mapped"], mapped)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    out, error = process.communicate()
    thread.join()
    if process.returncode:
        raise SystemExit(f"the fit ended with {process.returncode}:\n{error}")
    return json.loads(out.splitlines()[-1]) | peaks


def seconds_of_arithmetic(n, d, epochs=3):
    """Return the time of an epoch of n rows of d columns in memory, by its rows."""
    X, y, _ = rows_of(np.random.default_rng(1), n, d)
    timer = EpochTimes()
    ImplicitRewardEstimator(max_epochs=epochs, **SETTINGS).set_callbacks(timer).fit(X, y)
    return float(np.median(timer.times[1:])) / n


def matmul_flops(d):
    """Return the floating-point operations per second of a bare product of a batch."""
    a = torch.randn(SETTINGS["batch_size"], d)
    b = torch.randn(d, MEMBERS * HIDDEN)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        times.append((time.perf_counter() - start) / 10)
    return 2 * a.shape[0] * d * b.shape[1] / np.median(times)


def copy_bytes():
    """Return the bytes per second of a bare memory copy, read and written."""
    a = torch.zeros(2**26)
    b = torch.empty_like(a)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        b.copy_(a)
        times.append(time.perf_counter() - start)
    return 2 * a.nbytes / np.median(times)


def flop_per_row(d):
    """Return the operations of an epoch per row: 0.8 train, three products each; 0.2 validate."""
    products = 2 * 2 * MEMBERS * (d * HIDDEN + HIDDEN * 1.5)  # two heads; one and two outputs
    return products * (0.8 * (3 - d / (d + 1.5)) + 0.2)  # X itself needs no gradient


def stream(args):
    d = args.features
    n = int(args.gb * 1e9 / (4 * d))
    free = shutil.disk_usage(args.folder).free
    needed = n * d * 4 + 2**30
    if free < needed:
        raise SystemExit(
            f"{args.folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed. "
            "Name another --folder or a smaller --gb."
        )
    small = min(n, 200_000)
    print(f"\n{n:,} x {d} float32, {n * d * 4 / 1e9:.1f} GB, {args.epochs} epochs, two signals\n")
    print(
        "| X | limit of address space | RssAnon (GB) | VmPeak (GB) | mapped (GB) | before the "
        "epochs (s) | epoch (s) | read once (s) | arithmetic (s) | epoch / (read + arithmetic) | "
        "predict (s) |"
    )
    print("|" + "---|" * 11)
    for form, name in (("npy", ".npy"), ("shards", "folder of safetensors")):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            folder = Path(folder)
            path = write(folder, form, n, d)
            drop_from_cache(path)
            cold = seconds_to_read(path)
            drop_from_cache(path)
            before = seconds_of_arithmetic(small, d)
            found = watched(folder, str(path), str(folder / "y.npy"), args.epochs)
            # Before and after, as other programs may come and go.
            arithmetic = n * (before + seconds_of_arithmetic(small, d)) / 2
            epoch = float(np.median(found["epochs"]))
            # In decimal gigabytes, as the file.
            memory = " | ".join(
                f"{found[name] / 1e9:.2f}" for name in ("RssAnon", "VmPeak", "mapped")
            )
            print(
                f"| {name} | {LIMIT_GIB} GiB | {memory} | "
                f"{found['before']:.0f} | {epoch:.1f} | {cold:.1f} | {arithmetic:.1f} | "
                f"{epoch / (cold + arithmetic):.2f} | {found['predict']:.0f} |",
                flush=True,
            )
    flops = matmul_flops(d)
    print(
        f"\nRoofline: an epoch takes {flop_per_row(d) * n / 1e12:.1f} TFLOP, a bare matmul reaches "
        f"{flops / 1e9:.0f} GFLOP/s, that is {flop_per_row(d) * n / flops:.0f} s; it reads the "
        f"files twice, {2 * n * d * 4 / 1e9:.1f} GB, a bare read from the disk reaches "
        f"{n * d * 4 / cold / 1e9:.2f} GB/s; a bare memory copy {copy_bytes() / 1e9:.1f} GB/s."
    )


# ---------------------------------------------------------------------- cost against size


def fit_seconds(X, y, members=MEMBERS, epochs=2):
    est = ImplicitRewardEstimator(max_epochs=epochs, n_estimators=members, **SETTINGS)
    start = time.perf_counter()
    est.fit(X, y)
    return time.perf_counter() - start


def exponent(sizes, times):
    return np.polyfit(np.log(sizes), np.log(times), 1)[0]


def linear(args):
    d = args.features
    X, y, _ = rows_of(np.random.default_rng(0), args.rows, d)
    fit_seconds(X[:10_000], y[:10_000])
    sizes = [n for n in (10_000, 30_000, 100_000, 300_000, 1_000_000) if n <= args.rows]
    times = []
    print(
        f"\nTime of a whole fit by the number of rows (2 epochs, {d} columns, {MEMBERS} members):\n"
    )
    print("| rows | fit (s) | microseconds per row |\n|---|---|---|")
    for n in sizes:
        repeats = 5 if n <= 30_000 else 3 if n <= 100_000 else 1
        times.append(np.median([fit_seconds(X[:n], y[:n]) for _ in range(repeats)]))
        print(f"| {n:,} | {times[-1]:.2f} | {1e6 * times[-1] / n:.1f} |", flush=True)
    power = exponent(sizes, times)
    print(f"\nTime grows as the number of rows to the power of {power:.3f} (aim 0.9 to 1.1).")

    print("\nBy members, 100,000 rows\n\n| members | fit (s) | seconds per member |\n|---|---|---|")
    n = min(100_000, args.rows)
    members, times = (1, 2, 4, 8, 16, 32, 64), []
    for m in members:
        times.append(np.median([fit_seconds(X[:n], y[:n], members=m) for _ in range(3)]))
        print(f"| {m} | {times[-1]:.2f} | {times[-1] / m:.2f} |", flush=True)
    print(
        f"\nTime grows as the number of members to the power of {exponent(members, times):.3f}; "
        f"from 8 members on it is {exponent(members[3:], times[3:]):.3f} (aim 0.9 to 1.1)."
    )


# ---------------------------------------------------------------------- users


def epoch_seconds(begun, n_users=None, epochs=3):
    """Return the seconds of each epoch, the first left out, and those of the processor.

    Shape (2, epochs - 1); None: users are ignored.
    """
    plan, ends = replace(begun.plan, n_users=n_users), []
    hooks = Hooks(epoch_end=lambda _: ends.append((time.perf_counter(), time.process_time())))
    data, state = copy.copy(begun.data), np.random.RandomState(0)
    plan.run(data, plan.initial_model(data, state), epochs, state, hooks=hooks)
    return np.diff(ends, axis=0).T


def users(args):
    n, d = args.rows, args.features
    X, y, _ = rows_of(np.random.default_rng(0), n, d)
    y = np.asarray(y)
    user = np.random.default_rng(1).integers(n // 10, size=n)
    est = ImplicitRewardEstimator(n_estimators=MEMBERS, early_stopping=False, **SETTINGS)
    begun = begin_fit(clone(est), X, y, user_id=user)
    if args.turns:
        epochs_of_users(begun, args.turns)
    many_users(est, X, y)


def epochs_of_users(begun, n_turns):
    """Compare the epochs of a fit with and without users."""
    turns = [[], []]
    for _ in range(n_turns):  # in turn: the machine may be at work on something else
        for found, n_users in zip(turns, (None, begun.data.log.n_users), strict=True):
            found.append(epoch_seconds(begun, n_users))
    n, d = begun.data.X.shape
    without, within = (np.concatenate(found, axis=1) for found in turns)
    print(f"\nAn epoch of {n:,} rows x {d}, {begun.data.log.n_users:,} users, {MEMBERS} members\n")
    print("| clock | users ignored (s) | users differ (s) | ratio (bar 1.4) | of single turns |")
    print("|" + "---|" * 5)
    for name, *times in zip(("wall", "processor"), without, within, strict=True):
        a, b = map(np.median, times)
        ratios = np.divide(*times[::-1])
        print(
            f"| {name} | {a:.2f} | {b:.2f} | {b / a:.2f} | {ratios.min():.2f} to "
            f"{ratios.max():.2f} |",
            flush=True,
        )


def many_users(est, X, y):
    """Fit users of two rows each, who differ in activity, and print time and memory."""
    rng, n_users = np.random.default_rng(2), len(X) // 2
    many = rng.permutation(len(X)) % n_users
    often = 1 / (1 + np.exp(-3 * rng.standard_normal(n_users)))
    y = y * (rng.random(y.shape) < often[many, None])
    est = clone(est).set_params(max_epochs=2)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, y, user_id=many)
    known = est.user_activity_
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\n{len(known.mean):,} users, {np.mean(known.n_rows):.1f} rows of each: 2 epochs of "
        f"either model {time.perf_counter() - began:.0f} s, {peak:.1f} GiB at most, of which "
        f"{X.nbytes / 2**30:.1f} GiB are X; their weights {known.log_weight.nbytes / 2**20:.0f} MiB"
    )


# ---------------------------------------------------------------------- prediction


def predict(args):
    d = args.features
    X, y, _ = rows_of(np.random.default_rng(0), args.rows, d)
    est = ImplicitRewardEstimator(max_epochs=2, **SETTINGS).fit(X[:20_000], y[:20_000])
    first, second = (weight.detach() for weight in est.model_.reward.weights)
    first, second = first.flatten(1).contiguous(), second.transpose(0, 1).contiguous()

    def bare(rows=8192):
        with torch.inference_mode():
            for chunk in torch.from_numpy(X).split(rows):
                hidden = (chunk @ first).view(len(chunk), MEMBERS, HIDDEN).transpose(0, 1)
                torch.bmm(hidden, second)

    def timed(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    turns = np.array([(timed(lambda: est.predict(X)), timed(bare)) for _ in range(args.repeats)])
    low, ratio, high = np.quantile(turns[:, 0] / turns[:, 1], [0.25, 0.5, 0.75])
    ours, theirs = np.median(turns, axis=0)
    flop = 2 * len(X) * MEMBERS * (d * HIDDEN + HIDDEN)
    print(f"\nReward of {len(X):,} x {d} in memory, {MEMBERS} members of {HIDDEN} units\n")
    print("| predict (s) | bare matmuls (s) | ratio | quartiles | aim |\n|---|---|---|---|---|")
    print(f"| {ours:.2f} | {theirs:.2f} | {ratio:.2f} | {low:.2f} to {high:.2f} | <= 1.2 |")
    print(
        f"\nThe arithmetic is {flop / 1e9:.0f} GFLOP, at {flop / theirs / 1e9:.0f} GFLOP/s of bare "
        f"products. X has {X.nbytes / 1e9:.2f} GB, which a bare copy reads in "
        f"{X.nbytes / (copy_bytes() / 2):.2f} s."
    )


# ---------------------------------------------------------------------- beyond this machine

#: Assumed, not measured: 40 % of the 989 TFLOP/s in bfloat16 of an H100's data sheet.
GPU_FLOPS = 0.4 * 989e12
#: Parameters, tokens per response and columns of the vectors.
MODELS = {
    "135 million parameters, 200 tokens": (135e6, 200, 576),
    "8 billion parameters, 500 tokens": (8e9, 500, 4096),
}


def plan(args):
    """Print what up to 10^9 responses take: training as measured here, the rest by arithmetic."""
    threads = torch.get_num_threads()
    for name, (parameters, tokens, d) in MODELS.items():
        n = min(args.rows, 50_000)
        X, y, _ = rows_of(np.random.default_rng(0), n, d)
        est = ImplicitRewardEstimator(max_epochs=2, **SETTINGS).fit(X, y)
        start = time.perf_counter()
        est.predict(X)
        rewards = (time.perf_counter() - start) / n
        epoch = seconds_of_arithmetic(n, d)
        gpu = 2 * parameters * tokens / GPU_FLOPS
        print(f"\nWith a language model of {name} per response and {d:,} columns:\n")
        print(
            "| responses | vectors in bfloat16 (GB) | embedding (GPU-days) | an epoch here (hours) "
            "| rewards here (hours) |\n|---|---|---|---|---|"
        )
        for power in range(6, 10):
            rows = 10**power
            print(
                f"| 10^{power} | {2 * d * rows / 1e9:,.1f} | {gpu * rows / 86400:,.2f} | "
                f"{epoch * rows / 3600:,.2f} | {rewards * rows / 3600:,.2f} |"
            )
        print(
            f"\nMeasured on {n:,} rows, {threads} threads: {1e6 * epoch:.1f} microseconds per row "
            f"and epoch, {1e6 * rewards:.1f} per reward. Embedding: 2 x parameters x tokens "
            f"FLOP at an assumed {GPU_FLOPS / 1e12:.0f} TFLOP/s."
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "stream": stream,
        "linear": linear,
        "predict": predict,
        "users": users,
        "plan": plan,
    }
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--gb", type=float, default=12, help="size of the files, 10^9 bytes")
    parser.add_argument("--rows", type=int, default=1_000_000, help="most rows in memory")
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--epochs", type=int, default=1, help="of the fits from files")
    parser.add_argument("--repeats", type=int, default=7, help="turns of the prediction")
    parser.add_argument("--turns", type=int, default=3, help="of the epochs with users, 0: none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args(argv)
    unknown = set(args.parts) - set(parts)
    if unknown:
        parser.error(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(parts)}"
        )
    warnings.filterwarnings("ignore", message=".*still improving")
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, load "
        f"average {os.getloadavg()[0]:.1f} at the start"
    )
    for name, run in parts.items():
        if not args.parts or name in args.parts:
            run(args)


if __name__ == "__main__":
    main()
