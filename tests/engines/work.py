"""What tasks do in the tests; other processes import it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch


def double(value):
    return 2 * value


def fail(message):
    raise ValueError(message)


def leave():
    sys.exit("enough")


def numbers(seed):
    """A result whose last bits depend on the number of threads."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 700, generator=generator)
    return (x @ x.T).exp().clamp(max=1e3).sum().item(), torch.get_num_threads()


def here():
    return os.getpid(), os.getcwd(), os.environ.get("CUDA_VISIBLE_DEVICES")


def append(path, line):
    """A short line in one write: lines of several processes do not mix."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def note(folder, name, seconds=0.0):
    """Say when the work begins, under which parent process, and when it is done."""
    append(Path(folder) / "begun", f"{name}@{os.getppid()}")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
    append(Path(folder) / "done", name)
    return name


def die(path, times):
    """Be killed at the first so many starts."""
    append(path, "x")
    if len(lines(path)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def lock():
    """What cannot be pickled."""
    return threading.Lock()


def lines(path):
    path = Path(path)
    return path.read_text().split() if path.exists() else []
