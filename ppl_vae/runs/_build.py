"""From names to a model and its guide, newly initialised."""

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae.components import Component, ComponentSpec
from ppl_vae.data import Dataset
from ppl_vae.guides import DiagonalNormalEncoder, TableInput
from ppl_vae.likelihoods import ObservedDecoder
from ppl_vae.names import require_known
from ppl_vae.networks import ACTIVATIONS, DECODER_NETWORKS, MLP, GatedMLP, ObservedInput
from ppl_vae.randomness import Stream, seeded
from ppl_vae.registry import MODEL_KINDS
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE, Ladder

_PRIOR_STREAM = 1


@final
@dataclass(frozen=True)
class Components:
    """Components of a model and its guide."""

    prior: Component
    likelihood: Component
    guide: Component
    encoder_network: Component
    decoder_network: Component


@final
@dataclass(frozen=True)
class ModelSettings:
    """The three distributions of a model and its guide, and sizes of their networks.

    Attributes:
        prior: Prior p(z).
        likelihood: Likelihood p(x|z); auto: table for .csv and .parquet files, else bernoulli.
        guide: Guide q(z|x); of a hierarchy, normal goes bottom-up and ladder shares the model's
            conditionals.
        network: Bodies of encoder and decoder.
        latent: Latent dimensions; several, from the data upwards, make a hierarchy: 100,50.
        hidden: Hidden layer sizes of the encoder; the decoder mirrors them.
        upper_hidden: Hidden layer sizes between layers of latents; None: as hidden.
        activation: Activation of the hidden layers.

    Raises:
        ValueError: If a size is less than 1, or the activation is unknown.
    """

    prior: ComponentSpec = "normal"
    likelihood: ComponentSpec = "auto"
    guide: ComponentSpec = "normal"
    network: ComponentSpec = "mlp"
    latent: int | tuple[int, ...] = 50
    hidden: tuple[int, ...] = (200, 200)
    upper_hidden: tuple[int, ...] | None = None
    activation: str = "tanh"

    def __post_init__(self) -> None:
        # One layer has one way of being written, so that a run that goes on is known again.
        if isinstance(self.latent, tuple) and len(self.latent) == 1:
            object.__setattr__(self, "latent", self.latent[0])
        named = {"latent": self.layers, "hidden": self.hidden, "upper_hidden": self.upper}
        for name, sizes in named.items():
            if any(size < 1 for size in sizes):
                raise ValueError(f"{name} takes sizes of 1 or more, got {sizes}.")
        require_known("activation", self.activation, ACTIVATIONS)

    @property
    def layers(self) -> tuple[int, ...]:
        """Latent dimensions of each layer, from the data upwards."""
        return (self.latent,) if isinstance(self.latent, int) else self.latent

    @property
    def upper(self) -> tuple[int, ...]:
        """Hidden layer sizes between layers of latents, on the way up."""
        return self.hidden if self.upper_hidden is None else self.upper_hidden

    def components(self, *, table: bool = False) -> Components:
        """The classes that the names stand for, with their arguments.

        Args:
            table: Whether the data are a table, whose likelihood is another one.

        Raises:
            ValueError: If a name or an argument is wrong.
        """
        likelihood = self.likelihood
        if likelihood == "auto":
            likelihood = "table" if table else "bernoulli"
        # As JSON, since a component may be written as a mapping, which no cache takes as a key.
        return _components(json.dumps([self.prior, likelihood, self.guide, self.network]))

    def build(self, components: Components, dataset: Dataset, seed: int) -> VAE | HierarchicalVAE:
        """A model and guide for the data, from the caller's random state.

        The prior has a random stream of its own, by ``seed``: models with other priors start with
        the same networks.

        Raises:
            ValueError: If a component cannot be built for these data.
        """
        work = _Build(components, self, dataset, seed)
        return work.one_layer() if len(self.layers) == 1 else work.hierarchy()


# A study of a thousand runs names the same few components again and again.
@lru_cache(maxsize=256)
def _components(written: str) -> Components:
    prior, likelihood, guide, network = json.loads(written)
    return Components(
        prior=MODEL_KINDS["prior"].parse(prior),
        likelihood=MODEL_KINDS["likelihood"].parse(likelihood),
        guide=MODEL_KINDS["guide"].parse(guide),
        encoder_network=MODEL_KINDS["network"].parse(network),
        decoder_network=DECODER_NETWORKS.parse(network),
    )


@final
@dataclass(frozen=True)
class _Build:
    components: Components
    sizes: ModelSettings
    dataset: Dataset
    seed: int

    def one_layer(self) -> VAE:
        if self.components.guide.build is Ladder:
            raise ValueError(
                "guide ladder needs two layers of latents or more, from the data upwards, such as "
                "latent=(50, 20)."
            )
        (latent,) = self.sizes.layers
        encoder = self._encoder(latent)
        # After the encoder, which a VampPrior passes its pseudo-inputs through.
        prior = self._prior(encoder, latent)
        # Of a one-hot code there are more than latent dimensions.
        return VAE(prior, self._decoder(prior().event_shape[0]), encoder)

    def hierarchy(self) -> HierarchicalVAE:
        if self.components.guide.build is Ladder:
            conditionals = self._conditionals()
            inference: Any = self._ladder(conditionals)
        else:
            inference = self._bottom_up()
            conditionals = self._conditionals()
        prior = self._prior(inference.top, self.sizes.layers[-1])
        return HierarchicalVAE(prior, conditionals, self._decoder(self.sizes.layers[0]), inference)

    def _bottom_up(self) -> BottomUp:
        guide, (first, *_) = self.components.guide, self.sizes.layers
        upper = [
            guide(network=self._upper(below, guide.num_outputs(above)), **self._context(above))
            for below, above in pairwise(self.sizes.layers)
        ]
        return BottomUp([self._encoder(first), *upper])

    def _ladder(self, conditionals: list[Any]) -> Ladder:
        width, upper_width = self.sizes.hidden[-1], self.sizes.upper[-1]
        widths = [width, *[upper_width] * (len(self.sizes.layers) - 1)]
        bodies = [self._encoder_network(width)]
        bodies += [self._upper(below, above) for below, above in pairwise(widths)]
        encoders = [
            DiagonalNormalEncoder(MLP(width, (), 2 * latent))
            for width, latent in zip(widths, self.sizes.layers, strict=True)
        ]
        return Ladder(bodies, encoders, conditionals)

    def _conditionals(self) -> list[Any]:
        """p(z_l|z_(l+1)), diagonal normals, from the top down."""
        downwards = pairwise(self.sizes.layers[::-1])
        return [
            DiagonalNormalEncoder(self._upper(above, 2 * below, down=True))
            for above, below in downwards
        ]

    def _encoder(self, latent: int) -> Any:
        network = self._encoder_network(self.components.guide.num_outputs(latent))
        return self.components.guide(network=network, **self._context(latent))

    def _encoder_network(self, outputs: int) -> Any:
        """Network of q(z|x), behind the input that encodes a table or missing cells."""
        columns, features = self.dataset.columns, self.dataset.features
        if columns is not None:
            body = self._encoder_body(TableInput.num_inputs(columns), outputs)
            return TableInput(columns, self.dataset.train, body)
        if not self.dataset.missing_share:
            return self._encoder_body(features, outputs)
        # An image with a mask beside it is none.
        mask = self.components.encoder_network.build in (MLP, GatedMLP)
        return ObservedInput(
            self._encoder_body(ObservedInput.num_inputs(features, mask), outputs), mask=mask
        )

    def _encoder_body(self, inputs: int, outputs: int) -> Any:
        return self.components.encoder_network(
            in_features=inputs,
            out_features=outputs,
            hidden=self.sizes.hidden,
            activation=self.sizes.activation,
            image_shape=self.dataset.image_shape,
        )

    def _upper(self, inputs: int, outputs: int, *, down: bool = False) -> Any:
        """Network between two layers of latents: gated or plain, as there are no images there."""
        sizes = self.sizes.upper[:: -1 if down else 1]
        kind = GatedMLP if self.components.encoder_network.build is GatedMLP else MLP
        if kind is GatedMLP:
            return GatedMLP(inputs, sizes, outputs)
        return MLP(inputs, sizes, outputs, self.sizes.activation)

    def _prior(self, encoder: Any, latent: int) -> Any:
        with seeded(self.seed, Stream.INITIALIZATION, _PRIOR_STREAM):
            context = self._context(latent)
            # Pseudo-inputs and exemplars are whole rows: means stand for missing cells.
            context["data"] = torch.where(
                self.dataset.train.isnan(), context["data_mean"], self.dataset.train
            )
            return self.components.prior(encoder=encoder, **context)

    def _decoder(self, inputs: int) -> Any:
        likelihood, context = self.components.likelihood, self._context(self.sizes.layers[0])
        network = self.components.decoder_network(
            in_features=inputs,
            out_features=likelihood.num_outputs(self.dataset.features, **context),
            hidden=self.sizes.hidden[::-1],
            activation=self.sizes.activation,
            image_shape=self.dataset.image_shape,
        )
        decoder = likelihood(network=network, **context)
        # A table's decoder leaves missing cells out by itself.
        mixed = self.dataset.columns is not None
        return ObservedDecoder(decoder) if self.dataset.missing_share and not mixed else decoder

    def _context(self, latent: int) -> dict[str, Any]:
        return {
            "latent": latent,
            "features": self.dataset.features,
            "data": self.dataset.train,
            "data_mean": _mean(self.dataset.train),
            "image_shape": self.dataset.image_shape,
            "columns": self.dataset.columns,
        }


def _mean(rows: Tensor) -> Tensor:
    """Mean of each column, over the cells that are not missing."""
    return rows.nanmean(0) if bool(rows.isnan().any()) else rows.mean(0)
