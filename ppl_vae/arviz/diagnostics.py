"""Diagnostics as DataTrees, one group each; an attribute says what each was computed from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
import xarray as xr

from ppl_vae.arviz.tree import (
    Attribute,
    Groups,
    Variable,
    identity_attribute,
    names_of,
    numpy_of,
    tree_of,
)
from ppl_vae.diagnostics import (
    BoundCurve,
    Calibration,
    Decomposition,
    ElboSurgery,
    Estimate,
    InferenceGap,
    MonteCarlo,
    PerDimension,
    RateDistortion,
)
from ppl_vae.randomness import Stream, generator

_ERRORS = ("monte_carlo_error", "total_error")


def calibration_to_datatree(calibration: Calibration) -> xr.DataTree:
    """Simulation-based calibration as a group ``prior_sbc``, where ArviZ looks for it.

    Each latent dimension is a variable with (chain, draw): one chain, a draw a simulation, the
    randomised rank ``(rank + u) / (L + 1)`` of z* among the guide's draws, u uniform over (0, 1)
    with a fixed seed: exactly uniform if the guide is calibrated, as ``arviz_plots.plot_ecdf_pit``
    takes it to be. Without u the steps of the ranks alone would leave its 99% band in 8% of the
    cases (1000 simulations, L = 99). Attributes: num_simulations, num_draws, false_alarm, and
    calibrated (0 or 1).
    """
    noise = torch.rand(
        calibration.ranks.shape, generator=generator(0, Stream.SAMPLING), dtype=torch.float64
    )
    values = (calibration.ranks + noise) / (calibration.num_draws + 1)
    names = zip(calibration.names, values.unbind(1), strict=True)
    attrs: dict[str, Attribute] = {
        "num_simulations": calibration.num_simulations,
        "num_draws": calibration.num_draws,
        "false_alarm": calibration.false_alarm,
        "calibrated": int(calibration.calibrated),
        **identity_attribute(calibration.identity),
    }
    groups: Groups = {
        "prior_sbc": {name: (["chain", "draw"], numpy_of(r.unsqueeze(0))) for name, r in names}
    }
    return tree_of(groups, attrs, {})


def decomposition_to_datatree(decomposition: Decomposition) -> xr.DataTree:
    """The ELBO's parts as a group ``decomposition``.

    value, monte_carlo_error and total_error by ``term`` (elbo, log_likelihood, ``kl_<site>``);
    ``kl_<site>`` and ``activity_<site>`` by latent dimension, each with its ``_standard_error``.
    Where the guide is a point, joint_log_density and ``minus_log_prior_<site>`` stand in place of
    elbo and ``kl_<site>``. Attributes: num_data, num_particles, threshold, and
    ``active_units_<site>``.
    """
    terms = {"elbo": decomposition.elbo, "log_likelihood": decomposition.log_likelihood}
    terms |= {f"kl_{site}": estimate for site, estimate in decomposition.kl.items()}
    terms = {decomposition.named(name): estimate for name, estimate in terms.items()}
    by_dimension = {
        decomposition.named(f"{kind}_{site}"): (f"{site}_dim", values)
        for kind, sites in (
            ("kl", decomposition.kl_per_dimension),
            ("activity", decomposition.activity),
        )
        for site, values in sites.items()
    }
    variables = _by_term(terms)
    for name, (dimension, values) in by_dimension.items():
        variables |= _per_dimension(name, dimension, values)
    attrs: dict[str, Attribute] = {
        "num_data": decomposition.num_data,
        "num_particles": decomposition.num_particles,
        "threshold": decomposition.threshold,
        **identity_attribute(decomposition.identity),
    }
    units = decomposition.active_units.items()
    attrs |= {f"active_units_{site}": unit.count for site, unit in units}
    return tree_of({"decomposition": variables}, attrs, {"term": list(terms)})


def elbo_surgery_to_datatree(surgery: ElboSurgery) -> xr.DataTree:
    """Where the KL goes as a group ``surgery``: value and standard_error by ``term``.

    The dimension-wise KL as dimension_kl and dimension_kl_standard_error, (latent,), where it is
    known. Attributes: num_data, num_particles, most_information, notes.
    """
    terms = _of_type(surgery, MonteCarlo)
    variables = _monte_carlo("term", "value", "standard_error", terms.values())
    if surgery.per_dimension is not None:
        names = "dimension_kl", "dimension_kl_standard_error"
        variables |= _monte_carlo("latent", *names, surgery.per_dimension)
    attrs: dict[str, Attribute] = {
        "num_data": surgery.num_data,
        "num_particles": surgery.num_particles,
        "most_information": surgery.most_information,
        "notes": _text(surgery.notes),
        **identity_attribute(surgery.identity),
    }
    return tree_of({"surgery": variables}, attrs, {"term": list(terms)})


def inference_gap_to_datatree(
    gap: InferenceGap,
    *,
    group: str = "inference_gap",
    datum_names: Sequence[str | int] | None = None,
) -> xr.DataTree:
    """The inference gap of each datum, (datum,), and the means over data by ``term``.

    Attributes: direction (of the evidence), num_data, num_particles, notes.

    Raises:
        ValueError: If the names are not as many as the data.
    """
    terms = _of_type(gap, Estimate)
    variables = {name: (["datum"], numpy_of(values)) for name, values in gap.per_datum.items()}
    attrs: dict[str, Attribute] = {
        "direction": gap.direction,
        "num_data": gap.num_data,
        "num_particles": gap.num_particles,
        "notes": _text(gap.notes),
        **identity_attribute(gap.identity),
    }
    coords = {"term": list(terms), "datum": names_of("datum_names", datum_names, gap.num_data)}
    return tree_of({group: {**variables, **_by_term(terms)}}, attrs, coords)


def bound_curve_to_datatree(curve: BoundCurve) -> xr.DataTree:
    """E[L_K] as a group ``bound_curve``: value and its errors by ``particles``, the K.

    Attributes: the limit with its errors, slope, slope_error, lack_of_fit, fitted_particles,
    heavy_tails, num_data, replicates, notes.
    """
    fit = curve.extrapolation
    attrs: dict[str, Attribute] = {
        "limit": fit.limit.value,
        **{f"limit_{name}": getattr(fit.limit, name) for name in _ERRORS},
        "slope": fit.slope.value,
        "slope_error": fit.slope.standard_error,
        "lack_of_fit": fit.lack_of_fit,
        "fitted_particles": ", ".join(map(str, fit.particles)),
        "heavy_tails": curve.heavy_tails,
        "num_data": curve.num_data,
        "replicates": curve.replicates,
        "notes": _text(curve.notes),
        **identity_attribute(curve.identity),
    }
    variables = _estimates("particles", curve.bounds.values())
    return tree_of({"bound_curve": variables}, attrs, {"particles": list(curve.bounds)})


def rate_distortion_to_datatree(
    curve: RateDistortion, *, datum_names: Sequence[str | int] | None = None
) -> xr.DataTree:
    """The curve of each datum as a group ``rate_distortion``, by (beta, datum).

    distortion, rate and log_normalizer in nats, each with its ``_standard_error``, and
    effective_sample_size. Attributes: guide_distortion and guide_rate with their errors,
    num_chains, num_temperatures, notes.

    Raises:
        ValueError: If the names are not as many as the data.
    """
    by_beta = ["beta", "datum"]
    values = {"effective_sample_size": curve.effective_sample_size}
    for name in ("distortion", "rate", "log_normalizer"):
        quantity = getattr(curve, name)
        values |= {name: quantity.value, f"{name}_standard_error": quantity.standard_error}
    attrs: dict[str, Attribute] = {
        "num_chains": curve.num_chains,
        "num_temperatures": curve.num_temperatures,
        "notes": _text(curve.notes),
        **identity_attribute(curve.identity),
    }
    for name in ("guide_distortion", "guide_rate"):
        if (own := getattr(curve, name)) is not None:
            attrs |= {name: own.value}
            attrs |= {f"{name}_{error}": getattr(own, error) for error in _ERRORS}
    groups: Groups = {
        "rate_distortion": {name: (by_beta, numpy_of(value)) for name, value in values.items()}
    }
    names = names_of("datum_names", datum_names, curve.num_data)
    return tree_of(groups, attrs, {"beta": list(curve.betas), "datum": names})


def _of_type(result: Any, kind: type) -> dict[str, Any]:
    """A result's fields that are estimates, by their names."""
    named = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in named.items() if isinstance(value, kind)}


def _by_term(terms: Mapping[str, Estimate]) -> dict[str, Variable]:
    return _estimates("term", terms.values())


def _estimates(dimension: str, estimates: Iterable[Estimate]) -> dict[str, Variable]:
    rows = list(estimates)
    return {
        name: (
            [dimension],
            numpy_of(torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)),
        )
        for name in ("value", *_ERRORS)
    }


def _monte_carlo(
    dimension: str, value: str, error: str, estimates: Iterable[MonteCarlo]
) -> dict[str, Variable]:
    rows = [(row.value, row.standard_error) for row in estimates]
    columns = numpy_of(torch.tensor(rows, dtype=torch.float64).T)
    return {value: ([dimension], columns[0]), error: ([dimension], columns[1])}


def _per_dimension(name: str, dimension: str, values: PerDimension) -> dict[str, Variable]:
    return {
        name: ([dimension], numpy_of(values.value)),
        f"{name}_standard_error": ([dimension], numpy_of(values.standard_error)),
    }


def _text(notes: Sequence[str]) -> str:
    return "; ".join(notes)
