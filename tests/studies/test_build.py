"""From names to models: shapes, hierarchies, and what cannot be built."""

import pytest
import torch

from ppl_vae.data import Dataset, load_dataset
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.networks import GatedMLP
from ppl_vae.studies import RunConfig
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE, Ladder

DIGITS = load_dataset("digits").binarized("static", seed=0)
SMALL = {"hidden": (8,), "latent": 2}


@pytest.mark.parametrize("network", ["mlp", "gated", "conv", "resnet"])
@pytest.mark.parametrize("latent", [2, (3, 2)])
def test_networks(network, latent):
    vae = RunConfig(network=network, hidden=(8,), latent=latent).build_vae(DIGITS)
    assert isinstance(vae, VAE if latent == 2 else HierarchicalVAE)
    x = DIGITS.test[:5]
    assert vae.reconstruct(x).log_prob(x).shape == (5,)


@pytest.mark.parametrize(("guide", "kind"), [("normal", BottomUp), ("ladder", Ladder)])
def test_hierarchies(guide, kind):
    config = RunConfig(guide=guide, latent=(5, 4, 3), hidden=(9, 8), upper_hidden=(7, 6))
    vae = config.build_vae(DIGITS)
    assert isinstance(vae.inference, kind)
    assert vae.num_layers == 3
    shapes = [part(torch.zeros(2, size)).event_shape for part, size in zip(
        vae.conditionals, (3, 4), strict=True
    )]  # fmt: skip
    assert shapes == [(4,), (5,)]
    again = RunConfig.from_mapping(config.complete()).build_vae(DIGITS)
    assert all(map(torch.equal, vae.parameters(), again.parameters()))


def test_burda_s_two_layers_have_the_paper_s_sizes():
    config = RunConfig(latent=(100, 50), hidden=(200, 200), upper_hidden=(100, 100))
    first, second = config.build_vae(DIGITS).inference.encoders
    sizes = [
        [layer.in_features for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]
        for encoder in (first, second)
    ]
    assert sizes == [[64, 200, 200], [100, 100, 100]]
    assert isinstance(first, DiagonalNormalEncoder)


def test_gated_layers_between_latents_too():
    vae = RunConfig(network="gated", latent=(4, 3), hidden=(8,)).build_vae(DIGITS)
    assert sum(isinstance(module, GatedMLP) for module in vae.modules()) == 4


def test_one_layer_in_a_list_is_one_layer():
    assert RunConfig.from_mapping({"latent": [3]}) == RunConfig(latent=3)


def test_other_priors_leave_the_networks_as_they_were():
    a, b = (
        RunConfig(prior=prior, **SMALL).build_vae(DIGITS) for prior in ("normal", "learned-normal")
    )
    for x, y in zip(a.decoder.parameters(), b.decoder.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_ladder_of_one_rung_is_none():
    with pytest.raises(ValueError, match="guide ladder needs --latent with two layers or more"):
        RunConfig(guide="ladder", **SMALL).build_vae(DIGITS)


def test_a_network_that_cannot_take_the_data_is_named():
    table = torch.rand(9, 7)
    dataset = Dataset("table", table, table, table)
    with pytest.raises(ValueError, match="network 'conv'"):
        RunConfig(network="conv", likelihood="normal", **SMALL).build_vae(dataset)
