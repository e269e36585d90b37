"""The command line as a careless user drives it: one clear line, a non-zero exit, nothing lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ppl_vae.cli import main
from ppl_vae.objectives import OBJECTIVES

from .command import SMALL, fails, replaced, run


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "run"
    main(["fit", "--out", str(folder), *SMALL])
    return folder


@pytest.fixture
def trained(fitted, tmp_path):
    """A run of one's own."""
    return shutil.copytree(fitted, tmp_path / "run")


def test_fit_evaluate_and_sample(trained, capsys):
    assert {path.name for path in trained.iterdir()} == {
        "config.json",
        "checkpoint.safetensors",
        "data.safetensors",
        "history.csv",
        "log.txt",
        "run.json",
        "run.lock",
    }
    status, out, _ = run(capsys, "evaluate", trained, "--particles", 20)
    assert status == 0
    assert "log p(x) = -" in out
    assert "KL" in out
    status, out, _ = run(capsys, "evaluate", trained, "--particles", 20, "--json")
    values = json.loads(out)
    assert values["num_data"] == 360
    assert values["monte_carlo_error"] > 0
    status, out, _ = run(capsys, "sample", trained, "--json")
    for path in json.loads(out)["files"]:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_evaluate_reuses_only_the_same_evaluation(trained, capsys):
    first = json.loads(run(capsys, "evaluate", trained, "--particles", 20, "--json")[1])
    again = json.loads(run(capsys, "evaluate", trained, "--particles", 20, "--json")[1])
    other = json.loads(run(capsys, "evaluate", trained, "--particles", 21, "--json")[1])
    assert again["log_prob"] == first["log_prob"]
    assert again["seconds"] == first["seconds"]
    assert other["num_particles"] == 21
    assert other["log_prob"] != first["log_prob"]


def test_fit_again_goes_on_or_refuses(trained, capsys):
    before = (trained / "checkpoint.safetensors").read_bytes()
    assert run(capsys, "fit", "--out", trained, *SMALL)[0] == 0
    assert (trained / "checkpoint.safetensors").read_bytes() == before
    line = fails(capsys, "fit", "--out", trained, *replaced(SMALL, "--latent", 3))
    assert "latent 2 there, 3 here" in line
    assert "choose another folder" in line
    assert (trained / "checkpoint.safetensors").read_bytes() == before
    assert run(capsys, "fit", "--out", trained, *replaced(SMALL, "--epochs", 3))[0] == 0
    assert len((trained / "history.csv").read_text().splitlines()) == 4


def test_fit_takes_an_optimizer_and_what_goes_with_it(tmp_path, capsys):
    options = ["--optimizer", "adam:beta1=0.99,eps=1e-4", "--ema-decay", 0.9, "--keep", "last",
               "--warmup-epochs", 1, "--unshuffled", "--valid-rows", 50]  # fmt: skip
    status, out, _ = run(capsys, "fit", "--out", tmp_path / "run", *SMALL, *options, "--json")
    assert (status, json.loads(out)["kept"]["epoch"]) == (0, 2)
    saved = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert saved["optimizer"] == "adam:beta1=0.99,eps=1e-4"
    assert (saved["ema_decay"], saved["keep"], saved["warmup_epochs"]) == (0.9, "last", 1.0)
    assert (saved["unshuffled"], saved["valid_rows"]) == (True, 50)
    # The same command goes on; another optimiser is another run.
    assert run(capsys, "fit", "--out", tmp_path / "run", *SMALL, *options)[0] == 0
    options[1] = "sgd"
    line = fails(capsys, "fit", "--out", tmp_path / "run", *SMALL, *options)
    assert "optimizer adam:beta1=0.99,eps=1e-4 there, sgd here" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adam:lr=1e-3"], "the rate is the setting learning_rate"),
        (["--optimizer", "adan"], "did you mean 'adam'"),
        (["--optimizer", "adam:beta1=2"], "beta1 must be in [0, 1), got 2.0"),
        (["--ema-decay", "1"], "must be in [0, 1), got 1.0"),
        (["--warmup-epochs", "-1"], "must be 0 or more, got -1.0"),
        (["--valid-rows", "0"], "must be from 1 to 1436"),
    ],
)
def test_wrong_settings_of_training_are_one_line(options, message, tmp_path, capsys):
    assert message in fails(capsys, "fit", "--out", tmp_path / "run", *SMALL, *options)
    assert not (tmp_path / "run").exists()


def test_compare_prints_the_table_and_writes_everything(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    command = ["compare", "--objective", "elbo", "--objective", "iwae:3", "--seeds", 2,
               "--particles", 10, "--out", folder, *SMALL]  # fmt: skip
    status, out, err = run(capsys, *command)
    assert status == 0, err
    assert "iwae:3 - elbo" in out
    assert "95%" in out
    for name in ("comparison.json", "results.nc", "comparison.png", "report.html"):
        assert (folder / name).stat().st_size > 100, name
    first = (folder / "comparison.json").read_text()
    # The page is there, and takes seconds to draw.
    monkeypatch.setattr("ppl_vae.report.write_report", lambda results: results.folder / "page")
    status, out, _ = run(capsys, *command, "--json")
    assert json.loads(out)["num_seeds"] == 2
    assert (folder / "comparison.json").read_text() == first


@pytest.mark.usefixtures("no_page", "short_pilot")
@pytest.mark.usefixtures("no_page")
def test_compare_shows_another_method_beside(tmp_path, capsys):
    status, out, err = run(
        capsys, "compare", "--objective", "elbo", "--objective", "stl", "--seeds", 2, *SMALL,
        "--limit", 20, "--beside", "iwae:100", "--out", tmp_path / "study",
    )  # fmt: skip
    assert status == 0, err
    header = next(line for line in out.splitlines() if "low by" in line)
    assert header.endswith("iwae-100  low by")
    found = json.loads((tmp_path / "study" / "comparison.json").read_text())["beside"]["iwae-100"]
    row = next(line for line in out.splitlines() if line.startswith("elbo "))
    assert row.split()[-2:] == [f"{found['elbo'][n]:.3f}" for n in ("log_prob", "low_by")]
    assert "unknown method 'nothing'" in fails(
        capsys, "compare", *SMALL, "--beside", "nothing", "--out", tmp_path / "no"
    )


def test_compare_with_a_guide_that_is_a_point(tmp_path, capsys):
    folder = tmp_path / "study"
    command = ["compare", "--guide", "delta", "--guide", "normal", "--seeds", 1, "--limit", 12,
               "--out", folder, *SMALL]  # fmt: skip
    line = fails(capsys, *command, "--method", "iwae")
    assert "its guide is a point without a density, and method iwae" in line
    assert "--refine laplace" in line
    assert "LaplaceApproximation" not in line
    assert not (folder / "cells").exists()
    annealing = ["--method", "ais", "--temperatures", 5, "--chains", 2, "--leapfrog-steps", 1]
    status, out, err = run(capsys, *command, *annealing)
    assert status == 0, err
    assert "delta" in out
    assert "normal" in out


def test_own_array_and_table(tmp_path, capsys):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", generator.normal(size=(60, 4)))
    folder = tmp_path / "run"
    status, _, err = run(
        capsys, "fit", "--data", tmp_path / "x.npy", "--likelihood", "normal", "--out", folder,
        *SMALL,
    )  # fmt: skip
    assert status == 0, err
    assert run(capsys, "sample", folder)[0] == 0
    np.save(tmp_path / "x.npy", generator.normal(size=(60, 4)))
    assert "differs from the data" in fails(capsys, "evaluate", folder)


def test_nan_in_the_data(tmp_path, capsys):
    x = np.zeros((30, 3))
    x[4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    line = fails(capsys, "fit", "--data", tmp_path / "x.npy", "--out", tmp_path / "run", *SMALL)
    assert "NaN" in line or "finite" in line
    assert not (tmp_path / "run").exists()


def test_grey_pixels_with_bernoulli(tmp_path, capsys):
    line = fails(capsys, "fit", "--binarize", "none", "--out", tmp_path / "run", *SMALL)
    assert "(--binarize static or --binarize dynamic)" in line
    assert "(--likelihood normal)" in line
    assert not (tmp_path / "run").exists()


def test_dynamic_binarisation_trains(tmp_path, capsys):
    status, _, err = run(capsys, "fit", "--binarize", "dynamic", "--out", tmp_path / "run", *SMALL)
    assert status == 0, err


def test_draws_outside_the_priors_support_are_named_in_short(tmp_path, capsys):
    line = fails(capsys, "fit", "--prior", "bernoulli", "--out", tmp_path / "run", *SMALL)
    assert "site 'z' has values outside its support" in line
    assert "tensor(" not in line
    assert len(line) < 300


def test_a_wrong_number_of_seeds_is_told_as_it_was_typed(capsys):
    line = fails(capsys, "compare", "--seeds", "-2", code=2)
    assert "-2 is not in the range x>=1" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--objective", "iwae:0"], "'iwae:0': IWAE needs num_particles >= 1"),
        (["--objective", "iwae"], "num_particles must be given"),
        (["--objective", "iwae:4+beta:2"], "no KL term to shape"),
        (["--objective", "elbo+bta:2"], "did you mean 'beta'"),
        (["--objective", "ciwae:4"], "beta must be given"),
        (["--objective", "elb"], "did you mean 'elbo'"),
        (["--objective", "nowhere:Thing"], "module:Class"),
        (["--data", "digist"], "did you mean 'digits'"),
        (["--data", "missing.npy"], "missing.npy"),
        (["--prior", "vapm"], "unknown prior"),
        (["--likelihood", "bernuli"], "did you mean 'bernoulli'"),
        (["--likelihood", "normal:-1"], "positive"),
        (["--activation", "tahn"], "did you mean 'tanh'"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--step", "sgd"], "unknown step"),
        (["--epochs", "0"], "epochs must be 1 or more"),
        (["--batch-size", "0"], "batch_size must be 1 or more"),
        (["--latent", "0"], "1 or more"),
        (["--learning-rate", "-1"], "learning rate must be positive"),
        (["--clip-norm", "0"], "clip_norm must be positive"),
        (["--seed", "-1"], "seed must be 0 or more"),
        (["--device", "cuda:99"], "use auto or cpu"),
        (["--device", "gpu"], "unknown device"),
        (["--validation-particles", "0"], "validation_particles"),
    ],
)
def test_wrong_values(arguments, expected, tmp_path, capsys):
    line = fails(capsys, "fit", "--out", tmp_path / "run", *replaced(SMALL, *arguments))
    assert expected in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "--objectiv", "elbo"], "--objective"),
        (["fit"], "--out"),
        (["fti"], "fti"),
        (["fit", "--out", "x", "--epochs", "many"], "--epochs"),
        (["fit", "--out", "x", "--learning-rate", "nan"], "'nan' is not a number"),
        (["fit", "--out", "x", "--seconds", "nan"], "'nan' is not a number"),
        (["fit", "--out", "x", "--hidden", "a,b"], "is not a list of whole numbers"),
        (["evaluate"], "FOLDER"),
    ],
)
def test_mistyped_options(arguments, expected, capsys):
    assert expected in fails(capsys, *arguments, code=2)


def test_compare_with_impossible_plans(tmp_path, capsys):
    out = ["--out", tmp_path / "study", *SMALL]
    assert "0 is not in the range" in fails(capsys, "compare", "--seeds", 0, *out, code=2)
    twice = ["--objective", "elbo", "--objective", "elbo"]
    assert "must differ" in fails(capsys, "compare", *twice, *out)
    assert "num_particles >= 1" in fails(capsys, "compare", "--particles", 0, *out)
    assert "belongs to --engine ray" in fails(capsys, "compare", "--address", "a:1", *out)
    assert "GPUs are granted on --engine ray" in fails(capsys, "compare", "--gpus", 1, *out, code=2)
    assert "cpus must be 1 or more" in fails(capsys, "compare", "--cpus", 0, *out)
    assert not (tmp_path / "study").exists()


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert "holds no run" in fails(capsys, "evaluate", tmp_path)
    assert "holds no run" in fails(capsys, "sample", tmp_path / "nowhere")
    (tmp_path / "precious.txt").write_text("mine")
    assert "not empty" in fails(capsys, "fit", "--out", tmp_path, *SMALL)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_zero_particles(trained, capsys):
    assert "num_particles >= 1" in fails(capsys, "evaluate", trained, "--particles", 0)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_checkpoint(kept, trained, capsys):
    path = trained / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    for command in (["evaluate", trained], ["fit", "--out", trained, *SMALL]):
        assert "checkpoint.safetensors is damaged" in fails(capsys, *command)


def test_damaged_config(trained, capsys):
    (trained / "config.json").write_text("{")
    assert "config.json is damaged" in fails(capsys, "evaluate", trained)


def test_damaged_record(trained, capsys):
    """Without it, the run is read and goes on by its checkpoint."""
    (trained / "run.json").write_text("{")
    for command in (["evaluate", trained], ["fit", "--out", trained, *SMALL]):
        said = fails(capsys, *command)
        assert "run.json is damaged" in said
        assert "delete it, and the run goes on from its checkpoint" in said
    (trained / "run.json").unlink()
    main(["fit", "--out", str(trained), *SMALL])
    assert (trained / "run.json").is_file()


def _ppl_vae(*arguments, **options):
    command = [sys.executable, "-c", "from ppl_vae.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


def _hear_interrupts():
    # A suite started in the background ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_the_middle_keeps_the_checkpoint(trained, capsys):
    folder = trained
    before = (folder / "checkpoint.safetensors").read_bytes()
    process = _ppl_vae(
        "fit",
        "--out",
        folder,
        *replaced(SMALL, "--epochs", 1_000_000),
        preexec_fn=_hear_interrupts,
    )
    while '"epochs": 1000000' not in (folder / "config.json").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == (
        "ppl-vae: error: stopped; the same command goes on from the last checkpoint."
    )
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert run(capsys, "evaluate", folder, "--particles", 5)[0] == 0


def test_a_disk_that_fills_up_keeps_earlier_files(trained, capsys):
    # A limit on file size is what a test can do; the write fails as on a full disk.
    before = {path.name: path.read_bytes() for path in trained.iterdir()}

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    process = _ppl_vae("fit", "--out", trained, *replaced(SMALL, "--epochs", 3), preexec_fn=limit)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("ppl-vae: error: could not write ")
    assert "checkpoint.safetensors" in line
    after = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert after.keys() == before.keys()


HELPS = """
import click, json, sys
from ppl_vae.cli import cli, main

def modules_after_help_of(*command):
    try:
        main([*command, "--help"])
    except SystemExit:
        pass
    return sorted(sys.modules)

loaded = {"": modules_after_help_of()}
# The last one draws figures, whose defaults stand beside what draws them.
for name in sorted(cli.commands, key=lambda name: name == "sample"):
    loaded[name] = modules_after_help_of(name)
print(json.dumps(loaded), file=sys.stderr)
"""


def test_help_is_quick_and_a_commands_loads_only_what_has_its_defaults():
    """Torch, Pyro and pandas: what a run is made of, and neither statistics nor figures."""
    done = subprocess.run(
        [sys.executable, "-c", HELPS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
    loaded = {name: set(modules) for name, modules in json.loads(done.stderr).items()}
    assert not loaded[""] & {"torch", "pyro", "pandas", "numpy", "matplotlib"}
    heavy = {
        "arviz_base", "arviz_stats", "h5netcdf", "jinja2", "matplotlib", "ray", "scipy.optimize",
        "scipy.stats", "sklearn", "statsmodels", "torchvision", "zuko",
    }  # fmt: skip
    for name in loaded.keys() - {"sample"}:
        assert not loaded[name] & heavy, name


def test_objectives_lists_every_name(capsys):
    status, out, _ = run(capsys, "objectives")
    assert status == 0
    for name in OBJECTIVES:
        assert f"\n{name}:" in f"\n{out}"
    _, out, _ = run(capsys, "objectives", "--json")
    listed = json.loads(out)
    assert list(listed["objectives"]) == list(OBJECTIVES)
    assert listed["objectives"]["dreg"]["unbiased"] == ["phi", "theta"]


OWN = """
import ppl_vae as pv

class Halfway(pv.Objective):
    def bound(self, particles):
        return particles.log_weight.mean(0)
"""


def test_an_objective_of_ones_own_in_the_folder_one_works_in(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_objectives_here.py").write_text(OWN)
    arguments = "fit", "--objective", "my_objectives_here:Halfway:2", "--out", "run", *SMALL
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    assert "my_objectives_here:Halfway:2 bound -" in out
