"""Estimates of a Boltzmann machine's log Z, by sums or between two annealings."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.display import Result
from ppl_vae.distributions import BoltzmannPath, log_total
from ppl_vae.evidence import TOLERATED_GAP, Direction, Evidence, doubt_by_normal
from ppl_vae.identity import Identity
from ppl_vae.weights import RunningWeights, effective_sample_size

EXACT_UNITS = 20
"""Units of the smaller layer up to which all states are summed."""
_NORMAL = 1.959963984540054
"""Half width of a 95% interval, in standard errors."""
_SWEEPS_APART = 50
"""Sweeps that move the copies of resampled chains apart."""


@final
@dataclass(frozen=True)
class Side:
    """Estimate of log Z from the weights of one annealing.

    Attributes:
        value: Of log Z, in nats.
        standard_error: By the delta method.
        low: Lower end of a 95% interval.
        high: Upper end.
        effective_sample_size: Of the chains' weights.
    """

    value: float
    standard_error: float
    low: float
    high: float
    effective_sample_size: float

    @classmethod
    def of(cls, log_weight: Float[Tensor, "chains 1"], *, inverse: bool = False) -> "Side":
        """Read the log-weights of independent chains, whose mean is Z, or 1/Z if ``inverse``.

        The interval is as long on the side that few large weights would move as log-weights that
        are near normal leave open, with their noise.
        """
        weights = RunningWeights.of(log_weight)
        value, error = weights.log_mean.item(), weights.standard_error.item()
        below, above = _NORMAL * error, _NORMAL * error + doubt_by_normal(log_weight).doubt.item()
        effective = effective_sample_size(log_weight).item()
        if inverse:
            return cls(-value, error, -value - above, -value + below, effective)
        return cls(value, error, value - below, value + above, effective)


@final
@dataclass(frozen=True, repr=False)
class PartitionEstimate(Result):
    """log Z in nats, exact or between two sides.

    Attributes:
        value: log Z; the mean of both sides, or that of the only one, unless it is exact.
        standard_error: Standard error of the value; 0 if exact.
        low: Lower end of a 95% interval.
        high: Upper end.
        exact: Whether all states were summed.
        forward: Annealing from base rates, where there is one: low in expectation.
        reverse: Annealing back from the model's draws, where there is one: high in expectation, if
            the draws are the model's.
        draws_exact: Whether the draws that the way back starts at are exact.
        chains: Number of chains of each side.
        temperatures: Number of temperatures.
        seconds: Wall-clock time taken.
        machine: Hash of the couplings that it is log Z of.
    """

    _group: ClassVar[str] = "partition"
    _derived: ClassVar[tuple[str, ...]] = ("gap", "warning")

    value: float
    standard_error: float
    low: float
    high: float
    exact: bool
    forward: Side | None
    reverse: Side | None
    draws_exact: bool
    chains: int
    temperatures: int
    seconds: float
    machine: str = ""

    def evidence(
        self, log_unnormalised: Float[Tensor, " batch"], identity: Identity, seconds: float
    ) -> Evidence:
        """Log p(x) from log p(x) + log Z, with the error of log Z, which is the same for all data.

        Args:
            log_unnormalised: Of each datum, in nats.
            identity: What they are of.
            seconds: Wall-clock time that it took.
        """
        log_prob, forward = log_unnormalised - self.value, self.forward
        effective = 1.0 if forward is None else forward.effective_sample_size
        bound: Direction = "upper"
        if forward is None:
            bound = "exact"
        elif self.reverse is not None:
            # E log Z^ <= log Z of the way forward alone; the mean of both ways is no bound.
            bound = "consistent"
        return Evidence(
            log_prob=log_prob,
            standard_error=torch.full_like(log_prob, self.standard_error),
            effective_sample_size=torch.full_like(log_prob, effective),
            num_particles=max(1, self.chains),
            direction=bound,
            method=(
                "all states summed"
                if self.exact
                else f"log Z by annealing, {self.temperatures} temperatures"
            ),
            gap=None if self.gap is None else abs(self.gap),
            shared_error=self.standard_error,
            advice="use more temperatures or chains for log Z",
            identity=identity,
            seconds=seconds,
        )

    @property
    def gap(self) -> float | None:
        """What the sides differ by, in nats; None without both."""
        if self.forward is None or self.reverse is None:
            return None
        return self.reverse.value - self.forward.value

    @property
    def warning(self) -> str | None:
        """Reasons not to trust the estimate, or None if nothing speaks against it."""
        if self.exact or self.forward is None:
            return None
        found = []
        if self.gap is not None and self.reverse is not None:
            noise = math.hypot(self.forward.standard_error, self.reverse.standard_error)
            # By chance too the sides differ: only beyond that is it the path's.
            if abs(self.gap) > TOLERATED_GAP + 3 * noise:
                found.append(f"the two sides differ by {self.gap:.2g} nats")
        if not self.high - self.low <= 10 * TOLERATED_GAP:
            found.append(f"the interval is {self.high - self.low:.2g} nats wide")
        if not found:
            return None
        return f"not to be trusted: {'; '.join(found)}; use more temperatures or chains"

    def __str__(self) -> str:
        if self.exact:
            return f"log Z = {self.value:.3f} nats (all states summed)"
        text = (
            f"log Z = {self.value:.3f} +- {self.standard_error:.3f} nats, 95% {self.low:.3f} to "
            f"{self.high:.3f} ({self.temperatures} temperatures, {self.chains} chains)"
        )
        if self.reverse is not None:
            draws = "exact draws" if self.draws_exact else "draws by Gibbs sampling"
            text += (
                f"\nback from {draws}: {self.reverse.value:.3f} +- "
                f"{self.reverse.standard_error:.3f}, gap {self.gap:.3f}"
            )
        return text if self.warning is None else f"{text}\n{self.warning}"


def exact_partition(path: BoltzmannPath) -> PartitionEstimate:
    """Sum over the states of the smaller layer; of normal units, of the hidden layer."""
    start = time.perf_counter()
    value = log_total(path.state_log_weights()).item()
    seconds = time.perf_counter() - start
    return PartitionEstimate(value, 0.0, value, value, True, None, None, True, 0, 0, seconds)


def annealed_partition(
    path: BoltzmannPath, chains: int, temperatures: int, draws: Tensor | None, *, reverse: bool
) -> PartitionEstimate:
    """Anneal from the base rates, and back from draws of the model.

    Args:
        path: From the base rates to the model.
        chains: Number of chains of each side.
        temperatures: Number of temperatures.
        draws: Exact draws, one a chain; None resamples the ends of the way forward, which Gibbs
            sampling then moves apart.
        reverse: Whether to go back at all.
    """
    start = time.perf_counter()
    log_weight, ends = path.forward(chains, temperatures)
    forward, back = Side.of(log_weight), None
    if reverse:
        at = draws
        if at is None:
            chosen = torch.multinomial(torch.softmax(log_weight.squeeze(-1), 0), chains, True)
            at = ends[chosen]
            for _ in range(_SWEEPS_APART):
                at = path.sweep(at)
        back = Side.of(path.backward(at, temperatures), inverse=True)
    value, error, low, high = together(forward, back, independent=draws is not None)
    return PartitionEstimate(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        exact=False,
        forward=forward,
        reverse=back,
        draws_exact=draws is not None,
        chains=chains,
        temperatures=temperatures,
        seconds=time.perf_counter() - start,
    )


def together(
    forward: Side, back: Side | None, *, independent: bool
) -> tuple[float, float, float, float]:
    """Mean of the sides, its standard error, and the ends of a 95% interval.

    The one is low by as much as the other is high, where log-weights are near normal. Sides that
    are not independent have errors that may add up, and the way forward alone is right whatever
    the draws are: its interval is part of theirs.
    """
    if back is None:
        return forward.value, forward.standard_error, forward.low, forward.high
    value = 0.5 * (forward.value + back.value)

    def joined(one: float, other: float) -> float:
        return 0.5 * (math.hypot(one, other) if independent else one + other)

    low = value - joined(forward.value - forward.low, back.value - back.low)
    high = value + joined(forward.high - forward.value, back.high - back.value)
    error = joined(forward.standard_error, back.standard_error)
    if not independent:
        low, high = min(low, forward.low), max(high, forward.high)
    return value, error, low, high
