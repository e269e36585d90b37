"""Gradients of updates by compiled graphs, at fixed shapes of a batch or of its chunks."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.capture import TOLERANCE, Captured, CaptureError, Function, pays
from ppl_vae.names import warn
from ppl_vae.objectives import Context, Objective
from ppl_vae.particles import (
    OffsetGuide,
    Programs,
    add_evaluations,
    count_evaluations,
    evaluating,
    share_here,
)
from ppl_vae.randomness import seeded
from ppl_vae.refinement import Refinement
from ppl_vae.training._gradients import Differentiated, differentiate, over_chunks
from ppl_vae.training._precision import Precision

_TRAINING = attrgetter("training")
_TOLERANCES: Mapping[Precision, float] = {"single": TOLERANCE, "bf16": 2.0**-6}
"""Largest difference of a replay from the programs. Products in bfloat16 are rounded to 2^-9 of
their value, after sums in another order to the next number; the data of a small batch do not
average that out."""


@final
class CompiledGradients:
    """:func:`differentiate`, compiled for each batch shape and set of parameters.

    Args:
        objective: The bound to maximise.
        programs: Model and guide.
        parameters: All parameters that are trained.
        wanted: Whether to compile; None: where it :func:`~ppl_vae.capture.pays`.
        clip_norm: Largest norm of all gradients together.
        precision: Precision of matrix products.
        calls: Replays for each planned update, in the mean over the graphs that are recorded.
    """

    def __init__(
        self,
        objective: Objective,
        programs: Programs,
        parameters: Mapping[str, Tensor],
        wanted: bool | None,
        *,
        clip_norm: float | None,
        precision: Precision,
        calls: float = 1.0,
    ) -> None:
        self._objective, self._programs, self._wanted = objective, programs, wanted
        self._clip_norm, self._precision, self._calls = clip_norm, precision, calls
        self._weights = sum(value.numel() for value in parameters.values())
        self._recorded: dict[tuple[object, ...], _Recorded] = {}
        self._ascents: dict[tuple[object, ...], _Graph] = {}
        self._modules: list[torch.nn.Module] | None = None
        self.decided: dict[int, bool] = {}
        """Whether updates of a batch size are compiled, by the size."""
        self.reason: str | None = None
        """Why the programs are not compiled, where they cannot be."""

    def __call__(
        self,
        x: Float[Tensor, "batch *event"],
        parameters: Mapping[str, Tensor],
        chunks: Sequence[slice],
        refined: OffsetGuide | None = None,
    ) -> Differentiated | None:
        """The gradient of a compiled update; None where updates of this size are not compiled.

        Args:
            x: The batch.
            parameters: Those that the gradient is taken of.
            chunks: Rows that are differentiated one after another.
            refined: The guide at offsets of this batch, in place of the guide itself.

        Raises:
            CaptureError: If compiling is asked for, and the programs cannot be compiled.
        """
        if not self._compiles(x.shape[0], len(chunks)):
            return None
        self._prepare(x)
        # The norm to be clipped is that of the sum over chunks.
        alone = len(chunks) == 1
        clip_norm = self._clip_norm if alone else None
        parts = [x] if alone else [x[rows] for rows in chunks]
        guides = [None if refined is None else refined.rows(rows) for rows in chunks]
        try:
            # All of them before one is replayed: a refusal must leave the random state alone.
            recorded = [
                self._of(part, parameters, guide, clip_norm)
                for part, guide in zip(parts, guides, strict=True)
            ]
        except CaptureError as error:
            self._refuse(error)
            return None
        context = self._objective.context
        replays = map(_Recorded.__call__, recorded, parts, guides, [context] * len(parts))
        if alone:
            return next(replays)
        return over_chunks(chunks, lambda rows: next(replays), self._clip_norm)

    def ascent(
        self,
        refinement: Refinement,
        x: Tensor,
        start: OffsetGuide,
        size: int,
    ) -> Callable[[Sequence[Tensor]], Sequence[Tensor]] | None:
        """The gradient by which offsets are refined, compiled; None where it is not.

        Args:
            refinement: Its settings.
            x: The batch, or a chunk of it.
            start: The guide with offsets for these data.
            size: Size of the batch.

        Raises:
            CaptureError: As :meth:`__call__`.
        """
        if not self._compiles(size, -(-size // len(x))):
            return None
        self._prepare(x)
        key = self._key(x, start.tensors)
        if key not in self._ascents:
            base = self._programs

            def gradient(x: Tensor, *values: Tensor) -> Sequence[Tensor]:
                leaves = [value.detach().requires_grad_() for value in values]
                programs = base.with_guide(start.with_tensors(leaves))
                return refinement.gradient(programs, x, leaves, check_finite=False)

            inputs = [x, *start.tensors]
            try:
                self._ascents[key] = _Graph(gradient, inputs, _other(inputs), self._held(x))
            except CaptureError as error:
                self._refuse(error)
                return None
        graph = self._ascents[key]
        return lambda values: graph(x, *(value.detach() for value in values))

    def _compiles(self, size: int, chunks: int) -> bool:
        if self._wanted is not None:
            return self._wanted
        if size not in self.decided:
            rows = 2 * size * int(self._objective.num_particles) // chunks
            calls = self._objective.context.planned.get(size, 0.0) * self._calls * chunks
            self.decided[size] = self.reason is None and pays(calls, rows, self._weights)
        return self.decided[size]

    def _refuse(self, error: CaptureError) -> None:
        """Leave the programs as they are; an error where they were to be compiled."""
        if self._wanted:
            raise CaptureError(f"step='compiled': {error} Take step='torch'.") from error
        self.reason = str(error)
        # A run that goes on elsewhere keeps what it began with.
        self.decided = dict.fromkeys(self.decided, False)
        warn(f"updates are not compiled: {error}")

    def _prepare(self, x: Tensor) -> None:
        if self._modules is None:
            # Plates are known before anything is recorded: to find them by failing takes draws.
            self._programs = self._programs.on(x[:2])
            self._objective.max_plate_nesting = self._programs.max_plate_nesting
            self._modules = self._programs.modules(x[:2]).modules
        if dist.is_validation_enabled():
            self._check_support(x)

    def _of(
        self,
        x: Tensor,
        parameters: Mapping[str, Tensor],
        guide: OffsetGuide | None,
        clip_norm: float | None,
    ) -> "_Recorded":
        offsets = () if guide is None else guide.tensors
        key = (*self._key(x, offsets), tuple(parameters), clip_norm)
        if key not in self._recorded:
            settings = {"clip_norm": clip_norm, "precision": self._precision}
            self._recorded[key] = _Recorded(
                self._objective, self._programs, x, parameters, guide, self._held(x), settings
            )
        return self._recorded[key]

    def _key(self, x: Tensor, values: Sequence[Tensor]) -> tuple[object, ...]:
        modes = tuple(map(_TRAINING, self._modules or ()))
        shapes = tuple([value.shape for value in values])
        num_data = self._objective.context.num_data
        return x.shape, x.dtype, x.device, shapes, modes, num_data, share_here()

    def _held(self, x: Tensor) -> list[Tensor]:
        modules = self._programs.modules(x[:2])
        return [*modules.parameters.values(), *modules.unique_buffers]

    @torch.no_grad()
    def _check_support(self, x: Tensor) -> None:
        """Look at supports, which a graph does not do, by one draw of a stream of its own."""
        with evaluating(*self._programs.callables), seeded(0), count_evaluations():
            self._programs.draw(x, check_finite=False)


@final
class _Graph:
    """A graph of a function that runs the programs, and the count of decoder evaluations in it."""

    def __init__(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        held: Sequence[Tensor],
        tolerance: float = TOLERANCE,
    ) -> None:
        self._rows = 0

        def counted(*given: Tensor) -> Sequence[Tensor]:
            with (
                torch.enable_grad(),
                pyro.validation_enabled(False),
                count_evaluations() as count,
            ):
                found = function(*given)
            self._rows = count.rows
            return found

        self._run = Captured(counted, inputs, others, held, tolerance)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        add_evaluations(self._rows)
        return self._run(*inputs)


@final
class _Recorded:
    """A graph of :func:`differentiate`, with the offsets of a guide, if it has any, as inputs."""

    def __init__(
        self,
        objective: Objective,
        programs: Programs,
        x: Tensor,
        parameters: Mapping[str, Tensor],
        guide: OffsetGuide | None,
        held: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        self._used: list[int] = []

        def gradients(x: Tensor, clock: Tensor, *offsets: Tensor) -> list[Tensor]:
            before = objective.context
            objective.context = Context(clock[0], before.num_data, clock[1])
            moved = programs if guide is None else programs.with_guide(guide.with_tensors(offsets))
            try:
                found = differentiate(
                    objective, moved, x, parameters, **settings, check_finite=False
                )
            finally:
                objective.context = before
            # A graph gives tensors: which parameters have a gradient is the same at every replay.
            self._used = [i for i, value in enumerate(found.gradients) if value is not None]
            given = [value for value in found.gradients if value is not None]
            return [found.sums, found.bound, *given]

        self._size = len(parameters)
        # Progress and epochs are inputs: a graph of the first update serves the last one too.
        self._now = torch.tensor([0.5, 3.5], dtype=torch.float64)
        self._numbers = self._now.numpy()
        # On a CPU the same tensor, so that nothing is copied.
        self._clock = self._now.to(x.device)
        inputs = [x, *([] if guide is None else guide.tensors)]
        rows, *others = _other(inputs)
        inputs.insert(1, self._clock)
        given = rows, self._clock / 4, *others
        self._run = _Graph(gradients, inputs, given, held, _TOLERANCES[settings["precision"]])

    def __call__(self, x: Tensor, guide: OffsetGuide | None, context: Context) -> Differentiated:
        self._numbers[0], self._numbers[1] = context.progress, context.epochs
        if self._clock is not self._now:
            self._clock.copy_(self._now)
        offsets = () if guide is None else guide.tensors
        sums, bound, *given = self._run(x, self._clock, *offsets)
        gradients: list[Tensor | None] = [None] * self._size
        for i, value in zip(self._used, given, strict=True):
            gradients[i] = value
        return Differentiated(sums, bound, gradients, compiled=True)


def _other(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Rows drawn again, offsets drawn at all: whatever is read off their numbers differs."""
    x, *offsets = inputs
    with seeded(0):
        rows = x[torch.randint(len(x), (len(x),)).to(x.device)]
        return [rows, *(0.1 * torch.randn_like(value) for value in offsets)]
