"""A mixture of Gaussians with learned components."""

import math
from typing import Literal, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_vae.distributions import Mixture
from ppl_vae.priors._clusters import find_clusters
from ppl_vae.priors._values import register, require_sizes

_MOST_SPREAD, _SEPARATION = 0.5, 2.0
"""Variance of the means at the start: at most, and times the number of dimensions."""

_MOST_POINTS = 10_000
"""Points that k-means looks at: more of them cost time and hardly move its clusters."""


@final
class GaussianMixturePrior(nn.Module):
    r"""``p(z) = sum_c pi_c Normal(z; m_c, C_c)``, all learned.

    Components that start alike stay alike, and components that start far apart each keep the data
    that happen to lie nearest. So the means start as draws of Normal(0, v I) with v = 2/latent, at
    most 1/2: about two standard deviations from each other in any number of dimensions. The
    covariances start at (1 - v) I, the mixture close to the standard normal. :meth:`initialize`
    puts components at clusters of latent points instead, such as draws of a guide for its training
    data: ``prior.initialize(encoder(x).sample())``. That is of use where the guide is trained
    already; clusters of an untrained guide are no start for a new model.

    A density costs ``components * latent`` operations, ``components * latent^2`` with full
    covariances. Draws are differentiable in m_c and C_c, but not in the weights: for an objective
    that differentiates draws of the prior (``mmd``, ``info-vae``) set ``learn_weights=False``.

    Args:
        latent: Number of latent dimensions.
        components: Number of normals.
        covariance: ``diagonal``, or ``full``, by Cholesky factors.
        learn_weights: Whether the weights pi are learned; else they are equal.

    Raises:
        ValueError: If latent or components are less than 1, or the covariance is of no known kind.

    References:
        Nalisnick, Hertel and Smyth, 2016, Approximate inference for deep latent Gaussian mixtures.
        Dilokthanakul et al., 2016, Deep unsupervised clustering with Gaussian mixture variational
        autoencoders.
    """

    logits: Tensor

    def __init__(
        self,
        latent: int,
        components: int = 50,
        covariance: Literal["diagonal", "full"] = "diagonal",
        learn_weights: bool = True,
    ) -> None:
        super().__init__()
        require_sizes(latent=latent, components=components)
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance must be 'diagonal' or 'full', got {covariance!r}.")
        spread = min(_MOST_SPREAD, _SEPARATION / latent)
        self.loc = nn.Parameter(math.sqrt(spread) * torch.randn(components, latent))
        log_scale = torch.full((components, latent), math.log(1 - spread) / 2)
        full = covariance == "full"
        self.root = nn.Parameter(log_scale.diag_embed() if full else log_scale)
        register(self, learn_weights, logits=torch.zeros(components))

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if self._diagonal:
            normal = dist.Normal(self.loc, self.root.exp(), validate_args=False).to_event(1)
        else:
            scale_tril = transform_to(constraints.lower_cholesky)(self.root)
            normal = dist.MultivariateNormal(self.loc, scale_tril=scale_tril, validate_args=False)
        return Mixture(normal, self.logits)

    @property
    def _diagonal(self) -> bool:
        return self.root.dim() == self.loc.dim()

    @torch.no_grad()
    def initialize(self, z: Float[Tensor, "points latent"]) -> None:
        """Start again from clusters of latent points: weights, means and covariances.

        The clusters are scikit-learn's, by k-means, of a random 10,000 points if there are more. Of
        a guide take draws, not means: the mixture should have the guide's own spread as well.

        Raises:
            ValueError: If there are fewer points than components, or one is not finite.
        """
        points = z[torch.randperm(len(z))[:_MOST_POINTS]]
        found = find_clusters(points, len(self.loc))
        self.loc.copy_(found.means)
        if self._diagonal:
            self.root.copy_(found.covariances.diagonal(dim1=-2, dim2=-1).log() / 2)
        else:
            scale_tril = torch.linalg.cholesky(found.covariances)
            self.root.copy_(transform_to(constraints.lower_cholesky).inv(scale_tril))
        if self.logits.requires_grad:
            self.logits.copy_(found.shares.log())
