"""Atomic writes and locks: a reader finds the old file or the new one, a writer is alone."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

_PREFIX, _SUFFIX = ".ppl_vae-", ".tmp"
_TEMPORARY = re.compile(r"\.ppl_vae-[a-z0-9_]{8}\.tmp")
"""Names of temporary folders: of this package alone, so that they may be removed."""
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""Errors of file systems that cannot write a folder to the disk."""
# Direction marks can make a text look as if it said something else.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Control characters but tab and line break, and those that change the direction of text."""
_IN_A_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\:*?\"<>|]+")
_LONGEST_NAME = 100
_CONTENT, _RATIO = 1 << 28, 100
_PAUSE = 0.05
"""Seconds between two attempts to take a lock."""


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, where they are not there; they survive a power cut.

    Raises:
        NotADirectoryError: If a file is in its place, or in that of a folder above it.
        OSError: If it cannot be made.
    """
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in new:
            _sync_folder(each.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} cannot be made: a file is in the place of a folder: name another folder."
        ) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to a temporary file beside ``path``, then rename it into place.

    Whatever goes wrong (a full disk, an interruption), an earlier file at ``path`` stays complete
    and nothing else is left behind. A symbolic link at ``path`` is replaced, never written through.

    Raises:
        OSError: If the file cannot be written; names ``path`` and says why.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file to write to, which then takes the place of ``path``.

    Raises:
        OSError: As :func:`write_atomically`.
    """
    try:
        make_folder(path.parent)
        # Beside the file: a rename is atomic within one file system only.
        with temporary_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            # Content first: a rename that reaches the disk before it would leave a file cut short.
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}; an earlier file is untouched",
        ) from error
    _sync_folder(path.parent)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder inside ``parent`` and remove it afterwards; remove those of killed processes.

    Raises:
        OSError: If it cannot be made.
    """
    remove_leftovers(parent)
    # Made again where another writer took it for abandoned before it was locked.
    while (lock := _locked(folder := Path(tempfile.mkdtemp(_SUFFIX, _PREFIX, parent)))) is None:
        pass
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """Lock a new folder; return the descriptor, or None where another process removed the folder.

    The system frees the lock when the process ends, however it ends: where it is free, the owner is
    dead. Between the making of a folder and its lock another process may take it for abandoned.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Looked at under the lock: from here on nobody removes it.
    if folder.exists():
        return descriptor
    os.close(descriptor)
    return None


@contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path``, or raise an error that says who holds it.

    The operating system lets go of the lock when the process ends, however it ends. Who holds it
    stands beside it, in ``path`` with ``.holder`` at its end.

    Args:
        path: The lock file; it stays there.
        what: Name of what is locked, for the message, such as ``study results/objectives``.
        wait: Seconds to wait for a process that is about to end.

    Raises:
        BlockingIOError: If another process holds it; says which.
        OSError: If the file cannot be written.
    """
    make_folder(path.parent)
    # O_CLOEXEC: a program started here must not inherit the descriptor, and with it the lock, and
    # keep it when this process has ended.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    holder, end = path.with_name(f"{path.name}.holder"), time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                raise BlockingIOError(
                    f"{what} is in use by {_describe_holder(holder)}: wait until it is done, or "
                    f"stop it first (lock file {path})."
                ) from None
        time.sleep(_PAUSE)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # Not part of the lock: it serves the message above only.
        write_atomically(
            holder, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        )
        yield
    finally:
        # While the lock is still held, or it would remove the next holder's. The lock file stays:
        # whoever waits has it open, and would lock a file without a name.
        holder.unlink(missing_ok=True)
        os.close(descriptor)


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file, which is made if it is not there.

    Raises:
        OSError: If it cannot be written, or ``path`` is a symbolic link; names ``path`` and says
            why.
    """
    # O_NOFOLLOW refuses a link without a gap between looking and opening.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o666)
        with os.fdopen(descriptor, "a", newline="") as file:
            file.write(text)
    except OSError as error:
        reason = f"could not write {path}: {error.strerror or error}"
        if error.errno == errno.ELOOP:
            reason = f"{path} is a symbolic link, which is not written through: remove it"
        raise OSError(error.errno, reason) from error


def not_a_file(path: Path, message: str) -> OSError:
    """The error for a file that is not there, with this message unless a folder is in its place."""
    if path.is_dir():
        reason = "is a folder, a file is expected: move the folder away, or name another"
        return IsADirectoryError(f"{path} {reason}.")
    return FileNotFoundError(message)


def leftovers(folder: Path) -> list[Path]:
    """Temporary folders of this module whose process is dead."""
    return [path for path in _temporary_names(folder) if _is_abandoned(path)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of this module whose process is dead."""
    for path in _temporary_names(folder):
        _is_abandoned(path, remove=True)


def require_file_name(what: str, name: str) -> None:
    """Check that a name can be a part of a file's name, and stays in its folder.

    Raises:
        ValueError: If it is empty, long, or holds a separator or what file systems refuse.
    """
    if not _IN_A_NAME.fullmatch(name) or len(name) > _LONGEST_NAME or name.startswith("."):
        raise ValueError(
            f"{what} {printable(name[:_LONGEST_NAME])!r} is part of a file's name: take 1 to "
            rf'{_LONGEST_NAME} characters without / \ : * ? " < > | and no dot at the start.'
        )


def largest_content(path: Path) -> int:
    """Bytes that a compressed file may hold: 256 MiB, or 100 times its size if that is more."""
    return max(_CONTENT, _RATIO * path.stat().st_size)


def require_content(path: Path, size: int) -> None:
    """Check how many bytes a compressed file holds before they are read.

    Raises:
        ValueError: If they are more than :func:`largest_content`.
    """
    if size > largest_content(path):
        raise ValueError(
            f"{path}: holds {size:,} bytes or more when unpacked, which is over {_RATIO} times its "
            "size: write it without compression if it is meant."
        )


def printable(text: str) -> str:
    """Remove control characters, which could change the terminal that the text is printed on."""
    return _UNPRINTABLE.sub("", text)


def _temporary_names(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        # The whole name is matched, so that no other program's files are taken for these.
        return [folder / each.name for each in entries if _TEMPORARY.fullmatch(each.name)]


def _is_abandoned(path: Path, *, remove: bool = False) -> bool:
    """Whether no process holds the temporary folder; it may be removed under its lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, so that a rename survives a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise OSError(
                error.errno, f"could not write {folder} to the disk: {error.strerror or error}"
            ) from error
