"""The first run of programs on data, and checks of every estimate's assumptions."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ppl_vae.data import RowTensor, require_lossless
from ppl_vae.particles._modules import ProgramModules, SeenModules
from ppl_vae.particles._particles import Particles, UnknownDensityError
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._run import (
    SiteRun,
    data_plate_size,
    require_all_rows,
    require_few_rows,
)
from ppl_vae.particles._sites import (
    assemble,
    changed_density,
    log_densities,
    require_observed,
)


@final
@dataclass(frozen=True, eq=False)
class FirstRun:
    """Programs that have run on some data.

    Attributes:
        modules: The modules behind them.
        rows: All data, in the type that the programs take.
        batch: The data that they ran on.
    """

    modules: ProgramModules
    rows: RowTensor
    batch: Tensor


def first_run(
    programs: Programs, x: RowTensor, prepare: Callable[[RowTensor], Tensor], what: str = "x"
) -> FirstRun:
    """Run programs once, in evaluation mode, on data of any type that loses nothing in theirs.

    Args:
        programs: Model and guide.
        x: All rows.
        prepare: Makes of all rows the few to run on, where to compute.
        what: Name of the data in messages.

    Raises:
        ValueError: If the data have another shape than the programs take, or would be rounded, or
            a plate subsamples from more rows than a chunk or batch has.
    """
    try:
        batch = prepare(x)
        return FirstRun(programs.modules(batch), x, batch)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        # First the cause that has a plain name, as it may fail with any of these errors.
        with suppress(RuntimeError, TypeError, IndexError):
            require_few_rows(programs.model, programs.guide, prepare(x))
        # Pyro's, where rows are not of the shape that the networks take.
        if str(error).startswith("Shape mismatch inside plate") and x.dim() > 1:
            raise _not_run(x, what, error) from error
        dtype = programs.modules().dtype
        if is_out_of_memory(error) or dtype is None:
            raise
        if isinstance(x, Tensor) and x.dim() == 1:
            _require_no_single_datum(programs, x.to(dtype), prepare, what)
        if isinstance(error, ValueError):
            raise
        if x.dtype == dtype:
            if _is_ours(error):
                raise
            raise _not_run(x, what, error) from error
    # Data of another type than the modules', such as integers or doubles, may be all that is wrong.
    cast = require_lossless(x, dtype, what)
    try:
        batch = prepare(cast)
        return FirstRun(programs.modules(batch), cast, batch)
    except (RuntimeError, IndexError) as error:
        raise _not_run(x, what, error) from error


def _is_ours(error: Exception) -> bool:
    """Whether a module of this package raised an error, which says what to do."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(module).startswith("ppl_vae.")


def _require_no_single_datum(
    programs: Programs, x: Tensor, prepare: Callable[[RowTensor], Tensor], what: str
) -> None:
    """Check whether flat data that programs do not run on are one row of what they take."""
    if x.dim() != 1:
        return
    try:
        programs.modules(prepare(x[None]))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return
    raise ValueError(_batch_missing(what, 1))


def _not_run(x: RowTensor, what: str, error: Exception) -> ValueError:
    reason = str(error).split("\n")[0].rstrip(".")
    return ValueError(
        f"the programs do not run on {what}, rows of shape {tuple(x.shape[1:])} in {x.dtype} "
        f"({reason}): check the shape of the data, rows first, against the model's layers."
    )


def checked(programs: Programs, x: Tensor, count: int, what: str) -> Particles | None:
    """Particles of each datum, after checking all that estimates take for granted."""
    programs = programs.rows(slice(0, len(x)))
    drawn = None if programs.guide is None else programs.run_guide(x, count)
    latents, subsamples = ({}, {}) if drawn is None else (drawn.latents, drawn.subsamples)
    modelled = programs.run_model(x, count, latents, subsamples)
    require_all_rows(*([modelled] if drawn is None else [drawn, modelled]))
    require_observed(modelled.sites)
    _require_rows(modelled, x, what)
    dims = programs.num_dims
    particles = None if drawn is None else assemble(modelled, drawn, dims)
    # At the same draws: what differs then is random besides the sample sites.
    _require_same(modelled, programs.run_model(x, count, modelled.latents), dims, "model")
    _require_own(programs, x, modelled)
    if drawn is not None:
        again = programs.run_guide(x, count, drawn.latents)
        # A flow without an inverse has no density but that of its own draws.
        with suppress(UnknownDensityError):
            _require_same(drawn, again, dims, "guide")
    return particles


def require_rows(programs: Programs, x: Tensor, what: str = "x") -> None:
    """Check, by a run of the model, that a datum of it is a row of x.

    Raises:
        ValueError: If x is one datum, or the data plate has another size and does not subsample.
    """
    with torch.no_grad(), SeenModules().recording():
        ran = programs.run_model(x, 1)
    _require_rows(ran, x, what)


def _require_rows(modelled: SiteRun, x: Tensor, what: str) -> None:
    """Check for as many data in the data plate as rows in x, each of the likelihood's shape."""
    for name, site in modelled.sites.items():
        event = len(site["fn"].event_shape)
        if site["is_observed"] and site["value"] is x and x.dim() == event:
            raise ValueError(_batch_missing(what, event))
        size = data_plate_size(site)
        if size != len(x) and not modelled.subsamples:
            raise ValueError(
                f"site {name!r} stands in a data plate of {size} for {len(x)} rows: make it of "
                "len(x), as the data come in batches."
            )


def _batch_missing(what: str, dimensions: int) -> str:
    return (
        f"{what} has {dimensions} dimension(s), the model's data have {dimensions + 1}, rows "
        f"first: give {what}[None] for one datum."
    )


def _require_same(first: SiteRun, second: SiteRun, num_dims: int, whose: str) -> None:
    changed = changed_density(first, second, num_dims)
    if changed is not None:
        raise ValueError(
            f"site {changed[0]!r} of the {whose} has another log-density when run again on the "
            f"same draws (by {changed[1]:.3g} nats): something besides its sample sites is random, "
            "such as dropout of a module that the programs do not show; make it part of a module "
            "that they call, or call .eval() on it."
        )


def _require_own(programs: Programs, x: Tensor, together: SiteRun) -> None:
    """Check that a datum's log-densities at a draw do not depend on what stands beside it."""
    count = len(next(iter(together.latents.values()))) if together.latents else 1
    if count * len(x) < 2:
        return  # Nothing stood beside it, and no more rows are to be computed at once.
    # Half of the data, or of few the first twice: batch norm takes no single one.
    rows = torch.arange(max(2, len(x) // 2), device=x.device) * (len(x) > 3)
    dim, dims = programs.max_plate_nesting, programs.num_dims
    latents = {name: z[:1].index_select(dim, rows) for name, z in together.latents.items()}
    try:
        alone = log_densities(programs.run_model(x[rows], 1, latents), dims)
    except (RuntimeError, IndexError, ValueError):
        return  # What runs on so many rows only says so by itself, at the last rows.
    for name, value in log_densities(together, dims).items():
        own, beside = alone[name], value[:1, rows]
        # Other sizes round otherwise.
        close = max(1e-2 if x.is_cuda else 1e-3, 32 * torch.finfo(value.dtype).eps)
        if not torch.allclose(own, beside, rtol=close, atol=close, equal_nan=True):
            gap = (own - beside).abs().max().item()
            raise ValueError(
                f"site {name!r} of the model has another log-density when other data and particles "
                f"stand beside it (by {gap:.3g} nats): give layers and functions the dimension "
                "from the back (softmax(h, dim=-1), normalize(h, dim=-1)), as particles and data "
                "are in front, and batch norm running statistics."
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a GPU or a CPU."""
    # The allocator of the CPU has no type of its own.
    words = "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and words
    )
