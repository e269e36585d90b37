"""Estimate cut into shards that may run anywhere."""

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from ppl_vae.data import RowData, Rows
from ppl_vae.evidence._chunked import Estimator, require_counts
from ppl_vae.evidence._loop import join_columns
from ppl_vae.evidence._result import OPTIONAL, PER_DATUM, Claims, Evidence
from ppl_vae.identity import Identity, identity_of, state
from ppl_vae.particles import Program
from ppl_vae.randomness import Stream, derive_seed


@final
@dataclass(frozen=True)
class Shard:
    """Shard of the data, and the seed of its draws.

    Attributes:
        number: From 0.
        start: The first row.
        stop: The row after the last.
        seed: None where draws come from the caller's random state.
    """

    number: int
    start: int
    stop: int
    seed: int | None

    def __len__(self) -> int:
        return self.stop - self.start


@final
@dataclass(frozen=True)
class Sharded:
    """``log p(x_i)`` by ``estimator``, the data cut into ``shards`` parts of near-equal size.

    Each part has draws of its own, from a seed that follows from the seed of the whole and the
    part's number. So the parts may run one after the other, as here, or apart on many machines, by
    :meth:`parts` and :meth:`join`, and the numbers are the same. What an estimator claims of each
    datum (a bound, unbiased, its error) stands, as it says nothing of other data; the draws of data
    in different parts are independent.

    Args:
        estimator: Of log p(x).
        shards: Number of parts.

    Raises:
        ValueError: If shards is less than 1.
    """

    estimator: Estimator
    shards: int

    def __post_init__(self) -> None:
        require_counts("Sharded", shards=self.shards)

    def parts(self, num_data: int, seed: int | None = 0) -> list[Shard]:
        """Cut the rows into parts, each with a seed.

        Raises:
            ValueError: If there are fewer data than parts.
        """
        if num_data < self.shards:
            raise ValueError(
                f"{num_data} data cannot be cut into {self.shards} shards: use at most {num_data}."
            )
        ends = [num_data * part // self.shards for part in range(self.shards + 1)]
        seeds = [
            None if seed is None else derive_seed(seed, Stream.EVALUATION, part, self.shards)
            for part in range(self.shards)
        ]
        return [Shard(part, ends[part], ends[part + 1], seeds[part]) for part in range(self.shards)]

    def estimate(
        self, model: Program, guide: Program, x: RowData, shard: Shard, **call: Any
    ) -> Evidence:
        """The result for one part.

        Args:
            model: Pyro model.
            guide: Pyro guide.
            x: All the data, rows first.
            shard: The part, from :meth:`parts`.
            call: Further arguments of the estimator; a checkpoint only if it takes one.
        """
        if "checkpoint" not in inspect.signature(self.estimator.__call__).parameters:
            call.pop("checkpoint", None)
        rows = Rows.of(x)[shard.start : shard.stop]
        return self.estimator(model, guide, rows, seed=shard.seed, **call)

    def join(self, parts: list[Evidence], identity: Identity) -> Evidence:
        """The result for all data, from those of the parts in their order.

        Its ``seconds`` are the sum of theirs: time computed, not time waited.

        Args:
            parts: Their results.
            identity: What the whole is computed from, as
                ``identity_of(lambda: sharded(model, guide, x))`` says.

        Raises:
            ValueError: If there are not as many as parts.
        """
        if len(parts) != self.shards:
            raise ValueError(f"Sharded joins its {self.shards} parts, got {len(parts)}.")
        known = identity.of_parts(part.identity for part in parts)
        return concatenate(parts, known)

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
        checkpoint: Path | None = None,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum; arguments as for the estimator.

        With a checkpoint, each part keeps one of its own beside it, if the estimator takes one.
        """
        rows, results, files = Rows.of(x), [], []
        shards = self.parts(len(rows), seed)
        # Stated before anything is computed, so that a stored result is found without computing.
        identity = identity_of(lambda: self.estimator(model, guide, rows, device=device, seed=seed))
        identity = state(replace(identity, settings=repr(self)))
        for shard in shards:
            call: dict[str, Any] = {"device": device, "progress": progress}
            if checkpoint is not None:
                path = Path(checkpoint)
                files.append(path.with_name(f"{path.stem}-{shard.number}{path.suffix}"))
                call["checkpoint"] = files[-1]
            results.append(self.estimate(model, guide, rows, shard, **call))
        # Only when all parts are there: until then an interrupted call goes on from each.
        for file in files:
            file.unlink(missing_ok=True)
        return self.join(results, identity)


def concatenate(parts: list[Evidence], identity: Identity | None) -> Evidence:
    """One result for the data of all parts, in order; they come from one estimator.

    Args:
        parts: Results of one estimator.
        identity: What all of it was computed from.
    """
    columns = [
        {
            name: values
            for name in (*PER_DATUM, *OPTIONAL)
            if (values := getattr(part, name)) is not None
        }
        for part in parts
    ]
    # A gap that one part has seen holds of all, with what follows for the direction.
    first = next((part for part in parts if part.support_gap), parts[0])
    claims = Claims(
        num_particles=max(part.num_particles for part in parts),
        direction=first.direction,
        method=first.method,
        highest_pareto_k=first.highest_pareto_k,
        least_effective=first.least_effective,
        gap=first.gap,
        support_gap=first.support_gap,
        advice=first.advice,
    )
    seconds = sum(part.seconds for part in parts)
    return Evidence.from_weights(join_columns(columns), claims, identity, seconds)
