"""Distributions ``Normal(z; 0, I) f(z) / Z`` with a network f, and the draws that Z takes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Size, Tensor, nn

from ppl_vae.networks import MLP
from ppl_vae.priors._values import KeptValue
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights

_SEED = 0
_LEAST_EFFECTIVE = 100
"""Draws below which the spread of their weights is an accident; of fewer than 200, half of them."""


@final
class Tilt(nn.Module):
    """The function U(z) of latents, one number each: a network with tanh layers, 0 at the start.

    Args:
        latent: Number of latent dimensions.
        hidden: Sizes of its hidden layers.
    """

    def __init__(self, latent: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.network = MLP(latent, hidden, 1)
        # The prior starts at the normal, whatever the first layers are.
        nn.init.zeros_(self.network.output.weight)
        nn.init.zeros_(self.network.output.bias)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """U(z)."""
        value: Tensor = self.network(z).squeeze(-1)
        return value


@final
class NormalDraws(nn.Module):
    """U at draws of Normal(0, I): fresh ones at each update, in evaluation fixed ones.

    Fixed draws make a prior's density a function in evaluation, which annealing needs. Their values
    are kept until the parameters change.

    Args:
        latent: Number of latent dimensions.
        in_training: Number of draws at each update.
        in_evaluation: Number of fixed draws.
    """

    like: Tensor

    def __init__(self, latent: int, in_training: int, in_evaluation: int) -> None:
        super().__init__()
        self.latent, self.in_training, self.in_evaluation = latent, in_training, in_evaluation
        # Holds the device and the type of draws.
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self._kept: KeptValue[Tensor] = KeptValue()

    def forward(self, tilt: Tilt) -> Float[Tensor, " draws"]:
        """U at the draws; differentiable where gradients are on."""
        value: Tensor
        if self.training:
            # On the device: nothing waits for it in training.
            like = self.like
            shape = self.in_training, self.latent
            value = tilt(torch.randn(shape, dtype=like.dtype, device=like.device))
            return value
        if torch.is_grad_enabled() and any(p.requires_grad for p in tilt.parameters()):
            value = tilt(self._fixed())
            return value
        return self._kept([*tilt.parameters(), self.like], lambda: tilt(self._fixed()))

    def _fixed(self) -> Tensor:
        # Drawn on the CPU: the same numbers on every device.
        with seeded(_SEED, Stream.EVALUATION):
            draws = torch.randn(self.in_evaluation, self.latent, dtype=self.like.dtype)
        return draws.to(self.like.device)


def log_mean_exp_with_error(values: Float[Tensor, " draws"]) -> tuple[float, float]:
    """``log mean exp`` of values at independent draws, and its delta-method standard error.

    Fewer than 100 effective draws say too little of their own spread: then the error is infinite.
    """
    weights = RunningWeights.of(values.detach().unsqueeze(-1))
    few = weights.effective_sample_size.item() < min(_LEAST_EFFECTIVE, len(values) / 2)
    return weights.log_mean.item(), math.inf if few else weights.standard_error.item()


class TiltedDistribution(TorchDistribution, ABC):  # type: ignore[misc, unused-ignore]
    """``Normal(z; 0, I) f(z)`` with a factor f made of U and one number that U's draws gave.

    Args:
        tilt: U.
        constant: The part of the factor that does not depend on z, in nats.
        count: Number of draws that the distribution is made of; the subclass says of which.
        latent: Number of latent dimensions.
        batch_shape: Shape of independent copies.
        validate_args: Whether values are checked.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        tilt: Tilt,
        constant: Float[Tensor, ""],
        count: int,
        latent: int,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self._tilt, self._constant, self._count = tilt, constant, count
        super().__init__(Size(batch_shape), Size((latent,)), validate_args=validate_args)

    @abstractmethod
    def _log_factor(self, tilt: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``log f`` in nats, given U(z)."""

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "TiltedDistribution":
        """Broadcast the distribution to a batch shape."""
        return type(self)(
            self._tilt,
            self._constant,
            self._count,
            self.event_shape[0],
            batch_shape,
            validate_args=self._validate_args,
        )

    def log_prob(self, value: Float[Tensor, "*shape latent"]) -> Float[Tensor, "..."]:
        """Log-density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        log_normal = -0.5 * (value.square().sum(-1) + value.shape[-1] * math.log(2 * math.pi))
        log_prob = log_normal + self._log_factor(self._tilt(value))
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        result: Tensor = log_prob.expand(shape)
        return result
