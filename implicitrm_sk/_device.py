"""Devices, number formats and threads of the computations."""

import functools
import os
import threading
from contextlib import contextmanager, nullcontext

import torch
from joblib.parallel import get_active_backend

from .exceptions import ImplicitRMError

#: Rows per forward pass outside training: large enough to be fast, small enough for the caches.
INFERENCE_ROWS = 8192


@functools.cache
def _spare_forks():
    """Make processes that are forked from now on compute with one thread.

    The threads of OpenMP do not survive a fork, and the next computation would wait for them. This
    is called before the first computation, so importing the package keeps the threads.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_fork)


def _begin_fork():
    global _worker_lock
    _worker_lock = threading.Lock()  # the thread that held it does not exist after a fork
    _workers.clear()
    torch.set_num_threads(1)


def resolve_device(device):
    """Return the torch device for "auto" (cuda, then mps, then cpu) or for the name of a device."""
    _spare_forks()
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        probe = torch.zeros(1, device=device)
        probe.tolist()  # a "meta" device does not hold numbers
        return probe.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(". ")[0].splitlines()[0].rstrip(".")
        if "device string" in reason:  # torch lists kinds that hardly any build has
            reason = "torch does not know this kind of device"
        raise ImplicitRMError(
            f"device={device!r} cannot be used: {reason}; expected 'auto', 'cpu' or the name of a "
            "device that torch finds on this machine, such as 'cuda' or 'cuda:0'. Check "
            "torch.cuda.is_available()."
        ) from error


def resolve_dtype(dtype, device):
    """Return the dtype of weights and data, and the autocast dtype or None.

    "auto" means bfloat16 autocast on a CUDA device that supports it, and float32 elsewhere.
    """
    _spare_forks()
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    if dtype == "bfloat16":
        return torch.float32, torch.bfloat16
    return getattr(torch, dtype), None


def autocast(device, dtype):
    """Return the autocast context of a device, which has no effect if dtype is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


_worker_lock = threading.Lock()


#: For each worker that computes now, the number of threads before the first one started.
_workers = []


@contextmanager
def threads_of_worker():
    """Compute with one thread in a joblib worker that is not assigned a number of threads.

    Processes that loky or Ray start get a number (OMP_NUM_THREADS). Threads and forks do not, and
    each of them would use all cores.
    """
    backend, _ = get_active_backend()
    if not backend.nesting_level or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    with _worker_lock:
        # A thread that starts now would see the number that another thread has set.
        _workers.append(_workers[0] if _workers else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _worker_lock:
            torch.set_num_threads(_workers.pop())
