"""Random streams derived from one seed, so that no result depends on what ran before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

_END = 2**31
"""Number larger than any part of a path: added to a path's length, it is not taken for a part."""


class Stream(IntEnum):
    """What a stream of random numbers is for; streams of one seed are independent."""

    INITIALIZATION = 0
    DATA_ORDER = 1
    TRAINING = 2
    VALIDATION = 3
    EVALUATION = 4
    SAMPLING = 5
    BINARIZATION = 6


def derive_seed(seed: int, *path: int) -> int:
    """A 63-bit seed for the stream named by ``path``, the same on every machine.

    Raises:
        TypeError: If the seed is no whole number.
        ValueError: If it is negative.
    """
    if not isinstance(seed, Integral):
        raise TypeError(f"seed must be a whole number, 0 or more, got {seed!r}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    # A seed sequence takes no notice of zeros at the end of what it is given: without its length,
    # the path (TRAINING, 0) would name the stream (TRAINING,).
    entropy = [seed, *(int(part) for part in path)]
    sequence = np.random.SeedSequence(entropy if len(path) == 1 else [*entropy, _END + len(path)])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator on the stream named by ``path``."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


@contextmanager
def seeded(seed: int | None, *path: int) -> Iterator[None]:
    """Draw from the stream named by ``path`` inside; the caller's random state is left as it was.

    ``None`` draws from the caller's own random state instead.
    """
    if seed is None:
        yield
        return
    # torch.manual_seed reaches every GPU, so every one is put back; none is woken up for it.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_devices(derive_seed(seed, *path))
        yield


def seed_devices(seed: int) -> None:
    """Seed as torch.manual_seed does, without its cost of 1 ms where there is no GPU."""
    # Without a GPU, torch.manual_seed keeps the call's stack for one that may come.
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def random_state(device: torch.device) -> Tensor:
    """State of the generator that draws on a device come from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Draw on a device from a state that :func:`random_state` gave."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
