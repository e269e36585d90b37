"""From components to a model and its guide, newly initialised."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor, nn

from ppl_vae import baselines  # for its names, which are imported at their first use
from ppl_vae.components import Component
from ppl_vae.data import (
    Dataset,
    LazyRows,
    RowTensor,
    column_means,
    filled,
    in_memory,
    missing_cells,
    row_chunks,
)
from ppl_vae.guides import CORRUPTIONS, CorruptedInput, DiagonalNormalEncoder, TableInput
from ppl_vae.likelihoods import ObservedDecoder
from ppl_vae.networks import MLP, GatedMLP, ObservedInput
from ppl_vae.randomness import Stream, seeded
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE, Ladder, without_encoder

if TYPE_CHECKING:
    from ppl_vae.runs._model import ModelSettings

Model: TypeAlias = "VAE | HierarchicalVAE | baselines.Baseline"
"""A model with its guide, whichever kind it is of."""
_PRIOR_STREAM = 1
_ENCODED = 1000
"""Data encoded at once."""


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
class Build:
    """Builder of a model for some data, from the caller's random state."""

    components: Components
    sizes: "ModelSettings"
    dataset: Dataset
    seed: int
    corrupt: str | None = None

    def build(self) -> Model:
        """A model of one layer of latents, or a hierarchy."""
        return self.one_layer() if len(self.sizes.layers) == 1 else self.hierarchy()

    def one_layer(self) -> VAE:
        """A model of one layer of latents.

        Raises:
            ValueError: If the settings ask for more.
        """
        if self.components.guide.build is Ladder:
            raise ValueError(
                "guide ladder needs two layers of latents or more, from the data upwards, such as "
                "latent=(50, 20)."
            )
        (latent,) = self.sizes.layers
        if self.sizes.upper_hidden is not None:
            raise ValueError(
                "upper_hidden lies between layers of latents, and there is one: leave it out, or "
                "give latent two sizes or more."
            )
        encoder = self._encoder(latent)
        # After the encoder, which a VampPrior passes its pseudo-inputs through.
        prior = self._prior(encoder, latent)
        # Of a one-hot code there are more than latent dimensions.
        return VAE(prior, self._decoder(self._width(prior)), self._corrupted(encoder))

    def without_encoder(self) -> VAE:
        """A model of one layer of latents, its prior in place of a guide."""
        (latent,) = self.sizes.layers
        # Of pseudo-inputs and exemplars there are none without an encoder.
        prior = self._prior(None, latent)
        return without_encoder(prior, self._decoder(self._width(prior)))

    def hierarchy(self) -> HierarchicalVAE:
        """A model of several layers of latents."""
        if self.components.guide.build is Ladder:
            conditionals = self._conditionals()
            inference: Any = self._ladder(conditionals)
        else:
            inference = self._bottom_up()
            conditionals = self._conditionals()
        prior = self._prior(inference.top, self.sizes.layers[-1])
        decoder = self._decoder(self.sizes.layers[0])
        return HierarchicalVAE(prior, conditionals, decoder, self._corrupted(inference))

    def likelihood(self, network: nn.Module) -> Any:
        """The likelihood p(x|z) of another network."""
        context = self._context(self.sizes.layers[0])
        return self.components.likelihood(network=network, **context)

    def _corrupted(self, encoder: Any) -> Any:
        """The encoder behind the corruption of its input, if there is one.

        Outside of what the prior is given: pseudo-inputs are no data.
        """
        if self.corrupt is None:
            return encoder
        if self.dataset.columns is not None:
            raise ValueError(
                f"corrupt {self.corrupt}: a 0 or noise is no value of a table's categories: take "
                "rows of numbers, or leave it out."
            )
        return CorruptedInput(encoder, CORRUPTIONS.parse(self.corrupt)())

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
            return TableInput(
                columns, in_memory(self.dataset.train, "a table of mixed columns"), body
            )
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
            context["data"] = filled(self.dataset.train, context["data_mean"])
            return self.components.prior(encoder=encoder, **context)

    def _width(self, prior: Any) -> int:
        """Size of the prior's z, which a one-hot code has more of than latent dimensions."""
        drawn, text = prior(), f"prior {self.components.prior.text}"
        if not isinstance(drawn, dist.Distribution) or len(drawn.event_shape) != 1:
            shape = getattr(drawn, "event_shape", None)
            found = type(drawn).__name__ if shape is None else f"events of shape {tuple(shape)}"
            raise ValueError(
                f"{text}: forward() must return a distribution of vectors, got {found}."
            )
        return int(drawn.event_shape[0])

    def _decoder(self, inputs: int) -> Any:
        context = self._context(self.sizes.layers[0])
        network = self.components.decoder_network(
            in_features=inputs,
            out_features=self.components.likelihood.num_outputs(self.dataset.features, **context),
            hidden=self.sizes.hidden[::-1],
            activation=self.sizes.activation,
            image_shape=self.dataset.image_shape,
        )
        decoder = self.likelihood(network)
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


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that training changes, by name: of a baseline all, which its rule sets."""
    own = isinstance(model, baselines.Baseline)
    return {name: p for name, p in model.named_parameters() if own or p.requires_grad}


def _mean(rows: RowTensor) -> Tensor:
    """Mean of each column, over the cells that are not missing."""
    if isinstance(rows, LazyRows):
        return column_means(rows)
    return rows.nanmean(0) if missing_cells(rows) else rows.mean(0)


def codes_of(encoder: Any, x: RowTensor, device: torch.device) -> Float[Tensor, "rows latent"]:
    """Codes of data: the means of q(z|x), in evaluation mode as the encoder is."""
    with torch.no_grad():
        return torch.cat([encoder(part.to(device)).mean for part in row_chunks(x, _ENCODED)])
