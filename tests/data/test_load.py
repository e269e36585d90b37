import subprocess
import sys

import numpy as np
import pytest
import torch

from ppl_vae.data import DATASET_NAMES, DATASETS, Dataset, find_data_root, load_dataset


def test_names_agree():
    assert tuple(DATASETS) == DATASET_NAMES


def test_names_are_cheap():
    code = "import sys, ppl_vae.data as d; d.DATASET_NAMES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_scikit_learns():
    """Read from its file, so that nobody waits for its import."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().data).float() / 16
    data = load_dataset("digits")
    rows = torch.cat([data.train, data.valid, data.test])
    # Rows in another order: as sums with weights that tell the columns apart.
    weights = torch.arange(1.0, 65.0, dtype=torch.float64)
    assert torch.equal(
        (rows @ weights.float()).sort().values, (images @ weights.float()).sort().values
    )


def test_digits():
    data = load_dataset("digits")
    assert isinstance(data, Dataset)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [1257, 180, 360]
    assert (data.features, data.image_shape, data.is_binary) == (64, (8, 8), False)
    assert (data.train.min(), data.train.max()) == (0, 1)
    assert data.fingerprint() == load_dataset("digits", seed=1).fingerprint()


def test_binarize_and_seed():
    data = load_dataset("digits", binarize="static", seed=3)
    assert data.fingerprint() == load_dataset("digits").binarized("static", 3).fingerprint()


def test_arrays_and_tensors(rng):
    x = rng.normal(size=(20, 3)).astype(np.float32)
    assert load_dataset(x).fingerprint() == load_dataset(torch.from_numpy(x)).fingerprint()


def test_unknown_names():
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnits': did you mean 'mnist'\? known: d"
    ):
        load_dataset("mnits")
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        load_dataset("MNIST")
    with pytest.raises(ValueError, match=r"'zzz': known: .* A file is .npy, .npz, .csv or .par"):
        load_dataset("zzz")
    with pytest.raises(ValueError, match=r"unknown data set 'x\.txt'"):
        load_dataset("x.txt")


def test_unknown_options():
    with pytest.raises(
        TypeError, match=r"unknown option of load_dataset 'seperator': did you mean"
    ):
        load_dataset("t.csv", seperator=";")


def test_missing_file_and_other_types(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x.npy: no such file: check the path"):
        load_dataset(tmp_path / "x.npy")
    with pytest.raises(TypeError, match="cannot load a data set from list: give a name"):
        load_dataset([1, 2])


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path / "env"))
    assert find_data_root(tmp_path / "given") == tmp_path / "given"
    assert find_data_root() == tmp_path / "env"
    monkeypatch.delenv("PPL_VAE_DATA")
    assert "ppl_vae" in str(find_data_root())
