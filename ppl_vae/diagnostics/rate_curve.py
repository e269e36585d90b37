"""The rate-distortion curve of a decoder, as it was found."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics.decomposition import Estimate
from ppl_vae.diagnostics.estimates import over_data, plain, table
from ppl_vae.display import Result
from ppl_vae.evidence.result import TOLERATED_FRACTION, required_effective
from ppl_vae.identity import Identity

QUANTITIES = ("distortion", "rate", "log_normalizer")
_COLUMNS = ("distortion", "error", "rate", "error", "log Z", "error", "ESS")


@final
@dataclass(frozen=True)
class PerDatum:
    """An estimate for each beta and datum, in nats.

    Attributes:
        value: The estimates, shape (betas, batch).
        standard_error: By the delta method over the chains, same shape.
    """

    value: Float[Tensor, "betas batch"]
    standard_error: Float[Tensor, "betas batch"]

    @property
    def means(self) -> list[Estimate]:
        """Over the data, one for each beta."""
        rows = zip(self.value, self.standard_error, strict=True)
        return [over_data(value, error.square()) for value, error in rows]


@final
@dataclass(frozen=True)
class RatePoint:
    """One point of the curve, mean over the data, in nats per datum.

    Attributes:
        beta: Minus the slope dR/dD there: the nats of rate that one nat of distortion costs.
        distortion: D.
        rate: R.
        log_normalizer: log Z_beta.
        effective_sample_size: Of the chains' weights, median over the data.
        poor: Fraction of the data with fewer than 5 effective chains.
    """

    beta: float
    distortion: Estimate
    rate: Estimate
    log_normalizer: Estimate
    effective_sample_size: float
    poor: float

    def __str__(self) -> str:
        named = (self.distortion, self.rate, self.log_normalizer)
        columns = [f"{e.value:12.3f} {e.monte_carlo_error:12.3f}" for e in named]
        return " ".join([*columns, f"{self.effective_sample_size:12.1f}"])


@final
@dataclass(frozen=True, repr=False)
class RateDistortion(Result):
    """``D(b) = E_q_b[-log p(x|z)]`` against ``R(b) = KL(q_b, p(z))``, for q_b ~ p(z) p(x|z)^b.

    No code with the prior p(z) has a smaller rate at that distortion: q_b minimises R + b D, and
    the minimum is -log Z_b. At b = 1, q_b is the posterior and log Z_1 = log p(x), so that R + D =
    -log p(x); the guide's own point lies above the curve's tangent there by the inference gap.

    What the estimates are:

    - log_normalizer is a lower bound of log Z_b in expectation, hence R + b D an upper bound.
    - The pair (D, R) lies on or above the curve, in expectation, however few the temperatures and
      chains: D is the mean distortion of a code that can be had (run the chains, send one of them
      drawn by its weight) and R is at least its rate. This holds for the mean over data too.
    - D and R, each by itself, are consistent estimates of D(b) and R(b) only, with a bias of order
      1/K for K chains and one from chains that have not arrived.

    Attributes:
        betas: The b, increasing.
        distortion: D for each b and datum. For continuous x it may be below 0.
        rate: R, likewise; never below 0 but for Monte Carlo error.
        log_normalizer: log Z, likewise.
        effective_sample_size: Of the weights at each b, shape (betas, batch).
        guide_distortion: Of the guide's code, ``E_q[-log p(x|z)]``, mean over the data; None
            without a guide.
        guide_rate: KL(q(z|x), p(z)), mean over the data; None without a guide.
        num_chains: K.
        num_temperatures: Steps from b = 0 to the largest.
        identity: What it was computed from.
    """

    betas: tuple[float, ...]
    distortion: PerDatum
    rate: PerDatum
    log_normalizer: PerDatum
    effective_sample_size: Float[Tensor, "betas batch"]
    guide_distortion: Estimate | None
    guide_rate: Estimate | None
    num_chains: int
    num_temperatures: int
    identity: Identity | None = None

    @property
    def num_data(self) -> int:
        """How many data the means are over."""
        return self.effective_sample_size.shape[1]

    @property
    def points(self) -> list[RatePoint]:
        """The curve, from small to large b."""
        poor = self.effective_sample_size < required_effective(self.num_chains)
        columns = (
            self.betas,
            *(getattr(self, name).means for name in QUANTITIES),
            self.effective_sample_size.median(1).values.tolist(),
            poor.double().mean(1).tolist(),
        )
        return [RatePoint(*row) for row in zip(*columns, strict=True)]

    @property
    def notes(self) -> list[str]:
        """What to keep in mind of these numbers."""
        poor = [f"{point.beta:g}" for point in self.points if point.poor > TOLERATED_FRACTION]
        if not poor:
            return []
        least = required_effective(self.num_chains)
        return [
            f"at beta = {', '.join(poor)} more than {TOLERATED_FRACTION:.0%} of the data have "
            f"fewer than {least:.2g} effective chains: there the curve is likely lower than its "
            "points, by more than their errors say; use more temperatures or chains"
        ]

    def __str__(self) -> str:
        rows = {f"{point.beta:g}": str(point) for point in self.points}
        if self.guide_distortion is not None and self.guide_rate is not None:
            pair = (self.guide_distortion, self.guide_rate)
            rows["guide"] = " ".join(f"{e.value:12.3f} {e.monte_carlo_error:12.3f}" for e in pair)
        last = (
            f"nats per datum, Monte Carlo errors; N = {self.num_data}, {self.num_chains} chains, "
            f"{self.num_temperatures} temperatures"
        )
        return "\n".join([table("beta", _COLUMNS, rows), *self.notes, last])

    def summary(self) -> dict[str, Any]:
        """The means over data as plain values, for JSON."""
        return {
            "points": [plain(point) for point in self.points],
            "guide_distortion": self.guide_distortion and plain(self.guide_distortion),
            "guide_rate": self.guide_rate and plain(self.guide_rate),
            "num_data": self.num_data,
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "notes": self.notes,
            "identity": None if self.identity is None else self.identity.to_dict(),
        }
