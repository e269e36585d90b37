"""Rungs that check an estimator over replicates: its bias, its stated error, its coverage."""

import math

import torch
from scipy.stats import norm

from ppl_vae.reference_models import exact
from ppl_vae.testing._comparison import ROUNDING, Answer, Discrepancy, mean_is, same, share_is
from ppl_vae.testing._trial import Relation, Replicates, Trial, off_posterior, with_field

_LEAST_COVERAGE, _MOST_COVERAGE = 0.93, 0.97
"""Coverage of intervals of 1.96 standard errors, called 95%."""
_Z = float(norm.isf(0.025))
# One tolerance for all: that coverage, translated for normal estimates to the ratio of the stated
# error to the right one, and to a bias d in standard errors, the root of
# Phi(1.96 - d) - Phi(-1.96 - d) = 0.93.
_LEAST_RATIO = float(norm.isf((1 - _LEAST_COVERAGE) / 2)) / _Z
_MOST_RATIO = float(norm.isf((1 - _MOST_COVERAGE) / 2)) / _Z
_MOST_BIAS = 0.4155
_MANY_EFFECTIVE = 50
"""Effective samples from which 1.96 standard errors are a 95% interval: with Student's t, 94.4%."""
_LINEAR = 0.2
"""Nats of error up to which the logarithm of an estimate is as good as linear."""
_MOST_SKEWNESS = 0.25
"""Largest skewness of a mean up to which its z-score can be made normal."""
_NARROW, _DOUBTED = 0.6, 400
"""Scale of a guide that is too narrow, and replicates under it."""
_SIZES = ("num_particles", "num_temperatures", "num_chains")


def truth(trial: Trial, seed: int) -> Answer:
    """Compare the mean estimate with log p(x), from the side that the direction says."""
    if not trial.random:
        return _within_the_stated_error(trial)
    found, truth = trial.replicates.log_prob, trial.replicates.truth
    if trial.direction == "unbiased":
        return [mean_is("mean estimate against log p(x)", found, truth)]
    if trial.direction in ("lower", "upper"):
        side: Relation = "<=" if trial.direction == "lower" else ">="
        what = f"mean {trial.direction} bound{{}} against log p(x)"
        return [
            mean_is(what.format(where), sample.log_prob, sample.truth, side)
            for where, sample in _samples(trial)
        ]
    # A logarithm of an unbiased estimate has a bias: it may be as large as intervals tolerate.
    bias = _MOST_BIAS * trial.replicates.standard_error
    what = f"mean estimate against log p(x) {{}} {_MOST_BIAS:.2f} standard errors"
    return [
        mean_is(what.format("and"), found, truth + bias, "<="),
        mean_is(what.format("less"), found, truth - bias, ">="),
    ]


def _within_the_stated_error(trial: Trial) -> Answer:
    found, expected = trial.first, trial.few.log_evidence
    error = torch.hypot(found.standard_error, ROUNDING * (1 + expected.abs()))
    worst = ((found.log_prob - expected).abs() / error).max().item()
    return [
        Discrepancy("largest deviation from log p(x), in errors stated", worst, 1.0, None, "<=")
    ]


def exponential(trial: Trial, seed: int) -> Answer:
    """Compare ``E exp(estimate)`` with p(x), or ``E exp(-estimate)`` with 1 / p(x)."""
    if trial.direction not in ("lower", "upper") or not trial.unbiased_exp:
        return "not claimed"
    lower = trial.direction == "lower"
    what = "mean of exp(estimate) / p(x)" if lower else "mean of p(x) / exp(estimate)"
    comparisons = []
    for where, sample in _samples(trial):
        deviation = sample.log_prob - sample.truth
        ratio = deviation.exp() if lower else (-deviation).exp()
        comparisons.append(mean_is(f"{what}{where}", ratio, torch.ones_like(ratio)))
    # With the fewest draws a ratio may be so skewed that its mean has no usable z-score.
    skewed = [abs(c.skewness) > _MOST_SKEWNESS for c in comparisons[1:]]
    return comparisons[:1] if any(skewed) else comparisons


def _samples(trial: Trial) -> list[tuple[str, Replicates]]:
    """List the replicates of the estimator as it is, and with the fewest draws."""
    found = [("", trial.replicates)]
    return found if trial.fewest is None else [*found, (" of the fewest draws", trial.fewest)]


def growth(trial: Trial, seed: int) -> Answer:
    """Check that a lower bound does not fall, and an upper one does not rise, with more draws.

    Compared are twice the particles, temperatures or chains with as many as given, and these with
    the fewest draws.
    """
    if trial.direction not in ("lower", "upper"):
        return "not claimed"
    lower = trial.direction == "lower"
    side: Relation = ">=" if lower else "<="
    few, comparisons = trial.replicates.calls[0], []
    if trial.fewest is not None:
        what = f"mean {trial.direction} bound against that of the fewest draws"
        fewest = trial.fewest.log_prob
        comparisons.append(mean_is(what, trial.replicates.log_prob, fewest, side))
    for number, name in enumerate(_SIZES):
        larger = with_field(trial.estimator, name, lambda size: 2 * size)
        if larger is not None:
            # One of the two calls is enough: as many replicates on both sides of the difference.
            known = off_posterior(1).repeated(len(few))
            many = trial.estimate(known, seed + number, estimator=larger)
            what = f"mean {trial.direction} bound with twice the {name}"
            comparisons.append(mean_is(what, many.log_prob, few.log_prob, side))
    return comparisons or "not looked"


def standard_error(trial: Trial, seed: int) -> Answer:
    """Compare the stated variance with that of replicates, as far as 95% intervals need it."""
    if not trial.random:
        return "not applicable"
    log_prob, stated = trial.replicates.log_prob, trial.replicates.standard_error.square()
    count = len(log_prob)
    # With n / (n - 1) their mean is the unbiased variance; a mean of terms has a z-score.
    squares = ((log_prob - log_prob.mean()) * math.sqrt(count / (count - 1))).square()
    if min(stated.mean().sqrt().item(), squares.mean().sqrt().item()) > _LINEAR:
        return "not looked"
    what = "mean squared standard error against {:.2f} of the variance"
    low, high = _LEAST_RATIO**2, _MOST_RATIO**2
    return [
        mean_is(what.format(low), stated, low * squares, ">="),
        mean_is(what.format(high), stated, high * squares, "<="),
    ]


def coverage(trial: Trial, seed: int) -> Answer:
    """Check that intervals of 1.96 standard errors hold log p(x) in 93 to 97% of replicates.

    Those of a bound that is no estimate of log p(x) must hold its own mean.
    """
    if not trial.random:
        return "not applicable"
    if _few_effective(trial):
        return "not looked"
    found = trial.replicates
    centre = found.truth if trial.centred else found.log_prob.mean()
    hits = (found.log_prob - centre).abs() <= _Z * found.standard_error
    of = "log p(x)" if trial.centred else "the mean estimate"
    what = f"share of 95% intervals that hold {of}"
    return [
        share_is(what, hits, _LEAST_COVERAGE, ">="),
        share_is(what, hits, _MOST_COVERAGE, "<="),
    ]


def doubt(trial: Trial, seed: int) -> Answer:
    """Check that log p(x) lies above error and doubt in 7% of replicates at most.

    Under a guide too narrow for the posterior, whose weights have a heavy tail, the error alone
    leaves more above.
    """
    known = exact(1, wider=_NARROW).repeated(_DOUBTED)
    found = trial.estimate(known, seed)
    if found.doubt is None or trial.direction == "exact":
        return "not claimed"
    upper = found.log_prob + _Z * found.standard_error + found.doubt
    what = "share of log p(x) below error and doubt, under a narrow guide"
    return [share_is(what, upper >= known.log_evidence, _LEAST_COVERAGE, ">=")]


def _few_effective(trial: Trial) -> bool:
    effective = torch.cat([call.effective_sample_size for call in trial.replicates.calls])
    return effective.median().item() < _MANY_EFFECTIVE


def independent_data(trial: Trial, seed: int) -> Answer:
    """Check that the errors of different data are independent.

    No two replicates are the same number, and the means of two calls differ no more than those of
    independent replicates: a noise that the data of a call share would part them.
    """
    if not trial.random:
        return "not applicable"
    first, second = (call.log_prob for call in trial.replicates.calls)
    every = trial.replicates.log_prob
    return [
        same("different numbers among replicates", len(every.unique()), len(every)),
        mean_is("mean estimate of a call against another's", first, second),
    ]
