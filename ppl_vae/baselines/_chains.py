"""Chains of block Gibbs sampling, plain or tempered, and whether they mix."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.display import Result
from ppl_vae.distributions import BoltzmannPath

HIGHEST_R_HAT = 1.01
"""R-hat above which chains have not mixed."""
LEAST_EFFECTIVE = 100
"""Effective draws a chain below which quantiles and R-hat itself are not to be trusted."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Chains(Result):
    """Draws of several chains.

    Attributes:
        x: Draws, shape (chains, draws, features), on the CPU.
        r_hat: Rank-normalised R-hat of the free energy and of every hidden unit's probability, the
            largest.
        effective_sample_size: The smallest bulk effective sample size of the same.
        swap_rate: Smallest share of accepted swaps between neighbouring levels; NaN for plain
            chains.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Buerkner, 2021, Rank-normalization, folding, and
        localization: an improved R-hat.
    """

    _group: ClassVar[str] = "chains"
    _derived: ClassVar[tuple[str, ...]] = ("warning",)

    x: Float[Tensor, "chains draws features"]
    r_hat: float
    effective_sample_size: float
    swap_rate: float

    def _values(self) -> dict[str, Any]:
        chains, draws, _ = self.x.shape
        return {
            "num_chains": chains,
            "num_draws": draws,
            "r_hat": self.r_hat,
            "effective_sample_size": self.effective_sample_size,
            "swap_rate": self.swap_rate,
            "warning": self.warning,
        }

    @property
    def warning(self) -> str | None:
        """Reasons not to take the draws for the model's, or None if nothing speaks against it."""
        found = []
        if not self.r_hat <= HIGHEST_R_HAT:
            found.append(f"R-hat is {self.r_hat:.3f}, above {HIGHEST_R_HAT}")
        least = LEAST_EFFECTIVE * len(self.x)
        if not self.effective_sample_size >= least:
            found.append(f"{self.effective_sample_size:.0f} effective draws, fewer than {least}")
        if not found:
            return None
        return f"not to be trusted: {'; '.join(found)}; take more draws, or levels"

    def __str__(self) -> str:
        chains, draws, _ = self.x.shape
        text = (
            f"{chains} chains of {draws} draws: R-hat {self.r_hat:.3f}, "
            f"{self.effective_sample_size:.0f} effective draws"
        )
        if not math.isnan(self.swap_rate):
            text += f", swaps accepted {self.swap_rate:.2f} at least"
        return text if self.warning is None else f"{text}\n{self.warning}"


def chains_of(path: BoltzmannPath, count: int, draws: int, warm_up: int, levels: int) -> Chains:
    """Draw chains of the machine at the end of a path, from starts at its base rates."""
    # Equal steps of s from the base rates; a single copy is the machine itself.
    s = torch.linspace(0, 1, levels, dtype=path.base.dtype, device=path.base.device)
    s = s.unsqueeze(-1) if levels > 1 else torch.ones_like(s).unsqueeze(-1)
    u = path.units.sample(path.base.expand(levels, count, -1))
    kept, swapped = [], torch.zeros(levels - 1, dtype=torch.float64)
    for number in range(warm_up + draws):
        u = path.sweep(u, s)
        if levels > 1:
            u, accepted = _swap(path, u, s, number % 2)
            swapped += accepted
        if number >= warm_up:
            # Copied: swaps write into u.
            kept.append(u[-1].clone())
    x = torch.stack(kept, 1)
    hidden = torch.sigmoid(path.couplings.hidden_logits(x))
    watched = torch.cat([path.log_density(x, 1.0).unsqueeze(-1), hidden], -1)
    r_hat, effective = _mixing(watched.cpu())
    # Every pair of neighbours has its turn at every second sweep.
    rate = math.nan if levels == 1 else 2 * swapped.min().item() / (warm_up + draws)
    return Chains(x.cpu(), r_hat, effective, rate)


def _swap(
    path: BoltzmannPath,
    u: Float[Tensor, "levels chains features"],
    s: Float[Tensor, "levels 1"],
    parity: int,
) -> tuple[Tensor, Tensor]:
    """Swap copies of neighbouring levels, pairs from ``parity`` on, by Metropolis' rule.

    Returns:
        The copies, and the share of chains that swapped, by pair.
    """
    low = torch.arange(parity, len(u) - 1, 2, device=u.device)
    rates = torch.zeros(len(u) - 1, dtype=torch.float64)
    if len(low) == 0:
        return u, rates
    high = low + 1
    now = path.log_density(u[low], s[low]) + path.log_density(u[high], s[high])
    then = path.log_density(u[high], s[low]) + path.log_density(u[low], s[high])
    accepted = torch.rand_like(now).log() < then - now
    rates[low.cpu()] = accepted.double().mean(-1).cpu()
    moved, chosen = u.clone(), accepted.unsqueeze(-1)
    moved[low] = torch.where(chosen, u[high], u[low])
    moved[high] = torch.where(chosen, u[low], u[high])
    return moved, rates


def _mixing(values: Float[Tensor, "chains draws statistics"]) -> tuple[float, float]:
    """Largest R-hat and smallest bulk effective sample size."""
    # Imported here: it takes a second, and only who samples needs it.
    from arviz_stats.base import array_stats

    by_statistic = values.movedim(-1, 0).double().numpy()
    r_hat = max(float(array_stats.rhat(each)) for each in by_statistic)
    effective = min(float(array_stats.ess(each)) for each in by_statistic)
    return r_hat, effective
