"""One big model evaluated in parts, on whatever runs tasks."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tqdm.auto import tqdm

from ppl_vae.arviz import evidence_from_datatree, evidence_to_datatree
from ppl_vae.engines import Engine, Task, exclusive
from ppl_vae.evidence import Estimator, Evidence, Shard, Sharded
from ppl_vae.netcdf import load_netcdf, save_netcdf
from ppl_vae.runs.run import EVIDENCE, Split, evaluation_key, open_run


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
        data_root: Folder of the data sets.
        device: Where to compute.
        path: Where its result goes.
        key: Names all that the result depends on.
    """

    run: Path
    estimator: Sharded
    shard: Shard
    split: Split
    limit: int | None
    data_root: Path | None
    device: str
    path: Path
    key: str


def evaluate_sharded(
    folder: Path,
    estimator: Estimator,
    shards: int,
    engine: Engine,
    *,
    split: Split = "test",
    limit: int | None = None,
    seed: int = 0,
    data_root: Path | None = None,
    device: str = "auto",
    file: str = EVIDENCE,
    progress: bool = True,
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
        seed: Of the draws.
        data_root: Folder of the data sets.
        device: Where workers compute.
        file: Of the result, in the run's folder.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If there are more parts than data, or parts failed; says why.
        BlockingIOError: If another process is at the same evaluation.
    """
    sharded = Sharded(estimator, shards)
    # The model is only opened to see what it is: it need not take a worker's place on a device.
    run = open_run(folder, data_root=data_root, device="cpu")
    parts = sharded.parts(len(run.split(split, limit)), seed)
    key = evaluation_key(run, repr(sharded), split, limit, seed)
    if (kept := _read(folder / file, key)) is not None:
        return kept
    unfinished = folder / f"shards-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    tasks = [
        ShardTask(
            folder, sharded, part, split, limit, data_root, device,
            unfinished / f"{part.number}.nc", f"{key} part {part.number}",
        )
        for part in parts
    ]  # fmt: skip
    with exclusive(unfinished / "lock", f"this evaluation of {folder}"):
        _run(tasks, engine, progress)
        evidence = sharded.join([_finished(task) for task in tasks])
        tree = evidence_to_datatree(evidence)
        tree.attrs["evaluation"] = key
        save_netcdf(tree, folder / file)
        shutil.rmtree(unfinished)
    return evidence


def evaluate_shard(task: ShardTask) -> int:
    """Estimate log p(x) of a part of the data and keep it in a file; its number of data."""
    if _read(task.path, task.key) is None:
        run = open_run(task.run, data_root=task.data_root, device=task.device)
        checkpoint = task.path.with_suffix(".safetensors")
        evidence = task.estimator.estimate(
            run.vae.model,
            run.vae.guide,
            run.split(task.split, task.limit),
            task.shard,
            device=run.device,
            checkpoint=checkpoint,
        )
        tree = evidence_to_datatree(evidence)
        tree.attrs["evaluation"] = task.key
        save_netcdf(tree, task.path)
        checkpoint.unlink(missing_ok=True)
    return len(task.shard)


def _run(tasks: list[ShardTask], engine: Engine, progress: bool) -> None:
    """Have all parts done, or say why some are not.

    Raises:
        ValueError: If parts failed.
    """
    failed: list[str] = []
    total = sum(len(task.shard) for task in tasks)
    with tqdm(total=total, desc="log p(x)", disable=None if progress else True) as bar:
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
        if _read(task.path, task.key) is None:
            yield Task(f"part {task.shard.number}", evaluate_shard, (task,))
        else:
            bar.update(len(task.shard))


def _finished(task: ShardTask) -> Evidence:
    found = _read(task.path, task.key)
    if found is None:
        raise FileNotFoundError(
            f"{task.path} was written by a worker and is not here: the run's folder must be on a "
            "file system that all nodes see."
        )
    return found


def _read(path: Path, key: str) -> Evidence | None:
    """The result in a file, if it is the one of this key."""
    if not path.exists():
        return None
    tree = load_netcdf(path)
    return evidence_from_datatree(tree) if tree.attrs.get("evaluation") == key else None
