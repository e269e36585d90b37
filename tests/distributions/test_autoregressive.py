"""Conditionals written by hand, so that the joint is known."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from significance import mean_of

from ppl_vae.distributions import Autoregressive

SLOPE = torch.tensor([[0.0, 0, 0], [0.7, 0, 0], [-0.4, 0.9, 0]], dtype=torch.float64)
SHIFT = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
START = torch.zeros(3, dtype=torch.float64)


def linear(z):
    return (z @ SLOPE.T + SHIFT).unsqueeze(-2)


def normals(outputs):
    return dist.Normal(outputs.squeeze(-2), 0.8)


def bits(outputs):
    return dist.Bernoulli(logits=2 * outputs.squeeze(-2))


def normal_law(network=linear, **options):
    return Autoregressive(
        network, normals, START, support=constraints.real, has_rsample=True, **options
    )


def binary_law():
    return Autoregressive(linear, bits, START, support=constraints.boolean, has_rsample=False)


def exact_normal():
    """z = (1 - SLOPE)^-1 (SHIFT + 0.8 noise)."""
    inverse = torch.linalg.inv(torch.eye(3, dtype=torch.float64) - SLOPE)
    return dist.MultivariateNormal(inverse @ SHIFT, 0.64 * inverse @ inverse.T)


def test_linear_conditionals_are_a_joint_normal():
    z = exact_normal().sample((4, 5))
    torch.testing.assert_close(normal_law().log_prob(z), exact_normal().log_prob(z))


def test_draws_have_the_joint_moments(significance):
    z, exact = normal_law().sample((30_000,)), exact_normal()
    assert not z.requires_grad
    each = significance.split(9)
    centred = z - exact.mean
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        moment = mean_of(centred[:, i] * centred[:, j])
        each.require_equal(moment, exact.covariance_matrix[i, j].item())
    for d in range(3):
        each.require_equal(mean_of(z[:, d]), exact.mean[d].item())


def test_draws_are_differentiable():
    """The last coordinate moves with the first one's shift, directly and through the second."""
    shift = SHIFT.clone().requires_grad_()
    law = normal_law(lambda z: (z @ SLOPE.T + shift).unsqueeze(-2))
    law.rsample()[2].backward()
    torch.testing.assert_close(shift.grad, torch.tensor([-0.4 + 0.9 * 0.7, 0.9, 1.0]).double())


def test_binary_conditionals():
    values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    law = binary_law()
    assert law.log_prob(values).exp().sum().item() == pytest.approx(1)
    with pytest.raises(NotImplementedError):
        law.rsample()


def test_binary_draws(significance):
    values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    z = binary_law().sample((20_000,))
    for value, log_prob in zip(values, binary_law().log_prob(values), strict=True):
        count = int((z == value).all(-1).sum())
        significance.split(8).require_count(count, len(z), log_prob.exp().item())


def test_shapes_and_expand():
    law = normal_law(validate_args=False)
    assert (law.batch_shape, law.event_shape, law.support.event_dim) == ((), (3,), 1)
    big = law.expand([3, 5])
    assert (big.batch_shape, big.rsample((2,)).shape) == ((3, 5), (2, 3, 5, 3))
    z = law.sample((5,))
    torch.testing.assert_close(big.log_prob(z), law.log_prob(z).expand(3, 5))
    assert (big._validate_args, big.has_rsample) == (False, True)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match=r"values in Boolean\(\), got others"):
        binary_law().log_prob(torch.full((3,), 0.5, dtype=torch.float64))
