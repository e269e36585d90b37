"""Normals with correlations, for many draws of each of a batch."""

import math
from collections.abc import Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal, register_kl

_LOG_2PI = math.log(2 * math.pi)


@final
class FullNormal(dist.MultivariateNormal):  # type: ignore[misc, unused-ignore]
    """``Normal(loc, L L')``: ``MultivariateNormal(loc, scale_tril=L)``, faster to draw from.

    torch copies L for every draw, where one product of matrices for each of the batch will do.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, shape ``(*sample_shape, *batch_shape, latent)``."""
        loc: Tensor = self.loc
        noise = loc.new_empty(self._extended_shape(sample_shape)).normal_()
        return loc + multiply(self._unbroadcasted_scale_tril, noise)


@final
class LowRankNormal(dist.LowRankMultivariateNormal):  # type: ignore[misc, unused-ignore]
    """``Normal(loc, W W' + diag(d))``: ``LowRankMultivariateNormal(loc, W, d)``, faster.

    A draw and its density cost latent times rank; torch copies W for every draw.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, shape ``(*sample_shape, *batch_shape, latent)``."""
        loc: Tensor = self.loc
        factor, scale = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag.sqrt()
        shape = self._extended_shape(sample_shape)
        common = loc.new_empty((*shape[:-1], factor.shape[-1])).normal_()
        own: Tensor = scale * loc.new_empty(shape).normal_()
        return loc + multiply(factor, common) + own

    def log_prob(self, value: Float[Tensor, "*shape latent"]) -> Float[Tensor, "..."]:
        """Log-density in nats, by Woodbury's identity and the determinant lemma."""
        if self._validate_args:
            self._validate_sample(value)
        factor, diagonal = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        inner: Tensor = self._capacitance_tril  # of I + W' diag(d)^-1 W
        centred = value - self.loc
        scaled = centred / diagonal
        explained = multiply(torch.linalg.solve_triangular(inner, factor.mT, upper=False), scaled)
        distance = (centred * scaled).sum(-1) - explained.square().sum(-1)
        log_det = diagonal.log().sum(-1) + 2 * inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        twice: Tensor = distance + log_det + value.shape[-1] * _LOG_2PI
        return -0.5 * twice


def multiply(
    matrix: Float[Tensor, "*batch rows columns"], vectors: Float[Tensor, "*shape columns"]
) -> Float[Tensor, "*more rows"]:
    """Multiply each vector by the matrix of its batch; vectors may have leading dimensions."""
    more = vectors.dim() - matrix.dim() + 1
    if more < 1:
        return (matrix @ vectors.unsqueeze(-1)).squeeze(-1)
    # Draws side by side, for one product with a matrix that is not copied for each.
    side_by_side = vectors.flatten(0, more - 1)
    product = torch.einsum("...ij,k...j->k...i", matrix, side_by_side)
    return product.reshape(*vectors.shape[:more], *product.shape[1:])


def _kl(q: FullNormal | LowRankNormal, p: Any) -> Tensor:
    """KL(q, p) for a p of independent normals, in nats."""
    if not isinstance(p.base_dist, Normal) or p.event_shape != q.event_shape:
        # As torch says of any pair without a closed form.
        raise NotImplementedError
    scale, centred = p.base_dist.scale, q.loc - p.base_dist.loc
    distance = (centred.square() + q.variance) / scale.square()
    kl: Tensor = (0.5 * (distance + _LOG_2PI) + scale.log()).sum(-1) - q.entropy()
    return kl


register_kl(FullNormal, Independent)(_kl)
register_kl(LowRankNormal, Independent)(_kl)
