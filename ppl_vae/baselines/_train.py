"""The one loop over baselines: epochs, validation, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.baselines._base import Baseline
from ppl_vae.cpu import suited
from ppl_vae.data import RowData, row_chunks
from ppl_vae.devices import resolve_device
from ppl_vae.names import require_positive
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded
from ppl_vae.training import (
    Batches,
    EpochRecord,
    FitResult,
    History,
    NonFiniteError,
    Snapshot,
    Spent,
    TrainingData,
    Transform,
    copied,
    load_parameters,
)

_FIELDS = ("bound", "log_likelihood", "learning_rate")
"""Names of an update's numbers that are fields of an epoch's record."""


def train(
    baseline: Baseline,
    data: RowData,
    *,
    valid: RowData | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device = "auto",
    transform: Transform | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    on_start: Callable[[History], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: bool = True,
    origin: Mapping[str, str] | None = None,
) -> FitResult:
    """Train a baseline by its own rule, epoch by epoch.

    The parameters kept are those of the epoch with the highest mean of :meth:`Baseline.score` over
    the validation data, or the last where there are none or the model has no score. A run stopped
    and gone on is the undisturbed one, bit for bit on a CPU.

    Args:
        baseline: The model; it holds the parameters that were kept, in evaluation mode.
        data: Training data, shape ``(num_data, *event)``, in any form that
            :func:`ppl_vae.data.as_rows` takes.
        valid: Validation data.
        epochs: Passes over the training data, or updates of a model that takes all data at once.
        batch_size: Largest number of data in a batch.
        seed: Seed of data order and draws.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        transform: Applied to each training batch on its device.
        checkpoint: File to go on from, if it exists, and to save to.
        checkpoint_seconds: Least time between saves; the last epoch is always saved.
        on_start: Called with the history that training goes on from, after all checks.
        on_epoch: Called with each record as soon as it is made, except those of earlier sessions.
        progress: Show a progress bar when on a terminal.
        origin: What a checkpoint is of besides settings and data; one that says otherwise is
            refused.

    Raises:
        NonFiniteError: If an update leaves a number that is NaN or infinite; names the update. The
            model has the parameters before its epoch.
        TypeError: If the model is no baseline.
        ValueError: On impossible settings or data, or a checkpoint of another run.
    """
    if not isinstance(baseline, Baseline):
        raise TypeError(
            f"train takes a Baseline, got {type(baseline).__name__}: train a model and guide by "
            "pv.fit(model, guide, objective, data)."
        )
    require_positive(epochs=epochs, batch_size=batch_size)
    where = resolve_device(device)
    baseline.to(where)
    rows = TrainingData(
        baseline.read(data, "train"),
        None if valid is None else baseline.read(valid, "valid"),
        transform,
    )
    if rows.valid is not None and rows.valid.shape[1:] != rows.train.shape[1:]:
        raise ValueError(
            f"valid has rows of shape {tuple(rows.valid.shape[1:])}, train of "
            f"{tuple(rows.train.shape[1:])}: give both alike, rows first."
        )
    file = None if checkpoint is None else Path(checkpoint)
    with suited(sum(p.numel() for p in baseline.parameters()), where):
        run = _Run(baseline, rows, epochs, batch_size, seed, where, dict(origin or {}))
        if file is not None and file.exists():
            run.resume(Snapshot.load(file), f"the checkpoint {file}")
        if on_start is not None:
            on_start(run.history)
        saved = time.monotonic()
        with tqdm(
            total=epochs,
            initial=len(run.history),
            desc=type(baseline).__name__,
            unit="epoch",
            disable=no_bar(progress),
        ) as bar:
            while len(run.history) < epochs:
                record = run.advance()
                bar.update()
                last = len(run.history) == epochs
                if file is not None and (last or time.monotonic() - saved >= checkpoint_seconds):
                    run.snapshot().save(file)
                    saved = time.monotonic()
                if on_epoch is not None:
                    on_epoch(record)
        run.keep()
    return FitResult(run.history, stopped_early=False, kept_epoch=run.kept_epoch)


@final
@dataclass
class _Epoch:
    """Sums over data of what the updates of an epoch report."""

    sums: dict[str, Tensor | float]
    num_data: int = 0
    updates: int = 0

    def add(self, values: Mapping[str, Tensor | float], count: int) -> None:
        for name, value in values.items():
            # Tensors are added on their device: no update waits for it.
            value = value.detach() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + value * count
        self.num_data, self.updates = self.num_data + count, self.updates + 1

    def means(self) -> dict[str, float]:
        return {name: float(value) / self.num_data for name, value in self.sums.items()}


@final
class _Run:
    """A baseline in training: :meth:`advance` by an epoch, take a :meth:`snapshot`, go on."""

    def __init__(
        self,
        baseline: Baseline,
        data: TrainingData,
        epochs: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        origin: dict[str, str],
    ) -> None:
        self.baseline, self._data, self._epochs = baseline, data, epochs
        self._seed, self._device = seed, device
        for rows in data.named.values():
            baseline.require_data(rows)
        with seeded(seed, Stream.INITIALIZATION):
            baseline.start(data.train)
        self._batches = Batches(data, batch_size, seed, device)
        self._per_epoch = len(self._batches) if baseline.batched else 1
        self.history, self.spent = History(), Spent()
        # After the start: a model may make its parameters there.
        self._parameters, self._buffers = _tensors_of(baseline)
        self._best, self._best_buffers = copied(self._parameters), copied(self._buffers)
        self._identity = {
            "baseline": type(baseline).__name__,
            **baseline.settings(),
            # Schedules spread over all epochs: a run made longer is another run.
            "epochs": epochs,
            "batch_size": batch_size if baseline.batched else None,
            "seed": seed,
            **data.hashes(),
            **origin,
        }

    @property
    def kept_epoch(self) -> int:
        """Epoch whose parameters are kept: the best validated one, or the last."""
        return self.history.best_epoch or len(self.history)

    def advance(self) -> EpochRecord:
        """Train one epoch and validate."""
        start, before = time.perf_counter(), self.snapshot()
        epoch = self._train_epoch(check=False)
        means = epoch.means()
        if not (all(map(math.isfinite, means.values())) and self._finite()):
            # Once more with a look behind every update, which would make a GPU wait.
            self.restore(before)
            try:
                self._train_epoch(check=True)
            finally:
                self.restore(before)
            raise NonFiniteError(
                f"epoch {len(self.history) + 1} was not finite, but it was when made again: this "
                "device does not repeat its own numbers; lower the learning rate."
            )
        self.spent = replace(
            self.spent,
            updates=self.spent.updates + epoch.updates,
            seconds=self.spent.seconds + time.perf_counter() - start,
        )
        mean, error = self._validate()
        bound, log_likelihood, rate = (means.pop(name, math.nan) for name in _FIELDS)
        record = EpochRecord(
            epoch=len(self.history) + 1,
            bound=bound,
            log_likelihood=log_likelihood,
            learning_rate=rate,
            kl={},
            seconds=time.perf_counter() - start,
            validation=mean,
            validation_error=error,
            updates=self.spent.updates,
            measures=means,
        )
        self.history.records.append(record)
        if self.kept_epoch == record.epoch:
            self._best, self._best_buffers = copied(self._parameters), copied(self._buffers)
        return record

    def _train_epoch(self, *, check: bool) -> _Epoch:
        epoch, number = _Epoch({}), len(self.history)
        total = self._epochs * self._per_epoch
        self.baseline.train()
        with seeded(self._seed, Stream.TRAINING, number):
            for size, batch in self._of_epoch(number):
                progress = (self.spent.updates + epoch.updates) / total
                values = self.baseline.update(batch, progress)
                epoch.add(values, size)
                if check:
                    self._require_finite(values, self.spent.updates + epoch.updates)
        return epoch

    def _of_epoch(self, number: int) -> Iterator[tuple[int, Any]]:
        if not self.baseline.batched:
            yield len(self._data.train), self._data.train
            return
        for rows, batch in self._batches.epoch(number):
            yield len(rows), batch

    def _finite(self) -> bool:
        state = {**self._parameters, **self._buffers, **self.baseline.training_state()}
        return all(bool(v.isfinite().all()) for v in state.values())

    def _require_finite(self, values: Mapping[str, Tensor | float], update: int) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(float(value))]
        state = {**self._parameters, **self._buffers, **self.baseline.training_state()}
        bad += [name for name, value in state.items() if not bool(value.isfinite().all())]
        if bad:
            epoch = len(self.history) + 1
            raise NonFiniteError(
                f"update {update} (epoch {epoch}) is not finite: {bad[0]} is not; lower the "
                "learning rate, or scale the data.",
                update=update,
                epoch=epoch,
            )

    @torch.no_grad()
    def _validate(self) -> tuple[float | None, float | None]:
        if self._data.valid is None:
            return None, None
        self.baseline.eval()
        scores = []
        # The same draws in every epoch, so that epochs differ by their parameters alone.
        with seeded(self._seed, Stream.VALIDATION):
            for part in row_chunks(self._data.valid):
                score = self.baseline.score(part.to(self._device))
                if score is None:
                    return None, None
                scores.append(score.double())
        all_scores = torch.cat(scores)
        count = len(all_scores)
        error = all_scores.std().item() / math.sqrt(count) if count > 1 else math.nan
        return all_scores.mean().item(), error

    def snapshot(self) -> Snapshot:
        """Copy the current state, in tensors that further updates leave as they are."""
        return Snapshot(
            identity=self._identity,
            history=History(list(self.history.records)),
            spent=self.spent,
            ended=None,
            parameter=copied(self._parameters),
            buffer=copied(self._buffers),
            optimizer=copied(self.baseline.training_state()),
            # Not copied: a better epoch replaces these dictionaries, and changes none.
            best=self._best,
            best_buffer=self._best_buffers,
            average={},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back, or on, to a state of this run.

        Raises:
            ValueError: If it is the state of another model.
        """
        load_parameters(self._parameters, snapshot.parameter)
        load_parameters(self._buffers, snapshot.buffer)
        # To the device: a file's tensors are on the CPU. Copied: an optimiser changes its own.
        state = {name: value.to(self._device) for name, value in snapshot.optimizer.items()}
        self.baseline.load_training_state(copied(state))
        self.history = History(list(snapshot.history.records))
        self.spent = snapshot.spent
        self._best, self._best_buffers = dict(snapshot.best), dict(snapshot.best_buffer)

    def resume(self, snapshot: Snapshot, where: str) -> None:
        """Go on from the state of an earlier session.

        Raises:
            ValueError: If it was made with other settings or by another model.
        """
        snapshot.require_same_run(self._identity, where)
        self.restore(snapshot)

    def keep(self) -> None:
        """Leave the model with the parameters to keep, in evaluation mode."""
        if self.history.best_epoch is not None:
            load_parameters(self._parameters, self._best)
            load_parameters(self._buffers, self._best_buffers)
        self.baseline.eval()


def _tensors_of(module: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return dict(module.named_parameters()), dict(module.named_buffers())
