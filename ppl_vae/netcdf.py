"""DataTrees in netCDF files."""

from pathlib import Path

import xarray as xr

from ppl_vae.files import write_atomically


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
    try:
        return xr.load_datatree(path, engine="h5netcdf")
    except PermissionError:
        raise
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole netCDF-4 file: {reason}") from error
