"""Flow guides: densities, particles, and gradients that are known."""

from typing import get_args

import pyro
import pytest
import torch
from quadrature import require_density_of_draws
from significance import mean_of
from torch import nn

from ppl_vae.evidence import AnnealedImportanceSampling, DefensiveSampling
from ppl_vae.flows import FlowKind
from ppl_vae.guides import DiagonalNormalEncoder, FlowEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, RWS, STL, TVO, VIMCO, DReG, Reinforce
from ppl_vae.particles import LatentDensity, Programs, draw_particles
from ppl_vae.priors import FlowPrior, StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

KINDS = get_args(FlowKind)
SMALL = {"layers": 2, "hidden_sizes": [8]}
FEATURES = 6


def moved(module, by=0.3):
    """In double precision, away from where it starts."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def encoder(kind, latent=2, context=3, **settings):
    network = MLP(FEATURES, [8], FlowEncoder.num_outputs(latent, context))
    return FlowEncoder(network, latent, kind, context, **{**SMALL, **settings})


def flow_vae(kind, latent=2, context=3, by=0.3):
    decoder = BernoulliDecoder(MLP(latent, [8], FEATURES))
    vae = VAE(StandardNormalPrior(latent), decoder, moved(encoder(kind, latent, context), by))
    return vae.double()


def binary(rows=5):
    return torch.bernoulli(torch.full((rows, FEATURES), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
class TestDensity:
    @pytest.mark.parametrize("latent", [1, 2])
    def test_integrates_to_one_and_draws_follow_it(self, kind, latent, significance):
        q = moved(encoder(kind, latent))(binary(1))
        draws = q.sample((4000,))[:, 0]
        require_density_of_draws(q.log_prob, draws, significance)

    def test_starts_at_the_diagonal_normal_of_the_same_network(self, kind):
        guide, x = encoder(kind).double(), binary()

        class Head(nn.Module):
            def forward(self, x):
                return guide.network(x)[:, :4]

        normal = DiagonalNormalEncoder(Head())(x)
        z = torch.randn(3, 5, 2).double()
        torch.testing.assert_close(guide(x).log_prob(z), normal.log_prob(z))

    @pytest.mark.parametrize("context", [0, 3])
    def test_the_shape_depends_on_the_datum_through_the_context(self, kind, context):
        guide, x = moved(encoder(kind, context=context)), torch.eye(2, FEATURES).double()
        loc, unconstrained = guide.network(x)[:, :2], guide.network(x)[:, 2:4]
        scale = nn.functional.softplus(unconstrained)
        z = guide(x).transforms[0](torch.randn(1, 2).double().expand(2, -1))
        shaped = (z - loc) / (scale + 1e-6)
        assert torch.allclose(shaped[0], shaped[1]) == (context == 0)

    def test_every_parameter_has_a_gradient_by_density_and_by_draws(self, kind):
        guide, x = moved(encoder(kind)), binary()
        for loss in (guide(x).log_prob(torch.randn(5, 2).double()), guide(x).rsample().square()):
            guide.zero_grad()
            loss.sum().backward()
            assert [n for n, p in guide.named_parameters() if p.grad.abs().sum() == 0] == []

    def test_is_what_was_saved(self, kind):
        guide, other, x = moved(encoder(kind)), encoder(kind).double(), binary()
        other.load_state_dict(guide.state_dict())
        z = torch.randn(5, 2).double()
        assert torch.equal(other(x).log_prob(z), guide(x).log_prob(z))


@pytest.mark.parametrize("kind", KINDS)
class TestParticles:
    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_graphs_differ_in_gradients_only(self, kind, count):
        vae, x = flow_vae(kind, by=0.1), binary()
        found = []
        for graph in ("path", "split", "score"):
            torch.manual_seed(1)
            particles = draw_particles(vae.model, vae.guide, x, count, graph=graph)
            assert particles.latents["z"].shape == (count, 5, 2)
            assert particles.log_weight.shape == (count, 5)
            found.append(particles.log_weight)
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(found[0], found[2])

    def test_the_density_at_a_copy_has_the_derivative_in_the_copy(self, kind):
        """d log q / dz at held parameters, against finite differences."""
        guide, x = moved(encoder(kind)), binary()
        q = guide(x)
        z = q.sample().clone().requires_grad_()
        assert torch.autograd.gradcheck(q.log_prob, z)
        vae = VAE(StandardNormalPrior(2), BernoulliDecoder(MLP(2, [8], FEATURES)), guide).double()
        particles = draw_particles(vae.model, vae.guide, x, 2, graph="split")
        leaf = particles.latents["z"]
        (own,) = torch.autograd.grad(particles.log_proposal.sum(), leaf, retain_graph=True)
        again = leaf.detach().requires_grad_()
        (expected,) = torch.autograd.grad(guide(x).log_prob(again).sum(), again)
        torch.testing.assert_close(own, expected)

    def test_annealing_moves_along_it(self, kind):
        vae, x = flow_vae(kind, by=0.1), binary(2)
        density = LatentDensity(Programs(vae.model, vae.guide), x, num_chains=3)
        u = density.draw_guide().requires_grad_()
        torch.testing.assert_close(density(u).guide, vae.encoder(x).log_prob(u))
        assert torch.autograd.gradcheck(lambda u: density(u).guide, u)

    def test_in_a_plate_left_of_the_data(self, kind):
        """Three latents for each datum; the densities add up."""
        guide, x = moved(encoder(kind)), binary()

        def latent(q):
            with pyro.plate("data", len(x)), pyro.plate("draws", 3):
                return pyro.sample("z", q)

        def model(x):
            z = latent(StandardNormalPrior(2).double()())
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "x",
                    pyro.distributions.Normal(z.sum(-1).sum(-2, keepdim=True), 1.0),
                    obs=x[:, 0],
                )

        found = draw_particles(model, lambda x: latent(guide(x)), x, 4)
        z = found.latents["z"]
        assert z.shape == (4, 3, 5, 2)
        torch.testing.assert_close(found.log_proposal, guide(x).log_prob(z.clone()).sum(1))


class Constant(nn.Module):
    """A network without input: location 0, a scale of 1, no features."""

    def __init__(self, latent):
        super().__init__()
        one = torch.tensor(1.0).expm1().log().expand(latent)
        self.values = nn.Parameter(torch.cat([torch.zeros(latent), one]))

    def forward(self, x):
        return self.values.expand(len(x), -1)


class TestAtThePosterior:
    """x says nothing of z, so that the posterior is the prior: a flow that a flow can be."""

    def vae(self, kind, latent=3):
        torch.manual_seed(5)
        prior = moved(FlowPrior(latent, kind, **SMALL))
        nn.init.zeros_(prior.loc)
        nn.init.constant_(prior.log_scale, torch.tensor(1 + 1e-6, dtype=torch.float64).log())
        guide = FlowEncoder(Constant(latent), latent, kind, 0, **SMALL).double()
        with torch.no_grad():  # in double precision
            guide.network.values[latent:] = torch.tensor(1.0, dtype=torch.float64).expm1().log()
        guide.flow.load_state_dict(prior.flow.state_dict())
        deaf = MLP(latent, [], FEATURES)
        nn.init.zeros_(deaf.output.weight)
        return VAE(prior, BernoulliDecoder(deaf), guide).double()

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_weight_is_the_evidence(self, kind):
        vae, x = self.vae(kind), binary()
        weights = draw_particles(vae.model, vae.guide, x, 4).log_weight
        exact = vae.decoder(torch.zeros(3).double()).log_prob(x)
        torch.testing.assert_close(weights, exact.expand(4, -1))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("objective", [STL(3), DReG(3)])
    def test_split_gradients_of_the_guide_are_zero_draw_by_draw(self, objective, kind):
        vae, x = self.vae(kind), binary()
        objective.loss_and_grads(vae.model, vae.guide, x)
        largest = max(p.grad.abs().max().item() for p in vae.encoder.parameters())
        ELBO(3).loss_and_grads(vae.model, vae.guide, x)
        score = max(p.grad.abs().max().item() for p in vae.encoder.parameters())
        assert largest < 1e-10
        assert score > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_split_gradients_are_unbiased(kind, significance):
    """STL against the ELBO's own gradient, and DReG against IWAE's."""
    vae, x = flow_vae(kind, by=0.2), binary(2)
    parameters = [*vae.encoder.network.output.parameters(), *vae.encoder.flow.parameters()]
    directions = [torch.randn_like(p) for p in parameters]

    def slopes(objective):
        """Of the loss along one direction, many times."""
        found = []
        for _ in range(60):
            loss = objective.differentiable_loss(vae.model, vae.guide, x)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            both = zip(gradients, directions, strict=True)
            found.append(sum((g * d).sum() for g, d in both if g is not None))
        return torch.stack(found)

    significance = significance.split(2)
    significance.require_equal(mean_of(slopes(STL(5))), mean_of(slopes(ELBO(5))))
    significance.require_equal(mean_of(slopes(DReG(5))), mean_of(slopes(IWAE(5))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "objective",
    [ELBO(), STL(2), IWAE(4), DReG(4), RWS(4), VIMCO(4), Reinforce(2), TVO(4, num_terms=2)],
)
def test_objectives_train_it(objective, kind):
    vae, x = flow_vae(kind, by=0.1), binary()
    objective.loss_and_grads(vae.model, vae.guide, x)
    untrained = [n for n, p in vae.encoder.named_parameters() if p.grad.abs().sum() == 0]
    assert untrained == []


class Length(nn.Module):
    """Only the length of z is seen, so that posteriors are rings."""

    def forward(self, z):
        length = z.square().sum(-1, keepdim=True)
        return pyro.distributions.Normal(length, 0.5).to_event(1)


@pytest.mark.parametrize("kind", ["iaf", "spline"])
def test_it_learns_more_than_a_diagonal_normal(kind, significance):
    x = torch.randn(300, 2).square().sum(-1, keepdim=True)
    network = MLP(1, [16], FlowEncoder.num_outputs(2, 4))
    guides = [DiagonalNormalEncoder(MLP(1, [16], 4)), FlowEncoder(network, 2, kind, 4, **SMALL)]
    bounds = []
    for guide in guides:
        vae = VAE(StandardNormalPrior(2), Length(), guide)
        fit(vae.model, vae.guide, ELBO(4), x, epochs=20, batch_size=50, learning_rate=0.02, seed=0)
        with torch.no_grad():
            bounds.append(mean_of(draw_particles(vae.model, vae.guide, x, 200).log_weight.mean(1)))
    significance.require_less(*bounds)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing_finds_the_evidence(start, significance):
    vae, x = flow_vae("spline", by=0.1), binary(2)
    settings = {"num_chains": 20, "leapfrog_steps": 2, "start": start}
    annealed = AnnealedImportanceSampling(5, **settings)(vae.model, vae.guide, x)
    sampled = DefensiveSampling(4000)(vae.model, vae.guide, x)
    for i in range(2):
        difference = (annealed.log_prob - sampled.log_prob)[i]
        error = torch.hypot(annealed.standard_error, sampled.standard_error)[i]
        assert abs(difference / error) < significance.split(2).limit


def test_refusals(unchecked_types):
    with pytest.raises(ValueError, match="unknown kind of flow 'planar'"):
        encoder("planar")
    wrong = FlowEncoder(nn.Linear(FEATURES, 4), 2, "iaf", 3)
    with pytest.raises(ValueError, match=r"gives 4 numbers .* context = 7: size it by num_outputs"):
        wrong(torch.zeros(1, FEATURES))
    assert FlowEncoder.num_outputs(2) == 36
