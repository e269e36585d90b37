"""Is q(z|x) as wide as it should be, and in the right place? Simulation-based calibration."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import chdtrc, ndtr
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData
from ppl_vae.diagnostics._estimates import MonteCarlo, table
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable, numpy_of
from ppl_vae.particles import ChunkSize, Program, Programs, evaluation
from ppl_vae.randomness import Stream, generator, seeded

_FALSE_ALARM = 0.01
"""Probability that a calibrated guide is reported, over all its dimensions and tests."""

_TESTS = 3
_BINS = 20
_LEAST_PER_BIN = 5
_ROWS = 100_000
_LEAST_VARIANCE = 1e-6
_MOST_NAMED = 10


@final
@dataclass(frozen=True)
class RankTest:
    """What the ranks of one latent dimension say.

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
        """What is wrong with the draws, in words; empty if nothing was found."""
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

    def __str__(self) -> str:
        numbers = [
            self.location.value,
            self.location.standard_error,
            self.spread.value,
            self.spread.standard_error,
        ]
        columns = " ".join(f"{number:12.3f}" for number in numbers)
        return f"{columns} {min(self.p_values.values()):12.2g}   {', '.join(self.findings) or '-'}"


@final
@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """Ranks of z* among draws of q(z|x), for (z*, x) drawn from the model.

    If q is the posterior, the ranks are uniform over 0, ..., L. The converse does not hold: a guide
    can have uniform ranks and still be wrong, since ranks of single dimensions average over x and
    do not see how dimensions depend on each other. The prior itself has uniform ranks.

    Attributes:
        ranks: How many of the L draws are below z*, shape (simulations, dimensions).
        names: Of the dimensions.
        num_draws: L.
        false_alarm: Probability that a calibrated guide has any finding.
        identity: What it was computed from; of the rows only their shape and type matter.
    """

    _group: ClassVar[str] = "prior_sbc"
    _derived: ClassVar[tuple[str, ...]] = ("num_simulations", "calibrated")

    ranks: Int[Tensor, "simulations dimensions"]
    names: tuple[str, ...]
    num_draws: int
    false_alarm: float = _FALSE_ALARM
    identity: Identity | None = None

    @property
    def num_simulations(self) -> int:
        """How many (z*, x) were drawn."""
        return len(self.ranks)

    @property
    def normalized_ranks(self) -> Float[Tensor, "simulations dimensions"]:
        """``(rank + 1/2) / (L + 1)``, in (0, 1)."""
        return (self.ranks.double() + 0.5) / (self.num_draws + 1)

    @property
    def ecdf_difference(self) -> Float[Tensor, "values dimensions"]:
        """Fraction of ranks at r or below minus ``(r + 1) / (L + 1)``, for r = 0, ..., L.

        0 if calibrated. Draws that are too narrow make it rise at both ends and fall between.
        """
        values = torch.arange(self.num_draws + 1)
        counts = torch.stack([torch.bincount(r, minlength=len(values)) for r in self.ranks.T], 1)
        below = counts.double().cumsum(0) / self.num_simulations
        return below - ((values + 1.0) / len(values)).unsqueeze(-1)

    @property
    def ecdf_band(self) -> float:
        """What no dimension's difference exceeds, at the false-alarm rate over all dimensions.

        By the inequality of Dvoretzky, Kiefer and Wolfowitz, with Massart's constant.
        """
        each = self.false_alarm / len(self.names)
        return math.sqrt(math.log(2 / each) / (2 * self.num_simulations))

    @property
    def tests(self) -> list[RankTest]:
        """The tests of each dimension."""
        level = self.false_alarm / (_TESTS * len(self.names))
        columns = zip(self.names, self.normalized_ranks.unbind(1), strict=True)
        return [_test(name, ranks, self.num_draws, level) for name, ranks in columns]

    @property
    def findings(self) -> dict[str, list[str]]:
        """Dimension to what is wrong with it, for those where something is."""
        return {test.name: test.findings for test in self.tests if test.findings}

    @property
    def calibrated(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.findings

    def coverage(self, probability: float = 0.9) -> list[MonteCarlo]:
        """How often the central interval of each dimension's draws holds z*.

        Raises:
            ValueError: If the probability is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}.")
        inside = ((self.normalized_ranks - 0.5).abs() < probability / 2).double().mean(0)
        error = (inside * (1 - inside) / self.num_simulations).sqrt()
        return [MonteCarlo(*pair) for pair in zip(inside.tolist(), error.tolist(), strict=True)]

    def __str__(self) -> str:
        columns = ("z* above", "error", "z* wider by", "error", "smallest p")
        rows = {test.name: str(test) for test in self.tests}
        found = self.findings
        verdict = (
            f"{len(found)} of {len(self.names)} dimensions are not calibrated"
            if found
            else "nothing speaks against calibration"
        )
        last = (
            f"{verdict} (false-alarm rate {self.false_alarm:g} over all; "
            f"{self.num_simulations} simulations, L = {self.num_draws}; calibrated: 0 and 1)"
        )
        return "\n".join([table("ranks of z*", columns, rows), last])

    def _values(self) -> dict[str, Any]:
        """The dimensions' tests; the ranks are in the tree."""
        values = {n: v for n, v in super()._values().items() if n not in ("ranks", "names")}
        by_name = {str(row["dimension"]): dict(list(row.items())[1:]) for row in self._rows()}
        return {"dimensions": by_name} | values

    def _rows(self) -> list[Row]:
        return [
            {
                "dimension": test.name,
                "location": test.location.value,
                "location_error": test.location.standard_error,
                "spread": test.spread.value,
                "spread_error": test.spread.standard_error,
                "p_values": test.p_values,
                "coverage_90": coverage.value,
                "coverage_90_error": coverage.standard_error,
                "findings": test.findings,
            }
            for test, coverage in zip(self.tests, self.coverage(0.9), strict=True)
        ]

    def _variables(self) -> tuple[dict[str, Variable], dict[str, Any]]:
        """What ``arviz_plots.plot_ecdf_pit`` takes: a variable a dimension, a draw a simulation.

        Each is the randomised rank ``(rank + u) / (L + 1)`` of z* among the guide's draws, u
        uniform over (0, 1) with a fixed seed: exactly uniform if the guide is calibrated. Without u
        the steps of the ranks alone would leave ArviZ's 99% band in 8% of the cases (1000
        simulations, L = 99).
        """
        noise = torch.rand(
            self.ranks.shape, generator=generator(0, Stream.SAMPLING), dtype=torch.float64
        )
        values = (self.ranks + noise) / (self.num_draws + 1)
        named = zip(self.names, values.unbind(1), strict=True)
        return {n: (["chain", "draw"], numpy_of(ranks.unsqueeze(0))) for n, ranks in named}, {}

    def _panels(self) -> list[Panel]:
        return [(self._draw, 4.0)]

    def _draw(self, ax: Axes) -> None:
        """Rank ECDF minus that of uniform ranks, a line a dimension; those found wrong are named.

        Rising at both ends: the draws are too narrow; falling: too wide; to one side: shifted.
        """
        ranks, wrong = np.arange(self.num_draws + 2) / (self.num_draws + 1), self.findings
        named = list(wrong)[:_MOST_NAMED]
        band = self.ecdf_band
        ax.fill_between([0, 1], -band, band, color=plots.GRID, lw=0, label="calibrated")
        for name, difference in zip(self.names, self.ecdf_difference.unbind(1), strict=True):
            values = [0.0, *difference.tolist()]
            if name in named:
                style = plots.style_of(named.index(name))
                label = f"{name}: {', '.join(wrong[name])}"
                plots.draw_line(ax, list(ranks), values, style, marker=False, label=label)
            else:
                ax.plot(ranks, values, color=plots.MUTED, lw=0.8, zorder=1)
        if more := len(wrong) - len(named):
            ax.plot([], [], color=plots.MUTED, lw=0.8, label=f"and {more} more, not named")
        ax.set(xlim=(0, 1), xlabel="rank of z* among the draws, as a fraction")
        ax.set_ylabel("ECDF - uniform")
        plots.remark(ax, f"band: all lines of a calibrated guide, with probability "
                         f"{1 - self.false_alarm:g}")  # fmt: skip
        plots.legend(ax)


def simulation_based_calibration(
    model: Program,
    guide: Program,
    x: RowData,
    *,
    num_simulations: int = 1000,
    num_draws: int = 99,
    false_alarm: float = _FALSE_ALARM,
    device: torch.device | str | None = None,
    seed: int | None = 0,
) -> Calibration:
    """Ranks of z* among L draws of q(z|x*), for (z*, x*) drawn from the model.

    If q(z|x) is the posterior, z* and the draws are exchangeable given x*, so that the rank of each
    dimension of z* is uniform over 0, ..., L. A guide that is too narrow has too many extreme
    ranks, one that is too wide too few, one that is shifted too many on one side. Equal values
    (of discrete latents) are ranked at random.

    It judges the guide on data that the model makes; the data at hand may be other ones. Each
    dimension is tested for location, spread and shape; the false-alarm rate is split over all.

    Costs one decoder evaluation and L draws of the guide per simulation.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: Anything of the shape and type of the data; its values are not used.
        num_simulations: How many (z*, x*).
        num_draws: L.
        false_alarm: Probability that a calibrated guide has any finding.
        device: Where to compute; the device of x if not given.
        seed: Of the draws; ``None`` uses the caller's random state.

    Raises:
        ValueError: If there are too few simulations or draws to test, or the model does not observe
            one site of the shape of x, or the guide is a point.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman, 2018, Validating Bayesian inference
        algorithms with simulation-based calibration.
        Yao, Vehtari, Simpson and Gelman, 2018, Yes, but did it work? Evaluating variational
        inference.
    """
    _require_enough(num_simulations, num_draws, false_alarm)
    parts, programs = [], Programs(model, guide)
    settings = f"simulation_based_calibration({num_simulations=}, {num_draws=}, {false_alarm=})"
    with (
        evaluation(programs, x, ChunkSize(1, of_draws=False), device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        look.require_density("its draws have no spread to judge")
        identity = look.identity(settings, seed)
        programs, first = look.programs, look.x[:1].to(look.device)
        template = first.expand(num_simulations, *first.shape[1:])
        for part in template.split(max(1, _ROWS // num_draws)):
            truth, data = programs.simulate_data(part)
            drawn = programs.run_guide(data, num_draws).latents
            parts.append(_rank(truth, drawn, programs.max_plate_nesting))
        ranks = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    values = torch.cat(list(ranks.values()), 1)
    return Calibration(values, _names(ranks), num_draws, float(false_alarm), identity)


def _require_enough(num_simulations: int, num_draws: int, false_alarm: float) -> None:
    least = _BINS * _LEAST_PER_BIN
    if num_simulations < least:
        raise ValueError(f"num_simulations must be {least} or more, got {num_simulations}.")
    if num_draws < _BINS - 1:
        raise ValueError(f"num_draws must be {_BINS - 1} or more, got {num_draws}.")
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must be between 0 and 1, got {false_alarm}.")


def _rank(
    truth: dict[str, Tensor], drawn: dict[str, Tensor], data_dim: int
) -> dict[str, Int[Tensor, "batch dimensions"]]:
    """Of each site, how many draws are below the truth; ties are broken at random."""
    ranks = {}
    for name, values in drawn.items():
        draws = values.movedim(data_dim, 1).flatten(2) if values.dim() > 2 else values.unsqueeze(-1)
        true = truth[name].movedim(data_dim, 1).reshape(1, draws.shape[1], -1)
        ties = (draws == true).sum(0)
        among = (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()
        ranks[name] = (draws < true).sum(0) + among
    return ranks


def _names(ranks: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(
        f"{name}[{index}]" if values.shape[1] > 1 else name
        for name, values in ranks.items()
        for index in range(values.shape[1])
    )


def _test(
    name: str, ranks: Float[Tensor, " simulations"], num_draws: int, level: float
) -> RankTest:
    """Normal scores and counts of the ranks, against those of the uniform distribution."""
    uniform = (torch.arange(num_draws + 1, dtype=torch.float64) + 0.5) / (num_draws + 1)
    scores, flat = torch.special.ndtri(ranks), torch.special.ndtri(uniform)
    root, unit = math.sqrt(len(ranks)), flat.square().mean()
    location, variance = scores.mean(), scores.var().clamp(min=_LEAST_VARIANCE)
    ratio = variance / (unit * _loss_by_ends(num_draws, location))
    fourth = (scores - location).pow(4).mean()
    ratio_error = (fourth - variance.square()).clamp(min=0).sqrt() / variance / root
    # The tests take the null hypothesis' own errors, which are known.
    z_location = location / unit.sqrt() * root
    z_spread = (ratio - 1) / (flat.pow(4).mean() / unit.square() - 1).sqrt() * root
    at_the_ends = ((ranks == uniform[0]) | (ranks == uniform[-1])).double().mean()
    one_sided = bool((at_the_ends > 0.5) & (location.abs() > 1))
    return RankTest(
        name=name,
        location=MonteCarlo(location.item(), variance.sqrt().item() / root),
        spread=MonteCarlo(ratio.sqrt().item(), (ratio.sqrt() * ratio_error / 2).item()),
        p_values={
            "location": 2 * float(ndtr(-abs(z_location.item()))),
            # Of draws that are all on one side of z* nothing is known but that.
            "spread": 1.0 if one_sided else 2 * float(ndtr(-abs(z_spread.item()))),
            "shape": _chi_squared(ranks, uniform),
        },
        level=level,
    )


def _loss_by_ends(num_draws: int, location: Tensor) -> Tensor:
    """By what factor a shift alone makes scores look less spread, as they end where ranks do."""
    means, variances = _cut_normals(num_draws)
    return variances[(means - location).abs().argmin()] / variances[len(variances) // 2]


@lru_cache(maxsize=8)
def _cut_normals(num_draws: int) -> tuple[Tensor, Tensor]:
    """Means and variances of normals of variance 1, shifted, and cut off at the largest score."""
    limit = -float(torch.special.ndtri(torch.tensor(0.5 / (num_draws + 1), dtype=torch.float64)))
    grid = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    shifts = torch.linspace(-2 * limit, 2 * limit, 801, dtype=torch.float64)
    clipped = (grid + shifts.unsqueeze(-1)).clamp(-limit, limit)
    return clipped.mean(1), clipped.var(1, correction=0).clamp(min=_LEAST_VARIANCE)


def _chi_squared(ranks: Float[Tensor, " simulations"], uniform: Float[Tensor, " values"]) -> float:
    """The p-value of the counts in bins, each with as many possible ranks as it has."""
    observed = torch.histc(ranks, _BINS, 0, 1)
    expected = torch.histc(uniform, _BINS, 0, 1) * len(ranks) / len(uniform)
    statistic = ((observed - expected).square() / expected).sum()
    return float(chdtrc(len(observed) - 1, statistic.item()))
