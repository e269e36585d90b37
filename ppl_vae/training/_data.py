"""The data of training: checked before the first update, handed over in batches."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.data import (
    RowTensor,
    bad_rows,
    load,
    missing_cells,
    read_ahead,
    require_lossless,
    rows_hash,
)
from ppl_vae.devices import fits, make_resident
from ppl_vae.particles import (
    ProgramModules,
    Programs,
    first_run,
    refused_missing,
    require_rows,
)
from ppl_vae.randomness import Stream, generator, seeded
from ppl_vae.training._workers import Workers

Transform = Callable[[Tensor], Tensor]
"""A change of each batch on its device, as dynamic binarisation is."""


@final
@dataclass(frozen=True, eq=False)
class TrainingData:
    """Rows to train and to validate on.

    Attributes:
        train: Training data.
        valid: Validation data, if there are any.
        transform: Change of each training batch on its device.
    """

    train: RowTensor
    valid: RowTensor | None = None
    transform: Transform | None = None

    @property
    def named(self) -> dict[str, RowTensor]:
        """Name to rows, of those there are."""
        valid = {} if self.valid is None else {"valid": self.valid}
        return {"train": self.train, **valid}

    def hashes(self) -> dict[str, str]:
        """Hash of each kind of rows."""
        return {f"{name}_sha256": rows_hash(x) for name, x in self.named.items()}

    def require_rows(self, programs: Programs, device: torch.device, seed: int) -> None:
        """Check that there are rows, without NaN unless that is a missing cell to the model.

        Args:
            programs: Their model is asked whether it takes missing cells, by its likelihoods.
            device: Device of the model.
            seed: Seed of the draw that the model is asked with.

        Raises:
            ValueError: If there are no rows or some hold what cannot be trained on; names the
                first.
        """
        missing = any(bool(missing_cells(x)) for x in self.named.values() if len(x))
        if missing:
            with seeded(seed, Stream.TRAINING):
                # The model is run only if there are NaNs to ask about; two rows will do, as its
                # likelihoods answer, not the data.
                few = self.train[:2].to(device, programs.modules().dtype)
                missing = programs.accepts_missing(few)
        for name, x in self.named.items():
            if len(x) == 0:
                raise ValueError(f"{name} holds no data: give at least one row.")
            # A missing cell is NaN; an infinite one is never a missing cell.
            count, first = bad_rows(x, allow_missing=missing)
            if count:
                raise ValueError(
                    f"{name} has {count} rows with NaN or infinite values, the first at "
                    f"row {first}: remove or fill them in, or leave missing cells "
                    "out of the likelihood with ObservedDecoder (of a run, allow_missing=True)."
                )
            # The likelihoods take them; the guide is asked by a row that has some.
            refusal = missing and refused_missing(
                programs, x, lambda part: self.prepared(part, device), name
            )
            if refusal:
                raise ValueError(refusal)

    def fitted(
        self, programs: Programs, device: torch.device
    ) -> "tuple[TrainingData, ProgramModules, Tensor]":
        """The rows in the type that the programs take, by a run on a few of them.

        Returns:
            The data, the modules behind the programs, and the small batch that they ran on.

        Raises:
            ValueError: If rows would be rounded, or are no data of the model.
        """

        def small_batch(x: RowTensor) -> Tensor:
            # On the way of every batch of training, to be what the programs will see.
            return self.prepared(make_resident(x[:2], device), device)

        ran = first_run(programs, self.train, small_batch, "train")
        # Plates that the run has shown count too: shapes are read by their depth.
        nesting = max(programs.max_plate_nesting, ran.modules.max_plate_nesting)
        require_rows(replace(programs, max_plate_nesting=nesting), ran.batch, "train")
        data = replace(self, train=ran.rows)
        if self.valid is not None:
            if self.valid.shape[1:] != self.train.shape[1:]:
                raise ValueError(
                    f"valid has rows of shape {tuple(self.valid.shape[1:])}, train of "
                    f"{tuple(self.train.shape[1:])}: give both alike, rows first."
                )
            # Validation rows take the type of the training rows: the programs were run on those.
            data = replace(data, valid=require_lossless(self.valid, ran.rows.dtype, "valid"))
        return data, ran.modules, ran.batch

    def prepared(self, batch: Tensor, device: torch.device) -> Tensor:
        """A batch of training data as the programs get it."""
        # Data too large for the device are in pinned memory, from where a copy need not block.
        batch = batch.to(device, non_blocking=True)
        return batch if self.transform is None else self.transform(batch)

    def training_subset(self, size: int, device: torch.device) -> Tensor:
        """At most ``size`` rows of the training data, the same ones for every run, as prepared."""
        shuffle = generator(0, Stream.TRAINING)
        rows = torch.randperm(len(self.train), generator=shuffle)[:size]
        return self.prepared(self.train[rows], device)

    def validation_subset(self, size: int) -> Tensor | None:
        """At most ``size`` rows of the validation data, the same ones for every run, in memory."""
        if self.valid is None:
            return None
        # At random: neighbouring rows are often alike, so the first ones would not do.
        shuffle = generator(0, Stream.VALIDATION)
        return self.valid[torch.randperm(len(self.valid), generator=shuffle)[:size]]


@final
class Batches:
    """The training data, batch by batch: every datum once an epoch.

    Args:
        data: The data; they stay on the device if they fit.
        batch_size: Largest number of data in a batch.
        seed: Seed of the order.
        device: Device of the batches.
        shuffled: Whether the order is random; otherwise it is that of the data.
        workers: Processes that share each batch; each reads its own rows.
    """

    def __init__(
        self,
        data: TrainingData,
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        shuffled: bool = True,
        workers: Workers | None = None,
    ) -> None:
        self.train = _resident(data.train, device)
        self.num_data = len(self.train)
        self._data, self._count = data, math.ceil(self.num_data / batch_size)
        self._seed, self._device, self._shuffled = seed, device, shuffled
        self._workers = workers or Workers()
        if self._workers.size > min(self.sizes):
            raise ValueError(
                f"batches of {min(self.sizes)} data cannot be shared by {self._workers.size} "
                "workers: give a larger batch_size, or fewer workers."
            )

    def __len__(self) -> int:
        return self._count

    @property
    def sizes(self) -> dict[int, int]:
        """Number of batches in an epoch, by their size."""
        size, larger = divmod(self.num_data, len(self))
        counts = {size + 1: larger, size: len(self) - larger}
        return {size: count for size, count in counts.items() if count}

    def epoch(
        self, number: int
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch *event"]]]:
        """Rows of the training data, and the batch made of them, in an order of the epoch's own.

        Where workers share batches the rows are those of the batch, the data this worker's.
        """
        order = torch.arange(self.num_data)
        if self._shuffled:
            # From the seed and the epoch alone: a resumed run needs no state of a generator.
            shuffle = generator(self._seed, Stream.DATA_ORDER, number)
            order = torch.randperm(self.num_data, generator=shuffle)
        # Near-equal batches weigh every datum alike; a short last batch would not.
        order = order.to(self.train.device)
        batches, pin = _split_evenly(order, len(self)), self._device.type == "cuda"
        if self._workers.size == 1:
            for rows, batch in read_ahead(self.train, batches, pin=pin):
                yield rows, self._data.prepared(batch, self._device)
            return
        mine = (self._mine(rows) for rows in _split_evenly(order, len(self)))
        read = read_ahead(self.train, mine, pin=pin)
        for rows, (_, batch) in zip(batches, read, strict=True):
            with self._workers.drawing(len(rows)):
                prepared = self._data.prepared(batch, self._device)
            yield rows, prepared

    def _mine(self, rows: Tensor) -> Tensor:
        share = self._workers.share_of(len(rows))
        return rows if share is None else share.of(rows)


def _split_evenly(order: Tensor, count: int) -> Iterator[Tensor]:
    """``order.tensor_split(count)``, one by one: all at once take more memory than the order."""
    size, longer, start = len(order) // count, len(order) % count, 0
    for number in range(count):
        end = start + size + (number < longer)
        yield order[start:end]
        start = end


def _resident(x: RowTensor, device: torch.device) -> RowTensor:
    """The rows on the device where they fit there; lazy ones stay lazy elsewhere."""
    if isinstance(x, Tensor):
        return make_resident(x, device)
    return load(x, device) if fits(x.numel() * x.dtype.itemsize, device) else x
