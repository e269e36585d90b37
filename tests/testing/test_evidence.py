"""The check as its users meet it; what it finds is tested in test_estimators.py."""

from dataclasses import dataclass, field
from functools import partial

import pyro
import pytest
import torch
from scipy.stats import norm

from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    Enumeration,
    ImportanceSampling,
    Quadrature,
    SequentialMonteCarlo,
)
from ppl_vae.reference_models import (
    BinaryAutoencoder,
    binary,
    discrete_data,
    exact,
    exact_chain,
    wide_chain,
)
from ppl_vae.testing import _replicates as module
from ppl_vae.testing import check_evidence
from ppl_vae.testing._comparison import run_ladder
from ppl_vae.testing._trial import Trial, agreement, off_posterior, short_seed, with_field

from .wrong_estimators import NotEvidence, Plain

QUICK = partial(check_evidence, replicates=100)


def raises(model, guide, x, **call):
    raise KeyError("weights")


def test_the_report_names_every_rung(unchecked_types):
    lines = str(check_evidence(ImportanceSampling(100))).splitlines()
    assert lines[0].startswith("ImportanceSampling(num_particles=100, ")
    outcomes = {line[2:27].strip(): line[29:45].strip() for line in lines[1:]}
    assert outcomes == dict.fromkeys(
        [
            "result",
            "evidence at the posterior",
            "truth",
            "unbiased exponential",
            "growth with particles",
            "standard error",
            "coverage",
            "independent data",
            "each datum its own",
            "scale",
            "discrete latents",
            "chunks",
            "seeds",
            "no trace left",
            "no data",
            "doubt",
        ],
        "passed",
    )


def test_what_cannot_be_tested_is_said():
    report = QUICK(Quadrature())
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    assert outcomes["unbiased exponential"] == outcomes["growth with particles"] == "not claimed"
    for name in ("standard error", "coverage", "independent data", "discrete latents"):
        assert outcomes[name] == "not applicable"
    assert report.verdict == "passed"
    report = QUICK(ImportanceSampling(10), unbiased_exp=False)
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    assert outcomes["unbiased exponential"] == "not claimed"
    assert outcomes["coverage"] == "not looked"
    assert report.verdict.startswith("not passed, could not look")
    assert "coverage" in report.not_looked


def test_a_function_will_do():
    estimator = Plain(100)
    report = QUICK(lambda *args, **call: estimator(*args, **call))
    outcomes = {rung.name: rung.outcome(report.limit) for rung in report.rungs}
    assert outcomes["growth with particles"] == outcomes["chunks"] == "not looked"
    assert report.not_looked == ("growth with particles", "chunks")
    assert outcomes["truth"] == "passed"


def test_the_same_seed_gives_the_same_report():
    reports = [QUICK(ImportanceSampling(50), seed=seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_it_leaves_everything_as_it_was():
    before = torch.get_rng_state()
    with torch.no_grad():
        QUICK(ImportanceSampling(50))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store()) == []


def test_a_result_of_another_form_is_one_complaint(unchecked_types):
    with pytest.raises(AssertionError) as caught:
        QUICK(NotEvidence())
    first, *lines = str(caught.value).splitlines()
    assert "fails 1 of 16 rungs" in first
    assert lines == ["- result: expected an Evidence, found Tensor"]


def test_an_estimator_that_raises():
    with pytest.raises(AssertionError, match="- result: KeyError: 'weights'") as caught:
        QUICK(raises)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("wrong", [ImportanceSampling, 3])
def test_what_is_no_estimator(wrong, unchecked_types):
    with pytest.raises(TypeError, match=r"such as ImportanceSampling\(200\), got "):
        check_evidence(wrong)


def test_too_few_replicates():
    with pytest.raises(ValueError, match="replicates must be 100 or more, got 99"):
        check_evidence(ImportanceSampling(50), replicates=99)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_a_false_alarm_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="false_alarm must be between 0 and 1"):
        check_evidence(ImportanceSampling(50), false_alarm=rate)


def test_the_bounds_are_those_of_intervals_that_cover_93_to_97_percent():
    for ratio, share in ((module._LEAST_RATIO, 0.93), (module._MOST_RATIO, 0.97)):
        assert 1 - 2 * norm.sf(1.96 * ratio) == pytest.approx(share, abs=1e-4)
    shifted = norm.cdf(1.96 - module._MOST_BIAS) - norm.cdf(-1.96 - module._MOST_BIAS)
    assert shifted == pytest.approx(0.93, abs=1e-4)


def estimate(estimator, known):
    return estimator(known.model, known.guide, known.x)


AT_POSTERIOR = [exact(5), exact_chain(5, bottom_up=True)]


class TestReferenceModels:
    def test_all_binary_data_together_have_probability_1(self):
        known = binary(BinaryAutoencoder())
        assert known.log_evidence.exp().sum().item() == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize(
        "known",
        [off_posterior(5), wide_chain(5), binary(BinaryAutoencoder()), *AT_POSTERIOR],
        ids=lambda known: known.name,
    )
    def test_by_quadrature(self, known):
        found = estimate(Quadrature(), known).log_prob
        torch.testing.assert_close(found, known.log_evidence, rtol=0, atol=1e-6)

    def test_by_enumeration(self):
        known = discrete_data(5)
        torch.testing.assert_close(estimate(Enumeration(), known).log_prob, known.log_evidence)

    def test_the_guide_is_the_posterior_or_is_not(self):
        for known in AT_POSTERIOR:
            assert estimate(ImportanceSampling(50), known).standard_error.max() < 1e-6
        for known in (off_posterior(4), wide_chain(4)):
            assert estimate(ImportanceSampling(50), known).standard_error.min() > 0.01

    def test_repeated(self):
        known = off_posterior(3)
        many = known.repeated(5)
        assert torch.equal(many.x, known.x[:1].expand(5, -1))
        assert torch.equal(many.log_evidence, known.log_evidence[:1].expand(5))


def test_the_contrast_sees_answers_for_other_data():
    known = off_posterior(6)
    found = estimate(Quadrature(), known)
    swapped = known.log_evidence[[0, 1, 2, 3, 5, 4]]
    mean, contrast = agreement("a", found, known.log_evidence)
    assert max(abs(mean.deviation), abs(contrast.deviation)) < 1
    mean, contrast = agreement("a", found, swapped)
    assert abs(mean.deviation) < 1 < 5 < abs(contrast.deviation)


@dataclass(frozen=True)
class Held:
    size: int = 3
    fixed: int = field(default=2, init=False)


@dataclass(frozen=True)
class Holder:
    inner: Held = Held()
    name: str = "a"


def test_fields_are_found_inside_too():
    assert with_field(Holder(), "size", lambda n: 2 * n) == Holder(Held(6))
    assert with_field(Holder(), "name", lambda _: "b") == Holder(name="b")
    assert with_field(Holder(), "fixed", lambda n: 2 * n) is None
    assert with_field(Holder(), "rows", lambda n: 2 * n) is None
    assert with_field(Holder, "name", lambda n: 2 * n) is None
    smc = SequentialMonteCarlo(AnnealedImportanceSampling(5, 16))
    assert with_field(smc, "num_temperatures", lambda n: 2 * n).annealing.num_temperatures == 10


def test_seeds_are_short():
    assert 0 <= short_seed(2**63 - 1) < 2**31


def test_rungs_after_a_broken_foundation_are_not_reached():
    ladder = {"form": lambda: 1 / 0, "truth": lambda: 1 / 0}
    with pytest.raises(AssertionError, match="fails 1 of 2 rungs"):
        run_ladder("a", ladder, 0.01, foundation="form")
    for foundation in (None, "truth"):
        with pytest.raises(AssertionError, match="fails 2 of 2 rungs"):
            run_ladder("a", ladder, 0.01, foundation=foundation)


def test_a_seed_decides_on_every_call():
    trial = Trial(ImportanceSampling(20), 100, True, 5)
    known = off_posterior(2)
    assert torch.equal(
        trial.estimate(known, 1 << 40).log_prob, trial.estimate(known, 1 << 40).log_prob
    )
    assert len(trial.replicates.truth) == 100
