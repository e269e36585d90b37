"""Cutting data and particles into pieces that fit: the one loop that all estimators share."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import RowData
from ppl_vae.evidence._result import Evidence, concatenate
from ppl_vae.evidence._unfinished import Columns, Part, Unfinished, identity_in
from ppl_vae.identity import Identity
from ppl_vae.names import describe
from ppl_vae.particles import (
    ChunkSize,
    Evaluation,
    Program,
    Programs,
    evaluation,
    is_out_of_memory,
    require_density,
)
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded
from ppl_vae.refinement import Refiner

# What a forward pass throws away, an autograd graph keeps.
_GRAPH = 4


_WIDEN = "take a guide that draws wherever the prior does, or defensive importance sampling"


class Purpose(IntEnum):
    """What the random numbers of one chunk are for."""

    PILOT = 0
    FORWARD = 1
    REVERSE = 2
    PREDICTION = 3


@final
@dataclass(frozen=True)
class Streams:
    """The random streams of one chunk; without a seed, the caller's random state for all.

    Attributes:
        seed: Of the whole call.
        chunk: Number of the chunk.
        first: Number of its first datum.
    """

    seed: int | None
    chunk: int
    first: int

    @contextmanager
    def stream(self, purpose: Purpose) -> Iterator[None]:
        """Draw for this purpose inside."""
        with seeded(self.seed, Stream.EVALUATION, self.chunk, purpose):
            yield


class ChunkEstimate(Protocol):
    """What is computed of one chunk of data."""

    def __call__(self, look: Evaluation, x: Tensor, streams: Streams) -> Part:
        """Values of each datum; draws come from the streams alone."""
        ...


@final
@dataclass(frozen=True)
class ChunkResults:
    """What all chunks came to.

    Attributes:
        parts: In order of the data.
        identity: What they were computed from.
    """

    parts: list[Part]
    identity: Identity

    @property
    def columns(self) -> Columns:
        """The values of all data, side by side."""
        names = self.parts[0].columns
        return {name: torch.cat([part.columns[name] for part in self.parts]) for name in names}


@final
@dataclass(frozen=True)
class Call:
    """How one call of an estimator is to be carried out.

    Attributes:
        device: Where to compute; where the modules are, or else the data, if None.
        seed: Of all streams; None: the caller's random state.
        progress: Whether to show a bar.
        checkpoint: File for finished chunks.
    """

    device: torch.device | str | None = None
    seed: int | None = 0
    progress: bool = False
    checkpoint: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.seed is None:
            raise ValueError(
                "a checkpoint needs a seed: without one, a run that goes on cannot give the "
                "numbers of one that was never stopped."
            )

    def open(
        self, programs: Programs, x: RowData, size: ChunkSize
    ) -> AbstractContextManager[Evaluation]:
        """The programs in evaluation mode and the data, checked."""
        return evaluation(programs, x, size, device=self.device)

    def by_chunk(
        self, look: Evaluation, settings: str, estimate: ChunkEstimate, data_at_once: int = 0
    ) -> ChunkResults:
        """The estimates of all chunks.

        Every chunk has streams of its own, so that its numbers depend neither on the chunks before
        it nor on whether those were read from a checkpoint: they follow from the seed and the rows
        decoded at once. Where memory is not enough, it starts again with half the rows.

        Args:
            look: The programs and the data.
            settings: The estimator with all its settings, in words.
            estimate: The estimator on a chunk.
            data_at_once: Data of a chunk, where it is not the one of ``look``.

        Raises:
            ValueError: If the checkpoint is damaged or of another computation.
        """
        path = None if self.checkpoint is None else Path(self.checkpoint)
        look = self._as_begun(look, settings, path)
        while True:
            try:
                return self._pass(look, settings, estimate, path, data_at_once)
            except (RuntimeError, MemoryError) as error:
                smaller = look.halved()
                if smaller is None or not is_out_of_memory(error):
                    raise
            # Outside of the handler, which holds the tensors of the failed chunk.
            if look.size.given is not None:
                warnings.warn(
                    f"not enough memory for rows={look.rows}: goes on with rows={smaller.rows}, "
                    "which makes other draws.",
                    stacklevel=3,
                )
            look = smaller

    def _as_begun(self, look: Evaluation, settings: str, path: Path | None) -> Evaluation:
        """With the rows of the file, where these are all that it has other than this run."""
        there, here = identity_in(path), look.identity(settings, self.seed)
        others = there is not None and there.differences(replace(here, chunk_rows=there.chunk_rows))
        if there is None or others or look.size.given is not None or there.chunk_rows is None:
            return look
        return look.with_rows(there.chunk_rows)

    def _pass(
        self,
        look: Evaluation,
        settings: str,
        estimate: ChunkEstimate,
        path: Path | None,
        data_at_once: int,
    ) -> ChunkResults:
        unfinished = Unfinished.open(path, look.identity(settings, self.seed))
        parts, at_once = unfinished.parts, data_at_once or look.data_at_once
        done = sum(map(len, parts))
        bar = tqdm(total=len(look.x), desc="log p(x)", disable=no_bar(self.progress))
        bar.update(done)
        with bar, torch.no_grad(), unfinished.kept():
            while done < len(look.x):
                chunk = look.x[done : done + at_once].to(look.device)
                streams = Streams(self.seed, done // look.data_at_once, done)
                unfinished.add(estimate(look, chunk, streams))
                bar.update(len(chunk))
                done += len(chunk)
        return ChunkResults(parts, unfinished.identity)


@final
@dataclass(frozen=True)
class Chunk:
    """Some data, the programs with the proposal for them, and particles to decode at once."""

    programs: Programs
    x: Tensor
    particles_at_once: int

    def log_weights(self, num_particles: int) -> Iterator[Float[Tensor, "particles batch"]]:
        """Log w of ``num_particles`` fresh draws, piece by piece; -inf where p(x|z) is 0."""
        for size in pieces(num_particles, self.particles_at_once):
            particles = self.programs.draw(self.x, size, check_finite=False)
            require_density(particles.guide)
            particles.require_weights()
            yield particles.log_weight


@final
@dataclass(frozen=True)
class Chunking:
    """How an estimator wants its work cut.

    Attributes:
        num_particles: Draws per datum.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.
        from_prior: Whether draws reach all of the prior's support, whatever the guide's.
    """

    num_particles: int
    refine: Refiner | None = None
    rows: int | None = None
    from_prior: bool = False

    def __post_init__(self) -> None:
        if self.refine is not None and not isinstance(self.refine, Refiner):
            raise ValueError(
                f"refine takes Refinement(STEPS) or LaplaceApproximation(), got "
                f"{describe(self.refine)}."
            )

    def run(
        self,
        estimate: Callable[[Chunk], Evidence],
        programs: Programs,
        x: RowData,
        call: Call,
        settings: str,
    ) -> Evidence:
        """Estimate chunk by chunk, in constant memory, and put the results together.

        Args:
            estimate: The estimator on a chunk.
            programs: Model and guide.
            x: The data.
            call: How to carry it out.
            settings: The estimator with its settings in words.

        Raises:
            ValueError: If there are no data, the programs do not fit, or the checkpoint is of
                another run or has no seed.
        """
        require_guide(programs.guide)
        start = time.perf_counter()
        with call.open(programs, x, ChunkSize(self.num_particles, self.rows)) as look:
            evidence = self.run_open(estimate, look, call, settings)
            # A refined guide is made on the prior's support, or of normals, which lack nothing.
            whole = self.from_prior or self.refine is not None
            gap = None if whole else look.support_gap()
        if gap is not None:
            evidence = replace(evidence, support_gap=gap, direction="lower", advice=_WIDEN)
        return replace(evidence, seconds=time.perf_counter() - start)

    def run_open(
        self, estimate: Callable[[Chunk], Evidence], look: Evaluation, call: Call, settings: str
    ) -> Evidence:
        """Estimate as :meth:`run`, with programs and data that are open and checked already."""
        start = time.perf_counter()

        def group(look: Evaluation, x: Tensor, streams: Streams) -> Part:
            return _part_of(concatenate(self._group(estimate, look, x, streams)))

        found = call.by_chunk(look, settings, group, self._group_size(look))
        evidence = concatenate([_evidence_of(part) for part in found.parts])
        return replace(evidence, seconds=time.perf_counter() - start, identity=found.identity)

    def _group(
        self, estimate: Callable[[Chunk], Evidence], look: Evaluation, x: Tensor, streams: Streams
    ) -> list[Evidence]:
        """Data whose guide is refined together, estimated chunk by chunk."""
        size = look.data_at_once
        programs = look.programs.rows(slice(streams.first, streams.first + len(x)))
        if self.refine is not None:
            with streams.stream(Purpose.PILOT):
                programs = programs.with_guide(self.refine(programs, x, seed=None))
        found = []
        for number, part in enumerate(x.split(size)):
            own_rows = slice(number * size, number * size + len(part))
            chunk = Chunk(programs.rows(own_rows), part, max(1, look.rows // size))
            own = Streams(streams.seed, streams.chunk + number, streams.first + number * size)
            with own.stream(Purpose.FORWARD):
                found.append(estimate(chunk))
        return found

    def _group_size(self, look: Evaluation) -> int:
        """Data refined together: many more fit with few draws each than when estimating."""
        if self.refine is None:
            return 0
        chunks = look.rows // (_GRAPH * self.refine.rows_per_datum * look.data_at_once)
        return look.data_at_once * max(1, chunks)


class ChunkedEstimator(ABC):
    """An estimator of log p(x) that is done when each chunk of the data is."""

    @abstractmethod
    def _chunking(self) -> Chunking:
        """How the work is to be cut."""

    @abstractmethod
    def _estimate(self, chunk: Chunk) -> Evidence:
        """The result for one chunk, its ``seconds`` left at 0."""

    def __call__(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum, in evaluation mode.

        Args:
            model: Pyro model with its data plate at dim -1.
            guide: Pyro guide over the same latents, which draws come from; None is refused.
            x: The data, shape ``(num_data, *event)``: a tensor, a NumPy array, a data frame, a
                ``TensorDataset`` or :class:`~ppl_vae.data.Rows`, of any type that the model's
                holds without loss.
            device: Where to compute; where the modules are, or else the data, if not given.
            seed: Of the draws; ``None`` uses the caller's random state. Which draws are made
                follows from it and from ``rows`` alone.
            progress: Show a progress bar on the terminal.
            checkpoint: File to which what is finished is written every few seconds, and when the
                run is interrupted. Where it is there already, the run goes on from it, to the same
                numbers.

        Raises:
            ValueError: If there are no data, a log-weight is not a number (names the site), or the
                checkpoint is of another run.
        """
        programs, call = Programs(model, guide), Call(device, seed, progress, checkpoint)
        return self._chunking().run(self._estimate, programs, x, call, repr(self))

    def on(self, look: Evaluation, *, seed: int | None = 0) -> Evidence:
        """Estimate log p(x_i) of programs and data that are open, and were checked at that time.

        The numbers are those of a call with them. Whether the guide leaves out a part of the
        prior's support is not looked at.

        Args:
            look: Programs in evaluation mode, and data.
            seed: Seed of the draws.
        """
        return self._chunking().run_open(self._estimate, look, Call(seed=seed), repr(self))


def require_guide(guide: Program | None) -> None:
    """Check that there is a guide, where it is what draws come from.

    Raises:
        ValueError: If it is None.
    """
    if guide is None:
        raise ValueError(
            "guide=None: importance sampling draws from the guide; give one, or take "
            "AnnealedImportanceSampling(start='prior'), which needs none."
        )


def _part_of(evidence: Evidence) -> Part:
    values = {f.name: getattr(evidence, f.name) for f in fields(Evidence) if f.name != "identity"}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return Part(tensors, {name: v for name, v in values.items() if name not in tensors})


def _evidence_of(part: Part) -> Evidence:
    values: dict[str, Any] = {**part.record, **part.columns}
    return Evidence(**values)


def pieces(total: int, at_most: int) -> Iterator[int]:
    """Sizes of at most ``at_most`` that add up to ``total``."""
    while total > 0:
        yield min(total, at_most)
        total -= at_most


def require_counts(name: str, **counts: int | None) -> None:
    """Check whole numbers of 1 or more; None is left alone.

    Raises:
        ValueError: If one is less.
    """
    for field, value in counts.items():
        counted = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not counted or value < 1):
            raise ValueError(f"{name} needs {field} >= 1 (a whole number), got {describe(value)}.")


def require_replicates(name: str, bootstrap: int | None) -> None:
    """Check the number of bootstrap samples.

    Raises:
        ValueError: If there are fewer than 2.
    """
    if bootstrap is not None and (not isinstance(bootstrap, int) or bootstrap < 2):
        raise ValueError(f"{name} needs bootstrap >= 2 samples, or None, got {bootstrap}.")


def with_refinement(method: str, refine: Refiner | None) -> str:
    """The method's name, with how its guide was refined."""
    return method if refine is None else f"{method} ({refine.description})"
