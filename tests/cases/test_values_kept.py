"""Values on the way into single precision, and columns that never vary."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import nbinom
from significance import Estimate
from torch.nn.functional import softplus

from ppl_vae.data import Column, Schema, dataset_from_splits, load_dataset, read_rows
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import NormalDecoder, TableDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

N = 600
RNG = np.random.default_rng(0)
SPEED = RNG.normal(size=N)
SECOND = RNG.integers(0, 60, N) + 10 * SPEED
WRITERS = {
    "npy": np.save,
    "npz": lambda path, x: np.savez(path, x=x),
    "csv": lambda path, x: pd.DataFrame(x, columns=["t", "v"]).to_csv(path, index=False),
    "parquet": lambda path, x: pd.DataFrame(x, columns=["t", "v"]).to_parquet(path),
}


def distinct(data):
    return len(torch.cat([data.train, data.valid, data.test])[:, 0].unique())


@pytest.mark.parametrize("kind", ["array", *WRITERS])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_times_since_1970_are_kept(kind, scale, tmp_path):
    x = np.column_stack([scale * (SECOND + 1_700_000_000), SPEED])
    source = x
    if kind in WRITERS:
        source = tmp_path / f"t.{kind}"
        WRITERS[kind](source, x)
    data = load_dataset(source)
    assert distinct(data) == N
    assert "so that single precision holds the values" in data.description
    schema = Schema.from_mapping(json.loads(json.dumps(data.schema.to_mapping())))
    assert schema == data.schema
    back = schema.restore(torch.cat([data.train, data.valid, data.test]).numpy())
    np.testing.assert_allclose(np.sort(back[:, 0]), np.sort(x[:, 0]), rtol=0, atol=1e-5 * scale)
    if kind in WRITERS:
        rows = read_rows(source, schema)
        np.testing.assert_allclose(schema.restore(rows.numpy()), x, rtol=0, atol=1e-5 * scale)


def bound(columns):
    data = load_dataset(np.column_stack(columns))
    torch.manual_seed(0)
    encoder = DiagonalNormalEncoder(MLP(2, [16], 2))
    decoder = NormalDecoder(MLP(1, [16], 2), "feature", data=data.train)
    vae = VAE(StandardNormalPrior(1), decoder, encoder)
    mean, spread = data.train.mean(0), data.train.std(0)
    inner = encoder.forward
    encoder.forward = lambda x: inner((x - mean) / spread)
    fit(vae.model, vae.guide, ELBO(), data.train,
        valid=data.valid, epochs=10, learning_rate=1e-2, progress=False, device="cpu")  # fmt: skip
    return ImportanceSampling(500)(vae.model, vae.guide, data.test)


def test_a_constant_that_is_added_changes_no_density():
    """The same rows in single precision, so the same training and draws: equal up to rounding."""
    plain = bound([SECOND, SPEED])
    shifted = bound([SECOND + 1_700_000_000, SPEED])
    torch.testing.assert_close(shifted.log_prob, plain.log_prob, rtol=0, atol=1e-4)


def test_a_unit_is_the_logarithm_of_its_size(significance):
    """Milliseconds train from other parameters, to the density of the data in seconds.

    The best normal density of both columns is the entropy of what they were drawn from, up to the
    uniform seconds' own; data, not training, are what leaves the means apart from it.
    """
    spread = np.sqrt((60**2 - 1) / 12)
    best = -np.log(2 * np.pi * np.e * spread)
    for scale in (1.0, 1000.0):
        found = bound([scale * (SECOND + 1_700_000_000), SPEED])
        in_seconds = Estimate(found.mean + np.log(scale), found.total_error)
        significance.split(2).require_equal(in_seconds, best)


def test_what_cannot_be_kept_is_refused(tmp_path):
    counts = pd.DataFrame({"n": 16_777_000_001 + RNG.integers(0, 60, N), "v": SPEED})
    counts.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"column 'n': 60 different values become .* in single"):
        load_dataset(tmp_path / "t.csv", columns={"n": "count"})
    assert distinct(load_dataset(tmp_path / "t.csv", columns={})) == 60


@pytest.mark.parametrize("value", [0.5, 0.1, 37.7, 1013.25, "kg", 1e9])
@pytest.mark.parametrize("holes", [False, True])
def test_a_constant_column_is_left_out(value, holes, tmp_path, caplog):
    table = pd.DataFrame({"a": SPEED, "unit": value})
    if holes:
        table.loc[::3, "unit"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(tmp_path / "t.csv", columns={})
    assert [column.name for column in data.columns] == ["a"]
    assert "left out, never varying: 'unit'" in caplog.text
    pd.DataFrame({"a": [1.0, 2.0]}).to_csv(tmp_path / "u.csv", index=False)
    assert read_rows(tmp_path / "u.csv", data.schema).tolist() == [[1.0], [2.0]]
    assert len(read_rows(tmp_path / "t.csv", data.schema)) == N
    pd.DataFrame({"a": [1.0, 2.0], "unit": [value, 7]}).to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(ValueError, match=r"column 'unit' holds '7.*' in row 2, and was"):
        read_rows(tmp_path / "u.csv", data.schema)


def test_a_column_that_varies_in_other_rows_only(tmp_path):
    order = np.random.RandomState(20110411).permutation(N)
    unit = np.full(N, 0.1)
    unit[order[-1]] = 5.0
    pd.DataFrame({"a": SPEED, "unit": unit}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="'unit' does not vary among the training rows"):
        load_dataset(tmp_path / "t.csv", columns={"unit": "real"})
    pd.DataFrame({"a": [1.5] * N}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="no column holds different values"):
        load_dataset(tmp_path / "t.csv", columns={})


@pytest.mark.parametrize("kind", ["array", "splits", *WRITERS])
def test_a_constant_column_of_plain_numbers_is_named(kind, tmp_path, caplog):
    x = np.column_stack([SPEED, np.full(N, 0.1)])
    if kind == "splits":
        dataset_from_splits(x[:500], x[500:])
    elif kind == "array":
        load_dataset(torch.from_numpy(x))
    else:
        WRITERS[kind](tmp_path / f"t.{kind}", x)
        load_dataset(tmp_path / f"t.{kind}")
    table = kind in ("csv", "parquet")
    (line,) = [r.getMessage() for r in caplog.records if "never vary" in r.getMessage()]
    assert (
        f"1 of 2 columns never vary among the training rows ({repr('v') if table else 2})" in line
    )
    assert ("leave them out (drop=['v'])" in line) == table


def test_pixels_that_never_vary_are_no_news(caplog):
    x = np.zeros((20, 3, 3))
    x[:, 1, 1] = SPEED[:20]
    load_dataset(x)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["array", *WRITERS])
def test_a_column_without_any_value_is_refused(kind, tmp_path):
    x = np.column_stack([SPEED, np.full(N, np.nan)])
    source = x if kind == "array" else tmp_path / f"t.{kind}"
    if kind != "array":
        WRITERS[kind](source, x)
    name = "'v'" if kind in ("csv", "parquet") else "2"
    with pytest.raises(ValueError, match=f"column {name} has no value among the training rows"):
        load_dataset(source, allow_missing=True)


def test_double_precision_of_a_tensor_is_kept():
    x = torch.from_numpy(np.column_stack([SECOND + 1_700_000_000, SPEED]))
    assert distinct(load_dataset(x)) == N


@pytest.mark.parametrize("kind", ["real", "positive"])
@pytest.mark.parametrize("value", [0.5, 0.1, 37.7, 1013.25])
def test_a_density_of_a_constant_is_refused(kind, value):
    columns = (Column("a", "real"), Column("unit", kind))
    data = torch.stack([torch.from_numpy(SPEED).float(), torch.full((N,), value)], 1)
    with pytest.raises(ValueError, match=f"column 'unit' is {kind} and does not vary"):
        TableDecoder(MLP(2, [8], 4), columns, data)


@pytest.mark.parametrize(
    ("size", "exact"),
    [(1e3, -158.0192), (1e4, -204.2490), (1e5, -250.3180), (1e6, -295.8806), (1e7, -342.2926)],
)
def test_counts_of_a_table_keep_their_log_p(size, exact, tmp_path):
    """Single precision is off by 22 nats a row at counts of ten millions."""
    rng = np.random.default_rng(0)
    # Each size continues the stream of those before it.
    for before in (1e3, 1e4, 1e5, 1e6, 1e7):
        columns = [rng.negative_binomial(50, 50 / (50 + before), 200) for _ in range(20)]
        if before == size:
            break
    names = [f"c{j}" for j in range(20)]
    pd.DataFrame(dict(zip(names, columns, strict=True))).to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(tmp_path / "t.csv", columns=dict.fromkeys(names, "count"))
    torch.manual_seed(0)
    network = MLP(2, [8], TableDecoder.num_outputs(20, data.columns))
    decoder = TableDecoder(network, data.columns, data.train)
    z = torch.zeros(1, 2)
    with torch.no_grad():
        found = decoder(z).log_prob(data.test).double().numpy()
        log_mean, free = network(z).chunk(2, -1)
        mean = (decoder.groups[0].log_mean + log_mean).double().exp().numpy()
        t = (1e-2 + (1 - 1e-2) * softplus(free + 0.5413248546)).double().numpy()
    expected = nbinom.logpmf(data.test.double().numpy(), t, t / (t + mean)).sum(1)
    assert np.abs(found - expected).max() < 1e-4
    assert found.mean() == pytest.approx(exact, abs=1e-4)
