"""Log-densities of unconstrained latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain
from significance import mean_of
from torch.autograd.functional import jacobian

from ppl_vae.evidence import AnnealedImportanceSampling
from ppl_vae.particles import LatentDensity, Programs, draw_particles

from .cases import MODEL, VAE, Positive, X, density_of, run

POSITIVE = Positive()
CHAIN = LinearChain()


class Plated:
    """A plate of three beside the data plate, and two sites of which one stands in it."""

    x = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)

    def model(self, x):
        zero = torch.zeros((), dtype=x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(zero.expand(2), 1.0).to_event(1))
            with pyro.plate("groups", 3, dim=-2):
                b = pyro.sample("b", dist.LogNormal(a.sum(-1), 1.0))
            pyro.sample(
                "x", dist.Normal(a * b.sum(-2, keepdim=True).unsqueeze(-1), 1.0).to_event(1), obs=x
            )

    def guide(self, x):
        zero = torch.zeros((), dtype=x.dtype)
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("groups", 3, dim=-2):
                pyro.sample("b", dist.LogNormal(zero, 0.5))
            pyro.sample("a", dist.Normal(x, 0.5).to_event(1))


CHAINED = Programs(CHAIN.model, CHAIN.rough)


class TestValues:
    def test_are_those_of_particles(self):
        """Where nothing is transformed, for one site and for two that depend on each other."""
        for model, guide, x in (
            (VAE.model, VAE.guide, X),
            (CHAIN.model, CHAIN.bottom_up, CHAIN.simulate(5)),
        ):
            density = LatentDensity(Programs(model, guide), x, 3)
            particles = draw_particles(model, guide, x, 3)
            found = density(density.pack(particles.latents))
            torch.testing.assert_close(found.prior, particles.log_latent_prior)
            torch.testing.assert_close(found.likelihood, particles.log_likelihood)
            torch.testing.assert_close(found.guide, particles.log_proposal)

    def test_unpacking_undoes_packing(self):
        for programs, x in ((POSITIVE, POSITIVE.x), (Plated(), Plated.x)):
            density = density_of(programs, x)
            particles = draw_particles(programs.model, programs.guide, x, 3)
            u = density.pack(particles.latents)
            assert u.shape == (3, len(x), density.dim)
            for name, value in density.unpack(u).items():
                torch.testing.assert_close(value, particles.latents[name])

    def test_densities_are_per_volume_of_u(self):
        """The volume by the Jacobian of z(u), taken numerically by autograd."""
        density = density_of(POSITIVE, POSITIVE.x)
        particles = draw_particles(POSITIVE.model, POSITIVE.guide, POSITIVE.x, 3)
        u = density.pack(particles.latents)
        found = density(u)

        def free_coordinates(row):
            z = density.unpack(row.expand(3, len(POSITIVE.x), -1))
            # A point of the simplex has one coordinate less than entries.
            return torch.cat([z["z"][1, 2], z["p"][1, 2, :-1], z["t"][1, 2]])

        volume = torch.linalg.slogdet(jacobian(free_coordinates, u[1, 2])).logabsdet
        torch.testing.assert_close(
            found.prior[1, 2], particles.log_latent_prior[1, 2] + volume, rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(
            found.guide[1, 2], particles.log_proposal[1, 2] + volume, rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(found.likelihood, particles.log_likelihood)

    def test_plates_beside_the_data(self):
        plated = Plated()
        density = density_of(plated, plated.x)
        particles = draw_particles(plated.model, plated.guide, plated.x, 3)
        found = density(density.pack(particles.latents))
        volume = particles.latents["b"].log().sum(-2)
        assert density.dim == 5
        torch.testing.assert_close(found.prior, particles.log_latent_prior + volume)
        torch.testing.assert_close(found.guide, particles.log_proposal + volume)
        torch.testing.assert_close(found.likelihood, particles.log_likelihood)

    def test_chains_and_data_do_not_touch(self):
        density = density_of(CHAINED, CHAIN.simulate(4))
        u = torch.randn(3, 4, density.dim, dtype=torch.float64, requires_grad=True)
        total = sum(density(u))
        (together,) = torch.autograd.grad(total.sum(), u, retain_graph=True)
        (alone,) = torch.autograd.grad(total[1, 2], u)
        torch.testing.assert_close(alone[1, 2], together[1, 2])
        alone[1, 2] = 0
        assert not alone.any()


class TestDraws:
    @pytest.mark.parametrize("programs", [POSITIVE, Plated()], ids=["positive", "plated"])
    def test_have_the_spread_of_their_density(self, programs, significance):
        """E_q[p / (p + q)] = E_p[q / (p + q)], of bounded terms."""
        density = density_of(programs, programs.x[:1], 20_000)
        with torch.no_grad():
            from_guide, from_prior = density(density.draw_guide()), density(density.draw_prior())
        under_guide = torch.special.expit(from_guide.prior - from_guide.guide)
        under_prior = torch.special.expit(from_prior.guide - from_prior.prior)
        significance.require_equal(mean_of(under_guide), mean_of(under_prior))


class TestRefusals:
    def test_discrete_latents(self):
        def model(x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("x", dist.Normal(k, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))

        with pytest.raises(ValueError, match=r"'k' is discrete.*ImportanceSampling.*Enumeration"):
            AnnealedImportanceSampling(2, 2, 1)(model, guide, torch.zeros(3))

    def test_a_guide_on_another_support(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.full((1,), 9.0).double(), 0.1).to_event(1))
                pyro.sample("p", dist.Dirichlet(torch.ones(3, dtype=torch.float64)))
                pyro.sample("t", dist.Uniform(-POSITIVE.one, 2 * POSITIVE.one).to_event(1))

        with pytest.raises(ValueError, match="guide site 'z' has support"):
            density_of(Programs(POSITIVE.model, guide), POSITIVE.x)

    def test_a_support_that_moves(self):
        def model(x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
                b = pyro.sample("b", dist.Uniform(a, a + 10))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("b", dist.Uniform(a, a + 10))

        with pytest.raises(ValueError, match=r"support of latent site 'b' changes|guide site 'b'"):
            density_of(Programs(model, guide), torch.zeros(4))

    def test_subsampling(self):
        def model(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=2):
                pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

        with pytest.raises(ValueError, match="plate 'data' subsamples"):
            density_of(Programs(model, guide), torch.zeros(4))

    def test_data_that_cannot_be_simulated(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x[:, 0])
                pyro.sample("y", dist.Normal(z[..., 1], 1.0), obs=x[:, 1])

        with pytest.raises(ValueError, match="observes one site of the shape of x"):
            Programs(model).simulate_data(torch.zeros(4, 2))


def test_simulated_data_and_latents_belong_together():
    latents, x = Programs(MODEL.vae().model).simulate_data(X.new_zeros(4000, 4))
    error = x - latents["z"][0] @ MODEL.weight.detach().T - MODEL.bias.detach()
    assert x.shape == (4000, 4)
    # Were they strangers, the variance would have that of W z on top.
    assert error.var() < 2 * MODEL.noise_scale**2 < x.var()


def test_validation_is_on_again_afterwards():
    before = pyro.distributions.is_validation_enabled()
    run(AnnealedImportanceSampling(2, 2, 1))
    assert pyro.distributions.is_validation_enabled() is before
