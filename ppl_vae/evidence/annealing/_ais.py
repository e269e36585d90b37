"""Annealed importance sampling."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from os import PathLike
from typing import Any, final, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._loop import Call, ChunkEstimate, ChunkResults, Purpose, Streams
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.evidence.annealing._chains import GeometricPath, HamiltonianTransition, Start
from ppl_vae.evidence.annealing._pilot import (
    Annealer,
    Mass,
    Pilot,
    Spacing,
    linear,
    precisions,
    sigmoidal,
)
from ppl_vae.particles import ChunkSize, Evaluation, LatentDensity, Program, Programs

ADVICE = "use more temperatures or chains"
_CHOICES = {"start": get_args(Start), "spacing": get_args(Spacing), "mass": get_args(Mass)}
# Chains times data moved at once; what a forward pass throws away, autograd keeps.
_CPU_ROWS = 1_000
_GPU_ROWS = 32_768
# A pilot of fewer chains would see acceptances too noisy to tune by; of more, it would cost more
# than it is worth.
_PILOT_CHAINS = 8, 64


class AnnealedEstimator(ABC):
    """Estimator of log p(x) from chains that are annealed, chunk by chunk of the data."""

    @abstractmethod
    def _annealing(self) -> "AnnealedImportanceSampling":
        """The path, its transitions and the number of chains."""

    @abstractmethod
    def _estimate(self, annealer: Annealer) -> Columns:
        """Values of each datum of a chunk."""

    @abstractmethod
    def _claims(self, columns: Columns) -> Claims:
        """Direction and method of the results, by the values of all data."""

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
            model: Pyro model with its data plate at dim -1, all latents continuous.
            guide: Pyro guide over the same latents; None will do from the prior with a unit mass,
                where it plays no part.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Seed of the draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.
            checkpoint: File to which finished chunks of data are written every few seconds. Where
                it is there already, the run goes on from it, to the same numbers.

        Raises:
            ValueError: If there are no data, a latent is discrete, a log-density is not a number,
                or the checkpoint is of another run.
        """
        annealing, call = self._annealing(), Call(device, seed, progress, checkpoint)

        def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
            annealer = annealing.prepare(look, x, streams)
            with streams.stream(Purpose.FORWARD):
                return self._estimate(annealer)

        results = annealing.by_chunk(call, repr(self), estimate, Programs(model, guide), x)
        claims = Claims(num_particles=annealing.num_chains, advice=ADVICE)
        claims |= self._claims(results.columns)
        return Evidence.from_weights(results.columns, claims, results.identity, results.seconds)


@final
@dataclass(frozen=True)
class AnnealedImportanceSampling(AnnealedEstimator):
    """``log (1/K) sum_k W_k``, with ``log W = sum_t (b_t - b_(t-1)) d/db log f_b(z_(t-1))``.

    Each of K chains starts at a draw from f_0 and goes through temperatures 0 = b_0 < ... < b_T =
    1: at each, its weight takes in ``f_(b_t) / f_(b_(t-1))`` where it stands, and then a
    Hamiltonian transition that leaves f_(b_t) invariant moves it. From the prior, ``log f_b =
    log p(z) + b log p(x|z)``; from the guide, ``(1 - b) log q(z|x) + b log p(x, z)``, a shorter
    way if the guide is good. Then E[W] = p(x) for any number of temperatures: the estimate is a
    lower bound of log p(x) in expectation, which more temperatures make tighter much faster than
    more chains do. With T = 1 it is importance sampling from f_0.

    That mean holds because nothing about a transition depends on the chain it moves: step sizes,
    mass matrices and the temperatures of an adaptive schedule are found for each datum in a pilot
    run, on chains and random numbers of its own, and then frozen.

    Along a path in many dimensions log W is near normal. Where its variance is more than about 1,
    a few chains have not seen the weights that carry the mean: then the estimate is low by more
    than its standard error says, and the effective sample size of 16 chains looks better than it
    is. More temperatures bring that variance down in proportion.

    From a guide that is narrower than the posterior chains are on the way out, and log W is skewed
    to large values: few chains then give a log p(x) that is low by more than error and doubt say.
    The skewness over all data is a finding. With more temperatures it only costs time; but a mode
    that no chain starts in or wanders into is missed, and neither the standard error nor the
    effective sample size shows it. A sandwich on simulated data
    (:class:`~ppl_vae.evidence.BidirectionalMonteCarlo`) does.

    At a given T L, many temperatures with few leapfrog steps usually do better than the reverse.
    Costs K (1 + (T - 1) L) gradient evaluations of the decoder per datum, and a pilot run of about
    the same (three with an adaptive schedule). All chains of a datum are held at once; memory does
    not grow with the number of data or of temperatures.

    Args:
        num_temperatures: Number of temperatures T.
        num_chains: Number of chains K.
        leapfrog_steps: Leapfrog steps L of each transition.
        start: Start f_0 of the path: ``prior`` or ``guide``.
        spacing: ``linear``; ``sigmoidal``, dense at both ends; ``adaptive``: for each datum, such
            that the conditional effective sample size is the same at all steps.
        target_acceptance: Mean probability of acceptance that the pilot run tunes step sizes to.
        refreshment: Refreshment a in (0, 1]: before each trajectory the momentum r becomes
            ``sqrt(1 - a^2) r + a * noise``; 1 draws it anew.
        mass: ``unit``; or ``guide``: diagonal, by the spread of draws from the start and the guide.
        gap: Width in nats of a sandwich found with these settings on simulated data, which results
            are to carry.
        rows: Chains times data moved at once; by default what suits the device.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Neal, 2001, Annealed importance sampling.
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """

    num_temperatures: int = 1000
    num_chains: int = 16
    leapfrog_steps: int = 5
    start: Start = "prior"
    spacing: Spacing = "sigmoidal"
    target_acceptance: float = 0.65
    refreshment: float = 1.0
    mass: Mass = "unit"
    gap: float | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        require_counts(
            "AnnealedImportanceSampling",
            num_temperatures=self.num_temperatures,
            num_chains=self.num_chains,
            leapfrog_steps=self.leapfrog_steps,
            rows=self.rows,
        )
        name = "AnnealedImportanceSampling"
        for field, allowed in _CHOICES.items():
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(
                    f"{name} takes {field} one of {', '.join(allowed)}, got {value!r}."
                )
        if not 0 < self.target_acceptance < 1:
            raise ValueError(
                f"{name} needs target_acceptance between 0 and 1, got {self.target_acceptance}."
            )
        if not 0 < self.refreshment <= 1:
            raise ValueError(
                f"{name} needs refreshment in (0, 1], got {self.refreshment}: 1 draws every "
                "momentum anew."
            )
        if self.gap is not None and not math.isfinite(self.gap):
            raise ValueError(f"{name} needs a finite gap or None, got {self.gap}.")

    def _annealing(self) -> "AnnealedImportanceSampling":
        return self

    def _estimate(self, annealer: Annealer) -> Columns:
        log_weight, _ = annealer.forward()
        return weight_columns(log_weight, self.evaluations(annealer), annealer.computed_in)

    def _claims(self, columns: Columns) -> Claims:
        method = f"annealed importance sampling {self.described}"
        return Claims(direction="lower", method=method, gap=self.gap)

    def prepare(
        self,
        look: Evaluation,
        x: Shaped[Tensor, "batch *event"],
        streams: Streams,
        levels: Float[Tensor, " points"] | None = None,
    ) -> Annealer:
        """Run the pilot for a chunk of data; chains that are weighted come after.

        Temperatures are those of ``spacing`` unless ``levels`` gives others.
        """
        transition = HamiltonianTransition(self.leapfrog_steps, self.refreshment)
        # Temperatures that are given stay where they are.
        adaptive = levels is None and self.spacing == "adaptive"
        pilot = Pilot(transition, self.target_acceptance, adaptive, self.leapfrog_steps)
        with streams.stream(Purpose.PILOT):
            # On chains and random numbers of its own, so that nothing depends on those that count.
            path = self._path(look, x, streams, self._num_pilots)
            like = path.density.draw_prior()
            if levels is None:
                spaced = linear if self.spacing == "linear" else sigmoidal
                levels = spaced(self.num_temperatures)
            schedule = levels.to(like).unsqueeze(-1)
            tuning = pilot(path, schedule, precisions(path, self.mass, like))
        # Programs may draw when a density is made of them: these draws count as the chains' do.
        with streams.stream(Purpose.FORWARD):
            path = self._path(look, x, streams, self.num_chains)
        return Annealer(path, transition, tuning)

    def by_chunk(
        self,
        call: Call,
        settings: str,
        estimate: ChunkEstimate,
        programs: Programs,
        x: RowData,
    ) -> ChunkResults:
        """An estimate for each chunk of data that fits in ``rows``.

        Raises:
            ValueError: If a guide is needed and there is none.
        """
        if programs.guide is None and (self.start == "guide" or self.mass == "guide"):
            raise ValueError(
                f"guide=None, but the annealing has start={self.start!r} and mass={self.mass!r}: "
                "give the guide, or take start='prior' and mass='unit', which need none."
            )
        # The pilot's chains must fit as well.
        per_datum = max(self.num_chains, self._num_pilots)
        size = ChunkSize(per_datum, self.rows, _CPU_ROWS, _GPU_ROWS, whole=True)
        with call.open(programs, x, size) as look:
            return call.by_chunk(look, settings, estimate)

    def evaluations(self, annealer: Annealer) -> int:
        """Gradient evaluations of one annealing per datum, the pilot's included."""
        chain = 1 + (self.num_temperatures - 1) * self.leapfrog_steps
        return self.num_chains * chain + self.pilot_evaluations(annealer)

    def pilot_evaluations(self, annealer: Annealer) -> int:
        """Gradient evaluations of the pilot run per datum."""
        return self._num_pilots * annealer.tuning.evaluations

    @property
    def _num_pilots(self) -> int:
        low, high = _PILOT_CHAINS
        return min(max(self.num_chains, low), high)

    @property
    def described(self) -> str:
        """The settings that matter, in words."""
        return (
            f"from the {self.start}: {self.num_temperatures} {self.spacing} temperatures, "
            f"{self.leapfrog_steps} leapfrog steps, {self.num_chains} chains"
        )

    def _path(
        self, look: Evaluation, x: Tensor, streams: Streams, num_chains: int
    ) -> GeometricPath:
        programs = look.programs.rows(slice(streams.first, streams.first + len(x)))
        # A guide that plays no part is not run.
        needed = self.start == "guide" or self.mass == "guide"
        density = LatentDensity(programs if needed else programs.with_guide(None), x, num_chains)
        calls = self.num_temperatures * self.leapfrog_steps
        return GeometricPath(density, self.start, look.replays, calls)


def require_annealing(name: str, annealing: Any) -> None:
    """Check that an estimator was given an annealing, and no number.

    Raises:
        ValueError: If it was given something else.
    """
    if not hasattr(annealing, "num_temperatures"):
        raise ValueError(
            f"{name} takes an AnnealedImportanceSampling first, got {annealing!r}: write "
            f"{name}(AnnealedImportanceSampling(num_temperatures=...))."
        )
