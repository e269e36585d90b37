"""Origin of a run, kept in its folder: the configuration and a summary of the data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Dataset, Schema
from ppl_vae.files import leftovers, write_atomically
from ppl_vae.identity import hash_values
from ppl_vae.runs._config import RunConfig
from ppl_vae.runs._record import CHECKPOINT, CONFIG, DATA, LOG, RECORD
from ppl_vae.schedules import Constant
from ppl_vae.store import Stored
from ppl_vae.training import LIMITS

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
    rows: Float[Tensor, "rows features"]

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSummary":
        """Summarise a data set."""
        train = dataset.train
        missing = train.isnan()
        # Missing cells are put beyond every value: NaN would be the minimum of its column.
        low = train.masked_fill(missing, torch.inf).amin(0)
        high = train.masked_fill(missing, -torch.inf).amax(0)
        # Of a column without values no range is left, but the two infinities.
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
        return Dataset(
            self.name,
            self.rows[torch.arange(self.num_train) % len(self.rows)],
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


def origin_of(config: RunConfig, data_sha256: str) -> dict[str, str]:
    """Hashes of the settings and of the data; all that a run computes is of this origin."""
    return {"config": config.identity, "data": data_sha256}


def write_origin(folder: Path, config: RunConfig, data: DataSummary, fixed_sha256: str) -> None:
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
        raise FileNotFoundError(f"{folder} holds no run (no {CONFIG}): make one with train_run.")
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved["config"], dict):
            raise TypeError("config is no mapping")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): bring back a copy, or train anew."
        ) from error
    return dict(saved)


def require_free(folder: Path, config: RunConfig, dataset: Dataset) -> None:
    """Check that a run may go into a folder; one without a finished epoch belongs to nobody.

    Raises:
        ValueError: If another run or something else is there.
    """
    has_epochs = (folder / CHECKPOINT).exists()
    if (folder / CONFIG).exists():
        saved = read_config(folder)
        if has_epochs:
            require_same_settings(folder, saved["config"], config)
            require_same_data(folder, saved.get("data_sha256"), dataset)
    elif not has_epochs:
        # A study's cell has a record and a log before it trains, and a kill may leave locks.
        others = [
            p for p in folder.glob("*") if not (p.name in (RECORD, LOG) or ".lock" in p.suffixes)
        ]
        if others and set(others) - set(leftovers(folder)):
            raise ValueError(f"{folder} is not empty and holds no run: choose another folder.")


def require_same_settings(folder: Path, saved: Mapping[str, Any], config: RunConfig) -> None:
    """Check that a run planned into a folder can go on from the one that is there.

    Args:
        folder: Folder of the run.
        saved: The settings in the folder; compared as they are written, so that nothing that they
            name is imported.
        config: The settings planned.

    Raises:
        ValueError: If it is another run; names the settings that differ.
    """
    objective, training = config.build_objective(), config.training
    before = RunConfig.from_mapping(saved, trust=True)
    # A schedule or an annealed objective spreads over the budget; others may be given a longer one.
    may_differ = set()
    if isinstance(training.rate_at, Constant) and not objective.anneals:
        same_kind = before.training.budget.kind == training.budget.kind
        may_differ = {"epochs", *(LIMITS if same_kind else ())}
    # Through JSON both ways, so that a tuple here equals the list that the file has.
    there, here = json.loads(json.dumps(before.values())), config.complete()
    other = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in here.items()
        if name not in may_differ and there.get(name) != value
    ]
    if other:
        raise ValueError(
            f"{folder} holds a run with other settings in {CONFIG} ({'; '.join(other)}): choose "
            "another folder, or remove it."
        )


def require_same_data(folder: Path, sha256: Any, dataset: Dataset) -> None:
    """Check that a data set has the hash that a run's folder names.

    Raises:
        ValueError: If it has another.
    """
    if sha256 != dataset.fingerprint():
        raise ValueError(
            f"{dataset.name} differs from the data the run in {folder} was trained on: name "
            'the folder of those data (data_root="FOLDER"), or train anew in another folder.'
        )
