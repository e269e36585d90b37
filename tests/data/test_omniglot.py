import hashlib
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Omniglot

from ppl_vae.data import load_dataset

PARTS = {"images_background": 20, "images_evaluation": 5}


def write(folder, rng):
    """Two alphabets of 1-bit drawings, as in the published archives; returns them in order."""
    drawings = {}
    for part, n in PARTS.items():
        drawings[part] = []
        for i in range(n):
            ink = rng.random((105, 105)) < 0.1
            path = folder / part / f"Alphabet_{i // 10}" / "character01" / f"{i:04}_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(~ink).save(path)
            drawings[part].append(ink)
    return drawings


def average(ink):
    """Average a drawing over areas to 28 x 28, exactly: by way of a grid that both divide."""
    fine = ink.repeat(28, 0).repeat(28, 1)
    return fine.reshape(28, 105, 28, 105).mean((1, 3)).ravel()


def test_reads_local_folders(tmp_path, rng):
    drawings = write(tmp_path / "omniglot-py", rng)
    data = load_dataset("omniglot", tmp_path)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [18, 2, 5]
    assert (data.image_shape, data.features) == ((28, 28), 784)
    expected = np.stack([average(ink) for ink in drawings["images_evaluation"]])
    assert np.abs(data.test.numpy() - expected).max() < 1e-6
    background = {row.numpy().tobytes() for row in torch.cat([data.train, data.valid])}
    assert len(background) == 20


def test_broken_or_absent_images(tmp_path, rng):
    write(tmp_path / "omniglot-py", rng)
    folder = tmp_path / "omniglot-py" / "images_evaluation"
    image = next(folder.rglob("*.png"))
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(ValueError, match="not a readable image") as error:
        load_dataset("omniglot", tmp_path)
    assert str(image) in str(error.value)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match="0 images, expected alphabet/character"):
        load_dataset("omniglot", tmp_path)


def test_downloads_what_is_missing(web, tmp_path, rng, monkeypatch):
    write(tmp_path / "there", rng)
    sums = {}
    for part in PARTS:
        file = shutil.make_archive(str(web.folder / part), "zip", tmp_path / "there", part)
        sums[part] = hashlib.md5((web.folder / file).read_bytes()).hexdigest()
    monkeypatch.setattr(Omniglot, "download_url_prefix", web.url.rstrip("/"))
    monkeypatch.setattr(Omniglot, "zips_md5", sums)
    data = load_dataset("omniglot", tmp_path)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [18, 2, 5]
    assert {p.name for p in (tmp_path / "omniglot-py").iterdir()} == set(PARTS)
    monkeypatch.setattr(Omniglot, "zips_md5", dict.fromkeys(PARTS, "0" * 32))
    with pytest.raises(FileNotFoundError, match="data set 'omniglot' not found: looked for images"):
        load_dataset("omniglot", tmp_path / "other")
