import json
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate as Measured
from torch.distributions import AffineTransform, kl_divergence

from ppl_vae.diagnostics import Estimate, decompose
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import draw_particles
from ppl_vae.vae import VAE


@pytest.fixture
def linear():
    return LinearGaussian.random(8, 3, noise_scale=0.8)


@pytest.fixture
def chain():
    return LinearChain()


def given_data(estimate):
    """An estimate with its error at fixed data."""
    return Measured(estimate.value, estimate.monte_carlo_error)


def of_population(estimate):
    return Measured(estimate.value, estimate.total_error)


def exact_terms(linear, x, covariance):
    """E log p(x|z) and KL(q, p) per datum, for normal guides with the exact posterior mean."""
    mean, s = linear.posterior(x).mean, linear.noise_scale
    residual = (x - linear.bias - mean @ linear.weight.T).square().sum(-1)
    residual = residual + (linear.weight @ covariance @ linear.weight.T).trace()
    log_likelihood = -residual / (2 * s**2) - 0.5 * x.shape[1] * math.log(2 * math.pi * s**2)
    kl = covariance.trace() + mean.square().sum(-1) - len(covariance) - covariance.logdet()
    return log_likelihood, kl / 2


def without_mean(encoder):
    """The same normal, as a distribution that does not tell its mean."""

    def encode(x):
        base = encoder(x).base_dist
        standard = dist.Normal(torch.zeros_like(base.loc), torch.ones_like(base.loc))
        return dist.TransformedDistribution(
            standard, [AffineTransform(base.loc, base.scale)]
        ).to_event(1)

    return encode


class TestLinearGaussian:
    def test_mean_field_guide(self, linear, significance):
        x, vae = linear.simulate(200), linear.mean_field_vae()
        result = decompose(vae.model, vae.guide, x)
        variance = 1 / linear.posterior_precision.diagonal()
        log_likelihood, kl = exact_terms(linear, x, variance.diag())
        limits = significance.split(2)
        limits.require_equal(given_data(result.log_likelihood), log_likelihood.mean().item())
        limits.require_equal(given_data(result.elbo), (log_likelihood - kl).mean().item())
        assert result.kl["z"].value == pytest.approx(kl.mean().item(), abs=1e-12)
        assert result.kl["z"].monte_carlo_error == pytest.approx(0, abs=1e-12)
        mean = linear.posterior(x).mean
        by_dimension = 0.5 * (variance + mean.square() - 1 - variance.log())
        torch.testing.assert_close(result.kl_per_dimension["z"].value, by_dimension.mean(0))
        torch.testing.assert_close(
            result.kl_per_dimension["z"].standard_error, by_dimension.std(0) / 200**0.5
        )

    def test_exact_guide(self, linear, significance):
        x, vae = linear.simulate(200), linear.vae()
        result = decompose(vae.model, vae.guide, x)
        log_likelihood, kl = exact_terms(linear, x, torch.linalg.inv(linear.posterior_precision))
        assert result.elbo.value == pytest.approx(linear.log_evidence(x).mean().item(), abs=1e-9)
        assert result.elbo.monte_carlo_error == pytest.approx(0, abs=1e-9)
        limits = significance.split(2)
        limits.require_equal(given_data(result.log_likelihood), log_likelihood.mean().item())
        limits.require_equal(given_data(result.kl["z"]), kl.mean().item())
        assert result.kl_per_dimension == {}

    def test_population_values_are_within_the_total_error(self, linear, significance):
        x, vae = linear.simulate(2000, seed=3), linear.mean_field_vae()
        result = decompose(vae.model, vae.guide, x, num_particles=10)
        noise = linear.noise_scale**2 * torch.eye(8, dtype=x.dtype)
        entropy = dist.MultivariateNormal(linear.bias, linear.weight @ linear.weight.T + noise)
        covariance = torch.linalg.inv(linear.posterior_precision)
        elbo = -entropy.entropy() - linear.mean_field_gap()
        limits = significance.split(4)
        limits.require_equal(of_population(result.elbo), elbo.item())
        # z has variance 1: what the posterior leaves of it is the variance of its mean.
        for value, error, exact in zip(
            result.activity["z"].value,
            result.activity["z"].standard_error,
            1 - covariance.diagonal(),
            strict=True,
        ):
            limits.require_equal(Measured(value.item(), error.item()), exact.item())

    def test_activity_of_known_means_is_their_variance(self, linear):
        x, vae = linear.simulate(50), linear.mean_field_vae()
        result = decompose(vae.model, vae.guide, x, num_particles=2, batch_size=7)
        torch.testing.assert_close(result.activity["z"].value, linear.posterior(x).mean.var(0))

    # Annotations are checked in the other tests; in a hundred calls they take a third of the time.
    @pytest.mark.usefixtures("unchecked_types")
    def test_monte_carlo_error_is_the_spread_over_seeds(self, linear, significance):
        x, vae = linear.simulate(5), linear.mean_field_vae()
        results = [decompose(vae.model, vae.guide, x, num_particles=10, seed=s) for s in range(150)]
        values = torch.tensor([result.elbo.value for result in results])
        claimed = torch.tensor([result.elbo.monte_carlo_error for result in results]).square()
        exact = (linear.log_evidence(x).mean() - linear.mean_field_gap()).item()
        difference = (values - exact).square() - claimed
        significance.require_equal(
            Measured(difference.mean().item(), difference.std().item() / len(values) ** 0.5), 0.0
        )


class TestTwoLayers:
    """u, then v given u in the model."""

    def test_exact_posterior_in_either_order(self, chain, significance):
        x = chain.simulate(60)
        limits = significance.split(2)
        down = decompose(chain.model, chain.top_down, x)
        up = decompose(chain.model, chain.bottom_up, x)
        for result in (down, up):
            assert result.elbo.value == pytest.approx(chain.log_evidence(x).mean().item())
            assert list(result.kl) == ["u", "v"]
        # The terms of the sites differ, but not their sum: it is KL(q(u, v|x), p(u, v)).
        total = sum(estimate.value for estimate in down.kl.values())
        other = sum(estimate.value for estimate in up.kl.values())
        errors = [result.log_likelihood.monte_carlo_error for result in (down, up)]
        limits.require_equal(Measured(total, errors[0]), Measured(other, errors[1]))
        limits.require_equal(given_data(down.log_likelihood), given_data(up.log_likelihood))

    def test_closed_forms_in_the_model_order(self, chain):
        result = decompose(chain.model, chain.rough, chain.simulate(40), num_particles=20)
        assert set(result.kl_per_dimension) == {"u", "v"}
        for name, per_dimension in result.kl_per_dimension.items():
            assert per_dimension.value.sum().item() == pytest.approx(result.kl[name].value)
        assert result.kl["u"].monte_carlo_error == pytest.approx(0, abs=1e-12)
        # p(v|u) depends on the draw of u.
        assert result.kl["v"].monte_carlo_error > 1e-3

    def test_closed_form_is_not_used_out_of_order(self, chain, significance):
        x, guide = chain.simulate(40), BottomUp(chain)
        result = decompose(chain.model, guide, x, num_particles=1000)
        assert set(result.kl_per_dimension) == {"u"}
        expected = guide.expected_v_term(x).mean().item()
        significance.require_equal(given_data(result.kl["v"]), expected)
        particles = draw_particles(chain.model, guide, x, 1000)
        wrong = kl_divergence(particles.guide["v"], particles.prior["v"]).mean().item()
        z = (wrong - expected) / result.kl["v"].monte_carlo_error
        assert abs(z) > 2 * significance.limit

    def test_mask_leaves_no_closed_form(self, chain):
        def masked(x):
            with pyro.poutine.mask(mask=torch.tensor(True)):
                chain.model(x)

        result = decompose(masked, chain.rough, chain.simulate(10))
        assert result.kl_per_dimension == {}


class BottomUp:
    """q(v|x) q(u|v), independent normals; the model draws u first."""

    def __init__(self, chain):
        generator = torch.Generator().manual_seed(8)
        features, middle = chain.B.shape
        top = chain.A.shape[1]
        self.A, self.s, self.spread_v, self.spread_u = chain.A.detach(), chain.s, 0.5, 0.6
        self.C = 0.4 * torch.randn(features, middle, dtype=torch.float64, generator=generator)
        self.D = 0.4 * torch.randn(middle, top, dtype=torch.float64, generator=generator)

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x @ self.C, self.spread_v).to_event(1))
            pyro.sample("u", dist.Normal(v @ self.D, self.spread_u).to_event(1))

    def expected_v_term(self, x):
        """E_q [log q(v|x) - log p(v|u)] in closed form: v - A u is normal under q."""
        middle = len(self.A)
        loss = torch.eye(middle, dtype=torch.float64) - self.A @ self.D.T
        squares = (x @ self.C @ loss.T).square().sum(-1)
        squares = squares + self.spread_v**2 * loss.square().sum()
        squares = squares + self.spread_u**2 * self.A.square().sum()
        constants = middle * (math.log(self.s / self.spread_v) - 0.5)
        return constants + squares / (2 * self.s**2)


class TestActivity:
    def test_noise_of_a_mean_that_depends_on_a_latent_is_removed(self, chain, significance):
        x = chain.simulate(2000)
        result = decompose(chain.model, chain.bottom_up, x, num_particles=2)
        whole = chain.simulate(2)
        posterior = chain._conditional("u", "x", [whole])
        exact = 1 - posterior.covariance_matrix[0].diagonal()
        limits = significance.split(2)
        for unit in range(2):
            value, error = result.activity["u"].value, result.activity["u"].standard_error
            limits.require_equal(
                Measured(value[unit].item(), error[unit].item()), exact[unit].item()
            )
        # The trap: leave the noise in, and it shows.
        with torch.no_grad():
            mean = draw_particles(chain.model, chain.bottom_up, x, 2).guide["u"].mean.mean(0)
        naive = (mean.var(0) - exact) / error
        assert (naive > limits.limit).any()

    def test_noise_of_draws_is_removed(self, significance):
        linear = LinearGaussian.random(8, 3, noise_scale=4.0)
        x = linear.simulate(2000)
        vae = VAE(linear.prior, linear.decoder, without_mean(linear.mean_field_posterior))
        result = decompose(vae.model, vae.guide, x, num_particles=2)
        exact = linear.posterior(x).mean.var(0)
        limits = significance.split(3)
        for unit in range(3):
            value, error = result.activity["z"].value[unit], result.activity["z"].standard_error
            limits.require_equal(Measured(value.item(), error[unit].item()), exact[unit].item())
            noise = 0.5 / linear.posterior_precision[unit, unit].item()
            assert noise > limits.limit * error[unit].item()

    @pytest.mark.parametrize("tells_mean", [True, False])
    def test_dead_dimensions_are_counted_out(self, tells_mean):
        weight = torch.randn(8, 4, dtype=torch.float64)
        weight[:, [1, 3]] = 0
        linear = LinearGaussian(weight, noise_scale=0.5)
        encoder = linear.mean_field_posterior
        vae = VAE(linear.prior, linear.decoder, encoder if tells_mean else without_mean(encoder))
        x = linear.simulate(300)
        threshold = 0.01 if tells_mean else 0.2
        result = decompose(vae.model, vae.guide, x, num_particles=4, threshold=threshold)
        units = result.active_units["z"]
        assert (units.count, units.latent, units.standard_error) == (2, 4, 0.0)
        dead = result.activity["z"].value[[1, 3]].abs()
        assert (dead <= 5 * result.activity["z"].standard_error[[1, 3]]).all()

    def test_a_unit_at_the_threshold_makes_the_count_uncertain(self):
        linear = LinearGaussian(torch.diag(torch.tensor([3.0, 0.7, 0.1]).double()))
        x, vae = linear.simulate(300), linear.mean_field_vae()
        threshold = linear.posterior(x).mean[:, 1].var().item()
        result = decompose(vae.model, vae.guide, x, num_particles=2, threshold=threshold)
        assert 0.4 < result.active_units["z"].standard_error < 0.6

    def test_sites_without_one_event_dimension_have_none(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample(
                    "x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x
                )

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

        result = decompose(model, guide, torch.randn(9, 2))
        assert result.activity == result.active_units == result.kl_per_dimension == {}
        assert result.kl["z"].value > 0

    def test_a_distribution_with_no_finite_mean_counts_by_its_draws(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Cauchy(torch.zeros(2), 1.0).to_event(1))

        model = binary_vae().model
        result = decompose(model, guide, binary_data())
        assert result.activity["z"].value.isfinite().all()


@pytest.mark.parametrize("guide", ["top_down", "bottom_up", "rough"])
def test_elbo_is_log_likelihood_minus_kl(chain, guide):
    result = decompose(chain.model, getattr(chain, guide), chain.simulate(30), num_particles=7)
    parts = result.log_likelihood.value - sum(kl.value for kl in result.kl.values())
    assert result.elbo.value == pytest.approx(parts, abs=1e-12)


def test_plates_left_of_the_data_change_nothing(chain):
    x = chain.simulate(10)
    one = decompose(chain.model, chain.rough, x)
    two = decompose(chain.model, chain.rough, x)
    assert two.summary() == one.summary()


def test_a_site_in_another_plate_has_a_kl_alone():
    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("part", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("part", 3, dim=-2):
            pyro.sample("z", dist.Normal(torch.ones(2), 1.0).to_event(1))

    result = decompose(model, guide, torch.randn(9, 2))
    assert result.kl["z"].value == pytest.approx(3 * 2 * 0.5)
    assert result.kl_per_dimension == result.activity == {}


def test_same_seed_same_numbers_and_random_state_untouched():
    vae, x = binary_vae(), binary_data()
    state = torch.random.get_rng_state()
    first, again = (decompose(vae.model, vae.guide, x, seed=4) for _ in range(2))
    assert first.summary() == again.summary()
    assert decompose(vae.model, vae.guide, x, seed=5).summary() != first.summary()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_seed_draws_from_the_random_state():
    vae, x = binary_vae(), binary_data()
    first, second = (decompose(vae.model, vae.guide, x, seed=None) for _ in range(2))
    assert first.elbo.value != second.elbo.value


def test_prints_a_table():
    vae, x = binary_vae(), binary_data()
    lines = str(decompose(vae.model, vae.guide, x)).splitlines()
    assert " ".join(lines[0].split()) == "nats per datum mean Monte Carlo total error"
    assert [line[:14].strip() for line in lines[1:4]] == ["ELBO", "log-likelihood", "KL z"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4].startswith("active units of z: ")
    assert lines[5] == "N = 40, K = 100"


def test_summary_is_plain():
    vae, x = binary_vae(), binary_data()
    result = decompose(vae.model, vae.guide, x)
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary["elbo"]["value"] == result.elbo.value
    assert len(summary["kl_per_dimension"]["z"]["value"]) == 2
    assert summary["active_units"]["z"]["latent"] == 2


def test_results_are_frozen():
    estimate = Estimate(1.0, 0.1, 0.2)
    with pytest.raises(AttributeError):
        estimate.value = 2.0
    assert replace(estimate, value=2.0).value == 2.0


@pytest.mark.parametrize(
    ("num_data", "arguments", "message"),
    [
        (1, {}, "decompose needs 2 data or more"),
        (0, {}, "x holds no data"),
        (5, {"num_particles": 1}, "num_particles >= 2"),
        (5, {"batch_size": 0}, "batch_size must be 1 or more"),
        (5, {"threshold": -1.0}, "threshold must be 0 or more"),
        (5, {"threshold": math.nan}, "threshold must be 0 or more"),
        (5, {"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_errors(num_data, arguments, message):
    vae = binary_vae()
    with pytest.raises(ValueError, match=message) as error:
        decompose(vae.model, vae.guide, binary_data(num_data), **arguments)
    assert "\n" not in str(error.value)


def test_error_names_a_density_that_is_not_finite():
    vae, x = binary_vae(), binary_data()
    with torch.no_grad():
        next(vae.encoder.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="'z' of the guide"):
        decompose(vae.model, vae.guide, x)
