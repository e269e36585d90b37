"""Results as xarray DataTrees in ArviZ's schema."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from arviz_base import dict_to_dataset
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.diagnostics import Calibration
from ppl_vae.evidence import Evidence
from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import effective_sample_size, normalized_weights

Variable = tuple[Sequence[str], NDArray[Any]]
"""Dimension names and values."""

Attribute = str | int | float
"""What netCDF can keep as an attribute."""

_Groups = dict[str, dict[str, Variable]]
_Draws = dict[str, dict[str, Tensor]]
"""Group to variables of shape (particles, num_data, ...)."""

_ROWS = 10_000
"""Particles times data decoded at once."""

_PER_DATUM = ("log_prob", "standard_error", "effective_sample_size")
_OPTIONAL = ("pareto_k", "tail_share", "evaluations")

_WEIGHTED = (
    "Draws from the guide q(z|x): for posterior expectations weight them, for each datum, by the "
    "softmax of sample_stats.log_weight over chains and draws."
)
_RESAMPLED = (
    "Draws from the guide q(z|x), drawn anew for each datum with probabilities softmax(log_weight):"
    " approximate posterior draws of equal weight, with copies; sample_stats.effective_sample_size"
    " counts how many draws they are worth."
)


def particles_to_datatree(
    model: Program,
    guide: Program,
    x: Float[Tensor, "num_data *event"],
    *,
    num_particles: int = 1000,
    chains: int = 4,
    resample: bool = False,
    device: torch.device | str | None = None,
    seed: int | None = 0,
    max_plate_nesting: int = 1,
    datum_names: Sequence[str | int] | None = None,
) -> xr.DataTree:
    """Draws of the latents with their log-weights, for ArviZ.

    Groups, all log-densities in nats:

    - posterior: each latent site, dimensions (chain, draw, datum, latent). With one latent site the
      last dimension is called ``latent``; with several, or where the site itself is called so,
      ``<site>_dim``. Draws are from the guide and carry weights (below).
    - log_likelihood: log p(x|z) under the observed site's name, (chain, draw, datum).
    - sample_stats: log_weight ``log p(x|z) + log p(z) - log q(z|x)``, (chain, draw, datum), and
      effective_sample_size of the weights, (datum,), between 1 and num_particles.
    - observed_data: x, (datum, feature).

    Posterior expectations need weights ``v_k = softmax(log_weight)`` over the draws of a datum.
    With ``resample`` (sampling-importance-resampling) each datum's draws are drawn anew with
    probabilities v_k, so that they are posterior draws of equal weight as num_particles grows;
    log_likelihood and log_weight move along with them. Tools that take draws as independent then
    count copies too: go by effective_sample_size.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        num_particles: K, draws per datum over all chains.
        chains: How many chains the independent draws are cut into; divides num_particles.
        resample: Draw anew with the weights.
        device: Where to compute; the data's device if not given.
        seed: Of the draws; ``None`` uses the caller's random state.
        max_plate_nesting: Plate dimensions the programs use, the data plate included.
        datum_names: Coordinates of the data; 0, 1, ... if not given.

    Raises:
        ValueError: If there are no data, chains does not divide num_particles, names do not match
            the data or the tree's dimensions, or a log-density is not finite (names the site).

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
    """
    if chains < 1 or num_particles < 1 or num_particles % chains:
        raise ValueError(
            f"chains must divide num_particles, got chains={chains} and "
            f"num_particles={num_particles}."
        )
    if len(x) == 0:
        raise ValueError("x holds no data: a tree of draws needs at least one datum.")
    device = x.device if device is None else torch.device(device)
    with torch.no_grad(), seeded(seed, Stream.EVALUATION):
        draws = _join(
            _draw(model, guide, part.to(device), num_particles, max_plate_nesting)
            for part in x.split(max(1, _ROWS // num_particles))
        )
        log_weight = draws["sample_stats"]["log_weight"]
        if resample:
            draws = _resample(draws, log_weight)
    groups = _by_chain(draws, chains)
    ess = effective_sample_size(log_weight)
    groups["sample_stats"]["effective_sample_size"] = (["datum"], _numpy(ess))
    groups["observed_data"] = {name: _observed(x) for name in draws["log_likelihood"]}
    attrs: dict[str, Attribute] = {
        "num_particles": num_particles,
        "resampled": int(resample),
        "seed": "none" if seed is None else seed,
        "note": _RESAMPLED if resample else _WEIGHTED,
    }
    return _tree(groups, attrs, {"datum": _names("datum_names", datum_names, len(x))})


def evidence_to_datatree(
    evidence: Evidence,
    x: Float[Tensor, "num_data *event"] | None = None,
    *,
    datum_names: Sequence[str | int] | None = None,
) -> xr.DataTree:
    """Estimates of log p(x) as a group ``evidence``, and the data as ``observed_data``.

    The group holds log_prob, standard_error (nats) and effective_sample_size, (datum,), and, where
    the estimator gave them, pareto_k and the decoder evaluations of each datum. Its
    attributes say how they were made and what they come to: method, direction, num_particles,
    seconds, mean, monte_carlo_error, data_error, total_error, and warning ("" if there is none).

    Raises:
        ValueError: If x or the names are not as many as the estimates.
    """
    if x is not None and len(x) != len(evidence):
        raise ValueError(f"x must hold the {len(evidence)} data of the evidence, got {len(x)}.")
    groups: _Groups = {
        "evidence": {
            name: (["datum"], _numpy(values))
            for name in (*_PER_DATUM, *_OPTIONAL)
            if (values := getattr(evidence, name)) is not None
        }
    }
    if x is not None:
        groups["observed_data"] = {"x": _observed(x)}
    attrs: dict[str, Attribute] = {
        **_method(evidence),
        "seconds": evidence.seconds,
        "mean": evidence.mean,
        "monte_carlo_error": evidence.monte_carlo_error,
        "data_error": evidence.data_error,
        "total_error": evidence.total_error,
        "warning": evidence.warning or "",
        "advice": evidence.advice,
        **({} if evidence.gap is None else {"gap": evidence.gap}),
    }
    return _tree(groups, attrs, {"datum": _names("datum_names", datum_names, len(evidence))})


def evidence_from_datatree(tree: xr.DataTree) -> Evidence:
    """What :func:`evidence_to_datatree` was given.

    Raises:
        ValueError: If the tree holds no group ``evidence`` by datum.
    """
    group = tree.children["evidence"].to_dataset() if "evidence" in tree.children else xr.Dataset()
    if "log_prob" not in group or group["log_prob"].dims != ("datum",):
        raise ValueError(
            f"expected a tree with a group 'evidence' by datum, got groups {list(tree.children)}: "
            "make it with evidence_to_datatree."
        )
    names = [*_PER_DATUM, *(name for name in _OPTIONAL if name in group)]
    values = {name: torch.tensor(group[name].to_numpy()) for name in names}
    return Evidence(
        **values,
        num_particles=int(group.attrs["num_particles"]),
        direction=group.attrs["direction"],
        method=str(group.attrs["method"]),
        seconds=float(group.attrs["seconds"]),
        gap=float(group.attrs["gap"]) if "gap" in group.attrs else None,
        advice=str(group.attrs["advice"]),
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
            np.stack([[_numpy(getattr(cell, name)) for cell in arm] for arm in evidence.values()]),
        )
        for name in _PER_DATUM
    }
    first = next(iter(evidence.values()))
    coords = {
        "arm": list(evidence),
        "seed": _names("seeds", seeds, len(first)),
        "datum": _names("datum_names", datum_names, len(first[0])),
    }
    return _tree({"evidence": variables}, _method(first[0]), coords)


def calibration_to_datatree(calibration: Calibration) -> xr.DataTree:
    """Simulation-based calibration as a group ``prior_sbc``, where ArviZ looks for it.

    Each latent dimension is a variable with (chain, draw): one chain, a draw a simulation, the
    normalised rank ``(rank + 1/2) / (L + 1)`` of z* among the guide's draws, uniform over (0, 1) if
    the guide is calibrated. Such a tree is what ``arviz_plots.plot_ecdf_pit`` takes. Attributes:
    num_simulations, num_draws, false_alarm, and calibrated (0 or 1).
    """
    names = zip(calibration.names, calibration.normalized_ranks.unbind(1), strict=True)
    attrs: dict[str, Attribute] = {
        "num_simulations": calibration.num_simulations,
        "num_draws": calibration.num_draws,
        "false_alarm": calibration.false_alarm,
        "calibrated": int(calibration.calibrated),
    }
    groups: _Groups = {
        "prior_sbc": {name: (["chain", "draw"], _numpy(r.unsqueeze(0))) for name, r in names}
    }
    return _tree(groups, attrs, {})


def _draw(
    model: Program, guide: Program, x: Tensor, num_particles: int, max_plate_nesting: int
) -> _Draws:
    particles = draw_particles(model, guide, x, num_particles, max_plate_nesting=max_plate_nesting)
    latents = particles.latents.items()
    observed = list(particles.likelihood)
    name = observed[0] if len(observed) == 1 else "x"
    return {
        "posterior": {site: _data_second(z, max_plate_nesting).cpu() for site, z in latents},
        "log_likelihood": {name: particles.log_likelihood.cpu()},
        "sample_stats": {"log_weight": particles.log_weight.cpu()},
    }


def _data_second(draws: Tensor, max_plate_nesting: int) -> Float[Tensor, "particles batch *event"]:
    """Plates left of the data's become event dimensions; those of size 1 are dropped."""
    particles, *plates, batch = draws.shape[: max_plate_nesting + 1]
    event = draws.shape[max_plate_nesting + 1 :]
    kept = [size for size in plates if size > 1]
    return draws.movedim(max_plate_nesting, 1).reshape(particles, batch, *kept, *event)


def _join(batches: Iterable[_Draws]) -> _Draws:
    parts = list(batches)
    return {
        group: {name: torch.cat([part[group][name] for part in parts], 1) for name in variables}
        for group, variables in parts[0].items()
    }


def _resample(draws: _Draws, log_weight: Float[Tensor, "particles num_data"]) -> _Draws:
    """Each datum's draws anew, with replacement; all variables of a draw stay together."""
    num_particles, num_data = log_weight.shape
    weights = normalized_weights(log_weight.double())
    index = torch.multinomial(weights.mT, num_particles, replacement=True).mT
    datum = torch.arange(num_data)
    return {
        group: {name: values[index, datum] for name, values in variables.items()}
        for group, variables in draws.items()
    }


def _by_chain(draws: _Draws, chains: int) -> _Groups:
    sample = ["chain", "draw", "datum"]
    sites = list(draws["posterior"])
    if clash := {*sites, *draws["log_likelihood"]} & {*sample, "feature"}:
        raise ValueError(f"site {clash.pop()!r} has a name that dimensions of the tree have.")
    return {
        group: {
            name: (
                [*sample, *_dimensions(_latent_dimension(name, sites), values.dim() - 2)],
                _numpy(values.unflatten(0, (chains, -1))),
            )
            for name, values in variables.items()
        }
        for group, variables in draws.items()
    }


def _latent_dimension(name: str, sites: Sequence[str]) -> str:
    return "latent" if len(sites) == 1 and name != "latent" else f"{name}_dim"


def _observed(x: Tensor) -> Variable:
    return ["datum", *_dimensions("feature", x.dim() - 1)], _numpy(x)


def _dimensions(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _method(evidence: Evidence) -> dict[str, Attribute]:
    return {
        "method": evidence.method,
        "direction": evidence.direction,
        "num_particles": evidence.num_particles,
    }


def _tree(
    groups: _Groups,
    attrs: Mapping[str, Attribute],
    coords: Mapping[str, Sequence[str | int]],
) -> xr.DataTree:
    """A tree of groups; dimensions without coordinates in ``coords`` count from 0.

    Every group carries all attributes, since it is often cut out of the tree. None holds a time:
    the same inputs give the same file.
    """
    attrs = {**attrs, **_versions()}
    tree = xr.DataTree(xr.Dataset(attrs=attrs))
    for group, variables in groups.items():
        # Not from_dict: there a variable's name fixes its dimensions in all groups at once.
        dataset = dict_to_dataset(
            {name: values for name, (_, values) in variables.items()},
            dims={name: list(dims) for name, (dims, _) in variables.items()},
            coords=dict(coords),
            sample_dims=[],
            index_origin=0,
            check_conventions=False,
        )
        dataset.attrs = attrs
        tree[group] = xr.DataTree(dataset)
    return tree


def _versions() -> dict[str, str]:
    return {
        "inference_library": "ppl_vae",
        "inference_library_version": importlib.metadata.version("ppl_vae"),
        "torch_version": importlib.metadata.version("torch"),
        "pyro_version": importlib.metadata.version("pyro-ppl"),
    }


def _names(what: str, names: Sequence[Any] | None, count: int) -> Sequence[Any]:
    if names is not None and len(names) != count:
        raise ValueError(f"{what} must name {count}, got {len(names)} names.")
    return range(count) if names is None else names


def _numpy(values: Tensor) -> NDArray[Any]:
    """As an array of a type that netCDF has: half precision becomes single."""
    values = values.detach().cpu()
    half = values.is_floating_point() and values.element_size() < 4
    array: NDArray[Any] = (values.float() if half else values).numpy()
    return array
