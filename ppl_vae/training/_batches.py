"""The batches of an epoch, in an order that is the epoch's own."""

import math
from collections.abc import Callable, Iterator
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.devices import make_resident
from ppl_vae.randomness import Stream, generator

Transform = Callable[[Tensor], Tensor]
"""A change of each batch on its device, as dynamic binarisation is."""


@final
class Batches:
    """The training data, batch by batch: every datum once an epoch.

    Args:
        train: The data; they stay on the device if they fit.
        batch_size: Largest number of data in a batch.
        transform: Applied to each batch on its device.
        seed: Seed of the order.
        device: Device of the batches.
    """

    def __init__(
        self,
        train: Float[Tensor, "num_data *event"],
        batch_size: int,
        transform: Transform | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.train = make_resident(train, device)
        self._batch_size, self._transform = batch_size, transform
        self._seed, self._device = seed, device

    def __len__(self) -> int:
        return math.ceil(len(self.train) / self._batch_size)

    @property
    def num_data(self) -> int:
        """Of the training data."""
        return len(self.train)

    def epoch(
        self, number: int
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch *event"]]]:
        """Rows of the training data, and the batch made of them."""
        shuffle = generator(self._seed, Stream.DATA_ORDER, number)
        order = torch.randperm(self.num_data, generator=shuffle)
        # Near-equal batches weigh every datum alike; a short last batch would not.
        for rows in order.to(self.train.device).tensor_split(len(self)):
            yield rows, self._prepare(self.train[rows])

    def first(self, size: int) -> Float[Tensor, "batch *event"]:
        """The first rows as a batch, to look at the programs with."""
        return self._prepare(self.train[:size])

    def _prepare(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._device, non_blocking=True)
        return batch if self._transform is None else self._transform(batch)
