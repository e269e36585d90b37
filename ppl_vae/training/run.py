"""The state of a training run between epochs."""

import math
import time
from collections.abc import Iterator
from typing import Any, final

import pyro
import torch
from torch import Tensor

from ppl_vae.devices import make_resident
from ppl_vae.objectives import Context, Objective
from ppl_vae.objectives.base import owners_of
from ppl_vae.particles import Program, accepts_missing, draw_particles, point_site
from ppl_vae.randomness import Stream, derive_seed, generator, seeded
from ppl_vae.training.checkpoint import Checkpoint, load_parameters
from ppl_vae.training.history import EpochRecord, History
from ppl_vae.training.parameters import find_buffers, find_parameters
from ppl_vae.training.settings import FitSettings
from ppl_vae.training.validation import Score, importance_weighted, joint_density


@final
class TrainingRun:
    """A model and guide in training: :meth:`advance` by epochs, :meth:`snapshot`, go on."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        train: Tensor,
        valid: Tensor | None,
        settings: FitSettings,
        device: torch.device,
    ) -> None:
        if settings.patience is not None and valid is None:
            raise ValueError("patience needs validation data: give valid, or leave patience out.")
        self.model, self.guide, self.objective = model, guide, objective
        self.settings, self.device = settings, device
        self.history = History()
        self._data_checked = False
        for owner in owners_of(model, guide):
            # Looking for sites and parameters must not move the statistics of a batch norm.
            owner.to(device).eval()
        parts = {"train": train} if valid is None else {"train": train, "valid": valid}
        self._require_data(parts)
        self.train = make_resident(train, device)
        self.valid = None
        if valid is not None:
            self.valid = _subset(valid, settings.validation_size).to(device)
        self.num_batches = math.ceil(len(train) / settings.batch_size)
        with seeded(settings.seed, Stream.TRAINING), torch.no_grad():
            first = self._prepare(self.train[:2])
            particles = objective.draw(model, guide, first)
        self.sites, self._point = list(particles.log_prior), point_site(particles.guide) is not None
        parameters = find_parameters(objective, model, guide, first)
        self.step = settings.step_class(objective, model, guide, parameters, settings.clip_norm)
        self.buffers = find_buffers(model, guide)
        self._best, self._best_buffers = self._copies()

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run."""
        return {
            **self.settings.to_json(),
            "objective": repr(self.objective),
            **({"epochs": self.settings.epochs} if self.objective.anneals else {}),
            "train_shape": list(self.train.shape),
            "valid_shape": None if self.valid is None else list(self.valid.shape),
        }

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or the validation bound has stopped improving."""
        done = len(self.history)
        if done >= self.settings.epochs:
            return True
        best = self.history.best_epoch
        patience = self.settings.patience
        return patience is not None and best is not None and done - best >= patience

    def advance(self) -> EpochRecord:
        """Train one epoch, validate if it is time, and record both."""
        start = time.perf_counter()
        epoch = len(self.history)
        # Every datum passes the support checks of its distribution in the first epoch; after it,
        # Pyro's validation would only cost time and make a GPU wait.
        with pyro.validation_enabled(not self._data_checked):
            sums, rate = self._train_epoch(epoch)
        self._data_checked = True
        bound, log_likelihood, *kl = (sums / len(self.train)).tolist()
        self._require_finite([bound, log_likelihood, *kl])
        score = self._validate(epoch)
        record = EpochRecord(
            epoch=epoch + 1,
            bound=bound,
            log_likelihood=log_likelihood,
            kl=dict(zip(self.sites, kl, strict=True)),
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            validation=None if score is None else score.mean,
            validation_error=None if score is None else score.error,
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
        with seeded(self.settings.seed, Stream.TRAINING, epoch):
            for number, batch in enumerate(self._batches(epoch)):
                updates = epoch * self.num_batches + number
                progress = updates / (self.settings.epochs * self.num_batches)
                rate = self.settings.schedule(progress)
                self.objective.context = Context(progress, len(self.train))
                sums = sums + self.step(batch, rate)
        return torch.as_tensor(sums).double().cpu(), rate

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(
            len(self.train), generator=generator(self.settings.seed, Stream.DATA_ORDER, epoch)
        )
        # Near-equal batches weigh every datum alike; a short last batch would not.
        for indices in order.to(self.train.device).tensor_split(self.num_batches):
            yield self._prepare(self.train[indices])

    def _prepare(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.device, non_blocking=True)
        return batch if self.settings.transform is None else self.settings.transform(batch)

    def _validate(self, epoch: int) -> Score | None:
        # Never merely because it is the last: a run made longer must equal one planned so.
        if self.valid is None or (epoch + 1) % self.settings.validate_every:
            return None
        for owner in owners_of(self.model, self.guide):
            owner.eval()
        nesting = int(self.objective.max_plate_nesting)
        if self._point:
            return joint_density(self.model, self.guide, self.valid, nesting)
        return importance_weighted(
            self.model,
            self.guide,
            self.valid,
            self.settings.validation_particles,
            nesting,
            derive_seed(self.settings.seed, Stream.VALIDATION),
        )

    def _require_data(self, parts: dict[str, Tensor]) -> None:
        """Rows, without NaN unless that is a missing cell to the model."""
        missing = any(bool(x.isnan().any()) for x in parts.values())
        if missing:
            with seeded(self.settings.seed, Stream.TRAINING):
                missing = accepts_missing(
                    self.model,
                    parts["train"][:2].to(self.device),
                    max_plate_nesting=int(self.objective.max_plate_nesting),
                )
        for name, x in parts.items():
            _require_rows(name, x, missing)

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
            progress={"run": self._identity(), "history": self.history.to_json()},
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
        saved, here = checkpoint.progress["run"], self._identity()
        other = [
            f"{key} {saved.get(key)} there, {value} here"
            for key, value in here.items()
            if saved.get(key) != value
        ]
        if other:
            raise ValueError(f"the checkpoint is of a run with other settings: {'; '.join(other)}.")
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
    # Neighbouring rows are often alike: a part is taken at random, the same one for every run.
    return x[torch.randperm(len(x), generator=generator(0, Stream.VALIDATION))[:size]]


def _require_rows(name: str, x: Tensor, missing: bool) -> None:
    if len(x) == 0:
        raise ValueError(f"{name} holds no data.")
    bad = (x.isinf() if missing else ~x.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has {int(bad.sum())} rows with NaN or infinite values, the first at row "
            f"{int(bad.nonzero()[0])}: remove or fill them in, or leave missing cells out of the "
            "likelihood with ObservedDecoder."
        )
