"""From names to a model and its guide, newly initialised."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae.components import Component
from ppl_vae.data import Dataset
from ppl_vae.guides import DiagonalNormalEncoder, TableInput
from ppl_vae.likelihoods import ObservedDecoder
from ppl_vae.networks import MLP, GatedMLP, ObservedInput
from ppl_vae.randomness import Stream, seeded
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE, Ladder

_PRIOR_STREAM = 1


@final
@dataclass(frozen=True)
class ModelParts:
    """What a model and its guide are made of."""

    prior: Component
    likelihood: Component
    guide: Component
    encoder_network: Component
    decoder_network: Component


@final
@dataclass(frozen=True)
class Sizes:
    """Sizes of the latents, from the data upwards, and of the networks.

    Attributes:
        latent: Of each layer of latents.
        hidden: Of the encoder's hidden layers, mirrored in the decoder.
        upper_hidden: Of the hidden layers between latents, on the way up.
        activation: Of all of them.
    """

    latent: tuple[int, ...]
    hidden: tuple[int, ...]
    upper_hidden: tuple[int, ...]
    activation: str


def build(parts: ModelParts, sizes: Sizes, dataset: Dataset, seed: int) -> VAE | HierarchicalVAE:
    """A model and guide for the data, from the caller's random state.

    The prior has a random stream of its own, by ``seed``: models with other priors start with the
    same networks.

    Raises:
        ValueError: If a part cannot be built for these data.
    """
    for name in ("latent", "hidden", "upper_hidden"):
        if any(size < 1 for size in getattr(sizes, name)):
            raise ValueError(f"{name} takes sizes of 1 or more, got {getattr(sizes, name)}.")
    work = _Build(parts, sizes, dataset, seed)
    if len(sizes.latent) == 1:
        return work.one_layer()
    return work.hierarchy()


@final
@dataclass(frozen=True)
class _Build:
    parts: ModelParts
    sizes: Sizes
    dataset: Dataset
    seed: int

    def one_layer(self) -> VAE:
        if self.parts.guide.build is Ladder:
            raise ValueError(
                "guide ladder needs two layers of latents or more, from the data upwards, such as "
                "latent=(50, 20)."
            )
        (latent,) = self.sizes.latent
        encoder = self._encoder(latent)
        prior = self._prior(encoder, latent)
        # Of a one-hot code there are more than latent dimensions.
        return VAE(prior, self._decoder(prior().event_shape[0]), encoder)

    def hierarchy(self) -> HierarchicalVAE:
        if self.parts.guide.build is Ladder:
            conditionals = self._conditionals()
            inference: Any = self._ladder(conditionals)
        else:
            inference = self._bottom_up()
            conditionals = self._conditionals()
        prior = self._prior(inference.top, self.sizes.latent[-1])
        return HierarchicalVAE(prior, conditionals, self._decoder(self.sizes.latent[0]), inference)

    def _bottom_up(self) -> BottomUp:
        guide, (first, *_) = self.parts.guide, self.sizes.latent
        upper = [
            guide(network=self._upper(below, guide.num_outputs(above)), **self._context(above))
            for below, above in pairwise(self.sizes.latent)
        ]
        return BottomUp([self._encoder(first), *upper])

    def _ladder(self, conditionals: list[Any]) -> Ladder:
        width, upper_width = self.sizes.hidden[-1], self.sizes.upper_hidden[-1]
        widths = [width, *[upper_width] * (len(self.sizes.latent) - 1)]
        bodies = [self._encoder_network(width)]
        bodies += [self._upper(below, above) for below, above in pairwise(widths)]
        encoders = [
            DiagonalNormalEncoder(MLP(width, (), 2 * latent))
            for width, latent in zip(widths, self.sizes.latent, strict=True)
        ]
        return Ladder(bodies, encoders, conditionals)

    def _conditionals(self) -> list[Any]:
        """p(z_l|z_(l+1)), diagonal normals, from the top down."""
        downwards = pairwise(self.sizes.latent[::-1])
        return [
            DiagonalNormalEncoder(self._upper(above, 2 * below, down=True))
            for above, below in downwards
        ]

    def _encoder(self, latent: int) -> Any:
        network = self._encoder_network(self.parts.guide.num_outputs(latent))
        return self.parts.guide(network=network, **self._context(latent))

    def _encoder_network(self, outputs: int) -> Any:
        """The body of q(z|x), behind what makes numbers of a table, or of missing cells."""
        columns, features = self.dataset.columns, self.dataset.features
        if columns is not None:
            body = self._encoder_body(TableInput.num_inputs(columns), outputs)
            return TableInput(columns, self.dataset.train, body)
        if not self.dataset.missing_share:
            return self._encoder_body(features, outputs)
        # An image with a mask beside it is none.
        mask = self.parts.encoder_network.build in (MLP, GatedMLP)
        return ObservedInput(
            self._encoder_body(ObservedInput.num_inputs(features, mask), outputs), mask=mask
        )

    def _encoder_body(self, inputs: int, outputs: int) -> Any:
        return self.parts.encoder_network(
            in_features=inputs,
            out_features=outputs,
            hidden=self.sizes.hidden,
            activation=self.sizes.activation,
            image_shape=self.dataset.image_shape,
        )

    def _upper(self, inputs: int, outputs: int, *, down: bool = False) -> Any:
        """Between latents there are no images: gated layers or plain ones."""
        sizes = self.sizes.upper_hidden[:: -1 if down else 1]
        kind = GatedMLP if self.parts.encoder_network.build is GatedMLP else MLP
        if kind is GatedMLP:
            return GatedMLP(inputs, sizes, outputs)
        return MLP(inputs, sizes, outputs, self.sizes.activation)

    def _prior(self, encoder: Any, latent: int) -> Any:
        with seeded(self.seed, Stream.INITIALIZATION, _PRIOR_STREAM):
            context = self._context(latent)
            # Pseudo-inputs and exemplars are whole rows.
            context["data"] = torch.where(
                self.dataset.train.isnan(), context["data_mean"], self.dataset.train
            )
            return self.parts.prior(encoder=encoder, **context)

    def _decoder(self, inputs: int) -> Any:
        likelihood, context = self.parts.likelihood, self._context(self.sizes.latent[0])
        network = self.parts.decoder_network(
            in_features=inputs,
            out_features=likelihood.num_outputs(self.dataset.features, **context),
            hidden=self.sizes.hidden[::-1],
            activation=self.sizes.activation,
            image_shape=self.dataset.image_shape,
        )
        decoder = likelihood(network=network, **context)
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
    """Of each column; of what is there, where cells are missing."""
    return rows.nanmean(0) if bool(rows.isnan().any()) else rows.mean(0)
