"""Estimation of each datum in the way that a pilot finds cheapest."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real
from os import PathLike
from typing import Any, final

import torch

from ppl_vae.data import RowData, in_memory, select
from ppl_vae.evidence._certificate import certified, likeness, simulated
from ppl_vae.evidence._choice import LAPLACE, REFINED, planned
from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._laplace import LaplaceApproximation
from ppl_vae.evidence._loop import Call, Purpose, Streams
from ppl_vae.evidence._pilots import CHAINS, Goal, Work
from ppl_vae.evidence._result import STAGES, Claims, Evidence
from ppl_vae.evidence._sandwich import Sandwich
from ppl_vae.evidence._stages import Stages
from ppl_vae.evidence.exact._enumeration import Enumeration
from ppl_vae.evidence.exact._quadrature import Quadrature
from ppl_vae.particles import (
    ChunkSize,
    Evaluation,
    LatentDensity,
    Program,
    Programs,
    Refiner,
)
from ppl_vae.randomness import seeded
from ppl_vae.refinement import Refinement

_QUADRATURE = 2
"""Latent dimensions up to which integrals are done by quadrature."""
_REFINERS: dict[str, Refiner] = {
    REFINED: Refinement(),
    LAPLACE: LaplaceApproximation(steps=10),
}
_CONFIGURATIONS = 4096
"""Configurations of discrete latents up to which they are summed over."""


@final
@dataclass(frozen=True)
class CostPlan:
    """What an automatic estimate is expected to cost, by the pilots of a sample of the data.

    Attributes:
        num_data: Number of data to estimate.
        num_sampled: Number of data whose pilots were run.
        stages: Stage to the share of the sampled data that end at it.
        evaluations: Decoder evaluations for all data, pilots included; None where the way is exact.
        seconds: Seconds for all data at the speed of the pilots; None where the way is exact.
    """

    num_data: int
    num_sampled: int
    stages: dict[str, float]
    evaluations: float | None
    seconds: float | None

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.stages.items())
        if self.evaluations is None or self.seconds is None:
            return f"{self.num_data} data: {shares}"
        each = self.evaluations / self.num_data
        return (
            f"{self.num_data} data: about {self.evaluations:,.0f} decoder evaluations "
            f"({each:,.0f} a datum), {self.seconds:,.0f} seconds; by {self.num_sampled} of them: "
            f"{shares}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        return dict(vars(self))


@final
@dataclass(frozen=True)
class AutomaticSampling:
    """``log p(x)`` of each datum in the way that a pilot finds cheapest, with its doubt in nats.

    Up to 2 latent dimensions are integrated by quadrature, and up to 4,096 configurations of
    discrete latents are summed. Otherwise every datum goes on, stage by stage, until a stage is
    expected to leave a standard error and a doubt of no more than the target:

    1. importance sampling from the guide, or, where its support is a part of the prior's, from a
       mixture of both;
    2. importance sampling from a guide refined for the datum, or from Laplace's approximation;
    3. annealing from the best of these guides, or from the prior where there is none, with as many
       temperatures and chains as the variance of log W asks for.

    Stages, numbers of draws, temperatures and step sizes are chosen by pilots, on draws of their
    own. The number then comes from fresh draws, whatever these show: given the pilots each weight
    has mean p(x), and the estimate is a lower bound of log p(x) in expectation whichever stage each
    datum ends at. What it states of its doubt is by the fresh draws alone.

    A mode that no draw comes near is the one thing that it cannot see.

    Args:
        target: Nats that the doubt of a datum is to stay below.
        error: Nats that its standard error is to stay below. Errors average out over the data, and
            doubt does not; None: three times the target.
        max_evaluations: Decoder evaluations for all data together; every datum has an equal part,
            which those of a chunk share, and with a guide 500 or more; without one, the pilots of
            annealing may take more than that. None: as many as the target asks for.
        max_seconds: Seconds for all data together; the numbers then follow from the machine's
            speed. The pilots of a chunk, and a block of draws, are not cut short. None: as many as
            it takes.
        most: Decoder evaluations of a datum at which it is given up.
        leapfrog_steps: Leapfrog steps of each transition of an annealing.
        rows: Particles times data decoded at once; by default what suits the device.

    Raises:
        ValueError: If a setting is out of range.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
        Neal, 2001, Annealed importance sampling.
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling.
    """

    target: float = 0.05
    error: float | None = None
    max_evaluations: int | None = None
    max_seconds: float | None = None
    most: int = 200_000
    leapfrog_steps: int = 2
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts(
            "AutomaticSampling",
            max_evaluations=self.max_evaluations,
            most=self.most,
            leapfrog_steps=self.leapfrog_steps,
            rows=self.rows,
        )
        for name, value in (
            ("target", self.target), ("error", self.error), ("max_seconds", self.max_seconds),
        ):  # fmt: skip
            known = value is None or isinstance(value, Real)
            if not known or (value is not None and not (value > 0 and math.isfinite(value))):
                raise ValueError(f"AutomaticSampling needs {name} above 0, got {value!r}.")

    @property
    def goal(self) -> Goal:
        """What is to be reached for each datum."""
        error = 3 * self.target if self.error is None else self.error
        return Goal(self.target, error, self.most)

    def __call__(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum.

        Args:
            model: Pyro model with its data plate at dim -1.
            guide: Pyro guide over the same latents; None: all latents are annealed from the prior,
                or are few enough to be integrated.
            x: The data, shape ``(num_data, *event)``, as for ``ImportanceSampling``.
            device: Where to compute; where the modules are, or else the data, if not given.
            seed: Seed of the draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.
            checkpoint: File to which finished chunks of data are written every few seconds. Where
                it is there already, the run goes on from it, to the same numbers.

        Raises:
            ValueError: If there are no data, a log-density is not a number, a guide is needed and
                there is none, or the checkpoint is of another run.
        """
        programs, call = Programs(model, guide), Call(device, seed, progress, checkpoint)
        with call.open(programs, x, ChunkSize(CHAINS, self.rows, whole=True)) as look:
            identity = look.identity(repr(self), seed)
            exact = _exact(look)
            if exact is None:
                stages = Stages(self, call, look, _REFINERS)
                results = call.by_chunk(look, repr(self), stages.estimate)
                columns = results.columns
                claims = Claims(
                    num_particles=int(columns["draws"].max()),
                    direction="lower",
                    method=self._method,
                    advice="give it more evaluations, or a better guide",
                )
                return Evidence.from_weights(columns, claims, results.identity, call.seconds)
        found = exact(model, guide, x, device=device, seed=seed, progress=progress)
        stage = torch.full_like(found.log_prob, float(STAGES.index(_name_of(exact))))
        return replace(found, stage=stage, identity=identity)

    def plan(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        sample: int = 64,
    ) -> CostPlan:
        """What the estimate will cost, by the pilots of some of the data; nothing is estimated.

        Args:
            model: As for a call.
            guide: As for a call.
            x: As for a call.
            device: As for a call.
            seed: As for a call.
            sample: Number of data whose pilots are run.
        """
        require_counts("plan", sample=sample)
        call = Call(device, seed)
        size = ChunkSize(CHAINS, self.rows, whole=True)
        with call.open(Programs(model, guide), x, size) as look, torch.no_grad():
            num_data = len(look.x)
            exact = _exact(look)
            if exact is not None:
                return CostPlan(num_data, 0, {_name_of(exact): 1.0}, None, None)
            stages = Stages(self, call, look, _REFINERS)
            streams = Streams(seed, 0, 0)
            with streams.stream(Purpose.PREDICTION):
                rows = torch.randperm(num_data)[:sample].sort().values
            programs = stages.programs.rows(rows)
            part = in_memory(select(look.x, rows), "pilots").to(look.device)
            work = Work(programs, part, look.data_at_once, look.replays, stages.defensive)
            began = time.perf_counter()
            with streams.stream(Purpose.PILOT):
                choice = stages.choose(work)
            seconds, spent = time.perf_counter() - began, float(choice.spent.sum())
        total = (spent + planned(choice)) * num_data / len(rows)
        if self.max_evaluations is not None:
            total = min(total, float(self.max_evaluations))
        shares = {name: n / len(rows) for name, n in choice.counts().items()}
        return CostPlan(num_data, len(rows), shares, total, total * seconds / spent)

    def certify(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        estimate: Evidence | None = None,
        num_simulated: int = 20,
        device: torch.device | str | None = None,
        seed: int | None = 0,
    ) -> Sandwich | None:
        """Bound log p(x) of data simulated from the model from both sides, by the same settings.

        Every simulated datum goes through the stages as a real one does. In the place of one of its
        draws, or chains, the z that it comes from, which is an exact draw of its posterior, makes
        an upper bound in expectation of what it ends at; the gap bounds what the estimate of such
        data is low by. Costs about what the estimate of as many data costs.

        Args:
            model: As for a call.
            guide: As for a call.
            x: Real data: the shape of the simulated ones, and what these are compared with.
            estimate: Their estimate; its cost is compared with that of the simulated data.
            num_simulated: Number of data to simulate.
            device: As for a call.
            seed: As for a call.

        Returns:
            The sandwich; None where the way is exact.

        Raises:
            ValueError: If num_simulated is less than 1, or the model does not observe exactly one
                site of the shape of x.
        """
        require_counts("certify", num_simulated=num_simulated)
        call, programs = Call(device, seed), Programs(model, guide)
        size = ChunkSize(CHAINS, self.rows, whole=True)
        with call.open(programs, x, size) as look:
            if _exact(look) is not None:
                return None
            latents, drawn = simulated(look, num_simulated, seed)
            real = Stages(self, call, look, _REFINERS)
            share = num_simulated / len(look.x)
        # A datum may cost what a real one may.
        most, seconds = self.max_evaluations, self.max_seconds
        own = replace(
            self,
            max_evaluations=None if most is None else math.ceil(most * share),
            max_seconds=None if seconds is None else seconds * share,
        )
        call = Call(device, seed)
        with call.open(programs, drawn, size) as look:
            stages = Stages(own, call, look, _REFINERS)
            found = certified(stages, drawn, latents, self._method)
            if real.guided or estimate is not None:
                found = replace(found, likeness=likeness(real, stages, found, estimate, seed))
            return found

    @property
    def _method(self) -> str:
        return f"automatic to {self.target:g} nats"


def _name_of(exact: Quadrature | Enumeration) -> str:
    return "quadrature" if isinstance(exact, Quadrature) else "enumeration"


def _exact(look: Evaluation) -> Quadrature | Enumeration | None:
    """The exact way, where there is one that is cheap."""
    one = look.x[:1].to(look.device)
    programs = look.programs.with_guide(None)
    # The caller's random state stays as it was.
    with seeded(0), torch.no_grad(), suppress(ValueError):
        if LatentDensity(programs, one, 1).dim <= _QUADRATURE:
            return Quadrature()
        return None
    summed = Enumeration(_CONFIGURATIONS)
    with suppress(ValueError):
        summed(programs.model, None, one)
        return summed
    return None
