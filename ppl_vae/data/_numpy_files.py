"""Arrays of .npy and .npz files: in memory, or mapped where they are large."""

import errno
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ppl_vae.data import _spool
from ppl_vae.files import require_content

_PART = 2**24
"""Bytes unpacked at once."""
_LOCAL_HEADER = struct.Struct("<26xHH")
"""Header before a file in an archive: the lengths of its name and of the extra field are last
(PKWARE, 2022, .ZIP file format specification, 4.3.7)."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npy or .npz file by name; of a large file, mapped to memory.

    Compressed arrays of a large file are unpacked to a temporary one, some rows at a time.

    Raises:
        ValueError: If the file is broken or holds Python objects.
    """
    unpacked = 0
    try:
        with zipfile.ZipFile(path) as packed:
            # Sizes are stated in the archive: too large a content is refused before it is unpacked.
            unpacked = sum(entry.file_size for entry in packed.infolist())
    except (ValueError, OSError, NotImplementedError, struct.error, zipfile.BadZipFile):
        # A .npy file, or a damaged one, which NumPy reports below.
        pass
    require_content(path, unpacked)
    try:
        if (unpacked or path.stat().st_size) > _spool.MAPPED:
            return _large_archive(path) if unpacked else {path.stem: _large_array(path)}
        with path.open("rb") as file:
            # Unpickling would run whatever code the file holds.
            loaded = np.load(file, allow_pickle=False)
            return {path.stem: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    # NumPy raises whatever it comes upon in a damaged header.
    except Exception as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: holds Python objects, expected an array of numbers: convert it with "
                "x.astype('float32') and save it again"
            ) from error
        # The disk is full: nothing is wrong with the file.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise ValueError(
            f"{path}: not a readable NumPy file (corrupt or cut short): save or copy it again"
        ) from error


def _large_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return _map(path, 0, *_read_header(file))


def _map(
    path: Path, offset: int, start: int, dtype: np.dtype, shape: tuple[int, ...], order: str
) -> np.ndarray:
    """An array of a file, whose values start ``start`` after ``offset``."""
    mapped: np.ndarray = np.memmap(path, dtype, "r", offset + start, shape, order)  # type: ignore[call-overload]
    return mapped


def _large_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive: mapped where they are stored as they are, else unpacked."""
    arrays = {}
    with zipfile.ZipFile(path) as packed, path.open("rb") as file:
        for entry in packed.infolist():
            name = entry.filename.removesuffix(".npy")
            with packed.open(entry) as content:
                header = _, dtype, shape, order = _read_header(content)
                if order == "C" and 0 not in shape and entry.compress_type != zipfile.ZIP_STORED:
                    arrays[name] = _spool.spool(_parts(content, dtype, shape), f"{path}, {name}")
                    continue
            if entry.compress_type == zipfile.ZIP_STORED and 0 not in shape:
                file.seek(entry.header_offset)
                lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                offset = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
                arrays[name] = _map(path, offset, *header)
            else:
                # Columns first: a row lies all over the content, and none can be unpacked alone.
                with packed.open(entry) as content:
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return arrays


def _read_header(content: IO[bytes]) -> tuple[int, np.dtype, tuple[int, ...], str]:
    """Length of the header of an array's file, type, shape and order ("C" or "F")."""
    version = np.lib.format.read_magic(content)
    read = (
        np.lib.format.read_array_header_1_0 if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )  # fmt: skip
    shape, columns_first, dtype = read(content)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    return content.tell(), dtype, shape, "F" if columns_first else "C"


def _parts(content: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    width = int(np.prod(shape[1:])) * dtype.itemsize
    rows = max(1, _PART // max(1, width))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        raw = content.read(count * width)
        yield np.frombuffer(raw, dtype).reshape(count, *shape[1:])
