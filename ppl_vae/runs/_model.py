"""The model of a run as plain values: its kind, its distributions, their sizes."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

from ppl_vae.components import Component, ComponentSpec, Kind
from ppl_vae.data import Dataset
from ppl_vae.guides import CORRUPTIONS, GUIDES
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.names import require_known
from ppl_vae.networks import ACTIVATIONS, DECODER_NETWORKS, ENCODER_NETWORKS
from ppl_vae.priors import PRIORS
from ppl_vae.runs._autoencoders import AutoencoderKind, DenoisingKind, SparseKind, StackedKind
from ppl_vae.runs._baselines import (
    FactorAnalysisKind,
    GANKind,
    GMMNKind,
    LinearKind,
    RBMKind,
    WassersteinGANKind,
)
from ppl_vae.runs._build import Build, Components, Model
from ppl_vae.runs._kinds import GeneratorKind, ModelKind, VAEKind
from ppl_vae.vae import Ladder

MODELS = Kind(
    "model",
    {
        "vae": VAEKind,
        "autoencoder": AutoencoderKind,
        "sparse": SparseKind,
        "denoising": DenoisingKind,
        "stacked": StackedKind,
        "generator": GeneratorKind,
        "linear": LinearKind,
        "factor-analysis": FactorAnalysisKind,
        "rbm": RBMKind,
        "gan": GANKind,
        "wgan": WassersteinGANKind,
        "gmmn": GMMNKind,
    },
)
"""Kinds of models by name."""
MODEL_KINDS = {
    "model": MODELS,
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    # Those of a hierarchy too.
    "guide": replace(GUIDES, classes={**GUIDES, "ladder": Ladder}),
    "network": ENCODER_NETWORKS,
    "corrupt": CORRUPTIONS,
}
"""Kinds of components that a model is made of, by the settings that name them."""


@final
@dataclass(frozen=True)
class ModelSettings:
    """The three distributions of a model and its guide, and sizes of their networks.

    Attributes:
        model: Kind of model: a VAE, or what it is compared with.
        prior: Prior p(z); of an autoencoder it is fitted after training.
        likelihood: Likelihood p(x|z); auto: table for .csv and .parquet files, else bernoulli.
        guide: Guide q(z|x); auto: normal, of autoencoders delta or sparse; of a hierarchy, normal
            goes bottom-up and ladder shares the model's conditionals.
        network: Bodies of encoder and decoder.
        latent: Latent dimensions; several, from the data upwards, make a hierarchy: 100,50.
        hidden: Hidden layer sizes of the encoder; the decoder mirrors them.
        upper_hidden: Hidden layer sizes between layers of latents; None: as hidden.
        activation: Activation of the hidden layers.
        corrupt: Corruption of what the encoder sees in training, mask:0.3 or gauss:0.3, while the
            target is the clean x; None: none, of model denoising mask:0.3.
        pretrain: Whether a stacked autoencoder is trained layer by layer first; None: it is.

    Raises:
        ValueError: If a size is less than 1, or the activation is unknown.
    """

    model: ComponentSpec = "vae"
    prior: ComponentSpec = "normal"
    likelihood: ComponentSpec = "auto"
    guide: ComponentSpec = "auto"
    network: ComponentSpec = "mlp"
    latent: int | tuple[int, ...] = 50
    hidden: tuple[int, ...] = (200, 200)
    upper_hidden: tuple[int, ...] | None = None
    activation: str = "tanh"
    corrupt: str | None = None
    pretrain: bool | None = None

    def __post_init__(self) -> None:
        # One layer has one way of being written, so that a run that goes on is known again.
        if isinstance(self.latent, tuple) and len(self.latent) == 1:
            object.__setattr__(self, "latent", self.latent[0])
        if not self.layers:
            raise ValueError("latent takes the size of one layer of latents or more, got none.")
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
            likelihood = self.kind.likelihood(table=table)
        guide = self.kind.guide if self.guide == "auto" else self.guide
        # As JSON, since a component may be written as a mapping, which no cache takes as a key.
        chosen = _components(json.dumps([self.prior, likelihood, guide, self.network]))
        if self.pretrain is not None and not isinstance(self.kind, StackedKind):
            raise ValueError("pretrain is of model stacked: leave it out, or take that model.")
        if self.corrupt is not None:
            # For its errors: a wrong name is found before anything is built.
            CORRUPTIONS.parse(self.corrupt)
        return self.kind.components(self, chosen)

    @property
    def kind(self) -> ModelKind:
        """The kind of model.

        Raises:
            ValueError: If the name or an argument is wrong.
        """
        kind: ModelKind = _kind(json.dumps(self.model))()
        return kind

    @property
    def name(self) -> str:
        """Name of the kind of model."""
        return next(name for name, kind in MODELS.items() if isinstance(self.kind, kind))

    def written(self) -> dict[str, str | None]:
        """Kind of model and corruption in full, defaults included."""
        corrupt = None if self.corrupt is None else _in_full(CORRUPTIONS.parse(self.corrupt))
        return {"model": _in_full(_kind(json.dumps(self.model))), "corrupt": corrupt}

    def work(self, components: Components, dataset: Dataset, seed: int) -> Build:
        """The builder of the model."""
        return Build(components, self, dataset, seed, self.corrupt)

    def build(self, components: Components, dataset: Dataset, seed: int) -> Model:
        """A model and guide for the data, from the caller's random state.

        The prior has a random stream of its own, by ``seed``: models with other priors start with
        the same networks.

        Raises:
            ValueError: If a component cannot be built for these data.
        """
        return self.kind.build(self.work(components, dataset, seed))


@lru_cache(maxsize=256)
def _kind(written: str) -> Component:
    return MODELS.parse(json.loads(written))


def _in_full(component: Component) -> str:
    """A component's name and arguments, as it could be written."""
    name = next(n for n, build in component.kind.items() if build is component.build)
    # What auto stands for is kept as the objective: one VAE is written in one way.
    given = {} if name == "vae" else component.arguments
    text = ",".join(f"{key}={value}" for key, value in given.items() if value is not None)
    return f"{name}:{text}" if text else name


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
