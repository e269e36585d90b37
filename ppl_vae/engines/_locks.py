"""One process at a time in a folder."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ppl_vae.files import write_atomically

_PAUSE = 0.05
"""Seconds between two attempts to take a lock."""


@contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` inside, or say who does.

    The operating system lets go of the lock when the process ends, however it ends. Who holds it
    stands beside it, in ``path`` with ``.holder`` at its end.

    Args:
        path: The lock file; it stays there.
        what: What is locked, for the message: ``study results/objectives``.
        wait: Seconds to wait for a process that is about to end.

    Raises:
        BlockingIOError: If another process holds it; says which.
        OSError: If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    holder = _holder_file(path)
    end = time.monotonic() + wait
    while not _taken(descriptor):
        if time.monotonic() >= end:
            os.close(descriptor)
            raise BlockingIOError(
                f"{what} is in use by {_holder(path)}: wait until it is done, or stop it first "
                f"(lock file {path})."
            )
        time.sleep(_PAUSE)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # Of no use to anybody but a reader of the message above.
        write_atomically(
            holder, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _holder(path: Path) -> str:
    try:
        found = json.loads(_holder_file(path).read_text())
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
