"""An encoder without noise: what its bound is, and who refuses it."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.data import load_dataset
from ppl_vae.diagnostics import (
    bound_against_particles,
    decompose,
    elbo_surgery,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
)
from ppl_vae.evidence.annealing._chains import GeometricPath
from ppl_vae.guides import DeltaEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, MMD, STL, Beta, Capacity, FreeBits, LinearAnnealing
from ppl_vae.particles import LatentDensity, Programs, draw_particles
from ppl_vae.priors import LearnedNormalPrior, StandardNormalPrior
from ppl_vae.refinement import refine
from ppl_vae.training import fit
from ppl_vae.vae import VAE

MODEL = LinearGaussian.random(4, 2, 1.0, seed=3)
X = MODEL.simulate(5)


@pytest.fixture
def autoencoder():
    encoder = DeltaEncoder(MLP(4, [6], DeltaEncoder.num_outputs(2)).double())
    # A copy, as training moves the decoder.
    return copy.deepcopy(VAE(MODEL.prior, MODEL.decoder, encoder))


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


def test_a_decomposition_names_it(autoencoder):
    found = decompose(autoencoder.model, autoencoder.guide, X, num_particles=2)
    assert "joint log-density log p(x, z)" in str(found)
    assert "-log p z" in str(found)
    assert "ELBO" not in str(found)
    assert "KL" not in str(found)
    assert not {"elbo", "kl"} & set(found.summary())
    joint = draw_particles(autoencoder.model, autoencoder.guide, X).log_joint.mean().item()
    assert found.summary()["joint_log_density"]["value"] == pytest.approx(joint)


def test_its_terms_have_their_names_in_a_tree(autoencoder):
    found = decompose(autoencoder.model, autoencoder.guide, X, num_particles=2)
    group = found.to_datatree()["decomposition"]
    terms = ["joint_log_density", "log_likelihood", "minus_log_prior_z"]
    assert group["term"].to_numpy().tolist() == terms
    assert group["value"].sel(term=terms[0]) == found.elbo.value
    assert not [name for name in [*group, *group.attrs] if "kl" in name or "elbo" in name]


@pytest.mark.parametrize(
    ("diagnostic", "why"),
    [
        (elbo_surgery, "it has no KL to take apart"),
        (bound_against_particles, "the joint log-density there is the same for every K"),
        (simulation_based_calibration, "its draws have no spread to judge"),
        (rate_distortion, "it has no rate"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_asks_for_a_density_is_refused_in_a_line(autoencoder, diagnostic, why):
    expected = rf"^guide site 'z' is a Delta, a point without a density, and {why}\.$"
    with pytest.raises(ValueError, match=expected):
        diagnostic(autoencoder.model, autoencoder.guide, X)


def test_training_and_copies():
    x = load_dataset("digits").train[:400]
    decoder = NormalDecoder(MLP(4, [20], 64), 0.2, data_mean=x.mean(0))
    autoencoder = VAE(StandardNormalPrior(4), decoder, DeltaEncoder(MLP(64, [20], 4)))
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


def two_levels(scale):
    """A hierarchy whose two latents are points; the lower one's prior has parameters if asked."""
    encoder = nn.Linear(4, 2).double()
    trained = nn.Parameter(torch.zeros(2).double())

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.trained = encoder, trained

        def model(self, x):
            with pyro.plate("data", len(x)):
                zero = torch.zeros(2).double()
                top = pyro.sample("top", dist.Normal(zero, 1.0).to_event(1))
                z = pyro.sample("z", dist.Normal(scale(top, trained), 1.0).to_event(1))
                mean = torch.cat([z, z], -1) + trained.sum()
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                point = encoder(x)
                for name in ("top", "z"):
                    pyro.sample(name, dist.Delta(point, event_dim=1))

    return Program()


class TestAPriorThatClosesIn:
    """The joint density at a point has no maximum if the prior can follow the point."""

    def fit(self, programs, objective=None, x=X, **settings):
        settings = {"epochs": 1, "progress": False, **settings}
        return fit(programs.model, programs.guide, objective or ELBO(), x, **settings)

    def learned(self, frozen=False):
        torch.manual_seed(0)
        prior = LearnedNormalPrior(2).double().requires_grad_(not frozen)
        encoder = DeltaEncoder(MLP(4, [6], 2).double())
        return copy.deepcopy(VAE(prior, MODEL.decoder, encoder))

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(2), ELBO(kl=Beta(0.5))], ids=repr)
    def test_a_learned_prior(self, objective):
        expected = (
            r"^guide site 'z' is a Delta, [^\n]*its prior depends on parameter \S*prior.loc, "
            r"parameter \S*prior.log_scale: [^\n]*no maximum; take a prior without parameters, "
            r"[^\n]*$"
        )
        with pytest.raises(ValueError, match=expected):
            self.fit(self.learned(), objective)

    @pytest.mark.parametrize(
        ("scale", "cause"),
        [
            (lambda top, trained: top, "latent site 'top'"),
            (lambda top, trained: trained.expand_as(top), "parameter trained"),
        ],
        ids=["latent", "parameter"],
    )
    def test_a_hierarchy(self, scale, cause):
        with pytest.raises(ValueError, match=f"guide site 'z' is a Delta, .* depends on {cause}:"):
            self.fit(two_levels(scale))

    def test_others_are_trained(self):
        assert len(self.fit(two_levels(lambda top, trained: torch.zeros_like(top))).history) == 1
        assert len(self.fit(self.learned(frozen=True)).history) == 1
        # The density of the prior is no part of what these climb.
        for objective in (MMD(1, weight=10), ELBO(kl=Beta(0.0))):
            assert len(self.fit(self.learned(), objective).history) == 1

    @pytest.mark.parametrize("kl", [FreeBits(0.5), Capacity(5.0)], ids=repr)
    def test_a_shaping_by_the_kl(self, autoencoder, kl):
        with pytest.raises(ValueError, match=r"is a Delta, a point without a KL, and .* measures"):
            self.fit(autoencoder, ELBO(kl=kl))

    @pytest.mark.parametrize("objective", [IWAE(5), ELBO(3)], ids=repr)
    def test_draws_that_are_all_the_same(self, autoencoder, objective):
        expected = r"is a Delta, all of whose draws are the same, .* give it 1 particle"
        with pytest.raises(ValueError, match=expected):
            self.fit(autoencoder, objective)

    @pytest.mark.parametrize(
        "objective",
        [ELBO(kl=Beta(0.0)), ELBO(kl=LinearAnnealing(start=0.0, end=0.3)), ELBO()],
        ids=repr,
    )
    def test_the_kept_epoch_is_the_best_of_what_is_maximised(self, autoencoder, objective):
        scores = []

        def note(record):
            drawn = draw_particles(autoencoder.model, autoencoder.guide, X)
            factor = {"Beta": 0.0, "LinearAnnealing": 0.3}.get(type(objective.kl).__name__, 1.0)
            value = drawn.log_likelihood + factor * drawn.log_latent_prior
            scores.append(value.mean().item())

        result = self.fit(
            autoencoder, objective, epochs=4, valid=X, learning_rate=0.3, on_epoch=note
        )
        assert result.history.column("validation") == pytest.approx(scores)
        assert result.kept_epoch == 1 + scores.index(max(scores))


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
    density = LatentDensity(Programs(autoencoder.model, autoencoder.guide), X, 10)
    chains = GeometricPath(density, "prior").draw()
    assert all(part.isfinite().all() for part in chains)
    with pytest.raises(ValueError, match="guide site 'z' is a Delta"):
        GeometricPath(density, "guide").draw()
