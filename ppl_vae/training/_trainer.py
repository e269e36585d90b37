"""Training epoch by epoch: within a budget, back to a snapshot where an epoch must be undone."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import pyro
import torch
from torch import Tensor

from ppl_vae.objectives import Context, Objective
from ppl_vae.particles import (
    NonFiniteDensityError,
    OutsideSupportError,
    Programs,
    count_evaluations,
    point_site,
)
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.training._average import ParameterAverage
from ppl_vae.training._budget import Spent
from ppl_vae.training._data import Batches, TrainingData
from ppl_vae.training._divergence import Climb, divergence
from ppl_vae.training._gradients import warn_of_strays
from ppl_vae.training._history import EpochRecord, History
from ppl_vae.training._non_finite import (
    NonFiniteError,
    NonFiniteUpdateError,
    all_finite,
    finite_checks,
    require_finite_result,
)
from ppl_vae.training._snapshot import Snapshot, copied, load_parameters
from ppl_vae.training._steps import find_parameters
from ppl_vae.training._validation import Validation, require_maximum
from ppl_vae.training._workers import Workers, require_sum_over_data

if TYPE_CHECKING:
    from ppl_vae.training._settings import FitSettings

_START = "start"


@final
@dataclass
class _Epoch:
    """Sums over the updates of an epoch or of a part of it."""

    sums: Tensor
    num_data: int = 0
    updates: int = 0
    rate: float = 0.0


@final
class Trainer:
    """A model and guide in training: :meth:`advance` by an epoch, take a :meth:`snapshot`, go on.

    Args:
        programs: Model and guide.
        objective: The bound to maximise.
        data: Training and validation data.
        settings: How to train.
        device: Where to compute.
        seed: Seed of data order, draws and validation.
        origin: What a snapshot is of besides settings and data.
        workers: Processes that train together, each with a trainer of its own; None: this one.

    Raises:
        ValueError: If programs, data and settings do not fit each other, or workers cannot share
            the batches.
    """

    def __init__(
        self,
        programs: Programs,
        objective: Objective,
        data: TrainingData,
        settings: "FitSettings",
        device: torch.device,
        seed: int,
        origin: Mapping[str, str] | None = None,
        workers: Workers | None = None,
    ) -> None:
        if settings.patience is not None and data.valid is None:
            raise ValueError("patience needs validation data: give valid, or leave patience out.")
        self.settings, self._seed = settings, seed
        # What they know of gradients and buffers is of one model.
        self.workers = Workers() if workers is None else Workers(workers.rank, workers.size)
        model, guide = programs.model, programs.required_guide
        programs = objective.programs(model, guide)
        programs.modules().to(device)
        programs.modules().train(False)
        data.require_rows(programs, device, seed)
        with seeded(seed, Stream.TRAINING):
            # Seeded: looking at the programs leaves the caller's random state alone.
            data, self.modules, batch = data.fitted(programs, device)
        shuffled = not settings.unshuffled
        self.batches = Batches(
            data, settings.batch_size, seed, device, shuffled=shuffled, workers=self.workers
        )
        self.objective = objective.with_plate_nesting(self.modules.max_plate_nesting)
        self._programs = self.objective.programs(model, guide)
        # Again, as the run may have shown more modules; and looking for sites must not move the
        # statistics of a batch norm.
        self.modules.to(device)
        self.modules.train(False)
        with seeded(seed, Stream.TRAINING), torch.no_grad():
            particles = self.objective.draw(model, guide, batch)
        self.sites = list(particles.log_prior)
        parameters = find_parameters(self.modules)
        has_density = point_site(particles.guide) is None
        if not has_density:
            with seeded(seed, Stream.TRAINING):
                require_maximum(self.objective, self._programs, batch, parameters)
        valid = data.validation_subset(settings.validation_size)
        self._validation = None
        if valid is not None:
            draws = settings.validation_particles, derive_seed(seed, Stream.VALIDATION)
            point = None if has_density else self.objective
            self._validation = Validation(valid.to(device), *draws, point)
        self._planned = self._plan()
        self.step = settings.build_step(self.objective, model, guide, parameters)
        with seeded(seed, Stream.TRAINING):
            sample = data.training_subset(
                Climb.rows(int(self.objective.num_particles), settings.batch_size), device
            )
            warn_of_strays(self.objective, self._programs, sample, parameters)
        self._climb = Climb(self.step, sample, seed)
        if self.workers.size > 1:
            require_sum_over_data(self.objective, self.step, self.modules.modules)
            self.workers.make_equal([*parameters.values(), *self.modules.unique_buffers])
        self._average = ParameterAverage(self.step.parameters, settings.ema_decay)
        self.buffers = self.modules.buffers
        self._identity = self._identify(data, dict(origin or {}))
        self.history, self.spent = History(), Spent()
        self._ended: float | None = None
        self._best, self._best_buffers = copied(self.step.parameters), copied(self.buffers)
        self._cut: Snapshot | None = None
        self._support_checked = False
        self.epoch_start: Snapshot
        self._start: Tensor | None = self.workers.from_first(self._climb)

    def _plan(self) -> dict[int, float]:
        """Number of updates that the budget has room for, by batch size."""
        sizes, batches = self.batches.sizes, len(self.batches)
        rows = int(self.objective.num_particles) * max(sizes)
        total = self.settings.budget.updates_of(batches, rows)
        if self.settings.patience is not None:
            # Who asks for an early end sets a limit that is not to be reached.
            total /= 4
        planned: dict[int, float] = {}
        for size, count in sizes.items():
            # By the number of rows that are run here, of which a compiled update is one.
            share = self.workers.share_of(size)
            rows = size if share is None else share.rows
            planned[rows] = planned.get(rows, 0.0) + total * count / batches
        return planned

    def _identify(self, data: TrainingData, origin: dict[str, str]) -> dict[str, Any]:
        """Collect what a snapshot must share with this run."""
        budget, valid = self.settings.budget, self._validation
        return {
            **self.settings.to_json(),
            "seed": self._seed,
            "objective": repr(self.objective),
            # Annealing spreads over the budget as a schedule does: a longer run is another run.
            **({budget.kind: budget.limit} if self.objective.anneals else {}),
            "train_shape": list(data.train.shape),
            "valid_shape": None if valid is None else list(valid.x.shape),
            **data.hashes(),
            **origin,
        }

    @property
    def fraction(self) -> float:
        """Fraction of the budget that is spent."""
        return self.settings.budget.fraction(self.spent, len(self.batches))

    @property
    def done(self) -> float:
        """Cost so far, in the unit of the budget."""
        kind = self.settings.budget.kind
        return len(self.history) if kind == "epochs" else float(getattr(self.spent, kind))

    @property
    def exhausted(self) -> bool:
        """Whether the budget has no room for another update."""
        # An update that would not fit may have ended training before the fraction came to 1.
        ended = self._ended is not None and self.settings.budget.limit <= self._ended
        return ended or self.fraction >= 1

    @property
    def kept_epoch(self) -> int | None:
        """Epoch whose parameters are kept; None: the last, as none has been validated."""
        return len(self.history) if self.settings.keep == "last" else self.history.best_epoch

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
            NonFiniteError: If an update is not finite; :attr:`epoch_start` is then the state before
                its epoch.
            ValueError: If the budget is too small for one update.
        """
        start = time.perf_counter()
        # Rounding is the same everywhere, as far as machines are alike.
        self.workers.make_equal([*self.step.parameters.values(), *self.modules.unique_buffers])
        self._ended = self._cut = None
        self.epoch_start = self.snapshot()
        taken = self.step.taken, self.step.taken_compiled
        epoch = self._train_within_budget()
        cut = epoch.updates < len(self.batches)
        if cut or self.exhausted:
            self._ended = self.settings.budget.limit
        if not epoch.updates:
            return None
        # A longer run must equal one planned so: it goes on from before what was cut short.
        self._cut = self.epoch_start if cut else None
        number = len(self.history) + 1
        # Never merely because it is the last: a run made longer must equal one planned so.
        due = cut or number % self.settings.validate_every == 0
        validate = self._validation if due else None
        with self._average.applied():
            score = None
            if validate is not None:
                scored = validate
                score = self.workers.from_first(lambda: scored(self._programs))
        # Per datum, not per batch: batches of an epoch may differ by one datum.
        bound, log_likelihood, *kl = (epoch.sums / epoch.num_data).tolist()
        record = EpochRecord(
            epoch=number,
            bound=bound,
            log_likelihood=log_likelihood,
            kl=dict(zip(self.sites, kl, strict=True)),
            learning_rate=epoch.rate,
            seconds=time.perf_counter() - start,
            validation=None if score is None else score.mean,
            validation_error=None if score is None else score.error,
            updates=self.spent.updates,
            evaluations=self.spent.decoder_evaluations,
            compiled=(self.step.taken_compiled - taken[1]) / max(self.step.taken - taken[0], 1),
        )
        self.history.records.append(record)
        if self.kept_epoch == number:
            self._best, self._best_buffers = copied(self._average.values), copied(self.buffers)
        return record

    def _train_within_budget(self) -> _Epoch:
        """Train one epoch; drop the update that would exceed the budget."""
        epoch = self._train_finite()
        limit = self.settings.budget.decoder_evaluations
        if limit is None or self.spent.decoder_evaluations <= limit:
            return epoch
        if self.spent.updates == 1:
            raise ValueError(
                f"a budget of {limit} decoder evaluations is too small: one update takes "
                f"{self.spent.decoder_evaluations}; give more, or take smaller batches."
            )
        # What an update costs is known when it is made, and undoing it is making the others again.
        self.restore(self.epoch_start)
        return self._train_finite(most=epoch.updates - 1)

    def _train_finite(self, most: int | None = None) -> _Epoch:
        """Train one epoch; if it is not finite, find the update and the datum that began it."""
        failure: ValueError | None = None
        # Every datum passes the support checks of its distribution in the first epoch; after it,
        # Pyro's validation would cost time and make a GPU wait, and could find nothing new.
        with pyro.validation_enabled(not self._support_checked):
            try:
                epoch = self._train_epoch(most)
                if bool(epoch.sums.isfinite().all()) and all_finite(self.step.parameters):
                    self._support_checked = True
                    return epoch
            except ValueError as error:
                # Torch refuses parameters and values of a distribution that are not finite.
                failure = error
        failure = self.workers.first_failure(failure)
        # Checks take time, and a budget of seconds would end the search too soon.
        # The update that raised an error is not among those counted.
        most = self.spent.updates - self.epoch_start.spent.updates + (failure is not None)
        self.restore(self.epoch_start)
        # Data outside of the support are named by the error already; no update has caused it.
        if isinstance(failure, OutsideSupportError) and failure.is_data:
            raise failure
        # Without torch's own refusals, so that the check behind each update names site and datum.
        with pyro.validation_enabled(False):
            self._train_epoch(most, check=True)
        raise failure or NonFiniteError(
            f"epoch {len(self.history) + 1} was not finite, but it was when made again: this "
            "device does not repeat its own numbers; lower the learning rate or clip gradients."
        )

    def _train_epoch(self, most: int | None, check: bool = False) -> _Epoch:
        """Update on the epoch's batches while the budget lasts, at most so many times."""
        start, before = time.perf_counter(), self.spent
        epoch, number = _Epoch(torch.zeros(())), len(self.history)
        budget = self.settings.budget
        self.modules.train()
        with seeded(self._seed, Stream.TRAINING, number), count_evaluations() as count:
            evaluations = 0
            for rows, batch in self.batches.epoch(number):
                progress = min(self.fraction, 1.0)
                if (progress == 1 and not check) or epoch.updates == most:
                    break
                epochs = self.spent.updates / len(self.batches)
                epoch.rate = self.settings.rate(progress, epochs)
                # Set before every update: annealed objectives read their progress off it.
                self.objective.context = Context(
                    progress, self.batches.num_data, epochs, self._planned
                )
                counted = count.rows
                if check:
                    sums = self._checked_update(rows, batch, epoch.rate)
                else:
                    sums = self._update(len(rows), batch, epoch.rate)
                # Those of all workers, whose rows are the batch.
                evaluations += (count.rows - counted) * len(rows) // batch.shape[0]
                self._average.update()
                # Added on the device, so that no update waits; the first sums bring their device.
                epoch.sums = epoch.sums + sums if epoch.updates else sums
                epoch.updates, epoch.num_data = epoch.updates + 1, epoch.num_data + len(rows)
                if budget.seconds is not None:
                    # The time that the device takes, not the time to tell it.
                    sums[0].item()
                # Asked for only where workers share the clock: calls of every update add up.
                timed = budget.seconds is not None
                self.spent = Spent(
                    before.updates + epoch.updates,
                    before.seconds + (self._clock(start) if timed else time.perf_counter() - start),
                    before.decoder_evaluations + evaluations,
                )
                if self.spent.decoder_evaluations > (budget.decoder_evaluations or math.inf):
                    break
                if self.workers.size > 1 and self._failed_together(epoch):
                    break
            # This waits for the device: the time below includes all updates.
            epoch.sums = epoch.sums.double().cpu()
        self.spent = replace(self.spent, seconds=before.seconds + self._clock(start))
        return epoch

    def _clock(self, start: float) -> float:
        """Seconds since a start; where they are the budget, those of the first worker."""
        seconds = time.perf_counter() - start
        if self.settings.budget.seconds is None:
            return seconds
        return self.workers.from_first(lambda: seconds)

    def _update(self, size: int, batch: Tensor, rate: float) -> Tensor:
        """Update on a batch, or on this worker's rows of it together with the others."""
        if self.workers.size == 1:
            return self.step(batch, rate)
        before = copied(self.buffers) if self.workers.looks_for_moving_buffers else {}
        reduced, terms = self.step.reduced, len(self.sites) + 2
        with self.workers.sharing(size, batch, self.modules.modules, terms):
            sums = self.step(batch, rate)
            self.workers.average_buffers(self.buffers, before)
        if self.step.reduced == reduced:
            raise ValueError(
                f"step {type(self.step).__name__} takes no gradient by Step.differentiate, which "
                "adds up those of all workers: take another step, or train in one process."
            )
        return sums

    def _failed_together(self, epoch: _Epoch) -> bool:
        """Whether a worker has failed, where it costs nothing to see: all see the same sums."""
        if epoch.updates > 1 and epoch.sums.device.type != "cpu":
            return False
        return not bool(epoch.sums.isfinite().all())

    def _checked_update(self, rows: Tensor, batch: Tensor, rate: float) -> Tensor:
        """Update, and undo it where a density, a gradient or a result of it is not finite."""
        before = self.snapshot()
        try:
            with finite_checks():
                sums = self._update(len(rows), batch, rate)
            require_finite_result(sums, self.step.parameters)
        except (NonFiniteDensityError, NonFiniteUpdateError) as cause:
            self.restore(before)
            update, epoch = self.spent.updates + 1, len(self.history) + 1
            raise NonFiniteError.of(cause, update, epoch, rows) from cause
        return sums

    def snapshot(self) -> Snapshot:
        """Copy the current state, in tensors that further updates leave as they are."""
        return Snapshot(
            identity=self._identity,
            history=History(list(self.history.records)),
            spent=self.spent,
            ended=self._ended,
            parameter=copied(self.step.parameters),
            buffer=copied(self.buffers),
            optimizer=copied(self.step.state()),
            # Not copied: a better epoch replaces these dictionaries, and changes none.
            best=self._best,
            best_buffer=self._best_buffers,
            average=copied(self._average.state),
            climbed={} if self._start is None else {_START: self._start},
            before=self._cut,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back, or on, to a state of this run.

        Raises:
            ValueError: If it is the state of another model.
        """
        load_parameters(self.step.parameters, snapshot.parameter)
        load_parameters(self.buffers, snapshot.buffer)
        # An optimiser keeps the tensors that it is given, and changes them.
        self.step.load_state(copied(snapshot.optimizer))
        self._average.load_state(snapshot.average)
        self.history = History(list(snapshot.history.records))
        self.spent, self._ended, self._cut = snapshot.spent, snapshot.ended, snapshot.before
        self._best, self._best_buffers = dict(snapshot.best), dict(snapshot.best_buffer)
        # The parameters before the first update may have been others than those here now.
        self._start = snapshot.climbed.get(_START)

    def resume(self, snapshot: Snapshot, where: str = "the checkpoint") -> None:
        """Go on from the state of an earlier run.

        Args:
            snapshot: The state.
            where: Name of it in messages.

        Raises:
            ValueError: If it was made with other settings or by another model, or with a larger
                budget.
        """
        snapshot.require_same_run(self._identity, where)
        budget = self.settings.budget
        snapshot = snapshot.start(budget.limit)
        budget.require_not_exceeded(snapshot.spent, len(snapshot.history), len(self.batches), where)
        self.restore(snapshot)

    def keep(self) -> str | None:
        """Leave the model with the parameters to keep, in evaluation mode.

        Returns:
            Why training has diverged, in a line; None where it has not.
        """
        with self._average.applied():
            last = self.workers.from_first(self._climb)
        if self.kept_epoch is None:
            load_parameters(self.step.parameters, copied(self._average.values))
        else:
            load_parameters(self.step.parameters, self._best)
            load_parameters(self.buffers, self._best_buffers)
        self.modules.train(False)
        number = len(self.history)
        kept = {self.kept_epoch or number: self.workers.from_first(self._climb)}
        return divergence(self.objective, self._start, {**kept, number: last})
