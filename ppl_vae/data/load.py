"""One door to all data sets: names, files and arrays."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ppl_vae.data.arrays import dataset_from_array
from ppl_vae.data.binarized_mnist import load_binarized_mnist
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.digits import load_digits
from ppl_vae.data.files import load_array_file
from ppl_vae.data.mnist import load_mnist
from ppl_vae.data.names import FILE_SUFFIXES, TABLE_SUFFIXES
from ppl_vae.data.omniglot import load_omniglot
from ppl_vae.data.storage import find_data_root
from ppl_vae.data.tables import load_mixed_table_file, load_table_file
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
    source: str | Path | np.ndarray | torch.Tensor,
    data_root: Path | str | None = None,
    *,
    binarize: str = "none",
    seed: int = 0,
    allow_missing: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Load a data set by name, from a file, or from an array.

    The splits are fixed: no seed changes them.

    Args:
        source: One of `DATASET_NAMES`; a .npy, .npz, .csv or .parquet file; or an array or
            tensor of shape (n, ...).
        data_root: Folder of named data sets, by default the environment variable PPL_VAE_DATA,
            else the user's cache folder.
        binarize: "none", "static" or "dynamic", as in `Dataset.binarized`.
        seed: Seed of the binarisation's fixed draws.
        allow_missing: Keep missing cells, as NaN, for a likelihood that leaves them out
            (:class:`~ppl_vae.likelihoods.ObservedDecoder`).
        columns: Of a .csv or .parquet file, column to kind, such as ``{"age": "count"}``, for a
            likelihood of mixed columns (:class:`~ppl_vae.likelihoods.TableDecoder`); columns that
            are not named are taken for what they look like. None: all columns are numbers.

    Returns:
        The data set.

    Raises:
        ValueError: If the name is unknown, or the data are broken or unfit.
        FileNotFoundError: If the file, or the named set, is not there and cannot be had.
        TypeError: If source is none of these.
    """
    if columns is not None:
        return _load_mixed(source, columns)
    return _load(source, data_root, allow_missing).binarized(binarize, seed)


def _load_mixed(
    source: str | Path | np.ndarray | torch.Tensor, columns: Mapping[str, str]
) -> Dataset:
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(
            f"columns have kinds in a .csv or .parquet file, not in {str(source)[:60]!r}: take "
            "another likelihood than table."
        )
    return load_mixed_table_file(path.expanduser(), columns)


def _load(
    source: str | Path | np.ndarray | torch.Tensor,
    data_root: Path | str | None,
    allow_missing: bool,
) -> Dataset:
    if isinstance(source, np.ndarray | torch.Tensor):
        return dataset_from_array(source, allow_missing=allow_missing)
    if not isinstance(source, str | Path):
        raise TypeError(
            f"cannot load a data set from {type(source).__name__}: give a name, a path, a NumPy "
            "array or a torch tensor"
        )
    if str(source) in DATASETS:
        return DATASETS[str(source)](find_data_root(data_root))
    path = Path(source).expanduser()
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise ValueError(_unknown(str(source)))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: check the path, or give a data set's name")
    of_arrays = path.suffix.lower() in (".npy", ".npz")
    load = load_array_file if of_arrays else load_table_file
    return load(path, allow_missing=allow_missing)


def _unknown(name: str) -> str:
    return f"{unknown_name('data set', name, DATASETS)} A file is .npy, .npz, .csv or .parquet."
