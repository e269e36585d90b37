import math

import pyro.distributions as dist
import pytest
import torch
from significance import Estimate
from torch import nn

from likelihoods.cases import CASES, FEATURES
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling, Quadrature
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliVector, NormalDecoder, Observed, ObservedDecoder
from ppl_vae.likelihoods import feature_log_prob as by_feature
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP, ObservedInput
from ppl_vae.objectives import IWAE, STL, DReG
from ppl_vae.particles import Programs, draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

PARAMETRIZE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def with_holes(x):
    """The first feature of the first row missing, two of the second, all of the third."""
    x = x.clone()
    x[0, 0] = x[1, 1:] = x[2] = math.nan
    return x


@PARAMETRIZE
def test_leaves_missing_cells_out(case):
    decoder, x = case.decoder().eval(), case.data(5).double()
    distribution, holes = decoder(case.z(4, 5)), with_holes(x)
    terms = by_feature(distribution, x)
    expected = torch.where(holes.isnan(), 0.0, terms)
    found = Observed(distribution)
    torch.testing.assert_close(found.log_prob(holes), expected.sum(-1))
    torch.testing.assert_close(found.feature_log_prob(holes), expected)
    torch.testing.assert_close(found.log_prob(x), distribution.log_prob(x))
    assert (found.log_prob(holes)[:, 2] == 0).all()
    assert found.log_prob(holes).shape == found.batch_shape == (4, 5)


@PARAMETRIZE
def test_gradients_of_missing_cells_are_zero(case):
    decoder, x = case.decoder().eval(), case.data(5).double()
    holes = with_holes(x)
    gradients = []
    for missing in (True, False):
        z = case.z(5).requires_grad_()
        if missing:
            value = ObservedDecoder(decoder)(z).log_prob(holes)
        else:
            value = torch.where(holes.isnan(), 0.0, by_feature(decoder(z), x)).sum(-1)
        gradients.append(torch.autograd.grad(value.sum(), [z, *decoder.parameters()]))
    for ours, expected in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, expected)
    assert (gradients[0][0][2] == 0).all()


def test_a_mask_alone_lets_nan_into_the_gradient():
    """The wrong variant: the density taken at NaN, and masked after."""
    loc = torch.zeros(2, requires_grad=True)
    x = torch.tensor([1.0, math.nan])
    normal = dist.Normal(loc, 1.0, validate_args=False)
    value = torch.where(x.isnan(), 0.0, normal.log_prob(x)).sum()
    assert value.isfinite()
    assert torch.autograd.grad(value, loc)[0].isnan().any()
    value = Observed(normal.to_event(1)).log_prob(x)
    assert torch.autograd.grad(value, loc)[0].tolist() == [1.0, 0.0]


@PARAMETRIZE
def test_is_the_base_but_for_that(case):
    base = case.decoder()(case.z(4, 5))
    found = Observed(base)
    torch.testing.assert_close(found.mean, base.mean)
    torch.testing.assert_close(found.variance, base.variance)
    assert found.sample((2,)).shape == (2, 4, 5, FEATURES)
    assert not found.sample().isnan().any()
    assert found.has_rsample == base.has_rsample
    assert found.support.is_discrete == case.is_discrete
    big = Observed(case.decoder()(case.z(5))).expand(torch.Size([4, 5]))
    assert (big.batch_shape, big.event_shape) == ((4, 5), (FEATURES,))


def test_rsample_keeps_the_path():
    loc = torch.zeros(3, requires_grad=True)
    draws = Observed(dist.Normal(loc, 1.0).to_event(1)).rsample((5,))
    assert torch.autograd.grad(draws.sum(), loc)[0].tolist() == [5, 5, 5]


@pytest.mark.parametrize("value", [0.5, 2.0])
def test_observed_values_are_still_checked(value):
    x = torch.tensor([[math.nan, value]])
    with pytest.raises(ValueError, match="a Bernoulli likelihood takes data in"):
        Observed(BernoulliVector(torch.zeros(2))).log_prob(x)


def test_needs_a_density_for_each_feature():
    covariance = torch.eye(2)
    joint = Observed(dist.MultivariateNormal(torch.zeros(2), covariance))
    with pytest.raises(TypeError, match=r"MultivariateNormal has no log-density for each feature"):
        joint.log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match=r"got event shape \(\): end the distribution"):
        Observed(dist.Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"got event shape \(2, 2\)"):
        Observed(dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
    pairs = dist.Independent(dist.Normal(torch.zeros(2, 2), 1.0).to_event(1), 0)
    with pytest.raises(TypeError, match="has no log-density for each feature"):
        by_feature(pairs, torch.zeros(2, 2))


def test_no_stand_in_for_a_missing_cell():
    far = dist.Uniform(torch.full((2,), 5.0), torch.full((2,), 6.0)).to_event(1)
    with pytest.raises(ValueError, match=r"no value in \(0.5, 0.0, 1.0\) lies in the support"):
        Observed(far).log_prob(torch.tensor([5.5, math.nan]))


EXACT = LinearGaussian.random(6, 2, 0.7, seed=4)
X = EXACT.simulate(7, seed=5)
X[torch.rand(7, 6, generator=torch.Generator().manual_seed(6)) < 0.4] = math.nan
X[3] = math.nan


def observed_log_evidence(x):
    """``log Normal(x_o; b_o, W_o W_o' + s^2 I)`` row by row, o the observed cells."""
    covariance = EXACT.weight @ EXACT.weight.T + 0.7**2 * torch.eye(6, dtype=torch.float64)
    values = []
    for row in x:
        there = ~row.isnan()
        if not there.any():
            values.append(row.new_zeros(()))
            continue
        marginal = dist.MultivariateNormal(EXACT.bias[there], covariance[there][:, there])
        values.append(marginal.log_prob(row[there]))
    return torch.stack(values).detach()


def observed_posterior(x):
    """``p(z|x_o)`` row by row."""
    there = (~x.isnan()).double()
    weight = there.unsqueeze(-1) * EXACT.weight / 0.7
    precision = torch.eye(2, dtype=torch.float64) + weight.mT @ weight
    residual = torch.where(there > 0, (x - EXACT.bias) / 0.7, 0.0)
    mean = torch.linalg.solve(precision, (weight.mT @ residual.unsqueeze(-1)).squeeze(-1))
    return dist.MultivariateNormal(mean, covariance_matrix=torch.linalg.inv(precision))


def linear_vae(encoder):
    return VAE(EXACT.prior, lambda z: Observed(EXACT.decoder(z)), encoder)


@pytest.mark.parametrize("graph", ["path", "split", "score"])
def test_every_weight_is_the_evidence_at_the_exact_posterior(graph):
    vae = linear_vae(observed_posterior)
    particles = draw_particles(vae.model, vae.guide, X, 5, graph=graph)
    expected = observed_log_evidence(X).expand(5, -1)
    torch.testing.assert_close(particles.log_weight.detach(), expected)


def test_importance_sampling_finds_log_p_of_the_observed_cells(significance):
    def too_wide(x):
        posterior = observed_posterior(x)
        return dist.MultivariateNormal(
            posterior.mean + 0.2, covariance_matrix=1.5 * posterior.covariance_matrix
        )

    vae = linear_vae(too_wide)
    found = ImportanceSampling(20_000)(vae.model, vae.guide, X, seed=1)
    for value, error, exact in zip(
        found.log_prob, found.standard_error, observed_log_evidence(X), strict=True
    ):
        estimate = Estimate(value.item(), error.item())
        significance.split(len(X)).require_equal(estimate, exact.item())


def test_quadrature_agrees_with_it():
    vae, x = linear_vae(observed_posterior), X[:4]
    found = Quadrature()(vae.model, vae.guide, x)
    exact = observed_log_evidence(x)
    torch.testing.assert_close(found.log_prob.double(), exact, rtol=1e-4, atol=1e-4)


def test_annealing_agrees_with_it(significance):
    vae, x = linear_vae(lambda x: dist.Normal(X.new_zeros(len(x), 2), 1.0).to_event(1)), X[:2]
    found = AnnealedImportanceSampling(20, 32)(vae.model, vae.guide, x)
    for value, error, exact in zip(
        found.log_prob, found.standard_error, observed_log_evidence(x), strict=True
    ):
        estimate = Estimate(value.item(), error.item())
        significance.split(len(x)).require_equal(estimate, exact.item())


def test_the_complete_model_is_not_that_of_the_observed_cells():
    """The wrong variant: zeros in place of missing cells."""
    filled = torch.where(X.isnan(), 0.0, X)
    assert ((EXACT.log_evidence(filled) - observed_log_evidence(X)).abs() > 0.1).all()


def missing_vae(mask=False):
    torch.manual_seed(2)
    decoder = ObservedDecoder(NormalDecoder(MLP(2, [8], 6), "feature", data=X.float()))
    network = ObservedInput(MLP(ObservedInput.num_inputs(6, mask), [8], 4), mask=mask)
    return VAE(StandardNormalPrior(2), decoder, DiagonalNormalEncoder(network))


@pytest.mark.parametrize("objective", [IWAE(3), DReG(3), STL()])
@pytest.mark.parametrize("mask", [False, True])
def test_every_objective_has_finite_gradients(objective, mask):
    vae = missing_vae(mask)
    loss = objective.loss_and_grads(vae.model, vae.guide, X.float())
    assert math.isfinite(loss)
    for name, parameter in vae.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_fit_takes_missing_cells_where_they_are_left_out():
    vae, x = missing_vae(), X.float().repeat(5, 1)
    result = fit(vae.model, vae.guide, IWAE(2), x, valid=x[:5], epochs=2, progress=False)
    assert all(math.isfinite(record.bound) for record in result.history.records)


@pytest.mark.parametrize("where", ["train", "valid"])
def test_fit_refuses_them_elsewhere(where):
    vae = missing_vae()
    plain = VAE(vae.prior, vae.decoder.decoder, vae.encoder)
    parts = {"train": torch.zeros(9, 6), "valid": torch.zeros(9, 6)} | {where: X.float()}
    with pytest.raises(ValueError, match=f"{where} has 7 rows with NaN .* with ObservedDecoder"):
        fit(plain.model, plain.guide, IWAE(2), parts["train"], valid=parts["valid"], epochs=1)


def test_fit_refuses_infinity_everywhere():
    vae, x = missing_vae(), X.float()
    x[1, 1] = math.inf
    with pytest.raises(ValueError, match=r"train has 1 rows with NaN or infinite .* row 1: "):
        fit(vae.model, vae.guide, IWAE(2), x, epochs=1)


def test_a_model_accepts_them_if_all_of_its_likelihoods_do():
    vae, x = missing_vae(), X.float()
    assert Programs(vae.model).accepts_missing(x)
    assert not Programs(VAE(vae.prior, vae.decoder.decoder, vae.encoder).model).accepts_missing(x)


def test_data_that_do_not_accept_them_are_named():
    vae = missing_vae()
    plain = VAE(vae.prior, vae.decoder.decoder, vae.encoder)
    with pytest.raises(ValueError, match="log-density nan at observed site 'x'"):
        draw_particles(plain.model, plain.guide, X.float())


def test_the_decoder_is_found_under_its_wrapper():
    decoder = ObservedDecoder(nn.Identity())
    assert list(dict(decoder.named_children())) == ["decoder"]
