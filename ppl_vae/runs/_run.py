"""One run in a folder: configuration, checkpoint, history, evidence."""

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from pyro import validation_enabled
from torch import Tensor

from ppl_vae.data import Dataset, Rows, binarize_batch, read_rows
from ppl_vae.devices import resolve_device
from ppl_vae.engines import exclusive
from ppl_vae.evidence import Estimator, Evidence
from ppl_vae.files import leftovers, write_atomically
from ppl_vae.identity import Identity, Source, hash_tensors, identity_of
from ppl_vae.particles import ChunkSize, Programs, draw_particles, evaluation, point_site
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs._config import RunConfig
from ppl_vae.runs._evaluations import file_of, find_evaluation, save_evaluation
from ppl_vae.runs._live import live_curves, require_tensorboard
from ppl_vae.runs._normalizers import find_normalizers
from ppl_vae.runs._summary import DataSummary
from ppl_vae.schedules import Constant
from ppl_vae.settings import flat
from ppl_vae.training import (
    LIMITS,
    EpochRecord,
    FitResult,
    History,
    Snapshot,
    fit,
    load_parameters,
)
from ppl_vae.vae import VAE, HierarchicalVAE

CONFIG, CHECKPOINT, HISTORY = "config.json", "checkpoint.safetensors", "history.csv"
DATA = "data.safetensors"
TENSORBOARD, LOCK = "tensorboard", "run.lock"
_OF_A_STUDY = ("cell.json", "log.txt")
"""Files of a study's cell that may be in the folder before its run is; locks may too."""
_ROWS = 1000
Split = Literal["train", "valid", "test"]


@final
@dataclass(frozen=True)
class Run:
    """A trained run: its configuration, its model with the kept parameters, its data if needed.

    Attributes:
        folder: Of its files.
        config: Its settings.
        data: What is known of the data without them.
        vae: The model and guide, with the parameters that were kept.
        history: Learning curves.
        load: Loads the data.
    """

    folder: Path
    config: RunConfig
    data: DataSummary
    vae: VAE | HierarchicalVAE
    history: History
    load: Callable[[], Dataset]

    @cached_property
    def dataset(self) -> Dataset:
        """The data it was trained on, loaded when they are first asked for.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they are others.
        """
        dataset = self.load()
        _require_same_data(self.folder, self.data.sha256, dataset)
        return dataset

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.vae.parameters()).device

    @property
    def has_discrete_data(self) -> bool:
        """Whether p(x|z) is a probability and no density: then bits per dimension are a code."""
        with torch.no_grad(), seeded(0, Stream.SAMPLING):
            return bool(self.vae.generate(1).support.is_discrete)

    @property
    def has_point_guide(self) -> bool:
        """Whether q(z|x) is a point: what is maximised is then log p(x, z) there, and no bound."""
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
            ValueError: If rows of the file are not such as the model was trained on.
        """
        if file is None:
            data: Tensor = getattr(self.dataset, split)
            source = Source(self.data.name, split)
        else:
            data = read_rows(file, self.data.schema)
            require_support([data], self.vae, str(file))
            source = Source(Path(file).name)
        if limit is None or limit >= len(data):
            return Rows(data, source)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        return Rows(data[order[:limit]], replace(source, limit=limit))

    def identity(self, settings: str, rows: Rows, seed: int | None) -> Identity:
        """What several numbers of this run are computed from; each has an identity of its own.

        Args:
            settings: What is computed, and how, in words.
            rows: The data.
            seed: Of the draws.
        """
        programs = Programs(self.vae.model, self.vae.guide)
        with evaluation(programs, rows, ChunkSize(1, of_draws=False), device=self.device) as look:
            return look.identity(settings, seed)


def is_point_guide(vae: VAE | HierarchicalVAE, x: Tensor) -> bool:
    """Whether q(z|x) is a point without a density, trained or not.

    Args:
        vae: The model and guide.
        x: A row of data.
    """
    # What the model says of x is of no interest, nor whether x is binarised.
    with torch.no_grad(), validation_enabled(False), seeded(0, Stream.SAMPLING):
        drawn = draw_particles(vae.model, vae.guide, x, check_finite=False)
    return point_site(drawn.guide) is not None


def train_run(
    config: RunConfig,
    folder: str | os.PathLike[str],
    *,
    data_root: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
) -> tuple[Run, FitResult]:
    """Train into ``folder``, going on from what is there if it is the same run.

    Everything is checked before anything is written. The learning curves are in ``history.csv``
    after every epoch.

    Args:
        config: The run.
        folder: Of its files; others may be there only if they are a study's.
        data_root: Folder of the data sets.
        device: Where to compute.
        progress: Show a progress bar when on a terminal.
        tensorboard: Write the curves for TensorBoard too, to ``tensorboard`` in the folder.

    Raises:
        ValueError: If the folder holds a run with other settings or on other data.
        FileNotFoundError: If the data are missing.
        ImportError: If TensorBoard is asked for and not installed.
        BlockingIOError: If another process trains there.
    """
    folder = Path(folder)
    objective = config.build_objective()
    if tensorboard:
        require_tensorboard()
    dataset = config.load(data_root)
    vae = config.build_vae(dataset)
    checked = [dataset.valid, dataset.test]
    dynamic = config.dataset.binarize == "dynamic"
    if not dynamic:
        checked.append(dataset.train)
    require_support(checked, vae)
    summary = DataSummary.of(dataset)
    _require_ours(folder, config, dataset)
    fixed = _fixed_tensors(vae)
    shown: list[Callable[[EpochRecord], None]] = []
    with ExitStack() as stack:

        def start(past: History) -> None:
            stack.enter_context(exclusive(folder / LOCK, f"run {folder}"))
            _claim(folder, config, summary, fixed)
            curves = folder / TENSORBOARD if tensorboard else None
            shown.append(stack.enter_context(live_curves(folder / HISTORY, past, curves)))

        result = fit(
            vae.model,
            vae.guide,
            objective,
            dataset.train,
            valid=dataset.valid,
            transform=binarize_batch if dynamic else None,
            device=device,
            seed=config.seed,
            checkpoint=folder / CHECKPOINT,
            progress=progress,
            on_start=start,
            on_epoch=lambda record: shown[0](record),
            origin={"config": config.identity, "data": summary.sha256},
            **flat(config.training),
        )
        write_atomically(folder / HISTORY, result.history.to_csv())
    return Run(folder, config, summary, vae, result.history, lambda: dataset), result


def open_run(
    folder: str | os.PathLike[str],
    *,
    data_root: Path | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Run:
    """Read a run back, with the parameters it kept; its data need not be there.

    Args:
        folder: Of the run.
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
    told = checkpoint.identity
    for name, expected in (("config", config.identity), ("data", summary.sha256)):
        if told.get(name) != expected:
            raise ValueError(
                f"{folder / CHECKPOINT} is of a run with other {name} than {folder} says: bring "
                "back a copy of the run's own files, or train anew."
            )
    load = partial(config.load, data_root)
    vae = config.build_vae(summary.stand_in())
    if _fixed_tensors(vae) != saved.get("fixed_sha256"):
        # Rows that the model holds are not in the checkpoint.
        dataset = load()
        _require_same_data(folder, summary.sha256, dataset)
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
    history = checkpoint.history
    return Run(folder, config, summary, vae, history, load)


def _fixed_tensors(vae: VAE | HierarchicalVAE) -> str:
    """Hash of what a checkpoint does not hold: frozen parameters, buffers that are not saved."""
    saved = vae.state_dict()
    frozen = {name: value for name, value in vae.named_parameters() if not value.requires_grad}
    passing = {name: value for name, value in vae.named_buffers() if name not in saved}
    return hash_tensors({**frozen, **passing})


def evaluate_run(
    run: Run,
    *,
    estimator: Estimator,
    split: Split = "test",
    limit: int | None = None,
    file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x) of rows, keep it in the run's folder, reuse it where it is there already.

    Every evaluation has a file of its own, named by what it is computed from. An estimator that can
    be interrupted goes on from where it was.

    Args:
        run: A trained run.
        estimator: Of log p(x).
        split: The data to evaluate on.
        limit: Only so many of them, a fixed random subset.
        file: A file of other rows, in place of a split.
        seed: Of the draws.
        progress: Show a progress bar.

    Raises:
        ValueError: If the file of the evaluation is damaged or of something else.
    """
    rows = run.rows(split, limit, file)
    estimate = partial(estimator, run.vae.model, run.vae.guide, rows, device=run.device, seed=seed)
    identity = identity_of(estimate)
    if (kept := find_evaluation(run.folder, identity)) is not None:
        return kept
    unfinished = _unfinished(run, estimator, identity)
    evidence = estimate(progress=progress, **unfinished)
    save_evaluation(evidence, file_of(run.folder, evidence), find_normalizers(run.vae))
    for leftover in unfinished.values():
        leftover.unlink(missing_ok=True)
    return evidence


def _unfinished(run: Run, estimator: Estimator, identity: Identity) -> dict[str, Any]:
    """Where an estimator that takes a checkpoint keeps what it has done of this evaluation."""
    if "checkpoint" not in inspect.signature(estimator.__call__).parameters:
        return {}
    return {"checkpoint": unfinished_file(run, identity)}


def unfinished_file(run: Run, identity: Identity) -> Path:
    """Where a computation keeps what it has done so far."""
    return run.folder / f"unfinished-{identity.key[:12]}.safetensors"


def _require_ours(folder: Path, config: RunConfig, dataset: Dataset) -> None:
    """Check that a run may go into a folder; one without a finished epoch belongs to nobody.

    Raises:
        ValueError: If another run or something else is there.
    """
    if (folder / CONFIG).exists():
        saved = read_config(folder)
        if (folder / CHECKPOINT).exists():
            require_same_settings(folder, saved["config"], config)
            _require_same_data(folder, saved.get("data_sha256"), dataset)
        return
    there = [] if (folder / CHECKPOINT).exists() else folder.glob("*")
    if any(_is_foreign(path) for path in there):
        raise ValueError(f"{folder} is not empty and holds no run: choose another folder.")


def _claim(folder: Path, config: RunConfig, summary: DataSummary, fixed: str) -> None:
    """Write what the run is."""
    content = {
        "config": config.complete(), "data_sha256": summary.sha256, "fixed_sha256": fixed
    }  # fmt: skip
    text = json.dumps(content, indent=2) + "\n"
    if not (folder / CONFIG).exists() or (folder / CONFIG).read_text() != text:
        write_atomically(folder / CONFIG, text)
    if not _is_kept(folder / DATA, summary):
        summary.save(folder / DATA)


def _is_kept(path: Path, summary: DataSummary) -> bool:
    try:
        return DataSummary.load(path).sha256 == summary.sha256
    except (FileNotFoundError, ValueError):
        return False


def _is_foreign(path: Path) -> bool:
    """Whether it is neither a study's file nor one that a kill left before the run had begun."""
    ours = path in leftovers(path.parent) or ".lock" in path.suffixes
    return not (ours or path.name in _OF_A_STUDY)


def require_same_settings(folder: Path, saved: Mapping[str, Any], config: RunConfig) -> None:
    """Check that a run planned into a folder can go on from the one that is there.

    Args:
        folder: Of the run.
        saved: The settings in the folder; compared as they are written, so that nothing that they
            name is imported.
        config: The settings planned.

    Raises:
        ValueError: If it is another run; names the settings that differ.
    """
    objective, training = config.build_objective(), config.training
    before = RunConfig.from_mapping(saved, trust=True)
    # A schedule or an annealed objective spreads over the budget; others may be given a longer one.
    may_differ = set()
    if isinstance(training.rate_at, Constant) and not objective.anneals:
        same_kind = before.training.budget.kind == training.budget.kind
        may_differ = {"epochs", *(LIMITS if same_kind else ())}
    there, here = json.loads(json.dumps(before.values())), config.complete()
    other = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in here.items()
        if name not in may_differ and there.get(name) != value
    ]
    if other:
        raise ValueError(
            f"{folder} holds a run with other settings in {CONFIG} ({'; '.join(other)}): choose "
            "another folder, or remove it."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a run's folder, and the fingerprint of its data, as plain values.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run (no {CONFIG}): make one with train_run.")
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved["config"], dict):
            raise TypeError("config is no mapping")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): bring back a copy, or train anew."
        ) from error
    return dict(saved)


def _require_same_data(folder: Path, sha256: Any, dataset: Dataset) -> None:
    if sha256 != dataset.fingerprint():
        raise ValueError(
            f"{dataset.name} differs from the data the run in {folder} was trained on: name "
            'the folder of those data (data_root="FOLDER"), or train anew in another folder.'
        )


def require_support(
    checked: Iterable[Tensor], vae: VAE | HierarchicalVAE, what: str | None = None
) -> None:
    """Fail before anything is computed, on all of the data at once, where p(x|z) takes no x.

    Args:
        checked: Data.
        vae: The model.
        what: What they are, for the message; None: torch's own.

    Raises:
        ValueError: If a value is outside the support of the likelihood.
    """
    device = next(vae.parameters()).device
    with torch.no_grad(), validation_enabled(), seeded(0, Stream.SAMPLING):
        for x in checked:
            for part in x.split(_ROWS):
                try:
                    vae.generate(len(part)).log_prob(part.to(device))
                except ValueError as error:
                    if what is None:
                        raise
                    reason = " ".join(str(error).split())[:200]
                    raise ValueError(
                        f"{what}: rows are not such as the model was trained on: {reason}"
                    ) from error
