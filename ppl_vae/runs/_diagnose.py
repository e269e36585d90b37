"""Everything that can be asked of a trained run, at once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae.data import Rows
from ppl_vae.diagnostics import (
    BoundCurve,
    Calibration,
    Decomposition,
    ElboSurgery,
    GapSettings,
    GeneralizationGap,
    InferenceGap,
    RateDistortion,
    bound_against_particles,
    decompose,
    elbo_surgery,
    generalization_gap,
    inference_gap,
    only_normal,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.display import Result
from ppl_vae.evidence import AnnealedImportanceSampling, Call, Evidence, ImportanceSampling
from ppl_vae.identity import identity_of
from ppl_vae.particles import Programs, zero_offsets
from ppl_vae.refinement import Refinement
from ppl_vae.runs._diagnosis import Diagnosis
from ppl_vae.runs._finished import FinishedParts
from ppl_vae.runs._run import Run, Split, unfinished_file

PARTS_FILE = "diagnosis-parts.safetensors"
_REFINEMENT = Refinement(50)


@final
@dataclass(frozen=True)
class _Part:
    """A part of a diagnosis.

    Attributes:
        name: Of its group in the tree, its entry in the summary and its picture.
        kind: Class of the result.
        compute: Gives it, or None where what it needs was left out. Raises a ValueError where it
            cannot be had.
        title: Heading in print; a part without one is not printed.
        shown: Whether it belongs to the diagnosis, or only to other parts.
    """

    name: str
    kind: type[Result]
    compute: Callable[["_Work"], Result | None]
    title: str = ""
    shown: bool = True


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
    left_out: dict[str, str] = {}
    train = _training_rows(run, limit, left_out)
    if min(len(data), 2 if train is None else len(train), particles) < 2:
        raise ValueError(
            f"a diagnosis needs 2 data and particles >= 2 for standard errors, got {len(data)} "
            f"{split if file is None else file} data and particles={particles}."
        )
    work = _Work(
        run=run,
        data=data,
        train=train,
        rate_data=run.rows(split, rate_data, file),
        estimator=ImportanceSampling(particles, refine=_refinement_of(run, data.x)),
        annealing=AnnealedImportanceSampling(temperatures, chains, mass="guide"),
        flow=flow,
        seed=seed,
        report=report,
        finished=FinishedParts(run.folder / PARTS_FILE, [part.kind for part in PARTS]),
        left_out=left_out,
        found={},
    )
    for part in PARTS:
        work.do(part)
    shown = {part.name for part in PARTS if part.shown}
    titles = {part.name: part.title for part in PARTS if part.title}
    if isinstance(point := work.found.get("decomposition"), Decomposition) and point.point:
        titles["decomposition"] = "The joint log-density"
    parts = {name: result for name, result in work.found.items() if name in shown}
    settings = f"Diagnosis({particles=}, {rate_data=}, {temperatures=}, {chains=}, {flow=})"
    return Diagnosis(parts, titles, left_out, run.identity(settings, data, seed))


def _training_rows(run: Run, limit: int | None, left_out: dict[str, str]) -> Rows | None:
    """Training data, if they are there."""
    try:
        return run.rows("train", limit)
    except FileNotFoundError as error:
        left_out["inference_gap_train"] = str(error)
        return None


@final
@dataclass(frozen=True)
class _Work:
    """One call: its data and settings, what it has found so far, and what it left out."""

    run: Run
    data: Rows
    train: Rows | None
    rate_data: Rows
    estimator: ImportanceSampling
    annealing: AnnealedImportanceSampling
    flow: bool
    seed: int
    report: Callable[[str], None]
    finished: FinishedParts
    left_out: dict[str, str]
    found: dict[str, Result]

    def do(self, part: _Part) -> None:
        """Compute a part, or read it back; note why it cannot be had."""
        try:
            result = part.compute(self)
        except ValueError as error:
            self.left_out[part.name] = str(error)
            self.report(f"{part.name}: left out, {error}")
            return
        if result is not None:
            self.found[part.name] = result

    def plain(self, name: str, diagnostic: Callable[..., Result]) -> Result:
        """A diagnostic of the data with its own settings."""
        return self._kept(name, self.data, lambda _, **call: diagnostic(**call))

    def evidence(self, name: str, rows: Rows | None) -> Result | None:
        """What a gap is against."""
        if rows is None:
            return None

        def compute(file: Path | None, **call: Any) -> Evidence:
            return self.estimator(**call, checkpoint=file)

        return self._kept(name, rows, compute)

    def gap(self, name: str, rows: Rows | None, evidence: str, **richer: Any) -> Result | None:
        """The gap to the evidence, where there is any; with richer families where asked for."""
        log_evidence = self.found.get(evidence)
        if rows is None or not isinstance(log_evidence, Evidence):
            return None

        def compute(_: Path | None, **call: Any) -> InferenceGap:
            return inference_gap(**call, log_evidence=log_evidence, settings=GapSettings(**richer))

        return self._kept(name, rows, compute)

    def generalization(self) -> Result | None:
        """The guide's amortisation gap on the split less that on training data."""
        train, test = (self.found.get(f"inference_gap{of}") for of in ("_train", ""))
        if not isinstance(train, InferenceGap) or not isinstance(test, InferenceGap):
            return None
        return generalization_gap(train, test)

    def rates(self, name: str) -> Result:
        """The rate-distortion curve."""
        if len(self.rate_data) == 0:
            raise ValueError("not asked for")

        def compute(
            file: Path | None, device: torch.device | str, seed: int, **call: Any
        ) -> RateDistortion:
            how = Call(device, seed, checkpoint=file)
            return rate_distortion(**call, annealing=self.annealing, call=how)

        return self._kept(name, self.rate_data, compute)

    def _kept(self, name: str, rows: Rows, compute: Callable[..., Result]) -> Result:
        """A result that is read back where it is there, and kept once it is.

        Args:
            name: Of the part.
            rows: The data.
            compute: Given a file for what it has done so far, or None, and what it is called with.
        """
        vae = self.run.vae
        call: dict[str, Any] = {
            "model": vae.model, "guide": vae.guide, "x": rows, "device": self.run.device,
            "seed": self.seed,
        }  # fmt: skip
        identity = identity_of(lambda: compute(None, **call))
        result: Result | None = self.finished.read(identity)
        if result is not None:
            self.report(f"{name}: read back")
            return result
        unfinished = unfinished_file(self.run, identity)
        result = compute(unfinished, **call)
        self.finished.write(identity, result)
        unfinished.unlink(missing_ok=True)
        self.report(f"{name}: done")
        return result


PARTS = (
    _Part(
        "decomposition",
        Decomposition,
        lambda work: work.plain("decomposition", decompose),
        "The ELBO",
    ),
    _Part(
        "surgery",
        ElboSurgery,
        lambda work: work.plain("surgery", elbo_surgery),
        "Where the KL goes",
    ),
    _Part("evidence", Evidence, lambda work: work.evidence("evidence", work.data), "log p(x)"),
    _Part(
        "train_evidence",
        Evidence,
        lambda work: work.evidence("train_evidence", work.train),
        shown=False,
    ),
    _Part(
        "inference_gap",
        InferenceGap,
        lambda work: work.gap(
            "inference_gap",
            work.data,
            "evidence",
            full_covariance=_takes_full_covariance(work.run, work.data.x),
            flow=work.flow,
        ),
        "Inference gap",
    ),
    _Part(
        "inference_gap_train",
        InferenceGap,
        lambda work: work.gap("inference_gap_train", work.train, "train_evidence"),
    ),
    _Part(
        "generalization_gap",
        GeneralizationGap,
        lambda work: work.generalization(),
        "Guide on test against training data",
    ),
    _Part(
        "bound_curve",
        BoundCurve,
        lambda work: work.plain("bound_curve", bound_against_particles),
        "Bound against the number of particles",
    ),
    _Part(
        "calibration",
        Calibration,
        lambda work: work.plain("calibration", simulation_based_calibration),
        "Calibration of the guide on simulated data",
    ),
    _Part(
        "rate_distortion",
        RateDistortion,
        lambda work: work.rates("rate_distortion"),
        "Rate-distortion curve",
    ),
)
"""All that a diagnosis holds, in the order in which it is computed and printed."""


def _refinement_of(run: Run, x: Tensor) -> Refinement | None:
    """A guide that is close to each posterior makes the better estimate; not all can be moved."""
    try:
        zero_offsets(run.vae.guide, x[:1].to(run.device))
    except ValueError:
        return None
    return _REFINEMENT


def _takes_full_covariance(run: Run, x: Tensor) -> bool:
    try:
        programs = Programs(run.vae.model, run.vae.guide)
        _, loc, _ = only_normal("it", programs, x[:1].to(run.device))
    except ValueError:
        return False
    return loc.shape[-1] > 1
