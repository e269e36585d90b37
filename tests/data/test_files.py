import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


def numbers(path):
    with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
        for _ in range(40):
            writer.write_table(pa.table({"x": np.zeros(10**6, np.int64)}))


def a_text_again_and_again(path):
    codes = pa.array(np.arange(40_000, dtype=np.int32) % 2)
    column = pa.DictionaryArray.from_arrays(codes, ["a" * 20_000, "b" * 20_000])
    pq.write_table(pa.table({"x": column, "y": np.arange(40_000)}), path, store_schema=False)


def long_texts(path):
    texts = [chr(48 + i % 50) * 2_000_000 for i in range(140)]
    pq.write_table(pa.table({"x": texts}), path, compression="zstd", use_dictionary=False)


@pytest.mark.parametrize("write", [numbers, a_text_again_and_again, long_texts])
def test_a_parquet_file_that_stands_for_much_is_refused(write, tmp_path):
    write(tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"holds [\d,]{11} bytes or more when unpacked") as error:
        load_dataset(tmp_path / "x.parquet", columns={})
    assert "\n" not in str(error.value)


def test_a_npz_file_that_stands_for_much_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(3 * 10**8, np.uint8))
    with pytest.raises(ValueError, match=r"holds 300,000,\d+ bytes or more when unpacked"):
        load_dataset(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_long_cell_is_not_printed_whole(suffix, tmp_path):
    table = pd.DataFrame({"x": [*map(str, range(20)), "a" * 10**5], "y": range(21)})
    path = tmp_path / f"x.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    with pytest.raises(ValueError, match="column 'x' is not numeric: 'aaa") as error:
        load_dataset(path)
    assert len(str(error.value)) < 500
