"""Missing cells stay where they are asked to, and nowhere else."""

import math

import numpy as np
import pytest
import torch

from ppl_vae.data import load_dataset

GAPS = [(0, 1), (7, 0), (19, 2)]


def gappy(rng):
    x = rng.integers(0, 2, size=(20, 3)).astype(np.float32)
    for place in GAPS:
        x[place] = np.nan
    return x


def written(tmp_path, kind, x):
    path = tmp_path / f"gaps.{kind}"
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez(path, train=x[:15], test=x[15:])
    else:
        cells = [",".join("" if math.isnan(v) else f"{v:g}" for v in row) for row in x]
        path.write_text("\n".join(["a,b,c", *cells]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["array", "tensor", "npy", "npz", "csv"])
def test_kept_as_nan(tmp_path, rng, kind):
    x = gappy(rng)
    sources = {"array": x, "tensor": torch.from_numpy(x)}
    source = sources[kind] if kind in sources else written(tmp_path, kind, x)
    with pytest.raises(ValueError, match=r"missing or non-finite .*allow_missing=True"):
        load_dataset(source)
    data = load_dataset(source, allow_missing=True)
    rows = torch.cat([data.train, data.valid, data.test])
    assert rows.isnan().sum() == len(GAPS)
    assert rows.nansum().item() == np.nansum(x)
    assert data.is_binary


def test_infinity_is_none(rng):
    x = gappy(rng)
    x[4, 1] = np.inf
    with pytest.raises(ValueError, match=r"1 missing or non-finite value.* row 5, column 2"):
        load_dataset(x, allow_missing=True)


def test_they_are_part_of_the_fingerprint(rng):
    x, other = gappy(rng), gappy(rng)
    prints = {load_dataset(y, allow_missing=True).fingerprint() for y in (x, x.copy(), other)}
    assert len(prints) == 2
