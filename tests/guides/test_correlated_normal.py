"""Guides with a full, and with a low-rank, covariance."""

import copy

import pytest
import torch
from significance import mean_of
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae.data import load_dataset
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder, FullCovarianceEncoder, LowRankEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE, STL, VIMCO, AnalyticELBO, DReG
from ppl_vae.particles import draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.refinement import refine
from ppl_vae.testing import check_guide
from ppl_vae.training import fit
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(5, 2, 0.8, seed=1)
X = MODEL.simulate(6)
COVARIANCE = torch.linalg.inv(MODEL.posterior_precision).detach()
ENCODERS = {"full": FullCovarianceEncoder, "low rank": lambda network: LowRankEncoder(network, 1)}
BOTH = pytest.mark.parametrize("kind", ENCODERS)


def unconstrained(scale):
    """The inverse of softplus, less what is added to it."""
    return torch.expm1(scale - 1e-6).log()


def full_outputs(covariance):
    """What a network must give beside loc."""
    factor = torch.linalg.cholesky(covariance)
    scale = factor.diagonal()
    below = 2**0.5 * (factor / scale.unsqueeze(-1))[tuple(torch.tril_indices(2, 2, -1))]
    return torch.cat([unconstrained(scale), below])


def low_rank_outputs(covariance):
    """Of two dimensions rank 1 is all there is: the smaller variance everywhere, and an axis."""
    (small, large), axes = torch.linalg.eigh(covariance)
    axis = axes[:, 1] * ((large - small) / small).sqrt()
    return torch.cat([unconstrained(small.sqrt().expand(2)), axis])


class AtThePosterior(nn.Module):
    """A network whose outputs are those of the exact posterior, moved and stretched."""

    def __init__(self, kind, shift=0.0, stretch=1.0):
        super().__init__()
        outputs = {"full": full_outputs, "low rank": low_rank_outputs}[kind]
        self.rest = nn.Parameter(outputs(COVARIANCE * stretch**2))
        precision = MODEL.posterior_precision.detach()
        gain = torch.linalg.solve(precision, MODEL.weight.detach().T) / MODEL.noise_scale**2
        self.gain = nn.Parameter(gain)
        self.shift = shift

    def forward(self, x):
        loc = (x - MODEL.bias.detach()) @ self.gain.T + self.shift
        return torch.cat([loc, self.rest.expand(len(x), -1)], -1)


def vae(kind, **moved):
    encoder = ENCODERS[kind](AtThePosterior(kind, **moved))
    return VAE(MODEL.prior, MODEL.decoder, encoder)


class TestFormulas:
    def test_full(self):
        network = MLP(4, [5], FullCovarianceEncoder.num_outputs(3))
        q, out = FullCovarianceEncoder(network)(x := torch.randn(7, 4)), network(x)
        scale = nn.functional.softplus(out[:, 3:6]) + 1e-6
        below = torch.zeros(7, 3, 3)
        below[:, 1, 0], below[:, 2, 0], below[:, 2, 1] = out[:, 6], out[:, 7], out[:, 8]
        torch.testing.assert_close(q.mean, out[:, :3])
        torch.testing.assert_close(
            q.scale_tril, scale.diag_embed() @ (torch.eye(3) + below / 3**0.5)
        )

    def test_low_rank(self):
        network = MLP(4, [5], LowRankEncoder.num_outputs(3, 2))
        q, out = LowRankEncoder(network, 2)(x := torch.randn(7, 4)), network(x)
        scale = (nn.functional.softplus(out[:, 3:6]) + 1e-6).diag_embed()
        factor = torch.stack([out[:, 6:9], out[:, 9:]], -1)
        torch.testing.assert_close(q.mean, out[:, :3])
        expected = scale @ (torch.eye(3) + factor @ factor.mT) @ scale
        torch.testing.assert_close(q.covariance_matrix, expected)

    @pytest.mark.parametrize("latent", [1, 2, 3, 10])
    def test_sizes(self, latent):
        assert FullCovarianceEncoder.num_outputs(latent) == 2 * latent + latent * (latent - 1) / 2
        assert LowRankEncoder.num_outputs(latent, 3) == 5 * latent
        for encoder in (
            FullCovarianceEncoder(MLP(4, [], FullCovarianceEncoder.num_outputs(latent))),
            LowRankEncoder(MLP(4, [], LowRankEncoder.num_outputs(latent))),
            LowRankEncoder(MLP(4, [], LowRankEncoder.num_outputs(latent, 2)), rank=2),
        ):
            q = encoder(torch.randn(7, 4))
            assert (q.batch_shape, q.event_shape, q.has_rsample) == ((7,), (latent,), True)

    def test_without_correlations_it_is_the_diagonal_guide(self):
        diagonal = MLP(4, [5], 6)
        network = nn.Sequential(diagonal, nn.ConstantPad1d((0, 3), 0.0))
        x, z = torch.randn(7, 4), torch.randn(20, 7, 3)
        expected = DiagonalNormalEncoder(diagonal)(x).log_prob(z)
        torch.testing.assert_close(FullCovarianceEncoder(network)(x).log_prob(z), expected)
        torch.testing.assert_close(LowRankEncoder(network, 1)(x).log_prob(z), expected)


@BOTH
class TestAtThePosterior:
    """Where every draw says log p(x), and nothing pulls at the guide."""

    @pytest.mark.parametrize("graph", ["path", "split", "score"])
    def test_every_weight_is_the_evidence(self, kind, graph):
        programs = vae(kind)
        particles = draw_particles(programs.model, programs.guide, X, 50, graph=graph)
        expected = MODEL.log_evidence(X).expand(50, -1)
        torch.testing.assert_close(particles.log_weight, expected)

    @pytest.mark.parametrize("objective", [STL(3), DReG(3)], ids=repr)
    def test_no_gradient_for_the_guide(self, kind, objective):
        programs = vae(kind)
        objective.loss_and_grads(programs.model, programs.guide, X)
        for parameter in programs.encoder.parameters():
            assert parameter.grad.abs().max() < 1e-9

    def test_importance_sampling(self, kind):
        programs = vae(kind)
        evidence = ImportanceSampling(200)(programs.model, programs.guide, X)
        torch.testing.assert_close(evidence.log_prob, MODEL.log_evidence(X).detach())
        torch.testing.assert_close(evidence.effective_sample_size, torch.full((6,), 200.0).double())


@BOTH
class TestAwayFromIt:
    def test_analytic_divergence(self, kind):
        programs, objective = vae(kind, shift=0.5, stretch=1.3), AnalyticELBO(3)
        particles = objective.draw(programs.model, programs.guide, X)
        q, prior = programs.encoder(X), MultivariateNormal(torch.zeros(2), torch.eye(2).double())
        same = MultivariateNormal(q.mean, q.covariance_matrix)
        expected = particles.log_likelihood.mean(0) - kl_divergence(same, prior)
        torch.testing.assert_close(objective.bound(particles), expected)

    @pytest.mark.parametrize("objective", [IWAE(20), VIMCO(20)], ids=repr)
    def test_bounds_are_below(self, kind, objective, significance):
        programs = vae(kind, shift=0.5, stretch=1.3)
        x = MODEL.simulate(500)
        bound = objective.bound(draw_particles(programs.model, programs.guide, x, 20)).detach()
        significance.require_less(mean_of(bound - MODEL.log_evidence(x).detach()), 0.0)

    def test_annealing_from_the_guide(self, kind, significance):
        programs = vae(kind, shift=0.3, stretch=1.3)
        x = MODEL.simulate(1).expand(100, -1)
        ais = AnnealedImportanceSampling(4, num_chains=8, leapfrog_steps=2, start="guide")
        found = ais(programs.model, programs.guide, x).log_prob
        ratio = (found - MODEL.log_evidence(x).detach()).exp()
        significance.require_equal(mean_of(ratio), 1.0)

    def test_refined(self, kind, significance):
        programs, x = vae(kind, shift=1.0, stretch=1.5), MODEL.simulate(200)
        refined = refine(programs.model, programs.guide, x, steps=30)
        gain = (
            draw_particles(programs.model, refined, x, 20).log_weight
            - draw_particles(programs.model, programs.guide, x, 20).log_weight
        )
        significance.require_less(mean_of(-gain.mean(0).detach()), 0.0)
        # Standard deviations are stretched, correlations stay.
        found, start = (
            draw_particles(programs.model, guide, x).guide["z"]
            for guide in (refined, programs.guide)
        )
        assert type(found) is type(start)
        scales = [q.stddev.unsqueeze(-1) for q in (found, start)]
        assert not torch.allclose(*scales)
        correlations = [
            q.covariance_matrix / (s * s.mT) for q, s in zip((found, start), scales, strict=True)
        ]
        torch.testing.assert_close(*correlations)


@BOTH
class TestAsAModule:
    def encoder(self, kind):
        sizes = {"full": FullCovarianceEncoder.num_outputs(3), "low rank": 9}
        return ENCODERS[kind](MLP(64, [10], sizes[kind]))

    def test_gradients_reach_the_network(self, kind):
        encoder = self.encoder(kind)
        encoder(torch.randn(7, 64)).rsample().square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())

    def test_copies_and_precision(self, kind):
        encoder, x, z = self.encoder(kind), torch.randn(7, 64), torch.randn(20, 7, 3)
        expected = encoder(x).log_prob(z)
        other = self.encoder(kind)
        other.load_state_dict(encoder.state_dict())
        assert torch.equal(other(x).log_prob(z), expected)
        double = copy.deepcopy(encoder).double()(x.double()).log_prob(z.double())
        torch.testing.assert_close(double, expected.double(), rtol=1e-4, atol=1e-3)

    def test_a_vae_of_digits_learns(self, kind):
        x = load_dataset("digits").binarized("static").train[:500]
        decoder = BernoulliDecoder(MLP(3, [20], 64), x.mean(0))
        programs = VAE(StandardNormalPrior(3), decoder, self.encoder(kind))
        settings = {"epochs": 4, "batch_size": 50, "learning_rate": 1e-2}
        run = fit(programs.model, programs.guide, DReG(4), x, **settings)
        bounds = run.history.column("bound")
        assert bounds[-1] > bounds[0] + 0.5


class TestErrors:
    """One clear line each."""

    @pytest.mark.parametrize("outputs", [1, 3, 6, 10])
    def test_sizes_that_no_full_covariance_has(self, outputs):
        with pytest.raises(ValueError, match=rf"^a full covariance[^\n]* got {outputs}: [^\n]*$"):
            FullCovarianceEncoder(MLP(4, [], outputs))(torch.randn(2, 4))

    def test_sizes_that_the_rank_does_not_divide(self):
        with pytest.raises(ValueError, match=r"^rank 2 needs 4 outputs [^\n]* got 6: [^\n]*$"):
            LowRankEncoder(MLP(4, [], 6), 2)(torch.randn(2, 4))

    @pytest.mark.parametrize("rank", [0, -1])
    def test_no_rank(self, rank):
        with pytest.raises(ValueError, match=f"^rank must be 1 or more, got {rank}"):
            LowRankEncoder(MLP(4, [], 6), rank)


@BOTH
def test_conformance(kind):
    sizes = {"full": FullCovarianceEncoder.num_outputs(2), "low rank": 6}

    def fresh():
        return ENCODERS[kind](MLP(3, [5], sizes[kind]))

    check_guide(fresh(), torch.randn(4, 3), fresh=fresh)
