"""One big model evaluated in parts, on whatever runs tasks."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from tqdm.auto import tqdm

from ppl_vae.devices import resolve_device
from ppl_vae.engines import Engine, Task, exclusive
from ppl_vae.evidence import Estimator, Evidence, Shard, Sharded
from ppl_vae.identity import Identity
from ppl_vae.progress import no_bar
from ppl_vae.runs.evaluations import (
    evaluation_file,
    identified,
    read_evaluation,
    save_evaluation,
)
from ppl_vae.runs.normalizers import find_normalizers
from ppl_vae.runs.run import Split, open_run


@final
@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to know to evaluate a part of the data.

    Attributes:
        run: The run's folder.
        estimator: With the number of parts.
        shard: The part.
        split: Of which data.
        limit: Only so many of them.
        file: A file of other rows, in place of a split.
        data_root: Folder of the data sets.
        device: Where to compute.
        seed: Of the draws of the whole.
        path: Where its result goes.
        identity: What the result is computed from.
        trust: As of :func:`~ppl_vae.runs.open_run`.
    """

    run: Path
    estimator: Sharded
    shard: Shard
    split: Split
    limit: int | None
    file: Path | None
    data_root: Path | None
    device: str
    seed: int
    path: Path
    identity: Identity
    trust: bool = False


def evaluate_sharded(
    folder: str | os.PathLike[str],
    estimator: Estimator,
    shards: int,
    engine: Engine,
    *,
    split: Split = "test",
    limit: int | None = None,
    file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    data_root: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    trust: bool = False,
) -> Evidence:
    """Estimate log p(x) of a trained run, the data cut into parts that an engine runs.

    The numbers are those of :func:`~ppl_vae.runs.evaluate_run` with
    :class:`~ppl_vae.evidence.Sharded`, whichever the engine. The result is kept in the run's folder
    and reused when nothing changed. Finished parts are kept there until all are: an evaluation that
    was killed goes on from them.

    Args:
        folder: Of the run; the engine's workers must see it under the same name.
        estimator: Of log p(x).
        shards: Number of parts.
        engine: What runs them.
        split: The data to evaluate on.
        limit: Only so many of them.
        file: A file of other rows, in place of a split; workers must see it too.
        seed: Of the draws.
        data_root: Folder of the data sets.
        device: Where workers compute.
        progress: Show a progress bar.
        trust: Take classes from outside of this package, whose code then runs.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If there are more parts than data, or parts failed; says why.
        BlockingIOError: If another process is at the same evaluation.
    """
    place, sharded = Path(folder), Sharded(estimator, shards)
    # The model is only opened to see what it is: it need not take a worker's place on a device.
    run = open_run(place, data_root=data_root, device="cpu", trust=trust)
    rows = run.rows(split, limit, file)
    parts = sharded.parts(len(rows), seed)
    # Workers may have devices that this process has not.
    kind = resolve_device() if device == "auto" else torch.device(device)
    identity = replace(run.identity(repr(sharded), rows, seed), device=kind.type)
    path = evaluation_file(place, identity)
    if (kept := read_evaluation(path, identity)) is not None:
        return kept
    unfinished = place / f"shards-{identity.key[:12]}"
    tasks = [
        ShardTask(
            place, sharded, part, split, limit, None if file is None else Path(file),
            data_root, device, seed,
            unfinished / f"{part.number}.nc",
            replace(identity, settings=f"part {part.number} of {identity.settings}"), trust,
        )
        for part in parts
    ]  # fmt: skip
    with exclusive(unfinished / "lock", f"this evaluation of {place}"):
        _run(tasks, engine, progress)
        evidence = identified(sharded.join([_finished(task) for task in tasks]), identity)
        save_evaluation(evidence, path, find_normalizers(run.vae))
        shutil.rmtree(unfinished)
    return evidence


def evaluate_shard(task: ShardTask) -> int:
    """Estimate log p(x) of a part of the data and keep it in a file; its number of data."""
    if read_evaluation(task.path, task.identity) is None:
        run = open_run(task.run, data_root=task.data_root, device=task.device, trust=task.trust)
        rows = run.rows(task.split, task.limit, task.file)
        # The worker has opened the run by itself: what it evaluates may be trained on since.
        here = run.identity(task.identity.settings, rows, task.seed)
        task.identity.require_same(here, f"the run in {task.run}")
        checkpoint = task.path.with_suffix(".safetensors")
        evidence = task.estimator.estimate(
            run.vae.model,
            run.vae.guide,
            rows.x,
            task.shard,
            device=run.device,
            checkpoint=checkpoint,
        )
        save_evaluation(identified(evidence, task.identity), task.path)
        checkpoint.unlink(missing_ok=True)
    return len(task.shard)


def _run(tasks: list[ShardTask], engine: Engine, progress: bool) -> None:
    """Have all parts done, or say why some are not.

    Raises:
        ValueError: If parts failed.
    """
    failed: list[str] = []
    total = sum(len(task.shard) for task in tasks)
    with tqdm(total=total, desc="log p(x)", disable=no_bar(progress)) as bar:
        for outcome in engine.run(_pending(tasks, bar)):
            if outcome.error is None:
                bar.update(outcome.value)
            else:
                failed.append(f"{outcome.name}: {outcome.error}")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(tasks)} parts of the data failed, {failed[0]} The others are "
            "kept: the same command goes on from them."
        )


def _pending(tasks: list[ShardTask], bar: "tqdm[Any]") -> Iterator[Task]:
    for task in tasks:
        if read_evaluation(task.path, task.identity) is None:
            yield Task(f"part {task.shard.number}", evaluate_shard, (task,))
        else:
            bar.update(len(task.shard))


def _finished(task: ShardTask) -> Evidence:
    found = read_evaluation(task.path, task.identity)
    if found is None:
        raise FileNotFoundError(
            f"{task.path} was written by a worker and is not here: the run's folder must be on a "
            "file system that all nodes see."
        )
    return found
