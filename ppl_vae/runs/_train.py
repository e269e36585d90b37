"""Training into a folder: checked first, recorded, with learning curves written as they grow."""

import importlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

from ppl_vae.data import binarize_batch
from ppl_vae.files import append_text, exclusive, write_atomically
from ppl_vae.identity import hash_values
from ppl_vae.runs._config import RunConfig
from ppl_vae.runs._origin import DataSummary, origin_of, require_free, write_origin
from ppl_vae.runs._record import CHECKPOINT, HISTORY, LOCK, RunRecord
from ppl_vae.runs._run import Run, fixed_tensors, require_support
from ppl_vae.settings import flat
from ppl_vae.training import EpochRecord, FitResult, History, csv_line, fit

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

    Raises:
        ValueError: If the folder holds a run with other settings or on other data.
        FileNotFoundError: If the data are missing.
        ImportError: If TensorBoard is asked for and not installed.
        BlockingIOError: If another process trains there.
    """
    folder = Path(folder)
    objective = config.build_objective()
    if tensorboard:
        require_tensorboard()
    dataset = config.load(data_root)
    vae = config.build_vae(dataset)
    checked = [dataset.valid, dataset.test]
    dynamic = config.dataset.binarize == "dynamic"
    # Dynamic binarisation makes bits of grey values batch by batch: these are not in the support.
    if not dynamic:
        checked.append(dataset.train)
    require_support(checked, vae)
    summary = DataSummary.of(dataset)
    require_free(folder, config, dataset)
    fixed = fixed_tensors(vae)
    records: list[RunRecord] = [] if attempt is None else [attempt]
    curves: list[Callable[[EpochRecord], None]] = []
    with ExitStack() as stack:

        def start(past: History) -> None:
            if attempt is None:
                # Here and not earlier: a lock file in the folder is the first thing written, after
                # all checks.
                stack.enter_context(exclusive(folder / LOCK, f"run {folder}"))
                key = hash_values(config.complete())
                # Under the lock, or two processes would count the same attempt.
                before = RunRecord.read(folder, config.objective, config.seed, key)
                records.append(stack.enter_context(before.attempt()))
            write_origin(folder, config, summary, fixed)
            curves.append(LiveHistory(folder / HISTORY, past))
            if tensorboard:
                shown = TensorBoardCurves(folder / TENSORBOARD, past)
                stack.callback(shown.close)
                curves.append(shown)

        def show(record: EpochRecord) -> None:
            for curve in curves:
                curve(record)

        result = fit(
            vae.model,
            vae.guide,
            objective,
            dataset.train,
            valid=dataset.valid,
            transform=binarize_batch if dynamic else None,
            device=device,
            seed=config.seed,
            checkpoint=folder / CHECKPOINT,
            progress=progress,
            on_start=start,
            on_epoch=show,
            origin=origin_of(config, summary.sha256),
            **flat(config.training),
        )
        # Once more, whole and on the disk, before the record says done and holds its hash.
        write_atomically(folder / HISTORY, result.history.to_csv())
        run = Run(
            folder, config, summary, vae, result.history, lambda: dataset, data_root, trust=True
        )
        if attempt is None:
            records[0].trained(result).done(discrete_data=run.has_discrete_data)
    return run, result


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
            reason = error.strerror or error
            raise OSError(
                error.errno,
                f"could not write {self._path}: {reason}; the same command goes on from the last "
                "checkpoint",
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
