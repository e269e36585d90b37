"""An encoder without noise: what its bound is, and who refuses it."""

import copy

import pytest
import torch
from torch import nn

from ppl_vae.data import load_dataset
from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
)
from ppl_vae.evidence.annealing.path import GeometricPath
from ppl_vae.guides import DeltaEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, STL
from ppl_vae.particles import LatentDensity, draw_particles
from ppl_vae.priors import StandardNormal
from ppl_vae.refinement import refine
from ppl_vae.training import fit
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 1.0, seed=3)
X = MODEL.simulate(5)


@pytest.fixture
def autoencoder():
    encoder = DeltaEncoder(MLP(4, [6], DeltaEncoder.num_outputs(2)).double())
    return VAE(MODEL.prior, MODEL.decoder, encoder)


@pytest.mark.parametrize("objective", [ELBO(1), ELBO(3), IWAE(3), STL(3)], ids=repr)
def test_the_bound_is_the_joint_density_at_the_point(autoencoder, objective):
    z = autoencoder.encoder.network(X)
    joint = MODEL.prior().log_prob(z) + MODEL.decoder(z).log_prob(X)
    particles = objective.draw(autoencoder.model, autoencoder.guide, X)
    assert torch.equal(particles.latents["z"], z.expand(objective.num_particles, -1, -1))
    torch.testing.assert_close(objective.bound(particles), joint)
    assert (objective.bound(particles) < MODEL.log_evidence(X)).any()
    # So is the gradient.
    objective.loss_and_grads(autoencoder.model, autoencoder.guide, X)
    expected = torch.autograd.grad(-joint.sum(), list(autoencoder.encoder.parameters()))
    for parameter, gradient in zip(autoencoder.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_joint_density_is_no_bound():
    """Where the noise is small, it is above log p(x)."""
    sharp = LinearGaussian(0.01 * torch.eye(2).double(), noise_scale=0.001)
    x = sharp.simulate(20)

    class Best(nn.Module):
        def forward(self, x):
            return sharp.posterior(x).mean

    autoencoder = VAE(sharp.prior, sharp.decoder, DeltaEncoder(Best()))
    particles = draw_particles(autoencoder.model, autoencoder.guide, x)
    assert (particles.log_weight[0] > sharp.log_evidence(x)).all()


def test_training_and_copies():
    x = load_dataset("digits").train[:400]
    decoder = NormalDecoder(MLP(4, [20], 64), 0.2, data_mean=x.mean(0))
    autoencoder = VAE(StandardNormal(4), decoder, DeltaEncoder(MLP(64, [20], 4)))
    settings = {"epochs": 3, "batch_size": 50, "learning_rate": 1e-2}
    run = fit(autoencoder.model, autoencoder.guide, ELBO(), x, valid=x[:30], **settings)
    bounds = run.history.column("bound")
    assert bounds == sorted(bounds)
    # What is validated is the joint density, of the last epoch here.
    joint = draw_particles(autoencoder.model, autoencoder.guide, x[:30]).log_joint[0].double()
    record = run.history.records[-1]
    assert record.validation == pytest.approx(joint.mean().item())
    assert record.validation_error == pytest.approx(joint.std().item() / 30**0.5)
    again = copy.deepcopy(autoencoder)
    assert torch.equal(again.encoder(x).sample(), autoencoder.encoder(x).sample())


class TestRefusals:
    """One clear line each."""

    @pytest.mark.parametrize(
        "estimator",
        [
            ImportanceSampling(20),
            ParetoSmoothed(200),
            DefensiveSampling(20),
            Jackknife(32),
            SUMO(2),
            AdaptiveSampling(),
            AnnealedImportanceSampling(3, 2, start="guide"),
        ],
        ids=lambda estimator: type(estimator).__name__,
    )
    def test_estimators_that_draw_from_the_guide(self, autoencoder, estimator):
        expected = r"^guide site 'z' is a Delta, [^\n]*Laplace[^\n]*$"
        with pytest.raises(ValueError, match=expected):
            estimator(autoencoder.model, autoencoder.guide, X)

    def test_refinement(self, autoencoder):
        with pytest.raises(ValueError, match="guide site 'z' is a Delta, and refinement moves"):
            refine(autoencoder.model, autoencoder.guide, X)


def test_annealing_from_the_prior_does_without_it(autoencoder):
    density = LatentDensity(autoencoder.model, autoencoder.guide, X, 10)
    chains = GeometricPath(density, "prior").draw()
    assert all(part.isfinite().all() for part in chains)
    with pytest.raises(ValueError, match="guide site 'z' is a Delta"):
        GeometricPath(density, "guide").draw()
