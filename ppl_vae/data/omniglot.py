"""Omniglot's handwritten characters, made 28 x 28."""

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.splits import SPLIT_SEED, split_rows
from ppl_vae.data.storage import fetch, torchvision_dataset

SIDE = 28
FOLDER = "omniglot-py"
"""Where torchvision puts it."""


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
    )


def _load_images(root: Path, part: str) -> torch.Tensor:
    folder = root / FOLDER
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
