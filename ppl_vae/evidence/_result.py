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
    TOLERATED_DOUBT,
    Finding,
    few_effective,
    low,
    no_weight,
    outside_support,
    required_effective,
    rounded,
    skewed,
    unbounded,
    verdict,
    wide_gap,
)
from ppl_vae.identity import Identity, hash_tensors, hash_values
from ppl_vae.netcdf import Attribute, Variable, numpy_of

Direction = Literal["lower", "upper", "unbiased", "consistent", "exact"]

Columns = Mapping[str, Tensor]
"""Name to values, one for each datum."""

PER_DATUM = ("log_prob", "standard_error", "effective_sample_size")
OPTIONAL = (
    "pareto_k", "tail_share", "rounding", "evaluations", "bias", "doubt", "skewness_z", "stage"
)  # fmt: skip
STAGES = (
    "quadrature",
    "enumeration",
    "importance sampling",
    "importance sampling, refined guide",
    "importance sampling, Laplace guide",
    "defensive importance sampling",
    "annealing from the prior",
    "annealing from the guide",
    "annealing from the refined guide",
)
"""Ways in which the datum of an automatic estimate may be estimated."""
_CHECKED = (
    "method", "direction", "num_particles", "seconds", "gap", "shared_error", "support_gap",
    "advice", "highest_pareto_k", "least_effective", "identity",
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
@dataclass(frozen=True, eq=False, repr=False)
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
        least_effective: Effective samples below which the standard error is not believed: 5, or 9
            where the estimate is of 1 / p(x), whose weights are skewed to the other side.
        evaluations: Decoder evaluations spent on each datum; num_particles each if None.
        bias: Estimate of how low log_prob is, in nats, where there is one.
        doubt: How far the upper end of a 95% interval for log p(x_i) lies above 1.96 standard
            errors; infinite where nothing bounds it. What no draw came near, it cannot see.
        skewness_z: Skewness of the log-weights of chains, over its standard error for normal ones;
            NaN of fewer than 3 chains, or where a weight is 0.
        stage: Number of the way in which a datum was estimated, where there are several, as
            :attr:`stage_counts` names them.
        gap: Mean width in nats of a sandwich of log p(x) on simulated data by the same settings,
            where there is one.
        shared_error: The part of every standard_error that is one for all data, as that of a
            model's log Z is; None: there is none.
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
    bias: Float[Tensor, " batch"] | None = None
    doubt: Float[Tensor, " batch"] | None = None
    skewness_z: Float[Tensor, " batch"] | None = None
    stage: Float[Tensor, " batch"] | None = None
    highest_pareto_k: float = 0.7
    least_effective: float = MIN_EFFECTIVE_SAMPLE_SIZE
    gap: float | None = None
    shared_error: float | None = None
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
        if claims.get("support_gap") is not None and "doubt" in values:
            # No weight that was drawn tells of what never is.
            values["doubt"] = torch.full_like(values["doubt"], math.inf)
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

        ``sqrt(sum_i SE_i^2) / N``: what a repetition with other particles would show. Of that, an
        error that all data share does not fall with N, nor does rounding, which may be the same
        for all.
        """
        rounding = 0.0 if self.rounding is None else self.rounding.square()
        drawn = (self.own_variance - rounding).clamp(min=0).sum().sqrt().item() / len(self)
        return math.hypot(drawn, self.shared_error or 0.0, self._mean_rounding)

    @property
    def _mean_rounding(self) -> float:
        return 0.0 if self.rounding is None else self.rounding.mean().item()

    @property
    def own_variance(self) -> Float[Tensor, " batch"]:
        """Squared standard error of each datum, without what ``shared_error`` is of it."""
        return (self.standard_error.square() - (self.shared_error or 0.0) ** 2).clamp(min=0)

    @property
    def total_error(self) -> float:
        """Standard error of the mean as an estimate for the population the data came from.

        ``s / sqrt(N)`` with s the standard deviation of the estimates over the data. That spread
        holds the Monte Carlo noise already: adding the two would count it twice. What the
        log-weights lose by rounding is no spread, as it may be the same for all data: it is added,
        and so is ``shared_error``.
        """
        spread = standard_error_of_mean(self.log_prob)
        return math.hypot(spread, self.shared_error or 0.0, self._mean_rounding)

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
        """Reasons not to trust the estimate, and what to try; None if nothing speaks against it."""
        # No draws and no guide make an exact number better.
        advice = "" if self.direction == "exact" else f"; {self.advice}"
        return self.caution and f"{self.caution}{advice}"

    @property
    def caution(self) -> str | None:
        """Reasons not to trust the estimate, without advice."""
        rounding = torch.zeros_like(self.log_prob) if self.rounding is None else self.rounding
        if self.direction == "exact":
            return verdict([rounded(rounding)])
        if self.num_particles < 2:
            return "not to be trusted: one particle has no standard error"
        if bool(self.standard_error.isnan().all()):
            return "not to be trusted: one group of particles has no standard error"
        findings = [
            outside_support(self.support_gap),
            no_weight(self.log_prob),
            *(self._how_low(rounding) if self.support_gap is None else []),
            rounded(rounding),
            wide_gap(self.gap),
        ]
        return verdict(findings)

    def _how_low(self, rounding: Float[Tensor, " batch"]) -> list[Finding | None]:
        """Findings about how low the estimate may be: in nats where its weights tell."""
        # Weights that are all equal have no error but rounding, however few they are.
        spread = self.standard_error > 10 * rounding + 1e-6
        if self.doubt is None:
            least = required_effective(self.num_particles, self.least_effective)
            few = (self.effective_sample_size < least) & spread
            return [few_effective(few, least, self.direction)]
        tolerated = max(TOLERATED_DOUBT, 0.1 * self.total_error)
        return [
            unbounded(torch.where(spread, self.doubt, 0.0)),
            low(self.mean_bias, self.mean_doubt, tolerated),
            None if self.skewness_z is None else skewed(self.skewness_z, self.standard_error),
        ]

    @property
    def mean_bias(self) -> float:
        """Estimate of how low :attr:`mean` is, in nats, by the data whose doubt is bounded.

        NaN where the estimator does not tell; infinite where no doubt is bounded.
        """
        return self._bias_and_doubt[0]

    @property
    def mean_doubt(self) -> float:
        """How much low :attr:`mean` may be, in nats, beside its Monte Carlo error.

        ``mean_i b_i + sqrt(sum_i (d_i - b_i)^2) / N`` with bias b_i and doubt d_i: all data may be
        low together, and what is not known of one does not depend on the others.
        """
        return self._bias_and_doubt[1]

    @property
    def _bias_and_doubt(self) -> tuple[float, float]:
        if self.bias is None or self.doubt is None:
            return math.nan, math.nan
        known = self.doubt.isfinite() & self.bias.isfinite()
        if not known.any():
            return math.inf, math.inf
        bias, beyond = self.bias[known], (self.doubt - self.bias)[known].clamp(min=0)
        mean = bias.mean().item()
        return mean, mean + beyond.square().sum().sqrt().item() / len(bias)

    @property
    def stage_counts(self) -> dict[str, int]:
        """Number of data estimated in each way, where there are several."""
        if self.stage is None:
            return {}
        counts = torch.bincount(self.stage.long(), minlength=len(STAGES)).tolist()
        return {name: n for name, n in zip(STAGES, counts, strict=True) if n}

    def __str__(self) -> str:
        bound = self.direction in ("lower", "upper")
        article = "an" if self.direction == "upper" else "a"
        direction = f"{article} {self.direction} bound in expectation" if bound else self.direction
        rows = "" if self._chunk_rows is None else f", rows {self._chunk_rows}"
        text = (
            f"log p(x) = {self.mean:.3f} nats per datum "
            f"(error of the mean: Monte Carlo {self.monte_carlo_error:.3f}{self._spread}"
            f"{self._low}; "
            f"N = {len(self)}, {self.procedure}{rows}, {direction})"
        )
        return text if self.warning is None else f"{text}\n{self.warning}"

    @property
    def _spread(self) -> str:
        # One datum says nothing of how data differ.
        if math.isnan(self.data_error):
            return ""
        total, of_draws = self.total_error, self.monte_carlo_error
        if total < of_draws:
            # Chance, of few data: a total below one of its parts would read as a mistake.
            return f", finite data not seen, as the data spread by less: by {total:.3f}"
        return f", finite data {self.data_error:.3f}, together {total:.3f}"

    @property
    def _low(self) -> str:
        if math.isnan(self.mean_doubt):
            return ""
        if math.isinf(self.mean_doubt):
            return "; nothing bounds how low it is"
        low = f"; may be low by {self.mean_bias:.3f}, 95% below {self.mean_doubt:.3f}"
        count = 0 if self.doubt is None else int(self.doubt.isinf().sum())
        # Few, as of many nothing is known of the mean, and a warning says so.
        return f"{low} beside {count} of the data, which nothing bounds" if count else low

    @property
    def _chunk_rows(self) -> int | None:
        return None if self.identity is None else self.identity.chunk_rows

    @property
    def procedure(self) -> str:
        """The method and its number of particles, in words."""
        # Where every datum has a way of its own, no one number is that of all; a sum has no draws.
        # A method of chains says how many there are.
        if self.stage is not None or self.direction == "exact" or " chains" in self.method:
            return self.method
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
            "max_pareto_k": self._highest_shape,
            "bias": self.mean_bias,
            "doubt": self.mean_doubt,
            "stages": self.stage_counts,
            "gap": self.gap,
            "support_gap": self.support_gap,
            "seconds": self.seconds,
            "warning": self.warning,
            "identity": None if self.identity is None else self.identity.to_dict(),
        }

    @property
    def _highest_shape(self) -> float | None:
        """Highest Pareto shape of the data that have one; None where none has."""
        known = [] if self.pareto_k is None else self.pareto_k[~self.pareto_k.isnan()].tolist()
        return max(known, default=None)

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
            if self.doubt is not None:
                self._draw_doubts(ax, self.doubt[order], values + halves)
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

    @staticmethod
    def _draw_doubts(ax: Axes, doubt: Tensor, start: Tensor) -> None:
        """Doubts as lines from ``start`` upwards; an arrow where nothing bounds one."""
        places, ends = doubt.isfinite().nonzero().flatten(), doubt.isinf().nonzero().flatten()
        color = plots.ARMS[1]
        if len(places):
            low = start[places]
            ax.vlines(places, low, low + doubt[places], color=color, lw=1, label="doubt")
        if len(ends):
            ax.plot(ends, start[ends], "^", color=color, markersize=4, label="doubt, no bound")


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


def bits_per_dimension(nats: float, dimensions: float) -> float:
    """``- log p(x) / (D log 2)`` for D discrete dimensions: lower is better.

    Where cells are missing, D is the mean number of those observed.

    Args:
        nats: Mean log p(x), in nats: ``evidence.mean``.
        dimensions: Number of dimensions D.

    Raises:
        TypeError: If an evidence is given in place of its mean.
    """
    if isinstance(nats, Evidence):
        raise TypeError("nats is an Evidence, expected a number: give evidence.mean.")
    return -nats / (dimensions * math.log(2))
