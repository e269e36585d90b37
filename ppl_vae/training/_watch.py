"""Which site and which datum a density or a gradient that is not finite comes from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import final

import torch
from torch import Tensor

from ppl_vae.particles import Particles, Programs, evaluating

_WATCHED: ContextVar[bool] = ContextVar("watched", default=False)


@final
class NonFiniteUpdateError(ValueError):
    """A gradient, a parameter or a bound that an update left NaN or infinite.

    Args:
        message: What is not finite, and what to do.
        site: What it comes from, if that is known.
        datum: Row of the batch, if that is known.
    """

    def __init__(self, message: str, site: str | None = None, datum: int | None = None) -> None:
        super().__init__(message)
        self.site, self.datum = site, datum


@contextmanager
def watched_updates() -> Iterator[None]:
    """Every update inside checks its densities and its gradient; it waits for the device."""
    token = _WATCHED.set(True)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def is_watched() -> bool:
    """Whether updates are to be checked."""
    return _WATCHED.get()


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every element is finite; waits for the device once."""
    return bool(torch.stack([value.detach().isfinite().all() for value in tensors.values()]).all())


def require_finite_gradient(
    programs: Programs,
    x: Tensor,
    particles: Particles,
    parameters: Mapping[str, Tensor],
) -> None:
    """Check the gradient that an update has found.

    Args:
        programs: Model and guide.
        x: The batch.
        particles: What was drawn for it.
        parameters: Name to leaf tensor with its gradient.

    Raises:
        NonFiniteUpdateError: If one is not finite; names the first log-density, and its datum, that
            has such a gradient at the draws.
    """
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    bad = [name for name, value in gradients.items() if not bool(value.isfinite().all())]
    if not bad:
        return
    where, datum = _origin(programs, x, particles, list(parameters.values()))
    source = "" if where is None else f" by {where} (datum {datum} of the batch)"
    raise NonFiniteUpdateError(
        f"the gradient of {bad[0]} is not finite{source}: keep scales away from 0, or lower the "
        "learning rate before parameters have diverged.",
        where,
        datum,
    )


def require_finite_result(parts: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Check what an update made of the parameters, and the bound it recorded.

    Raises:
        NonFiniteUpdateError: If something is not finite.
    """
    for name, value in parameters.items():
        if not bool(value.detach().isfinite().all()):
            raise NonFiniteUpdateError(f"{name} is not finite any more: lower the learning rate.")
    if not bool(parts.isfinite().all()):
        raise NonFiniteUpdateError(
            "the bound is not finite, though every log-density is: look for overflow in the "
            "objective (fewer nats in an exponent, lower the learning rate)."
        )


def _origin(
    programs: Programs, x: Tensor, particles: Particles, parameters: list[Tensor]
) -> tuple[str | None, int | None]:
    """The first datum, and the log-density of it, with a gradient that is not finite.

    Data are run alone: in a batch 0 times infinity makes NaN of everybody's gradient.
    """
    dim = programs.max_plate_nesting
    # A search must not end in an error of its own, as of a program that takes no single datum.
    with evaluating(*programs.callables), suppress(ValueError, RuntimeError):
        for datum in range(len(x)):
            rows = slice(datum, datum + 1)
            latents = {
                name: value.detach().movedim(dim, 0)[rows].movedim(0, dim)
                for name, value in particles.latents.items()
            }
            # What reaches the parameters through the draws is a gradient of the draws first.
            inputs = [z.requires_grad_() for z in latents.values() if z.is_floating_point()]
            one = programs.rows(rows).evaluate(x[rows], latents)
            for where, density in one.densities.items():
                if not _has_finite_gradient(density, [*parameters, *inputs]):
                    return f"the log-density of {where}", datum
    return None, None


def _has_finite_gradient(density: Tensor, inputs: list[Tensor]) -> bool:
    if not density.requires_grad:
        return True
    found = torch.autograd.grad(density.sum(), inputs, retain_graph=True, allow_unused=True)
    return all(bool(gradient.isfinite().all()) for gradient in found if gradient is not None)
