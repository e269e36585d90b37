"""The gradients that objectives give: bias, variance, signal-to-noise, cost."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import final
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._gradient_bench import (
    GradientBench,
    Group,
    GroupGradient,
    slopes_of,
)
from ppl_vae.diagnostics._gradient_samples import (
    Groups,
    Loop,
    Sample,
    ScoreReference,
    claim_of,
    reference_for,
    target_of,
)
from ppl_vae.diagnostics._gradient_statistics import (
    Moments,
    bootstrap_moments,
    compare_means,
    largest_innocent_z,
    mean_variance,
    median_signal_to_noise,
)
from ppl_vae.objectives import (
    ELBO,
    IWAE,
    MIWAE,
    STL,
    AnalyticELBO,
    DReG,
    GeneralizedDReG,
    Objective,
)
from ppl_vae.particles import Program, Programs
from ppl_vae.randomness import Stream, seeded
from ppl_vae.reference_models import LinearGaussianProblem

_FALSE_ALARM = 0.01
"""Probability that a bench of unbiased gradients reports any bias."""

THEORY: dict[type[Objective], dict[Group, float]] = {
    ELBO: {"theta": 0.5, "phi": 0.5},
    AnalyticELBO: {"theta": 0.5, "phi": 0.5},
    STL: {"theta": 0.5, "phi": 0.5},
    IWAE: {"theta": 0.5, "phi": -0.5},
    MIWAE: {"theta": 0.5, "phi": -0.5},
    DReG: {"theta": 0.5, "phi": 0.5},
    GeneralizedDReG: {"theta": 0.5, "phi": 0.5},
}
"""Slopes of log SNR against log K as K grows. A mean of K terms of one expectation has 1/2.

Rainforth et al., 2018, for IWAE and for MIWAE with a fixed number of bounds; Tucker et al., 2019,
for DReG.
"""

_NUMBERS_AT_ONCE = 200_000
"""Decoded numbers held at once: what stays in a processor's cache is fastest."""
_MOST_LOOPED = 2000
"""Replicates of an objective that needs a step for each."""

Objectives = Sequence[Objective] | Mapping[str, Sequence[Objective]]
Replicates = int | tuple[int, int]


def gradient_statistics(
    model: Program,
    guide: Program,
    x: Float[Tensor, "batch *event"],
    objectives: Objectives,
    *,
    replicates: Replicates = 200,
    parameters: Mapping[str, Tensor] | None = None,
    most_coordinates: int = 2000,
    seed: int = 0,
) -> GradientBench:
    r"""Bias, variance and signal-to-noise ratio of gradients, at the parameters as they are.

    For each objective and K, and for theta (parameters that log p(x, z) depends on) and phi (those
    that the draws or log q(z|x) depend on) apart::

        SNR of a coordinate = |E g| / sd(g),    bias = E g - grad E[reported bound],

    over independent replicates of the gradient g on one batch. The reference of the bias is the
    pathwise gradient of the reported bound itself, over replicates of its own; where a latent has
    no pathwise gradient, its score-function gradient. Both have a standard error, and the z-scores
    hold both. The autograd graph decides what theta and phi are; a parameter can be in both.

    Takes R steps for each objective, and as many, or R', for each bound. Nothing is changed:
    neither the parameters nor their ``.grad``.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: One batch, shape ``(batch, *event)``.
        objectives: Objectives, or name to the objectives with different K that go by the name.
        replicates: Number of independent gradients R that each is estimated from, at least 2; or
            that number and the one of the references.
        parameters: Name to leaf tensor; if not given, those of the modules that model and guide
            are, or are methods of, and those of Pyro's store.
        most_coordinates: Of a larger group, a fixed random subset of so many coordinates.
        seed: Seed of the draws and the bootstrap.

    Raises:
        ValueError: If there is no objective, fewer than 2 replicates, or no parameter that the
            model or guide depends on.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better.
        Tucker et al., 2019, Doubly reparameterized gradient estimators for Monte Carlo objectives.
    """
    families = by_family(objectives)
    programs = Programs(model, guide).on(x)
    if parameters is None:
        found = programs.modules(x).parameters
        parameters = {name: value for name, value in found.items() if value.requires_grad}
    groups = Groups.of(programs, x, parameters, most_coordinates=most_coordinates)
    loop = Loop(model, guide, x, groups)
    return _Bench(loop, loop.sample, *_counts(replicates), seed).run(families)


def linear_gaussian_bench(
    objectives: Objectives,
    *,
    problem: LinearGaussianProblem | None = None,
    replicates: Replicates = 30_000,
    seed: int = 0,
) -> GradientBench:
    """Measure gradients where the ELBO's is exact and 10^4 replicates take a second.

    As :func:`gradient_statistics`, on a linear-Gaussian model with all replicates of a step in one
    batch, each with parameters of its own. The reference is the exact gradient for objectives that
    report the ELBO. Objectives that mix data of a batch are measured one step after the other,
    with at most 2,000 replicates.

    Args:
        objectives: Objectives, or name to the objectives with different K that go by the name.
        problem: Model, guide, parameters and data; near the optimum if not given.
        replicates: R, at least 2; or R and the R' of the references.
        seed: Seed of the draws and the bootstrap.

    Raises:
        ValueError: If there is no objective or fewer than 2 replicates.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better, section 4.
    """
    problem = LinearGaussianProblem.near_the_optimum() if problem is None else problem
    families = by_family(objectives)
    parameters = problem.copies(1)
    model, guide = problem.programs(parameters)
    groups = Groups.of(Programs(model, guide), problem.x, parameters, most_coordinates=10**9)
    loop = Loop(model, guide, problem.x, groups)

    def sample(objective: Objective, replicates: int) -> Sample:
        if problem.mixes_data(objective):
            return loop.sample(objective, min(replicates, _MOST_LOOPED))
        each = problem.x.numel() * objective.num_particles
        at_once = max(1, _NUMBERS_AT_ONCE // each)
        parts = [
            groups.pick(problem.gradients(objective, min(at_once, replicates - start)))
            for start in range(0, replicates, at_once)
        ]
        return {group: torch.cat([part[group] for part in parts]) for group in parts[0]}

    exact = {group: each[0] for group, each in groups.pick(problem.exact_gradients()).items()}
    return _Bench(loop, sample, *_counts(replicates), seed, exact).run(families)


def _counts(replicates: Replicates) -> tuple[int, int]:
    """Replicates of an objective and of its reference."""
    counts = (replicates,) if isinstance(replicates, int) else tuple(replicates)
    if not 1 <= len(counts) <= 2:
        raise ValueError(f"replicates is R, or R and that of the references, got {replicates}.")
    own, reference = counts[0], counts[-1]
    for count in (own, reference):
        if count < 2:
            raise ValueError(f"replicates must be 2 or more for a standard error, got {count}.")
    return own, reference


def by_family(objectives: Objectives) -> dict[str, list[Objective]]:
    """Name without K to its objectives.

    Raises:
        ValueError: If there are none, or two of one family have the same K.
    """
    if isinstance(objectives, Mapping):
        families = {name: list(members) for name, members in objectives.items()}
    else:
        families = {}
        for objective in objectives:
            # As it prints, without the number of particles.
            bare = re.sub(r"(, )?(num_particles|particles_each)=\d+", "", repr(objective))
            families.setdefault(bare.replace("(, ", "(").removesuffix("()"), []).append(objective)
    if not any(families.values()):
        raise ValueError("no objective was given: pass some, such as [IWAE(4), DReG(4)].")
    for name, members in families.items():
        counts = [objective.num_particles for objective in members]
        if len(set(counts)) < len(counts):
            raise ValueError(f"{name} is there twice with one K, of {counts}: each needs its own.")
    return {name: members for name, members in families.items() if members}


@final
@dataclass(frozen=True)
class _Bench:
    """One problem, measured with several objectives.

    Attributes:
        loop: The model, guide, data and groups of parameters.
        sample: Takes replicates of an objective's gradient.
        replicates: R.
        reference_replicates: Number of replicates of each reference.
        seed: Seed of the draws and the bootstrap.
        exact_elbo: Gradient of the exact ELBO summed over the data, by group, if known.
    """

    loop: Loop
    sample: Callable[[Objective, int], Sample]
    replicates: int
    reference_replicates: int
    seed: int
    exact_elbo: dict[Group, Float[Tensor, " coordinates"]] | None = None
    _references: dict[tuple[str, int], "_Reference"] = field(default_factory=dict)

    def run(self, families: Mapping[str, Sequence[Objective]]) -> GradientBench:
        """Measure every objective."""
        groups = self.loop.groups
        comparisons = sum(map(len, families.values())) * groups.num_coordinates
        # By the smaller sample of the two, which gives the wider limit.
        freedom = min(self.replicates, self.reference_replicates) - 1
        limit = largest_innocent_z(_FALSE_ALARM, comparisons, freedom)
        rows = tuple(
            row
            for name, members in families.items()
            for objective in members
            for row in self._rows(name, objective, limit)
        )
        slopes = slopes_of(rows)
        theory = {name: THEORY.get(type(members[0]), {}) for name, members in families.items()}
        return GradientBench(
            rows=rows,
            slopes=slopes,
            expected_slopes={
                (name, group): theory[name][group]
                for name, group in slopes
                if group in theory[name]
            },
            parameters=groups.names,
            shared=groups.shared,
            limit=limit,
            false_alarm=_FALSE_ALARM,
            num_data=len(self.loop.x),
        )

    def _rows(self, name: str, objective: Objective, limit: float) -> list[GroupGradient]:
        """The objective's row for each group."""
        reference, groups, rows = self._reference(objective), self.loop.groups, []
        with seeded(0):
            seconds = self.loop.seconds(objective)
        with self._random("sample", name, objective):
            sample = self.sample(objective, self.replicates)
            # What rounding can make of a gradient that is 0, next to the largest ones.
            largest = max(values.square().mean(0).sqrt().max() for values in sample.values())
            rounding = 16 * torch.finfo(self.loop.x.dtype).eps * float(largest)
            for group, gradients in sample.items():
                moments, resampled = Moments.of(gradients), bootstrap_moments(gradients)
                # Where a gradient is 0 but for rounding, its ratio would be one of rounding errors.
                live = gradients.abs().amax(0) > rounding
                bias = compare_means(moments, reference.moments[group], rounding)
                row = GroupGradient(
                    objective=name,
                    num_particles=objective.num_particles,
                    group=group,
                    replicates=len(gradients),
                    signal_to_noise=median_signal_to_noise(moments, resampled, live),
                    variance=mean_variance(moments, resampled, live),
                    bias=bias,
                    claim=claim_of(objective, group, shared=bool(groups.shared)),
                    biased=abs(bias.largest_z) > limit,
                    reference=reference.description,
                    coordinates=len(live),
                    live=int(live.sum()),
                    worst=groups.label(group, bias.coordinate),
                    seconds=seconds,
                    # A simulation runs the model once more.
                    decoder_evaluations=int(objective.num_particles)
                    * (1 if objective.simulates == "nothing" else 2),
                )
                rows.append(row)
        return rows

    def _reference(self, objective: Objective) -> "_Reference":
        """The gradient of the reported bound; taken once for the objectives that report it."""
        with seeded(0), torch.no_grad():
            particles = objective.draw(self.loop.model, self.loop.guide, self.loop.x)
        target = target_of(objective, particles)
        if target == "ELBO" and self.exact_elbo is not None:
            exact = {
                # An exact gradient has no error.
                group: Moments(value, torch.zeros_like(value), 1)
                for group, value in self.exact_elbo.items()
            }
            return _Reference("exact gradient of the ELBO", exact)
        # A reference serves every objective that reports the same bound with the same K.
        own = repr(objective) if target == "its own bound" else ""
        key = f"{target} {own}", objective.num_particles
        if key not in self._references:
            count, other = self.reference_replicates, reference_for(objective, particles)
            with self._random("reference", key[0], objective):
                drawn = self.sample(other, count)
            kind = "score-function" if isinstance(other, ScoreReference) else "pathwise"
            self._references[key] = _Reference(
                f"{kind} gradient of {target}, {count} replicates",
                {group: Moments.of(gradients) for group, gradients in drawn.items()},
            )
        return self._references[key]

    def _random(self, use: str, name: str, objective: Objective) -> AbstractContextManager[None]:
        """A stream of the name's own, so that no row depends on which others are measured."""
        label = crc32(f"{use} {name}".encode())
        return seeded(self.seed, Stream.EVALUATION, label, objective.num_particles)


@final
@dataclass(frozen=True)
class _Reference:
    """Reference of a mean gradient, and its origin in words."""

    description: str
    moments: dict[Group, Moments]
