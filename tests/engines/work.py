"""What tasks do in the tests; other processes import it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from ppl_vae.files import exclusive


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
    line = f"{name}@{os.getppid()}"
    append(Path(folder) / "begun", line)
    wait_for(lambda: False, seconds)
    append(Path(folder) / "done", line)
    return name


def wait_for(condition, seconds=300.0):
    """In short naps, so that an interruption gets through; says whether it came true."""
    until = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return true


def cell(folder, name, doomed):
    """As a cell of a study: one at a time, and not again once done.

    On the doomed node, whose process is the parent, the first is done and the others hang. All
    others but the first few wait until it is killed, so that it has some.
    """
    folder = Path(folder)
    with exclusive(folder / f"{name}.lock", name, wait=300):
        if name in names(folder / "done"):
            return name
        append(folder / "begun", f"{name}@{os.getppid()}")
        if os.getppid() == doomed:
            wait_for(lambda: False, 600 if on(folder / "done", doomed) else 0)
        elif int(name) >= 8:
            wait_for((folder / "killed").exists)
        append(folder / "done", f"{name}@{os.getppid()}")
    return name


def enter_and_leave(path, name):
    """Note that the work begins, and that it is about to end, with a while for others between."""
    append(path, f"entered-{name}")
    wait_for(lambda: False, 0.2)
    append(path, f"left-{name}")


def after(path, name, others):
    """Be done when the others are in a file."""
    wait_for(lambda: set(others) <= set(lines(path)))
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


def names(path):
    """Of the tasks that said something."""
    return [line.split("@")[0] for line in lines(path)]


def on(path, parent):
    """Those that said it under this parent process."""
    return {line.split("@")[0] for line in lines(path) if line.endswith(f"@{parent}")}
