"""log p(x) between two bounds on simulated data: annealing forwards, and back from exact draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData
from ppl_vae.display import Axes
from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._loop import Call, ChunkResults, Purpose, Streams
from ppl_vae.evidence._result import Claims, Columns, Direction, Evidence
from ppl_vae.evidence._sandwich import Sandwich
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.evidence.annealing._ais import (
    ADVICE,
    AnnealedImportanceSampling,
    require_annealing,
)
from ppl_vae.evidence.annealing._pilot import Annealer
from ppl_vae.evidence.annealing._reverse import backwards
from ppl_vae.particles import ChunkSize, Evaluation, Program, Programs
from ppl_vae.randomness import Stream, seeded

LENGTHS = (100, 300, 1000, 3000, 10_000)


@final
@dataclass(frozen=True)
class BidirectionalMonteCarlo:
    """``E log mean W <= log p(x) <= E[-log mean W_rev]`` for x simulated together with its z*.

    If (z*, x) ~ p(z) p(x|z), then z* is an exact draw from p(z|x), for any model. Annealing
    forwards from the start gives weights with mean p(x), hence a lower bound; annealing backwards
    from z*, along the same temperatures with the same frozen step sizes, weights with mean
    1 / p(x), hence an upper bound. Their gap bounds what either is off by, in the mean over data.

    The bounds are for data from the model itself: real data may be harder. All backward chains of
    a datum start at its one z*, which leaves the upper bound valid and makes it noisier than its
    chains suggest; the gap's error is therefore taken over data, of which there should be several.

    Costs twice the annealing.

    Args:
        annealing: The annealing to be judged.
        num_simulated: How many data to simulate.

    Raises:
        ValueError: If num_simulated is less than 1.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
    """

    annealing: AnnealedImportanceSampling = field(default_factory=AnnealedImportanceSampling)
    num_simulated: int = 20

    def __post_init__(self) -> None:
        require_annealing("BidirectionalMonteCarlo", self.annealing)
        require_counts("BidirectionalMonteCarlo", num_simulated=self.num_simulated)

    def __call__(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Sandwich:
        """Simulate data and bound their log p(x).

        Args:
            model: Pyro model with its data plate at dim -1, all latents continuous.
            guide: Pyro guide over the same latents.
            x: One or more data; only the shape and type of the first are used.
            device: Where to compute; the example's device if not given.
            seed: Seed of all draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If the model does not observe exactly one site of the shape of x, or as the
                annealing does.
        """
        call, programs = Call(device, seed, progress), Programs(model, guide)
        with call.open(programs, x, ChunkSize(1)) as example:
            first = example.x[:1].to(example.device)
            rows = first.expand(self.num_simulated, *first.shape[1:])
            # From a stream of its own: annealings that are compared see the same data.
            with seeded(seed, Stream.SAMPLING):
                latents, x = example.programs.simulate_data(rows)
            dim = example.programs.max_plate_nesting

        def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
            annealer = self.annealing.prepare(look, x, streams)
            # All chains of a datum start at the one exact draw there is of its posterior.
            exact = {
                name: value.narrow(dim, streams.first, len(x)).expand(
                    self.annealing.num_chains, *[-1] * (value.dim() - 1)
                )
                for name, value in latents.items()
            }
            return self._both(annealer, exact, streams)

        results = self.annealing.by_chunk(call, repr(self), estimate, programs, x)
        lower, upper = (self._side(side, results) for side in ("lower", "upper"))
        return Sandwich(x.cpu(), lower, upper, results.identity)

    def _both(self, annealer: Annealer, exact: dict[str, Tensor], streams: Streams) -> Columns:
        """Values of both sides, by ``side/name``."""
        with streams.stream(Purpose.FORWARD):
            forward, _ = annealer.forward()
        with streams.stream(Purpose.REVERSE):
            path = annealer.path
            backward = annealer.reverse(path.at(path.density.pack(exact)))
        spent = self.annealing.evaluations(annealer)
        lower, upper = (
            weight_columns(log_weight, spent, annealer.computed_in)
            for log_weight in (forward, backward)
        )
        # Backward weights have mean 1 / p(x).
        sides = {"lower": lower, "upper": backwards(upper)}
        return {
            f"{side}/{name}": value
            for side, columns in sides.items()
            for name, value in columns.items()
        }

    def _side(self, side: Direction, results: ChunkResults) -> Evidence:
        prefix = f"{side}/"
        columns = {
            name.removeprefix(prefix): value
            for name, value in results.columns.items()
            if name.startswith(prefix)
        }
        towards = "" if side == "lower" else "backwards "
        shared = "" if side == "lower" else ", all from one draw of z, which their error leaves out"
        claims = Claims(
            num_particles=self.annealing.num_chains,
            direction=side,
            method=f"annealed importance sampling {towards}{self.annealing.described}{shared}",
            advice=ADVICE,
        )
        return Evidence.from_weights(columns, claims, results.identity, results.seconds)


def sandwiches(
    estimator: BidirectionalMonteCarlo,
    model: Program,
    guide: Program | None,
    x: RowData,
    **call: Any,
) -> dict[int, Sandwich]:
    """The sandwich at the estimator's number of temperatures, and at 1/3, 1/10 and 1/30 of it."""
    longest = estimator.annealing.num_temperatures
    lengths = sorted({max(2, longest // part) for part in (30, 10, 3)} | {longest})
    shorter = {T: replace(estimator.annealing, num_temperatures=T) for T in lengths}
    return {
        T: replace(estimator, annealing=annealing)(model, guide, x, **call)
        for T, annealing in shorter.items()
    }


def with_gap(estimator: BidirectionalMonteCarlo, gap: float) -> AnnealedImportanceSampling:
    """The annealing that a sandwich judged, carrying the width it found."""
    return replace(estimator.annealing, gap=gap)


def calibrate(
    model: Program,
    guide: Program | None,
    x: RowData,
    target_gap: float,
    lengths: Sequence[int] = LENGTHS,
    *,
    ais: AnnealedImportanceSampling | None = None,
    num_data: int = 20,
    **call: Any,
) -> AnnealedImportanceSampling:
    """The shortest schedule whose sandwich on simulated data is thinner than ``target_gap`` nats.

    The lengths are tried from the shortest on, on the same simulated data; a gap counts with one
    standard error added. The estimator returned carries the gap it was found with, so that every
    :class:`~ppl_vae.evidence.Evidence` from it says how certain its settings make log p(x): on data
    like the model's own. Real data that the model fits badly can be harder.

    Args:
        model: Pyro model with its data plate at dim -1, all latents continuous.
        guide: Pyro guide over the same latents.
        x: One or more data; only the shape and type of the first are used.
        target_gap: Nats per datum.
        lengths: Numbers of temperatures to try.
        ais: All other settings.
        num_data: How many data to simulate; 2 or more.
        call: ``device``, ``seed`` and ``progress``, as for :class:`BidirectionalMonteCarlo`.

    Raises:
        ValueError: If target_gap is not positive, there is nothing to try, or no length is enough:
            then it says what gap each leaves.
    """
    if not target_gap > 0:
        raise ValueError(f"calibrate needs target_gap > 0 nats, got {target_gap}.")
    if not lengths or num_data < 2:
        raise ValueError("calibrate needs one length or more, and num_data >= 2.")
    ais = AnnealedImportanceSampling() if ais is None else ais
    gaps = []
    for length in sorted(lengths):
        # The seed is the same: all lengths are tried on the same simulated data.
        candidate = replace(ais, num_temperatures=length)
        sandwich = BidirectionalMonteCarlo(candidate, num_data)(model, guide, x, **call)
        if sandwich.gap + sandwich.gap_error < target_gap:
            return replace(candidate, gap=sandwich.gap)
        gaps.append(f"{length}: {sandwich.gap:.3f} +- {sandwich.gap_error:.3f}")
    raise ValueError(
        f"no schedule leaves a gap below {target_gap:g} nats with its standard error "
        f"({'; '.join(gaps)}): allow longer ones, more chains or another start."
    )


def plot_sandwiches(sandwiches: Mapping[int, Sandwich], ax: Axes | None = None) -> Any:
    """Draw both bounds of log p(x) on simulated data against the number of temperatures.

    Args:
        sandwiches: Number of temperatures to what it gave.
        ax: Where to draw; a new figure if not given.

    Returns:
        The axes that were given, or the new figure.
    """
    lengths = sorted(sandwiches)
    sides = {
        "upper bound, backwards": [sandwiches[T].upper for T in lengths],
        "lower bound, forwards": [sandwiches[T].lower for T in lengths],
    }
    curves = []
    for index, (name, results) in enumerate(sides.items()):
        pairs = [(side.mean, 2 * side.monte_carlo_error) for side in results]
        values = [value for value, _ in pairs]
        low, high = [v - half for v, half in pairs], [v + half for v, half in pairs]
        curves.append(plots.Curve(plots.style_of(index), lengths, values, low, high, name))

    def draw(ax: Axes) -> None:
        plots.draw_against(ax, curves, "temperatures", "log p(x), nats per datum")
        plots.remark(ax, "bars: two standard errors")
        plots.legend(ax)

    return plots.draw_on([(draw, plots.HEIGHT)], ax)
