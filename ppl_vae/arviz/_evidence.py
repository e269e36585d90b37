"""Estimates of log p(x) as DataTrees, and back."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_vae.evidence import OPTIONAL, PER_DATUM, Evidence, checksum
from ppl_vae.identity import Identity
from ppl_vae.netcdf import (
    Attribute,
    Variable,
    names_of,
    numpy_of,
    tree_of,
)

if TYPE_CHECKING:
    from arviz_stats import ELPDData


def evidence_from_datatree(tree: xr.DataTree) -> Evidence:
    """The estimate that a tree was made of by its ``to_datatree``.

    Raises:
        ValueError: If the tree holds no group ``evidence`` by datum, or other values than those
            that it was made with.
    """
    group = tree.children["evidence"].to_dataset() if "evidence" in tree.children else xr.Dataset()
    if "log_prob" not in group or group["log_prob"].dims != ("datum",):
        raise ValueError(
            f"expected a tree with a group 'evidence' by datum, got groups {list(tree.children)}: "
            "make it by to_datatree of an estimate."
        )
    names = [*PER_DATUM, *(name for name in OPTIONAL if name in group)]
    return evidence_from_values({n: torch.tensor(group[n].to_numpy()) for n in names}, group.attrs)


def evidence_from_values(tensors: Mapping[str, Tensor], attributes: Mapping[str, Any]) -> Evidence:
    """An estimate from what a file or a tree holds of it.

    Args:
        tensors: Name to values of each datum.
        attributes: What is beside them.

    Raises:
        ValueError: If something is missing, or not what was written.
    """
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
            "support_gap": attributes.get("support_gap"),
            "advice": str(attributes["advice"]),
        }
        found = None if identity is None else Identity.from_dict(json.loads(str(identity)))
        written = str(attributes["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no whole estimate of log p(x): {error}") from error
    attrs = {name: value for name, value in plain.items() if value is not None}
    if identity is not None:
        attrs["identity"] = str(identity)
    if checksum(tensors, attrs) != written:
        raise ValueError("the values are not those that were written (SHA-256 differs).")
    values: dict[str, Any] = {**tensors, **plain}
    return Evidence(**values, identity=found)


def evidence_to_elpd(
    evidence: Evidence, *, datum_names: Sequence[str | int] | None = None
) -> "ELPDData":
    """Pointwise log p(x_i) as what ``arviz_stats.compare`` takes: a sum over data with its error.

    For data that the model was not trained on, log p(x_i) is itself the log predictive density that
    leave-one-out cross-validation approximates, so that nothing is left out and there is no number
    of effective parameters (p is NaN). ``elpd`` is the sum over the data in nats, ``se`` the
    standard error of that sum for the population, ``elpd_i`` the values, (datum,). ``warning`` is
    set where the evidence has one. Its kind is ``log_evidence``: ArviZ refuses to compare it with
    leave-one-out estimates, which are of something else.

    Args:
        evidence: Of test data, the same for all models to be compared.
        datum_names: Coordinates of the data; 0, 1, ... if not given.

    Raises:
        ValueError: If the names are not as many as the estimates.

    References:
        Vehtari, Gelman and Gabry, 2017, Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC.
    """
    # Brings scipy.stats along, two seconds of a command that does not compare.
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
) -> xr.DataTree:
    """Estimates of log p(x) by several arms, each over the same seeds and data.

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
    return tree_of({"evidence": variables}, _method(first[0]), coords)


def _method(evidence: Evidence) -> dict[str, Attribute]:
    return {
        "method": evidence.method,
        "direction": evidence.direction,
        "num_particles": evidence.num_particles,
    }
