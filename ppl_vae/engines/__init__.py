"""Running many tasks: one after the other in this process, or on a Ray cluster."""

from ppl_vae.engines._progress import ProgressRow, showing_progress
from ppl_vae.engines._ray_engine import RayEngine
from ppl_vae.engines._resources import ENGINES, Resources
from ppl_vae.engines._task import Engine, InProcess, Outcome, Task

__all__ = [
    "ENGINES",
    "Engine",
    "InProcess",
    "Outcome",
    "ProgressRow",
    "RayEngine",
    "Resources",
    "Task",
    "showing_progress",
]
