"""Guides that draw in a part of the prior's support, and likelihoods whose support z decides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from significance import Estimate
from torch.distributions import AffineTransform, ExpTransform, Transform

from ppl_vae.arviz import evidence_from_datatree, load_evidence
from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    AutomaticSampling,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
    Quadrature,
    Sharded,
    ThermodynamicIntegration,
)
from ppl_vae.evidence._sharded import concatenate
from ppl_vae.netcdf import save_netcdf
from ppl_vae.particles import in_words
from ppl_vae.particles._supports import core_of, support_gap, support_of

NEVER = torch.tensor([0.0, math.inf])
COUNT = torch.tensor([9.0], dtype=torch.float64)
EXACT = -5.7171
"""Of the negative binomial that a Poisson with a Gamma rate is."""


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def counts(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(number(2.5), number(1.3)))
        pyro.sample("x", dist.Poisson(z), obs=x)


def below_two(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Uniform(number(0.0), number(2.0)))


def everywhere(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(number(8.0), number(2.0)))


@pytest.mark.parametrize(
    "estimator",
    [
        ImportanceSampling(4000),
        ParetoSmoothed(400),
        Jackknife(400),
        SUMO(20),
        AdaptiveSampling(0.1),
        Sharded(ImportanceSampling(100), 1),
    ],
    ids=repr,
)
def test_a_guide_on_a_part_of_the_priors_support_is_a_bound_and_says_so(estimator):
    found = estimator(counts, below_two, COUNT)
    assert found.direction == "lower"
    assert found.log_prob.item() < EXACT - 5
    assert found.warning.startswith(
        "not to be trusted: at latent site 'z' the guide's support, numbers from 0 to 2, is a part "
        "of the prior's, numbers from 0 on"
    )
    assert "more particles" not in found.warning
    if found.doubt is not None:
        assert found.doubt.isinf().all()
        assert math.isinf(found.mean_doubt)
        assert "may be low by" not in str(found)
    (ax,) = found.plot().axes
    arrows = [line for line in ax.lines if line.get_marker() == "^"]
    assert [len(line.get_xdata()) for line in arrows] == (
        [] if found.doubt is None else [len(found)]
    )
    assert estimator(counts, everywhere, COUNT).support_gap is None


def test_the_defensive_mixture_reaches_what_the_guide_does_not(significance):
    exact = dist.GammaPoisson(number(2.5), number(1.3)).log_prob(COUNT).item()
    assert exact == pytest.approx(EXACT, abs=1e-3)
    found = DefensiveSampling(20_000)(counts, below_two, COUNT)
    assert found.support_gap is None
    significance.require_equal(Estimate(found.mean, found.monte_carlo_error), exact)
    assert found.monte_carlo_error < 0.1


def test_one_datum_in_a_later_chunk_is_found():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(number(0.0), number(4.0)))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(number(0.0), 4 - 2 * (x == 9)))

    x = torch.tensor([3.0, 3.0, 3.0, 9.0], dtype=torch.float64)
    found = ImportanceSampling(10, rows=10)(model, guide, x)
    assert "numbers from 0 to 2, is a part" in found.support_gap
    assert ImportanceSampling(10, rows=10)(model, guide, x[:3]).support_gap is None


def test_annealing_refuses_such_a_guide():
    annealing = AnnealedImportanceSampling(4, 2, 1, start="guide")
    with pytest.raises(ValueError, match=r"guide site 'z' has support .* on the prior's support"):
        annealing(counts, below_two, COUNT)


def test_the_doubt_is_kept_with_the_numbers(tmp_path):
    found = ImportanceSampling(100)(counts, below_two, COUNT)
    sound = ImportanceSampling(100)(counts, everywhere, COUNT)
    tree = found.to_datatree()
    save_netcdf(tree, tmp_path / "found.nc")
    read = [evidence_from_datatree(tree), load_evidence(tmp_path / "found.nc")]
    for kept in (*read, concatenate([sound, found], None)):
        assert kept.support_gap == found.support_gap
        assert (kept.direction, kept.advice) == (found.direction, found.advice)
        assert "is a part of the prior's" in kept.warning
    assert found.summary()["support_gap"] == found.support_gap


@pytest.mark.parametrize(
    ("prior", "guide", "gap"),
    [
        (dist.Normal(0.0, 1.0), dist.StudentT(3.0), None),
        (dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0), "numbers from 0 on"),
        (dist.Gamma(1.0, 1.0), dist.LogNormal(0.0, 1.0), None),
        (dist.Beta(1.0, 1.0), dist.Uniform(0.0, 1.0), None),
        (dist.Beta(1.0, 1.0), dist.Uniform(torch.zeros(3), torch.ones(3)), None),
        (dist.Uniform(0.0, 1.0), dist.Uniform(torch.zeros(2), torch.tensor([1.0, 0.5])), "to 0.5"),
        (dist.Uniform(0.0, 1.0), dist.Uniform(-1.0, 2.0), None),
        (dist.Poisson(1.0), dist.Geometric(0.5), None),
        (dist.Poisson(1.0), dist.Binomial(3, 0.5), "whole numbers from 0 to 3"),
        (dist.Categorical(torch.ones(3)), dist.Categorical(torch.ones(2)), "from 0 to 1"),
        (dist.Dirichlet(torch.ones(3)), dist.Dirichlet(torch.ones(3)), None),
        (
            dist.Categorical(torch.ones(3)),
            dist.Categorical(torch.tensor([1.0, 1, 0])),
            "gives prob",
        ),
        (dist.Categorical(torch.tensor([1.0, 0])), dist.Categorical(torch.tensor([1.0, 0])), None),
        (
            dist.OneHotCategorical(torch.ones(2)),
            dist.OneHotCategorical(logits=-NEVER),
            "gives prob",
        ),
        (
            dist.Bernoulli(0.5 * torch.ones(2)).to_event(1),
            dist.Bernoulli(torch.tensor([0.5, 1.0])).to_event(1),
            "gives",
        ),
        (dist.Bernoulli(0.5), dist.Bernoulli(logits=torch.tensor(90.0)), None),
        (dist.Bernoulli(0.5), dist.Bernoulli(logits=NEVER[1]), "gives probability 0"),
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.Dirichlet(torch.ones(3)), "Simplex"),
        (
            dist.Normal(torch.zeros(3), 1.0).to_event(1),
            dist.Uniform(torch.zeros(3), 1.0).to_event(1),
            "from 0 to 1",
        ),
    ],
)
def test_supports_are_compared_by_what_they_allow(prior, guide, gap):
    found = support_gap({"z": prior}, {"z": guide})
    assert found is None if gap is None else gap in found


def test_supports_in_words():
    assert in_words(constraints.real_vector) == "all real numbers"
    assert in_words(constraints.less_than(2.0)) == "numbers up to 2"
    ends = torch.tensor([1.0, 1.0])
    assert in_words(dist.Uniform(0 * ends, ends).support) == "numbers from 0 to 1"
    ends[1] = 2.0
    assert in_words(dist.Uniform(0 * ends, ends).support) == "Interval"


# x ~ Uniform(0, z), z ~ Gamma(2, 1): p(x) = integral from x of exp(-z) = exp(-x).
BELOW = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def below(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(number(2.0), number(1.0)))
        pyro.sample("x", dist.Uniform(number(0.0), z), obs=x)


def wide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(number(2.0), number(0.7)))


TI = ThermodynamicIntegration(AnnealedImportanceSampling(10, 32, 3), 3, 6)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(
    "estimator",
    [
        ImportanceSampling(4000),
        ImportanceSampling(2001, rows=500),
        ParetoSmoothed(4000),
        Jackknife(4000),
        DefensiveSampling(4000),
        AdaptiveSampling(0.03),
        AnnealedImportanceSampling(30, 64),
        TI,
    ],
    ids=repr,
)
def test_draws_that_x_is_impossible_under_are_weights_of_0(estimator, validated, significance):
    with pyro.validation_enabled(validated):
        found = estimator(below, wide, BELOW)
    assert found.log_prob.isfinite().all()
    total = Estimate(found.mean, found.monte_carlo_error)
    significance.require_equal(total, -BELOW.mean().item())
    assert found.monte_carlo_error < 0.1


@pytest.mark.parametrize(
    "estimator",
    [ImportanceSampling(4000), AnnealedImportanceSampling(30, 64), AutomaticSampling()],
    ids=repr,
)
def test_a_distribution_that_gives_a_number_outside_its_support(estimator, significance):
    """x ~ Pareto(exp z, 3): p(x) = 3 x^-4 E[exp(3 z); z < log x] = 3 x^-4 e^4.5 Phi(log x - 3).

    Without validation, as in annealing, torch's Pareto has a density below its scale.
    """

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(number(0.0), number(1.0)))
            pyro.sample("x", dist.Pareto(z.exp(), number(3.0)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(number(0.0), number(1.2)))

    exact = math.log(3) - 4 * BELOW.log() + 4.5 + torch.special.log_ndtr(BELOW.log() - 3)
    found = estimator(model, guide, BELOW)
    total = Estimate(found.mean, found.monte_carlo_error)
    significance.require_equal(total, exact.mean().item())
    assert found.monte_carlo_error < 0.2


def test_integration_from_draws_that_allow_no_datum_is_refused():
    x = torch.tensor([0.5, 18.0], dtype=torch.float64)
    message = r"^1 data .* under all 192 draws at b = 0, .* or ImportanceSampling\(\), .* of 0\.$"
    with pytest.raises(ValueError, match=message):
        TI(below, wide, x)


def test_one_particle_at_a_time_counts_them_as_well(significance):
    found = ImportanceSampling(400, rows=1)(below, wide, BELOW)
    total = Estimate(found.mean, found.monte_carlo_error)
    significance.require_equal(total, -BELOW.mean().item())


def test_data_outside_a_fixed_support_are_a_mistake():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(number(2.0), number(1.0)))
            pyro.sample("x", dist.Binomial(3, z / (1 + z)), obs=x)

    x = torch.tensor([1.0, 4.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"site 'x' has values outside its support, whole"):
        ImportanceSampling(10)(model, wide, x)
    # NaN lies in no support, and is not looked for among the parameters.
    x[1] = math.nan
    for program in (model, below):
        with pytest.raises(ValueError, match="the first in row 1, and the likelihood does not"):
            ImportanceSampling(10)(program, wide, x)


def transformed(base, *transforms):
    """Likelihood ``x = t(e)`` with transforms made of z, which is standard normal."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(number(0.0), number(1.0)))
            steps = [t if isinstance(t, Transform) else t(z) for t in transforms]
            x_given_z = dist.TransformedDistribution(base.expand(z.shape), steps)
            pyro.sample("x", x_given_z, obs=x)

    return model


def normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(number(0.0), number(1.2)))


def cdf(value):
    return torch.special.ndtr(value)


# p(x) = E[exp(z - x); z < x]; integral of N(log e) N(x - e) over log e; E[exp -z; exp z > x];
# P(x < z < x + 1).
LOG_E = torch.linspace(-9, 9, 4001, dtype=torch.float64)
MOVED = {
    "exponential from z on": (
        transformed(dist.Exponential(number(1.0)), lambda z: AffineTransform(z, 1.0)),
        BELOW,
        (0.5 - BELOW).exp() * cdf(BELOW - 1),
    ),
    "log-normal from z on": (
        transformed(
            dist.Normal(number(0.0), number(1.0)), ExpTransform(), lambda z: AffineTransform(z, 1.0)
        ),
        BELOW,
        torch.trapezoid(
            (dist.Normal(0.0, 1.0).log_prob(LOG_E)
             + dist.Normal(0.0, 1.0).log_prob(BELOW[:, None] - LOG_E.exp())).exp(),
            LOG_E,
        ),
    ),
    "uniform up to exp z": (
        transformed(
            dist.Uniform(number(0.0), number(1.0)), lambda z: AffineTransform(0.0, z.exp())
        ),
        BELOW,
        math.exp(0.5) * cdf(-BELOW.log() - 1),
    ),
    "uniform below z": (
        transformed(dist.Uniform(number(0.0), number(1.0)), lambda z: AffineTransform(z, -1.0)),
        BELOW - 1.5,
        cdf(BELOW - 0.5) - cdf(BELOW - 1.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(
    "estimator", [ImportanceSampling(4000), AnnealedImportanceSampling(30, 64)], ids=repr
)
@pytest.mark.parametrize("case", MOVED)
def test_a_transform_of_a_draw_moves_the_support(case, estimator, validated, significance):
    """torch gives the transform's codomain, all numbers, for the support of such a likelihood."""
    model, x, density = MOVED[case]
    with pyro.validation_enabled(validated):
        found = estimator(model, normal, x)
    total = Estimate(found.mean, found.monte_carlo_error)
    significance.require_equal(total, density.log().mean().item())
    assert found.monte_carlo_error < 0.2


@pytest.mark.parametrize("estimator", [Quadrature(), AutomaticSampling()], ids=repr)
@pytest.mark.parametrize("case", MOVED)
def test_quadrature_finds_where_such_a_support_ends(case, estimator):
    model, x, density = MOVED[case]
    found = estimator(model, normal, x)
    exact = density.log()
    assert ((found.log_prob - exact).abs() < 4 * found.standard_error + 1e-6).all()
    assert found.standard_error.max() < 0.01


def test_data_outside_a_transformed_support_that_no_draw_moves_are_a_mistake():
    model = transformed(dist.Exponential(number(1.0)), AffineTransform(1.0, 1.0))
    x = torch.tensor([1.5, 0.5], dtype=torch.float64)
    message = r"^site 'x' has values outside its support, numbers from 1 on: 0\.5\. [^\n]*$"
    with pytest.raises(ValueError, match=message):
        ImportanceSampling(10)(model, normal, x)


def test_transforms_of_vectors_that_move_a_support_are_refused_in_one_line():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(number(0.0), number(1.0)))
            base = dist.Exponential(torch.ones(*z.shape, 1).double()).to_event(1)
            shift = AffineTransform(z.unsqueeze(-1), 1.0, event_dim=1)
            pyro.sample("x", dist.TransformedDistribution(base, [shift]), obs=x)

    with pytest.raises(ValueError, match=r"^site 'x' has values that come from [^\n]*event_dim=0"):
        ImportanceSampling(100)(model, normal, BELOW.unsqueeze(-1))


def test_supports_of_transformed_distributions():
    def of(base, *transforms):
        return support_of(dist.TransformedDistribution(base, list(transforms)).to_event(1))

    one = torch.ones(2)
    exponential = dist.Exponential(one)
    assert in_words(of(exponential, AffineTransform(2.0, -1.0))) == "numbers up to 2"
    assert in_words(of(exponential, AffineTransform(2.0, 3.0), ExpTransform())) == (
        f"numbers from {math.exp(2):.4g} on"
    )
    # What torch says is right where the base fills the transform's domain, or the class knows.
    normal = dist.Normal(one, one)
    assert core_of(of(normal, AffineTransform(one, 2.0), ExpTransform())) is constraints.positive
    assert core_of(support_of(dist.LogNormal(one, one))) is constraints.positive
    assert in_words(support_of(dist.Pareto(2 * one, one))) == "numbers from 2 on"
    assert core_of(support_of(dist.Gumbel(one, one))) is constraints.real
