"""A variational autoencoder with several layers of latents."""

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from ppl_vae.distributions import Normal
from ppl_vae.vae._vae import announce, as_event, prior_of

_Sample = Callable[[int, Any], Tensor]
"""``(layer, distribution) -> draw``; layer 1 is next to the data."""


@final
class BottomUp(nn.Module):
    """q(z_1|x) q(z_2|z_1) ... q(z_L|z_(L-1)).

    Args:
        encoders: One a layer, from the data upwards: ``h -> Distribution`` with event shape
            (latent of that layer,), where h is x for the first, the layer below for the others.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
    """

    def __init__(self, encoders: Sequence[Callable[[Tensor], Any]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "batch *event"], sample: _Sample) -> None:
        """Draw all layers from below, each by ``sample``."""
        below = x
        for layer, encoder in enumerate(self.encoders, start=1):
            below = sample(layer, encoder(below))

    def top(self, x: Float[Tensor, "batch *event"]) -> Any:
        """q(z_L|z_(L-1)) along the means of the layers below: the encoder of a VampPrior on top."""
        *lower, last = self.encoders
        for encoder in lower:
            x = encoder(x).mean
        return last(x)


@final
class Ladder(nn.Module):
    """q(z_L|x) q(z_(L-1)|z_L, x) ... q(z_1|z_2, x), sharing the model's own conditionals.

    Features go up from the data, ``d_1 = f_1(x), d_l = f_l(d_(l-1))``, each read as a normal
    Normal(m_l, s_l^2). At the top that is q. Below, it is multiplied with the model's
    p(z_l|z_(l+1)) = Normal(m_p, s_p^2): precisions add,

        ``1/s^2 = 1/s_l^2 + 1/s_p^2,  m = s^2 (m_l/s_l^2 + m_p/s_p^2)``.

    Where the data say nothing, s_l grows and q is the model's conditional; no layer needs to learn
    the model's part again. The model's parameters are in the guide too, so that objectives that
    tell theta from phi count them to both.

    Args:
        bodies: One a layer, from the data upwards: ``h -> h'``.
        encoders: One a layer: ``h' -> Normal(...).to_event(1)``.
        conditionals: The model's p(z_l|z_(l+1)), from the top down, all diagonal normals.

    Raises:
        ValueError: If the numbers of modules do not fit.

    References:
        Sonderby, Raiko, Maaloe, Sonderby and Winther, 2016, Ladder variational autoencoders.
    """

    def __init__(
        self,
        bodies: Sequence[nn.Module],
        encoders: Sequence[Callable[[Tensor], Any]],
        conditionals: Sequence[Callable[[Tensor], Any]],
    ) -> None:
        super().__init__()
        if not len(bodies) == len(encoders) == len(conditionals) + 1:
            raise ValueError(
                "a ladder of L layers has L bodies, L encoders and L - 1 conditionals, got "
                f"{len(bodies)}, {len(encoders)} and {len(conditionals)}."
            )
        self.bodies = nn.ModuleList(bodies)
        self.encoders = nn.ModuleList(encoders)  # type: ignore[arg-type]
        # Not registered here: they are the model's own, and stand there under their name.
        self._conditionals = tuple(conditionals)

    def forward(self, x: Float[Tensor, "batch *event"], sample: _Sample) -> None:
        """Draw all layers from the top, each by ``sample``."""
        upwards = self._upwards(x)
        # The top has no conditional above it: there q is the normal of the data alone.
        layer = len(upwards)
        z = sample(layer, upwards.pop())
        for conditional in self._conditionals:
            layer -= 1
            z = sample(layer, _product(upwards.pop(), conditional(z)))

    def top(self, x: Float[Tensor, "batch *event"]) -> Any:
        """q(z_L|x)."""
        return self._upwards(x)[-1]

    def _upwards(self, x: Tensor) -> list[Any]:
        normals = []
        for body, encoder in zip(self.bodies, self.encoders, strict=True):
            x = body(x)
            normals.append(encoder(x))
        return normals


def _product(a: Any, b: Any) -> dist.Distribution:
    """The normal proportional to the product of two diagonal normals."""
    (m_a, s_a), (m_b, s_b) = _moments(a), _moments(b)
    # Precisions add: where one says nothing, its precision is near 0 and the other remains.
    precision_a, precision_b = s_a.square().reciprocal(), s_b.square().reciprocal()
    variance = (precision_a + precision_b).reciprocal()
    loc = variance * (m_a * precision_a + m_b * precision_b)
    return Normal(loc, variance.sqrt(), validate_args=False).to_event(1)


def _moments(distribution: Any) -> tuple[Tensor, Tensor]:
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if not isinstance(base, dist.Normal):
        raise TypeError(
            f"a ladder multiplies diagonal normals, got {type(base).__name__}: take BottomUp, or "
            "return Normal(...).to_event(1)."
        )
    return base.loc, base.scale


@final
class HierarchicalVAE(nn.Module):
    """p(z_L) p(z_(L-1)|z_L) ... p(z_1|z_2) p(x|z_1), with a guide over all z.

    Sites are named ``z1`` (next to the data) to ``zL``; each has its own place in the decomposition
    of the ELBO.

    Args:
        prior: ``() -> Distribution`` of the top layer; may be a VampPrior on ``inference.top``.
        conditionals: p(z_l|z_(l+1)), from the top down, L - 1 of them: ``z (..., latent above) ->
            Distribution`` with event shape (latent,).
        decoder: ``z_1 (..., latent) -> Distribution`` with the event shape of a datum.
        inference: :class:`BottomUp`, :class:`Ladder`, or a module called with (x, sample) that
            draws every layer l once, by ``sample(l, distribution)``.

    Raises:
        ValueError: If there are no conditionals.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Sonderby, Raiko, Maaloe, Sonderby and Winther, 2016, Ladder variational autoencoders.
    """

    def __init__(
        self,
        prior: Callable[[], Any],
        conditionals: Sequence[Callable[[Tensor], Any]],
        decoder: Callable[[Tensor], Any],
        inference: BottomUp | Ladder | Callable[..., None],
    ) -> None:
        super().__init__()
        if not conditionals:
            raise ValueError("a hierarchy has two layers or more: with one, take VAE.")
        self.prior = prior
        self.conditionals = nn.ModuleList(conditionals)  # type: ignore[arg-type]
        self.decoder = decoder
        self.inference = inference

    def model(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw z_L, ..., z_1 and x, independently for each datum."""
        announce(prior=self.prior, conditionals=self.conditionals, decoder=self.decoder)
        with pyro.plate("data", len(x)):
            top = as_event("prior", prior_of(self.prior, x))
            z = pyro.sample(f"z{self.num_layers}", top)
            for layer, conditional in self._downwards():
                z = pyro.sample(f"z{layer}", as_event(f"conditional of z{layer}", conditional(z)))
            pyro.sample("x", as_event("decoder", self.decoder(z)), obs=x)

    def guide(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw all z ~ q(z|x), independently for each datum."""
        announce(inference=self.inference)
        with pyro.plate("data", len(x)):
            self.inference(x, _sample)

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.conditionals) + 1

    @property
    def bottom(self) -> str:
        """Name of the latent site that the decoder sees."""
        return "z1"

    def generate(self, count: int) -> Any:
        """p(x|z_1) for latents drawn from the prior down, batch shape (count,)."""
        z = self.prior().sample((count,))
        for _, conditional in self._downwards():
            z = conditional(z).sample()
        return self.decoder(z)

    def reconstruct(self, x: Float[Tensor, "batch *event"]) -> Any:
        """p(x|z_1) for latents drawn from q(z|x), batch shape (batch,)."""
        drawn: dict[int, Tensor] = {}

        def sample(layer: int, distribution: Any) -> Tensor:
            # Kept by layer, as the order of the layers is that of the inference.
            return drawn.setdefault(layer, distribution.sample())

        self.inference(x, sample)
        return self.decoder(drawn[1])

    def _downwards(self) -> list[tuple[int, Any]]:
        """Layer and conditional, from the top down."""
        return list(zip(range(self.num_layers - 1, 0, -1), self.conditionals, strict=True))


def _sample(layer: int, distribution: Any) -> Tensor:
    z: Tensor = pyro.sample(f"z{layer}", as_event(f"guide of z{layer}", distribution))
    return z
