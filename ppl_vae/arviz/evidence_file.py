"""Estimates of log p(x) read from a file at once, without a tree."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ppl_vae.arviz.evidence import OPTIONAL, PER_DATUM
from ppl_vae.evidence import Evidence


def load_evidence(path: Path | str) -> Evidence:
    """What ``evidence_from_datatree(load_netcdf(path))`` gives, an order of magnitude sooner.

    For those who read the files of a thousand runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF-4 file of an estimate, or a part of one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}: write one with save_netcdf.")
    try:
        with h5py.File(path, "r") as file:
            group = file["evidence"]
            names = [*PER_DATUM, *(name for name in OPTIONAL if name in group)]
            values: dict[str, Any] = {name: torch.from_numpy(group[name][:]) for name in names}
            attributes = {name: _plain(value) for name, value in group.attrs.items()}
        return Evidence(
            **values,
            num_particles=int(attributes["num_particles"]),
            direction=attributes["direction"],
            method=str(attributes["method"]),
            seconds=float(attributes["seconds"]),
            highest_pareto_k=float(attributes["highest_pareto_k"]),
            least_effective=float(attributes["least_effective"]),
            gap=float(attributes["gap"]) if "gap" in attributes else None,
            advice=str(attributes["advice"]),
        )
    except PermissionError:
        raise
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no whole file of log p(x): {reason}") from error


def _plain(value: Any) -> Any:
    """An attribute, which is an array of one entry where xarray wrote a number."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
