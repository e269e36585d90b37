"""The variational autoencoder as a Pyro model and guide."""

from collections.abc import Callable
from typing import Any, final

import pyro
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.vae._modules import announce, as_event, prior_of


@final
class VAE(nn.Module):
    """p(z) p(x|z) with guide q(z|x).

    Three conditional distributions, each anything with the right ``forward``:

    Args:
        prior: ``() -> Distribution`` with event shape (latent,). A prior made of training data
            has a method ``without(x)`` too, which the model calls in its place.
        decoder: ``z (..., latent) -> Distribution`` with the event shape of a datum.
        encoder: ``x (batch, *event) -> Distribution`` with event shape (latent,).

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
        Rezende, Mohamed and Wierstra, 2014, Stochastic backpropagation.
    """

    def __init__(
        self,
        prior: Callable[[], Any],
        decoder: Callable[[Tensor], Any],
        encoder: Callable[[Tensor], Any],
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.encoder = encoder

    def model(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw z ~ p(z), x ~ p(x|z), independently for each datum."""
        announce(prior=self.prior, decoder=self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", as_event("prior", prior_of(self.prior, x)))
            pyro.sample("x", as_event("decoder", self.decoder(z)), obs=x)

    def guide(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw z ~ q(z|x), independently for each datum."""
        announce(encoder=self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", as_event("encoder", self.encoder(x)))

    @property
    def bottom(self) -> str:
        """Name of the latent site that the decoder sees."""
        return "z"

    def generate(self, count: int) -> Any:
        """p(x|z) for z drawn from the prior, batch shape (count,)."""
        return self.decoder(self.prior().sample((count,)))

    def reconstruct(self, x: Float[Tensor, "batch *event"]) -> Any:
        """p(x|z) for z drawn from q(z|x), batch shape (batch,)."""
        return self.decoder(self.encoder(x).sample())
