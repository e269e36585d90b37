"""What every estimator refuses, and what none asks for that plays no part."""

import math
from dataclasses import replace

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from significance import Estimate, mean_of
from torch.utils.data import TensorDataset

import ppl_vae as pv
from ppl_vae.diagnostics import rate_distortion
from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    AutomaticSampling,
    BidirectionalMonteCarlo,
    Call,
    DefensiveSampling,
    Enumeration,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
    Purpose,
    Quadrature,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)
from ppl_vae.evidence._loop import Unfinished
from ppl_vae.particles import ChunkSize, PlateNestingError, Programs, draw_particles

# What is refused and what is the same does not depend on how well step sizes are tuned.
pytestmark = pytest.mark.usefixtures("short_pilot")

X = torch.linspace(-1, 1, 8, dtype=torch.float64)
SAMPLERS = [
    ImportanceSampling(100),
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
        ImportanceSampling(50)(*programs, X)


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
def test_a_part_of_more_rows_than_a_chunk_has_is_refused(estimator):
    with pytest.raises(ValueError, match="plate 'data' subsamples from more rows than the 1 that"):
        replace(estimator, rows=1)(some_rows, guide_of_some_rows, X)


@pytest.mark.parametrize("estimator", [*SAMPLERS, ANNEALING], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("num_rows", [8, 30, 40])
def test_a_part_of_the_rows_is_refused_whichever_are_drawn(estimator, num_rows):
    """Of 30 rows a plate draws 5, which are among those of a chunk in some seeds and not in others.

    The guide takes as many without drawing, so that the model draws anew in each run.
    """

    def some_of_30(x):
        with pyro.plate("data", 30, subsample_size=5) as index:
            z = pyro.sample("z", normal())
            pyro.sample("x", normal(z), obs=x[index])

    def guide_of_5(x):
        with pyro.plate("data", 5):
            pyro.sample("z", normal())

    def guide_of_some(x):
        with pyro.plate("data", 30, subsample_size=5):
            pyro.sample("z", normal())

    for seed in range(30):
        torch.manual_seed(seed)
        for own_guide in (guide_of_5, guide_of_some):
            with pytest.raises(ValueError, match="plate 'data' subsamples"):
                estimator(some_of_30, own_guide, torch.zeros(num_rows, dtype=X.dtype))


def test_training_refuses_a_part_of_more_rows_than_a_batch_has():
    with pytest.raises(ValueError, match="plate 'data' subsamples from more rows than the 2 that"):
        pv.fit(some_rows, guide_of_some_rows, pv.ELBO(), X, batch_size=2, epochs=1)


@pytest.mark.parametrize("estimator", SAMPLERS, ids=lambda e: type(e).__name__)
def test_samplers_need_a_guide_that_samples(estimator):
    with pytest.raises(ValueError, match="guide misses the model's latent site 'z'"):
        estimator(model, lambda x: None, X)


# z ~ N(0, 1), x ~ N(z, 1) twice; or z ~ Bernoulli(0.3) in place of it.
ROWS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
FORMS = {
    "double": ROWS,
    "whole numbers": ROWS.long(),
    "numpy": ROWS.numpy(),
    "numpy of whole numbers": ROWS.long().numpy(),
    "data frame": pd.DataFrame(ROWS.numpy(), columns=["a", "b"]),
    "tensor data set": TensorDataset(ROWS),
}
DATA = pv.load_dataset(ROWS.repeat(4, 1))
REFUSED = {
    "lists": (ROWS.tolist(), TypeError, "x is a list: give a tensor, rows first"),
    "data set": (DATA, TypeError, "x is a whole data set .*: give data.train"),
    "words": (pd.DataFrame({"a": ["x", "y"]}), ValueError, "x has 1 columns that are no numbers"),
}
WITHOUT_GUIDE = [
    AnnealedImportanceSampling(8, 32, 2),
    SequentialMonteCarlo(AnnealedImportanceSampling(8, 32, 2), 8),
    ThermodynamicIntegration(AnnealedImportanceSampling(10, 24, 2), 3, 3),
    Quadrature(),
    Enumeration(),
]


def two_normal(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", normal())
        pyro.sample("x", normal(z.unsqueeze(-1)).expand([*z.shape, 2]).to_event(1), obs=x)


def two_binary(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
        pyro.sample("x", normal(z.unsqueeze(-1)).expand([*z.shape, 2]).to_event(1), obs=x)


def exact_of(estimator, x=ROWS):
    if isinstance(estimator, Enumeration):
        each = [normal(z).log_prob(x).sum(-1) for z in (0.0, 1.0)]
        return torch.logaddexp(each[0] + math.log(0.7), each[1] + math.log(0.3))
    covariance = torch.eye(2, dtype=torch.float64) + 1
    return dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance).log_prob(x)


def model_of(estimator):
    return two_binary if isinstance(estimator, Enumeration) else two_normal


def by_name(estimator):
    return type(estimator).__name__


@pytest.mark.parametrize("estimator", WITHOUT_GUIDE, ids=by_name)
def test_what_needs_no_guide_is_right_without_one(estimator, significance):
    found = estimator(model_of(estimator), None, ROWS)
    exact = exact_of(estimator)
    assert len(found) == len(ROWS)
    if found.direction == "exact":
        torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=1e-6)
    else:
        error = Estimate((found.log_prob - exact).mean().item(), found.monte_carlo_error)
        significance.require_equal(error, 0.0)
        assert found.monte_carlo_error < 0.2


def test_a_sandwich_needs_no_guide(significance):
    found = BidirectionalMonteCarlo(AnnealedImportanceSampling(20, 16, 3), 30)(
        two_normal, None, ROWS
    )
    exact = exact_of(found, found.x)
    assert len(found) == 30
    significance = significance.split(2)
    for side, sign in ((found.lower, 1), (found.upper, -1)):
        # The exponential of either side is unbiased; all of a datum's chains go back from one z.
        significance.require_equal(mean_of((sign * (side.log_prob - exact)).exp()), 1.0)


def test_a_rate_distortion_curve_needs_no_guide(significance):
    found = rate_distortion(
        two_normal, None, ROWS, (1.0,), annealing=AnnealedImportanceSampling(8, 64, 2)
    )
    log_normalizer = found.points[0].log_normalizer
    value = Estimate(log_normalizer.value, log_normalizer.monte_carlo_error)
    significance.require_equal(value, exact_of(None).mean().item())
    assert found.guide_rate is None
    assert "guide" not in str(found)
    assert found.summary()["guide_rate"] is None
    assert "guide_rate" not in found.to_datatree()["rate_distortion"].attrs
    assert found.plot().axes, "drawn all the same"


@pytest.mark.parametrize(
    "needing",
    [
        *SAMPLERS[:5],
        AnnealedImportanceSampling(3, 2, 1, start="guide"),
        SequentialMonteCarlo(AnnealedImportanceSampling(3, 4, 1, mass="guide"), 2),
        rate_distortion,
    ],
    ids=lambda e: getattr(e, "__name__", type(e).__name__),
)
def test_what_needs_a_guide_says_so(needing):
    with pytest.raises(ValueError, match=r"^guide=None[:,][^\n]* give (one|the guide)[^\n]*$"):
        needing(two_normal, None, ROWS)


@pytest.mark.parametrize(
    "estimator",
    [
        *SAMPLERS[:5],
        AnnealedImportanceSampling(2, 2, 1),
        SequentialMonteCarlo(AnnealedImportanceSampling(2, 4, 1), 2),
        ThermodynamicIntegration(AnnealedImportanceSampling(2, 2, 1), 1, 1),
        *WITHOUT_GUIDE[-2:],
    ],
    ids=by_name,
)
def test_every_estimator_takes_rows_in_every_form(estimator):
    programs = model_of(estimator), guide
    expected = estimator(*programs, ROWS)
    for form in FORMS.values():
        found = estimator(*programs, form)
        assert torch.equal(found.log_prob, expected.log_prob)
    for form, kind, message in REFUSED.values():
        with pytest.raises(kind, match=message) as error:
            estimator(*programs, form)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("estimator", WITHOUT_GUIDE, ids=by_name)
def test_those_without_a_guide_refuse_a_part_of_the_rows(estimator):
    with pytest.raises(ValueError, match="plate 'data' subsamples"):
        estimator(some_rows, None, X)


def test_a_sandwich_refuses_a_part_of_the_rows():
    with pytest.raises(ValueError, match="plate 'data' subsamples"):
        BidirectionalMonteCarlo(ANNEALING, 3)(some_rows, None, X)


def without_data(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", normal(pyro.sample("z", normal())))


def with_a_global_latent(x):
    shift = pyro.sample("shift", normal())
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", normal(pyro.sample("z", normal()) + shift), obs=x)


def guide_of_all(x):
    pyro.sample("shift", normal())
    guide(x)


@pytest.mark.parametrize("estimator", [*SAMPLERS[:1], ANNEALING, Quadrature()], ids=by_name)
def test_data_that_are_not_observed_are_missed(estimator):
    reason = r"^the model observes nothing: give its likelihood site obs=x \(its sites: 'z', 'x'\)"
    with pytest.raises(ValueError, match=reason):
        estimator(without_data, guide, X)


def with_a_global_latent_and_events(x):
    """Its shift of each particle meets the event's dimension, not the data's."""
    shift = pyro.sample("shift", normal())
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", normal())
        loc = z.unsqueeze(-1).expand(*z.shape, 3) + shift
        pyro.sample("x", normal(loc).to_event(1), obs=x.unsqueeze(-1).expand(len(x), 3))


@pytest.mark.parametrize("model", [with_a_global_latent, with_a_global_latent_and_events])
@pytest.mark.parametrize(
    "estimator", [*SAMPLERS[:1], ANNEALING, Quadrature(), AutomaticSampling()], ids=by_name
)
def test_a_latent_that_all_data_share_is_no_part_of_one_datum(estimator, model):
    reason = "^site 'shift' stands outside the data plate.* what all data share .* a parameter"
    with pytest.raises(ValueError, match=reason):
        estimator(model, guide_of_all, X)


def two_measurements(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", normal())
        with pyro.plate("measurement", 2, dim=-2):
            pyro.sample("x", normal(z), obs=x.mT)


def test_plates_left_of_the_datas_are_found_and_else_named(significance):
    found = ImportanceSampling(2000)(two_measurements, guide, ROWS)
    error = Estimate((found.log_prob - exact_of(None)).mean().item(), found.monte_carlo_error)
    significance.require_equal(error, 0.0)
    exact = Quadrature()(two_measurements, None, ROWS).log_prob
    torch.testing.assert_close(exact, exact_of(None), rtol=0, atol=1e-6)
    assert draw_particles(two_measurements, guide, ROWS, 3).log_weight.shape == (3, len(ROWS))
    reason = r"^the programs use 2 plate dimensions, .* announced: give Programs\(model, guide, max"
    with pytest.raises(PlateNestingError, match=reason):
        Programs(two_measurements, guide).draw(ROWS)
    assert Programs(two_measurements, guide).on(ROWS).max_plate_nesting == 2


@pytest.mark.parametrize(("features", "rows"), [(784, 6000), (1000, 6000), (100_000, 60)])
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
            return {"draw": torch.rand(len(x))}

    found = {}
    for rows, limit in ((4, 4), (8, 4)):
        call, size = Call(), ChunkSize(1, None, cpu=rows)
        with call.open(Programs(model, guide), X, size) as look:
            found[rows] = call.by_chunk(look, "test", lambda *a, k=limit: estimate(k, *a))
    assert torch.equal(found[8].columns["draw"], found[4].columns["draw"])
    assert found[8].identity == found[4].identity
    assert found[8].identity.chunk_rows == 4


def test_out_of_memory_after_some_chunks_starts_again_with_a_checkpoint_too(tmp_path):
    """The chunks that are kept are of more rows at once, and of no use with fewer."""

    def estimate(memory, look, x, streams):
        if look.rows == 2 and streams.first >= memory:
            raise MemoryError
        with streams.stream(Purpose.FORWARD):
            return {"draw": torch.rand(len(x))}

    drawn = []
    for rows, memory, checkpoint in ((1, 99, None), (2, 2, tmp_path / "unfinished")):
        call, size = Call(checkpoint=checkpoint), ChunkSize(1, None, cpu=rows)
        with call.open(Programs(model, guide), X, size) as look:
            results = call.by_chunk(look, "test", lambda *a, k=memory: estimate(k, *a))
        drawn.append((results.columns["draw"], results.identity))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]


def test_adaptive_sampling_gives_one_value_a_datum_where_memory_runs_out_in_a_pass(monkeypatch):
    """Chunks of a pass that starts again are not kept beside those of the second."""
    events = []

    def short_of_memory(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", normal())
            if "chunk" in events and z.numel() > 100:
                events.append("error")
                raise MemoryError
            pyro.sample("x", normal(z), obs=x)

    def add(self, columns, kept=Unfinished.add):
        events.append("chunk")
        kept(self, columns)

    monkeypatch.setattr(ChunkSize, "rows_for", lambda *_: 200)
    monkeypatch.setattr(Unfinished, "add", add)
    found = AdaptiveSampling(0.2, first=50)(short_of_memory, guide, X, seed=0)
    assert events[:2] == ["chunk", "error"]
    assert len(found) == len(X)
