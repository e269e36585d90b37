"""Fits after training: made, kept in the run's folder, put into a model that is opened."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.identity import hash_tensors
from ppl_vae.runs._build import trained_parameters
from ppl_vae.runs._kinds import Finished
from ppl_vae.runs._origin import FINISHED
from ppl_vae.store import Stored

if TYPE_CHECKING:
    from ppl_vae.runs._build import Model
    from ppl_vae.runs._config import RunConfig
    from ppl_vae.runs._job import TrainingJob

_FORMAT = "ppl_vae finished 1"
_WHAT = "result of a run's last step"
_REMEDY = "delete it, and give the command that trained the run again"


def finish(config: "RunConfig", job: "TrainingJob") -> None:
    """Find what is fitted after training, put it into the model, and keep it in the folder.

    What is there of the same parameters is read back; of several workers the first one fits.
    """
    kind = config.model.kind
    if not kind.finishes:
        return
    key = _key(job.model)

    def fit_last() -> None:
        if _found(job.folder, key) is None:
            start = time.perf_counter()
            found = kind.finish(job.model, job)
            # It may take longer than training.
            record = {**found.record, "seconds": time.perf_counter() - start}
            _write_fit(job.folder, Stored({"tensors": found.tensors}, record, key))

    job.workers.from_first(fit_last)
    # As it is read, by this process too: a run that is opened then has the same numbers.
    put_finished(job.folder, config, job.model)


def put_finished(folder: Path, config: "RunConfig", model: "Model") -> None:
    """Put what was found after training into a model with the parameters that were kept.

    Raises:
        ValueError: If the file is damaged, or of other parameters: training has gone on since.
    """
    if not config.model.kind.finishes:
        return
    found = _found(folder, _key(model))
    if found is None:
        raise ValueError(
            f"what is fitted after training is not in {folder}, as training has not ended or the "
            "file is gone: the command that trained it goes on."
        )
    config.model.kind.apply(model, found)


def _write_fit(folder: Path, fit: Stored) -> None:
    """Keep what was fitted after training.

    Raises:
        OSError: If it cannot be written; an earlier file stays whole.
    """
    fit.write(folder / FINISHED, _FORMAT)


def _read_fit(folder: Path) -> Stored | None:
    """Read what was fitted after training; None where nothing is there.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder / FINISHED
    return Stored.read(path, _FORMAT, _WHAT, _REMEDY) if path.is_file() else None


def read_chosen(folder: Path) -> dict[str, Any]:
    """Plain values of what was chosen after training; none where nothing was."""
    fit = _read_fit(folder)
    return {} if fit is None else dict(fit.record)


def finished_of(folder: Path) -> Finished:
    """What the folder holds of what was fitted after training; nothing where nothing was."""
    fit = _read_fit(folder)
    return Finished() if fit is None else Finished(fit.tensors.get("tensors", {}), fit.record)


def _found(folder: Path, key: str) -> Finished | None:
    """What the folder holds of a model with these parameters."""
    fit = _read_fit(folder)
    if fit is None or fit.identity != key:
        return None
    return Finished(fit.tensors.get("tensors", {}), fit.record)


def _key(model: "Model") -> str:
    """Hash of the trained parameters."""
    return hash_tensors({n: p.cpu() for n, p in trained_parameters(model).items()})
