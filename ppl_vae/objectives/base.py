"""The template every training objective follows."""

from abc import abstractmethod
from typing import Any

import pyro.infer
import torch
from jaxtyping import Float
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn

from ppl_vae.particles import Particles, Program, draw_particles


class Objective(pyro.infer.ELBO):  # type: ignore[misc, unused-ignore]
    """A bound on log p(x), reported, and a surrogate for it, differentiated.

    ``loss = - scale * sum over the batch of bound(particles)``, in nats, where scale comes from
    plates. A subclass writes ``bound`` and, where the gradient is not that of the bound,
    ``surrogate``; both get per-datum weights and give per-datum values, so that scales,
    subsampling and averages over a batch always act after the logarithm.

    Works as ``pyro.infer.SVI(model, guide, optim, loss=objective)`` and as
    ``objective(model, guide)(x)``.

    Args:
        num_particles: K, draws of the latents per datum.
        max_plate_nesting: Plate dimensions the programs use, the data plate included.

    Raises:
        ValueError: If num_particles is not a positive whole number.
    """

    def __init__(self, num_particles: int = 1, *, max_plate_nesting: int = 1) -> None:
        if not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(
                f"{type(self).__name__} needs num_particles >= 1 (a whole number), "
                f"got {num_particles}."
            )
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"

    @abstractmethod
    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """The bound on log p(x) per datum, in nats: what is reported."""

    def surrogate(
        self, particles: Particles, bound: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """What is differentiated, per datum. Unless overridden, the bound itself."""
        return bound

    def draw(self, model: Program, guide: Program, x: Float[Tensor, "batch *event"]) -> Particles:
        """The particles this objective is computed from.

        A non-finite density is an error here on the CPU only: a check would make a GPU wait.
        """
        return draw_particles(
            model,
            guide,
            x,
            self.num_particles,
            max_plate_nesting=self.max_plate_nesting,
            check_finite=x.device.type == "cpu",
        )

    def loss_of(self, particles: Particles) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """The differentiable loss, a scalar, and the detached bound per datum.

        The loss has the value ``-scale * bound.sum()`` and the gradient of the surrogate.
        """
        if torch.is_grad_enabled():
            particles.require_reparameterized()
        bound = self.bound(particles)
        surrogate = self.surrogate(particles, bound)
        value = surrogate if surrogate is bound else surrogate + (bound - surrogate).detach()
        return -(particles.scale * value).sum(), bound.detach()

    def differentiable_loss(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        """The loss as a scalar tensor whose gradient is that of the surrogate."""
        return self.loss_of(self.draw(model, guide, x))[0]

    def loss(self, model: Program, guide: Program, x: Tensor) -> float:
        """The negative bound, summed over the batch and scaled, in nats."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, x))

    def loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> float:
        """The loss as a float, after adding its gradient to the parameters' ``.grad``."""
        loss = self.differentiable_loss(model, guide, x)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def __call__(self, model: Program, guide: Program) -> "ObjectiveModule":
        """The objective for one model and guide, as a torch module from x to the loss."""
        return ObjectiveModule(self, model, guide)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        # Abstract in Pyro's class. Nothing here reads it, but Pyro's own helpers may.
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


class ObjectiveModule(nn.Module):
    """An objective bound to a model and guide: ``module(x)`` is the differentiable loss.

    Its parameters are those of the modules that the model and guide are, or are methods of.
    """

    def __init__(self, objective: Objective, model: Program, guide: Program) -> None:
        super().__init__()
        self.objective = objective
        # Callables in a tuple are not registered; their owners are, once each.
        self._programs = (model, guide)
        self.owners = nn.ModuleList(owners_of(model, guide))

    def forward(self, x: Float[Tensor, "batch *event"]) -> Tensor:
        """The differentiable loss on a batch, a scalar in nats."""
        return self.objective.differentiable_loss(*self._programs, x)


def owners_of(*programs: Program) -> list[nn.Module]:
    """The distinct modules that the programs are, or are bound methods of, in order."""
    owners: dict[int, nn.Module] = {}
    for program in programs:
        owner = getattr(program, "__self__", program)
        if isinstance(owner, nn.Module):
            owners.setdefault(id(owner), owner)
    return list(owners.values())
