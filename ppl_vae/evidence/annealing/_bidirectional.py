"""Annealing forwards and backwards between a start and an exact posterior draw."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.evidence._chunks import Call, ChunkResults, Purpose, Streams
from ppl_vae.evidence._result import Direction, Evidence
from ppl_vae.evidence._unfinished import Columns, Part
from ppl_vae.evidence.annealing._ais import AnnealedImportanceSampling
from ppl_vae.evidence.annealing._annealer import Annealer
from ppl_vae.evidence.annealing._columns import evidence_of, part_of, weight_columns
from ppl_vae.evidence.annealing._sandwich import Sandwich
from ppl_vae.evidence.annealing._settings import require_annealing, require_count
from ppl_vae.particles import ChunkSize, Evaluation, Program, Programs
from ppl_vae.randomness import Stream, seeded


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
        require_count("BidirectionalMonteCarlo", "num_simulated", self.num_simulated)

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
            seed: Of all draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If the model does not observe exactly one site of the shape of x, or as the
                annealing does.
        """
        begun = time.perf_counter()
        call = Call(device, seed, progress)
        programs = Programs(model, guide)
        with call.open(programs, x, ChunkSize(1)) as example:
            latents, x = self._simulate(example, seed)
            dim = example.programs.max_plate_nesting

        def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Part:
            annealer = self.annealing.prepare(look.programs, x, streams)
            exact = self._rows(latents, streams.first, len(x), dim)
            return part_of(self._both(annealer, exact, streams))

        found = self.annealing.by_chunk(call, repr(self), estimate, programs, x)
        seconds = time.perf_counter() - begun
        lower, upper = (self._side(side, found, seconds) for side in ("lower", "upper"))
        return Sandwich(x.cpu(), lower, upper, found.identity)

    def _simulate(self, example: Evaluation, seed: int | None) -> tuple[dict[str, Tensor], Tensor]:
        first = example.x[:1].to(example.device)
        rows = first.expand(self.num_simulated, *first.shape[1:])
        with seeded(seed, Stream.SAMPLING):
            return example.programs.simulate_data(rows)

    def _rows(
        self, latents: dict[str, Tensor], start: int, size: int, dim: int
    ) -> dict[str, Tensor]:
        """The posterior draws of some data, one for all chains of a datum."""
        chains = self.annealing.num_chains
        rows = {name: value.narrow(dim, start, size) for name, value in latents.items()}
        return {name: value.expand(chains, *value.shape[1:]) for name, value in rows.items()}

    def _both(self, annealer: Annealer, exact: dict[str, Tensor], streams: Streams) -> Columns:
        with streams.stream(Purpose.FORWARD):
            forward, _ = annealer.forward()
        with streams.stream(Purpose.REVERSE):
            path = annealer.path
            backward = annealer.reverse(path.at(path.density.pack(exact)))
        evaluations = self.annealing.evaluations(annealer)
        both = {
            "lower": weight_columns(forward, evaluations, annealer.computed_in),
            "upper": weight_columns(backward, evaluations, annealer.computed_in),
        }
        both["upper"] = {**both["upper"], "log_prob": -both["upper"]["log_prob"]}
        return {
            f"{side}/{name}": value
            for side, columns in both.items()
            for name, value in columns.items()
        }

    def _side(self, side: Direction, found: ChunkResults, seconds: float) -> Evidence:
        mine = {
            name.split("/")[1]: value
            for name, value in found.columns.items()
            if name.startswith(f"{side}/")
        }
        towards = "" if side == "lower" else "backwards "
        shared = "" if side == "lower" else ", all from one draw of z, which their error leaves out"
        return evidence_of(
            mine,
            num_particles=self.annealing.num_chains,
            direction=side,
            method=f"annealed importance sampling {towards}{self.annealing.described}{shared}",
            seconds=seconds,
            identity=found.identity,
        )


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
