"""Engines by name, and what one piece of work takes of a machine."""

from dataclasses import dataclass
from typing import Literal, final

from ppl_vae.components import Kind
from ppl_vae.engines._ray_engine import RayEngine
from ppl_vae.engines._task import Engine, InProcess

ENGINES = Kind("engine", {"in-process": InProcess, "ray": RayEngine})
"""Engines by name."""


@final
@dataclass(frozen=True)
class Resources:
    """Processors for one piece of work: a cell of a study, a part of an evaluation.

    Attributes:
        cpus: Threads of a piece of work, and cores that it takes on Ray; None: all here, 1 on Ray.
        gpus: GPUs that a piece of work takes on Ray; 0.25 puts four on one.
    """

    cpus: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise ValueError(f"resources: cpus must be 1 or more, got {self.cpus}.")
        if self.gpus < 0:
            raise ValueError(f"resources: gpus must be 0 or more, got {self.gpus}.")

    def engine(
        self, name: Literal["in-process", "ray"] = "in-process", address: str | None = None
    ) -> Engine:
        """The engine of this name, for pieces of work that take these resources.

        Args:
            name: Engine: one piece of work after the other here (in-process), or as many at once as
                a Ray cluster has room for (ray).
            address: Address of a Ray cluster as HOST:PORT, or auto for the one of this machine;
                None: start one here.

        Raises:
            ValueError: If the name is unknown, or an address is given to what has none.
            ImportError: If Ray is asked for and not installed.
        """
        build = ENGINES.resolve(name)
        if build is RayEngine:
            # On a cluster every task claims cores, so that None cannot mean all of them.
            return RayEngine(address, cpus=self.cpus or 1, gpus=self.gpus)
        if address is not None:
            raise ValueError('an address belongs to engine="ray".')
        return InProcess(cpus=self.cpus)
