"""The fitting loop."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.devices import resolve_device
from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.schedules import Schedule
from ppl_vae.training.checkpoint import Checkpoint
from ppl_vae.training.history import History
from ppl_vae.training.naming import StepFactory
from ppl_vae.training.run import TrainingRun
from ppl_vae.training.settings import FitSettings, Transform


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
    step: str | StepFactory = "torch",
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool = True,
) -> FitResult:
    """Maximise the objective over all parameters of the model and guide, by Adam.

    With validation data, the parameters kept are those of the epoch with the highest importance-
    weighted bound on them, the same for every objective (of a guide that is a point, the highest
    joint log-density there). The draws of that bound are the same in every epoch, so that epochs
    differ by their parameters alone.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        objective: The bound to maximise.
        train: Training data, shape ``(num_data, *event)``.
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
        step: ``torch`` (one fused optimiser), ``svi`` (Pyro's own), ``alternating:N``,
            ``aggressive``, ``semi-amortised:N``, or a class of the form of
            :class:`~ppl_vae.training.Step`.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        seed: Of data order, draws and validation.
        checkpoint: File to go on from, if it exists, and to save to.
        checkpoint_seconds: Least time between saves; the last epoch is always saved.
        progress: Show a progress bar when on a terminal.

    Raises:
        ValueError: On impossible settings or data, non-finite densities (names the site), or a
            checkpoint of another run.
    """
    settings = FitSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        clip_norm=clip_norm,
        patience=patience,
        validate_every=validate_every,
        validation_particles=validation_particles,
        validation_size=validation_size,
        transform=transform,
        step=step,
        seed=seed,
    )
    run = TrainingRun(model, guide, objective, train, valid, settings, resolve_device(device))
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
