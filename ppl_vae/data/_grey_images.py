"""Named sets of grey images: scikit-learn's digits, MNIST and its kind, Omniglot."""

import functools
import importlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ppl_vae.data._dataset import SPLIT_SEED, Dataset, split_rows
from ppl_vae.data._schema import Conversion
from ppl_vae.data._storage import fetch, torchvision_dataset

N_VALID, N_TEST = 180, 360
MNIST_KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Names to torchvision's classes, which are also the names of its folders."""
IMAGE_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABEL_FILES = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
IDX_HEADER_BYTES = 16
IDX_UINT8_3D = 0x0803
SIDE = 28
OMNIGLOT_FOLDER = "omniglot-py"
"""Where torchvision puts it."""


def load_digits() -> Dataset:
    """Load the 1,797 digits: 1,257 train, 180 valid and 360 test rows of 64 values in [0, 1]."""
    # Imported when asked for: most data are not these, and it takes two seconds.
    images = importlib.import_module("sklearn.datasets").load_digits().data
    conversion = Conversion(divisor=16)
    train, valid, test = split_rows(conversion.apply(images, "digits"), N_VALID, N_TEST)
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
    """Load a set of MNIST's kind from its raw files, which are downloaded if missing.

    The last sixth of the training file is valid: 50,000, 10,000 and 10,000 rows for all three.

    Args:
        name: "mnist", "fashion-mnist" or "kmnist".
        root: Folder of data sets; the files are in root/MNIST/raw, or FashionMNIST, KMNIST.

    Returns:
        The data set, grey values in [0, 1].

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
    are not the `chardata.mat` of Burda et al. (2016), so log p(x) does not compare with theirs.

    Args:
        root: Folder of data sets.

    Returns:
        The data set, grey values in [0, 1]: the background set is train and, a random tenth of
        it, valid; the evaluation set, of other alphabets, is test.

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
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable image: delete its set's folder and run again to download it"
        ) from error
    height, width = ink.shape
    small: np.ndarray = _area_weights(height) @ ink @ _area_weights(width).T
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
