"""Total correlation by minibatch: an unbiased q(z), a known TC, terms that add up."""

import itertools
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.objectives import BetaTC, Context
from ppl_vae.objectives import _aggregate as aggregate
from ppl_vae.objectives._aggregate import aggregate_log_densities

from .linear import X as ROWS
from .linear import draw_once, parameters, programs

N, B, SCALE = 6, 3, 0.6
DATA = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
Z = torch.tensor([0.3, -0.8], dtype=torch.float64)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, SCALE).to_event(1))


def batches_with(datum):
    """Every batch of B of the data that has this one first."""
    others = [i for i in range(N) if i != datum]
    return [[datum, *rest] for rest in itertools.combinations(others, B - 1)]


def estimates_of_aggregate(rows):
    """q(z) and prod_d q(z_d) at Z, taken for a draw from the first of the rows."""
    particles = BetaTC().draw(model, guide, DATA[rows])
    held = replace(particles, latents={"z": Z.expand(1, B, 2)})
    joint, product = aggregate_log_densities(held, N)
    return joint[0, 0].exp(), product[0, 0].exp()


def check_aggregate():
    """Over all batches that a draw of a datum can come in, the mean of q(z) is exact."""
    exact = dist.Normal(DATA, SCALE).to_event(1).log_prob(Z).exp().mean()
    for datum in range(N):
        found = [estimates_of_aggregate(rows)[0] for rows in batches_with(datum)]
        torch.testing.assert_close(torch.stack(found).mean(), exact)


def test_the_estimate_of_the_aggregate_is_unbiased():
    check_aggregate()


def off_by_one(batch, num_data):
    """The right numbers, a draw's own datum and another's exchanged."""
    return stratified(batch, num_data).roll(1, 1)


def uniform_weights(batch, num_data):
    """1/B for everything, as if a draw's own datum were in the batch by chance."""
    return torch.full((batch, batch), 1 / batch, dtype=torch.float64).log()


def remainder_on_the_diagonal(batch, num_data):
    """1/N for every other datum, and what is left for a draw's own."""
    weights = torch.full((batch, batch), 1 / num_data, dtype=torch.float64)
    remainder = (num_data - batch + 1) / num_data
    return weights.fill_diagonal_(remainder).log()


stratified = aggregate._stratified_log_weights
MISPLACED = [off_by_one, uniform_weights, remainder_on_the_diagonal]


@pytest.mark.parametrize("wrong", MISPLACED)
def test_of_the_test(wrong, monkeypatch):
    monkeypatch.setattr(aggregate, "_stratified_log_weights", wrong)
    with pytest.raises(AssertionError):
        check_aggregate()


def test_with_the_whole_data_set_for_a_batch_both_are_exact():
    particles = BetaTC().draw(model, guide, DATA)
    joint, product = aggregate_log_densities(particles, N)
    z = particles.latents["z"][0]
    density = dist.Normal(DATA, SCALE).log_prob(z.unsqueeze(1)).exp()
    torch.testing.assert_close(joint[0], density.prod(-1).mean(1).log())
    torch.testing.assert_close(product[0], density.mean(1).prod(-1).log())


@pytest.mark.usefixtures("unchecked_types")
class TestKnownTotalCorrelation:
    """x ~ Normal(0, C) and z|x ~ Normal(x, SCALE) make q(z) = Normal(0, C + SCALE^2 I)."""

    COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.2]], dtype=torch.float64)

    def exact(self):
        total = self.COVARIANCE + SCALE**2 * torch.eye(2).double()
        return 0.5 * (total.diagonal().log().sum() - torch.logdet(total)).item()

    def estimate(self, batch, count, num_data=10**9):
        """Mean over independent batches, from a population without end."""
        root = torch.linalg.cholesky(self.COVARIANCE)
        found = []
        for _ in range(count):
            x = torch.randn(batch, 2, dtype=torch.float64) @ root.T
            joint, product = aggregate_log_densities(BetaTC().draw(model, guide, x), num_data)
            found.append((joint - product).mean())
        return mean_of(torch.stack(found))

    def test_it_tends_to_it(self, significance):
        """Twice the estimate at 2B less the one at B is free of a bias of order 1/B."""
        few, many = self.estimate(100, 150), self.estimate(200, 150)
        error = math.hypot(2 * many.error, few.error)
        significance.require_equal(Estimate(2 * many.value - few.value, error), self.exact())

    def test_a_small_batch_is_biased(self, significance):
        small = self.estimate(8, 300)
        with pytest.raises(AssertionError):
            significance.require_equal(small, self.exact())


def terms(particles, num_data):
    joint, product = aggregate_log_densities(particles, num_data)
    information = particles.log_proposal - joint
    return information, joint - product, product - particles.log_latent_prior


def test_the_three_terms_add_up_to_the_kl():
    particles = draw_once(BetaTC(num_particles=3)).particles
    for num_data in (6, 100):
        total = sum(terms(particles, num_data))
        expected = particles.log_proposal - particles.log_latent_prior
        torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("num_data", [None, 1000])
def test_what_is_differentiated(num_data):
    objective = BetaTC(3, beta=5.0, alpha=2.0, gamma=0.5)
    objective.context = Context(num_data=num_data)
    particles = objective.draw(*programs(**parameters()), ROWS)
    bound = objective.bound(particles)
    information, correlation, rest = terms(particles, num_data or len(ROWS))
    expected = particles.log_likelihood - 2 * information - 5 * correlation - 0.5 * rest
    torch.testing.assert_close(objective.surrogate(particles, bound), expected.mean(0))
    torch.testing.assert_close(bound, particles.log_weight.mean(0))


def test_guides_it_cannot_take_apart():
    def correlated(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x, torch.eye(2).double()))

    with pytest.raises(ValueError, match="one latent site of independent dimensions"):
        BetaTC().differentiable_loss(model, correlated, DATA)
    with pytest.raises(ValueError, match="batches of 2 data or more"):
        BetaTC().differentiable_loss(model, guide, DATA[:1])
    # The bound needs neither.
    assert BetaTC().loss(model, correlated, DATA[:1]) > 0


def test_inner_plates_are_refused():
    def inner(x, **kwargs):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("features", 2, dim=-2):
            w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            if kwargs:
                pyro.sample("x", dist.Normal(w.sum(-1), 1.0), obs=x.T)

    with pytest.raises(ValueError, match="in the data plate alone, got sites w"):
        BetaTC().differentiable_loss(lambda x: inner(x, obs=True), inner, DATA)


def test_factors():
    for kwargs in ({"beta": -1.0}, {"alpha": math.nan}, {"gamma": math.inf}):
        with pytest.raises(ValueError, match=f"BetaTC needs {next(iter(kwargs))} >= 0"):
            BetaTC(**kwargs)
