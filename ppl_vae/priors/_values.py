"""What the priors share: checks of arguments, and values that are learned or not."""

import math

from torch import Tensor, nn


def require_sizes(**sizes: int) -> None:
    """Check whole numbers of 1 or more.

    Raises:
        ValueError: If one is less; names it.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be 1 or more, got {size}.")


def require_positive(**values: float) -> None:
    """Check positive, finite numbers.

    Raises:
        ValueError: If one is not; names it.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def register(module: nn.Module, learned: bool, **values: Tensor) -> None:
    """Give a module tensors by name: parameters if learned, else buffers that are not saved."""
    for name, value in values.items():
        if learned:
            module.register_parameter(name, nn.Parameter(value))
        else:
            # Buffers follow the module to its device and dtype; what made them is in the settings.
            module.register_buffer(name, value, persistent=False)
