"""Linear-Gaussian models: near the optimum, far from it, with the posterior as the guide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.randomness import generator, seeded
from ppl_vae.reference_models._replicated import (
    Parameters,
    ReferenceModel,
    ascent_direction,
    for_simulated,
    leaves_of,
    matvec,
    normal,
    one_row,
)

_WIDER = math.sqrt(4 / 3)
"""Guide's standard deviation over the posterior's, as in Rainforth et al., 2018: the weights keep
the moments that the gradients' variances need."""


@final
@dataclass(frozen=True, eq=False)
class LinearGaussianProblem:
    """z ~ Normal(m, exp(t)), x|z ~ Normal(z W + b, s^2 I), guide z|x ~ Normal(x A + c, exp(l)).

    Attributes:
        parameters: Name to value, in double precision: ``weight`` (latent, features), ``bias``,
            ``prior_loc``, ``prior_log_scale`` of the model; ``guide_weight`` (features, latent),
            ``guide_bias``, ``guide_log_scale`` of the guide.
        x: Data, shape (num_data, features).
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
        """Simulate data from a model; take parameters a Gaussian perturbation away from it.

        The columns of W are orthogonal, so that the family of the guide holds the posterior; the
        guide starts from it, its standard deviation times ``wider``.

        Args:
            features: Dimensions of x.
            latent: Dimensions of z, at most as many as x has.
            num_data: Data in the batch.
            perturbation: Standard deviation of what is added to every parameter.
            wider: Standard deviation of the guide over that of the posterior.
            seed: Seed of model, data and perturbation. At the default the weights have a variance
                below 1/5, in units of p(x)^2, so that the laws in K hold from K = 4, and the
                gradient of phi stands well out of its noise.

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
        # The factor keeps the norm of W at the root of features, whatever latent is.
        weight = torch.linalg.qr(drawn).Q * math.sqrt(features / latent)
        true = LinearGaussian(weight)
        return cls(_perturbed(true, perturbation, wider, seed), true.simulate(num_data, seed=seed))

    def programs(
        self, parameters: Parameters, subsample: Tensor | None = None
    ) -> tuple[Program, Program]:
        """Make model and guide at parameters of shape (replicates, ...), for as many copies of x.

        Args:
            parameters: Parameters; those of a single replicate are shared by all data.
            subsample: Rows that the plate holds; all if not given.
        """

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), subsample=subsample):
                x = x if subsample is None else x[subsample]
                p = self._per_datum(parameters, len(x))
                z = pyro.sample("z", _normal(p["prior_loc"], p["prior_log_scale"].exp()))
                loc = torch.einsum("...bl,blf->...bf", z, p["weight"]) + p["bias"]
                pyro.sample("x", _normal(loc, self.noise_scale), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x), subsample=subsample):
                x = x if subsample is None else x[subsample]
                p = self._per_datum(parameters, len(x))
                loc = torch.einsum("bf,bfl->bl", x, p["guide_weight"]) + p["guide_bias"]
                pyro.sample("z", _normal(loc, p["guide_log_scale"].exp()))

        return model, guide

    def _per_datum(self, parameters: Parameters, count: int) -> Parameters:
        """Expand ``(replicates, *shape)`` to ``(count, *shape)``, by each datum's replicate."""

        def repeated(value: Tensor) -> Tensor:
            if len(value) == 1:
                return value.expand(count, *value.shape[1:])
            copies = value.unsqueeze(1).expand(-1, len(self.x), *value.shape[1:]).flatten(0, 1)
            # Simulated data come as many times as there are particles, in the order of the data.
            return torch.cat([copies] * (count // len(copies)))

        return {name: repeated(value) for name, value in parameters.items()}

    def copies(self, replicates: int) -> Parameters:
        """Copy the parameters to shape (replicates, ...), a leaf row for each replicate."""
        return leaves_of({n: v.expand(replicates, *v.shape) for n, v in self.parameters.items()})

    def gradients(self, objective: Objective, replicates: int) -> Parameters:
        """Compute independent gradients of the bound summed over the data, (replicates, ...).

        Every replicate has parameters of its own, so that one backward pass gives all gradients.
        """
        parameters = self.copies(replicates)
        model, guide = self.programs(parameters)
        loss = objective.differentiable_loss(model, guide, self.x.repeat(replicates, 1))
        return ascent_direction(loss, parameters)

    def exact_gradients(self) -> Parameters:
        """Compute the gradient of the exact ELBO summed over the data, (1, ...)."""
        parameters = self.copies(1)
        elbo = self.exact_elbo({name: value[0] for name, value in parameters.items()})
        return ascent_direction(-elbo, parameters)

    def mixes_data(self, objective: Objective) -> bool:
        """Try whether a datum's gradient changes with the data beside it."""
        found = []
        for shift in (0.0, 10.0):
            parameters, x = self.copies(2), self.x.repeat(2, 1)
            # Only the second copy moves: gradients of the first are compared, on the same draws.
            x[len(self.x) :] += shift
            with seeded(0):
                loss = objective.differentiable_loss(*self.programs(parameters), x)
            found.append([value[0] for value in ascent_direction(loss, parameters).values()])
        return not all(torch.allclose(a, b) for a, b in zip(*found, strict=True))

    def exact_elbo(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Compute the exact ELBO summed over the data, in nats."""
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


def _perturbed(
    true: LinearGaussian, perturbation: float, wider: float, seed: int
) -> dict[str, Tensor]:
    """Perturb the parameters of a model and of its best guide."""
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
        # Orthogonal columns of W make the precision diagonal.
        "guide_log_scale": -0.5 * precision.diagonal().log() + math.log(wider),
    }
    source = generator(seed)
    return {
        name: value + perturbation * torch.randn(value.shape, generator=source, dtype=value.dtype)
        for name, value in optimum.items()
    }


def _normal(loc: Tensor, scale: Tensor | float) -> dist.Distribution:
    return dist.Normal(loc, scale, validate_args=False).to_event(1)


def one_layer(batch: int = 1, subsample: Tensor | None = None) -> ReferenceModel:
    """Make a learned linear-Gaussian model at hand-picked values, its guide not the best one."""
    angle = torch.arange(batch, dtype=torch.float64)
    parameters = one_row(
        weight=[[0.8, 0.4], [-0.3, 0.6]],
        bias=[0.1, -0.2],
        prior_loc=[0.3, -0.2],
        prior_log_scale=[0.1, -0.2],
        guide_weight=[[0.3, 0.1], [-0.1, 0.2]],
        guide_bias=[0.2, -0.4],
        guide_log_scale=[-0.4, -0.1],
    )
    problem = LinearGaussianProblem(
        {name: value[0] for name, value in parameters.items()},
        torch.stack([0.9 * torch.cos(angle), 0.6 - 0.8 * torch.sin(angle)], -1),
    )
    programs = partial(problem.programs, subsample=subsample)
    return ReferenceModel("one layer", programs, parameters, problem.x)


_MODEL = LinearGaussian.random(3, 1, 0.7, seed=2)


def exact(batch: int, *, shift: float = 0.0, wider: float = 1.0) -> ReferenceModel:
    """Make the linear-Gaussian model of one latent, whose guide is the posterior by default.

    The guide's mean is off by ``shift``, in units of the posterior's scale, and its scale is larger
    by a factor of ``wider``. Only the guide has parameters.
    """
    weight, bias, noise = _MODEL.weight.detach(), _MODEL.bias.detach(), _MODEL.noise_scale
    scale = _MODEL.posterior_precision.detach()[0].rsqrt()
    gain = weight.T * scale**2 / noise**2
    parameters = {
        "gain": gain.unsqueeze(0),
        "offset": (shift * scale - gain @ bias).unsqueeze(0),
        "log_scale": (wider * scale).log().unsqueeze(0),
    }

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", _MODEL.prior())
                pyro.sample("x", dist.Normal(z @ weight.T + bias, noise).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            q = for_simulated(p, x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(matvec(q["gain"], x) + q["offset"], q["log_scale"]))

        return model, guide

    x = _MODEL.simulate(batch, seed=3)
    return ReferenceModel("one layer", programs, parameters, x, _MODEL.log_evidence(x).detach())
