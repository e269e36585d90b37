"""Amortised guides that are normalising flows."""

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.flows import Flow, FlowKind
from ppl_vae.guides._normal import positive

_CONTEXT = 32


@final
class FlowGuide(nn.Module):
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
        hidden_sizes: Of the hidden layers of each transform's network.
        bins: Of a spline, over 5 scales on both sides of loc.

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
        return self.flow(loc, positive(unconstrained), features if self._sizes[-1] else None)
