"""A trained run, opened from its folder: its model, its rows, and what is known of both."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from pyro import validation_enabled
from torch import Tensor, nn

from ppl_vae.data import Dataset, Rows, read_rows
from ppl_vae.devices import resolve_device
from ppl_vae.identity import Identity, Source, hash_tensors, hash_values
from ppl_vae.particles import ChunkSize, Programs, draw_particles, evaluation, point_site
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs._config import RunConfig
from ppl_vae.runs._origin import DataSummary, origin_of, read_config, require_same_data
from ppl_vae.runs._record import CHECKPOINT, DATA
from ppl_vae.training import History, Snapshot, load_parameters
from ppl_vae.vae import VAE, HierarchicalVAE

Split = Literal["train", "valid", "test"]
_ROWS = 1000
TOLERATED_ERROR = 0.1
"""Largest standard error of log Z, in nats, before every log p(x) is in doubt by it."""


@final
@dataclass(frozen=True)
class Run:
    """A trained run: its configuration, its model with the kept parameters, its data if needed.

    Attributes:
        folder: Folder of its files.
        config: Its settings.
        data: Summary of the data.
        vae: The model and guide, with the parameters that were kept.
        history: Learning curves.
        load: Loads the data.
        data_root: Folder of the data sets.
        trust: Whether classes from outside of this package were taken.
    """

    folder: Path
    config: RunConfig
    data: DataSummary
    vae: VAE | HierarchicalVAE
    history: History
    load: Callable[[], Dataset]
    data_root: Path | None = None
    trust: bool = False

    @cached_property
    def dataset(self) -> Dataset:
        """The data it was trained on, loaded when they are first asked for.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they are others.
        """
        dataset = self.load()
        require_same_data(self.folder, self.data.sha256, dataset)
        return dataset

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.vae.parameters()).device

    @property
    def origin(self) -> str:
        """Hash of the settings and the data; files of the run carry it."""
        return hash_values(origin_of(self.config, self.data.sha256))

    @property
    def has_discrete_data(self) -> bool:
        """Whether p(x|z) is a probability, so that bits per dimension are a code, or a density."""
        with torch.no_grad(), seeded(0, Stream.SAMPLING):
            return bool(self.vae.generate(1).support.is_discrete)

    @property
    def has_point_guide(self) -> bool:
        """Whether q(z|x) is a point; what is maximised is then log p(x, z) there, and no bound."""
        return is_point_guide(self.vae, self.data.rows[:1].to(self.device))

    def rows(
        self,
        split: Split = "test",
        limit: int | None = None,
        file: str | os.PathLike[str] | None = None,
    ) -> Rows:
        """Test, validation or training data, or those of another file.

        Args:
            split: Which of the run's data.
            limit: At most so many, a fixed random subset.
            file: A file whose rows are taken in place of a split; columns are matched by name.

        Raises:
            FileNotFoundError: If the data or the file are not there.
            ValueError: If rows of the file are not such as the model was trained on, or limit is
                less than 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be 1 or more rows, got {limit}.")
        if file is None:
            data: Tensor = getattr(self.dataset, split)
            source = Source(self.data.name, split)
        else:
            data = read_rows(file, self.data.schema)
            require_support([data], self.vae, str(file))
            source = Source(Path(file).name)
        if limit is None or limit >= len(data):
            return Rows(data, source)
        # Always the same subset: evaluations of two runs on it can be paired.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        return Rows(data[order[:limit]], replace(source, limit=limit))

    def identity(self, settings: str, rows: Rows, seed: int | None) -> Identity:
        """Identity of several numbers of this run together; each has one of its own.

        Args:
            settings: What is computed, and how, in words.
            rows: The data.
            seed: Seed of the draws.
        """
        programs = Programs(self.vae.model, self.vae.guide)
        with evaluation(programs, rows, ChunkSize(1, of_draws=False), device=self.device) as look:
            return look.identity(settings, seed)


def open_run(
    folder: str | os.PathLike[str],
    *,
    data_root: Path | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Run:
    """Read a run back, with the parameters it kept; its data need not be there.

    Args:
        folder: Of the run, or of a study's cell.
        data_root: Folder of the data sets.
        device: Where to put the model.
        trust: Take classes from outside of this package that the folder names: their code then
            runs, whoever wrote the folder.

    Raises:
        FileNotFoundError: If the folder holds no run; also if the model holds rows of the training
            data and they are not there.
        ValueError: If a file of it is damaged, or of another run, or it names classes of others
            without ``trust``.
    """
    folder = Path(folder)
    saved = read_config(folder)
    config = RunConfig.from_mapping(saved["config"], trust=trust)
    checkpoint, summary = Snapshot.load(folder / CHECKPOINT), DataSummary.load(folder / DATA)
    trained_on = checkpoint.identity
    for name, expected in origin_of(config, summary.sha256).items():
        if trained_on.get(name) != expected:
            raise ValueError(
                f"{folder / CHECKPOINT} is of a run with other {name} than {folder} says: bring "
                "back a copy of the run's own files, or train anew."
            )
    load = partial(config.load, data_root)
    # Without the data first: the folder of a run can be passed on alone.
    vae = config.build_vae(summary.stand_in())
    if fixed_tensors(vae) != saved.get("fixed_sha256"):
        # The model holds rows of the data, which are not in the checkpoint.
        dataset = load()
        require_same_data(folder, summary.sha256, dataset)
        vae = config.build_vae(dataset)
    load_parameters(
        {name: value for name, value in vae.named_parameters() if value.requires_grad},
        checkpoint.best,
        f"checkpoint in {folder}",
    )
    # What training keeps outside of parameters, such as a running scale.
    buffers = Programs(vae.model, vae.guide).modules(summary.rows[:1]).buffers
    load_parameters(buffers, checkpoint.best_buffer, f"checkpoint in {folder}")
    vae.to(resolve_device(device)).eval()
    return Run(folder, config, summary, vae, checkpoint.history, load, data_root, trust)


def fixed_tensors(vae: VAE | HierarchicalVAE) -> str:
    """Hash of what a checkpoint does not hold: frozen parameters, buffers that are not saved."""
    saved = vae.state_dict()
    frozen = {name: value for name, value in vae.named_parameters() if not value.requires_grad}
    # Buffers that are not persistent are in no state_dict, so in no checkpoint.
    unsaved = {name: value for name, value in vae.named_buffers() if name not in saved}
    return hash_tensors({**frozen, **unsaved})


def is_point_guide(vae: VAE | HierarchicalVAE, x: Tensor) -> bool:
    """Whether q(z|x) is a point without a density, trained or not.

    Args:
        vae: The model and guide.
        x: A row of data.
    """
    # What the model says of x is of no interest, nor whether x is binarised.
    with torch.no_grad(), validation_enabled(False), seeded(0, Stream.SAMPLING):
        particles = draw_particles(vae.model, vae.guide, x, check_finite=False)
    return point_site(particles.guide) is not None


def require_support(
    checked: Iterable[Tensor], vae: VAE | HierarchicalVAE, what: str | None = None
) -> None:
    """Check, before anything is computed, that p(x|z) takes all of the data.

    Args:
        checked: Data.
        vae: The model.
        what: Name of the data for the message; None: torch's own message.

    Raises:
        ValueError: If a value is outside the support of the likelihood.
    """
    device = next(vae.parameters()).device
    with torch.no_grad(), validation_enabled(), seeded(0, Stream.SAMPLING):
        # In pieces, so that memory does not grow with the data.
        for part in (part for x in checked for part in x.split(_ROWS)):
            try:
                vae.generate(len(part)).log_prob(part.to(device))
            except ValueError as error:
                if what is None:
                    raise
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"{what}: rows are not such as the model was trained on: {reason}"
                ) from error


@final
@dataclass(frozen=True)
class Normalizer:
    """An estimate of log Z, where p(z) is known up to Z.

    Every log p(x) is too large or too small by the same error, which no interval over draws or
    data holds: not an estimate's, nor that of a difference between two models.

    Attributes:
        name: Name of the module, such as ``prior``.
        value: Estimate of log Z, in nats.
        standard_error: Standard error of the estimate, in nats.
    """

    name: str
    value: float
    standard_error: float

    def __str__(self) -> str:
        if math.isinf(self.standard_error):
            return (
                f"not to be trusted: log Z of {self.name} = {self.value:.3f} is estimated from too "
                "few effective draws to tell its error, which all log p(x) share"
            )
        text = (
            f"log Z of {self.name} = {self.value:.3f} is estimated, with standard error "
            f"{self.standard_error:.2g} nats: all log p(x) share this error, and no interval here "
            "holds it"
        )
        return text if self.standard_error <= TOLERATED_ERROR else f"not to be trusted: {text}"

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values, for JSON, which has no infinity."""
        error = None if math.isinf(self.standard_error) else self.standard_error
        return {"name": self.name, "value": self.value, "standard_error": error}


def find_normalizers(model: nn.Module) -> list[Normalizer]:
    """The estimated constants of a model in evaluation; none where all are known exactly.

    A module of the model states its own by a method ``log_normalizer() -> (log Z, its standard
    error)``, as :class:`~ppl_vae.priors.EnergyPrior` does and a prior of your own may; an error of
    0 is that of a known constant.

    Raises:
        TypeError: If such a method returns something else.
    """
    normalizers = []
    for name, module in model.named_modules():
        method = getattr(module, "log_normalizer", None)
        if not callable(method):
            continue
        stated: Any = method()
        try:
            value, error = stated
            normalizers.append(Normalizer(name, float(value), float(error)))
        except (TypeError, ValueError, RuntimeError) as problem:
            raise TypeError(
                f"log_normalizer() of {name} returned {type(stated).__name__}, expected two "
                "numbers: log Z and its standard error in nats."
            ) from problem
    return [each for each in normalizers if each.standard_error != 0]
