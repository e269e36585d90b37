"""The path of unnormalised densities that annealing follows, and chains that stand on it."""

from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.particles import LatentDensity

Start = Literal["prior", "guide"]


class Chains(NamedTuple):
    """Positions of Markov chains and, at these, everything a transition needs.

    Attributes:
        position: u, shape (chains, batch, dim).
        momentum: Standard normal under every f_b; same shape.
        base: ``log f_0(u)``, shape (chains, batch).
        ratio: ``d/db log f_b(u)``, shape (chains, batch).
        base_gradient: Of base in u, shape (chains, batch, dim).
        ratio_gradient: Of ratio in u, shape (chains, batch, dim).
    """

    position: Tensor
    momentum: Tensor
    base: Tensor
    ratio: Tensor
    base_gradient: Tensor
    ratio_gradient: Tensor

    def log_density(self, level: Float[Tensor, " levels"]) -> Float[Tensor, "chains batch"]:
        """``log f_b(u)`` at temperature b, one number for each datum or for all."""
        return self.base + level * self.ratio

    def gradient(self, level: Float[Tensor, " levels"]) -> Float[Tensor, "chains batch dim"]:
        """``d/du log f_b(u)``."""
        return self.base_gradient + level.unsqueeze(-1) * self.ratio_gradient


def select(condition: Bool[Tensor, "chains batch"], new: Chains, old: Chains) -> Chains:
    """Where the condition holds the new chains, elsewhere the old ones.

    A choice, and no arithmetic: ``condition * new + (1 - condition) * old`` would let a new NaN
    into the chains that it was rejected for.
    """
    wide = condition.unsqueeze(-1)
    pairs = zip(new, old, strict=True)
    return Chains(*(torch.where(wide if a.dim() == 3 else condition, a, b) for a, b in pairs))


@final
class GeometricPath:
    """``log f_b(u) = (1 - b) log f_0(u) + b log p(x, u)``, for b from 0 to 1.

    From the prior, f_0 = p(z) and ``d/db log f_b = log p(x|z)``; from the guide, f_0 = q(z|x) and
    ``d/db log f_b = log p(x, z) - log q(z|x)``. f_0 integrates to 1, f_1 to p(x). From the prior
    the path goes on beyond b = 1, towards the z that x is most likely under.

    Args:
        density: The three log-densities, of a batch.
        start: What f_0 is.
    """

    def __init__(self, density: LatentDensity, start: Start) -> None:
        self.density, self.start = density, start

    def draw(self) -> Chains:
        """Chains at exact, independent draws from f_0."""
        density = self.density
        return self.at(density.draw_prior() if self.start == "prior" else density.draw_guide())

    def at(self, position: Float[Tensor, "chains batch dim"]) -> Chains:
        """Chains at these positions, with fresh momentum. One gradient evaluation."""
        return self.moved(position, torch.randn_like(position))

    def moved(
        self,
        position: Float[Tensor, "chains batch dim"],
        momentum: Float[Tensor, "chains batch dim"],
    ) -> Chains:
        """Chains at these positions, with this momentum. One gradient evaluation."""
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            base, ratio = self._base_and_ratio(leaf)
            # Two backward passes, of which one is cheap: the sum of gradients is wanted at two
            # temperatures, that of the last transition and that of the next.
            base_gradient = _gradient(base, leaf, keep=True)
            ratio_gradient = _gradient(ratio, leaf, keep=False)
        return Chains(
            leaf.detach(), momentum, base.detach(), ratio.detach(), base_gradient, ratio_gradient
        )

    def _base_and_ratio(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.start == "prior":
            return self.density.of_model(u)
        at = self.density(u)
        return at.guide, at.likelihood + at.prior - at.guide


def _gradient(value: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(
        value.sum(), leaf, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return gradient
