"""An autoregressive decoder: what each pixel sees, sums to 1, draws as it says."""

import itertools
import math

import pytest
import torch
from significance import Estimate, mean_of
from torch import nn

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import PixelCNNDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE
from ppl_vae.particles import draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE


def decoder(shape=(2, 3), latent=2, pixels="bernoulli", **options):
    """One with random weights, also in its last layer, in double precision."""
    features = math.prod(shape)
    network = MLP(latent, [5], PixelCNNDecoder.num_outputs(features))
    made = PixelCNNDecoder(network, shape, pixels, width=6, layers=2, kernel=3, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


Z = torch.tensor([[0.4, -0.7], [1.1, 0.2]], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2)])
def test_all_images_together_have_probability_1(shape):
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=math.prod(shape)))).double()
    log_prob = decoder(shape)(Z).log_prob(images.unsqueeze(1))
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(2).double(), atol=1e-12, rtol=0)


def test_levels_of_one_pixel_have_probability_1():
    levels = torch.linspace(0, 1, 256, dtype=torch.float64).unsqueeze(-1)
    log_prob = decoder((1, 1), pixels="logistic")(Z[:1]).log_prob(levels)
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_a_pixel_depends_on_those_before_it_and_on_no_other(shape):
    made, features = decoder(shape), math.prod(shape)
    pixels = shape[-1] * shape[-2]
    x = torch.rand(features, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(
        lambda x: made._of_pixels(made.network(Z[0]), x).logits, x
    )
    depends = rows.abs() > 1e-12
    out_pixel, in_pixel = (torch.arange(features) % pixels for _ in range(2))
    later = in_pixel.unsqueeze(0) >= out_pixel.unsqueeze(1)
    assert not (depends & later).any()
    # The neighbour to the left and the one above are seen.
    assert depends[1, 0]
    assert depends[shape[-1], 0]


def test_the_wrong_mask_is_seen():
    """A first layer that sees the pixel itself would code it for nothing."""
    made = decoder()
    made.first.mask[1, 1] = 1
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    assert made(Z[:1]).log_prob(images).logsumexp(0).abs().item() > 1e-3


def test_draws_have_the_density_s_entropy(significance):
    made = decoder((2, 2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    distribution = made(Z[:1])
    log_prob = distribution.log_prob(images)
    torch.manual_seed(1)
    drawn = distribution.sample((20_000,)).squeeze(1)
    entropy = -(log_prob.exp() * log_prob).sum().item()
    significance.require_equal(mean_of(-distribution.log_prob(drawn)), entropy)
    index = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    counts = torch.bincount(index, minlength=16) / len(drawn)
    for found, p in zip(counts, log_prob.exp(), strict=True):
        error = math.sqrt(p.item() * (1 - p.item()) / len(drawn))
        significance.require_equal(Estimate(found.item(), error), p.item())


def test_means_are_those_of_its_draws(significance):
    made = decoder((2, 2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    distribution = made(Z[:1])
    expected = (distribution.log_prob(images).exp().unsqueeze(-1) * images).sum(0)
    torch.manual_seed(2)
    means = distribution.expand((8_000,)).mean
    # The first pixel has none before it: every draw has the same mean there.
    torch.testing.assert_close(means[:, 0], expected[0].expand(8_000))
    for found, value in zip(means[:, 1:].unbind(-1), expected[1:], strict=True):
        significance.require_equal(mean_of(found), value.item())


def test_particles_share_what_the_image_says():
    made = decoder()
    z, x = torch.randn(4, 2, 2, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    together = made(z).log_prob(x)
    apart = torch.stack([made(z[k]).log_prob(x) for k in range(4)])
    torch.testing.assert_close(together, apart)
    assert made(z).expand((3, 4, 2)).log_prob(x).shape == (3, 4, 2)


@pytest.mark.parametrize("pixels", ["bernoulli", "logistic"])
def test_it_starts_at_the_data(pixels):
    data = torch.rand(50, 16).round()
    network = MLP(2, [4], PixelCNNDecoder.num_outputs(16))
    made = PixelCNNDecoder(network, (4, 4), pixels, data=data, data_mean=data.mean(0))
    mean = made._of_pixels(network(torch.zeros(1, 2)), data[:1]).mean
    assert (mean - data.mean(0)).abs().max() < 0.1


def test_it_trains_as_any_other():
    torch.manual_seed(0)
    data = torch.rand(40, 16).round()
    network = MLP(2, [4], PixelCNNDecoder.num_outputs(16))
    made = PixelCNNDecoder(network, (4, 4), width=8, layers=1, data_mean=data.mean(0))
    vae = VAE(StandardNormalPrior(2), made, DiagonalNormalEncoder(MLP(16, [4], 4)))
    # At the first step the last layer is 0 and hides all before it.
    before = {name: value.clone() for name, value in vae.named_parameters()}
    fit(vae.model, vae.guide, IWAE(3), data, epochs=4, batch_size=20, progress=False)
    assert all(not torch.equal(value, before[name]) for name, value in vae.named_parameters())
    weights = draw_particles(vae.model, vae.guide, data, 3, graph="split").log_weight
    assert weights.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (None, {}, "needs images of shape"),
        ((4, 4), {"kernel": 4}, "an odd kernel"),
        ((4, 4), {"layers": 0}, "layers, context and components >= 1"),
    ],
)
def test_what_it_cannot_do_is_said(shape, options, message):
    with pytest.raises(ValueError, match=message):
        PixelCNNDecoder(MLP(2, [4], 32), shape, **options)


def test_grey_pixels_are_refused():
    with pytest.raises(ValueError, match=r"takes data in \{0, 1\}"):
        decoder()(Z).log_prob(torch.full((2, 6), 0.5, dtype=torch.float64))
