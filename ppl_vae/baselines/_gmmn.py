"""Generative moment matching."""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.baselines._implicit import ImplicitModel, Player, implicit_vae
from ppl_vae.data import RowTensor, column_variances
from ppl_vae.names import require_positive
from ppl_vae.objectives import squared_mmd


@final
class GMMN(ImplicitModel):
    """Generator that descends ``MMD^2`` between a batch and as many of its own draws.

    No critic and no game: :func:`~ppl_vae.objectives.squared_mmd`, with kernels about as wide as
    the distance of two data.

    Args:
        generator: G, maps (rows, latent) to (rows, features).
        latent: Size of z.
        learning_rate: Adam's.

    Raises:
        ValueError: If the learning rate is not positive, or the generator takes no such z.

    References:
        Li, Swersky and Zemel, 2015, Generative moment matching networks.
        Dziugaite, Roy and Ghahramani, 2015, Training generative neural networks via maximum mean
        discrepancy optimization.
    """

    _players: ClassVar[tuple[str, ...]] = ("_player",)
    width: Tensor

    def __init__(self, generator: nn.Module, latent: int, *, learning_rate: float = 1e-3) -> None:
        super().__init__()
        require_positive(learning_rate=learning_rate)
        self.vae, self.learning_rate = implicit_vae(generator, latent), learning_rate
        self._player = Player(generator, learning_rate, (0.9, 0.999))
        self.register_buffer("width", torch.ones((), dtype=torch.float64))

    def settings(self) -> dict[str, Any]:
        """Learning rate."""
        return {"learning_rate": self.learning_rate}

    def start(self, train: RowTensor) -> None:
        """Let the noise, and the width of the kernels, be those of the data."""
        super().start(train)
        # E|x - x'|^2 of two data.
        self.width.fill_(2 * float(column_variances(train).sum()))

    def update(self, x: Float[Tensor, "batch features"], progress: float) -> Mapping[str, Any]:
        """Update on the discrepancy of the batch.

        Raises:
            ValueError: If the batch has one datum.
        """
        del progress
        if len(x) < 2:
            raise ValueError("GMMN compares pairs of data: give batches of 2 or more.")
        loss = squared_mmd(x, self._draw(len(x)), float(self.width))
        self._player.descend(loss)
        return {"squared_mmd": loss.detach(), "learning_rate": self.learning_rate}
