"""Discrete latents: exact gradients by enumeration, training to the optimum, refusals by name."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    MIWAE,
    MMD,
    OBJECTIVES,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    AnalyticELBO,
    BetaTC,
    DReG,
    GeneralizedDReG,
    InfoVAE,
    JointDensity,
    Objective,
    Reconstruction,
    Reinforce,
    Renyi,
    TailAdaptive,
    VRMax,
)
from ppl_vae.objectives._base import SCORE_FUNCTION
from ppl_vae.weights import log_mean_exp

from .replicated import require_gradient

BITS = 2
STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=BITS)), dtype=torch.float64)
COUNT = 40_000
DATUM = torch.tensor([0.7, -0.4, 0.3], dtype=torch.float64)
WEIGHT = torch.tensor([[1.0, -0.5, 0.3], [-0.8, 0.4, 1.2]], dtype=torch.float64)
START = {
    "prior": torch.tensor([0.4, -0.3], dtype=torch.float64),
    "shift": torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64),
    "guide": torch.tensor([-0.5, 0.6], dtype=torch.float64),
}


def log_densities(prior, shift, guide):
    """log p(x, z) and log q(z|x) at each of the four states."""
    log_prior = dist.Bernoulli(logits=prior).to_event(1).log_prob(STATES)
    likelihood = dist.Normal(STATES @ WEIGHT + shift, 1.0).to_event(1)
    log_guide = dist.Bernoulli(logits=guide).to_event(1).log_prob(STATES)
    return log_prior + likelihood.log_prob(DATUM), log_guide


def enumerated(K, bound):
    """The exact expectation of a bound of K weights, over all 4^K draws."""

    def expectation(parameters):
        log_joint, log_guide = log_densities(**parameters)
        draws = torch.tensor(list(itertools.product(range(len(STATES)), repeat=K))).T
        log_weight = (log_joint - log_guide)[draws]
        return (log_guide[draws].sum(0).exp() * bound(log_weight)).sum()

    return expectation


def elbo(log_weight):
    return log_weight.mean(0)


def iwae(log_weight):
    return log_weight.exp().mean(0).log()


def gradient_of(function):
    leaves = {name: value.clone().requires_grad_() for name, value in START.items()}
    found = torch.autograd.grad(function(leaves), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def replicates(objective):
    """Independent gradients: every copy of the datum has parameters of its own."""
    copies = {n: v.expand(COUNT, -1).clone().requires_grad_() for n, v in START.items()}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=copies["prior"]).to_event(1))
            loc = z @ WEIGHT + copies["shift"]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=copies["guide"]).to_event(1))

    objective.differentiable_loss(model, guide, DATUM.expand(COUNT, -1)).backward()
    return {name: -copy.grad for name, copy in copies.items()}


UNBIASED = [
    (Reinforce(2), elbo),
    (Reinforce(4), elbo),
    (TVO(3, num_terms=1), elbo),
    (VIMCO(2), iwae),
    (VIMCO(4), iwae),
]


@pytest.mark.parametrize(("objective", "bound"), UNBIASED, ids=lambda o: getattr(o, "__name__", o))
def test_unbiased_for_the_enumerated_gradient(objective, bound, significance):
    exact = gradient_of(enumerated(objective.num_particles, bound))
    require_gradient(significance, replicates(objective), exact, START)


def test_theta_of_reweighted_wake_sleep(significance):
    exact = gradient_of(enumerated(3, iwae))
    require_gradient(significance, replicates(RWS(3)), exact, ("prior", "shift"))


class WithoutScore(Objective):
    """The bound at fixed draws: what a pathwise objective would silently be left with."""

    graph = "score"

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)


def test_of_the_test(significance):
    exact = gradient_of(enumerated(3, iwae))
    with pytest.raises(AssertionError):
        require_gradient(significance, replicates(WithoutScore(3)), exact, ("guide",))


PATHWISE = [
    ELBO(2), AnalyticELBO(2), STL(2), IWAE(2), IWAESTL(2), DReG(2), GeneralizedDReG(2),
    MIWAE(2, num_bounds=2),
    PIWAE(2, num_bounds=2), CIWAE(2, beta=0.5), Renyi(2, alpha=0.5), VRMax(2),
    CUBO(2, order=2), TailAdaptive(2), MMD(), InfoVAE(), BetaTC(),
    Reconstruction(2), JointDensity(2),
]  # fmt: skip
SCORED = [
    Reinforce(3),
    VIMCO(3),
    RWS(3),
    RWS(3, phi="sleep"),
    RWS(3, phi="both"),
    TVO(3, num_terms=3),
]


def test_every_objective_is_in_one_list():
    assert {type(o) for o in PATHWISE} | {type(o) for o in SCORED} == set(OBJECTIVES.values())


def test_the_message_lists_the_objectives_that_do():
    """Each with the arguments it must be given."""
    scored = {kind.__name__ for kind in OBJECTIVES.values() if kind.graph == "score"}
    assert {name.partition("(")[0] for name in SCORE_FUNCTION} == scored
    assert len(SCORE_FUNCTION) == len(scored)
    assert {type(objective) for objective in SCORED} == {
        kind for kind in OBJECTIVES.values() if kind.graph == "score"
    }


class Bits(nn.Module):
    """Bernoulli bits, or one category, under a decoder and encoder of a layer each."""

    def __init__(self, kind, features=4):
        super().__init__()
        self.kind, self.size = kind, 3
        self.prior_logits = nn.Parameter(torch.zeros(3))
        self.decoder, self.encoder = nn.Linear(3, features), nn.Linear(features, 3)

    def latent(self, logits):
        if self.kind == "bits":
            return dist.Bernoulli(logits=logits).to_event(1)
        return dist.Categorical(logits=logits)

    def one_hot(self, z):
        return z if self.kind == "bits" else nn.functional.one_hot(z.long(), 3).float()

    def likelihood(self, z):
        return dist.Bernoulli(logits=self.decoder(self.one_hot(z))).to_event(1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.latent(self.prior_logits))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.latent(self.encoder(x)))

    def states(self):
        if self.kind == "bits":
            return torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
        return torch.arange(3)

    def log_evidence(self, x):
        """By enumeration, the mean over the data."""
        states = self.states()
        log_prior = self.latent(self.prior_logits).log_prob(states)
        log_likelihood = self.likelihood(states).log_prob(x.unsqueeze(1))
        return torch.logsumexp(log_prior + log_likelihood, 1).mean()


def make(kind):
    torch.manual_seed(0)
    return Bits(kind)


@pytest.mark.parametrize("kind", ["bits", "category"])
@pytest.mark.parametrize("objective", PATHWISE, ids=repr)
def test_pathwise_objectives_refuse_by_name(objective, kind):
    bits = make(kind)
    x = torch.bernoulli(torch.full((5, 4), 0.5))
    latent = "Independent" if kind == "bits" else "Categorical"
    message = (
        rf"guide site 'z' \({latent}\) has no reparameterised sampler, so the guide's gradient of "
        rf"{type(objective).__name__} .* use Reinforce\(K\), VIMCO\(K\), RWS\(K\), "
        r"TVO\(K, num_terms=S\)"
    )
    for act in (objective.differentiable_loss, objective.loss_and_grads):
        with pytest.raises(ValueError, match=message):
            act(bits.model, bits.guide, x)
    assert objective.loss(bits.model, bits.guide, x) > 0
    assert all(p.grad is None for p in bits.parameters())


DATA = torch.tensor([[1.0, 1, 0, 0]] * 14 + [[0.0, 0, 1, 1]] * 10 + [[1.0, 0, 1, 0]] * 4)


def train(bits, loss, steps=150, rate=0.1):
    optimizer = torch.optim.Adam(bits.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with torch.no_grad():
        return bits.log_evidence(DATA).item()


@pytest.fixture(scope="module", params=["bits", "category"])
def exact(request):
    """Mean log p(x) of the best model without latents, and after training by enumeration."""
    bits = make(request.param)
    independent = dist.Bernoulli(DATA.mean(0)).to_event(1).log_prob(DATA).mean().item()
    return request.param, independent, train(bits, lambda: -bits.log_evidence(DATA))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("objective", SCORED, ids=repr)
def test_training_comes_near_the_exact_optimum(objective, exact):
    """Nearer than to the best that a model can do without its latents."""
    kind, independent, best = exact
    assert best > independent + 0.5
    bits = make(kind)
    reached = train(bits, lambda: objective(bits.model, bits.guide)(DATA))
    assert reached > (independent + best) / 2


class Mixed(nn.Module):
    """A category, and a normal given it."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))
        self.locs = nn.Parameter(torch.tensor([-0.5, 0.5]))
        self.slope = nn.Parameter(torch.zeros(2))
        self.map = nn.Parameter(torch.tensor([0.1, 0.0]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.locs[k], 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = torch.stack([self.slope[0] * x, self.slope[1] * x], -1)
            k = pyro.sample("k", dist.Categorical(logits=logits))
            pyro.sample("z", dist.Normal(self.map[0] * x + self.map[1] * k, 0.6))

    def log_evidence(self, x):
        parts = dist.Normal(self.locs, (1 + 0.5**2) ** 0.5)
        weights = torch.log_softmax(self.logits, -1)
        return torch.logsumexp(weights + parts.log_prob(x.unsqueeze(-1)), -1).mean()


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    "objective", [Reinforce(3), VIMCO(3), RWS(3), TVO(3, num_terms=3)], ids=repr
)
def test_mixed_latents_train(objective):
    generator = torch.Generator().manual_seed(1)
    x = torch.where(torch.rand(60, generator=generator) < 0.7, 3.0, -3.0)
    x = x + torch.randn(60, generator=generator)

    def trained(loss_of):
        torch.manual_seed(0)
        mixed = Mixed()
        optimizer = torch.optim.Adam(mixed.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss_of(mixed).backward()
            optimizer.step()
        with torch.no_grad():
            return mixed.log_evidence(x).item()

    best = trained(lambda mixed: -mixed.log_evidence(x))
    reached = trained(lambda mixed: objective(mixed.model, mixed.guide)(x))
    # One normal, fitted: the best without the category.
    single = dist.Normal(x.mean(), x.std(correction=0)).log_prob(x).mean().item()
    assert best > single + 0.2
    assert reached > (single + best) / 2


def test_mixed_latents_are_refused_for_the_discrete_site_only():
    mixed = Mixed()
    with pytest.raises(ValueError, match=r"guide site 'k' \(Categorical\)"):
        IWAE(3).differentiable_loss(mixed.model, mixed.guide, torch.randn(5))
