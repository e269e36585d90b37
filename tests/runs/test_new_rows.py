"""Rows of a file are those of the split that they were taken from, however the data are kept."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from ppl_vae.data import load_dataset, read_rows
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.runs import RunConfig, evaluate_run, open_run, train_run

N = 60
TEST = np.random.RandomState(20110411).permutation(N)[-6:]
"""Rows that the constant seed of splits takes for test."""
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (N, 3, 2)).astype(np.uint8)
MIXED = pd.DataFrame(
    {
        "town": RNG.choice(["Bern", "Oslo", "Rome"], N),
        "height": RNG.normal(170, 9, N),
        "seen": 1_700_000_000 + 100 * RNG.random(N),
        "unit": 0.1,
        "visits": RNG.poisson(3, N),
    }
)
MIXED.loc[::7, "height"] = np.nan
NUMBERS = MIXED[["seen", "visits"]]
CASES = {
    "uint8.npy": (GREY, "normal", {}),
    "uint8.npz": (GREY, "normal:0.3", {}),
    "bits.npy": (GREY, "bernoulli", {"binarize": "static"}),
    "floats.npy": (GREY / 255, "normal", {}),
    "times.npy": (NUMBERS.to_numpy(), "normal:feature", {}),
    "numbers.csv": (NUMBERS, "normal", {}),
    "numbers.parquet": (NUMBERS, "normal", {}),
    "mixed.csv": (MIXED, "table", {"columns": {"visits": "count"}}),
    "mixed.parquet": (MIXED, "table", {"columns": {"visits": "count"}}),
}


def write(path, data):
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez(path, rows=data)
    elif path.suffix == ".csv":
        data.to_csv(path, index=False)
    else:
        data.to_parquet(path)
    return path


def log_prob(run, **rows):
    found = evaluate_run(run, estimator=ImportanceSampling(5), progress=False, **rows)
    return found.log_prob


def trained(tmp_path, data, likelihood, **settings):
    config = RunConfig.of(
        data=str(data), likelihood=likelihood, latent=1, hidden=(4,), epochs=1,
        validation_particles=1, **settings,
    )  # fmt: skip
    run, _ = train_run(config, tmp_path / "run", progress=False, device="cpu")
    return run


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_test_rows_has_their_evidence(name, tmp_path):
    data, likelihood, settings = CASES[name]
    run = trained(tmp_path, write(tmp_path / name, data), likelihood, **settings)
    rows = data.iloc[TEST] if isinstance(data, pd.DataFrame) else data[TEST]
    new = write(tmp_path / f"new-{name}", rows)
    split = log_prob(run)
    assert len(split) == len(TEST)
    assert torch.equal(log_prob(run, file=new), split)
    opened = open_run(tmp_path / "run", device="cpu")
    assert torch.equal(opened.rows(file=new).x, run.dataset.test)


def test_levels_of_a_named_set(tmp_path):
    run = trained(tmp_path, "digits", "normal:0.3")
    images = load_digits().data
    order = np.random.RandomState(20110411).permutation(len(images))[-360:][:50]
    for kind in (np.float64, np.uint8):
        new = write(tmp_path / "new.npy", images[order].astype(kind))
        assert torch.equal(run.rows(file=new).x, run.dataset.test[:50])
    new = write(tmp_path / "new.npy", (images[order] / 16).astype(np.float32))
    assert torch.equal(run.rows(file=new).x, run.dataset.test[:50])


@pytest.mark.parametrize(
    ("train", "new", "message"),
    [
        (GREY, GREY * 3.7, "levels from 0 to 255, divided by 255: give such levels, or fractions"),
        (GREY, GREY / 100 - 1, "values range over"),
        (GREY, GREY % 2, "nothing but the whole numbers 0 and 1"),
        (GREY / 255, GREY, "whole numbers up to 25.*divide them as those were"),
        (GREY, GREY.reshape(N, 2, 3), r"rows have shape \(2, 3\).* images of shape \(3, 2\)"),
        (GREY, GREY.astype("U3"), "values are of type <U3"),
        (GREY, GREY[:0], "holds no rows"),
        (GREY, np.uint8(3), "holds no rows"),
    ],
)
def test_another_unit_is_refused(train, new, message, tmp_path):
    schema = load_dataset(train).schema
    with pytest.raises(ValueError, match=message) as error:
        read_rows(write(tmp_path / "new.npy", new), schema)
    assert "\n" not in str(error.value)


def test_a_file_of_several_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "new.npz", x=GREY, y=GREY)
    with pytest.raises(ValueError, match="holds the arrays x, y, expected one, of rows"):
        read_rows(tmp_path / "new.npz", load_dataset(GREY).schema)
