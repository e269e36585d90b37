"""Everything that can be asked of a trained run, at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, final

from torch import Tensor

from ppl_vae.data import Rows
from ppl_vae.diagnostics import (
    ActiveUnits,
    BoundCurve,
    Calibration,
    Decomposition,
    ElboSurgery,
    Estimate,
    Extrapolation,
    InferenceGap,
    MonteCarlo,
    PerDimension,
    RateDistortion,
    bound_against_particles,
    decompose,
    elbo_surgery,
    inference_gap,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.diagnostics.full_covariance import only_normal
from ppl_vae.diagnostics.rate_curve import PerDatum
from ppl_vae.evidence import Evidence, ImportanceSampling
from ppl_vae.identity import identity_of
from ppl_vae.particles import zero_offsets
from ppl_vae.refinement import Refinement
from ppl_vae.runs.diagnosis import Diagnosis
from ppl_vae.runs.finished import FinishedParts
from ppl_vae.runs.run import Run, Split, unfinished_file

PARTS_FILE = "diagnosis-parts.json"
_CLASSES = (
    ActiveUnits, BoundCurve, Calibration, Decomposition, ElboSurgery, Estimate, Evidence,
    Extrapolation, InferenceGap, MonteCarlo, PerDatum, PerDimension, RateDistortion,
)  # fmt: skip
_REFINEMENT = Refinement(50)
_Result = TypeVar("_Result")


def diagnose_run(
    run: Run,
    *,
    split: Split = "test",
    limit: int | None = 200,
    file: str | os.PathLike[str] | None = None,
    particles: int = 5000,
    rate_data: int = 20,
    temperatures: int = 500,
    chains: int = 16,
    flow: bool = False,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Diagnose a trained run on a split of its data.

    Every finished part is kept in the run's folder. Another call goes on where the first stopped:
    a part with the same settings, on the same parameters, is read back with the same numbers. A
    part that cannot be had of this model and guide is left out, and the reason said.

    Costs about ``4 particles`` decoder evaluations for each of ``limit`` data, twice, and ``10
    temperatures chains`` gradients for each of ``rate_data``.

    Args:
        run: What to diagnose.
        split: Which of its data.
        limit: At most so many of them, a fixed random subset.
        file: A file of other rows, in place of a split. Training data that are not there leave out
            what is against them.
        particles: K of log p(x).
        rate_data: Data for the rate-distortion curve; 0 leaves it out.
        temperatures: Of the curve's annealing.
        chains: Of the curve's annealing.
        flow: Find a flow for each datum too, to see what the normal's shape costs; takes zuko and
            some minutes.
        seed: Of the draws.
        report: Is told of each part as it is there.

    Raises:
        ValueError: If there are too few data or particles for standard errors, or the file of an
            earlier call is damaged.
    """
    data = run.rows(split, limit, file)
    work = _Work(run, seed, report)
    train = work.train(limit)
    if min(len(data), 2 if train is None else len(train), particles) < 2:
        raise ValueError(
            f"a diagnosis needs 2 data and particles >= 2 for standard errors, got {len(data)} "
            f"{split if file is None else file} data and particles={particles}."
        )
    estimator = ImportanceSampling(particles, refine=_refinement_of(run, data.x))
    evidence = work.evidence("evidence", data, estimator)
    of_train = None if train is None else work.evidence("train_evidence", train, estimator)
    full = _takes_full_covariance(run, data.x)
    settings = f"Diagnosis({particles=}, {rate_data=}, {temperatures=}, {chains=}, {flow=})"
    return Diagnosis(
        decomposition=work.plain("decomposition", decompose, data),
        surgery=work.plain("surgery", elbo_surgery, data),
        evidence=evidence,
        gap=work.gap("gap", data, evidence, full_covariance=full, flow=flow),
        train_gap=None if train is None else work.gap("train_gap", train, of_train),
        curve=work.plain("curve", bound_against_particles, data),
        calibration=work.plain("calibration", simulation_based_calibration, data),
        rate_distortion=work.rates(run.rows(split, rate_data, file), temperatures, chains),
        left_out=work.left_out,
        identity=run.identity(settings, data, seed),
    )


@final
class _Work:
    """The parts of one call: read back where they are there, computed and kept where not."""

    def __init__(self, run: Run, seed: int, report: Callable[[str], None]) -> None:
        self._run, self._report = run, report
        self._programs = run.vae.model, run.vae.guide
        self._call: dict[str, Any] = {"device": run.device, "seed": seed}
        self._finished = FinishedParts(run.folder / PARTS_FILE, _CLASSES)
        self.left_out: dict[str, str] = {}

    def train(self, limit: int | None) -> Rows | None:
        """Training data, if they are there."""
        try:
            return self._run.rows("train", limit)
        except FileNotFoundError as error:
            self.left_out["train_gap"] = str(error)
            return None

    def plain(self, name: str, diagnostic: Callable[..., _Result], x: Rows) -> _Result | None:
        """A diagnostic with its own settings."""
        return self._part(name, lambda _: diagnostic(*self._programs, x, **self._call))

    def evidence(self, name: str, x: Rows, estimator: ImportanceSampling) -> Evidence | None:
        """What a gap is against."""

        def compute(file: Path | None) -> Evidence:
            return estimator(*self._programs, x, checkpoint=file, **self._call)

        return self._part(name, compute)

    def gap(
        self,
        name: str,
        x: Rows,
        evidence: Evidence | None,
        *,
        full_covariance: bool = False,
        flow: bool = False,
    ) -> InferenceGap | None:
        """The gap to the evidence, where there is any; with richer families where asked for."""
        if evidence is None:
            return None

        def compute(_: Path | None) -> InferenceGap:
            return inference_gap(
                *self._programs, x, evidence, full_covariance=full_covariance, flow=flow,
                **self._call,
            )  # fmt: skip

        return self._part(name, compute)

    def rates(self, x: Rows, temperatures: int, chains: int) -> RateDistortion | None:
        """The curve, of some data or none."""
        if len(x) == 0:
            self.left_out["rate_distortion"] = "not asked for"
            return None

        def compute(file: Path | None) -> RateDistortion:
            return rate_distortion(
                *self._programs, x, num_temperatures=temperatures, num_chains=chains,
                checkpoint=file, **self._call,
            )  # fmt: skip

        return self._part("rate_distortion", compute)

    def _part(self, name: str, compute: Callable[[Path | None], _Result]) -> _Result | None:
        """One part, or None if it cannot be had.

        Args:
            name: Of the part.
            compute: Given a file for what it has done so far, or None.
        """
        try:
            identity = identity_of(lambda: compute(None))
        except ValueError as error:
            self._leave_out(name, str(error))
            return None
        result: _Result | None = self._finished.read(identity)
        if result is not None:
            self._report(f"{name}: read back")
            return result
        unfinished = unfinished_file(self._run, identity)
        try:
            result = compute(unfinished)
        except ValueError as error:
            self._leave_out(name, str(error))
            return None
        self._finished.write(identity, result)
        unfinished.unlink(missing_ok=True)
        self._report(f"{name}: done")
        return result

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        self._report(f"{name}: left out, {reason}")


def _refinement_of(run: Run, x: Tensor) -> Refinement | None:
    """A guide that is close to each posterior makes the better estimate; not all can be moved."""
    try:
        zero_offsets(run.vae.guide, x[:1].to(run.device))
    except ValueError:
        return None
    return _REFINEMENT


def _takes_full_covariance(run: Run, x: Tensor) -> bool:
    try:
        _, loc, _ = only_normal("it", run.vae.model, run.vae.guide, x[:1].to(run.device))
    except ValueError:
        return False
    return loc.shape[-1] > 1
