"""What every answer of an estimator has to look like."""

import math
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from ppl_vae.evidence import Direction, Evidence

_ALWAYS = ("log_prob", "standard_error", "effective_sample_size")
_SOMETIMES = ("pareto_k", "tail_share", "rounding", "evaluations")
_FINITE = (*_ALWAYS, "evaluations")
_SLACK = 1e-6
"""Tolerance of an effective sample size, which is computed with rounding."""


def require_evidence(evidence: Evidence, x: Tensor, wall_clock: float) -> None:
    """Check the form of a result and the plain numbers in it.

    Args:
        evidence: The result.
        x: The data it is for.
        wall_clock: Seconds that the call took.

    Raises:
        AssertionError: At the first thing that is wrong, with what was expected and found.
    """
    if not isinstance(evidence, Evidence):
        raise AssertionError(f"expected an Evidence, found {type(evidence).__name__}")
    for name in (*_ALWAYS, *_SOMETIMES):
        value = getattr(evidence, name)
        if value is not None or name in _ALWAYS:
            _require_values(name, value, x)
    for what, expected, found, holds in _numbers(evidence, wall_clock):
        if not holds:
            raise AssertionError(f"{what}: expected {expected}, found {found}")


def _require_values(name: str, value: Tensor, x: Tensor) -> None:
    """One number for each datum, as they are passed on: in double precision, on the CPU."""
    if not isinstance(value, Tensor):
        raise AssertionError(f"{name}: expected a tensor, found {type(value).__name__}")
    if value.shape != x.shape[:1]:
        raise AssertionError(
            f"{name}: expected one value for each datum, shape {tuple(x.shape[:1])}, found shape "
            f"{tuple(value.shape)}"
        )
    if value.dtype != torch.float64 or value.device.type != "cpu":
        raise AssertionError(
            f"{name}: expected torch.float64 on cpu, found {value.dtype} on {value.device}"
        )
    if value.requires_grad:
        raise AssertionError(f"{name}: expected no autograd graph, found requires_grad=True")
    if name in _FINITE and not bool(value.isfinite().all()):
        wrong = int((~value.isfinite()).nonzero()[0])
        raise AssertionError(
            f"{name}: expected finite numbers, found {value[wrong].item()} for datum {wrong}"
        )


def _numbers(evidence: Evidence, wall_clock: float) -> Iterator[tuple[str, str, object, bool]]:
    """What, expected, found, and whether it holds."""
    count, error = evidence.num_particles, evidence.standard_error.min().item()
    whole = isinstance(count, int) and count >= 1
    yield "num_particles", "a whole number of 1 or more", repr(count), whole
    yield "standard_error", "0 or more", error, error >= 0
    low, high = (bound.item() for bound in evidence.effective_sample_size.aminmax())
    yield "effective_sample_size", "1 or more", low, low >= 1 - _SLACK
    most = f"at most num_particles, {count}"
    yield "effective_sample_size", most, high, high <= count * (1 + _SLACK)
    if evidence.evaluations is not None:
        fewest = evidence.evaluations.min().item()
        yield "evaluations", "1 or more for each datum", fewest, fewest >= 1
    directions = get_args(Direction)
    known = evidence.direction in directions
    yield "direction", f"one of {', '.join(directions)}", repr(evidence.direction), known
    named = isinstance(evidence.method, str) and bool(evidence.method.strip())
    yield "method", "the estimator's name", repr(evidence.method), named
    seconds = evidence.seconds
    taken = 0 < seconds <= wall_clock and math.isfinite(seconds)
    yield "seconds", f"those of the call, at most {wall_clock:.3g}", seconds, taken
