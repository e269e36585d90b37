"""Priors that are normalising flows."""

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from torch import nn

from ppl_vae.flows import Flow, FlowKind


@final
class FlowPrior(nn.Module):
    """p(z): ``z = loc + scale * T(noise)``, noise ~ Normal(0, I), all learned; T a flow.

    Starts at the standard normal. Training and evidence take its density at given z, in one pass
    through each layer (``iaf``: one for each latent); draws take as many as
    :class:`~ppl_vae.flows.Flow` lists.

    Args:
        latent: Number of latent dimensions.
        kind: ``realnvp``, ``maf``, ``spline`` or ``iaf``.
        layers: Transforms that T is composed of.
        hidden_sizes: Of the hidden layers of each transform's network.
        bins: Of a spline, over 5 scales on both sides of loc.

    Raises:
        ImportError: If zuko is not installed.
        ValueError: If the kind is unknown or a size is out of range.

    References:
        Chen et al., 2017, Variational lossy autoencoder.
        Dinh, Sohl-Dickstein and Bengio, 2017, Density estimation using Real NVP.
        Papamakarios, Pavlakou and Murray, 2017, Masked autoregressive flow for density estimation.
        Durkan et al., 2019, Neural spline flows.
    """

    def __init__(
        self,
        latent: int,
        kind: FlowKind = "realnvp",
        *,
        layers: int = 4,
        hidden_sizes: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.flow = Flow(latent, kind, layers=layers, hidden_sizes=hidden_sizes, bins=bins)
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return self.flow(self.loc, self.log_scale.exp())
