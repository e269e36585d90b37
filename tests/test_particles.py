import contextlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from pyro import poutine
from pyro.distributions import constraints, transforms
from pyro.infer import config_enumerate
from significance import mean_of
from torch import nn

from ppl_vae.evidence import AnnealedImportanceSampling, AutomaticSampling, ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO
from ppl_vae.particles import PlateNestingError, Programs, draw_particles
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def z_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(x.new_zeros(2)))
        pyro.sample("x", normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)), obs=x)


def z_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x[:, :2], 0.5))


X = torch.arange(15.0).reshape(5, 3) / 10


def hand_weight(z, x=X):
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_guide = torch.distributions.Normal(x[:, :2], 0.5).log_prob(z).sum(-1)
    mean = z.sum(-1, keepdim=True)
    log_likelihood = torch.distributions.Normal(mean, 1.0).log_prob(x).sum(-1)
    return log_likelihood + log_prior - log_guide


class TestDraws:
    @pytest.mark.parametrize("count", [1, 4])
    def test_one_latent_site(self, count):
        particles = draw_particles(z_model, z_guide, X, count)
        z = particles.latents["z"]
        assert (particles.num_particles, particles.batch_size) == (count, 5)
        assert z.shape == (count, 5, 2)
        for value in (particles.log_likelihood, *particles.log_prior.values()):
            assert value.shape == (count, 5)
        torch.testing.assert_close(particles.log_weight, hand_weight(z))
        assert particles.scale == 1
        assert particles.masked == frozenset()

    def test_particles_and_data_have_draws_of_their_own(self):
        z = draw_particles(z_model, z_guide, X[:1].expand(5, 3), 4).latents["z"]
        assert len(z.flatten().unique()) == z.numel()

    def test_several_latent_sites(self):
        chain = LinearChain()
        x = chain.simulate(6)
        for guide, order in ((chain.top_down, "uv"), (chain.bottom_up, "vu")):
            particles = draw_particles(chain.model, guide, x, 3)
            assert "".join(particles.log_prior) == "uv"
            assert "".join(particles.log_guide) == "".join(particles.latents) == order
            assert particles.latents["u"].shape == (3, 6, 2)
            assert particles.latents["v"].shape == (3, 6, 3)
            expected = normal(particles.latents["u"] @ chain.A.T, chain.s)
            torch.testing.assert_close(
                particles.log_prior["v"], expected.log_prob(particles.latents["v"])
            )

    def test_the_sites_distributions_are_kept(self):
        particles = draw_particles(z_model, z_guide, X, 4)
        z = particles.latents["z"]
        torch.testing.assert_close(particles.prior["z"].log_prob(z), particles.log_prior["z"])
        torch.testing.assert_close(particles.guide["z"].log_prob(z), particles.log_guide["z"])
        torch.testing.assert_close(particles.likelihood["x"].log_prob(X), particles.log_likelihood)

    def test_several_observed_sites_add_up(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("left", normal(z[..., :1]), obs=x[:, :1])
                pyro.sample("right", normal(z), obs=x[:, 1:])

        particles = draw_particles(model, z_guide, X, 4)
        left, right = (particles.likelihood[name] for name in ("left", "right"))
        torch.testing.assert_close(
            particles.log_likelihood, left.log_prob(X[:, :1]) + right.log_prob(X[:, 1:])
        )

    def test_a_site_may_be_scalar(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", normal(z.unsqueeze(-1).expand(*z.shape, 3)), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

        particles = draw_particles(model, guide, X, 4)
        assert particles.latents["z"].shape == (4, 5)
        torch.testing.assert_close(particles.log_weight, particles.log_likelihood)

    def test_deterministic_sites_are_no_densities(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                mean = pyro.deterministic("mean", z.sum(-1, keepdim=True), event_dim=1)
                pyro.sample("x", normal(mean.expand(*z.shape[:-1], 3)), obs=x)

        particles = draw_particles(model, z_guide, X, 4)
        assert set(particles.likelihood) == {"x"}
        torch.testing.assert_close(particles.log_weight, hand_weight(particles.latents["z"]))

    def test_a_factor_in_the_model_is_part_of_its_likelihood(self):
        def model(x):
            z_model(x)
            with pyro.plate("more", len(x), dim=-1):
                pyro.factor("bonus", torch.arange(5.0))

        particles = draw_particles(model, z_guide, X, 4)
        expected = hand_weight(particles.latents["z"]) + torch.arange(5.0)
        torch.testing.assert_close(particles.log_weight, expected)

    def test_a_seed_gives_the_same_particles(self):
        draws = []
        for _ in range(2):
            torch.manual_seed(4)
            draws.append(draw_particles(z_model, z_guide, X, 4).log_weight)
        assert torch.equal(*draws)

    def test_sums_over_sites(self):
        chain = LinearChain()
        x = chain.simulate(4)
        for guide in (chain.top_down, chain.bottom_up):
            particles = draw_particles(chain.model, guide, x, 3)
            u, v = (particles.latents[name] for name in "uv")
            zeros = torch.zeros(2, dtype=x.dtype)
            prior = normal(zeros).log_prob(u) + normal(u @ chain.A.T, chain.s).log_prob(v)
            torch.testing.assert_close(particles.log_latent_prior, prior)
            joint = prior + normal(v @ chain.B.T, chain.t).log_prob(x)
            torch.testing.assert_close(particles.log_joint, joint)
            # At the posterior: log q = log p(x, z) - log p(x).
            posterior = joint - chain.log_evidence(x)
            torch.testing.assert_close(particles.log_proposal, posterior)
            log_weight = particles.log_joint - particles.log_proposal
            torch.testing.assert_close(particles.log_weight, log_weight)

    def test_gradients_flow_through_the_draws(self):
        vae, x = binary_vae(), binary_data()
        draw_particles(vae.model, vae.guide, x, 3).log_weight.sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in vae.parameters())


GRAPHS = ["path", "split", "score"]


def hierarchy(parameters):
    """Two layers whose parameters are named for the densities they enter; w enters all."""
    a, b, c, d, w = parameters

    def model(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", normal(a * torch.ones(2), w.exp()))
            v = pyro.sample("v", normal(b * u, w.exp()))
            pyro.sample("x", normal(v + w), obs=x[:, :2])

    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", normal(c * x[:, :2], w.exp()))
            pyro.sample("u", normal(d * v, w.exp()))

    return model, guide


def leaves():
    return [torch.tensor(value, requires_grad=True) for value in (0.3, 0.5, -0.4, 0.7, 0.2)]


class TestGraphs:
    """Values do not depend on how the draws hang in the autograd graph; gradients do."""

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_the_values_are_the_same(self, graph):
        for programs in (hierarchy(leaves()), (z_model, z_guide)):
            found = []
            for kind in ("path", graph):
                torch.manual_seed(3)
                found.append(draw_particles(*programs, X, 4, graph=kind))
            assert torch.equal(found[0].log_weight, found[1].log_weight)
            for name in found[0].latents:
                assert torch.equal(found[0].latents[name], found[1].latents[name])

    def test_split_draws_are_leaves_and_their_paths_kept(self):
        parameters = leaves()
        particles = draw_particles(*hierarchy(parameters), X, 4, graph="split")
        assert list(particles.paths) == list(particles.latents) == ["v", "u"]
        for name, z in particles.latents.items():
            assert z.is_leaf
            assert z.requires_grad
            assert torch.equal(z, particles.paths[name])
            assert not particles.paths[name].is_leaf
        # u moves with c through v alone: the whole path is in the graph.
        _, _, c, d, _ = parameters
        (through_v,) = torch.autograd.grad(particles.paths["u"].sum(), [c], retain_graph=True)
        expected = (d * X[:, :2]).sum() * 4
        torch.testing.assert_close(through_v, expected)

    def test_without_gradients_nothing_is_a_leaf_to_differentiate(self):
        with torch.no_grad():
            particles = draw_particles(*hierarchy(leaves()), X, 4, graph="split")
        assert not any(z.requires_grad for z in particles.latents.values())

    def gradients(self, graph, density):
        parameters = leaves()
        torch.manual_seed(3)
        particles = draw_particles(*hierarchy(parameters), X, 4, graph=graph)
        values = getattr(particles, density)
        return torch.autograd.grad(values.sum(), parameters, allow_unused=True), particles

    @pytest.mark.parametrize("density", ["log_joint", "log_proposal"])
    def test_split_and_scored_densities_have_their_direct_gradient_alone(self, density):
        (split, particles), (score, _) = (self.gradients(g, density) for g in ("split", "score"))
        used = [gradient is not None for gradient in split]
        own = {"log_joint": [True, True, False, False, True]}
        assert used == own.get(density, [False, False, True, True, True])
        torch.testing.assert_close(split, score)
        # The same densities of draws that are given.
        parameters = leaves()
        a, b, c, d, w = parameters
        u, v = (particles.latents[name].detach() for name in "uv")
        if density == "log_joint":
            likelihood = normal(v + w).log_prob(X[:, :2])
            top = normal(a * torch.ones(2), w.exp()).log_prob(u)
            expected = likelihood + top + normal(b * u, w.exp()).log_prob(v)
        else:
            lower = normal(c * X[:, :2], w.exp()).log_prob(v)
            expected = lower + normal(d * v, w.exp()).log_prob(u)
        by_hand = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
        torch.testing.assert_close(split, by_hand)

    def test_direct_part_and_path_add_up(self):
        """d log w = direct + (d log w / dz) dz, whichever parameters the programs share."""
        (whole, _) = self.gradients("path", "log_weight")
        parameters = leaves()
        torch.manual_seed(3)
        split = draw_particles(*hierarchy(parameters), X, 4, graph="split")
        total = split.log_weight.sum()
        slopes = torch.autograd.grad(total, list(split.latents.values()), retain_graph=True)
        paths = zip(slopes, split.paths.values(), strict=True)
        path = sum((slope * z).sum() for slope, z in paths)
        found = torch.autograd.grad(total + path, parameters)
        torch.testing.assert_close(found, whole)

    def test_discrete_draws_may_be_split(self):
        def model(x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(torch.ones(3)))
                pyro.sample("x", normal(k.unsqueeze(-1).expand(*k.shape, 3).float()), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(torch.ones(3)))

        for graph in GRAPHS:
            particles = draw_particles(model, guide, X, 4, graph=graph)
            assert not particles.latents["k"].requires_grad
            assert particles.not_reparameterized == ["k"]

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_a_second_run_of_the_guide_is_on_the_same_draws(self, graph):
        """A split guide of several sites is run again, on the same rows too."""
        calls = []

        def model(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                a = pyro.sample("a", normal(torch.zeros(2)))
                b = pyro.sample("b", normal(a))
                pyro.sample("x", normal(b), obs=x[rows, :2])

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                calls.append(rows)
                a = pyro.sample("a", normal(x[rows, :2]))
                pyro.sample("b", normal(a))

        particles = draw_particles(model, guide, X, 4, graph=graph)
        assert len(calls) == (2 if graph == "split" else 1)
        assert torch.equal(calls[0], calls[-1])
        a, b = (particles.latents[name] for name in "ab")
        expected = normal(X[calls[0], :2]).log_prob(a) + normal(a).log_prob(b)
        torch.testing.assert_close(particles.log_proposal, expected)

    @pytest.mark.parametrize("training", [True, False])
    def test_dropout_in_a_guide_of_several_sites_cannot_be_split(self, training):
        """The second run would have another mask, and its densities would not be of the draws."""
        dropout = torch.nn.Dropout().train(training)
        model, _ = hierarchy(leaves())

        def guide(x):
            with pyro.plate("data", len(x)):
                v = pyro.sample("v", normal(dropout(1 + x[:, :2])))
                pyro.sample("u", normal(v))

        draw_particles(model, guide, X, 4)
        if not training:
            draw_particles(model, guide, X, 4, graph="split")
            return
        with pytest.raises(ValueError, match=r"guide site 'v' has another density .* dropout"):
            draw_particles(model, guide, X, 4, graph="split")

    def test_a_flow_without_an_inverse_has_densities_of_its_own_draws_alone(self):
        flow = transforms.Planar(2)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.TransformedDistribution(normal(x[:, :2]), [flow]))

        draw_particles(z_model, guide, X, 4)
        for graph in ("split", "score"):
            with pytest.raises(ValueError, match="site 'z' has no density at given values"):
                draw_particles(z_model, guide, X, 4, graph=graph)

    def test_dropout_in_a_guide_of_one_site_can_be_split(self):
        """Its distribution is not made again."""
        dropout = torch.nn.Dropout()

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(dropout(1 + x[:, :2]), 0.5))

        particles = draw_particles(z_model, guide, X, 4, graph="split")
        own = particles.guide["z"].log_prob(particles.paths["z"])
        torch.testing.assert_close(particles.log_guide["z"], own)


class TestEnumeration:
    @pytest.mark.parametrize("where", ["model", "guide"])
    def test_is_refused_by_name(self, where):
        def program(x, enumerate_):
            with pyro.plate("data", len(x)):
                infer = {"enumerate": "parallel"} if enumerate_ else {}
                return pyro.sample("k", dist.Categorical(torch.ones(3)), infer=infer)

        def model(x):
            k = program(x, where == "model")
            with pyro.plate("data", len(x)):
                pyro.sample("x", normal(k.unsqueeze(-1).expand(*k.shape, 3).float()), obs=x)

        with pytest.raises(ValueError, match=r"site 'k' asks for enumeration.*TraceEnum_ELBO"):
            draw_particles(model, lambda x: program(x, where == "guide"), X, 4)

    def test_by_config_too(self):
        @config_enumerate
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(torch.ones(3)))

        with pytest.raises(ValueError, match="site 'k' asks for enumeration"):
            draw_particles(z_model, guide, X)


class TestSimulate:
    def test_without_a_guide_the_latents_alone(self):
        particles = Programs(z_model).simulate(X, 4)
        assert particles.latents["z"].shape == (4, 5, 2)
        assert particles.log_guide is None

    def test_draws_are_those_of_the_model(self, significance):
        """Mean, variance, and correlation between layers."""
        chain = LinearChain()
        draws = Programs(chain.model).simulate(torch.zeros(2_000, 4).double(), 5).latents
        u, v = draws["u"].detach().flatten(0, 1), draws["v"].detach().flatten(0, 1)
        A = chain.A.detach()
        significance = significance.split(2 + 3 + 6)
        for i in range(2):
            significance.require_equal(mean_of(u[:, i]), 0)
        for j in range(3):
            variance = (A[j].square().sum() + chain.s**2).item()
            significance.require_equal(mean_of(v[:, j].square()), variance)
            for i in range(2):
                significance.require_equal(mean_of(u[:, i] * v[:, j]), A[j, i].item())

    def test_alone_they_carry_the_gradient_of_a_learned_prior(self):
        chain = LinearChain()
        simulation = Programs(chain.model).simulate(chain.simulate(3), 4)
        assert simulation.latents["v"].requires_grad
        assert simulation.untrained == frozenset()

    def test_a_learned_prior_without_pathwise_draws_is_told(self):
        logits = torch.zeros(3, requires_grad=True)

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(logits=logits))
                z = pyro.sample("z", normal(torch.zeros(3)))
                pyro.sample("x", normal(z), obs=x)

        assert Programs(model).simulate(X).untrained == {"k"}
        logits.requires_grad_(False)
        assert Programs(model).simulate(X).untrained == frozenset()

    def test_with_a_guide_its_density_of_simulated_data(self):
        """log q(z|x) at pairs (z, x) that the model drew, each with its own x."""
        seen = []
        shift = torch.tensor(0.3, requires_grad=True)

        def guide(x):
            seen.append(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(x[:, :2] + shift, 0.5))

        simulation = Programs(z_model, guide).simulate(X, 4)
        (rows,) = seen
        z = simulation.latents["z"]
        assert rows.shape == (20, 3)
        assert (z.shape, simulation.log_guide.shape) == ((4, 5, 2), (4, 5))
        expected = normal(rows[:, :2] + shift, 0.5).log_prob(z.flatten(0, 1)).reshape(4, 5)
        torch.testing.assert_close(simulation.log_guide, expected)
        # The rows go with their z: x is around the sum of z.
        off = rows - z.flatten(0, 1).sum(-1, keepdim=True)
        assert off.abs().max() < 5
        assert not z.requires_grad
        assert torch.autograd.grad(simulation.log_guide.sum(), [shift])[0] != 0

    def test_the_model_gets_no_gradient_from_the_guides_density(self):
        chain = LinearChain()
        simulation = Programs(chain.model, chain.rough).simulate(chain.simulate(3), 4)
        assert not any(z.requires_grad for z in simulation.latents.values())

    def test_data_are_drawn_anew_whatever_x(self):
        torch.manual_seed(0)
        first = Programs(z_model, z_guide).simulate(X, 4)
        torch.manual_seed(0)
        second = Programs(z_model, z_guide).simulate(X + 50, 4)
        assert torch.equal(first.log_guide, second.log_guide)

    def test_inner_plates(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
                pyro.sample("w", dist.Normal(torch.zeros(2, 1), 1.0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", normal(torch.zeros(3)), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
                pyro.sample("w", dist.Normal(x[:, 0], 1.0))

        torch.manual_seed(0)
        simulation = Programs(model, guide, max_plate_nesting=2).simulate(X, 4)
        assert simulation.latents["w"].shape == (4, 2, 5)
        assert simulation.log_guide.shape == (4, 5)
        torch.manual_seed(0)
        w = torch.randn(4, 2, 5)
        x = torch.randn(4, 1, 5, 3)
        torch.testing.assert_close(simulation.latents["w"], w)
        expected = torch.distributions.Normal(x[..., 0], 1.0).log_prob(w).sum(1)
        torch.testing.assert_close(simulation.log_guide, expected)

    def test_what_the_guide_cannot_see_is_refused(self):
        def two(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("left", normal(z[..., :1]), obs=x[:, :1])
                pyro.sample("right", normal(z), obs=x[:, 1:])

        def other_shape(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("x", normal(z), obs=x[:, :2])

        for model, listed in ((two, "'left': .*'right': "), (other_shape, r"'x': \(5, 2\)")):
            with pytest.raises(ValueError, match=rf"of the shape of x, \(5, 3\).*{listed}"):
                Programs(model, z_guide).simulate(X)
            assert Programs(model).simulate(X).latents["z"].shape == (1, 5, 2)


class TestScales:
    def test_densities_are_unscaled_and_the_scale_recorded(self):
        torch.manual_seed(0)
        plain = draw_particles(z_model, z_guide, X, 4)
        torch.manual_seed(0)
        scaled = draw_particles(
            poutine.scale(z_model, scale=2.5), poutine.scale(z_guide, scale=2.5), X, 4
        )
        assert scaled.scale == 2.5
        assert torch.equal(plain.log_weight, scaled.log_weight)
        assert torch.equal(plain.log_likelihood, scaled.log_likelihood)

    def test_a_subsampled_plate_draws_once_for_model_and_guide(self):
        seen = []

        def model(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                z = pyro.sample("z", normal(torch.zeros(2)))
                mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
                pyro.sample("x", normal(mean), obs=x[rows])
                seen.append(rows)

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                pyro.sample("z", normal(x[rows, :2], 0.5))
                seen.append(rows)

        particles = draw_particles(model, guide, X, 4)
        assert torch.equal(*seen)
        assert particles.scale == 2.5
        assert particles.log_weight.shape == (4, 2)
        expected = hand_weight(particles.latents["z"], X[seen[0]])
        torch.testing.assert_close(particles.log_weight, expected)

    def test_different_scales_name_the_sites(self):
        def programs(*scaled):
            def part(name, **kwargs):
                scale = 0.5 if name in scaled else 1.0
                with pyro.plate("data", len(X)), poutine.scale(scale=scale):
                    pyro.sample(name[-1], normal(torch.zeros(2)), **kwargs)

            def model(x):
                part("model z")
                part("model x", obs=x[:, :2])

            return model, lambda x: part("guide z")

        for scaled in (["model z"], ["guide z"], ["model z", "guide z"], ["model x"]):
            with pytest.raises(ValueError, match=r"sites '[xz]' of the .* have different scales"):
                draw_particles(*programs(*scaled), X)
        assert draw_particles(*programs("model z", "model x", "guide z"), X).scale == 0.5

    def test_a_tensor_scale(self):
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        particles = draw_particles(
            poutine.scale(z_model, scale=scale), poutine.scale(z_guide, scale=scale), X, 4
        )
        assert torch.equal(particles.scale, scale)
        other = poutine.scale(z_guide, scale=2 * scale)
        with pytest.raises(ValueError, match="different scales"):
            draw_particles(poutine.scale(z_model, scale=scale), other, X)


class TestPlatesAndMasks:
    @staticmethod
    def inner_model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("features", 3, dim=-2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w, 0.5), obs=x.T)

    @staticmethod
    def inner_guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("features", 3, dim=-2):
            pyro.sample("w", dist.Normal(x.T, 0.7))

    def test_inner_plates_are_summed(self):
        particles = draw_particles(self.inner_model, self.inner_guide, X, 4)
        w = particles.latents["w"]
        assert w.shape == (4, 3, 5)
        N = torch.distributions.Normal
        site = N(0.0, 1.0).log_prob(w) + N(w, 0.5).log_prob(X.T) - N(X.T, 0.7).log_prob(w)
        torch.testing.assert_close(particles.log_weight, site.sum(1))

    def test_a_site_outside_the_inner_plate(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                u = pyro.sample("u", dist.Normal(0.0, 1.0))
                with pyro.plate("features", 3, dim=-2):
                    pyro.sample("x", dist.Normal(u, 0.5), obs=x.T)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("u", dist.Normal(x.mean(1), 0.7))

        particles = draw_particles(model, guide, X, 4)
        assert particles.log_prior["u"].shape == (4, 5)
        u = particles.latents["u"]
        N = torch.distributions.Normal
        likelihood = N(u, 0.5).log_prob(X.T).sum(1)
        expected = likelihood + (N(0.0, 1.0).log_prob(u) - N(X.mean(1), 0.7).log_prob(u)).sum(1)
        torch.testing.assert_close(particles.log_weight, expected)

    def test_undeclared_inner_plates_are_an_error(self):
        with pytest.raises(PlateNestingError, match="max_plate_nesting=2"):
            Programs(self.inner_model, self.inner_guide).draw(X, 4)

    def test_masked_sites(self):
        mask = torch.tensor([True, False, True, True, False])
        torch.manual_seed(0)
        plain = draw_particles(z_model, z_guide, X, 4)
        torch.manual_seed(0)
        masked = draw_particles(
            poutine.mask(z_model, mask=mask), poutine.mask(z_guide, mask=mask), X, 4
        )
        assert torch.equal(masked.log_weight, plain.log_weight * mask)
        assert masked.masked == {"z"}

    @pytest.mark.parametrize(
        "masks",
        [
            (None, False),
            (torch.tensor([True, False, True, True, False]), None),
            (torch.tensor([True, False, True, True, False]), True),
            (torch.tensor([True, True, True, True, False]), torch.tensor(True)),
        ],
        ids=str,
    )
    def test_a_mask_of_one_program(self, masks):
        """Without log q(z) alone, a draw would be weighed by p(x, z), however it was drawn."""
        programs = [
            program if mask is None else poutine.mask(program, mask=mask)
            for program, mask in zip((z_model, z_guide), masks, strict=True)
        ]
        with pytest.raises(ValueError, match="site 'z' is under another mask in the guide"):
            draw_particles(*programs, X, 4)

    def test_masks_that_are_equal_by_value(self):
        masks = torch.ones(5, dtype=torch.bool), True
        programs = [
            poutine.mask(program, mask=mask)
            for program, mask in zip((z_model, z_guide), masks, strict=True)
        ]
        assert draw_particles(*programs, X, 4).masked == {"z"}

    def test_masked_observations_may_be_missing(self):
        seen = torch.tensor([[True, True, False]]).expand(5, 3)
        x = torch.where(seen, X, torch.zeros(()))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
                pyro.sample("x", dist.Normal(mean, 1.0).mask(seen).to_event(1), obs=x)

        particles = draw_particles(model, z_guide, x, 4)
        mean = particles.latents["z"].sum(-1, keepdim=True)
        expected = torch.distributions.Normal(mean, 1.0).log_prob(x)[..., :2].sum(-1)
        torch.testing.assert_close(particles.log_likelihood, expected)
        assert particles.masked == frozenset()


def run_model(*sites):
    """A model of the statements in ``sites``, inside a data plate."""

    def program(x):
        with pyro.plate("data", len(x)):
            for site in sites:
                site(x)

    return program


def latent(name, fn=None):
    return lambda x: pyro.sample(name, fn or normal(torch.zeros(2)))


def observe(x):
    pyro.sample("x", normal(torch.zeros(3)), obs=x)


class TestErrors:
    """Each names the site, and leaves nothing behind on Pyro's stack (a fixture looks)."""

    def test_no_particles(self):
        with pytest.raises(ValueError, match="num_particles must be 1 or more, got 0"):
            draw_particles(z_model, z_guide, X, 0)

    def test_outside_the_data_plate_in_the_model(self):
        def model(x):
            pyro.sample("global", normal(torch.zeros(2)))
            z_model(x)

        def guide(x):
            pyro.sample("global", normal(torch.zeros(2)))
            z_guide(x)

        with pytest.raises(ValueError, match="site 'global' stands outside the data plate"):
            draw_particles(model, guide, X)

    def test_outside_the_data_plate_in_the_guide(self):
        def guide(x):
            pyro.sample("z", normal(x[:, :2]))

        with pytest.raises(ValueError, match="site 'z' stands outside the data plate"):
            draw_particles(z_model, guide, X)

    def test_observed_outside_the_data_plate(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(torch.zeros(2)))
            pyro.sample("x", normal(torch.zeros(3)), obs=x)

        with pytest.raises(ValueError, match="site 'x' stands outside the data plate"):
            draw_particles(model, z_guide, X)

    def test_a_sequential_plate_is_no_data_plate(self):
        def model(x):
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"x{i}", normal(torch.zeros(3)), obs=x[i])

        with pytest.raises(ValueError, match="site 'x0' stands outside the data plate"):
            draw_particles(model, lambda x: None, X)

    def test_guide_misses_a_latent(self):
        model = run_model(latent("z"), latent("forgotten"), observe)
        with pytest.raises(ValueError, match="guide misses the model's latent site 'forgotten'"):
            draw_particles(model, z_guide, X)

    def test_guide_has_a_site_too_many(self):
        guide = run_model(latent("z"), latent("extra"))
        with pytest.raises(ValueError, match="'extra' is not a latent site of the model"):
            draw_particles(z_model, guide, X)

    def test_guide_samples_what_the_model_observes(self):
        guide = run_model(latent("z"), latent("x", normal(torch.zeros(3))))
        with pytest.raises(ValueError, match="'x' is not a latent site of the model"):
            draw_particles(z_model, guide, X)

    def test_observed_in_the_guide(self):
        with pytest.raises(ValueError, match="guide site 'x' is observed"):
            draw_particles(z_model, run_model(latent("z"), observe), X)

    def test_nothing_observed(self):
        with pytest.raises(ValueError, match=r"the model observes nothing: .*obs=x"):
            draw_particles(run_model(latent("z")), z_guide, X)

    @pytest.mark.parametrize("where", ["model", "guide"])
    def test_the_same_name_twice(self, where):
        twice = run_model(latent("z"), latent("z"), *([observe] if where == "model" else []))
        pair = (twice, z_guide) if where == "model" else (z_model, twice)
        with pytest.raises(ValueError, match="site 'z' occurs twice"):
            draw_particles(*pair, X)

    def test_data_plates_of_different_sizes(self):
        def guide(x):
            with pyro.plate("one", 1):
                pyro.sample("z", normal(torch.zeros(2)))

        with pytest.raises(ValueError, match="size of the data plate: 'z' of the guide 1, 'z' of"):
            draw_particles(z_model, guide, X)

    def test_no_to_event_in_the_model(self):
        model = run_model(latent("z", dist.Normal(torch.zeros(5), 1.0).expand([5])), observe)
        guide = run_model(latent("z", dist.Normal(torch.zeros(5), 1.0)))
        draw_particles(model, guide, X)  # as many latents as data: legal, one for each datum

        def no_event(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0))

        with pytest.raises(ValueError, match="at site z dim -1"):
            draw_particles(run_model(latent("z"), observe), no_event, X)

    def test_no_to_event_on_the_observation(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("x", dist.Normal(torch.zeros(3), 1.0), obs=x)

        with pytest.raises(ValueError, match="at site x dim -1"):
            draw_particles(model, z_guide, X)

    def test_a_square_batch_without_to_event_is_caught(self):
        # (5, 5) broadcasts silently: each value would be taken for a datum of its own.
        x = torch.randn(5, 5)

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("x", dist.Normal(torch.zeros(5), 1.0), obs=x)

        with pytest.raises(ValueError, match=r"site 'x' has log-densities of shape \(5, 5\)"):
            draw_particles(model, z_guide, x)

    def test_an_observed_vector_in_place_of_a_matrix_broadcasts_to_no_error_unseen(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x[:, 0])

        assert draw_particles(model, z_guide, X, 3).log_likelihood.shape == (3, 5)


class BadDensity(dist.Normal):
    """A normal whose log-density of the second datum is what it is told."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.real}  # noqa: RUF012
    bad = float("nan")

    def log_prob(self, value):
        log_prob = super().log_prob(value).clone()
        log_prob[..., 1] = self.bad
        return log_prob

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, _instance or type(self).__new__(type(self)))


class TestNonFinite:
    @pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
    @pytest.mark.parametrize("where", ["prior", "guide", "likelihood"])
    def test_is_an_error_that_names_the_site(self, where, value):
        kind = type("Bad", (BadDensity,), {"bad": float(value)})

        def site(name, part, **kwargs):
            pyro.sample(name, (kind if part == where else dist.Normal)(0.0, 1.0), **kwargs)

        def model(x):
            with pyro.plate("data", len(x)):
                site("z", "prior")
                site("x", "likelihood", obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x)):
                site("z", "guide")

        place = {"prior": "site 'z' of the model", "guide": "site 'z' of the guide"}.get(
            where, "observed site 'x'"
        )
        with pytest.raises(ValueError, match=rf"log-density {value} at {place} \(datum 1 of"):
            draw_particles(model, guide, X, 3)
        particles = draw_particles(model, guide, X, 3, check_finite=False)
        assert not particles.log_weight[:, 1].isfinite().any()
        assert particles.log_weight[:, [0, 2, 3, 4]].isfinite().all()


class TestPyrosState:
    def test_an_error_in_a_program_leaves_no_handler(self):
        def fails(x):
            with pyro.plate("data", len(x)):
                raise KeyboardInterrupt

        for pair in ((fails, z_guide), (z_model, fails)):
            with pytest.raises(KeyboardInterrupt):
                draw_particles(*pair, X)
        assert draw_particles(z_model, z_guide, X, 3).log_weight.shape == (3, 5)

    def test_the_store_and_the_random_state_are_touched_by_the_programs_only(self):
        state = torch.get_rng_state()
        draw_particles(z_model, z_guide, X, 3)
        torch.set_rng_state(state)
        vae = binary_vae()
        with contextlib.suppress(ValueError):
            draw_particles(vae.model, z_guide, binary_data())
        assert dict(pyro.get_param_store().items()) == {}

    def test_runs_inside_other_handlers(self):
        with poutine.trace() as recorded, pyro.plate("outer", 1, dim=-3):
            pass
        assert recorded.trace is not None
        with poutine.block():
            assert draw_particles(z_model, z_guide, X, 3).log_weight.shape == (3, 5)


class TestSizes:
    """Prior, decoder, guide and data of other sizes than each other: one line, which says which."""

    X = torch.zeros(6, 3)

    def vae(self, latent=2, drawn=4, features=3):
        return VAE(
            StandardNormalPrior(latent),
            BernoulliDecoder(MLP(2, (4,), features)),
            DiagonalNormalEncoder(MLP(3, (4,), drawn)),
        )

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"features": 5}, r"^site 'x' is of shape \(5,\), and its data are of shape \(3,\)"),
            ({"features": 1}, r"of shape \(3,\): .* as by \.expand\(\[\.\.\., 3\]\) before"),
            ({"latent": 3}, r"(site 'z' is of shape \(2,\) in the guide and of .*3,)|given 3"),
            ({"drawn": 3}, "needs 2 outputs of its network for each latent dimension, got 3"),
            ({"drawn": 6}, "a layer of 2 inputs was given 3"),
        ],
        ids=str,
    )
    def test_one_line(self, sizes, message):
        vae = self.vae(**sizes)
        for run in (
            lambda: fit(vae.model, vae.guide, ELBO(), self.X, epochs=1, progress=False),
            lambda: ImportanceSampling(4)(vae.model, vae.guide, self.X),
        ):
            with pytest.raises(ValueError, match=message) as error:
                run()
            assert "\n" not in str(error.value)

    def test_data_without_a_dimension_of_their_own(self):
        """Broadcast, every datum would be given all data."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

        with pytest.raises(ValueError, match=r"'x' is of shape \(1,\).*obs=x.unsqueeze\(-1\)"):
            ImportanceSampling(4)(model, guide, self.X)

    @pytest.mark.parametrize("drawn", [(), (3,)])
    def test_a_latent_of_another_shape_in_the_guide(self, drawn):
        """log p(z) would be of the guide's latent, draws from the prior of another."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x), *drawn), 1.0).to_event(len(drawn)))

        with pytest.raises(
            ValueError, match=r"'z' is of shape .* and of shape \(1,\) in the model"
        ):
            draw_particles(model, guide, self.X)

    def test_other_data_than_the_batch(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=self.X)

        with pytest.raises(ValueError, match=r"given \d+ rows of data where its plate has 2: give"):
            ImportanceSampling(4)(model, z_guide, self.X[:2])

    def test_a_dimension_too_many_in_an_event(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(torch.zeros(2)))
                mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

        with pytest.raises(ValueError, match=r"'data'\) at site x .* the dimensions of one datum"):
            ImportanceSampling(4)(model, z_guide, self.X)

    @pytest.mark.parametrize(
        "estimator", [AutomaticSampling(), AnnealedImportanceSampling(4)], ids=type
    )
    def test_a_prior_of_another_type(self, estimator):
        class Prior(nn.Module):
            def forward(self):
                return dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)

        vae = VAE(Prior(), self.vae().decoder, self.vae().encoder)
        with pytest.raises(TypeError, match=r"'z' draws in torch\.float64 where the data"):
            estimator(vae.model, vae.guide, self.X)

    def test_a_distribution_of_torch(self):
        class Prior(nn.Module):
            def forward(self):
                return torch.distributions.Normal(torch.zeros(2), 1.0)

        vae = VAE(Prior(), self.vae().decoder, self.vae().encoder)
        with pytest.raises(TypeError, match=r"^the prior returned .*from pyro\.distributions\.$"):
            ImportanceSampling(4)(vae.model, vae.guide, self.X)

    def test_data_are_not_counted_twice(self):
        vae = self.vae()
        with pytest.raises(ValueError, match=r"of shape \(3,\), and its data are of shape \(1,\)"):
            draw_particles(vae.model, lambda x: vae.guide(self.X), self.X[:, :1])
