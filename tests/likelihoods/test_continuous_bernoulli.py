import math

import pytest
import torch
from torch import nn

from ppl_vae.likelihoods import ContinuousBernoulli, ContinuousBernoulliDecoder
from ppl_vae.networks import MLP

LOGITS = [0.0, 1e-6, 1e-3, 0.19, 0.2, 0.21, 1.0, 5.0, 14.0, 30.0, 100.0, 1e4]
BOTH_SIGNS = sorted({sign * logit for logit in LOGITS for sign in (-1, 1)})


def exact(logit, x):
    """``log(l exp(l x) / (exp(l) - 1))``, from whichever end does not overflow."""
    if logit == 0:
        return torch.zeros_like(x)
    size = abs(logit)
    distance = 1 - x if logit > 0 else x
    return math.log(size / -math.expm1(-size)) - size * distance


def mass(distribution, steps=20_000):
    """By Simpson's rule on a grid that is finer towards the ends."""
    angle = torch.linspace(0, math.pi, steps + 1, dtype=torch.float64)
    x, slope = (1 - angle.cos()) / 2, angle.sin() / 2
    weight = torch.ones(steps + 1, dtype=torch.float64)
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    density = distribution.log_prob(x.to(distribution.logits.dtype)).double().exp()
    return (weight * slope * density).sum().item() * math.pi / steps / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", BOTH_SIGNS)
def test_log_density(logit, dtype):
    x = torch.linspace(0, 1, 101, dtype=torch.float64).to(dtype)
    value = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)).log_prob(x)
    expected = exact(torch.tensor(logit, dtype=dtype).double().item(), x.double())
    # Rounding of the largest term, and of a few operations.
    tolerance = 8 * torch.finfo(dtype).eps * max(1.0, abs(logit))
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("logit", [0.0, 0.1, 0.3, -2.0, 10.0, 30.0, -100.0])
def test_integrates_to_one_however_saturated(logit):
    assert mass(ContinuousBernoulli(torch.tensor(logit))) == pytest.approx(1, abs=1e-5)


def test_torchs_own_does_not():
    """Its normalising constant comes from clamped probabilities: why this one is here."""
    theirs = torch.distributions.ContinuousBernoulli(logits=torch.tensor(30.0))
    assert mass(theirs) == pytest.approx(0.53, abs=0.01)


def test_equals_torchs_own_where_that_is_right():
    logits = torch.tensor([-8.0, -1.0, -0.01, 0.0, 0.003, 0.5, 8.0], dtype=torch.float64)
    x = torch.linspace(0, 1, 11, dtype=torch.float64).unsqueeze(-1)
    ours = ContinuousBernoulli(logits)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", BOTH_SIGNS)
def test_mean_and_variance_are_slopes_of_the_normaliser(logit, dtype):
    at = torch.tensor(logit, dtype=dtype, requires_grad=True)
    # d/dl log p(x) = x - mean, and once more: -variance.
    (slope,) = torch.autograd.grad(
        ContinuousBernoulli(at).log_prob(at.new_zeros(())), at, create_graph=True
    )
    distribution = ContinuousBernoulli(at.detach())
    error = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(-slope.detach(), distribution.mean, rtol=0, atol=error)
    if dtype == torch.float64 and logit != 0:
        (bend,) = torch.autograd.grad(slope, at)
        torch.testing.assert_close(-bend, distribution.variance, rtol=1e-6, atol=1e-9)


def test_the_series_continues_the_formula():
    below, above = (torch.tensor(0.2 * (1 + sign * 1e-9), dtype=torch.float64) for sign in (-1, 1))
    for name in ("mean", "variance"):
        values = [getattr(ContinuousBernoulli(at), name) for at in (below, above)]
        torch.testing.assert_close(*values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("logit", [-1e4, -3.0, -1e-6, 0.0, 1e-6, 3.0, 1e4])
def test_draws_stay_inside_and_have_the_mean(logit, significance):
    distribution = ContinuousBernoulli(torch.tensor(logit))
    draws = distribution.sample((10_000,))
    assert ((draws >= 0) & (draws <= 1)).all()
    error = (distribution.variance / len(draws)).sqrt().item()
    z = (draws.double().mean().item() - distribution.mean.item()) / error
    assert abs(z) < significance.limit


def test_starts_where_the_mean_is_that_of_the_data():
    mean = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0, math.nan])
    network = MLP(2, [5], 6)
    decoder = ContinuousBernoulliDecoder(network, mean)
    nn.init.zeros_(network.output.weight)
    expected = mean.clamp(0.01, 0.99).nan_to_num(0.5)
    torch.testing.assert_close(decoder(torch.randn(3, 2)).mean[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.inf])
def test_values_outside_are_refused(value):
    x = torch.full((1, 2), 0.5)
    x[0, 1] = value
    decoder = ContinuousBernoulliDecoder(nn.Identity())
    with pytest.raises(ValueError, match=r"takes data in \[0, 1\], got .*likelihood=.normal"):
        decoder(torch.zeros(1, 2)).log_prob(x)
