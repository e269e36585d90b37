"""The one loop over data that all estimators share, and the file of its unfinished work."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from os import PathLike
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import RowData, row_chunks, select
from ppl_vae.evidence._result import Columns
from ppl_vae.identity import Identity
from ppl_vae.names import warn
from ppl_vae.particles import ChunkSize, Evaluation, Programs, evaluation, is_out_of_memory
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded
from ppl_vae.store import Stored

_FORMAT = "ppl_vae unfinished 3"
_SECONDS_BETWEEN = 5.0


class Purpose(IntEnum):
    """Purpose of the random numbers of one chunk."""

    # A number is part of the name of its stream: another one would change all results.
    PILOT = 0
    FORWARD = 1
    REVERSE = 2
    PREDICTION = 3


@final
@dataclass(frozen=True)
class Streams:
    """Random streams of one chunk; without a seed, the caller's random state for all.

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


ChunkEstimate = Callable[[Evaluation, Tensor, Streams], Columns]
"""Values of each datum of a chunk; draws come from the streams alone."""


@final
@dataclass(frozen=True)
class ChunkResults:
    """Results of all chunks.

    Attributes:
        columns: Values of all data, in order, on the CPU.
        identity: What they were computed from.
        seconds: Wall-clock time since the call began.
    """

    columns: Columns
    identity: Identity
    seconds: float


@final
@dataclass(frozen=True)
class Call:
    """Settings of one call of an estimator.

    Attributes:
        device: Where to compute; where the modules are, or else the data, if None.
        seed: Of all streams; None: the caller's random state.
        progress: Whether to show a bar.
        checkpoint: File for finished chunks.
        start: Clock when the call began.
    """

    device: torch.device | str | None = None
    seed: int | None = 0
    progress: bool = False
    checkpoint: str | PathLike[str] | None = None
    start: float = field(default_factory=time.perf_counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.seed is None:
            raise ValueError(
                "a checkpoint needs a seed: without one, a run that goes on cannot give the "
                "numbers of one that was never stopped."
            )

    @property
    def seconds(self) -> float:
        """Wall-clock time since the call began."""
        return time.perf_counter() - self.start

    def open(
        self, programs: Programs, x: RowData, size: ChunkSize
    ) -> AbstractContextManager[Evaluation]:
        """Open the programs in evaluation mode and the data, checked."""
        return evaluation(programs, x, size, device=self.device)

    def by_chunk(
        self, look: Evaluation, settings: str, estimate: ChunkEstimate, data_at_once: int = 0
    ) -> ChunkResults:
        """Estimate all chunks.

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
        look = self._with_rows_of_file(look, settings, path)
        while True:
            try:
                return self._pass(look, settings, estimate, path, data_at_once)
            except (RuntimeError, MemoryError) as error:
                # Chunks of other rows have other streams: all of them are estimated anew.
                smaller = look.halved()
                if smaller is None or not is_out_of_memory(error):
                    raise
            # Outside of the handler, which holds the tensors of the failed chunk.
            if look.size.given is not None:
                warn(
                    f"not enough memory for rows={look.rows}: goes on with rows={smaller.rows}, "
                    "which makes other draws.",
                )
            look = smaller
            if path is not None:
                # Its chunks, which this call has written or matched, are of more rows at once.
                path.unlink(missing_ok=True)

    def _with_rows_of_file(self, look: Evaluation, settings: str, path: Path | None) -> Evaluation:
        """Take the file's rows at once, where these are all that it has other than this run.

        An earlier run may have halved its rows for want of memory: it goes on with these.
        """
        if look.size.given is not None or path is None or not path.exists():
            return look
        there, here = Unfinished.identity_in(path), look.identity(settings, self.seed)
        others = there.differences(replace(here, chunk_rows=there.chunk_rows))
        if others or there.chunk_rows is None:
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
        chunks, at_once = unfinished.chunks, data_at_once or look.data_at_once
        done = sum(len(next(iter(columns.values()))) for columns in chunks)
        bar = tqdm(total=len(look.x), desc="log p(x)", disable=no_bar(self.progress))
        bar.update(done)
        # An interrupt, too, leaves what is finished in the file.
        with bar, torch.no_grad(), unfinished.kept():
            for read in row_chunks(select(look.x, slice(done, None)), at_once):
                x = read.to(look.device)
                # Numbered by the data, not by the loop: the same after going on from a file.
                streams = Streams(self.seed, done // look.data_at_once, done)
                columns = estimate(look, x, streams)
                unfinished.add({name: values.cpu() for name, values in columns.items()})
                bar.update(len(x))
                done += len(x)
        return ChunkResults(join_columns(chunks), unfinished.identity, self.seconds)


def join_columns(chunks: Sequence[Columns]) -> dict[str, Tensor]:
    """The values of all data, in order, under the names that all chunks have."""
    names = [name for name in chunks[0] if all(name in columns for columns in chunks)]
    return {name: torch.cat([columns[name] for columns in chunks]) for name in names}


@final
@dataclass
class Unfinished:
    """Finished chunks and the file that they are kept in.

    Chunks draw from streams of their own, so that those that are left give the same numbers whether
    or not the others were read from a file. The file is written anew, atomically, every few seconds
    and when the computation ends, however it ends.

    Attributes:
        path: The file; None: nothing is kept.
        identity: What the numbers are computed from.
        chunks: Values of the chunks that are finished, in order.
    """

    path: Path | None
    identity: Identity
    chunks: list[Columns] = field(default_factory=list)
    _written: int = 0
    _last: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path | None, identity: Identity) -> "Unfinished":
        """Resume from the file, or start anew where there is none.

        Raises:
            ValueError: If the file is damaged, or of something else; says what differs.
        """
        if path is None or not path.exists():
            return cls(path, identity)
        stored = _read(path)
        # Parameters, rows, settings, seed, rows at once: all of what the numbers follow from.
        identity.require_same(Identity.from_dict(stored.identity), str(path))
        chunks: list[Columns] = [stored.tensors[str(n)] for n in range(len(stored.tensors))]
        return cls(path, identity, chunks, len(chunks))

    @staticmethod
    def identity_in(path: Path) -> Identity:
        """Identity of the numbers in a file.

        Raises:
            ValueError: If it is damaged.
        """
        return Identity.from_dict(_read(path).identity)

    def add(self, columns: Columns) -> None:
        """Take in the next chunk."""
        self.chunks.append(columns)
        if time.monotonic() - self._last > _SECONDS_BETWEEN:
            self._write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what is finished when the inside ends, or is interrupted."""
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        if self.path is None or len(self.chunks) == self._written:
            return
        groups = {str(number): columns for number, columns in enumerate(self.chunks)}
        Stored(groups, None, self.identity.to_dict()).write(self.path, _FORMAT)
        self._written, self._last = len(self.chunks), time.monotonic()


def _read(path: Path) -> Stored:
    return Stored.read(path, _FORMAT, "unfinished estimate", "delete it to start anew")
