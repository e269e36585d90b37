"""Guides of binary and categorical latents, on a sphere, and at a point."""

from typing import Literal, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.distributions import OneHotVector, VonMisesFisher
from ppl_vae.names import require_known, require_least


@final
class BernoulliEncoder(nn.Module):
    """``q(z|x) = prod_d Bernoulli(z_d; sigmoid(network(x)_d))`` over {0, 1}.

    Its draws have no pathwise gradient: train it by VIMCO, RWS, Reinforce or TVO.

    Args:
        network: Maps ``(batch, *event)`` to logits of shape (batch, latent).

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a logit for each latent."""
        return latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> dist.Distribution:
        """The guide's distribution, event shape (latent,)."""
        return dist.Bernoulli(logits=self.network(x)).to_event(1)


@final
class CategoricalEncoder(nn.Module):
    """``q(z|x) = prod_v Categorical(z_v; softmax(network(x)_v))``, each variable one-hot.

    The event is the one-hot vectors of all variables side by side, as
    :class:`~ppl_vae.priors.CategoricalPrior` has it. Its draws have no pathwise gradient: train it
    by VIMCO, RWS, Reinforce or TVO.

    Args:
        network: Maps ``(batch, *event)`` to logits of shape (batch, variables * classes): those of
            the first variable's classes, then those of the second's.
        classes: Values of each variable.

    Raises:
        ValueError: If classes is less than 2.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        require_least(2, classes=classes)
        self.network, self.classes = network, classes

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a logit for each class of each variable."""
        return latent

    def forward(self, x: Float[Tensor, "batch *event"]) -> OneHotVector:
        """The guide's distribution, event shape (latent,)."""
        return OneHotVector(self.network(x), self.classes)


_SHORTEST = 1e-10
"""Least norm of outputs that have a direction; those of a network that starts at 0 have none."""


@final
class VonMisesFisherEncoder(nn.Module):
    """``q(z|x) = vMF(z; mu(x), kappa(x))`` on the unit sphere of R^m, m = latent.

    mu is the direction of the network's first m outputs, kappa = m softplus(last output): on the
    scale of m the distribution goes from uniform to concentrated. Draws are reparameterised, and
    the KL to :class:`~ppl_vae.priors.UniformSpherePrior` is closed form.

    Args:
        network: Maps ``(batch, *event)`` to (batch, m + 1).

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak, 2018, Hyperspherical variational auto-encoders.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: a direction, and one number for the concentration."""
        return latent + 1

    def forward(self, x: Float[Tensor, "batch *event"]) -> VonMisesFisher:
        """The guide's distribution, event shape (latent,)."""
        output = self.network(x)
        direction, unconstrained = output[..., :-1], output[..., -1]
        concentration = direction.shape[-1] * functional.softplus(unconstrained)
        # Where there is no direction, the first axis, with a gradient that leads away.
        none = torch.linalg.vector_norm(direction, dim=-1, keepdim=True) < _SHORTEST
        shifted = torch.cat([direction[..., :1] + none, direction[..., 1:]], -1)
        return VonMisesFisher(functional.normalize(shifted, dim=-1), concentration)


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
        # Pyro gives a Delta the log-density 0 at its point.
        return dist.Delta(self.network(x), event_dim=1)


_CODES = {"none": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


@final
class SparseEncoder(nn.Module):
    """q(z|x) = Delta(z; top(a(network(x)))): a point with activations, of which the largest count.

    With ``relu`` codes are 0 or more, and can be 0; with ``sigmoid`` they are in (0, 1), for a
    penalty on their means; ``top`` sets all but the ``keep`` largest of each datum to 0. What else
    keeps codes sparse is the objective's: see :class:`ppl_vae.objectives.Reconstruction`. As every
    point it has no density, see :class:`DeltaEncoder`.

    Args:
        network: Maps (batch, features) to (batch, latent).
        activation: a: ``relu``, ``sigmoid`` or ``none``.
        keep: Number of codes that are kept; None: all.

    Raises:
        ValueError: If keep is less than 1, or the activation unknown.

    References:
        Makhzani and Frey, 2014, k-sparse autoencoders.
        Ng, 2011, Sparse autoencoder.
    """

    def __init__(
        self,
        network: nn.Module,
        activation: Literal["relu", "sigmoid", "none"] = "relu",
        keep: int | None = None,
    ) -> None:
        super().__init__()
        require_known("activation", activation, _CODES)
        if keep is not None:
            require_least(1, keep=keep)
        self.network, self.keep = network, keep
        self.activation = _CODES[activation]()

    @classmethod
    def num_outputs(cls, latent: int) -> int:
        """Outputs of the network: the point."""
        return latent

    def forward(self, x: Float[Tensor, "batch features"]) -> dist.Distribution:
        """The point as a distribution, event shape (latent,)."""
        codes = self.activation(self.network(x))
        if self.keep is not None and self.keep < codes.shape[-1]:
            # By index, so that ties leave no more than were asked for.
            kept = codes.topk(self.keep, -1).indices
            codes = torch.zeros_like(codes).scatter(-1, kept, codes.gather(-1, kept))
        return dist.Delta(codes, event_dim=1)
