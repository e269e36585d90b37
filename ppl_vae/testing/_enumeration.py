"""Discrete latents: expectations over every draw there is, or a refusal."""

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.testing._comparison import Answer, same
from ppl_vae.testing._draws import ascent, central_differences, given, same_draws
from ppl_vae.testing._expectations import claims_unbiased, groups_of, with_particles
from ppl_vae.testing._programs import DISCRETE_STATES, Parameters, discrete

_MOST_PARTICLES = 3


def discrete_latents(objective: Objective, seed: int) -> Answer:
    """The exact mean gradient is the derivative of the exact mean bound; or a ValueError."""
    if objective.graph != "score":
        return _refuses(objective, seed)
    if objective.simulates != "nothing":
        # Draws of the model would have to be enumerated too.
        return "not applicable"
    groups = groups_of(discrete())
    names = [name for g, names in groups.items() if claims_unbiased(objective, g) for name in names]
    return _enumerate(_affordable(objective), names) if names else "not claimed"


def _refuses(objective: Objective, seed: int) -> Answer:
    case = discrete()
    programs = case.programs(case.leaves())
    for act in (objective.differentiable_loss, objective.loss_and_grads):
        try:
            with same_draws(seed):
                said = f"a loss of {torch.as_tensor(act(*programs, case.x)).item():.6g}"
        except ValueError as error:
            said = f"ValueError: {error}"
        if not ("ValueError" in said and "'bits'" in said and "vimco" in said):
            raise AssertionError(
                "a guide without reparameterised draws: expected a ValueError that names the site "
                f"'bits' and objectives that take it, such as vimco:K, found {said}"
            )
    return []


def _affordable(objective: Objective) -> Objective:
    """With few enough particles for all their joint values to be laid out."""
    if objective.num_particles <= _MOST_PARTICLES:
        return objective
    return with_particles(objective, max(2, objective.least_particles))


def _enumerate(objective: Objective, names: list[str]) -> Answer:
    """Every tuple of the particles' values is a datum, which weighs what its probability is."""
    case, latents = discrete(), _all_tuples(objective)
    count = latents["kind"].shape[-1]
    x = case.x.expand(count, -1)

    def weighed(parameters: Parameters) -> tuple[Tensor, Tensor]:
        with given(latents), torch.no_grad():
            particles = objective.draw(*case.programs(parameters), x)
            return particles.log_proposal.sum(0).exp(), objective.bound(particles)

    def mean_bound(parameters: Parameters) -> Float[Tensor, " 1"]:
        probability, bound = weighed({**case.parameters, **parameters})
        return (probability * bound).sum().reshape(1)

    probability, _ = weighed(case.parameters)
    leaves = case.leaves()
    model, guide = (poutine.scale(p, scale=probability) for p in case.programs(leaves))
    with given(latents):
        found = ascent(objective, (model, guide), x, leaves)
    expected = central_differences(mean_bound, {name: case.parameters[name] for name in names})
    return [same(f"mean gradient of {name}", found[name], expected[name]) for name in names]


def _all_tuples(objective: Objective) -> dict[str, Tensor]:
    """Every joint value of all particles, one a datum: ``(particles, *plates, batch, *event)``."""
    count, between = objective.num_particles, (1,) * (objective.max_plate_nesting - 1)
    states = torch.arange(len(DISCRETE_STATES["kind"]))
    tuples = torch.cartesian_prod(*[states] * count).reshape(-1, count).mT
    return {
        name: values[tuples].reshape(count, *between, tuples.shape[1], *values.shape[1:])
        for name, values in DISCRETE_STATES.items()
    }
