"""From names to models: shapes, hierarchies, and what cannot be built."""

import pytest
import torch

from ppl_vae.data import Dataset, load_dataset
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.networks import GatedMLP
from ppl_vae.particles import draw_particles
from ppl_vae.registry import GUIDES, LIKELIHOODS, PRIORS
from ppl_vae.runs import RunConfig
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE, Ladder

DIGITS = load_dataset("digits").binarized("static", seed=0)
SMALL = {"hidden": (8,), "latent": 2}


@pytest.mark.parametrize("network", ["mlp", "gated", "conv", "resnet"])
@pytest.mark.parametrize("latent", [2, (3, 2)])
def test_networks(network, latent):
    vae = RunConfig.of(network=network, hidden=(8,), latent=latent).build_vae(DIGITS)
    assert isinstance(vae, VAE if latent == 2 else HierarchicalVAE)
    x = DIGITS.test[:5]
    assert vae.reconstruct(x).log_prob(x).shape == (5,)


@pytest.mark.parametrize(("guide", "kind"), [("normal", BottomUp), ("ladder", Ladder)])
def test_hierarchies(guide, kind):
    config = RunConfig.of(guide=guide, latent=(5, 4, 3), hidden=(9, 8), upper_hidden=(7, 6))
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
    config = RunConfig.of(latent=(100, 50), hidden=(200, 200), upper_hidden=(100, 100))
    first, second = config.build_vae(DIGITS).inference.encoders
    sizes = [
        [layer.in_features for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]
        for encoder in (first, second)
    ]
    assert sizes == [[64, 200, 200], [100, 100, 100]]
    assert isinstance(first, DiagonalNormalEncoder)


def test_gated_layers_between_latents_too():
    vae = RunConfig.of(network="gated", latent=(4, 3), hidden=(8,)).build_vae(DIGITS)
    assert sum(isinstance(module, GatedMLP) for module in vae.modules()) == 4


def test_one_layer_in_a_list_is_one_layer():
    assert RunConfig.from_mapping({"latent": [3]}) == RunConfig.of(latent=3)


def test_other_priors_leave_the_networks_as_they_were():
    a, b = (
        RunConfig.of(prior=prior, **SMALL).build_vae(DIGITS)
        for prior in ("normal", "learned-normal")
    )
    for x, y in zip(a.decoder.parameters(), b.decoder.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_ladder_of_one_rung_is_none():
    with pytest.raises(
        ValueError, match=r"guide ladder needs two layers of latents or more, .* latent="
    ):
        RunConfig.of(guide="ladder", **SMALL).build_vae(DIGITS)


def test_a_network_that_cannot_take_the_data_is_named():
    table = torch.rand(9, 7)
    dataset = Dataset("table", table, table, table)
    with pytest.raises(ValueError, match="network 'conv'"):
        RunConfig.of(network="conv", likelihood="normal", **SMALL).build_vae(dataset)


FORMS = {
    "categorical": "categorical:2",
    "exemplar": "exemplar:20",
    "low-rank": "low-rank:1",
    "mixture": "mixture:5",
    "rbm": "rbm:3",
    "vamp": "vamp:5",
}
DISCRETE = {"bernoulli", "autoregressive-bernoulli", "rbm", "categorical"}
GREY = torch.rand(40, 16, generator=torch.Generator().manual_seed(1)) * 0.98 + 0.01
LEVELS = (GREY * 255).round() / 255
COUNTS = (GREY * 5).round()


def dataset_of(rows):
    return Dataset("made", rows, rows[:10], rows[10:20], image_shape=(4, 4))


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior(prior):
    """With a guide on its support: built, drawn from, weighed."""
    guide = {"sphere": "sphere", "categorical": "categorical:2"}.get(
        prior, "bernoulli" if prior in DISCRETE else "normal"
    )
    config = RunConfig.of(prior=FORMS.get(prior, prior), guide=guide, hidden=(8,), latent=4)
    vae = config.build_vae(DIGITS).eval()
    x = DIGITS.test[:6]
    weights = draw_particles(vae.model, vae.guide, x, 3).log_weight
    assert weights.isfinite().all()
    assert vae.generate(2).batch_shape == (2,)


@pytest.mark.parametrize("guide", sorted(set(GUIDES) - {"ladder"}))
def test_every_guide(guide):
    prior = {"sphere": "sphere", "categorical": "categorical:2", "bernoulli": "bernoulli"}
    config = RunConfig.of(
        prior=prior.get(guide, "normal"), guide=FORMS.get(guide, guide), hidden=(8,), latent=4
    )
    vae = config.build_vae(DIGITS)
    assert vae.reconstruct(DIGITS.test[:6]).batch_shape == (6,)
    again = RunConfig.from_mapping(config.complete()).build_vae(DIGITS)
    assert all(map(torch.equal, vae.parameters(), again.parameters()))


@pytest.mark.parametrize("likelihood", sorted(set(LIKELIHOODS) - {"table"}))
def test_every_likelihood(likelihood):
    rows = {
        "bernoulli": GREY.round(),
        "pixel-cnn": GREY.round(),
        "logistic": LEVELS,
        "logistic-mixture": LEVELS,
        "categorical": COUNTS,
        "poisson": COUNTS,
        "negative-binomial": COUNTS,
        "zero-inflated-poisson": COUNTS,
        "zero-inflated-negative-binomial": COUNTS,
    }.get(likelihood, GREY)
    form = "categorical:6" if likelihood == "categorical" else likelihood
    dataset = dataset_of(rows)
    vae = RunConfig.of(likelihood=form, data="made.npy", hidden=(8,), latent=2).build_vae(dataset)
    weights = draw_particles(vae.model, vae.guide, rows[:5], 3).log_weight
    assert weights.isfinite().all()
    assert vae.generate(2).mean.shape == (2, 16)
    if likelihood == "pixel-cnn":
        return
    holes = torch.where(torch.rand_like(rows) < 0.2, torch.nan, rows)
    vae = RunConfig.of(likelihood=form, data="made.npy", hidden=(8,), latent=2).build_vae(
        dataset_of(holes)
    )
    assert draw_particles(vae.model, vae.guide, holes[:5], 3).log_weight.isfinite().all()


def test_a_vamp_prior_on_top_of_a_hierarchy():
    for guide in ("normal", "ladder"):
        vae = RunConfig.of(prior="vamp:5", guide=guide, hidden=(8,), latent=(4, 3)).build_vae(
            DIGITS
        )
        assert vae.prior().event_shape == (3,)
        particles = draw_particles(vae.model, vae.guide, DIGITS.test[:5], 2)
        assert particles.log_weight.isfinite().all()
        names = [name for name, _ in vae.named_parameters()]
        assert len(names) == len({id(value) for value in vae.parameters()})
