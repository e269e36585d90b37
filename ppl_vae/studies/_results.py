"""Results and progress of a study, read from its folder without a model or data."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ppl_vae.comparison import Comparison, Lowness, compare, lowness
from ppl_vae.engines import ProgressRow
from ppl_vae.evidence import Evidence
from ppl_vae.names import plural
from ppl_vae.runs import HISTORY, Normalizer, RunConfig, RunRecord, RunState
from ppl_vae.studies._plan import Study, read_cell

STILL_IMPROVING = 0.95
"""A best epoch after this fraction of all is taken as a sign that training was cut short."""
_TAIL = 4096
"""Bytes at the end of a history that hold its last line."""


@final
@dataclass(frozen=True)
class StudyResults:
    """Contents of a study's folder: the plan, the manifest and the record of each cell.

    Attributes:
        folder: The study's.
        study: The plan.
        manifest: Versions, device, data, git revision, hashes of configurations.
        cells: All planned cells, in the order of arms, then seeds.
    """

    folder: Path
    study: Study
    manifest: Mapping[str, Any]
    cells: list[RunRecord]
    _compared: dict[str, Comparison | None] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _beside: dict[str, dict[str, Lowness]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __repr__(self) -> str:
        done = len(self.in_state("done"))
        cells = f"{done} of {plural(len(self.cells), 'cell')} done"
        return f"StudyResults({str(self.folder)!r}: {self.study!r}, {cells})"

    def of(self, arm: str) -> list[RunRecord]:
        """The cells of an arm."""
        return [cell for cell in self.cells if cell.arm == arm]

    def in_state(self, state: RunState) -> list[RunRecord]:
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
        label, study = method or self.study.methods[0].label, self.study
        # A comparison is made once: table, page and notes all ask for it.
        if label not in self._compared:
            evidence = self.evidence(label)
            # With one factor that varies, its levels are the arms.
            varying = [name for name, levels in study.factors.items() if len(levels) > 1]
            levels = {a: {name: study.arms[a].levels[name] for name in varying} for a in evidence}
            self._compared[label] = (
                None
                if not evidence
                else compare(
                    evidence,
                    levels=levels if len(varying) > 1 else None,
                    # The reference may not be done yet; until then all pairs are compared.
                    reference=study.reference if study.reference in evidence else None,
                    confidence=study.confidence,
                )
            )
        return self._compared[label]

    def beside(self) -> dict[str, dict[str, Lowness]]:
        """Label of each method but the first to arm to how far its estimate is below the first's.

        One method's estimates are in memory at a time.
        """
        first, *others = [method.label for method in self.study.methods]
        missing = [label for label in others if label not in self._beside]
        trusted = self.evidence(first) if missing else {}
        for label in missing:
            found = self.evidence(label)
            each = {arm: lowness(trusted[arm], found.get(arm, {})) for arm in trusted}
            self._beside[label] = {arm: low for arm, low in each.items() if low is not None}
        return self._beside

    @property
    def warnings(self) -> list[str]:
        """Warnings to read before the numbers, one sentence each."""
        notes = [f"{cell.name} failed: {cell.reason}" for cell in self.in_state("failed")]
        notes += [f"{c.name}: {c.divergence}" for c in self.in_state("done") if c.divergence]
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
        notes += filter(None, (_estimated_constant(arm, self.of(arm)) for arm in self.study.arms))
        rising, wants = [], set()
        for arm, planned in self.study.arms.items():
            done = [cell for cell in self.of(arm) if cell.state == "done"]
            last = [cell for cell in done if _rises(cell, planned.config)]
            if last:
                rising.append(f"{arm} ({len(last)} of {len(done)} runs)")
                wants |= {_lacking(cell, planned.config) for cell in last}
        if rising:
            notes.append(
                "still rising at the last epoch, or near it, were the validation data's numbers of "
                f"{', '.join(rising)}: "
                f"with {' and '.join(sorted(wants))} the comparison may come out otherwise."
            )
        return notes


def _estimated_constant(arm: str, cells: list[RunRecord]) -> str | None:
    """The error of log Z of an arm, of the run where it is largest; None where none is estimated.

    No spread over data or draws shows it.
    """
    done = [cell for cell in cells if cell.state == "done"]
    found = [Normalizer.from_dict(each) for cell in done for each in cell.normalizers]
    if not found:
        return None
    return f"{arm}: {max(found, key=lambda each: each.standard_error)}."


def _rises(cell: RunRecord, config: RunConfig) -> bool:
    """Whether validation was at its best near the end, where it tells anything."""
    kind = config.model.kind
    # The bound under a prior in a guide's place says nothing of the model.
    if kind.ascends and not kind.encodes:
        return False
    if (cell.kept_epoch or 0) <= STILL_IMPROVING * cell.epochs:
        return False
    # A maximum that is found at once does not rise; nor does what is not validated.
    return len(cell.history.by_epoch("validation")) > 1


def _lacking(cell: RunRecord, config: RunConfig) -> str:
    """What ended a run too early: its budget, or its patience, which a slow rise outlasts."""
    patience = config.training.patience
    stale = cell.epochs - (cell.kept_epoch or 0)
    return "a larger budget" if patience is None or stale < patience else "more patience"


def progress_of(study: Study, folder: Path) -> Callable[[], list[ProgressRow]]:
    """A function that gives a row for each cell, in the order they are run, whenever it is called.

    Cells that are done are not looked at again.
    """
    rows: dict[str, ProgressRow] = {}

    def read_rows() -> list[ProgressRow]:
        for plan in study.cells:
            if plan.folder not in rows or rows[plan.folder].state != "done":
                rows[plan.folder] = _row_of(read_cell(plan, folder), plan.config)
        return list(rows.values())

    return read_rows


def _row_of(cell: RunRecord, config: RunConfig) -> ProgressRow:
    # None where training is limited otherwise.
    epochs = config.training.budget.epochs
    if cell.state == "done":
        text = f"{plural(cell.epochs, 'epoch')}, kept epoch {cell.kept_epoch}, {cell.seconds:.1f} s"
        return ProgressRow(cell.name, "done", cell.epochs, cell.epochs, text)
    if cell.state == "failed":
        return ProgressRow(cell.name, "failed", text=cell.reason or "")
    if cell.state == "waiting":
        return ProgressRow(cell.name, "waiting", 0, epochs)
    last = last_epoch(cell.folder)
    if last is None:
        return ProgressRow(cell.name, "running", 0, epochs, "starting")
    text = f"bound {last['bound']:.2f} nats"
    return ProgressRow(cell.name, "running", int(last["epoch"]), epochs, text)


def last_epoch(folder: Path) -> dict[str, float] | None:
    """Epoch and bound at the end of a run's learning curves, which may be growing."""
    path = folder / HISTORY
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.readline().decode().strip().split(",")
        size = file.seek(0, 2)
        # The tail only: progress is drawn every second, for all cells that run.
        file.seek(max(0, size - _TAIL))
        lines = file.read().decode().split("\n")[:-1]
    # The first line may be cut, the last one is whole: it ends with a line break.
    if not lines or "epoch" not in head or len(lines[-1].split(",")) != len(head):
        return None
    values = dict(zip(head, lines[-1].split(","), strict=True))
    try:
        return {name: float(values[name]) for name in ("epoch", "bound")}
    except ValueError:
        return None


def format_status(results: StudyResults) -> str:
    """The text that ``ppl-vae study status`` prints."""
    study, count = results.study, Counter(cell.state for cell in results.cells)
    width = max(map(len, study.arms))
    lines = [
        f"{results.folder}: {study.title}, {len(study.arms)} arms x {len(study.seeds)} seeds",
        ", ".join(f"{count[s]} {s}" for s in ("done", "running", "failed", "waiting") if count[s])
        + f" of {len(results.cells)} cells",
        "",
        f"{'':{width}}  {'done':>7} {'running':>8} {'failed':>7} {'waiting':>8}",
    ]
    for arm in study.arms:
        of = Counter(cell.state for cell in results.of(arm))
        lines.append(
            f"{arm:{width}}  {of['done']:>7} {of['running']:>8} {of['failed']:>7} "
            f"{of['waiting']:>8}"
        )
    for cell in results.in_state("running"):
        row = _row_of(cell, study.arms[cell.arm].config)
        of_all = f" of {row.total}" if row.total else ""
        history = cell.folder / HISTORY
        seconds = time.time() - history.stat().st_mtime if history.is_file() else 0.0
        # A cell that has not written for long may have been killed on another machine.
        silence = f" (no news for {seconds / 60:.0f} minutes)" if seconds > 120 else ""
        lines.append(f"{cell.name}: epoch {row.done}{of_all}, {row.text}{silence}")
    again = [cell for cell in results.in_state("waiting") if cell.reason]
    lines += [f"{cell.name} is to be done again: {cell.reason}" for cell in again]
    lines += [f"{cell.name} failed: {cell.reason}" for cell in results.in_state("failed")]
    return "\n".join(lines)


def status_summary(results: StudyResults) -> dict[str, Any]:
    """State of every cell as plain values, for JSON."""
    return {
        "folder": str(results.folder),
        "title": results.study.title,
        "cells": [
            {
                "name": cell.name,
                "arm": cell.arm,
                "seed": cell.seed,
                "state": cell.state,
                "reason": cell.reason,
                "attempts": cell.attempts,
                "epochs": _row_of(cell, results.study.arms[cell.arm].config).done,
            }
            for cell in results.cells
        ],
    }
