"""Means of an encoder for many rows, remembered while the encoder stays the same."""

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ROWS = 5_000
"""Encoded at once."""


@final
class EncodedMeans:
    """``x -> mean of q(z|x)``, and for one table of rows over and over again at no cost.

    Args:
        encoder: ``x (batch, features) -> q(z|x)``, a distribution with a mean.
    """

    def __init__(self, encoder: Callable[[Tensor], Any]) -> None:
        self._encoder = encoder
        self._table: Tensor | None = None
        self._means = torch.empty(0)
        self._state: list[Tensor] = []

    def __call__(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows latent"]:
        """The means, encoded in parts."""
        return torch.cat([self._mean(rows) for rows in x.split(_ROWS)])

    def remembered(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows latent"]:
        """The same, from memory if this tensor was the last and the encoder is as it was then.

        The encoder must do the same each time, as it does in evaluation mode. A gradient for its
        parameters encodes again.
        """
        owner = getattr(self._encoder, "__self__", self._encoder)
        if not isinstance(owner, nn.Module):
            # Nobody can tell whether a function still does what it did.
            return self(x)
        state = [*owner.parameters(), *owner.buffers()]
        if x is not self._table or not _equal(state, self._state):
            with torch.no_grad():
                self._table, self._means = x, self(x)
            self._state = [value.detach().clone() for value in state]
        learned = [value for value in owner.parameters() if value.requires_grad]
        means: Tensor = _Recall.apply(self._means, lambda: self(x), *learned)
        return means

    def _mean(self, rows: Tensor) -> Float[Tensor, "rows latent"]:
        q = self._encoder(rows)
        try:
            mean: Tensor = q.mean
        except NotImplementedError as error:
            raise ValueError(
                f"exemplars need an encoder whose distribution has a mean; {type(q).__name__} has "
                "none: take a normal guide, or another prior."
            ) from error
        return mean


def _equal(now: list[Tensor], then: list[Tensor]) -> bool:
    """Bit by bit: version counters miss what is written through ``.data``."""
    return len(now) == len(then) and all(
        a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(now, then, strict=True)
    )


class _Recall(torch.autograd.Function):
    """A known value of ``compute()``, which runs for a gradient alone."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, compute: Callable[[], Tensor], *learned: Tensor) -> Tensor:
        ctx.compute = compute
        ctx.save_for_backward(*learned)
        return known.view_as(known)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        learned = ctx.saved_tensors
        with torch.enable_grad():
            value = ctx.compute()
        return None, None, *torch.autograd.grad(value, learned, gradient, allow_unused=True)
