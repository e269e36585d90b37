"""A trained run, opened from its folder: its model, its rows, and what is known of both."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from pyro import validation_enabled
from torch import Tensor

from ppl_vae import baselines  # for its names, which are imported at their first use
from ppl_vae.data import (
    DATASETS,
    Dataset,
    Rows,
    RowTensor,
    column_range,
    read_rows,
    row_chunks,
    select,
    settled,
)
from ppl_vae.devices import resolve_device
from ppl_vae.evidence import Evidence
from ppl_vae.identity import Identity, Source, hash_tensors, hash_values
from ppl_vae.names import ValuesError, plural
from ppl_vae.particles import ChunkSize, Programs, draw_particles, evaluation, point_site
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs._build import Model, trained_parameters
from ppl_vae.runs._config import RunConfig, config_of
from ppl_vae.runs._finished import finished_of, put_finished, read_chosen
from ppl_vae.runs._origin import (
    CHECKPOINT,
    CONFIG,
    DAMAGED,
    DATA,
    RECORD,
    DataSummary,
    origin_of,
    read_config,
    require_as_written,
    require_same_data,
)
from ppl_vae.runs._phases import read_phases
from ppl_vae.store import read_sealed
from ppl_vae.training import History, Snapshot, load_parameters

Split = Literal["train", "valid", "test"]
_ROWS = 1000


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
    vae: Model
    history: History
    load: Callable[[], Dataset]
    data_root: Path | None = None
    trust: bool = False

    def __repr__(self) -> str:
        objective, seed = self.config.objective, self.config.seed
        of = f"{objective} on {self.data.name}, seed {seed}, {self.history!r}"
        return f"Run({str(self.folder)!r}: {of})"

    @cached_property
    def dataset(self) -> Dataset:
        """The data it was trained on, loaded when they are first asked for.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they are others.
        """
        dataset = _loaded(self.load, self.folder, self.config, "give other rows, file=FILE")
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

    @property
    def fitted(self) -> dict[str, Any]:
        """Plain values of what was chosen after training, such as the scale of an autoencoder."""
        return read_chosen(self.folder)

    @cached_property
    def unfinished(self) -> str | None:
        """A line that says that training goes on, or broke off; None where it has ended.

        Also where no record tells, as in a folder that holds the parameters alone.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return None
        state = read_sealed(path, DAMAGED).get("state")
        if state == "done":
            return None
        return (
            f"the run in {self.folder} is not done: all that is said of it is of the parameters "
            f"after {plural(len(self.history), 'epoch')}; go on with it for those of the whole run"
        )

    @cached_property
    def divergence(self) -> str | None:
        """A line that says why training has diverged; None where it has not, or nothing tells."""
        path = self.folder / RECORD
        found = read_sealed(path, DAMAGED) if path.is_file() else {}
        return found.get("divergence")

    def own_evidence(self, rows: Rows) -> Evidence | None:
        """Log p(x) in the model's own way, exact or by its log Z; None: it has none.

        Args:
            rows: The data.
        """
        return self.config.model.kind.evidence(self.vae, rows, finished_of(self.folder))

    @property
    def phases(self) -> dict[str, History]:
        """Learning curves of phases of training before the last, by name, in order."""
        return read_phases(self.folder)

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
            data: RowTensor = getattr(self.dataset, split)
            source = Source(self.data.name, split)
        else:
            data = read_rows(file, self.data.schema)
            require_support([data], self.vae, str(file))
            source = Source(Path(file).name)
        if limit is None or limit >= len(data):
            return Rows(data, source)
        # Always the same subset: evaluations of two runs on it can be paired.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        return Rows(settled(select(data, order[:limit])), replace(source, limit=limit))

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
    config = config_of(folder, saved["config"], trust=trust)
    checkpoint, summary = Snapshot.load(folder / CHECKPOINT), DataSummary.load(folder / DATA)
    _require_own(checkpoint, folder, config, summary.sha256)
    require_as_written(folder)
    load = partial(config.load, data_root)
    # Without the data first: the folder of a run can be passed on alone.
    vae = config.build_vae(summary.stand_in())
    if fixed_tensors(vae) != saved.get("fixed_sha256"):
        # The model holds rows of the data, which are not in the checkpoint.
        dataset = _loaded(load, folder, config, "train anew: the model holds rows of it")
        require_same_data(folder, summary.sha256, dataset)
        vae = config.build_vae(dataset)
    load_parameters(trained_parameters(vae), checkpoint.best, f"checkpoint in {folder}")
    # What training keeps outside of parameters, such as a running scale.
    if isinstance(vae, baselines.Baseline):
        buffers = dict(vae.named_buffers())
    else:
        buffers = Programs(vae.model, vae.guide).modules(summary.rows[:1]).buffers
    load_parameters(buffers, checkpoint.best_buffer, f"checkpoint in {folder}")
    put_finished(folder, config, vae)
    vae.to(resolve_device(device)).eval()
    return Run(folder, config, summary, vae, checkpoint.history, load, data_root, trust)


def _require_own(checkpoint: Snapshot, folder: Path, config: RunConfig, data_sha256: str) -> None:
    """Check that a checkpoint is of the run that its folder says, and name what is not."""
    other = checkpoint.differences(origin_of(config, data_sha256))
    if not other:
        return
    objective = config.build_objective()
    # The settings of training stand in the file as they are, those of the model as a hash alone.
    settings: dict[str, Any] = {"seed": config.seed}
    if objective is not None:
        settings |= {"objective": repr(objective), **config.training.to_json()}
    named = checkpoint.differences(settings)
    # The hash of all settings says nothing more, where one of them is named.
    other = named + [each for each in other if not (named and each.startswith("config "))]
    raise ValueError(
        f"{folder / CHECKPOINT} is of another run than {folder / CONFIG} says "
        f"({'; '.join(other)}): bring back a copy of the run's own file, or train anew in another "
        "folder."
    )


def _loaded(
    load: Callable[[], Dataset], folder: Path, config: RunConfig, otherwise: str
) -> Dataset:
    """Load the data of a run; a file that is gone is named, with what to do without it."""
    try:
        return load()
    except (FileNotFoundError, IsADirectoryError) as error:
        files = {config.dataset.data, config.dataset.test_data} - {None, *DATASETS}
        gone = [str(file) for file in files if not Path(str(file)).expanduser().is_file()]
        if not gone:
            raise
        raise FileNotFoundError(
            f"the run in {folder} was trained on {gone[0]}, which is not there: bring it back, or "
            f"{otherwise}."
        ) from error


def fixed_tensors(vae: Model) -> str:
    """Hash of what a checkpoint does not hold: frozen parameters, buffers that are not saved."""
    saved = vae.state_dict()
    trained = trained_parameters(vae)
    frozen = {name: value for name, value in vae.named_parameters() if name not in trained}
    # Buffers that are not persistent are in no state_dict, so in no checkpoint.
    unsaved = {name: value for name, value in vae.named_buffers() if name not in saved}
    return hash_tensors({**frozen, **unsaved})


def is_point_guide(vae: Model, x: Tensor) -> bool:
    """Whether q(z|x) is a point without a density, trained or not.

    Args:
        vae: The model and guide.
        x: A row of data.
    """
    # What the model says of x is of no interest, nor whether x is binarised.
    with torch.no_grad(), validation_enabled(False), seeded(0, Stream.SAMPLING):
        particles = draw_particles(vae.model, vae.guide, x, check_finite=False)
    return point_site(particles.guide) is not None


def require_support(checked: Iterable[RowTensor], vae: Model, what: str | None = None) -> None:
    """Check, before anything is computed, that p(x|z) takes all of the data.

    Of lazy rows the least and the greatest values are checked, and some rows; all of them where
    they are read, as pyro checks what it is given.

    Args:
        checked: Data.
        vae: The model.
        what: Name of the data for the message; None: torch's own message.

    Raises:
        ValueError: If a value is outside the support of the likelihood.
    """
    if isinstance(vae, baselines.Baseline):
        _require_data(checked, vae, what)
        return
    device = next(vae.parameters()).device
    with torch.no_grad(), validation_enabled(), seeded(0, Stream.SAMPLING):
        try:
            # In pieces, so that memory does not grow with the data.
            for part in (part for x in checked for part in row_chunks(_telling(x), _ROWS)):
                vae.generate(len(part)).log_prob(part.to(device))
        except ValueError as error:
            if what is None:
                raise
            # Its remedy is for whoever chooses the model, which is trained here.
            told = error.problem if isinstance(error, ValuesError) else str(error)
            reason = " ".join(told.split())[:200]
            raise ValueError(
                f"{what}: rows are not such as the model was trained on: {reason}"
            ) from error


def _require_data(
    checked: Iterable[RowTensor], model: baselines.Baseline, what: str | None
) -> None:
    """Let a baseline check the data itself: its draws may take long chains."""
    for x in checked:
        try:
            model.require_data(model.read(x))
        except ValueError as error:
            if what is None:
                raise
            raise ValueError(
                f"{what}: rows are not such as the model was trained on: {error}"
            ) from error


def _telling(x: RowTensor) -> Tensor:
    """Rows that tell whether values are in a support."""
    if isinstance(x, Tensor):
        return x
    ends = column_range(x)
    # A column without values has no ends, but missing cells alone.
    return torch.cat([ends.where(ends.isfinite(), torch.nan), x[:_ROWS]])
