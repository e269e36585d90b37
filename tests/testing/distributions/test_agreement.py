"""Right distributions of all kinds, whatever their tails, modes and spaces; and proposals."""

import math
from typing import ClassVar

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from significance import Estimate, mean_of
from torch import nn

from ppl_vae.testing import Report, Rung
from ppl_vae.testing.distributions._checks import Examined
from ppl_vae.testing.distributions._module_case import ModuleCase
from ppl_vae.testing.distributions._proposals import OnSphere, StudentMixture
from ppl_vae.testing.distributions._target import target_of, targets_of_features

pytestmark = pytest.mark.usefixtures("unchecked_types")


class Given(nn.Module):
    """A prior that is a given distribution."""

    def __init__(self, distribution):
        super().__init__()
        self.distribution = distribution

    def forward(self):
        return self.distribution


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture(locs, scales, weights):
    normals = dist.Normal(tensor(*locs), tensor(*scales).unsqueeze(-1)).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(tensor(*weights)), normals)


ONES, ZEROS = torch.ones(6).double(), torch.zeros(6).double()
LAWS = {
    "Cauchy": dist.Cauchy(ZEROS[:1], 1.0).to_event(1),
    "two t with 2 df": dist.StudentT(2.0, ZEROS[:2], 1.0).to_event(1),
    "five Cauchy": dist.Cauchy(ZEROS[:5], 1.0).to_event(1),
    "gamma, infinite at 0": dist.Gamma(0.3 * ONES[:1], 1.0).to_event(1),
    "two beta, infinite at 0 and 1": dist.Beta(0.4 * ONES[:2], 0.6 * ONES[:2]).to_event(1),
    "beta, beyond rounding": dist.Beta(0.1 * ONES[:1], 0.1 * ONES[:1]).to_event(1),
    "uniform": dist.Uniform(ZEROS[:2], 1.0).to_event(1),
    "Laplace": dist.Laplace(ZEROS[:2], 1.0).to_event(1),
    "Dirichlet": dist.Dirichlet(tensor(0.5, 1.0, 2.0)),
    "Dirichlet of five": dist.Dirichlet(tensor(0.5, 1.0, 2.0, 3.0, 1.0)),
    "narrow modes": mixture([[0.0], [10.0], [-30.0]], [1.0, 0.01, 0.001], [0.6, 0.3, 0.1]),
    "narrow modes in the plane": mixture([[0.0, 0], [9.0, 3]], [1.0, 0.01], [0.9, 0.1]),
    "modes in four dimensions": mixture([[0.0] * 4, [9.0] * 4], [1.0, 0.05], [0.7, 0.3]),
    "correlated": dist.MultivariateNormal(ZEROS[:2], tensor([1, 0.999], [0.999, 1])),
    "on the circle": dist.ProjectedNormal(tensor(1.0, 2.0)),
    "on the sphere": dist.ProjectedNormal(tensor(10.0, 20.0, 0.0)),
    "Poisson": dist.Poisson(tensor(3.0)).to_event(1),
    "geometric": dist.Geometric(tensor(0.02)).to_event(1),
    "two counts": dist.Poisson(3 * ONES[:2]).to_event(1),
    "twenty bits": dist.Bernoulli(logits=torch.linspace(-6, 3, 20).double()).to_event(1),
    "bits": dist.Bernoulli(logits=torch.linspace(-6, 3, 8).double()).to_event(1),
    "one-hot": dist.OneHotCategorical(logits=torch.linspace(-3, 3, 5).double()),
    "codes": dist.Categorical(logits=torch.linspace(-2, 2, 8).double().view(2, 4)).to_event(1),
}
NOT_HEAVY = {name for name in LAWS if name != "five Cauchy"}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_that_is_right(name, significance):
    examined = Examined(ModuleCase("prior", Given(LAWS[name])), 5)
    normalised, followed = examined.normalised(), examined.followed()
    assert name not in NOT_HEAVY or not isinstance(normalised, str)
    rungs = [
        Rung(rung, tuple(answer))
        for rung, answer in (("normalised", normalised), ("followed", followed))
        if not isinstance(answer, str)
    ]
    Report.of(name, rungs, significance.rate).require_passed()


class Alike(TorchDistribution):
    """Twenty bits, all 0 or all 1: no proposal of independent bits comes near."""

    arg_constraints: ClassVar = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self):
        super().__init__((), (20,), validate_args=False)

    def sample(self, sample_shape=()):
        bit = torch.rand(*sample_shape, 1).double() < 0.5
        return bit.double().expand(*sample_shape, 20)

    def log_prob(self, value):
        alike = (value == value[..., :1]).all(-1)
        return torch.full(alike.shape, math.log(0.5)).double().where(alike, -torch.inf)


def test_discrete_vectors_that_hang_together_are_not_looked_at():
    examined = Examined(ModuleCase("prior", Given(Alike())), 5)
    assert examined.normalised() == examined.followed() == "not looked"


def test_where_there_is_no_way_to_look_at_the_whole():
    distribution = dist.MultivariateNormal(torch.zeros(40).double(), torch.eye(40).double())
    examined = Examined(ModuleCase("prior", Given(distribution)), 5)
    whole = [e for e in examined.examinations if e.target.name == "p(z)"]
    assert whole == []


def test_the_law_of_a_feature_is_that_of_the_univariate_distribution():
    base = dist.Gamma(tensor(1.0, 2.0, 3.0), tensor(1.0, 1.0, 2.0))
    case = ModuleCase("prior", Given(base.to_event(1)))
    (law,) = targets_of_features(case, 0, [2])
    x = tensor(0.5, 1.0, 4.0).unsqueeze(-1)
    expected = dist.Gamma(3 * ONES[0], 2.0).log_prob(x[:, 0])
    torch.testing.assert_close(law.log_prob(x), expected)
    assert law.name == "p(z_2)"
    assert law.draw(7).shape == (7, 1)
    assert law.space == "free"


def test_unconstrained_a_law_has_the_same_probabilities(significance):
    """E f of the unconstrained law, by its own density against a normal, is E f of the draws."""
    law = target_of(ModuleCase("prior", Given(dist.Gamma(3 * ONES[:1], 2.0).to_event(1))), 0)
    free = law.unconstrained()
    normal = dist.Normal(ZEROS[:1], 2.0).to_event(1)
    w = normal.sample((40_000,))
    weight = (free.log_prob(w) - normal.log_prob(w)).exp()
    significance.split(2).require_equal(mean_of(weight), 1.0)
    found = mean_of(weight * w[:, 0].sin())
    significance.split(2).require_equal(found, mean_of(free.draw(40_000)[:, 0].sin()))


@pytest.mark.parametrize("dim", [2, 4])
def test_a_proposal_on_the_sphere_is_normalised_and_drawn_from(dim, significance):
    target = dist.ProjectedNormal(tensor(*[3.0, 1.0, 0.0, 0.0][:dim]))
    proposal = OnSphere.fit(target.sample((1000,)))
    uniform = dist.ProjectedNormal(torch.zeros(dim).double())
    points, draws = uniform.sample((40_000,)), proposal.draw(40_000)
    weight = (proposal.log_prob(points) - uniform.log_prob(points)).exp()
    significance.split(2).require_equal(mean_of(weight), 1.0)
    by_weights = mean_of(weight * points[:, 0].square())
    significance.split(2).require_equal(by_weights, mean_of(draws[:, 0].square()))


def test_a_proposal_is_wider_than_what_it_is_fitted_to():
    draws = torch.cat([torch.randn(2000, 3), 20 + torch.randn(2000, 3)]).double()
    proposal = StudentMixture.fit(draws)
    log_density = proposal.log_prob(draws)
    assert log_density.min() > -25
    found = Estimate(*proposal.draw(4000).std(0).aminmax())
    assert found.value > draws.std(0).max()
