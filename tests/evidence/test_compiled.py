"""Compiled log-weights and gradients: the numbers of the programs themselves."""

import pyro
import pytest
import torch
from programs import binary_data, binary_vae
from pyro import distributions as dist
from torch import nn

import ppl_vae as pv
from ppl_vae import _kernels, capture
from ppl_vae.particles import Programs, Replays, count_evaluations

ANNEALING = pv.AnnealedImportanceSampling(6, 4, 2, rows=40)
ESTIMATORS = {
    "importance": pv.ImportanceSampling(130, rows=100),
    "smoothed": pv.ParetoSmoothed(150, rows=100),
    "jackknife": pv.Jackknife(96, rows=60),
    "adaptive": pv.AdaptiveSampling(target=0.05, first=100, most=400, rows=100),
    "annealed": ANNEALING,
    "annealed from the guide": pv.AnnealedImportanceSampling(
        6, 4, 2, start="guide", mass="guide", spacing="adaptive", rows=40
    ),
    "sequential": pv.SequentialMonteCarlo(pv.AnnealedImportanceSampling(6, 16, 2, rows=160)),
    "thermodynamic": pv.ThermodynamicIntegration(ANNEALING),
}
X = binary_data(13)
pytestmark = pytest.mark.usefixtures("short_pilot")


@pytest.fixture
def graphs(recorded, monkeypatch):
    """Everything is recorded, and replayed as it was recorded; a list of what was."""
    made = []

    def kept(graph, inputs):
        made.append(graph)
        return graph

    monkeypatch.setattr(capture, "compile_graph", kept)
    monkeypatch.setattr(_kernels, "_COST", 0.0)
    return made


def plain(monkeypatch):
    monkeypatch.setattr(_kernels, "_COST", float("inf"))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_gives_the_same_numbers(name, graphs, monkeypatch):
    """Over several chunks, of which the last one is smaller; on one where annealing is the same."""
    vae, estimator = binary_vae(), ESTIMATORS[name]
    x = X[:6] if name in ("annealed from the guide", "sequential", "thermodynamic") else X
    with count_evaluations() as counted:
        found = estimator(vae.model, vae.guide, x)
    assert graphs
    plain(monkeypatch)
    with count_evaluations() as expected_count:
        expected = estimator(vae.model, vae.guide, x)
    for column in ("log_prob", "standard_error", "effective_sample_size"):
        assert torch.equal(getattr(found, column), getattr(expected, column))
    assert found.identity == expected.identity
    assert counted.rows == expected_count.rows


def test_a_sandwich_too(graphs, monkeypatch):
    vae, estimator = binary_vae(), pv.BidirectionalMonteCarlo(ANNEALING, num_simulated=7)
    found = estimator(vae.model, vae.guide, X)
    assert graphs
    plain(monkeypatch)
    expected = estimator(vae.model, vae.guide, X)
    for side in ("lower", "upper"):
        assert torch.equal(getattr(found, side).log_prob, getattr(expected, side).log_prob)


def test_one_graph_serves_all_chunks_of_a_shape(graphs):
    vae = binary_vae()
    ANNEALING(vae.model, vae.guide, X)
    # 13 data in chunks of 10 and 3; pilots have other shapes than chains, or the same.
    assert len(graphs) <= 4
    graphs.clear()
    pv.ImportanceSampling(130, rows=100)(vae.model, vae.guide, X)
    # One datum in a chunk: pieces of 100 and of 30 particles.
    assert len(graphs) == 2


@pytest.mark.parametrize(
    "estimator",
    [
        pv.ImportanceSampling(200, rows=2600),
        pv.AnnealedImportanceSampling(6, 4, 2, start="guide", rows=52),
        # Six steps at once, which take longest to compile.
        pytest.param(pv.AnnealedImportanceSampling(6, 4, 6, rows=52), marks=pytest.mark.compiler),
    ],
    ids=["importance", "annealed from the guide", "annealed"],
)
def test_compiled_in_earnest_they_are_within_rounding(estimator, monkeypatch):
    vae, made = binary_vae(), []
    compiled = capture.compile_graph
    monkeypatch.setattr(_kernels, "_COST", 0.0)
    monkeypatch.setattr(
        capture, "compile_graph", lambda *given: made.append(compiled(*given)) or made[-1]
    )
    found = estimator(vae.model, vae.guide, X)
    assert made
    assert None not in made
    plain(monkeypatch)
    expected = estimator(vae.model, vae.guide, X)
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0, atol=1e-5)


class Level(nn.Module):
    """A positive latent, the lowest value that x may have."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Pareto(z, torch.full((1,), 2.0)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.full((1,), -0.5), 1.0).to_event(1))


def test_a_weight_of_0_is_one(graphs):
    """Pareto's density is a number below its scale too, where nothing looks: no graph is taken."""
    level, x = Level(), torch.tensor([[0.3], [1.0], [2.5]])
    found = pv.ImportanceSampling(40_000)(level.model, level.guide, x)
    # p(x) = 2 / x^3 E[z^2; z < x] = 2 / x^3 exp(2) Phi(log x - 2).
    below = torch.distributions.Normal(0.0, 1.0).cdf(x.log() - 2)
    exact = (2 * below / x**3).log().squeeze(1) + 2
    assert ((found.log_prob - exact).abs() < 5 * found.standard_error).all()
    assert not graphs or not Replays(Programs(level.model, level.guide).modules(x), 1).log_weights(
        Programs(level.model, level.guide), x, 50, 100
    )


def test_data_outside_of_the_support_are_named(graphs):
    vae = binary_vae()
    x = X.clone()
    x[11, 2] = 0.5
    with pytest.raises(ValueError, match="Bernoulli likelihood takes data in"):
        pv.ImportanceSampling(130, rows=100)(vae.model, vae.guide, x)


def test_what_is_not_a_number_is_named(graphs):
    vae = binary_vae()
    with torch.no_grad():
        next(vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="observed site 'x'"):
        pv.ImportanceSampling(130, rows=100)(vae.model, vae.guide, X)
