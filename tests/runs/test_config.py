import json

import pytest
import torch

from ppl_vae.data import load_dataset
from ppl_vae.runs import RunConfig


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
