"""One training run as plain values, and the objects those values name."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import torch
from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder
from ppl_vae.networks import ACTIVATIONS, MLP
from ppl_vae.objectives import Objective
from ppl_vae.priors import LearnedNormal, StandardNormal
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.schedules import Burda, Constant, Cosine, Exponential, Schedule
from ppl_vae.studies.naming import require_known, resolve
from ppl_vae.studies.objective_names import parse_objective
from ppl_vae.training import parse_step
from ppl_vae.vae import VAE

PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "normal": StandardNormal,
    "learned-normal": LearnedNormal,
}
LIKELIHOODS = ("bernoulli", "normal")
SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": Constant,
    "exponential": lambda rate: Exponential(rate, rate / 10),
    "cosine": Cosine,
    "burda": Burda,
}
BINARIZATIONS = ("auto", "none", "static", "dynamic")
_GREY_IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot")


@final
@dataclass(frozen=True)
class RunConfig:
    """What one training run is, completely: the same values give the same numbers.

    Attributes:
        data: Name of a data set, or path of a file.
        binarize: ``none``, ``static``, ``dynamic``, or ``auto``: static for a named set of grey
            images under a Bernoulli likelihood, none otherwise.
        objective: Such as ``elbo``, ``iwae:50`` (K particles), ``elbo+beta:4``, ``module:Class:7``.
        prior: ``normal``, ``learned-normal``, or ``module:Class``, called with the latent size.
        likelihood: ``bernoulli``, ``normal`` (learned scale) or ``normal:SCALE`` (fixed).
        latent: Latent dimensions.
        hidden: Hidden layer sizes of the encoder, mirrored in the decoder.
        activation: Of the hidden layers.
        epochs: Passes over the training data.
        batch_size: At most this many data a batch.
        learning_rate: Adam's, at the start.
        schedule: ``constant``, ``exponential`` (to a tenth), ``cosine`` or ``burda``.
        clip_norm: Largest gradient norm, or None.
        patience: Epochs without a better validation bound before stopping, or None.
        validation_particles: K of the validation bound.
        step: ``torch``, ``svi``, ``alternating:N``, ``aggressive`` or ``semi-amortised:N``.
        seed: Of everything random in the run.
    """

    data: str = "digits"
    binarize: str = "auto"
    objective: str = "elbo"
    prior: str = "normal"
    likelihood: str = "bernoulli"
    latent: int = 50
    hidden: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: str = "constant"
    clip_norm: float | None = None
    patience: int | None = None
    validation_particles: int = 50
    step: str = "torch"
    seed: int = 0

    def to_json(self) -> str:
        """The values as indented JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The configuration with these values.

        Raises:
            ValueError: If a name is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            require_known("setting", name, known)
        values = dict(values)
        if "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(**values)

    def objects(self) -> tuple[Objective, Schedule]:
        """The objective and the learning-rate schedule; checks their names and the step's."""
        require_known("schedule", self.schedule, SCHEDULES)
        parse_step(self.step)
        return parse_objective(self.objective), SCHEDULES[self.schedule](self.learning_rate)

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data set, binarised as configured."""
        require_known("binarisation", self.binarize, BINARIZATIONS)
        mode = self.binarize
        if mode == "auto":
            grey = self.data in _GREY_IMAGES and self.likelihood == "bernoulli"
            mode = "static" if grey else "none"
        # The binarisation is part of the data, not of the run: every seed sees the same images.
        return dataset.binarized(mode, seed=derive_seed(0, Stream.BINARIZATION))

    def build_vae(self, dataset: Dataset) -> VAE:
        """A newly initialised model and guide for the data."""
        require_known("activation", self.activation, ACTIVATIONS)
        with seeded(self.seed, Stream.INITIALIZATION):
            encoder = MLP(dataset.features, self.hidden, 2 * self.latent, self.activation)
            body = MLP(self.latent, self.hidden[::-1], dataset.features, self.activation)
            prior = resolve("prior", self.prior, PRIORS)(self.latent)
            decoder = _decoder(self.likelihood, body, dataset.train)
        return VAE(prior, decoder, DiagonalNormalEncoder(encoder))


def _decoder(likelihood: str, network: MLP, train: torch.Tensor) -> nn.Module:
    name, _, argument = likelihood.partition(":")
    require_known("likelihood", name, LIKELIHOODS)
    mean = train.mean(0)
    if name == "bernoulli":
        if argument:
            raise ValueError(f"likelihood {likelihood!r}: bernoulli takes no argument.")
        return BernoulliDecoder(network, mean)
    if not argument:
        # Starting from the data's own spread, the first updates are not thrown far off.
        start = max(train.std().item(), 1e-3)
        return NormalDecoder(network, start, learn_scale=True, data_mean=mean)
    try:
        scale = float(argument)
    except ValueError:
        scale = math.nan
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"likelihood {likelihood!r}: the scale must be a positive number.")
    return NormalDecoder(network, scale, data_mean=mean)
