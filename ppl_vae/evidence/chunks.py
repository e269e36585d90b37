"""Cutting data and particles into pieces that fit: what all sampling estimators share."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evidence.identity import RunIdentity, identify
from ppl_vae.evidence.progress import Progress, keeping
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.particles import Program, draw_particles, require_density
from ppl_vae.randomness import Stream, seeded
from ppl_vae.refinement import Refiner

# Decoded rows at once. On a CPU a chunk and its temporaries should stay near the cache; a GPU wants
# enough rows to be busy. Both keep the temporaries far below 1 GB for 784 features.
_CPU_ROWS = 2_000
_GPU_ROWS = 131_072
_PARTICLES_AT_ONCE = 500
# What a forward pass throws away, an autograd graph keeps.
_GRAPH = 4


@final
@dataclass(frozen=True)
class Chunk:
    """Some data, what to draw their latents from, and how many particles to decode at once."""

    model: Program
    proposal: Program
    x: Tensor
    particles_at_once: int
    max_plate_nesting: int

    def log_weights(self, num_particles: int) -> Iterator[Float[Tensor, "particles batch"]]:
        """Log w of ``num_particles`` fresh draws, piece by piece."""
        for size in pieces(num_particles, self.particles_at_once):
            particles = draw_particles(
                self.model, self.proposal, self.x, size, max_plate_nesting=self.max_plate_nesting
            )
            require_density(particles.guide)
            yield particles.log_weight

    def all_log_weights(self, num_particles: int) -> Float[Tensor, "particles batch"]:
        """Log w of ``num_particles`` fresh draws, on the CPU in double precision: 8 bytes each."""
        parts = [part.double().cpu() for part in self.log_weights(num_particles)]
        return torch.cat(parts)


@final
@dataclass(frozen=True)
class Chunking:
    """How an estimator wants its work cut.

    Attributes:
        num_particles: Draws per datum.
        refine: How to refine the guide beforehand, such as Refinement() or
            LaplaceApproximation(); None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.
        max_plate_nesting: Plate dimensions the programs use, the data plate included.
    """

    num_particles: int
    refine: Refiner | None = None
    rows: int | None = None
    max_plate_nesting: int = 1

    def run(
        self,
        estimate: Callable[[Chunk], Evidence],
        model: Program,
        guide: Program,
        x: Float[Tensor, "num_data *event"],
        *,
        device: torch.device | str | None,
        seed: int | None,
        progress: bool,
        checkpoint: tuple[Path, str] | None = None,
    ) -> Evidence:
        """Estimate chunk by chunk, in constant memory, and put the results together.

        Args:
            estimate: The estimator on a chunk.
            model: Pyro model.
            guide: Pyro guide.
            x: The data.
            device: Where to compute; the data's device if None.
            seed: Of the draws.
            progress: Show a progress bar.
            checkpoint: File for what is finished, and the estimator's settings in words.

        Raises:
            ValueError: If there are no data, or the checkpoint is of another run or has no seed.
        """
        if len(x) == 0:
            raise ValueError("x holds no data: log p(x) needs at least one datum.")
        device = x.device if device is None else torch.device(device)
        rows = self.rows or (_CPU_ROWS if device.type == "cpu" else _GPU_ROWS)
        # Few data and many particles a chunk: the guide then runs once for many draws.
        data_at_once = max(1, min(len(x), rows // min(self.num_particles, _PARTICLES_AT_ONCE)))
        bar = tqdm(total=len(x), desc="log p(x)", disable=None if progress else True)
        start, kept = time.perf_counter(), None
        if checkpoint is not None:
            path, settings = checkpoint
            identity = self._identity(settings, model, guide, x, device, seed, rows)
            kept = Progress(path, identity, device)
        parts = [] if kept is None else kept.parts
        bar.update(done := sum(map(len, parts)))
        with seeded(seed, Stream.EVALUATION), torch.no_grad(), bar, keeping(kept):
            for group in x[done:].split(self._group_size(rows, data_at_once)) * (done < len(x)):
                data = group.to(device)
                proposals = self._proposals(model, guide, data, data_at_once)
                for part, proposal in zip(data.split(data_at_once), proposals, strict=True):
                    at_once = max(1, rows // data_at_once)
                    chunk = Chunk(model, proposal, part, at_once, self.max_plate_nesting)
                    parts.append(estimate(chunk))
                    bar.update(len(part))
                if kept is not None:
                    kept.finished_a_group()
        return replace(concatenate(parts), seconds=time.perf_counter() - start)

    def _identity(
        self,
        settings: str,
        model: Program,
        guide: Program,
        x: Tensor,
        device: torch.device,
        seed: int | None,
        rows: int,
    ) -> RunIdentity:
        if seed is None:
            raise ValueError(
                "a checkpoint needs a seed: without one, a run that goes on cannot give the "
                "numbers of one that was never stopped."
            )
        words = f"{settings}, seed {seed}, {device.type}, {rows} rows"
        return identify(words, model, guide, x, device, self.max_plate_nesting)

    def _group_size(self, rows: int, data_at_once: int) -> int:
        """Data refined together: many more fit with few draws each than when estimating."""
        if self.refine is None:
            return data_at_once
        chunks = rows // (_GRAPH * self.refine.rows_per_datum * data_at_once)
        return data_at_once * max(1, chunks)

    def _proposals(
        self, model: Program, guide: Program, x: Tensor, data_at_once: int
    ) -> list[Program]:
        """What to draw from, for each chunk of a group of data."""
        starts = range(0, len(x), data_at_once)
        if self.refine is None:
            return [guide for _ in starts]
        nesting = self.max_plate_nesting
        refined = self.refine(model, guide, x, max_plate_nesting=nesting, seed=None)
        return [refined.rows(start, start + data_at_once) for start in starts]


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
        guide: Program,
        x: Float[Tensor, "num_data *event"],
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
        checkpoint: Path | None = None,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum.

        Args:
            model: Pyro model with its data plate at dim -1.
            guide: Pyro guide over the same latents.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Of the draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.
            checkpoint: File to which what is finished is written every few seconds, and when the
                run is interrupted. Where it is there already, the run goes on from it, to the same
                numbers.

        Raises:
            ValueError: If there are no data, a log-density is not finite (names the site), or the
                checkpoint is of another run.
        """
        return self._chunking().run(
            self._estimate,
            model,
            guide,
            x,
            device=device,
            seed=seed,
            progress=progress,
            checkpoint=None if checkpoint is None else (Path(checkpoint), repr(self)),
        )


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
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} needs {field} >= 1 (a whole number), got {value}.")


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
