"""Rows that are read as they are asked for are those in memory, value for value."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from counted_rows import CountedRows
from significance import Estimate, mean_of

from ppl_vae.data import (
    Dataset,
    LazyRows,
    Rows,
    _numpy_files,
    _parquet,
    _rows,
    _spool,
    _tables,
    as_rows,
    bad_rows,
    binarize_static,
    column_means,
    column_range,
    column_variances,
    column_varies,
    filled,
    in_memory,
    load,
    load_dataset,
    missing_by_column,
    read_ahead,
    read_rows,
    require_lossless,
    row_chunks,
    rows_hash,
    select,
    standard_moments,
)
from ppl_vae.identity import hash_rows, hash_tensors


@pytest.fixture
def small_memory(monkeypatch):
    """Hold 20 rows of 4 columns in memory, and read 16 at once."""
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 4 * 4)
    monkeypatch.setattr(_rows, "_CHUNK", 16 * 4)


def splits(data: Dataset) -> list:
    return [data.train, data.valid, data.test]


KINDS = {
    "float32": lambda rng: rng.normal(size=(97, 4)).astype("f4"),
    "unit": lambda rng: rng.random((97, 2, 2), dtype="f4"),
    "bits": lambda rng: rng.random((97, 4)) < 0.3,
    "grey": lambda rng: rng.integers(0, 256, (97, 2, 2)).astype("u1"),
    "seconds": lambda rng: 1.7e9 + rng.normal(size=(97, 4)),
    "counts": lambda rng: rng.poisson(3, (97, 4)),
    "big-endian": lambda rng: rng.normal(size=(97, 4)).astype(">f4"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_is_the_data_set_in_memory(kind, rng, tmp_path, request, monkeypatch):
    x = KINDS[kind](rng)
    np.save(tmp_path / "x.npy", x)
    held = load_dataset(tmp_path / "x.npy")
    request.getfixturevalue("small_memory")
    monkeypatch.setattr(_spool, "MAPPED", 0)
    lazy = load_dataset(tmp_path / "x.npy")
    for ours, theirs in zip(splits(lazy), splits(held), strict=True):
        assert isinstance(ours, LazyRows)
        assert torch.equal(torch.cat(list(row_chunks(ours))), theirs)
        assert rows_hash(ours) == hash_rows(theirs)
    assert lazy.fingerprint() == held.fingerprint()
    assert (lazy.schema, lazy.description) == (held.schema, held.description)
    assert (lazy.is_binary, lazy.missing_share) == (held.is_binary, held.missing_share)


def test_missing_cells_stay_missing(rng, request):
    x = rng.normal(size=(97, 4)).astype("f4")
    x[rng.random(x.shape) < 0.2] = np.nan
    held = load_dataset(x, allow_missing=True)
    request.getfixturevalue("small_memory")
    lazy = load_dataset(x, allow_missing=True)
    assert lazy.missing_share == held.missing_share > 0
    assert torch.equal(missing_by_column(lazy.train), held.train.isnan().sum(0))
    assert torch.equal(column_range(lazy.train), column_range(held.train))
    mean = column_means(held.train)
    expected = torch.where(held.train.isnan(), mean, held.train)
    assert torch.equal(filled(lazy.train, mean)[:], expected)


def test_a_value_that_is_not_finite_is_named_by_its_row(rng, small_memory):
    x = rng.normal(size=(97, 4)).astype("f4")
    x[70, 2] = np.inf
    with pytest.raises(ValueError, match=r"in row 71, column 3 \(counted from 1\)"):
        load_dataset(x)


def test_a_constant_column_is_named(rng, small_memory, caplog):
    x = rng.normal(size=(97, 4)).astype("f4")
    x[:, 1] = 0.1
    load_dataset(x)
    assert "1 of 4 columns never vary among the training rows (2)" in caplog.text


def test_large_values_that_would_be_lost_are_refused(rng, small_memory):
    # No constant brings both of two far clusters near to 0.
    x = rng.integers(0, 2, (97, 4)) * 1e12 + np.arange(97)[:, None]
    with pytest.raises(ValueError, match="in single precision"):
        load_dataset(x)


def test_the_summary_is_of_all_rows_and_takes_one_pass(rng, monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 64)
    x = torch.from_numpy(rng.normal(3, 2, (500, 3)) * [1, 100, 1e-3])
    x[7, 1], x[400, 0] = torch.nan, torch.nan
    rows = CountedRows(x)
    seen = rows.summary
    assert seen.sha256 == hash_rows(x)
    torch.testing.assert_close(seen.mean, x.nanmean(0), rtol=1e-13, atol=0)
    variance = torch.from_numpy(np.nanvar(x.numpy(), 0))
    torch.testing.assert_close(seen.variance, variance, rtol=1e-11, atol=0)
    assert torch.equal(column_range(rows), column_range(x))
    assert bad_rows(rows) == bad_rows(x) == (2, 7)
    assert bad_rows(rows, allow_missing=True) == bad_rows(x, allow_missing=True) == (0, None)
    assert rows.total == len(x)
    assert rows.most <= 64 // 3


def test_single_precision_sums_stay_accurate(rng, monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 4096)
    x = torch.from_numpy((50 + rng.normal(size=(20_000, 2))).astype("f4"))
    mean, variance = x.double().mean(0), x.double().var(0, correction=0)
    rows = CountedRows(x)
    torch.testing.assert_close(rows.summary.mean, mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(rows.summary.variance, variance, rtol=1e-5, atol=0)
    ours, theirs = standard_moments(rows), standard_moments(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(500, 1), (1797, 64), (300, 65), (200, 784), (3, 130)])
@pytest.mark.parametrize("missing", [False, True])
def test_moments_in_memory_are_those_of_torch_bit_for_bit(shape, dtype, missing, rng):
    x = torch.from_numpy(rng.normal(5, 3, shape)).to(dtype)
    if missing:
        x[torch.from_numpy(rng.random(shape) < 0.1)] = torch.nan
    mean = x.nanmean(0).nan_to_num(0.0)
    assert torch.equal(column_means(x), mean)
    assert torch.equal(column_variances(x), (x - mean).square().nanmean(0).nan_to_num(0.0))
    x[:, 0] = 0.1
    assert column_varies(x).tolist() == [False] + [True] * (shape[1] - 1)


def test_hashes_are_as_they_were(rng):
    """Of any type, layout and size: values of these hashes stand in files."""
    x = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    expected = "24c06fbaacba41d737d004fa7c67bd1c43d76bf21c2737eb345227b8753ac7e3"
    assert hash_rows(x) == expected
    assert hash_rows(x) == hash_tensors({"x": x})
    assert hash_rows(x.T.contiguous().T) == hash_rows(x)
    wide = torch.from_numpy(rng.normal(size=(9001, 2)))
    assert hash_rows(wide) == hash_tensors({"x": wide})


def test_fixed_draws_follow_from_the_rows_number(rng, small_memory):
    x = CountedRows(torch.from_numpy(rng.random((50, 4), dtype="f4")))
    drawn = binarize_static(x, 3, 1)
    every, order = drawn[:], torch.from_numpy(rng.permutation(50))
    assert torch.equal(drawn[order], every[order])
    assert set(every.unique().tolist()) == {0.0, 1.0}
    others = binarize_static(x, 4, 1)[:], binarize_static(x, 3, 0)[:]
    assert not any(torch.equal(every, other) for other in others)


def test_fixed_draws_have_their_probabilities(significance):
    p = torch.linspace(0.05, 0.95, 10).expand(20_000, 10)
    drawn = binarize_static(CountedRows(p), 0)[:].double()
    count = torch.full((10,), 20_000.0)
    error = (p[0] * (1 - p[0]) / count).sqrt()
    share = significance.split(20)
    for mean, exact, one in zip(drawn.mean(0), p[0], error, strict=True):
        share.require_equal(Estimate(float(mean), float(one)), float(exact))
    # Neighbours, in a row and between rows, are independent.
    away = (drawn - p) / (p * (1 - p)).sqrt()
    for product in (away[:, 1:] * away[:, :-1], away[1:] * away[:-1]):
        share.require_equal(mean_of(product), 0.0)


def test_values_that_are_no_probabilities_are_not_drawn():
    with pytest.raises(ValueError, match="cannot binarise"):
        binarize_static(CountedRows(torch.full((3, 2), 1.5)), 0)[:]


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_large_data_set_is_binarised(mode, rng, tmp_path, small_memory):
    x = rng.random((97, 4), dtype="f4")
    data = load_dataset(x, binarize=mode)
    assert isinstance(data.train, LazyRows)
    assert data.is_binary == (mode == "static")
    assert set(data.valid[:].unique().tolist()) == {0.0, 1.0}
    # The test rows from a file of their own, few enough for memory, have the same draws.
    grey = load_dataset(x)
    np.save(tmp_path / "test.npy", grey.test[:].numpy())
    assert torch.equal(read_rows(tmp_path / "test.npy", data.schema), data.test[:])
    again = load_dataset(x, binarize=mode)
    assert again.fingerprint() == data.fingerprint()
    assert load_dataset(x, binarize=mode, seed=1).fingerprint() != data.fingerprint()


def test_memory_maps_are_rows_that_stay_in_their_file(rng, tmp_path):
    x = rng.normal(size=(30, 3))
    np.save(tmp_path / "x.npy", x)
    rows = as_rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert isinstance(rows, LazyRows)
    assert (tuple(rows.shape), rows.dtype, rows.dim()) == ((30, 3), torch.float64, 2)
    assert np.array_equal(rows[:].numpy(), x)
    assert np.array_equal(rows[-1].numpy(), x[-1])
    assert np.array_equal(rows[torch.tensor([4, 2])].numpy(), x[[4, 2]])
    assert torch.equal(load(rows, torch.device("cpu")), torch.from_numpy(x))


def test_selections_read_nothing_until_they_are_asked(rng):
    rows = CountedRows(torch.arange(20.0)[:, None])
    some = select(select(rows, torch.tensor([9, 3, 5, 7])), slice(1, 3))
    assert rows.total == 0
    assert some[:].flatten().tolist() == [3, 5]
    assert len(Rows(rows)[4:9]) == 5


def test_another_type_is_checked_as_it_is_read():
    x = torch.ones(9, 2, dtype=torch.float64)
    x[5, 1] = 0.1
    cast = require_lossless(CountedRows(x), torch.float32)
    assert torch.equal(cast[:5], x[:5].float())
    with pytest.raises(ValueError, match="which would round it"):
        cast[5]


def test_what_needs_all_rows_says_so(small_memory):
    rows = CountedRows(torch.zeros(100, 4))
    with pytest.raises(ValueError, match="an exemplar prior needs all rows in memory"):
        in_memory(rows, "an exemplar prior")


def test_batches_are_read_ahead_by_a_thread_that_ends_with_its_reader():
    class Slow(CountedRows):
        def read(self, index):
            threads.add(threading.current_thread())
            return super().read(index)

    threads: set = set()
    rows = Slow(torch.arange(40.0)[:, None])
    batches = torch.arange(40).split(4)
    reader = read_ahead(rows, batches)
    index, first = next(reader)
    assert index.tolist() == first.flatten().tolist() == [0, 1, 2, 3]
    assert threading.main_thread() not in threads
    reader.close()
    assert not any(thread.is_alive() for thread in threads)
    # What was not begun is left: the batch, those ahead, and none of the others.
    assert rows.total <= 4 * (1 + _rows.AHEAD)
    read = [batch for _, batch in read_ahead(rows, batches)]
    assert torch.equal(torch.cat(read), rows.x)


def test_an_error_while_reading_ahead_reaches_the_caller():
    rows = require_lossless(CountedRows(torch.full((9, 1), 0.1).double() / 3), torch.float32)
    with pytest.raises(ValueError, match="round"):
        list(row_chunks(rows))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_archive_is_the_data_set_in_memory(save, order, rng, tmp_path, monkeypatch):
    x = np.asarray(rng.normal(size=(97, 4)), order=order)
    save(tmp_path / "x.npz", train=x[:70], valid=x[70:80], test=x[80:])
    save(tmp_path / "one.npz", x)
    held = [load_dataset(tmp_path / name) for name in ("x.npz", "one.npz")]
    monkeypatch.setattr(_spool, "MAPPED", 0)
    monkeypatch.setattr(_numpy_files, "_PART", 1000)
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 4 * 4)
    lazy = [load_dataset(tmp_path / name) for name in ("x.npz", "one.npz")]
    assert all(isinstance(data.train, LazyRows) for data in lazy)
    assert [data.fingerprint() for data in lazy] == [data.fingerprint() for data in held]


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_large_file_of_objects_or_cut_short_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(_spool, "MAPPED", 0)
    save = np.save if name.endswith("npy") else np.savez
    save(tmp_path / name, np.array([object()] * 20))
    with pytest.raises(ValueError, match="holds Python objects"):
        load_dataset(tmp_path / name)
    save(tmp_path / name, np.zeros((100, 4)))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="corrupt or cut short"):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
def test_a_large_parquet_file_is_the_table_in_memory(dtype, rng, tmp_path, monkeypatch):
    table = pd.DataFrame(rng.normal(0, 50, (97, 4)).astype(dtype), columns=list("abcd"))
    table["e"] = pd.array([None, *range(5), *range(91)], "Int64") if dtype == "i8" else 1.0 / 3
    table.index = table.index * 3
    table.to_parquet(tmp_path / "x.parquet", row_group_size=10)
    options = {"allow_missing": True, "drop": ["b"]}
    held = load_dataset(tmp_path / "x.parquet", **options)
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 4 * 4)
    monkeypatch.setattr(_parquet, "_CELLS_AT_ONCE", 50)
    monkeypatch.setattr(_tables, "read_parquet", None)
    lazy = load_dataset(tmp_path / "x.parquet", **options)
    assert isinstance(lazy.train, LazyRows)
    assert (lazy.schema, lazy.description) == (held.schema, held.description)
    assert lazy.feature_names == ("a", "c", "d", "e")
    assert lazy.fingerprint() == held.fingerprint()
    with pytest.raises(ValueError, match="no column 'z'"):
        load_dataset(tmp_path / "x.parquet", drop=["z"])


def test_a_large_parquet_file_with_text_is_read_in_memory(rng, tmp_path, monkeypatch):
    table = pd.DataFrame({"a": rng.normal(size=97), "b": ["1", "2", "3"] * 32 + ["5"]})
    table.to_parquet(tmp_path / "x.parquet")
    held = load_dataset(tmp_path / "x.parquet")
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 2 * 4)
    assert load_dataset(tmp_path / "x.parquet").fingerprint() == held.fingerprint()


def test_rows_that_differ_are_not_put_into_one_file():
    with pytest.raises(ValueError, match=r"from row 2 on, float32 of shape \(4,\)"):
        _spool.spool([np.zeros((2, 3), "f4"), np.zeros((2, 4), "f4")], "train")


@pytest.mark.parametrize("binarize", ["none", "static"])
def test_new_rows_of_a_large_file_are_those_read_in_memory(binarize, rng, tmp_path, monkeypatch):
    data = load_dataset(rng.integers(0, 256, (97, 4)).astype("u1"), binarize=binarize)
    np.save(tmp_path / "new.npy", rng.integers(0, 256, (50, 4)))
    held = read_rows(tmp_path / "new.npy", data.schema)
    monkeypatch.setattr(_rows, "IN_MEMORY", 20 * 4 * 4)
    lazy = read_rows(tmp_path / "new.npy", data.schema)
    assert isinstance(lazy, LazyRows)
    if binarize == "none":
        assert torch.equal(lazy[:], held)
    else:
        # Draws of lazy rows follow from their numbers: other ones, of the same probabilities.
        assert set(lazy[:].unique().tolist()) == {0.0, 1.0}
    np.save(tmp_path / "new.npy", rng.integers(0, 300, (50, 4)))
    with pytest.raises(ValueError, match="give such levels, or fractions"):
        read_rows(tmp_path / "new.npy", data.schema)
