"""Named sets: scikit-learn's digits, MNIST and its kind, Omniglot, binarised MNIST."""

import functools
import gzip
import hashlib
import importlib
import importlib.metadata
import shutil
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ppl_vae.data._dataset import SPLIT_SEED, Dataset, split_rows
from ppl_vae.data._schema import Conversion
from ppl_vae.data._storage import fetch, torchvision_dataset
from ppl_vae.files import largest_content, require_content

DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"
N_VALID, N_TEST = 180, 360
MNIST_KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Names to torchvision's classes, which are also the names of its folders."""
IMAGE_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABEL_FILES = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
IDX_HEADER_BYTES = 16
IDX_UINT8_3D = 0x0803
SIDE = 28
PIXELS = SIDE * SIDE
OMNIGLOT_FOLDER = "omniglot-py"
"""Folder that torchvision makes."""
BASE_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
BINARIZED_FOLDER = "binarized_mnist"
_SHA256 = {
    "binarized_mnist_train.amat":
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat":
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat":
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}  # fmt: skip
"""SHA-256 of the published files; the address has no https."""
BINARIZED_FILES = tuple(_SHA256)
TIMEOUT_SECONDS = 30


@functools.cache
def _digits() -> NDArray[np.float64]:
    """Grey values 0 to 16, one row of 64 a digit, as of scikit-learn's ``load_digits().data``."""
    # Its file alone, rows of 64 values and the label: importing scikit-learn takes three seconds.
    package = importlib.metadata.distribution("scikit-learn")
    try:
        with gzip.open(str(package.locate_file(DIGITS_FILE)), "rt") as file:
            return np.loadtxt(file, delimiter=",")[:, :-1]
    except FileNotFoundError:
        # A version that keeps it elsewhere.
        return np.asarray(importlib.import_module("sklearn.datasets").load_digits().data)


def load_digits() -> Dataset:
    """Load the 1,797 digits: 1,257 train, 180 valid and 360 test rows of 64 values in [0, 1]."""
    conversion = Conversion(divisor=16)
    train, valid, test = split_rows(conversion.apply(_digits(), "digits"), N_VALID, N_TEST)
    return Dataset(
        "digits",
        train,
        valid,
        test,
        (8, 8),
        description=(
            f"scikit-learn's 8 x 8 digits divided by 16, {len(train)} train, {len(valid)} valid "
            f"and {len(test)} test rows by a permutation with the constant seed {SPLIT_SEED}."
        ),
        conversion=conversion,
    )


def load_mnist(name: str, root: Path) -> Dataset:
    """Load a set of MNIST's kind from its raw files in root/MNIST/raw, or FashionMNIST, KMNIST.

    They are downloaded if missing. The last sixth of the training file is valid: 50,000, 10,000 and
    10,000 rows of grey values in [0, 1] for all three.

    Raises:
        FileNotFoundError: If the files are missing and cannot be downloaded.
        ValueError: If a file is broken.
    """
    kind = MNIST_KINDS[name]
    folder = root / kind / "raw"
    if not all((folder / file).is_file() for file in IMAGE_FILES):
        # The labels come along, so that torchvision finds its set whole.
        fetch(
            name,
            folder,
            IMAGE_FILES + LABEL_FILES,
            lambda to: torchvision_dataset(kind)(to, download=True),
        )
    raw, raw_test = (_read_images(folder / file) for file in IMAGE_FILES)
    if raw.shape[1:] != raw_test.shape[1:] or len(raw) < 6:
        raise ValueError(
            f"{folder}: train images are {raw.shape}, test images {raw_test.shape}, "
            "expected one size and at least 6 to train on: replace the files"
        )
    conversion = Conversion(divisor=255)
    rest, test = conversion.apply(raw, name), conversion.apply(raw_test, name)
    n_valid = len(rest) // 6
    train, valid = rest[:-n_valid], rest[-n_valid:]
    return Dataset(
        name,
        train,
        valid,
        test,
        raw.shape[1:],
        description=(
            f"{kind} grey values divided by 255, {len(train)} train and {len(valid)} "
            f"valid rows (the last of the training file), {len(test)} test rows, in file order."
        ),
        conversion=conversion,
    )


def _read_images(path: Path) -> np.ndarray:
    """Read an IDX file of images: uint8, shape (n, h, w)."""
    raw = path.read_bytes()
    header = raw[:IDX_HEADER_BYTES]
    # Filled up with zeros, so that a file cut short in its header fails the check below.
    magic, *shape = np.frombuffer(header.ljust(IDX_HEADER_BYTES, b"\0"), ">u4").tolist()
    expected = IDX_HEADER_BYTES + int(np.prod(shape))
    if magic != IDX_UINT8_3D or len(raw) != expected or 0 in shape:
        raise ValueError(
            f"{path}: corrupt or cut short ({len(raw)} bytes, IDX type {magic:#06x}, expected "
            f"type {IDX_UINT8_3D:#06x} and as many bytes as its header says): delete it and run "
            "again to download it"
        )
    return np.frombuffer(raw, np.uint8, offset=IDX_HEADER_BYTES).reshape(shape)


def load_omniglot(root: Path) -> Dataset:
    """Load Omniglot from root/omniglot-py, which is downloaded if missing.

    These are the published drawings, averaged over areas to 28 x 28 with ink 1 and paper 0. They
    are not the `chardata.mat` of Burda et al. (2016), so log p(x) does not compare with theirs. The
    background set is train and, a random tenth of it, valid; the evaluation set, of other
    alphabets, is test.

    Raises:
        FileNotFoundError: If the folders are missing and cannot be downloaded.
        ValueError: If an image is broken, or too few are there.
    """
    background = _load_images(root, "images_background")
    test = _load_images(root, "images_evaluation")
    train, valid, _ = split_rows(background, max(1, round(len(background) / 10)), 0)
    return Dataset(
        "omniglot",
        train,
        valid,
        test,
        (SIDE, SIDE),
        description=(
            f"Omniglot averaged over areas to {SIDE} x {SIDE} with ink 1, {len(train)} train and "
            f"{len(valid)} valid rows of the background set by a permutation with the constant "
            f"seed {SPLIT_SEED}, {len(test)} test rows (the evaluation set)."
        ),
        conversion=Conversion(unit_interval=True),
    )


def _load_images(root: Path, part: str) -> torch.Tensor:
    folder = root / OMNIGLOT_FOLDER
    if not (folder / part).is_dir():
        is_background = part == "images_background"
        fetch(
            "omniglot",
            folder,
            [part],
            lambda to: torchvision_dataset("Omniglot")(to, background=is_background, download=True),
        )
    # Sorted here, for torchvision lists the files in the order the disk has them.
    paths = sorted((folder / part).glob("*/*/*.png"))
    if len(paths) < 2:
        raise ValueError(
            f"{folder / part}: {len(paths)} images, expected alphabet/character/*.png: delete "
            "the folder and run again to download it"
        )
    return torch.from_numpy(np.stack([_read_ink(path) for path in paths]))


def _read_ink(path: Path) -> np.ndarray:
    """Read one drawing: float32 in [0, 1], ink 1, shape (784,)."""
    try:
        with Image.open(path) as image:
            ink = 1 - np.asarray(image.convert("L"), np.float32) / np.float32(255)
    # Pillow raises SyntaxError for a damaged PNG.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable image: delete its set's folder and run again to download it"
        ) from error
    height, width = ink.shape
    small: np.ndarray = _area_weights(height) @ ink @ _area_weights(width).T
    # The weights add up to 1 but for rounding.
    return small.clip(0, 1).ravel()


@functools.cache
def _area_weights(side: int) -> np.ndarray:
    """Weigh pixels by their overlap with `SIDE` equal intervals: float32, shape (SIDE, side).

    Pillow's box filter and torch's area mode use whole pixels only, unlike this.
    """
    edges = np.arange(SIDE + 1) * side / SIDE
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * SIDE / side).astype(np.float32)


def load_binarized_mnist(root: Path) -> Dataset:
    """Load MNIST in the fixed binarisation on which papers compare; downloaded if missing.

    The files, .amat or .amat.gz, are in root or in root/binarized_mnist; their 50,000, 10,000 and
    10,000 rows stay in order.

    Raises:
        FileNotFoundError: If the files are missing and cannot be downloaded.
        ValueError: If a file is broken.
    """
    folder = root / BINARIZED_FOLDER
    missing = [file for file in BINARIZED_FILES if _find(root, file) is None]
    if missing:
        fetch("binarized-mnist", folder, missing, lambda to: _download(missing, to))
    train, valid, test = (_read_bits(_find(root, f) or folder / f) for f in BINARIZED_FILES)
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
    folders, names = (root, root / BINARIZED_FOLDER), (file, f"{file}.gz")
    places = (folder / name for folder in folders for name in names)
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


def _read_bits(path: Path) -> torch.Tensor:
    """Read one text file: float32 zeros and ones, shape (n, 784).

    Raises:
        ValueError: If it is anything but lines of 784 single digits 0 or 1, blank lines aside.
    """

    def broken(what: str) -> ValueError:
        return ValueError(
            f"{path}: {what}, expected {PIXELS} zeros or ones a line with spaces between: delete "
            "it and run again to download it"
        )

    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                # One byte more than is allowed tells that the file holds more.
                raw = file.read(largest_content(path) + 1)
            require_content(path, len(raw))
        else:
            raw = path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not a whole gzip file ({error}): delete it and run again to download it"
        ) from error
    text = np.frombuffer(raw, np.uint8)
    is_digit = (text | 1) == ord("1")
    bad = ~(is_digit | np.isin(text, np.frombuffer(b" \t\r\n", np.uint8)))
    # Digits side by side are a number of several digits.
    bad[1:] |= is_digit[1:] & is_digit[:-1]
    if bad.any():
        line = 1 + np.count_nonzero(text[: bad.argmax()] == ord("\n"))
        raise broken(f"line {line} holds something else")
    # A line break at the end starts no line.
    starts = np.append(0, np.flatnonzero(text[:-1] == ord("\n")) + 1)
    # As integers: sums of booleans are booleans to NumPy.
    counts = np.add.reduceat(is_digit, starts, dtype=np.int64) if len(text) else np.zeros(1, int)
    wrong = np.flatnonzero((counts != PIXELS) & (counts != 0))
    if len(wrong):
        raise broken(f"line {wrong[0] + 1} has {counts[wrong[0]]} values")
    if not counts.any():
        raise broken("the file is empty")
    return torch.from_numpy((text[is_digit] == ord("1")).astype(np.float32).reshape(-1, PIXELS))
