"""Simulation-based calibration: whether q(z|x) has the right width and place."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData
from ppl_vae.diagnostics._estimates import MonteCarlo, table
from ppl_vae.diagnostics._rank_tests import NUM_BINS, NUM_TESTS, RankTest
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.identity import Identity
from ppl_vae.names import require_least, require_share
from ppl_vae.netcdf import Variable, numpy_of
from ppl_vae.particles import ChunkSize, Program, Programs, evaluation
from ppl_vae.randomness import Stream, generator, seeded

_FALSE_ALARM = 0.01
"""Probability that a calibrated guide is reported, over all its dimensions and tests."""

_LEAST_PER_BIN = 5
_ROWS = 100_000
_MOST_NAMED = 10


@final
@dataclass(frozen=True, eq=False, repr=False)
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
        """Number of (z*, x) that were drawn."""
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
        """Limit that no dimension's difference exceeds, at the false-alarm rate over all of them.

        By the inequality of Dvoretzky, Kiefer and Wolfowitz, with Massart's constant.
        """
        # Bonferroni: dimensions share their simulations, and may depend on each other.
        each = self.false_alarm / len(self.names)
        return math.sqrt(math.log(2 / each) / (2 * self.num_simulations))

    @property
    def tests(self) -> list[RankTest]:
        """The tests of each dimension."""
        # The false-alarm rate is split over every test of every dimension.
        level = self.false_alarm / (NUM_TESTS * len(self.names))
        columns = zip(self.names, self.normalized_ranks.unbind(1), strict=True)
        return [RankTest.of(name, ranks, self.num_draws, level) for name, ranks in columns]

    @property
    def findings(self) -> dict[str, list[str]]:
        """Findings by dimension, for those that have any."""
        return {test.name: test.findings for test in self.tests if test.findings}

    @property
    def calibrated(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.findings

    def coverage(self, probability: float = 0.9) -> list[MonteCarlo]:
        """Fraction of simulations whose central interval of draws holds z*, by dimension.

        Raises:
            ValueError: If the probability is not between 0 and 1.
        """
        require_share(probability=probability)
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
        """Input of ``arviz_plots.plot_ecdf_pit``, a variable a dimension, a draw a simulation.

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
        seed: Seed of the draws; ``None`` uses the caller's random state.

    Raises:
        ValueError: If there are too few simulations or draws to test, or the model does not observe
            one site of the shape of x, or the guide is a point.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman, 2018, Validating Bayesian inference
        algorithms with simulation-based calibration.
        Yao, Vehtari, Simpson and Gelman, 2018, Yes, but did it work? Evaluating variational
        inference.
    """
    # A chi-squared test needs several expected ranks in each bin.
    require_least(NUM_BINS * _LEAST_PER_BIN, num_simulations=num_simulations)
    require_least(NUM_BINS - 1, num_draws=num_draws)
    require_share(false_alarm=false_alarm)
    parts, programs = [], Programs(model, guide)
    settings = f"simulation_based_calibration({num_simulations=}, {num_draws=}, {false_alarm=})"
    with (
        evaluation(programs, x, ChunkSize(1, of_draws=False), device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        look.require_density("its draws have no spread to judge")
        identity = look.identity(settings, seed)
        # Data are simulated in the shape and type of the first row; its values play no part.
        programs, first = look.programs, look.x[:1].to(look.device)
        template = first.expand(num_simulations, *first.shape[1:])
        for part in template.split(max(1, _ROWS // num_draws)):
            truth, data = programs.simulate_data(part)
            drawn = programs.run_guide(data, num_draws).latents
            parts.append(_rank(truth, drawn, programs.max_plate_nesting))
        ranks = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    names = tuple(
        f"{name}[{index}]" if values.shape[1] > 1 else name
        for name, values in ranks.items()
        for index in range(values.shape[1])
    )
    values = torch.cat(list(ranks.values()), 1)
    return Calibration(values, names, num_draws, float(false_alarm), identity)


def _rank(
    truth: dict[str, Tensor], drawn: dict[str, Tensor], data_dim: int
) -> dict[str, Int[Tensor, "batch dimensions"]]:
    """Rank of the truth among the draws, by site; ties are broken at random."""
    ranks = {}
    for name, values in drawn.items():
        draws = values.movedim(data_dim, 1).flatten(2) if values.dim() > 2 else values.unsqueeze(-1)
        true = truth[name].movedim(data_dim, 1).reshape(1, draws.shape[1], -1)
        ties = (draws == true).sum(0)
        # Among t draws equal to it z* has any of t + 1 places: ranks stay uniform.
        among = (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()
        ranks[name] = (draws < true).sum(0) + among
    return ranks
