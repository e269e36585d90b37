"""One run in a folder: configuration, checkpoint, history, evidence."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from pyro import validation_enabled
from torch import Tensor

from ppl_vae.data import Dataset, binarize_batch
from ppl_vae.devices import resolve_device
from ppl_vae.evidence import Evidence
from ppl_vae.files import leftovers, write_atomically
from ppl_vae.identity import Identity, Source, hash_rows, hash_tensors
from ppl_vae.particles import Programs, draw_particles, point_site
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs.config import LIMITS, RunConfig
from ppl_vae.runs.estimator_names import Estimator
from ppl_vae.runs.evaluations import evaluation_file, read_evaluation, save_evaluation
from ppl_vae.runs.live import live_curves, require_tensorboard
from ppl_vae.schedules import Constant
from ppl_vae.training import (
    NON_FINITE,
    Checkpoint,
    FitResult,
    History,
    fit,
    load_parameters,
    load_progress,
)
from ppl_vae.vae import VAE, HierarchicalVAE

CONFIG, CHECKPOINT, HISTORY = "config.json", "checkpoint.safetensors", "history.csv"
TENSORBOARD = "tensorboard"
_OF_A_STUDY = ("cell.json", "log.txt")
"""Files of a study's cell that may be in the folder before its run is; locks may too."""
_ROWS = 1000
Split = Literal["train", "valid", "test"]


@final
@dataclass(frozen=True)
class Run:
    """A trained run: its configuration, its data, its model with the kept parameters."""

    folder: Path
    config: RunConfig
    dataset: Dataset
    vae: VAE | HierarchicalVAE
    history: History

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
        x = self.dataset.train[:1].to(self.device)
        # What the model says of x is of no interest, nor whether x is binarised.
        with torch.no_grad(), validation_enabled(False), seeded(0, Stream.SAMPLING):
            drawn = draw_particles(self.vae.model, self.vae.guide, x, check_finite=False)
        return point_site(drawn.guide) is not None

    def rows(self, split: Split = "test", limit: int | None = None) -> "Rows":
        """Test, validation or training data; at most ``limit`` of them, a fixed random subset."""
        data: Tensor = getattr(self.dataset, split)
        source = Source(self.dataset.name, split)
        if limit is None or limit >= len(data):
            return Rows(data, source)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        return Rows(data[order[:limit]], replace(source, limit=limit))

    def identity(self, settings: str, rows: "Rows", seed: int | None) -> Identity:
        """What a number of this run is computed from: the parameters as they are in memory.

        Args:
            settings: What is computed, and how, in words.
            rows: The data.
            seed: Of the draws.
        """
        tensors = [*self.vae.named_parameters(), *self.vae.named_buffers()]
        return Identity(
            parameters=hash_tensors(dict(tensors)),
            rows=hash_rows(rows.x),
            settings=settings,
            seed=seed,
            device=self.device.type,
            source=rows.source,
        )


@final
@dataclass(frozen=True)
class Rows:
    """Data, and where they came from.

    Attributes:
        x: Shape ``(num_data, features)``.
        source: In words.
    """

    x: Tensor
    source: Source

    def __len__(self) -> int:
        return len(self.x)


def train_run(
    config: RunConfig,
    folder: Path,
    *,
    data_root: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
) -> tuple[Run, FitResult]:
    """Train into ``folder``, going on from what is there if it is the same run.

    The learning curves are in ``history.csv`` after every epoch.

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
    """
    objective, schedule = config.objects()
    if tensorboard:
        require_tensorboard()
    dataset = config.load(data_root)
    vae = config.build_vae(dataset)
    _require_support(config, dataset, vae)
    _claim(folder, config, dataset)
    past = _past(folder, config.budget.limit)
    with live_curves(folder / HISTORY, past, folder / TENSORBOARD if tensorboard else None) as show:
        result = fit(
            vae.model,
            vae.guide,
            objective,
            dataset.train,
            valid=dataset.valid,
            budget=config.budget,
            batch_size=config.batch_size,
            learning_rate=schedule,
            clip_norm=config.clip_norm,
            patience=config.patience,
            validation_particles=config.validation_particles,
            transform=binarize_batch if config.binarize == "dynamic" else None,
            step=config.step,
            device=device,
            seed=config.seed,
            checkpoint=folder / CHECKPOINT,
            progress=progress,
            on_epoch=show,
        )
    write_atomically(folder / HISTORY, result.history.to_csv())
    return Run(folder, config, dataset, vae, result.history), result


def open_run(
    folder: Path, *, data_root: Path | None = None, device: str = "auto", trust: bool = False
) -> Run:
    """Read a run back, with the parameters it kept.

    Args:
        folder: Of the run.
        data_root: Folder of the data sets.
        device: Where to put the model.
        trust: Take classes from outside of this package that the folder names: their code then
            runs, whoever wrote the folder.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If a file of it is damaged, the data are not those it was trained on, or it
            names classes of others without ``trust``.
    """
    saved = read_config(folder)
    config = RunConfig.from_mapping(saved["config"], trust=trust)
    checkpoint = Checkpoint.load(folder / CHECKPOINT)
    dataset = config.load(data_root)
    _require_same_data(folder, saved, dataset)
    vae = config.build_vae(dataset)
    load_parameters(
        {name: value for name, value in vae.named_parameters() if value.requires_grad},
        checkpoint.best,
        f"checkpoint in {folder}",
    )
    # What training keeps outside of parameters, such as a running scale.
    buffers = Programs(vae.model, vae.guide).modules().buffers
    load_parameters(buffers, checkpoint.best_buffer, f"checkpoint in {folder}")
    vae.to(resolve_device(device)).eval()
    history = History.from_json(checkpoint.progress["history"])
    return Run(folder, config, dataset, vae, history)


def evaluate_run(
    run: Run,
    *,
    estimator: Estimator,
    split: Split = "test",
    limit: int | None = None,
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
        seed: Of the draws.
        progress: Show a progress bar.

    Raises:
        ValueError: If the file of the evaluation is damaged or of something else.
    """
    rows = run.rows(split, limit)
    identity = run.identity(repr(estimator), rows, seed)
    path = evaluation_file(run.folder, identity)
    if (kept := read_evaluation(path, identity)) is not None:
        return kept
    unfinished = _unfinished(run, estimator, identity)
    evidence = estimator(
        run.vae.model,
        run.vae.guide,
        rows.x,
        device=run.device,
        seed=seed,
        progress=progress,
        **unfinished,
    )
    evidence = replace(evidence, identity=identity)
    save_evaluation(evidence, path)
    for leftover in unfinished.values():
        leftover.unlink(missing_ok=True)
    return evidence


def _unfinished(run: Run, estimator: Estimator, identity: Identity) -> dict[str, Path]:
    """Where an estimator that takes a checkpoint keeps what it has done of this evaluation."""
    if "checkpoint" not in inspect.signature(estimator.__call__).parameters:
        return {}
    return {"checkpoint": unfinished_file(run, identity)}


def unfinished_file(run: Run, identity: Identity) -> Path:
    """Where a computation keeps what it has done so far."""
    return run.folder / f"unfinished-{identity.key[:12]}.safetensors"


def _past(folder: Path, limit: float) -> History:
    """What the run goes on from, if anything."""
    path = folder / CHECKPOINT
    return History.from_json(load_progress(path, limit)["history"]) if path.exists() else History()


def _claim(folder: Path, config: RunConfig, dataset: Dataset) -> None:
    """Write the configuration, or check that the folder's own is the same but for the budget."""
    if (folder / CONFIG).exists():
        saved = read_config(folder)
        require_same_settings(folder, saved["config"], config)
        _require_same_data(folder, saved, dataset)
    elif folder.exists() and any(_is_foreign(path) for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run: choose another --out.")
    # An update that an earlier attempt failed at is found again, or is no more.
    (folder / NON_FINITE).unlink(missing_ok=True)
    content = {"config": config.complete(), "data_sha256": dataset.fingerprint()}
    text = json.dumps(content, indent=2) + "\n"
    if not (folder / CONFIG).exists() or (folder / CONFIG).read_text() != text:
        write_atomically(folder / CONFIG, text)


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
    objective, schedule = config.objects()
    before = RunConfig.from_mapping(saved, trust=True)
    # A schedule or an annealed objective spreads over the budget; others may be given a longer one.
    may_differ = set()
    if isinstance(schedule, Constant) and not objective.anneals:
        may_differ = {"epochs", *(LIMITS if before.budget.kind == config.budget.kind else ())}
    there, here = json.loads(json.dumps(asdict(before))), config.complete()
    other = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in here.items()
        if name not in may_differ and there.get(name) != value
    ]
    if other:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(other)}): choose another "
            "folder with --out, or remove it."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a run's folder, and the fingerprint of its data, as plain values.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run (no {CONFIG}): make one with ppl-vae fit.")
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved["config"], dict):
            raise TypeError("config is no mapping")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): bring back a copy, or train anew."
        ) from error
    return dict(saved)


def _require_same_data(folder: Path, saved: dict[str, Any], dataset: Dataset) -> None:
    if saved.get("data_sha256") != dataset.fingerprint():
        raise ValueError(
            f"{dataset.name} differs from the data the run in {folder} was trained on: point "
            "--data-root at those data, or train anew in another folder."
        )


def _require_support(config: RunConfig, dataset: Dataset, vae: VAE | HierarchicalVAE) -> None:
    """Fail before training starts, on all of the data at once, where the likelihood takes no x."""
    checked = [dataset.valid, dataset.test]
    if config.binarize != "dynamic":
        checked.append(dataset.train)
    with torch.no_grad(), validation_enabled(), seeded(0, Stream.SAMPLING):
        for x in checked:
            for part in x.split(_ROWS):
                vae.generate(len(part)).log_prob(part)
