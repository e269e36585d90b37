"""All that a model is trained with, and the training of it or of parts of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from torch import Tensor

from ppl_vae.data import Dataset, RowTensor
from ppl_vae.files import make_folder, write_atomically
from ppl_vae.objectives import Objective
from ppl_vae.runs._origin import PHASES
from ppl_vae.settings import flat
from ppl_vae.training import LIMITS, EpochRecord, FitResult, FitSettings, History, Workers, fit

if TYPE_CHECKING:
    from ppl_vae.runs._build import Build, Model
    from ppl_vae.runs._model import ModelSettings
    from ppl_vae.vae import VAE


@final
@dataclass(frozen=True)
class TrainingJob:
    """All that a model is trained with.

    Attributes:
        model: Model and guide, newly initialised.
        settings: Their settings.
        build: Builder that made them, which makes parts of them again.
        objective: Bound to maximise; None: the model has a rule of its own.
        training: How to train.
        seed: Seed of everything random in the run.
        folder: Folder of the run's files.
        checkpoint: File that training goes on from, if it exists, and saves to.
        claim: Called when all checks are passed, before the first file is written.
        on_start: Called with the history that the last phase goes on from; claims too.
        on_epoch: Called with each of its records.
        transform: Applied to each training batch on its device.
        device: Where to compute.
        progress: Show a progress bar when on a terminal.
        origin: What files of training are of besides settings and data.
        workers: Processes that train the model together.
    """

    model: "Model"
    settings: "ModelSettings"
    build: "Build"
    objective: Objective | None
    training: FitSettings
    seed: int
    folder: Path
    checkpoint: Path
    claim: Callable[[], None]
    on_start: Callable[[History], None]
    on_epoch: Callable[[EpochRecord], None]
    transform: Callable[[Tensor], Tensor] | None
    device: str
    progress: bool
    origin: Mapping[str, str]
    workers: Workers

    @property
    def dataset(self) -> Dataset:
        """The data."""
        return self.build.dataset

    def fit(self) -> FitResult:
        """Train by gradients of the objective."""
        assert self.objective is not None
        return fit(
            self.model.model,
            self.model.guide,
            self.objective,
            self.dataset.train,
            valid=self.dataset.valid,
            transform=self.transform,
            device=self.device,
            seed=self.seed,
            checkpoint=self.checkpoint,
            progress=self.progress,
            on_start=self.on_start,
            on_epoch=self.on_epoch,
            origin=self.origin,
            workers=self.workers,
            **flat(self.training),
        )

    def phase(
        self,
        name: str,
        vae: "VAE",
        objective: Objective,
        train: RowTensor,
        valid: RowTensor,
        *,
        epochs: int,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> History:
        """Train a part of the model before the last phase; return its history.

        It has a checkpoint of its own in the run's folder: what was trained is not trained again.

        Args:
            name: Name of the phase.
            vae: The part, which shares parameters with the model.
            objective: Objective to maximise.
            train: Training data.
            valid: Validation data.
            epochs: Number of epochs.
            seed: Seed of everything random in the phase.
            transform: Applied to each training batch.
        """
        self.claim()
        file = self.folder / PHASES / f"{name}.safetensors"
        make_folder(file.parent)
        limits = {**dict.fromkeys(LIMITS), "epochs": epochs}
        every = min(self.training.validate_every, epochs)
        settings = {**flat(self.training), **limits, "validate_every": every}
        found = fit(
            vae.model,
            vae.guide,
            objective,
            train,
            valid=valid,
            transform=transform,
            device=self.device,
            seed=seed,
            checkpoint=file,
            progress=self.progress,
            origin={**self.origin, "phase": name},
            workers=self.workers,
            **settings,
        )
        write_atomically(file.with_suffix(".csv"), found.history.to_csv())
        return found.history
