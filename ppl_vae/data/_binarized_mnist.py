"""The fixed binarisation of MNIST by Larochelle and Murray (2011), on which papers compare."""

import gzip
import hashlib
import shutil
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ppl_vae.data._dataset import Dataset
from ppl_vae.data._schema import Conversion
from ppl_vae.data._storage import fetch
from ppl_vae.files import largest_content, require_content

BASE_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
FOLDER = "binarized_mnist"
_SHA256 = {
    "binarized_mnist_train.amat":
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat":
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat":
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}  # fmt: skip
"""SHA-256 of the published files; the address has no https."""
FILES = tuple(_SHA256)
FEATURES = 784
TIMEOUT_SECONDS = 30


def load_binarized_mnist(root: Path) -> Dataset:
    """Load the three text files, which are downloaded if missing.

    Args:
        root: Folder of data sets; the files, .amat or .amat.gz, are in it or in
            root/binarized_mnist.

    Returns:
        The data set, rows in file order: 50,000, 10,000 and 10,000 in the published files.

    Raises:
        FileNotFoundError: If the files are missing and cannot be downloaded.
        ValueError: If a file is broken.
    """
    missing = [file for file in FILES if _find(root, file) is None]
    if missing:
        fetch("binarized-mnist", root / FOLDER, missing, lambda to: _download(missing, to))
    train, valid, test = (_read(_find(root, file) or root / FOLDER / file) for file in FILES)
    return Dataset(
        "binarized-mnist",
        train,
        valid,
        test,
        (28, 28),
        description=(
            f"MNIST in the fixed binarisation of Larochelle and Murray (2011), {len(train)} train, "
            f"{len(valid)} valid and {len(test)} test rows as published, in file order."
        ),
        conversion=Conversion(unit_interval=True),
    )


def _find(root: Path, file: str) -> Path | None:
    places = (folder / name for folder in (root, root / FOLDER) for name in (file, f"{file}.gz"))
    return next((path for path in places if path.is_file()), None)


def _download(files: Sequence[str], folder: Path) -> None:
    for file in files:
        with (
            urllib.request.urlopen(BASE_URL + file, timeout=TIMEOUT_SECONDS) as response,
            (folder / file).open("wb") as out,
        ):
            shutil.copyfileobj(response, out)
            # Reading in pieces does not complain of a connection that closed too early.
            if response.length:
                raise OSError(f"{file} broke off with {response.length} bytes to go")
        with (folder / file).open("rb") as written:
            if hashlib.file_digest(written, "sha256").hexdigest() != _SHA256[file]:
                raise OSError(f"{file} is not the published file: SHA-256 differs")


def _read(path: Path) -> torch.Tensor:
    """Read one file: float32 zeros and ones, shape (n, 784)."""
    try:
        raw = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not a whole gzip file ({error}): delete it and run again to download it"
        ) from error
    text = np.frombuffer(raw, np.uint8)
    is_digit = (text | 1) == ord("1")
    is_space = np.isin(text, np.frombuffer(b" \t\r\n", np.uint8))
    _check(path, text, is_digit, is_space)
    return torch.from_numpy((text[is_digit] == ord("1")).astype(np.float32).reshape(-1, FEATURES))


def _unpacked(path: Path) -> bytes:
    limit = largest_content(path)
    with gzip.open(path) as file:
        raw = file.read(limit + 1)
    require_content(path, len(raw))
    return raw


def _check(path: Path, text: np.ndarray, is_digit: np.ndarray, is_space: np.ndarray) -> None:
    """Check that the bytes are lines of 784 single digits 0 or 1, blank lines aside."""
    bad = ~(is_digit | is_space)
    bad[1:] |= is_digit[1:] & is_digit[:-1]
    if bad.any():
        line = 1 + np.count_nonzero(text[: bad.argmax()] == ord("\n"))
        raise _broken(path, f"line {line} holds something else")
    starts = np.append(0, np.flatnonzero(text[:-1] == ord("\n")) + 1)
    counts = np.add.reduceat(is_digit, starts, dtype=np.int64) if len(text) else np.zeros(1, int)
    wrong = np.flatnonzero((counts != FEATURES) & (counts != 0))
    if len(wrong):
        raise _broken(path, f"line {wrong[0] + 1} has {counts[wrong[0]]} values")
    if not counts.any():
        raise _broken(path, "the file is empty")


def _broken(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path}: {what}, expected {FEATURES} zeros or ones a line with spaces between: delete "
        "it and run again to download it"
    )
