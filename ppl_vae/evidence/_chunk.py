"""Log-weights of a chunk of the data, piece by piece."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Particles, Programs, Replays, require_density
from ppl_vae.randomness import random_state, set_random_state


@final
@dataclass(frozen=True)
class Chunk:
    """Chunk of the data: rows, programs with their proposal, and particles to decode at once.

    Draws of as many particles, in every chunk, are compiled where it pays.
    """

    programs: Programs
    x: Tensor
    particles_at_once: int
    replays: Replays

    def log_weights(self, num_particles: int) -> Iterator[Float[Tensor, "particles batch"]]:
        """Log w of ``num_particles`` fresh draws, piece by piece; -inf where p(x|z) is 0."""
        sizes = list(pieces(num_particles, self.particles_at_once))
        made = {
            size: self.replays.log_weights(self.programs, self.x, size, sizes.count(size))
            for size in dict.fromkeys(sizes)
        }
        for size in sizes:
            replay = made[size]
            yield self._drawn(size) if replay is None else self._replayed(replay, size)

    def mixture_weights(
        self, size: int, share: float, *, prior: bool
    ) -> Iterator[tuple[Float[Tensor, "particles batch"], torch.dtype]]:
        """Log w under a mixture of guide and prior, and the type of the densities, by pieces.

        Args:
            size: Number of draws.
            share: The prior's share of the mixture.
            prior: Whether the draws are the prior's; the guide's otherwise.
        """
        for at_once in pieces(size, self.particles_at_once):
            if prior:
                latents = self.programs.with_guide(None).simulate(self.x, at_once).latents
                particles = self.programs.evaluate(self.x, latents)
            else:
                particles = self.programs.draw(self.x, at_once, check_finite=False)
            yield of_mixture(particles, share)[0], particles.log_proposal.dtype

    def _replayed(
        self, replay: Callable[[], Tensor], size: int
    ) -> Float[Tensor, "particles batch"]:
        before = random_state(self.x.device)
        log_weight = replay()
        if bool(log_weight.isfinite().all()):
            return log_weight
        # A graph cannot name a site: the same draws again.
        set_random_state(before, self.x.device)
        return self._drawn(size)

    def _drawn(self, size: int) -> Float[Tensor, "particles batch"]:
        # A weight of 0 is a weight; what is NaN or +inf is refused below, with its site.
        particles = self.programs.draw(self.x, size, check_finite=False)
        require_density(particles.guide)
        particles.require_weights()
        return particles.log_weight


def of_mixture(
    particles: Particles, share: float
) -> tuple[Float[Tensor, "particles batch"], Float[Tensor, "particles batch"]]:
    """Log of p(x, z) over a mixture of guide and prior, and the prior's part of the mixture at z.

    In double precision on the CPU; the log is -inf where p(x, z) is 0.

    Args:
        particles: Draws with the densities of both.
        share: The prior's share of the mixture.
    """
    require_density(particles.guide)
    # In double precision: the two densities of the mixture may be 100s of nats apart.
    log_guide = particles.log_proposal.double() + math.log1p(-share)
    log_prior = particles.log_latent_prior.double()
    mixture = torch.logaddexp(log_guide, log_prior + math.log(share))
    log_weight = (particles.log_likelihood.double() + log_prior - mixture).cpu()
    if not bool((log_weight < math.inf).all()):
        # Not a number, or infinite: says where it comes from.
        particles.require_weights()
    return log_weight, torch.exp(log_prior + math.log(share) - mixture).cpu()


def pieces(total: int, at_most: int) -> Iterator[int]:
    """Sizes of at most ``at_most`` that add up to ``total``."""
    while total > 0:
        yield min(total, at_most)
        total -= at_most
