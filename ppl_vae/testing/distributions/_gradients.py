"""The rungs about derivatives: of densities, and of draws that are functions of parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor
from torch.distributions import biject_to, identity_transform

from ppl_vae.randomness import derive_seed, generator
from ppl_vae.testing._comparison import Answer, Discrepancy
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._contract import require_finite, same_draws_of
from ppl_vae.testing.distributions._law import law_of
from ppl_vae.testing.distributions._subject import Subject, unvalidated

_STEP = 6e-6
_ROUNDINGS = 30
_REPLICATES, _DRAWS = 40, 100
_FEW = 4

_Parameters = Mapping[str, Tensor]


def parameters_of(subject: Subject) -> dict[str, Tensor]:
    """Name to those that ask for gradients."""
    return {n: p for n, p in subject.module.named_parameters() if p.requires_grad}


def gradients(subject: Subject, seed: int) -> Answer:
    """Every parameter gets a gradient from the density or the draws, and the density's is right."""
    parameters = parameters_of(subject)
    ways = _both_ways(subject, parameters, seed)
    missing = [name for name in parameters if all(way[name] is None for way in ways)]
    if missing:
        raise AssertionError(
            f"expected a gradient for every parameter, found none for {', '.join(missing)}: look "
            "for detach, no_grad, .data, .item(), or a parameter that nothing reads"
        )
    for way in ways:
        for name, gradient in way.items():
            if gradient is not None:
                require_finite(f"gradient of {name}", gradient)
    with same_draws(seed), unvalidated():
        value = subject().sample((_FEW,))
    comparisons = _by_parameters(subject, parameters, value, seed)
    transform = _coordinates(subject)
    if transform is not None:
        comparisons.append(_by_value(subject, value, transform, seed))
    return comparisons


def _coordinates(subject: Subject) -> Any:
    """From where a value can take a small step to its support; None of discrete values."""
    law = law_of(subject, 0)
    with same_draws(0):
        space = law.space
    if space == "free":
        return biject_to(law.support)
    return identity_transform if space == "sphere" else None


def _both_ways(
    subject: Subject, parameters: _Parameters, seed: int
) -> list[dict[str, Tensor | None]]:
    """The gradients by way of the density and of the draws; None where there is no such way."""
    with same_draws(seed):
        found = subject()
        values = [found.log_prob(found.sample((_FEW,)).detach()).sum()]
        if found.has_rsample:
            values.append(subject().rsample((_FEW,)).sin().sum())
    return [_ways(value, parameters) for value in values]


def _ways(value: Tensor, parameters: _Parameters) -> dict[str, Tensor | None]:
    if not (parameters and value.requires_grad):
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def gradients_of(value: Tensor, parameters: _Parameters) -> dict[str, Tensor]:
    """Derivatives; 0 where there is no way from a parameter to the value."""
    return {
        name: torch.zeros_like(parameters[name]) if gradient is None else gradient
        for name, gradient in _ways(value, parameters).items()
    }


def _directions(parameters: _Parameters, seed: int) -> dict[str, Tensor]:
    """A random direction of length 1 in each parameter."""
    source = generator(seed)
    noise = {
        name: torch.randn(p.shape, generator=source, dtype=torch.float64).to(p)
        for name, p in parameters.items()
    }
    return {name: v / v.norm().clamp(min=1e-12) for name, v in noise.items()}


def _by_parameters(
    subject: Subject, parameters: _Parameters, value: Tensor, seed: int
) -> list[Discrepancy]:
    """The density's gradient along a direction of each parameter is a difference quotient."""

    def log_prob() -> Tensor:
        total: Tensor = subject().log_prob(value).mean()
        return total

    found = gradients_of(log_prob(), parameters)
    comparisons = []
    for name, direction in _directions(parameters, seed).items():
        along = (found[name] * direction).sum().item()
        quotient = _difference(log_prob, parameters[name], direction)
        comparisons.append(_alike(f"derivative of log_prob by {name}", along, *quotient))
    return comparisons


def _by_value(subject: Subject, value: Tensor, transform: Any, seed: int) -> Discrepancy:
    """The same for the value, by unconstrained coordinates of the support."""
    point = transform.inv(value).requires_grad_()

    def log_prob() -> Tensor:
        total: Tensor = subject().log_prob(transform(point)).mean()
        return total

    (gradient,) = torch.autograd.grad(log_prob(), point, allow_unused=True, materialize_grads=True)
    (direction,) = _directions({"value": point}, derive_seed(seed, 1)).values()
    quotient = _difference(log_prob, point, direction)
    along = (gradient * direction).sum().item()
    return _alike("derivative of log_prob by its value", along, *quotient)


def _difference(value: Callable[[], Tensor], at: Tensor, direction: Tensor) -> tuple[float, float]:
    """A central difference, and what rounding may make of it."""
    with unvalidated():
        start = at.detach().clone()
        ends = []
        for sign in (1, -1):
            at.copy_(start + sign * _STEP * direction)
            ends.append(value().item())
        at.copy_(start)
    size = max(abs(end) for end in ends) + 1
    rounding = _ROUNDINGS * torch.finfo(torch.float64).eps * size / _STEP
    return (ends[0] - ends[1]) / (2 * _STEP), rounding


def _alike(what: str, found: float, expected: float, rounding: float) -> Discrepancy:
    return Discrepancy(f"{what} against a difference quotient", found, expected, rounding)


def pathwise(subject: Subject, seed: int) -> Answer:
    """Draws that carry a gradient are of the same law, and theirs is that of the expectation."""
    with same_draws(seed):
        found = subject()
        if found.sample().requires_grad:
            raise AssertionError("sample(): expected draws without a gradient, found requires_grad")
        if not found.has_rsample:
            return "not claimed"
        if found.support.is_discrete:
            raise AssertionError("has_rsample: expected False of a discrete law, found True")
        comparisons = _same_law(subject, seed)
    parameters = parameters_of(subject)
    return comparisons + (_same_derivative(subject, parameters, seed) if parameters else [])


def _same_law(subject: Subject, seed: int) -> list[Discrepancy]:
    law = law_of(subject, 0)
    count = _REPLICATES * _DRAWS
    with unvalidated(), same_draws(derive_seed(seed, 1)):
        others = subject.row(0).rsample((count,)).reshape(count, -1)
        draws, placing = law.draw(count), law.draw(count)
    return same_draws_of(
        law, placing, draws, others, "draws of rsample() against sample(), mean of"
    )


def _same_derivative(subject: Subject, parameters: _Parameters, seed: int) -> list[Discrepancy]:
    """``E d f(z) / d theta = E f(z) d log p(z) / d theta`` for a bounded f, by replicates."""
    directions = _directions(parameters, seed)
    wave = _wave(subject, seed)
    with same_draws(derive_seed(seed, 2)):
        rows = [_replicate(subject, parameters, directions, wave) for _ in range(_REPLICATES)]
    return [
        _zero_mean(f"pathwise derivative by {name}", [row[name] for row in rows])
        for name in parameters
    ]


def _replicate(
    subject: Subject,
    parameters: _Parameters,
    directions: _Parameters,
    wave: Callable[[Any], Tensor],
) -> dict[str, float]:
    """Difference of the two derivatives, along each direction."""
    found = subject()
    draws = found.rsample((_DRAWS,))
    values = wave(draws)
    fixed = values.detach()
    # Leaving out the draw itself, the mean of the others is independent of it.
    baseline = (fixed.sum(0) - fixed) / (_DRAWS - 1)
    by_score = (fixed - baseline) * found.log_prob(draws.detach())
    gradient = gradients_of((values - by_score).mean(0).sum(), parameters)
    return {name: (gradient[name] * d).sum().item() for name, d in directions.items()}


def _wave(subject: Subject, seed: int) -> Callable[[Any], Tensor]:
    """A bounded function of a draw, in units of the draws."""
    with same_draws(seed), unvalidated():
        draws = subject().sample((_DRAWS,)).flatten(0, -2)
    scale = torch.quantile((draws - draws.median(0).values).abs(), 0.7, dim=0).clamp(min=1e-6)
    source = generator(seed)
    direction = torch.randn(draws.shape[-1], generator=source).to(draws)
    direction = direction / direction.norm() / scale
    centre = (draws.median(0).values * direction).sum()
    return lambda value: ((value * direction).sum(-1) - centre + 0.6).sin()


def _zero_mean(what: str, values: list[float]) -> Discrepancy:
    """That the mean of a few independent, nearly normal values is 0: by Student's t."""
    found = torch.tensor(values, dtype=torch.float64)
    count, error = len(values), float(found.std()) / math.sqrt(len(values))
    mean = float(found.mean())
    t = abs(mean) / error if error > 0 else (math.inf if mean else 0.0)
    z = float(-norm.ppf(student.sf(t, count - 1)))
    return Discrepancy(
        f"{what}, less that by the score", mean, 0.0, abs(mean) / z if z > 0 else error
    )
