"""Every objective of the package is what it claims to be; every wrong one is found out."""

from dataclasses import replace

import pytest
import torch
from climb import climbing
from significance import TEST_FALSE_ALARM

from ppl_vae.objectives import (
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    PIWAE,
    RWS,
    TVO,
    AnalyticELBO,
    Beta,
    Claims,
    Objective,
    Renyi,
    TailAdaptive,
    VRMax,
)
from ppl_vae.reference_models import one_layer
from ppl_vae.testing import check_objective
from ppl_vae.weights import log_mean_exp

from . import wrong_variants as wrong
from .cases import RIGHT, SHAPED

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.mark.parametrize("objective", RIGHT + SHAPED, ids=repr)
def test_it_is_what_it_claims_to_be(objective, significance):
    report = check_objective(objective, false_alarm=significance.rate)
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    for group in ("theta", "phi"):
        claimed = group in objective.claims.unbiased
        assert outcomes[f"{group} unbiased"] == ("passed" if claimed else "not claimed")
    assert outcomes["reported value"] == outcomes["scale and subsampling"] == "passed"


@pytest.mark.parametrize("objective", SHAPED, ids=repr)
def test_a_shaped_kl_reports_the_same_bound_and_claims_no_gradient(objective):
    plain = type(objective)(3)
    case = one_layer(4)
    particles = objective.draw(case.model, case.guide, case.x)
    assert torch.equal(objective.bound(particles), plain.bound(particles))
    assert objective.claims.unbiased == frozenset()
    assert type(objective).claims.unbiased == {"theta", "phi"}


class Damped(Objective):
    """Somebody's own: halfway between the ELBO and L_K, in three lines."""

    def bound(self, particles):
        log_weight = particles.log_weight
        return (log_weight.mean(0) + log_mean_exp(log_weight)) / 2


class PlainScore(Objective):
    """Somebody's own score-function gradient of the ELBO, without any baseline."""

    graph = "score"

    def bound(self, particles):
        return particles.log_weight.mean(0)

    def surrogate(self, particles, bound):
        score = particles.log_weight.detach() * particles.log_proposal
        return (particles.log_joint + score).mean(0)


@pytest.mark.parametrize("objective", [Damped(4), PlainScore(1), PlainScore(4)], ids=repr)
def test_an_objective_of_ones_own(objective, significance):
    report = check_objective(objective, false_alarm=significance.rate)
    assert {rung.outcome(report.limit) for rung in report.rungs} <= {
        "passed",
        "not claimed",
        "not applicable",
    }


# Each with the rungs that are to catch it; others may fail as well.
WRONG = [
    (wrong.ScaleInside(4), ["scale and subsampling"]),
    (wrong.ScalesItsValueOnly(4), ["scale and subsampling"]),
    (wrong.OneWeightForTheBatch(4), ["each datum by itself"]),
    (wrong.WrongAxis(4), ["theta unbiased", "phi unbiased"]),
    # With as many groups as particles in each, the expectation is the right one.
    (wrong.WrongGroupAxis(6), ["theta unbiased", "phi unbiased"]),
    (wrong.ReportsItsSurrogate(4), ["direction of the bound", "finite differences"]),
    (wrong.LogsItsSurrogate(4), ["reported value"]),
    (wrong.DividesByAnotherCount(4), ["evidence at the posterior"]),
    (wrong.BetaInside(4), ["evidence at the posterior"]),
    (wrong.FirstSiteOnly(4), ["evidence at the posterior"]),
    (wrong.AlwaysAnalytic(4), ["evidence at the posterior"]),
    (wrong.MissingDetach(4), ["theta unbiased", "phi unbiased"]),
    (wrong.AddsEncoderGradients(4), ["phi unbiased"]),
    (wrong.UndetachedDReG(4), ["theta unbiased"]),
    (wrong.SquaresTheModelsWeights(4), ["theta unbiased"]),
    (wrong.PlainWeightsForThePath(4), ["phi unbiased"]),
    (wrong.DetachesTheDistribution(4), ["no guide gradient at the posterior"]),
    (wrong.DropsTheScore(4), ["phi unbiased", "discrete latents"]),
    (wrong.IWAEWithoutTheScore(4), ["phi unbiased", "discrete latents"]),
    (wrong.RenyiWithoutTheScore(4), ["phi unbiased", "discrete latents"]),
    (wrong.IgnoresDiscreteGuides(4), ["discrete latents"]),
    (wrong.BiasedBaseline(4), ["phi unbiased", "discrete latents"]),
    (wrong.UndetachedGain(4), ["phi unbiased", "discrete latents"]),
    (wrong.ForgetsTheOwnCount(4), ["phi unbiased", "discrete latents"]),
]


def failed_rungs(objective, *rungs):
    # At the rate that right ones are tested at; a wrong one raises no false alarm.
    with climbing(*rungs), pytest.raises(AssertionError) as caught:
        check_objective(objective, false_alarm=TEST_FALSE_ALARM)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{objective!r} fails {len(lines)} of 12 rungs")
    return {line.removeprefix("- ").split(":")[0]: line for line in lines}


@pytest.mark.parametrize(("objective", "rungs"), WRONG, ids=lambda v: type(v).__name__)
def test_of_the_check(objective, rungs):
    assert set(rungs) <= set(failed_rungs(objective, *rungs))


def test_of_the_check_by_all_rungs():
    assert {"theta unbiased", "phi unbiased"} <= set(failed_rungs(wrong.MissingDetach(4)))


def test_of_the_check_every_wrong_variant_is_tried():
    tried = {type(objective) for objective, _ in WRONG}
    right_bounds = {wrong.ImportanceWeighted, wrong.MeanLogWeight, Objective}
    written = {v for v in vars(wrong).values() if isinstance(v, type) and issubclass(v, Objective)}
    assert written - right_bounds == tried


def claiming(objective, **claims):
    objective.claims = replace(objective.claims, **claims)
    return objective


@pytest.mark.parametrize(
    ("objective", "rung"),
    [
        (claiming(IWAE(4), direction="upper"), "direction of the bound"),
        (claiming(VRMax(8), direction="lower"), "direction of the bound"),
        (claiming(IWAE(4), zero_at_posterior=True), "no guide gradient at the posterior"),
        (claiming(AnalyticELBO(4), exact_at_posterior=True), "evidence at the posterior"),
        (claiming(Renyi(4, alpha=2.0), grows=True), "growth with particles"),
        (claiming(TVO(4, num_terms=3, partition="moment"), per_datum=True), "each datum by itself"),
        (claiming(IWAESTL(4), unbiased=Claims().unbiased), "phi unbiased"),
        (claiming(RWS(4), unbiased=Claims().unbiased), "discrete latents"),
        (claiming(TVO(4, num_terms=3), unbiased=Claims().unbiased), "theta unbiased"),
        (claiming(TailAdaptive(4), unbiased=Claims().unbiased), "phi unbiased"),
        (claiming(PIWAE(3, num_bounds=2), unbiased=Claims().unbiased), "phi unbiased"),
        (claiming(CUBO(4, order=2), unbiased=frozenset({"phi"})), "phi unbiased"),
        (claiming(ELBO(3, kl=Beta(4.0)), unbiased=Claims().unbiased), "phi unbiased"),
    ],
    ids=lambda v: v if isinstance(v, str) else repr(v),
)
def test_a_claim_too_many_is_found_out(objective, rung):
    assert rung in failed_rungs(objective, rung)
