"""Sequential Monte Carlo along the annealing path."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._result import Claims, Columns
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.evidence.annealing._ais import (
    AnnealedEstimator,
    AnnealedImportanceSampling,
    require_annealing,
)
from ppl_vae.evidence.annealing._chains import resampled
from ppl_vae.evidence.annealing._pilot import Annealer
from ppl_vae.weights import group_log_mean_exp


@final
@dataclass(frozen=True)
class SequentialMonteCarlo(AnnealedEstimator):
    """``log (1/G) sum_g Z_g``, with ``Z_g`` a product of mean incremental weights.

    As :class:`AnnealedImportanceSampling`, except that the chains of a group are resampled, for
    each datum by itself, whenever the effective sample size of their weights falls below a fraction
    of their number: hopeless chains are given up for copies of good ones. Before each resampling
    the mean weight since the last one becomes a factor of Z_g. E[Z_g] = p(x), so that the estimate
    is a lower bound of log p(x) in expectation, as long as the settings are frozen beforehand, as
    they are by the pilot run.

    Chains of one group share ancestors, and say nothing about the error of their Z_g. It comes from
    G groups that never meet: the standard error is by the delta method over groups, and the
    effective sample size is that of the Z_g, between 1 and G.

    Costs what the annealing costs.

    Args:
        annealing: The path, its transitions and the number of chains, all groups together.
        num_groups: Number of groups G; divides the number of chains into groups of 2 or more.
        threshold: Fraction of a group's size below which its effective sample size makes it
            resample; 0 never does (annealed importance sampling), 1 practically always.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Del Moral, Doucet and Jasra, 2006, Sequential Monte Carlo samplers.
    """

    annealing: AnnealedImportanceSampling = field(
        default_factory=lambda: AnnealedImportanceSampling(num_chains=64)
    )
    num_groups: int = 8
    threshold: float = 0.5

    def __post_init__(self) -> None:
        require_annealing("SequentialMonteCarlo", self.annealing)
        require_counts("SequentialMonteCarlo", num_groups=self.num_groups)
        chains = self.annealing.num_chains
        if chains % self.num_groups or chains < 2 * self.num_groups:
            raise ValueError(
                f"SequentialMonteCarlo needs num_chains a multiple of num_groups, twice or more: "
                f"got {chains} chains in {self.num_groups} groups."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"SequentialMonteCarlo needs threshold between 0 and 1, got {self.threshold}."
            )

    def _annealing(self) -> AnnealedImportanceSampling:
        return self.annealing

    def _estimate(self, annealer: Annealer) -> Columns:
        spent = self.annealing.evaluations(annealer)
        return weight_columns(self.log_evidence(annealer), spent, annealer.computed_in)

    def _claims(self, columns: Columns) -> Claims:
        method = f"sequential Monte Carlo {self.annealing.described} in {self.num_groups} groups"
        return Claims(direction="lower", method=method)

    def log_evidence(self, annealer: Annealer) -> Float[Tensor, "groups batch"]:
        """``log Z_g`` of every group."""
        chains = annealer.path.draw()
        since = torch.zeros_like(chains.base, dtype=torch.float64)
        total = torch.zeros(self.num_groups, since.shape[1]).to(since)
        for point in range(1, annealer.last + 1):
            since = since + annealer.increment(chains, point - 1, point)
            # No transition at b = 1: it would change no weight.
            if point == annealer.last:
                break
            grouped = since.unflatten(0, (self.num_groups, -1))
            log_size = 2 * grouped.logsumexp(1) - (2 * grouped).logsumexp(1)
            poor = log_size.exp() < self.threshold * grouped.shape[1]
            chains = resampled(chains, since, self.num_groups, poor)
            # A factor of Z_g where the group is resampled; elsewhere weights go on gathering.
            mean = group_log_mean_exp(since, self.num_groups)
            total = torch.where(poor, total + mean, total)
            since = torch.where(poor.unsqueeze(1), 0.0, grouped).flatten(0, 1)
            chains, _ = annealer.move(chains, point)
        return total + group_log_mean_exp(since, self.num_groups)
