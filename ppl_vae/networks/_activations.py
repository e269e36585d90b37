"""Activation functions by name."""

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "leaky-relu": nn.LeakyReLU,
}


def named_activation(name: str) -> Callable[[], nn.Module]:
    """The activation's class.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
