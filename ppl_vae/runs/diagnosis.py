"""What was found out about a trained run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import xarray as xr

from ppl_vae.arviz import (
    Attribute,
    bound_curve_to_datatree,
    calibration_to_datatree,
    decomposition_to_datatree,
    elbo_surgery_to_datatree,
    evidence_to_datatree,
    identity_attribute,
    inference_gap_to_datatree,
    joined,
    rate_distortion_to_datatree,
)
from ppl_vae.diagnostics import (
    BoundCurve,
    Calibration,
    Decomposition,
    ElboSurgery,
    GeneralizationGap,
    InferenceGap,
    RateDistortion,
    generalization_gap,
)
from ppl_vae.display import Result
from ppl_vae.evidence import Evidence
from ppl_vae.identity import Identity

_TITLES = {
    "decomposition": "The ELBO",
    "surgery": "Where the KL goes",
    "evidence": "log p(x)",
    "gap": "Inference gap",
    "generalization": "Guide on test against training data",
    "curve": "Bound against the number of particles",
    "calibration": "Calibration of the guide on simulated data",
    "rate_distortion": "Rate-distortion curve",
}
_IN_SUMMARY = {
    "gap": "inference_gap",
    "generalization": "generalization_gap",
    "curve": "bound_curve",
}
_MAKERS: dict[str, Callable[[Any], xr.DataTree]] = {
    "decomposition": decomposition_to_datatree,
    "surgery": elbo_surgery_to_datatree,
    "evidence": evidence_to_datatree,
    "gap": inference_gap_to_datatree,
    "train_gap": lambda gap: inference_gap_to_datatree(gap, group="inference_gap_train"),
    "curve": bound_curve_to_datatree,
    "calibration": calibration_to_datatree,
    "rate_distortion": rate_distortion_to_datatree,
}


@final
@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """The parts of a diagnosis, each with its standard errors; None where one was left out.

    Attributes:
        decomposition: The ELBO's parts and the active units.
        surgery: The KL as information about the data and distance of the aggregate from the prior.
        evidence: log p(x) of each datum of the split, that the gap is against.
        gap: log p(x) - ELBO, as approximation and amortisation gap, on the split.
        train_gap: The same on training data.
        curve: The importance-weighted bound against K.
        calibration: Ranks of the guide's draws on data simulated from the model.
        rate_distortion: What the decoder could do at other rates.
        left_out: Part to the reason why it is not there.
        identity: What all was asked of; every part has one of its own.
    """

    decomposition: Decomposition | None
    surgery: ElboSurgery | None
    evidence: Evidence | None
    gap: InferenceGap | None
    train_gap: InferenceGap | None
    curve: BoundCurve | None
    calibration: Calibration | None
    rate_distortion: RateDistortion | None
    left_out: dict[str, str] = field(default_factory=dict)
    identity: Identity | None = None

    @property
    def generalization(self) -> GeneralizationGap | None:
        """The guide's amortisation gap on the split less that on training data."""
        if self.gap is None or self.train_gap is None:
            return None
        return generalization_gap(self.train_gap, self.gap)

    def __str__(self) -> str:
        point = self.decomposition is not None and self.decomposition.point
        titles = _TITLES | ({"decomposition": "The joint log-density"} if point else {})
        found = {title: getattr(self, name) for name, title in titles.items()}
        parts = [f"{title}\n{part}" for title, part in found.items() if part is not None]
        return "\n\n".join(
            [*parts, *(f"left out, {name}: {why}" for name, why in self.left_out.items())]
        )

    def summary(self) -> dict[str, Any]:
        """The parts as plain values, for JSON."""
        found = {_IN_SUMMARY.get(name, name): getattr(self, name) for name in _TITLES}
        plain = {name: part.summary() for name, part in found.items() if part is not None}
        identity = None if self.identity is None else self.identity.to_dict()
        return plain | {"left_out": dict(self.left_out), "identity": identity}

    def to_datatree(self, attrs: dict[str, Attribute] | None = None) -> xr.DataTree:
        """All parts as groups of one tree, for netCDF and ArviZ; ``attrs`` go to its root.

        Groups: decomposition, surgery, evidence, inference_gap, inference_gap_train, bound_curve,
        prior_sbc and rate_distortion. Each has its own attributes, notes and warnings among them.
        """
        found = {name: getattr(self, name) for name in _MAKERS}
        trees = [_MAKERS[name](part) for name, part in found.items() if part is not None]
        reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
        told = identity_attribute(self.identity)
        return joined(trees, {**(attrs or {}), "left_out": reasons, **told})
