"""The univariate normal against torch's own, which is slower."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from ppl_vae.distributions import Normal


def pair(*shape, dtype=torch.float64, seed=0):
    """Ours, Pyro's, and their parameters."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()
    scale = (0.1 + torch.rand(*shape, generator=generator, dtype=dtype)).requires_grad_()
    return Normal(loc, scale), dist.Normal(loc, scale), (loc, scale)


@pytest.mark.parametrize("z", [0.0, -3.1, 40.0])
def test_the_log_density_is_scipy_s(z):
    loc, scale, value = torch.tensor([0.7, 0.3, z], dtype=torch.float64)
    wanted = stats.norm(0.7, 0.3).logpdf(z)
    assert Normal(loc, scale).log_prob(value).item() == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("batch", [(), (4,), (7, 4), (2, 7, 4)])
@pytest.mark.parametrize("drawn", [(), (4,), (7, 4), (1, 4), (2, 1, 1)])
def test_values_and_gradients_are_torch_s(batch, drawn):
    """However the distribution and the values are broadcast."""
    ours, theirs, parameters = pair(4)
    if len(batch) and batch[-1:] == (4,):
        ours, theirs = ours.expand(batch), theirs.expand(batch)
    value = torch.randn(drawn, dtype=torch.float64, requires_grad=True)
    found, wanted = ours.log_prob(value), theirs.log_prob(value)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    weight = torch.randn_like(wanted)
    inputs = [value, *parameters]
    slopes = [torch.autograd.grad((weight * each).sum(), inputs) for each in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12)


def test_expanded_twice():
    ours, theirs, _ = pair(1, 4)
    z = torch.randn(5, 3, 4, dtype=torch.float64)
    ours, theirs = (each.expand((3, 4)).expand((5, 3, 4)) for each in (ours, theirs))
    assert isinstance(ours, Normal)
    assert ours.loc.shape == ours.scale.shape == (5, 3, 4)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z), rtol=1e-13, atol=1e-13)


def test_second_derivatives_are_torch_s():
    ours, theirs, (loc, scale) = pair(3)
    z = torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad(
            torch.autograd.grad(each.log_prob(z).sum(), scale, create_graph=True)[0].sum(),
            [loc, scale],
        )
        for each in (ours, theirs)
    )
    torch.testing.assert_close(found, wanted)


def test_draws_are_torch_s():
    ours, theirs, _ = pair(3)
    torch.manual_seed(1)
    found = ours.expand((5, 3)).to_event(1).rsample((2,))
    torch.manual_seed(1)
    assert torch.equal(found, theirs.expand((5, 3)).to_event(1).rsample((2,)))


def test_kl_divergences_are_torch_s():
    (q, q_, _), (p, p_, _) = pair(4), pair(4, seed=1)
    for found, wanted in ((q, q_), (q.to_event(1), q_.to_event(1))):
        other = p if found is q else p.to_event(1)
        plain = p_ if found is q else p_.to_event(1)
        torch.testing.assert_close(kl_divergence(found, other), kl_divergence(wanted, plain))


def test_a_scale_whose_square_is_zero():
    """1e-30 in single precision: torch divides by its square, and gives NaN at the mean."""
    narrow = Normal(torch.tensor(0.5), torch.tensor(1e-30))
    assert narrow.log_prob(torch.tensor(0.5)).item() == pytest.approx(
        30 * math.log(10) - 0.5 * math.log(2 * math.pi)
    )
    assert narrow.log_prob(torch.tensor(0.6)).item() == -math.inf


def test_a_log_density_may_be_changed_in_place():
    density = Normal(torch.zeros(4), torch.ones(4)).expand((3, 4)).log_prob(torch.zeros(4))
    assert (density.add_(1) - density[0]).abs().max() == 0


def test_values_are_checked():
    with pytest.raises(ValueError, match="support"):
        Normal(torch.zeros(2), torch.ones(2), validate_args=True).log_prob(
            torch.tensor([0.0, torch.nan])
        )
