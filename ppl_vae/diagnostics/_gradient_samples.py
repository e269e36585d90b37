"""Independent replicates of an objective's gradient, by groups of parameters."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._gradient_bench import GROUPS, Group
from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import Program, Programs
from ppl_vae.randomness import generator

_TIMED_STEPS = 15

Sample = dict[Group, Float[Tensor, "replicates coordinates"]]


@final
@dataclass(frozen=True)
class Groups:
    """theta and phi, and the coordinates of each that are looked at.

    Attributes:
        parameters: Every parameter of either group, by name.
        names: Group to the names of its parameters.
        coordinates: Group to positions in its parameters' concatenated, flattened values.
    """

    parameters: dict[str, Tensor]
    names: dict[Group, tuple[str, ...]]
    coordinates: dict[Group, Tensor]

    @classmethod
    def of(
        cls,
        programs: Programs,
        x: Float[Tensor, "batch *event"],
        parameters: Mapping[str, Tensor],
        *,
        most_coordinates: int,
    ) -> "Groups":
        """The groups by the autograd graph.

        Raises:
            ValueError: If model and guide depend on none of the parameters.
        """
        split = split_parameters(programs, x, parameters)
        found = dict(zip(GROUPS, split, strict=True))
        if not any(found.values()):
            raise ValueError(
                "model and guide depend on no parameter that requires a gradient: make them "
                "methods of torch modules, use pyro.param, or pass parameters={name: tensor}."
            )
        used = {name: p for name, p in parameters.items() if any(name in g for g in found.values())}
        sizes = {
            group: sum(p.numel() for p in members.values()) for group, members in found.items()
        }
        return cls(
            parameters=used,
            names={group: tuple(members) for group, members in found.items() if members},
            coordinates={
                group: _subset(size, most_coordinates) for group, size in sizes.items() if size
            },
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """Parameters in both groups."""
        theta, phi = (self.names.get(group, ()) for group in GROUPS)
        return tuple(name for name in theta if name in phi)

    @property
    def num_coordinates(self) -> int:
        """Of both groups."""
        return sum(map(len, self.coordinates.values()))

    def pick(self, gradients: Mapping[str, Float[Tensor, "replicates *shape"]]) -> Sample:
        """The coordinates of each group, in double precision on the CPU."""
        flat = {name: value.reshape(len(value), -1) for name, value in gradients.items()}
        joined = {
            group: torch.cat([flat[n] for n in names], 1) for group, names in self.names.items()
        }
        return {
            group: values[:, self.coordinates[group].to(values.device)].double().cpu()
            for group, values in joined.items()
        }

    def label(self, group: Group, coordinate: int) -> str:
        """The coordinate by its parameter's name and index, as ``weight[2, 0]``."""
        position = int(self.coordinates[group][coordinate])
        for name in self.names[group]:
            parameter = self.parameters[name]
            if position < parameter.numel():
                index = torch.unravel_index(torch.tensor(position), parameter.shape)
                return f"{name}[{', '.join(str(int(i)) for i in index)}]"
            position -= parameter.numel()
        raise IndexError(f"{group} has no coordinate {coordinate}.")


def _subset(size: int, most: int) -> Tensor:
    if size <= most:
        return torch.arange(size)
    return torch.randperm(size, generator=generator(0))[:most].sort().values


def trainable_parameters(programs: Programs, x: Float[Tensor, "batch *event"]) -> dict[str, Tensor]:
    """Name to leaf tensor of everything trainable behind the programs, each tensor once."""
    found = programs.modules(x).parameters
    return {name: value for name, value in found.items() if value.requires_grad}


@final
@dataclass(frozen=True)
class Loop:
    """Replicates of any model and guide, one step after the other."""

    model: Program
    guide: Program
    x: Tensor
    groups: Groups

    def sample(self, objective: Objective, replicates: int) -> Sample:
        """Gradients of the bound summed over the data, from the caller's random state."""
        steps = [self.groups.pick(self._step(objective)) for _ in range(replicates)]
        return {group: torch.cat([step[group] for step in steps]) for group in steps[0]}

    def seconds(self, objective: Objective) -> float:
        """Of one step, the median of several after a first one."""
        taken = []
        for _ in range(_TIMED_STEPS + 1):
            start = time.perf_counter()
            self.groups.pick(self._step(objective))
            taken.append(time.perf_counter() - start)
        return sorted(taken[1:])[_TIMED_STEPS // 2]

    def _step(self, objective: Objective) -> dict[str, Tensor]:
        loss = objective.differentiable_loss(self.model, self.guide, self.x)
        return ascent_direction(loss, self.groups.parameters, leading=1)


def ascent_direction(
    loss: Tensor, parameters: Mapping[str, Tensor], leading: int = 0
) -> dict[str, Tensor]:
    """The negative gradient of a loss by parameter, 0 where it depends on none."""
    values = list(parameters.values())
    found = torch.autograd.grad(loss, values, allow_unused=True)
    filled = [
        torch.zeros_like(value) if gradient is None else -gradient
        for gradient, value in zip(found, values, strict=True)
    ]
    return {
        name: gradient.reshape((1,) * leading + gradient.shape)
        for name, gradient in zip(parameters, filled, strict=True)
    }
