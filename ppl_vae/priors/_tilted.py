"""What priors of the form ``Normal(z; 0, I) * f(z) / Z`` with a network f share."""

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
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights

_SEED = 0

_LEAST_EFFECTIVE = 100
"""Draws below which the spread of their weights is an accident; of fewer than 200, half of them."""


@final
class Tilt(nn.Module):
    """A function U(z) of latents, one number each: a network with tanh layers, 0 at the start.

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

    Fixed draws make a prior's density a function in evaluation, which annealing needs. What they
    give is kept until the parameters change.

    Args:
        latent: Number of latent dimensions.
        in_training: Number of draws at each update.
        in_evaluation: Number of fixed draws.
    """

    like: Tensor

    def __init__(self, latent: int, in_training: int, in_evaluation: int) -> None:
        super().__init__()
        self.latent, self.in_training, self.in_evaluation = latent, in_training, in_evaluation
        # Where draws are to be, and of which type.
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self._kept: tuple[list[Tensor], Tensor] | None = None

    def forward(self, tilt: Tilt) -> Float[Tensor, " draws"]:
        """U at the draws; differentiable where gradients are on."""
        value: Tensor
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in tilt.parameters())
        if self.training or learns:
            value = tilt(self._draw(self.in_training) if self.training else self._fixed())
            return value
        state = [*tilt.parameters(), self.like]
        if self._kept is None or not _equal(state, self._kept[0]):
            with torch.no_grad():
                self._kept = [value.detach().clone() for value in state], tilt(self._fixed())
        return self._kept[1]

    def _fixed(self) -> Tensor:
        with seeded(_SEED, Stream.EVALUATION):
            return self._draw(self.in_evaluation)

    def _draw(self, count: int) -> Tensor:
        # On the CPU first: the same numbers on every device.
        device = self.like.device
        made_on = device if self.training else torch.device("cpu")
        return torch.randn(count, self.latent, dtype=self.like.dtype, device=made_on).to(device)


def _equal(now: list[Tensor], then: list[Tensor]) -> bool:
    """Value by value: version counters miss what is written through ``.data``, as runs load it."""
    return all(
        a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(now, then, strict=True)
    )


def log_mean_exp_with_error(values: Float[Tensor, " draws"]) -> tuple[float, float]:
    """``log mean exp`` of values at independent draws, and its delta-method standard error.

    Fewer than 100 effective draws say too little of their own spread: then the error is infinite.
    """
    weights = RunningWeights.of(values.detach().unsqueeze(-1))
    few = weights.effective_sample_size.item() < min(_LEAST_EFFECTIVE, len(values) / 2)
    return weights.log_mean.item(), math.inf if few else weights.standard_error.item()


def base_log_prob(z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
    """``log Normal(z; 0, I)``."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


class TiltedDistribution(TorchDistribution, ABC):  # type: ignore[misc, unused-ignore]
    """``Normal(z; 0, I) f(z)`` with a factor f made of U and one number that U's draws gave.

    Args:
        tilt: U.
        constant: What of the factor does not depend on z, in nats.
        count: Draws that the distribution is made of; the subclass says of which.
        latent: Number of latent dimensions.
        batch_shape: As Pyro has it.
        validate_args: As Pyro has it.
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
        """The same distribution for every element of a batch."""
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
        log_prob = base_log_prob(value) + self._log_factor(self._tilt(value))
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        result: Tensor = log_prob.expand(shape)
        return result
