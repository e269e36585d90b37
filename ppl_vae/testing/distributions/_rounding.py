"""The rung about single precision: whether a log-density keeps its digits."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._law import density_by_feature
from ppl_vae.testing.distributions._subject import Subject, unvalidated

_DRAWS = 16
_FACTORS = (1.0, 1e3, 1e6)
"""Factors on the usual data, where the support has such values: counts of millions, other units."""
_TOLERANCE = 1e-4
"""Nats a row."""
_SAFE = 4.0
"""Factor on what rounding explains: operations come one after the other."""
_ROUNDINGS = 4


def digits(subject: Subject, seed: int) -> Answer:
    """In single precision the log-density is that of a double copy, at small and large data.

    It may differ by 1e-4 nats a row, and by what the rounding of parameters, of single features'
    log-densities and of their sum explains.
    """
    single = subject.copied(torch.float32)
    double = single.copied(torch.float64)
    with unvalidated(), same_draws(seed):
        draws = single().sample((_DRAWS,))
        for factor in _FACTORS:
            value = factor * draws
            allowed = single().support.check(value).expand(value.shape[:-1])
            if bool(allowed.any()):
                value = value.where(allowed.unsqueeze(-1), draws)
                _require_digits(single, double, value, allowed, factor, seed)
    return []


def _require_digits(
    single: Subject,
    double: Subject,
    value: Float[Tensor, "*draws features"],
    allowed: Bool[Tensor, "*draws"],
    factor: float,
    seed: int,
) -> None:
    found, wide = single().log_prob(value).double(), value.double()
    expected = double().log_prob(wide)
    rounding = torch.finfo(torch.float32).eps * _size(double, wide)
    for rounded in _rounded_otherwise(double, seed):
        change = (rounded().log_prob(wide) - expected).abs()
        rounding = torch.maximum(rounding, change)
    excess = (found - expected).abs() - _TOLERANCE - _SAFE * rounding
    # Where double precision itself has no number there is nothing to compare with.
    excess = excess.nan_to_num(nan=torch.inf).where(allowed & expected.isfinite(), -torch.inf)
    worst = int(excess.argmax())
    if float(excess.flatten()[worst]) > 0:
        a, b, c = (x.flatten()[worst].item() for x in (found, expected, _SAFE * rounding))
        raise AssertionError(
            f"log_prob in single precision, at {factor:g} times the usual data: expected {b:.8g} "
            f"as in double precision, found {a:.8g}, off by {a - b:+.2g} nats, of which rounding "
            f"explains {c:.2g}: evaluate differences of large numbers in double precision"
        )


def _size(double: Subject, value: Float[Tensor, "*draws features"]) -> Float[Tensor, "*draws"]:
    """The sum of the terms' sizes: what their rounding is relative to."""
    distribution = double()
    terms = density_by_feature(distribution, value)
    total: Tensor = distribution.log_prob(value) if terms is None else terms.abs().sum(-1)
    return total.abs()


def _rounded_otherwise(subject: Subject, seed: int) -> Iterator[Subject]:
    """Copies whose parameters and buffers have been moved by single precision's rounding."""
    epsilon = torch.finfo(torch.float32).eps
    for number in range(_ROUNDINGS):
        copied = subject.copied()
        with same_draws(derive_seed(seed, number)), torch.no_grad():
            for tensor in (*copied.module.parameters(), *copied.module.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(1 + epsilon * (2 * torch.rand_like(tensor) - 1).sign())
        yield copied
