"""The rung about cells of the data that are missing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.testing._comparison import Answer, same
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._contract import require_finite
from ppl_vae.testing.distributions._law import density_by_feature
from ppl_vae.testing.distributions._subject import Subject

_REMEDY = (
    "NaN in the data: expected a ValueError or a NaN, found a finite density: refuse NaN, or say "
    "that cells may be missing: accepts_missing = True in a likelihood's distribution, "
    "check_guide(..., missing=True) of a guide"
)


def missing_values(subject: Subject, seed: int) -> Answer:
    """A NaN in the data is refused, or its cell left out where that is said."""
    with same_draws(seed), torch.no_grad():
        if subject.part == "guide":
            return _incomplete_rows(subject)
        found = subject()
        x = found.sample()
        if getattr(found, "accepts_missing", False):
            return _left_out(found, x)
        if _takes(lambda: found.log_prob(_with_a_hole(x))):
            raise AssertionError(_REMEDY)
    return []


def _incomplete_rows(subject: Subject) -> Answer:
    """A guide is finite, or refuses."""
    holed = _with_a_hole(subject.rows)

    def log_prob() -> Tensor:
        found = subject(holed)
        density: Tensor = found.log_prob(found.sample())
        return density

    if subject.missing:
        require_finite("log q(z|x) with a missing cell", log_prob())
    elif _takes(log_prob):
        raise AssertionError(_REMEDY)
    return []


def _with_a_hole(x: Tensor) -> Tensor:
    holed = x.clone()
    holed[0, 0] = torch.nan
    return holed


def _takes(density: Callable[[], Tensor]) -> bool:
    try:
        return bool(density().isfinite().all())
    except (ValueError, RuntimeError):
        return False


def _left_out(found: Any, x: Tensor) -> Answer:
    """The log-density of a likelihood is that of the other cells."""
    densities = density_by_feature(found, x)
    if densities is None:
        raise AssertionError("accepts_missing: expected feature_log_prob(x), found no such method")
    expected = densities.sum(-1)
    expected[0] = expected[0] - densities[0, 0]
    what = "log p(x|z) with a missing cell"
    return [same(what, found.log_prob(_with_a_hole(x)), expected)]
