"""Studies: cells share what they should, warn of what they must, and go on where they stopped."""

import json
from dataclasses import replace

import pytest
import torch

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.netcdf import load_netcdf
from ppl_vae.runs import RunConfig, evaluate_run, open_run, train_run
from ppl_vae.studies import build_arms, run_study

CONFIG = RunConfig(hidden=(8,), latent=2, epochs=3, batch_size=300, validation_particles=3)
ESTIMATOR = ImportanceSampling(10)


def study(folder, config=CONFIG, objectives=("elbo", "iwae:2"), seeds=2, **options):
    arms = build_arms(config, {"objective": objectives})
    return run_study(
        arms, seeds, folder, estimator=ESTIMATOR, device="cpu", progress=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    lines = []
    return study(folder, report=lines.append), folder, lines


def test_cells_and_their_order(result):
    _, folder, lines = result
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"elbo-seed0", "elbo-seed1", "iwae-2-seed0", "iwae-2-seed1"}
    assert len(lines) == 4


def test_arms_of_one_seed_start_from_the_same_parameters(tmp_path):
    start = RunConfig(**{**CONFIG.__dict__, "epochs": 1, "learning_rate": 1e-12})
    runs = study(tmp_path, start, seeds=1).runs
    for a, b in zip(
        runs["elbo"][0].vae.parameters(), runs["iwae:2"][0].vae.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_results_on_disk_are_those_returned(result):
    returned, folder, _ = result
    summary = json.loads((folder / "comparison.json").read_text())
    assert summary["arms"]["elbo"]["mean"] == returned.comparison.arms["elbo"].mean
    assert summary["notes"] == returned.notes
    tree = load_netcdf(folder / "comparison.nc")
    values = tree["evidence"]["log_prob"].sel(arm="elbo")
    assert values.mean().item() == pytest.approx(returned.comparison.arms["elbo"].mean)


def test_three_epochs_are_said_to_be_too_few(result):
    assert any("still rising" in note for note in result[0].notes)


def test_going_on_gives_the_same_and_adds_seeds(result, tmp_path):
    returned, folder, _ = result
    again = study(folder)
    assert again.comparison == returned.comparison
    more = study(folder, seeds=3)
    assert more.comparison.num_seeds == 3
    whole = study(tmp_path, seeds=3)
    assert whole.comparison == more.comparison


def test_another_configuration_in_the_same_folder_is_refused(result):
    with pytest.raises(ValueError, match="latent 2 there, 3 here"):
        study(result[1], RunConfig(**{**CONFIG.__dict__, "latent": 3}))


def test_a_run_reopened_gives_the_same_evidence(tmp_path):
    run, _ = train_run(CONFIG, tmp_path / "run", device="cpu", progress=False)
    expected = evaluate_run(run, estimator=ESTIMATOR, progress=False)
    (tmp_path / "run" / "evidence.nc").unlink()
    reopened = open_run(tmp_path / "run", device="cpu")
    evidence = evaluate_run(reopened, estimator=ESTIMATOR, progress=False)
    assert torch.equal(evidence.log_prob, expected.log_prob)


def test_a_limit_takes_the_same_random_subset(tmp_path):
    run, _ = train_run(CONFIG, tmp_path / "run", device="cpu", progress=False)
    part = run.split("test", 50)
    assert part.shape == (50, 64)
    assert torch.equal(part, run.split("test", 50))
    assert not torch.equal(part, run.split("test")[:50])
    assert torch.equal(run.split("test", 10_000), run.split("test"))


@pytest.mark.parametrize("likelihood", ["optimal-sigma", "normal:feature", "laplace"])
def test_what_training_keeps_outside_of_parameters_is_read_back(likelihood, tmp_path):
    config = replace(CONFIG, likelihood=likelihood)
    run, _ = train_run(config, tmp_path / "run", device="cpu", progress=False)
    x = run.dataset.test[:20]
    trained = ESTIMATOR(run.vae.eval().model, run.vae.guide, x)
    again = open_run(tmp_path / "run", device="cpu")
    found = ESTIMATOR(again.vae.model, again.vae.guide, x)
    assert torch.equal(trained.log_prob, found.log_prob)
