"""A reparameterised prior: unbiased for the bound, over every kind of prior it applies to."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain
from pyro.distributions import transforms
from significance import mean_of

from ppl_vae.objectives import IWAE, DReG, GeneralizedDReG, Objective
from ppl_vae.objectives._iwae import reparameterized
from ppl_vae.objectives._paths import leaf_gradients
from ppl_vae.weights import log_mean_exp, normalized_weights

K, COUNT = 3, 30_000
X = torch.tensor([[0.4, -0.3]], dtype=torch.float64)


def normal(m, t):
    return dist.Normal(m, t.exp()).to_event(1)


def affine(m, t):
    flow = transforms.AffineTransform(m, t.exp(), event_dim=1)
    return dist.TransformedDistribution(dist.Laplace(0.1 * t, 1.0).to_event(1), [flow])


def log_normal(m, t):
    return dist.LogNormal(m, t.exp()).to_event(1)


def squashed(m, t):
    flow = [
        transforms.AffineTransform(m, t.exp(), event_dim=1),
        transforms.TanhTransform(cache_size=1),
    ]
    base = dist.Normal(torch.zeros(2, dtype=m.dtype), 1.0).to_event(1)
    return dist.TransformedDistribution(base, flow)


def correlated(m, t):
    (first, second), below = t.exp().unbind(-1), m[..., 1] / 2
    rows = [first, torch.zeros_like(first)], [below, second]
    root = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return dist.MultivariateNormal(m, scale_tril=root)


# A prior of parameters (m, t) and a guide with its support, wider than the posterior.
KINDS = {
    "normal": (normal, normal),
    "affine flow": (affine, affine),
    "log-normal": (log_normal, log_normal),
    "squashed flow": (squashed, squashed),
    "multivariate": (correlated, normal),
}


def programs(kind, m, t, g):
    prior, guide_of = KINDS[kind]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(m, t))
            pyro.sample("x", dist.Normal(z, 0.8).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = 0.3 * torch.ones_like(x)
            pyro.sample("z", guide_of(loc, torch.zeros_like(x) - 0.2))

    return model, guide


def hierarchy(kind, m, t, g):
    """v given u, with a learned slope and a learned scale; the guide draws v first."""

    def model(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", normal(m, torch.zeros_like(x)))
            v = pyro.sample("v", normal(g * u, t))
            pyro.sample("x", dist.Normal(v, 0.8).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", normal(x / 2, torch.zeros_like(x) - 0.2))
            pyro.sample("u", normal(0.4 * v, torch.zeros_like(x)))

    return model, guide


def replicates(objective, kind, seed):
    """Independent gradients of the prior's parameters, one in each row."""
    generator = torch.Generator().manual_seed(3)
    one = 0.4 * torch.randn(3, 1, 2, dtype=torch.float64, generator=generator)
    leaves = [row.expand(COUNT, 2).clone().requires_grad_() for row in one]
    make = hierarchy if kind == "hierarchy" else programs
    torch.manual_seed(seed)
    objective.differentiable_loss(*make(kind, *leaves), X.expand(COUNT, 2)).backward()
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return torch.cat(found, 1).T


class ForgetsTheWeights(Objective):
    """The prior's noise is reparameterised as if v_k did not depend on z_k."""

    graph = "split"

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)

    def surrogate(self, particles, bound):
        weight = normalized_weights(particles.log_weight.detach())
        total = torch.zeros_like(bound)
        for name, prior in particles.prior.items():
            score = leaf_gradients(particles, particles.log_proposal - particles.log_prior[name])
            again = reparameterized(prior, particles.latents[name].detach())
            total = total + (weight.unsqueeze(-1) * score[name] * again).sum((0, 2))
        return total


def check(objective, kind, significance):
    """The mean gradient is that of the importance-weighted bound."""
    ours, pathwise = replicates(objective, kind, 1), replicates(IWAE(K), kind, 2)
    significance = significance.split(len(ours))
    for left, right in zip(ours, pathwise, strict=True):
        significance.require_equal(mean_of(left), mean_of(right))


@pytest.mark.parametrize("kind", [*KINDS, "hierarchy"])
def test_the_priors_gradient_is_unbiased(kind, significance):
    check(GeneralizedDReG(K), kind, significance)


@pytest.mark.parametrize("kind", ["normal", "log-normal", "hierarchy"])
def test_of_the_test(kind, significance):
    with pytest.raises(AssertionError):
        check(ForgetsTheWeights(K), kind, significance)


@pytest.mark.parametrize("kind", [*KINDS, "hierarchy"])
def test_it_is_not_dregs_gradient(kind):
    ours, dregs = (replicates(o, kind, 1) for o in (GeneralizedDReG(K), DReG(K)))
    assert (ours - dregs).abs().mean() > 0.01


@pytest.mark.parametrize("kind", ["gamma", "mixture"])
def test_other_priors_keep_the_gradient_of_dreg(kind):
    def prior(m, t):
        if kind == "gamma":
            return dist.Gamma(m.exp(), t.exp()).to_event(1)
        parts = dist.Normal(torch.stack([m, t], -1), 1.0)
        mixing = dist.Categorical(torch.ones(2, dtype=m.dtype))
        return dist.MixtureSameFamily(mixing, parts).to_event(1)

    def gradient(objective):
        m, t = (
            torch.tensor([0.3, value], dtype=torch.float64).requires_grad_() for value in (1, 2)
        )

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior(m, t))
                pyro.sample("x", dist.Normal(z, 0.8).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", log_normal(x, torch.zeros_like(x)))

        torch.manual_seed(0)
        objective.differentiable_loss(model, guide, X).backward()
        return m.grad, t.grad

    torch.testing.assert_close(gradient(GeneralizedDReG(K)), gradient(DReG(K)))


NOISY = {
    "normal": lambda m, t: dist.Normal(m, t.exp()),
    "laplace": lambda m, t: dist.Laplace(m, t.exp()),
    "cauchy": lambda m, t: dist.Cauchy(m, t.exp()),
    "gumbel": lambda m, t: dist.Gumbel(m, t.exp()),
    "logistic": lambda m, t: dist.Logistic(m, t.exp()),
    "log-normal": lambda m, t: dist.LogNormal(m, t.exp()),
    "half-normal": lambda m, t: dist.HalfNormal(t.exp()),
    "event of two dimensions": lambda m, t: dist.Normal(m, t.exp()).to_event(2),
    "multivariate": correlated,
    "affine flow": affine,
    "squashed flow": squashed,
    "nested": lambda m, t: dist.TransformedDistribution(
        affine(m, t), [transforms.ExpTransform(), transforms.AffineTransform(t, m.exp())]
    ),
}


@pytest.mark.parametrize("kind", NOISY)
def test_reparameterized_draws_are_the_distributions_own(kind):
    """On the noise of one seed: the same value and the same gradients as rsample gives."""
    leaves = [torch.randn(4, 2, dtype=torch.float64).requires_grad_() for _ in range(2)]
    distribution = NOISY[kind](*leaves)
    z = distribution.rsample((5,))
    direction = torch.randn(z.shape, dtype=torch.float64)
    expected = torch.autograd.grad((direction * z).sum(), leaves, allow_unused=True)
    again = reparameterized(NOISY[kind](*leaves), z.detach())
    torch.testing.assert_close(again, z)
    found = torch.autograd.grad((direction * again).sum(), leaves, allow_unused=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "distribution",
    [dist.Gamma(1.0, 1.0), dist.Beta(1.0, 2.0), dist.Weibull(1.0, 2.0), dist.Uniform(0.0, 1.0)],
    ids=str,
)
def test_unknown_samplers_are_left_alone(distribution):
    assert reparameterized(distribution, torch.tensor(0.4)) is None


def test_a_prior_without_parameters_is_no_obstacle():
    chain = LinearChain()
    chain.A.requires_grad_(False)
    x = chain.simulate(3)
    gradients = []
    for objective in (GeneralizedDReG(K), DReG(K)):
        chain.B.grad = None
        torch.manual_seed(0)
        objective.differentiable_loss(chain.model, chain.rough, x).backward()
        gradients.append(chain.B.grad)
    torch.testing.assert_close(*gradients)
