"""The record of a training run, alone or as a study's cell: one file in its folder."""

import os
import socket
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from ppl_vae.arviz import read_evidence
from ppl_vae.evidence import Evidence
from ppl_vae.files import append_text, make_folder
from ppl_vae.identity import hash_bytes
from ppl_vae.runs._finished import read_chosen
from ppl_vae.runs._origin import (
    CHANGED,
    CHECKPOINT,
    CONFIG,
    DAMAGED,
    DATA,
    FINISHED,
    HISTORY,
    LOG,
    MEASURES,
    PICTURES,
    RECORD,
    hash_file,
    read_config,
)
from ppl_vae.runs._phases import read_phases
from ppl_vae.store import read_sealed, write_sealed
from ppl_vae.training import FitResult, History

RunState = Literal["waiting", "running", "done", "failed"]
_READ = (CONFIG, CHECKPOINT, FINISHED, DATA, HISTORY, MEASURES, PICTURES)
"""Files, beside evaluations, that results are read from."""


@final
@dataclass(frozen=True)
class RunRecord:
    """State of one training run, and where its results are.

    Attributes:
        folder: Folder that it is kept in.
        arm: Label of the combination of levels; of a run alone, its objective.
        seed: Seed of everything random in it.
        levels: Factor to the label of its level; of a run alone, none.
        key: Hash of all that its results depend on, apart from the data.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        reason: Reason why it failed or has to be done again, in a line.
        attempts: Number of times that it was started.
        host: Machine of the last attempt; ``process``, ``started`` and ``finished`` likewise.
        seconds: Wall-clock time of training and evaluation.
        updates: Updates of the parameters.
        evaluations: Decoder evaluations spent in training.
        epochs: Epochs trained.
        kept_epoch: The epoch whose parameters were kept.
        divergence: Why training has diverged, in a line; None where it has not.
        discrete_data: Whether its p(x) is a probability and no density.
        normalizers: Constants of its model that are estimated, as
            :class:`~ppl_vae.runs.Normalizer` gives them as plain values.
        methods: Label of a method to the file of its log p(x), in the folder.
        files: File to the hash of its content, of all files that results are read from.
    """

    folder: Path
    arm: str
    seed: int
    levels: dict[str, str] = field(default_factory=dict)
    key: str = ""
    state: RunState = "waiting"
    reason: str | None = None
    attempts: int = 0
    host: str = ""
    process: int = 0
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    updates: int = 0
    evaluations: int = 0
    epochs: int = 0
    kept_epoch: int | None = None
    divergence: str | None = None
    discrete_data: bool | None = None
    normalizers: list[dict[str, str | float | None]] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, folder: Path, arm: str, seed: int, key: str, levels: Mapping[str, str] | None = None
    ) -> "RunRecord":
        """Read the state of a planned run.

        It is done only if it was done as planned, and the files that its results are read from are
        there as they were written; otherwise it waits to be done again, for a reason.

        Raises:
            ValueError: If the record is damaged.
        """
        planned = cls(folder, arm, seed, dict(levels or {}), key)
        path = folder / RECORD
        if not path.is_file():
            started = (folder / CONFIG).is_file()
            return replace(planned, reason=f"{path} is missing" if started else None)
        saved = read_sealed(path, DAMAGED)
        # These are the plan's: a record of another plan must not replace them.
        own = {"folder", "arm", "seed", "levels", "key"}
        known = {each.name for each in fields(cls)} - own
        try:
            record = replace(planned, **{k: v for k, v in saved.items() if k in known})
            if record.state == "running" and not record._is_alive():
                return replace(record, state="waiting", reason="its process has ended, unfinished")
            if record.state != "done":
                return record
            if saved["key"] != key:
                return replace(record, state="waiting", reason=f"{path} is of another plan")
            for name, change in record.changed_files().items():
                return replace(record, state="waiting", reason=f"{folder / name} {change}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}): {DAMAGED}.") from error
        return record

    def _is_alive(self) -> bool:
        """Whether its process may still exist; on another machine this cannot be checked."""
        if self.host != socket.gethostname() or self.process < 1:
            return True
        try:
            # Signal 0 is not delivered: it asks whether the process exists.
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        # No permission to signal it is a sign of life.
        except (OSError, OverflowError):
            pass
        return True

    def write(self) -> None:
        """Write the record into its folder, atomically."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_sealed(self.folder / RECORD, values)

    def log(self, text: str) -> None:
        """Add a line to the run's log."""
        make_folder(self.folder)
        append_text(self.folder / LOG, f"{_now()} {text}\n")

    @contextmanager
    def attempt(self) -> Iterator["RunRecord"]:
        """Record that work on the run begins; where it raises, that it failed, and why."""
        running = replace(
            self,
            state="running",
            reason=None,
            attempts=self.attempts + 1,
            host=socket.gethostname(),
            process=os.getpid(),
            started=_now(),
            finished="",
            # They are written anew from here on.
            files={},
        )
        # Before the work, so that a killed attempt is seen as one whose process has ended.
        running.write()
        running.log(f"attempt {running.attempts} by {running.process} on {running.host}")
        try:
            yield running
        except Exception as error:
            # Exceptions only: after an interruption the run waits, and goes on another time.
            running.log(traceback.format_exc().rstrip())
            reason = " ".join(str(error).split()) or type(error).__name__
            replace(running, state="failed", reason=reason, finished=_now()).write()
            raise

    def trained(self, result: FitResult) -> "RunRecord":
        """A copy with the epochs and the cost of training."""
        records = result.history.records
        phases = [phase.records for phase in (*result.phases.values(), result.history)]
        return replace(
            self,
            seconds=sum(record.seconds for phase in phases for record in phase),
            updates=sum(phase[-1].updates for phase in phases),
            evaluations=sum(phase[-1].evaluations for phase in phases),
            epochs=records[-1].epoch,
            kept_epoch=result.kept_epoch,
            divergence=result.divergence,
        )

    def done(self, **results: Any) -> "RunRecord":
        """Record the results of the run, with the hashes of its files as they are now."""
        record = replace(self, state="done", finished=_now(), **results)
        # Hashed last, when every file is written.
        record = replace(record, files=hashes_of(self.folder, record.methods.values()))
        record.write()
        record.log("done")
        return record

    def changed_files(self) -> dict[str, str]:
        """File to what is wrong with it, of those that are missing or not as they were written."""
        changed = {}
        for name, written in self.files.items():
            path = self.folder / name
            if not path.is_file():
                changed[name] = "is missing"
            elif hash_file(path) != written:
                changed[name] = CHANGED
        return changed

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm} seed {self.seed}"

    @cached_property
    def data_sha256(self) -> str | None:
        """Hash of the data that it was trained on; None where training has not begun."""
        # Files of a record that is done are those that it wrote.
        if not (self.folder / CONFIG).is_file():
            return None
        return read_config(self.folder).get("data_sha256")

    @cached_property
    def history(self) -> History:
        """Learning curves; empty where training has not begun."""
        path = self.folder / HISTORY
        return History.from_csv(path.read_text()) if path.is_file() else History()

    @cached_property
    def phases(self) -> dict[str, History]:
        """Learning curves of phases of training before the last, by name."""
        return read_phases(self.folder)

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """Plain values of what was chosen after training, such as the scale of an autoencoder."""
        return read_chosen(self.folder)

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Measure to its summary as plain values.

        ``codes``: what :func:`~ppl_vae.runs.describe_codes` gives, or nothing of a model without an
        encoder. ``decomposition``, ``bound_curve``, ``gradients``, ``sandwich``: ``summary()`` of
        the class in :mod:`ppl_vae.diagnostics` (or :class:`~ppl_vae.evidence.Sandwich`); those that
        the study asked for.
        """
        path = self.folder / MEASURES
        return read_sealed(path, "delete it to measure anew") if path.is_file() else {}

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """``data`` and ``reconstruction`` (rows, features), ``samples`` (rows, features)."""
        path = self.folder / PICTURES
        if not path.is_file():
            return {}
        # A pickle would run code from the file.
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def evidence(self, method: str) -> Evidence | None:
        """Estimated log p(x) of each datum by a method of the study; None where it is not there.

        Raises:
            ValueError: If the file is not the one that the run wrote.
        """
        name = self.methods.get(method)
        if name is None:
            return None
        path = self.folder / name
        content = path.read_bytes()
        # Read once, so that what is hashed is what is parsed.
        if hash_bytes(content) != self.files.get(name):
            raise ValueError(f"{path} {CHANGED}: run_study does the cell again.")
        return read_evidence(content, str(path))


def hashes_of(folder: Path, evaluations: Iterable[str] = ()) -> dict[str, str]:
    """File to a hash of its content, of all files that a run's results are read from.

    Args:
        folder: The run's.
        evaluations: Files of log p(x) in it.
    """
    names = [name for name in (*evaluations, *_READ) if (folder / name).is_file()]
    return {name: hash_file(folder / name) for name in names}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
