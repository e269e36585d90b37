"""One big model evaluated in parts, on whatever runs tasks."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import torch
from tqdm.auto import tqdm

from ppl_vae.devices import resolve_device
from ppl_vae.engines import Engine, Task, exclusive
from ppl_vae.evidence import Estimator, Evidence, Shard, Sharded
from ppl_vae.identity import Identity, identity_of
from ppl_vae.progress import no_bar
from ppl_vae.runs._evaluations import file_of, find_evaluation, save_evaluation
from ppl_vae.runs._normalizers import find_normalizers
from ppl_vae.runs._run import Split, open_run


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
        place: Folder of the parts' results.
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
    place: Path
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
    programs = run.vae.model, run.vae.guide
    identity = identity_of(lambda: sharded(*programs, rows, seed=seed), kind.type)
    if (kept := find_evaluation(place, identity)) is not None:
        return kept
    unfinished = place / f"shards-{identity.key[:12]}"
    tasks = [
        ShardTask(
            place, sharded, part, split, limit, None if file is None else Path(file),
            data_root, device, unfinished,
            identity_of(partial(sharded.estimate, *programs, rows, part), kind.type), trust,
        )
        for part in parts
    ]  # fmt: skip
    with exclusive(unfinished / "lock", f"this evaluation of {place}"):
        _run(tasks, engine, progress)
        evidence = sharded.join([_finished(task) for task in tasks], identity)
        save_evaluation(evidence, file_of(place, evidence), find_normalizers(run.vae))
        shutil.rmtree(unfinished)
    return evidence


def evaluate_shard(task: ShardTask) -> int:
    """Estimate log p(x) of a part of the data and keep it in a file; its number of data."""
    if find_evaluation(task.place, task.identity) is None:
        run = open_run(task.run, data_root=task.data_root, device=task.device, trust=task.trust)
        rows = run.rows(task.split, task.limit, task.file)
        estimate = partial(
            task.estimator.estimate,
            run.vae.model,
            run.vae.guide,
            rows,
            task.shard,
            device=run.device,
        )
        # The worker has opened the run by itself: what it evaluates may be trained on since.
        task.identity.require_same(identity_of(estimate), f"the run in {task.run}")
        checkpoint = task.place / f"{task.shard.number}.safetensors"
        evidence = estimate(checkpoint=checkpoint)
        save_evaluation(evidence, file_of(task.place, evidence))
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
        for outcome in engine.run(_pending(tasks, bar.update)):
            if outcome.error is None:
                bar.update(outcome.value)
            else:
                failed.append(f"{outcome.name}: {outcome.error}")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(tasks)} parts of the data failed, {failed[0]} The others are "
            "kept: the same command goes on from them."
        )


def _pending(tasks: list[ShardTask], count: Callable[[int], object]) -> Iterator[Task]:
    for task in tasks:
        if find_evaluation(task.place, task.identity) is None:
            yield Task(f"part {task.shard.number}", evaluate_shard, (task,))
        else:
            count(len(task.shard))


def _finished(task: ShardTask) -> Evidence:
    found = find_evaluation(task.place, task.identity)
    if found is None:
        raise FileNotFoundError(
            f"part {task.shard.number} was written by a worker and is not in {task.place}: the "
            "run's folder must be on a file system that all nodes see."
        )
    return found
