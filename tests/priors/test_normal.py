import math

import pytest
import torch
from significance import mean_of, variance_of

from ppl_vae.priors import LearnedNormal, StandardNormal


@pytest.mark.parametrize("prior", [StandardNormal(3), LearnedNormal(3)])
def test_starts_at_the_standard_normal(prior):
    z = torch.randn(5, 3)
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    assert (prior().batch_shape, prior().event_shape) == ((), (3,))
    assert prior().has_rsample
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_standard_normal_has_nothing_to_train_or_save_and_follows_its_module():
    prior = StandardNormal(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}
    assert prior.double()().sample().dtype == torch.float64


def test_learned_normal():
    prior = LearnedNormal(2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.5, -0.5]))
    z = torch.randn(4, 2)
    expected = torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), expected)
    prior().log_prob(z).sum().backward()
    assert all(p.grad.abs().min() > 0 for p in prior.parameters())


def test_draws_follow_the_density(significance):
    prior = LearnedNormal(2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.5, -0.5]))
        draws = prior().sample((20_000,))
    for i in range(2):
        significance.split(4).require_equal(mean_of(draws[:, i]), prior.loc[i].item())
        variance = (2 * prior.log_scale[i]).exp().item()
        significance.split(4).require_equal(variance_of(draws[:, i]), variance)


@pytest.mark.parametrize("prior", [StandardNormal, LearnedNormal])
def test_no_latents(prior):
    with pytest.raises(ValueError, match="latent must be 1 or more, got 0"):
        prior(0)
