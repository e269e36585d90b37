"""A model with dropout has its exact log p(x) however it is written, and looking changes nothing.

In evaluation mode dropout is the identity: z ~ N(0, I), x ~ N(W z + b, 0.5^2 I), so that ``log p(x)
= log N(x; b, W W' + 0.25 I)``.
"""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    ImportanceSampling,
    ParetoSmoothed,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)

FEATURES, LATENT = 6, 2


class Net(nn.Module):
    """Dropout on the latents, the encoder and the decoder of a linear model."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.enc = nn.Linear(FEATURES, 2 * LATENT)
        self.dec = nn.Linear(LATENT, FEATURES)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.dec(self.drop(z)), 0.5).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.enc(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def exact(net, x):
    w, b = net.dec.weight.detach(), net.dec.bias.detach()
    return dist.MultivariateNormal(b, w @ w.T + 0.25 * torch.eye(FEATURES)).log_prob(x)


def data():
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(90, n, generator=generator) for n in (LATENT, FEATURES))
    return z @ torch.randn(LATENT, FEATURES, generator=generator) + 0.5 * noise


TRAIN, TEST = data().split([80, 10])


def methods(net):
    return net.model, net.guide


def functions(net):
    """As in Pyro's tutorials."""

    def registered(program):
        def run(x):
            pyro.module("evaluation mode", net)
            return program(x)

        return run

    return registered(net.model), registered(net.guide)


def hidden(net):
    """No reference leads to the module but the run itself."""
    nets = {"the only one": net}
    table = [nets.pop]
    net_of = functools.lru_cache(lambda: table[0]("the only one"))

    def model(x):
        net_of().model(x)

    def guide(x):
        net_of().guide(x)

    return model, guide


def handled(net):
    scaled = pyro.poutine.scale(scale=0.25)
    return scaled(net.model), scaled(net.guide)


def wrapped(net):
    def model(network, x):
        network.model(x)

    def guide(network, x):
        network.guide(x)

    return functools.partial(model, net), functools.partial(guide, network=net)


WAYS = [methods, functions, handled]
PLAIN = AnnealedImportanceSampling(30, 32, 3)
ESTIMATORS = [
    ImportanceSampling(2_000),
    ParetoSmoothed(2_000),
    PLAIN,
    SequentialMonteCarlo(AnnealedImportanceSampling(30, 64, 3)),
    ThermodynamicIntegration(AnnealedImportanceSampling(30, 16, 3), 3, 10),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.__name__)
def trained(request):
    """A net and its programs, trained by ``fit`` or by Pyro's SVI, left in training mode."""
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        model, guide = request.param(net)
        if request.param is functions:
            svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=pv.ELBO())
            for _ in range(150):
                svi.step(TRAIN)
        else:
            pv.fit(
                model, guide, pv.ELBO(), TRAIN, epochs=60, batch_size=40, learning_rate=1e-2,
                progress=False, device="cpu",
            )  # fmt: skip
    pyro.clear_param_store()
    net.train()
    return net, model, guide


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_the_exact_value(trained, estimator):
    net, model, guide = trained
    found = estimator(model, guide, TEST)
    gap = found.mean - exact(net, TEST).mean().item()
    assert abs(gap) < 2 * found.monte_carlo_error + 1e-3
    assert net.drop.training


def test_the_sandwich(trained):
    net, model, guide = trained
    found = BidirectionalMonteCarlo(PLAIN, 10)(model, guide, TEST)
    truth = exact(net, found.x).mean().item()
    assert abs(found.lower.mean - truth) < 2 * found.lower.monte_carlo_error + 2e-2
    assert abs(found.gap) < 2 * found.gap_error + 2e-2


def test_the_decomposition(trained):
    net, model, guide = trained
    found = pv.decompose(model, guide, TEST, num_particles=400)
    with torch.no_grad():
        loc, log_scale = net.enc(TEST).chunk(2, -1)
    w, b = net.dec.weight.detach(), net.dec.bias.detach()
    variance = (2 * log_scale).exp()
    mean = dist.Normal(loc @ w.T + b, 0.5).to_event(1).log_prob(TEST)
    truth = (mean - (variance @ w.square().T).sum(-1) / (2 * 0.25)).mean().item()
    likelihood = found.log_likelihood
    assert abs(likelihood.value - truth) < 2 * likelihood.monte_carlo_error
    assert net.training


@pytest.mark.parametrize("way", [functions, hidden, wrapped, handled], ids=lambda w: w.__name__)
def test_every_way_of_writing_is_found(way):
    net = Net()
    model, guide = way(net)
    if way is wrapped:
        model, guide = functools.partial(_swapped, model), functools.partial(_swapped, guide)
    found = pv.particles.Programs(model, guide).modules(TEST[:2])
    assert {id(p) for p in net.parameters()} <= {id(p) for p in found.parameters.values()}
    assert net.drop in found.modules
    assert net.drop.training


def _swapped(program, x):
    program(x=x)


def test_buffers_are_as_they_were_found():
    torch.manual_seed(0)
    net = Net()
    net.enc = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 2 * LATENT))
    net.drop = nn.Identity()
    model, guide = functions(net)
    pyro.clear_param_store()
    pv.fit(model, guide, pv.ELBO(), TRAIN, epochs=2, progress=False, device="cpu")
    assert not any(module.training for module in net.modules())
    net.train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    ImportanceSampling(20)(model, guide, TEST + 3)
    pv.decompose(model, guide, TEST + 3)
    assert net.enc[1].training
    for name, value in net.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("num_data", [1, 2, 10])
@pytest.mark.parametrize(
    "mixing",
    [
        nn.functional.normalize,
        functools.partial(torch.softmax, dim=0),
        lambda h: h - h.mean((0, 1)),
        lambda h: nn.BatchNorm1d(2, track_running_stats=False).eval()(h.reshape(-1, 2)).view_as(h),
    ],
    ids=["normalize", "softmax", "mean", "batch norm"],
)
def test_a_model_that_mixes_data_or_particles_is_named(mixing, num_data):
    """Dimensions of an image or a row, counted from the front, are those of particles and data."""
    net = Net()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net.dec(mixing(z)), 0.5).to_event(1), obs=x)

    message = "'x' of the model has another log-density when other|more than 1 value per channel"
    with pytest.raises(ValueError, match=message):
        ImportanceSampling(20)(model, net.guide, TEST[:num_data])


def test_randomness_that_cannot_be_switched_off_is_named():
    net = Net()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            z = nn.functional.dropout(z, 0.3)
            pyro.sample("x", dist.Normal(net.dec(z), 0.5).to_event(1), obs=x)

    with pytest.raises(ValueError, match="site 'x' of the model has another log-density when run"):
        ImportanceSampling(20)(model, net.guide, TEST)
