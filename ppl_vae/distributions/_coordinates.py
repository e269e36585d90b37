"""Vectors whose coordinates are drawn one after another, or are one-hot in blocks."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import OneHotCategorical, constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence, register_kl


@final
class Autoregressive(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``prod_d p(z_d | z_1, ..., z_(d-1))``, all conditionals from one masked network.

    The density costs one pass through the network, a draw one for each latent.

    Args:
        network: Maps z of shape ``(..., latent)`` to outputs of shape ``(..., blocks, latent)``,
            the d-th of which depend on the coordinates before d alone.
        read: Outputs of shape ``(..., blocks, number)`` to the conditionals of so many coordinates,
            a distribution of batch shape ``(..., number)``.
        start: Zeros of shape (latent,), of the type and on the device of the draws.
        support: Support of a coordinate.
        has_rsample: Whether the conditionals' draws are reparameterised.
        batch_shape: Shape of independent copies.
        validate_args: Whether values are checked.

    References:
        Larochelle and Murray, 2011, The neural autoregressive distribution estimator.
        Germain, Gregor, Murray and Larochelle, 2015, MADE: masked autoencoder for distribution
        estimation.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        read: Callable[[Tensor], Any],
        start: Float[Tensor, " latent"],
        *,
        support: Any,
        has_rsample: bool,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.read, self.start = network, read, start
        self.has_rsample = has_rsample
        self._coordinate = support
        super().__init__(torch.Size(batch_shape), start.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Support of a coordinate, for each."""
        return constraints.independent(self._coordinate, 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Autoregressive":
        """Broadcast the distribution to a batch shape."""
        return Autoregressive(
            self.network,
            self.read,
            self.start,
            support=self._coordinate,
            has_rsample=self.has_rsample,
            batch_shape=batch_shape,
            validate_args=self._validate_args,
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, shape ``(*sample_shape, *batch_shape, latent)``, without a gradient."""
        with torch.no_grad():
            return self._draw(sample_shape, lambda conditional: conditional.sample())

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws as functions of the network's parameters.

        Raises:
            NotImplementedError: If the conditionals' draws are not reparameterised.
        """
        return self._draw(sample_shape, lambda conditional: conditional.rsample())

    def _draw(self, sample_shape: Sequence[int], draw: Callable[[Any], Tensor]) -> Tensor:
        # Coordinates not drawn yet stay 0: the network's outputs for d do not see them.
        z = self.start.expand(self._extended_shape(torch.Size(sample_shape)))
        for d in range(len(self.start)):
            drawn = draw(self.read(self.network(z)[..., d : d + 1]))
            # Joined, not assigned: autograd needs the z that the network has seen.
            z = torch.cat([z[..., :d], drawn, z[..., d + 1 :]], -1)
        return z

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*shape"]:
        """Log-density in nats.

        Raises:
            ValueError: If validation is on (the default) and a value is outside the support.
        """
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                f"an autoregressive distribution has values in {self._coordinate}, got others: "
                "pair it with a guide or prior of the same support."
            )
        # All conditionals at once: the masks keep each from the coordinates after it.
        log_prob: Tensor = self.read(self.network(value)).log_prob(value).sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


@final
class OneHotBlocks(constraints.Constraint):  # type: ignore[misc, unused-ignore]
    """Vectors that are one-hot within each block of ``classes`` numbers."""

    is_discrete = True
    event_dim = 1

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector is one-hot in all blocks, of the shape of the batch."""
        blocks = value.unflatten(-1, (-1, self.classes))
        is_one_hot: Tensor = constraints.one_hot.check(blocks).all(-1)
        return is_one_hot

    # Supports of a prior and a guide are compared, and torch does so by identity.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneHotBlocks) and other.classes == self.classes

    def __hash__(self) -> int:
        return hash((type(self), self.classes))

    def __repr__(self) -> str:
        return f"OneHotBlocks({self.classes})"


@final
class OneHotVector(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``prod_v softmax(logits_v)[z_v]``, z the one-hot vectors of all variables in one event.

    The event has shape (variables * classes,), as networks take it; a block of classes is one
    variable. Draws are not reparameterised.

    Args:
        logits: Shape ``(*batch, variables * classes)``, each block up to a constant; not checked.
        classes: Values of a variable.
        validate_args: Whether values are checked.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        logits: Float[Tensor, "*shape latent"],
        classes: int,
        validate_args: bool | None = None,
    ) -> None:
        self.classes = classes
        blocks = logits.unflatten(-1, (-1, classes))
        self.blocks = OneHotCategorical(logits=blocks, validate_args=False)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> OneHotBlocks:
        """One-hot within each block."""
        return OneHotBlocks(self.classes)

    @property
    def logits(self) -> Float[Tensor, "*shape latent"]:
        """Log-probabilities of the classes of all variables."""
        logits: Tensor = self.blocks.logits.flatten(-2)
        return logits

    @property
    def mean(self) -> Float[Tensor, "*shape latent"]:
        """Probabilities of the classes of all variables."""
        probs: Tensor = self.blocks.probs.flatten(-2)
        return probs

    @property
    def variance(self) -> Float[Tensor, "*shape latent"]:
        """``mean (1 - mean)``."""
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "OneHotVector":
        """Broadcast the distribution to a batch shape."""
        expanded = self.logits.expand(*batch_shape, *self.event_shape)
        return OneHotVector(expanded, self.classes, validate_args=self._validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws in {0, 1}, shape ``(*sample_shape, *batch_shape, variables * classes)``."""
        drawn: Tensor = self.blocks.sample(torch.Size(sample_shape)).flatten(-2)
        return drawn

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*shape"]:
        """Log-probability in nats.

        Raises:
            ValueError: If validation is on (the default) and a block is not one-hot.
        """
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                f"latents of {self.classes} classes are one-hot in each block of {self.classes} "
                "values, got some that are not: pair CategoricalPrior and CategoricalEncoder of "
                "the same number of classes."
            )
        log_prob: Tensor = self.blocks.log_prob(value.unflatten(-1, (-1, self.classes))).sum(-1)
        return log_prob


def _kl(p: OneHotVector, q: OneHotVector) -> Tensor:
    """The sum of the variables' divergences."""
    total: Tensor = kl_divergence(p.blocks, q.blocks).sum(-1)
    return total


register_kl(OneHotVector, OneHotVector)(_kl)
