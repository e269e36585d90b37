"""Settings from a file: what is read, what goes before, what a mistake is told."""

import json

import pandas as pd
import pytest

from ppl_vae.runs import CONFIG, HISTORY

from .command import SMALL, fails, run

YAML = """
data: digits
epochs: 2
batch-size: 400
hidden: [8]
latent: 2
validation_particles: 2
clip_norm: null
prior:
  class_path: ppl_vae.priors.LearnedNormalPrior
likelihood: bernoulli
"""
TOML = """
data = "digits"
epochs = 2
batch_size = 400
hidden = [8]
latent = 2
validation-particles = 2
likelihood = "bernoulli"
[prior]
class_path = "ppl_vae.priors.LearnedNormalPrior"
"""


def require_same_run(a, b):
    """The same settings and the same training, to the last digit."""
    assert (a / CONFIG).read_bytes() == (b / CONFIG).read_bytes()
    first, second = (pd.read_csv(folder / HISTORY).drop(columns="seconds") for folder in (a, b))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.parametrize(("name", "text"), [("run.yaml", YAML), ("run.toml", TOML)])
def test_a_file_is_as_good_as_options(name, text, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(text)
    status, _, err = run(capsys, "fit", "--config", path, "--out", tmp_path / "a")
    assert status == 0, err
    typed = ["--prior", "learned-normal", *SMALL]
    assert run(capsys, "fit", *typed, "--out", tmp_path / "b")[0] == 0
    require_same_run(tmp_path / "a", tmp_path / "b")


def test_what_is_typed_goes_before_the_file(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    arguments = ["--config", path, "--latent", 3, "--prior", "normal", "--epochs", 1]
    assert run(capsys, "fit", *arguments, "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run" / CONFIG).read_text())["config"]
    assert (config["latent"], config["epochs"], config["batch_size"]) == (3, 1, 400)
    assert config["prior"]["class_path"].endswith("StandardNormalPrior")


def test_a_typed_limit_replaces_the_file_s(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    arguments = ["--config", path, "--updates", 3]
    status, _, err = run(capsys, "fit", *arguments, "--out", tmp_path / "run")
    assert status == 0, err
    config = json.loads((tmp_path / "run" / CONFIG).read_text())["config"]
    assert (config["epochs"], config["updates"]) == (None, 3)


@pytest.mark.parametrize("sizes", [",", "", "8,,8"])
def test_sizes_that_are_none(sizes, tmp_path, capsys):
    line = fails(capsys, "fit", "--hidden", sizes, "--out", tmp_path / "run", code=2)
    assert "is not a list of whole numbers" in line


def test_a_run_s_own_configuration_reproduces_it(tmp_path, capsys):
    assert run(capsys, "fit", *SMALL, "--prior", "learned-normal", "--out", tmp_path / "a")[0] == 0
    again = ["--config", tmp_path / "a" / CONFIG, "--out", tmp_path / "b"]
    status, _, err = run(capsys, "fit", *again)
    assert status == 0, err
    require_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.usefixtures("no_page")
def test_compare_takes_one_too(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(YAML + "objective: [elbo, stl]\nseeds: 1\nparticles: 5\n")
    arguments = ["--config", path, "--out", tmp_path / "study", "--json"]
    status, out, err = run(capsys, "compare", *arguments)
    assert status == 0, err
    assert set(json.loads(out)["arms"]) == {"elbo", "stl"}


@pytest.mark.usefixtures("no_page")
def test_priors_are_compared_under_one_objective(tmp_path, capsys):
    arguments = ["--prior", "normal", "--prior", "learned-normal", "--seeds", 1, "--particles", 5]
    status, out, err = run(
        capsys, "compare", *SMALL, *arguments, "--out", tmp_path / "study", "--json"
    )
    assert status == 0, err
    assert set(json.loads(out)["arms"]) == {"normal", "learned-normal"}
    assert {path.name for path in (tmp_path / "study" / "cells").iterdir()} == {
        "normal-seed0",
        "learned-normal-seed0",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", "epoch: 3", "unknown setting 'epoch': did you mean 'epochs'"),
        ("run.yaml", "epochs: many", "'many' is not a whole number"),
        ("run.yaml", "hidden: [8, wide]", "[8, 'wide'] is not a list of whole numbers"),
        ("run.yaml", "prior: 3", "3 is not text or a mapping"),
        ("run.yaml", "- 3", "holds no settings"),
        ("run.yaml", "a: [", "no readable YAML"),
        ("run.toml", "a = ", "no readable TOML"),
        ("run.json", '{"epochs": 1,', "no readable JSON"),
        ("run.yaml", "epochs: 1\nepochs: 2", "'epochs' stands twice, again in line 2"),
        ("run.json", '{"epochs": 1, "epochs": 2}', "'epochs' stands twice"),
        # A record of a run names its methods; only a study's file says how it evaluates.
        ("run.json", '{"methods": {}}', "unknown setting 'methods'"),
        ("run.yaml", "evaluation: {methods: [iwae]}", "run.yaml is a study"),
        ("run.yaml", "latent: 1:30", "'1:30' is not a whole number or a list of whole numbers"),
        ("missing.yaml", None, "No such file or directory"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(name, text, message, tmp_path, capsys):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    line = fails(capsys, "fit", "--config", path, "--out", tmp_path / "run", code=2)
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--prior", "nromal", "did you mean 'normal'"),
        ("--likelihood", "normal:wide", "scale cannot be 'wide'"),
        ("--likelihood", "normal:-1", "scale must be positive"),
        ("--guide", "normal:3", "takes no arguments"),
        ("--network", "mpl", "did you mean 'mlp'"),
    ],
)
def test_a_part_s_mistake_is_one_line(option, value, message, tmp_path, capsys):
    line = fails(capsys, "fit", option, value, "--out", tmp_path / "run")
    assert message in line
    assert option.removeprefix("--") in line
    assert not (tmp_path / "run").exists()


def test_the_list_of_parts(capsys):
    status, out, _ = run(capsys, "parts")
    assert status == 0
    for text in (
        "--prior:",
        "learned-normal",
        "normal[:SCALE,learn_scale=LEARN_SCALE]",
        "--guide:",
        "mlp",
    ):
        assert text in out
    status, out, _ = run(capsys, "parts", "--json")
    assert json.loads(out)["--prior"]["normal"].startswith("p(z) = Normal(0, I)")
