"""The restricted Boltzmann machine over binary vectors."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn import functional


class Couplings(NamedTuple):
    """``E(z, h) = -b'z - c'h - z'W h`` over binary z and h.

    Attributes:
        visible: b, shape (latent,).
        hidden: c, shape (hidden,).
        weight: W, shape (latent, hidden).
    """

    visible: Float[Tensor, " latent"]
    hidden: Float[Tensor, " hidden"]
    weight: Float[Tensor, "latent hidden"]

    def log_unnormalised(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """Minus the free energy: ``b'z + sum_j log(1 + exp(c_j + z'W_j))``."""
        softplus = functional.softplus(self.hidden_logits(z)).sum(-1)
        return (z * self.visible).sum(-1) + softplus

    def hidden_logits(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape hidden"]:
        """Of h given z: ``c + W'z``."""
        return functional.linear(z, self.weight.mT, self.hidden)

    def visible_logits(self, h: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape latent"]:
        """Of z given h: ``b + W h``."""
        return functional.linear(h, self.weight, self.visible)

    def sweep(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """One sweep of block Gibbs sampling: all of h given z, then all of z given h."""
        h = torch.bernoulli(torch.sigmoid(self.hidden_logits(z)))
        return torch.bernoulli(torch.sigmoid(self.visible_logits(h)))

    def swapped(self) -> "Couplings":
        """With z and h in each other's places."""
        return Couplings(self.hidden, self.visible, self.weight.mT)

    def held(self) -> "Couplings":
        """A copy without a gradient."""
        return Couplings(*(tensor.detach().clone() for tensor in self))

    def same(self, other: "Couplings") -> bool:
        """Whether all values are equal, on one device and of one type."""
        return all(
            (a.device, a.dtype) == (b.device, b.dtype) and torch.equal(a, b)
            for a, b in zip(self, other, strict=True)
        )


@final
class RestrictedBoltzmann(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``p(z) = sum_h exp(b'z + c'h + z'W h) / Z`` over binary z.

    Args:
        couplings: b, c and W; not checked.
        log_partition: Gives log Z, called when a density is first asked for, and then no more.
        draw: Gives so many draws, shape ``(number, latent)``.
        batch_shape: Of independent copies.
        validate_args: Whether values are checked.

    References:
        Smolensky, 1986, Information processing in dynamical systems: foundations of harmony theory.
        Hinton, 2002, Training products of experts by minimizing contrastive divergence.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        couplings: Couplings,
        log_partition: Callable[[], Tensor],
        draw: Callable[[int], Tensor],
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.couplings, self.log_partition, self.draw = couplings, log_partition, draw
        event_shape = couplings.visible.shape
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "RestrictedBoltzmann":
        """So many independent copies."""
        return RestrictedBoltzmann(
            self.couplings, self.log_partition, self.draw, batch_shape, self._validate_args
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws in {0, 1}, shape ``(*sample_shape, *batch_shape, latent)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.draw(shape[:-1].numel()).reshape(shape)

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*shape"]:
        """Log-probability in nats, as good as log Z is.

        Raises:
            ValueError: If validation is on (the default) and a value is neither 0 nor 1.
        """
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                "a restricted Boltzmann machine has latents in {0, 1}, got others: pair it with "
                "BernoulliEncoder or another guide of binary latents."
            )
        log_prob = self.couplings.log_unnormalised(value) - self.log_partition()
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))
