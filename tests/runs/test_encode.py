"""Codes and reconstructions of data, row by row; how sparse codes are."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from ppl_vae.cli import cli
from ppl_vae.runs import (
    RunConfig,
    describe_codes,
    encode_run,
    open_run,
    reconstruct_run,
    sparsity,
    train_run,
)

SMALL = {"hidden": (8,), "latent": 3, "epochs": 1, "batch_size": 300, "validation_particles": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode") / "run"
    return train_run(RunConfig.of(**SMALL), folder, progress=False, device="cpu")[0]


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode") / "deep"
    config = RunConfig.of(**{**SMALL, "latent": (4, 2)})
    return train_run(config, folder, progress=False, device="cpu")[0]


def test_hoyer_s_sparsity_of_known_vectors():
    one, even = torch.tensor([[0.0, 0.0, -3.0, 0.0]]), torch.full((2, 9), 0.5)
    assert sparsity(one) == {"active_share": 0.25, "hoyer": pytest.approx(1.0)}
    assert sparsity(even) == {"active_share": 1.0, "hoyer": pytest.approx(0.0)}
    # (sqrt 4 - 7/5) / (sqrt 4 - 1), of (3, 4, 0, 0); the mean over data.
    two = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    assert sparsity(two)["hoyer"] == pytest.approx(0.6)
    assert sparsity(torch.cat([two, one]))["hoyer"] == pytest.approx(0.8)
    assert sparsity(torch.zeros(3, 4)) == {"active_share": 0.0, "hoyer": pytest.approx(1.0)}
    assert math.isnan(sparsity(torch.ones(3, 1))["hoyer"])
    # The share of codes above a tenth of the largest.
    assert sparsity(torch.tensor([[1.0, 0.2, 0.05, 0.01]]))["active_share"] == 0.5


def test_codes_are_the_guide_s_moments_and_draws(run, significance):
    table = encode_run(run, limit=30, num_draws=400)
    assert list(table.columns) == ["z_mean", "z_sd", "z_draws"]
    with torch.no_grad():
        q = run.vae.encoder(run.rows("test", 30).x)
    np.testing.assert_allclose(np.stack(table.z_mean), q.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.stack(table.z_sd), q.stddev, rtol=1e-5, atol=1e-6)
    draws = torch.tensor(np.array(table.z_draws.tolist()))
    assert draws.shape == (30, 400, 3)
    z = (draws.mean(1) - q.mean) / (q.stddev / 20)
    assert float(z.abs().max()) < significance.split(90).limit
    again = encode_run(run, limit=30, num_draws=400)
    assert again.equals(table)


def test_of_a_layer_that_follows_another_they_are_those_over_its_draws(deep):
    table = encode_run(deep, limit=5, num_draws=3000)
    assert {name.partition("_")[0] for name in table} == {"z1", "z2"}
    drawn = np.array(table.z2_draws.tolist())
    # Of 3,000 draws and 10 numbers: five standard errors.
    np.testing.assert_allclose(np.stack(table.z2_sd), drawn.std(1), rtol=5 / math.sqrt(6000))


def test_a_reconstruction_is_the_mean_of_the_likelihood(run):
    x = run.rows("test", 12).x
    table = reconstruct_run(run, limit=12, num_draws=2, seed=3)
    assert len(table) == 12
    values = torch.tensor(table.drop(columns=["squared_error", "log_likelihood"]).to_numpy())
    # Pixels as they were given, from 0 to 16.
    values = values / 16
    assert values.shape == x.shape
    error = (values - x).square().sum(-1)
    np.testing.assert_allclose(table.squared_error, error, rtol=1e-5)
    draws = torch.tensor(np.array(encode_run(run, limit=12, num_draws=2, seed=3).z_draws.tolist()))
    likelihood = run.vae.decoder(draws.float().movedim(1, 0))
    np.testing.assert_allclose(values, likelihood.mean.mean(0).detach(), rtol=1e-4, atol=1e-6)
    expected = likelihood.log_prob(x).mean(0).detach()
    np.testing.assert_allclose(table.log_likelihood, expected, rtol=1e-4)


def test_what_a_study_says_of_codes(run):
    rows = run.rows("test", 40)
    found = describe_codes(run, rows.x)
    table = reconstruct_run(run, limit=40)
    assert found["squared_error"] == pytest.approx(table.squared_error.mean(), rel=1e-5)
    assert found["log_likelihood"] == pytest.approx(table.log_likelihood.mean(), rel=1e-5)
    assert found["hoyer"] == pytest.approx(sparsity(run.vae.encoder(rows.x).mean)["hoyer"])


def test_commands(run, tmp_path):
    rows = tmp_path / "rows.npy"
    np.save(rows, run.rows("test", 7).x.numpy())
    command = CliRunner()
    out = tmp_path / "codes.parquet"
    result = command.invoke(
        cli, ["encode", str(run.folder), "--data", str(rows), "--draws", "2", "--out", str(out),
              "--json"]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["rows"] == 7
    written = pd.read_parquet(out)
    expected = encode_run(open_run(run.folder), file=rows, num_draws=2)
    np.testing.assert_array_equal(np.stack(written.z_mean), np.stack(expected.z_mean))
    assert np.stack([np.stack(each) for each in written.z_draws]).shape == (7, 2, 3)
    text = tmp_path / "rebuilt.csv"
    result = command.invoke(
        cli, ["reconstruct", str(run.folder), "--data", str(rows), "--out", str(text)]
    )
    assert result.exit_code == 0, result.output
    assert pd.read_csv(text).shape == (7, 66)
    for name in ("encode", "reconstruct"):
        before = text.read_bytes()
        over = command.invoke(cli, [name, str(run.folder), "--limit", "3", "--out", str(text)])
        assert over.exit_code == 2
        assert f"{text} is there already" in over.output
        assert text.read_bytes() == before
        # By its usual name a table makes place for the next one.
        for _ in range(2):
            usual = command.invoke(cli, [name, str(run.folder), "--limit", "3"])
            assert usual.exit_code == 0, usual.output
    wrong = command.invoke(cli, ["encode", str(run.folder), "--out", "codes.txt"])
    assert wrong.exit_code == 2
    assert "end its name in .parquet or .csv" in wrong.output
    both = command.invoke(cli, ["encode", str(run.folder), "--data", str(rows), "--split", "valid"])
    assert "the rows of --data have no splits" in both.output


def test_a_table_is_rebuilt_in_its_own_words(tmp_path):
    path = tmp_path / "table.csv"
    lines = [f"{20 + i % 7},{'red' if i % 3 else 'blue'}" for i in range(60)]
    path.write_text("age,colour\n" + "\n".join(lines))
    config = RunConfig.of(**{**SMALL, "data": str(path), "latent": 2})
    trained, _ = train_run(config, tmp_path / "run", progress=False, device="cpu")
    table = reconstruct_run(trained, num_draws=3)
    assert list(table.columns) == ["age", "colour", "squared_error", "log_likelihood"]
    assert set(table.colour) <= {"red", "blue"}
    assert 10 < table.age.mean() < 40
