"""Hierarchies of latents: exact on chains of normals, in training like any other model."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.diagnostics import decompose
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, STL, GeneralizedDReG
from ppl_vae.particles import draw_particles
from ppl_vae.priors import LearnedNormalPrior, StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import BottomUp, HierarchicalVAE, Ladder

# z2 ~ N(0, 1), z1|z2 ~ N(a z2, s^2), x|z1 ~ N(b z1, t^2).
A, S, B, T = 0.8, 0.6, 1.2, 0.7
VAR_1 = A**2 + S**2
VAR_X = B**2 * VAR_1 + T**2
X = math.sqrt(VAR_X) * torch.linspace(-2, 2, 7, dtype=torch.float64).unsqueeze(-1)
LOG_EVIDENCE = dist.Normal(0.0, math.sqrt(VAR_X)).log_prob(X[:, 0])


class Linear(nn.Module):
    """h -> Normal(gain h, scale^2), with parameters to be trained."""

    def __init__(self, gain, scale):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64))

    def forward(self, h):
        return dist.Normal(self.gain * h, self.log_scale.exp()).to_event(1)


def chain(kind):
    """The chain with its exact posterior as the guide."""
    conditional = Linear(A, S)
    if kind == "bottom-up":
        first = Linear(B * VAR_1 / VAR_X, math.sqrt(VAR_1 - (B * VAR_1) ** 2 / VAR_X))
        inference = BottomUp([first, Linear(A / VAR_1, S / math.sqrt(VAR_1))])
    else:
        # What x alone says of z1, to be multiplied with p(z1|z2); and the exact q(z2|x).
        seen = Linear(1 / B, T / B)
        top = Linear(A * B / VAR_X, math.sqrt(1 - (A * B) ** 2 / VAR_X))
        inference = Ladder([nn.Identity(), nn.Identity()], [seen, top], [conditional])
    return HierarchicalVAE(StandardNormalPrior(1).double(), [conditional], Linear(B, T), inference)


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
@pytest.mark.parametrize("graph", ["path", "split", "score"])
def test_every_weight_is_p_of_x_at_the_posterior(kind, graph):
    vae = chain(kind)
    particles = draw_particles(vae.model, vae.guide, X, 5, graph=graph)
    assert set(particles.log_prior) == {"z1", "z2"}
    torch.testing.assert_close(particles.log_weight.detach(), LOG_EVIDENCE.expand(5, -1))


def test_the_wrong_product_is_seen():
    """Without the model's conditional in it, a ladder's q is another distribution."""
    vae = chain("ladder")
    ladder = vae.inference

    def without(x, sample):
        sample(1, ladder.encoders[0](x))
        sample(2, ladder.top(x))

    wrong = HierarchicalVAE(vae.prior, list(vae.conditionals), vae.decoder, without)
    weights = draw_particles(wrong.model, wrong.guide, X, 5).log_weight
    assert weights.var(0).min() > 0.1


def vae_of(kind, prior=StandardNormalPrior):
    def normal(inputs, latent):
        return DiagonalNormalEncoder(MLP(inputs, [8], 2 * latent))

    conditional = normal(2, 3)
    if kind == "bottom-up":
        inference = BottomUp([normal(6, 3), normal(3, 2)])
    else:
        bodies = [MLP(6, [8], 5), MLP(5, [8], 4)]
        inference = Ladder(bodies, [normal(5, 3), normal(4, 2)], [conditional])
    return HierarchicalVAE(prior(2), [conditional], BernoulliDecoder(MLP(3, [8], 6)), inference)


DATA = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
@pytest.mark.parametrize("objective", [ELBO(2), STL(2), IWAE(3), GeneralizedDReG(3)], ids=repr)
def test_training_moves_every_parameter(kind, objective):
    vae = vae_of(kind, LearnedNormalPrior)
    before = {name: value.clone() for name, value in vae.named_parameters()}
    result = fit(vae.model, vae.guide, objective, DATA, epochs=3, batch_size=20, progress=False)
    assert math.isfinite(result.history.records[-1].bound)
    for name, value in vae.named_parameters():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_pyro_s_own_svi_trains_every_parameter_once(kind):
    vae = vae_of(kind, LearnedNormalPrior)
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), loss=pyro.infer.Trace_ELBO()
    )
    before = {name: value.clone() for name, value in vae.named_parameters()}
    svi.step(DATA)
    for name, value in vae.named_parameters():
        assert not torch.equal(value, before[name]), name
    held = [id(value) for value in pyro.get_param_store().values()]
    assert len(set(held)) == len(list(vae.parameters()))


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_every_layer_has_its_part_of_the_elbo(kind):
    vae = vae_of(kind)
    parts = decompose(vae.model, vae.guide, DATA, seed=0)
    assert {"z1", "z2"} <= set(parts.kl)


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_its_log_evidence_is_what_quadrature_says(kind, significance):
    """Of the exact chain with a guide that is off, by importance sampling."""
    vae = chain(kind)
    with torch.no_grad():
        for parameter in vae.inference.parameters():
            parameter.add_(0.1)
    found = ImportanceSampling(4000)(vae.model, vae.guide, X)
    from significance import Estimate

    significance.require_equal(
        Estimate(found.mean, found.monte_carlo_error), LOG_EVIDENCE.mean().item()
    )


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_draws(kind):
    vae = vae_of(kind)
    assert vae.generate(11).batch_shape == (11,)
    assert vae.reconstruct(DATA).batch_shape == (60,)
    assert vae.inference.top(DATA).batch_shape == (60,)
    assert vae.inference.top(DATA).event_shape == (2,)


def test_moments_of_what_is_generated(significance):
    from significance import variance_of

    torch.manual_seed(3)
    draws = chain("ladder").generate(20_000).sample()
    found = variance_of(draws)
    significance.require_equal(found, VAR_X)


def test_what_does_not_fit_is_said():
    encoder = DiagonalNormalEncoder(MLP(6, [], 4))
    with pytest.raises(ValueError, match="two layers or more"):
        HierarchicalVAE(StandardNormalPrior(2), [], encoder, BottomUp([encoder]))
    with pytest.raises(ValueError, match="L bodies, L encoders and L - 1 conditionals"):
        Ladder([nn.Identity()], [encoder], [encoder])
    heavy = Ladder(
        [nn.Identity()] * 2, [encoder, DiagonalNormalEncoder(MLP(6, [], 4))],
        [lambda z: dist.StudentT(3.0, z, 1.0).to_event(1)],
    )  # fmt: skip
    vae = HierarchicalVAE(StandardNormalPrior(2), [encoder], encoder, heavy)
    with pytest.raises(TypeError, match="multiplies diagonal normals, got StudentT"):
        vae.guide(DATA)
