"""Files of published recipes are settings, mean what the papers say, and run, in a small form."""

from pathlib import Path

import pytest

from ppl_vae.cli import main
from ppl_vae.data import load_dataset
from ppl_vae.runs import RunConfig, open_run, train_run
from ppl_vae.schedules import Burda, Exponential
from ppl_vae.settings_file import parse_settings
from ppl_vae.training import Adam, NormalizedAdam

RECIPES = {path.stem: path for path in Path(__file__).parents[2].glob("examples/recipes/*.yaml")}
SMALL = {
    "data": "digits", "binarize": "static", "hidden": (8,), "latent": 2, "epochs": 3,
    "batch_size": 300, "validation_particles": 3, "validate_every": 1, "patience": None,
}  # fmt: skip


def config(name):
    return RunConfig.from_mapping(parse_settings(RECIPES[name].read_text()))


def test_there_are_three():
    assert RECIPES.keys() == {"burda2016", "tomczak2018", "salakhutdinov2008"}


def test_burda_2016():
    found = config("burda2016")
    training = found.training
    assert training.optimizer_settings == Adam(0.99, 0.999, 1e-4, "uncorrected", 1.0)
    assert training.rate_at == Burda(1e-3, rounded=True)
    assert (training.epochs, training.batch_size) == (sum(3**i for i in range(8)), 20)
    assert (training.keep, training.unshuffled) == ("last", True)
    assert repr(found.build_objective()) == "IWAE(num_particles=50)"
    assert (found.dataset.valid_rows, found.dataset.binarize) == (400, "dynamic")
    # Stage by stage, at 2,980 updates an epoch.
    updates, start = 2980, 0
    for i in range(8):
        for epoch in (start, start + 3**i - 1):
            progress = (epoch * updates + 1) / (3280 * updates)
            expected = 1e-4 * round(10 ** (1 - i / 7), 1)
            assert training.rate(progress, epoch) == pytest.approx(expected, rel=1e-12)
        start += 3**i


def test_tomczak_2018():
    found = config("tomczak2018")
    assert found.training.optimizer_settings == NormalizedAdam()
    assert found.training.rate(0.3, 600) == 5e-4
    assert (found.training.patience, found.training.epochs) == (50, 2000)
    assert found.build_objective().kl.epochs == 100
    assert found.components.prior.arguments["components"] == 500


def test_salakhutdinov_2008():
    found = config("salakhutdinov2008")
    kind = found.model.kind
    assert (kind.by, kind.steps, kind.temperatures, found.model.latent) == ("cd", 25, 14_500, 500)
    machine = found.changed(data="digits", latent=3).build_vae(
        load_dataset("digits").binarized("static")
    )
    rates = [machine.settings()["learning_rate"]]
    assert rates == [repr(Exponential(0.05, 0.005))]


@pytest.mark.parametrize("name", RECIPES)
def test_runs_and_is_opened_again(name, tmp_path):
    small = dict(SMALL)
    if name == "burda2016":
        small |= {"objective": "iwae:3", "valid_rows": 40, "binarize": "dynamic"}
    elif name == "tomczak2018":
        small |= {"prior": "vamp:20"}
    run, result = train_run(config(name).changed(**small), tmp_path, device="cpu", progress=False)
    assert len(result.history) == 3
    again = open_run(tmp_path, device="cpu")
    assert again.config.training == run.config.training
    for a, b in zip(run.vae.parameters(), again.vae.parameters(), strict=True):
        assert a.equal(b)
    if name == "burda2016":
        assert result.kept_epoch == 3
        assert (len(run.dataset.train), len(run.dataset.valid)) == (1397, 40)


def test_a_runs_own_file_is_its_recipe(tmp_path, capsys):
    """What is written into a folder makes the same run again."""
    small = ["--data", "digits", "--binarize", "static", "--hidden", "8", "--latent", "2",
             "--epochs", "2", "--prior", "normal", "--validation-particles", "3"]  # fmt: skip
    main(["fit", "--config", str(RECIPES["tomczak2018"]), "--out", str(tmp_path / "a"), *small])
    main(["fit", "--config", str(tmp_path / "a/config.json"), "--out", str(tmp_path / "b")])
    a, b = (open_run(tmp_path / name) for name in "ab")
    assert a.config == b.config
    assert a.config.training.optimizer == "normalized-adam"
    for left, right in zip(a.vae.parameters(), b.vae.parameters(), strict=True):
        assert left.equal(right)
