"""Independent categorical variables, each one-hot, side by side in one vector."""

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import OneHotCategorical, constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence, register_kl


@final
class OneHotBlocks(constraints.Constraint):  # type: ignore[misc, unused-ignore]
    """Vectors that are one-hot within each block of so many classes.

    Args:
        classes: Length of a block.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector is, of the shape of the batch."""
        blocks = value.unflatten(-1, (-1, self.classes))
        fine: Tensor = constraints.one_hot.check(blocks).all(-1)
        return fine

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
        """The same distribution with its batch shape broadcast."""
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
