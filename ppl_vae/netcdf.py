"""DataTrees in netCDF files."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from ppl_vae.files import require_content, write_atomically


def save_netcdf(tree: xr.DataTree, path: Path | str) -> None:
    """Write a tree to a netCDF-4 file; on failure an earlier file at ``path`` stays whole.

    Raises:
        OSError: If the file cannot be written.
    """
    write_atomically(Path(path), netcdf_bytes(tree))


def netcdf_bytes(tree: xr.DataTree) -> bytes:
    """The content of a netCDF-4 file."""
    return bytes(tree.to_netcdf(engine="h5netcdf"))


def load_netcdf(path: Path | str) -> xr.DataTree:
    """Read a tree from a netCDF-4 file into memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF-4 file, or a part of one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}: write one with save_netcdf.")
    with _whole(path):
        size = _declared(Path(path))
    require_content(Path(path), size)
    with _whole(path):
        return xr.load_datatree(path, engine="h5netcdf")


@contextmanager
def _whole(path: Path | str) -> Iterator[None]:
    """Name a file that cannot be read."""
    try:
        yield
    except PermissionError:
        raise
    # HDF5 and its readers raise whatever they come upon in a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole netCDF-4 file: {reason}") from error


def _declared(path: Path) -> int:
    """Bytes of all variables of a file, which need not be in it."""
    sizes: list[int] = []

    def add(_name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            sizes.append(math.prod(found.shape or ()) * max(found.dtype.itemsize, 1))

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return sum(sizes)
