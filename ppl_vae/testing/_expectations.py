"""Rungs that check an objective in expectation: over replicates, or over all draws."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import Programs
from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import (
    DISCRETE_STATES,
    Parameters,
    ReferenceModel,
    ascent_direction,
    discrete,
    exact,
    exact_chain,
    given,
    one_layer,
    same_draws,
    two_layers,
)
from ppl_vae.testing._comparison import Answer, Discrepancy, mean_is, same
from ppl_vae.testing._identities import bound_of, gradient_of

_Group = Literal["theta", "phi", "shared"]
_DRAWS = 10_000
"""Particles of one estimate, over all its replicates."""
_FEWEST = 1000
"""Replicates that a standard error is taken from, at the least."""
_MOST_ENUMERATED = 3
"""Particles whose joint values are all laid out."""
_STEP = 6e-6
"""About the cube root of the double precision, where a central difference is most accurate."""


def num_replicates(objective: Objective) -> int:
    """Number of data of one estimate, smaller for an objective with more particles."""
    return max(_FEWEST, _DRAWS // int(objective.num_particles))


def with_particles(objective: Objective, num_particles: int) -> Objective:
    """Copy an objective, with another number of particles."""
    other = copy.copy(objective)
    other.num_particles = num_particles
    return other


def evidence_at_posterior(objective: Objective, seed: int) -> Answer:
    """Compare with log p(x) where the guide is the posterior: every draw, if so claimed."""
    precise = objective.claims.exact_at_posterior
    if not precise and objective.claims.direction == "neither":
        # No bound at all: it has another value than log p(x) there.
        return "not claimed"
    # An identity holds for each draw: a few are enough. A mean needs replicates.
    count = 64 if precise else num_replicates(objective)
    cases = [
        exact(count),
        exact_chain(count, bottom_up=False),
        exact_chain(count, bottom_up=True),
    ]
    comparisons = []
    for number, case in enumerate(cases):
        bound = bound_of(objective, case, derive_seed(seed, number))
        what = f"bound against log p(x), {case.name}"
        comparisons.append((same if precise else mean_is)(what, bound, case.log_evidence))
    return comparisons


def _far_from_posterior(objective: Objective) -> ReferenceModel:
    # At the posterior bounds have no gap, and one of the wrong direction would pass.
    return exact(num_replicates(objective), shift=1.0, wider=1.4)


def direction_of_bound(objective: Objective, seed: int) -> Answer:
    """Compare the mean of a lower bound with log p(x) from above, of an upper one from below."""
    direction = objective.claims.direction
    if direction == "neither":
        return "not claimed"
    case = _far_from_posterior(objective)
    relation: Literal["<=", ">="] = "<=" if direction == "lower" else ">="
    what = f"mean {direction} bound against log p(x)"
    return [mean_is(what, bound_of(objective, case, seed), case.log_evidence, relation)]


def grows_with_particles(objective: Objective, seed: int) -> Answer:
    """Compare the mean with twice the particles with the mean of as many as given."""
    if not objective.claims.grows:
        return "not claimed"
    case, count = _far_from_posterior(objective), objective.num_particles
    # Streams by k: the two bounds are independent, as the error of their difference assumes.
    few, many = (
        bound_of(with_particles(objective, k), case, derive_seed(seed, k))
        for k in (count, 2 * count)
    )
    return [mean_is(f"mean bound of {2 * count} particles against {count}", many, few, ">=")]


def central_differences(
    value: Callable[[Parameters], Float[Tensor, " rows"]], parameters: Parameters
) -> Parameters:
    """Differentiate each row's value by each parameter of its row, by central differences.

    Not by autograd, so that what a value detaches counts too. ``gradcheck`` compares a
    value with its own gradient; here the gradient is a surrogate's, and compared in the mean.
    """
    gradients = {}
    for name, at in parameters.items():
        columns = []
        for direction in torch.eye(at[0].numel(), dtype=at.dtype):
            # All rows move at once: a row's value depends on its own parameters only.
            step = _STEP * direction.reshape(at[:1].shape)
            ends = [value({**parameters, name: at + sign * step}) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * _STEP))
        gradients[name] = torch.stack(columns, -1).reshape(at.shape)
    return gradients


def claims_unbiased(objective: Objective, group: _Group) -> bool:
    """Check whether a group's gradient is claimed; shared parameters need both groups claimed."""
    wanted = {"theta", "phi"} if group == "shared" else {group}
    return wanted <= objective.claims.unbiased_with(objective.num_particles)


def groups_of(case: ReferenceModel) -> dict[_Group, list[str]]:
    """Name the parameters of the model alone, of the guide alone, and of both."""
    leaves = case.leaves()
    theta, phi = split_parameters(Programs(*case.programs(leaves)), case.x, leaves)
    return {
        "theta": [name for name in theta if name not in phi],
        "phi": [name for name in phi if name not in theta],
        "shared": [name for name in theta if name in phi],
    }


def unbiased(objective: Objective, seed: int, group: _Group) -> Answer:
    """Compare mean gradients with the derivative of the mean bound, where priors are learned."""
    if not claims_unbiased(objective, group):
        return "not claimed"
    # With two sites, detaching q's parameters would cut the second off from the first draw.
    cases = [one_layer(), two_layers(bottom_up=False), two_layers(bottom_up=True)]
    comparisons = []
    for number, case in enumerate(cases):
        comparisons += _unbiased_in(objective, case, derive_seed(seed, number), group)
    return comparisons


def _unbiased_in(
    objective: Objective, case: ReferenceModel, seed: int, group: _Group
) -> list[Discrepancy]:
    names = groups_of(case)[group]
    replicates = case.replicated(num_replicates(objective))
    everything = replicates.parameters
    found = gradient_of(objective, replicates, replicates.leaves(), seed)
    # On the same draws: noise that both sides share cancels in the difference.
    expected = central_differences(
        lambda p: bound_of(objective, replace(replicates, parameters={**everything, **p}), seed),
        {name: everything[name] for name in names},
    )
    return [
        mean_is(f"gradient of {name}[{j}], {case.name}", a, b)
        for name in names
        for j, (a, b) in enumerate(
            zip(*(each[name].flatten(1).unbind(1) for each in (found, expected)), strict=True)
        )
    ]


def discrete_latents(objective: Objective, seed: int) -> Answer:
    """Compare the exact mean gradient with the derivative of the exact mean bound."""
    # Discrete draws have no pathwise gradient: phi would be trained on a wrong one in silence.
    if objective.graph != "score":
        return _refuses(objective, seed)
    if objective.simulates != "nothing":
        # Draws of the model would have to be enumerated too.
        return "not applicable"
    groups = groups_of(discrete())
    names = [name for g, names in groups.items() if claims_unbiased(objective, g) for name in names]
    if not names:
        return "not claimed"
    if objective.num_particles > _MOST_ENUMERATED:
        # 12 states each: 12^K joint values. Two particles are the fewest that show how they mix.
        objective = with_particles(objective, max(2, objective.least_particles))
    return _enumerate(objective, names)


def _refuses(objective: Objective, seed: int) -> Answer:
    case = discrete()
    programs = case.programs(case.leaves())
    for act in (objective.differentiable_loss, objective.loss_and_grads):
        try:
            with same_draws(seed):
                said = f"a loss of {torch.as_tensor(act(*programs, case.x)).item():.6g}"
        except ValueError as error:
            said = f"ValueError: {error}"
        if not ("ValueError" in said and "'bits'" in said and "VIMCO" in said):
            raise AssertionError(
                "a guide without reparameterised draws: expected a ValueError that names the site "
                f"'bits' and objectives that take it, such as VIMCO(K), found {said}"
            )
    return []


def _enumerate(objective: Objective, names: list[str]) -> Answer:
    """Lay out every tuple of the particles' values as a datum, weighted by its probability."""
    case, count = discrete(), objective.num_particles
    # Shape (particles, *plates, batch, *event): the batch runs over the joint values.
    states = torch.arange(len(DISCRETE_STATES["kind"]))
    tuples = torch.cartesian_prod(*[states] * count).reshape(-1, count).mT
    plates = (1,) * (objective.max_plate_nesting - 1)
    latents = {
        name: values[tuples].reshape(count, *plates, tuples.shape[1], *values.shape[1:])
        for name, values in DISCRETE_STATES.items()
    }
    x = case.x.expand(tuples.shape[1], -1)

    def weighed(parameters: Parameters) -> tuple[Tensor, Tensor]:
        with given(latents), torch.no_grad():
            particles = objective.draw(*case.programs(parameters), x)
            return particles.log_proposal.sum(0).exp(), objective.bound(particles)

    def mean_bound(parameters: Parameters) -> Float[Tensor, " 1"]:
        probability, bound = weighed({**case.parameters, **parameters})
        return (probability * bound).sum().reshape(1)

    probability, _ = weighed(case.parameters)
    leaves = case.leaves()
    with given(latents):
        # A scale multiplies a datum's loss: the sum over the batch is then the expectation.
        model, guide = case.scaled(probability).programs(leaves)
        found = ascent_direction(objective.differentiable_loss(model, guide, x), leaves)
    expected = central_differences(mean_bound, {name: case.parameters[name] for name in names})
    return [same(f"mean gradient of {name}", found[name], expected[name]) for name in names]
