import gzip
import hashlib

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ppl_vae.data import load_dataset

from .idx import idx_bytes, mnist_files

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def write(root, files, name="mnist"):
    folder = root / FOLDERS[name] / "raw"
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def mirror(web, monkeypatch, rng):
    """Serve a small MNIST in place of the real one; returns the server and its images."""
    files, *images = mnist_files(rng)
    resources = []
    for file, content in files.items():
        packed = gzip.compress(content)
        (web.folder / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "mirrors", [web.url])
    monkeypatch.setattr(MNIST, "resources", resources)
    return web, images


@pytest.mark.parametrize("name", FOLDERS)
def test_reads_local_files(tmp_path, rng, name):
    files, train, _ = mnist_files(rng)
    write(tmp_path, files, name)
    data = load_dataset(name, tmp_path)
    flat = torch.from_numpy(train.reshape(24, -1).astype(np.float32) / np.float32(255))
    assert torch.equal(data.train, flat[:20])
    assert torch.equal(data.valid, flat[20:])
    assert len(data.test) == 12
    assert (data.name, data.image_shape, data.features) == (name, (28, 28), 784)
    assert "20 train and 4 valid rows (the last of" in data.description


def test_validation_rows_may_be_others(tmp_path, rng):
    write(tmp_path, mnist_files(rng)[0])
    usual = load_dataset("mnist", tmp_path)
    for rows in (1, 2, 23):
        data = load_dataset("mnist", tmp_path, valid_rows=rows)
        assert (len(data.train), len(data.valid)) == (24 - rows, rows)
        # The same rows in the order of the file.
        assert torch.equal(
            torch.cat([data.train, data.valid]), torch.cat([usual.train, usual.valid])
        )
        assert torch.equal(data.test, usual.test)
        assert f"into {24 - rows} train and {rows} valid rows, the last ones." in data.description


@pytest.mark.parametrize("rows", [0, -1, 24, 100])
def test_impossible_numbers_of_validation_rows(tmp_path, rng, rows):
    write(tmp_path, mnist_files(rng)[0])
    with pytest.raises(ValueError, match=f"valid_rows must be from 1 to 23 .*, got {rows}"):
        load_dataset("mnist", tmp_path, valid_rows=rows)


def test_validation_rows_are_of_named_sets(rng, tmp_path):
    np.save(tmp_path / "x.npy", rng.random((30, 3)))
    for source in (rng.random((30, 3)), tmp_path / "x.npy"):
        with pytest.raises(ValueError, match="of other data give valid_fraction"):
            load_dataset(source, valid_rows=5)


def test_data_root_from_the_environment(tmp_path, rng, monkeypatch):
    write(tmp_path, mnist_files(rng)[0])
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    assert len(load_dataset("mnist").train) == 20


def test_labels_are_not_needed(tmp_path, rng):
    files = mnist_files(rng)[0]
    write(tmp_path, {file: raw for file, raw in files.items() if "images" in file})
    assert len(load_dataset("mnist", tmp_path).train) == 20


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize(
    "broken",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:7],
        lambda raw: b"",
        lambda raw: raw + b"0",
        lambda raw: b"<html>" + raw[6:],
    ],
)
def test_broken_file(tmp_path, rng, file, broken):
    files = mnist_files(rng)[0]
    folder = write(tmp_path, files | {file: broken(files[file])})
    with pytest.raises(ValueError, match="corrupt or cut short") as error:
        load_dataset("mnist", tmp_path)
    assert str(folder / file) in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_that_differ(tmp_path, rng):
    files = mnist_files(rng)[0]
    files["t10k-images-idx3-ubyte"] = idx_bytes(np.zeros((5, 8, 8)))
    write(tmp_path, files)
    with pytest.raises(ValueError, match=r"train images are \(24, 28, 28\), test images \(5, 8, 8"):
        load_dataset("mnist", tmp_path)


def test_downloads_what_is_missing(mirror, tmp_path, capsys):
    web, (train, _) = mirror
    data = load_dataset("mnist", tmp_path / "new")
    assert torch.equal((data.train * 255).round().byte(), torch.from_numpy(train[:20]).flatten(1))
    assert capsys.readouterr().out == ""
    raw = tmp_path / "new" / "MNIST" / "raw"
    assert len(list(raw.iterdir())) == 4
    # torchvision is content with what we left, and so are we without a server.
    assert len(MNIST(tmp_path / "new", train=False)) == 12
    for file in web.folder.iterdir():
        file.unlink()
    assert load_dataset("mnist", tmp_path / "new").fingerprint() == data.fingerprint()


@pytest.mark.parametrize("break_it", ["refused", "wrong"])
def test_failed_download_leaves_nothing(mirror, tmp_path, monkeypatch, break_it):
    if break_it == "refused":
        monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    else:
        (mirror[0].folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no")
    with pytest.raises(
        FileNotFoundError, match="data set 'mnist' not found: looked for train-im"
    ) as e:
        load_dataset("mnist", tmp_path)
    message = str(e.value)
    assert "\n" not in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "set the environment variable PPL_VAE_DATA, or data_root=" in message
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_root_that_cannot_hold_files(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="data set 'kmnist' not found"):
        load_dataset("kmnist", tmp_path / "file")
