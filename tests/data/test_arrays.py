import numpy as np
import pytest
import torch

from ppl_vae.data import dataset_from_array, dataset_from_splits


def all_rows(data):
    return torch.cat([data.train, data.valid, data.test])


@pytest.mark.parametrize(
    ("n", "sizes"), [(10, (8, 1, 1)), (14, (12, 1, 1)), (16, (12, 2, 2)), (1000, (800, 100, 100))]
)
def test_splits_are_disjoint_and_complete(n, sizes):
    x = np.arange(n, dtype=np.float32)
    data = dataset_from_array(x)
    assert (len(data.train), len(data.valid), len(data.test)) == sizes
    assert sorted(all_rows(data)[:, 0].tolist()) == x.tolist()


def test_split_is_pinned():
    # Results on a split must stay comparable from one version of this package to the next.
    data = dataset_from_array(np.arange(20.0))
    assert [data.valid[:, 0].tolist(), data.test[:, 0].tolist()] == [[14, 9], [16, 8]]
    assert "80/10/10 by a permutation with the constant seed" in data.description


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((12,), None), ((12, 6), None), ((12, 2, 3), (2, 3)), ((12, 3, 2, 2), (3, 2, 2))],
)
def test_shapes(shape, image_shape, rng):
    x = rng.normal(size=shape)
    data = dataset_from_array(x, "shaped")
    assert data.name == "shaped"
    assert data.image_shape == image_shape
    assert data.features == int(np.prod(shape[1:]))
    assert data.train.dtype == torch.float32
    flat = {tuple(row) for row in x.reshape(12, -1).astype(np.float32).tolist()}
    assert {tuple(row) for row in all_rows(data).tolist()} == flat


def test_bytes_are_divided_only_if_above_one():
    grey = dataset_from_array(np.full((10, 2), 255, np.uint8))
    assert all_rows(grey).unique().tolist() == [1.0]
    assert "divided by 255" in grey.description
    binary = dataset_from_array(np.ones((10, 2), np.uint8))
    assert binary.is_binary
    assert "as given" in binary.description
    assert dataset_from_array(np.full((10, 2), 255)).train.max() == 255


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float64, torch.int64])
def test_tensors(dtype):
    x = torch.eye(10).to(dtype)
    assert dataset_from_array(x).is_binary


def test_data_do_not_alias_the_array():
    x = np.zeros((10, 2), np.float32)
    data = dataset_from_splits(x, x, x)
    x += 1
    assert not all_rows(data).any()


def test_tensor_that_requires_grad():
    assert not dataset_from_array(torch.zeros(10, 2, requires_grad=True)).train.requires_grad


def test_non_finite_values():
    x = np.zeros((12, 2, 2))
    x[3, 1, 0], x[7, 0, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"^gap: 2 missing .* first in row 4, column 3 \(counted"):
        dataset_from_array(x, "gap")
    with pytest.raises(ValueError, match=r"1 missing or non-finite.* row 1, column 1"):
        dataset_from_array(np.array([1e300] + [0.0] * 11))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((9, 2)), r"too few rows: got 9 in few \(9, 2\), expected at least 10"),
        (np.zeros((0, 6)), r"few holds no data: give at least 10 rows$"),
        (np.zeros(0), r"few holds no data: give at least 10 rows$"),
        (np.zeros((20, 0)), r"few has rows without values \(shape \(20, 0\)\): give at least one"),
        (np.zeros(()), "few is one number: give an array, rows first"),
        (np.full((10, 2), "a"), "few: values are of type <U1, expected real numbers"),
        (np.zeros((10, 2), complex), "few: values are of type complex128"),
        (torch.zeros(10, 2, dtype=torch.complex64), "few: values are of type complex64"),
    ],
)
def test_unfit_arrays(x, message):
    with pytest.raises(ValueError, match=message) as error:
        dataset_from_array(x, "few")
    assert "\n" not in str(error.value)


def test_given_splits_keep_their_order(rng):
    train, valid, test = (rng.random((n, 2, 2), dtype=np.float32) for n in (8, 3, 2))
    data = dataset_from_splits(train, test, valid, name="given")
    for x, split in [(train, data.train), (valid, data.valid), (test, data.test)]:
        assert np.array_equal(split.numpy(), x.reshape(-1, 4))
    assert data.image_shape == (2, 2)
    assert "split as given" in data.description


def test_valid_is_cut_from_train():
    train, test = np.arange(40.0), np.arange(100.0, 105)
    data = dataset_from_splits(train, test)
    assert len(data.valid) == 4
    assert sorted(torch.cat([data.train, data.valid])[:, 0].tolist()) == train.tolist()
    assert data.test[:, 0].tolist() == test.tolist()


def test_bytes_in_splits_are_divided_alike():
    dark, bright = np.ones((10, 2), np.uint8), np.full((10, 2), 255, np.uint8)
    data = dataset_from_splits(bright, dark)
    assert data.test.max() == np.float32(1) / np.float32(255)


def test_splits_of_different_shapes():
    with pytest.raises(ValueError, match=r"splits differ in shape: array train \(10, 2\), array t"):
        dataset_from_splits(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(ValueError, match=r"^array test holds no data: give at least one row$"):
        dataset_from_splits(np.zeros((10, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="array test: 1 missing"):
        dataset_from_splits(np.zeros(10), np.array([np.nan]))
