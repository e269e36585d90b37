"""Estimates of log p(x) from trees and files, and estimates and ranks in ArviZ's form."""

import importlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.evidence import OPTIONAL, PER_DATUM, Evidence, checksum
from ppl_vae.files import not_a_file
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable, names_of, numpy_of, tree_of

if TYPE_CHECKING:
    import xarray as xr
    from arviz_stats import ELPDData

    from ppl_vae.diagnostics import Calibration

_COLUMNS = 4
_PANEL = 2.4, 2.0
"""Width and height of a panel, in inches."""


def evidence_from_datatree(tree: "xr.DataTree") -> Evidence:
    """Read the estimate that a tree was made of by its ``to_datatree``.

    Raises:
        ValueError: If the tree holds no group ``evidence`` by datum, or other values than those
            that it was made with.
    """
    import xarray as xr

    group = tree.children["evidence"].to_dataset() if "evidence" in tree.children else xr.Dataset()
    if "log_prob" not in group or group["log_prob"].dims != ("datum",):
        raise ValueError(
            f"expected a tree with a group 'evidence' by datum, got groups {list(tree.children)}: "
            "make it by to_datatree of an estimate."
        )
    names = [*PER_DATUM, *(name for name in OPTIONAL if name in group)]
    return _from_values({n: torch.tensor(group[n].to_numpy()) for n in names}, group.attrs)


def load_evidence(path: str | os.PathLike[str]) -> Evidence:
    """Read an estimate from its file, a tenth of the time that ``load_netcdf`` and a tree take.

    A study reads the files of a thousand runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF-4 file of an estimate, a part of one, or not as it was
            written.
    """
    path = Path(path)
    if not path.is_file():
        raise not_a_file(path, f"no file at {path}: write one with save_netcdf.")
    return read_evidence(path.read_bytes(), str(path))


def read_evidence(content: bytes, where: str) -> Evidence:
    """Read the estimate in the content of a file.

    Args:
        content: Content of the file.
        where: Name of the file, for messages.

    Raises:
        ValueError: As :func:`load_evidence`.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            group = file["evidence"]
            names = [*PER_DATUM, *(name for name in OPTIONAL if name in group)]
            values = {name: torch.from_numpy(group[name][:]) for name in names}
            # Where xarray wrote a number, the attribute is an array of one entry.
            attributes = {
                name: value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
                for name, value in group.attrs.items()
            }
        return _from_values(values, attributes)
    # HDF5 reports a damaged file by an exception of any of these kinds.
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where} is no whole file of log p(x): {reason}: delete it to compute it anew."
        ) from error


def _from_values(tensors: Mapping[str, Tensor], attributes: Mapping[str, Any]) -> Evidence:
    """Check values and attributes against the hash among these, and make the estimate."""
    try:
        identity = attributes.get("identity")
        plain: dict[str, Any] = {
            "num_particles": int(attributes["num_particles"]),
            "direction": str(attributes["direction"]),
            "method": str(attributes["method"]),
            "seconds": float(attributes["seconds"]),
            "highest_pareto_k": float(attributes["highest_pareto_k"]),
            "least_effective": float(attributes["least_effective"]),
            "gap": float(attributes["gap"]) if "gap" in attributes else None,
            "shared_error": (
                float(attributes["shared_error"]) if "shared_error" in attributes else None
            ),
            "support_gap": attributes.get("support_gap"),
            "advice": str(attributes["advice"]),
        }
        source = None if identity is None else Identity.from_dict(json.loads(str(identity)))
        written = str(attributes["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no whole estimate of log p(x): {error}") from error
    attrs = {name: value for name, value in plain.items() if value is not None}
    # The hash is of the identity's text as it was written, before it was parsed.
    if identity is not None:
        attrs["identity"] = str(identity)
    if checksum(tensors, attrs) != written:
        raise ValueError("the values are not those that were written (SHA-256 differs).")
    values: dict[str, Any] = {**tensors, **plain}
    return Evidence(**values, identity=source)


def evidence_to_elpd(
    evidence: Evidence, *, datum_names: Sequence[str | int] | None = None
) -> "ELPDData":
    """Convert pointwise log p(x_i) for ``arviz_stats.compare``: a sum over data with its error.

    For data that the model was not trained on, log p(x_i) is itself the log predictive density that
    leave-one-out cross-validation approximates, so that nothing is left out and there is no number
    of effective parameters (p is NaN). ``elpd`` is the sum over the data in nats, ``se`` the
    standard error of that sum for the population, ``elpd_i`` the values, (datum,). ``warning`` is
    set where the evidence has one. Its kind is ``log_evidence``: ArviZ refuses to compare it with
    leave-one-out estimates, which are of something else.

    Args:
        evidence: Estimates for test data, the same for all models to be compared.
        datum_names: Coordinates of the data; 0, 1, ... if not given.

    Raises:
        ValueError: If the names are not as many as the estimates.

    References:
        Vehtari, Gelman and Gabry, 2017, Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC.
    """
    # Imported here: it imports scipy.stats, two seconds for a command that does not compare.
    import xarray as xr
    from arviz_stats import ELPDData

    count = len(evidence)
    coords = {"datum": list(names_of("datum_names", datum_names, count))}
    pointwise = {
        name: xr.DataArray(numpy_of(values), coords=coords, dims=["datum"], name=name)
        for name in ("log_prob", "pareto_k")
        if (values := getattr(evidence, name)) is not None
    }
    return ELPDData(
        kind="log_evidence",
        elpd=count * evidence.mean,
        se=count * evidence.total_error,
        p=math.nan,
        n_samples=evidence.num_particles,
        n_data_points=count,
        scale="log",
        warning=evidence.warning is not None,
        good_k=evidence.pareto_threshold,
        elpd_i=pointwise["log_prob"],
        pareto_k=pointwise.get("pareto_k"),
    )


def comparison_to_datatree(
    evidence: Mapping[str, Sequence[Evidence]],
    *,
    seeds: Sequence[int] | None = None,
    datum_names: Sequence[str | int] | None = None,
) -> "xr.DataTree":
    """Make a tree of log p(x) by several arms, each over the same seeds and data.

    A group ``evidence`` with log_prob, standard_error (nats) and effective_sample_size, dimensions
    (arm, seed, datum).

    Raises:
        ValueError: If there are no arms, or they differ in their seeds or data.
    """
    sizes = {arm: [len(result) for result in results] for arm, results in evidence.items()}
    if len({tuple(size) for size in sizes.values()}) != 1 or not next(iter(sizes.values())):
        raise ValueError(f"arms need the same seeds and data, got data per seed {sizes}.")
    variables: dict[str, Variable] = {
        name: (
            ["arm", "seed", "datum"],
            np.stack(
                [[numpy_of(getattr(cell, name)) for cell in arm] for arm in evidence.values()]
            ),
        )
        for name in PER_DATUM
    }
    first = next(iter(evidence.values()))
    coords = {
        "arm": list(evidence),
        "seed": names_of("seeds", seeds, len(first)),
        "datum": names_of("datum_names", datum_names, len(first[0])),
    }
    attrs = {name: getattr(first[0], name) for name in ("method", "direction", "num_particles")}
    return tree_of({"evidence": variables}, attrs, coords)


def arviz_plots_works() -> bool:
    """Check whether the extra ``plots`` is installed and can be imported."""
    try:
        _arviz_plots()
    except ImportError:
        return False
    return True


def plot_ranks(calibration: "Calibration", *, count: int = 12, probability: float = 0.99) -> Any:
    """Plot ``arviz_plots.plot_ecdf_pit`` of the dimensions that look least calibrated.

    Each panel is a latent dimension: the ECDF of its ranks minus that of uniform ones, and the band
    that holds all of it with the given probability if that dimension is calibrated. A band is of
    one dimension: where the worst of many are shown, a line that just touches it is no surprise.
    ``Calibration.findings`` takes account of how many there are.

    Args:
        calibration: Calibration with its ranks.
        count: Number of dimensions to show, those with the smallest p-values.
        probability: Probability of each band.

    Raises:
        ImportError: If arviz-plots is not installed; names the extra.

    References:
        Säilynoja, Bürkner and Vehtari, 2022, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison.
    """
    arviz_plots = _arviz_plots()
    worst = sorted(calibration.tests, key=lambda test: min(test.p_values.values()))[:count]
    names = [test.name for test in worst]
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    drawn = arviz_plots.plot_ecdf_pit(
        calibration.to_datatree(),
        var_names=names,
        ci_prob=probability,
        backend="matplotlib",
        col_wrap=columns,
        figure_kwargs={"figsize": (columns * _PANEL[0], rows * _PANEL[1] + 0.5)},
    )
    figure = drawn.viz["figure"].item()
    figure.set_layout_engine("constrained")
    # The figure is one of pyplot's, which would keep it in memory until it is closed.
    importlib.import_module("matplotlib.pyplot").close(figure)
    return figure


def _arviz_plots() -> Any:
    """Import arviz-plots, only when a figure is drawn, since it takes seconds.

    Raises:
        ImportError: If it is not installed, or not for this matplotlib.
    """
    try:
        return importlib.import_module("arviz_plots")
    except (ImportError, AttributeError) as error:  # 0.8 needs a name that matplotlib 3.11 dropped
        raise ImportError(
            f"ArviZ's figures need arviz-plots ({error}): pip install 'ppl_vae[plots]'."
        ) from error
