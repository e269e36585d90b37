"""Which site and which datum a density or a gradient that is not finite comes from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Particles

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
def watching() -> Iterator[None]:
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
    particles: Particles, parameters: Mapping[str, Tensor], *, max_plate_nesting: int
) -> None:
    """Check the gradient of an update, whose graph must still be there.

    Raises:
        NonFiniteUpdateError: If one is not finite; names the site and the datum whose draws or
            log-density have such a gradient.
    """
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    bad = [name for name, value in gradients.items() if not bool(value.isfinite().all())]
    if not bad:
        return
    where, datum = _origin(particles, list(parameters.values()), max_plate_nesting)
    source = "" if where is None else f" by {where}"
    source += "" if datum is None else f" (datum {datum} of the batch)"
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
    particles: Particles, parameters: list[Tensor], nesting: int
) -> tuple[str | None, int | None]:
    """The first draws or log-density with a gradient that is not finite, and the datum of it."""
    for where, values in _by_datum(particles, nesting).items():
        if not values.requires_grad or _finite_gradient(values, parameters):
            continue
        data = (i for i, value in enumerate(values) if not _finite_gradient(value, parameters))
        return where, next(data, None)
    return None, None


def _by_datum(particles: Particles, nesting: int) -> dict[str, Float[Tensor, "batch ..."]]:
    draws = particles.latents if particles.paths is None else particles.paths
    return {
        **{f"the draws of site {name!r}": z.movedim(nesting, 0) for name, z in draws.items()},
        **{f"the log-density of {name}": value.mT for name, value in particles.densities.items()},
    }


def _finite_gradient(values: Tensor, parameters: list[Tensor]) -> bool:
    found = torch.autograd.grad(values.sum(), parameters, retain_graph=True, allow_unused=True)
    return all(bool(gradient.isfinite().all()) for gradient in found if gradient is not None)
