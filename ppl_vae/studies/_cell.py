"""One cell of a study: train, evaluate, measure, and say what became of it."""

import os
import socket
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.engines import exclusive
from ppl_vae.evidence import BidirectionalMonteCarlo, Evidence, Sharded, with_gap
from ppl_vae.files import append_text
from ppl_vae.runs import CHECKPOINT, CONFIG, Run, Split, evaluate_run, file_of, train_run
from ppl_vae.studies._measures import measure
from ppl_vae.studies._plan import CellPlan, Method, Study
from ppl_vae.studies._results import CELLS, CellResult, changed_files, hashes_of

LOCK, LOG = "cell.lock", "log.txt"
_WAIT = 60.0
"""Seconds for which another worker, thought dead, may still be writing."""


@final
@dataclass(frozen=True)
class CellTask:
    """All that a worker needs to know of a cell; plain values, so that it can be sent anywhere.

    Attributes:
        plan: What it is.
        folder: Where it is kept.
        methods: Of estimating log p(x).
        split: The data to evaluate on.
        limit: Only so many of them.
        shards: Parts the evaluation is cut in.
        data_root: Folder of the data sets.
        device: Where to compute.
        tensorboard: Write learning curves for TensorBoard too.
    """

    plan: CellPlan
    folder: Path
    methods: tuple[Method, ...]
    split: Split
    limit: int | None
    shards: int
    data_root: Path | None = None
    device: str = "auto"
    tensorboard: bool = False


def tasks_of(study: Study, folder: Path, **place: Any) -> list[CellTask]:
    """A task for every cell of a study, in the order they are to be run."""
    return [
        CellTask(
            plan=plan,
            folder=folder / CELLS / plan.folder,
            methods=study.methods,
            split=study.split,
            limit=study.limit,
            shards=study.shards,
            **place,
        )
        for plan in study.cells
    ]


def is_done(task: CellTask) -> bool:
    """Whether the cell was carried out as the task says, and all its files are as they were."""
    result = CellResult.read(task.plan, task.folder)
    return result.state == "done" and not changed_files(task.folder, result.files)


def run_cell(task: CellTask) -> CellResult:
    """Carry out a cell, going on from what there is of it.

    Whatever goes wrong in it is its result: the other cells are not concerned.

    Raises:
        KeyboardInterrupt: If one is sent.
        OSError: If another process works on the cell, or nothing can be written.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    with exclusive(task.folder / LOCK, f"cell {task.plan.name}", wait=_WAIT):
        before = CellResult.read(task.plan, task.folder)
        if is_done(task):
            return before
        _remove_changed(task.folder, before)
        begun = replace(before, state="running", reason=None, attempts=before.attempts + 1)
        begun.write(host=socket.gethostname(), process=os.getpid(), started=_now())
        log(task.folder, f"attempt {begun.attempts} by {os.getpid()} on {socket.gethostname()}")
        try:
            result = _carry_out(task, begun)
        except Exception as error:
            log(task.folder, traceback.format_exc().rstrip())
            reason = " ".join(str(error).split()) or type(error).__name__
            result = replace(begun, state="failed", reason=reason)
        result.write(key=task.plan.key, finished=_now())
        log(task.folder, result.state)
        return result


def _remove_changed(folder: Path, before: CellResult) -> None:
    """Remove results that are not as they were written, so that they are made again.

    A checkpoint stays: training is what takes long, and there may be a copy of it.
    """
    for name, what in changed_files(folder, before.files).items():
        log(folder, f"{name} {what}")
        if name not in (CONFIG, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)


def _carry_out(task: CellTask, begun: CellResult) -> CellResult:
    run, fitted = train_run(
        task.plan.config,
        task.folder,
        data_root=task.data_root,
        device=task.device,
        progress=False,
        tensorboard=task.tensorboard,
    )
    last = fitted.history.records[-1]
    log(task.folder, f"trained {last.epoch} epochs, kept epoch {fitted.kept_epoch}")
    rows = run.rows(task.split, task.limit)
    seconds = sum(record.seconds for record in fitted.history.records)
    files = {}
    for method in task.methods:
        evidence = _evaluate(task, run, method, rows.x)
        seconds += evidence.seconds
        files[method.label] = file_of(run.folder, evidence)
        log(task.folder, f"{method.label}: {str(evidence).splitlines()[0]}")
    # A bound against the number of draws is a bound only where the guide has a density.
    without = ("bound_curve",) if run.has_point_guide else ()
    for name in task.plan.measures:
        if name in without:
            log(task.folder, f"{name} not measured: the guide is a point without a density")
            continue
        measure(run, name, rows)
        log(task.folder, f"measured {name}")
    return replace(
        begun,
        state="done",
        seconds=seconds,
        updates=last.updates,
        evaluations=last.evaluations,
        epochs=last.epoch,
        kept_epoch=fitted.kept_epoch,
        discrete_data=run.has_discrete_data,
        methods={label: str(path.relative_to(run.folder)) for label, path in files.items()},
        files=hashes_of(run.folder, files.values()),
    )


def _evaluate(task: CellTask, run: Run, method: Method, data: Tensor) -> Evidence:
    estimator = method.build()
    seed = task.plan.config.seed
    if isinstance(estimator, BidirectionalMonteCarlo):
        simulated = estimator(run.vae.model, run.vae.guide, data[:2], device=run.device, seed=seed)
        estimator = with_gap(estimator, simulated.gap)
    return evaluate_run(
        run,
        estimator=Sharded(estimator, task.shards) if task.shards > 1 else estimator,
        split=task.split,
        limit=task.limit,
        seed=seed,
        progress=False,
    )


def log(folder: Path, text: str) -> None:
    """Add a line to the cell's log."""
    folder.mkdir(parents=True, exist_ok=True)
    append_text(folder / LOG, f"{_now()} {text}\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
