"""The gradient bench on the linear-Gaussian model: exact ELBO gradient, replicates in one batch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._gradient_bench import GradientBench
from ppl_vae.diagnostics._gradient_samples import Groups, Loop, Sample, ascent_direction
from ppl_vae.diagnostics._gradients import Bench, Objectives, by_family
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import Objective
from ppl_vae.particles import Program, Programs
from ppl_vae.randomness import generator, seeded

_NUMBERS_AT_ONCE = 200_000
"""Decoded numbers held at once: what stays in a processor's cache is fastest."""
_WIDER = math.sqrt(4 / 3)
"""Guide's standard deviation over the posterior's, as in Rainforth et al., 2018: the weights keep
the moments that the gradients' variances need."""


@final
@dataclass(frozen=True)
class LinearGaussianProblem:
    """z ~ Normal(m, exp(t)), x|z ~ Normal(z W + b, s^2 I), guide z|x ~ Normal(x A + c, exp(l)).

    Attributes:
        parameters: Name to value, in double precision: ``weight`` (latent, features), ``bias``,
            ``prior_loc``, ``prior_log_scale`` of the model; ``guide_weight`` (features, latent),
            ``guide_bias``, ``guide_log_scale`` of the guide.
        x: The data, shape (num_data, features).
        noise_scale: s, in the units of x.
    """

    parameters: dict[str, Tensor]
    x: Float[Tensor, "num_data features"]
    noise_scale: float = 1.0

    @classmethod
    def near_the_optimum(
        cls,
        *,
        features: int = 4,
        latent: int = 2,
        num_data: int = 2,
        perturbation: float = 0.08,
        wider: float = _WIDER,
        seed: int = 6,
    ) -> "LinearGaussianProblem":
        """Data from a model, and parameters a Gaussian perturbation away from it.

        The columns of W are orthogonal, so that the family of the guide holds the posterior; the
        guide starts from it, its standard deviation times ``wider``.

        Args:
            features: Dimensions of x.
            latent: Dimensions of z, at most as many.
            num_data: Data in the batch.
            perturbation: Standard deviation of what is added to every parameter.
            wider: Standard deviation of the guide over that of the posterior.
            seed: Of model, data and perturbation. At the default the weights have a variance below
                1/5, in units of p(x)^2, so that the laws in K hold from K = 4, and the gradient of
                phi stands well out of its noise.

        Raises:
            ValueError: If a size is out of range.
        """
        if not 1 <= latent <= features or num_data < 1:
            raise ValueError(
                f"needs 1 <= latent <= features and num_data >= 1, got latent {latent}, features "
                f"{features}, num_data {num_data}."
            )
        if not (perturbation >= 0 and wider > 0):
            raise ValueError(
                f"needs perturbation >= 0 and wider > 0, got {perturbation} and {wider}."
            )
        drawn = LinearGaussian.random(features, latent, seed=seed).weight.detach()
        weight = torch.linalg.qr(drawn).Q * math.sqrt(features / latent)
        true = LinearGaussian(weight)
        return cls(_perturbed(true, perturbation, wider, seed), true.simulate(num_data, seed=seed))

    def programs(self, parameters: Mapping[str, Tensor]) -> tuple[Program, Program]:
        """Model and guide at parameters of shape (replicates, ...), for as many copies of x."""
        p = {name: self._per_datum(value) for name, value in parameters.items()}

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", _normal(p["prior_loc"], p["prior_log_scale"].exp()))
                loc = torch.einsum("kbl,blf->kbf", z, p["weight"]) + p["bias"]
                pyro.sample("x", _normal(loc, self.noise_scale), obs=x)

        def guide(x: Tensor) -> None:
            # Simulated data come as many times as there are particles, in the order of the data.
            times = len(x) // len(p["guide_bias"])
            weight, bias, log_scale = (
                torch.cat([p[f"guide_{name}"]] * times) for name in ("weight", "bias", "log_scale")
            )
            loc = torch.einsum("bf,bfl->bl", x, weight) + bias
            with pyro.plate("data", len(x)):
                pyro.sample("z", _normal(loc, log_scale.exp()))

        return model, guide

    def _per_datum(self, value: Tensor) -> Tensor:
        """``(replicates, *shape)`` -> ``(replicates * num_data, *shape)``, each repeated."""
        copies = value.unsqueeze(1).expand(-1, len(self.x), *value.shape[1:])
        return copies.flatten(0, 1)

    def copies(self, replicates: int) -> dict[str, Tensor]:
        """Parameters of shape (replicates, ...), each replicate's its own leaf rows."""
        return {
            name: value.detach().expand(replicates, *value.shape).clone().requires_grad_()
            for name, value in self.parameters.items()
        }

    def gradients(self, objective: Objective, replicates: int) -> dict[str, Tensor]:
        """Independent gradients of the bound summed over the data, (replicates, ...).

        Every replicate has parameters of its own, so that one backward pass gives all gradients.
        """
        parameters = self.copies(replicates)
        model, guide = self.programs(parameters)
        loss = objective.differentiable_loss(model, guide, self.x.repeat(replicates, 1))
        return ascent_direction(loss, parameters)

    def exact_elbo(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The exact ELBO summed over the data, in nats."""
        p, s = parameters, self.noise_scale
        mean = self.x @ p["guide_weight"] + p["guide_bias"]
        scale = p["guide_log_scale"].exp()
        residual = (self.x - p["bias"] - mean @ p["weight"]).square().sum(-1)
        # E |x - b - z W|^2 = |x - b - E z W|^2 + sum of the variances of z W.
        residual = residual + (scale.square() @ p["weight"].square()).sum()
        features = self.x.shape[1]
        log_likelihood = -residual / (2 * s**2) - features / 2 * math.log(2 * math.pi * s**2)
        prior = dist.Normal(p["prior_loc"], p["prior_log_scale"].exp())
        kl = torch.distributions.kl_divergence(dist.Normal(mean, scale), prior).sum(-1)
        return (log_likelihood - kl).sum()


def linear_gaussian_bench(
    objectives: Objectives,
    *,
    problem: LinearGaussianProblem | None = None,
    replicates: int = 30_000,
    reference_replicates: int | None = None,
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
        replicates: R, at least 2.
        reference_replicates: Of the reference; R if not given.
        seed: Of the draws and the bootstrap.

    Raises:
        ValueError: If there is no objective or fewer than 2 replicates.

    References:
        Rainforth et al., 2018, Tighter variational bounds are not necessarily better, section 4.
    """
    problem = LinearGaussianProblem.near_the_optimum() if problem is None else problem
    families = by_family(objectives)
    parameters = problem.copies(1)
    programs = Programs(*problem.programs(parameters))
    groups = Groups.of(programs, problem.x, parameters, most_coordinates=10**9)
    loop = Loop(*problem.programs(parameters), problem.x, groups)
    exact = groups.pick(_elbo_gradient(problem))
    return Bench(
        loop,
        replicates,
        reference_replicates,
        seed,
        sample=_sampler(problem, loop),
        exact_elbo={group: gradient[0] for group, gradient in exact.items()},
    ).run(families)


def _sampler(problem: LinearGaussianProblem, loop: Loop) -> Callable[[Objective, int], Sample]:
    def sample(objective: Objective, replicates: int) -> Sample:
        if mixes_data(problem, objective):
            return loop.sample(objective, min(replicates, 2000))
        each = problem.x.numel() * objective.num_particles
        at_once = max(1, _NUMBERS_AT_ONCE // each)
        parts = [
            loop.groups.pick(problem.gradients(objective, min(at_once, replicates - start)))
            for start in range(0, replicates, at_once)
        ]
        return {group: torch.cat([part[group] for part in parts]) for group in parts[0]}

    return sample


def mixes_data(problem: LinearGaussianProblem, objective: Objective) -> bool:
    """Whether a datum's gradient depends on the other data: tried with other data beside it."""
    found = []
    for shift in (0.0, 10.0):
        parameters = problem.copies(2)
        x = problem.x.repeat(2, 1)
        x[len(problem.x) :] += shift
        with seeded(0):
            loss = objective.differentiable_loss(*problem.programs(parameters), x)
        found.append([gradient[0] for gradient in ascent_direction(loss, parameters).values()])
    return not all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


def _elbo_gradient(problem: LinearGaussianProblem) -> dict[str, Tensor]:
    parameters = problem.copies(1)
    elbo = problem.exact_elbo({name: value[0] for name, value in parameters.items()})
    return ascent_direction(-elbo, parameters)


def _perturbed(
    true: LinearGaussian, perturbation: float, wider: float, seed: int
) -> dict[str, Tensor]:
    """The parameters of a model and its guide, some way off."""
    precision, weight = true.posterior_precision.detach(), true.weight.detach()
    gain = torch.linalg.solve(precision, weight.T / true.noise_scale**2).T
    latent = weight.shape[1]
    optimum = {
        "weight": weight.T,
        "bias": true.bias.detach(),
        "prior_loc": weight.new_zeros(latent),
        "prior_log_scale": weight.new_zeros(latent),
        "guide_weight": gain,
        "guide_bias": -true.bias.detach() @ gain,
        "guide_log_scale": -0.5 * precision.diagonal().log() + math.log(wider),
    }
    source = generator(seed)
    return {
        name: value + perturbation * torch.randn(value.shape, generator=source, dtype=value.dtype)
        for name, value in optimum.items()
    }


def _normal(loc: Tensor, scale: Tensor | float) -> dist.Distribution:
    return dist.Normal(loc, scale, validate_args=False).to_event(1)
