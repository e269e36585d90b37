"""What a study's folder holds, read without a model or data."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from ppl_vae.arviz import read_evidence
from ppl_vae.comparison import Comparison, compare
from ppl_vae.evidence import Evidence
from ppl_vae.files import write_atomically
from ppl_vae.identity import hash_bytes
from ppl_vae.runs import CHECKPOINT, CONFIG, HISTORY
from ppl_vae.store import read_sealed, write_sealed
from ppl_vae.studies._file import study_from_mapping, study_to_mapping, write_yaml
from ppl_vae.studies._plan import CellPlan, Study
from ppl_vae.training import History

CellState = Literal["waiting", "running", "done", "failed"]
PLAN, MANIFEST, COMPARISON, CELLS = "study.json", "manifest.json", "comparison.json", "cells"
CELL, MEASURES, PICTURES = "cell.json", "measures.json", "pictures.npz"
_LARGE = (CHECKPOINT,)
"""Files that no number of a page is read from, and that take long to read."""
_CHANGED = "is not as it was written"
STILL_IMPROVING = 0.95
"""A best epoch after this fraction of all is taken as a sign that training was cut short."""


@final
@dataclass(frozen=True)
class CellResult:
    """One training run of a study, and what was measured of it.

    Attributes:
        arm: Label of the combination of levels.
        levels: Factor to the label of its level.
        seed: Of everything random in it.
        folder: Where it is kept.
        state: What has become of it.
        reason: Why it failed, or has to be done again, in a line.
        attempts: How often it was started.
        seconds: Wall-clock time of training and evaluation.
        updates: Updates of the parameters.
        evaluations: Decoder evaluations spent in training.
        epochs: Epochs trained.
        kept_epoch: The epoch whose parameters were kept.
        discrete_data: Whether its p(x) is a probability and no density.
        methods: Label of a method to the file of its log p(x), in the folder.
        files: File to the hash of its content, of all files that the results are read from.
    """

    arm: str
    levels: dict[str, str]
    seed: int
    folder: Path
    state: CellState
    reason: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    updates: int = 0
    evaluations: int = 0
    epochs: int = 0
    kept_epoch: int | None = None
    discrete_data: bool | None = None
    methods: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, plan: CellPlan, folder: Path) -> "CellResult":
        """What has become of a planned cell.

        It is done only if it was done as planned, and the files that its results are read from are
        there as they were written; otherwise it waits to be done again, for a reason.

        Raises:
            ValueError: If its file is damaged.
        """
        here: dict[str, Any] = {
            "arm": plan.arm,
            "levels": plan.levels,
            "seed": plan.config.seed,
            "folder": folder,
        }
        path, remedy = folder / CELL, "delete it to redo the cell"
        if not path.is_file():
            begun = (folder / CONFIG).is_file()
            reason = f"{path} is missing" if begun else None
            return cls(state="waiting", reason=reason, **here)
        saved = read_sealed(path, remedy)
        try:
            known = {field.name for field in fields(cls)}
            found = cls(**{**{k: v for k, v in saved.items() if k in known}, **here})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}): {remedy}.") from error
        if found.state == "running" and not _is_alive(saved):
            return replace(found, state="waiting", reason="its process has ended, unfinished")
        if found.state != "done":
            return found
        if saved.get("key") != plan.key:
            return replace(found, state="waiting", reason=f"{path} is of another plan")
        read = {name: hashed for name, hashed in found.files.items() if name not in _LARGE}
        for name, what in changed_files(folder, read).items():
            return replace(found, state="waiting", reason=f"{folder / name} {what}")
        return found

    def write(self, **more: Any) -> None:
        """Keep it in its folder, atomically; ``more`` goes beside it."""
        plain = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_sealed(self.folder / CELL, {**plain, **more})

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm} seed {self.seed}"

    @cached_property
    def history(self) -> History:
        """Learning curves; empty where training has not begun."""
        path = self.folder / HISTORY
        return History.from_csv(path.read_text()) if path.is_file() else History()

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Measure to its summary as plain values.

        ``decomposition``, ``bound_curve``, ``gradients``, ``sandwich``: ``summary()`` of the class
        in :mod:`ppl_vae.diagnostics` (or :class:`~ppl_vae.evidence.Sandwich`); those that the study
        asked for.
        """
        path = self.folder / MEASURES
        return read_sealed(path, "delete it to measure anew") if path.is_file() else {}

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """``data`` and ``reconstruction`` (rows, features), ``samples`` (rows, features)."""
        path = self.folder / PICTURES
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def evidence(self, method: str) -> Evidence | None:
        """Estimated log p(x) of each datum by a method of the study; None where it is not there.

        Raises:
            ValueError: If the file is not the one that the cell wrote.
        """
        name = self.methods.get(method)
        if name is None:
            return None
        path = self.folder / name
        content = path.read_bytes()
        if hash_bytes(content) != self.files.get(name):
            raise ValueError(f"{path} {_CHANGED}: run_study does the cell again.")
        return read_evidence(content, str(path))


def hashes_of(folder: Path, evaluations: Iterable[Path]) -> dict[str, str]:
    """File to a hash of its content, of all files that a cell's results are read from.

    Args:
        folder: The cell's.
        evaluations: Files of log p(x) in it.
    """
    names = (CONFIG, CHECKPOINT, HISTORY, MEASURES, PICTURES)
    paths = [*evaluations, *(folder / name for name in names)]
    return {
        str(path.relative_to(folder)): hash_bytes(path.read_bytes())
        for path in paths
        if path.is_file()
    }


def changed_files(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """File to what is wrong with it, of those that are missing or not as they were written.

    Args:
        folder: Where they are.
        files: File to the hash of its content.
    """
    found = {}
    for name, hashed in files.items():
        path = folder / name
        if not path.is_file():
            found[name] = "is missing"
        elif hash_bytes(path.read_bytes()) != hashed:
            found[name] = _CHANGED
    return found


@final
@dataclass(frozen=True)
class StudyResults:
    """A study's folder: the plan, how it was carried out, and what came of each cell.

    Attributes:
        folder: The study's.
        study: The plan.
        manifest: Versions, device, data, git revision, hashes of configurations.
        cells: All planned cells, in the order of arms, then seeds.
    """

    folder: Path
    study: Study
    manifest: Mapping[str, Any]
    cells: list[CellResult]
    _compared: dict[str, Comparison | None] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def of(self, arm: str) -> list[CellResult]:
        """The cells of an arm."""
        return [cell for cell in self.cells if cell.arm == arm]

    def in_state(self, state: CellState) -> list[CellResult]:
        """The cells in a state."""
        return [cell for cell in self.cells if cell.state == state]

    def evidence(self, method: str | None = None) -> dict[str, dict[int, Evidence]]:
        """Arm to seed to log p(x), of finished cells; arms without one are left out."""
        label = method or self.study.methods[0].label
        found: dict[str, dict[int, Evidence]] = {}
        for cell in self.in_state("done"):
            evidence = cell.evidence(label)
            if evidence is not None:
                found.setdefault(cell.arm, {})[cell.seed] = evidence
        return found

    def comparison(self, method: str | None = None) -> Comparison | None:
        """Means and paired differences; None before any cell is done.

        Args:
            method: Label of one of the study's methods; the first if not given.
        """
        label = method or self.study.methods[0].label
        if label not in self._compared:
            self._compared[label] = self._compare(label)
        return self._compared[label]

    def _compare(self, method: str) -> Comparison | None:
        evidence = self.evidence(method)
        if not evidence:
            return None
        reference = self.study.reference
        return compare(
            evidence,
            levels=self._crossed_levels(list(evidence)),
            reference=reference if reference in evidence else None,
            confidence=self.study.confidence,
        )

    def _crossed_levels(self, arms: list[str]) -> dict[str, dict[str, str]] | None:
        """Arm to its levels, where several factors vary; with one, its levels are the arms."""
        varying = [name for name, levels in self.study.factors.items() if len(levels) > 1]
        if len(varying) < 2:
            return None
        return {a: {name: self.study.arms[a].levels[name] for name in varying} for a in arms}

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before believing the numbers, one sentence each."""
        notes = [f"{cell.name} failed: {cell.reason}" for cell in self.in_state("failed")]
        waiting = self.in_state("waiting")
        notes += [f"{cell.name} is left out: {cell.reason}." for cell in waiting if cell.reason]
        unfinished = len(waiting) + len(self.in_state("running"))
        if unfinished:
            notes.append(f"{unfinished} of {len(self.cells)} cells are not done yet.")
        kinds = {cell.discrete_data for cell in self.in_state("done")}
        if {True, False} <= kinds:
            notes.append(
                "p(x) is a probability in some arms and a density in others: their log p(x) do not "
                "compare."
            )
        rising = []
        for arm in self.study.arms:
            done = [cell for cell in self.of(arm) if cell.state == "done"]
            last = [cell for cell in done if (cell.kept_epoch or 0) > STILL_IMPROVING * cell.epochs]
            if last:
                rising.append(f"{arm} ({len(last)} of {len(done)} runs)")
        if rising:
            notes.append(
                f"still rising at the last epoch was the validation bound of {', '.join(rising)}: "
                "with a larger budget the comparison may come out otherwise."
            )
        return notes


def open_study(folder: str | os.PathLike[str], *, trust: bool = False) -> StudyResults:
    """Read a study's folder.

    Args:
        folder: Of the study.
        trust: Take classes from outside of this package that its plan names: their code then runs,
            whoever wrote the folder.

    Raises:
        FileNotFoundError: If it holds no study.
        ValueError: If a file of it is damaged.
    """
    folder = Path(folder)
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no study (no {PLAN}): run_study carries one out.")
    remedy = "delete it, and run the study's file again"
    saved = read_sealed(path, remedy)
    try:
        study = study_from_mapping(saved["plan"], text=saved["text"], trust=trust)
        manifest = read_sealed(folder / MANIFEST, remedy)
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        raise ValueError(f"{folder} holds a damaged study: {error}") from error
    return StudyResults(folder, study, manifest, cells_of(study, folder))


def cells_of(study: Study, folder: Path) -> list[CellResult]:
    """What has become of each planned cell, in the order of arms, then seeds."""
    order = {arm: number for number, arm in enumerate(study.arms)}
    planned = sorted(study.cells, key=lambda cell: order[cell.arm])
    return [CellResult.read(plan, folder / CELLS / plan.folder) for plan in planned]


def _is_alive(saved: Mapping[str, Any]) -> bool:
    """Whether the process that works on a cell may be there still: elsewhere, nobody can tell."""
    process = saved.get("process")
    if saved.get("host") != socket.gethostname() or not isinstance(process, int) or process < 1:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def write_plan(study: Study, folder: Path) -> None:
    """Keep the plan in the study's folder, also as a file to run where there is none."""
    content = {"plan": study_to_mapping(study), "text": study.text or write_yaml(study)}
    write_sealed(folder / PLAN, content)
    if not study.text:
        write_atomically(folder / "study.yaml", write_yaml(study))
