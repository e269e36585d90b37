"""Training into a folder: checked first, recorded, with learning curves written as they grow."""

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.cpu import given_threads
from ppl_vae.data import Dataset, binarize_batch
from ppl_vae.engines import Engine, InProcess, ProgressRow, RayEngine, showing_progress
from ppl_vae.files import append_text, exclusive, leftovers, write_atomically
from ppl_vae.names import require_instance
from ppl_vae.objectives import Objective
from ppl_vae.progress import no_bar
from ppl_vae.runs._autoencoders import DenoisingKind
from ppl_vae.runs._build import Model
from ppl_vae.runs._config import RunConfig, require_same_settings
from ppl_vae.runs._finished import finish
from ppl_vae.runs._job import TrainingJob
from ppl_vae.runs._origin import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    LOCK,
    LOG,
    RECORD,
    DataSummary,
    origin_of,
    read_config,
    require_same_data,
    write_origin,
)
from ppl_vae.runs._record import RunRecord
from ppl_vae.runs._run import Run, fixed_tensors, open_run, require_support
from ppl_vae.training import (
    EpochRecord,
    FitResult,
    History,
    Workers,
    csv_line,
    require_sum_over_data,
)

TENSORBOARD = "tensorboard"
_AXES = ("epoch", "updates")


def train_run(
    config: RunConfig,
    folder: str | os.PathLike[str],
    *,
    data_root: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
    attempt: RunRecord | None = None,
    workers: int = 1,
    engine: Engine | None = None,
) -> tuple[Run, FitResult]:
    """Train into ``folder``, going on from what is there if it is the same run.

    Everything is checked before anything is written. The learning curves are in ``history.csv``
    after every epoch, and ``run.json`` says what has become of the run.

    Args:
        config: The run.
        folder: Folder of its files; others may be there only if they are a study's.
        data_root: Folder of the data sets.
        device: Where to compute.
        progress: Show a progress bar when on a terminal.
        tensorboard: Write the curves for TensorBoard too, to ``tensorboard`` in the folder.
        attempt: A longer attempt that training is part of, as in a study's cell, recorded by the
            caller, who holds the folder's lock; None: training is all that there is to do.
        workers: Processes that train the one model together, each on its rows of every batch:
            started by --engine ray, or each by itself, as by torchrun.
        engine: A :class:`~ppl_vae.engines.RayEngine` starts the workers; by another this process is
            one of them.

    Raises:
        TypeError: If ``config`` is no configuration.
        ValueError: If the folder holds a run with other settings or on other data.
        FileNotFoundError: If the data are missing.
        ImportError: If TensorBoard is asked for and not installed.
        BlockingIOError: If another process trains there.
    """
    require_instance("config", config, RunConfig, "RunConfig.of(latent=10, ...) makes one")
    folder = Path(folder)
    objective = config.build_objective()
    _require_possible(config, objective, workers, tensorboard)
    if isinstance(engine, RayEngine):
        asked = {"data_root": data_root, "device": device, "tensorboard": tensorboard}
        return _train_elsewhere(config, folder, engine, workers, asked, progress)
    together = Workers.joined(workers)
    dataset, vae = _prepare(config, folder, data_root)
    summary, fixed = DataSummary.of(dataset), fixed_tensors(vae)
    records: list[RunRecord] = [] if attempt is None else [attempt]
    curves: list[Callable[[EpochRecord], None]] = []
    with ExitStack() as stack:
        stack.enter_context(_threads(engine))

        def claim() -> None:
            if attempt is None and not records:
                # Here and not earlier: a lock file in the folder is the first thing written, after
                # all checks.
                stack.enter_context(exclusive(folder / LOCK, f"run {folder}"))
                key = config.key
                # Under the lock, or two processes would count the same attempt.
                before = RunRecord.read(folder, config.objective, config.seed, key)
                records.append(stack.enter_context(before.attempt()))
            write_origin(folder, config, summary, fixed)

        def start(past: History) -> None:
            claim()
            curves.append(LiveHistory(folder / HISTORY, past))
            if tensorboard:
                shown = TensorBoardCurves(folder / TENSORBOARD, past)
                stack.callback(shown.close)
                curves.append(shown)

        def show(record: EpochRecord) -> None:
            for curve in curves:
                curve(record)

        job = TrainingJob(
            model=vae,
            settings=config.model,
            build=config.model.work(config.components, dataset, config.seed),
            objective=objective,
            training=config.training,
            seed=config.seed,
            folder=folder,
            checkpoint=folder / CHECKPOINT,
            claim=lambda: together.from_first(claim),
            on_start=start,
            on_epoch=show,
            transform=_transform(config),
            device=device,
            progress=progress,
            origin=origin_of(config, summary.sha256),
            workers=together,
        )
        result = config.model.kind.train(job)
        finish(config, job)
        run = Run(
            folder, config, summary, vae, result.history, lambda: dataset, data_root, trust=True
        )

        def record_end() -> None:
            # Once more, whole and on the disk, before the record says done and holds its hash.
            write_atomically(folder / HISTORY, result.history.to_csv())
            if attempt is None:
                records[0].trained(result).done(discrete_data=run.has_discrete_data)

        together.from_first(record_end)
    return run, result


def _prepare(config: RunConfig, folder: Path, data_root: Path | None) -> tuple[Dataset, Model]:
    """The data and a newly initialised model, checked against each other and the folder."""
    dataset = config.load(data_root)
    model = config.build_vae(dataset)
    dynamic = _transform(config) is not None
    # Dynamic binarisation makes bits of grey values batch by batch: these are not in the support.
    checked = [dataset.valid, dataset.test, *([] if dynamic else [dataset.train])]
    require_support(checked, model)
    require_free(folder, config, dataset)
    return dataset, model


def _transform(config: RunConfig) -> Callable[[Tensor], Tensor] | None:
    """What makes a training batch of grey values one of bits."""
    return binarize_batch if config.dataset.binarize == "dynamic" else None


def require_free(folder: Path, config: RunConfig, dataset: Dataset) -> None:
    """Check that a run may go into a folder; one without a finished epoch belongs to nobody.

    Raises:
        ValueError: If another run or something else is there.
    """
    has_epochs = (folder / CHECKPOINT).exists()
    if (folder / CONFIG).exists():
        saved = read_config(folder)
        if has_epochs:
            require_same_settings(folder, saved["config"], config)
            require_same_data(folder, saved.get("data_sha256"), dataset)
    elif not has_epochs:
        # A study's cell has a record and a log before it trains, and a kill may leave locks.
        others = [
            p for p in folder.glob("*") if not (p.name in (RECORD, LOG) or ".lock" in p.suffixes)
        ]
        if others and set(others) - set(leftovers(folder)):
            raise ValueError(f"{folder} is not empty and holds no run: choose another folder.")


def _train_elsewhere(
    config: RunConfig,
    folder: Path,
    engine: RayEngine,
    workers: int,
    asked: dict[str, Any],
    progress: bool,
) -> tuple[Run, FitResult]:
    """Train by workers that an engine starts, and open what they leave in the folder."""
    with _showing(folder, config, progress):
        result = engine.run_together(_train_here, (config, folder, asked, workers), workers)
    # Where this process computes is no matter of the workers' GPUs.
    run = open_run(folder, data_root=asked["data_root"], trust=True)
    return run, result


def _require_possible(
    config: RunConfig, objective: Objective | None, workers: int, tensorboard: bool
) -> None:
    """Check before anything is loaded that curves can be written, and batches be shared."""
    if tensorboard:
        require_tensorboard()
    if workers == 1:
        return
    if objective is None:
        raise ValueError(
            f"workers: training by {config.objective} is of one process; leave them out."
        )
    # The step's class, of a name with its arguments.
    step = getattr(config.training.make_step, "build", config.training.make_step)
    require_sum_over_data(objective, step)
    if config.model.corrupt is not None or isinstance(config.model.kind, DenoisingKind):
        raise ValueError(
            "workers draw the corruption of an encoder's input each for itself, not as one "
            "process does: train in one."
        )
    if config.training.batch_size < workers:
        raise ValueError(
            f"batches of {config.training.batch_size} data cannot be shared by {workers} workers: "
            "give a larger batch_size, or fewer workers."
        )


def _train_here(config: RunConfig, folder: Path, asked: dict[str, Any], workers: int) -> FitResult:
    """Train as one of the workers that an engine has started."""
    return train_run(config, folder, progress=False, workers=workers, **asked)[1]


def _threads(engine: Engine | None) -> AbstractContextManager[None]:
    """The number of threads that an engine in this process is given."""
    cpus = engine.cpus if isinstance(engine, InProcess) else None
    return nullcontext() if cpus is None else given_threads(cpus)


def _showing(folder: Path, config: RunConfig, progress: bool) -> AbstractContextManager[None]:
    """Show on a terminal how far the workers are, by the history that the first one writes."""
    if no_bar(progress):
        return nullcontext()
    budget = config.training.budget

    def row() -> list[ProgressRow]:
        file = folder / HISTORY
        records = History.from_csv(file.read_text()).records if file.exists() else []
        text = f"bound {records[-1].bound:.2f} nats" if records else "starting"
        return [ProgressRow(folder.name, "running", len(records), budget.epochs, text)]

    return showing_progress(row, what="runs")


@final
class LiveHistory:
    """A history in a CSV file that grows by a line an epoch.

    The file is begun anew from the history, so that no epoch is in it twice or missing, whatever a
    killed run had written.

    Args:
        path: The file.
        history: What the run goes on from.

    Raises:
        OSError: If the file cannot be written; also at each record.
    """

    def __init__(self, path: Path, history: History) -> None:
        self._path, self._lines = path, len(history)
        self._write(write_atomically, history.to_csv())

    def __call__(self, record: EpochRecord) -> None:
        """Add a record."""
        # The checkpoint has it too, and the next attempt writes it anew: nothing is forced to the
        # disk, and what is there may be cut short.
        text = csv_line(record) if self._lines else History([record]).to_csv()
        self._write(append_text, text)
        self._lines += 1

    def _write(self, write: Callable[[Path, str], None], text: str) -> None:
        try:
            write(self._path, text)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror or error}; the same command goes on from the last checkpoint",
            ) from error


@final
class TensorBoardCurves:
    """A history as TensorBoard's curves, against epochs and, in a folder beside, updates.

    What is there of the same run is replaced: a run that goes on has no point twice or missing.

    Args:
        folder: TensorBoard's folder.
        history: What the run goes on from.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, history: History) -> None:
        make = require_tensorboard().SummaryWriter
        # purge_step=0 makes TensorBoard drop the points of earlier sessions from step 0 on.
        self._writers = {axis: make(str(folder / f"by-{axis}"), purge_step=0) for axis in _AXES}
        for record in history.records:
            self(record)

    def __call__(self, record: EpochRecord) -> None:
        """Add a record, for a TensorBoard that is running to see."""
        values = {
            "bound": record.bound,
            "log_likelihood": record.log_likelihood,
            **{f"kl/{site}": value for site, value in record.kl.items()},
            "validation": record.validation,
            "learning_rate": record.learning_rate,
        }
        for axis, writer in self._writers.items():
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, getattr(record, axis))
            writer.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        for writer in self._writers.values():
            writer.close()


def require_tensorboard() -> Any:
    """The module ``torch.utils.tensorboard``.

    Raises:
        ImportError: If TensorBoard is not installed.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ImportError(
            "curves for TensorBoard need the extra tensorboard, which is not there: "
            "pip install 'ppl_vae[tensorboard]'."
        ) from error
