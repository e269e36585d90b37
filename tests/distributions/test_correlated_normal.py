"""Normals with correlations against torch's own, which are slower."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppl_vae.distributions import FullNormal, LowRankNormal, multiply

LATENT, RANK = 4, 2


def arguments(kind, batch, dtype=torch.float64):
    """Loc, and the factors of a covariance; leaves."""
    loc = torch.randn(*batch, LATENT, dtype=dtype)
    if kind is FullNormal:
        factor = torch.randn(*batch, LATENT, LATENT, dtype=dtype).tril(-1)
        values = loc, factor + torch.rand(*batch, LATENT, dtype=dtype).add(0.2).diag_embed()
    else:
        factor = torch.randn(*batch, LATENT, RANK, dtype=dtype)
        values = loc, factor, torch.rand(*batch, LATENT, dtype=dtype).add(0.2)
    return [value.requires_grad_() for value in values]


def pair(kind, batch=(5,), dtype=torch.float64):
    """The distribution, torch's, and the arguments of both."""
    values = arguments(kind, batch, dtype)
    if kind is FullNormal:
        loc, factor = values
        return (
            FullNormal(loc, scale_tril=factor),
            dist.MultivariateNormal(loc, scale_tril=factor),
            values,
        )
    return LowRankNormal(*values), dist.LowRankMultivariateNormal(*values), values


BOTH = pytest.mark.parametrize("kind", [FullNormal, LowRankNormal])


@BOTH
@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
@pytest.mark.parametrize("leading", [(), (7,), (3, 7)])
def test_the_density(kind, batch, leading):
    ours, theirs, values = pair(kind, batch)
    z = torch.randn(*leading, *batch, LATENT, dtype=torch.float64)
    found, expected = ours.log_prob(z), theirs.log_prob(z)
    torch.testing.assert_close(found, expected)
    for mine, other in zip(
        torch.autograd.grad(found.sum(), values), torch.autograd.grad(expected.sum(), values),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, other)


@BOTH
def test_single_precision(kind):
    double, _, values = pair(kind)
    single = [value.detach().float() for value in values]
    ours = FullNormal(single[0], scale_tril=single[1]) if kind is FullNormal else kind(*single)
    z = ours.rsample((100,))
    assert z.dtype == ours.log_prob(z).dtype == torch.float32
    expected = double.log_prob(z.double())
    torch.testing.assert_close(ours.log_prob(z).double(), expected, rtol=1e-4, atol=1e-4)


@BOTH
@pytest.mark.parametrize("shape", [(), (7,), (3, 7)])
def test_draws_expanded_and_by_a_sample_shape(kind, shape):
    distribution, _, values = pair(kind)
    for draw in (
        lambda: distribution.rsample(shape),
        lambda: distribution.expand((*shape, 5)).rsample(),
    ):
        torch.manual_seed(1)
        z = draw()
        assert z.shape == (*shape, 5, LATENT)
        # The draw is loc + factor @ noise, and of a diagonal part more: known by the same noise.
        torch.manual_seed(1)
        loc, factor = values[:2]
        columns = factor.shape[-1]
        noise = torch.empty(*shape, 5, columns, dtype=torch.float64).normal_()
        expected = loc + (factor @ noise.unsqueeze(-1)).squeeze(-1)
        if kind is LowRankNormal:
            own = torch.empty(*shape, 5, LATENT, dtype=torch.float64).normal_()
            expected = expected + values[2].sqrt() * own
        torch.testing.assert_close(z, expected)
        for mine, other in zip(
            torch.autograd.grad(z.square().sum(), values),
            torch.autograd.grad(expected.square().sum(), values),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)


@BOTH
def test_an_expanded_one_is_of_the_same_kind(kind):
    distribution, theirs, _ = pair(kind)
    expanded = distribution.expand((3, 5))
    assert type(expanded) is kind
    z = torch.randn(3, 5, LATENT, dtype=torch.float64)
    torch.testing.assert_close(expanded.log_prob(z), theirs.log_prob(z))


@BOTH
def test_values_are_checked_when_asked(kind):
    ours, _, _ = pair(kind)
    with pytest.raises(ValueError, match="support"):
        ours.log_prob(torch.full((5, LATENT), torch.nan, dtype=torch.float64))


class TestDivergence:
    @BOTH
    def test_from_independent_normals(self, kind):
        q, theirs, _ = pair(kind)
        loc, scale = torch.randn(LATENT).double(), torch.rand(LATENT).double() + 0.5
        p = dist.Normal(loc, scale).to_event(1)
        same = dist.MultivariateNormal(loc, scale_tril=scale.diag())
        torch.testing.assert_close(kl_divergence(q, p), kl_divergence(theirs, same))
        wide = kl_divergence(q.expand((3, 5)), p.expand((3, 5)))
        torch.testing.assert_close(wide, kl_divergence(theirs, same).expand(3, 5))

    @BOTH
    def test_from_what_has_no_closed_form(self, kind):
        q, _, _ = pair(kind)
        with pytest.raises(NotImplementedError):
            kl_divergence(q, dist.Laplace(torch.zeros(LATENT).double(), 1.0).to_event(1))

    def test_torch_knows_the_others(self):
        (q, theirs, _), (p, other, _) = pair(FullNormal), pair(FullNormal)
        torch.testing.assert_close(kl_divergence(q, p), kl_divergence(theirs, other))


@pytest.mark.parametrize("batch", [(), (5,), (1,), (2, 5)])
@pytest.mark.parametrize("leading", [(), (3,), (4, 3)])
def test_products(batch, leading):
    matrix = torch.randn(*batch, 3, 4)
    full = (5,) if batch == (1,) else batch
    vectors = torch.randn(*leading, *full, 4)
    found = multiply(matrix, vectors)
    torch.testing.assert_close(found, (matrix @ vectors.unsqueeze(-1)).squeeze(-1))
