"""The arms of a comparison: every combination of the levels of its factors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from ppl_vae.runs.config import RunConfig
from ppl_vae.runs.parts import PartSpec

FACTORS = ("objective", "prior", "guide", "network")
"""Settings that a comparison may vary: models of the same data, in the same units."""


def build_arms(config: RunConfig, levels: Mapping[str, Sequence[PartSpec]]) -> dict[str, RunConfig]:
    """Label to configuration, for each combination of the levels; all names are checked.

    A label names what varies: ``iwae:50`` where only the objective does, ``iwae:50 vamp:50`` where
    the prior does too.

    Args:
        config: What all arms share.
        levels: Of each factor in :data:`FACTORS`, one or more.

    Raises:
        ValueError: If a name is wrong, or a level is there twice.
    """
    varying = [name for name, values in levels.items() if len(values) > 1]
    named = varying or ["objective"]
    arms: dict[str, RunConfig] = {}
    for combination in product(*levels.values()):
        chosen: dict[str, Any] = dict(zip(levels, combination, strict=True))
        arm = replace(config, **chosen)
        arm.objects()
        label = " ".join(_label(getattr(arm, name)) for name in named)
        if label in arms:
            raise ValueError(f"arms must differ, got {label} twice.")
        arms[label] = arm
    return arms


def _label(spec: PartSpec) -> str:
    if isinstance(spec, str):
        return spec
    name = re.split(r"[.:]", str(spec.get("class_path")))[-1]
    values = ",".join(f"{key}={value}" for key, value in (spec.get("init_args") or {}).items())
    return f"{name}:{values}" if values else name


def folder_name(label: str, seed: int) -> str:
    """A cell's folder: the label with whatever a file system may not take as ``-``."""
    return f"{re.sub(r'[^A-Za-z0-9_.+,=-]', '-', label)}-seed{seed}"
