"""Result of an estimator of log p(x)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.evidence._verdict import (
    MIN_EFFECTIVE_SAMPLE_SIZE,
    TOLERATED_TAIL,
    Finding,
    few_effective,
    heavy_tails,
    no_weight,
    outside_support,
    required_effective,
    rounded,
    verdict,
    wide_gap,
)
from ppl_vae.identity import Identity, hash_tensors, hash_values
from ppl_vae.netcdf import Attribute, Variable, numpy_of

Direction = Literal["lower", "upper", "unbiased", "consistent", "exact"]

Columns = Mapping[str, Tensor]
"""Name to values, one for each datum."""

PER_DATUM = ("log_prob", "standard_error", "effective_sample_size")
OPTIONAL = ("pareto_k", "tail_share", "rounding", "evaluations")
_CHECKED = (
    "method", "direction", "num_particles", "seconds", "gap", "support_gap", "advice",
    "highest_pareto_k", "least_effective", "identity",
)  # fmt: skip
"""Attributes that an estimate is rebuilt from."""
_MOST_BARS = 500


class Claims(TypedDict, total=False):
    """Statements of an estimator about its result; attributes of :class:`Evidence`."""

    num_particles: int
    direction: Direction
    method: str
    highest_pareto_k: float
    least_effective: float
    gap: float | None
    support_gap: str | None
    advice: str


@final
@dataclass(frozen=True, repr=False)
class Evidence(Result):
    """Estimates of log p(x) for N data, in nats. All tensors have shape (N,), on the CPU.

    Attributes:
        log_prob: The estimate of log p(x_i).
        standard_error: Its Monte Carlo standard error.
        effective_sample_size: Of its importance weights, between 1 and num_particles.
        num_particles: Draws used per datum, of the datum with most; chains, where there are chains.
        direction: In expectation, a lower or upper bound of log p(x), unbiased, consistent only, or
            exact: the number itself.
        method: Name of the estimator.
        seconds: Wall-clock time taken.
        pareto_k: Shape of the generalised Pareto tail of the weights, where it was fitted. Above
            :attr:`pareto_threshold` the estimate and its error are not to be trusted, if the tail
            carries a part of the estimate that matters.
        tail_share: The part of the estimate by which the tail's weights exceed where it begins.
        rounding: What the type of the log-densities leaves open of log_prob, in nats; part of the
            standard error.
        highest_pareto_k: Pareto shape above which no number of draws is enough: 0.7, or 0.5, from
            which on weights have no variance, where draws stopped by their own standard error.
        least_effective: Effective samples below which the standard error is not believed: 5, or 8
            where the estimate is of 1 / p(x), whose weights are skewed to the other side.
        evaluations: Decoder evaluations spent on each datum; num_particles each if None.
        gap: Mean width in nats of a sandwich of log p(x) on simulated data by the same settings,
            where there is one.
        support_gap: Where the guide's support is a part of the prior's only, in words: the
            estimate is of the integral over it, a lower bound that no number of draws mends.
        advice: What to try next when the estimate is in doubt.
        identity: What it was computed from; None where that is not known.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    _group: ClassVar[str] = "evidence"
    _derived: ClassVar[tuple[str, ...]] = (
        "mean", "monte_carlo_error", "data_error", "total_error", "warning"
    )  # fmt: skip

    log_prob: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    effective_sample_size: Float[Tensor, " batch"]
    num_particles: int
    direction: Direction
    method: str
    seconds: float
    pareto_k: Float[Tensor, " batch"] | None = None
    tail_share: Float[Tensor, " batch"] | None = None
    rounding: Float[Tensor, " batch"] | None = None
    evaluations: Float[Tensor, " batch"] | None = None
    highest_pareto_k: float = 0.7
    least_effective: float = MIN_EFFECTIVE_SAMPLE_SIZE
    gap: float | None = None
    support_gap: str | None = None
    advice: str = "use more particles or a better guide"
    identity: Identity | None = None

    @classmethod
    def from_weights(
        cls, weights: Columns, claims: Claims, identity: Identity | None, seconds: float
    ) -> "Evidence":
        """Put a result together from what the weights of each datum give.

        Args:
            weights: Name of an attribute to values of each datum, on any device; other names are
                left out.
            claims: Statements of the estimator.
            identity: What the values were computed from.
            seconds: Wall-clock time that they took.
        """
        names = [name for name in (*PER_DATUM, *OPTIONAL) if name in weights]
        values: dict[str, Any] = {name: weights[name].cpu() for name in names}
        return cls(**values, **claims, identity=identity, seconds=seconds)

    def __len__(self) -> int:
        return len(self.log_prob)

    @property
    def mean(self) -> float:
        """Mean of log p(x_i) over the data, in nats per datum."""
        return self.log_prob.mean().item()

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the mean from the finite number of particles, the data held fixed.

        ``sqrt(sum_i SE_i^2) / N``: what a repetition with other particles would show.
        """
        return self.standard_error.square().sum().sqrt().item() / len(self)

    @property
    def total_error(self) -> float:
        """Standard error of the mean as an estimate for the population the data came from.

        ``s / sqrt(N)`` with s the standard deviation of the estimates over the data. That spread
        holds the Monte Carlo noise already: adding the two would count it twice. What the
        log-weights lose by rounding is no spread, as it may be the same for all data: it is added.
        """
        spread = standard_error_of_mean(self.log_prob)
        if self.rounding is None:
            return spread
        return math.hypot(spread, self.rounding.norm().item() / len(self))

    @property
    def data_error(self) -> float:
        """The part of :attr:`total_error` from the finite number of data, the particles' removed.

        ``sqrt(max(0, total^2 - monte_carlo^2))``.
        """
        return remainder(self.total_error, self.monte_carlo_error)

    @property
    def pareto_threshold(self) -> float:
        """``min(1 - 1 / log10(K), 0.7)``: Pareto shapes above it need more draws than there are.

        With ``highest_pareto_k`` in place of 0.7 where that is another.
        """
        # The threshold is 0 at 10 draws; for fewer it would be negative, and for 1 not defined.
        return min(1 - 1 / math.log10(max(self.num_particles, 10)), self.highest_pareto_k)

    @property
    def evaluations_per_datum(self) -> float:
        """Mean number of decoder evaluations spent on a datum."""
        return self.num_particles if self.evaluations is None else self.evaluations.mean().item()

    @property
    def warning(self) -> str | None:
        """Reasons not to trust the estimate, or None if nothing speaks against it."""
        if self.direction == "exact":
            return None
        if self.num_particles < 2:
            return "not to be trusted: one particle has no standard error; use more particles"
        rounding = torch.zeros_like(self.log_prob) if self.rounding is None else self.rounding
        least = required_effective(self.num_particles, self.least_effective)
        # Weights that are all equal have no error but rounding, however few they are.
        spread = self.standard_error > 10 * rounding + 1e-6
        findings = [
            outside_support(self.support_gap),
            no_weight(self.log_prob),
            few_effective((self.effective_sample_size < least) & spread, least, self.direction),
            self._heavy_tails,
            rounded(rounding),
            wide_gap(self.gap),
        ]
        return verdict(findings, self.advice)

    @property
    def _heavy_tails(self) -> Finding | None:
        if self.pareto_k is None:
            return None
        heavy = self.pareto_k > self.pareto_threshold
        if self.tail_share is not None:
            # A tail may be heavy and yet so small that nothing in it could move the estimate.
            heavy = heavy & (self.tail_share > TOLERATED_TAIL)
        return heavy_tails(heavy, self.pareto_threshold)

    def __str__(self) -> str:
        bound = self.direction in ("lower", "upper")
        direction = f"a {self.direction} bound in expectation" if bound else self.direction
        rows = "" if self._chunk_rows is None else f", rows {self._chunk_rows}"
        text = (
            f"log p(x) = {self.mean:.3f} nats per datum "
            f"(Monte Carlo error {self.monte_carlo_error:.3f}, finite-data error "
            f"{self.data_error:.3f}, together {self.total_error:.3f}; N = {len(self)}, "
            f"{self.procedure}{rows}, {direction})"
        )
        return text if self.warning is None else f"{text}\n{self.warning}"

    @property
    def _chunk_rows(self) -> int | None:
        return None if self.identity is None else self.identity.chunk_rows

    @property
    def procedure(self) -> str:
        """The method and its number of particles, in words."""
        return f"{self.method} with K = {self.num_particles}"

    def _values(self) -> dict[str, Any]:
        """The data-set estimate."""
        return {
            "log_prob": self.mean,
            "monte_carlo_error": self.monte_carlo_error,
            "data_error": self.data_error,
            "total_error": self.total_error,
            "num_data": len(self),
            "num_particles": self.num_particles,
            "rows": self._chunk_rows,
            "min_effective_sample_size": self.effective_sample_size.min().item(),
            "median_effective_sample_size": self.effective_sample_size.median().item(),
            "method": self.method,
            "direction": self.direction,
            "evaluations_per_datum": self.evaluations_per_datum,
            "max_pareto_k": None if self.pareto_k is None else self.pareto_k.max().item(),
            "gap": self.gap,
            "support_gap": self.support_gap,
            "seconds": self.seconds,
            "warning": self.warning,
            "identity": None if self.identity is None else self.identity.to_dict(),
        }

    def _rows(self) -> list[Row]:
        """Values of each datum."""
        known = {name: values.tolist() for name, values in self._per_datum().items()}
        return [
            {"datum": datum} | {name: values[datum] for name, values in known.items()}
            for datum in range(len(self))
        ]

    def _per_datum(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in (*PER_DATUM, *OPTIONAL)}
        return {name: values for name, values in named.items() if values is not None}

    def _variables(self) -> tuple[dict[str, Variable], dict[str, Any]]:
        return {n: (["datum"], numpy_of(values)) for n, values in self._per_datum().items()}, {}

    def _attributes(self) -> dict[str, Attribute]:
        """Settings, summary and warning, and ``sha256`` of what an estimate is rebuilt from."""
        attrs = super()._attributes() | {"warning": self.warning or ""}
        tensors = {n: values.detach().cpu() for n, values in self._per_datum().items()}
        return attrs | {"sha256": checksum(tensors, attrs)}

    def _panels(self) -> list[Panel]:
        return [(self._draw, plots.HEIGHT)]

    def _draw(self, ax: Axes) -> None:
        """Log p(x) of all data from the lowest to the highest, with two standard errors."""
        order = self.log_prob.argsort()
        values, halves = self.log_prob[order], 2 * self.standard_error[order]
        places = range(len(self))
        if len(self) <= _MOST_BARS:
            ax.vlines(places, values - halves, values + halves, color=plots.ARMS[0], lw=1)
        ax.plot(places, values, ".", color=plots.ARMS[0], markersize=4)
        ax.axhline(self.mean, color=plots.MUTED, lw=1, ls="--", label="mean")
        if self.pareto_k is not None:
            heavy = (self.pareto_k[order] > self.pareto_threshold).nonzero().flatten()
            if len(heavy):
                ax.plot(heavy, values[heavy], "x", color=plots.ARMS[1], markersize=5,
                        label=f"Pareto k > {self.pareto_threshold:.2f}")  # fmt: skip
        ax.set(xlabel="data, from the lowest", ylabel="log p(x), nats")
        plots.remark(ax, f"{self.procedure}; bars: two standard errors")
        plots.legend(ax)


def checksum(tensors: Mapping[str, Tensor], attributes: Mapping[str, Any]) -> str:
    """SHA-256 of all that an estimate is made of, types among it."""
    known = {name: attributes[name] for name in _CHECKED if name in attributes}
    return hash_values([hash_tensors(tensors), known])


def standard_error_of_mean(values: Float[Tensor, " batch"]) -> float:
    """``s / sqrt(N)``; NaN of one value, which has no spread."""
    if len(values) < 2:
        return math.nan
    return values.std(correction=1).item() / math.sqrt(len(values))


def remainder(total: float, part: float) -> float:
    """Root of what a part leaves of a squared error; rounding may bring it below 0."""
    # max(0.0, NaN) is 0.0, which would pass an unknown error off as none.
    return math.nan if math.isnan(total + part) else math.sqrt(max(0.0, total**2 - part**2))


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """``- log p(x) / (D log 2)`` for D discrete dimensions: lower is better."""
    return -nats / (dimensions * math.log(2))
