"""An update that was not finite: what it was, a file that holds it, and making it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pyro
import torch
from torch import Tensor

from ppl_vae.devices import resolve_device
from ppl_vae.objectives import Context, Objective
from ppl_vae.particles import NonFiniteDensityError, Program, Programs
from ppl_vae.randomness import seeded
from ppl_vae.training.checkpoint import load_groups, save_groups
from ppl_vae.training.parameters import find_parameters
from ppl_vae.training.settings import STEPS, StepFactory
from ppl_vae.training.state import State
from ppl_vae.training.step import Step
from ppl_vae.training.watch import NonFiniteUpdateError, require_finite_result, watching

FORMAT = "ppl_vae non-finite update 1"
NON_FINITE = "non-finite.safetensors"
"""The file's name, beside the checkpoint."""
Culprit = NonFiniteDensityError | NonFiniteUpdateError


@final
class NonFiniteError(ValueError):
    """Training came to a density, a gradient or a parameter that is NaN or infinite.

    Args:
        message: One line: which update, what is not finite where, what to do.
        update: The update, counted from 1.
        epoch: Its epoch, counted from 1.
        site: The site that is not finite, or has a gradient that is not, if that is known.
        datum: The row of the batch, if that is known.
        row: The same as a row of the training data.
        file: What makes the update again, if it was saved.
    """

    def __init__(
        self,
        message: str,
        *,
        update: int | None = None,
        epoch: int | None = None,
        site: str | None = None,
        datum: int | None = None,
        row: int | None = None,
        file: Path | None = None,
    ) -> None:
        super().__init__(message)
        self.update, self.epoch, self.site = update, epoch, site
        self.datum, self.row, self.file = datum, row, file


@final
@dataclass(frozen=True)
class UpdateRecord:
    """All that an update depends on, before it is made.

    Attributes:
        state: Parameters, buffers, optimiser.
        random: Random states, ``cpu`` and that of the device.
        batch: What the step is handed.
        learning_rate: And the rate.
        context: What the objective knows of training.
        update: Counted from 1; ``epoch`` likewise.
    """

    state: State
    random: Mapping[str, Tensor]
    batch: Tensor
    learning_rate: float
    context: Context
    update: int
    epoch: int

    def error(self, culprit: Culprit, row: int | None, path: Path | None) -> NonFiniteError:
        """What the update's failure is told as.

        Args:
            culprit: What was not finite.
            row: Of the training data, if that is known.
            path: Where the record is, if it was saved.
        """
        message = f"update {self.update} (epoch {self.epoch}) is not finite: {culprit}"
        if row is not None:
            message += f" The datum is row {row} of the training data."
        if path is not None:
            message += f" replay_non_finite makes the update again from {path}."
        return NonFiniteError(
            message,
            update=self.update,
            epoch=self.epoch,
            site=culprit.site,
            datum=culprit.datum,
            row=row,
            file=path,
        )

    def save(self, path: Path) -> None:
        """Write the record, atomically."""
        groups = {
            "parameter": self.state.parameter,
            "buffer": self.state.buffer,
            "optimizer": self.state.optimizer,
            "random": self.random,
            "batch": {"x": self.batch},
        }
        values = {
            "learning_rate": self.learning_rate,
            "progress": self.context.progress,
            "num_data": self.context.num_data,
            "update": self.update,
            "epoch": self.epoch,
        }
        save_groups(path, FORMAT, groups, values)

    @classmethod
    def load(cls, path: Path) -> "UpdateRecord":
        """Read a record.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or no such record.
        """
        groups, values = load_groups(path, FORMAT)
        state = State(*(groups.get(name, {}) for name in ("parameter", "buffer", "optimizer")))
        context = Context(values.pop("progress"), values.pop("num_data"))
        batch = groups["batch"]["x"]
        return cls(state=state, random=groups["random"], batch=batch, context=context, **values)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The random states that draws on the device come from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def attempt(step: Step, batch: Tensor, learning_rate: float) -> Tensor:
    """Make an update that is watched, and check what it made.

    Raises:
        NonFiniteDensityError: If a log-density is not finite.
        NonFiniteUpdateError: If anything else is not.
    """
    with watching():
        parts = step(batch, learning_rate)
    require_finite_result(parts, step.parameters)
    return parts


def replay_non_finite(
    path: Path,
    model: Program,
    guide: Program,
    objective: Objective,
    *,
    step: str | StepFactory = "torch",
    clip_norm: float | None = None,
    device: str | torch.device = "auto",
) -> NonFiniteError | None:
    """Make an update again that training ended with, from the file it left.

    The model's and the guide's parameters are afterwards those before the update, so that a
    debugger, or prints in the model, show what came of the batch.

    Args:
        path: The file, ``non-finite.safetensors`` beside the checkpoint.
        model: Pyro model, of the same parameters.
        guide: Pyro guide.
        objective: The same.
        step: The same.
        clip_norm: The same.
        device: Where to compute; another device than then has other random numbers.

    Returns:
        What training ended with; None if the update is finite here, as it may be where model,
        objective or device are others now.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another model.
    """
    record, device = UpdateRecord.load(path), resolve_device(device)
    batch = record.batch.to(device)
    modules = Programs(model, guide).modules()
    modules.to(device)
    modules = Programs(model, guide).modules(batch[:2])
    make = STEPS.parse(step) if isinstance(step, str) else step
    objective = objective.with_plate_nesting(modules.max_plate_nesting)
    objective.context = record.context
    with pyro.validation_enabled(False), seeded(0):
        made = make(objective, model, guide, find_parameters(modules), clip_norm)
        buffers = modules.buffers
        record.state.load(made, buffers)
        modules.train()
        try:
            torch.set_rng_state(record.random["cpu"])
            if device.type == "cuda" and "cuda" in record.random:
                torch.cuda.set_rng_state(record.random["cuda"], device)
            attempt(made, batch, record.learning_rate)
            return None
        except (NonFiniteDensityError, NonFiniteUpdateError) as error:
            return record.error(error, None, path)
        finally:
            record.state.load(made, buffers)
