"""Independent replicates of an objective's gradient, and what their mean is compared with."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._gradient_bench import GROUPS, Claim, Group
from ppl_vae.objectives import AnalyticELBO, Objective, split_parameters
from ppl_vae.particles import Graph, Particles, Program, Programs
from ppl_vae.randomness import generator
from ppl_vae.reference_models import ascent_direction
from ppl_vae.weights import log_mean_exp

_TIMED_STEPS = 15

Sample = dict[Group, Float[Tensor, "replicates coordinates"]]
Target = Literal["ELBO", "L_K", "its own bound"]


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

        def chosen(size: int) -> Tensor:
            if size <= most_coordinates:
                return torch.arange(size)
            # A fixed subset: objectives are compared on the same coordinates.
            return torch.randperm(size, generator=generator(0))[:most_coordinates].sort().values

        used = {name: p for name, p in parameters.items() if any(name in g for g in found.values())}
        sizes = {
            group: sum(p.numel() for p in members.values()) for group, members in found.items()
        }
        return cls(
            parameters=used,
            names={group: tuple(members) for group, members in found.items() if members},
            coordinates={group: chosen(size) for group, size in sizes.items() if size},
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """Parameters in both groups."""
        theta, phi = (self.names.get(group, ()) for group in GROUPS)
        return tuple(name for name in theta if name in phi)

    @property
    def num_coordinates(self) -> int:
        """Number of coordinates of both groups."""
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
        """Time of one step, the median of several after a first one."""
        taken = []
        for _ in range(_TIMED_STEPS + 1):
            start = time.perf_counter()
            self.groups.pick(self._step(objective))
            taken.append(time.perf_counter() - start)
        # The first step pays for memory and caches; a median is not moved by a pause.
        return sorted(taken[1:])[_TIMED_STEPS // 2]

    def _step(self, objective: Objective) -> dict[str, Tensor]:
        loss = objective.differentiable_loss(self.model, self.guide, self.x)
        gradients = ascent_direction(loss, self.groups.parameters)
        return {name: gradient.unsqueeze(0) for name, gradient in gradients.items()}


@final
class PathReference(Objective):
    """The pathwise gradient of another objective's reported bound."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective.num_particles)
        self.objective = objective

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The other objective's bound, in nats."""
        return self.objective.bound(particles)


@final
class ScoreReference(Objective):
    """The score-function gradient of another objective's reported bound, for any latents.

    ``grad bound at fixed z + (bound - baseline) grad sum_k log q(z_k|x)``, the baseline the bound
    of draws of its own.
    """

    graph: ClassVar[Graph] = "score"

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective.num_particles)
        self.objective = objective
        self._baseline: Tensor | None = None

    def draw(
        self,
        model: Program,
        guide: Program,
        x: Float[Tensor, "batch *event"],
        *,
        check_finite: bool = True,
    ) -> Particles:
        """The particles, after others for the baseline."""
        with torch.no_grad():
            # Draws of its own: a baseline that depends on z_k would bias the score.
            self._baseline = self.objective.bound(super().draw(model, guide, x))
        return super().draw(model, guide, x, check_finite=check_finite)

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The other objective's bound, in nats."""
        return self.objective.bound(particles)

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Direct part of the bound, and its score term."""
        gain = bound.detach() - (0 if self._baseline is None else self._baseline)
        return bound + gain * particles.log_proposal.sum(0)


def reference_for(objective: Objective, particles: Particles) -> Objective:
    """Pathwise where every latent has a path, by the score function where one has none."""
    return ScoreReference(objective) if particles.not_reparameterized else PathReference(objective)


def target_of(objective: Objective, particles: Particles) -> Target:
    """Bound that the objective reports, found by its value at scattered log-weights."""
    # At the posterior all weights are equal, and all bounds; scattered weights tell them apart.
    noise = torch.randn(particles.log_likelihood.shape, generator=torch.Generator().manual_seed(0))
    scattered = replace(particles, log_likelihood=noise.to(particles.log_likelihood))
    found = objective.bound(scattered)
    log_weight = scattered.log_weight
    analytic = AnalyticELBO(objective.num_particles).bound(scattered)
    if any(torch.allclose(found, elbo) for elbo in (log_weight.mean(0), analytic)):
        return "ELBO"
    if torch.allclose(found, log_mean_exp(log_weight)):
        return "L_K"
    return "its own bound"


def claim_of(objective: Objective, group: Group, *, shared: bool) -> Claim:
    """Claim of the objective about the gradient of this group.

    A parameter in both groups gets both gradients, so that both must be unbiased for it to be.
    """
    wanted = set(GROUPS) if shared else {group}
    if wanted <= objective.claims.unbiased_with(objective.num_particles):
        return "unbiased"
    clauses = objective.claims.gradient.split(";")
    # A claim has a clause for theta and one for phi, or one for both.
    about = [clause for clause in clauses if any(name in clause for name in wanted)] or clauses
    says_so = any(re.search(r"\bbias(ed)?\b", clause) for clause in about)
    return "biased by design" if says_so else "follows another target"
