"""Rungs that check identities of an objective, which hold exactly, draw by draw."""

from typing import Any, NamedTuple

import pyro.optim
import torch
from jaxtyping import Float
from pyro.infer import SVI
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from ppl_vae.objectives import Objective
from ppl_vae.reference_models import (
    Parameters,
    ReferenceModel,
    ascent_direction,
    exact,
    exact_chain,
    given,
    one_layer,
    same_draws,
)
from ppl_vae.testing._comparison import ROUNDING, Answer, Discrepancy, same

_BATCH = 8
_SCALES = (0.3, 25.0)


def bound_of(objective: Objective, case: ReferenceModel, seed: int) -> Float[Tensor, " batch"]:
    """Compute the reported bound per datum on the draws of a seed, without gradient."""
    with same_draws(seed), torch.no_grad():
        bound = objective.bound(objective.draw(case.model, case.guide, case.x))
    if bound.shape != case.x.shape[:1]:
        raise AssertionError(
            "bound: expected one value for each datum, shape "
            f"{tuple(case.x.shape[:1])}, found shape {tuple(bound.shape)}"
        )
    return bound


def gradient_of(
    objective: Objective, case: ReferenceModel, leaves: Parameters, seed: int
) -> Parameters:
    """Compute the gradient that training would ascend, on the draws of a seed."""
    with same_draws(seed):
        loss = objective.differentiable_loss(*case.programs(leaves), case.x)
        return ascent_direction(loss, leaves)


def zero_at_posterior(objective: Objective, seed: int) -> Answer:
    """Compare the guide's gradient with 0, on every draw, where the guide is the posterior."""
    if not objective.claims.zero_at_posterior:
        return "not claimed"
    comparisons = []
    for posterior in (exact(1), exact_chain(1, bottom_up=False), exact_chain(1, bottom_up=True)):
        # Parameters of its own for each datum: gradients of opposite sign cannot cancel in a sum.
        case = posterior.replicated(_BATCH)
        gradients = gradient_of(objective, case, case.leaves(), seed)
        comparisons += [
            same(f"gradient of {name}, {case.name}", gradient, 0.0)
            for name, gradient in gradients.items()
        ]
    return comparisons


def reported_value(objective: Objective, seed: int) -> Answer:
    """Compare every way to the loss with ``-scale * sum of bound``, on one seed."""
    case, scale = one_layer(_BATCH), _SCALES[0]
    model, guide = case.scaled(scale).programs(case.leaves())
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), loss=objective)
    ways: dict[str, Any] = {
        "loss": lambda x: objective.loss(model, guide, x),
        "loss_and_grads": lambda x: objective.loss_and_grads(model, guide, x),
        "differentiable_loss": lambda x: objective.differentiable_loss(model, guide, x),
        "objective(model, guide)(x)": objective(model, guide),
        "SVI.evaluate_loss": svi.evaluate_loss,
    }
    expected, comparisons = -scale * bound_of(objective, case, seed).sum(), []
    for name, way in ways.items():
        with same_draws(seed):
            comparisons.append(same(f"{name} against -scale * sum of bound", way(case.x), expected))
    return comparisons


class _Measured(NamedTuple):
    loss: float
    bound: Float[Tensor, " batch"]
    gradients: Parameters


def _measure(
    objective: Objective, case: ReferenceModel, x: Tensor, leaves: Parameters, seed: int
) -> _Measured:
    model, guide = case.programs(leaves)
    with same_draws(seed), torch.no_grad():
        bound = objective.bound(objective.draw(model, guide, x))
    for leaf in leaves.values():
        # loss_and_grads accumulates: what an earlier call left would be added.
        leaf.grad = None
    with same_draws(seed):
        loss = objective.loss_and_grads(model, guide, x)
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return _Measured(loss, bound, gradients)


def scale_and_subsampling(objective: Objective, seed: int) -> Answer:
    """Check that a scale multiplies loss and gradients, and leaves the bound alone."""
    case = one_layer(_BATCH)
    leaves = case.leaves()

    def multiplied(
        how: str, found: _Measured, plain: _Measured, factor: float
    ) -> list[Discrepancy]:
        return [
            same(f"loss, {how}", found.loss, factor * plain.loss),
            same(f"bound, {how}", found.bound, plain.bound),
            *(
                same(f"gradient of {name}, {how}", found.gradients[name], factor * gradient)
                for name, gradient in plain.gradients.items()
            ),
        ]

    plain, comparisons = _measure(objective, case, case.x, leaves, seed), []
    for factor in _SCALES:
        found = _measure(objective, case.scaled(factor), case.x, leaves, seed)
        comparisons += multiplied(f"scaled by {factor:g}", found, plain, factor)
    if objective.simulates == "data":
        # A subsampled model cannot simulate the data that the guide would see.
        return comparisons
    rows = torch.tensor([1, 4, 6])
    alone = _measure(objective, case, case.x[rows], leaves, seed)
    # The plate scales by 8 / 3: what is left must be the three rows by themselves.
    subsampled = _measure(objective, one_layer(_BATCH, subsample=rows), case.x, leaves, seed)
    return comparisons + multiplied("subsampled", subsampled, alone, _BATCH / len(rows))


def each_datum_by_itself(objective: Objective, seed: int) -> Answer:
    """Check that, on the same draws, a datum's bound does not depend on the rest of its batch."""
    if not objective.claims.per_datum:
        return "not claimed"
    case = one_layer(_BATCH)
    programs = case.programs(case.parameters)
    with same_draws(seed), torch.no_grad():
        particles = objective.draw(*programs, case.x)
        together = objective.bound(particles)
        comparisons = []
        for rows in torch.tensor([[1, 4], [6, 7]]):
            # The same seed would draw other values for a smaller batch: the draws are handed over.
            latents = {
                name: z.index_select(objective.max_plate_nesting, rows)
                for name, z in particles.latents.items()
            }
            with given(latents):
                alone = objective.bound(objective.draw(*programs, case.x[rows]))
            comparisons.append(same("bound of two data alone", alone, together[rows]))
    return comparisons


def finite_differences(objective: Objective, seed: int) -> Answer:
    """Compare gradient and difference quotient where the bound itself is differentiated."""
    case = one_layer().replicated(4)
    leaves = case.leaves()
    with same_draws(seed):
        particles = objective.draw(*case.programs(leaves), case.x)
    bound = objective.bound(particles)
    # A surrogate's gradient is the derivative in the mean only, which the rungs "unbiased" test.
    if objective.graph != "path" or objective.surrogate(particles, bound) is not bound:
        return "not applicable"

    def loss(*values: Tensor) -> Tensor:
        with same_draws(seed):
            parameters = dict(zip(leaves, values, strict=True))
            return objective.differentiable_loss(*case.programs(parameters), case.x)

    require_gradient("the reported value", loss, *leaves.values())
    return []


def require_gradient(what: str, function: Any, *inputs: Tensor) -> None:
    """Check that the gradient is the derivative, by differences of the value.

    A value that detaches something has a gradient that is not its own derivative.

    Raises:
        AssertionError: If it is not.
    """
    size = 1 + abs(float(function(*inputs).detach()))
    try:
        gradcheck(
            function,
            inputs,
            # About the cube root of the double precision, where the difference is most accurate.
            eps=6e-6,
            atol=ROUNDING * size,
            rtol=1e-6,
            check_undefined_grad=False,
            fast_mode=True,
        )
    except GradcheckError as error:
        numbers = " ".join(str(error).split())
        raise AssertionError(
            f"derivative of {what} against a difference quotient: {numbers}"
        ) from error
