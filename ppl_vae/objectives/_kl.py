"""KL terms of an ELBO, per latent site or dimension, and their shaping.

A shaping maps the KL of every group (a latent site, or a dimension of one), averaged over batch and
particles, and the progress of training to a factor for the gradient of each group's KL. Constants
that a paper adds to the objective have no gradient and do not appear.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ppl_vae.names import require_not_negative, require_positive
from ppl_vae.particles import Particles, side_by_side


def site_kl(particles: Particles, name: str) -> Float[Tensor, "particles batch"]:
    """A term whose mean over particles estimates the site's KL: exact where it can be, in nats.

    The closed form, where torch registers one and where it is exact; otherwise ``log q - log p``.
    """
    monte_carlo = particles.log_guide[name] - particles.log_prior[name]
    if not _closed_form_is_exact(particles, name):
        return monte_carlo
    try:
        kl: Tensor = kl_divergence(particles.guide[name], particles.prior[name])
    # Torch has registered no closed form for this pair of distributions.
    except NotImplementedError:
        return monte_carlo
    # Between the particles and the batch stand the site's inner plates.
    inner = tuple(range(1, kl.dim() - 1))
    return kl.sum(inner) if inner else kl


def dimension_kl(particles: Particles, name: str) -> Float[Tensor, "particles batch latent"] | None:
    """The KL of each dimension in closed form, or None if it has none that is exact."""
    guide, prior = particles.guide[name], particles.prior[name]
    if not (_closed_form_is_exact(particles, name) and factorises(guide) and factorises(prior)):
        return None
    try:
        kl: Tensor = kl_divergence(guide.base_dist, prior.base_dist)
    except NotImplementedError:
        return None
    return side_by_side(kl, 1)


def dimension_log_densities(
    particles: Particles, name: str
) -> tuple[Float[Tensor, "particles batch latent"], Float[Tensor, "particles batch latent"]]:
    """Log q and log p of each dimension of the draws.

    Raises:
        ValueError: If the site's guide or prior does not factorise over its dimensions.
    """
    guide, prior = particles.guide[name], particles.prior[name]
    if name in particles.masked or not (factorises(guide) and factorises(prior)):
        raise ValueError(
            f"latent site {name!r} has no KL per dimension: its guide ({type(guide).__name__}) and "
            f"prior ({type(prior).__name__}) must both factorise, such as Normal(...).to_event(1); "
            "take the whole site as one group instead."
        )
    z = particles.latents[name]
    log_guide, log_prior = guide.base_dist.log_prob(z), prior.base_dist.log_prob(z)
    return side_by_side(log_guide, 1), side_by_side(log_prior, 1)


def _closed_form_is_exact(particles: Particles, name: str) -> bool:
    """Whether ``KL(q(z_i|.) || p(z_i|.))`` of two distributions is the mean of ``log q - log p``.

    Given the latents drawn before it, the KL of the site is that of its two distributions. That
    holds only while p(z_i|.) does not depend on z_i itself through a latent that the guide drew
    later, so every latent that precedes the site in the model must precede it in the guide too.
    A mask must be absent as well: a closed form would ignore it.
    """
    model_order, guide_order = list(particles.log_prior), list(particles.log_guide)
    before_in_model = set(model_order[: model_order.index(name)])
    before_in_guide = set(guide_order[: guide_order.index(name)])
    return name not in particles.masked and before_in_model <= before_in_guide


def factorises(distribution: Any) -> bool:
    """Whether the event is one dimension of independent scalars."""
    return (
        isinstance(distribution, Independent)
        and distribution.reinterpreted_batch_ndims == 1
        and distribution.base_dist.event_shape == torch.Size()
    )


Progress: TypeAlias = float | Float[Tensor, ""]
GroupKL = dict[str, Float[Tensor, "..."]]
"""Latent site to its mean KL in nats: a scalar, or one value for each dimension."""


class KLShaping(ABC):
    """Factors for the gradient of the KL terms."""

    per_dimension: bool = False
    """Whether a group is one dimension of a site rather than the site."""
    anneals: ClassVar[bool] = False
    """Whether the factors depend on the progress of training."""
    in_epochs: ClassVar[bool] = False
    """Whether progress is counted in epochs in place of a fraction of training."""
    measures_kl: ClassVar[bool] = False
    """Whether the factors depend on the KL, which a guide that is a point does not have."""

    @abstractmethod
    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """A factor for each group.

        Args:
            kl: Mean KL of each group over batch and particles, in nats, detached.
            progress: Fraction of training done; with :attr:`in_epochs`, passes over the training
                data done, with their fractions. A tensor where the update is compiled, so that what
                looks at its value, as min() and if do, keeps the update from being compiled.
        """


@final
@dataclass(frozen=True)
class Beta(KLShaping):
    """``E log p(x|z) - beta KL``.

    References:
        Higgins et al., 2017, beta-VAE: learning basic visual concepts with a constrained
        variational framework.
    """

    beta: float

    def __post_init__(self) -> None:
        require_not_negative(beta=self.beta)

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """Beta for every group."""
        return _same(kl, self.beta)


@final
@dataclass(frozen=True)
class LinearAnnealing(KLShaping):
    """Beta that rises linearly from ``start`` to ``end`` over the first ``ramp`` of training.

    References:
        Bowman et al., 2016, Generating sentences from a continuous space.
        Sonderby et al., 2016, Ladder variational autoencoders.
    """

    anneals = True

    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _require_fraction("ramp", self.ramp)
        require_not_negative(start=self.start, end=self.end)

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """Beta at ``progress`` for every group."""
        done = _ramp(progress, self.ramp)
        return _same(kl, self.start + (self.end - self.start) * done)


@final
@dataclass(frozen=True)
class WarmUp(KLShaping):
    """Beta that rises linearly from ``start`` to 1 over the first ``epochs`` passes over the data.

    The same for every length of training, where ``linear`` is a fraction of it.

    References:
        Sonderby et al., 2016, Ladder variational autoencoders. Tomczak and Welling, 2018, VAE with
        a VampPrior, where beta rises from epoch to epoch; here from update to update.
    """

    anneals = True
    in_epochs = True

    epochs: float = 100.0
    start: float = 0.0

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs)
        require_not_negative(start=self.start)

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """Beta after so many epochs for every group."""
        done = _ramp(progress, self.epochs)
        return _same(kl, self.start + (1 - self.start) * done)


@final
@dataclass(frozen=True)
class CyclicalAnnealing(KLShaping):
    """Beta that rises from 0 to ``end`` in the first ``ramp`` of each of ``cycles`` cycles.

    References:
        Fu et al., 2019, Cyclical annealing schedule: a simple approach to mitigating KL vanishing.
    """

    anneals = True

    cycles: int = 4
    ramp: float = 0.5
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.cycles != int(self.cycles):
            raise ValueError(f"cycles must be a whole number of 1 or more, got {self.cycles}.")
        _require_fraction("ramp", self.ramp)
        require_not_negative(end=self.end)

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """Beta at ``progress`` for every group."""
        done = torch.as_tensor(progress, dtype=torch.float64)
        # At the very end fmod would give 0, the start of one more cycle.
        within = torch.where(done < 1, torch.fmod(done * self.cycles, 1.0), 1.0)
        return _same(kl, self.end * _ramp(within, self.ramp))


@final
@dataclass(frozen=True)
class FreeBits(KLShaping):
    """``sum over groups of max(nats, KL of the group)``, the KL averaged over the batch.

    A group below its free nats has no KL gradient.

    Args:
        nats: Free nats of each group.
        per_dimension: Groups are the dimensions of each site; otherwise the sites.

    References:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
    """

    measures_kl = True

    nats: float
    per_dimension: bool = True

    def __post_init__(self) -> None:
        require_not_negative(**{"free nats": self.nats})

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """1 where the group's KL exceeds its free nats, else 0."""
        return {name: (value > self.nats).to(value.dtype) for name, value in kl.items()}


@final
@dataclass(frozen=True)
class Capacity(KLShaping):
    """``gamma |KL - C|`` of the KL of all sites; C rises from 0 to ``nats`` over ``ramp``.

    References:
        Burgess et al., 2018, Understanding disentangling in beta-VAE.
    """

    anneals = True
    measures_kl = True

    nats: float
    gamma: float = 100.0
    ramp: float = 0.5

    def __post_init__(self) -> None:
        require_not_negative(capacity=self.nats)
        require_not_negative(gamma=self.gamma)
        _require_fraction("ramp", self.ramp)

    def factors(self, kl: GroupKL, progress: Progress) -> GroupKL:
        """Gamma above the capacity, -gamma below it."""
        capacity = self.nats * _ramp(progress, self.ramp)
        total = sum(kl.values(), torch.zeros(()))
        excess = total - capacity.to(total)
        # The gradient of |KL - C| is the sign times that of the KL, the same for every group.
        return {name: self.gamma * torch.sign(excess) for name in kl}


def _ramp(progress: Progress, ramp: float) -> Float[Tensor, ""]:
    """``min(progress / ramp, 1)`` in double precision."""
    return (torch.as_tensor(progress, dtype=torch.float64) / ramp).clamp(max=1.0)


def _same(kl: GroupKL, factor: float | Tensor) -> GroupKL:
    return {
        # One number for all: a tensor of it is an operation more, and no constant of a graph.
        name: torch.full_like(value, factor)
        if isinstance(factor, float | int)
        else factor.to(value).expand_as(value)
        for name, value in kl.items()
    }


def _require_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is a fraction of training: above 0, at most 1, got {value}.")
