"""The draws of some rows of a batch are those that one process draws with all the rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional

from ppl_vae.particles import Programs, Share, shared_draws

BATCH, PARTICLES, WORKERS = 7, 3, 3
X = torch.linspace(-1, 1, BATCH * 4).reshape(BATCH, 4)
SHARES = [Share(rank, WORKERS, BATCH) for rank in range(WORKERS)]

BY_ROW = {
    "normal": lambda x: dist.Normal(x, 1.0).to_event(1),
    "no row in it": lambda x: dist.Normal(torch.zeros(4), 1.0).to_event(1),
    "uniform": lambda x: dist.Uniform(x, x + 1).to_event(1),
    "laplace": lambda x: dist.Laplace(x, 1.0).to_event(1),
    "exponential": lambda x: dist.Exponential(x.exp()).to_event(1),
    "bernoulli": lambda x: dist.Bernoulli(logits=x).to_event(1),
    "categorical": lambda x: dist.Categorical(logits=x),
    "one-hot": lambda x: dist.OneHotCategorical(logits=x),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(logits=x[:, :2]),
        dist.Normal(x.unsqueeze(-2).expand(-1, 2, -1), 1.0).to_event(1),
    ),
    "low rank": lambda x: dist.LowRankMultivariateNormal(x, x.unsqueeze(-1), x**2 + 1),
    "full rank": lambda x: dist.MultivariateNormal(x, torch.eye(4)),
}
REJECTED = {
    "gamma": lambda x: dist.Gamma(x.exp(), 1.0).to_event(1),
    "von Mises": lambda x: dist.VonMises(x, 1.0).to_event(1),
    "poisson": lambda x: dist.Poisson(x.exp()).to_event(1),
}


def programs(make):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", make(x))

    return Programs(guide, guide)


def draws(make, share=None):
    """Draws of the rows of a share, or of all, and the random state after."""
    torch.manual_seed(3)
    if share is None:
        return programs(make).run_guide(X, PARTICLES).latents["z"], torch.get_rng_state()
    with shared_draws(share, []):
        drawn = programs(make).run_guide(share.of(X), PARTICLES).latents["z"]
    return drawn, torch.get_rng_state()


def test_shares_are_all_rows_once_and_near_equal():
    for size in range(WORKERS, 20):
        shares = [Share(rank, WORKERS, size) for rank in range(WORKERS)]
        rows = torch.cat([share.of(torch.arange(size)) for share in shares])
        assert rows.tolist() == list(range(size))
        assert max(s.rows for s in shares) - min(s.rows for s in shares) <= 1
        assert [s.rows for s in shares] == [len(s.of(torch.arange(size))) for s in shares]


@pytest.mark.parametrize("make", BY_ROW.values(), ids=BY_ROW)
def test_a_row_has_the_draw_that_it_has_among_all(make):
    expected, state = draws(make)
    for share in SHARES:
        drawn, after = draws(make, share)
        mine = expected[:, share.start : share.start + share.rows]
        # A draw is a function of its numbers, whose last digit vectorised kernels may differ in.
        torch.testing.assert_close(drawn, mine, rtol=1e-6, atol=1e-6)
        assert torch.equal(after, state)


@pytest.mark.parametrize("make", REJECTED.values(), ids=REJECTED)
def test_rows_of_workers_are_not_alike_where_numbers_are_drawn_by_rejection(make):
    """The same data for every row: what workers share would show as equal draws."""
    found = []
    for share in [Share(rank, 2, 6) for rank in range(2)]:
        torch.manual_seed(3)
        with shared_draws(share, []):
            same = torch.full((3, 4), 0.3)
            found.append(programs(make).run_guide(same, PARTICLES).latents["z"])
    assert found[0].shape == (PARTICLES, 3, 4)
    assert not torch.equal(*found)


def test_a_reparameterised_draw_has_its_gradient():
    share, loc = SHARES[1], torch.zeros(SHARES[1].rows, 4, requires_grad=True)
    torch.manual_seed(3)
    with shared_draws(share, []):
        z = programs(lambda _: dist.Normal(loc, 1.0).to_event(1)).run_guide(loc, 2).latents["z"]
    z.sum().backward()
    assert torch.equal(loc.grad, torch.full_like(loc, 2.0))


def test_masks_of_dropout():
    torch.manual_seed(3)
    expected = functional.dropout(X, 0.5)
    for share in SHARES:
        torch.manual_seed(3)
        with shared_draws(share, [nn.Dropout()]):
            assert torch.equal(functional.dropout(share.of(X), 0.5), share.of(expected))


def test_what_is_no_row_is_drawn_alike_outside_of_sites():
    torch.manual_seed(3)
    expected = torch.randn(5)
    torch.manual_seed(3)
    with shared_draws(SHARES[1], [nn.Dropout()]):
        assert torch.equal(torch.randn(5), expected)
