import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from significance import mean_of
from torch import nn

from ppl_vae._graphs import recording
from ppl_vae.likelihoods import (
    BernoulliDecoder,
    BernoulliVector,
    bernoulli_log_prob,
)
from ppl_vae.networks import MLP
from ppl_vae.particles import draw_particles
from ppl_vae.vae import VAE

FEATURES = [1, 2, 3, 31, 32, 33, 63, 64, 65, 784, 785, 1025]


@pytest.fixture(autouse=True, params=["at once", "in a graph"])
def how(request):
    """A graph for a compiler holds other operations, which give the same."""
    if request.param == "at once":
        yield
    else:
        with recording():
            yield


def logits_and_data(*shape, scale=3.0):
    logits = scale * torch.randn(*shape, dtype=torch.float64)
    return logits, torch.bernoulli(torch.full(shape[-2:], 0.4, dtype=torch.float64))


def reference(logits, x):
    return dist.Bernoulli(logits=logits, validate_args=False).to_event(1).log_prob(x)


@pytest.mark.parametrize("features", FEATURES)
def test_equals_torchs_bernoulli(features):
    logits, x = logits_and_data(3, 5, features)
    torch.testing.assert_close(BernoulliVector(logits).log_prob(x), reference(logits, x))


@pytest.mark.parametrize("features", FEATURES)
def test_gradient_equals_torchs_bernoulli(features):
    logits, x = logits_and_data(3, 5, features)
    factor = torch.randn(3, 5, dtype=torch.float64)
    gradients = []
    for log_prob in (bernoulli_log_prob, reference):
        leaf = logits.clone().requires_grad_()
        (log_prob(leaf, x) * factor).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("features", [1, 3, 33])
def test_first_and_second_derivatives(features):
    logits, x = logits_and_data(2, 2, features)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(bernoulli_log_prob, (logits, x))
    assert torch.autograd.gradgradcheck(bernoulli_log_prob, (logits, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [1, 64, 785])
def test_extreme_logits(dtype, features):
    signs = torch.where(torch.arange(features) % 3 == 0, 1.0, -1.0).to(dtype)
    for x in (torch.ones(features), torch.zeros(features)):
        logits = (1e3 * signs).requires_grad_()
        value = bernoulli_log_prob(logits, x.to(dtype))
        value.backward()
        wrong = ((signs > 0) != (x > 0)).sum()
        assert value.item() == pytest.approx(-1e3 * wrong.item())
        assert torch.equal(logits.grad, x.to(dtype) - (signs > 0).to(dtype))


@pytest.mark.parametrize("block", [1, 12, 50, 10**9])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (7, 5, 4), (2, 7, 5, 4)])
def test_does_not_depend_on_the_blocks(monkeypatch, block, shape):
    """Large inputs are worked through in parts: values, gradients, and over a wider x."""
    monkeypatch.setattr("ppl_vae.likelihoods._discrete._BLOCK", block)
    logits = torch.randn(shape, dtype=torch.float64)
    for data_shape in (shape[-2:], (4,), (2, *shape)):
        x = torch.bernoulli(torch.full(data_shape, 0.4, dtype=torch.float64))
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        value, expected = bernoulli_log_prob(ours, x), reference(theirs, x)
        torch.testing.assert_close(value, expected)
        value.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (0, 3, 4)])
def test_no_data(shape):
    assert bernoulli_log_prob(torch.zeros(shape), torch.zeros(shape)).shape == shape[:-1]


def test_no_product_underflows_or_overflows():
    # 64 factors, all 1/2 or all 2, are what one logarithm serves at most.
    for features in (64, 127, 1000, 1024, 5000):
        zeros = torch.zeros(features)
        value = bernoulli_log_prob(zeros, torch.ones(features)).item()
        assert value == pytest.approx(-features * math.log(2), rel=1e-6)


def test_a_nan_or_infinite_logit_shows():
    x = torch.ones(1, 5)
    assert BernoulliVector(torch.full((1, 5), math.nan)).log_prob(x).isnan().all()
    assert BernoulliVector(torch.full((1, 5), -math.inf)).log_prob(x).item() == -math.inf


def test_other_types_and_devices_take_the_plain_formula():
    logits, x = logits_and_data(4, 10)
    value = bernoulli_log_prob(logits.bfloat16(), x.bfloat16())
    expected = reference(logits.bfloat16(), x.bfloat16())
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected)


def test_the_logits_are_left_alone():
    logits, x = logits_and_data(4, 10)
    before = logits.clone(), x.clone()
    bernoulli_log_prob(logits, x)
    assert torch.equal(logits, before[0])
    assert torch.equal(x, before[1])


@pytest.mark.parametrize("features", [1, 2, 3])
def test_probabilities_sum_to_one(features):
    outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=features))).double()
    for logits in (torch.randn(features), torch.tensor([1e3, -1e3, 0.0])[:features]):
        total = BernoulliVector(logits.double()).log_prob(outcomes).exp().sum()
        assert total.item() == pytest.approx(1)


def test_broadcasts_over_particles():
    logits, x = logits_and_data(7, 5, 4)
    value = BernoulliVector(logits).log_prob(x)
    assert value.shape == (7, 5)
    torch.testing.assert_close(value[3], BernoulliVector(logits[3]).log_prob(x))
    one = BernoulliVector(logits[0, 0]).log_prob(x)
    torch.testing.assert_close(one[2], BernoulliVector(logits[0, 0]).log_prob(x[2]))


def test_broadcast_gradients():
    logits, x = logits_and_data(3, 4)
    logits = logits[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: BernoulliVector(z).log_prob(x), (logits,))


def test_expand():
    logits, x = logits_and_data(5, 4)
    small = BernoulliVector(logits)
    for shape in (torch.Size((3, 5)), [3, 5], (3, 5)):
        big = small.expand(shape)
        assert (big.batch_shape, big.event_shape) == ((3, 5), (4,))
        torch.testing.assert_close(big.log_prob(x), small.log_prob(x).expand(3, 5))
        assert big.sample().shape == (3, 5, 4)
    assert BernoulliVector(logits, validate_args=False).expand([3, 5])._validate_args is False


def test_vmap():
    logits, x = logits_and_data(6, 5, 4)
    value = torch.func.vmap(bernoulli_log_prob, in_dims=(0, None))(logits, x)
    torch.testing.assert_close(value, reference(logits, x))
    gradient = torch.func.vmap(torch.func.grad(lambda z: bernoulli_log_prob(z, x).sum()))(logits)
    torch.testing.assert_close(gradient, x - torch.sigmoid(logits))


def test_sample_mean_and_variance(significance):
    vector = BernoulliVector(torch.tensor([-2.0, 0.0, 1.5]))
    draws = vector.sample((40_000,))
    assert set(draws.unique().tolist()) == {0, 1}
    assert not draws.requires_grad
    for column, mean in zip(draws.unbind(-1), vector.mean.tolist(), strict=True):
        significance.split(3).require_equal(mean_of(column), mean)
    torch.testing.assert_close(vector.variance, vector.mean * (1 - vector.mean))
    assert vector.sample((2, 3)).shape == (2, 3, 3)
    assert vector.expand([4]).sample((2,)).shape == (2, 4, 3)


def test_no_reparameterised_sampler():
    assert not BernoulliVector(torch.zeros(3)).has_rsample


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (0.5, "binarise the data .*likelihood=.normal"),
        (1 / 255, "binarise the data .*likelihood=.normal"),
        # What is outside of [0, 1] is no probability to binarise by.
        (-1.0, "got -1: take another likelihood"),
        (2.0, "got 2: take another likelihood"),
        (math.nan, "got nan: take another likelihood"),
    ],
)
def test_grey_data_are_refused_with_the_way_out(value, way_out):
    x = torch.ones(2, 3)
    x[1, 2] = value
    with pytest.raises(ValueError, match=rf"data in \{{0, 1\}}, .*{way_out}"):
        BernoulliVector(torch.zeros(3)).log_prob(x)


def test_grey_data_are_refused_by_the_model():
    decoder = BernoulliDecoder(MLP(2, [], 3))

    def prior():
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    vae = VAE(prior, decoder, lambda x: prior())
    with pytest.raises(ValueError, match="a Bernoulli likelihood takes data in"):
        draw_particles(vae.model, vae.guide, torch.full((2, 3), 0.3))
    with pytest.raises(ValueError, match="a Bernoulli likelihood takes data in"):
        pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, torch.full((2, 3), 0.3))


def test_bernoulli_decoder_starts_at_the_data_mean():
    mean = torch.tensor([0.0, 0.3, 0.9, 1.0])
    network = MLP(2, [5], 4)
    decoder = BernoulliDecoder(network, mean)
    nn.init.zeros_(network.output.weight)
    torch.testing.assert_close(decoder(torch.randn(6, 2)).mean[1], mean.clamp(0.01, 0.99))
    assert decoder(torch.randn(3, 6, 2)).batch_shape == (3, 6)
