"""Training and evaluation mode of the modules that programs belong to."""

from collections.abc import Iterator
from contextlib import contextmanager

from ppl_vae.objectives.base import owners_of
from ppl_vae.particles import Program


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Evaluation mode: looking at the programs must not move the statistics of a batch norm."""
    modules = [module for owner in owners_of(*programs) for module in owner.modules()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
