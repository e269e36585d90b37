import json

import pytest
import torch

from ppl_vae.data import load_dataset
from ppl_vae.identity import hash_values
from ppl_vae.networks import MLP
from ppl_vae.runs import RunConfig
from ppl_vae.schedules import Cosine
from ppl_vae.settings import settings_of
from ppl_vae.training import LIMITS, FitSettings, TorchStep


def test_a_configuration_survives_json():
    config = RunConfig.of(hidden=(3, 4), seed=7, objective="iwae:5")
    assert RunConfig.from_mapping(json.loads(json.dumps(config.values()))) == config
    with pytest.raises(ValueError, match="unknown setting 'epoch': did you mean 'epochs'"):
        RunConfig.from_mapping({"epoch": 3})


def test_a_wrong_setting_in_python_is_answered_with_the_nearest():
    for make in (RunConfig.of, RunConfig().changed):
        with pytest.raises(TypeError, match="unknown setting 'latents': did you mean 'latent'"):
            make(latents=3)


def test_one_layer_of_latents_is_written_in_one_way():
    config = RunConfig.of(latent=(3,))
    assert config == RunConfig.of(latent=3) == RunConfig.from_mapping({"latent": [3]})
    assert config.identity == RunConfig.from_mapping(config.complete()).identity
    assert RunConfig.of(latent=(3, 2)).model.latent == (3, 2)


def test_the_same_seed_builds_the_same_model_and_other_seeds_do_not():
    dataset = load_dataset("digits")
    build = {
        seed: RunConfig.of(hidden=(4,), latent=2, seed=seed).build_vae(dataset) for seed in (0, 1)
    }
    again = RunConfig.of(hidden=(4,), latent=2, seed=0, objective="iwae:9").build_vae(dataset)
    for a, b in zip(build[0].parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    weights = [next(vae.parameters()) for vae in build.values()]
    assert not torch.equal(*weights)


def test_auto_binarises_named_grey_images_under_bernoulli_only():
    dataset = load_dataset("digits")
    assert RunConfig.of().prepare(dataset).is_binary
    assert not RunConfig.of(likelihood="normal").prepare(dataset).is_binary
    assert not RunConfig.of(data="mine.npy").prepare(dataset).is_binary


def test_a_prior_named_by_module_and_class():
    dataset = load_dataset("digits")
    vae = RunConfig.of(prior="ppl_vae.priors:LearnedNormalPrior", hidden=(4,), latent=3).build_vae(
        dataset
    )
    assert vae.prior().event_shape == (3,)


@pytest.mark.parametrize(
    "settings",
    [{"clip_norm": 5}, {"learning_rate": 1}, {"latent": [1]}, {"hidden": [4, 4]}, {"seconds": 3}],
    ids=str,
)
def test_values_are_of_their_settings_types_however_they_come(settings):
    """What is written of a run is what is read back, so that the run is known again."""
    config = RunConfig.of(**settings)
    again = RunConfig.from_mapping(json.loads(json.dumps(config.values())))
    assert (again, again.identity) == (config, config.identity)
    assert RunConfig().changed(**settings) == config
    (name,) = settings
    if name in {"clip_norm", "learning_rate", "seconds"}:
        made = RunConfig(training=FitSettings(batch_size=100, **settings))
        assert made == config
        assert type(made.values()[name]) is float


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"seed": 1 << 63}, "it is a whole number of 63 bits, below 9,223,372,036,854,775,808"),
        ({"seed": "a"}, "seed cannot be 'a': it is a whole number"),
        ({"seed": 1.5}, "seed cannot be 1.5"),
        ({"patience": True}, "patience cannot be True"),
        ({"hidden": [2.5]}, "hidden cannot be"),
        ({"latent": []}, "one layer of latents or more"),
        ({"learning_rate": Cosine(0.1)}, "learning_rate cannot be .*: it is a number"),
        ({"step": TorchStep}, "step cannot be .*: it is text"),
    ],
    ids=str,
)
def test_values_that_no_file_can_keep_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        RunConfig.of(**settings)


ADDED = {
    "optimizer": "sgd",
    "warmup_epochs": 1.0,
    "ema_decay": 0.9,
    "keep": "last",
    "unshuffled": True,
    "precision": "bf16",
    "valid_rows": 400,
    "dequantize": None,
    "model": "autoencoder:normals=10",
    "corrupt": "mask:fraction=0.3",
    "pretrain": None,
}


def test_settings_that_were_added_leave_the_hashes_of_earlier_runs_as_they_were():
    config = RunConfig.of(latent=2)
    values = {name: value for name, value in config.complete().items() if name not in ADDED}
    assert config.key == hash_values(values)
    kept = {name: value for name, value in values.items() if name not in LIMITS}
    assert config.identity == hash_values(kept)
    # A configuration of before is read as the same run.
    assert RunConfig.from_mapping(values).identity == config.identity


@pytest.mark.parametrize("name", [name for name in ADDED if ADDED[name] is not None])
def test_at_other_values_they_are_another_run(name):
    config, other = RunConfig.of(latent=2), RunConfig.of(latent=2, **{name: ADDED[name]})
    assert other.key != config.key
    assert other.identity != config.identity
    assert RunConfig.from_mapping(json.loads(json.dumps(other.values()))) == other


def test_a_number_may_stand_for_a_missing_cell_and_an_empty_list_for_none():
    assert RunConfig.from_mapping({"missing": [-999, "?"]}).dataset.reading.missing == ("-999", "?")
    assert RunConfig.from_mapping({"drop": [2020]}).dataset.reading.drop == ("2020",)
    assert settings_of(MLP)["hidden"].convert("[]") == ()
