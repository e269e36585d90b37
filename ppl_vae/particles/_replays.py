"""Compiled forms of what an evaluation computes many times over: log-weights, gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import pyro
import torch
from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.capture import Captured, CaptureError, Function, pays
from ppl_vae.particles._modules import ProgramModules
from ppl_vae.particles._particles import Particles, add_evaluations, count_evaluations
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._run import BatchGuide
from ppl_vae.particles._supports import bounds_of, core_of, support_of
from ppl_vae.randomness import seeded


@final
@dataclass
class Replays:
    """Graphs of functions that an evaluation runs chunk after chunk, by name and shape.

    The same draws and, up to rounding, the same numbers as the functions themselves. Programs that
    cannot be compiled run as they are.

    Attributes:
        modules: The modules behind the programs.
        chunks: Number of chunks of data.
    """

    modules: ProgramModules
    chunks: int
    _recorded: dict[object, Captured] = field(default_factory=dict)
    _refused: bool = False

    def of(
        self,
        name: str,
        function: Function,
        inputs: Sequence[Tensor],
        rows: int,
        calls: int,
        *,
        holds: bool,
        times: int = 1,
    ) -> Captured | None:
        """The compiled form of a function; None where it does not pay or cannot be.

        Args:
            name: Name of the function; those of one name and shape differ in what they hold alone.
            function: Function of tensors, which is deterministic but for torch's draws.
            inputs: Inputs of it.
            rows: Rows that the model is run on in one call; twice as many with a gradient.
            calls: Calls of this shape in a chunk.
            holds: Whether the function holds tensors of its chunk besides its inputs.
            times: How many times the compiled form applies it, each time to its own results.
        """
        weights = sum(value.numel() for value in self.modules.parameters.values())
        if self._refused or not pays(calls * self.chunks, rows, weights):
            return None
        key = name, times, tuple((value.shape, value.dtype) for value in inputs)
        try:
            known = self._recorded.get(key)
            if known is not None and not holds:
                return known
            # What another chunk's function holds is another tensor in the same place of the graph.
            made = None if known is None else known.holding(function, inputs)
            if made is None:
                others = [_resampled(value) for value in inputs]
                made = Captured(function, inputs, others, self._held, times=times)
                self._recorded[key] = made
            return made
        except CaptureError:
            self._refused = True
            return None

    @property
    def _held(self) -> list[Tensor]:
        modules = self.modules
        return [*modules.parameters.values(), *modules.unique_buffers]

    def log_weights(
        self, programs: Programs, x: Shaped[Tensor, "batch *event"], num_particles: int, calls: int
    ) -> "Callable[[], Tensor] | None":
        """Log-weights of fresh draws, shape (particles, batch), by a compiled graph.

        A graph looks at no supports. One draw is looked at here, and where the guide may draw
        outside of the prior's support, or move that of the data, there is no graph.

        Args:
            programs: Model and guide of the chunk.
            x: Its data.
            num_particles: Draws of each datum in one call.
            calls: Number of calls with as many.
        """
        if isinstance(programs.guide, BatchGuide):
            return None

        def function(x: Tensor) -> list[Tensor]:
            with pyro.validation_enabled(False):
                return [programs.draw(x, num_particles, check_finite=False).log_weight]

        with count_evaluations():
            name, rows = f"log-weights of {num_particles}", num_particles * len(x)
            replay = self.of(name, function, [x], rows, calls, holds=False)
            if replay is None:
                return None
            with seeded(0):
                # Under validation, which finds data outside of the likelihood's support.
                one = programs.draw(x, check_finite=False)
        if not _fixed_supports(one):
            self._refused = True
            return None

        def replayed() -> Tensor:
            add_evaluations(num_particles * len(x))
            (log_weight,) = replay(x)
            return log_weight

        return replayed


def _resampled(value: Tensor) -> Tensor:
    """Rows drawn again: what a function reads off its input differs."""
    with seeded(0):
        return value[torch.randint(len(value), (len(value),)).to(value.device)]


def _fixed_supports(particles: Particles) -> bool:
    """Whether no draw can lie outside of a support, or move one past the data.

    A density outside of its support is 0 where values are looked at, and often a number elsewhere.
    """
    latents = all(
        _alike(support_of(particles.guide[name]), support_of(prior))
        for name, prior in particles.prior.items()
    )
    return latents and all(
        not any(isinstance(bound, Tensor) for bound in bounds_of(core_of(support_of(each))) or ())
        for each in particles.likelihood.values()
    )


def _alike(a: object, b: object) -> bool:
    if a is None or b is None:
        return False
    one, other = core_of(a), core_of(b)
    ends = bounds_of(one), bounds_of(other)
    if type(one) is not type(other) or (ends[0] is None) != (ends[1] is None):
        return False
    pairs = zip(ends[0] or (), ends[1] or (), strict=True)
    return all(not isinstance(p, Tensor) and p == q for p, q in pairs)
