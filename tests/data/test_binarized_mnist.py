import gzip
import hashlib

import numpy as np
import pytest

from ppl_vae.data import _named as named
from ppl_vae.data import load_dataset
from ppl_vae.data._named import BINARIZED_FILES as FILES


@pytest.fixture
def images(rng):
    return {file: rng.integers(0, 2, (n, 784)) for file, n in zip(FILES, (9, 4, 5), strict=True)}


def text(x, end="\n"):
    return "".join(" ".join(map(str, row)) + end for row in x).encode()


def write(folder, images, packed=False):
    folder.mkdir(exist_ok=True)
    for file, x in images.items():
        if packed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(text(x)))
        else:
            (folder / file).write_bytes(text(x))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", [".", "binarized_mnist"])
def test_reads_local_files_in_order(tmp_path, images, packed, folder):
    write(tmp_path / folder, images, packed)
    data = load_dataset("binarized-mnist", tmp_path)
    for x, split in zip(images.values(), (data.train, data.valid, data.test), strict=True):
        assert np.array_equal(split.numpy(), x)
    assert data.is_binary
    assert data.image_shape == (28, 28)
    assert "Larochelle and Murray (2011), 9 train" in data.description


@pytest.mark.parametrize("end", ["\r\n", " \n", "\n\n"])
def test_line_ends(tmp_path, images, end):
    write(tmp_path, images)
    (tmp_path / FILES[1]).write_bytes(text(images[FILES[1]], end).rstrip())
    assert np.array_equal(load_dataset("binarized-mnist", tmp_path).valid, images[FILES[1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:1600] + b"2" + raw[1601:], "line 2 holds something else"),
        (lambda raw: raw.replace(b"0 ", b"0.0 ", 1), "line 1 holds something else"),
        (lambda raw: raw.replace(b" ", b"", 1), "line 1 holds something else"),
        (lambda raw: raw[:-5], "line 4 has 782 values"),
        (lambda raw: raw.replace(b"\n", b" ", 1), "line 1 has 1568 values"),
        (lambda raw: b"", "the file is empty"),
        (lambda raw: b"\n\n", "the file is empty"),
    ],
)
def test_broken_text(tmp_path, images, change, message):
    write(tmp_path, images)
    path = tmp_path / FILES[1]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("binarized-mnist", tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [lambda raw: raw[:-20], lambda raw: b"text", lambda raw: b""])
def test_broken_gzip(tmp_path, images, change):
    write(tmp_path, images, packed=True)
    path = tmp_path / f"{FILES[2]}.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"_test.amat.gz: "):
        load_dataset("binarized-mnist", tmp_path)


def test_downloads_only_what_is_missing(web, tmp_path, images, monkeypatch):
    monkeypatch.setattr(named, "BASE_URL", web.url)
    write(tmp_path, {FILES[0]: images[FILES[0]]})
    write(web.folder, {file: images[file] for file in FILES[1:]})
    hashes = {f: hashlib.sha256((web.folder / f).read_bytes()).hexdigest() for f in FILES[1:]}
    monkeypatch.setattr(named, "_SHA256", hashes)
    data = load_dataset("binarized-mnist", tmp_path)
    assert np.array_equal(data.test, images[FILES[2]])
    assert {p.name for p in (tmp_path / "binarized_mnist").iterdir()} == set(FILES[1:])


def test_download_that_breaks_off_leaves_nothing(web, tmp_path, images, monkeypatch):
    monkeypatch.setattr(named, "BASE_URL", web.url)
    write(web.folder, images)
    web.lie = True
    with pytest.raises(FileNotFoundError, match="broke off with 100 bytes to go"):
        load_dataset("binarized-mnist", tmp_path)
    assert list((tmp_path / "binarized_mnist").iterdir()) == []


def test_a_download_that_is_not_the_published_file_is_refused(web, tmp_path, images, monkeypatch):
    monkeypatch.setattr(named, "BASE_URL", web.url)
    write(web.folder, images)
    with pytest.raises(FileNotFoundError, match="not the published file: SHA-256 differs"):
        load_dataset("binarized-mnist", tmp_path)
    assert list((tmp_path / "binarized_mnist").iterdir()) == []


def test_missing_and_not_to_be_had(web, tmp_path, monkeypatch):
    monkeypatch.setattr(named, "BASE_URL", web.url)
    with pytest.raises(FileNotFoundError, match="data set 'binarized-mnist' not found") as error:
        load_dataset("binarized-mnist", tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in (*FILES, str(tmp_path), "404", "data_root"))
