"""``ppl-vae gradients``: what it prints and writes, and what it says to a careless user."""

import csv
import json
import os

import pytest

from .command import fails, replaced, run

QUICK = ["--replicates", 20, "--particles", "1,4"]


def test_table_slopes_and_files(tmp_path, capsys):
    out = tmp_path / "bench"
    status, text, err = run(
        capsys, "gradients", "--replicates", 1000, "--particles", "1,4,16,64", "--out", out
    )
    assert status == 0, err
    for word in ("iwae-stl", "biased by design, found", "no bias found", "Rainforth"):
        assert word in text
    assert "BIASED, against its claim" not in text
    assert (out / "snr.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with (out / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 2
    values = json.loads((out / "gradients.json").read_text())
    assert len(values["rows"]) == len(rows)
    for row, there in zip(rows, values["rows"], strict=True):
        assert row["objective"] == there["objective"]
        assert float(row["bias_rms"]) == there["bias"]["rms"]
    slopes = {(s["objective"], s["group"]): s for s in values["slopes"]}
    assert slopes["dreg", "phi"]["expected"] == 0.5
    assert slopes["dreg", "phi"]["interval"][0] > 0
    assert slopes["iwae-stl", "phi"]["expected"] is None


def test_json_alone(tmp_path, capsys):
    command = ["gradients", *QUICK, "--objective", "elbo", "--out", tmp_path, "--json"]
    status, text, err = run(capsys, *command)
    assert (status, err) == (0, "")
    values = json.loads(text)
    assert [row["num_particles"] for row in values["rows"]] == [1, 1, 4, 4]
    assert values["files"] == [
        str(tmp_path / name) for name in ("gradients.csv", "gradients.json", "snr.png")
    ]


def test_names_with_and_without_particles(tmp_path, capsys):
    names = ["elbo", "iwae:3", "iwae:5", "vimco", "miwae:num_bounds=2", "rws:2,phi=sleep",
             "elbo+beta:4", "renyi:alpha=0.5", "ppl_vae.objectives:STL",
             "ppl_vae.objectives:IWAE:7"]  # fmt: skip
    options = [part for name in names for part in ("--objective", name)]
    status, text, err = run(capsys, "gradients", *QUICK, *options, "--out", tmp_path, "--json")
    assert status == 0, err
    found = {(row["objective"], row["num_particles"]) for row in json.loads(text)["rows"]}
    assert found == {
        ("elbo", 1), ("elbo", 4), ("iwae", 3), ("iwae", 5), ("vimco", 4), ("miwae:num_bounds=2", 2),
        ("miwae:num_bounds=2", 8), ("rws:phi=sleep", 2), ("elbo+beta:4", 1), ("elbo+beta:4", 4),
        ("renyi:alpha=0.5", 1), ("renyi:alpha=0.5", 4), ("ppl_vae.objectives:STL", 1),
        ("ppl_vae.objectives:STL", 4), ("ppl_vae.objectives:IWAE:7", 7),
    }  # fmt: skip


def test_a_trained_run(tmp_path, capsys):
    folder, out = tmp_path / "run", tmp_path / "bench"
    status, _, err = run(
        capsys, "fit", "--out", folder, "--epochs", 1, "--hidden", 8, "--latent", 2,
        "--batch-size", 400, "--validation-particles", 2,
    )  # fmt: skip
    assert status == 0, err
    command = ["gradients", "--model", folder, *QUICK, "--limit", 5, "--out", out]
    status, text, err = run(capsys, *command)
    assert status == 0, err
    assert "N = 5 data, 20 replicates" in text
    values = json.loads((out / "gradients.json").read_text())
    assert all(name.startswith("decoder.") for name in values["parameters"]["theta"])
    assert all(name.startswith("encoder.") for name in values["parameters"]["phi"])
    assert (out / "snr.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--objective", "iwa"], "did you mean 'iwae'"),
        (["--objective", "iwae:0"], "num_particles >= 1"),
        (["--objective", "ciwae"], "beta must be given"),
        (["--objective", "vimco", "--particles", "1"], "VIMCO needs num_particles >= 2"),
        (["--objective", "iwae:4", "--objective", "iwae"], "twice with one K"),
        (["--objective", "nowhere:Thing"], "module:Class"),
        (["--model", "no-such-folder"], "holds no run"),
        (["--seed", "-1"], "seed must be 0 or more"),
        (["--replicates", "1"], "replicates must be 2 or more"),
    ],
)
def test_wrong_values(arguments, expected, tmp_path, capsys):
    out = tmp_path / "bench"
    assert expected in fails(capsys, "gradients", "--out", out, *replaced(QUICK, *arguments))
    assert not (out / "gradients.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--particles", "0"], "K is 1 or more"),
        (["--particles", "4,-1"], "K is 1 or more"),
        (["--particles", ""], "K is 1 or more"),
        (["--particles", "many"], "1,4,16"),
        (["--limit", "3"], "belongs to a run"),
        (["--data", "rows.csv"], "belongs to a run"),
        (["--objectives", "iwae"], "--objective"),
    ],
)
def test_mistyped_options(arguments, expected, tmp_path, capsys):
    line = fails(capsys, "gradients", "--out", tmp_path, *arguments, code=2)
    assert expected in line


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "file" in fails(capsys, "gradients", *QUICK, "--out", tmp_path / "file")
    assert "file" in fails(capsys, "gradients", *QUICK, "--out", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "denied" in fails(capsys, "gradients", *QUICK, "--out", tmp_path)
