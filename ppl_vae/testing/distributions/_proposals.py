"""Proposals fitted to draws of a target distribution, wider, with exact densities."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

_COMPONENTS = (1, 12)
_PER_COMPONENT = 20
"""Draws for each parameter of a component, at the least."""
_DEGREES, _WIDE_DEGREES = 5.0, 2.0
_WIDENED, _WIDE = 1.1, 2.0
"""Factors on the scales of the fitted components, and of the one that covers everything."""
_WIDE_SHARE = 0.15
_FITTED = 4000
"""Draws that a continuous proposal is fitted to."""


@final
@dataclass(frozen=True)
class StudentMixture:
    """``sum_k w_k t(u; df_k, m_k, S_k)`` over the whole space."""

    target: Any
    unseen: ClassVar[float] = 0.0

    @classmethod
    def fit(cls, draws: Float[Tensor, "draws dim"]) -> "StudentMixture":
        """Normal components by maximum likelihood, widened, and one that is wider than all."""
        draws = draws[:_FITTED]
        fitted = min(_candidates(draws), key=lambda mixture: mixture.bic(draws.numpy()))
        loc = torch.cat([torch.from_numpy(fitted.means_), draws.mean(0, keepdim=True)])
        overall = torch.cov(draws.T).reshape(1, *[draws.shape[-1]] * 2)
        # Too narrow a proposal has weights without variance; too wide a one only costs draws.
        covariance = torch.cat(
            [torch.from_numpy(fitted.covariances_) * _WIDENED**2, overall * _WIDE**2]
        )
        shares = torch.from_numpy(fitted.weights_) * (1 - _WIDE_SHARE)
        df = torch.full((len(loc),), _DEGREES, dtype=draws.dtype)
        # Heavier tails than all others: it bounds the weights where no component is near.
        df[-1] = _WIDE_DEGREES
        components = dist.MultivariateStudentT(df, loc, torch.linalg.cholesky(covariance))
        shares = torch.cat([shares, shares.new_tensor([_WIDE_SHARE])])
        return cls(dist.MixtureSameFamily(dist.Categorical(shares), components))

    def draw(self, count: int) -> Float[Tensor, "count dim"]:
        """Draw vectors."""
        draws: Tensor = self.target.sample((count,))
        return draws

    def log_prob(self, value: Float[Tensor, "points dim"]) -> Float[Tensor, " points"]:
        """Log-density in nats."""
        log_prob: Tensor = self.target.log_prob(value)
        return log_prob


def _candidates(draws: Tensor) -> list[GaussianMixture]:
    dim = draws.shape[-1]
    # dim + dim (dim + 1) / 2 + 1: mean, covariance and weight of a component.
    most = max(1, len(draws) // (_PER_COMPONENT * (dim * (dim + 3) // 2 + 1)))
    found = []
    with warnings.catch_warnings():
        # A rough fit is enough: the identity holds for any proposal.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for count in sorted({min(count, most) for count in _COMPONENTS}):
            mixture = GaussianMixture(count, max_iter=30, tol=1e-2, random_state=0)
            found.append(mixture.fit(draws.numpy()))
    return found


@final
@dataclass(frozen=True)
class OnSphere:
    """Proposal of unit vectors, with respect to area: a uniform share and angular Gaussians.

    An angular Gaussian is ``z / |z|``, z normal. It has the same density at opposite points.

    References:
        Tyler, 1987, Statistical analysis for the angular central Gaussian distribution on the
        sphere.
    """

    scale: Float[Tensor, "dim dim"]
    unseen: ClassVar[float] = 0.0

    @classmethod
    def fit(cls, draws: Float[Tensor, "draws dim"]) -> "OnSphere":
        """Fit second moments, whose smallest directions are widened."""
        draws = draws[:_FITTED]
        moment = draws.T @ draws / len(draws)
        # Draws may lie in a plane: without it the Cholesky factor would not exist.
        least = float(moment.trace()) * 1e-4
        return cls(torch.linalg.cholesky(moment + least * torch.eye(len(moment)).to(moment)))

    def draw(self, count: int) -> Float[Tensor, "count dim"]:
        """Draw unit vectors."""
        noise = torch.randn(count, len(self.scale)).to(self.scale)
        uniform = torch.rand(count, 1).to(self.scale) < _WIDE_SHARE
        z = torch.where(uniform, noise, noise @ self.scale.T)
        direction: Tensor = z / z.norm(dim=-1, keepdim=True)
        return direction

    def log_prob(self, value: Float[Tensor, "points dim"]) -> Float[Tensor, " points"]:
        """Log-density in nats, per unit of area."""
        dim = len(self.scale)
        log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        whitened = torch.linalg.solve_triangular(self.scale, value.T, upper=False).norm(dim=0)
        angular = -self.scale.diagonal().log().sum() - dim * whitened.log()
        flat = torch.full_like(angular, math.log(_WIDE_SHARE))
        return torch.logaddexp(angular + math.log1p(-_WIDE_SHARE), flat) - log_area


@final
@dataclass(frozen=True)
class OnValues:
    """Proposal of discrete vectors: each coordinate, independently, takes a value seen in draws.

    Its probability is the relative frequency, mixed with a uniform share.

    Attributes:
        values: Values of each coordinate.
        log_probs: Log-probabilities of those values.
        unseen: Estimated probability that a coordinate has a value not among them (Good, 1953),
            from the number of values that were drawn once.

    References:
        Good, 1953, The population frequencies of species and the estimation of population
        parameters.
    """

    values: tuple[Float[Tensor, " values"], ...]
    log_probs: tuple[Float[Tensor, " values"], ...]
    unseen: float

    @classmethod
    def fit(cls, draws: Float[Tensor, "draws dim"]) -> "OnValues":
        """Fit relative frequencies."""
        found = [column.unique(return_counts=True) for column in draws.unbind(-1)]
        shares = [counts / len(draws) for _, counts in found]
        log_probs = [
            ((1 - _WIDE_SHARE) * share + _WIDE_SHARE / len(share)).log().to(draws)
            for share in shares
        ]
        once = sum(int((counts == 1).sum()) for _, counts in found)
        return cls(tuple(v for v, _ in found), tuple(log_probs), once / len(draws))

    def draw(self, count: int) -> Float[Tensor, "count dim"]:
        """Draw vectors of seen values."""
        columns = [
            values[log_prob.exp().multinomial(count, replacement=True)]
            for values, log_prob in zip(self.values, self.log_probs, strict=True)
        ]
        return torch.stack(columns, -1)

    def log_prob(self, value: Float[Tensor, "points dim"]) -> Float[Tensor, " points"]:
        """Log-probability in nats; minus infinity where a value is not among those."""
        total = value.new_zeros(len(value))
        for column, values, log_prob in zip(
            value.unbind(-1), self.values, self.log_probs, strict=True
        ):
            # clamp: searchsorted gives len(values) beyond the last; the comparison then gives -inf.
            at = torch.searchsorted(values, column.contiguous()).clamp(max=len(values) - 1)
            total = total + log_prob[at].where(values[at] == column, -torch.inf)
        return total
