"""Every estimator of the package is what it says; every wrong one is found out."""

from functools import partial

import pytest
from climb import climbing
from significance import TEST_FALSE_ALARM

from ppl_vae.evidence import (
    METHODS,
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    AutomaticSampling,
    BidirectionalMonteCarlo,
    DefensiveSampling,
    Enumeration,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
    Quadrature,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
    reverse_ais,
)
from ppl_vae.testing import check_evidence
from ppl_vae.testing._evidence import LADDER

from . import wrong_estimators as wrong

# Annotations are checked in every other test; here they would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")

ALL = 10**6


def ais(num_temperatures=8, num_chains=64, start="prior"):
    return AnnealedImportanceSampling(num_temperatures, num_chains, 1, start, rows=ALL)


# With how many replicates.
RIGHT = [
    (ImportanceSampling(200), 1000),
    (ImportanceSampling(200, bootstrap=100), 500),
    (ParetoSmoothed(200), 500),
    (Jackknife(192, 1), 500),
    (Jackknife(192, 2), 500),
    (Jackknife(192, 3), 500),
    (SUMO(100, 20), 300),
    (DefensiveSampling(200), 500),
    (AdaptiveSampling(0.1), 500),
    (ais(), 150),
    (ais(start="guide"), 150),
    (SequentialMonteCarlo(ais(num_chains=128), 64), 150),
    (ThermodynamicIntegration(ais(10, start="guide"), 3, 3), 150),
    (partial(reverse_ais, ais(20, start="guide"), transitions=20), 150),
    (AutomaticSampling(), 500),
    (Quadrature(), 500),
]
OWN = [(wrong.Plain(), {}), (wrong.Backwards(), {})]
OWN += [(wrong.MeanLogWeight(), {"unbiased_exp": False})]


def name_of(value):
    return repr(value).split("(")[0]


def test_no_method_of_the_registry_is_missing():
    # A sandwich holds two estimates of simulated data; enumeration takes discrete latents alone.
    others = {BidirectionalMonteCarlo, Enumeration}
    assert {*(type(estimator) for estimator, _ in RIGHT), *others} >= set(METHODS.values())


@pytest.mark.parametrize(("estimator", "replicates"), RIGHT, ids=name_of)
def test_it_is_what_it_says(estimator, replicates, significance):
    rate = significance.rate
    report = check_evidence(estimator, replicates=replicates, false_alarm=rate)
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    always = {"result", "evidence at the posterior", "truth", "each datum its own", "scale"}
    assert {outcomes[name] for name in always} == {"passed"}
    assert {outcomes[name] for name in ("seeds", "no trace left", "no data")} == {"passed"}


@pytest.mark.parametrize(("estimator", "claims"), OWN, ids=name_of)
def test_somebodys_own(estimator, claims, significance):
    report = check_evidence(estimator, **claims, false_alarm=significance.rate)
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    assert outcomes["coverage"] == outcomes["standard error"] == "passed"


# Each with the rungs that are to catch it; others may fail as well.
WRONG = [
    (wrong.OneWeightForTheBatch(), ["independent data", "each datum its own"]),
    (wrong.ErrorTooSmallByRootK(), ["standard error", "coverage"]),
    (wrong.HalfTheError(), ["standard error", "coverage"]),
    (wrong.TwiceTheError(), ["standard error"]),
    (wrong.SumInPlaceOfMean(), ["evidence at the posterior"]),
    (wrong.IgnoresTheSeed(), ["seeds"]),
    (wrong.SeedsItself(), ["seeds"]),
    (wrong.OneSeedForAll(), ["seeds", "independent data"]),
    (wrong.SetsTheCallersState(), ["seeds"]),
    (wrong.ShufflesTheData(), ["each datum its own"]),
    (wrong.SortsTheData(), ["each datum its own"]),
    (wrong.ScaleInside(), ["scale"]),
    (wrong.SharedNoise(), ["independent data"]),
    (wrong.ForgetsItsChunks(), ["chunks"]),
    (wrong.CuboAsALowerBound(), ["truth"]),
    (wrong.MeanLogWeight(), ["unbiased exponential"]),
    (wrong.ElboAsAnEstimate(), ["truth"]),
    (wrong.ClaimsToBeUnbiased(2), ["truth"]),
    (wrong.ClaimsToBeExact(), ["truth"]),
    (wrong.ClaimsToBeAnUpperBound(2), ["truth"]),
    (wrong.ClaimsToBeAnUpperBound(100), ["truth", "growth with particles"]),
    (wrong.ClaimsToBeAnUpperBound(200), ["truth", "growth with particles"]),
    (wrong.CuboAsAnUpperBound(), ["growth with particles"]),
    (wrong.DropsItsLargestWeight(200), ["unbiased exponential"]),
    (wrong.SmallestWeight(4), ["growth with particles"]),
    (wrong.KeepsThePilot(), ["unbiased exponential"]),
    (wrong.AccumulatesGradients(), ["no trace left"]),
    (wrong.SwitchesToEvaluation(), ["no trace left"]),
    (wrong.KeepsTheGraph(), ["no trace left"]),
    (wrong.SinglePrecision(), ["result"]),
    (wrong.OneNumber(), ["result"]),
    (wrong.TakesNoTime(), ["result"]),
    (wrong.CountsNothing(), ["result"]),
    (wrong.NotEvidence(), ["result"]),
    (wrong.AnswersWithoutData(), ["no data"]),
    (wrong.RefusesDiscreteLatents(), ["discrete latents"]),
    (wrong.HasNoDoubt(), ["doubt"]),
]


def failed_rungs(estimator, *rungs):
    # At the rate that right ones are tested at; a wrong one raises no false alarm.
    with climbing(*rungs), pytest.raises(AssertionError) as caught:
        check_evidence(estimator, false_alarm=TEST_FALSE_ALARM)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{estimator!r} fails {len(lines)} of {len(LADDER)} rungs")
    return {line.removeprefix("- ").split(":")[0]: line for line in lines}


@pytest.mark.parametrize(("estimator", "rungs"), WRONG, ids=name_of)
def test_of_the_check(estimator, rungs):
    assert set(rungs) <= set(failed_rungs(estimator, *rungs))


def test_of_the_check_by_all_rungs():
    assert set(failed_rungs(wrong.HalfTheError())) == {"standard error", "coverage"}


def test_of_the_check_every_wrong_variant_is_tried():
    tried = {type(estimator) for estimator, _ in WRONG}
    written = {
        v for v in vars(wrong).values() if isinstance(v, type) and issubclass(v, wrong.Plain)
    }
    assert written - {wrong.Plain, wrong.Backwards} == tried
