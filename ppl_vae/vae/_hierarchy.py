"""A variational autoencoder with several layers of latents."""

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.vae._inference import BottomUp, Ladder
from ppl_vae.vae._modules import announce, as_event, prior_of


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
        """L."""
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
            return drawn.setdefault(layer, distribution.sample())

        self.inference(x, sample)
        return self.decoder(drawn[1])

    def _downwards(self) -> list[tuple[int, Any]]:
        """Layer and conditional, from the top down."""
        return list(zip(range(self.num_layers - 1, 0, -1), self.conditionals, strict=True))


def _sample(layer: int, distribution: Any) -> Tensor:
    z: Tensor = pyro.sample(f"z{layer}", as_event(f"guide of z{layer}", distribution))
    return z
