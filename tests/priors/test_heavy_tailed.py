"""Heavy-tailed priors: standard ones by default, learned in every parameter where asked for."""

import math

import pyro.distributions as dist
import pytest
import torch
from programs import binary_data
from scipy.stats import kstest, laplace
from scipy.stats import t as student
from significance import Estimate, mean_of

from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import AnalyticELBO, DReG, GeneralizedDReG
from ppl_vae.priors import LaplacePrior, StudentTPrior
from ppl_vae.vae import VAE

KINDS = {
    "laplace": (LaplacePrior, {"scale": 0.7}, laplace(0, 0.7)),
    "student": (StudentTPrior, {"df": 3.0, "scale": 0.7}, student(3.0, 0, 0.7)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def moved(prior):
    prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return prior


def test_has_the_density_of_scipys(kind):
    make, arguments, expected = kind
    z = 4 * torch.randn(5, 3, dtype=torch.float64)
    p = make(3, **arguments).double()()
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((), (3,), True)
    sums = torch.from_numpy(expected.logpdf(z.numpy()).sum(-1))
    torch.testing.assert_close(p.log_prob(z), sums, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prior", [LaplacePrior(2), StudentTPrior(2)])
def test_is_the_standard_one_unless_told_otherwise(prior):
    base = prior().base_dist
    assert base.loc.tolist() == [0, 0]
    assert base.scale.tolist() == [1, 1]
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}
    assert prior.double()().sample().dtype == torch.float64


def test_draws_follow_the_density(kind, significance):
    make, arguments, expected = kind
    draws = make(1, **arguments)().sample((5000,)).flatten().numpy()
    assert kstest(draws, expected.cdf).pvalue > significance.rate


def test_learned_parameters_are_one_a_dimension_and_start_as_said(kind):
    make, arguments, _ = kind
    prior, fixed = make(3, **arguments, learned=True), make(3, **arguments)
    z = torch.randn(4, 3)
    torch.testing.assert_close(prior().log_prob(z), fixed().log_prob(z))
    assert {p.shape for p in prior.parameters()} == {(3,)}
    prior().log_prob(z).sum().backward()
    assert all(p.grad.abs().min() > 0 for p in prior.parameters())


def heavy_vae(prior, features=6):
    latent = len(prior.loc)
    decoder = BernoulliDecoder(MLP(latent, [8], features))
    encoder = DiagonalNormalEncoder(MLP(features, [8], 2 * latent))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 2
    return VAE(prior, decoder, encoder).double()


@pytest.mark.parametrize(
    "estimator",
    [ImportanceSampling(4000), AnnealedImportanceSampling(10, 300, 2, rows=10**6)],
    ids=["importance sampling", "annealing"],
)
def test_estimators_agree_with_a_sum_over_a_grid(kind, estimator, significance):
    make, arguments, _ = kind
    prior, x = moved(make(1, **arguments, learned=True)), binary_data(3).double()
    decoder = heavy_vae(prior).decoder

    def guide(x):
        # As heavy as the prior: under a normal the weights' variance would not be finite.
        return dist.StudentT(3.0, torch.zeros(len(x), 1).double(), 1.5).to_event(1)

    vae = VAE(prior, decoder, guide)
    z = torch.linspace(-500, 500, 200_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        joint = prior().log_prob(z) + decoder(z).log_prob(x.unsqueeze(1))
    exact = torch.logsumexp(joint, 1) + math.log(1 / 200)
    found = estimator(vae.model, vae.guide, x)
    ratio = (found.log_prob - exact).exp()
    for i in range(len(x)):
        error = (ratio[i] * found.standard_error[i]).item()
        significance.split(len(x)).require_equal(Estimate(ratio[i].item(), error), 1.0)


@pytest.mark.parametrize(
    "objective", [AnalyticELBO(4), DReG(4), GeneralizedDReG(4)], ids=["analytic", "dreg", "gdreg"]
)
def test_objectives_reach_every_parameter(kind, objective):
    make, arguments, _ = kind
    vae = heavy_vae(moved(make(2, **arguments, learned=True)))
    objective.differentiable_loss(vae.model, vae.guide, binary_data(10).double()).backward()
    for parameter in vae.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_analytic_kl_is_the_mean_of_the_monte_carlo_one(kind, significance):
    """Whether or not a closed form is known."""
    make, arguments, _ = kind
    vae, x = heavy_vae(moved(make(2, **arguments, learned=True))), binary_data(1).double()
    x = x.expand(4000, -1)
    with torch.no_grad():
        bounds = []
        for seed, objective in enumerate([AnalyticELBO(), DReG(1)]):
            torch.manual_seed(seed)
            bounds.append(objective.bound(objective.draw(vae.model, vae.guide, x)))
    significance.require_equal(mean_of(bounds[0]), mean_of(bounds[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaplacePrior(0), "latent must be 1 or more, got 0"),
        (lambda: StudentTPrior(0), "latent must be 1 or more, got 0"),
        (lambda: LaplacePrior(2, scale=0.0), "scale must be positive and finite, got 0"),
        (lambda: StudentTPrior(2, df=-1.0), "df must be positive and finite, got -1"),
        (lambda: StudentTPrior(2, scale=math.inf), "scale must be positive and finite, got inf"),
    ],
)
def test_impossible_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
