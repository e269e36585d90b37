"""Data sets from NumPy's files."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ppl_vae.data.arrays import dataset_from_array, dataset_from_splits
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.schema import Schema
from ppl_vae.data.splits import Splitting
from ppl_vae.files import require_content


def load_array_file(
    path: Path,
    *,
    allow_missing: bool = False,
    splitting: Splitting | None = None,
    test_rows: Callable[[Schema], torch.Tensor] | None = None,
) -> Dataset:
    """Load a .npy file, or a .npz file of one array or of train, test and perhaps valid.

    Args:
        path: The file; its stem becomes the name.
        allow_missing: Keep NaN, a missing cell.
        splitting: Shares and seed of the split of one array; None: 80/10/10.
        test_rows: Makes test rows that are in another file.

    Returns:
        The data set, split as the file says or else 80/10/10.

    Raises:
        ValueError: If the file is broken, holds Python objects or other arrays, or its values
            are no data set (see `dataset_from_array`).
    """
    arrays = read_arrays(path)
    if set(arrays) in ({"train", "test"}, {"train", "valid", "test"}):
        if splitting is not None or test_rows is not None:
            raise ValueError(f"{path}: holds splits already: leave out fractions and test data.")
        return dataset_from_splits(
            arrays["train"],
            arrays["test"],
            arrays.get("valid"),
            name=path.stem,
            allow_missing=allow_missing,
        )
    if len(arrays) == 1:
        (array,) = arrays.values()
        return dataset_from_array(
            array,
            path.stem,
            allow_missing=allow_missing,
            splitting=splitting,
            test_rows=test_rows,
        )
    raise ValueError(
        f"{path}: holds the arrays {', '.join(arrays) or '(none)'}, expected exactly one, or "
        "train, test and optionally valid: save it again with only these"
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npy or .npz file by name.

    Raises:
        ValueError: If the file is broken or holds Python objects.
    """
    require_content(path, _content(path))
    try:
        with path.open("rb") as file:
            # Unpickling would run whatever code the file holds.
            loaded = np.load(file, allow_pickle=False)
            return {path.stem: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    # NumPy raises whatever it comes upon in a damaged header.
    except Exception as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: holds Python objects, expected an array of numbers: convert it with "
                "x.astype('float32') and save it again"
            ) from error
        raise ValueError(
            f"{path}: not a readable NumPy file (corrupt or cut short): save or copy it again"
        ) from error


def _content(path: Path) -> int:
    """Bytes that a .npz file holds when unpacked; 0 for other files, and for damaged ones."""
    try:
        with zipfile.ZipFile(path) as packed:
            return sum(entry.file_size for entry in packed.infolist())
    except (ValueError, OSError, NotImplementedError, struct.error, zipfile.BadZipFile):
        return 0
