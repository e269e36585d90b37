"""One door to all data sets: names, files and arrays."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from ppl_vae.data._arrays import dataset_from_array
from ppl_vae.data._binarized_mnist import load_binarized_mnist
from ppl_vae.data._dataset import Dataset, Splitting
from ppl_vae.data._files import load_array_file, read_rows
from ppl_vae.data._grey_images import load_digits, load_mnist, load_omniglot
from ppl_vae.data._reading import FILE_SUFFIXES, TABLE_SUFFIXES, Reading
from ppl_vae.data._schema import Schema
from ppl_vae.data._storage import find_data_root
from ppl_vae.data._tables import load_mixed_table_file, load_table_file
from ppl_vae.names import unknown_name

# Each takes the folder of data sets.
DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda _root: load_digits(),
    "mnist": partial(load_mnist, "mnist"),
    "fashion-mnist": partial(load_mnist, "fashion-mnist"),
    "kmnist": partial(load_mnist, "kmnist"),
    "omniglot": load_omniglot,
    "binarized-mnist": load_binarized_mnist,
}


def load_dataset(
    source: str | os.PathLike[str] | np.ndarray | torch.Tensor,
    data_root: os.PathLike[str] | str | None = None,
    *,
    binarize: str = "none",
    seed: int = 0,
    allow_missing: bool = False,
    columns: Mapping[str, str] | None = None,
    separator: str = "auto",
    header: str = "auto",
    decimal: str = "auto",
    thousands: str | None = None,
    missing: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    test_data: str | os.PathLike[str] | None = None,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    split_seed: int | None = None,
) -> Dataset:
    """Load a data set by name, from a file, or from an array.

    What is guessed of a table's file is checked, and told in one line by the logger ``ppl_vae``.

    Args:
        source: One of `DATASET_NAMES`; a .npy, .npz, .csv or .parquet file; or an array or
            tensor of shape (n, ...).
        data_root: Folder of named data sets, by default the environment variable PPL_VAE_DATA,
            else the user's cache folder.
        binarize: "none", "static" or "dynamic", as in `Dataset.binarized`.
        seed: Seed of the binarisation's fixed draws; it changes no split.
        allow_missing: Keep missing cells, as NaN, for a likelihood that leaves them out
            (:class:`~ppl_vae.likelihoods.ObservedDecoder`).
        columns: Of a .csv or .parquet file, column to kind, such as ``{"age": "count"}``, for a
            likelihood of mixed columns (:class:`~ppl_vae.likelihoods.TableDecoder`); columns that
            are not named are taken for what they look like. None: all columns are numbers.
        separator: Of a .csv file: "auto", "tab", "space" or a character.
        header: Whether a .csv file's first row names the columns: "auto", "yes" or "no".
        decimal: "auto", "." or ",".
        thousands: Character between groups of three digits; None: none.
        missing: Words for missing cells of a table; None: the usual ones and "?".
        drop: Columns of a table to leave out.
        test_data: File of the test rows, with the same columns; all other rows are divided into
            training and validation.
        valid_fraction: Share of a file's or array's rows for validation; None: 0.1.
        test_fraction: Share for test; None: 0.1.
        split_seed: Seed of the permutation that splits; None: a constant.

    Returns:
        The data set.

    Raises:
        ValueError: If the name is unknown, the data are broken or unfit, a guess is not plausible,
            or a setting has no meaning for this source.
        FileNotFoundError: If the file, or the named set, is not there and cannot be had.
        TypeError: If source is none of these.
    """
    words = None if missing is None else tuple(missing)
    reading = Reading(separator, header, decimal, thousands, words, tuple(drop))
    fractions = {"valid_fraction": valid_fraction, "test_fraction": test_fraction,
                 "seed": split_seed}  # fmt: skip
    chosen = {name: value for name, value in fractions.items() if value is not None}
    if test_data is not None and test_fraction is not None:
        raise ValueError("test rows come from test_data or are a test_fraction: give one of them.")
    work = _Load(
        reading,
        allow_missing,
        columns,
        Splitting(**chosen) if chosen else None,  # type: ignore[arg-type]
        None if test_data is None else lambda schema: read_rows(test_data, schema),
    )
    return work.load(source, data_root).binarized(binarize, seed)


@final
@dataclass(frozen=True)
class _Load:
    reading: Reading
    allow_missing: bool
    columns: Mapping[str, str] | None
    splitting: Splitting | None
    test_rows: Callable[[Schema], torch.Tensor] | None

    def load(self, source: Any, data_root: os.PathLike[str] | str | None) -> Dataset:
        split: dict[str, Any] = {"splitting": self.splitting, "test_rows": self.test_rows}
        if isinstance(source, np.ndarray | torch.Tensor):
            self._require_table("an array")
            return dataset_from_array(source, allow_missing=self.allow_missing, **split)
        if not isinstance(source, str | os.PathLike):
            raise TypeError(
                f"cannot load a data set from {type(source).__name__}: give a name, a path, a "
                "NumPy array or a torch tensor"
            )
        if str(source) in DATASETS:
            self._require_table(repr(str(source)))
            if any(value is not None for value in split.values()):
                raise ValueError(
                    f"{source} has splits of its own: leave out fractions and test data."
                )
            return DATASETS[str(source)](find_data_root(data_root))
        path = Path(source).expanduser()
        if path.suffix.lower() not in FILE_SUFFIXES:
            raise ValueError(_unknown(str(source)))
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file: check the path, or give a data set's name"
            )
        if path.suffix.lower() not in TABLE_SUFFIXES:
            self._require_table(repr(path.name))
            return load_array_file(path, allow_missing=self.allow_missing, **split)
        if self.columns is not None:
            return load_mixed_table_file(path, self.columns, self.reading, **split)
        return load_table_file(path, self.reading, allow_missing=self.allow_missing, **split)

    def _require_table(self, source: str) -> None:
        """Check that nothing was said that only a table's file has."""
        if self.columns is not None:
            raise ValueError(
                f"columns have kinds in a .csv or .parquet file, not in {source[:60]}: leave out "
                "columns, or take another likelihood than table."
            )
        usual = Reading()
        for f in fields(Reading):
            if getattr(self.reading, f.name) != getattr(usual, f.name):
                raise ValueError(f"{f.name} is of a .csv or .parquet file, not of {source[:60]}.")


def _unknown(name: str) -> str:
    return f"{unknown_name('data set', name, DATASETS)} A file is .npy, .npz, .csv or .parquet."
