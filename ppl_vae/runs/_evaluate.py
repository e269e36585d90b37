"""Log p(x) of a run's data estimated, in this process or in shards on an engine, and kept."""

import inspect
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from tqdm.auto import tqdm

from ppl_vae.data import Rows, in_memory
from ppl_vae.engines import Engine, RayEngine, Task
from ppl_vae.evidence import AutomaticSampling, Estimator, Evidence, Shard, Sharded
from ppl_vae.identity import Identity, Source, identity_of
from ppl_vae.names import describe, require_instance
from ppl_vae.netcdf import save_netcdf
from ppl_vae.progress import no_bar
from ppl_vae.runs._evaluations import (
    file_of,
    find_evaluation,
    holding_shards,
    read_back,
    remove_unfinished,
    save_evaluation,
    shards_folder,
    unfinished_file,
)
from ppl_vae.runs._run import Run, Split, open_run
from ppl_vae.store import Stored, read_sealed, write_sealed

_ROWS_FORMAT = "ppl_vae rows 1"


def evaluate_run(
    run: Run,
    *,
    estimator: Estimator,
    split: Split = "test",
    limit: int | None = None,
    file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    engine: Engine | None = None,
) -> Evidence:
    """Estimate log p(x) of rows, keep it in the run's folder, reuse it where it is there already.

    Every evaluation has a file of its own, named by what it is computed from. An estimator that can
    be interrupted goes on from where it was.

    With an engine, the shards of a :class:`~ppl_vae.evidence.Sharded` estimator are its tasks; the
    numbers are the same. Finished shards are kept until all are.

    Args:
        run: A trained run; workers of an engine must see its folder under the same name.
        estimator: Estimator of log p(x).
        split: The data to evaluate on.
        limit: At most so many of them, a fixed random subset.
        file: A file of other rows, in place of a split.
        seed: Seed of the draws.
        progress: Show a progress bar.
        engine: Engine that runs the shards, on the device that it grants them; None: this process.

    Raises:
        ValueError: If the file of the evaluation is damaged or of something else; if there are more
            shards than data, or shards failed.
        TypeError: If the run or the estimator is something else.
        BlockingIOError: If another process is at the same evaluation on an engine.
    """
    require_instance("run", run, Run, "open_run(FOLDER) reads one")
    if isinstance(estimator, type) or not callable(estimator):
        how = "give an instance, such as ImportanceSampling(1000)"
        raise TypeError(f"estimator is {describe(estimator)}: {how}.")
    rows = run.rows(split, limit, file)
    if (own := _own_evidence(run, estimator, rows)) is not None:
        return own
    if engine is not None and not isinstance(estimator, Sharded):
        # An engine runs shards only; one shard is the whole.
        estimator = Sharded(estimator, 1)
    device = run.device if engine is None else _device_of(engine, run.device)
    estimate = partial(estimator, run.vae.model, run.vae.guide, rows, device=run.device, seed=seed)
    identity = identity_of(estimate, _elsewhere(device, run))
    # Looked up before the cost: nothing but the identity has been computed yet.
    if (kept := read_back(run, identity)) is not None:
        return kept
    if engine is not None and isinstance(estimator, Sharded):
        return _evaluate_on(engine, device, run, estimator, rows, seed, identity, progress)
    unfinished: dict[str, Any] = {}
    if "checkpoint" in inspect.signature(estimator.__call__).parameters:
        unfinished["checkpoint"] = unfinished_file(run, identity)
    evidence = estimate(progress=progress, **unfinished)
    save_evaluation(evidence, file_of(run.folder, evidence), run)
    # Only now: until the result is saved, the unfinished file is what a killed evaluation goes on
    # from.
    remove_unfinished(run, identity)
    return evidence


def _own_evidence(run: Run, estimator: Estimator, rows: Rows) -> Evidence | None:
    """Log p(x) in the model's own way, kept; None where the estimator is to be taken."""
    own = run.own_evidence(rows)
    if own is None:
        return None
    asked = estimator.estimator if isinstance(estimator, Sharded) else estimator
    if not isinstance(asked, AutomaticSampling):
        # Whose weights are all p(x): an estimator gives what it claims, if log Z is exact.
        if not own.shared_error:
            return None
        raise ValueError(
            f"log p(x) of model {run.config.model.name} has the error of log Z, of which draws of "
            "latents know nothing: take the method auto."
        )
    assert own.identity is not None
    if (kept := read_back(run, own.identity)) is not None:
        return kept
    save_evaluation(own, file_of(run.folder, own), run)
    return own


def certify_run(
    run: Run,
    estimator: AutomaticSampling,
    evidence: Evidence,
    rows: Rows,
    *,
    num_simulated: int = 20,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Judge an estimate on simulated data from both sides, and keep that beside the evaluation.

    Args:
        run: The run.
        estimator: Estimator with its settings.
        evidence: What it gave, as :func:`evaluate_run` keeps it.
        rows: The data.
        num_simulated: Number of data to simulate.
        seed: Seed of the draws.

    Returns:
        The summary of the sandwich, with its text; None where the estimate is exact, or the model's
        own.

    Raises:
        ValueError: If the kept file is damaged, or the model's data cannot be simulated.
    """
    if run.own_evidence(rows) is not None:
        return None
    kept = file_of(run.folder, evidence)
    path = kept.with_name(f"{kept.stem}-certificate-{num_simulated}.json")
    if path.is_file():
        return read_sealed(path, "delete it to make it anew")
    sandwich = estimator.certify(
        run.vae.model,
        run.vae.guide,
        rows,
        estimate=evidence,
        num_simulated=num_simulated,
        device=run.device,
        seed=seed,
    )
    if sandwich is None:
        return None
    values = {**sandwich.summary(), "text": str(sandwich)}
    write_sealed(path, values)
    return values


@final
@dataclass(frozen=True)
class _ShardTask:
    """Task of a worker: evaluate a shard of the rows in ``place``.

    Attributes:
        folder: Folder of the run; ``data_root`` and ``trust`` as it was opened.
        estimator: Estimator, with the number of shards.
        shard: Rows of the shard, and their seed.
        place: Folder of the rows and of the shards' results.
        device: Device to compute on.
        identity: Identity of the result.
    """

    folder: Path
    data_root: Path | None
    trust: bool
    estimator: Sharded
    shard: Shard
    place: Path
    device: str
    identity: Identity

    @property
    def result(self) -> Evidence | None:
        """Result that a worker has kept; None if it has not finished."""
        return find_evaluation(self.place, self.identity)


def _device_of(engine: Engine, here: torch.device) -> torch.device:
    """Device of the tasks: a worker on a cluster sees a GPU only if it was granted one."""
    if isinstance(engine, RayEngine):
        return torch.device("cuda" if engine.gpus else "cpu")
    return here


def _elsewhere(device: torch.device, run: Run) -> str | None:
    """Type of the device, where it is not the run's: an identity then has no densities of here."""
    return None if device.type == run.device.type else device.type


def _evaluate_on(
    engine: Engine,
    device: torch.device,
    run: Run,
    estimator: Sharded,
    rows: Rows,
    seed: int,
    identity: Identity,
    progress: bool,
) -> Evidence:
    place, elsewhere = shards_folder(run, identity), _elsewhere(device, run)
    programs = run.vae.model, run.vae.guide
    tasks = [
        _ShardTask(
            run.folder, run.data_root, run.trust, estimator, shard, place, str(device),
            identity_of(partial(estimator.estimate, *programs, rows, shard), elsewhere),
        )
        for shard in estimator.parts(len(rows), seed)
    ]  # fmt: skip
    with holding_shards(run, identity):
        # Rows go to workers by file, as they may be many and a task should be small.
        if not _rows_file(place).exists():
            Stored(
                {"rows": {"x": in_memory(rows.x, "an engine's workers")}}, asdict(rows.source)
            ).write(_rows_file(place), _ROWS_FORMAT)
        _run_shards(engine, tasks, progress)
        results = [task.result for task in tasks]
        if None in results:
            raise FileNotFoundError(
                f"shard {results.index(None)} was written by a worker and is not in {place}: the "
                "run's folder must be on a file system that all nodes see."
            )
        evidence = estimator.join([each for each in results if each is not None], identity)
        save_evaluation(evidence, file_of(run.folder, evidence), run)
        # After the joined result is saved, so that a kill costs no shard.
        shutil.rmtree(place)
    return evidence


def _run_shards(engine: Engine, tasks: list[_ShardTask], progress: bool) -> None:
    """Have all shards done, or say why some are not.

    Raises:
        ValueError: If shards failed.
    """
    failures: list[str] = []
    with tqdm(
        total=sum(len(task.shard) for task in tasks), desc="log p(x)", disable=no_bar(progress)
    ) as bar:

        def pending() -> Iterator[Task]:
            for task in tasks:
                if task.result is None:
                    yield Task(f"shard {task.shard.number}", evaluate_shard, (task,))
                else:
                    bar.update(len(task.shard))

        for outcome in engine.run(pending()):
            if outcome.error is None:
                bar.update(outcome.value)
            else:
                failures.append(f"{outcome.name}: {outcome.error}")
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(tasks)} shards of the data failed, {failures[0]} The others "
            "are kept: the same command goes on from them."
        )


def evaluate_shard(task: _ShardTask) -> int:
    """Estimate log p(x) of a shard of the data and keep it in a file; return its number of data."""
    if task.result is None:
        run = open_run(task.folder, data_root=task.data_root, device=task.device, trust=task.trust)
        stored = Stored.read(
            _rows_file(task.place), _ROWS_FORMAT, "rows to evaluate", "delete it to start anew"
        )
        rows = Rows(stored.tensors["rows"]["x"], Source(**stored.record))
        estimate = partial(
            task.estimator.estimate,
            run.vae.model,
            run.vae.guide,
            rows,
            task.shard,
            device=run.device,
        )
        # The worker has opened the run by itself: what it evaluates may be trained on since.
        task.identity.require_same(identity_of(estimate), f"the run in {task.folder}")
        checkpoint = task.place / f"{task.shard.number}.safetensors"
        evidence = estimate(checkpoint=checkpoint)
        save_netcdf(evidence.to_datatree(), file_of(task.place, evidence))
        checkpoint.unlink(missing_ok=True)
    return len(task.shard)


def _rows_file(place: Path) -> Path:
    return place / "rows.safetensors"
