"""Several processes that train one model: each has its rows of every batch, all have one model."""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppl_vae.objectives import Objective
from ppl_vae.particles import (
    NonFiniteDensityError,
    Share,
    row_draws,
    share_here,
    shared_draws,
)
from ppl_vae.randomness import random_state, set_random_state
from ppl_vae.training._gradients import Differentiated, clipped
from ppl_vae.training._non_finite import NonFiniteUpdateError, checks_finite

_T = TypeVar("_T")
BACKEND = "cpu:gloo,cuda:nccl"
"""Torch's libraries of communication: gloo for tensors on CPUs, NCCL for those on GPUs."""
_PATIENCE = timedelta(minutes=30)
"""Time that a worker waits for the others, as while the first one validates."""


@final
class Workers:
    """The processes that train one model together, of which this is one; by default it is alone.

    Every worker holds the whole model. Of each batch it reads and runs its own rows; the gradient
    of the batch is the sum of theirs, which all of them take, so that all models stay the same. The
    first worker validates, decides and writes files. See docs/engines.md for the mathematics.

    Args:
        rank: Number of this process among them, from 0.
        size: Number of processes; torch's default process group must be of as many.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._failure: ValueError | None = None
        self._terms = 0
        self._present: dict[tuple[str, ...], list[bool]] = {}
        self._moving: list[str] | None = None

    @classmethod
    def joined(cls, size: int) -> "Workers":
        """Join ``size`` processes that something has started: torchrun, Slurm or Ray.

        The process group is torch's default one. Where there is none yet it is made of the
        variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them.

        Raises:
            ValueError: If the size is less than 1, or there are not so many processes.
        """
        if size < 1:
            raise ValueError(f"workers must be 1 or more, got {size}.")
        if size == 1:
            return cls()
        if not dist.is_initialized():
            there = os.environ.get("WORLD_SIZE", "1")
            if there != str(size) or "RANK" not in os.environ:
                raise ValueError(
                    f"{size} workers are {size} processes, and here is {there}: start them by "
                    f"--engine ray --workers {size}, or by torchrun --nproc-per-node {size} -m "
                    f"ppl_vae fit --workers {size} ..."
                )
            gpus = torch.cuda.is_available()
            if gpus:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(BACKEND if gpus else "gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        if dist.get_world_size() != size:
            raise ValueError(
                f"{size} workers are asked for, and torch's process group is of "
                f"{dist.get_world_size()}: give workers={dist.get_world_size()}."
            )
        return cls(dist.get_rank(), size)

    @property
    def is_first(self) -> bool:
        """Whether this process validates, decides and writes."""
        return self.rank == 0

    def share_of(self, size: int) -> Share | None:
        """This worker's rows of a batch; None where they are all."""
        return None if self.size == 1 else Share(self.rank, self.size, size)

    def drawing(self, size: int) -> AbstractContextManager[Any]:
        """Change this worker's rows of a batch inside, by the random draws of the batch."""
        share = self.share_of(size)
        return nullcontext() if share is None else row_draws(share)

    def from_first(self, function: Callable[[], _T]) -> _T:
        """Call a function in the first worker; give its value, or raise its error, in all."""
        if self.size == 1:
            return function()
        given: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                given = [function(), None]
            except Exception as error:
                failure, given = error, [None, _sendable(error)]
        with _alive():
            dist.broadcast_object_list(given, device=torch.device("cpu"))
        if failure is not None:
            raise failure
        if given[1] is not None:
            raise given[1]
        value: _T = given[0]
        return value

    def make_equal(self, tensors: Sequence[Tensor]) -> None:
        """Give all workers the first one's values, in place."""
        if self.size > 1:
            with _alive(), torch.no_grad():
                for value in tensors:
                    dist.broadcast(value.detach(), 0)

    @contextmanager
    def sharing(
        self, size: int, x: Tensor, modules: Sequence[nn.Module], terms: int
    ) -> Iterator[None]:
        """Update inside on this worker's rows of a batch, by the random draws of the batch.

        Args:
            size: Number of data of the batch.
            x: This worker's rows.
            modules: Modules behind the programs.
            terms: Number of batch sums that a gradient comes with.
        """
        share = self.share_of(size)
        if share is None:
            yield
            return
        # Rejection samplers take as many numbers as their rows ask for: begin alike again.
        set_random_state(self._first_state(random_state(x.device)), x.device)
        token = _WORKERS.set(self)
        self._terms = terms
        try:
            with shared_draws(share, modules):
                yield
        finally:
            _WORKERS.reset(token)

    def _first_state(self, state: Tensor) -> Tensor:
        with _alive():
            dist.broadcast(state, 0)
        return state

    def together(
        self,
        compute: Callable[[], Differentiated],
        parameters: Mapping[str, Tensor],
        clip_norm: float | None,
    ) -> Differentiated:
        """Gradient and sums of the whole batch: those of all workers, added up, then clipped.

        A worker whose programs raise a ValueError sends NaN, so that no other waits for it in
        vain; :meth:`first_failure` tells all what it was.
        """
        failure: ValueError | None = None
        try:
            found = compute()
        except ValueError as error:
            failure = error
            nan = next(iter(parameters.values())).new_full((self._terms,), torch.nan).detach()
            found = Differentiated(nan, nan[:0], [None] * len(parameters))
        if checks_finite():
            self._raise_first(failure)
        self._failure = self._failure or failure
        present = self._gradients_of_all(found, parameters)
        leaves = list(parameters.values())
        # Where a worker failed all numbers are NaN, and none of them is taken for an update.
        fill = 0.0 if failure is None else torch.nan
        sent = [
            torch.full_like(leaf, fill) if value is None else value
            for leaf, value, there in zip(leaves, found.gradients, present, strict=True)
            if there
        ]
        *added, sums = _added([*sent, found.sums])
        taken = iter(added)
        gradients = [next(taken) if there else None for there in present]
        return replace(found, sums=sums, gradients=clipped(gradients, clip_norm))

    def _gradients_of_all(
        self, found: Differentiated, parameters: Mapping[str, Tensor]
    ) -> list[bool]:
        """Which parameters have a gradient in any worker; found once for a set of parameters."""
        names = tuple(parameters)
        here = [value is not None for value in found.gradients]
        present = self._present.get(names)
        if present is None:
            present = [any(each) for each in zip(*self._gathered(here), strict=True)]
            # Of an update that failed everywhere nothing is known.
            if any(present):
                self._present[names] = present
        for name, own, there in zip(names, here, present, strict=True):
            if own and not there:
                raise ValueError(
                    f"{name} has a gradient in some updates and none in others, which workers "
                    "cannot add up: let every batch use all parameters, or train in one process."
                )
        return present

    def average_buffers(self, buffers: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        """Make buffers that updates move the mean over rows of those of all workers, in place.

        As running means of the data are. Buffers of whole numbers are left: they count, or are
        moved by draws that are the same everywhere.

        Args:
            buffers: All buffers.
            before: Copies from before the first update; which of them it moved is found by it.
        """
        share = share_here()
        if share is None:
            return
        if self._moving is None:
            moved = [n for n, v in buffers.items() if n in before and not torch.equal(v, before[n])]
            of_all = {name for names in self._gathered(moved) for name in names}
            self._moving = [n for n in buffers if n in of_all and buffers[n].is_floating_point()]
        moving = [buffers[name] for name in self._moving]
        if moving:
            # By counts and in double precision: zeros and ones that are alike stay what they are.
            added = _added([value.double() * share.rows for value in moving])
            for value, total in zip(moving, added, strict=True):
                value.copy_(total / share.size)

    @property
    def looks_for_moving_buffers(self) -> bool:
        """Whether the next update shows which buffers move."""
        return self.size > 1 and self._moving is None

    def first_failure(self, here: ValueError | None) -> ValueError | None:
        """Error of the first worker that had one since this was last asked, alike in all."""
        if self.size == 1:
            return here
        here, self._failure = here or self._failure, None
        return next((e for e in self._gathered(_sendable(here)) if e is not None), None)

    def _raise_first(self, failure: ValueError | None) -> None:
        datum = getattr(failure, "datum", None)
        if isinstance(failure, NonFiniteDensityError | NonFiniteUpdateError) and datum is not None:
            # A row of the batch, not of the share.
            share = share_here()
            failure.datum = datum + (0 if share is None else share.start)
        for error in self._gathered(_sendable(failure)):
            if error is not None:
                raise error

    def _gathered(self, value: _T) -> list[_T]:
        """Values of all workers, in their order."""
        values: list[Any] = [None] * self.size
        with _alive():
            dist.all_gather_object(values, value)
        return values


# By context: steps of users need not know of workers.
_WORKERS: ContextVar[Workers | None] = ContextVar("workers", default=None)


def workers_here() -> Workers | None:
    """The workers that share the update under way; None where one process has all its rows."""
    return _WORKERS.get()


def require_sum_over_data(
    objective: Objective, step: Any, modules: Sequence[nn.Module] = ()
) -> None:
    """Check that the gradient of a batch is the sum of those of its rows.

    Args:
        objective: The objective.
        step: The step, or its class.
        modules: Modules behind the programs.

    Raises:
        ValueError: If the data of a batch are coupled; says by what.
    """
    by = objective.couples
    what = f"{objective!r} takes {by}"
    if by is None and getattr(step, "couples", None) is not None:
        kind = step if isinstance(step, type) else type(step)
        what = f"step {kind.__name__} decides by {step.couples}"
        by = step.couples
    norm = next((m for m in modules if isinstance(m, _BatchNorm)), None)
    if by is None and norm is not None:
        by = what = f"{type(norm).__name__} takes means over a batch"
    if by is not None:
        raise ValueError(
            f"{what}, and a worker has a share of each batch: train in one process, or leave it "
            "out."
        )


def _leave() -> None:
    """Stop gloo's threads while Python still runs.

    One that lets go of its last tensor later asks for a Python that has ended, and the process
    aborts, its work done.
    """
    # NCCL would wait on the GPU for what processes that have failed do not send.
    if dist.is_initialized() and "nccl" not in dist.get_backend():
        dist.destroy_process_group()


def _added(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over all workers, by one message for each type of numbers."""
    results: list[Tensor | None] = [None] * len(tensors)
    for dtype in dict.fromkeys(value.dtype for value in tensors):
        which = [i for i, value in enumerate(tensors) if value.dtype is dtype]
        flat = torch.cat([tensors[i].detach().flatten() for i in which])
        with _alive():
            dist.all_reduce(flat)
        for i, piece in zip(which, flat.split([tensors[i].numel() for i in which]), strict=True):
            # As the parameter lies in memory, which an optimiser's kernel asks for.
            results[i] = torch.empty_like(tensors[i]).copy_(piece.view(tensors[i].shape))
    return [value for value in results if value is not None]


@contextmanager
def _alive() -> Iterator[None]:
    """Say in one line that another worker has ended, where torch says which socket was closed."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"another worker has ended or cannot be reached ({' '.join(str(error).split())[:200]}):"
            " the same command goes on from the last checkpoint."
        ) from error


def _sendable(error: Any) -> Any:
    """An error without what no other process can read: its traceback and its causes."""
    if isinstance(error, BaseException):
        error.__cause__ = error.__context__ = None
    return error
