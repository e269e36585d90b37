"""fit as typed: budgets, TensorBoard, and the names of what it prints."""

import csv
import json

import pytest
import torch

from ppl_vae.netcdf import load_netcdf

from .command import SMALL, fails, run

ENERGY = "energy:hidden=[8],draws=64,evaluation_draws=1000"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "0"], "epochs must be 1 or more, got 0"),
        (["--epochs", "3", "--updates", "5"], "exactly one limit"),
        (["--updates", "0"], "updates must be 1 or more, got 0"),
        (["--updates", "-3"], "updates must be 1 or more, got -3"),
        (["--seconds", "0"], "seconds must be positive and finite"),
        (["--decoder-evaluations", "0"], "decoder_evaluations must be 1 or more"),
        (["--updates", "3", "--seconds", "1"], "exactly one limit"),
        (["--decoder-evaluations", "100"], "100 decoder evaluations is too small"),
    ],
)
def test_wrong_budgets(arguments, expected, tmp_path, capsys):
    assert expected in fails(capsys, "fit", "--out", tmp_path / "run", *SMALL[2:], *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["--workers", "0"], "--workers: must be 1 or more, got 0", 2),
        (["--workers", "3"], "3 workers are 3 processes, and here is 1: start them by --engine", 1),
        (["--workers", "401"], "batches of 400 data cannot be shared by 401 workers", 1),
        (
            ["--workers", "2", "--objective", "beta-tc"],
            "takes log q(z) over the data of a batch",
            1,
        ),
        (["--workers", "2", "--objective", "elbo+free-bits:1"], "takes the mean KL of a batch", 1),
        (["--workers", "2", "--step", "aggressive"], "step AggressiveStep decides by the mean", 1),
        (["--workers", "2", "--gpus", "1"], "GPUs are granted on --engine ray", 2),
    ],
)
def test_workers_that_cannot_be(arguments, expected, code, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    folder = tmp_path / "run"
    assert expected in fails(capsys, "fit", "--out", folder, *SMALL, *arguments, code=code)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "updates"), [(["--updates", "5"], 5), (["--decoder-evaluations", "2000"], 6)]
)
def test_a_budget_in_place_of_epochs(arguments, updates, tmp_path, capsys):
    status, out, err = run(capsys, "fit", "--out", tmp_path, *SMALL[2:], *arguments)
    assert status == 0, err
    assert f"2 epochs, {updates} updates, kept epoch" in out
    with (tmp_path / "history.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["updates"]) == updates


def test_a_budget_from_a_file(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("decoder-evaluations: 2000\nhidden: [8]\nlatent: 2\n")
    settings = ["--config", tmp_path / "settings.yaml", "--batch-size", 400, "--json"]
    status, out, err = run(capsys, "fit", "--out", tmp_path / "run", *settings)
    assert status == 0, err
    assert json.loads(out)["kept"]["evaluations"] <= 2000
    # Its own configuration is the same run: there is nothing left to do.
    again = ["--config", tmp_path / "run" / "config.json", "--out", tmp_path / "run", "--json"]
    assert json.loads(run(capsys, "fit", *again)[1]) == json.loads(out)


def test_tensorboard(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    status, _, err = run(capsys, "fit", "--out", tmp_path, *SMALL, "--tensorboard")
    assert status == 0, err
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {
        "by-epoch", "by-updates",
    }  # fmt: skip


def test_a_guide_that_is_a_point_is_named_to_the_end(tmp_path, capsys):
    """Of a guide that is a point, what is maximised is a joint density, and nothing is a bound."""
    folder = tmp_path / "point"
    status, out, err = run(capsys, "fit", "--out", folder, *SMALL, "--guide", "delta")
    assert status == 0, err
    assert "joint log-density log p(x, z) -" in out
    assert "-log p(z) " in out
    assert "bound" not in out
    assert "KL" not in out
    line = fails(capsys, "evaluate", folder, "--limit", 4, "--particles", 2)
    assert "guide site 'z' is a Delta, a point without a density" in line
    few = ["--limit", 30, "--temperatures", 10, "--chains", 2]
    method = ["--method", "ais", "--leapfrog-steps", 1]
    status, out, err = run(capsys, "evaluate", folder, *few, *method)
    assert status == 0, err
    assert "joint log-density log p(x, z) " in out
    assert "-log p z" in out
    assert "ELBO" not in out
    assert "KL" not in out
    diagnose = ["diagnose", folder, *few, "--particles", 2, "--rate-data", 2]
    status, out, err = run(capsys, *diagnose)
    assert status == 0, err
    assert "The joint log-density\n" in out
    for part, why in (
        ("surgery", "it has no KL to take apart"),
        ("bound_curve", "the joint log-density there is the same for every K"),
        ("calibration", "its draws have no spread to judge"),
        ("rate_distortion", "it has no rate"),
    ):
        assert f"left out, {part}: guide site 'z' is a Delta, a point" in out
        assert f"density, and {why}" in out
    assert "ELBO" not in out
    (path,) = (folder / "evaluations").glob("diagnosis-*.nc")
    group = load_netcdf(path)["decomposition"]
    terms = ["joint_log_density", "log_likelihood", "minus_log_prior_z"]
    assert group["term"].to_numpy().tolist() == terms


@pytest.mark.filterwarnings("always:training has diverged:UserWarning")
def test_a_model_that_has_diverged_is_not_trusted(tmp_path, capsys):
    """Its weights are equal after rounding, which the error holds."""
    diverged = [*SMALL, "--learning-rate", "1e6"]
    status, _, err = run(capsys, "fit", "--out", tmp_path / "run", *diverged)
    assert status == 0, err
    few = ["--particles", 20, "--limit", 5, "--json"]
    found = json.loads(run(capsys, "evaluate", tmp_path / "run", *few)[1])
    assert found["log_prob"] < -1e6
    assert found["warning"].startswith("not to be trusted: ")
    assert "rounding leaves up to" in found["warning"]
    epsilon = torch.finfo(torch.float32).eps
    # Of the mean over 5 data, each rounded by itself.
    assert found["monte_carlo_error"] > 0.1 * epsilon * abs(found["log_prob"])


def test_divergence_is_one_line(tmp_path, capsys):
    line = fails(capsys, "fit", "--out", tmp_path / "run", *SMALL, "--learning-rate", "1e30")
    assert "update " in line
    assert "site '" in line


def test_the_shared_error_of_an_estimated_constant_is_printed(tmp_path, capsys):
    run(capsys, "fit", "--out", tmp_path / "run", *SMALL, "--prior", ENERGY)
    few = ["evaluate", tmp_path / "run", "--particles", "5", "--limit", "5"]
    out = run(capsys, *few)[1]
    assert "log Z of prior = " in out
    assert "no interval here holds it" in out
    (found,) = json.loads(run(capsys, *few, "--json")[1])["normalizers"]
    assert found["name"] == "prior"
    assert found["standard_error"] > 0
    run(capsys, "fit", "--out", tmp_path / "plain", *SMALL)
    few[1] = tmp_path / "plain"
    assert "log Z" not in run(capsys, *few)[1]
    assert "normalizers" not in json.loads(run(capsys, *few, "--json")[1])


@pytest.mark.filterwarnings("always:training has diverged:UserWarning")
def test_training_that_diverged_says_so_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    fit = ["fit", "--out", folder, *SMALL, "--learning-rate", 1e6, "--json"]
    status, out, err = run(capsys, *fit)
    assert status == 0
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: training has diverged: ELBO(num_particles=1) is at -")
    assert line.endswith("; lower the learning rate, or clip gradients.")
    assert line == f"warning: {json.loads(out)['divergence']}"
    # Whoever evaluates it reads the same.
    _, _, err = run(capsys, "evaluate", folder, "--method", "iwae", "--limit", 20)
    assert line.removeprefix("warning: ") in err.splitlines()


def test_training_that_did_not_says_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    _, out, err = run(capsys, "fit", "--out", folder, *SMALL, "--json")
    assert json.loads(out)["divergence"] is None
    assert "diverged" not in err + run(capsys, "evaluate", folder, "--limit", 20)[2]
