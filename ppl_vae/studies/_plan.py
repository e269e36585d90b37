"""Plan of a study: arms by seeds, and what is measured of each."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, final

from ppl_vae.engines import Resources
from ppl_vae.evidence import build_estimator
from ppl_vae.files import require_file_name
from ppl_vae.identity import hash_values
from ppl_vae.names import describe, plural, require_known, require_least
from ppl_vae.runs import RunConfig, RunRecord, Split
from ppl_vae.settings import settings_of

CELLS = "cells"
MEASURES = {
    "decomposition": "log-likelihood, KL of each site, active units",
    "bound_curve": "the importance-weighted bound against K",
    "codes": "reconstruction error, and how sparse codes are",
    "pictures": "samples and reconstructions of the first seed",
    "gradients": "signal-to-noise ratio of the gradients against K, of the first seed",
    "sandwich": "annealing from both sides on simulated data, of the first seed",
}
"""Measures of a trained run beside log p(x)."""

FIRST_SEED_ONLY = ("pictures", "gradients", "sandwich")
"""Measured of one run of each arm: they show what an arm is like, and take long."""

MEASURED = ("decomposition", "bound_curve", "pictures")
"""Measures that are taken unless a study says otherwise."""

_SPEAKING = ("model", "objective", "prior", "likelihood", "guide", "network")
"""Factors whose levels say by themselves what they are."""

_SHARED = {
    "data": "differences are paired by datum: plan a study for each data set",
    "seed": "seeds are not levels: give them as seeds",
}
"""Settings that arms of one study cannot differ in, and what to do instead."""

_LONGEST = 80


@final
@dataclass(frozen=True)
class Arm:
    """One combination of levels.

    Attributes:
        config: The settings of its runs.
        levels: Factor to the label of its level.
    """

    config: RunConfig
    levels: dict[str, str]


def build_arms(config: RunConfig, factors: Mapping[str, Sequence[Any]]) -> dict[str, Arm]:
    """Label to arm, for each combination of the levels; all names are checked.

    A label names what varies: ``iwae:50`` where only the objective does, ``iwae:50 vamp:50`` where
    the prior does too, ``learning_rate=0.01``.

    Args:
        config: Settings that all arms share.
        factors: Setting to its levels, one or more.

    Raises:
        ValueError: If a name is wrong, or a level is there twice.
    """
    for factor, values in factors.items():
        _check_factor(factor, values)
    varying = [factor for factor, values in factors.items() if len(values) > 1] or ["objective"]
    arms: dict[str, Arm] = {}
    for combination in product(*factors.values()):
        chosen = dict(zip(factors, combination, strict=True))
        arm = config.changed(**chosen)
        # Called for its errors: a wrong name is found before any cell is trained.
        arm.build_objective()
        # The value as it is kept, so that levels written in two ways are found to be the same.
        given = arm.values()
        label = " ".join(_label(factor, given[factor]) for factor in varying)
        if label in arms:
            raise ValueError(f"arms must differ, got {label} twice.")
        arms[label] = Arm(arm, {name: level_label(value) for name, value in chosen.items()})
    return arms


def _check_factor(factor: str, values: Sequence[Any]) -> None:
    require_known("factor", factor, settings_of(RunConfig))
    if factor in _SHARED:
        raise ValueError(f"{factor} cannot be a factor: {_SHARED[factor]}.")
    if not values:
        raise ValueError(f"factor {factor} needs a level or more, got none.")


def _label(factor: str, value: Any) -> str:
    text = level_label(value)
    return text if factor in _SPEAKING else f"{factor}={text}"


def level_label(value: Any) -> str:
    """Label of a level in tables."""
    if isinstance(value, Mapping) and "class_path" in value:
        name = re.split(r"[.:]", str(value.get("class_path")))[-1]
        given = (value.get("init_args") or {}).items()
        return f"{name}:{','.join(f'{key}={entry}' for key, entry in given)}" if given else name
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def folder_name(label: str, seed: int) -> str:
    """A cell's folder: the label with ``-`` for colons and spaces.

    A label that is long, or holds what a file system may not take, is cut and gets its hash.
    """
    plain = label.replace(":", "-").replace(" ", "-")
    name = re.sub(r"[^A-Za-z0-9_.+,=-]", "-", plain)
    if name != plain or len(name) > _LONGEST:
        # A cut or changed label might equal another's: the hash keeps their folders apart.
        name = f"{name[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{name}-seed{seed}"


def _num_particles(config: RunConfig) -> int:
    objective = config.build_objective()
    return 1 if objective is None else objective.num_particles


@final
@dataclass(frozen=True)
class Method:
    """A way to estimate log p(x), with its options.

    Attributes:
        name: Name of the estimator, with arguments or without: ``iwae``, ``ais:num_chains=4``.
        options: Arguments by name, ``num_`` left out; all others have their defaults.
        label: Name of the method in tables and files.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            # A file of the cell and a group of the results are called by it.
            object.__setattr__(self, "label", re.sub(r"[^\w.+=-]+", "-", self.name))
        require_file_name("label of a method", self.label)
        self.build()

    def build(self) -> Any:
        """Build the estimator.

        Raises:
            ValueError: If the name or an option is wrong.
        """
        return build_estimator(self.name, self.options)


@final
@dataclass(frozen=True)
class CellPlan:
    """One training run of a study before it is made.

    Attributes:
        arm: Label of its combination of levels.
        levels: Factor to the label of its level.
        config: All settings of the run, the seed among them.
        folder: Name of its folder within the study's folder.
        measures: Measures that are taken of it beside log p(x).
        methods: Methods of estimating log p(x).
        split: The data to evaluate on.
        limit: Largest number of these data; None: all.
        shards: Parts that the evaluation is cut in.
    """

    arm: str
    levels: dict[str, str]
    config: RunConfig
    folder: str
    measures: tuple[str, ...] = ()
    methods: tuple[Method, ...] = ()
    split: Split = "test"
    limit: int | None = None
    shards: int = 1

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm} seed {self.config.seed}"

    @cached_property
    def config_hash(self) -> str:
        """Hash of the settings of its run."""
        return self.config.key

    @cached_property
    def key(self) -> str:
        """Hash of all that its results depend on, apart from the data."""
        return hash_values(
            {
                "config": self.config_hash,
                "evaluation": {
                    "methods": [asdict(method) for method in self.methods],
                    "split": self.split,
                    "limit": self.limit,
                    "shards": self.shards,
                },
                "measures": list(self.measures),
            }
        )


def read_cell(plan: CellPlan, study: Path) -> RunRecord:
    """The record of a planned cell, as it is in the folder of its study.

    Raises:
        ValueError: If it is damaged.
    """
    folder = study / CELLS / plan.folder
    return RunRecord.read(folder, plan.arm, plan.config.seed, plan.key, plan.levels)


@final
@dataclass(frozen=True)
class Study:
    """Arms by seeds, trained and evaluated alike.

    Attributes:
        config: Settings that all arms share.
        factors: Settings that vary, each with a list of levels; every combination is an arm.
        seeds: Seeds of the training runs of each arm, in a file a list or their number; two are the
            least that say anything of another training run.
        methods: Estimators of log p(x) and their options; the first one is compared by.
        split: Data that log p(x) is estimated on: test, valid or train.
        limit: Number of these data, a fixed random subset; None: all.
        shards: Parts that the evaluation of a run is cut in, each with draws of its own.
        measures: Measures beside log p(x): decomposition, bound_curve, codes, pictures; gradients
            and sandwich take longer.
        question: Question that is asked, for the report.
        reference: Arm that all others are compared with, and with no other; None: all pairs, or, of
            more than 12 arms, all with the highest.
        confidence: Level of the intervals.
        resources: Processors for a cell.
        text: The study's file; the same plan written anew if empty.
    """

    config: RunConfig
    factors: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[Method, ...] = (Method("auto"),)
    split: Split = "test"
    limit: int | None = None
    shards: int = 1
    measures: tuple[str, ...] = MEASURED
    question: str = ""
    reference: str | None = None
    confidence: float = 0.95
    resources: Resources = field(default_factory=Resources)
    text: str = ""

    def __repr__(self) -> str:
        size = f"{plural(len(self.arms), 'arm')} x {plural(len(self.seeds), 'seed')}"
        return f"Study({self.title}: {size})"

    def __post_init__(self) -> None:
        # As a configuration has them: labels and folders are made of them.
        known = settings_of(RunConfig)
        for name, given in self.factors.items():
            # Text is a sequence too, of letters.
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise ValueError(f"factor {name} is a list of levels, got {describe(given)}.")
        levels = {
            name: tuple(known[name].convert(each) for each in given) if name in known else given
            for name, given in self.factors.items()
        }
        object.__setattr__(self, "factors", levels)
        if not self.seeds:
            raise ValueError("a study needs 1 seed or more, got 0.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers from 0 on, got {list(self.seeds)}.")
        self._check_evaluation()
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must be in [0.5, 1), got {self.confidence}.")
        if self.reference is not None:
            require_known("reference", self.reference, self.arms)
        # File names are narrower than labels, and cells that share a folder would overwrite each
        # other.
        folders = [cell.folder for cell in self.cells]
        if len(set(folders)) < len(folders):
            raise ValueError("two arms would share a folder: change a label.")

    def _check_evaluation(self) -> None:
        if not self.methods:
            raise ValueError("a study needs a method of estimating log p(x), such as iwae.")
        labels = [method.label for method in self.methods]
        if len(set(labels)) < len(labels):
            raise ValueError(f"methods need labels of their own, got {labels}: give label: NAME.")
        for measure in self.measures:
            require_known("measure", measure, MEASURES)
        # A standard error over data needs two.
        if self.limit is not None and self.limit < 2:
            raise ValueError(f"limit must be 2 or more data, got {self.limit}.")
        require_least(1, shards=self.shards)

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """Label to arm."""
        return build_arms(self.config, self.factors)

    @cached_property
    def cells(self) -> list[CellPlan]:
        """Every arm with every seed.

        All arms of a seed come before the next seed, so that any beginning can be compared; those
        of many particles come first among them, so that no worker waits in the end for a long one.
        """
        arms = sorted(self.arms.items(), key=lambda each: -_num_particles(each[1].config))
        return [
            CellPlan(
                arm=label,
                levels=arm.levels,
                config=arm.config.changed(seed=seed),
                folder=folder_name(label, seed),
                measures=tuple(
                    name
                    for name in self.measures
                    if seed == self.seeds[0] or name not in FIRST_SEED_ONLY
                ),
                methods=self.methods,
                split=self.split,
                limit=self.limit,
                shards=self.shards,
            )
            for seed in self.seeds
            for label, arm in arms
        ]

    @property
    def levels(self) -> dict[str, list[str]]:
        """Factor to the labels of its levels."""
        return {name: [level_label(value) for value in v] for name, v in self.factors.items()}

    @property
    def title(self) -> str:
        """Title of tables, with the split and the data of log p(x)."""
        # Of a file the name alone: folders are nobody's business on a page that is passed on.
        return f"{self.split} log p(x) on {Path(self.config.dataset.data).stem}"
