"""One training run as plain values, and the objects that those values name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from ppl_vae.data import TABLE_SUFFIXES, Dataset, Reading, load_dataset
from ppl_vae.identity import hash_values
from ppl_vae.likelihoods import BernoulliDecoder, TableDecoder
from ppl_vae.objectives import Objective
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.registry import MODEL_KINDS, outside_objective, parse_objective
from ppl_vae.runs._build import Components, ModelSettings
from ppl_vae.settings import changed, flat, nested, read
from ppl_vae.training import LIMITS, FitSettings
from ppl_vae.vae import VAE, HierarchicalVAE

_GREY_IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot")


@final
@dataclass(frozen=True)
class DataSettings:
    """Data to train on, how a file of them is read and split.

    Attributes:
        data: Data set: digits (embedded), mnist, fashion-mnist, kmnist, omniglot, binarized-mnist,
            or a .npy, .npz, .csv or .parquet file with one datum a row.
        columns: Kinds of columns of a table that are not what they look like (text categorical, two
            values binary, else real): real, positive, count, binary, categorical or
            ordinal[:low<high].
        reading: How a table's file is read.
        test_data: File of the test rows, with the same columns; None: they are split off.
        valid_fraction: Share of a file's rows for validation; None: 0.1.
        test_fraction: Share of a file's rows for test; None: 0.1.
        split_seed: Seed of the permutation that splits a file's rows; None: a constant.
        allow_missing: Take NaN for a missing cell, to be left out; tables of mixed columns always
            do.
        binarize: Draw grey values in [0, 1] as 0 or 1: never (none), once (static), or afresh each
            time that a training image is seen (dynamic); auto: static for the named grey image sets
            under a Bernoulli likelihood, else none.
    """

    data: str = "digits"
    columns: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    test_data: str | None = None
    valid_fraction: float | None = None
    test_fraction: float | None = None
    split_seed: int | None = None
    allow_missing: bool = False
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"

    @property
    def is_table(self) -> bool:
        """Whether the data are a file of a table."""
        return Path(self.data).suffix.lower() in TABLE_SUFFIXES


@final
@dataclass(frozen=True)
class RunConfig:
    """What one training run is, completely: the same values give the same numbers.

    In files and on the command line the settings of all groups stand side by side.

    Attributes:
        dataset: Data to train on.
        objective: Bound to maximise.
        model: Prior, likelihood, guide and their networks.
        training: How to train.
        seed: Seed of everything random in the run.
    """

    dataset: DataSettings = field(default_factory=DataSettings)
    objective: str = "elbo"
    model: ModelSettings = field(default_factory=ModelSettings)
    training: FitSettings = field(default_factory=lambda: FitSettings(batch_size=100))
    seed: int = 0

    @classmethod
    def of(cls, **settings: Any) -> "RunConfig":
        """The configuration with these settings, of whichever group: ``of(latent=2, epochs=3)``."""
        return cls(**nested(cls, settings))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, trust: bool = False) -> "RunConfig":
        """The configuration with these values.

        Args:
            values: Setting to value, as a file has them.
            trust: Take classes from outside of this package, whose code then runs. Leave it where
                the values come from a file that somebody else may have written.

        Raises:
            ValueError: If a name is unknown, a value of a wrong type or out of range, or names such
                a class without trust.
        """
        if not trust:
            # Before anything is parsed: to parse a class path imports its module.
            require_ours(values)
        return cls.of(**read(cls, values))

    def changed(self, **settings: Any) -> "RunConfig":
        """A copy with some settings replaced, of whichever group."""
        return changed(self, **settings)

    def values(self) -> dict[str, Any]:
        """Settings of all groups by name."""
        return flat(self)

    def complete(self) -> dict[str, Any]:
        """All values, with class paths and every argument in place of names, as JSON has them."""
        components = self.components
        written = {
            name: getattr(components, name).as_mapping()
            for name in ("prior", "likelihood", "guide")
        }
        # A network's name stands for two classes, an encoder's and a decoder's.
        values: dict[str, Any] = json.loads(json.dumps({**self.values(), **written}))
        return values

    @property
    def identity(self) -> str:
        """A hash of all settings but the budget, which a run that goes on may have longer."""
        return hash_values({k: v for k, v in self.complete().items() if k not in LIMITS})

    @property
    def components(self) -> Components:
        """The classes that the model's names stand for, with their arguments.

        Raises:
            ValueError: If a name or an argument is wrong.
        """
        return self.model.components(table=self.dataset.is_table)

    def build_objective(self) -> Objective:
        """The objective; checks all names too.

        Raises:
            ValueError: If a name or an argument is wrong.
        """
        # Computed for its errors: a wrong name of any component is found here.
        _ = self.components
        return parse_objective(self.objective)

    def build_vae(self, dataset: Dataset) -> VAE | HierarchicalVAE:
        """A newly initialised model and guide for the data.

        Raises:
            ValueError: If a component cannot be built as it is written.
        """
        # A stream of its own, so that arms of a study that differ elsewhere start alike.
        with seeded(self.seed, Stream.INITIALIZATION):
            return self.model.build(self.components, dataset, self.seed)

    def load(self, data_root: Path | None = None) -> Dataset:
        """The data set, its columns read as the likelihood needs them, binarised as configured.

        Raises:
            ValueError: If the data are unknown, broken, or unfit.
            FileNotFoundError: If they are not there.
        """
        chosen = self.dataset
        mixed = self.components.likelihood.build is TableDecoder
        if chosen.columns and not mixed:
            raise ValueError("columns have kinds under the likelihood table only.")
        dataset = load_dataset(
            chosen.data,
            data_root,
            allow_missing=chosen.allow_missing,
            columns=chosen.columns if mixed else None,
            test_data=chosen.test_data,
            valid_fraction=chosen.valid_fraction,
            test_fraction=chosen.test_fraction,
            split_seed=chosen.split_seed,
            **flat(chosen.reading),
        )
        return self.prepare(dataset)

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data set, binarised as configured."""
        mode: str = self.dataset.binarize
        if mode == "auto":
            grey = self.dataset.data in _GREY_IMAGES and self.takes_bits
            mode = "static" if grey else "none"
        # The binarisation is part of the data, not of the run: every seed sees the same images.
        return dataset.binarized(mode, seed=derive_seed(0, Stream.BINARIZATION))

    @property
    def takes_bits(self) -> bool:
        """Whether the likelihood is of data in {0, 1}."""
        likelihood = self.components.likelihood
        bits = likelihood.arguments.get("pixels") == "bernoulli"
        return likelihood.build is BernoulliDecoder or bits


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
