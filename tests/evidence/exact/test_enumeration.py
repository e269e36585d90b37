"""Sums over configurations against sums by hand."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_data, binary_vae
from significance import Estimate

from ppl_vae.evidence import Enumeration, ImportanceSampling
from ppl_vae.reference_models import DISCRETE_STATES, discrete

X = torch.tensor([[0.3, -1.0], [1.7, 0.4], [0.0, 0.0]], dtype=torch.float64)
LOGITS = torch.tensor([0.4, -0.3, 1.0], dtype=torch.float64)
WEIGHT = torch.tensor([[0.7, -0.5, 0.2], [0.1, 0.9, -1.1]], dtype=torch.float64)


def bits_model(x):
    with pyro.plate("data", len(x)):
        bits = pyro.sample("bits", dist.Bernoulli(logits=LOGITS).to_event(1))
        pyro.sample("x", dist.Normal(bits @ WEIGHT.T, 0.6).to_event(1), obs=x)


def bits_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("bits", dist.Bernoulli(logits=0 * LOGITS).to_event(1))


def bits_by_hand(x):
    total = []
    for row in itertools.product((0.0, 1.0), repeat=3):
        bits = torch.tensor(row, dtype=torch.float64)
        prior = dist.Bernoulli(logits=LOGITS).log_prob(bits).sum()
        total.append(prior + dist.Normal(WEIGHT @ bits, 0.6).log_prob(x).sum(-1))
    return torch.logsumexp(torch.stack(total), 0)


class TestByHand:
    @pytest.mark.parametrize("rows", [1, 7, 20_000])
    def test_a_bernoulli_vector(self, rows):
        evidence = Enumeration(rows=rows)(bits_model, bits_guide, X)
        torch.testing.assert_close(evidence.log_prob, bits_by_hand(X))
        assert evidence.direction == "exact"
        assert evidence.warning is None
        assert evidence.num_particles == 8
        assert 0 < evidence.standard_error.max() < 1e-13

    def test_a_vector_and_a_categorical_that_depends_on_it(self):
        case = discrete()
        model, guide = case.programs(case.parameters)
        p, x = case.parameters, X
        total = []
        for bits, kind in zip(DISCRETE_STATES["bits"], DISCRETE_STATES["kind"], strict=True):
            prior = dist.Bernoulli(logits=p["bits_logits"][0]).log_prob(bits).sum()
            logits = p["kind_logits"][0].T @ torch.cat([torch.ones(1).double(), bits])
            prior = prior + dist.Categorical(logits=logits).log_prob(kind)
            loc = p["weight"][0] @ bits + p["table"][0, kind]
            total.append(prior + dist.Normal(loc, 0.6).log_prob(x[:, 0]))
        # Each configuration is listed once in the table of 12.
        exact = torch.logsumexp(torch.stack(total), 0)
        evidence = Enumeration()(model, guide, x)
        torch.testing.assert_close(evidence.log_prob, exact)
        assert evidence.num_particles == 12

    @pytest.mark.parametrize("one_hot", [False, True])
    def test_kinds(self, one_hot):
        """A Categorical event of two elements, or two one-hot ones."""
        probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        table = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
        kind = dist.OneHotCategorical if one_hot else dist.Categorical

        def guide(x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", kind(probs.expand(2, 3)).to_event(1))

        def model(x):
            z = guide(x)
            with pyro.plate("data", len(x)):
                loc = z @ table if one_hot else table[z]
                pyro.sample("x", dist.Normal(loc, 0.6).to_event(1), obs=x)

        by_element = probs.log() + dist.Normal(table, 0.6).log_prob(X.unsqueeze(-1))
        evidence = Enumeration()(model, guide, X)
        torch.testing.assert_close(evidence.log_prob, torch.logsumexp(by_element, -1).sum(-1))
        assert evidence.num_particles == 9

    def test_a_binomial_and_plates_left_of_the_data(self):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("pair", 2, dim=-2):
                return pyro.sample("z", dist.Binomial(4, torch.tensor(0.3).double()))

        def model(x):
            z = guide(x)
            with pyro.plate("data", len(x), dim=-1), pyro.plate("pair", 2, dim=-2):
                pyro.sample("x", dist.Normal(z, 0.6), obs=x.T)

        support = torch.arange(5).double()
        prior = dist.Binomial(4, torch.tensor(0.3).double()).log_prob(support)
        by_element = prior + dist.Normal(support, 0.6).log_prob(X.unsqueeze(-1))
        evidence = Enumeration()(model, guide, X)
        torch.testing.assert_close(evidence.log_prob, torch.logsumexp(by_element, -1).sum(-1))
        assert evidence.num_particles == 25


def test_importance_sampling_agrees(significance):
    exact = Enumeration()(bits_model, bits_guide, X)
    sampled = ImportanceSampling(20_000)(bits_model, bits_guide, X)
    for i in range(len(X)):
        estimate = Estimate(sampled.log_prob[i].item(), sampled.standard_error[i].item())
        significance.split(len(X)).require_equal(estimate, exact.log_prob[i].item())


def test_a_million_configurations_in_chunks():
    """Independent bits of which x is a noisy copy: the sum factorises."""

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Bernoulli(torch.full((16,), 0.3).double()).to_event(1))

    def model(x):
        z = guide(x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.1 + 0.8 * z).to_event(1), obs=x)

    x = torch.bernoulli(torch.full((2, 16), 0.5)).double()
    one = 0.3 * 0.9 + 0.7 * 0.1
    exact = (x * math.log(one) + (1 - x) * math.log(1 - one)).sum(-1)
    evidence = Enumeration()(model, guide, x)
    torch.testing.assert_close(evidence.log_prob, exact)
    assert evidence.num_particles == 2**16


class TestRefusals:
    def test_too_many(self):
        message = r"8 configurations \(bits: 8\), more than max_configurations = 7: raise it"
        with pytest.raises(ValueError, match=message):
            Enumeration(max_configurations=7)(bits_model, bits_guide, X)

    def test_far_too_many_for_an_integer(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Bernoulli(torch.full((200,), 0.5)).to_event(1))

        def model(x):
            z = guide(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

        with pytest.raises(ValueError, match=f"{2**200:,} configurations"):
            Enumeration()(model, guide, X.float())

    def test_continuous_latents(self):
        vae = binary_vae()
        with pytest.raises(ValueError, match=r"'z' has support.*or Quadrature\(\) for continuous"):
            Enumeration()(vae.model, vae.guide, binary_data(2))

    @pytest.mark.parametrize("draws", ["of the datum", "of a latent"])
    def test_a_support_that_is_not_the_same_throughout(self, draws):
        """The first datum, or the one draw that tells the shapes, would decide for all."""

        def model(x):
            with pyro.plate("data", len(x)):
                first = pyro.sample("first", dist.Categorical(logits=torch.zeros(5)))
                most = x[:, 0] if draws == "of the datum" else first.float()
                z = pyro.sample("z", dist.Binomial(most, torch.tensor(0.5)))
                pyro.sample("x", dist.Poisson(z + first + 0.5), obs=x[:, 1])

        x = torch.tensor([[2.0, 1.0], [6.0, 2.0]])
        for seed in range(3):
            with pytest.raises(ValueError, match=r"'z' has support IntegerInterval.*every datum"):
                Enumeration()(model, None, x, seed=seed)

    def test_a_plate_that_subsamples(self):
        def guide(x):
            with pyro.plate("data", 4, subsample_size=1):
                pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

        def model(x):
            with pyro.plate("data", 4, subsample_size=1):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:1, 0])

        with pytest.raises(ValueError, match="plate 'data' subsamples"):
            Enumeration()(model, guide, X[:1].float())

    def test_counts_without_end(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Poisson(torch.tensor(2.0)))

        def model(x):
            z = guide(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        with pytest.raises(ValueError, match="finitely many values"):
            Enumeration()(model, guide, X.float())

    def test_impossible_arguments(self):
        with pytest.raises(ValueError, match="rows must be 1 or more, got 0"):
            Enumeration(rows=0)
        with pytest.raises(ValueError, match="x holds no data"):
            Enumeration()(bits_model, bits_guide, X[:0])
