"""How low an estimate may be: intervals with the doubt cover, or it is said that none would."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from ppl_vae.evidence import AnnealedImportanceSampling, Evidence
from ppl_vae.evidence._doubt import NORMAL, doubt_by_normal, doubt_by_tail, skewness_z
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.weights import RunningWeights, tail_size

REPLICATES = 400


def normal_weights(dim, scale, shift, num_particles):
    """log w of a normal posterior under a normal guide, log p(x) being 0; 400 replicates.

    With z = shift / sqrt(dim) + scale e in each dimension, log w is of the e's sum and of the sum
    of their squares alone: a normal variable u, and u^2 and a chi-square.
    """
    shape = num_particles, REPLICATES
    generator = np.random.default_rng(0)
    u = generator.normal(size=shape)
    squares = u**2 + (generator.chisquare(dim - 1, shape) if dim > 1 else 0.0)
    of_z = shift**2 + 2 * shift * scale * u + scale**2 * squares
    return torch.from_numpy(0.5 * squares - 0.5 * of_z + dim * math.log(scale))


def covered(weights, found):
    half = NORMAL * weights.standard_error
    inside = (weights.log_mean - half <= 0) & (weights.log_mean + half + found.doubt >= 0)
    return inside[found.doubt.isfinite()].double().mean().item()


@pytest.mark.parametrize("dim", [1, 5, 20])
@pytest.mark.parametrize(
    ("scale", "shift", "num_particles"),
    [(0.7, 0.0, 5000), (0.9, 0.0, 1000), (1.2, 0.0, 1000), (1.5, 0.0, 5000), (1.0, 1.0, 1000)],
)
def test_intervals_cover_where_the_doubt_is_bounded(dim, scale, shift, num_particles):
    weights = RunningWeights.of(normal_weights(dim, scale, shift, num_particles))
    found = doubt_by_tail(weights)
    open_ends = found.doubt.isinf().double().mean().item()
    if (dim, scale) == (20, 0.7):
        # The product of so many heavy tails is one that 5,000 draws do not bound.
        assert open_ends > 0.5
        return
    assert open_ends <= 0.1
    # 95% with 400 replicates: 91.5% to 98.5% at three standard errors; heavy tails cover more.
    assert 0.915 <= covered(weights, found) <= 0.997


@pytest.mark.parametrize("shape", [-0.2, 0.2, 0.5, 0.7])
def test_it_is_the_posterior_of_the_tail_s_mean(shape):
    """Against scipy's density of a generalised Pareto variable on a fine grid."""
    generator = np.random.default_rng(3)
    body = generator.uniform(0.5, 1.0, 900)
    excess = stats.genpareto.rvs(shape, scale=0.8, size=100, random_state=generator)
    weight = np.sort(np.concatenate([body, 1.0 + excess]))[::-1]
    size = tail_size(1000)
    tail = weight[:size] - weight[size]
    k = np.linspace(-0.5, 1.5, 201)[:, None, None]
    log_sigma = np.linspace(-3, 3, 201)[:, None]
    log_density = stats.genpareto.logpdf(tail, k, scale=np.exp(log_sigma)).sum(-1)
    k, sigma = k[..., 0], np.exp(log_sigma[:, 0])
    log_density = log_density - 5 * ((k - 0.5) / 1.5) ** 2
    probability = np.exp(log_density - log_density.max())
    mean = np.where(k < 1, sigma / np.maximum(1 - k, 1e-12), np.inf)
    order = mean.ravel().argsort()
    below = probability.ravel()[order].cumsum() / probability.sum()
    middle, upper = (size * mean.ravel()[order][np.searchsorted(below, p)] for p in (0.5, 0.95))
    weights = RunningWeights.of(torch.from_numpy(np.log(weight)).unsqueeze(1))
    found = doubt_by_tail(weights)
    total, error = weight.sum(), weights.standard_error.item()
    low, high = (np.log1p((each - tail.sum()) / total) for each in (middle, upper))
    # The error that the tail's own spread leaves to the rest.
    rest = error**2 - (tail**2).sum() / total**2 + tail.sum() ** 2 / size / total**2
    expected = math.hypot(NORMAL * math.sqrt(max(rest, 0.0)), max(high, 0.0)) - NORMAL * error
    assert found.doubt.item() == pytest.approx(max(expected, 0.0), rel=0.03, abs=0.003)
    assert found.bias.item() == pytest.approx(max(low, 0.5 * math.log1p(error**2)), abs=0.003)


def test_a_guide_far_too_narrow_leaves_it_open():
    found = doubt_by_tail(RunningWeights.of(normal_weights(5, 0.3, 0.0, 1000)))
    assert found.doubt.isinf().double().mean() > 0.9


@pytest.mark.parametrize("num_chains", [16, 64])
@pytest.mark.parametrize("variance", [0.05, 0.5, 1.5])
def test_intervals_of_log_normal_weights_cover(num_chains, variance):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(num_chains, 2000, dtype=torch.float64, generator=generator)
    log_weight = math.sqrt(variance) * noise - variance / 2
    weights, found = RunningWeights.of(log_weight), doubt_by_normal(log_weight)
    # 95% with 2,000 replicates has a standard error of 0.5%.
    assert 0.925 <= covered(weights, found) <= 0.98
    # A little high where the variance is large, and never low.
    exact = -weights.log_mean.mean().item()
    assert exact - 0.01 <= found.bias.mean().item() <= 2 * exact + 0.01


def test_the_interval_is_that_of_a_log_normal_mean():
    """Zou, Taleban and Huo's upper end, with the third cumulant and its error in quadrature."""
    log_weight = np.random.default_rng(4).gamma(3.0, 0.7, (24, 5))
    found = doubt_by_normal(torch.from_numpy(log_weight))
    variance, third = log_weight.var(0, ddof=1), stats.moment(log_weight, 3, axis=0)
    assert (third > 0).all()
    widest = 23 * variance / stats.chi2.ppf(0.025, 23)
    above = np.sqrt(
        1.96**2 * variance / 24
        + (widest / 2 - variance / 2) ** 2
        + (1.96 * np.sqrt(6 * variance**3 / 24) / 6) ** 2
    )
    weights = RunningWeights.of(torch.from_numpy(log_weight))
    error = 1.96 * weights.standard_error.numpy()
    upper = log_weight.mean(0) + variance / 2 + third / 6 + above
    expected = np.maximum(upper - weights.log_mean.numpy() - error, 0)
    np.testing.assert_allclose(found.doubt.numpy(), expected, atol=1e-4)


def test_equal_weights_leave_nothing_open():
    found = doubt_by_tail(RunningWeights.of(torch.full((200, 3), -2.0, dtype=torch.float64)))
    assert found.doubt.tolist() == [0.0, 0.0, 0.0]
    assert found.bias.abs().max() < 1e-12


def test_one_weight_above_all_leaves_it_open():
    log_weight = torch.full((200, 1), -math.inf, dtype=torch.float64)
    log_weight[0] = 0.0
    assert doubt_by_tail(RunningWeights.of(log_weight)).doubt.tolist() == [math.inf]


def test_one_chain_leaves_it_open():
    assert doubt_by_normal(torch.zeros(1, 2)).doubt.tolist() == [math.inf, math.inf]


class TestSkewness:
    """Log-weights of chains with a longer upper tail than the doubt takes them to have."""

    def test_it_is_the_unbiased_skewness_in_standard_errors(self):
        log_weight = torch.randn(16, 5, dtype=torch.float64).exp()
        expected = stats.skew(log_weight.numpy(), axis=0, bias=False)
        error = math.sqrt(6 * 16 * 15 / (14 * 17 * 19))
        found = skewness_z(log_weight)
        assert found.numpy() == pytest.approx(expected / error)
        assert skewness_z(-3 * log_weight + 2).numpy() == pytest.approx(-found.numpy())

    def test_its_spread_is_1_for_normal_log_weights(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = skewness_z(torch.randn(16, 40_000, dtype=torch.float64))
        assert found.mean().item() == pytest.approx(0, abs=4 / 200)
        assert found.std().item() == pytest.approx(1, abs=0.03)

    def test_it_is_unknown_of_two_chains_of_no_spread_and_of_weights_of_0(self):
        assert skewness_z(torch.randn(2, 3)).isnan().all()
        log_weight = torch.randn(16, 2)
        log_weight[:, 0] = 1.0
        log_weight[3, 1] = -math.inf
        assert skewness_z(log_weight).isnan().all()

    def evidence(self, log_weight):
        claims = {"num_particles": len(log_weight), "direction": "lower", "method": "annealing"}
        columns = weight_columns(log_weight, 1, torch.float64)
        return Evidence.from_weights(columns, claims, None, 1.0)

    def test_the_data_show_it_together(self):
        """log W ~ 0.3 Gamma(2, 1), of which W has the mean (1 - 0.3)^-2: its skewness is 1.4."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            gamma = torch.distributions.Gamma(torch.tensor(2.0).double(), 1.0)
            skew = 0.3 * gamma.sample((16, 50))
            normal = 0.45 * torch.randn(16, 50, dtype=torch.float64)
        warning = self.evidence(skew).warning
        assert "limited: log-weights are skewed (" in warning
        assert "log p(x) is likely too low" in warning
        assert self.evidence(normal).warning is None
        assert "skewed" not in (self.evidence(-skew).warning or "")
        # The same shape with nearly equal weights.
        assert self.evidence(0.05 * skew).warning is None

    def test_a_start_that_is_narrower_than_the_posterior_is_told(self):
        """Half as wide: intervals of 12 data's mean hold it in 83 to 87%, and nothing said so."""
        model = LinearGaussian.random(4, 2, 0.7, seed=2)
        x = model.simulate(24)

        def guide(scale):
            def narrow(x):
                posterior = model.posterior(x)
                spread = torch.diagonal(posterior.covariance_matrix, dim1=-2, dim2=-1).sqrt()
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(posterior.mean, scale * spread).to_event(1))

            return narrow

        annealing = AnnealedImportanceSampling(20, 16, start="guide")
        found = annealing(model.vae().model, guide(0.5), x)
        assert "log-weights are skewed (" in found.warning
        assert annealing(model.vae().model, guide(1.0), x).warning is None
