"""The arms of a comparison: every combination of the levels of its factors."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, final

from ppl_vae.names import require_known
from ppl_vae.runs import RunConfig
from ppl_vae.settings import settings_of

_SPEAKING = ("objective", "prior", "likelihood", "guide", "network")
"""Factors whose levels say by themselves what they are."""

_SHARED = {
    "data": "differences are paired by datum: plan a study for each data set",
    "seed": "seeds are not levels: give them as seeds",
}
"""Settings that arms of one study cannot differ in, and what to do instead."""

_LONGEST = 80


@final
@dataclass(frozen=True)
class Arm:
    """One combination of levels.

    Attributes:
        config: The settings of its runs.
        levels: Factor to the label of its level.
    """

    config: RunConfig
    levels: dict[str, str]


def build_arms(config: RunConfig, factors: Mapping[str, Sequence[Any]]) -> dict[str, Arm]:
    """Label to arm, for each combination of the levels; all names are checked.

    A label names what varies: ``iwae:50`` where only the objective does, ``iwae:50 vamp:50`` where
    the prior does too, ``learning_rate=0.01``.

    Args:
        config: Settings that all arms share.
        factors: Setting to its levels, one or more.

    Raises:
        ValueError: If a name is wrong, or a level is there twice.
    """
    for factor, values in factors.items():
        _check_factor(factor, values)
    varying = [factor for factor, values in factors.items() if len(values) > 1] or ["objective"]
    arms: dict[str, Arm] = {}
    for combination in product(*factors.values()):
        chosen = dict(zip(factors, combination, strict=True))
        arm = config.changed(**chosen)
        # Called for its errors: a wrong name is found before any cell is trained.
        arm.build_objective()
        # The value as it is kept, so that levels written in two ways are found to be the same.
        given = arm.values()
        label = " ".join(_label(factor, given[factor]) for factor in varying)
        if label in arms:
            raise ValueError(f"arms must differ, got {label} twice.")
        arms[label] = Arm(arm, {name: level_label(value) for name, value in chosen.items()})
    return arms


def _check_factor(factor: str, values: Sequence[Any]) -> None:
    require_known("factor", factor, settings_of(RunConfig))
    if factor in _SHARED:
        raise ValueError(f"{factor} cannot be a factor: {_SHARED[factor]}.")
    if not values:
        raise ValueError(f"factor {factor} needs a level or more, got none.")


def _label(factor: str, value: Any) -> str:
    text = level_label(value)
    return text if factor in _SPEAKING else f"{factor}={text}"


def level_label(value: Any) -> str:
    """Label of a level in tables."""
    if isinstance(value, Mapping) and "class_path" in value:
        name = re.split(r"[.:]", str(value.get("class_path")))[-1]
        given = (value.get("init_args") or {}).items()
        return f"{name}:{','.join(f'{key}={entry}' for key, entry in given)}" if given else name
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def folder_name(label: str, seed: int) -> str:
    """A cell's folder: the label with ``-`` for colons and spaces.

    A label that is long, or holds what a file system may not take, is cut and gets its hash.
    """
    plain = label.replace(":", "-").replace(" ", "-")
    name = re.sub(r"[^A-Za-z0-9_.+,=-]", "-", plain)
    if name != plain or len(name) > _LONGEST:
        # A cut or changed label might equal another's: the hash keeps their folders apart.
        name = f"{name[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{name}-seed{seed}"
