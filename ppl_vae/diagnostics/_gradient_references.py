"""What an objective's gradient is compared with: the gradient of its own reported bound."""

from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import AnalyticELBO, Objective
from ppl_vae.particles import Graph, Particles, Program
from ppl_vae.weights import log_mean_exp

Target = Literal["ELBO", "L_K", "its own bound"]


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

    def draw(self, model: Program, guide: Program, x: Float[Tensor, "batch *event"]) -> Particles:
        """The particles, after others for the baseline."""
        with torch.no_grad():
            self._baseline = self.objective.bound(super().draw(model, guide, x))
        return super().draw(model, guide, x)

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
    """Which bound the objective reports, told by what it makes of scattered log-weights."""
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
