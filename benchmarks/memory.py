"""Memory that this process holds, and the most that it has held."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def held_bytes(device: torch.device) -> int:
    """What it holds now, or on a CPU without /proc its peak so far; the peak starts anew here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        # Where Linux cannot, an earlier peak stays, and can only make the number too large.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes(device)
    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
