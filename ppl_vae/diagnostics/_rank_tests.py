"""Tests of the ranks of one latent dimension: of their location, spread and shape."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._estimates import MonteCarlo
from ppl_vae.display import fields_of

NUM_TESTS = 3
NUM_BINS = 20
_LEAST_VARIANCE = 1e-6


@final
@dataclass(frozen=True)
class RankTest:
    """Tests of the ranks of one latent dimension.

    Attributes:
        name: Site and dimension.
        location: How far z* is above the middle of the draws, in standard deviations of the draws,
            if both are normal: the mean of the ranks' normal scores. 0 if calibrated.
        spread: By what factor z* is spread wider than the draws, likewise: 1 if calibrated. As
            ranks end at 0 and L, a factor far above 1 is understated.
        p_values: Of the tests of location, spread and shape (chi-squared over bins of the ranks).
        level: Below which a p-value counts: the false-alarm rate over the number of tests.
    """

    name: str
    location: MonteCarlo
    spread: MonteCarlo
    p_values: dict[str, float]
    level: float

    @property
    def findings(self) -> list[str]:
        """Faults of the draws, in words; empty if nothing was found."""
        low, narrow = self.location.value > 0, self.spread.value > 1
        words = {
            "location": "shifted: too low" if low else "shifted: too high",
            "spread": "too narrow" if narrow else "too wide",
            "shape": "of another shape",
        }
        found = [name for name, p in self.p_values.items() if p < self.level]
        # Another location or spread is another shape too.
        named = [name for name in found if name != "shape"] or found
        return [words[name] for name in named]

    @classmethod
    def of(
        cls, name: str, ranks: Float[Tensor, " simulations"], num_draws: int, level: float
    ) -> "RankTest":
        """Compare normal scores and counts of the ranks with those of uniform ranks."""
        uniform = (torch.arange(num_draws + 1, dtype=torch.float64) + 0.5) / (num_draws + 1)
        # Normal scores of discrete uniform ranks have a variance a little below 1: unit is theirs.
        scores, flat = torch.special.ndtri(ranks), torch.special.ndtri(uniform)
        root, unit = math.sqrt(len(ranks)), flat.square().mean()
        location, variance = scores.mean(), scores.var().clamp(min=_LEAST_VARIANCE)
        # A shift alone makes scores look less spread, as they end where ranks do.
        means, variances = _cut_normals(num_draws)
        loss = variances[(means - location).abs().argmin()] / variances[len(variances) // 2]
        ratio = variance / (unit * loss)
        fourth = (scores - location).pow(4).mean()
        # Delta method: the variance of a sample variance is (mu_4 - sigma^4) / n.
        ratio_error = (fourth - variance.square()).clamp(min=0).sqrt() / variance / root
        # The tests take the null hypothesis' own errors, which are known.
        z_location = location / unit.sqrt() * root
        z_spread = (ratio - 1) / (flat.pow(4).mean() / unit.square() - 1).sqrt() * root
        # Ranks that pile up at one end show a shift, and nothing of the width.
        at_the_ends = ((ranks == uniform[0]) | (ranks == uniform[-1])).double().mean()
        one_sided = bool((at_the_ends > 0.5) & (location.abs() > 1))
        # Bins hold unequal numbers of possible ranks.
        observed = torch.histc(ranks, NUM_BINS, 0, 1)
        expected = torch.histc(uniform, NUM_BINS, 0, 1) * len(ranks) / len(uniform)
        chi_squared = ((observed - expected).square() / expected).sum().item()
        return cls(
            name=name,
            location=MonteCarlo(location.item(), variance.sqrt().item() / root),
            spread=MonteCarlo(ratio.sqrt().item(), (ratio.sqrt() * ratio_error / 2).item()),
            p_values={
                "location": _two_sided(z_location.item()),
                # Of draws that are all on one side of z* nothing is known but that.
                "spread": 1.0 if one_sided else _two_sided(z_spread.item()),
                "shape": float(scipy.special.chdtrc(NUM_BINS - 1, chi_squared)),
            },
            level=level,
        )

    def __str__(self) -> str:
        numbers = [*fields_of(self.location).values(), *fields_of(self.spread).values()]
        columns = " ".join(f"{number:12.3f}" for number in numbers)
        return f"{columns} {min(self.p_values.values()):12.2g}   {', '.join(self.findings) or '-'}"


def _two_sided(z: float) -> float:
    """Probability of a normal score as far from 0."""
    return 2 * float(scipy.special.ndtr(-abs(z)))


@lru_cache(maxsize=8)
def _cut_normals(num_draws: int) -> tuple[Tensor, Tensor]:
    """Means and variances of normals of variance 1, shifted, and cut off at the largest score."""
    limit = -float(torch.special.ndtri(torch.tensor(0.5 / (num_draws + 1), dtype=torch.float64)))
    grid = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    shifts = torch.linspace(-2 * limit, 2 * limit, 801, dtype=torch.float64)
    clipped = (grid + shifts.unsqueeze(-1)).clamp(-limit, limit)
    return clipped.mean(1), clipped.var(1, correction=0).clamp(min=_LEAST_VARIANCE)
