"""Check of an estimator of log p(x) against what it says it is."""

from collections.abc import Callable
from functools import partial

from ppl_vae.evidence import Estimator
from ppl_vae.names import require_least
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._answers import (
    chunks,
    discrete,
    every_datum,
    evidence_at_posterior,
    no_data,
    no_trace_left,
    result,
    scale,
    seeds,
)
from ppl_vae.testing._comparison import Answer, Report, run_ladder
from ppl_vae.testing._replicates import (
    coverage,
    doubt,
    exponential,
    growth,
    independent_data,
    standard_error,
    truth,
)
from ppl_vae.testing._trial import Trial

LADDER: dict[str, Callable[[Trial, int], Answer]] = {
    "result": result,
    "evidence at the posterior": evidence_at_posterior,
    "truth": truth,
    "unbiased exponential": exponential,
    "growth with particles": growth,
    "standard error": standard_error,
    "coverage": coverage,
    "independent data": independent_data,
    "each datum its own": every_datum,
    "scale": scale,
    "discrete latents": discrete,
    "chunks": chunks,
    "seeds": seeds,
    "no trace left": no_trace_left,
    "no data": no_data,
    "doubt": doubt,
}
"""Name to the rung, in the order of the report."""

_LEAST_REPLICATES = 100


def check_evidence(
    estimator: Estimator,
    *,
    replicates: int = 1000,
    unbiased_exp: bool = True,
    seed: int = 0,
    false_alarm: float = 1e-3,
) -> Report:
    """Test that an estimator of log p(x) is what it says, on models where log p(x) is known.

    In expectation a lower bound is not above log p(x), does not fall with twice the particles,
    temperatures or chains (fields of these names, if it is a dataclass), and its exponential has
    the mean p(x); an upper bound is not below, does not rise with them, and ``exp(-estimate)`` has
    the mean 1 / p(x). A bound claims this for any number of draws, and it is tested with the fewest
    particles or chains that it takes as well, where a bias shows;
    an ``unbiased`` estimate has the mean log p(x), a ``consistent`` one a bias of at most 0.4
    of its standard errors, and an ``exact`` one is off by no more than it states. The stated error
    is the spread of replicates and, from 50 effective samples on, 95% intervals hold log p(x) in 93
    to 97% of them. Where it states its doubt, no more than 7% of log p(x) lie above 1.96 errors and
    the doubt, under a guide that is too narrow. With the posterior as the guide the estimate is log
    p(x) within its error, to rounding if the error is 0. Every datum gets its own log p(x), with
    errors independent of all others', in one layer, in two, in modules with a Bernoulli likelihood
    and, unless refused, with discrete latents; whatever ``rows`` are decoded at once, and however
    programs are scaled. The seed decides on the numbers, and nothing else changes: parameters,
    gradients, modes, the caller's random state.

    Replicates are one datum many times in one call, which the independence of data allows. Give the
    estimator particles or chains enough for an error of about 0.1 nats, 50 or more; with fewer,
    the errors it states are themselves too uncertain to be judged by. It takes some seconds, on the
    CPU, and about 20 calls, of which two or more are for half of the replicates at once.

    Args:
        estimator: Callable as :class:`~ppl_vae.evidence.ImportanceSampling` is.
        replicates: Estimates of one log p(x), from which means and spread are taken.
        unbiased_exp: Whether a bound claims that its exponential is unbiased, as importance
            sampling and annealing do; without it, what is tested is its side alone.
        seed: The same seed gives the same report.
        false_alarm: Probability that a right estimator fails, over all rungs together (Bonferroni).

    Returns:
        What was tested, as a table. A rung that had no way to look, such as coverage with few
        effective samples or growth of a plain function, is "not looked", and the whole has then not
        passed.

    Raises:
        AssertionError: If a rung fails; one line for each with what was expected and found.
        TypeError: If ``estimator`` is a class, or not callable.
        ValueError: If ``replicates`` is below 100, or ``false_alarm`` not between 0 and 1.

    References:
        Grosse and Duvenaud, 2014, Testing MCMC code.
    """
    if isinstance(estimator, type) or not callable(estimator):
        raise TypeError(
            "check_evidence takes an estimator, such as ImportanceSampling(200), got "
            f"{estimator!r}."
        )
    require_least(_LEAST_REPLICATES, replicates=replicates)
    # Rungs have the streams 0 to len(LADDER) - 1; what they share has one of its own.
    trial = Trial(estimator, replicates, unbiased_exp, derive_seed(seed, len(LADDER)))
    ladder = {
        name: partial(rung, trial, derive_seed(seed, number))
        for number, (name, rung) in enumerate(LADDER.items())
    }
    # Every later rung takes an Evidence in the right form for granted.
    return run_ladder(repr(estimator), ladder, false_alarm, foundation="result")
