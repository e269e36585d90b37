"""The fitting loop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, final

import torch
from tqdm.auto import tqdm

from ppl_vae.cpu import suited
from ppl_vae.data import RowData, as_rows
from ppl_vae.devices import resolve_device
from ppl_vae.names import warn
from ppl_vae.objectives import Objective
from ppl_vae.particles import Program, Programs
from ppl_vae.progress import no_bar
from ppl_vae.training._budget import Budget
from ppl_vae.training._data import TrainingData, Transform
from ppl_vae.training._history import EpochRecord, History
from ppl_vae.training._non_finite import NonFiniteError
from ppl_vae.training._settings import read_settings, with_settings
from ppl_vae.training._snapshot import Snapshot
from ppl_vae.training._trainer import Trainer
from ppl_vae.training._workers import Workers


@final
@dataclass(frozen=True)
class FitResult:
    """Result of :func:`fit`; the model itself holds the parameters that were kept.

    Attributes:
        history: One record an epoch.
        stopped_early: Whether the validation bound ended training before the budget did.
        kept_epoch: Epoch whose parameters the model holds, the best validated one or the last.
        divergence: Why training has diverged, in a line: what the objective climbs is lower on
            training data than before the first update; None where it is not, or not known.
        phases: Histories of earlier phases of training by name, such as pretraining of layers; not
            of :func:`fit` itself, which is one phase.
    """

    history: History
    stopped_early: bool
    kept_epoch: int
    divergence: str | None = None
    phases: Mapping[str, History] = field(default_factory=dict)


@with_settings
def fit(
    model: Program,
    guide: Program,
    objective: Objective,
    train: RowData,
    *,
    valid: RowData | None = None,
    transform: Transform | None = None,
    budget: Budget | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool = True,
    on_start: Callable[[History], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    origin: Mapping[str, str] | None = None,
    workers: Workers | None = None,
    **settings: Any,
) -> FitResult:
    """Maximise the objective over all parameters of the model and guide.

    With validation data, the parameters kept are those of the epoch with the highest importance-
    weighted bound on them, the same for every objective. A guide that is a point has no such bound;
    with it they are those of the highest value of what is maximised, the joint log-density there
    or what the objective makes of it. The draws are the same in every epoch, so that epochs differ
    by their parameters alone.

    Arms can be compared at equal cost by updates, seconds or decoder evaluations in place of
    epochs. Such a limit may end training inside an epoch, which is recorded and validated as far
    as it went. A run stopped and gone on is the undisturbed one, bit for bit on a CPU, except by
    seconds, which no two runs have alike.

    On a CPU a model of fewer than 100,000 weights is trained on one thread, unless the number of
    threads is chosen; see :func:`ppl_vae.cpu.suited`.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        objective: The bound to maximise.
        train: Training data, shape ``(num_data, *event)``: a tensor, a NumPy array, a data frame
            or a ``TensorDataset``, of any type that the model's holds without loss.
        valid: Validation data; without them the last epoch's parameters are kept.
        transform: Applied to each training batch on its device.
        budget: The limit as one object, which replaces ``epochs``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        seed: Seed of data order, draws and validation.
        checkpoint: File to go on from, if it exists, and to save to.
        checkpoint_seconds: Least time between saves; the last epoch is always saved.
        progress: Show a progress bar when on a terminal.
        on_start: Called once, when everything is checked and nothing is written yet, with the
            history that training goes on from.
        on_epoch: Called with each record as soon as it is made, except those of earlier sessions.
        origin: What a checkpoint is of besides settings and data, such as the hash of a
            configuration; a checkpoint that says otherwise is refused.
        workers: Processes that train this model together, each of which calls this function with
            the same arguments; the first of them validates, saves, shows and is called back.
        **settings: Fields of :class:`FitSettings`.

    Raises:
        NonFiniteError: If a density, a gradient or a parameter is NaN or infinite: a ValueError
            that names the update, the site and the datum. The model then has the parameters before
            that update, so that a debugger, or prints in the model, show what comes of the datum;
            a checkpoint has the epochs before, so that going on with it comes to the update again.
        TypeError: On an unknown setting, or something else in place of the objective.
        ValueError: On impossible settings or data, or a checkpoint of another run; also where the
            guide is a point and the prior is trained or depends on another latent, as the joint
            density then has no maximum.
    """
    if not isinstance(objective, Objective):
        raise TypeError(_not_an_objective(objective))
    if budget is not None:
        limit = {budget.kind: budget.limit}
        # A budget of another kind replaces epochs; two limits would be refused.
        settings = {name: value for name, value in settings.items() if name != "epochs"} | limit
    chosen = read_settings(settings)
    data = TrainingData(
        as_rows(train, "train"), None if valid is None else as_rows(valid, "valid"), transform
    )
    if guide is None:
        raise ValueError("fit trains a model with its guide q(z|x), got guide=None.")
    programs, where = Programs(model, guide), resolve_device(device)
    together = workers or Workers()
    trainer = Trainer(programs, objective, data, chosen, where, seed, origin, together)
    file = None if checkpoint is None else Path(checkpoint)
    saved = together.from_first(lambda: Snapshot.load(file) if file and file.exists() else None)
    if saved is not None:
        trainer.resume(saved, f"the checkpoint {file}")
    if on_start is not None:
        start = on_start
        # The checkpoint was the last check: what a caller writes now is of a run that trains.
        together.from_first(lambda: start(trainer.history))
    with suited(trainer.modules.num_weights, where):
        _train(trainer, file, checkpoint_seconds, progress, on_epoch)
    divergence = trainer.keep()
    if divergence is not None and together.is_first:
        warn(divergence)
    # Patience is the only other reason to end.
    kept = trainer.kept_epoch or len(trainer.history)
    return FitResult(
        trainer.history, stopped_early=not trainer.exhausted, kept_epoch=kept, divergence=divergence
    )


def _train(
    trainer: Trainer,
    file: Path | None,
    checkpoint_seconds: float,
    progress: bool,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> None:
    """Train to the end, with a bar, and save now and then."""
    # What a kill loses is at most this time; the resumed run computes it again, the same.
    saved, budget = time.monotonic(), trainer.settings.budget
    with tqdm(
        total=budget.limit,
        initial=trainer.done,
        desc=repr(trainer.objective),
        unit=budget.kind.removesuffix("s").replace("_", " "),
        disable=no_bar(progress) or not trainer.workers.is_first,
    ) as bar:
        while not trainer.finished:
            try:
                record = trainer.advance()
            except NonFiniteError:
                # Going on with the file comes to the same update again.
                if file is not None and trainer.epoch_start.history.records:
                    trainer.workers.from_first(partial(trainer.epoch_start.save, file))
                raise
            if record is not None:
                bar.update(trainer.done - bar.n)
                bar.set_postfix_str(f"bound {record.bound:.2f} nats")

            def write(record: EpochRecord | None = record) -> None:
                nonlocal saved
                due = time.monotonic() - saved >= checkpoint_seconds
                if file is not None and (due or trainer.finished):
                    trainer.snapshot().save(file)
                    saved = time.monotonic()
                if record is not None and on_epoch is not None:
                    on_epoch(record)

            trainer.workers.from_first(write)


def _not_an_objective(given: object) -> str:
    if isinstance(given, type) and issubclass(given, Objective):
        return f"objective is the class {given.__name__}: give an instance, {given.__name__}()."
    return (
        f"objective is {given!r}: give an instance, such as ELBO() or IWAE(50); names such as "
        "'elbo' are of the command line."
    )
