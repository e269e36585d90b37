"""Blocks of one-hot variables against Pyro's one-hot distribution."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from significance import mean_of
from torch.distributions import kl_divergence

from ppl_vae.distributions import OneHotBlocks, OneHotVector

LOGITS = torch.tensor([0.3, -1.0, 0.5, 2.0, 0.0, -0.7], dtype=torch.float64)


def every_value(variables, classes):
    rows = torch.eye(classes, dtype=torch.float64)
    choices = itertools.product(range(classes), repeat=variables)
    return torch.stack([rows[list(choice)].flatten() for choice in choices])


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_sums_to_one_over_all_values(classes):
    values = every_value(6 // classes, classes)
    total = OneHotVector(LOGITS, classes).log_prob(values).exp().sum().item()
    assert total == pytest.approx(1)


def test_is_a_product_of_one_hot_variables():
    law = OneHotVector(LOGITS, 3)
    reference = dist.OneHotCategorical(logits=LOGITS.reshape(2, 3)).to_event(1)
    z = reference.sample((4, 5))
    torch.testing.assert_close(law.log_prob(z.flatten(-2)), reference.log_prob(z))
    torch.testing.assert_close(law.mean, reference.mean.flatten())
    torch.testing.assert_close(law.variance, reference.variance.flatten())
    assert not law.has_rsample


def test_draws(significance):
    law = OneHotVector(LOGITS, 3)
    z = law.sample((20_000,))
    assert law.support.check(z).all()
    for column, mean in zip(z.unbind(-1), law.mean.tolist(), strict=True):
        significance.split(6).require_equal(mean_of(column), mean)


def test_impossible_classes():
    law = OneHotVector(torch.tensor([0.0, -math.inf, 0.0, 0.0]), 2)
    assert law.log_prob(torch.tensor([1.0, 0, 1, 0])).item() == pytest.approx(-math.log(2))
    assert law.log_prob(torch.tensor([0.0, 1, 1, 0])).item() < -80


def test_shapes_and_expand():
    law = OneHotVector(torch.randn(5, 6), 3, validate_args=False)
    assert (law.batch_shape, law.event_shape) == ((5,), (6,))
    z = law.sample((3,))
    assert (z.shape, law.log_prob(z).shape) == ((3, 5, 6), (3, 5))
    big = law.expand([2, 5])
    assert (big.batch_shape, big.sample().shape) == ((2, 5), (2, 5, 6))
    torch.testing.assert_close(big.log_prob(z[0]), law.log_prob(z[0]).expand(2, 5))
    assert big._validate_args is False


def test_divergence():
    p, q = OneHotVector(LOGITS, 3), OneHotVector(LOGITS.flip(0), 3)
    values = every_value(2, 3)
    log_p, log_q = p.log_prob(values), q.log_prob(values)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(kl_divergence(p, q), exact)


def test_gradient():
    z = every_value(2, 3)
    leaf = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: OneHotVector(logits, 3).log_prob(z), (leaf,))


@pytest.mark.parametrize("value", [[1.0, 1, 0, 0], [0.5, 0.5, 1, 0], [0.0, 0, 1, 0]])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="latents of 2 classes are one-hot in each block"):
        OneHotVector(torch.zeros(4), 2).log_prob(torch.tensor(value))


def test_supports_compare_by_their_classes():
    assert OneHotBlocks(3) == OneHotBlocks(3) != OneHotBlocks(2)
    assert len({OneHotBlocks(3), OneHotBlocks(3), OneHotBlocks(2)}) == 2
    assert (OneHotBlocks(3).is_discrete, OneHotBlocks(3).event_dim) == (True, 1)
    assert repr(OneHotBlocks(3)) == "OneHotBlocks(3)"
