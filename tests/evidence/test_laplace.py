"""Laplace's approximation as a proposal."""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate, mean_of
from torch import nn

from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    LaplaceGuide,
    ParetoSmoothed,
    Quadrature,
    laplace_guide,
)
from ppl_vae.evidence import LaplaceApproximation as Laplace
from ppl_vae.guides import DeltaEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.particles import BatchGuide, Programs, Refiner, draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.refinement import Refinement, refine
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(5, 3, 0.7, seed=1)
X = MODEL.simulate(6)
PROGRAM = MODEL.vae().model


def far_guide(x):
    """The same for all data, and nowhere near any posterior."""
    with pyro.plate("data", len(x)):
        loc = torch.full((3,), 6.0, dtype=torch.float64)
        pyro.sample("z", dist.Normal(loc, 0.3).to_event(1))


class Point(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 3, dtype=x.dtype)


class TestWhereThePosteriorIsNormal:
    """Every weight is p(x)."""

    @pytest.mark.parametrize(
        "refiner",
        [Laplace(), Laplace(starts=3), Laplace(steps=60)],
        ids=repr,
    )
    def test_from_a_guide_that_is_far_off(self, refiner):
        guide = refiner(Programs(PROGRAM, far_guide), X)
        weights = draw_particles(PROGRAM, guide, X, 20).log_weight
        torch.testing.assert_close(weights, MODEL.log_evidence(X).expand(20, -1))

    def test_from_a_point(self):
        autoencoder = VAE(MODEL.prior, MODEL.decoder, DeltaEncoder(Point()))
        evidence = ImportanceSampling(20, refine=Laplace())(autoencoder.model, autoencoder.guide, X)
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(X).detach())

    def test_mean_and_covariance(self):
        guide, exact = laplace_guide(PROGRAM, far_guide, X), MODEL.posterior(X)
        torch.testing.assert_close(guide.mean, exact.mean.detach())
        covariance = guide.factor @ guide.factor.mT
        torch.testing.assert_close(covariance, exact.covariance_matrix.detach())

    def test_several_sites(self):
        """Correlated across sites: a chain has v given u."""
        chain = LinearChain()
        x = chain.simulate(5)
        guide = laplace_guide(chain.model, chain.rough, x)
        weights = draw_particles(chain.model, guide, x, 20).log_weight
        torch.testing.assert_close(weights, chain.log_evidence(x).expand(20, -1))

    def test_without_correlations_it_would_not_be(self):
        chain = LinearChain()
        x = chain.simulate(5)
        guide = laplace_guide(chain.model, chain.rough, x)
        diagonal = guide.factor.diagonal(dim1=-2, dim2=-1).diag_embed()
        wrong = dataclasses.replace(guide, factor=diagonal)
        assert draw_particles(chain.model, wrong, x, 20).log_weight.std(0).min() > 0.01

    @pytest.mark.parametrize(
        "estimator",
        [
            ParetoSmoothed(200, refine=Laplace()),
            Jackknife(32, refine=Laplace()),
            SUMO(2, refine=Laplace()),
        ],
        ids=lambda estimator: type(estimator).__name__,
    )
    def test_every_estimator_that_refines(self, estimator):
        evidence = estimator(PROGRAM, far_guide, X)
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(X).detach())

    def test_a_mixture_with_the_prior(self):
        evidence = DefensiveSampling(2000, 0.01, refine=Laplace())(PROGRAM, far_guide, X)
        error = (evidence.log_prob - MODEL.log_evidence(X).detach()).abs()
        # 1% of the draws, and the weights at the others 1 / 0.99 at most.
        assert error.max() < 0.02

    @pytest.mark.parametrize("rows", [20, 60, 10**6])
    def test_every_datum_meets_its_own_normal(self, rows):
        x = MODEL.simulate(25)
        evidence = ImportanceSampling(10, refine=Laplace(), rows=rows)(PROGRAM, far_guide, x)
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(x).detach())


class TestWhereItIsNot:
    def test_the_mode_and_its_curvature(self):
        vae, x = binary_vae().double(), binary_data(4).double()
        guide = laplace_guide(vae.model, vae.guide, x)
        for datum, (mean, factor) in enumerate(zip(guide.mean, guide.factor, strict=True)):

            def log_joint(z, datum=datum):
                return vae.prior().log_prob(z) + vae.decoder(z).log_prob(x[datum])

            gradient = torch.autograd.functional.jacobian(log_joint, mean)
            hessian = torch.autograd.functional.hessian(log_joint, mean)
            assert gradient.abs().max() < 1e-3
            torch.testing.assert_close(factor @ factor.T, torch.linalg.inv(-hessian))

    @pytest.mark.parametrize("stretch", [1.0, 1.2])
    def test_weights_have_mean_p_of_x(self, stretch, significance):
        vae, x = binary_vae().double(), binary_data(1).double()
        exact = Quadrature()(vae.model, vae.guide, x).log_prob
        copies = x.expand(2000, -1)
        estimator = ImportanceSampling(4, refine=Laplace(stretch=stretch))
        found = estimator(vae.model, vae.guide, copies).log_prob
        significance.require_equal(mean_of((found - exact).exp()), 1.0)

    def test_an_autoencoder_has_its_evidence(self, significance):
        torch.manual_seed(0)
        decoder = NormalDecoder(MLP(2, [10], 6), 1.0)
        autoencoder = VAE(StandardNormalPrior(2), decoder, DeltaEncoder(MLP(6, [10], 2))).double()
        programs, x = (autoencoder.model, autoencoder.guide), torch.randn(20, 6).double()
        exact = Quadrature()(*programs, x).log_prob
        found = ImportanceSampling(3000, refine=Laplace())(*programs, x)
        z = (found.log_prob - exact) / found.standard_error
        assert z.abs().max() < significance.split(20).limit

    def test_a_stretch_is_of_standard_deviations(self):
        plain, wide = (laplace_guide(PROGRAM, far_guide, X, stretch=s) for s in (1.0, 1.5))
        assert torch.equal(plain.mean, wide.mean)
        torch.testing.assert_close(1.5 * plain.factor, wide.factor)

    def test_of_two_modes_the_one_with_more_mass(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.5 * torch.ones(1).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.square(), 0.1).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(-torch.ones(1).double(), 2.0).to_event(1))

        x = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
        found = laplace_guide(model, guide, x, starts=16).mean[:, 0]
        torch.testing.assert_close(found, torch.tensor([1.0, 2.0]).double(), atol=0.1, rtol=0)

    def test_refined_further(self, significance):
        vae, x = binary_vae(), binary_data(200)
        start = laplace_guide(vae.model, vae.guide, x, stretch=1.5)
        refined = refine(vae.model, start, x, steps=40, learning_rate=0.05)
        before, after = (
            draw_particles(vae.model, guide, x, 50).log_weight.mean(0).detach()
            for guide in (start, refined)
        )
        significance.require_less(mean_of(before - after), 0.0)


class TestSupports:
    """Log-normal latents are normal in unconstrained coordinates, so that exactness is seen."""

    @staticmethod
    def programs(event):
        def model(x):
            with pyro.plate("data", len(x)):
                u = dist.Normal(torch.zeros(event).double(), 1.0)
                rate = pyro.sample("rate", dist.LogNormal(u.loc, u.scale).to_event(len(event)))
                shift = pyro.sample("shift", dist.Normal(torch.zeros(()).double(), 2.0))
                loc = rate.log().sum(tuple(range(-len(event), 0))) if event else rate.log()
                pyro.sample("x", dist.Normal(loc + shift, 0.5), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                zeros = torch.zeros(event).double()
                pyro.sample("rate", dist.LogNormal(zeros, 0.1).to_event(len(event)))
                pyro.sample("shift", dist.Normal(torch.zeros(()).double(), 0.1))

        return model, guide

    @pytest.mark.parametrize("event", [(), (2,), (2, 3)])
    def test_positive_latents_of_any_event_shape(self, event):
        model, guide = self.programs(event)
        x = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
        approximation = laplace_guide(model, guide, x)
        particles = draw_particles(model, approximation, x, 20)
        assert particles.latents["rate"].shape == (20, 3, *event)
        assert particles.latents["shift"].shape == (20, 3)
        variance = 4.0 + math.prod(event) + 0.25
        exact = dist.Normal(torch.zeros(()).double(), variance**0.5).log_prob(x)
        torch.testing.assert_close(particles.log_weight, exact.expand(20, -1))


class TestNothingElseChanges:
    def test_parameters_and_random_state(self):
        vae, x = binary_vae(), binary_data(10)
        for parameter in vae.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        start, state = [p.detach().clone() for p in vae.parameters()], torch.get_rng_state()
        guide = laplace_guide(vae.model, vae.guide, x)
        assert torch.equal(state, torch.get_rng_state())
        for parameter, value in zip(vae.parameters(), start, strict=True):
            assert torch.equal(parameter, value)
            assert torch.equal(parameter.grad, torch.full_like(parameter, 3.0))
        assert not guide.mean.requires_grad
        assert not guide.factor.requires_grad

    def test_each_datum_by_itself(self):
        vae, x = binary_vae().double(), binary_data(10).double()
        whole = laplace_guide(vae.model, vae.guide, x)
        other = laplace_guide(vae.model, vae.guide, torch.cat([x[:1], 1 - x[1:]]))
        torch.testing.assert_close(whole.mean[0], other.mean[0], rtol=1e-4, atol=1e-4)

    def test_rows(self):
        guide = laplace_guide(PROGRAM, far_guide, X)
        part = guide.rows(slice(2, 4))
        assert torch.equal(part.mean, guide.mean[2:4])
        assert torch.equal(part.factor, guide.factor[2:4])
        weights = draw_particles(PROGRAM, part, X[2:4], 5).log_weight
        torch.testing.assert_close(weights, MODEL.log_evidence(X[2:4]).expand(5, -1))

    def test_single_precision(self):
        vae, x = binary_vae(), binary_data(10)
        particles = draw_particles(vae.model, laplace_guide(vae.model, vae.guide, x), x, 5)
        assert particles.latents["z"].dtype == particles.log_weight.dtype == torch.float32


class TestWhatItSays:
    def test_method_and_key(self):
        estimator = ImportanceSampling(5, refine=Laplace(9))
        evidence = estimator(PROGRAM, far_guide, X)
        assert evidence.method == "importance sampling (guide by Laplace's approximation)"
        assert evidence.direction == "lower"
        assert "LaplaceApproximation(steps=9, starts=1, stretch=1.0)" in repr(estimator)

    @pytest.mark.parametrize("refiner", [Laplace(), Refinement(2)], ids=repr)
    def test_both_ways_to_refine_are_alike(self, refiner):
        assert isinstance(refiner, Refiner)
        guide = refiner(Programs(PROGRAM, far_guide), X)
        assert isinstance(guide, BatchGuide)
        assert draw_particles(PROGRAM, guide.rows(slice(0, 2)), X[:2]).batch_size == 2


class TestErrors:
    """One clear line each."""

    def test_another_batch(self):
        guide = laplace_guide(PROGRAM, far_guide, X)
        assert isinstance(guide, LaplaceGuide)
        with pytest.raises(ValueError, match=r"^this guide was made for a batch of 6 data, got 2:"):
            guide(X[:2])

    @pytest.mark.usefixtures("unchecked_types")
    @pytest.mark.parametrize("setting", [{"steps": 0}, {"starts": 0}, {"steps": 1.5}])
    def test_counts(self, setting):
        with pytest.raises(
            ValueError, match=rf"^LaplaceApproximation needs {next(iter(setting))} >= 1"
        ):
            Laplace(**setting)

    @pytest.mark.parametrize("stretch", [0.0, -1.0, math.inf, math.nan])
    def test_stretch(self, stretch):
        with pytest.raises(
            ValueError, match=f"^LaplaceApproximation needs a positive stretch, got {stretch}"
        ):
            Laplace(stretch=stretch)

    def test_discrete_latents(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

        with pytest.raises(ValueError, match=r"^latent site 'z' is discrete"):
            laplace_guide(model, guide, torch.zeros(3))

    def test_a_plate_of_its_own(self):
        def latent(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
                return pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))

        def model(x):
            z = latent(x)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0), obs=x)

        with pytest.raises(ValueError, match=r"^latent site 'z' stands in a plate of its own"):
            laplace_guide(model, latent, torch.zeros(4).double())


def test_adaptive_sampling_keeps_each_datum_with_its_own_guide(significance):
    """Some data are done before others; those that go on keep the normals at their own modes."""
    laplace = laplace_guide(PROGRAM, MODEL.vae().guide, X)
    # Every second datum's is wide, and needs more draws.
    spread = torch.tensor([1.0, 3.0], dtype=X.dtype).repeat(3)[:, None, None]
    guide = LaplaceGuide(laplace.sites, laplace.mean, laplace.factor * spread)
    estimator = AdaptiveSampling(0.05, first=50)
    found = estimator(PROGRAM, guide, X)
    assert found.evaluations is not None
    quick, slow = found.evaluations[::2], found.evaluations[1::2]
    assert quick.max() < slow.min()
    # With the guide of another datum it would go on to the end.
    alone = [estimator(PROGRAM, guide.rows(slice(i, i + 1)), X[i : i + 1]) for i in (1, 3, 5)]
    assert slow.max() <= 4 * max(each.evaluations.max() for each in alone)
    exact, tests = MODEL.log_evidence(X), significance.split(3)
    for i in (1, 3, 5):
        value = Estimate(found.log_prob[i].item(), found.standard_error[i].item())
        tests.require_equal(value, exact[i].item())
