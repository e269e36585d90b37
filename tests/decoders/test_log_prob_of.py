"""log p(x) of a decoder alone: the linear one exactly, those of others as they are written."""

import math
import re

import pyro.distributions as dist
import pytest
import torch
from significance import mean_of
from torch import nn

import ppl_vae as pv
from ppl_vae.decoders import _noise, choose_noise, decoder_model, find_latent

NOISE = 0.5
SHORT = pv.AnnealedImportanceSampling(300, 16, 2)
# Bidirectional Monte Carlo's number is that of annealed importance sampling.
ESTIMATORS = {
    "default": None,
    "smc": pv.SequentialMonteCarlo(pv.AnnealedImportanceSampling(150, 32, 2)),
    "ti": pv.ThermodynamicIntegration(pv.AnnealedImportanceSampling(50, 4, 2)),
    "bdmc": pv.BidirectionalMonteCarlo(SHORT, 10),
}


@pytest.fixture(scope="module")
def model():
    return pv.LinearGaussian.random(12, 4, NOISE, seed=1)


@pytest.fixture(scope="module")
def linear(model):
    layer = nn.Linear(4, 12).double()
    layer.load_state_dict({"weight": model.weight.data, "bias": model.bias.data})
    return layer


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_linear_decoder_has_its_exact_log_prob(name, model, linear):
    x = model.simulate(30, seed=2)
    evidence = pv.log_prob_of(linear, x, noise=NOISE, estimator=ESTIMATORS[name])
    assert evidence.mean == pytest.approx(model.log_evidence(x).mean().item(), abs=0.05)
    assert evidence.method.startswith("noise 0.5, ")
    assert (evidence.gap is not None) == (name == "bdmc")


def test_a_wrong_noise_is_seen(model, linear):
    x = model.simulate(30, seed=2)
    wrong = pv.log_prob_of(linear, x, noise=0.6, estimator=SHORT)
    exact = model.log_evidence(x).mean().item()
    assert abs(wrong.mean - exact) > 0.1


@pytest.fixture(scope="module")
def choice(model, linear):
    return choose_noise(linear, model.simulate(60, seed=3), estimator=pv.AutomaticSampling())


def test_the_chosen_noise_is_that_of_highest_exact_likelihood(choice, model):
    """The curve that was searched is the exact one, and its highest point the exact maximum."""
    x = model.simulate(60, seed=3)

    def exact(scale):
        other = pv.LinearGaussian(model.weight.data, model.bias.data, scale)
        return other.log_evidence(x).mean().item()

    for scale, value in zip(choice.scales, choice.log_prob, strict=True):
        assert value == pytest.approx(exact(scale), abs=0.05)
    best = max(exact(math.exp(step / 200)) for step in range(-200, 0))
    # What the search says that its last step may leave.
    assert exact(choice.scale) > best - 0.05
    assert choice.num_data == 60
    assert choice.warning is None


def test_noise_is_chosen_on_validation_data(model, linear, monkeypatch):
    # A quarter of the temperatures: the choice errs by the data's 0.05 and not by annealing.
    monkeypatch.setattr(_noise, "_SEARCH", pv.AnnealedImportanceSampling(50, 4, 2))
    x = model.simulate(10, seed=4)
    # Of the noise only: how well log p(x) is estimated does not matter.
    rough = pv.AnnealedImportanceSampling(5, 2, leapfrog_steps=1)
    evidence = pv.log_prob_of(linear, x, valid=model.simulate(25, seed=3), estimator=rough)
    assert "(chosen on 25 validation data), annealed importance sampling" in evidence.method
    # With 300 values, the standard error of log s is about 1 / sqrt(2 (300 - 100)).
    scale = float(evidence.method.split()[1])
    assert math.log(scale / NOISE) == pytest.approx(0, abs=4 * 0.05)


def test_a_choice_shows_what_was_tried(choice):
    assert str(choice).splitlines()[0] == f"noise {choice.scale:.4g}, chosen on 60 validation data"
    assert len(choice.to_frame()) == len(choice.scales)
    assert choice.summary()["scale"] == choice.scale


class Images(nn.Module):
    """As generators of images are written: z of one pixel, batch norm, output of their shape."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 2, 2), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z):
        return self.layers(z)


@pytest.mark.parametrize("shape", [(16,), (1, 4, 4), (4, 4)])
def test_a_generator_of_images_takes_data_of_any_of_their_shapes(shape):
    torch.manual_seed(0)
    decoder = Images()
    x = torch.rand(5, *shape)
    assert find_latent(decoder) == 3
    evidence = pv.log_prob_of(decoder, x, noise=0.3)
    # Batch norm has kept its statistics, and the mode that it was in.
    assert decoder.training
    assert bool((decoder.layers[1].running_mean == 0).all())
    flat = pv.log_prob_of(decoder, x.flatten(1), noise=0.3)
    torch.testing.assert_close(evidence.log_prob, flat.log_prob)


def test_one_latent_is_integrated():
    """Two dimensions or fewer need no draws: the number is that of a grid."""
    decoder = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(4, 3)
    evidence = pv.log_prob_of(decoder, x, noise=0.7)
    z = torch.linspace(-8, 8, 4001).unsqueeze(-1)
    with torch.no_grad():
        likelihood = dist.Normal(decoder(z), 0.7).to_event(1).log_prob(x.unsqueeze(1))
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).squeeze(-1)
    exact = (likelihood + log_prior).logsumexp(-1) + math.log(16 / 4000)
    assert evidence.direction == "exact"
    torch.testing.assert_close(evidence.log_prob.float(), exact, atol=1e-3, rtol=0)


def test_probabilities_and_a_distribution_are_the_same_model():
    torch.manual_seed(0)
    network = nn.Linear(2, 5)
    x = (torch.rand(6, 5) > 0.5).float()
    means = pv.log_prob_of(nn.Sequential(network, nn.Sigmoid()), x, noise="bernoulli")
    module = pv.log_prob_of(pv.BernoulliDecoder(network), x)
    torch.testing.assert_close(means.log_prob, module.log_prob, atol=1e-4, rtol=0)


def test_a_prior_of_ones_own_moves_the_data(model, linear):
    x = model.simulate(10, seed=2)

    def shifted():
        return dist.Normal(torch.ones(4, dtype=torch.float64), 1.0).to_event(1)

    evidence = pv.log_prob_of(linear, x, shifted, noise=NOISE)
    moved = x - model.weight.data.sum(1)
    exact = model.log_evidence(moved).mean().item()
    assert evidence.mean == pytest.approx(exact, abs=0.05)


def test_the_model_of_a_decoder_draws_from_its_prior_and_noise(model, linear, significance):
    x = model.simulate(3)
    made = decoder_model(linear, x, noise=NOISE)
    torch.manual_seed(0)
    drawn = made.generate(20_000).sample()
    exact = (model.weight @ model.weight.T).diagonal() + NOISE**2
    centred = (drawn - model.bias).square().detach()
    split = significance.split(len(exact))
    for column, expected in zip(centred.T, exact, strict=True):
        split.require_equal(mean_of(column), expected.item())


X = torch.rand(4, 6)


@pytest.mark.parametrize(
    ("decoder", "given", "message"),
    [
        (nn.Linear(2, 6), {}, "whose noise is not known: give noise=SD"),
        (nn.Linear(2, 5), {"noise": 1.0}, "2 to 5 values, shape (5,), and a datum has 6"),
        (nn.Linear(2, 6), {"noise": -1.0}, "noise must be positive"),
        (nn.Linear(2, 6), {"noise": "bernoulli"}, "takes a decoder of probabilities"),
        (nn.Linear(2, 6), {"noise": 1.0, "latent": 3}, "give latent=N or a prior"),
        (nn.Conv2d(2, 6, 1), {"noise": 1.0}, "cannot be told by the decoder's first layer"),
        (lambda z: z, {"noise": 1.0}, "give latent=N, or a prior"),
        (lambda z: 3, {"noise": 1.0, "latent": 2}, "it returned a int"),
        (pv.BernoulliDecoder(nn.Linear(2, 6)), {"noise": 1.0}, "leave noise out"),
        (pv.BernoulliDecoder(nn.Linear(2, 5)), {}, "event shape (5,), and a datum has shape (6,)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(decoder, given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        pv.log_prob_of(decoder, X, **given)
    assert "\n" not in str(caught.value)


def test_a_distribution_has_no_noise_to_choose():
    with pytest.raises(ValueError, match="a spread of its own: leave noise out"):
        choose_noise(pv.NormalDecoder(nn.Linear(2, 6)), X)
