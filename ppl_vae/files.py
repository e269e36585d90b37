"""Writing files so that a reader finds the old one or the new one, never a part of one."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A hidden file's name with a suffix, and the eight characters that mkstemp adds.
_TEMPORARY = re.compile(r"\..+\.[a-z]+\.[a-z0-9_]{8}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to a temporary file beside ``path``, then rename it into place.

    Whatever goes wrong (a full disk, an interruption), an earlier file at ``path`` stays whole
    and nothing else is left behind.

    Raises:
        OSError: If the file cannot be written; names ``path`` and says why.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write to inside, which then takes the place of ``path``.

    Raises:
        OSError: As :func:`write_atomically`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private to their owner; give this one what open() would have given.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}; an earlier file is untouched",
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of this module that a killed process left in a folder."""
    return [path for path in folder.glob(".*") if _TEMPORARY.fullmatch(path.name)]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
