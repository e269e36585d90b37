"""Thermodynamic integration."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._result import Claims, Columns
from ppl_vae.evidence._weighing import require_numbers
from ppl_vae.evidence.annealing._ais import (
    AnnealedEstimator,
    AnnealedImportanceSampling,
    require_annealing,
)
from ppl_vae.evidence.annealing._chains import Chains, resampled
from ppl_vae.evidence.annealing._pilot import Annealer


@final
@dataclass(frozen=True)
class ThermodynamicIntegration(AnnealedEstimator):
    """``log p(x) = log S + integral over b from 0 to 1 of E_(pi_b) [d/db log f_b(z)]``, pi_b ~ f_b.

    At each temperature K chains that come from the one before are moved a while (the burn-in), and
    then averaged over as many transitions as are asked for; at b = 0 there are exact draws. The
    integral is by the trapezoid rule, less its leading error ``h^2 / 12 (V(b + h) - V(b))`` over an
    interval of length h, as the derivative of the integrand is the variance V(b) of ``d/db log
    f_b`` under pi_b.

    S is the share of f_0 from which x is possible, p(x|z) > 0: 1 but for likelihoods whose support
    depends on z, such as ``Uniform(0, z)``. As b falls to 0 the integral of f_b goes to S and pi_b
    to f_0 on that part alone, as any power of 0 is 0; so draws at b = 0 from where x is impossible
    give way to others, and ``log S``, by the share of the draws that are not, adds ``(1 - S) / (S
    n)`` to the variance, n being the number of draws.

    Consistent, and neither a lower nor an upper bound: it needs transitions that mix and intervals
    that are short. The standard error is from the K chains, each of which gives an integral of its
    own, so that autocorrelation within a chain is in it; added in quadrature is the size of the
    trapezoid's correction, as a measure of what discretisation leaves.

    Costs K T (burn_in + num_samples) L gradient evaluations per datum, and the pilot run's.

    Args:
        annealing: The path, its transitions and the number of chains (2 or more).
        burn_in: Transitions at each temperature before any are averaged.
        num_samples: Transitions averaged over.

    Raises:
        ValueError: If an argument is out of range; when called, if x is impossible under all draws
            at b = 0.

    References:
        Gelman and Meng, 1998, Simulating normalizing constants.
        Friel, Hurn and Wyse, 2014, Improving power posterior estimation of statistical evidence.
    """

    annealing: AnnealedImportanceSampling = field(
        default_factory=lambda: AnnealedImportanceSampling(num_temperatures=50)
    )
    burn_in: int = 10
    num_samples: int = 20

    def __post_init__(self) -> None:
        require_annealing("ThermodynamicIntegration", self.annealing)
        require_counts(
            "ThermodynamicIntegration", burn_in=self.burn_in, num_samples=self.num_samples
        )
        if self.annealing.num_chains < 2:
            raise ValueError(
                "ThermodynamicIntegration takes its error from independent chains: it needs "
                f"num_chains >= 2, got {self.annealing.num_chains}."
            )

    def _annealing(self) -> AnnealedImportanceSampling:
        return self.annealing

    def _estimate(self, annealer: Annealer) -> Columns:
        integral = self.integrate(annealer)
        require_numbers(integral.trapezoid)
        chains = self.annealing.num_chains
        moves = annealer.last * (self.burn_in + self.num_samples)
        spent = chains * (self.num_samples + moves * self.annealing.leapfrog_steps)
        spent += self.annealing.pilot_evaluations(annealer)
        # From integrals of whole chains: samples along a chain depend on each other.
        variance = integral.trapezoid.var(0) / chains
        log_prob = integral.trapezoid.mean(0) + integral.correction + integral.log_share
        rounding = torch.finfo(annealer.computed_in).eps * log_prob.abs()
        error = variance + integral.share_variance
        error = (error + integral.correction.square() + rounding.square()).sqrt()
        return {
            "log_prob": log_prob,
            "standard_error": error,
            "rounding": rounding,
            "effective_sample_size": integral.possible.clamp(max=chains),
            "evaluations": torch.full_like(variance, spent),
            "correction": integral.correction,
        }

    def _claims(self, columns: Columns) -> Claims:
        correction = columns["correction"].mean().item()
        method = (
            f"thermodynamic integration {self.annealing.described}, {self.num_samples} samples "
            f"after {self.burn_in} at each, trapezoid corrected by {correction:+.3f} nats"
        )
        return Claims(direction="consistent", method=method)

    def integrate(self, annealer: Annealer) -> "_Integral":
        """The integral of every chain, and what it was corrected by."""
        start = _Start.of([annealer.path.draw() for _ in range(self.num_samples)])
        chains, before = start.chains, _Moments.of(start.ratios)
        trapezoid = torch.zeros_like(before.mean)
        correction = torch.zeros_like(before.variance)
        schedule = annealer.tuning.schedule.double()
        for point in range(1, annealer.last + 1):
            sampled = []
            for number in range(self.burn_in + self.num_samples):
                chains, _ = annealer.move(chains, point)
                if number >= self.burn_in:
                    sampled.append(chains.ratio)
            after, width = _Moments.of(sampled), schedule[point] - schedule[point - 1]
            trapezoid = trapezoid + 0.5 * width * (before.mean + after.mean)
            correction = correction - width.square() / 12 * (after.variance - before.variance)
            before = after
        return _Integral(trapezoid, correction, start.possible, len(start.ratios) * len(trapezoid))


@final
@dataclass(frozen=True)
class _Integral:
    """Integral of each chain, with its corrections, in nats.

    Attributes:
        trapezoid: By each chain alone, shape (chains, batch).
        correction: Of the trapezoid's leading error, shape (batch,), to be added.
        possible: Draws at b = 0 from which x is possible, shape (batch,).
        draws: Draws at b = 0.
    """

    trapezoid: Float[Tensor, "chains batch"]
    correction: Float[Tensor, " batch"]
    possible: Float[Tensor, " batch"]
    draws: int

    @property
    def log_share(self) -> Float[Tensor, " batch"]:
        """``log S``, to be added."""
        return (self.possible / self.draws).log()

    @property
    def share_variance(self) -> Float[Tensor, " batch"]:
        """Variance of ``log S``, by the delta method."""
        return (self.draws - self.possible) / (self.possible * self.draws)


@final
@dataclass(frozen=True)
class _Start:
    """Draws at b = 0 from where x is possible, with one of each chain to go on from."""

    chains: Chains
    ratios: list[Tensor]
    possible: Tensor

    @classmethod
    def of(cls, draws: list[Chains]) -> "_Start":
        # Chain by chain: what systematic resampling puts in place of a draw stands near it, so that
        # chains share hardly any draws.
        every = Chains(
            *(torch.stack(values, 1).flatten(0, 1) for values in zip(*draws, strict=True))
        )
        impossible = every.ratio.isneginf()
        possible = (~impossible).sum(0).double()
        if not bool(possible.all()):
            raise ValueError(
                f"{int((possible == 0).sum())} data of a chunk are impossible (p(x|z) = 0) under "
                f"all {len(impossible)} draws at b = 0, and ThermodynamicIntegration starts from "
                "draws that allow them: take more chains or num_samples, or ImportanceSampling(), "
                "AnnealedImportanceSampling() or SequentialMonteCarlo(), which take weights of 0."
            )
        if bool(impossible.any()):
            zero = torch.zeros_like(every.ratio).masked_fill(impossible, -torch.inf)
            every = resampled(every, zero, 1, impossible.any(0, keepdim=True))
        chains = Chains(*(value[:: len(draws)] for value in every))
        return cls(chains, list(every.ratio.unflatten(0, (-1, len(draws))).unbind(1)), possible)


@final
@dataclass(frozen=True)
class _Moments:
    """Moments of d/db log f_b at a temperature: each chain's mean, the variance over all."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, sampled: list[Tensor]) -> "_Moments":
        samples = torch.stack(sampled).double()
        # All chains as one sample: the burn-in is to have made them exchangeable.
        return cls(samples.mean(0), samples.flatten(0, 1).var(0, correction=0))
