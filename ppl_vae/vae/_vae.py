"""The variational autoencoder with one layer of latents, and checks that all share."""

from collections.abc import Callable
from itertools import count
from typing import Any, final

import pyro
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from ppl_vae.names import require_callable


def announce(**components: Callable[..., Any]) -> None:
    """Show the parameters to a handler that collects them, as ``pyro.infer.SVI`` does.

    Parameters live in the module; Pyro's store is touched only when somebody listens to it.
    """
    # SVI collects parameters by a trace; without one, the store would only grow.
    if not any(isinstance(handler, TraceMessenger) for handler in _PYRO_STACK):
        return
    for component, module in components.items():
        if isinstance(module, nn.Module) and any(p.requires_grad for p in module.parameters()):
            for parameter in module.parameters():
                # The store keeps, and SVI would train, a copy of any other layout.
                if not parameter.is_contiguous():
                    parameter.data = parameter.data.contiguous()
            pyro.module(_free_name(f"vae.{component}", module), module)


def _free_name(name: str, module: nn.Module) -> str:
    """``name``, numbered if Pyro's store holds another module's parameters under it.

    ``pyro.module`` silently trains the first module registered under a name in place of a second
    one, so that each model in a process needs names of its own.
    """
    store = pyro.get_param_store()
    path, parameter = next((n, p) for n, p in module.named_parameters() if p.requires_grad)
    stored = dict(store.named_parameters())
    for number in count(1):
        candidate = name if number == 1 else f"{name}.{number}"
        # One parameter tells modules apart: those of a name are stored together, by identity.
        if stored.get(f"{candidate}$$${path}", parameter) is parameter:
            return candidate
    raise AssertionError("unreachable: count() does not end")


def prior_of(prior: Callable[[], Any], x: Tensor) -> Any:
    """Call the prior p(z); one made of training data leaves x out: ``prior.without(x)``."""
    without = getattr(prior, "without", None)
    return prior() if without is None else without(x)


def as_event(component: str, distribution: Any) -> Any:
    """Check that the distribution of a component is one of Pyro, over an event.

    Raises:
        TypeError: If it is no Pyro distribution; names the component.
        ValueError: If its event shape is ().
    """
    if not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution)
        raise TypeError(
            f"the {component} returned {kind.__module__}.{kind.__name__}: return a distribution "
            "from pyro.distributions."
        )
    if distribution.event_dim == 0:
        raise ValueError(
            f"the {component} returned a distribution with event shape (): a datum's dimensions "
            "are one event, so end it with .to_event(1)."
        )
    return distribution


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
        require_callable(prior=prior, decoder=decoder, encoder=encoder)
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


@final
class PriorGuide(nn.Module):
    """q(z|x) = p(z): the guide of a model without an encoder.

    What starts from a guide starts from the prior: annealing, and refinement for each datum.

    Args:
        prior: ``() -> Distribution`` with event shape (latent,), the model's own.
    """

    def __init__(self, prior: Callable[[], Any]) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Float[Tensor, "batch *event"]) -> Any:
        """The prior for every datum, event shape (latent,)."""
        return prior_of(self.prior, x).expand((len(x),))


def without_encoder(prior: Callable[[], Any], decoder: Callable[[Tensor], Any]) -> VAE:
    """The model p(z) p(x|z) with its prior in place of a guide: a generator network.

    Without amortisation the E-step is made for each datum anew: ``fit(vae.model, vae.guide,
    ELBO(4), x, step="semi-amortised:60", keep="last")`` refines a normal q(z|x_i) from the prior
    on, by 60 updates, and then moves the decoder by the gradient of the ELBO under it. No encoder,
    no amortisation gap; the price is 60 times the decoder evaluations, and as many for every new
    datum. Fewer do not get there: N updates move a mean by 0.05 N at most, and posteriors lie up to
    3 from the prior's mean. The bound of validation data under the prior says nothing of the model,
    hence the last epoch.

    Args:
        prior: ``() -> Distribution`` with event shape (latent,), normal where q is to be refined.
        decoder: ``z (..., latent) -> Distribution`` with the event shape of a datum.

    References:
        Neal and Hinton, 1998, A view of the EM algorithm that justifies incremental, sparse, and
        other variants.
        Hoffman, 2017, Learning deep latent Gaussian models with Markov chain Monte Carlo.
    """
    return VAE(prior, decoder, PriorGuide(prior))
