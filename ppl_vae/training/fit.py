"""The fitting loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.devices import make_resident, resolve_device
from ppl_vae.evidence import Evidence, ImportanceSampling
from ppl_vae.objectives import Objective
from ppl_vae.objectives.base import owners_of
from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import Stream, derive_seed, generator, seeded
from ppl_vae.schedules import Constant, Schedule
from ppl_vae.training.checkpoint import Checkpoint, load_parameters
from ppl_vae.training.history import EpochRecord, History
from ppl_vae.training.parameters import find_buffers, find_parameters
from ppl_vae.training.step import STEPS, Step

Transform = Callable[[Tensor], Tensor]
"""Applied to each batch on its device, as dynamic binarisation is."""


@final
@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` returns; the model itself holds the parameters that were kept.

    Attributes:
        history: One record an epoch.
        stopped_early: Whether the validation bound ended training before the last epoch.
    """

    history: History
    stopped_early: bool

    @property
    def kept_epoch(self) -> int:
        """The epoch whose parameters the model holds: the best validated one, else the last."""
        return self.history.best_epoch or len(self.history)


def fit(
    model: Program,
    guide: Program,
    objective: Objective,
    train: Float[Tensor, "num_data *event"],
    *,
    valid: Float[Tensor, "num_valid *event"] | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float | Schedule = 1e-3,
    clip_norm: float | None = None,
    patience: int | None = None,
    validate_every: int = 1,
    validation_particles: int = 50,
    validation_size: int = 1000,
    transform: Transform | None = None,
    step: str | type[Step] = "torch",
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool = True,
) -> FitResult:
    """Maximise the objective over all parameters of the model and guide, by Adam.

    With validation data, the parameters kept are those of the epoch with the highest importance-
    weighted bound on them, the same for every objective. The draws of that bound are the same in
    every epoch, so that epochs differ by their parameters alone.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        objective: The bound to maximise.
        train: Training data, shape (num_data, *event).
        valid: Validation data; without them the last epoch's parameters are kept.
        epochs: Passes over the training data.
        batch_size: At most this many data a batch; batches of an epoch differ by at most one.
        learning_rate: A rate, or a schedule over the fraction of training done.
        clip_norm: Largest global gradient norm, of the loss in nats per datum; None: no clipping.
        patience: Stop after this many epochs without a better validation bound; None: never.
        validate_every: Epochs between validations.
        validation_particles: K of the validation bound.
        validation_size: At most this many validation data, a fixed random subset.
        transform: Applied to each training batch on its device.
        step: ``torch`` (one fused optimiser), ``svi`` (Pyro's own), or a class of that form.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        seed: Of data order, draws and validation.
        checkpoint: File to go on from, if it exists, and to save to.
        checkpoint_seconds: Least time between saves; the last epoch is always saved.
        progress: Show a progress bar when on a terminal.

    Raises:
        ValueError: On impossible settings or data, non-finite densities (names the site), or a
            checkpoint of another run.
    """
    run = _Run(
        model,
        guide,
        objective,
        train,
        valid=valid,
        epochs=epochs,
        batch_size=batch_size,
        schedule=learning_rate if callable(learning_rate) else Constant(learning_rate),
        clip_norm=clip_norm,
        patience=patience,
        validate_every=validate_every,
        validation=ImportanceSampling(
            validation_particles, max_plate_nesting=int(objective.max_plate_nesting)
        ),
        validation_size=validation_size,
        transform=transform,
        step_class=_step_class(step),
        device=resolve_device(device),
        seed=seed,
    )
    if checkpoint is not None and checkpoint.exists():
        run.restore(Checkpoint.load(checkpoint))
    saved = time.monotonic()
    bar = tqdm(
        total=epochs, initial=len(run.history), desc=repr(objective), unit="epoch",
        disable=None if progress else True,
    )  # fmt: skip
    with bar:
        while not run.finished:
            record = run.advance()
            bar.update()
            bar.set_postfix_str(f"bound {record.bound:.2f} nats")
            due = time.monotonic() - saved >= checkpoint_seconds
            if checkpoint is not None and (due or run.finished):
                run.snapshot().save(checkpoint)
                saved = time.monotonic()
    run.keep_best()
    return FitResult(run.history, stopped_early=len(run.history) < epochs)


def _step_class(step: str | type[Step]) -> type[Step]:
    if isinstance(step, str):
        if step not in STEPS:
            raise ValueError(f"unknown step {step!r}: use {', '.join(STEPS)}.")
        return STEPS[step]
    return step


class _Run:
    """The state of one training run between epochs."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        train: Tensor,
        *,
        valid: Tensor | None,
        epochs: int,
        batch_size: int,
        schedule: Schedule,
        clip_norm: float | None,
        patience: int | None,
        validate_every: int,
        validation: ImportanceSampling,
        validation_size: int,
        transform: Transform | None,
        step_class: type[Step],
        device: torch.device,
        seed: int,
    ) -> None:
        least = {"epochs": epochs, "batch_size": batch_size, "validate_every": validate_every,
                 "validation_size": validation_size}  # fmt: skip
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}.")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {clip_norm}.")
        if patience is not None and (patience < 1 or valid is None):
            raise ValueError(f"patience needs validation data and 1 or more, got {patience}.")
        _require_data("train", train)
        self.model, self.guide, self.objective = model, guide, objective
        self.epochs, self.patience, self.seed = epochs, patience, seed
        self.schedule, self.transform, self.device = schedule, transform, device
        self.validate_every, self.validation = validate_every, validation
        self.num_batches = math.ceil(len(train) / batch_size)
        self.history = History()
        for owner in owners_of(model, guide):
            owner.to(device)
        self.train = make_resident(train, device)
        self.valid = None if valid is None else _subset(valid, validation_size).to(device)
        with seeded(seed, Stream.TRAINING):
            first = self._prepare(self.train[:2])
        with seeded(seed, Stream.TRAINING), torch.no_grad():
            self.sites = list(objective.draw(model, guide, first).log_prior)
        parameters = find_parameters(objective, model, guide, first)
        self.step = step_class(objective, model, guide, parameters, clip_norm)
        self.buffers = find_buffers(model, guide)
        self._best, self._best_buffers = self._copies()
        self.settings: dict[str, Any] = {
            "objective": repr(objective),
            "batch_size": batch_size,
            "learning_rate": repr(schedule),
            # A schedule spreads over all epochs; at a constant rate a run may be made longer.
            "epochs": None if isinstance(schedule, Constant) else epochs,
            "clip_norm": clip_norm,
            "step": step_class.__name__,
            "seed": seed,
            "train_shape": list(train.shape),
            "validation": None if valid is None else [repr(validation), len(self.valid)],  # type: ignore[arg-type]
        }

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or the validation bound has stopped improving."""
        done = len(self.history)
        if done >= self.epochs:
            return True
        best = self.history.best_epoch
        return self.patience is not None and best is not None and done - best >= self.patience

    def advance(self) -> EpochRecord:
        """Train one epoch, validate if it is time, and record both."""
        start = time.perf_counter()
        epoch = len(self.history)
        # Every datum passes the support checks of its distribution in the first epoch; after it,
        # Pyro's validation would only cost time and make a GPU wait.
        with pyro.validation_enabled(epoch == 0):
            sums, rate = self._train_epoch(epoch)
        bound, log_likelihood, *kl = (sums / len(self.train)).tolist()
        self._require_finite([bound, log_likelihood, *kl])
        evidence = self._validate(epoch)
        record = EpochRecord(
            epoch=epoch + 1,
            bound=bound,
            log_likelihood=log_likelihood,
            kl=dict(zip(self.sites, kl, strict=True)),
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            validation=None if evidence is None else evidence.mean,
            validation_error=None if evidence is None else evidence.total_error,
        )
        self.history.records.append(record)
        if self.history.best_epoch == record.epoch:
            self._best, self._best_buffers = self._copies()
        return record

    def _train_epoch(self, epoch: int) -> tuple[Tensor, float]:
        sums: Tensor | float = 0.0
        rate = 0.0
        for owner in owners_of(self.model, self.guide):
            owner.train()
        with seeded(self.seed, Stream.TRAINING, epoch):
            for number, batch in enumerate(self._batches(epoch)):
                done = (epoch * self.num_batches + number) / (self.epochs * self.num_batches)
                rate = self.schedule(done)
                sums = sums + self.step(batch, rate)
        return torch.as_tensor(sums).double().cpu(), rate

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(
            len(self.train), generator=generator(self.seed, Stream.DATA_ORDER, epoch)
        )
        # Near-equal batches weigh every datum alike; a short last batch would not.
        for indices in order.to(self.train.device).tensor_split(self.num_batches):
            yield self._prepare(self.train[indices])

    def _prepare(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device, non_blocking=True)
        return batch if self.transform is None else self.transform(batch)

    def _validate(self, epoch: int) -> Evidence | None:
        last = epoch + 1 == self.epochs
        if self.valid is None or ((epoch + 1) % self.validate_every and not last):
            return None
        for owner in owners_of(self.model, self.guide):
            owner.eval()
        seed = derive_seed(self.seed, Stream.VALIDATION)
        return self.validation(self.model, self.guide, self.valid, seed=seed)

    def _require_finite(self, values: list[float]) -> None:
        if all(math.isfinite(value) for value in values):
            return
        with seeded(0), torch.no_grad():
            draw_particles(
                self.model,
                self.guide,
                self._prepare(self.train[:1]),
                max_plate_nesting=int(self.objective.max_plate_nesting),
            )
        raise ValueError("the bound became non-finite: lower the learning rate or clip gradients.")

    def _copies(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return (
            {name: value.detach().clone() for name, value in self.step.parameters.items()},
            {name: value.detach().clone() for name, value in self.buffers.items()},
        )

    def snapshot(self) -> Checkpoint:
        """The run as a checkpoint."""
        return Checkpoint(
            progress={"settings": self.settings, "history": self.history.to_json()},
            parameter=self.step.parameters,
            buffer=self.buffers,
            best=self._best,
            best_buffer=self._best_buffers,
            optimizer=self.step.state(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: If it was made with other settings or by another model.
        """
        saved = checkpoint.progress["settings"]
        if saved != self.settings:
            named = {key: (saved.get(key), value) for key, value in self.settings.items()}
            other = {key: pair for key, pair in named.items() if pair[0] != pair[1]}
            raise ValueError(f"the checkpoint was made with other settings (saved, now): {other}.")
        load_parameters(self.step.parameters, checkpoint.parameter)
        load_parameters(self.buffers, checkpoint.buffer)
        self.step.load_state(checkpoint.optimizer)
        self.history = History.from_json(checkpoint.progress["history"])
        self._best, self._best_buffers = dict(checkpoint.best), dict(checkpoint.best_buffer)

    def keep_best(self) -> None:
        """Leave the model with the parameters to keep, in evaluation mode."""
        if self.history.best_epoch is not None:
            load_parameters(self.step.parameters, self._best)
            load_parameters(self.buffers, self._best_buffers)
        for owner in owners_of(self.model, self.guide):
            owner.eval()


def _subset(x: Tensor, size: int) -> Tensor:
    _require_data("valid", x)
    # Neighbouring rows are often alike: a part is taken at random, the same one for every run.
    return x[torch.randperm(len(x), generator=generator(0, Stream.VALIDATION))[:size]]


def _require_data(name: str, x: Tensor) -> None:
    if len(x) == 0:
        raise ValueError(f"{name} holds no data.")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"{name} has {int((~finite).sum())} rows with NaN or infinite values, the first at row "
            f"{int((~finite).nonzero()[0])}: remove or fill them in."
        )
