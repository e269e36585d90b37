"""Priors of discrete latents: everything against sums over every configuration."""

import itertools

import pytest
import torch
from pyro import poutine
from significance import Estimate
from torch import nn

from ppl_vae.evidence import Enumeration, ImportanceSampling
from ppl_vae.guides import BernoulliEncoder, CategoricalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE, RWS, TVO, VIMCO, Reinforce
from ppl_vae.particles import Programs
from ppl_vae.priors import (
    AutoregressiveBernoulliPrior,
    BernoulliPrior,
    CategoricalPrior,
    RBMPrior,
)
from ppl_vae.reference_models import given
from ppl_vae.vae import VAE

FEATURES = 4
LATENT = {"bernoulli": 3, "autoregressive": 3, "boltzmann": 3, "categorical": 6}
KINDS = list(LATENT)


def prior_of(kind):
    latent = LATENT[kind]
    made = {
        "bernoulli": lambda: BernoulliPrior(latent),
        "autoregressive": lambda: AutoregressiveBernoulliPrior(latent, hidden=5),
        "boltzmann": lambda: RBMPrior(latent, hidden=2),
        "categorical": lambda: CategoricalPrior(latent, classes=3),
    }
    return made[kind]()


def vae_of(kind, *, spread=0.7):
    """In double precision, all parameters moved off their starting points."""
    torch.manual_seed(3)
    latent = LATENT[kind]
    body = MLP(FEATURES, [5], latent)
    encoder = CategoricalEncoder(body, 3) if kind == "categorical" else BernoulliEncoder(body)
    vae = VAE(prior_of(kind), BernoulliDecoder(MLP(latent, [], FEATURES)), encoder).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return vae


def every_value(kind):
    """Every configuration of the latents, one a row."""
    if kind == "categorical":
        rows, choices = torch.eye(3), itertools.product(range(3), repeat=2)
        values = [rows[list(choice)].flatten() for choice in choices]
        return torch.stack(values).double()
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=LATENT[kind]))).double()


X = torch.tensor([[1.0, 1, 0, 0], [0.0, 0, 1, 1], [1.0, 0, 1, 0]]).double()


def log_evidence(vae, kind, x):
    """Log p(x) per datum by hand, differentiable."""
    z = every_value(kind).unsqueeze(1)
    log_joint = vae.prior().log_prob(z) + vae.decoder(z).log_prob(x)
    return torch.logsumexp(log_joint, 0)


@pytest.mark.parametrize("kind", KINDS)
class TestEvidence:
    def test_densities_sum_to_one(self, kind):
        values = every_value(kind)
        vae = vae_of(kind)
        assert vae.prior().log_prob(values).exp().sum().item() == pytest.approx(1)
        by_datum = vae.encoder(X).log_prob(values.unsqueeze(1)).exp().sum(0)
        torch.testing.assert_close(by_datum, torch.ones(3, dtype=torch.float64))

    def test_enumeration_finds_every_configuration(self, kind):
        vae = vae_of(kind)
        evidence = Enumeration()(vae.model, vae.guide, X)
        assert evidence.num_particles == len(every_value(kind))
        torch.testing.assert_close(evidence.log_prob, log_evidence(vae, kind, X).detach())

    def test_importance_sampling_agrees(self, kind, significance):
        vae = vae_of(kind)
        sampled = ImportanceSampling(20_000)(vae.model, vae.guide, X)
        exact = log_evidence(vae, kind, X)
        for i in range(len(X)):
            estimate = Estimate(sampled.log_prob[i].item(), sampled.standard_error[i].item())
            significance.split(len(X)).require_equal(estimate, exact[i].item())

    def test_draws_have_the_density(self, kind, significance):
        vae = vae_of(kind)
        z, values = vae.prior().sample((20_000,)), every_value(kind)
        probability = vae.prior().log_prob(values).exp().tolist()
        for value, expected in zip(values, probability, strict=True):
            count = int((z == value).all(-1).sum())
            significance.split(len(values)).require_count(count, len(z), expected)


def all_pairs(kind):
    """Every joint value of two particles, one a datum: shape (2, pairs, latent)."""
    values = every_value(kind)
    index = torch.cartesian_prod(*[torch.arange(len(values))] * 2)
    return {"z": values[index].movedim(1, 0)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", [VIMCO(2), Reinforce(2), RWS(2)], ids=repr)
def test_the_mean_gradient_is_the_derivative_of_the_mean_bound(kind, objective):
    """Over every pair of draws there is, each with its probability: no Monte Carlo."""
    vae, pairs = vae_of(kind), all_pairs(kind)
    x = X[:1].expand(pairs["z"].shape[1], -1)
    particles = Programs(vae.model, vae.guide).evaluate(x, pairs)
    probability = particles.log_proposal.sum(0).exp()
    assert probability.sum().item() == pytest.approx(1)
    mean_bound = (probability * objective.bound(particles)).sum()
    # RWS claims the gradient of the model alone.
    trained = nn.ModuleList([vae.prior, vae.decoder])
    if not isinstance(objective, RWS):
        trained.append(vae.encoder)
    parameters = list(trained.parameters())
    expected = torch.autograd.grad(mean_bound, parameters)
    model, guide = (poutine.scale(p, scale=probability.detach()) for p in (vae.model, vae.guide))
    with given(pairs):
        loss = objective.differentiable_loss(model, guide, x)
    for found, exact in zip(torch.autograd.grad(-loss, parameters), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)


DATA = torch.tensor([[1.0, 1, 0, 0]] * 14 + [[0.0, 0, 1, 1]] * 10 + [[1.0, 0, 1, 0]] * 4).double()


def trained(vae, kind, loss_of, steps=80):
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(vae).backward()
        optimizer.step()
    with torch.no_grad():
        return log_evidence(vae, kind, DATA).mean().item()


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("bernoulli", TVO(3, num_terms=3)),
        ("categorical", VIMCO(3)),
        ("boltzmann", RWS(3, phi="both")),
        ("autoregressive", Reinforce(3)),
    ],
)
def test_training_comes_near_the_exact_optimum(kind, objective):
    """Nearer than to the best that a model can do without its latents."""
    mean = DATA.mean(0)
    independent = (mean * mean.log() + (1 - mean) * (1 - mean).log()).sum().item()
    start = {"kind": kind, "spread": 0.1}
    best = trained(vae_of(**start), kind, lambda vae: -log_evidence(vae, kind, DATA).sum())
    assert best > independent + 0.5
    reached = trained(
        vae_of(**start), kind, lambda vae: objective.differentiable_loss(vae.model, vae.guide, DATA)
    )
    assert reached > (independent + best) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_pathwise_objectives_refuse(kind):
    vae = vae_of(kind)
    with pytest.raises(ValueError, match=r"guide site 'z' .* has no reparameterised sampler"):
        IWAE(2).differentiable_loss(vae.model, vae.guide, X)


class TestBernoulliPrior:
    def test_starts_uniform_and_may_stay_so(self):
        z = torch.tensor([1.0, 0, 1])
        for learned in (True, False):
            prior = BernoulliPrior(3, learned)
            assert prior().log_prob(z).exp().item() == pytest.approx(1 / 8)
            assert len(list(prior.parameters())) == learned
            assert prior.double()().sample().dtype == torch.float64

    def test_needs_a_latent(self):
        with pytest.raises(ValueError, match="latent must be 1 or more, got 0"):
            BernoulliPrior(0)


class TestCategoricalPrior:
    def test_starts_uniform_and_may_stay_so(self):
        for learned in (True, False):
            prior = CategoricalPrior(6, 3, learned)
            values = every_value("categorical").float()
            torch.testing.assert_close(prior().log_prob(values).exp(), torch.full((9,), 1 / 9))
            assert len(list(prior.parameters())) == learned

    @pytest.mark.parametrize(("latent", "classes"), [(5, 2), (0, 2), (3, 1), (3, 0)])
    def test_needs_whole_variables(self, latent, classes):
        with pytest.raises(ValueError, match="latent must be a multiple of classes"):
            CategoricalPrior(latent, classes)

    def test_one_variable_is_a_mixture(self):
        """Of decoders' biases and columns: log p(x) by hand."""
        prior, network = CategoricalPrior(3, 3), MLP(3, [], FEATURES)
        vae = VAE(prior, BernoulliDecoder(network), CategoricalEncoder(MLP(FEATURES, [], 3), 3))
        logits = network.output.weight.T + network.output.bias
        by_component = torch.distributions.Bernoulli(logits=logits).log_prob(X.float()[:, None])
        exact = torch.logsumexp(by_component.sum(-1), 1) - torch.tensor(3.0).log()
        found = Enumeration()(vae.model, vae.guide, X.float()).log_prob
        torch.testing.assert_close(found, exact.detach().double(), rtol=1e-6, atol=0)
