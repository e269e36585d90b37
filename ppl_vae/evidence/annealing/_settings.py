"""What the settings of annealing may be."""

import math
from typing import Any, get_args

from ppl_vae.evidence.annealing._path import Start
from ppl_vae.evidence.annealing._pilot import Mass
from ppl_vae.evidence.annealing._schedules import Spacing

_CHOICES = {"start": get_args(Start), "spacing": get_args(Spacing), "mass": get_args(Mass)}
_COUNTS = ("num_temperatures", "num_chains", "leapfrog_steps")


def require_settings(settings: Any) -> None:
    """Check the fields of an annealed estimator.

    Raises:
        ValueError: If one is out of range.
    """
    name = type(settings).__name__
    for field in _COUNTS:
        require_count(name, field, getattr(settings, field))
    if settings.rows is not None:
        require_count(name, "rows", settings.rows)
    for field, allowed in _CHOICES.items():
        value = getattr(settings, field)
        if value not in allowed:
            raise ValueError(f"{name} takes {field} one of {', '.join(allowed)}, got {value!r}.")
    if not 0 < settings.target_acceptance < 1:
        raise ValueError(
            f"{name} needs target_acceptance between 0 and 1, got {settings.target_acceptance}."
        )
    if not 0 < settings.refreshment <= 1:
        raise ValueError(
            f"{name} needs refreshment in (0, 1], got {settings.refreshment}: 1 draws every "
            "momentum anew."
        )
    if settings.gap is not None and not (math.isfinite(settings.gap)):
        raise ValueError(f"{name} needs a finite gap or None, got {settings.gap}.")


def require_annealing(name: str, annealing: Any) -> None:
    """Check that an estimator was given an annealing, and no number.

    Raises:
        ValueError: If it was given something else.
    """
    if not hasattr(annealing, "num_temperatures"):
        raise ValueError(
            f"{name} takes an AnnealedImportanceSampling first, got {annealing!r}: write "
            f"{name}(AnnealedImportanceSampling(num_temperatures=...))."
        )


def require_count(name: str, field: str, value: int) -> None:
    """Check a whole number of things.

    Raises:
        ValueError: If it is not 1 or more.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} needs {field} >= 1 (a whole number), got {value!r}.")
