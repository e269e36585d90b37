"""Which tensors training changes: of modules, and of ``pyro.param`` statements."""

from torch import Tensor

from ppl_vae.particles import ProgramModules


def find_parameters(modules: ProgramModules) -> dict[str, Tensor]:
    """Name to leaf tensor, each once, of everything trainable behind the programs.

    Args:
        modules: Of programs that have run, so that parameters made on first use exist.

    Raises:
        ValueError: If there is nothing to train.
    """
    found = {name: value for name, value in modules.parameters.items() if value.requires_grad}
    if not found:
        raise ValueError(
            "the model and guide have no parameters to train: make them (methods of) torch "
            "modules, or use pyro.param or pyro.module inside."
        )
    return found
