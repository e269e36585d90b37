"""What every estimator refuses, and what none asks for that plays no part."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
)
from ppl_vae.evidence.annealing import AnnealedImportanceSampling
from ppl_vae.evidence.chunks import Call, Purpose, require_guide
from ppl_vae.evidence.unfinished import Part
from ppl_vae.particles import ChunkSize, Programs

X = torch.linspace(-1, 1, 8, dtype=torch.float64)
SAMPLERS = [
    ImportanceSampling(100, max_plate_nesting=2),
    ParetoSmoothed(100),
    Jackknife(32),
    SUMO(4, 4),
    DefensiveSampling(20),
    AdaptiveSampling(0.5),
]
ANNEALING = AnnealedImportanceSampling(3, 2, 1)


def normal(loc=0.0):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), 1.0)


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", normal(pyro.sample("z", normal())), obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", normal())


def in_a_plate_more(x):
    with pyro.plate("extra", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", normal())


def likelihood_over_a_plate(x):
    with pyro.plate("data", len(x), dim=-1):
        with pyro.plate("extra", 3, dim=-2):
            z = pyro.sample("z", normal())
        pyro.sample("x", normal(z), obs=x)


def guide_over_a_plate(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(3, 1, dtype=torch.float64), 1.0))


def latent_over_a_plate(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, 1, dtype=torch.float64), 1.0))
        pyro.sample("x", normal(z.sum(-2, keepdim=True)), obs=x)


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ((model, in_a_plate_more), "a plate of 3 at dim -2 in the guide and in no plate besides"),
        ((likelihood_over_a_plate, in_a_plate_more), "where it stands in no plate there"),
        ((latent_over_a_plate, guide_over_a_plate), "where it stands in no plate there"),
    ],
)
def test_a_dimension_that_is_no_plate_of_the_site_is_refused(programs, message):
    with pytest.raises(ValueError, match=message):
        ImportanceSampling(50, max_plate_nesting=2)(*programs, X)


def some_rows(x):
    with pyro.plate("data", 8, subsample_size=5) as index:
        z = pyro.sample("z", normal())
        pyro.sample("x", normal(z), obs=x[index])


def guide_of_some_rows(x):
    with pyro.plate("data", 8, subsample_size=5):
        pyro.sample("z", normal())


@pytest.mark.parametrize("estimator", [*SAMPLERS, ANNEALING], ids=lambda e: type(e).__name__)
def test_every_estimator_refuses_a_part_of_the_rows(estimator):
    with pytest.raises(ValueError, match="plate 'data' subsamples"):
        estimator(some_rows, guide_of_some_rows, X)
    assert len(estimator(model, guide, X)) == len(X)


@pytest.mark.parametrize("estimator", SAMPLERS, ids=lambda e: type(e).__name__)
def test_samplers_need_a_guide_that_samples(estimator):
    with pytest.raises(ValueError, match="guide misses the model's latent site 'z'"):
        estimator(model, lambda x: None, X)


def test_no_guide_where_draws_come_from_one_is_told_in_a_line():
    with pytest.raises(ValueError, match=r"guide=None: importance sampling .* give one, or take"):
        require_guide(None)


def test_annealing_from_the_prior_needs_no_guide():
    assert len(ANNEALING(model, None, X)) == len(X)


@pytest.mark.parametrize(("features", "rows"), [(784, 2000), (1000, 2000), (100_000, 20)])
def test_wide_data_have_fewer_rows_in_a_chunk(features, rows):
    size = ChunkSize(5000)
    x = torch.zeros(1, 1).expand(3, features)
    assert size.rows_for(x, torch.device("cpu")) == rows
    assert size.data_for(rows, 3) == max(1, min(3, rows // 500))
    assert ChunkSize(5000, 7).rows_for(x, torch.device("cpu")) == 7


def test_out_of_memory_goes_on_with_half_the_rows():
    def estimate(limit, look, x, streams):
        if look.rows > limit:
            raise MemoryError
        with streams.stream(Purpose.FORWARD):
            return Part({"draw": torch.rand(len(x))})

    found = {}
    for rows, limit in ((4, 4), (8, 4)):
        call, size = Call(), ChunkSize(1, None, cpu=rows)
        with call.open(Programs(model, guide), X, size) as look:
            found[rows] = call.by_chunk(look, "test", lambda *a, k=limit: estimate(k, *a))
    assert torch.equal(found[8].columns["draw"], found[4].columns["draw"])
    assert found[8].identity == found[4].identity
    assert found[8].identity.chunk_rows == 4
