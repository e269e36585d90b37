"""All diagnoses of a trained run at once, each kept as soon as it is there."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final, get_type_hints

import torch

from ppl_vae.data import Rows, RowTensor
from ppl_vae.diagnostics import (
    Decomposition,
    GapSettings,
    InferenceGap,
    RateDistortion,
    bound_against_particles,
    decompose,
    elbo_surgery,
    generalization_gap,
    inference_gap,
    only_normal,
    predictive_check,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.display import Result
from ppl_vae.evidence import AnnealedImportanceSampling, Call, Evidence, ImportanceSampling
from ppl_vae.identity import identity_of
from ppl_vae.names import require_instance
from ppl_vae.particles import Program, Programs, zero_offsets
from ppl_vae.refinement import Refinement
from ppl_vae.runs._diagnosis import Diagnosis, DiagnosisSettings
from ppl_vae.runs._evaluations import remove_unfinished, unfinished_file
from ppl_vae.runs._kept import KeptResults
from ppl_vae.runs._run import Run, Split

KEPT_FILE = "diagnosis-results.safetensors"
_REFINEMENT = Refinement(50)


def diagnose_run(
    run: Run,
    settings: DiagnosisSettings | None = None,
    *,
    split: Split = "test",
    limit: int | None = 200,
    file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Diagnose a trained run on a split of its data.

    Every finished result is kept in the run's folder. Another call goes on where the first stopped:
    a result with the same settings, on the same parameters, is read back with the same numbers. One
    that cannot be had of this model and guide is left out, and the reason said.

    Costs about ``4 particles`` decoder evaluations for each of ``limit`` data, twice, and ``10
    temperatures chains`` gradients for each of ``rate_data``.

    Args:
        run: Run to diagnose.
        settings: Settings; the defaults of :class:`DiagnosisSettings` if not given.
        split: Which of its data.
        limit: At most so many of them, a fixed random subset.
        file: A file of other rows, in place of a split. Training data that are not there leave out
            what is against them.
        seed: Seed of the draws.
        report: Called with a line for each result.

    Raises:
        ValueError: If there are too few data or particles for standard errors, or the file of an
            earlier call is damaged.
    """
    require_instance("run", run, Run, "open_run(FOLDER) reads one")
    settings = DiagnosisSettings() if settings is None else settings
    how = "DiagnosisSettings(particles=1000) makes one"
    require_instance("settings", settings, DiagnosisSettings, how)
    data, left_out = run.rows(split, limit, file), dict[str, str]()
    try:
        train = run.rows("train", limit)
    except (FileNotFoundError, IsADirectoryError):
        train, left_out["inference_gap_train"] = None, "the training data are not there"
    if min(len(data), 2 if train is None else len(train)) < 2:
        raise ValueError(
            f"a diagnosis needs 2 data for standard errors, got {len(data)} "
            f"{split if file is None else file} data."
        )
    rates = run.rows(split, settings.rate_data, file) if settings.rate_data else None
    work = _Work(
        run=run,
        rows={"data": data, "train": train, "rates": rates},
        settings=settings,
        refinement=_refinement_of(run, data.x),
        seed=seed,
        report=report,
        kept=KeptResults(run.folder / KEPT_FILE, [entry.kind for entry in DIAGNOSES]),
        left_out=left_out,
        results={},
    )
    for entry in DIAGNOSES:
        work.do(entry)
    shown = {entry.name for entry in DIAGNOSES if entry.shown}
    titles = {entry.name: entry.title for entry in DIAGNOSES if entry.title}
    decomposition = work.results.get("decomposition")
    if isinstance(decomposition, Decomposition) and decomposition.point:
        # A point guide has no density: what is decomposed is log p(x, z) at the point, no ELBO.
        titles["decomposition"] = "The joint log-density"
    results = {name: result for name, result in work.results.items() if name in shown}
    words = ", ".join(f"{name}={value!r}" for name, value in asdict(settings).items())
    identity = run.identity(f"Diagnosis({words})", data, seed)
    return Diagnosis(results, titles, left_out, identity, run.origin)


@final
@dataclass(frozen=True)
class _Work:
    """One call: its data and settings, the results so far, and what is left out."""

    run: Run
    rows: Mapping[str, Rows | None]
    settings: DiagnosisSettings
    refinement: Refinement | None
    seed: int
    report: Callable[[str], None]
    kept: KeptResults
    left_out: dict[str, str]
    results: dict[str, Result]

    def do(self, entry: "Entry") -> None:
        """Compute a result, or read it back; note why it cannot be had."""
        rows = self.rows[entry.rows]
        try:
            settings = entry.settings(self)
            if rows is None or settings is None:
                return
            # What needs no model is derived from other results, in no time: it is not kept.
            if "model" in inspect.signature(entry.compute).parameters:
                self.results[entry.name] = self._kept(entry, rows, settings)
            else:
                self.results[entry.name] = entry.compute(**settings)
        except ValueError as error:
            self.left_out[entry.name] = str(error)
            self.report(f"{entry.name}: left out, {error}")

    def _kept(self, entry: "Entry", rows: Rows, settings: Mapping[str, Any]) -> Result:
        """Read a result back where it is kept; otherwise compute and keep it."""
        vae = self.run.vae
        call: dict[str, Any] = {
            "model": vae.model, "guide": vae.guide, "x": rows, "device": self.run.device,
            "seed": self.seed, **settings,
        }  # fmt: skip
        # The computation starts and states its identity; a result kept under it is read in its
        # place.
        identity = identity_of(lambda: entry.compute(**call))
        result: Result | None = self.kept.read(identity)
        if result is not None:
            remove_unfinished(self.run, identity)
            self.report(f"{entry.name}: read back")
            return result
        unfinished = unfinished_file(self.run, identity)
        if "checkpoint" in inspect.signature(entry.compute).parameters:
            call["checkpoint"] = unfinished
        result = entry.compute(**call)
        # Kept first, then the unfinished file goes: a kill in between leaves both, never neither.
        self.kept.write(identity, result)
        unfinished.unlink(missing_ok=True)
        self.report(f"{entry.name}: done")
        return result


@final
@dataclass(frozen=True)
class Entry:
    """A diagnosis in the list.

    Attributes:
        name: Name of its group in the tree, its entry in the summary and its picture.
        compute: Gives the result, whose class its annotation names, by ``compute(model, guide, x,
            device=, seed=, **settings)``; by the settings alone if it takes no model. Raises a
            ValueError where the result cannot be had.
        title: Heading in print; a result without one is not printed.
        rows: Name of the data that it is given.
        settings: Gives further arguments, or None where a result that it needs was left out.
        shown: Whether it belongs to the diagnosis, or only to other entries.
    """

    name: str
    compute: Callable[..., Result]
    title: str = ""
    rows: Literal["data", "train", "rates"] = "data"
    settings: Callable[[_Work], Mapping[str, Any] | None] = lambda work: {}
    shown: bool = True

    @property
    def kind(self) -> type[Result]:
        """Class of the result."""
        kind: type[Result] = get_type_hints(self.compute)["return"]
        return kind


def _evidence(
    model: Program,
    guide: Program,
    x: Rows,
    *,
    particles: int,
    refine: Refinement | None,
    checkpoint: Path | None = None,
    **call: Any,
) -> Evidence:
    estimator = ImportanceSampling(particles, refine=refine)
    return estimator(model, guide, x, checkpoint=checkpoint, **call)


def _rate_distortion(
    model: Program,
    guide: Program,
    x: Rows,
    *,
    device: torch.device,
    seed: int,
    annealing: AnnealedImportanceSampling,
    checkpoint: Path | None = None,
) -> RateDistortion:
    call = Call(device, seed, checkpoint=checkpoint)
    return rate_distortion(model, guide, x, annealing=annealing, call=call)


def _evidence_settings(work: _Work) -> dict[str, Any]:
    return {"particles": work.settings.particles, "refine": work.refinement}


def _gap_settings(work: _Work) -> dict[str, Any] | None:
    """Settings of the inference gap: log p(x), and richer families where the guide allows them."""
    if not isinstance(evidence := work.results.get("evidence"), Evidence):
        return None
    data = work.rows["data"]
    full = data is not None and _takes_full_covariance(work.run, data.x)
    richer = GapSettings(full_covariance=full, flow=work.settings.flow)
    return {"log_evidence": evidence, "settings": richer}


def _train_gap_settings(work: _Work) -> dict[str, Any] | None:
    evidence = work.results.get("train_evidence")
    return {"log_evidence": evidence} if isinstance(evidence, Evidence) else None


def _generalization_settings(work: _Work) -> dict[str, Any] | None:
    train, test = (work.results.get(f"inference_gap{of}") for of in ("_train", ""))
    both = isinstance(train, InferenceGap) and isinstance(test, InferenceGap)
    return {"train": train, "test": test} if both else None


def _predictive_settings(work: _Work) -> dict[str, Any]:
    kinds = {column.kind for column in work.run.data.schema.columns or ()}
    if len(kinds) > 1 or "categorical" in kinds:
        raise ValueError(
            f"statistics are over features of one kind, numbers or 0 and 1; these columns are "
            f"{', '.join(sorted(kinds))}"
        )
    # Residuals at draws of a prior in place of a guide are too large under every model.
    return {} if work.run.config.model.kind.encodes else {"guide": None}


def _rate_settings(work: _Work) -> dict[str, Any]:
    if not work.settings.rate_data:
        raise ValueError("not asked for")
    temperatures, chains = work.settings.temperatures, work.settings.chains
    return {"annealing": AnnealedImportanceSampling(temperatures, chains, mass="guide")}


def _refinement_of(run: Run, x: RowTensor) -> Refinement | None:
    """Refinement of the guide towards each posterior; None for a guide that cannot be moved."""
    try:
        zero_offsets(run.vae.guide, x[:1].to(run.device))
    except ValueError:
        return None
    return _REFINEMENT


def _takes_full_covariance(run: Run, x: RowTensor) -> bool:
    try:
        programs = Programs(run.vae.model, run.vae.guide)
        _, loc, _ = only_normal("it", programs, x[:1].to(run.device))
    except ValueError:
        return False
    return loc.shape[-1] > 1


# An entry comes after those whose results its settings ask for.
DIAGNOSES = (
    Entry("decomposition", decompose, "The ELBO"),
    Entry("surgery", elbo_surgery, "Where the KL goes"),
    Entry("evidence", _evidence, "log p(x)", settings=_evidence_settings),
    Entry("train_evidence", _evidence, rows="train", settings=_evidence_settings, shown=False),
    Entry("inference_gap", inference_gap, "Inference gap", settings=_gap_settings),
    Entry("inference_gap_train", inference_gap, rows="train", settings=_train_gap_settings),
    Entry(
        "generalization_gap",
        generalization_gap,
        "Guide on test against training data",
        settings=_generalization_settings,
    ),
    Entry("bound_curve", bound_against_particles, "Bound against the number of particles"),
    Entry(
        "calibration", simulation_based_calibration, "Calibration of the guide on simulated data"
    ),
    Entry(
        "predictive_check",
        predictive_check,
        "The data against data that the model makes",
        settings=_predictive_settings,
    ),
    Entry(
        "rate_distortion",
        _rate_distortion,
        "Rate-distortion curve",
        rows="rates",
        settings=_rate_settings,
    ),
)
"""All that a diagnosis holds, in the order in which it is computed and printed."""
