"""What careless users type, each with one line of answer and nothing lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cli.command import SMALL, fails, replaced, run

from ppl_vae.cli import main
from ppl_vae.data import load_dataset, read_rows
from ppl_vae.evidence import (
    BidirectionalMonteCarlo,
    ImportanceSampling,
    Quadrature,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.registry import parse_objective
from ppl_vae.runs import RunConfig
from ppl_vae.studies import Method
from ppl_vae.studies._file import parse_study
from ppl_vae.training import fit

MODEL = LinearGaussian.random(3, 2, 0.5, seed=1)
X = MODEL.simulate(4)
VAE = MODEL.vae()


@pytest.fixture
def trained(tmp_path, capsys):
    assert run(capsys, "fit", "--out", tmp_path / "run", *replaced(SMALL, "--epochs", 2))[0] == 0
    return tmp_path / "run"


def test_a_run_is_made_longer_and_never_shorter(trained, capsys):
    assert run(capsys, "fit", "--out", trained, *replaced(SMALL, "--epochs", 3))[0] == 0
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    line = fails(capsys, "fit", "--out", trained, *replaced(SMALL, "--epochs", 2))
    assert "epochs 3 there, 2 here" in line
    after = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    assert after == before, "its settings still say what its parameters are of"


def test_evaluations_of_other_parameters_are_told_apart(trained, capsys):
    few = ["--particles", 5, "--limit", 5]
    assert run(capsys, "evaluate", trained, *few)[0] == 0
    assert run(capsys, "fit", "--out", trained, *replaced(SMALL, "--epochs", 3))[0] == 0
    assert run(capsys, "evaluate", trained, *few)[0] == 0
    head, *rows = run(capsys, "evaluate", trained, "--list")[1].splitlines()
    models = {row[head.index("model") :].split()[0] for row in rows}
    assert len(rows) == len(models) == 2


def test_one_damaged_evaluation_does_not_hide_the_others(trained, capsys):
    for seed in (0, 1):
        arguments = ["--particles", 5, "--limit", 5, "--seed", seed]
        assert run(capsys, "evaluate", trained, *arguments)[0] == 0
    damaged, _ = sorted((trained / "evaluations").glob("*.nc"))
    damaged.write_text("x\n")
    status, out, err = run(capsys, "evaluate", trained, "--list")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert "left out" in err
    assert damaged.name in err


def test_one_datum_is_evaluated(trained, capsys):
    status, out, err = run(capsys, "evaluate", trained, "--limit", 1, "--particles", 5)
    assert status == 0, err
    assert "log p(x) = " in out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--cpus", "0"], "cpus must be 1 or more, got 0"),
        (["--gpus", "-1"], "gpus must be 0 or more, got -1"),
        (["--address", "foo:1"], "--engine ray"),
    ],
)
def test_options_that_cannot_be_are_refused_also_where_they_play_no_part(
    typed, said, trained, capsys
):
    assert said in fails(capsys, "evaluate", trained, "--limit", 5, "--particles", 5, *typed)


def test_a_study_is_no_file_of_settings(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("config: {data: digits}\nfactors: {objective: [elbo]}\n")
    line = fails(capsys, "fit", "--config", tmp_path / "s.yaml", "--out", tmp_path / "run", code=2)
    assert "is a study: ppl-vae study run" in line


def test_a_method_with_arguments_has_a_label_that_a_file_may_have():
    assert Method("iwae:30,refine=3").label == "iwae-30-refine=3"
    assert Method("ais:num_chains=4").build().num_chains == 4


@pytest.mark.parametrize("order", [100, 200, 1000])
def test_an_order_as_high_as_can_be_is_integrated_all_the_same(order):
    found = Quadrature(order=order)(VAE.model, VAE.guide, X)
    torch.testing.assert_close(found.log_prob, MODEL.log_evidence(X).detach().double())


@pytest.mark.parametrize(
    "kind", [SequentialMonteCarlo, ThermodynamicIntegration, BidirectionalMonteCarlo]
)
def test_a_number_is_no_annealing(kind, unchecked_types):
    with pytest.raises(ValueError, match="takes an AnnealedImportanceSampling first, got 10"):
        kind(10)


def test_values_of_other_types_are_named(unchecked_types):
    with pytest.raises(ValueError, match="refine takes Refinement"):
        ImportanceSampling(5, refine=3)(VAE.model, VAE.guide, X)
    with pytest.raises(ValueError, match="whole number"):
        ImportanceSampling(True)
    with pytest.raises(ValueError, match=r"whole number\), got the str '5'"):
        ImportanceSampling("5")
    with pytest.raises(ValueError, match="got guide=None"):
        fit(VAE.model, None, ELBO(), X, epochs=1)
    with pytest.raises(ValueError, match="the model is a Pyro program"):
        ImportanceSampling(5)("model", VAE.guide, X)


def test_the_exact_model_takes_numpy(unchecked_types):
    weight = np.array([[1.0, 0.5], [0.3, -1.0], [0.2, 0.7]])
    found = LinearGaussian(weight, noise_scale=0.5).log_evidence(X)
    assert found.shape == (4,)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2,\)"):
        LinearGaussian(weight, np.zeros(2))


GOOD = "a,b\n" + "\n".join(f"{i / 7},{(i * i) % 11}" for i in range(60)) + "\n"


@pytest.mark.parametrize(
    ("change", "said", "unsaid"),
    [
        (lambda text: text.replace("a,b", "a,a"), "two columns have the name 'a'", "--"),
        (lambda text: text.replace(",9\n", ",inf\n", 1), "non-finite value(s)", "--allow-missing"),
        (lambda text: text.replace(",9\n", ",red\n"), "take it for labels (--columns b=cat", None),
        (lambda text: "\x00\xff" + text, "it is a file of another kind", "UTF-8"),
    ],
    ids=["names", "infinite", "text", "binary"],
)
def test_what_a_file_cannot_be_is_said_with_a_remedy_that_helps(
    change, said, unsaid, tmp_path, capsys
):
    (tmp_path / "x.csv").write_bytes(change(GOOD).encode("latin1"))
    arguments = ["--data", tmp_path / "x.csv", "--likelihood", "normal", "--out", tmp_path / "run"]
    line = fails(capsys, "fit", *arguments)
    assert said in line
    assert unsaid is None or unsaid not in line


@pytest.mark.parametrize("change", [",inf\n", ",red\n"])
def test_new_rows_are_to_be_as_those_of_training(change, tmp_path):
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "new.csv").write_text(GOOD.replace(",9\n", change, 1))
    schema = load_dataset(str(tmp_path / "x.csv"), binarize="none").schema
    with pytest.raises(ValueError, match="write them as in the training data, or leave"):
        read_rows(tmp_path / "new.csv", schema)


def test_rows_that_are_not_rows_are_told_apart(unchecked_types):
    with pytest.raises(ValueError, match=r"do not run on x, rows of shape \(4, 3\)"):
        ImportanceSampling(5)(VAE.model, VAE.guide, X[None])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"epochs": "2"}, "epochs must be 1 or more, got '2'"),
        ({"batch_size": "3"}, "batch_size must be 1 or more, got '3'"),
        ({"learning_rate": "3"}, "learning rate must be positive and finite, got '3'"),
    ],
)
def test_settings_of_another_type_are_named(setting, said, unchecked_types):
    with pytest.raises(ValueError, match=said):
        fit(VAE.model, VAE.guide, ELBO(), X, **{"epochs": 1, **setting})


def test_layers_that_are_no_list(unchecked_types):
    with pytest.raises(ValueError, match=r"hidden is a list of layer sizes, such as \[200\]"):
        MLP(4, 200, 2)


def test_the_bare_command_prints_its_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (2, "")
    assert "Commands:" in printed.out


def test_sizes_are_named(tmp_path, capsys):
    line = fails(capsys, "fit", "--data", "digits", "--latent", -2, "--out", tmp_path / "run")
    assert "latent takes sizes of 1 or more, got (-2,)" in line


class Unannotated(ELBO):
    def __init__(self, num_particles):
        super().__init__(num_particles)


def test_a_parameter_of_ones_own_that_says_no_type_is_named():
    with pytest.raises(
        ValueError, match="'num_particles' of Unannotated has no annotation, by which"
    ):
        parse_objective(f"{__name__}:Unannotated:5")


def test_a_setting_of_another_type_is_told_its_own():
    with pytest.raises(
        ValueError, match=r"hidden cannot be \[\[1\]\]: it is a list of whole numbers"
    ):
        RunConfig.from_mapping({"hidden": [[1]]})
    text = "config: {data: digits, hidden: 16}\nfactors: {objective: [elbo]}\n"
    with pytest.raises(ValueError, match=r"hidden cannot be 16: it is a list of whole numbers"):
        parse_study(text, Path("study.yaml"))


def test_true_is_no_number_of_particles(unchecked_types):
    with pytest.raises(ValueError, match="IWAE needs num_particles >= 1"):
        IWAE(True)
