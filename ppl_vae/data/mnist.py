"""MNIST and the sets made to its measure, in torchvision's folder layout."""

from pathlib import Path

import numpy as np
import torch

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.storage import fetch, torchvision_dataset

KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Names to torchvision's classes, which are also the names of its folders."""
IMAGE_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABEL_FILES = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
IDX_HEADER_BYTES = 16
IDX_UINT8_3D = 0x0803


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
    kind = KINDS[name]
    folder = root / kind / "raw"
    if not all((folder / file).is_file() for file in IMAGE_FILES):
        # The labels come along, so that torchvision finds its set whole.
        fetch(
            name,
            folder,
            IMAGE_FILES + LABEL_FILES,
            lambda to: torchvision_dataset(kind)(to, download=True),
        )
    rest, test = (_read_images(folder / file) for file in IMAGE_FILES)
    if rest.shape[1:] != test.shape[1:] or len(rest) < 6:
        raise ValueError(
            f"{folder}: train images are {tuple(rest.shape)}, test images {tuple(test.shape)}, "
            "expected one size and at least 6 to train on: replace the files"
        )
    n_valid = len(rest) // 6
    train, valid = rest[:-n_valid], rest[-n_valid:]
    return Dataset(
        name,
        train.flatten(1),
        valid.flatten(1),
        test.flatten(1),
        tuple(rest.shape[1:]),
        description=(
            f"{kind} grey values divided by 255, {len(train)} train and {len(valid)} "
            f"valid rows (the last of the training file), {len(test)} test rows, in file order."
        ),
    )


def _read_images(path: Path) -> torch.Tensor:
    """Read an IDX file of images: float32 in [0, 1], shape (n, h, w)."""
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
    images = np.frombuffer(raw, np.uint8, offset=IDX_HEADER_BYTES).reshape(shape)
    return torch.from_numpy(images.astype(np.float32) / np.float32(255))
