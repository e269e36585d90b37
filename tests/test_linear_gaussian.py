import math

import pytest
import torch
from significance import mean_of, variance_of
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import draw_particles

SIZES = [(1, 1), (5, 2), (2, 5), (30, 3)]


def model_of(size, noise_scale=0.6, seed=1):
    return LinearGaussian.random(*size, noise_scale, seed=seed)


def direct(model):
    """x ~ Normal(b, W W' + s^2 I), without Woodbury."""
    features = len(model.weight)
    eye = torch.eye(features, dtype=torch.float64)
    covariance = model.weight @ model.weight.T + model.noise_scale**2 * eye
    return MultivariateNormal(model.bias, covariance)


@pytest.mark.parametrize("size", SIZES)
def test_log_evidence_is_the_marginal_normal(size):
    model = model_of(size)
    x = model.simulate(6)
    assert x.shape == (6, size[0])
    torch.testing.assert_close(model.log_evidence(x), direct(model).log_prob(x))


@pytest.mark.parametrize("size", SIZES)
def test_posterior_by_bayes_rule(size):
    model = model_of(size)
    x, z = model.simulate(6), torch.randn(9, 6, size[1], dtype=torch.float64)
    joint = model.prior().log_prob(z) + model.decoder(z).log_prob(x)
    torch.testing.assert_close(model.posterior(x).log_prob(z), joint - model.log_evidence(x))


@pytest.mark.parametrize("size", SIZES)
def test_mean_field_posterior_and_its_gap(size):
    model = model_of(size)
    x = model.simulate(6)
    q, p = model.mean_field_posterior(x), model.posterior(x)
    torch.testing.assert_close(q.mean, p.mean)
    scale = q.base_dist.scale
    precision = model.posterior_precision.diagonal()
    torch.testing.assert_close(scale**-2, precision.expand_as(scale))
    # KL(q, p) is the gap between log p(x) and the ELBO, the same for every x.
    covariance = torch.diag_embed(scale.square())
    gap = kl_divergence(MultivariateNormal(q.mean, covariance), p)
    torch.testing.assert_close(gap, model.mean_field_gap().expand(6))


def test_no_other_diagonal_is_closer():
    model = model_of((5, 3))
    p = model.posterior(model.simulate(1))
    best = model.posterior_precision.diagonal().rsqrt()

    def gap(scale, mean):
        return kl_divergence(MultivariateNormal(mean, scale_tril=torch.diag(scale)), p).item()

    mean = p.mean[0]
    for i in range(3):
        for factor in (0.9, 1.1):
            scale = best.clone()
            scale[i] *= factor
            assert gap(scale, mean) > gap(best, mean)
            assert gap(best, mean + 0.1 * (factor - 1) * torch.eye(3)[i]) > gap(best, mean)


@pytest.mark.parametrize("size", SIZES)
def test_every_weight_at_the_posterior_is_the_evidence(size):
    model = model_of(size)
    x = model.simulate(6)
    vae = model.vae()
    particles = draw_particles(vae.model, vae.guide, x, 8)
    expected = model.log_evidence(x).expand(8, 6)
    torch.testing.assert_close(particles.log_weight, expected, rtol=0, atol=1e-10)


def test_every_weight_at_another_guide_is_not():
    model = model_of((5, 3))
    x = model.simulate(6)
    vae = model.mean_field_vae()
    particles = draw_particles(vae.model, vae.guide, x, 8)
    assert particles.log_weight.std(0).min() > 1e-3


def test_simulated_data_have_the_models_moments(significance):
    model = model_of((4, 2))
    x = model.simulate(30_000)
    expected = direct(model)
    significance = significance.split(8)
    for i in range(4):
        significance.require_equal(mean_of(x[:, i]), model.bias[i].item())
        significance.require_equal(variance_of(x[:, i]), expected.variance[i].item())


def test_mean_log_evidence_is_the_negative_entropy(significance):
    model = model_of((4, 2))
    log_evidence = model.log_evidence(model.simulate(30_000, seed=9))
    significance.require_equal(mean_of(log_evidence), -direct(model).entropy().item())


def test_seeds():
    first, again, other = (model_of((4, 2), seed=s) for s in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(first.simulate(3, seed=4), again.simulate(3, seed=4))
    assert not torch.equal(first.simulate(3, seed=4), first.simulate(3, seed=5))
    state = torch.get_rng_state()
    model_of((4, 2)).simulate(3)
    assert torch.equal(state, torch.get_rng_state())


def test_bias_defaults_to_zero_and_parameters_are_copies():
    weight = torch.ones(3, 2)
    model = LinearGaussian(weight)
    assert model.bias.tolist() == [0, 0, 0]
    with torch.no_grad():
        model.weight.zero_()
    assert weight.sum() == 6


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_impossible_noise(scale):
    with pytest.raises(ValueError, match="noise_scale must be positive and finite"):
        LinearGaussian(torch.ones(3, 2), noise_scale=scale)


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_of_the_log_evidence(seed):
    model = model_of((3, 2), seed=seed)
    x = model.simulate(2)
    ours = torch.autograd.grad(model.log_evidence(x).sum(), [model.weight, model.bias])
    theirs = torch.autograd.grad(direct(model).log_prob(x).sum(), [model.weight, model.bias])
    torch.testing.assert_close(ours, theirs)
