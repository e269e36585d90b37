import numpy as np
import pytest
import torch

from ppl_vae.data import load_dataset


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_npy(tmp_path, rng, as_path):
    x = rng.normal(size=(30, 4, 5)).astype(np.float32)
    np.save(tmp_path / "faces.npy", x)
    data = load_dataset(as_path(tmp_path / "faces.npy"))
    assert (data.name, data.image_shape, data.features) == ("faces", (4, 5), 20)
    assert data.fingerprint() == load_dataset(x).fingerprint()


def test_npz_of_one_array(tmp_path, rng):
    x = rng.normal(size=(30, 4))
    np.savez_compressed(tmp_path / "x.npz", anything=x)
    assert load_dataset(tmp_path / "x.npz").fingerprint() == load_dataset(x).fingerprint()


def test_npz_of_splits(tmp_path):
    splits = {"train": np.zeros((20, 3)), "valid": np.ones((4, 3)), "test": np.full((5, 3), 2)}
    np.savez(tmp_path / "x.npz", **splits)
    data = load_dataset(tmp_path / "x.npz")
    assert torch.equal(data.valid, torch.ones(4, 3))
    assert torch.equal(data.test, torch.full((5, 3), 2.0))
    del splits["valid"]
    np.savez(tmp_path / "y.npz", **splits)
    data = load_dataset(tmp_path / "y.npz")
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 5)


@pytest.mark.parametrize("keys", [("x", "y"), ("train", "test", "labels"), ()])
def test_npz_of_other_arrays(tmp_path, keys):
    np.savez(tmp_path / "x.npz", **{key: np.zeros((20, 3)) for key in keys})
    with pytest.raises(ValueError, match=r"holds the arrays .*, expected exactly one, or train"):
        load_dataset(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_python_objects_are_refused(tmp_path, suffix):
    x = np.array([{}] * 12, dtype=object)
    path = tmp_path / f"x{suffix}"
    np.save(path, x) if suffix == ".npy" else np.savez(path, x=x)
    with pytest.raises(ValueError, match=r"holds Python objects, expected an array of numbers"):
        load_dataset(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 3, 100, -50])
def test_broken_files(tmp_path, suffix, keep):
    path = tmp_path / f"x{suffix}"
    np.save(path, np.zeros((20, 9))) if suffix == ".npy" else np.savez(path, x=np.zeros((20, 9)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"not a readable NumPy file") as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_npz_with_a_flipped_byte(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((200, 9)))
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"not a readable NumPy file"):
        load_dataset(path)
