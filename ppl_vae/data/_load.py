"""Loading of all data sets and of new rows, by names, from files and from arrays."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float

from ppl_vae import data  # for its names of tables, which import pandas at their first use: 1 s
from ppl_vae.data._arrays import dataset_from_array, dataset_from_file
from ppl_vae.data._csv import Reading
from ppl_vae.data._dataset import Dataset, Splitting
from ppl_vae.data._named import load_binarized_mnist, load_digits, load_mnist, load_omniglot
from ppl_vae.data._numpy_files import read_arrays
from ppl_vae.data._rows import RowTensor, in_memory
from ppl_vae.data._schema import Schema
from ppl_vae.data._storage import find_data_root
from ppl_vae.files import not_a_file
from ppl_vae.names import ValuesError, unknown_name

TABLE_SUFFIXES = (".csv", ".parquet")
FILE_SUFFIXES = (".npy", ".npz", *TABLE_SUFFIXES)
# Each takes the folder of data sets.
DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda _root: load_digits(),
    "mnist": partial(load_mnist, "mnist"),
    "fashion-mnist": partial(load_mnist, "fashion-mnist"),
    "kmnist": partial(load_mnist, "kmnist"),
    "omniglot": load_omniglot,
    "binarized-mnist": load_binarized_mnist,
}


class FileOptions(TypedDict, total=False):
    """Options of a file's reading and of its split, which :func:`load_dataset` takes by name."""

    separator: str
    header: str
    decimal: str
    thousands: str | None
    missing: Sequence[str] | None
    drop: Sequence[str]
    valid_fraction: float | None
    test_fraction: float | None
    split_seed: int | None


def load_dataset(
    source: str | os.PathLike[str] | np.ndarray | torch.Tensor,
    data_root: os.PathLike[str] | str | None = None,
    *,
    binarize: str = "none",
    seed: int = 0,
    allow_missing: bool = False,
    whole_numbers: bool = False,
    columns: Mapping[str, str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    valid_rows: int | None = None,
    **options: Unpack[FileOptions],
) -> Dataset:
    """Load a data set by name, from a file, or from an array.

    What is guessed of a table's file is checked, and logged in one line by the logger ``ppl_vae``.

    Args:
        source: One of `DATASET_NAMES`; a .npy, .npz, .csv or .parquet file; or an array or
            tensor of shape (n, ...).
        data_root: Folder of named data sets, by default the environment variable PPL_VAE_DATA,
            else the user's cache folder.
        binarize: "none", "static" or "dynamic", as in `Dataset.binarized`.
        seed: Seed of the binarisation's fixed draws; it changes no split.
        allow_missing: Keep missing cells, as NaN, for a likelihood that leaves them out
            (:class:`~ppl_vae.likelihoods.ObservedDecoder`).
        whole_numbers: Take values of one byte (uint8) of an array or a .npy or .npz file for counts
            or codes of classes, as they are; else they are grey levels, and divided by 255 where
            one exceeds 1. Named sets of images are always divided.
        columns: Of a .csv or .parquet file, column to kind, such as ``{"age": "count"}``, for a
            likelihood of mixed columns (:class:`~ppl_vae.likelihoods.TableDecoder`); columns that
            are not named are taken for what they look like. None: all columns are numbers.
        test_data: File of the test rows, with the same columns; all other rows are divided into
            training and validation.
        valid_rows: Of a named set, number of validation rows: the last of those that it has for
            training and validation; None: as it is divided.
        **options: Of a .csv or .parquet file what :class:`~ppl_vae.data.Reading` takes:
            ``separator``, ``header``, ``decimal``, ``thousands``, ``missing`` (words for missing
            cells) and ``drop`` (columns to leave out). Of any file or array ``valid_fraction`` and
            ``test_fraction``, shares of the rows (None: 0.1), and ``split_seed``, the seed of the
            permutation that splits them (None: a constant).

    Returns:
        The data set.

    Raises:
        ValueError: If the name is unknown, the data are broken or unfit, a guess is not plausible,
            or a setting has no meaning for this source.
        FileNotFoundError: If the file, or the named set, is not there and cannot be had.
        TypeError: If source is none of these, or an option is unknown.
    """
    if test_data is not None and options.get("test_fraction") is not None:
        raise ValueError("test rows come from test_data or are a test_fraction: give one of them.")
    reading, splitting = _parse_options(options)
    # Read once the training rows have a schema, which converts these.
    test_rows = None if test_data is None else partial(read_rows, test_data)
    mixed = columns is not None
    split: dict[str, Any] = {
        "splitting": splitting, "test_rows": test_rows, "allow_missing": allow_missing
    }  # fmt: skip
    if valid_rows is not None and str(source) not in DATASETS:
        raise ValueError("valid_rows divides a named set anew; of other data give valid_fraction.")
    if isinstance(source, np.ndarray | torch.Tensor):
        _require_no_table_settings(reading, mixed, "an array")
        dataset = dataset_from_array(source, whole_numbers=whole_numbers, **split)
        return dataset.binarized(binarize, seed)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"cannot load a data set from {type(source).__name__}: give a name, a path, a "
            "NumPy array or a torch tensor"
        )
    name, path = str(source), Path(source).expanduser()
    if name in DATASETS:
        _require_no_table_settings(reading, mixed, repr(name))
        if splitting is not None or test_rows is not None:
            raise ValueError(f"{name} has splits of its own: leave out fractions and test data.")
        dataset = _divided(DATASETS[name](find_data_root(data_root)), valid_rows)
        return dataset.binarized(binarize, seed)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(
            f"{unknown_name('data set', name, DATASETS)} A file is .npy, .npz, .csv or .parquet."
        )
    if not path.is_file():
        raise not_a_file(path, f"{path}: no such file: check the path, or give a data set's name")
    if path.suffix.lower() in TABLE_SUFFIXES:
        dataset = data.load_table_file(path, reading, columns, **split)
    else:
        _require_no_table_settings(reading, mixed, repr(path.name))
        dataset = dataset_from_file(path, whole_numbers=whole_numbers, **split)
    return dataset.binarized(binarize, seed)


def read_rows(path: str | os.PathLike[str], like: Schema) -> Float[RowTensor, "rows features"]:
    """Rows of a .npy, .npz, .csv or .parquet file, as the model was trained with them.

    Columns of a table are matched by name, whatever their order; further ones are left out. Values
    are in the units that the training data were given in, and are scaled, shifted and binarised as
    those of the test rows were.

    Args:
        path: The file.
        like: What a row of the training data was, such as ``dataset.schema``.

    Returns:
        The rows, float32, NaN for missing cells; codes for labels. Lazy, where they are too many
        for memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken, a column is missing, a cell is not of its column's kind, or
            rows are of another size or in another unit.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(f"{path}: expected a file of type {', '.join(FILE_SUFFIXES)}.")
    if not path.is_file():
        raise not_a_file(path, f"{path}: no such file: check the path.")
    try:
        if path.suffix.lower() in TABLE_SUFFIXES:
            return data.rows_of_table(data.read_table(path, like.conversion.reading), like, path)
        arrays = read_arrays(path)
        if len(arrays) != 1:
            raise ValueError(
                f"{path}: holds the arrays {', '.join(arrays) or '(none)'}, expected one, of rows."
            )
        (values,) = arrays.values()
        return like.rows(values, str(path))
    except ValuesError as error:
        # How values are read was settled when the model was trained.
        raise ValueError(
            f"{error.problem}: write them as in the training data, or leave the rows out."
        ) from error


def _divided(dataset: Dataset, valid_rows: int | None) -> Dataset:
    """Divide the training and validation rows anew, in their order; None: leave them."""
    if valid_rows is None:
        return dataset
    # Of a named set, all of which are held in memory.
    rest = torch.cat([in_memory(x, "valid_rows") for x in (dataset.train, dataset.valid)])
    if not 0 < valid_rows < len(rest):
        raise ValueError(
            f"valid_rows must be from 1 to {len(rest) - 1} of the {len(rest)} training and "
            f"validation rows of {dataset.name}, got {valid_rows}."
        )
    train, valid = rest[:-valid_rows], rest[-valid_rows:]
    anew = f"Divided anew into {len(train)} train and {valid_rows} valid rows, the last ones."
    return replace(dataset, train=train, valid=valid, description=f"{dataset.description} {anew}")


def _parse_options(options: Mapping[str, Any]) -> tuple[Reading, Splitting | None]:
    known = FileOptions.__annotations__
    for name in options:
        if name not in known:
            others = ("binarize", "seed", "allow_missing", "whole_numbers", "columns", "test_data")
            own = [*others, "valid_rows", *known]
            raise TypeError(unknown_name("option of load_dataset", name, own))
    # None stands for the defaults, which Reading and Splitting state.
    given = {name: value for name, value in options.items() if value is not None}
    names = ("valid_fraction", "test_fraction")
    shares: dict[str, Any] = {name: given.pop(name) for name in names if name in given}
    if "split_seed" in given:
        shares["seed"] = given.pop("split_seed")
    # Lists in a settings file, tuples where they are hashed and compared.
    for name in given.keys() & {"missing", "drop"}:
        given[name] = tuple(given[name])
    # No splitting where none is asked for: data with splits of their own refuse one.
    return Reading(**given), Splitting(**shares) if shares else None


def _require_no_table_settings(reading: Reading, mixed: bool, source: str) -> None:
    """Check that nothing is given that only a table's file has."""
    if mixed:
        raise ValueError(
            f"columns have kinds in a .csv or .parquet file, not in {source[:60]}: leave out "
            "columns, or take another likelihood than table."
        )
    default = Reading()
    for field in fields(Reading):
        if getattr(reading, field.name) != getattr(default, field.name):
            raise ValueError(f"{field.name} is of a .csv or .parquet file, not of {source[:60]}.")
