"""What an estimator of log p(x) returns, and differences between two of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.identity import Identity, hash_tensors, hash_values
from ppl_vae.netcdf import Attribute, Variable, numpy_of

Direction = Literal["lower", "upper", "unbiased", "consistent", "exact"]

MIN_EFFECTIVE_SAMPLE_SIZE = 5.0
"""Least number of effective samples: below it a delta-method standard error is itself an
accident."""

LEAST_EFFECTIVE_SHARE = 0.9
"""Share of K weights, where K is so small that fewer than 5 effective samples are no sign of
anything."""

TOLERATED_ROUNDING = 0.05
"""Nats of an estimate that rounding may leave open."""

TOLERATED_FRACTION = 0.05
"""Largest share of the data with too few effective samples before the mean is in doubt."""

TOLERATED_TAIL = 0.02
"""Largest share of an estimate from a heavy tail's excess: about as many nats are then in doubt."""

TOLERATED_HEAVY = 0.25
"""Largest share of the data with heavy tails before the mean over all is in doubt: a heavy tail
makes an understated error likely, few effective samples make it certain."""

TOLERATED_GAP = 0.1
"""Nats between the two sides of a sandwich on simulated data before a schedule is in doubt."""


PER_DATUM = ("log_prob", "standard_error", "effective_sample_size")
OPTIONAL = ("pareto_k", "tail_share", "rounding", "evaluations")
_CHECKED = (
    "method", "direction", "num_particles", "seconds", "gap", "support_gap", "advice",
    "highest_pareto_k", "least_effective", "identity",
)  # fmt: skip
"""Attributes that an estimate is made of again."""
_MOST_BARS = 500


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
        spread = _standard_error_of_mean(self.log_prob)
        if self.rounding is None:
            return spread
        return math.hypot(spread, self.rounding.norm().item() / len(self))

    @property
    def data_error(self) -> float:
        """The part of :attr:`total_error` from the finite number of data, the particles' removed.

        ``sqrt(max(0, total^2 - monte_carlo^2))``.
        """
        return _remainder(self.total_error, self.monte_carlo_error)

    @property
    def pareto_threshold(self) -> float:
        """``min(1 - 1 / log10(K), 0.7)``: Pareto shapes above it need more draws than there are.

        With :attr:`highest_pareto_k` in place of 0.7 where that is another.
        """
        return min(1 - 1 / math.log10(max(self.num_particles, 10)), self.highest_pareto_k)

    @property
    def evaluations_per_datum(self) -> float:
        """Mean number of decoder evaluations spent on a datum."""
        return self.num_particles if self.evaluations is None else self.evaluations.mean().item()

    @property
    def warning(self) -> str | None:
        """Why the estimate should not be trusted, or None if nothing speaks against it."""
        if self.direction == "exact":
            return None
        if self.num_particles < 2:
            return "not to be trusted: one particle has no standard error; use more particles"
        findings = [
            self._part_of_support,
            self._no_weight,
            self._few_effective,
            self._heavy_tails,
            self._rounded,
            self._wide_gap,
        ]
        found = sorted((f for f in findings if f is not None), key=lambda f: not f.serious)
        if not found:
            return None
        verdict = "not to be trusted" if found[0].serious else "caution"
        return f"{verdict}: {'; '.join(f.text for f in found)}; {self.advice}"

    @property
    def _negligible(self) -> Tensor:
        """Standard errors that are rounding, in nats."""
        rounding = torch.zeros_like(self.log_prob) if self.rounding is None else self.rounding
        return 10 * rounding + 1e-6

    @property
    def _part_of_support(self) -> "_Finding | None":
        if self.support_gap is None:
            return None
        text = (
            f"{self.support_gap}: what lies outside is never drawn, and log p(x) is too low by "
            "that part, whatever the number of draws"
        )
        return _Finding(text, serious=True)

    @property
    def _no_weight(self) -> "_Finding | None":
        poor = int(self.log_prob.isneginf().sum())
        text = (
            f"{poor} of {len(self)} data have weights of 0 only: under none of their draws is x "
            "possible"
        )
        return _Finding(text, serious=True) if poor else None

    @property
    def _rounded(self) -> "_Finding | None":
        if self.rounding is None:
            return None
        poor = int((self.rounding > TOLERATED_ROUNDING).sum())
        text = (
            f"{poor} of {len(self)} data have log-densities so large that rounding leaves up to "
            f"{self.rounding.max().item():.2g} nats of log p(x) open: compute in double precision, "
            "or look for a model that has diverged"
        )
        return _Finding(text, poor > TOLERATED_FRACTION * len(self)) if poor else None

    @property
    def _few_effective(self) -> "_Finding | None":
        least = required_effective(self.num_particles, self.least_effective)
        # Weights that are all equal have no error, however few they are.
        below = (self.effective_sample_size < least) & (self.standard_error > self._negligible)
        poor = int(below.sum())
        side = {"lower": "too low", "upper": "too high"}.get(self.direction, "off")
        low = f"their log p(x) is likely {side} and its error understated"
        few = "a few replicates make their log p(x) and its error"
        text = (
            f"{poor} of {len(self)} data have fewer than {least:.2g} effective samples, so that "
            f"{few if self.direction == 'unbiased' else low}"
        )
        return _Finding(text, poor > TOLERATED_FRACTION * len(self)) if poor else None

    @property
    def _heavy_tails(self) -> "_Finding | None":
        if self.pareto_k is None:
            return None
        heavy = self.pareto_k > self.pareto_threshold
        if self.tail_share is not None:
            # A tail may be heavy and yet so small that nothing in it could move the estimate.
            heavy = heavy & (self.tail_share > TOLERATED_TAIL)
        poor = int(heavy.sum())
        text = (
            f"{poor} of {len(self)} data have Pareto k above {self.pareto_threshold:.2f} in a tail "
            "that matters, so that neither their log p(x) nor its error is reliable"
        )
        return _Finding(text, poor > TOLERATED_HEAVY * len(self)) if poor else None

    @property
    def _wide_gap(self) -> "_Finding | None":
        if self.gap is None or self.gap <= TOLERATED_GAP:
            return None
        text = (
            f"on simulated data the same settings leave log p(x) uncertain by {self.gap:.2f} nats, "
            f"more than {TOLERATED_GAP:g}"
        )
        return _Finding(text, serious=True)

    def __str__(self) -> str:
        text = (
            f"log p(x) = {self.mean:.3f} nats per datum "
            f"(Monte Carlo error {self.monte_carlo_error:.3f}, finite-data error "
            f"{self.data_error:.3f}, together {self.total_error:.3f}; N = {len(self)}, "
            f"{self.procedure}{self._rows_in_words}, {self._direction_in_words})"
        )
        return text if self.warning is None else f"{text}\n{self.warning}"

    @property
    def _rows_in_words(self) -> str:
        rows = None if self.identity is None else self.identity.chunk_rows
        return "" if rows is None else f", rows {rows}"

    @property
    def procedure(self) -> str:
        """The method and its number of particles, in words."""
        return f"{self.method} with K = {self.num_particles}"

    @property
    def _direction_in_words(self) -> str:
        bound = self.direction in ("lower", "upper")
        return f"a {self.direction} bound in expectation" if bound else self.direction

    def _values(self) -> dict[str, Any]:
        """The data-set estimate."""
        return {
            "log_prob": self.mean,
            "monte_carlo_error": self.monte_carlo_error,
            "data_error": self.data_error,
            "total_error": self.total_error,
            "num_data": len(self),
            "num_particles": self.num_particles,
            "rows": None if self.identity is None else self.identity.chunk_rows,
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
        """Of each datum."""
        known = self._per_datum()
        columns = zip(*(values.tolist() for values in known.values()), strict=True)
        return [
            {"datum": datum, **dict(zip(known, values, strict=True))}
            for datum, values in enumerate(columns)
        ]

    def _per_datum(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in (*PER_DATUM, *OPTIONAL)}
        return {name: values for name, values in named.items() if values is not None}

    def _variables(self) -> tuple[dict[str, Variable], dict[str, Any]]:
        return {n: (["datum"], numpy_of(values)) for n, values in self._per_datum().items()}, {}

    def _attributes(self) -> dict[str, Attribute]:
        """How they were made, what they come to, and ``sha256`` of what they are made of again."""
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


def required_effective(num_weights: int, least: float = MIN_EFFECTIVE_SAMPLE_SIZE) -> float:
    """Effective samples below which a standard error is an accident.

    ``least``, or 0.9 of the weights where there are so few that ``least`` cannot be reached.
    """
    return min(least, LEAST_EFFECTIVE_SHARE * num_weights)


@final
@dataclass(frozen=True)
class _Finding:
    """Something that speaks against an estimate; serious if the mean over the data is in doubt."""

    text: str
    serious: bool


@final
@dataclass(frozen=True)
class PairedDifference:
    """Mean over the same data of log p_a(x_i) - log p_b(x_i), in nats per datum.

    Attributes:
        mean: The mean difference.
        monte_carlo_error: Its standard error from the particles, the data held fixed.
        total_error: Its standard error as an estimate for the data's population, both sources.
    """

    mean: float
    monte_carlo_error: float
    total_error: float

    @property
    def data_error(self) -> float:
        """The part of the total error from the finite number of data."""
        return _remainder(self.total_error, self.monte_carlo_error)


def paired_difference(a: Evidence, b: Evidence) -> PairedDifference:
    """Compare two models evaluated on the same data, datum by datum.

    Raises:
        ValueError: If the two have different numbers of data, or are known to be of other data.
    """
    _require_same_data(a, b)
    difference = a.log_prob - b.log_prob
    variance = a.standard_error.square().sum() + b.standard_error.square().sum()
    monte_carlo = variance.sqrt().item() / len(a)
    mean = difference.mean().item()
    return PairedDifference(
        mean=mean,
        monte_carlo_error=math.nan if math.isnan(mean) else monte_carlo,
        total_error=_standard_error_of_mean(difference),
    )


def _require_same_data(a: Evidence, b: Evidence) -> None:
    sources = ""
    if a.identity and b.identity:
        sources = f", from {a.identity.source} and {b.identity.source}"
    if len(a) != len(b):
        raise ValueError(
            f"paired evidence needs the same data, got {len(a)} and {len(b)} values{sources}."
        )
    differing = a.identity.differences(b.identity, "rows") if a.identity and b.identity else []
    if differing:
        raise ValueError(
            f"paired evidence needs the same data in the same order, got {differing[0]}{sources}: "
            "evaluate both on the same rows."
        )


def _standard_error_of_mean(values: Tensor) -> float:
    if len(values) < 2:
        return math.nan
    return values.std(correction=1).item() / math.sqrt(len(values))


def _remainder(total: float, part: float) -> float:
    return math.nan if math.isnan(total + part) else math.sqrt(max(0.0, total**2 - part**2))


def concatenate(parts: list[Evidence]) -> Evidence:
    """One result for the data of all parts, in order; they come from one estimator."""
    return replace(
        parts[0],
        log_prob=torch.cat([part.log_prob for part in parts]),
        standard_error=torch.cat([part.standard_error for part in parts]),
        effective_sample_size=torch.cat([part.effective_sample_size for part in parts]),
        pareto_k=_cat([part.pareto_k for part in parts]),
        tail_share=_cat([part.tail_share for part in parts]),
        rounding=_cat([part.rounding for part in parts]),
        evaluations=_cat([part.evaluations for part in parts]),
        support_gap=next((p.support_gap for p in parts if p.support_gap), None),
        num_particles=max(part.num_particles for part in parts),
        identity=parts[0].identity if len(parts) == 1 else None,
        seconds=sum(part.seconds for part in parts),
    )


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """``- log p(x) / (D log 2)`` for D discrete dimensions: lower is better."""
    return -nats / (dimensions * math.log(2))
