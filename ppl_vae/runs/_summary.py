"""What a run's folder keeps of the data, so that the model is built again without them."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Dataset, Schema
from ppl_vae.store import Stored

_FORMAT = "ppl_vae data 3"


@final
@dataclass(frozen=True)
class DataSummary:
    """The data of a run: what they are, not the rows.

    Attributes:
        name: Of the data set.
        schema: What a row is.
        sha256: Hash of the three splits.
        num_train: Number of training rows.
        missing_share: Share of all cells that are missing.
        rows: The least and the greatest value of each column in training; a third row has NaN
            where a column misses cells.
    """

    name: str
    schema: Schema
    sha256: str
    num_train: int
    missing_share: float
    rows: Float[Tensor, "rows features"]

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSummary":
        """The summary of a data set."""
        train = dataset.train
        missing = train.isnan()
        low = train.masked_fill(missing, torch.inf).amin(0)
        high = train.masked_fill(missing, -torch.inf).amax(0)
        rows = torch.stack([low, high]).where(~missing.all(0), 0.0)
        if dataset.missing_share:
            rows = torch.cat([rows, rows[1:].where(~missing.any(0), torch.nan)])
        return cls(
            dataset.name,
            dataset.schema,
            dataset.fingerprint(),
            len(train),
            dataset.missing_share,
            rows,
        )

    def stand_in(self) -> Dataset:
        """A data set of as many training rows, that a model of the same shape is built from.

        Its columns have the range of the true ones, so that what is chosen by it is the same;
        parameters that start at the data's statistics are read from the checkpoint.
        """
        train = self.rows[torch.arange(self.num_train) % len(self.rows)]
        return Dataset(
            self.name,
            train,
            self.rows,
            self.rows,
            self.schema.image_shape,
            self.schema.feature_names,
            columns=self.schema.columns,
        )

    def save(self, path: Path) -> None:
        """Write the file, atomically.

        Raises:
            OSError: If it cannot be written.
        """
        values = {
            "name": self.name,
            "schema": self.schema.to_mapping(),
            "sha256": self.sha256,
            "num_train": self.num_train,
            "missing_share": self.missing_share,
        }
        Stored({"data": {"rows": self.rows}}, values).write(path, _FORMAT)

    @classmethod
    def load(cls, path: Path) -> "DataSummary":
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        remedy = "bring back a copy, or train anew"
        stored = Stored.read(path, _FORMAT, "summary of a run's data", remedy)
        values = {**stored.record, "schema": Schema.from_mapping(stored.record["schema"])}
        return cls(**values, rows=stored.tensors["data"]["rows"])
