"""Priors by a flow, or by a masked network for each latent given those before."""

import math
from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.distributions import Autoregressive
from ppl_vae.flows import Flow, FlowKind
from ppl_vae.names import require_sizes
from ppl_vae.priors._values import register

_MIN_SCALE = 1e-6
"""Least scale: log p stays finite where softplus underflows."""
_UNIT = math.log(math.expm1(1.0))
"""Point where softplus is 1."""


@final
class AutoregressivePrior(nn.Module):
    """``p(z) = prod_d p(z_d | z_<d)``, each a normal or a mixture of normals.

    Locations, scales and weights of all conditionals are the outputs of one masked network (MADE).
    Starts at, or with several components near, the standard normal. A density costs one pass
    through the network, a draw one for each latent. Draws are reparameterised with one component.
    With one component it is an affine autoregressive flow of a normal; components give it
    several modes.

    Args:
        latent: Number of latent dimensions.
        hidden: Units of each hidden layer, at least latent.
        components: Number of normals of each conditional.
        layers: Number of hidden layers.

    Raises:
        ValueError: If latent is less than 2, hidden less than latent, or another less than 1.

    References:
        Germain, Gregor, Murray and Larochelle, 2015, MADE: masked autoencoder for distribution
        estimation.
        Chen et al., 2017, Variational lossy autoencoder.
    """

    start: Tensor

    def __init__(self, latent: int, hidden: int = 64, components: int = 1, layers: int = 1) -> None:
        super().__init__()
        require_sizes(components=components)
        self.components = components
        self.network = _MaskedNetwork(latent, hidden, layers, _spread(components))
        register(self, learned=False, start=torch.zeros(latent))

    def forward(self) -> Autoregressive:
        """The prior, event shape (latent,)."""
        alone = self.components == 1
        read = _normal if alone else _mixture
        return Autoregressive(
            self.network, read, self.start, support=constraints.real, has_rsample=alone
        )


@final
class AutoregressiveBernoulliPrior(nn.Module):
    """``p(z) = prod_d Bernoulli(z_d; sigmoid(l_d(z_<d)))`` over {0, 1}; starts uniform.

    The logits of all conditionals are the outputs of one masked network (MADE). A density costs one
    pass through it, a draw one for each latent. For binary latents that depend on each other, with
    an exact density and exact draws, both of which a restricted Boltzmann machine lacks.

    Args:
        latent: Number of latents.
        hidden: Units of each hidden layer, at least latent.
        layers: Number of hidden layers.

    Raises:
        ValueError: If latent is less than 2, hidden less than latent, or layers less than 1.

    References:
        Larochelle and Murray, 2011, The neural autoregressive distribution estimator.
        Germain, Gregor, Murray and Larochelle, 2015, MADE: masked autoencoder for distribution
        estimation.
    """

    start: Tensor

    def __init__(self, latent: int, hidden: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.network = _MaskedNetwork(latent, hidden, layers, torch.zeros(1))
        register(self, learned=False, start=torch.zeros(latent))

    def forward(self) -> Autoregressive:
        """The prior, event shape (latent,)."""
        return Autoregressive(
            self.network, _bernoulli, self.start, support=constraints.boolean, has_rsample=False
        )


@final
class _MaskedNetwork(nn.Module):
    """``(..., latent)`` to ``(..., blocks, latent)``, the d-th outputs from inputs before d.

    Pyro's masked network with skip connections, so that linear dependence needs no hidden units.
    Its outputs start the same for every latent.
    """

    def __init__(
        self, latent: int, hidden: int, layers: int, start: Float[Tensor, " blocks"]
    ) -> None:
        super().__init__()
        if latent < 2:
            raise ValueError(
                f"an autoregressive prior has 2 latents or more, got {latent}: a single one has "
                "nothing to depend on; take LearnedNormalPrior or BernoulliPrior."
            )
        if hidden < latent or layers < 1:
            raise ValueError(
                f"hidden must be latent = {latent} or more and layers 1 or more, got hidden "
                f"{hidden} and layers {layers}: the masks share the units out among the latents."
            )
        self.blocks = len(start)
        self.masked = AutoRegressiveNN(
            latent,
            [hidden] * layers,
            param_dims=[self.blocks],
            # The order of the draws; Pyro's own is a random permutation.
            permutation=torch.arange(latent),
            skip_connections=True,
            nonlinearity=nn.Tanh(),
        )
        # The layers hold masks too, which follow a module to its device; these would stay behind.
        del self.masked.masks, self.masked.mask_skip
        with torch.no_grad():
            for layer in (self.masked.layers[-1], self.masked.skip_layer):
                for parameter in layer.parameters():
                    parameter.zero_()
            self.masked.layers[-1].bias.view(self.blocks, -1).copy_(start.unsqueeze(-1))

    def forward(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape blocks latent"]:
        output: Tensor = self.masked(z)
        # Pyro leaves the dimension of a single block out.
        return output.unsqueeze(-2) if self.blocks == 1 else output


def _normal(outputs: Float[Tensor, "*shape 2 number"]) -> dist.Distribution:
    loc, unconstrained = outputs.unbind(-2)
    return dist.Normal(loc, _scale(unconstrained), validate_args=False)


def _mixture(outputs: Float[Tensor, "*shape blocks number"]) -> dist.Distribution:
    logits, loc, unconstrained = outputs.mT.unflatten(-1, (3, -1)).unbind(-2)
    return dist.MixtureSameFamily(
        dist.Categorical(logits=logits, validate_args=False),
        dist.Normal(loc, _scale(unconstrained), validate_args=False),
        validate_args=False,
    )


def _bernoulli(outputs: Float[Tensor, "*shape 1 number"]) -> dist.Distribution:
    return dist.Bernoulli(logits=outputs.squeeze(-2), validate_args=False)


def _scale(unconstrained: Tensor) -> Tensor:
    return functional.softplus(unconstrained + _UNIT) + _MIN_SCALE


def _spread(components: int) -> Float[Tensor, " blocks"]:
    """Outputs of a mixture of mean 0 and variance 1, its locations at quantiles of the normal."""
    if components == 1:
        return torch.zeros(2)
    loc = torch.special.ndtri((torch.arange(components) + 0.5) / components)
    scale = torch.sqrt(1 - loc.square().mean())
    unconstrained = torch.log(torch.expm1(scale)) - _UNIT
    return torch.cat([torch.zeros(components), loc, unconstrained.expand(components)])


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
        hidden_sizes: Sizes of the hidden layers of each transform's network.
        bins: Bins of a spline, over 5 scales on both sides of loc.

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
