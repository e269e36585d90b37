"""Rate-distortion curve of a decoder: the result."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.diagnostics._estimates import Estimate, over_data, table
from ppl_vae.display import Axes, Panel, Result, Row, fields_of
from ppl_vae.evidence import TOLERATED_FRACTION, required_effective
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable, numpy_of

QUANTITIES = ("distortion", "rate", "log_normalizer")
_COLUMNS = ("distortion", "error", "rate", "error", "log Z", "error", "ESS")


@final
@dataclass(frozen=True, eq=False)
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
@dataclass(frozen=True, eq=False, repr=False)
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
        num_chains: Number of chains K.
        num_temperatures: Steps from b = 0 to the largest.
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "rate_distortion"
    _derived: ClassVar[tuple[str, ...]] = ("num_data", "notes")

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
        """Number of data that the means are over."""
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
        """Reservations about these numbers."""
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

    def _values(self) -> dict[str, Any]:
        """The means over data; the values of each datum are in the tree."""
        left_out = ("betas", *QUANTITIES, "effective_sample_size")
        own = {name: value for name, value in super()._values().items() if name not in left_out}
        return {"points": self.points} | own

    def _rows(self) -> list[Row]:
        return [fields_of(point) for point in self.points]

    def _arrays(self) -> dict[str, Variable]:
        """Each quantity with its error by (beta, datum)."""
        values = {"effective_sample_size": self.effective_sample_size}
        for name in QUANTITIES:
            quantity = getattr(self, name)
            values |= {name: quantity.value, f"{name}_standard_error": quantity.standard_error}
        return {name: (["beta", "datum"], numpy_of(value)) for name, value in values.items()}

    def _panels(self) -> list[Panel]:
        return [(self._draw, 4.2)]

    def _draw(self, ax: Axes) -> None:
        """The curve, and the guide, which stands above its tangent at beta = 1 by the gap."""
        points, color, of_guide = self.points, plots.ARMS[0], plots.ARMS[1]
        D, R = ([getattr(p, name).value for p in points] for name in ("distortion", "rate"))
        errors = [[2 * getattr(p, name).monte_carlo_error for p in points]
                  for name in ("distortion", "rate")]  # fmt: skip
        ax.errorbar(D, R, xerr=errors[0], yerr=errors[1], color=color, lw=1.2, elinewidth=1,
                    label="curve, by annealing")  # fmt: skip
        for point, d, r in zip(points, D, R, strict=True):
            face = plots.PAPER if point.poor > TOLERATED_FRACTION else color
            ax.plot(d, r, "o", markersize=5, color=color, markerfacecolor=face)
        if self.guide_distortion is not None and self.guide_rate is not None:
            ax.plot(self.guide_distortion.value, self.guide_rate.value, "D", markersize=6.5,
                    color=of_guide, label="the guide")  # fmt: skip
        ax.set(xlabel="distortion, E[-log p(x|z)] in nats", ylabel="rate, nats above the prior")
        # Limits of the points: the tangent, a line without ends, must not stretch them.
        limits = ax.get_xlim(), ax.get_ylim()
        for point in points:
            if point.beta == 1:
                ax.axline((point.distortion.value, point.rate.value), slope=-1, color=plots.MUTED,
                          ls="--", lw=1, zorder=0, label="R + D = -log p(x)")  # fmt: skip
        ax.set(xlim=limits[0], ylim=limits[1])
        plots.label_points(ax, [f"{point.beta:g}" for point in points], D, R)
        plots.remark(ax, "numbers: beta; bars: two standard errors; open: too few effective chains")
        plots.legend(ax)
