"""One process at a time in a folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ppl_vae.files import write_atomically


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
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"{what} is in use by {_holder(path)}: wait until it is done, or stop it first "
            f"(lock file {path})."
        ) from None
    holder = _holder_file(path)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # Of no use to anybody but a reader of the message above.
        write_atomically(
            holder, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _holder(path: Path) -> str:
    try:
        found = json.loads(_holder_file(path).read_text())
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
