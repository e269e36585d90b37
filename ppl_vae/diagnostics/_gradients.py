"""The gradients that objectives give: bias, variance, signal-to-noise, cost."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._gradient_bench import (
    GROUPS,
    Claim,
    GradientBench,
    Group,
    GroupGradient,
    slopes_of,
)
from ppl_vae.diagnostics._gradient_references import ScoreReference, reference_for, target_of
from ppl_vae.diagnostics._gradient_samples import Groups, Loop, Sample, trainable_parameters
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

Objectives = Sequence[Objective] | Mapping[str, Sequence[Objective]]


def gradient_statistics(
    model: Program,
    guide: Program,
    x: Float[Tensor, "batch *event"],
    objectives: Objectives,
    *,
    replicates: int = 200,
    reference_replicates: int | None = None,
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

    Takes ``replicates`` steps for each objective, and ``reference_replicates`` for each bound.
    Nothing is changed: neither the parameters nor their ``.grad``.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: One batch, shape ``(batch, *event)``.
        objectives: Objectives, or name to the objectives with different K that go by the name.
        replicates: Number of independent gradients R that each is estimated from, at least 2.
        reference_replicates: Of the reference; R if not given.
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
        parameters = trainable_parameters(programs, x)
    groups = Groups.of(programs, x, parameters, most_coordinates=most_coordinates)
    bench = Bench(Loop(model, guide, x, groups), replicates, reference_replicates, seed)
    return bench.run(families)


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
            families.setdefault(_family(objective), []).append(objective)
    if not any(families.values()):
        raise ValueError("no objective was given: pass some, such as [IWAE(4), DReG(4)].")
    for name, members in families.items():
        counts = [objective.num_particles for objective in members]
        if len(set(counts)) < len(counts):
            raise ValueError(f"{name} is there twice with one K, of {counts}: each needs its own.")
    return {name: members for name, members in families.items() if members}


def _family(objective: Objective) -> str:
    """The objective as it prints, without the number of particles."""
    bare = re.sub(r"(, )?(num_particles|particles_each)=\d+", "", repr(objective))
    return bare.replace("(, ", "(").removesuffix("()")


@final
@dataclass
class Bench:
    """One problem, measured with several objectives.

    Args:
        loop: The model, guide, data and groups of parameters.
        replicates: R.
        reference_replicates: Of each reference; R if None.
        seed: Seed of the draws and the bootstrap.
        sample: Takes replicates of an objective's gradient; the loop itself if None.
        exact_elbo: Gradient of the exact ELBO summed over the data, by group, if known.
    """

    loop: Loop
    replicates: int
    reference_replicates: int | None
    seed: int
    sample: Callable[[Objective, int], Sample] | None = None
    exact_elbo: dict[Group, Float[Tensor, " coordinates"]] | None = None

    def __post_init__(self) -> None:
        for name in ("replicates", "reference_replicates"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"{name} must be 2 or more for a standard error, got {value}.")
        self._references: dict[tuple[str, int], Reference] = {}

    def run(self, families: Mapping[str, Sequence[Objective]]) -> GradientBench:
        """Measure every objective."""
        groups = self.loop.groups
        comparisons = sum(map(len, families.values())) * groups.num_coordinates
        freedom = min(self.replicates, self.reference_replicates or self.replicates) - 1
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
        reference = self._reference(objective)
        with seeded(0):
            seconds = self.loop.seconds(objective)
        with self._random("sample", name, objective):
            sample = self._sample(objective, self.replicates)
            rounding = _rounding(sample, self.loop.x.dtype)
            return [
                self._row(name, objective, group, gradients, reference, rounding, limit, seconds)
                for group, gradients in sample.items()
            ]

    def _row(
        self,
        name: str,
        objective: Objective,
        group: Group,
        gradients: Float[Tensor, "replicates coordinates"],
        reference: "Reference",
        rounding: float,
        limit: float,
        seconds: float,
    ) -> GroupGradient:
        moments, resampled = Moments.of(gradients), bootstrap_moments(gradients)
        live = gradients.abs().amax(0) > rounding
        bias = compare_means(moments, reference.moments[group], rounding)
        return GroupGradient(
            objective=name,
            num_particles=objective.num_particles,
            group=group,
            replicates=len(gradients),
            signal_to_noise=median_signal_to_noise(moments, resampled, live),
            variance=mean_variance(moments, resampled, live),
            bias=bias,
            claim=claim_of(objective, group, shared=bool(self.loop.groups.shared)),
            biased=abs(bias.largest_z) > limit,
            reference=reference.description,
            coordinates=len(live),
            live=int(live.sum()),
            worst=self.loop.groups.label(group, bias.coordinate),
            seconds=seconds,
            decoder_evaluations=_decoder_evaluations(objective),
        )

    def _reference(self, objective: Objective) -> "Reference":
        """The gradient of the reported bound; taken once for the objectives that report it."""
        with seeded(0), torch.no_grad():
            particles = objective.draw(self.loop.model, self.loop.guide, self.loop.x)
        target = target_of(objective, particles)
        if target == "ELBO" and self.exact_elbo is not None:
            return Reference.exact(self.exact_elbo)
        own = repr(objective) if target == "its own bound" else ""
        key = f"{target} {own}", objective.num_particles
        if key not in self._references:
            count = self.reference_replicates or self.replicates
            other = reference_for(objective, particles)
            with self._random("reference", key[0], objective):
                drawn = self._sample(other, count)
            kind = "score-function" if isinstance(other, ScoreReference) else "pathwise"
            self._references[key] = Reference(
                f"{kind} gradient of {target}, {count} replicates",
                {group: Moments.of(gradients) for group, gradients in drawn.items()},
            )
        return self._references[key]

    def _sample(self, objective: Objective, replicates: int) -> Sample:
        return (self.sample or self.loop.sample)(objective, replicates)

    def _random(self, *key: object) -> AbstractContextManager[None]:
        """A stream of the name's own, so that no row depends on which others are measured."""
        *names, objective = key
        label = " ".join(map(str, names)).encode()
        count = objective.num_particles if isinstance(objective, Objective) else 0
        return seeded(self.seed, Stream.EVALUATION, crc32(label), count)


@final
@dataclass(frozen=True)
class Reference:
    """What a mean gradient is compared with, and how it was come by."""

    description: str
    moments: dict[Group, Moments]

    @classmethod
    def exact(cls, gradient: Mapping[Group, Float[Tensor, " coordinates"]]) -> "Reference":
        """A gradient without error."""
        return cls(
            "exact gradient of the ELBO",
            {
                group: Moments(value, torch.zeros_like(value), 1)
                for group, value in gradient.items()
            },
        )


def claim_of(objective: Objective, group: Group, *, shared: bool) -> Claim:
    """What the objective says of the gradient of this group.

    A parameter in both groups gets both gradients, so that both must be unbiased for it to be.
    """
    wanted = set(GROUPS) if shared else {group}
    if wanted <= objective.claims.unbiased_with(objective.num_particles):
        return "unbiased"
    clauses = objective.claims.gradient.split(";")
    about = [clause for clause in clauses if any(name in clause for name in wanted)] or clauses
    says_so = any(re.search(r"\bbias(ed)?\b", clause) for clause in about)
    return "biased by design" if says_so else "follows another target"


def _decoder_evaluations(objective: Objective) -> int:
    """Per datum and step. A simulation runs the model once more."""
    runs = 1 if objective.simulates == "nothing" else 2
    return runs * int(objective.num_particles)


def _rounding(sample: Sample, dtype: torch.dtype) -> float:
    """What rounding can make of a gradient that is 0, next to the largest ones."""
    largest = max(gradients.square().mean(0).sqrt().max() for gradients in sample.values())
    return 16 * torch.finfo(dtype).eps * float(largest)
