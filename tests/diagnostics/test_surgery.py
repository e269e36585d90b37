"""Information and marginal KL where the aggregate guide is a known mixture."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate as Measured

from ppl_vae.diagnostics import decompose, elbo_surgery
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import Programs, aggregate_log_density, draw_particles

MODEL = LinearGaussian.random(6, 3, 0.8, seed=2)
X = MODEL.simulate(30)


def measured(estimate):
    return Measured(estimate.value, estimate.standard_error)


def placed(scale, latent=1):
    """z ~ N(x, scale^2) in every dimension, and a model that has as many dimensions."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :latent], scale).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(latent, dtype=x.dtype)
            z = pyro.sample("z", dist.Normal(zero, 1 + zero).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    return model, guide


def by_integration(points, scale):
    """Information and marginal KL in one dimension, by the trapezoidal rule."""
    z = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log_q = dist.Normal(points, scale * torch.ones_like(points)).log_prob(z.unsqueeze(-1))
    log_mean = torch.logsumexp(log_q, -1) - math.log(len(points))
    log_prior = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z)
    step = (z[1] - z[0]).item()
    information = (log_q.exp() * (log_q - log_mean.unsqueeze(-1))).sum(0).mean() * step
    marginal = (log_mean.exp() * (log_mean - log_prior)).sum() * step
    return information.item(), marginal.item()


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0])
def test_one_dimension_by_integration(scale, significance):
    points = torch.tensor([-2.0, -0.3, 0.0, 1.0, 1.1], dtype=torch.float64)
    result = elbo_surgery(*placed(scale), points.unsqueeze(-1), num_particles=4000)
    information, marginal = by_integration(points, scale)
    significance = significance.split(2)
    significance.require_equal(measured(result.information), information)
    significance.require_equal(measured(result.marginal_kl), marginal)
    # One dimension has nothing to be correlated with.
    assert result.total_correlation.value == pytest.approx(0, abs=1e-12)
    assert result.dimension_kl == result.marginal_kl
    assert result.information.value < math.log(5)


def test_two_dimensions_that_say_the_same(significance):
    """z_1 and z_2 are near the same x: total correlation is the marginals' information."""
    points = torch.tensor([-2.0, -0.3, 0.0, 1.0, 1.1], dtype=torch.float64)
    x = points.unsqueeze(-1).expand(-1, 2)
    result = elbo_surgery(*placed(0.5, 2), x, num_particles=4000)
    information, marginal = by_integration(points, 0.5)
    significance = significance.split(4)
    for dimension in result.per_dimension:
        significance.require_equal(measured(dimension), marginal)
    # Over the plane: the joint of both dimensions is no product.
    side = torch.linspace(-6, 5, 441, dtype=torch.float64)
    by_side = dist.Normal(points, 0.5).log_prob(side.unsqueeze(-1))
    log_q = by_side.unsqueeze(1) + by_side
    log_ratio = log_q - (torch.logsumexp(log_q, -1, keepdim=True) - math.log(5))
    joint = ((log_q.exp() * log_ratio).sum((0, 1)).mean() * (side[1] - side[0]) ** 2).item()
    significance.require_equal(measured(result.information), joint)
    # The dimensions are independent given n, so that what they share about n is the correlation.
    significance.require_equal(measured(result.total_correlation), 2 * information - joint)


def test_identities_hold_draw_by_draw():
    for guide in (MODEL.mean_field_vae().guide, MODEL.vae().guide):
        result = elbo_surgery(MODEL.vae().model, guide, X, num_particles=5, batch_size=7)
        kl = result.information.value + result.marginal_kl.value
        assert result.kl.value == pytest.approx(kl, abs=1e-12)
        elbo = result.log_likelihood.value - result.kl.value
        assert result.elbo.value == pytest.approx(elbo, abs=1e-12)
        if result.total_correlation is not None:
            marginal = result.total_correlation.value + result.dimension_kl.value
            assert result.marginal_kl.value == pytest.approx(marginal, abs=1e-12)
            total = sum(term.value for term in result.per_dimension)
            assert result.dimension_kl.value == pytest.approx(total, abs=1e-12)


def test_it_is_the_kl_of_the_decomposition(significance):
    vae = MODEL.mean_field_vae()
    result = elbo_surgery(vae.model, vae.guide, X, num_particles=200)
    exact = decompose(vae.model, vae.guide, X, num_particles=2).kl["z"]
    significance.require_equal(measured(result.kl), exact.value)


# Annotations are checked in the other tests; in a hundred calls they take a third of the time.
@pytest.mark.usefixtures("unchecked_types")
def test_the_error_is_the_spread_over_seeds(significance):
    vae, x = MODEL.mean_field_vae(), X[:6]
    results = [
        elbo_surgery(vae.model, vae.guide, x, num_particles=4, seed=seed).information
        for seed in range(200)
    ]
    values = torch.tensor([result.value for result in results], dtype=torch.float64)
    claimed = torch.tensor([result.standard_error for result in results]).double().square()
    squares = (values - values.mean()).square() * 200 / 199 - claimed
    significance.require_equal(
        Measured(squares.mean().item(), squares.std().item() / 200**0.5), 0.0
    )


class TestLimits:
    def test_a_guide_that_ignores_the_data_has_no_information(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.ones(3).double(), 0.5).to_event(1))

        result = elbo_surgery(MODEL.vae().model, guide, X)
        assert result.information.value == pytest.approx(0, abs=1e-12)
        assert result.total_correlation.value == pytest.approx(0, abs=1e-12)
        assert result.marginal_kl.value == pytest.approx(result.kl.value, abs=1e-12)

    def test_codes_that_do_not_overlap_have_log_n_and_say_so(self):
        x = torch.arange(9, dtype=torch.float64).unsqueeze(-1)
        result = elbo_surgery(*placed(0.01), x)
        assert result.information.value == pytest.approx(math.log(9), abs=1e-9)
        (note,) = result.notes
        assert "reached its limit log N" in note
        assert note in str(result)

    def test_no_draw_has_more_than_log_n(self):
        """q(z) holds q(z|x_n)/N: the bound is of every draw."""
        vae, x = MODEL.vae(), X[:4]
        particles = draw_particles(vae.model, vae.guide, x, 50)
        latents = {"z": particles.latents["z"].flatten(0, 1)}
        joint = aggregate_log_density(Programs(vae.model, vae.guide), x, latents).joint.reshape(
            50, 4
        )
        assert (particles.log_proposal - joint).max() <= math.log(4)


class TestAggregate:
    def test_batches_do_not_matter(self, monkeypatch):
        guide = MODEL.mean_field_vae().guide
        latents = {"z": torch.randn(11, 3, dtype=torch.float64)}
        whole = aggregate_log_density(Programs(guide, guide), X, latents)
        monkeypatch.setattr("ppl_vae.particles._guides._ELEMENTS", 30)
        parts = aggregate_log_density(Programs(guide, guide), X, latents, batch_size=7)
        torch.testing.assert_close(parts.joint, whole.joint)
        torch.testing.assert_close(parts.marginals, whole.marginals)

    def test_two_sites_against_the_densities(self):
        chain = LinearChain()
        x = chain.simulate(6)
        u, v = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        found = aggregate_log_density(
            Programs(chain.model, chain.bottom_up), x, {"u": u, "v": v}, batch_size=4
        )
        first = chain._conditional("v", "x", [x]).log_prob(v.unsqueeze(1))
        second = chain._conditional("u", "v", [v]).log_prob(u)
        expected = torch.logsumexp(first, 1) - math.log(6) + second
        torch.testing.assert_close(found.joint, expected.detach())
        assert found.marginals is None

    def test_plates_left_of_the_data(self):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("pair", 2, dim=-2):
                pyro.sample("z", dist.Normal(x.T.unsqueeze(-1), 0.5).to_event(1))

        x, z = torch.randn(4, 2).double(), torch.randn(3, 2, 1).double()
        found = aggregate_log_density(Programs(guide, guide, 2), x, {"z": z}).joint
        by_hand = dist.Normal(x, 0.5).log_prob(z.squeeze(-1).unsqueeze(1)).sum(-1)
        torch.testing.assert_close(found, torch.logsumexp(by_hand, 1) - math.log(4))


class TestWhatItSays:
    def test_prints_and_summarises(self):
        vae = binary_vae()
        result = elbo_surgery(vae.model, vae.guide, binary_data(12))
        for row in ("information (< 2.48)", "total correlation", "N = 12, K = 10"):
            assert row in str(result)
        summary = json.loads(json.dumps(result.summary()))
        assert summary["information"]["value"] == result.information.value
        assert len(summary["per_dimension"]) == 2

    def test_a_guide_or_prior_of_dependent_dimensions_has_no_terms_per_dimension(self):
        vae = MODEL.vae()  # a full covariance
        result = elbo_surgery(vae.model, vae.guide, X)
        assert result.total_correlation is result.dimension_kl is result.per_dimension is None
        assert "total correlation" not in str(result)

        def model(x):
            with pyro.plate("data", len(x)):
                eye = torch.eye(3).double()
                z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(3).double(), eye))
                pyro.sample("x", MODEL.decoder(z), obs=x)

        result = elbo_surgery(model, MODEL.mean_field_vae().guide, X)
        assert result.total_correlation is None
        assert result.marginal_kl is not None

    def test_refusals(self):
        vae = MODEL.vae()
        with pytest.raises(ValueError, match=r"num_particles >= 2 .* num_particles=1\.$"):
            elbo_surgery(vae.model, vae.guide, X, num_particles=1)
        with pytest.raises(ValueError, match=r"^x holds no data: give at least one row\.$"):
            elbo_surgery(vae.model, vae.guide, X[:0])
