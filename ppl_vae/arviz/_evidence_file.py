"""Estimates of log p(x) read from a file at once, without a tree."""

import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ppl_vae.arviz._evidence import evidence_from_values
from ppl_vae.evidence import OPTIONAL, PER_DATUM, Evidence


def load_evidence(path: str | os.PathLike[str]) -> Evidence:
    """What ``evidence_from_datatree(load_netcdf(path))`` gives, an order of magnitude sooner.

    For those who read the files of a thousand runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF-4 file of an estimate, a part of one, or not as it was
            written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: write one with save_netcdf.")
    return read_evidence(path.read_bytes(), str(path))


def read_evidence(content: bytes, where: str) -> Evidence:
    """The estimate in a file that has been read.

    Args:
        content: Of the file.
        where: Its name, for messages.

    Raises:
        ValueError: As :func:`load_evidence`.
    """
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            group = file["evidence"]
            names = [*PER_DATUM, *(name for name in OPTIONAL if name in group)]
            values = {name: torch.from_numpy(group[name][:]) for name in names}
            attributes = {name: _plain(value) for name, value in group.attrs.items()}
        return evidence_from_values(values, attributes)
    # HDF5 reports a damaged file by an exception of any of these kinds.
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where} is no whole file of log p(x): {reason}: delete it to compute it anew."
        ) from error


def _plain(value: Any) -> Any:
    """An attribute, which is an array of one entry where xarray wrote a number."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
