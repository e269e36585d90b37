"""Priors with a network in their density: what they integrate to, draw, and are bounds of."""

import copy
import math

import pytest
import torch
from significance import mean_of
from torch import nn

from ppl_vae.evidence import ImportanceSampling, Quadrature
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, DReG
from ppl_vae.priors import EnergyPrior, LearnedAcceptRejectPrior, SelfNormalizedImportancePrior
from ppl_vae.priors._values import KeptValue
from ppl_vae.randomness import seeded
from ppl_vae.training import fit
from ppl_vae.vae import VAE

GRID = torch.linspace(-9, 9, 1501, dtype=torch.float64).unsqueeze(-1)
STEP = 18 / 1500


def with_weights(prior, spread=1.5):
    """With a network that is no constant, in double precision and in evaluation."""
    torch.manual_seed(3)
    for parameter in prior.tilt.parameters():
        nn.init.normal_(parameter, std=spread)
    return prior.double().eval()


def priors(latent=1):
    return [
        with_weights(LearnedAcceptRejectPrior(latent, (8,), truncation=5)),
        with_weights(SelfNormalizedImportancePrior(latent, 6, (8,))),
        with_weights(EnergyPrior(latent, (8,), proposals=4000), 0.7),
    ]


@pytest.fixture(scope="module")
def of_sets():
    """Densities of the best of several on the grid, over 2000 sets of other draws."""
    with seeded(5), torch.no_grad():
        prior = priors()[1].train()
        return torch.stack([prior().log_prob(GRID).exp() for _ in range(2000)])


PRIORS = [LearnedAcceptRejectPrior, SelfNormalizedImportancePrior, EnergyPrior]


@pytest.mark.parametrize("index", [0, 2])
def test_densities_integrate_to_1_up_to_the_stated_error(index, significance):
    prior = priors()[index]
    total = prior().log_prob(GRID).exp().sum().item() * STEP
    _, error = prior.log_normalizer()
    assert 0 < error < 0.02
    assert abs(math.log(total)) < significance.limit * error


def test_the_density_of_the_best_of_several_is_unbiased(of_sets, significance):
    """Over sets of other draws: each integrates to something else, their mean to 1."""
    totals = of_sets.sum(1) * STEP
    significance.require_equal(mean_of(totals), 1.0)
    assert totals.std() > 0.01


@pytest.mark.parametrize("index", [0, 1, 2])
def test_draws_have_the_density(index, of_sets, significance):
    prior = priors()[index]
    torch.manual_seed(7)
    drawn = prior().sample((8000,))[:, 0]
    if index == 1:
        density = of_sets.mean(0)
        density = density / (density.sum() * STEP)
    else:
        density = prior().log_prob(GRID).exp()
    for frequency in (0.7, 1.5, 3.0):
        expected = ((frequency * GRID[:, 0]).cos() * density).sum().item() * STEP
        # The density's own error, of its normaliser and of 2000 sets, is a tenth of the draws'.
        significance.require_equal(mean_of((frequency * drawn).cos()), expected)


def test_the_truncation_is_in_the_density():
    """Without the share of last draws, the density would be another one."""
    prior = priors()[0]
    few, many = prior(), copy.deepcopy(prior)
    many.truncation = 10_000
    difference = (few.log_prob(GRID) - many().log_prob(GRID)).abs().max()
    assert difference > 0.05
    assert abs(many().log_prob(GRID).exp().sum().item() * STEP - 1) < 0.02


@pytest.mark.parametrize("kind", PRIORS)
def test_they_start_at_the_normal(kind):
    z = torch.randn(5, 3)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    torch.testing.assert_close(kind(3)().log_prob(z), expected)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_in_evaluation_the_density_is_a_function_of_the_parameters(index):
    prior = priors(2)[index]
    z = torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        first = prior().log_prob(z)
        assert torch.equal(first, prior().log_prob(z))
        torch.manual_seed(99)
        assert torch.equal(first, copy.deepcopy(prior)().log_prob(z))
    torch.testing.assert_close(prior().log_prob(z), first)
    with torch.no_grad():
        next(prior.tilt.parameters()).add_(0.3)
        assert not torch.equal(first, prior().log_prob(z))
    prior.train()
    assert not torch.equal(prior().log_prob(z), prior().log_prob(z))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_importance_sampling_agrees_with_quadrature(index, significance):
    """The same density in both: what its normaliser is off by is in both."""
    torch.manual_seed(1)
    prior = priors()[index]
    decoder = NormalDecoder(MLP(1, [4], 3), 0.8).double()
    vae = VAE(prior, decoder, DiagonalNormalEncoder(MLP(3, [4], 2)).double()).eval()
    x = torch.randn(4, 3, dtype=torch.float64)
    exact = Quadrature()(vae.model, vae.guide, x)
    found = ImportanceSampling(20_000)(vae.model, vae.guide, x)
    for value, error, expected in zip(
        found.log_prob, found.standard_error, exact.log_prob, strict=True
    ):
        from significance import Estimate

        significance.require_equal(Estimate(value.item(), error.item()), expected.item())


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("objective", [ELBO(), IWAE(4), DReG(4)], ids=repr)
def test_training_moves_every_parameter(kind, objective):
    torch.manual_seed(0)
    vae = VAE(
        kind(2, hidden=(8,)),
        NormalDecoder(MLP(2, [8], 3), 0.5),
        DiagonalNormalEncoder(MLP(3, [8], 4)),
    )
    x = torch.randn(40, 3)
    before = {name: value.clone() for name, value in vae.named_parameters()}
    fit(vae.model, vae.guide, objective, x, epochs=4, batch_size=20, progress=False)
    # A constant in U changes no density but LARS's.
    still = [n for n, value in vae.named_parameters() if torch.equal(value, before[n])]
    assert all(name.endswith("output.bias") for name in still)


def two_modes(count):
    side = torch.randint(2, (count, 1)) * 2.0 - 1
    return 1.5 * side + 0.4 * torch.randn(count, 1)


def test_noise_contrastive_training_finds_the_density():
    torch.manual_seed(2)
    prior = EnergyPrior(1, (32, 32)).eval()
    prior.fit_noise_contrastive(two_modes(20_000), steps=600, learning_rate=5e-3)
    z = torch.linspace(-4.5, 4.5, 13).unsqueeze(-1)
    mixture = torch.distributions.Normal(torch.tensor([1.5, -1.5]), 0.4)
    expected = mixture.log_prob(z).logsumexp(-1) - math.log(2)
    near = expected > -4
    assert (prior().log_prob(z) - expected)[near].abs().max() < 0.3
    log_normalizer, error = prior.log_normalizer()
    # At the optimum Z is 1.
    assert abs(log_normalizer) < 0.1
    assert error < 0.01


@pytest.mark.parametrize("kind", [LearnedAcceptRejectPrior, EnergyPrior])
def test_a_model_learns_two_modes_that_a_normal_cannot(kind):
    torch.manual_seed(4)
    prior = kind(1, hidden=(32,))
    z = two_modes(2000)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    for _ in range(200):
        loss = -prior().log_prob(z[torch.randint(2000, (200,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    normal = torch.distributions.Normal(0, z.std().item()).log_prob(z).mean()
    assert prior.eval()().log_prob(z).mean() > normal + 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedAcceptRejectPrior(0), "latent must be 1 or more"),
        (lambda: LearnedAcceptRejectPrior(2, truncation=1), "truncation must be 2 or more"),
        (lambda: SelfNormalizedImportancePrior(2, 1), "proposals must be 2 or more"),
        (lambda: EnergyPrior(2, draws=0), "draws must be 1 or more"),
        (
            lambda: EnergyPrior(2).fit_noise_contrastive(torch.zeros(3, 1)),
            r"shape \(num_data, 2\), got \(3, 1\)",
        ),
    ],
)
def test_numbers_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_values_that_are_no_numbers_are_refused(index):
    with pytest.raises(ValueError, match="Expected value argument"):
        priors(2)[index]().log_prob(torch.full((2,), torch.nan, dtype=torch.float64))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_parameters_loaded_in_place_count_at_once(index):
    """As runs load them from a checkpoint, past autograd and its version counters."""
    prior, z = priors()[index], torch.zeros(1, 1, dtype=torch.float64)
    with torch.no_grad():
        before = prior().log_prob(z)
        for parameter in prior.tilt.parameters():
            parameter.data.copy_(2 * parameter)
        expected = copy.deepcopy(prior)
        for module in expected.modules():
            if hasattr(module, "_kept"):
                module._kept = KeptValue()
        assert torch.equal(prior().log_prob(z), expected().log_prob(z))
        assert not torch.equal(prior().log_prob(z), before)
