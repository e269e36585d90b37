"""Computing on a CPU: threads of torch by the size of a model, memory kept for the next tensors."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch

SMALL = 100_000
"""Number of weights below which a model is computed on one thread."""
_CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment by which the number of threads is chosen."""
_TUNING = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables of the environment by which glibc's allocator is tuned."""
# Parameters of mallopt, by the names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES, _PAD_BYTES, _LARGEST_BYTES = 256 << 20, 16 << 20, 32 << 20
_LOG = logging.getLogger(__name__)
# By context, so that whoever computes with a given number of threads keeps it in what it calls.
_GIVEN: ContextVar[bool] = ContextVar("threads", default=False)


@contextmanager
def given_threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside, whatever the size of a model."""
    token = _GIVEN.set(True)
    try:
        with _threads(count):
            yield
    finally:
        _GIVEN.reset(token)


@contextmanager
def suited(weights: int, device: torch.device) -> Iterator[None]:
    """Compute a model of so many weights inside with threads and memory that suit it.

    Operations of a small model take microseconds, between which the threads of a pool spin: they
    gain next to nothing, and where other processes need the cores the first waits for the last of
    them at every operation. So a model of fewer than 100,000 weights is computed on one thread.
    The number is left as it is where somebody has chosen it: by ``OMP_NUM_THREADS`` or
    ``MKL_NUM_THREADS``, ``torch.set_num_threads``, or the engine of a study.

    A rule of counts, not a measurement: the same model has one number of threads in training and
    in evaluation, so that last digits do not differ.

    Args:
        weights: Number of all parameters.
        device: Where it is computed; on others than a CPU nothing is changed.
    """
    if device.type != "cpu":
        yield
        return
    keep_memory()
    if weights >= SMALL or _chosen():
        yield
        return
    _LOG.info("one thread for a model of %s weights; OMP_NUM_THREADS chooses another number",
              f"{weights:,}")  # fmt: skip
    with _threads(1):
        yield


def _chosen() -> bool:
    """Whether somebody has chosen the number of threads, or there is one anyway."""
    if _GIVEN.get() or any(os.environ.get(name) for name in _CHOICES):
        return True
    # Torch does not tell who has set its number: what it takes by itself is that of the cores that
    # it may use, or half of it where each has two threads of its own.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return torch.get_num_threads() not in {cores, cores // 2} - {1}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    # Sums over threads differ in their last digits, so that the number is part of the result.
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def keep_memory() -> bool:
    """Make glibc keep freed memory for the next tensors; whether it does.

    Left alone, it gives tensors of a few megabytes back to the kernel as soon as they are freed,
    and the next operation waits for the kernel to clear 4 KiB at a time: 12,000 page faults an
    update with 50 particles. At most 256 MiB that are not in use are kept, until the process ends.
    Where the environment tunes the allocator already, that stands.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in _TUNING):
        return False
    # Another C library, such as musl, has no such name or no such parameters.
    if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {
        # The largest value that every version takes.
        _M_MMAP_THRESHOLD: _LARGEST_BYTES,
        _M_TRIM_THRESHOLD: _KEPT_BYTES,
        _M_TOP_PAD: _PAD_BYTES,
    }
    # All of them, also where one is refused.
    taken = [mallopt(parameter, value) for parameter, value in wanted.items()]
    return taken == [1] * len(wanted)
