"""What updates change, apart from everything else that a run is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from ppl_vae.training._budget import Spent
from ppl_vae.training._checkpoint import load_parameters
from ppl_vae.training._step import Step

Tensors = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class State:
    """Parameters, buffers and the optimiser's state, by name, on their device.

    Attributes:
        parameter: Name to value.
        buffer: Name to value of what modules keep outside of parameters.
        optimizer: The step's state.
    """

    parameter: Tensors
    buffer: Tensors
    optimizer: Tensors

    @classmethod
    def copy_of(cls, step: Step, buffers: Tensors) -> "State":
        """The present state, which further updates leave as it is."""
        return cls(copied(step.parameters), copied(buffers), copied(step.state()))

    def load(self, step: Step, buffers: Tensors) -> None:
        """Set parameters, buffers and optimiser.

        Raises:
            ValueError: If it is the state of another model.
        """
        load_parameters(step.parameters, self.parameter)
        load_parameters(buffers, self.buffer)
        # An optimiser keeps the tensors that it is given, and changes them.
        step.load_state(copied(self.optimizer))


@final
@dataclass(frozen=True)
class Mark:
    """A run between two epochs, to go back to.

    Attributes:
        state: What updates change.
        best: Parameters of the best validated epoch so far; ``best_buffers`` likewise.
        spent: What training has cost.
        epochs: Finished epochs.
    """

    state: State
    best: Tensors
    best_buffers: Tensors
    spent: Spent
    epochs: int


def copied(tensors: Tensors) -> dict[str, Tensor]:
    """The same values in tensors of their own."""
    return {name: value.detach().clone() for name, value in tensors.items()}
