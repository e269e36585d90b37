"""Checks of arguments, tensors learned or not, and kept values, which the priors share."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn

Value = TypeVar("Value")


def register(module: nn.Module, learned: bool, **values: Tensor) -> None:
    """Give a module tensors by name: parameters if learned, else buffers that are not saved."""
    for name, value in values.items():
        if learned:
            module.register_parameter(name, nn.Parameter(value))
        else:
            # Buffers follow the module to its device and dtype; what made them is in the settings.
            module.register_buffer(name, value, persistent=False)


@final
class KeptValue(Generic[Value]):
    """The result of a computation, kept while the tensors that it was computed from are equal.

    Slots keep it out of the search for what a model's densities depend on: with it, the identity of
    a model would change when it first runs.
    """

    __slots__ = ("_key", "_state", "_value")

    def __init__(self) -> None:
        self._key: object = None
        self._state: list[Tensor] | None = None
        self._value: Value

    def __call__(
        self, state: Sequence[Tensor], compute: Callable[[], Value], key: object = None
    ) -> Value:
        """``compute()`` without a gradient, or what it gave before.

        Args:
            state: All tensors that may change and that the value depends on.
            compute: Computes the value.
            key: An object that the value belongs to, compared by identity.
        """
        if self._state is None or key is not self._key or not _equal(state, self._state):
            with torch.no_grad():
                self._value = compute()
            self._key, self._state = key, [tensor.detach().clone() for tensor in state]
        return self._value


def _equal(now: Sequence[Tensor], then: Sequence[Tensor]) -> bool:
    """Compare bit by bit: version counters miss what is written through ``.data``."""
    return len(now) == len(then) and all(
        a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(now, then, strict=True)
    )
