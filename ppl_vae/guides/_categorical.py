"""Amortised guides of independent categorical latents."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import OneHotVector


@final
class CategoricalEncoder(nn.Module):
    """``q(z|x) = prod_v Categorical(z_v; softmax(network(x)_v))``, each variable one-hot.

    The event is the one-hot vectors of all variables side by side, as
    :class:`~ppl_vae.priors.CategoricalPrior` has it. Its draws have no pathwise gradient: train it
    by VIMCO, RWS, Reinforce or TVO.

    Args:
        network: Maps ``(batch, *event)`` to logits of shape (batch, variables * classes): those of
            the first variable's classes, then those of the second's.
        classes: Values of each variable.

    Raises:
        ValueError: If classes is less than 2.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}.")
        self.network, self.classes = network, classes

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a logit for each class of each variable."""
        return latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> OneHotVector:
        """The guide's distribution, event shape (latent,)."""
        return OneHotVector(self.network(x), self.classes)
