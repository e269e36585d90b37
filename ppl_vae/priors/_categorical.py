"""Independent categorical latents, one-hot."""

from typing import final

import torch
from torch import Tensor, nn

from ppl_vae.distributions import OneHotVector
from ppl_vae.priors._values import register


@final
class CategoricalPrior(nn.Module):
    """``p(z) = prod_v Categorical(z_v; softmax(l_v))``, each variable one-hot; starts uniform.

    The event is what a decoder's network takes: the one-hot vectors of all variables side by side,
    latent = variables * classes numbers. With one variable, a mixture model with one decoder for
    all components. The draws have no pathwise gradient: train by VIMCO, RWS, Reinforce or TVO; up
    to a million configurations, Enumeration gives log p(x) exactly.

    Args:
        latent: Length of the event, a multiple of classes.
        classes: Values of each variable.
        learned: Whether the logits l are parameters; else they stay 0.

    Raises:
        ValueError: If classes is less than 2 or latent no multiple of it.
    """

    logits: Tensor

    def __init__(self, latent: int, classes: int, learned: bool = True) -> None:
        super().__init__()
        if classes < 2 or latent < 1 or latent % classes:
            raise ValueError(
                "latent must be a multiple of classes, which must be 2 or more, got latent "
                f"{latent} and classes {classes}: V variables of C classes are V * C latents."
            )
        self.classes = classes
        register(self, learned, logits=torch.zeros(latent))

    def forward(self) -> OneHotVector:
        """The prior, event shape (latent,)."""
        return OneHotVector(self.logits, self.classes)
