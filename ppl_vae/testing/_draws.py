"""Given draws, gradients by row, and derivatives by differences."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.testing._programs import Case, Parameters

_STEP = 6e-6
"""About the cube root of the double precision, where a central difference is most accurate."""


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Draw from the seed inside; the caller's random state is left as it was.

    It seeds the CPU alone, which is where checks run: cheap enough to be done hundreds of times.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def given(latents: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the latent sites of any program have these values in place of draws."""
    trace = poutine.Trace()
    for name, value in latents.items():
        trace.add_node(name, type="sample", value=value, is_observed=False, infer={})
    # As the outermost handler, so that plates have broadcast the distributions before.
    with poutine.replay(trace=trace):
        yield


def bound_of(
    objective: Objective, case: Case, parameters: Parameters, seed: int
) -> Float[Tensor, " batch"]:
    """The reported bound per datum on the draws of a seed, without gradient."""
    with same_draws(seed), torch.no_grad():
        bound = objective.bound(objective.draw(*case.programs(parameters), case.x))
    if bound.shape != case.x.shape[:1]:
        raise AssertionError(
            "bound: expected one value for each datum, shape "
            f"{tuple(case.x.shape[:1])}, found shape {tuple(bound.shape)}"
        )
    return bound


def ascent(
    objective: Objective, programs: tuple[Program, Program], x: Tensor, parameters: Parameters
) -> Parameters:
    """The gradient that training would ascend; 0 where the loss depends on no parameter."""
    loss = objective.differentiable_loss(*programs, x)
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in parameters.items()}
    gradients = torch.autograd.grad(-loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
    }


def central_differences(
    value: Callable[[Parameters], Float[Tensor, " rows"]], parameters: Parameters
) -> Parameters:
    """The derivative of each row's value by each parameter of its row.

    No autograd: what a value detaches counts like everything else.
    """
    gradients = {}
    for name, at in parameters.items():
        columns = []
        for direction in torch.eye(at[0].numel(), dtype=at.dtype):
            step = _STEP * direction.reshape(at[:1].shape)
            ends = [value({**parameters, name: at + sign * step}) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * _STEP))
        gradients[name] = torch.stack(columns, -1).reshape(at.shape)
    return gradients
