"""The state of a training run between epochs."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, final

import pyro
import torch
from torch import Tensor

from ppl_vae.identity import hash_rows
from ppl_vae.objectives import Context, Objective
from ppl_vae.particles import (
    NonFiniteDensityError,
    Program,
    count_evaluations,
    point_site,
)
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.training._batches import Batches, Transform
from ppl_vae.training._budget import Spent
from ppl_vae.training._checkpoint import Checkpoint, load_parameters
from ppl_vae.training._checks import (
    fitting_rows,
    fixed_subset,
    require_data,
    require_maximum,
)
from ppl_vae.training._history import EpochRecord, History
from ppl_vae.training._non_finite import NonFiniteError, attempt
from ppl_vae.training._parameters import find_parameters
from ppl_vae.training._settings import FitSettings
from ppl_vae.training._state import Mark, State, copied
from ppl_vae.training._validation import Score, Validation
from ppl_vae.training._watch import NonFiniteUpdateError, all_finite


@final
@dataclass
class _Pass:
    """What the updates of an epoch, or of a part of one, came to."""

    sums: Tensor
    num_data: int = 0
    updates: int = 0
    rate: float = 0.0


@final
class TrainingRun:
    """A model and guide in training: :meth:`advance` by epochs, :meth:`snapshot`, go on."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        train: Tensor,
        valid: Tensor | None,
        settings: FitSettings,
        transform: Transform | None,
        device: torch.device,
        seed: int,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        if settings.patience is not None and valid is None:
            raise ValueError("patience needs validation data: give valid, or leave patience out.")
        self.model, self.guide = model, guide
        self.settings, self.device, self._seed = settings, device, seed
        self.history, self.spent = History(), Spent()
        self._origin = dict(origin or {})
        self._data_checked = False
        # The limit that training ended at.
        self._ended: float | None = None
        # The state before the last update made under watch, and the rows of its batch.
        self._last: tuple[State, Tensor]
        self.before_epoch: Checkpoint
        # Before the last epoch, where the budget ended inside it.
        self._whole: Checkpoint | None = None
        programs = objective.programs(model, guide)
        programs.modules().to(device)
        programs.modules().train(False)
        parts = {"train": train} if valid is None else {"train": train, "valid": valid}
        require_data(parts, programs, device, seed)

        def batches(x: Tensor) -> Batches:
            return Batches(x, settings.batch_size, transform, seed, device)

        with seeded(seed, Stream.TRAINING):
            ran, valid = fitting_rows(programs, train, valid, lambda x: batches(x[:2]).first(2))
        parts = {"train": ran.rows} if valid is None else {"train": ran.rows, "valid": valid}
        self._hashes = {f"{name}_sha256": hash_rows(x) for name, x in parts.items()}
        self.batches, self.modules = batches(ran.rows), ran.modules
        self.objective = objective = objective.with_plate_nesting(ran.modules.max_plate_nesting)
        self.modules.to(device)
        # Looking for sites must not move the statistics of a batch norm.
        self.modules.train(False)
        with seeded(seed, Stream.TRAINING), torch.no_grad():
            particles = objective.draw(model, guide, ran.batch)
        self.sites = list(particles.log_prior)
        self.point = point_site(particles.guide) is not None
        self._validation = None
        if valid is not None:
            self._validation = Validation(
                x=fixed_subset(valid, settings.validation_size).to(device),
                num_particles=settings.validation_particles,
                seed=derive_seed(seed, Stream.VALIDATION),
                point=objective if self.point else None,
            )
        parameters = find_parameters(self.modules)
        if self.point:
            with seeded(seed, Stream.TRAINING):
                require_maximum(objective, model, guide, ran.batch, parameters)
        self.step = settings.make_step(objective, model, guide, parameters, settings.clip_norm)
        self.buffers = self.modules.buffers
        self._best, self._best_buffers = copied(self.step.parameters), copied(self.buffers)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run."""
        budget = self.settings.budget
        return {
            **self.settings.to_json(),
            "seed": self._seed,
            "objective": repr(self.objective),
            **({budget.kind: budget.limit} if self.objective.anneals else {}),
            "train_shape": list(self.batches.train.shape),
            "valid_shape": self._validation and list(self._validation.x.shape),
            **self._hashes,
            **self._origin,
        }

    @property
    def fraction(self) -> float:
        """The part of the budget that is spent."""
        return self.settings.budget.fraction(self.spent, len(self.batches))

    @property
    def done(self) -> float:
        """What is spent, in the unit of the budget."""
        kind = self.settings.budget.kind
        return len(self.history) if kind == "epochs" else float(getattr(self.spent, kind))

    @property
    def exhausted(self) -> bool:
        """Whether the budget has no room for another update."""
        ended = self._ended is not None and self.settings.budget.limit <= self._ended
        return ended or self.fraction >= 1

    @property
    def finished(self) -> bool:
        """Whether the budget is spent or the validation bound has stopped improving."""
        best, patience = self.history.best_epoch, self.settings.patience
        stale = 0 if best is None else len(self.history) - best
        return self.exhausted or (patience is not None and best is not None and stale >= patience)

    def advance(self) -> EpochRecord | None:
        """Train one epoch or what the budget has left of it, validate if it is time, record both.

        Returns:
            The record; None if the budget has no room for another update after all.

        Raises:
            NonFiniteError: If an update is not finite.
            ValueError: If the budget is too small for one update.
        """
        start = time.perf_counter()
        mark = self._mark(State.copy_of(self.step, self.buffers))
        seen = self._train_within_budget(mark)
        cut = seen.updates < len(self.batches)
        if cut or self.exhausted:
            self._ended = self.settings.budget.limit
        if not seen.updates:
            return None
        # A longer run must equal one planned so: it goes on from before what was cut short.
        self._whole = self._checkpoint(mark) if cut else None
        return self._record(seen, self._validate(cut), start)

    def _record(self, seen: _Pass, score: Score | None, start: float) -> EpochRecord:
        bound, log_likelihood, *kl = (seen.sums / seen.num_data).tolist()
        record = EpochRecord(
            epoch=len(self.history) + 1,
            bound=bound,
            log_likelihood=log_likelihood,
            kl=dict(zip(self.sites, kl, strict=True)),
            learning_rate=seen.rate,
            seconds=time.perf_counter() - start,
            validation=None if score is None else score.mean,
            validation_error=None if score is None else score.error,
            updates=self.spent.updates,
            evaluations=self.spent.decoder_evaluations,
        )
        self.history.records.append(record)
        if self.history.best_epoch == record.epoch:
            self._best, self._best_buffers = copied(self.step.parameters), copied(self.buffers)
        return record

    def _train_within_budget(self, mark: Mark) -> _Pass:
        """An epoch, without the update by which it exceeds the budget."""
        seen = self._train_finite(mark)
        limit = self.settings.budget.decoder_evaluations
        if limit is None or self.spent.decoder_evaluations <= limit:
            return seen
        if self.spent.updates == 1:
            raise ValueError(
                f"a budget of {limit} decoder evaluations is too small: one update takes "
                f"{self.spent.decoder_evaluations}; give more, or take smaller batches."
            )
        # What an update costs is known when it is made, and undoing it is making the others again.
        self._go_back(mark)
        return self._train_finite(mark, most=seen.updates - 1)

    def _train_finite(self, mark: Mark, most: int | None = None) -> _Pass:
        """An epoch, made again under watch if something in it is not finite."""
        # Every datum passes the support checks of its distribution in the first epoch; after it,
        # Pyro's validation would only cost time and make a GPU wait.
        failure = None
        with pyro.validation_enabled(not self._data_checked):
            try:
                seen = self._train_epoch(most)
                if bool(seen.sums.isfinite().all()) and all_finite(self.step.parameters):
                    self._data_checked = True
                    return seen
            except ValueError as error:
                # Torch refuses parameters and values of a distribution that are not finite.
                failure = error
        # Watching takes time, and a budget of seconds would end it too soon.
        most = self.spent.updates - mark.spent.updates + (failure is not None)
        self._go_back(mark)
        with pyro.validation_enabled(False):
            try:
                self._train_epoch(most, watched=True)
            except (NonFiniteDensityError, NonFiniteUpdateError) as culprit:
                if "Expected value" in str(failure) and str(culprit.site).startswith("observed"):
                    # Data outside the support: torch says which.
                    raise failure or culprit from None
                before, rows = self._last
                before.load(self.step, self.buffers)
                self.before_epoch = self._checkpoint(mark)
                update, epoch = self.spent.updates + 1, mark.epochs + 1
                raise NonFiniteError.of(culprit, update, epoch, rows) from culprit
        raise failure or NonFiniteError(
            f"epoch {mark.epochs + 1} was not finite, but it was when made again: this device does "
            "not repeat its own numbers; lower the learning rate or clip gradients."
        )

    def _train_epoch(self, most: int | None, watched: bool = False) -> _Pass:
        """Update on the epoch's batches while the budget lasts, at most so many times."""
        seen, before, begun = _Pass(torch.zeros(())), self.spent, time.perf_counter()
        budget, epoch = self.settings.budget, len(self.history)
        self.modules.train()
        with seeded(self._seed, Stream.TRAINING, epoch), count_evaluations() as count:
            for rows, batch in self.batches.epoch(epoch):
                progress = min(self.fraction, 1.0)
                if (progress == 1 and not watched) or seen.updates == most:
                    break
                seen.rate = self.settings.rate_at(progress)
                self.objective.context = Context(progress, self.batches.num_data)
                if watched:
                    self._last = State.copy_of(self.step, self.buffers), rows
                update = partial(attempt, self.step) if watched else self.step
                parts = update(batch, seen.rate)
                seen.sums = seen.sums + parts if seen.updates else parts
                seen.updates, seen.num_data = seen.updates + 1, seen.num_data + len(batch)
                if budget.seconds is not None:
                    # The time that the device takes, not the time to tell it.
                    parts[0].item()
                self.spent = Spent(
                    before.updates + seen.updates,
                    before.seconds + time.perf_counter() - begun,
                    before.decoder_evaluations + count.rows,
                )
                if self.spent.decoder_evaluations > (budget.decoder_evaluations or math.inf):
                    break
            seen.sums = seen.sums.double().cpu()
        self.spent = replace(self.spent, seconds=before.seconds + time.perf_counter() - begun)
        return seen

    def _validate(self, cut: bool) -> Score | None:
        # Never merely because it is the last: a run made longer must equal one planned so.
        due = cut or (len(self.history) + 1) % self.settings.validate_every == 0
        return (
            self._validation(self.model, self.guide)
            if due and self._validation is not None
            else None
        )

    def _go_back(self, mark: Mark) -> None:
        mark.state.load(self.step, self.buffers)
        self.spent = mark.spent

    def snapshot(self) -> Checkpoint:
        """The run as a checkpoint."""
        now = self._mark(State(self.step.parameters, self.buffers, self.step.state()))
        return self._checkpoint(now, self._ended, self._whole)

    def _mark(self, state: State) -> Mark:
        return Mark(state, self._best, self._best_buffers, self.spent, len(self.history))

    def _checkpoint(
        self, mark: Mark, ended: float | None = None, whole: Checkpoint | None = None
    ) -> Checkpoint:
        return Checkpoint(
            progress={
                "run": self._identity(),
                "history": History(self.history.records[: mark.epochs]).to_json(),
                "spent": asdict(mark.spent),
                "ended": ended,
            },
            parameter=mark.state.parameter,
            buffer=mark.state.buffer,
            best=mark.best,
            best_buffer=mark.best_buffers,
            optimizer=mark.state.optimizer,
            whole=whole,
        )

    def restore(self, checkpoint: Checkpoint, where: str = "the checkpoint") -> None:
        """Go on from a checkpoint.

        Args:
            checkpoint: The state.
            where: What it is, for messages.

        Raises:
            ValueError: If it was made with other settings or by another model.
        """
        saved, here = {"budget": "epochs", **checkpoint.progress["run"]}, self._identity()
        other = [
            f"{key} {saved.get(key)} there, {value} here"
            for key, value in here.items()
            if saved.get(key) != value
        ]
        if other:
            raise ValueError(f"{where} is of a run with other settings: {'; '.join(other)}.")
        checkpoint = checkpoint.start(self.settings.budget.limit)
        load_parameters(self.step.parameters, checkpoint.parameter)
        load_parameters(self.buffers, checkpoint.buffer)
        self.step.load_state(checkpoint.optimizer)
        self.history = History.from_json(checkpoint.progress["history"])
        # Before costs were counted, epochs were the only budget.
        before = {"updates": len(self.history) * len(self.batches)}
        self.spent = Spent(**checkpoint.progress.get("spent", before))
        self._require_no_less(where)
        self._ended = checkpoint.progress.get("ended")
        self._best, self._best_buffers = dict(checkpoint.best), dict(checkpoint.best_buffer)

    def _require_no_less(self, where: str) -> None:
        """A run may be made longer, never shorter: its parameters are of all that was spent."""
        budget = self.settings.budget
        # Of seconds the last update may take more than there were.
        if budget.kind != "seconds" and self.fraction > 1:
            told = {"epochs": len(self.history), **asdict(self.spent)}
            raise ValueError(
                f"{where} is of a run that went further: {budget.kind} {told[budget.kind]} there, "
                f"{budget.limit:g} here: give as many or more, or take another folder."
            )

    def keep_best(self) -> None:
        """Leave the model with the parameters to keep, in evaluation mode."""
        if self.history.best_epoch is not None:
            load_parameters(self.step.parameters, self._best)
            load_parameters(self.buffers, self._best_buffers)
        self.modules.train(False)
