"""Evidence of arms and seeds as arrays, and what of it is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.comparison._crossed import CrossedMean, crossed_mean, require_two_data
from ppl_vae.evidence import Evidence
from ppl_vae.identity import require_same_rows


@final
@dataclass(frozen=True)
class Cells:
    """log p(x) of one arm, or differences of two.

    Attributes:
        seeds: The seeds there are, ascending.
        values: log p(x) of each seed and datum, in nats.
        monte_carlo_variance: The squared standard error of each; 0 where it is not known.
    """

    seeds: tuple[int, ...]
    values: Float[Tensor, "seeds data"]
    monte_carlo_variance: Float[Tensor, "seeds data"]

    @property
    def mean(self) -> CrossedMean:
        """The mean over seeds and data."""
        return crossed_mean(self.values, self.monte_carlo_variance)

    def only(self, seeds: Sequence[int]) -> "Cells":
        """Those of some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Cells(tuple(seeds), self.values[rows], self.monte_carlo_variance[rows])

    def minus(self, other: "Cells") -> "Cells | None":
        """Differences by seed and datum, of the seeds that both have; None if there are none."""
        seeds = shared_seeds([self, other])
        if not seeds:
            return None
        a, b = self.only(seeds), other.only(seeds)
        variance = a.monte_carlo_variance + b.monte_carlo_variance
        return Cells(seeds, a.values - b.values, variance)


def shared_seeds(cells: Sequence[Cells]) -> tuple[int, ...]:
    """The seeds that all have."""
    return tuple(sorted(set.intersection(*(set(each.seeds) for each in cells))))


def average(cells: Sequence[Cells]) -> Cells | None:
    """Means over arms by seed and datum, of the seeds that all have; None if there are none."""
    seeds = shared_seeds(cells)
    if not seeds:
        return None
    parts = [each.only(seeds) for each in cells]
    return Cells(
        seeds,
        torch.stack([part.values for part in parts]).mean(0),
        torch.stack([part.monte_carlo_variance for part in parts]).mean(0) / len(parts),
    )


def gather(evidence: Mapping[str, Mapping[int, Evidence]]) -> tuple[dict[str, Cells], list[str]]:
    """Arm to its cells, and what was left out, one sentence each.

    Raises:
        ValueError: If results are of different data, of fewer than 2, or there are none.
    """
    require_same_rows(
        {
            f"{arm} seed {seed}": result.identity
            for arm, cells in evidence.items()
            for seed, result in cells.items()
        }
    )
    sizes = sorted({len(result) for cells in evidence.values() for result in cells.values()})
    if len(sizes) != 1:
        raise ValueError(f"arms need results on the same data, got numbers of data {sizes}.")
    require_two_data(sizes[0])
    found, notes = {}, []
    for arm, results in evidence.items():
        impossible = [s for s, result in results.items() if bool(result.log_prob.isneginf().any())]
        if impossible:
            # Without these runs the arm would be judged by its better ones.
            seeds = ", ".join(map(str, sorted(impossible)))
            notes.append(
                f"{arm} is left out: log p(x) is -inf for some data of seed {seeds}, and so is its "
                "mean."
            )
            continue
        finite = {
            seed: result
            for seed, result in sorted(results.items())
            if bool(result.log_prob.isfinite().all())
        }
        notes += [
            f"{arm} seed {seed} is left out: log p(x) is not finite for some of its data."
            for seed in sorted(results.keys() - finite.keys())
        ]
        if finite:
            found[arm] = _cells(finite)
        else:
            notes.append(f"{arm} is left out: none of its runs has a result.")
    if not found:
        raise ValueError("a comparison needs an arm with a finite result, got none.")
    return found, notes


def _cells(results: Mapping[int, Evidence]) -> Cells:
    return Cells(
        tuple(results),
        torch.stack([result.log_prob.double() for result in results.values()]),
        # One particle has no standard error (NaN); its spread over data still counts.
        torch.stack(
            [result.standard_error.double().square().nan_to_num() for result in results.values()]
        ),
    )
