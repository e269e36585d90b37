"""A run's learning curves while it trains: a CSV file always, TensorBoard if asked for."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

from ppl_vae.files import append_text, write_atomically
from ppl_vae.training import EpochRecord, History, csv_line

_AXES = ("epoch", "updates")


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
        self._writers = {axis: make(str(folder / f"by-{axis}"), purge_step=0) for axis in _AXES}
        for record in history.records:
            self._add(record)
        self._flush()

    def __call__(self, record: EpochRecord) -> None:
        """Add a record, for a TensorBoard that is running to see."""
        self._add(record)
        self._flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, record: EpochRecord) -> None:
        for axis, writer in self._writers.items():
            for name, value in _curves(record).items():
                writer.add_scalar(name, value, getattr(record, axis))

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()


@contextmanager
def live_curves(
    csv: Path, history: History, tensorboard: Path | None
) -> Iterator[Callable[[EpochRecord], None]]:
    """What is to be called with every record inside, to bring the curves up to date.

    Args:
        csv: The file of the history.
        history: What the run goes on from.
        tensorboard: TensorBoard's folder, if its curves are asked for.
    """
    with ExitStack() as stack:
        shown: list[Callable[[EpochRecord], None]] = [LiveHistory(csv, history)]
        if tensorboard is not None:
            curves = TensorBoardCurves(tensorboard, history)
            stack.callback(curves.close)
            shown.append(curves)

        def show(record: EpochRecord) -> None:
            for one in shown:
                one(record)

        yield show


def _curves(record: EpochRecord) -> dict[str, float]:
    values = {
        "bound": record.bound,
        "log_likelihood": record.log_likelihood,
        **{f"kl/{site}": value for site, value in record.kl.items()},
        "validation": record.validation,
        "learning_rate": record.learning_rate,
    }
    return {name: value for name, value in values.items() if value is not None}


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
