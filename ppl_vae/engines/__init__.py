"""Running many tasks: one after the other in this process, or on a Ray cluster."""

from ppl_vae.components import Kind
from ppl_vae.engines._progress import ProgressRow, showing_progress
from ppl_vae.engines._ray_engine import RayEngine
from ppl_vae.engines._task import Engine, InProcess, Outcome, Task

ENGINES = Kind("engine", {"in-process": InProcess, "ray": RayEngine})
"""Engines by name."""

__all__ = [
    "ENGINES",
    "Engine",
    "InProcess",
    "Outcome",
    "ProgressRow",
    "RayEngine",
    "Task",
    "showing_progress",
]
