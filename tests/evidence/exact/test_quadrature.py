"""Quadrature against closed forms and brute-force sums, where the posterior is awkward too."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate

from ppl_vae.evidence import AutomaticSampling, ImportanceSampling, Quadrature
from ppl_vae.evidence.exact import _quadrature as quadrature
from ppl_vae.evidence.exact._joint import SiteCoordinates, find_modes
from ppl_vae.evidence.exact._quadrature import AdaptiveIntegral
from ppl_vae.evidence.exact._rules import hermite_nodes
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import PoissonDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.particles import NonFiniteDensityError
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.vae import VAE

ONE = torch.ones((), dtype=torch.float64)


def wide(latent, loc=0.3, scale=0.8):
    """A guide that knows nothing of x."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((loc * ONE).expand(latent), scale).to_event(1))

    return guide


def wide_scalar(x):
    """The same for a latent without dimensions."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * ONE, ONE))


def below_exp(x):
    """x ~ Uniform(0, exp z): impossible below z = log x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0 * ONE, ONE))
        pyro.sample("x", dist.Uniform(0 * z, z.exp()), obs=x)


def of_decoder(decoder, latent):
    """The model of a decoder under a standard normal prior, float64."""
    return VAE(StandardNormalPrior(latent).double(), decoder, decoder).model


def agrees_within_its_error(evidence, exact, tolerance):
    """At the tolerance, by the evidence's own account and in truth."""
    assert evidence.direction == "exact"
    assert evidence.standard_error.max() <= tolerance
    assert (evidence.log_prob - exact).abs().max() <= tolerance


def log_integral(log_density, low, high, number=200_001):
    """By the trapezoidal rule in one dimension: ``log_density`` of (number, 1) is (number, B)."""
    z = torch.linspace(low, high, number, dtype=torch.float64).unsqueeze(-1)
    values = log_density(z)
    values[[0, -1]] -= math.log(2)
    return torch.logsumexp(values, 0) + math.log((high - low) / (number - 1))


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 4, 40])
def test_nodes_integrate_gaussian_moments(order, dim):
    t, log_weight = hermite_nodes(order, dim)
    density = dist.Normal(0.0, 1.0).log_prob(t).sum(-1)
    mass = (log_weight + density).exp()
    torch.testing.assert_close(mass.sum(), ONE)
    if order > 1:
        torch.testing.assert_close((mass.unsqueeze(-1) * t**2).sum(0), torch.ones_like(t[0]))
        torch.testing.assert_close((mass.unsqueeze(-1) * t**4).sum(0), 3 * torch.ones_like(t[0]))


class TestClosedForms:
    @pytest.mark.parametrize("latent", [1, 2, 3])
    @pytest.mark.parametrize("noise", [1.0, 0.01])
    def test_linear_gaussian(self, latent, noise):
        model = LinearGaussian.random(5, latent, noise, seed=1)
        x = model.simulate(20)
        evidence = Quadrature(tolerance=1e-8)(model.vae().model, wide(latent), x)
        agrees_within_its_error(evidence, model.log_evidence(x).detach(), 1e-8)

    def test_two_sites(self):
        chain = LinearChain(top=1, middle=2)
        x = chain.simulate(10)
        evidence = Quadrature(tolerance=1e-8)(chain.model, chain.rough, x)
        agrees_within_its_error(evidence, chain.log_evidence(x).detach(), 1e-8)

    def test_constrained_latents(self):
        """A Gamma rate of a Poisson count and a Beta chance of a coin have closed forms."""

        def model(x):
            with pyro.plate("data", len(x)):
                rate = pyro.sample("rate", dist.Gamma(2.5 * ONE, 0.7 * ONE))
                chance = pyro.sample("chance", dist.Beta(2 * ONE, 0.8 * ONE))
                pyro.sample("count", dist.Poisson(rate), obs=x[:, 0])
                pyro.sample("coin", dist.Bernoulli(chance), obs=x[:, 1])

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("rate", dist.Gamma(2 * ONE, 1 * ONE))
                pyro.sample("chance", dist.Beta(1 * ONE, 1 * ONE))

        counts = torch.tensor([0.0, 1.0, 7.0, 40.0], dtype=torch.float64)
        x = torch.stack([counts, (counts > 1).double()], -1)
        exact = dist.GammaPoisson(2.5 * ONE, 0.7 * ONE).log_prob(counts)
        exact = exact + torch.where(x[:, 1] > 0, 2 / 2.8, 0.8 / 2.8).log()
        agrees_within_its_error(Quadrature(tolerance=1e-7)(model, guide, x), exact, 1e-7)

    def test_simplex(self):
        alpha = torch.tensor([1.5, 2.0, 0.9], dtype=torch.float64)

        def model(x):
            with pyro.plate("data", len(x)):
                p = pyro.sample("p", dist.Dirichlet(alpha))
                pyro.sample("x", dist.Multinomial(probs=p, validate_args=False), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("p", dist.Dirichlet(torch.ones_like(alpha)))

        x = torch.tensor([[3.0, 0.0, 1.0], [0.0, 0.0, 0.0], [2.0, 9.0, 4.0]], dtype=torch.float64)
        total = x.sum(-1)
        exact = torch.stack(
            [
                dist.DirichletMultinomial(alpha, n).log_prob(row)
                for n, row in zip(total, x, strict=True)
            ]
        )
        agrees_within_its_error(Quadrature(tolerance=1e-7)(model, guide, x), exact, 1e-7)

    def test_plates_left_of_the_data(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.plate("pair", 2, dim=-2):
                    z = pyro.sample("z", dist.Normal(0 * ONE, 1 * ONE))
                loc = torch.stack([z[..., 0, :], z[..., 1, :]], -1)
                loc = loc if loc.dim() == x.dim() else loc.unsqueeze(-3)
                pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("pair", 2, dim=-2):
                pyro.sample("z", dist.Normal(0 * ONE, 1 * ONE))

        x = torch.randn(5, 2, dtype=torch.float64)
        exact = dist.Normal(0 * ONE, (1.25 * ONE).sqrt()).log_prob(x).sum(-1)
        evidence = Quadrature(tolerance=1e-8)(model, guide, x)
        agrees_within_its_error(evidence, exact, 1e-8)


class TestAwkwardPosteriors:
    def test_bernoulli_decoder_against_a_fine_grid(self):
        vae, x = binary_vae().double(), binary_data(12).double()
        side = torch.linspace(-9, 9, 601, dtype=torch.float64)
        z = torch.cartesian_prod(side, side)
        with torch.no_grad():
            joint = vae.prior().log_prob(z).unsqueeze(-1) + vae.decoder(z.unsqueeze(1)).log_prob(x)
        exact = torch.logsumexp(joint, 0) + 2 * math.log(18 / 600)
        evidence = Quadrature(tolerance=1e-8)(vae.model, vae.guide, x)
        agrees_within_its_error(evidence, exact, 1e-8)

    @pytest.mark.parametrize("latent", [1, 2, 3])
    @pytest.mark.parametrize("noise", [0.2, 0.01])
    def test_mirrored_modes(self, latent, noise):
        """x ~ z^2: 2^latent modes, of which the guide sees one."""
        model = of_decoder(lambda z: dist.Normal(z**2, noise).to_event(1), latent)
        x = torch.tensor([1.0, 4.0], dtype=torch.float64)

        def joint(z):
            return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, noise).log_prob(x)

        guide = wide(latent, loc=1.5, scale=0.3)
        evidence = Quadrature(tolerance=1e-6)(model, guide, x.unsqueeze(-1).expand(-1, latent))
        agrees_within_its_error(evidence, latent * log_integral(joint, -6, 6), 1e-6)

    @pytest.mark.parametrize("frequency", [2.0, 10.0, 50.0])
    def test_many_modes_with_valleys_between(self, frequency):
        """x ~ sin(f z): more modes than ascents, the last ones further out than all draws."""
        model = of_decoder(lambda z: dist.Normal((frequency * z).sin(), 0.1).to_event(1), 1)
        x = torch.tensor([[0.0], [0.5], [0.9], [1.0], [1.2]], dtype=torch.float64)

        def joint(z):
            seen = dist.Normal((frequency * z).sin(), 0.1 * ONE).log_prob(x.squeeze(-1))
            return dist.Normal(0.0, ONE).log_prob(z) + seen

        evidence = Quadrature(tolerance=1e-6)(model, wide(1), x)
        agrees_within_its_error(evidence, log_integral(joint, -9, 9), 1e-6)

    @pytest.mark.parametrize("latent", [2, 3])
    @pytest.mark.parametrize("noise", [1.0, 0.2])
    def test_a_ring_and_a_sphere(self, latent, noise):
        """x depends on |z|^2 alone: the modes are a curve or a surface, and no Gaussian."""

        def decoder(z):
            return dist.Normal(z.square().sum(-1, keepdim=True), noise).to_event(1)

        x = torch.tensor([0.3, 3.0], dtype=torch.float64)
        chi2 = torch.distributions.Chi2(latent * ONE)

        def joint(root):
            """Over the root of |z|^2, so that the density is smooth at 0."""
            volume = chi2.log_prob(root**2) + (2 * root).log()
            return volume + dist.Normal(root**2, noise).log_prob(x)

        exact = log_integral(joint, 1e-12, 6)
        evidence = Quadrature(tolerance=1e-5, max_nodes=2**21)(
            of_decoder(decoder, latent), wide(latent), x.unsqueeze(-1)
        )
        agrees_within_its_error(evidence, exact, 1e-5)

    def test_a_small_far_mode_beside_a_large_one(self):
        """A prior of two parts 12 apart, of which one holds a thousandth."""
        mixture = dist.Categorical(torch.tensor([0.999, 0.001], dtype=torch.float64))
        parts = dist.Normal(torch.tensor([0.0, 12.0], dtype=torch.float64), 0.5 * ONE)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.MixtureSameFamily(mixture, parts))
                pyro.sample("x", dist.Normal(0.1 * z, 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(6 * ONE, 6 * ONE))

        x = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
        component = dist.Normal(0.1 * parts.mean, (0.0025 * ONE + 1).sqrt()).log_prob(x)
        exact = torch.logsumexp(component + mixture.probs.log(), -1)
        agrees_within_its_error(Quadrature(tolerance=1e-8)(model, guide, x), exact, 1e-8)

    def test_a_kink_is_stated_with_its_error(self):
        """|z| has no derivative at 0: rules converge slowly, and say so."""
        model = of_decoder(lambda z: dist.Normal(z.abs(), 1.0).to_event(1), 2)
        x = torch.tensor([[0.2, 1.0], [2.5, 0.0]], dtype=torch.float64)

        def joint(z, x):
            return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs(), 1.0).log_prob(x)

        # An even number of intervals, so that the kink is a node.
        exact = sum(log_integral(lambda z, i=i: joint(z, x[:, i]), -8, 8) for i in range(2))
        evidence = Quadrature(tolerance=1e-9)(model, wide(2), x)
        assert evidence.direction == "consistent"
        assert "2 of 2 data above the tolerance of 1e-09" in str(evidence)
        assert evidence.standard_error.min() > 1e-9
        assert ((evidence.log_prob - exact).abs() <= evidence.standard_error).all()

    def test_where_the_model_gives_no_number_there_is_no_mass(self):
        """x ~ log z: not a number for z < 0, and starts of the prior stand there."""

        def decoder(z):
            return dist.Normal(z.log(), 0.5, validate_args=False).to_event(1)

        x = torch.tensor([0.1, 0.9], dtype=torch.float64)
        model = of_decoder(decoder, 1)

        def joint(z):
            return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.log(), 0.5).log_prob(x)

        exact = log_integral(joint, 1e-9, 9)
        evidence = Quadrature(tolerance=1e-6)(model, wide(1, 3.0, 0.1), x.unsqueeze(-1))
        agrees_within_its_error(evidence, exact, 1e-6)

    @pytest.mark.parametrize("guide", [wide_scalar, None])
    @pytest.mark.parametrize("estimator", [Quadrature(), AutomaticSampling()], ids=repr)
    def test_a_likelihood_of_0_below_a_jump(self, estimator, guide):
        """p(x) = integral of phi(z) exp(-z) over z > log x = exp(1/2) (1 - Phi(log x + 1))."""
        x = torch.tensor([1.0, 0.05, 0.5, 2.0, 6.0], dtype=torch.float64)
        exact = 0.5 + torch.special.log_ndtr(-x.log() - 1)
        assert exact[0].item() == pytest.approx(-1.3410216, abs=1e-7)
        evidence = estimator(below_exp, guide, x)
        assert ((evidence.log_prob - exact).abs() <= evidence.standard_error).all()
        assert evidence.standard_error.max() < 5e-4

    def test_a_datum_that_no_latent_allows_is_no_number_of_its_own(self):
        x = torch.tensor([1.0, -1.0], dtype=torch.float64)
        for guide in (wide_scalar, None):
            evidence = Quadrature()(below_exp, guide, x)
            assert evidence.log_prob[0].item() == pytest.approx(-1.3410216, abs=5e-4)
            assert evidence.log_prob[1] == -math.inf
            assert evidence.standard_error[1] == math.inf
            assert "1 of 2 data have weights of 0 only" in str(evidence)

    def test_a_weight_that_is_no_number_is_refused(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(ONE * 0, ONE))
                pyro.sample("x", dist.Normal(z.log(), ONE, validate_args=False), obs=x)

        with pytest.raises(NonFiniteDensityError, match="nan at observed site 'x'"):
            Quadrature()(model, wide_scalar, torch.ones(2, dtype=torch.float64))

    def test_ascents_from_where_the_density_is_0(self):
        """Two Gamma(2, 1) variables by log relu: no derivative below 0, the mode at 1."""

        def log_joint(rows, u):
            return (torch.relu(u).log() - u).sum(-1)

        starts = torch.tensor([[-1.0, -1.0], [-1.0, 0.5], [0.5, 3.0]], dtype=torch.float64)
        modes = find_modes(log_joint, torch.zeros(1).long(), starts.unsqueeze(1))
        torch.testing.assert_close(modes.point[2, 0], torch.ones(2, dtype=torch.float64))
        assert modes.precision.isfinite().all()
        assert modes.laplace()[:2].max() == -math.inf

    def test_draws_at_the_edge_of_the_support(self):
        value = torch.tensor([0.0, 1.0, 1e-9], dtype=torch.float64).unsqueeze(-1)
        site = SiteCoordinates.of("rate", value, dist.Gamma(ONE, ONE), 0)
        u = site.unconstrain(value).flatten()
        expected = torch.tensor([-40.0, 0.0, math.log(1e-9)], dtype=torch.float64)
        torch.testing.assert_close(u, expected)


class TestAgainstImportanceSampling:
    def test_agrees_within_the_sampling_error(self, significance):
        torch.manual_seed(1)
        vae, x = binary_vae(seed=3).double(), binary_data(8).double()
        exact = Quadrature()(vae.model, vae.guide, x)
        # The prior as the proposal: its weights are bounded, whatever the encoder has not learned.
        sampled = ImportanceSampling(20_000)(vae.model, wide(2, 0.0, 1.2), x)
        significance = significance.split(len(x))
        for i in range(len(x)):
            estimate = Estimate(sampled.log_prob[i].item(), sampled.standard_error[i].item())
            significance.require_equal(estimate, exact.log_prob[i].item())

    def test_single_precision_states_its_rounding(self):
        vae, x = binary_vae(), binary_data(8)
        single = Quadrature(tolerance=1e-9)(vae.model, vae.guide, x)
        assert single.direction == "exact"
        double = Quadrature(tolerance=1e-9)(vae.double().model, vae.guide, x.double())
        difference = (single.log_prob - double.log_prob).abs()
        assert (difference <= single.standard_error).all()
        assert single.standard_error.max() < 1e-4
        assert difference.max() > double.standard_error.max()
        assert single.warning is double.warning is None

    def test_counts_too_large_for_single_precision_are_said(self):
        """exp of a log-rate of 14 loses seven digits, and a log-density of 1e5 nats the first."""
        generator = torch.Generator().manual_seed(0)
        shared = torch.randn(100, 1, generator=generator)
        own = torch.randn(100, 4, generator=generator)
        x = torch.exp(14.0 + 0.3 * shared + 0.01 * own).round()
        torch.manual_seed(0)
        decoder = PoissonDecoder(MLP(1, [16], 4), data=x)
        vae = VAE(StandardNormalPrior(1), decoder, DiagonalNormalEncoder(MLP(4, [8], 2)))
        single = Quadrature()(vae.model, vae.guide, x)
        double = Quadrature()(vae.double().model, vae.guide, x.double())
        assert "rounding leaves up to" in single.warning
        assert "particles" not in single.warning
        assert double.warning is None
        # The same network rounds alike for all data: errors do not cancel in the mean.
        distance = abs(single.mean - double.mean)
        assert distance > single.rounding.norm().item() / 100
        assert distance < 2 * single.monte_carlo_error


class TestWhatItSays:
    def test_the_guide_and_the_seed_do_not_matter(self):
        model = LinearGaussian.random(4, 2, 0.5)
        x = model.simulate(5)
        results = [
            Quadrature(tolerance=1e-9)(model.vae().model, guide, x, seed=seed).log_prob
            for guide in (wide(2), wide(2, -1.0, 0.2), model.mean_field_vae().guide)
            for seed in (0, 1)
        ]
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)

    def test_the_data_do_not_touch(self):
        vae, x = binary_vae().double(), binary_data(70).double()
        all_data = Quadrature(tolerance=1e-8)(vae.model, vae.guide, x)
        alone = Quadrature(tolerance=1e-8)(vae.model, vae.guide, x[66:67])
        assert (all_data.log_prob[66] - alone.log_prob[0]).abs() <= 1e-8

    def test_random_state_and_parameters_are_left_alone(self):
        vae, x = binary_vae(), binary_data(3)
        state = torch.get_rng_state()
        Quadrature()(vae.model, vae.guide, x)
        assert torch.equal(state, torch.get_rng_state())
        assert all(parameter.grad is None for parameter in vae.parameters())

    def test_too_many_dimensions(self):
        vae = binary_vae(latent=4)
        with pytest.raises(ValueError, match=r"up to 3 latent dimensions, got 4 \(z: 4\)"):
            Quadrature()(vae.model, vae.guide, binary_data(2))

    def test_discrete_latents(self):
        def program(x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Bernoulli(0.5 * ONE))

        def model(x):
            z = program(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        with pytest.raises(ValueError, match=r"'z' is discrete.*take Enumeration"):
            Quadrature()(model, program, torch.zeros(2, 1, dtype=torch.float64))

    def test_a_support_that_varies(self):
        def program(x):
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", dist.Uniform(0 * ONE, ONE))
                return pyro.sample("v", dist.Uniform(0 * u, u))

        def model(x):
            v = program(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(v, 1.0), obs=x[:, 0])

        with pytest.raises(ValueError, match="support of latent site 'v' varies"):
            Quadrature()(model, program, torch.zeros(2, 1, dtype=torch.float64))

    def test_a_plate_that_subsamples(self):
        def guide(x):
            with pyro.plate("data", len(x), subsample_size=2):
                pyro.sample("z", dist.Normal(0 * ONE, 1 * ONE))

        def model(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                z = pyro.sample("z", dist.Normal(0 * ONE, 1 * ONE))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows, 0])

        with pytest.raises(ValueError, match="plate 'data' subsamples"):
            Quadrature()(model, guide, torch.zeros(4, 1, dtype=torch.float64))

    def test_bounds_that_differ_between_dimensions(self):
        low, high = (torch.tensor(v, dtype=torch.float64) for v in ([0.0, -2.0], [1.0, 3.0]))

        def program(x):
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Uniform(low, high).to_event(1))

        def model(x):
            z = program(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

        x = torch.tensor([[0.4, 0.0], [2.0, -4.0], [0.0, 1.0]], dtype=torch.float64)
        noise = torch.distributions.Normal(0 * ONE, 0.7 * ONE)
        inside = noise.cdf(high - x) - noise.cdf(low - x)
        exact = (inside / (high - low)).log().sum(-1)
        agrees_within_its_error(Quadrature(tolerance=1e-7)(model, program, x), exact, 1e-7)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"order": 1}, "order must be 2 or more, got 1"),
            ({"max_nodes": 10}, "max_nodes must be 10000 or more, got 10"),
            ({"rows": 0}, "rows must be 1 or more, got 0"),
            ({"tolerance": 0.0}, "tolerance must be positive and finite, got 0.0"),
            ({"tolerance": math.inf}, "tolerance must be positive"),
        ],
    )
    def test_impossible_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Quadrature(**arguments)

    def test_no_data(self):
        vae = binary_vae()
        with pytest.raises(ValueError, match="x holds no data"):
            Quadrature()(vae.model, vae.guide, torch.zeros(0, 6))


class TestOfTheTests:
    """What each step of the method is for."""

    MODEL = of_decoder(lambda z: dist.Normal(z**2, 0.05).to_event(1), 2)
    X = torch.tensor([[1.0, 4.0]], dtype=torch.float64)

    def exact(self):
        def joint(z):
            return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.05).log_prob(self.X)

        return log_integral(joint, -6, 6).sum(-1, keepdim=True)

    @pytest.fixture
    def one_ascent(self, monkeypatch):
        """Only the guide's mean is started from: one of four modes is found."""
        monkeypatch.setattr(
            quadrature, "_starts", lambda joint, scouts, guided: scouts[:1] * 0 + 1.5
        )

    def test_the_wide_grid_sees_modes_that_no_ascent_found(self, one_ascent):
        evidence = Quadrature(tolerance=1e-6)(self.MODEL, wide(2), self.X)
        agrees_within_its_error(evidence, self.exact(), 1e-6)
        assert evidence.evaluations.item() > 10_000  # the equally spaced grid

    def test_without_the_wide_grid_they_are_missed(self, one_ascent, monkeypatch):
        nothing = torch.zeros(1, dtype=torch.bool)
        monkeypatch.setattr(AdaptiveIntegral, "_mass_elsewhere", lambda *_: (nothing, []))
        evidence = Quadrature(tolerance=1e-6)(self.MODEL, wide(2), self.X)
        missed = self.exact() - evidence.log_prob
        torch.testing.assert_close(missed, torch.full_like(missed, math.log(4)))
