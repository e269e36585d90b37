"""Estimators that are done when each chunk of the data is: data and particles cut to fit."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Protocol, final

import torch
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.evidence._chunk import Chunk
from ppl_vae.evidence._loop import Call, ChunkResults, Purpose, Streams, join_columns
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.names import describe
from ppl_vae.particles import (
    ChunkSize,
    Evaluation,
    Program,
    Programs,
    Refiner,
)

_GRAPH = 4
"""Memory of an autograd graph, in that of a forward pass, which throws away what a graph keeps."""
ADVICE = "use more particles, a better or refined guide, or annealed importance sampling"
_WIDEN = "take a guide that draws wherever the prior does, or defensive importance sampling"


class Estimator(Protocol):
    """Estimator of log p(x) of every datum, such as ``ImportanceSampling``."""

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum."""
        ...


@final
@dataclass(frozen=True)
class Chunking:
    """Cut of an estimator's work into chunks.

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
        estimate: Callable[[Chunk], Columns],
        programs: Programs,
        x: RowData,
        call: Call,
        settings: str,
    ) -> tuple[ChunkResults, Claims]:
        """Estimate chunk by chunk, in constant memory.

        Args:
            estimate: The estimator on a chunk.
            programs: Model and guide.
            x: The data.
            call: How to carry it out.
            settings: The estimator with its settings in words.

        Returns:
            The results, and what a guide that draws from a part of the prior's support only leaves
            an estimator to claim.

        Raises:
            ValueError: If there are no data, the programs do not fit, or the checkpoint is of
                another run or has no seed.
        """
        require_guide(programs.guide)
        with call.open(programs, x, ChunkSize(self.num_particles, self.rows)) as look:
            results = self.run_open(estimate, look, call, settings)
            # A refined guide is made on the prior's support, or of normals, which lack nothing.
            complete = self.from_prior or self.refine is not None
            gap = None if complete else look.support_gap()
        if gap is None:
            return results, Claims()
        return results, Claims(support_gap=gap, direction="lower", advice=_WIDEN)

    def run_open(
        self, estimate: Callable[[Chunk], Columns], look: Evaluation, call: Call, settings: str
    ) -> ChunkResults:
        """Estimate as :meth:`run`, with programs and data that are open and checked already."""

        def group(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
            return join_columns(self._group(estimate, look, x, streams))

        return call.by_chunk(look, settings, group, self._group_size(look))

    def _group(
        self, estimate: Callable[[Chunk], Columns], look: Evaluation, x: Tensor, streams: Streams
    ) -> list[Columns]:
        """Data whose guide is refined together, estimated chunk by chunk."""
        size = look.data_at_once
        programs = look.programs.rows(slice(streams.first, streams.first + len(x)))
        if self.refine is not None:
            with streams.stream(Purpose.PILOT):
                # From a stream of its own: given the refined guide, weights are unbiased.
                programs = programs.with_guide(self.refine(programs, x, seed=None))
        results = []
        for number, part in enumerate(x.split(size)):
            own_rows = slice(number * size, number * size + len(part))
            chunk = Chunk(programs.rows(own_rows), part, max(1, look.rows // size), look.replays)
            # Streams go by chunk, not by group: draws do not depend on what is refined together.
            own = Streams(streams.seed, streams.chunk + number, streams.first + number * size)
            with own.stream(Purpose.FORWARD):
                results.append(estimate(chunk))
        return results

    def _group_size(self, look: Evaluation) -> int:
        """Data refined together: many more fit with few draws each than when estimating."""
        if self.refine is None:
            return 0
        chunks = look.rows // (_GRAPH * self.refine.rows_per_datum * look.data_at_once)
        return look.data_at_once * max(1, chunks)


class ChunkedEstimator(ABC):
    """Estimator of log p(x) that is done when each chunk of the data is."""

    @abstractmethod
    def _chunking(self) -> Chunking:
        """Cut of the work into chunks."""

    @abstractmethod
    def _estimate(self, chunk: Chunk) -> Columns:
        """Values of each datum of a chunk."""

    @abstractmethod
    def _claims(self) -> Claims:
        """Claims for a guide without refinement that draws wherever the prior does.

        Particles, direction and method; what to try next where it is not more particles.
        """

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
            seed: Seed of the draws; ``None`` uses the caller's random state. Which draws are made
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
        results, left = self._chunking().run(self._estimate, programs, x, call, repr(self))
        return self._evidence(results, left)

    def on(self, look: Evaluation, *, seed: int | None = 0) -> Evidence:
        """Estimate log p(x_i) of programs and data that are open, and were checked at that time.

        The numbers are those of a call with them. Whether the guide leaves out a part of the
        prior's support is not looked at.

        Args:
            look: Programs in evaluation mode, and data.
            seed: Seed of the draws.
        """
        call = Call(seed=seed)
        results = self._chunking().run_open(self._estimate, look, call, repr(self))
        return self._evidence(results, Claims())

    def _evidence(self, results: ChunkResults, left: Claims) -> Evidence:
        claims, refine = Claims(advice=ADVICE) | self._claims(), self._chunking().refine
        if refine is not None:
            claims["method"] = f"{claims['method']} ({refine.description})"
        # What the guide never draws makes a lower bound of any estimate.
        claims |= left
        return Evidence.from_weights(results.columns, claims, results.identity, results.seconds)


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


def require_counts(name: str, **counts: int | None) -> None:
    """Check whole numbers of 1 or more; None is left alone.

    Raises:
        ValueError: If one is less.
    """
    for field, value in counts.items():
        # True is an int in Python, and would pass for 1.
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
