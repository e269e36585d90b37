"""Check of an objective against its claims."""

from collections.abc import Callable
from functools import partial

from ppl_vae.objectives import Objective
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, Report, run_ladder
from ppl_vae.testing._expectations import (
    direction_of_bound,
    discrete_latents,
    evidence_at_posterior,
    grows_with_particles,
    unbiased,
)
from ppl_vae.testing._identities import (
    each_datum_by_itself,
    finite_differences,
    reported_value,
    scale_and_subsampling,
    zero_at_posterior,
)

LADDER: dict[str, Callable[[Objective, int], Answer]] = {
    "evidence at the posterior": evidence_at_posterior,
    "no guide gradient at the posterior": zero_at_posterior,
    "direction of the bound": direction_of_bound,
    "growth with particles": grows_with_particles,
    "reported value": reported_value,
    "scale and subsampling": scale_and_subsampling,
    "each datum by itself": each_datum_by_itself,
    "finite differences": finite_differences,
    "theta unbiased": partial(unbiased, group="theta"),
    "phi unbiased": partial(unbiased, group="phi"),
    "shared parameters unbiased": partial(unbiased, group="shared"),
    "discrete latents": discrete_latents,
}
"""Name to the rung, in the order of the report."""


def check_objective(objective: Objective, *, seed: int = 0, false_alarm: float = 1e-3) -> Report:
    """Test that an objective is what its ``claims`` say, on models where the truth is known.

    With the posterior as the guide, the bound is log p(x) (and phi's gradient 0, if claimed); in
    expectation it lies on its side of log p(x) and grows with K; every way to the loss gives
    ``-scale * sum of bound``; scales and subsampling act after the logarithm, and each datum stands
    for itself; gradients of theta, phi and parameters of both are the derivative of the expected
    bound, by z-scores in three models with learned priors, and with ``graph="score"`` to rounding
    in a discrete model with all draws enumerated (others must refuse it). Derivatives are by
    differences of the reported value, so that no ``detach`` goes unnoticed.

    Give it 3 to 20 particles: many mistakes cannot show with one. Takes about a second, on the CPU;
    with hundreds of particles, half a minute.

    Args:
        objective: An instance, with its ``claims``; the default claims are those of a lower bound
            whose gradients are unbiased.
        seed: The same seed gives the same report.
        false_alarm: Probability that a right objective fails, over all rungs together (Bonferroni).

    Returns:
        What was tested, as a table.

    Raises:
        AssertionError: If a rung fails; one line for each with what was expected and found.
        TypeError: If ``objective`` is no instance of :class:`~ppl_vae.objectives.Objective`.
        ValueError: If ``false_alarm`` is not between 0 and 1.
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"check_objective takes an objective, such as IWAE(5), got {objective!r}.")
    ladder = {
        name: partial(rung, objective, derive_seed(seed, number))
        for number, (name, rung) in enumerate(LADDER.items())
    }
    return run_ladder(repr(objective), ladder, false_alarm)
