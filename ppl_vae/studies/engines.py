"""Engines by their names."""

from ppl_vae.engines import Engine, InProcess, RayEngine
from ppl_vae.runs.naming import require_known
from ppl_vae.studies.plan import Resources


def build_engine(name: str, resources: Resources, address: str | None = None) -> Engine:
    """The engine called ``in-process`` or ``ray``, for cells that take these resources.

    Raises:
        ValueError: If the name is unknown, or an address is given to what has none.
        ImportError: If Ray is asked for and not installed.
    """
    require_known("engine", name, ("in-process", "ray"))
    if name == "ray":
        return RayEngine(address, cpus=resources.cpus or 1, gpus=resources.gpus)
    if address is not None:
        raise ValueError('an address belongs to engine="ray".')
    return InProcess(cpus=resources.cpus)
