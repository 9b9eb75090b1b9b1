"""Training on one GPU against what its memory and arithmetic allow, and members side by side.

    python -m benchmarks.gpu [--rows 200000] [--features 4096] [--batch-size 8192]

Both bounds are measured first, on the same device: a copy of 1 GB, and a square matrix product in
bfloat16. A step reads its rows twice, for the logits and for the gradient of the first layer, and
multiplies them as often; "roofline" is the larger of the two times over the time of a step. Times
of an epoch are those of a fit of many epochs less those of one of few, so that what is done once
does not count. `gpu.sh` runs this, and all else that needs a GPU.
"""

import argparse
import time
import warnings

import numpy as np
import torch

from implicitrm_sk import ImplicitRewardEstimator

HIDDEN, HEADS = 64, 2
FEW, MANY = 2, 12  # epochs


def synchronised(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def best(run, device, repeats=5):
    """Return the seconds of the fastest of several runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        began = synchronised(device)
        run()
        seconds.append(synchronised(device) - began)
    return min(seconds)


def bounds_of(device, size):
    """Return bytes and multiply-adds (two operations each) per second."""
    source = torch.empty(size // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / best(lambda: target.copy_(source), device)
    n = 8192 if device.type == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    return bandwidth, 2 * n**3 / best(lambda: a @ a, device)


def seconds_of_an_epoch(X, y, *, members, args):
    seconds = []
    for epochs in (1, FEW, MANY):  # the first one warms up
        est = ImplicitRewardEstimator(
            hidden_layer_sizes=(HIDDEN,),
            n_estimators=members,
            batch_size=args.batch_size,
            max_epochs=epochs,
            early_stopping=False,
            dtype="bfloat16",
            device=args.device,
            random_state=0,
        )
        began = synchronised(torch.device(args.device))
        est.fit(X, y)
        seconds.append(synchronised(torch.device(args.device)) - began)
    return (seconds[2] - seconds[1]) / (MANY - FEW)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--copy", type=int, default=10**9, help="bytes of the copy")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    bandwidth, operations = bounds_of(device, args.copy)
    print(
        f"{name}, torch {torch.__version__}: copies {bandwidth / 1e9:,.0f} GB/s, multiplies "
        f"{operations / 1e12:,.1f} TFLOP/s in bfloat16\n"
    )
    rng = np.random.default_rng(0)
    X = rng.standard_normal((args.rows, args.features), dtype=np.float32)
    y = ((X[:, :1] > 0) & (rng.random((args.rows, 2)) < 0.5)).astype(float)
    print("| members | epoch (s) | rows/s | roofline | against one |\n|---|---|---|---|---|")
    alone = None
    for members in (1, 4, 8):
        seconds = seconds_of_an_epoch(X, y, members=members, args=args)
        alone = alone or seconds
        n_bytes = 2 * 2 * args.rows * args.features
        n_operations = 2 * 2 * args.rows * args.features * HIDDEN * HEADS * members
        least = max(n_bytes / bandwidth, n_operations / operations)
        print(
            f"| {members} | {seconds:.3f} | {args.rows / seconds:,.0f} | {least / seconds:.0%} | "
            f"{seconds / alone:.2f}x |"
        )


if __name__ == "__main__":
    main()
