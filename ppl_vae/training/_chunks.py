"""Splits of a batch whose autograd graph would take too much memory, decided by sizes alone."""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import final

import pyro
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ppl_vae.objectives import Objective
from ppl_vae.particles import ChunkSize, Particles, Program, Programs, count_evaluations
from ppl_vae.randomness import seeded

BUDGET = 128 << 20
"""Bytes that autograd may keep for the gradient of an update on a CPU."""
GPU_BUDGET = 4 << 30
"""The same on a GPU, which small chunks would leave idle."""
_FEW_ROWS = 2_000
"""Rows on a CPU, particles times data, for which no look at the programs is needed."""
_FEW = 2
"""Data that the programs are looked at with, and particles; then twice as many of either."""


@final
class Chunks:
    """Chunks of a batch's data: K particles of each, differentiated one chunk after another.

    The gradient of a sum over data is the sum of the chunks' gradients. Chunks are of data, not of
    particles, as an objective weighs the particles of a datum against each other. A chunk draws
    after the one before it, so that a batch in chunks has other draws than a batch at once.

    A batch is not divided where data depend on each other: under an objective that
    :attr:`~ppl_vae.objectives.Objective.couples` them, under modules that use the statistics of a
    batch or change a buffer at every call (batch norm, spectral norm), and where plates subsample
    or scale by its size.

    Args:
        objective: The bound to maximise.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._bytes: float | None = None
        self._known: dict[tuple[int, str], list[slice]] = {}

    def of(self, model: Program, guide: Program, x: Tensor) -> list[slice]:
        """Rows of each chunk of a batch; one slice of all where it is not divided.

        They follow from the sizes of batch, model and budget, not from the memory that is free.
        """
        key = x.shape[0], x.device.type
        if key not in self._known:
            self._known[key] = self._split(self._objective.programs(model, guide), x)
        return self._known[key]

    def _split(self, programs: Programs, x: Tensor) -> list[slice]:
        size, count = len(x), int(self._objective.num_particles)
        on_cpu = x.device.type == "cpu"
        few = size * count <= ChunkSize(count, cpu=_FEW_ROWS).rows_for(x, x.device)
        coupled = self._objective.couples is not None
        if few or size == 1 or coupled:
            return [slice(0, size)]
        if self._bytes is None:
            self._bytes = _bytes_per_datum(self._objective, programs, x)
        budget = BUDGET if on_cpu else GPU_BUDGET
        return even_slices(size, math.ceil(size * self._bytes / budget))


def even_slices(size: int, count: int) -> list[slice]:
    """At least so many slices of ``range(size)``, alike if twice as many at most can be.

    Slices of one size are recorded as one graph; others differ by one.
    """
    count = max(1, min(count, size))
    count = next((n for n in range(count, min(2 * count, size) + 1) if size % n == 0), count)
    ends = [size * n // count for n in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _bytes_per_datum(objective: Objective, programs: Programs, x: Tensor) -> float:
    """Bytes that autograd keeps for K particles of a datum; 0 if data depend on each other."""
    modules = programs.modules()
    small = copy.copy(objective)
    # On the CPU, which indexes tensors of every device.
    twice = torch.arange(2 * _FEW) % len(x)

    def kept(data: int, particles: int) -> tuple[int, Particles]:
        small.num_particles = particles
        rows = twice[:data]
        some = programs.rows(rows)
        with _kept_bytes() as sizes:
            drawn = small.draw(some.model, some.required_guide, x[rows], check_finite=False)
        return sum(sizes.values()), drawn

    with (
        modules.evaluating(),
        seeded(0),
        count_evaluations(),
        torch.enable_grad(),
        pyro.validation_enabled(False),
    ):
        modules.train()
        try:
            before = _versions(modules.unique_buffers)
            least, few = kept(_FEW, _FEW)
            stateless = _versions(modules.unique_buffers) == before
            (more_data, many), (more_particles, _) = kept(2 * _FEW, _FEW), kept(_FEW, 2 * _FEW)
        except (ValueError, RuntimeError, IndexError):
            # Programs that take no batch but a full one get it, and say what they have to say.
            return 0.0
    apart = stateless and not any(isinstance(module, _BatchNorm) for module in modules.modules)
    if not (apart and _scales_alike(few, many)):
        return 0.0
    particle = (more_particles - least) / _FEW**2
    datum = (more_data - least) / _FEW - _FEW * particle
    return max(0.0, datum) + particle * int(objective.num_particles)


def _scales_alike(few: Particles, many: Particles) -> bool:
    """Whether plates hold the rows of x, all of them, and scale as much whatever their number."""
    rows = (few.batch_size, many.batch_size) == (_FEW, 2 * _FEW)
    return rows and bool(torch.as_tensor(few.scale == many.scale).all())


def _versions(buffers: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Identity of tensors, and the number of changes of each."""
    return [(id(value), value._version) for value in buffers]


@contextmanager
def _kept_bytes() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps of what is computed inside, by address."""
    sizes: dict[int, int] = {}
    # Kept alive until all are counted: the address of a storage that is freed is used again.
    storages: list[torch.UntypedStorage] = []

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages.append(storage)
        sizes[storage.data_ptr()] = storage.nbytes()
        # A node that saved its output as it is would keep itself alive.
        return value.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes
