"""Rungs that check derivatives: of densities, and of draws as functions of parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor
from torch.distributions import biject_to, identity_transform

from ppl_vae.randomness import derive_seed, generator
from ppl_vae.reference_models import ascent_direction, same_draws
from ppl_vae.testing._comparison import Answer, Discrepancy
from ppl_vae.testing._identities import require_gradient
from ppl_vae.testing.distributions._contract import require_finite, same_draws_of
from ppl_vae.testing.distributions._module_case import ModuleCase, unvalidated
from ppl_vae.testing.distributions._target import target_of

_REPLICATES, _DRAWS = 40, 100
_FEW = 4

_Parameters = Mapping[str, Tensor]


def parameters_of(case: ModuleCase) -> dict[str, Tensor]:
    """Map names to the parameters that require a gradient."""
    return {n: p for n, p in case.module.named_parameters() if p.requires_grad}


def gradients(case: ModuleCase, seed: int) -> Answer:
    """Check that every parameter gets a gradient, and that the density's is right."""
    parameters = parameters_of(case)
    with same_draws(seed):
        distribution = case()
        totals = [distribution.log_prob(distribution.sample((_FEW,)).detach()).sum()]
        if distribution.has_rsample:
            # A fresh distribution: backward through one whose graph is used up would raise.
            totals.append(case().rsample((_FEW,)).sin().sum())
    # By way of the density and of the draws; None where a parameter has no part in it.
    by_way = [_gradients_by(total, parameters) for total in totals]
    missing = [name for name in parameters if all(found[name] is None for found in by_way)]
    if missing:
        raise AssertionError(
            f"expected a gradient for every parameter, found none for {', '.join(missing)}: look "
            "for detach, no_grad, .data, .item(), or a parameter that nothing reads"
        )
    for found in by_way:
        for name, gradient in found.items():
            if gradient is not None:
                require_finite(f"gradient of {name}", gradient)
    _require_derivatives(case, parameters, seed)
    return []


def _gradients_by(value: Tensor, parameters: _Parameters) -> dict[str, Tensor | None]:
    if not (parameters and value.requires_grad):
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def _require_derivatives(case: ModuleCase, parameters: _Parameters, seed: int) -> None:
    """Check the density's gradient by each parameter, and by a value where it can move."""
    with same_draws(seed), unvalidated():
        value = case().sample((_FEW,))

    def log_prob(_: Tensor) -> Tensor:
        total: Tensor = case().log_prob(value).mean()
        return total

    # A difference quotient may step outside of the support.
    with pyro.validation_enabled(False):
        for name, parameter in parameters.items():
            # gradcheck moves the parameter itself, in place.
            require_gradient(f"log_prob by {name}", log_prob, parameter)
        target = target_of(case, 0)
        with same_draws(0):
            space = target.space
        if space not in ("free", "sphere"):
            return
        # Unconstrained coordinates, in which a small step stays inside of the support.
        transform = biject_to(target.support) if space == "free" else identity_transform
        point = transform.inv(value).requires_grad_()
        require_gradient(
            "log_prob by its value", lambda u: case().log_prob(transform(u)).mean(), point
        )


def _directions(parameters: _Parameters, seed: int) -> dict[str, Tensor]:
    """Draw a random direction of length 1 in each parameter."""
    source = generator(seed)
    noise = {
        name: torch.randn(p.shape, generator=source, dtype=torch.float64).to(p)
        for name, p in parameters.items()
    }
    return {name: v / v.norm().clamp(min=1e-12) for name, v in noise.items()}


def pathwise(case: ModuleCase, seed: int) -> Answer:
    """Check that reparameterised draws are of the same target, and that their gradient is right."""
    with same_draws(seed):
        found = case()
        if found.sample().requires_grad:
            raise AssertionError("sample(): expected draws without a gradient, found requires_grad")
        if not found.has_rsample:
            return "not claimed"
        if found.support.is_discrete:
            raise AssertionError("has_rsample: expected False of a discrete target, found True")
        # rsample may be code of its own, apart from sample.
        comparisons = _same_distribution(case, seed)
    parameters = parameters_of(case)
    return comparisons + (_same_derivative(case, parameters, seed) if parameters else [])


def _same_distribution(case: ModuleCase, seed: int) -> list[Discrepancy]:
    target = target_of(case, 0)
    count = _REPLICATES * _DRAWS
    with unvalidated(), same_draws(derive_seed(seed, 1)):
        others = case.row(0).rsample((count,)).reshape(count, -1)
        draws, placing = target.draw(count), target.draw(count)
    return same_draws_of(
        target, placing, draws, others, "draws of rsample() against sample(), mean of"
    )


def _same_derivative(case: ModuleCase, parameters: _Parameters, seed: int) -> list[Discrepancy]:
    """``E d f(z) / d theta = E f(z) d log p(z) / d theta`` for a bounded f, by replicates."""
    directions = _directions(parameters, seed)
    wave = _wave(case, seed)
    with same_draws(derive_seed(seed, 2)):
        rows = [_replicate(case, parameters, directions, wave) for _ in range(_REPLICATES)]
    return [
        _zero_mean(f"pathwise derivative by {name}", [row[name] for row in rows])
        for name in parameters
    ]


def _replicate(
    case: ModuleCase,
    parameters: _Parameters,
    directions: _Parameters,
    wave: Callable[[Any], Tensor],
) -> dict[str, float]:
    """Compute the difference of the two derivatives, along each direction."""
    found = case()
    draws = found.rsample((_DRAWS,))
    values = wave(draws)
    fixed = values.detach()
    # Leaving out the draw itself, the mean of the others is independent of it.
    baseline = (fixed.sum(0) - fixed) / (_DRAWS - 1)
    by_score = (fixed - baseline) * found.log_prob(draws.detach())
    # The same draws in both: their difference has less noise, and one backward pass is enough.
    gradient = ascent_direction(-(values - by_score).mean(0).sum(), parameters)
    return {name: (gradient[name] * d).sum().item() for name, d in directions.items()}


def _wave(case: ModuleCase, seed: int) -> Callable[[Any], Tensor]:
    """Choose a bounded function of a draw, in units of the draws."""
    with same_draws(seed), unvalidated():
        draws = case().sample((_DRAWS,)).flatten(0, -2)
    # A quantile, since heavy tails may have no standard deviation; not 0 for a constant.
    scale = torch.quantile((draws - draws.median(0).values).abs(), 0.7, dim=0).clamp(min=1e-6)
    source = generator(seed)
    direction = torch.randn(draws.shape[-1], generator=source).to(draws)
    direction = direction / direction.norm() / scale
    centre = (draws.median(0).values * direction).sum()
    return lambda value: ((value * direction).sum(-1) - centre + 0.6).sin()


def _zero_mean(what: str, values: list[float]) -> Discrepancy:
    """Compare the mean of a few independent, nearly normal values with 0, by Student's t."""
    found = torch.tensor(values, dtype=torch.float64)
    count, error = len(values), float(found.std()) / math.sqrt(len(values))
    mean = float(found.mean())
    t = abs(mean) / error if error > 0 else (math.inf if mean else 0.0)
    # As a z-score with the same p-value, so that one limit holds for all comparisons.
    z = float(-norm.ppf(student.sf(t, count - 1)))
    return Discrepancy(
        f"{what}, less that by the score", mean, 0.0, abs(mean) / z if z > 0 else error
    )
