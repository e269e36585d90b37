"""Models and guides as functions of their parameters, replicated in one batch.

Every parameter has a leading dimension of rows: with one row, all data share it; with as many rows
as data, each datum has a copy of its own, so that one backward pass through a batch of equal data
gives as many independent replicates of the gradient, one in each row.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from ppl_vae.particles import Program

Parameters = dict[str, Tensor]


@final
@dataclass(frozen=True, eq=False)
class ReferenceModel:
    """Model and guide as functions of their parameters, with data.

    Attributes:
        name: Name for messages.
        programs: Function from parameters to (model, guide).
        parameters: Name to values, shape ``(rows, ...)``.
        x: Data, shape ``(batch, features)``.
        exact: log p(x), shape (batch,), in nats, where it is known.
    """

    name: str
    programs: Callable[[Parameters], tuple[Program, Program]]
    parameters: Parameters
    x: Float[Tensor, "batch features"]
    exact: Float[Tensor, " batch"] | None = None

    @property
    def model(self) -> Program:
        """Model at the parameters as they are."""
        return self.programs(self.parameters)[0]

    @property
    def guide(self) -> Program:
        """Guide at the parameters as they are."""
        return self.programs(self.parameters)[1]

    @property
    def log_evidence(self) -> Float[Tensor, " batch"]:
        """Exact log p(x).

        Raises:
            ValueError: If it is not known.
        """
        if self.exact is None:
            raise ValueError(f"log p(x) of {self.name} is not known.")
        return self.exact

    def replicated(self, rows: int) -> "ReferenceModel":
        """Repeat the first datum, with parameters of its own each time."""
        parameters = {name: _repeat(value, rows) for name, value in self.parameters.items()}
        return replace(self.repeated(rows), parameters=parameters)

    def repeated(self, count: int) -> "ReferenceModel":
        """Repeat the first datum, with parameters that all share."""
        exact = None if self.exact is None else _repeat(self.exact, count)
        return replace(self, x=_repeat(self.x, count), exact=exact)

    def scaled(self, scale: Tensor | float) -> "ReferenceModel":
        """Multiply all log-densities by a factor, as in training on a subsample."""

        def programs(parameters: Parameters) -> tuple[Program, Program]:
            model, guide = self.programs(parameters)
            return poutine.scale(model, scale=scale), poutine.scale(guide, scale=scale)

        return replace(self, programs=programs)

    def leaves(self) -> Parameters:
        """Make fresh copies of the parameters that require gradients."""
        return leaves_of(self.parameters)


def _repeat(value: Tensor, rows: int) -> Tensor:
    return value[:1].expand(rows, *value.shape[1:]).contiguous()


def leaves_of(parameters: Mapping[str, Tensor]) -> Parameters:
    """Make fresh copies that require gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def one_row(**values: object) -> Parameters:
    """Make parameters in double precision that all data share."""
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def for_simulated(parameters: Parameters, x: Tensor) -> Parameters:
    """Tile parameters for a guide that sees data simulated for each particle in turn."""

    def tiled(value: Tensor) -> Tensor:
        times = len(x) // len(value) if len(value) > 1 else 1
        return value.repeat(times, *[1] * (value.dim() - 1))

    return {name: tiled(value) for name, value in parameters.items()}


def normal(loc: Tensor, log_scale: Tensor) -> dist.Distribution:
    """Make independent normals of a vector."""
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Apply matrices of shape ``(rows, out, in)`` to vectors of shape ``(..., rows, in)``."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Draw from the seed inside; the caller's random state is left as it was.

    It seeds the CPU alone, where checks compute: cheap enough to be done hundreds of times.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def given(latents: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the latent sites of any program these values, inside, in place of draws."""
    trace = poutine.Trace()
    for name, value in latents.items():
        trace.add_node(name, type="sample", value=value, is_observed=False, infer={})
    # As the outermost handler, so that plates have broadcast the distributions before.
    with poutine.replay(trace=trace):
        yield


def ascent_direction(loss: Tensor, parameters: Mapping[str, Tensor]) -> Parameters:
    """Compute the negative gradient of a loss; 0 for parameters that it does not depend on.

    Args:
        loss: Loss, a single number.
        parameters: Leaf tensors by name.
    """
    # autograd.grad would raise where the loss depends on no parameter at all.
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in parameters.items()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else -gradient
        for (name, value), gradient in zip(parameters.items(), found, strict=True)
    }
