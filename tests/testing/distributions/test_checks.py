"""The three checks as their users meet them: what is right passes, each mistake is found."""

import pyro
import pytest
import torch
from climb import climbing
from significance import TEST_FALSE_ALARM
from torch import nn

from ppl_vae.priors import LearnedNormalPrior
from ppl_vae.randomness import seeded
from ppl_vae.testing import check_guide, check_likelihood, check_prior

from . import wrong_variants as wrong

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")

X, Z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).split([3, 2], -1)
AGREEMENT = ("density normalises", "draws follow density")


def failed(check, *subject, rungs=(), **options):
    """Rung to its line, of all rungs or of some."""
    # At the rate that right ones are tested at; a wrong one raises no false alarm.
    with climbing(*rungs), pytest.raises(AssertionError) as caught:
        check(*subject, false_alarm=TEST_FALSE_ALARM, **options)
    _, *lines = str(caught.value).splitlines()
    return {line.removeprefix("- ").split(":")[0]: line for line in lines}


def name_of(value):
    return getattr(value, "__name__", type(value).__name__)


# Of weights that do not depend on which tests were collected before.
with seeded(0):
    RIGHT = [
        wrong.OfMade(wrong.Made),
        wrong.OfMade(wrong.Made, 6),
        wrong.OfMixture(wrong.MixtureOf),
        wrong.OfMixture(wrong.MixtureOf, 5),
        wrong.Flow(),
        wrong.Flow(latent=4),
        wrong.Plain(),
        wrong.Bits(),
        wrong.Sphere(),
    ]


@pytest.mark.parametrize("prior", RIGHT, ids=name_of)
def test_a_right_prior(prior, significance):
    check_prior(prior, false_alarm=significance.rate)


def test_a_right_guide_and_a_right_likelihood(significance):
    rate = significance.split(2).rate
    check_guide(wrong.Encoder(), X, false_alarm=rate)
    check_likelihood(wrong.Decoder(), Z, false_alarm=rate)


@pytest.mark.parametrize("kind", [wrong.Bins, wrong.UndeclaredBins], ids=name_of)
def test_a_right_likelihood_of_levels(kind, significance):
    """Too many rows of levels to be summed, and no density of single features."""
    report = check_likelihood(wrong.BinsDecoder(kind), Z, false_alarm=significance.rate)
    assert report.verdict == "passed"
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    assert outcomes["density normalises"] == outcomes["draws follow density"] == "passed"


@pytest.mark.parametrize("kind", [wrong.Bins, wrong.UndeclaredBins], ids=name_of)
def test_levels_without_their_edges(kind):
    found = failed(check_likelihood, wrong.BinsDecoder(kind, edges=False), Z, rungs=AGREEMENT)
    assert set(AGREEMENT) == set(found)


def test_what_could_not_be_looked_at_has_not_passed():
    """Forty dimensions that hang together."""
    report = check_prior(wrong.OfMixture(wrong.MixtureOf, 40))
    assert report.not_looked == ("density normalises", "draws follow density")
    assert report.verdict.startswith("not passed, could not look whether density normalises, ")
    assert report.verdict in str(report).splitlines()[0]


@pytest.mark.parametrize(("kind", "rung"), wrong.MADE.items(), ids=name_of)
def test_a_distribution_with_a_mistake(kind, rung):
    assert rung in failed(check_prior, wrong.OfMade(kind), rungs=[rung])


@pytest.mark.parametrize(
    "kind", [wrong.WiderDraws, wrong.FirstWiderDraws, wrong.MeanOverDimensions], ids=name_of
)
@pytest.mark.parametrize("latent", [1, 6])
def test_draws_of_another_law_in_any_dimension(kind, latent):
    if (kind, latent) != (wrong.MeanOverDimensions, 1):
        rung = "draws follow density"
        assert rung in failed(check_prior, wrong.OfMade(kind, latent), rungs=[rung])


@pytest.mark.parametrize(("kind", "rung"), wrong.MIXTURES.items(), ids=name_of)
@pytest.mark.parametrize("latent", [2, 5])
def test_a_mixture_with_a_mistake(kind, rung, latent):
    if (kind, latent) != (wrong.SumOfLogsumexp, 1):
        assert rung in failed(check_prior, wrong.OfMixture(kind, latent), rungs=[rung])


@pytest.mark.parametrize("latent", [1, 2, 4])
@pytest.mark.parametrize(
    "mistake", [{"log_slope": wrong.forgotten}, {"stretched": False}], ids=["slope", "stretch"]
)
def test_a_flow_without_its_jacobian(mistake, latent):
    found = failed(check_prior, wrong.Flow(latent=latent, **mistake), rungs=AGREEMENT)
    assert set(AGREEMENT) == set(found)


@pytest.mark.parametrize(("kind", "rung"), wrong.PRIORS, ids=name_of)
def test_a_prior_with_a_mistake(kind, rung):
    assert rung in failed(check_prior, kind(), rungs=[rung])


def test_the_parameters_without_a_gradient_are_named():
    assert "found none for weight" in failed(check_prior, wrong.Unused())["gradients"]


def test_state_that_is_not_saved_shows_in_a_fresh_module():
    check_prior(wrong.StateElsewhere())
    found = failed(check_prior, wrong.StateElsewhere(), fresh=wrong.StateElsewhere)
    assert "after load_state_dict" in found["checkpoint"]
    check_prior(wrong.Plain(), fresh=wrong.Plain)


@pytest.mark.parametrize(
    ("prior", "rung"),
    [
        (wrong.Bits(draws=1.1), "draws follow density"),
        (wrong.Bits(excess=0.01), "density normalises"),
        (wrong.Sphere(tilt=0.2), "draws follow density"),
        (wrong.Sphere(excess=0.2), "density normalises"),
        (wrong.Sphere(6, tilt=0.2), "draws follow density"),
    ],
    ids=["bits drawn", "bits summed", "sphere drawn", "sphere summed", "sphere in six"],
)
def test_on_other_spaces(prior, rung):
    assert rung in failed(check_prior, prior, rungs=[rung])


@pytest.mark.parametrize(("kind", "rung"), wrong.GUIDES, ids=name_of)
def test_a_guide_with_a_mistake(kind, rung):
    assert rung in failed(check_guide, kind(), X, rungs=[rung])


def test_a_guide_that_takes_missing_cells():
    check_guide(wrong.SwallowsNaN(), X, missing=True)
    assert "missing values" in failed(check_guide, wrong.Encoder(), X, missing=True)


@pytest.mark.parametrize(("kind", "rung"), wrong.LIKELIHOODS, ids=name_of)
def test_a_likelihood_with_a_mistake(kind, rung):
    assert rung in failed(check_likelihood, kind(), Z, rungs=[rung])


def test_the_report_names_every_rung():
    lines = str(check_prior(LearnedNormalPrior(2))).splitlines()
    assert lines[0].startswith("LearnedNormalPrior (prior), |z| below ")
    outcomes = {line[2:24].strip(): line[24:40].strip() for line in lines[1:]}
    assert outcomes == {
        "contract": "passed",
        "precision and device": "passed",
        "density normalises": "passed",
        "draws follow density": "passed",
        "leading shapes": "passed",
        "expand": "passed",
        "support": "passed",
        "gradients": "passed",
        "pathwise gradient": "passed",
        "particles": "passed",
        "annealing": "passed",
        "training": "passed",
        "checkpoint": "passed",
        "copies": "passed",
    }


def test_the_same_seed_gives_the_same_report():
    reports = [check_prior(LearnedNormalPrior(2), seed=seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_it_leaves_everything_as_it_was():
    prior = LearnedNormalPrior(2)
    state = {name: value.clone() for name, value in prior.state_dict().items()}
    before = torch.get_rng_state()
    with torch.no_grad():
        check_prior(prior)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(prior.state_dict()[name], value) for name, value in state.items())
    assert prior.training
    assert all(p.grad is None for p in prior.parameters())
    assert list(pyro.get_param_store()) == []


@pytest.mark.parametrize("subject", [LearnedNormalPrior, lambda: None])
def test_what_is_no_module(subject):
    for check, *rows in ((check_prior,), (check_guide, X), (check_likelihood, Z)):
        with pytest.raises(TypeError, match="takes an instance of a torch module, got <"):
            check(subject, *rows)


@pytest.mark.parametrize("rows", [torch.ones(1, 3), torch.ones(3), torch.full((2, 3), torch.nan)])
def test_rows_to_look_at(rows):
    with pytest.raises(ValueError, match="x must be 2 or more rows of finite numbers"):
        check_guide(wrong.Encoder(), rows)
    with pytest.raises(ValueError, match="z must be 2 or more rows of finite numbers"):
        check_likelihood(nn.Linear(3, 2), rows)
