"""Rows that come one after another, put into a temporary file from which any can be read."""

import os
import tempfile
from collections.abc import Iterable

import numpy as np

MAPPED = 2**28
"""Bytes of a file's content from which it is mapped: below, to read it once is quicker."""


def spool(parts: Iterable[np.ndarray], what: str) -> np.ndarray:
    """Write rows to a temporary file and map it to memory.

    Batches take rows in an order of their own, which a stream or a compressed file cannot give:
    each of their rows would have all before it unpacked again. The file has no name, is in the
    folder of temporary files (``TMPDIR``), and is gone when nothing refers to the array.

    Args:
        parts: Arrays of rows, all of one type and one shape but for the number of rows.
        what: Where they come from, for messages.

    Returns:
        The rows as one array, which cannot be written to.

    Raises:
        ValueError: If there are no rows, or they differ in shape or type.
        OSError: If the disk is full.
    """
    first: np.ndarray | None = None
    rows = 0
    with tempfile.TemporaryFile(prefix="ppl_vae-") as file:
        for part in parts:
            first = part[:0].copy() if first is None else first
            if (part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]):
                raise ValueError(
                    f"{what}: rows are {first.dtype} of shape {first.shape[1:]} and, from row "
                    f"{rows} on, {part.dtype} of shape {part.shape[1:]}: give all alike."
                )
            try:
                file.write(np.ascontiguousarray(part).data)
            except OSError as error:
                raise _no_room(error, what) from error
            rows += len(part)
        if first is None or not rows:
            raise ValueError(f"{what} holds no data: give at least one row.")
        try:
            file.flush()
        except OSError as error:
            raise _no_room(error, what) from error
        # The mapping keeps the content alive after the file is closed.
        return np.memmap(file, first.dtype, "r", shape=(rows, *first.shape[1:]))


def _no_room(error: OSError, what: str) -> OSError:
    return OSError(
        error.errno,
        f"{what}: no room for its rows in the temporary folder {tempfile.gettempdir()}: set the "
        "environment variable TMPDIR to a folder on a larger disk "
        f"({os.strerror(error.errno or 0)})",
    )
