"""Temperatures and step sizes, found in a pilot run and then frozen, and annealing by them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence.annealing._chains import Chains, GeometricPath, Transition

Spacing = Literal["linear", "sigmoidal", "adaptive"]
Mass = Literal["unit", "guide"]

_STEEPNESS = 4.0
_FLOOR = 0.05
"""Share of an average interval that every interval counts as at least: where a few chains happen
to agree, the schedule must not jump."""
_WARM_UP, _TRANSITIONS = 40, 100
_GAIN = 0.3
_ADAPTATIONS = 2
"""Walks that measure and redraw an adaptive schedule, before the one that tunes the steps on it."""
_SCALE_DRAWS = 64


def linear(num_temperatures: int) -> Float[Tensor, " points"]:
    """``b_t = t / T`` for t = 0..T."""
    return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)


def sigmoidal(num_temperatures: int) -> Float[Tensor, " points"]:
    """``sigmoid(4 (2t/T - 1))`` for t = 0..T, moved and stretched onto [0, 1].

    Dense at both ends, where the distributions change fastest.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    levels = torch.sigmoid(_STEEPNESS * (2 * linear(num_temperatures) - 1))
    return (levels - levels[0]) / (levels[-1] - levels[0])


def interval_length(log_increment: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    """``sqrt(-log(CESS / K))``, how hard a step from one temperature to the next is, per datum.

    CESS is the conditional effective sample size ``K (mean w)^2 / mean w^2`` of the increments
    ``w = f_(b')(u) / f_b(u)`` of K chains at temperature b. Over a short step the length is the
    step times the standard deviation of ``d/db log f_b``, so that lengths add up along the path,
    and equal lengths are equal CESS.

    Args:
        log_increment: log w of each chain.

    References:
        Zhou, Johansen and Aston, 2016, Toward automatic model comparison: an adaptive sequential
        Monte Carlo approach.
    """
    log_fraction = 2 * log_increment.logsumexp(0) - (2 * log_increment).logsumexp(0)
    # Rounding may bring equal increments, whose length is 0, below 0.
    return (math.log(len(log_increment)) - log_fraction).clamp(min=0).sqrt()


def of_equal_steps(
    schedule: Float[Tensor, "points levels"], lengths: Float[Tensor, "intervals batch"]
) -> Float[Tensor, "points batch"]:
    """The schedule with as many temperatures whose intervals have equal lengths, per datum."""
    finite = torch.where(lengths.isfinite(), lengths, math.sqrt(math.log(2)))
    # An infinite length, of chains that lost x, counts as CESS = K/2: finite, and hard.
    padded = finite + _FLOOR * finite.mean(0) + torch.finfo(finite.dtype).eps
    travelled = torch.cat([torch.zeros_like(padded[:1]), padded.cumsum(0)])
    travelled = (travelled / travelled[-1]).mT.contiguous()
    points = schedule.expand(travelled.shape[1], travelled.shape[0]).mT.contiguous()
    wanted = torch.linspace(0, 1, len(schedule), dtype=points.dtype, device=points.device)
    right = torch.searchsorted(travelled, wanted.expand_as(travelled).contiguous())
    right = right.clamp(1, len(schedule) - 1)
    ends = [(t.gather(1, right - 1), t.gather(1, right)) for t in (travelled, points)]
    (before, after), (low, high) = ends
    levels = low + (high - low) * (wanted - before) / (after - before)
    # Exactly: a path that ends beside b = 1 has weights of another mean than p(x).
    levels[:, 0], levels[:, -1] = 0.0, 1.0
    return levels.mT.contiguous()


@final
@dataclass(frozen=True)
class Precisions:
    """Diagonal mass matrices along the path: ``(1 - b) / s_0^2 + b / s_1^2``.

    The precisions of a geometric path between two diagonal normals with scales s_0 and s_1; where
    it goes on beyond b = 1, none falls below both.

    Attributes:
        start: 1 / s_0^2, of shape (batch, dim), or one number.
        end: 1 / s_1^2.
    """

    start: Tensor
    end: Tensor

    def rows(self, index: Tensor) -> "Precisions":
        """Select the matrices of some data."""
        chosen = (p[index] if p.dim() else p for p in (self.start, self.end))
        return Precisions(*chosen)

    def scale(self, level: Float[Tensor, " levels"]) -> Tensor:
        """Scale of each dimension at temperature b."""
        level = level.unsqueeze(-1)
        along = (1 - level) * self.start + level * self.end
        return torch.maximum(along, torch.minimum(self.start, self.end)).rsqrt()


@final
@dataclass(frozen=True, eq=False)
class Tuning:
    """The frozen settings of every transition. They depend on x and on the pilot's draws alone.

    Attributes:
        schedule: b_0..b_T, shape (T + 1, batch), or (T + 1, 1) where all data share it.
        steps: Step size at each temperature, shape (T + 1, batch).
        precisions: The mass matrices.
        evaluations: Gradient evaluations per chain that it took to find them.
    """

    schedule: Float[Tensor, "points levels"]
    steps: Float[Tensor, "points batch"]
    precisions: Precisions
    evaluations: int

    def rows(self, index: Tensor) -> "Tuning":
        """Select the settings of some data; the schedule is one that all data share."""
        steps, chosen = self.steps[:, index], self.precisions.rows(index)
        return Tuning(self.schedule, steps, chosen, self.evaluations)

    def at(self, schedule: Float[Tensor, "points 1"]) -> "Tuning":
        """The settings along a longer schedule of the same spacing: steps in between theirs."""
        logs = self.steps.log().mT.unsqueeze(1)
        between = torch.nn.functional.interpolate(
            logs, len(schedule), mode="linear", align_corners=True
        )
        return Tuning(schedule, between[:, 0].mT.exp(), self.precisions, 0)


@final
@dataclass(frozen=True)
class Pilot:
    """Tunes step sizes, and an adaptive schedule, on chains of its own.

    The pilot's chains walk along the path as annealing does. After each transition the logarithm of
    a datum's step size moves by 0.3 (acceptance - target), acceptance being the mean over chains;
    where it stands at the end of a temperature is what is used there. Chains that are weighted
    later never change it: with step sizes that react to the chain they move, no density would be
    left invariant, and the mean weight would not be p(x).

    Args:
        transition: What to tune.
        target_acceptance: Mean probability of acceptance to aim at.
        adaptive: Whether to move the temperatures, too.
        leapfrog_steps: Gradient evaluations of a transition.
        warm_up: Transitions at the first temperature, before the walk.
        transitions: At least so many along the whole schedule: a short one takes several at each
            temperature.
    """

    transition: Transition
    target_acceptance: float
    adaptive: bool
    leapfrog_steps: int
    warm_up: int = field(default_factory=lambda: _WARM_UP)
    transitions: int = field(default_factory=lambda: _TRANSITIONS)

    def __call__(
        self, path: GeometricPath, schedule: Float[Tensor, "points levels"], precisions: Precisions
    ) -> Tuning:
        """Run the pilot from draws of its own."""
        walks = 1
        if self.adaptive:
            for _ in range(_ADAPTATIONS):
                _, lengths = self._walk(path, schedule, precisions)
                schedule = of_equal_steps(schedule, lengths)
            walks += _ADAPTATIONS
        steps, _ = self._walk(path, schedule, precisions)
        intervals = len(schedule) - 1
        transitions = self.warm_up + math.ceil(self.transitions / intervals) * intervals
        evaluations = walks * (1 + self.leapfrog_steps * transitions)
        return Tuning(schedule, steps, precisions, evaluations)

    def _walk(
        self, path: GeometricPath, schedule: Tensor, precisions: Precisions
    ) -> tuple[Tensor, Tensor]:
        """Step size at each temperature, and how hard each interval is."""
        chains = path.draw()
        # Step sizes of one acceptance fall as dim^(-1/4).
        log_step = torch.full_like(chains.base[0], -0.25 * math.log(path.density.dim))
        repeats = math.ceil(self.transitions / (len(schedule) - 1))
        lengths, steps = [], []
        for point in range(1, len(schedule)):
            level = schedule[point]
            lengths.append(interval_length((level - schedule[point - 1]) * chains.ratio))
            scale = precisions.scale(level)
            warm_up = self.warm_up if point == 1 else 0
            for left in range(warm_up + repeats, 0, -1):
                chains, acceptance = self.transition(path, chains, level, log_step.exp(), scale)
                # The first guess may be off by factors: large corrections first.
                gain = _GAIN * max(1.0, (left - repeats) / 8)
                log_step = log_step + gain * (acceptance.mean(0) - self.target_acceptance)
            # Where the step stands here is frozen for this temperature.
            steps.append(log_step)
        # At the start there are exact draws, and nothing moves unless it is asked to.
        return torch.stack([steps[0], *steps]).exp(), torch.stack(lengths)


def precisions(path: GeometricPath, mass: Mass, like: Tensor) -> Precisions:
    """Unit mass matrices, or by the spread of draws from the start and, for the end, the guide.

    Args:
        path: Where to draw.
        mass: Which.
        like: Of the type and on the device of the latents.
    """
    if mass == "unit":
        one = like.new_ones(())
        return Precisions(one, one)
    density = path.density
    end = _precision(density.draw_guide)
    start = end if path.start == "guide" else _precision(density.draw_prior)
    return Precisions(start, end)


def _precision(draw: Callable[[], Tensor]) -> Float[Tensor, "batch dim"]:
    draws = [draw()]
    while len(draws) * len(draws[0]) < _SCALE_DRAWS:
        draws.append(draw())
    return torch.cat(draws).var(0).reciprocal()


@final
@dataclass(frozen=True, eq=False)
class Annealer:
    """A path with the transitions along it, all settings frozen.

    Attributes:
        path: The densities f_b of a batch of data.
        transition: A kernel that leaves f_b invariant.
        tuning: The temperatures, and the step sizes at each.
    """

    path: GeometricPath
    transition: Transition
    tuning: Tuning

    @property
    def computed_in(self) -> torch.dtype:
        """Type of the log-densities along the path."""
        return self.tuning.schedule.dtype

    @property
    def last(self) -> int:
        """Number T of the last temperature; b_T = 1 where p(x) is wanted."""
        return len(self.tuning.schedule) - 1

    def forward(self) -> tuple[Float[Tensor, "chains batch"], Chains]:
        """``log W`` of chains from draws of f_0 along b_0..b_T: E[W] = p(x).

        Also the chains, of which those with weights W stand for the posterior.
        """
        return self.anneal(self.path.draw(), range(self.last + 1))

    def reverse(self, chains: Chains) -> Float[Tensor, "chains batch"]:
        """``log W`` of chains along b_T..b_0: E[W] = 1 / p(x) if they start at posterior draws."""
        return self.anneal(chains, range(self.last, -1, -1))[0]

    def anneal(
        self, chains: Chains, points: Iterable[int]
    ) -> tuple[Float[Tensor, "chains batch"], Chains]:
        """``log W = sum_t (b_t - b_(t-1)) d/db log f_b`` at the states before each transition.

        The transition at a temperature comes after the weight has been taken to it, and there is
        none at the last one, where it would change no weight.
        """
        points = list(points)
        log_weight = torch.zeros_like(chains.base, dtype=torch.float64)
        for here, there in pairwise(points):
            log_weight = log_weight + self.increment(chains, here, there)
            if there != points[-1]:
                chains, _ = self.move(chains, there)
        return log_weight, chains

    def increment(self, chains: Chains, here: int, there: int) -> Float[Tensor, "chains batch"]:
        """``log f_there(u) - log f_here(u)``, in double precision: many small terms add up."""
        schedule = self.tuning.schedule
        return (schedule[there].double() - schedule[here].double()) * chains.ratio.double()

    def move(self, chains: Chains, point: int) -> tuple[Chains, Float[Tensor, "chains batch"]]:
        """One transition at temperature ``b_point``."""
        level, step = self.tuning.schedule[point], self.tuning.steps[point]
        scale = self.tuning.precisions.scale(level)
        return self.transition(self.path, chains, level, step, scale)
