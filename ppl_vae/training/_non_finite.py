"""Numbers that are not finite: the site and the datum that they come from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import final

import torch
from torch import Tensor

from ppl_vae.particles import NonFiniteDensityError, Particles, Programs, evaluating

# A context, not an argument of the step: a user's own step need not know of the checks.
_CHECKED: ContextVar[bool] = ContextVar("finite", default=False)


@final
class NonFiniteUpdateError(ValueError):
    """A gradient, a parameter or a bound that an update left NaN or infinite.

    Args:
        message: One line: what is not finite, and how to mend it.
        site: The log-density that it comes from, if that is known.
        datum: Row of the batch, if that is known.
    """

    def __init__(self, message: str, site: str | None = None, datum: int | None = None) -> None:
        super().__init__(message)
        self.site, self.datum = site, datum


@final
class NonFiniteError(ValueError):
    """Training came to a density, a gradient or a parameter that is NaN or infinite.

    Args:
        message: One line: which update, what is not finite where, what to do.
        update: The update, counted from 1.
        epoch: Its epoch, counted from 1.
        site: The site that is not finite, or has a gradient that is not, if that is known.
        datum: The row of the batch, if that is known.
        row: The same as a row of the training data.
    """

    def __init__(
        self,
        message: str,
        *,
        update: int | None = None,
        epoch: int | None = None,
        site: str | None = None,
        datum: int | None = None,
        row: int | None = None,
    ) -> None:
        super().__init__(message)
        self.update, self.epoch, self.site = update, epoch, site
        self.datum, self.row = datum, row

    @classmethod
    def of(
        cls,
        cause: NonFiniteDensityError | NonFiniteUpdateError,
        update: int,
        epoch: int,
        rows: Tensor,
    ) -> "NonFiniteError":
        """Failure of an update whose batch has these rows of the training data."""
        site, datum = cause.site, cause.datum
        row = None if datum is None else int(rows[datum])
        message = f"update {update} (epoch {epoch}) is not finite: {cause}"
        if row is not None:
            message += f" The datum is row {row} of the training data."
        return cls(message, update=update, epoch=epoch, site=site, datum=datum, row=row)


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Name data by their place in a batch, where programs run on those from ``first`` on."""
    try:
        yield
    except NonFiniteDensityError as error:
        raise NonFiniteDensityError(error.value, error.site, first + error.datum) from error


@contextmanager
def finite_checks() -> Iterator[None]:
    """Make every update inside check its densities and its gradient, which waits for the device."""
    token = _CHECKED.set(True)
    try:
        yield
    finally:
        _CHECKED.reset(token)


def checks_finite() -> bool:
    """Whether updates are to be checked."""
    return _CHECKED.get()


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every element is finite; waits for the device once."""
    values = [value.detach() for value in tensors.values()]
    # One stacked result, as each .item() or bool() of a GPU tensor waits for the device. A sum is
    # finite only if every element is, and takes a tenth of the time.
    if bool(torch.stack([value.sum() for value in values]).isfinite().all()):
        return True
    # Finite elements too may have a sum that is not.
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


def require_finite_gradient(
    programs: Programs,
    x: Tensor,
    particles: Particles,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    first: int = 0,
) -> None:
    """Check the gradient that an update is about to take.

    Args:
        programs: Model and guide.
        x: The batch.
        particles: Draws of the update.
        parameters: Name to leaf tensor.
        gradients: Name to gradient; None is of a parameter that nothing trains.
        first: Number of data of the batch before these.

    Raises:
        NonFiniteUpdateError: If one is not finite; names the first log-density, and its datum, that
            has such a gradient at the draws.
    """
    given = {name: value for name, value in gradients.items() if value is not None}
    bad = [name for name, value in given.items() if not bool(value.isfinite().all())]
    if not bad:
        return
    where, datum = _origin(programs, x, particles, list(parameters.values()))
    datum = None if datum is None else first + datum
    source = "" if where is None else f" by {where} (datum {datum} of the batch)"
    raise NonFiniteUpdateError(
        f"the gradient of {bad[0]} is not finite{source}: keep scales away from 0, or lower the "
        "learning rate before parameters have diverged.",
        where,
        datum,
    )


def require_finite_result(sums: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Check the parameters after an update, and the bound that it recorded.

    Raises:
        NonFiniteUpdateError: If something is not finite.
    """
    for name, value in parameters.items():
        if not bool(value.detach().isfinite().all()):
            raise NonFiniteUpdateError(f"{name} is not finite any more: lower the learning rate.")
    if not bool(sums.isfinite().all()):
        raise NonFiniteUpdateError(
            "the bound is not finite, though every log-density is: look for overflow in the "
            "objective (fewer nats in an exponent, lower the learning rate)."
        )


def _origin(
    programs: Programs, x: Tensor, particles: Particles, parameters: list[Tensor]
) -> tuple[str | None, int | None]:
    """Find the first log-density with a gradient that is not finite, and its datum.

    Data are run alone: in a batch 0 times infinity makes the gradient of every datum NaN.
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
    # The densities of a datum share one graph, which the next of them needs too.
    gradients = torch.autograd.grad(density.sum(), inputs, retain_graph=True, allow_unused=True)
    return all(bool(value.isfinite().all()) for value in gradients if value is not None)
