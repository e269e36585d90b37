"""Guides that are normal, or a flow of a normal."""

import math
from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.distributions import FullNormal, LowRankNormal, Normal
from ppl_vae.flows import Flow, FlowKind

_MIN_SCALE = 1e-6
"""Least scale: log q stays finite where softplus underflows."""


@final
class DiagonalNormalEncoder(nn.Module):
    """q(z|x) = Normal(loc(x), diag(scale(x)^2)), the scale by softplus.

    Args:
        network: Maps ``(batch, *event)`` to (batch, 2 * latent): loc, then the unconstrained scale.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a location and a scale for each latent dimension."""
        return 2 * latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> dist.Distribution:
        """The guide's distribution, event shape (latent,)."""
        output = self.network(x)
        if output.shape[-1] % 2:
            raise ValueError(
                f"a diagonal normal guide needs 2 outputs of its network for each latent "
                f"dimension, got {output.shape[-1]}."
            )
        loc, unconstrained = output.chunk(2, dim=-1)
        return Normal(loc, _positive(unconstrained), validate_args=False).to_event(1)


def _positive(unconstrained: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return functional.softplus(unconstrained) + _MIN_SCALE


@final
class FullCovarianceEncoder(nn.Module):
    """q(z|x) = Normal(loc(x), L(x) L(x)'), L = diag(scale) (I + C / sqrt(latent)).

    C is strictly lower triangular. Divided by sqrt(latent) it starts as a small change in any
    number of dimensions; undivided, training was slower and ended lower. With C = 0 it is the
    :class:`~ppl_vae.guides.DiagonalNormalEncoder`, and it is exact where the posterior is normal,
    as in linear-Gaussian models. Costs latent^2 / 2 outputs of the network and latent^2 operations
    a draw: for some tens of latent dimensions.

    Args:
        network: Maps (batch, features) to (batch, latent (latent + 3) / 2): loc, the unconstrained
            scale, then the rows of C below its diagonal.

    References:
        Opper and Archambeau, 2009, The variational Gaussian approximation revisited.
        Kingma and Welling, 2019, An introduction to variational autoencoders.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a location, a scale, and C."""
        return latent * (latent + 3) // 2

    def forward(self, x: Float[Tensor, "batch features"]) -> FullNormal:
        """The guide's distribution, event shape (latent,).

        Raises:
            ValueError: If the network has another number of outputs than some latent size needs.
        """
        output = self.network(x)
        outputs = output.shape[-1]
        # L (L + 3) / 2 outputs, solved for L.
        latent = (math.isqrt(9 + 8 * outputs) - 3) // 2
        if latent < 1 or self.num_outputs(latent) != outputs:
            raise ValueError(
                f"a full covariance of L latent dimensions needs L (L + 3) / 2 outputs of the "
                f"network, got {outputs}: size it by FullCovarianceEncoder.num_outputs(latent)."
            )
        loc, unconstrained, below = output.split(
            [latent, latent, output.shape[-1] - 2 * latent], -1
        )
        # The triangle below the diagonal, in the order of the outputs: by rows.
        rows, columns = torch.tril_indices(latent, latent, -1, device=output.device)
        correlation = torch.eye(latent, dtype=output.dtype, device=output.device)
        # Repeated, not expanded: its entries below the diagonal are written.
        correlation = correlation.repeat(*output.shape[:-1], 1, 1)
        correlation[..., rows, columns] = below / math.sqrt(latent)
        scale_tril = _positive(unconstrained).unsqueeze(-1) * correlation
        return FullNormal(loc, scale_tril=scale_tril, validate_args=False)


@final
class LowRankEncoder(nn.Module):
    """q(z|x) = Normal(loc(x), S (I + F F') S), S = diag(scale(x)), F(x) of shape (latent, rank).

    Between the :class:`~ppl_vae.guides.DiagonalNormalEncoder` and the
    :class:`~ppl_vae.guides.FullCovarianceEncoder`, at a cost that grows with latent times rank. F
    widens as many directions as its rank: right for a posterior that is long in a few directions,
    while one that is narrow in a few needs a rank near the latent size, or the full covariance.

    Args:
        network: Maps (batch, features) to (batch, (2 + rank) * latent): loc, the unconstrained
            scale, then the columns of F.
        rank: Number of columns of F.

    Raises:
        ValueError: If rank is less than 1.

    References:
        Rezende, Mohamed and Wierstra, 2014, Stochastic backpropagation.
        Ong, Nott and Smith, 2018, Gaussian variational approximation with a factor covariance
        structure.
    """

    def __init__(self, network: nn.Module, rank: int = 4) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be 1 or more, got {rank}: for 0 take the diagonal guide.")
        self.network, self.rank = network, rank

    @classmethod
    def num_outputs(cls, latent: int, rank: int = 4) -> int:
        """Outputs of the network: a location, a scale, and F."""
        return (2 + rank) * latent

    def forward(self, x: Float[Tensor, "batch features"]) -> LowRankNormal:
        """The guide's distribution, event shape (latent,).

        Raises:
            ValueError: If the network's outputs are no multiple of 2 + rank.
        """
        output = self.network(x)
        if output.shape[-1] % (2 + self.rank):
            raise ValueError(
                f"rank {self.rank} needs {2 + self.rank} outputs of the network for each latent "
                f"dimension, got {output.shape[-1]}: size it by LowRankEncoder.num_outputs(latent, "
                f"{self.rank})."
            )
        loc, unconstrained, *columns = output.unflatten(-1, (2 + self.rank, -1)).unbind(-2)
        scale = _positive(unconstrained)
        # S F, so that F is relative to the scale: (S F)(S F)' + S^2 = S (F F' + I) S.
        factor = scale.unsqueeze(-1) * torch.stack(columns, -1)
        return LowRankNormal(loc, factor, scale.square(), validate_args=False)


_CONTEXT = 32
"""Number of features h that a flow is conditioned on, unless given."""


@final
class FlowEncoder(nn.Module):
    """q(z|x): ``z = loc(x) + scale(x) * T(noise; h(x))``, noise ~ Normal(0, I), T a flow.

    Starts where T is the identity, at the :class:`~ppl_vae.guides.DiagonalNormalEncoder` of the
    same network. With ``iaf`` a draw and its density take one pass through each layer, but the
    density at a copy of a draw one for each latent: objectives that split the gradient (STL, DReG)
    and annealing are cheaper with ``spline`` or ``realnvp``. :class:`~ppl_vae.flows.Flow` lists the
    costs.

    Args:
        network: Maps ``(batch, *event)`` to (batch, 2 * latent + context): loc, then the
            unconstrained scale, then the features h that T is conditioned on.
        latent: Number of latent dimensions.
        kind: ``iaf``, ``spline``, ``realnvp`` or ``maf``.
        context: Number of features h; with 0, T is the same for all x.
        layers: Transforms that T is composed of.
        hidden_sizes: Sizes of the hidden layers of each transform's network.
        bins: Bins of a spline, over 5 scales on both sides of loc.

    Raises:
        ImportError: If zuko is not installed.
        ValueError: If the kind is unknown or a size is out of range.

    References:
        Rezende and Mohamed, 2015, Variational inference with normalizing flows.
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
        Durkan et al., 2019, Neural spline flows.
    """

    def __init__(
        self,
        network: nn.Module,
        latent: int,
        kind: FlowKind = "iaf",
        context: int = _CONTEXT,
        *,
        layers: int = 4,
        hidden_sizes: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.network = network
        self.flow = Flow(
            latent, kind, context=context, layers=layers, hidden_sizes=hidden_sizes, bins=bins
        )
        self._sizes = (latent, latent, context)

    @classmethod
    def num_outputs(cls, latent: int, context: int = _CONTEXT) -> int:
        """Outputs of the network: a location and a scale for each latent dimension, and h."""
        return 2 * latent + context

    def forward(self, x: Float[Tensor, "batch *event"]) -> dist.Distribution:
        """The guide's distribution, event shape (latent,).

        Raises:
            ValueError: If the network gives vectors of another size.
        """
        output = self.network(x)
        if output.shape[-1] != sum(self._sizes):
            raise ValueError(
                f"the network gives {output.shape[-1]} numbers for each datum, expected "
                f"2 * latent + context = {sum(self._sizes)}: size it by num_outputs."
            )
        loc, unconstrained, features = output.split(self._sizes, -1)
        return self.flow(loc, _positive(unconstrained), features if self._sizes[-1] else None)
