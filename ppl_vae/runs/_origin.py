"""Origin of a run, kept in its folder: the configuration and a summary of the data."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Dataset, Schema, column_range, missing_by_column, most_in_memory
from ppl_vae.files import not_a_file, write_atomically
from ppl_vae.identity import hash_values
from ppl_vae.store import Stored, read_sealed

if TYPE_CHECKING:
    from ppl_vae.runs._config import RunConfig

RECORD, LOG, LOCK = "run.json", "log.txt", "run.lock"
DAMAGED = "delete it, and the run goes on from its checkpoint"
"""Remedy for a damaged record."""
CONFIG, CHECKPOINT, DATA = "config.json", "checkpoint.safetensors", "data.safetensors"
HISTORY, MEASURES, PICTURES = "history.csv", "measures.json", "pictures.npz"
PHASES, FINISHED = "phases", "finished.safetensors"
LACKING = "lacking"
"""Entry of a run's measures with why others were not taken."""
CHANGED = "is not as it was written"
_FORMAT = "ppl_vae data 3"


@final
@dataclass(frozen=True)
class DataSummary:
    """The data of a run without their rows, enough to build its model again.

    Attributes:
        name: Name of the data set.
        schema: Columns and shape of a row.
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
    rows: Float[Tensor, "rows features"] = field(repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSummary":
        """Summarise a data set."""
        train = dataset.train
        missing = missing_by_column(train)
        # Of a column without values no range is left, but the two infinities.
        rows = column_range(train).where(missing < len(train), 0.0)
        if dataset.missing_share:
            rows = torch.cat([rows, rows[1:].where(missing == 0, torch.nan)])
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
        parameters that start at the data's statistics are read from the checkpoint. No prior holds
        the rows of a set that is larger than memory: its stand-in has fewer.
        """
        most = most_in_memory(self.rows.shape[1])
        return Dataset(
            self.name,
            self.rows[torch.arange(min(self.num_train, most)) % len(self.rows)],
            self.rows,
            self.rows,
            self.schema.image_shape,
            self.schema.feature_names,
            columns=self.schema.columns,
        )

    def save(self, path: Path) -> None:
        """Write the file, atomically, unless it is there already.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            if DataSummary.load(path).sha256 == self.sha256:
                return
        except (FileNotFoundError, ValueError):
            pass
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
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        remedy = "bring back a copy, or train anew"
        stored = Stored.read(path, _FORMAT, "summary of a run's data", remedy)
        values = {**stored.record, "schema": Schema.from_mapping(stored.record["schema"])}
        return cls(**values, rows=stored.tensors["data"]["rows"])


def origin_of(config: "RunConfig", data_sha256: str) -> dict[str, str]:
    """Hashes of the settings and of the data; all that a run computes is of this origin."""
    return {"config": config.identity, "data": data_sha256}


def write_origin(folder: Path, config: "RunConfig", data: DataSummary, fixed_sha256: str) -> None:
    """Write the origin of a run, where it is not there already.

    Args:
        folder: Folder of the run.
        config: Settings of the run.
        data: Summary of its data.
        fixed_sha256: Hash of the model's tensors that no checkpoint holds.
    """
    content = {
        "config": config.complete(),
        "data_sha256": data.sha256,
        "fixed_sha256": fixed_sha256,
        "origin": hash_values(origin_of(config, data.sha256)),
    }
    text = json.dumps(content, indent=2) + "\n"
    if not (folder / CONFIG).exists() or (folder / CONFIG).read_text() != text:
        write_atomically(folder / CONFIG, text)
    data.save(folder / DATA)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a run's folder, and the fingerprint of its data, as plain values.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise not_a_file(path, f"{folder} holds no run (no {CONFIG}): make one with train_run.")
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
            raise TypeError("no settings under config")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): bring back a copy, or train anew."
        ) from error
    return dict(saved)


def require_same_data(folder: Path, sha256: Any, dataset: Dataset) -> None:
    """Check that a data set has the hash that a run's folder names.

    Raises:
        ValueError: If it has another.
    """
    if sha256 != dataset.fingerprint():
        raise ValueError(
            f"{dataset.name} differs from the data the run in {folder} was trained on: bring those "
            'back (a data set\'s folder is data_root="FOLDER"), or train anew in another folder.'
        )


def require_as_written(folder: Path) -> None:
    """Check that a run's parameters are those that its record is of, where it is done.

    Raises:
        ValueError: If they are others.
    """
    path = folder / RECORD
    saved = read_sealed(path, DAMAGED) if path.is_file() else {}
    written = saved.get("files", {}).get(CHECKPOINT) if saved.get("state") == "done" else None
    if written is not None and hash_file(folder / CHECKPOINT) != written:
        raise ValueError(
            f"{folder / CHECKPOINT} {CHANGED} when the run was done: bring back a copy of the "
            "run's own file, or train anew in another folder."
        )


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
