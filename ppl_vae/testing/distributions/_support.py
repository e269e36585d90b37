"""The rung about where a distribution lives."""

from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.testing._comparison import Answer
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._subject import Subject

_DRAWS = 500
_ELSEWHERE = (-1e3, -1.0, -0.25, 0.5, 1.5, 2.5, 1e3)


def support(subject: Subject, seed: int) -> Answer:
    """Draws are inside; outside, the log-density raises a ValueError or is -inf."""
    with pyro.validation_enabled(True), torch.no_grad():
        found = subject()
        with same_draws(seed):
            draws = found.sample((_DRAWS,))
        inside = found.support.check(draws)
        if not bool(inside.all()):
            example = draws[~inside.expand(draws.shape[: inside.dim()])][0]
            raise AssertionError(f"draws: expected all in {found.support}, found {_shown(example)}")
        for value in _strangers(found, draws[0]):
            _require_refused(found, value)
    return []


def _strangers(found: Any, draw: Tensor) -> list[Tensor]:
    """Draws with one coordinate elsewhere, or all of them, that are outside of the support."""
    values = []
    for elsewhere in _ELSEWHERE:
        one = draw.clone()
        one[..., 0] = elsewhere
        values += [one, torch.full_like(draw, elsewhere)]
    return [value for value in values if not bool(found.support.check(value).any())]


def _require_refused(found: Any, value: Tensor) -> None:
    try:
        log_prob = found.log_prob(value)
    except ValueError:
        return
    if not bool((log_prob == -torch.inf).all()):
        example = value.reshape(-1, value.shape[-1])[0]
        raise AssertionError(
            f"log_prob outside of {found.support}: expected a ValueError, or -inf, found "
            f"{log_prob.flatten()[0].item():.4g} at {_shown(example)}"
        )


def _shown(vector: Tensor) -> str:
    shown = ", ".join(f"{v:.4g}" for v in vector.flatten()[:4].tolist())
    return f"({shown}{', ...' if vector.numel() > 4 else ''})"
