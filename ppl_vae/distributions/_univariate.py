"""Univariate normals, for many draws of each of a batch."""

import math
from collections.abc import Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

_LOG_ROOT_2_PI = 0.5 * math.log(2 * math.pi)


@final
class Normal(dist.Normal):  # type: ignore[misc, unused-ignore]
    """``Normal(loc, scale)`` as of torch, its log-density by fewer operations.

    Torch takes the logarithm and the square of as many copies of the scale as there are particles.
    """

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Normal":
        """Broadcast the distribution to a batch shape."""
        expanded: Normal = super().expand(batch_shape, _instance)
        expanded._own = self._parameters()
        return expanded

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "..."]:
        """Log-density of each number in nats: ``-log s - log(2 pi) / 2 - ((z - m) / s)^2 / 2``."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self._parameters()
        distance = ((value - loc) * (math.sqrt(0.5) / scale)).square()
        density: Tensor = (-_LOG_ROOT_2_PI - scale.log()) - distance
        batch = self.batch_shape
        if density.shape[density.dim() - len(batch) :] == batch:
            return density
        # Of memory of its own, as torch's is.
        return density.expand(torch.broadcast_shapes(density.shape, batch)).contiguous()

    def _parameters(self) -> tuple[Tensor, Tensor]:
        """Location and scale before they were broadcast."""
        own: tuple[Tensor, Tensor] = getattr(self, "_own", (self.loc, self.scale))
        return own
