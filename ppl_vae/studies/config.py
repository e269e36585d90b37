"""One training run as plain values, and the objects those values name."""

import difflib
import importlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import torch
from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder
from ppl_vae.networks import ACTIVATIONS, MLP
from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO, Objective
from ppl_vae.priors import LearnedNormal, StandardNormal
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.schedules import Burda, Constant, Cosine, Exponential, Schedule
from ppl_vae.vae import VAE

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "elbo": ELBO,
    "elbo-analytic": AnalyticELBO,
    "iwae": IWAE,
}
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
        objective: Such as ``elbo`` or ``iwae:50`` (K particles), or ``module:Class[:K]``.
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
        step: ``torch`` or ``svi``.
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
            _require_known("setting", name, known)
        values = dict(values)
        if "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(**values)

    def objects(self) -> tuple[Objective, Schedule]:
        """The objective and the learning-rate schedule; checks both names."""
        _require_known("schedule", self.schedule, SCHEDULES)
        return parse_objective(self.objective), SCHEDULES[self.schedule](self.learning_rate)

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data set, binarised as configured."""
        _require_known("binarisation", self.binarize, BINARIZATIONS)
        mode = self.binarize
        if mode == "auto":
            grey = self.data in _GREY_IMAGES and self.likelihood == "bernoulli"
            mode = "static" if grey else "none"
        # The binarisation is part of the data, not of the run: every seed sees the same images.
        return dataset.binarized(mode, seed=derive_seed(0, Stream.BINARIZATION))

    def build_vae(self, dataset: Dataset) -> VAE:
        """A newly initialised model and guide for the data."""
        _require_known("activation", self.activation, ACTIVATIONS)
        with seeded(self.seed, Stream.INITIALIZATION):
            encoder = MLP(dataset.features, self.hidden, 2 * self.latent, self.activation)
            body = MLP(self.latent, self.hidden[::-1], dataset.features, self.activation)
            prior = _resolve("prior", self.prior, PRIORS)(self.latent)
            decoder = _decoder(self.likelihood, body, dataset.train)
        return VAE(prior, decoder, DiagonalNormalEncoder(encoder))


def parse_objective(text: str) -> Objective:
    """The objective called ``name``, ``name:K``, or ``module:Class[:K]``.

    Raises:
        ValueError: If the name is unknown or K is not a positive whole number.
    """
    name, _, argument = text.partition(":")
    if name not in OBJECTIVES and "." in name and ":" in argument:
        cls, _, argument = argument.partition(":")
        name = f"{name}:{cls}"
    elif name not in OBJECTIVES and argument and not argument.isdigit():
        name, argument = text, ""
    factory: Callable[..., Objective] = _resolve("objective", name, OBJECTIVES)
    if not argument:
        if name == "iwae":
            raise ValueError("objective 'iwae' needs its number of particles, such as iwae:50.")
        return factory()
    if not argument.isdigit() or int(argument) < 1:
        raise ValueError(f"objective {text!r}: K must be a whole number of 1 or more, as {name}:50")
    return factory(int(argument))


def _decoder(likelihood: str, network: MLP, train: torch.Tensor) -> nn.Module:
    name, _, argument = likelihood.partition(":")
    _require_known("likelihood", name, LIKELIHOODS)
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


def _resolve(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The entry called ``name``, or the object at ``module:Class``."""
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        _require_known(kind, name, known)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{kind} {name!r}: {error}; use one of {', '.join(known)}, or module:Class of a class "
            "that Python can import from here."
        ) from error


def _require_known(kind: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}:{hint} known: {', '.join(names)}.")
