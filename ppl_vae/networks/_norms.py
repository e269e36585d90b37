"""Linear layers whose columns keep their norm."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

_LEAST_NORM = 1e-12


@final
class UnitColumns(nn.Module):
    """``W -> W`` with every column divided by its Euclidean norm."""

    def forward(self, weight: Float[Tensor, "out inputs"]) -> Float[Tensor, "out inputs"]:
        """Divide the columns."""
        norm = torch.linalg.vector_norm(weight, dim=0, keepdim=True)
        held: Tensor = weight / norm.clamp(min=_LEAST_NORM)
        return held

    def right_inverse(self, weight: Float[Tensor, "out inputs"]) -> Float[Tensor, "out inputs"]:
        """A weight with these columns, up to their norm."""
        return weight


def hold_columns(network: nn.Module) -> None:
    """Hold the columns of all linear layers of a network at norm 1, in training and after it.

    What a code says to the next layer is then measured by the code: a penalty on codes cannot be
    escaped by small codes and large weights. All layers, as the norm that one is denied another
    could take.

    Raises:
        ValueError: If the network has no linear layer.

    References:
        Olshausen and Field, 1997, Sparse coding with an overcomplete basis set.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("the network has no linear layer whose columns could be held: take mlp.")
    for layer in linear:
        parametrize.register_parametrization(layer, "weight", UnitColumns())
