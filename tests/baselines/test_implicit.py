"""GAN, WGAN-GP and GMMN: updates by hand, resuming, log p(x) with the noise that was chosen."""

import math

import pytest
import torch
from significance import mean_of
from torch import nn
from torch.nn.functional import softplus

import ppl_vae as pv
from ppl_vae.baselines import (
    GAN,
    GMMN,
    WassersteinGAN,
    implicit_networks,
    kernel_density_estimate,
    train,
)
from ppl_vae.objectives import squared_mmd

LATENT, FEATURES = 2, 3


def networks():
    torch.manual_seed(0)
    return pv.MLP(LATENT, [8], FEATURES), pv.MLP(FEATURES, [8], 1)


KINDS = {
    "gan": lambda g, c: GAN(g, c, LATENT),
    "wgan": lambda g, c: WassersteinGAN(g, c, LATENT, critic_updates=2),
    "gmmn": lambda g, _: GMMN(g, LATENT),
}


@pytest.fixture(params=KINDS)
def make(request):
    return lambda: KINDS[request.param](*networks())


@pytest.fixture
def x():
    return torch.randn(60, FEATURES, generator=torch.Generator().manual_seed(1)) + 1


def fitted(model, x, epochs=4, **options):
    call = {"batch_size": 20, "device": "cpu", "progress": False, **options}
    return model, train(model, x, epochs=epochs, **call)


class StopError(Exception):
    pass


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(make, x, tmp_path):
    def stop(record):
        if record.epoch == 2:
            raise StopError

    whole, result = fitted(make(), x)
    file = tmp_path / "checkpoint"
    with pytest.raises(StopError):
        fitted(make(), x, checkpoint=file, checkpoint_seconds=0.0, on_epoch=stop)
    again, resumed = fitted(make(), x, checkpoint=file)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert [r.measures for r in result.history.records] == [
        r.measures for r in resumed.history.records
    ]


def test_without_the_optimisers_state_a_resumed_run_would_differ(make, x):
    """What the test above would miss if it could not fail."""
    model, _ = fitted(make(), x, epochs=2)
    assert model.training_state()
    state = {name: torch.zeros_like(value) for name, value in model.training_state().items()}
    other, _ = fitted(make(), x, epochs=2)
    other.load_training_state(state)
    for each in (model, other):
        torch.manual_seed(3)
        for _ in range(2):
            each.update(x[:20], 0.0)
    same = zip(model.vae.parameters(), other.vae.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in same)


def test_a_gan_descends_the_non_saturating_loss(x):
    """Two updates of plain Adam by hand, on the same draws."""
    generator, critic = networks()
    model = GAN(generator, critic, LATENT, learning_rate=0.01)
    model.start(x)
    torch.manual_seed(5)
    values = model.update(x, 0.0)
    g, c = networks()
    adam = [torch.optim.Adam(m.parameters(), lr=0.01, betas=(0.5, 0.999)) for m in (g, c)]
    torch.manual_seed(5)
    fake = g(torch.randn(len(x), LATENT)).detach()
    critic_loss = -(c(x).sigmoid().log() + (1 - c(fake).sigmoid()).log()).mean()
    critic_loss.backward()
    adam[1].step()
    g.zero_grad()
    generator_loss = softplus(-c(g(torch.randn(len(x), LATENT)))).mean()
    generator_loss.backward()
    adam[0].step()
    torch.testing.assert_close(values["critic_loss"], critic_loss.detach())
    torch.testing.assert_close(values["generator_loss"], generator_loss.detach())
    for ours, by_hand in ((generator, g), (critic, c)):
        for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope(x):
    critic = nn.Linear(FEATURES, 1)
    model = WassersteinGAN(networks()[0], critic, LATENT)
    found = model.gradient_penalty(x, torch.zeros_like(x))
    torch.testing.assert_close(found, (critic.weight.norm() - 1).square())


def test_the_generator_has_its_turn_after_so_many_updates_of_the_critic(x):
    model = WassersteinGAN(*networks(), LATENT, critic_updates=3)
    model.start(x)
    before = [p.clone() for p in model.vae.parameters()]
    moved = []
    for _ in range(4):
        model.update(x, 0.0)
        now = [p.clone() for p in model.vae.parameters()]
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        before = now
    assert moved == [False, False, True, False]


def test_the_discrepancy_is_zero_in_expectation_for_one_distribution(significance):
    torch.manual_seed(0)
    values = torch.stack(
        [squared_mmd(torch.randn(10, 2), torch.randn(12, 2), 4.0) for _ in range(400)]
    )
    significance.require_equal(mean_of(values), 0.0)


def test_moments_are_matched():
    """A linear generator comes to the mean and covariance of normal data."""
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    x = torch.randn(2000, 2) @ factor.T + torch.tensor([1.0, -1.0])
    generator = nn.Linear(2, 2)
    fitted(GMMN(generator, 2, learning_rate=0.02), x, epochs=15, batch_size=200)
    torch.testing.assert_close(generator.bias.detach(), x.mean(0), atol=0.15, rtol=0)
    weight = generator.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.cov(x.T), atol=0.25, rtol=0)


def test_log_prob_of_a_linear_generator_is_that_of_its_known_density():
    """With the noise that validation data choose."""
    exact = pv.LinearGaussian.random(6, 2, 0.5, seed=1)
    generator = nn.Linear(2, 6).double()
    generator.load_state_dict({"weight": exact.weight.data, "bias": exact.bias.data})
    model = GMMN(generator, 2)
    model.start(exact.simulate(50))
    # Before it is chosen the noise is the spread of the data, a poor one.
    assert float(model.decoder.scale) > 0.8
    choice = model.choose_noise(exact.simulate(40, seed=3))
    assert float(model.decoder.scale) == choice.scale
    x = exact.simulate(20, seed=4)
    evidence = pv.AutomaticSampling()(model.model, model.guide, x)
    known = pv.LinearGaussian(exact.weight.data, exact.bias.data, choice.scale).log_evidence(x)
    assert evidence.mean == pytest.approx(known.mean().item(), abs=0.05)
    annealing = pv.AnnealedImportanceSampling(200, 8, 2)
    sandwich = pv.BidirectionalMonteCarlo(annealing, 10)
    judged = pv.log_prob_of(model.decoder, x, model.prior, estimator=sandwich)
    assert judged.mean == pytest.approx(known.mean().item(), abs=0.1)
    assert abs(judged.gap) < 0.2


def test_a_kernel_density_estimate_is_low_and_says_so():
    exact = pv.LinearGaussian.random(20, 6, 0.3, seed=1)
    x, valid = exact.simulate(20, seed=2), exact.simulate(50, seed=3)
    torch.manual_seed(0)
    draws = exact.decoder(torch.randn(2000, 6, dtype=torch.float64)).mean.detach()
    evidence = kernel_density_estimate(draws, x, valid=valid)
    assert evidence.mean < exact.log_evidence(x).mean().item() - 2
    assert "chosen on 50 validation data" in evidence.method
    given = kernel_density_estimate(draws, x, bandwidth=0.3)
    assert given.warning.startswith("not to be trusted")
    by_hand = [
        torch.distributions.Normal(draws, 0.3).log_prob(row).sum(-1).logsumexp(0) for row in x
    ]
    torch.testing.assert_close(given.log_prob, torch.stack(by_hand) - math.log(2000))
    # Of one datum that a draw is, and no other near: that draw alone.
    one = kernel_density_estimate(draws[:1], draws[:1], bandwidth=0.1)
    assert one.log_prob.item() == pytest.approx(-10 * math.log(2 * math.pi * 0.01))


def test_errors_of_a_kernel_density_estimate_are_those_of_other_draws(significance):
    """All data share the draws, so that their errors do not average out."""
    torch.manual_seed(0)
    x = torch.randn(50, 2, dtype=torch.float64)
    stated, means = [], []
    for _ in range(400):
        draws = torch.randn(200, 2, dtype=torch.float64)
        found = kernel_density_estimate(draws, x, bandwidth=0.7)
        means.append(found.mean)
        stated.append(found.monte_carlo_error)
    means, error = torch.tensor(means), torch.tensor(stated).square().mean().sqrt()
    inside = ((means - means.mean()).abs() <= 1.96 * error).sum()
    significance.require_count(int(inside), 400, 0.95)


def test_what_is_not_finite_has_no_kernel_density_estimate():
    finite = torch.ones(3, 2)
    with pytest.raises(ValueError, match="draws are not finite"):
        kernel_density_estimate(finite / 0, finite, bandwidth=1.0)
    with pytest.raises(ValueError, match="x has NaN or infinite values"):
        kernel_density_estimate(finite, finite / 0, bandwidth=1.0)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_networks_fit_images(network):
    data = pv.load_dataset("digits")
    generator, critic = implicit_networks(data, 5, hidden=(16,), network=network)
    model = GAN(generator, critic, 5)
    fitted(model, data.train[:40], epochs=1)
    drawn = model.generate(7).mean
    assert drawn.shape == (7, 64)
    assert bool(((drawn >= 0) & (drawn <= 1)).all())
    assert model.bottom == "z"


def test_wrong_use_is_one_line(x):
    generator, critic = networks()
    with pytest.raises(ValueError, match="takes no z of shape"):
        GAN(generator, critic, 5)
    with pytest.raises(ValueError, match="no slope at a datum"):
        WassersteinGAN(generator, nn.Sequential(critic, nn.BatchNorm1d(1)), LATENT)
    with pytest.raises(ValueError, match="make it for these data"):
        fitted(GMMN(generator, LATENT), torch.randn(9, 4))
    with pytest.raises(ValueError, match="has no encoder"):
        GMMN(generator, LATENT).reconstruct(x)
    with pytest.raises(ValueError, match="batches of 2 or more"):
        GMMN(generator, LATENT).update(x[:1], 0.0)
    with pytest.raises(ValueError, match="give a bandwidth"):
        kernel_density_estimate(x, x)
    with pytest.raises(ValueError, match="draws of these data"):
        kernel_density_estimate(x, x[:, :2], bandwidth=1.0)


def test_on_images_a_sandwich_judges_the_annealing():
    """What is said of digits is near the truth to half a nat, or says that it is not."""
    data = pv.load_dataset("digits")
    torch.manual_seed(0)
    generator, critic = implicit_networks(data, 5, hidden=(32,))
    model, _ = fitted(GAN(generator, critic, 5, learning_rate=1e-3), data.train, epochs=5)
    model.decoder.scale.fill_(0.3)
    said = set()
    for temperatures in (2, 150):
        annealing = pv.AnnealedImportanceSampling(temperatures, 8, 2)
        sandwich = pv.BidirectionalMonteCarlo(annealing, 5)
        judged = pv.log_prob_of(model.decoder, data.test[:3], model.prior, estimator=sandwich)
        trusted = "on simulated data the same settings" not in (judged.warning or "")
        assert trusted == (judged.gap <= 0.5)
        said.add(trusted)
    assert said == {True, False}
