"""Importance sampling that spends its draws where they are needed."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import RowData, RowTensor, select
from ppl_vae.evidence._chunk import Chunk
from ppl_vae.evidence._chunked import ADVICE, Chunking, require_counts, require_guide
from ppl_vae.evidence._doubt import doubt_by_tail
from ppl_vae.evidence._loop import Call, join_columns
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.evidence._tails import LEAST_PARTICLES, pareto_tail
from ppl_vae.evidence._verdict import TOLERATED_TAIL
from ppl_vae.evidence._weighing import measured
from ppl_vae.identity import Identity
from ppl_vae.particles import ChunkSize, Program, Programs, evaluation
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, derive_seed
from ppl_vae.weights import RunningWeights

_MARGIN = 1.2
"""More draws than the pilot asks for, which is itself uncertain."""
_FAR = 1.5
"""Factor on the target: stopping exactly at it would again stop by the draws that count."""
_NO_VARIANCE = 0.5
"""Pareto shape from which on weights have no variance."""
_ENOUGH = 1000
"""Draws from which on a tail's shape is known well enough to stop by."""


@final
@dataclass(frozen=True)
class AdaptiveSampling:
    """Importance sampling with as many draws of each datum as its standard error asks for.

    A pilot of ``first`` draws says how many each datum needs: the relative variance of its weights
    over the target squared. The pilot is then thrown away, because an estimate that stops by its
    own draws stops early where they happen to look settled, and is low there. The draws that count
    grow by halves until a datum has what it needs, and a fifth more for the pilot's own noise; only
    one that then misses the target by far, or whose effective sample size is too small for its
    error to be believed, goes on, up to ``most``. What is left of the dependence makes the estimate
    consistent rather than a strict bound in expectation. Costs as many decoder evaluations as are
    drawn, the pilot's included.

    A datum whose weights have a heavy tail would stop where the tail was not seen, with an error
    that is too small. So the error is by the draws that count or by these and the pilot's,
    whichever is larger, and tails are fitted. Where the pilot's has a Pareto k above 0.5, with
    which weights have no variance and no number of draws gives the error that is wanted, at least
    1,000 draws are made, which tell k to about 0.15; the draws that count do not decide on this, as
    going on where they look heavy would be biased. The k of all draws is in the result, which is
    not to be trusted where many data have one above 0.5.

    Args:
        target: Standard error wanted of each log p(x_i), in nats.
        first: Draws of every datum in the pilot, and the least that count.
        most: Draws of a datum at which it is given up.
        least_effective: Effective samples below which a standard error is not believed.
        rows: Particles times data decoded at once; by default what suits the device.

    Raises:
        ValueError: If the target is not positive, or a count less than 1, or most below first.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    target: float = 0.05
    first: int = 100
    most: int = 100_000
    least_effective: float = 20.0
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts("AdaptiveSampling", first=self.first, most=self.most, rows=self.rows)
        if not self.target > 0:
            raise ValueError(f"AdaptiveSampling needs a target > 0 nats, got {self.target}.")
        if not self.least_effective >= 0:
            raise ValueError(
                f"AdaptiveSampling needs least_effective >= 0, got {self.least_effective}."
            )
        if self.most < self.first:
            raise ValueError(
                f"AdaptiveSampling needs most >= first, got {self.most} and {self.first}."
            )

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
        """Estimate log p(x_i) for every datum; arguments as for ``ImportanceSampling``."""
        require_guide(guide)
        programs, call = Programs(model, guide), Call(device, seed, progress)
        with evaluation(programs, x, ChunkSize(1, self.rows), device=device) as look:
            identity, x = look.identity(repr(self), seed), look.x
        # The pilot decides how much to draw and is not averaged over: an estimate that stops by its
        # own draws is biased.
        pilot, drawn_from, left = self._draw(programs, x, self.first, "pilot", call)
        wanted, stages = self._wanted(pilot), [drawn_from]
        active, drawn = torch.arange(len(x)), 0
        sums: RunningWeights | None = None
        rows, columns = [], []
        with tqdm(total=len(x), desc="log p(x)", disable=no_bar(progress)) as bar:
            while len(active):
                # By halves: few passes over the data, at most half more draws than are needed.
                size = min(max(self.first, drawn // 2), self.most - drawn)
                own = programs.rows(active)
                fresh, drawn_from, _ = self._draw(own, select(x, active), size, drawn, call)
                stages.append(drawn_from)
                sums = fresh if sums is None else sums.merged(fresh)
                drawn += size
                every = sums.merged(pilot)
                done = self._done(sums, every) & (wanted <= drawn)
                done |= drawn >= self.most
                rows.append(active[done])
                columns.append(self._columns(sums.rows(done), every.rows(done)))
                active, sums, pilot = active[~done], sums.rows(~done), pilot.rows(~done)
                wanted = wanted[~done]
                bar.update(int(done.sum()))
        # Data were done in another order than they came in.
        order = torch.cat(rows).argsort()
        claims = Claims(
            num_particles=drawn,
            direction="consistent",
            method=f"importance sampling to a standard error of {self.target:g}",
            # Draws are stopped by a standard error, which weights without a variance do not have.
            highest_pareto_k=_NO_VARIANCE,
            advice=ADVICE,
        )
        return Evidence.from_weights(
            {name: values[order] for name, values in join_columns(columns).items()},
            claims | left,
            identity.of_parts(stages),
            call.seconds,
        )

    def _wanted(self, pilot: RunningWeights) -> Tensor:
        """Draws that each datum needs, by the relative variance of its weights in the pilot.

        Where the pilot's tail is heavy, enough to tell; in any case enough for a tail to be seen.
        """
        needed = _MARGIN * self.first * (pilot.standard_error / self.target).square()
        # With the pilot's draws at least 100 in all: a tail is fitted to no fewer.
        needed = needed.clamp(min=LEAST_PARTICLES - self.first)
        tail = pareto_tail(pilot)
        heavy = (tail.pareto_k > _NO_VARIANCE) & (tail.tail_share > TOLERATED_TAIL)
        needed = torch.where(heavy, needed.clamp(min=_ENOUGH), needed)
        # Weights that are all 0 in the pilot have no variance to go by.
        return needed.nan_to_num(nan=float(self.most)).clamp(max=self.most)

    def _draw(
        self,
        programs: Programs,
        x: RowTensor,
        size: int,
        stage: int | Literal["pilot"],
        call: Call,
    ) -> tuple[RunningWeights, Identity, Claims]:
        """Sums of ``size`` fresh draws of each of the data; what they are of and leave to claim."""

        def estimate(chunk: Chunk) -> Columns:
            weights = RunningWeights(self.most)
            for part in chunk.log_weights(size):
                weights.add(part.cpu())
            return weights.columns()

        # A stream's name holds the length of its path: the pilot shares no draw with stage 0.
        path = () if stage == "pilot" else (stage,)
        seed = None if call.seed is None else derive_seed(call.seed, Stream.EVALUATION, *path)
        results, left = Chunking(size, None, self.rows).run(
            estimate, programs, x, Call(call.device, seed), f"{stage} of {self!r}"
        )
        sums = RunningWeights.from_columns(results.columns, size, self.most)
        return sums, results.identity, left

    def _done(self, sums: RunningWeights, every: RunningWeights) -> Tensor:
        # With few draws in all, half of them is as much as can be asked for.
        least = min(self.least_effective, 0.5 * sums.num_particles)
        known = sums.effective_sample_size >= least
        return (_error(sums, every) <= _FAR * self.target) & known

    def _columns(self, sums: RunningWeights, every: RunningWeights) -> Columns:
        columns, tail = measured(sums, tails=False), pareto_tail(every)
        return columns | {
            "standard_error": torch.hypot(_error(sums, every), columns["rounding"]),
            "pareto_k": tail.pareto_k,
            "tail_share": tail.tail_share,
            **doubt_by_tail(every, tail)._asdict(),
            "evaluations": torch.full_like(sums.log_mean, float(sums.num_particles + self.first)),
        }


def _error(sums: RunningWeights, every: RunningWeights) -> Float[Tensor, " batch"]:
    """The larger of the errors that the draws that count, and these with the pilot's, give."""
    # Scaled to the draws that count: the estimate is the mean of these alone.
    by_every = every.standard_error * math.sqrt(every.num_particles / sums.num_particles)
    return torch.maximum(sums.standard_error, by_every)
