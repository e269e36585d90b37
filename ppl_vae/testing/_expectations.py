"""The rungs of an objective that hold in expectation, by z-scores of independent replicates."""

import copy
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import Programs
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, Discrepancy, mean_is, same
from ppl_vae.testing._draws import ascent, bound_of, central_differences, same_draws
from ppl_vae.testing._programs import Case, exact, exact_chain, one_layer, two_layers

_Group = Literal["theta", "phi", "shared"]
_DRAWS = 10_000
"""Particles of one estimate, over all its replicates."""
_FEWEST = 1000
"""Replicates that a standard error is taken from, at the least."""


def num_replicates(objective: Objective) -> int:
    """Data of one estimate, fewer for an objective with more particles."""
    return max(_FEWEST, _DRAWS // int(objective.num_particles))


def with_particles(objective: Objective, num_particles: int) -> Objective:
    """A copy of the objective with another number of particles."""
    other = copy.copy(objective)
    other.num_particles = num_particles
    return other


def evidence_at_posterior(objective: Objective, seed: int) -> Answer:
    """With the posterior as the guide the bound is log p(x): every draw's, if so claimed."""
    precise = objective.claims.exact_at_posterior
    count = 64 if precise else num_replicates(objective)
    cases = [
        exact(count),
        exact_chain(count, bottom_up=False),
        exact_chain(count, bottom_up=True),
    ]
    comparisons = []
    for number, (case, log_evidence) in enumerate(cases):
        bound = bound_of(objective, case, case.parameters, derive_seed(seed, number))
        what = f"bound against log p(x), {case.name}"
        comparisons.append((same if precise else mean_is)(what, bound, log_evidence))
    return comparisons


def direction_of_bound(objective: Objective, seed: int) -> Answer:
    """The expectation of a lower bound is not above log p(x), of an upper one not below."""
    direction = objective.claims.direction
    if direction == "neither":
        return "not claimed"
    case, log_evidence = _far_from_posterior(objective)
    bound = bound_of(objective, case, case.parameters, seed)
    relation: Literal["<=", ">="] = "<=" if direction == "lower" else ">="
    what = f"mean {direction} bound against log p(x)"
    return [mean_is(what, bound, log_evidence, relation)]


def grows_with_particles(objective: Objective, seed: int) -> Answer:
    """The expectation with twice the particles is not below that with as many as given."""
    if not objective.claims.grows:
        return "not claimed"
    (case, _), count = _far_from_posterior(objective), objective.num_particles
    few, many = (
        bound_of(with_particles(objective, k), case, case.parameters, derive_seed(seed, k))
        for k in (count, 2 * count)
    )
    return [mean_is(f"mean bound of {2 * count} particles against {count}", many, few, ">=")]


def _far_from_posterior(objective: Objective) -> tuple[Case, Tensor]:
    return exact(num_replicates(objective), shift=1.0, stretch=1.4)


def claims_unbiased(objective: Objective, group: _Group) -> bool:
    """Whether the gradient of a group is claimed; of parameters of both programs, if both are."""
    wanted = {"theta", "phi"} if group == "shared" else {group}
    return wanted <= objective.claims.unbiased_with(objective.num_particles)


def unbiased(objective: Objective, seed: int, group: _Group) -> Answer:
    """The mean gradient is the derivative of the mean bound, in models with learned priors."""
    if not claims_unbiased(objective, group):
        return "not claimed"
    cases = [one_layer(), two_layers(bottom_up=False), two_layers(bottom_up=True)]
    comparisons = []
    for number, case in enumerate(cases):
        comparisons += _unbiased_in(objective, case, derive_seed(seed, number), group)
    return comparisons


def _unbiased_in(objective: Objective, case: Case, seed: int, group: _Group) -> list[Discrepancy]:
    names = groups_of(case)[group]
    replicates = case.replicated(num_replicates(objective))
    everything = replicates.parameters
    leaves = replicates.leaves()
    with same_draws(seed):
        found = ascent(objective, replicates.programs(leaves), replicates.x, leaves)
    # On the same draws, which takes from the difference what they have in common.
    expected = central_differences(
        lambda p: bound_of(objective, replicates, {**everything, **p}, seed),
        {name: everything[name] for name in names},
    )
    return [
        mean_is(f"gradient of {name}[{j}], {case.name}", a, b)
        for name in names
        for j, (a, b) in enumerate(
            zip(_columns(found[name]), _columns(expected[name]), strict=True)
        )
    ]


def _columns(gradient: Tensor) -> tuple[Float[Tensor, " rows"], ...]:
    return gradient.flatten(1).unbind(1)


def groups_of(case: Case) -> dict[_Group, list[str]]:
    """Names of the parameters of the model alone, of the guide alone, and of both."""
    leaves = case.leaves()
    theta, phi = split_parameters(Programs(*case.programs(leaves)), case.x, leaves)
    return {
        "theta": [name for name in theta if name not in phi],
        "phi": [name for name in phi if name not in theta],
        "shared": [name for name in theta if name in phi],
    }
