"""The rungs of an objective that hold exactly, draw by draw."""

from typing import Any, NamedTuple

import pyro.optim
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.testing._comparison import Answer, Discrepancy, same
from ppl_vae.testing._draws import ascent, bound_of, central_differences, given, same_draws
from ppl_vae.testing._programs import Parameters, exact, exact_chain, one_layer

_BATCH = 8
_SCALES = (0.3, 25.0)


def zero_at_posterior(objective: Objective, seed: int) -> Answer:
    """With the posterior as the guide, every draw gives the guide a gradient of 0."""
    if not objective.claims.zero_at_posterior:
        return "not claimed"
    comparisons = []
    for posterior, _ in (exact(1), exact_chain(1, bottom_up=False), exact_chain(1, bottom_up=True)):
        case = posterior.replicated(_BATCH)
        leaves = case.leaves()
        with same_draws(seed):
            gradients = ascent(objective, case.programs(leaves), case.x, leaves)
        comparisons += [
            same(f"gradient of {name}, {case.name}", found, 0.0)
            for name, found in gradients.items()
        ]
    return comparisons


def reported_value(objective: Objective, seed: int) -> Answer:
    """Every way to the loss gives ``-scale * sum of bound``, on one seed."""
    case, scale = one_layer(_BATCH), _SCALES[0]
    model, guide = (poutine.scale(p, scale=scale) for p in case.programs(case.leaves()))
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), loss=objective)
    ways: dict[str, Any] = {
        "loss": lambda x: objective.loss(model, guide, x),
        "loss_and_grads": lambda x: objective.loss_and_grads(model, guide, x),
        "differentiable_loss": lambda x: objective.differentiable_loss(model, guide, x),
        "objective(model, guide)(x)": objective(model, guide),
        "SVI.evaluate_loss": svi.evaluate_loss,
    }
    expected = -scale * bound_of(objective, case, case.parameters, seed).sum()
    found = []
    for name, way in ways.items():
        with same_draws(seed):
            found.append(same(f"{name} against -scale * sum of bound", way(case.x), expected))
    return found


class _Measured(NamedTuple):
    loss: float
    bound: Float[Tensor, " batch"]
    gradients: Parameters


def _measure(
    objective: Objective, model: Program, guide: Program, x: Tensor, leaves: Parameters, seed: int
) -> _Measured:
    with same_draws(seed), torch.no_grad():
        bound = objective.bound(objective.draw(model, guide, x))
    for leaf in leaves.values():
        leaf.grad = None
    with same_draws(seed):
        loss = objective.loss_and_grads(model, guide, x)
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return _Measured(loss, bound, gradients)


def _multiplied(how: str, found: _Measured, plain: _Measured, factor: float) -> list[Discrepancy]:
    """That loss and gradients are those of ``plain`` times a factor, and the bound is its own."""
    return [
        same(f"loss, {how}", found.loss, factor * plain.loss),
        same(f"bound, {how}", found.bound, plain.bound),
        *(
            same(f"gradient of {name}, {how}", found.gradients[name], factor * gradient)
            for name, gradient in plain.gradients.items()
        ),
    ]


def scale_and_subsampling(objective: Objective, seed: int) -> Answer:
    """A scale or a subsampled plate multiplies loss and gradients, and leaves the bound alone."""
    case = one_layer(_BATCH)
    leaves = case.leaves()
    programs = case.programs(leaves)
    plain = _measure(objective, *programs, case.x, leaves, seed)
    comparisons = []
    for factor in _SCALES:
        model, guide = (poutine.scale(program, scale=factor) for program in programs)
        found = _measure(objective, model, guide, case.x, leaves, seed)
        comparisons += _multiplied(f"scaled by {factor:g}", found, plain, factor)
    if objective.simulates == "data":
        # A subsampled model cannot simulate the data that the guide would see.
        return comparisons
    rows = torch.tensor([1, 4, 6])
    alone = _measure(objective, *programs, case.x[rows], leaves, seed)
    subsampled = one_layer(_BATCH, subsample=rows).programs(leaves)
    found = _measure(objective, *subsampled, case.x, leaves, seed)
    return comparisons + _multiplied("subsampled", found, alone, _BATCH / len(rows))


def each_datum_by_itself(objective: Objective, seed: int) -> Answer:
    """On the same draws, a datum's bound does not depend on the others of its batch."""
    if not objective.claims.per_datum:
        return "not claimed"
    case = one_layer(_BATCH)
    programs = case.programs(case.parameters)
    with same_draws(seed), torch.no_grad():
        particles = objective.draw(*programs, case.x)
        together = objective.bound(particles)
        comparisons = []
        for rows in torch.tensor([[1, 4], [6, 7]]):
            latents = {
                name: z.index_select(objective.max_plate_nesting, rows)
                for name, z in particles.latents.items()
            }
            with given(latents):
                alone = objective.bound(objective.draw(*programs, case.x[rows]))
            comparisons.append(same("bound of two data alone", alone, together[rows]))
    return comparisons


def finite_differences(objective: Objective, seed: int) -> Answer:
    """Where the bound itself is differentiated on joined draws, its gradient is a derivative."""
    case = one_layer().replicated(4)
    leaves = case.leaves()
    programs = case.programs(leaves)
    with same_draws(seed):
        particles = objective.draw(*programs, case.x)
    bound = objective.bound(particles)
    if objective.graph != "path" or objective.surrogate(particles, bound) is not bound:
        return "not applicable"
    with same_draws(seed):
        found = ascent(objective, programs, case.x, leaves)
    expected = central_differences(lambda p: bound_of(objective, case, p, seed), case.parameters)
    return [same(f"gradient of {name}", found[name], expected[name]) for name in found]
