"""The batches of an epoch, in an order that is the epoch's own."""

import math
from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.devices import make_resident
from ppl_vae.randomness import Stream, generator
from ppl_vae.training._settings import FitSettings


@final
class Batches:
    """The training data, batch by batch: every datum once an epoch.

    Args:
        train: The data; they stay on the device if they fit.
        settings: Batch size, transform and seed.
        device: Of the batches.
    """

    def __init__(
        self, train: Float[Tensor, "num_data *event"], settings: FitSettings, device: torch.device
    ) -> None:
        self.train = make_resident(train, device)
        self._settings, self._device = settings, device

    def __len__(self) -> int:
        return math.ceil(len(self.train) / self._settings.batch_size)

    @property
    def num_data(self) -> int:
        """Of the training data."""
        return len(self.train)

    def epoch(
        self, number: int
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch *event"]]]:
        """Rows of the training data, and the batch made of them."""
        seed = self._settings.seed
        order = torch.randperm(
            self.num_data, generator=generator(seed, Stream.DATA_ORDER, number)
        )  # fmt: skip
        # Near-equal batches weigh every datum alike; a short last batch would not.
        for rows in order.to(self.train.device).tensor_split(len(self)):
            yield rows, self._prepare(self.train[rows])

    def first(self, size: int) -> Float[Tensor, "batch *event"]:
        """The first rows as a batch, to look at the programs with."""
        return self._prepare(self.train[:size])

    def _prepare(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._device, non_blocking=True)
        return batch if self._settings.transform is None else self._settings.transform(batch)
