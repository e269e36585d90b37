"""Which tensors training changes: of modules, and of ``pyro.param`` statements."""

import contextlib
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.objectives.base import owners_of
from ppl_vae.particles import NonFiniteDensityError, Program
from ppl_vae.randomness import seeded


class ParameterRecorder(Messenger):  # type: ignore[misc, unused-ignore]
    """Records the unconstrained tensor behind each ``pyro.param`` statement."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, Tensor] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        unconstrained = getattr(value, "unconstrained", None)
        self.parameters[msg["name"]] = value if unconstrained is None else unconstrained()


def find_parameters(
    objective: Objective, model: Program, guide: Program, x: Tensor
) -> dict[str, Tensor]:
    """Name to leaf tensor, each once, of everything trainable in the model and guide.

    Runs both once on ``x``, so that lazily made parameters exist.

    Raises:
        ValueError: If there is nothing to train.
    """
    recorder = ParameterRecorder()
    # Parameters are there to be found whatever the densities come to.
    with seeded(0), torch.no_grad(), recorder, contextlib.suppress(NonFiniteDensityError):
        objective.draw(model, guide, x)
    owners = owners_of(model, guide)
    found: dict[str, Tensor] = {}
    for index, owner in enumerate(owners):
        prefix = "" if len(owners) == 1 else f"{index}."
        found.update({prefix + name: value for name, value in owner.named_parameters()})
    found.update(recorder.parameters)
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in found.items():
        if parameter.requires_grad:
            unique.setdefault(id(parameter), (name, parameter))
    if not unique:
        raise ValueError(
            "the model and guide have no parameters to train: make them (methods of) torch "
            "modules, or use pyro.param or pyro.module inside."
        )
    return dict(unique.values())


def find_buffers(model: Program, guide: Program) -> dict[str, Tensor]:
    """Name to tensor of the persistent buffers of the owning modules, as batch norm has them."""
    found: dict[str, Tensor] = {}
    for index, owner in enumerate(owners_of(model, guide)):
        parameters = dict(owner.named_parameters())
        for name, value in owner.state_dict(keep_vars=True).items():
            if name not in parameters:
                found[f"{index}.{name}"] = value
    return found
