"""One training run as plain values, and the objects that those values name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from ppl_vae.data import TABLE_SUFFIXES, Dataset, Reading, load_dataset
from ppl_vae.identity import hash_values
from ppl_vae.likelihoods import BernoulliDecoder, TableDecoder
from ppl_vae.objectives import Objective, outside_objective, parse_objective
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.runs._build import Components, Model
from ppl_vae.runs._model import MODEL_KINDS, ModelSettings
from ppl_vae.runs._origin import CONFIG
from ppl_vae.schedules import Constant
from ppl_vae.settings import changed, flat, nested, read, settings_of
from ppl_vae.training import ADDED, LIMITS, OPTIMIZERS, FitSettings

_ADDED: Mapping[str, Any] = {
    **ADDED,
    "valid_rows": None,
    "dequantize": None,
    "model": "vae",
    "corrupt": None,
    "pretrain": None,
}
"""Settings that hashes leave out at these values: see :data:`ppl_vae.training.ADDED`."""
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
        valid_rows: Number of validation rows of a named set, the last of those that it has for
            training and validation; None: as it is divided.
        valid_fraction: Share of a file's rows for validation; None: 0.1.
        test_fraction: Share of a file's rows for test; None: 0.1.
        split_seed: Seed of the permutation that splits a file's rows; None: a constant.
        allow_missing: Take NaN for a missing cell, to be left out; tables of mixed columns always
            do.
        binarize: Draw grey values in [0, 1] as 0 or 1: never (none), once (static), or afresh each
            time that a training image is seen (dynamic); auto: static for the named grey image sets
            under a Bernoulli likelihood, else none.
        dequantize: Highest grey level of values in [0, 1] (16 of digits, 255 of images of one byte)
            that get uniform noise within a level, so that they have a density; None: as they are.
    """

    data: str = "digits"
    columns: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    test_data: str | None = None
    valid_rows: int | None = None
    valid_fraction: float | None = None
    test_fraction: float | None = None
    split_seed: int | None = None
    allow_missing: bool = False
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    dequantize: int | None = None

    def __post_init__(self) -> None:
        if self.dequantize is not None and self.binarize not in ("auto", "none"):
            raise ValueError(
                f"dequantize {self.dequantize} and binarize {self.binarize}: data are real numbers "
                "or bits; leave one out."
            )

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
        objective: Objective to maximise; auto: elbo, of autoencoders reconstruction.
        model: Kind of model, prior, likelihood, guide and their networks.
        training: How to train.
        seed: Seed of everything random in the run.
        is_automatic: Whether the objective is the model's own, and so another one of another model.
    """

    dataset: DataSettings = field(default_factory=DataSettings)
    objective: str = "auto"
    model: ModelSettings = field(default_factory=ModelSettings)
    training: FitSettings = field(default_factory=FitSettings)
    seed: int = 0
    is_automatic: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        # However it was made: a file gives values of the annotated types, and what is written must
        # be what is read. 5 for 5.0 would be another run.
        for name, group in nested(type(self), _converted(self.values()), self).items():
            object.__setattr__(self, name, group)
        # What auto stands for, so that each objective has one name; a copy with another model is
        # made from auto again.
        object.__setattr__(self, "is_automatic", self.objective == "auto")
        object.__setattr__(self, "objective", self.model.kind.objective(self.objective))
        if not isinstance(self.training.optimizer, str):
            raise ValueError(
                f"optimizer {self.training.optimizer!r} has no name that a run's file can keep: "
                f"give one of {', '.join(OPTIMIZERS)}, or train with fit."
            )

    @classmethod
    def of(cls, **settings: Any) -> "RunConfig":
        """The configuration with these settings, of whichever group: ``of(latent=2, epochs=3)``.

        Raises:
            TypeError: If a name is unknown.
            ValueError: If a value is of a wrong type or out of range.
        """
        return cls(**nested(cls, _converted(settings)))

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
        automatic = {"objective": "auto"} if self.is_automatic else {}
        return changed(self, **automatic | _converted(settings))

    def values(self) -> dict[str, Any]:
        """Settings of all groups by name."""
        return flat(self)

    def given(self) -> dict[str, Any]:
        """Settings as they were given: ``auto`` for an objective that is the model's own."""
        return self.values() | ({"objective": "auto"} if self.is_automatic else {})

    def complete(self) -> dict[str, Any]:
        """All values, with class paths and every argument in place of names, as JSON has them."""
        components = self.components
        written = {
            name: getattr(components, name).as_mapping()
            for name in ("prior", "likelihood", "guide")
        }
        # A network's name stands for two classes, an encoder's and a decoder's.
        in_full = {**self.values(), **self.model.written(), **written}
        values: dict[str, Any] = json.loads(json.dumps(in_full))
        return values

    @property
    def identity(self) -> str:
        """A hash of all settings but the budget, which a run that goes on may have longer."""
        return hash_values({k: v for k, v in self._hashed().items() if k not in LIMITS})

    @property
    def key(self) -> str:
        """A hash of all settings."""
        return hash_values(self._hashed())

    def _hashed(self) -> dict[str, Any]:
        """All values but those that stand for what a run was before there was the setting."""
        return {
            name: value
            for name, value in self.complete().items()
            if name not in _ADDED or value != _ADDED[name]
        }

    @property
    def components(self) -> Components:
        """The classes that the model's names stand for, with their arguments.

        Raises:
            ValueError: If a name or an argument is wrong.
        """
        return self.model.components(table=self.dataset.is_table)

    def build_objective(self) -> Objective | None:
        """The objective; None of a model that is trained by a rule of its own. Checks all names.

        Raises:
            ValueError: If a name or an argument is wrong, or a setting is none of such a rule.
        """
        # Computed for its errors: a wrong name of any component is found here.
        _ = self.components
        if self.model.kind.ascends:
            return parse_objective(self.objective)
        self._require_of_rule()
        return None

    def _require_of_rule(self) -> None:
        budget, name = self.training.budget, self.objective
        if budget.kind != "epochs":
            raise ValueError(
                f"{budget.kind} {budget.limit}: training by {name} takes so many epochs: give "
                "epochs in its place."
            )
        if self.dataset.binarize == "dynamic":
            raise ValueError(
                f"binarize dynamic: training by {name} takes the same data in every epoch: give "
                "static or none."
            )

    @property
    def without_effect(self) -> list[str]:
        """Settings that are set and do nothing, as a model's own rule has its own."""
        idle = self.model.kind.idle(list(flat(self.training)))
        usual, own = RunConfig().values(), self.values()
        return [name for name in idle if own[name] != usual[name]]

    def build_vae(self, dataset: Dataset) -> Model:
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
        likelihood = self.components.likelihood.build
        mixed = likelihood is TableDecoder
        if chosen.columns and not mixed:
            raise ValueError("columns have kinds under the likelihood table only.")
        dataset = load_dataset(
            chosen.data,
            data_root,
            allow_missing=chosen.allow_missing,
            # A class of one's own states it, too.
            whole_numbers=bool(getattr(likelihood, "whole_numbers", False)),
            columns=chosen.columns if mixed else None,
            test_data=chosen.test_data,
            valid_rows=chosen.valid_rows,
            valid_fraction=chosen.valid_fraction,
            test_fraction=chosen.test_fraction,
            split_seed=chosen.split_seed,
            **flat(chosen.reading),
        )
        return self.prepare(dataset)

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data set, binarised or dequantised as configured."""
        levels = self.dataset.dequantize
        if levels is not None:
            if self.takes_bits:
                raise ValueError(
                    f"dequantize {levels} makes real numbers, and the likelihood is of bits: give "
                    "likelihood normal or another density, or leave dequantize out."
                )
            return dataset.dequantized(levels, seed=derive_seed(0, Stream.BINARIZATION))
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


def config_of(folder: Path, saved: Mapping[str, Any], *, trust: bool = False) -> RunConfig:
    """The configuration that a run's folder holds.

    Args:
        folder: Folder of the run.
        saved: The settings in it.
        trust: As of :meth:`RunConfig.from_mapping`.

    Raises:
        ValueError: If they are damaged, or name a class of others without trust.
    """
    if not trust:
        require_ours(saved)
    try:
        return RunConfig.from_mapping(saved, trust=True)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def require_same_settings(folder: Path, saved: Mapping[str, Any], config: RunConfig) -> None:
    """Check that a run planned into a folder can go on from the one that is there.

    Args:
        folder: Folder of the run.
        saved: The settings in the folder; compared as they are written, so that nothing that they
            name is imported.
        config: The settings planned.

    Raises:
        ValueError: If it is another run; names the settings that differ.
    """
    objective, training = config.build_objective(), config.training
    before = config_of(folder, saved, trust=True)
    # A schedule or an annealed objective spreads over the budget; others may be given a longer one.
    may_differ = set()
    fixed = objective is None or objective.anneals
    if isinstance(training.rate_at, Constant) and not fixed:
        same_kind = before.training.budget.kind == training.budget.kind
        may_differ = {"epochs", *(LIMITS if same_kind else ())}
    # Through JSON both ways, so that a tuple here equals the list that the file has.
    there, here = json.loads(json.dumps(before.values())), config.complete()
    other = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in here.items()
        if name not in may_differ and there.get(name) != value
    ]
    if objective is None and len(other) == 1 and there.get("epochs") != here["epochs"]:
        raise ValueError(
            f"{folder} holds a run of {there.get('epochs')} epochs, and training by "
            f"{config.objective} cannot be made longer: choose another folder, or remove it."
        )
    if other:
        raise ValueError(
            f"{folder} holds a run with other settings in {CONFIG} ({'; '.join(other)}): choose "
            "another folder, or remove it."
        )


def _converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, each of its own type; unknown ones as they are."""
    known = settings_of(RunConfig)
    return {n: known[n].convert(value) if n in known else value for n, value in values.items()}
