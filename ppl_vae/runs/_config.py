"""One training run as plain values, and the objects those values name."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, final, get_args, get_origin, get_type_hints

from ppl_vae.components import ComponentSpec
from ppl_vae.data import TABLE_SUFFIXES, Dataset, load_dataset
from ppl_vae.identity import hash_values
from ppl_vae.likelihoods import BernoulliDecoder, TableDecoder
from ppl_vae.names import require_known
from ppl_vae.networks import ACTIVATIONS, DECODER_NETWORKS
from ppl_vae.objectives import Objective
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.registry import MODEL_KINDS, outside_objective, parse_objective
from ppl_vae.runs._build import ModelParts, Sizes, build
from ppl_vae.schedules import SCHEDULES, Schedule
from ppl_vae.training import STEPS, Budget
from ppl_vae.vae import VAE, HierarchicalVAE

BINARIZATIONS = ("auto", "none", "static", "dynamic")
_SHOWN = 100
LIMITS = ("updates", "seconds", "decoder_evaluations")
"""Settings that end training in place of ``epochs``; at most one of the four is given."""
READING = (
    "separator", "header", "decimal", "thousands", "missing", "drop", "test_data",
    "valid_fraction", "test_fraction", "split_seed",
)  # fmt: skip
"""Settings of how data are read and split, which `load_dataset` takes by the same names."""
EPOCHS = 100
"""Passes over the training data, where nothing else limits training."""
_GREY_IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot")


@final
@dataclass(frozen=True)
class RunConfig:
    """What one training run is, completely: the same values give the same numbers.

    Attributes:
        data: Name of a data set, or path of a file.
        columns: Of a table, column to kind, for columns that are not what they look like.
        separator: Of a .csv file: ``auto``, ``tab``, ``space`` or a character.
        header: Whether its first row names the columns: ``auto``, ``yes`` or ``no``.
        decimal: Of numbers in text: ``auto``, ``.`` or ``,``.
        thousands: Character between groups of three digits, or None.
        missing: Words for missing cells of a table; None: the usual ones.
        drop: Columns of a table to leave out.
        test_data: File of the test rows; None: they are split off.
        valid_fraction: Share of a file's rows for validation; None: 0.1.
        test_fraction: Share for test; None: 0.1.
        split_seed: Of the permutation that splits a file's rows; None: a constant.
        allow_missing: Take NaN for a missing cell; a table of mixed columns always does.
        binarize: ``none``, ``static``, ``dynamic``, or ``auto``: static for a named set of grey
            images under a Bernoulli likelihood, none otherwise.
        objective: Such as ``elbo``, ``iwae:50`` (K particles), ``elbo+beta:4``, ``module:Class:7``.
        prior: p(z), as :mod:`ppl_vae.components` says: ``normal``, ``module:Class:3``, ...
        likelihood: p(x|z): ``bernoulli``, ``normal`` (learned scale), ``normal:0.5`` (fixed), ...;
            ``auto``: ``table`` for .csv and .parquet files, else ``bernoulli``.
        guide: q(z|x): ``normal``, ...; of a hierarchy ``normal`` (bottom-up) or ``ladder``.
        network: Bodies of encoder and decoder: ``mlp``, ...
        latent: Latent dimensions; several, from the data upwards, make a hierarchy.
        hidden: Hidden layer sizes of the encoder, mirrored in the decoder.
        upper_hidden: Those between layers of latents; None: the same.
        activation: Of the hidden layers.
        epochs: Passes over the training data; None: 100, unless one of the next three is given.
        updates: Batches that the model is updated on.
        seconds: Training time, without validation.
        decoder_evaluations: Particles times batch, summed over all draws in training.
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
    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str = "auto"
    header: str = "auto"
    decimal: str = "auto"
    thousands: str | None = None
    missing: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    test_data: str | None = None
    valid_fraction: float | None = None
    test_fraction: float | None = None
    split_seed: int | None = None
    allow_missing: bool = False
    binarize: str = "auto"
    objective: str = "elbo"
    prior: ComponentSpec = "normal"
    likelihood: ComponentSpec = "auto"
    guide: ComponentSpec = "normal"
    network: ComponentSpec = "mlp"
    latent: int | tuple[int, ...] = 50
    hidden: tuple[int, ...] = (200, 200)
    upper_hidden: tuple[int, ...] | None = None
    activation: str = "tanh"
    epochs: int | None = None
    updates: int | None = None
    seconds: float | None = None
    decoder_evaluations: int | None = None
    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: str = "constant"
    clip_norm: float | None = None
    patience: int | None = None
    validation_particles: int = 50
    step: str = "torch"
    seed: int = 0

    def __post_init__(self) -> None:
        # One layer has one way of being written, so that a run that goes on is known again.
        if isinstance(self.latent, tuple) and len(self.latent) == 1:
            object.__setattr__(self, "latent", self.latent[0])

    @property
    def budget(self) -> Budget:
        """How long to train.

        Raises:
            ValueError: If the limit is not positive, or there are two.
        """
        limits = {name: getattr(self, name) for name in ("epochs", *LIMITS)}
        if all(value is None for value in limits.values()):
            return Budget(epochs=EPOCHS)
        return Budget(**limits)

    def to_json(self) -> str:
        """The values as indented JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, trust: bool = False) -> "RunConfig":
        """The configuration with these values.

        Args:
            values: Setting to value, as a file has them.
            trust: Take classes from outside of this package, whose code then runs. Leave it where
                the values come from a file that somebody else may have written.

        Raises:
            ValueError: If a name is unknown, or names such a class without trust.
        """
        if not trust:
            require_ours(values)
        known = [field.name for field in fields(cls)]
        for name in values:
            require_known("setting", name, known)
        values = dict(values)
        for name in ("hidden", "upper_hidden", "latent", "missing", "drop"):
            if isinstance(values.get(name), list | tuple):
                values[name] = tuple(values[name])
        _require_types(values)
        return cls(**values)

    @property
    def parts(self) -> ModelParts:
        """The classes that the names stand for, with their arguments.

        Raises:
            ValueError: If a name or an argument is wrong.
        """
        return _parts(json.dumps([self.prior, self._likelihood, self.guide, self.network]))

    @property
    def _likelihood(self) -> ComponentSpec:
        if self.likelihood != "auto":
            return self.likelihood
        return "table" if Path(self.data).suffix.lower() in TABLE_SUFFIXES else "bernoulli"

    def load(self, data_root: Path | None = None) -> Dataset:
        """The data set, its columns read as the likelihood needs them, binarised as configured.

        Raises:
            ValueError: If the data are unknown, broken, or unfit.
            FileNotFoundError: If they are not there.
        """
        mixed = self.parts.likelihood.build is TableDecoder
        if self.columns and not mixed:
            raise ValueError("columns have kinds under the likelihood table only.")
        columns = self.columns if mixed else None
        dataset = load_dataset(
            self.data,
            data_root,
            allow_missing=self.allow_missing,
            columns=columns,
            **{name: getattr(self, name) for name in READING},
        )
        return self.prepare(dataset)

    def complete(self) -> dict[str, Any]:
        """All values, with class paths and every argument in place of names, as JSON has them."""
        parts = self.parts
        written = {
            name: getattr(parts, name).as_mapping() for name in ("prior", "likelihood", "guide")
        }
        # A network's name stands for two classes, an encoder's and a decoder's.
        network = {} if isinstance(self.network, str) else {"network": dict(self.network)}
        values: dict[str, Any] = json.loads(json.dumps({**asdict(self), **written, **network}))
        return values

    def objects(self) -> tuple[Objective, Schedule]:
        """The objective and the learning-rate schedule; checks all names, and the budget."""
        _ = self.parts, self.budget
        STEPS.parse(self.step)
        schedule = SCHEDULES.parse(self.schedule)(rate=self.learning_rate)
        return parse_objective(self.objective), schedule

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data set, binarised as configured."""
        # The binarisation is part of the data, not of the run: every seed sees the same images.
        return dataset.binarized(self._binarization, seed=derive_seed(0, Stream.BINARIZATION))

    @property
    def _binarization(self) -> str:
        require_known("binarisation", self.binarize, BINARIZATIONS)
        if self.binarize != "auto":
            return self.binarize
        return "static" if self.data in _GREY_IMAGES and self.takes_bits else "none"

    @property
    def identity(self) -> str:
        """A hash of all settings but the budget, which a run that goes on may have longer."""
        complete = self.complete()
        return hash_values({k: v for k, v in complete.items() if k not in ("epochs", *LIMITS)})

    @property
    def takes_bits(self) -> bool:
        """Whether the likelihood is of data in {0, 1}."""
        likelihood = self.parts.likelihood
        bits = likelihood.arguments.get("pixels") == "bernoulli"
        return likelihood.build is BernoulliDecoder or bits

    def build_vae(self, dataset: Dataset) -> VAE | HierarchicalVAE:
        """A newly initialised model and guide for the data.

        Raises:
            ValueError: If a part cannot be built as it is written.
        """
        require_known("activation", self.activation, ACTIVATIONS)
        sizes = Sizes(
            latent=(self.latent,) if isinstance(self.latent, int) else self.latent,
            hidden=self.hidden,
            upper_hidden=self.hidden if self.upper_hidden is None else self.upper_hidden,
            activation=self.activation,
        )
        with seeded(self.seed, Stream.INITIALIZATION):
            return build(self.parts, sizes, dataset, self.seed)


def _require_types(values: Mapping[str, Any]) -> None:
    """Check that values are of their settings' annotated types.

    Raises:
        ValueError: If one is not; names it.
    """
    hints = get_type_hints(RunConfig)
    for name, value in values.items():
        if not _is_a(value, hints[name]):
            kind = type_in_words(name)
            shown = repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]} ..."
            raise ValueError(f"setting {name} cannot be {shown}: it is {kind}.")


def type_in_words(name: str) -> str:
    """Annotated type of a setting, such as ``tuple[int, ...]``."""
    hint = get_type_hints(RunConfig)[name]
    plain = isinstance(hint, type) and not get_args(hint)
    return hint.__name__ if plain else re.sub(r"\b[a-z_]+\.(?=[\w.]*\w)", "", str(hint))


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotated type; whole numbers are numbers too."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_a(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(entry, inner[0]) for entry in value)
    if origin is Mapping:
        keys = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return keys and all(_is_a(entry, inner[1]) for entry in value.values())
    if hint is Any:
        return True
    if hint in (int, float):
        allowed = int if hint is int else (int, float)
        # Beyond, a whole number is none for torch, nor for a float.
        small = not isinstance(value, int) or abs(value) < 1 << 63
        return isinstance(value, allowed) and not isinstance(value, bool) and small
    return isinstance(value, hint)


def require_ours(values: Mapping[str, Any]) -> None:
    """Check that settings name classes of this package only; imports nothing.

    Raises:
        ValueError: If one names another class.
    """
    outside = outside_objective(values.get("objective"))
    for name, kind in MODEL_KINDS.items():
        outside = outside or kind.outside_class(values.get(name))
    if outside is not None:
        raise ValueError(
            f"the file names {outside[:100]!r}, which is no class of this package: to import it "
            "runs its code; if you trust the file and that code, give trust=True."
        )


# A study of a thousand runs names the same few components again and again.
@lru_cache(maxsize=256)
def _parts(written: str) -> ModelParts:
    prior, likelihood, guide, network = json.loads(written)
    return ModelParts(
        prior=MODEL_KINDS["prior"].parse(prior),
        likelihood=MODEL_KINDS["likelihood"].parse(likelihood),
        guide=MODEL_KINDS["guide"].parse(guide),
        encoder_network=MODEL_KINDS["network"].parse(network),
        decoder_network=DECODER_NETWORKS.parse(network),
    )
