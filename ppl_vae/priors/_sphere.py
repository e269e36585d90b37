"""The uniform distribution on a sphere."""

from typing import final

import torch
from torch import Tensor, nn

from ppl_vae.distributions import VonMisesFisher
from ppl_vae.priors._values import register


@final
class UniformSpherePrior(nn.Module):
    """``p(z) = Gamma(m/2) / (2 pi^(m/2))`` on the unit sphere of R^m, m = latent.

    Where no region of the latent space should be preferred, and the guide must not be drawn to an
    origin. Pair it with :class:`~ppl_vae.guides.VonMisesFisherEncoder`; their KL is closed form.
    The sphere has no unconstrained coordinates: log p(x) by ImportanceSampling, not by annealing
    or quadrature.

    Args:
        latent: m, dimensions of the space around the sphere.

    Raises:
        ValueError: If latent is less than 2.

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak, 2018, Hyperspherical variational auto-encoders.
    """

    pole: Tensor
    zero: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        if latent < 2:
            raise ValueError(
                f"latent must be 2 or more, got {latent}: the sphere of a line is two points."
            )
        register(self, learned=False, pole=torch.eye(latent)[0], zero=torch.zeros(()))

    def forward(self) -> VonMisesFisher:
        """The prior, event shape (latent,): von Mises-Fisher of concentration 0."""
        return VonMisesFisher(self.pole, self.zero)
