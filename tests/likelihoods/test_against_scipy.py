"""Log-densities by SciPy's formulas, in single precision too where they lose digits."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from ppl_vae.data import Column
from ppl_vae.likelihoods import (
    BetaDecoder,
    CategoricalDecoder,
    LaplaceDecoder,
    NegativeBinomialDecoder,
    NormalDecoder,
    PoissonDecoder,
    StudentTDecoder,
    TableDecoder,
    ZeroInflatedNegativeBinomialDecoder,
    ZeroInflatedPoissonDecoder,
    feature_log_prob,
)

ECHO = nn.Identity()
COUNTS = torch.tensor([[0.0, 1.0, 7.0, 300.0]])
REAL = torch.tensor([[-3.0, 0.0, 0.1, 40.0]])
FRACTIONS = torch.tensor([[0.01, 0.3, 0.5, 0.999]])


def outputs(blocks, features, dtype):
    """One row, from a number for each block."""
    return torch.tensor(blocks, dtype=dtype).repeat_interleave(features).unsqueeze(0)


def of_mean(mean, inverse_dispersion):
    return stats.nbinom(inverse_dispersion, inverse_dispersion / (inverse_dispersion + mean))


def inflated(gate, base, x):
    zero = np.log(gate + (1 - gate) * base.pmf(0))
    return np.where(x == 0, zero, np.log1p(-gate) + base.logpmf(x))


def precision_of(dtype):
    return {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}


def softplus_from_start(free, start):
    """The positive parameter at a network's output, from its formula."""
    return start * (1e-3 + (1 - 1e-3) * np.logaddexp(0, free + math.log(math.e - 1)))


LOGIT = 1 / (1 + math.exp(-0.4))
CASES = [
    (NormalDecoder(ECHO, 0.75), (0.3,), REAL, stats.norm(0.3, 0.75).logpdf),
    (
        NormalDecoder(ECHO, "network"),
        (0.3, -0.5),
        REAL,
        stats.norm(0.3, softplus_from_start(-0.5, 1.0)).logpdf,
    ),
    (LaplaceDecoder(ECHO, 0.75), (0.3,), REAL, stats.laplace(0.3, 0.75).logpdf),
    (StudentTDecoder(ECHO, 0.75, 3.5), (0.3,), REAL, stats.t(3.5, 0.3, 0.75).logpdf),
    (
        StudentTDecoder(ECHO, 0.75, "network"),
        (0.3, 1.2),
        REAL,
        stats.t(1 + softplus_from_start(1.2, 4.0), 0.3, 0.75).logpdf,
    ),
    # Near-normal: differences of log-gamma functions of 5000.
    (StudentTDecoder(ECHO, 0.75, 1e4), (0.3,), REAL, stats.t(1e4, 0.3, 0.75).logpdf),
    (BetaDecoder(ECHO, 7.0), (0.4,), FRACTIONS, stats.beta(LOGIT * 7, (1 - LOGIT) * 7).logpdf),
    (
        BetaDecoder(ECHO, 1e5),
        (0.4,),
        FRACTIONS[:, 1:3],
        stats.beta(LOGIT * 1e5, (1 - LOGIT) * 1e5).logpdf,
    ),
    (PoissonDecoder(ECHO), (math.log(5),), COUNTS, stats.poisson(5).logpmf),
    (PoissonDecoder(ECHO), (math.log(290),), COUNTS, stats.poisson(290).logpmf),
    (NegativeBinomialDecoder(ECHO, 2.5), (math.log(5),), COUNTS, of_mean(5, 2.5).logpmf),
    # Near-Poisson.
    (NegativeBinomialDecoder(ECHO, 1e6), (math.log(5),), COUNTS, of_mean(5, 1e6).logpmf),
    (
        NegativeBinomialDecoder(ECHO, "network"),
        (math.log(5), -2.0),
        COUNTS,
        of_mean(5, softplus_from_start(-2.0, 1.0)).logpmf,
    ),
    (
        ZeroInflatedPoissonDecoder(ECHO),
        (math.log(5), 0.4),
        COUNTS,
        lambda x: inflated(LOGIT, stats.poisson(5), x),
    ),
    (
        ZeroInflatedNegativeBinomialDecoder(ECHO, 2.5),
        (math.log(5), 0.4),
        COUNTS,
        lambda x: inflated(LOGIT, of_mean(5, 2.5), x),
    ),
    (
        CategoricalDecoder(ECHO, 3),
        (1.0, -2.0, 0.5),
        torch.tensor([[0.0, 1.0, 2.0, 0.0]]),
        lambda x: np.array([1.0, -2.0, 0.5])[x.astype(int)] - np.logaddexp.reduce([1.0, -2.0, 0.5]),
    ),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("decoder", "blocks", "x", "expected"), CASES, ids=lambda value: type(value).__name__
)
def test_log_density(decoder, blocks, x, expected, dtype):
    z = outputs(blocks, x.shape[1], dtype)
    found = feature_log_prob(decoder.to(dtype)(z), x.to(dtype))
    reference = torch.from_numpy(expected(x.to(dtype).double().numpy()))
    tolerance = precision_of(dtype)
    if dtype == torch.float32:
        # By how much the density moves when the outputs move by their rounding.
        wide = z.double().requires_grad_()
        again = feature_log_prob(decoder.double()(wide), x.to(dtype).double())
        (slope,) = torch.autograd.grad(again.sum(), wide)
        tolerance["atol"] += 2 * (slope.abs() * z.abs()).max().item() * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), reference, **tolerance)


@pytest.mark.parametrize("count", [1e3, 1e5])
def test_large_counts_keep_their_digits(count):
    """Single precision throughout is off by 0.07 at 100,000."""
    x = torch.tensor([[count]])
    z = x.log()
    exact = stats.poisson(z.double().exp().item()).logpmf(count)
    assert PoissonDecoder(ECHO)(z).log_prob(x).item() == pytest.approx(exact, abs=1e-5)
    single = torch.distributions.Poisson(z.exp()).log_prob(x).item()
    assert abs(single - exact) > 1e-4


COLUMNS = tuple(Column(f"c{number}", "count") for number in range(20))


@pytest.mark.parametrize("inverse_dispersion", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("count", [1e3, 1e6, 1e7, 2.0**24])
def test_counts_in_a_table_keep_their_digits(count, inverse_dispersion):
    """Within 1e-4 nats a row; single precision is off by 25 at 1e7."""
    torch.manual_seed(0)
    spread = torch.rand(200, len(COLUMNS))
    x = (count * spread).round() if count < 2**24 else count - (100 * spread).round()
    network = nn.Linear(2, TableDecoder.num_outputs(len(COLUMNS), COLUMNS))
    decoder = TableDecoder(network, COLUMNS, x)
    nn.init.zeros_(network.weight)
    with torch.no_grad():
        network.bias[len(COLUMNS) :] = math.log(math.expm1(inverse_dispersion)) - 0.5413248546
    z = torch.zeros(1, 2)
    log_mean, free = network(z).chunk(2, -1)
    log_mean = (decoder.groups[0].log_mean + log_mean).detach().double()
    t = (1e-2 + (1 - 1e-2) * nn.functional.softplus(free + 0.5413248546)).detach().double()
    found = decoder(z).log_prob(x)
    expected = of_mean(log_mean.exp().numpy(), t.numpy()).logpmf(x.double().numpy()).sum(-1)
    rounding = np.abs(expected).max() * torch.finfo(torch.float32).eps / 2
    assert np.abs(found.detach().double().numpy() - expected).max() < 1e-4 + rounding
    # Gradients accordingly.
    (found_gradient,) = torch.autograd.grad(found.sum(), network.bias)
    wide = copy.deepcopy(decoder).double()
    total = wide(z.double()).log_prob(x.double()).sum()
    (gradient,) = torch.autograd.grad(total, wide.network.bias)
    torch.testing.assert_close(found_gradient.double(), gradient, rtol=1e-4, atol=1e-3)


def test_a_given_number_is_not_rounded_in_a_double_model():
    x = torch.tensor([[1e6]]).double()
    decoder = NegativeBinomialDecoder(ECHO, 0.01).double()
    found = decoder(torch.zeros(1, 1).double()).log_prob(x).item()
    assert found == pytest.approx(of_mean(1, 0.01).logpmf(1e6), abs=1e-7)
    assert found == pytest.approx(-9968.65384, abs=1e-5)
    for build in (NormalDecoder, LaplaceDecoder):
        assert build(ECHO, 0.01).double().scale().item() == 0.01


def test_a_negative_binomial_has_its_mean_and_variance():
    distribution = NegativeBinomialDecoder(ECHO, 2.5)(torch.tensor([[math.log(5)]]))
    assert distribution.mean.item() == pytest.approx(5)
    assert distribution.variance.item() == pytest.approx(5 + 25 / 2.5)


def test_the_variance_of_heavy_tails_is_infinite():
    z = torch.zeros(1, 2)
    assert StudentTDecoder(ECHO, 1.0, 2.0)(z).variance.isinf().all()
    assert StudentTDecoder(ECHO, 1.0, 4.0)(z).variance.tolist() == [[2.0, 2.0]]
