"""How far a study is."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ppl_vae.engines import ProgressRow
from ppl_vae.runs import HISTORY
from ppl_vae.studies._plan import CellPlan, Study
from ppl_vae.studies._results import CELLS, CellResult, StudyResults

_TAIL = 4096


@final
@dataclass
class Progress:
    """How far each cell of a study is, from its folder; for one view of all workers.

    Cells that are done are not looked at again.
    """

    study: Study
    folder: Path
    _finished: dict[str, ProgressRow] = field(default_factory=dict)

    def rows(self) -> list[ProgressRow]:
        """A row for each cell, in the order they are run."""
        return [self._finished.get(plan.folder) or self._row(plan) for plan in self.study.cells]

    def _row(self, plan: CellPlan) -> ProgressRow:
        cell = CellResult.read(plan, self.folder / CELLS / plan.folder)
        row = row_of(cell, plan.config.training.budget.epochs)
        if cell.state == "done":
            self._finished[plan.folder] = row
        return row


def row_of(cell: CellResult, epochs: int | None) -> ProgressRow:
    """A cell's progress in words; ``epochs`` of training, None where it is limited otherwise."""
    if cell.state == "done":
        text = f"{cell.epochs} epochs, kept epoch {cell.kept_epoch}, {cell.seconds:.1f} s"
        return ProgressRow(cell.name, "done", cell.epochs, cell.epochs, text)
    if cell.state == "failed":
        return ProgressRow(cell.name, "failed", text=cell.reason or "")
    if cell.state == "waiting":
        return ProgressRow(cell.name, "waiting", 0, epochs)
    last = last_epoch(cell.folder)
    if last is None:
        return ProgressRow(cell.name, "running", 0, epochs, "starting")
    return ProgressRow(
        cell.name, "running", int(last["epoch"]), epochs, f"bound {last['bound']:.2f} nats"
    )


def last_epoch(folder: Path) -> dict[str, float] | None:
    """Epoch and bound at the end of a run's learning curves, which may be growing."""
    path = folder / HISTORY
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.readline().decode().strip().split(",")
        size = file.seek(0, 2)
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
        row = row_of(cell, study.arms[cell.arm].config.training.budget.epochs)
        age = _age(cell.folder)
        of_all = f" of {row.total}" if row.total else ""
        lines.append(f"{cell.name}: epoch {row.done}{of_all}, {row.text}{age}")
    again = [cell for cell in results.in_state("waiting") if cell.reason]
    lines += [f"{cell.name} is to be done again: {cell.reason}" for cell in again]
    lines += [f"{cell.name} failed: {cell.reason}" for cell in results.in_state("failed")]
    return "\n".join(lines)


def _age(folder: Path) -> str:
    """Since when nothing was written, if that is long: the cell may have been killed."""
    path = folder / HISTORY
    seconds = time.time() - path.stat().st_mtime if path.is_file() else 0.0
    return f" (no news for {seconds / 60:.0f} minutes)" if seconds > 120 else ""


def status_summary(results: StudyResults) -> dict[str, Any]:
    """The same as plain values, for JSON."""
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
                "epochs": row_of(
                    cell, results.study.arms[cell.arm].config.training.budget.epochs
                ).done,
            }
            for cell in results.cells
        ],
    }
