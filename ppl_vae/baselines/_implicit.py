"""Generators without a density of their own, and what is shared by all ways to train them."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.baselines._base import Baseline
from ppl_vae.components import ComponentSpec
from ppl_vae.data import Dataset, RowData, RowTensor, column_range, column_variances
from ppl_vae.decoders import DecoderOfMeans, NoiseChoice, choose_noise, decoder_model
from ppl_vae.networks import DECODER_NETWORKS, ENCODER_NETWORKS
from ppl_vae.vae import VAE


class ImplicitModel(Baseline):
    """x = G(z) + s e with z and e standard normal, G trained without regard to a density.

    Training sees G(z) alone. The noise makes log p(x) finite: it starts at the spread of the
    training data, under which every generator is poor, and :meth:`choose_noise` finds the one
    that validation data are likeliest under.
    """

    vae: VAE
    _players: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that are a :class:`Player`."""

    def as_vae(self) -> VAE:
        """The generator with its noise, and the prior in place of a guide."""
        return self.vae

    def reconstruct(self, x: Float[Tensor, "batch *event"]) -> Any:
        """Refuse: there are no codes to reconstruct from.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} has no encoder, so it reconstructs nothing: refine(model, "
            "guide, x) finds z for data."
        )

    def choose_noise(self, valid: RowData, **settings: Any) -> NoiseChoice:
        """Take the noise that validation data are likeliest under.

        Args:
            valid: Validation data.
            settings: As for :func:`~ppl_vae.decoders.choose_noise`.
        """
        choice = choose_noise(self._means.decoder, valid, self.prior, **settings)
        self.take_noise(choice.scale)
        return choice

    def take_noise(self, scale: float) -> None:
        """Take s, the standard deviation of the noise in the units of x, as it is."""
        self._means.scale.fill_(scale)

    def require_data(self, x: RowTensor) -> None:
        """Check that rows are as wide as what the generator gives."""
        if x.shape[1:] != self._means.event_shape:
            raise ValueError(
                f"the generator gives rows of {self._means.event_shape}, and the data are of "
                f"{tuple(x.shape[1:])}: make it for these data."
            )

    def start(self, train: RowTensor) -> None:
        """Let the noise start at the spread of the data."""
        self._means.scale.fill_(float(column_variances(train).mean().sqrt()))

    def score(self, x: Float[Tensor, "batch *event"]) -> None:
        """No value: log p(x) of an epoch costs more than its training, and the last is kept."""

    def training_state(self) -> dict[str, Tensor]:
        """State of the optimisers."""
        return {
            f"{name}.{key}": value
            for name in self._players
            for key, value in getattr(self, name).state().items()
        }

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of the optimisers."""
        for name in self._players:
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            getattr(self, name).load(own)

    def _draw(self, count: int) -> Float[Tensor, "count *event"]:
        """G(z) for z from the prior."""
        return self._means.means(self.prior().sample((count,)))

    @property
    def _means(self) -> DecoderOfMeans:
        likelihood = self.vae.decoder
        assert isinstance(likelihood, DecoderOfMeans)
        return likelihood


def implicit_vae(generator: nn.Module, latent: int) -> VAE:
    """Model of a generator of rows, with noise that is still to be chosen.

    Raises:
        ValueError: If the generator does not map (rows, latent) to (rows, features).
    """
    like = next(generator.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            like = generator(like.new_zeros(2, latent))
    # A generator of the user's may fail in any way.
    except Exception as error:
        raise ValueError(
            f"the generator takes no z of shape (rows, {latent}): {type(error).__name__}: "
            f"{' '.join(str(error).split())[:150]}"
        ) from error
    return decoder_model(generator, like, noise=1.0, latent=latent)


def implicit_networks(
    data: Dataset,
    latent: int,
    *,
    hidden: tuple[int, ...] = (200, 200),
    network: ComponentSpec = "mlp",
    activation: str = "leaky-relu",
) -> tuple[nn.Module, nn.Module]:
    """Generator and critic for a data set: ``mlp``, or convolutions as of a DCGAN with ``conv``.

    The generator ends with a sigmoid where all data lie between 0 and 1. There is no batch
    normalisation: a critic with gradient penalty must see each datum by itself.

    Args:
        data: Whose rows are to be generated.
        latent: Size of z.
        hidden: Hidden layer sizes of the critic; the generator mirrors them.
        network: A name in the package's networks, with arguments.
        activation: Activation of the hidden layers.

    References:
        Radford, Metz and Chintala, 2016, Unsupervised representation learning with deep
        convolutional generative adversarial networks.
    """
    sizes: dict[str, Any] = {"activation": activation, "image_shape": data.image_shape}
    generator: nn.Module = DECODER_NETWORKS.parse(network)(
        in_features=latent, out_features=data.features, hidden=hidden[::-1], **sizes
    )
    critic: nn.Module = ENCODER_NETWORKS.parse(network)(
        in_features=data.features, out_features=1, hidden=hidden, **sizes
    )
    ends = column_range(data.train)
    if bool((ends >= 0).all() and (ends <= 1).all()):
        generator = nn.Sequential(generator, nn.Sigmoid())
    return generator, critic


@final
class Player:
    """Parameters that one optimiser descends a loss of its own by.

    Args:
        module: The network.
        learning_rate: Adam's.
        betas: Adam's.
    """

    def __init__(self, module: nn.Module, learning_rate: float, betas: tuple[float, float]) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, betas=betas)

    def descend(self, loss: Tensor) -> None:
        """Update once by the gradient of the loss, in these parameters alone."""
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Name to tensor; empty before the first update."""
        return {f"{number}.{name}": value for number, name, value in self._named()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._optimizer.state.clear()
        for name, value in state.items():
            number, _, key = name.partition(".")
            # Adam counts its steps on the CPU, wherever the parameters are.
            here = value.cpu() if key == "step" else value
            self._optimizer.state[self.parameters[int(number)]][key] = here

    def _named(self) -> Iterator[tuple[int, str, Tensor]]:
        for number, parameter in enumerate(self.parameters):
            for name, value in self._optimizer.state[parameter].items():
                yield number, name, value
