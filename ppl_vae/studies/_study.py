"""A study carried out: every cell that is not done yet, on an engine, into one folder; and read."""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ppl_vae.comparison import Comparison
from ppl_vae.data import Dataset
from ppl_vae.devices import resolve_device
from ppl_vae.engines import Engine, InProcess, Outcome, Task, showing_progress
from ppl_vae.evidence import needs_guide_density
from ppl_vae.files import exclusive, not_a_file, write_atomically
from ppl_vae.names import require_instance
from ppl_vae.runs import CONFIG, RunRecord, is_point_guide, read_config, require_same_settings
from ppl_vae.store import read_sealed, write_sealed
from ppl_vae.studies._cell import Place, run_cell
from ppl_vae.studies._file import study_from_mapping, study_to_mapping, write_yaml
from ppl_vae.studies._plan import CELLS, CellPlan, Study, read_cell
from ppl_vae.studies._results import StudyResults, progress_of
from ppl_vae.studies._same_data import (
    data_settings,
    require_data_of_cells,
    require_one_data,
)
from ppl_vae.studies._store import write_tables

LOCK = "study.lock"
PLAN, MANIFEST, COMPARISON = "study.json", "manifest.json", "comparison.json"
_LOG = logging.getLogger(__name__)
_SHOWN = ("config", "factors", "seeds", "evaluation", "measures")
"""Entries of a plan on which it depends what the tables hold."""
_PACKAGES = ("ppl_vae", "torch", "pyro-ppl", "numpy", "scipy", "arviz-stats")
_SECONDS = 10


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    engine: Engine | None = None,
    place: Place | None = None,
    work: Callable[[CellPlan, Path, Place], RunRecord] = run_cell,
    command: str | None = None,
    progress: bool = True,
) -> StudyResults:
    """Carry out every cell of a study, going on from what its folder holds already.

    All arms of one seed share the streams of random numbers: the data order, the evaluation's
    draws, and the initial parameters where they have the same, so that differences are paired. A
    cell that fails is recorded with its reason and does not stop the others; it is tried again when
    the study is run again. The process may be killed at any moment: what it had finished is not
    done again, and the results are those of a study that was never stopped.

    Args:
        study: The plan.
        folder: Folder of the study; made if it is not there.
        engine: Engine of the cells; by default this process, with the study's number of threads.
        place: Folder of the data, and device to compute on.
        work: Carries out a cell, given its plan, the study's folder and the place.
        command: Command that the report names for doing it again.
        progress: Show how far all cells are.

    Returns:
        The results. The folder holds them as ``results.parquet``, ``cells.parquet``,
        ``histories.parquet``, ``results.nc`` and ``comparison.json`` too.

    Raises:
        ValueError: If the folder holds another study, or cells that were trained on other data than
            there are now, or arms have other data to be evaluated on.
        FileNotFoundError: If the data are missing.
        BlockingIOError: If another process runs a study in the folder.
    """
    require_instance("study", study, Study, "read_study(FILE) reads one")
    folder, place = Path(folder), place or Place()
    engine = engine or InProcess(cpus=study.resources.cpus)
    # Before the lock, which is a file: a refused plan leaves no folder, or the folder as it was.
    _require_no_other_files(folder)
    loaded = _load(study, place.data_root)
    _require_guide_densities(study, loaded)
    dataset = next(iter(loaded.values()))
    manifest = _describe(study, dataset, place.device, command, type(engine).__name__)
    with exclusive(folder / LOCK, f"study {folder}"):
        _require_same_plan(study, folder, loaded)
        write_plan(study, folder)
        write_sealed(folder / MANIFEST, manifest)
        plans = {plan.name: plan for plan in study.cells}
        # Whether a cell is done is looked up when the engine has room for it, not before.
        tasks = (
            Task(plan.name, work, (plan, folder, place))
            for plan in study.cells
            if read_cell(plan, folder).state != "done"
        )
        rows = progress_of(study, folder)
        view = showing_progress(rows, what="cells") if progress else nullcontext()
        # Closed here, whatever happens: an engine then stops what is under way.
        with view, closing(engine.run(tasks)) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    _record_failure(read_cell(plans[outcome.name], folder), outcome)
        # The plan is the caller's own, written just now.
        results = open_study(folder, trust=True)
        write_results(results)
    return results


def write_results(results: StudyResults) -> list[Path]:
    """Write the tables and ``comparison.json`` of what is done so far; return their paths."""
    paths = write_tables(results)
    summary = comparison_summary(results)
    if summary is not None:
        paths.append(results.folder / COMPARISON)
        write_atomically(results.folder / COMPARISON, json.dumps(summary, indent=2) + "\n")
    return paths


def comparison_summary(results: StudyResults) -> dict[str, Any] | None:
    """The comparison by the first method, with notes, and by the other methods under their labels.

    None before a cell is done.
    """
    first, *others = [method.label for method in results.study.methods]
    comparison = results.comparison(first)
    if comparison is None:
        return None
    compared = {label: results.comparison(label) for label in others}
    more = {label: other.summary() for label, other in compared.items() if other is not None}
    beside = {
        label: {arm: vars(low) for arm, low in by_arm.items()}
        for label, by_arm in results.beside().items()
    }
    summary = {**comparison.summary(), "method": first, "notes": study_notes(comparison, results)}
    return {**summary, **({"methods": more, "beside": beside} if more else {})}


def study_notes(comparison: Comparison, results: StudyResults) -> list[str]:
    """Warnings to read before the numbers, one sentence each."""
    return [f"{arm}: {text}." for arm, text in comparison.warnings.items()] + results.warnings


def open_study(
    folder: str | os.PathLike[str], *, planned: Study | None = None, trust: bool = False
) -> StudyResults:
    """Read a study's folder.

    Args:
        folder: Of the study.
        planned: Plan to see the folder's cells by, such as a file that was added to; None: the one
            that was carried out last.
        trust: Take classes from outside of this package that its plan names: their code then runs,
            whoever wrote the folder.

    Raises:
        FileNotFoundError: If it holds no study.
        ValueError: If a file of it is damaged, or cells were trained on different data where their
            settings name the same.
    """
    folder = Path(folder)
    path = folder / PLAN
    if not path.is_file():
        raise not_a_file(path, f"{folder} holds no study (no {PLAN}): run_study carries one out.")
    remedy = "delete it, and run the study's file again"
    saved = read_sealed(path, remedy)
    try:
        study = planned or study_from_mapping(saved["plan"], text=saved["text"], trust=trust)
        manifest = read_sealed(folder / MANIFEST, remedy)
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        raise ValueError(f"{folder} holds a damaged study: {error}") from error
    order = {arm: number for number, arm in enumerate(study.arms)}
    plans = sorted(study.cells, key=lambda cell: order[cell.arm])
    cells = [read_cell(plan, folder) for plan in plans]
    # Here, where all that is made of results passes: tables, pages, files, and a caller's own.
    require_one_data(study, folder, cells)
    return StudyResults(folder, study, manifest, cells)


def write_plan(study: Study, folder: Path) -> None:
    """Keep the plan in the study's folder, also as a file to run where there is none."""
    content = {"plan": study_to_mapping(study), "text": study.text or write_yaml(study)}
    write_sealed(folder / PLAN, content)
    if not study.text:
        write_atomically(folder / "study.yaml", write_yaml(study))


def _record_failure(cell: RunRecord, outcome: Outcome) -> None:
    """Keep what became of a cell whose worker could not do so itself."""
    cell.log(outcome.traceback or str(outcome.error))
    # Where another worker, thought dead, is still at it, it records the outcome itself.
    if not str(outcome.error).startswith(BlockingIOError.__name__):
        replace(cell, state="failed", reason=outcome.error, attempts=outcome.attempts).write()


def _require_no_other_files(folder: Path) -> None:
    """Refuse a folder of something else."""
    if not folder.is_dir() or any((folder / name).is_file() for name in (PLAN, MANIFEST)):
        return
    # A lock alone is of a study that was never begun.
    foreign = [p.name for p in folder.iterdir() if not p.name.startswith((".", LOCK))]
    if foreign:
        raise ValueError(
            f"{folder} is not empty and holds no study (there is {foreign[0]}): choose another "
            "folder."
        )


def _require_same_plan(study: Study, folder: Path, loaded: Mapping[str, Dataset]) -> None:
    """Refuse cells whose settings are not those planned, or whose data are not those loaded."""
    if not any((folder / name).is_file() for name in (PLAN, MANIFEST)):
        return
    for plan in study.cells:
        path = folder / CELLS / plan.folder / CONFIG
        if path.is_file():
            require_same_settings(path.parent, read_config(path.parent)["config"], plan.config)
    require_data_of_cells(study, folder, loaded)
    _tell_what_is_replaced(study, folder)


def _tell_what_is_replaced(study: Study, folder: Path) -> None:
    """Say which results of an earlier plan the tables and the page will not show any more."""
    try:
        earlier = read_sealed(folder / PLAN, "")["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    planned = study_to_mapping(study)
    changed = [name for name in _SHOWN if _shrinks(earlier.get(name), planned.get(name))]
    if changed:
        _LOG.warning(
            "%s held results of another plan (other %s): its cells and evaluations stay, tables "
            "and page are of this one alone.",
            folder,
            ", ".join(changed),
        )


def _shrinks(before: Any, after: Any) -> bool:
    """Whether something of a plan's entry is gone; what is added takes nothing away."""
    if isinstance(before, dict) and isinstance(after, dict):
        return any(_shrinks(value, after.get(key)) for key, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return any(value not in after for value in before)
    return bool(before != after)


def _require_guide_densities(study: Study, loaded: Mapping[str, Dataset]) -> None:
    """Refuse arms whose guide is a point, where a method weighs draws by the guide's density.

    Arms that cannot be built are left to their cells, which say why.
    """
    needing = [m.name for m in study.methods if needs_guide_density(m.build())]
    # One arm for each guide: a point is told by the guide, whatever else varies.
    guides = {
        repr(arm.config.model.guide): (label, arm.config) for label, arm in study.arms.items()
    }
    for label, config in guides.values() if needing else ():
        dataset = loaded[data_settings(config)]
        try:
            point = is_point_guide(config.build_vae(dataset), dataset.train[:1])
        # A class of the user's may fail in any way.
        except Exception:
            continue
        if point:
            raise ValueError(
                f"arm {label}: its guide is a point without a density, and method {needing[0]} "
                "weighs draws by it: take a method that does not (ais from the prior, or "
                "refine=LaplaceApproximation())."
            )


def _load(study: Study, data_root: Path | None) -> dict[str, Dataset]:
    """Settings of data to the data; checks that all arms are evaluated on the same ones."""
    loaded: dict[str, Dataset] = {}
    first: dict[str, str] = {}
    for label, arm in study.arms.items():
        key = data_settings(arm.config)
        # Arms mostly share their data: each way of reading them is loaded once.
        if key not in loaded:
            loaded[key], first[key] = arm.config.load(data_root), label
    rows = getattr(next(iter(loaded.values())), study.split)
    for key, other in loaded.items():
        there = getattr(other, study.split)
        # NaN is unequal to itself, so that missing cells are filled before the comparison.
        if there.shape != rows.shape or not torch.equal(there.nan_to_num(), rows.nan_to_num()):
            raise ValueError(
                f"arms {next(iter(first.values()))} and {first[key]} have other {study.split} "
                "data, so that their log p(x) cannot be compared: plan a study for each."
            )
    return loaded


def _describe(
    study: Study, dataset: Dataset, device: str, command: str | None, engine: str
) -> dict[str, Any]:
    """The manifest: versions, machine, data, git revision of where one works, configurations."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "engine": engine,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "platform": platform.platform(),
        "device": _device(device),
        "threads": study.resources.cpus,
        "git": _git(),
        "data": {
            "name": dataset.name,
            "sha256": dataset.fingerprint(),
            "num_train": len(dataset.train),
            "num_valid": len(dataset.valid),
            "num_test": len(dataset.test),
            "features": dataset.features,
            "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
            "feature_names": dataset.feature_names,
        },
        "seeds": list(study.seeds),
        "configs": {cell.name: cell.config_hash for cell in study.cells},
    }


def _device(name: str) -> str:
    device = resolve_device(name)
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()})"


def _git() -> dict[str, Any] | None:
    """Revision of the repository that one works in, if it is one."""
    revision = _output("git", "rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": bool(_output("git", "status", "--porcelain"))}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def command_line() -> str:
    """The command that this process was started with, for people."""
    name, *arguments = sys.argv
    return " ".join([name.rsplit("/", 1)[-1], *arguments])
