import math

import pytest
import torch
from torch import nn

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import Observed, ObservedDecoder, OptimalSigmaDecoder
from ppl_vae.networks import MLP, ObservedInput
from ppl_vae.objectives import ELBO
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

Z = torch.zeros(6, 3, dtype=torch.float64)


def rows(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(6, 3, dtype=torch.float64, generator=generator)


def decoder_of(**options):
    return OptimalSigmaDecoder(nn.Identity(), **options).double()


def test_each_batch_moves_the_running_mean():
    decoder, expected = decoder_of(momentum=0.25), 1.0
    for seed in range(5):
        x = rows(seed)
        decoder(Z).log_prob(x)
        expected += 0.25 * (x.square().mean().item() - expected)
        assert decoder.scale.item() == pytest.approx(math.sqrt(expected))


def test_a_batch_is_scored_before_it_is_seen():
    decoder, x = decoder_of(momentum=1.0), rows()
    before = torch.distributions.Normal(Z, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(Z).log_prob(x), before)
    root = x.square().mean().sqrt()
    after = torch.distributions.Normal(Z, root).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(Z).log_prob(x), after)


def test_it_is_the_maximum():
    decoder, x = decoder_of(momentum=1.0), rows()
    decoder(Z).log_prob(x)
    best = decoder(Z).log_prob(x).sum()
    for factor in (0.99, 1.01):
        decoder.variance.copy_(x.square().mean() * factor)
        decoder.eval()
        assert decoder(Z).log_prob(x).sum() < best


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_frozen_in_evaluation(how):
    decoder = decoder_of()
    decoder.train(how != "eval")
    with torch.set_grad_enabled(how != "no_grad"):
        decoder(Z).log_prob(rows())
    assert decoder.scale.item() == 1


def density_of_its_own_error(x):
    """The wrong variant: sigma from the x whose density is taken."""
    return torch.distributions.Normal(0.0, x.abs()).log_prob(x)


def test_a_density_of_x_and_the_published_shortcut_is_none():
    x = torch.linspace(-400, 400, 400_001, dtype=torch.float64)
    decoder = decoder_of().eval()
    z = torch.zeros(len(x), 1, dtype=torch.float64)
    density = decoder(z).log_prob(x.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1)
    away = x[x > 0.01]
    # Proportional to 1 / |x|: without end.
    assert torch.trapezoid(density_of_its_own_error(away).exp(), away).item() > 2


def test_missing_cells_do_not_count():
    decoder, x = decoder_of(momentum=1.0), rows()
    x[:, 1] = math.nan
    x[2] = math.nan
    Observed(decoder(Z)).log_prob(x)
    kept = torch.tensor([0, 1, 3, 4, 5])
    expected = x[kept][:, [0, 2]].square().mean().sqrt().item()
    assert decoder.scale.item() == pytest.approx(expected)
    Observed(decoder(Z)).log_prob(torch.full_like(x, math.nan))
    assert decoder.scale.item() == pytest.approx(expected)


def test_a_perfect_fit_has_a_density():
    decoder = decoder_of(momentum=1.0)
    for _ in range(2):
        value = decoder(Z).log_prob(Z)
    assert value.isfinite().all()
    assert decoder.scale.item() == pytest.approx(1e-3)


def test_starts_at_the_data():
    data = torch.tensor([[0.0, 10.0], [2.0, 14.0], [math.nan, math.nan]])
    network = nn.Linear(1, 2)
    decoder = OptimalSigmaDecoder(network, data=data)
    assert network.bias.tolist() == [1, 12]
    assert decoder.scale.item() == pytest.approx(math.sqrt((1 + 4) / 2))


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.1, math.nan])
def test_impossible_momentum(momentum):
    with pytest.raises(ValueError, match="momentum must be above 0 and at most 1"):
        OptimalSigmaDecoder(nn.Identity(), momentum)


def test_training_finds_the_noise_of_the_data():
    """A linear decoder, noise 0.5, a tenth of the cells missing: sigma ends there."""
    torch.manual_seed(3)
    x = torch.randn(600, 1) @ torch.randn(1, 8) + 0.5 * torch.randn(600, 8)
    x[torch.rand(600, 8) < 0.1] = math.nan
    decoder = OptimalSigmaDecoder(MLP(1, [], 8), data=x)
    assert decoder.scale.item() > 0.8
    encoder = DiagonalNormalEncoder(ObservedInput(MLP(8, [], 2)))
    vae = VAE(StandardNormalPrior(1), ObservedDecoder(decoder), encoder)
    fit(
        vae.model,
        vae.guide,
        ELBO(),
        x[:500],
        valid=x[500:],
        epochs=20,
        batch_size=100,
        learning_rate=5e-2,
        progress=False,
    )
    assert not decoder.training
    # Residuals of some 3600 cells, less the part that z takes up.
    assert decoder.scale.item() == pytest.approx(0.5, abs=0.03)
