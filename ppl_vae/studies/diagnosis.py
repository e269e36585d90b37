"""Everything that can be asked of a trained run, at once."""

from dataclasses import dataclass
from typing import Any, final

from ppl_vae.diagnostics import (
    BoundCurve,
    Calibration,
    Decomposition,
    ElboSurgery,
    GeneralizationGap,
    InferenceGap,
    bound_against_particles,
    decompose,
    elbo_surgery,
    generalization_gap,
    inference_gap,
    simulation_based_calibration,
)
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.refinement import Refinement
from ppl_vae.studies.run import Run, Split

_REFINEMENT = Refinement(50)


@final
@dataclass(frozen=True)
class Diagnosis:
    """The parts of a diagnosis, each with its standard errors.

    Attributes:
        decomposition: The ELBO's parts and the active units.
        surgery: The KL as information about the data and distance of the aggregate from the prior.
        gap: log p(x) - ELBO, as approximation and amortisation gap, on the split.
        generalization: The guide's amortisation gap on the split less that on training data.
        curve: The importance-weighted bound against K.
        calibration: Ranks of the guide's draws on data simulated from the model.
    """

    decomposition: Decomposition
    surgery: ElboSurgery
    gap: InferenceGap
    generalization: GeneralizationGap
    curve: BoundCurve
    calibration: Calibration

    def __str__(self) -> str:
        parts = {
            "The ELBO": self.decomposition,
            "Where the KL goes": self.surgery,
            "Inference gap": self.gap,
            "Guide on test against training data": self.generalization,
            "Bound against the number of particles": self.curve,
            "Calibration of the guide on simulated data": self.calibration,
        }
        return "\n\n".join(f"{title}\n{part}" for title, part in parts.items())

    def summary(self) -> dict[str, Any]:
        """The parts as plain values, for JSON."""
        return {
            "decomposition": self.decomposition.summary(),
            "surgery": self.surgery.summary(),
            "inference_gap": self.gap.summary(),
            "generalization_gap": self.generalization.summary(),
            "bound_curve": self.curve.summary(),
            "calibration": self.calibration.summary(),
        }


def diagnose_run(
    run: Run,
    *,
    split: Split = "test",
    limit: int | None = 200,
    particles: int = 5000,
    seed: int = 0,
) -> Diagnosis:
    """Diagnose a trained run on a split of its data.

    Costs about ``4 particles`` decoder evaluations for each of ``limit`` data, twice.

    Raises:
        ValueError: If there are too few data or particles for standard errors.
    """
    programs = run.vae.model, run.vae.guide
    data, train = run.split(split, limit), run.split("train", limit)
    estimator = ImportanceSampling(particles, refine=_REFINEMENT)

    def gap(x: Any) -> InferenceGap:
        evidence = estimator(*programs, x, device=run.device, seed=seed)
        return inference_gap(*programs, x, evidence, device=run.device, seed=seed)

    on_split = gap(data)
    return Diagnosis(
        decomposition=decompose(*programs, data, device=run.device, seed=seed),
        surgery=elbo_surgery(*programs, data, device=run.device, seed=seed),
        gap=on_split,
        generalization=generalization_gap(gap(train), on_split),
        curve=bound_against_particles(*programs, data, device=run.device, seed=seed),
        calibration=simulation_based_calibration(*programs, data, device=run.device, seed=seed),
    )
