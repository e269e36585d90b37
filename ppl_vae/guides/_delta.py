"""An encoder without noise."""

from typing import final

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn


@final
class DeltaEncoder(nn.Module):
    """q(z|x) = Delta(z; network(x)): all mass at one point, for autoencoders.

    log q is 0 at the point, by convention: a point has no density. What an objective reports is
    then the joint log-density ``log p(x, z)`` at z = network(x). It is no bound of log p(x),
    neither below it nor above, and has other units, so that it compares with itself alone. Training
    by it looks for the most likely z of each x; take ELBO(1), as more particles are the same point.
    Estimators of log p(x) that draw from the guide refuse it; with
    ``refine=LaplaceApproximation()`` they start at its point, and annealing from the prior does
    without it.

    Args:
        network: Maps (batch, features) to (batch, latent).

    References:
        Hinton and Salakhutdinov, 2006, Reducing the dimensionality of data with neural networks.
        Ghosh, Sajjadi, Vergari, Black and Schoelkopf, 2020, From variational to deterministic
        autoencoders.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: the point."""
        return latent

    def forward(self, x: Float[Tensor, "batch features"]) -> dist.Distribution:
        """The point as a distribution, event shape (latent,)."""
        return dist.Delta(self.network(x), event_dim=1)
