"""Going over the data a chunk at a time, each on random streams of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evidence.annealing.checkpoint import Columns, FinishedChunks
from ppl_vae.evidence.identity import RunIdentity
from ppl_vae.randomness import Stream, seeded


class Purpose(IntEnum):
    """What the random numbers of one chunk are for."""

    PILOT = 0
    FORWARD = 1
    REVERSE = 2


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
    """An estimator on one chunk of data."""

    def __call__(self, x: Tensor, streams: Streams) -> Columns:
        """Name to values, one for each datum."""
        ...


@final
@dataclass(frozen=True)
class Call:
    """How one call of an estimator is to go over the data.

    Attributes:
        device: Where to compute; the data's device if None.
        seed: Of all streams.
        progress: Whether to show a bar.
        checkpoint: File for finished chunks.
    """

    device: torch.device | str | None = None
    seed: int | None = 0
    progress: bool = False
    checkpoint: Path | None = None

    def device_for(self, x: Tensor) -> torch.device:
        """Where to compute."""
        return x.device if self.device is None else torch.device(self.device)

    def by_chunk(
        self,
        estimate: ChunkEstimate,
        x: Float[Tensor, "num_data *event"],
        data_at_once: int,
        identity: Callable[[str], RunIdentity],
    ) -> Columns:
        """The estimates of all chunks, side by side.

        Every chunk has streams of its own, so that its numbers depend neither on the chunks before
        it nor on whether those were read from a checkpoint.

        Raises:
            ValueError: If there are no data, or the checkpoint is of another run.
        """
        if len(x) == 0:
            raise ValueError("x holds no data: log p(x) needs at least one datum.")
        device = self.device_for(x)
        finished = self._finished(identity, f"seed {self.seed}, {device.type}, {data_at_once} data")
        parts = [] if finished is None else finished.parts
        bar = tqdm(total=len(x), desc="log p(x)", disable=None if self.progress else True)
        with bar, torch.no_grad():
            for number, chunk in enumerate(x.split(data_at_once)):
                if number >= len(parts):
                    streams = Streams(self.seed, number, number * data_at_once)
                    columns = estimate(chunk.to(device), streams)
                    parts.append({name: value.cpu() for name, value in columns.items()})
                    if finished is not None:
                        finished.save(parts)
                bar.update(len(chunk))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _finished(
        self, identity: Callable[[str], RunIdentity], settings: str
    ) -> FinishedChunks | None:
        if self.checkpoint is None:
            return None
        if self.seed is None:
            raise ValueError(
                "a checkpoint needs a seed: without one, a run that goes on cannot give the "
                "numbers of one that was never stopped."
            )
        return FinishedChunks(Path(self.checkpoint), identity(settings))
