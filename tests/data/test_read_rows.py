"""New rows, read as those of the training data."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import Schema, load_dataset, read_rows


def people(rows=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"town": rng.choice(["Bern", "Oslo", "Rome"], rows), "height": rng.normal(170, 9, rows)}
    )


def test_columns_are_matched_by_name(tmp_path):
    people().to_csv(tmp_path / "a.csv", index=False)
    data = load_dataset(tmp_path / "a.csv", columns={})
    schema = Schema.from_mapping(json.loads(json.dumps(data.schema.to_mapping())))
    assert schema == data.schema
    new = pd.DataFrame({"other": 1, "height": [1.5, np.nan], "town": ["Oslo", "Rome"]})
    new.to_csv(tmp_path / "b.csv", index=False)
    rows = read_rows(tmp_path / "b.csv", schema)
    torch.testing.assert_close(rows, torch.tensor([[1, 1.5], [2, torch.nan]]), equal_nan=True)
    new.drop(columns="town").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match="no column 'town', which the model was trained with"):
        read_rows(tmp_path / "b.csv", schema)
    new.replace("Rome", "Paris").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match="'Paris' in row 2"):
        read_rows(tmp_path / "b.csv", schema)


def test_arrays(tmp_path, rng):
    x = rng.normal(size=(20, 4, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    schema = load_dataset(tmp_path / "a.npy").schema
    assert torch.equal(read_rows(str(tmp_path / "a.npy"), schema), torch.from_numpy(x).flatten(1))
    np.save(tmp_path / "b.npy", x[:, :2])
    with pytest.raises(ValueError, match=r"shape \(2, 5\), the model was trained with 20 values"):
        read_rows(tmp_path / "b.npy", schema)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_rows(tmp_path / "c.npy", schema)
