"""The door to every estimate: programs in evaluation mode, rows, a device, and their identity."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.data import RowData, Rows, require_lossless
from ppl_vae.devices import resolve_device
from ppl_vae.identity import (
    Identity,
    Source,
    asked_device,
    hash_rows,
    hash_tensors,
    state,
)
from ppl_vae.particles._counting import count_evaluations
from ppl_vae.particles._modules import ProgramModules, SeenModules
from ppl_vae.particles._particles import Particles, require_density
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._sites import (
    SiteRun,
    UnknownDensityError,
    assemble,
    data_plate_size,
    log_densities,
    require_all_rows,
    require_few_rows,
    require_observed,
)
from ppl_vae.particles._supports import support_gap
from ppl_vae.randomness import seeded

PARTICLES_AT_ONCE = 500
_LOOK = 2
"""Particles of each datum that the programs are checked with: what depends on z differs in them."""
_FEATURES = 1_000
"""Up to so many numbers a datum, rows are as many as suit the device; beyond, fewer: a chunk's
temporaries grow with both."""


@final
@dataclass(frozen=True)
class ChunkSize:
    """How many rows, particles times data, are decoded at once.

    Attributes:
        per_datum: Particles of a datum that are to be decoded together, if they fit.
        given: Rows as asked for; None: what suits the device and the size of a datum.
        cpu: Rows that suit a CPU, where a chunk and its temporaries should stay near the cache.
        gpu: Rows that keep a GPU busy.
        whole: Whether all particles of a datum are always held together.
        of_draws: Whether each chunk has draws of its own, which then follow from its size.
    """

    per_datum: int
    given: int | None = None
    cpu: int = 2_000
    gpu: int = 131_072
    whole: bool = False
    of_draws: bool = True

    @classmethod
    def of_data(cls, data_at_once: int) -> "ChunkSize":
        """So many data, whatever there is of each."""
        return cls(1, data_at_once, whole=True)

    def data_for(self, rows: int, num_data: int) -> int:
        """Data of a chunk of so many rows."""
        together = self.per_datum if self.whole else min(self.per_datum, PARTICLES_AT_ONCE)
        return max(1, min(num_data, rows // together))

    def rows_for(self, x: Tensor, device: torch.device) -> int:
        """Rows for these data on this device."""
        if self.given is not None:
            return self.given
        usual = self.cpu if device.type == "cpu" else self.gpu
        return max(1, min(usual, usual * _FEATURES // max(1, x[0].numel())))


@final
@dataclass(frozen=True)
class Evaluation:
    """Programs in evaluation mode, and the data that they are looked at on.

    Attributes:
        programs: Model and guide, with the plate nesting that was found.
        x: All rows, shape ``(num_data, *event)``, where they were given.
        device: Where to compute.
        size: How large chunks were to be.
        rows: Particles times data decoded at once.
        modules: What is behind the programs.
        first: Two particles of each of the first chunk's data; None without a guide.
        source: Where the data came from.
    """

    programs: Programs
    x: Shaped[Tensor, "num_data *event"]
    device: torch.device
    size: ChunkSize
    rows: int
    modules: ProgramModules
    first: Particles | None
    source: Source

    def support_gap(self) -> str | None:
        """Where the guide's support is a part of the prior's only, in words; None: nowhere.

        One particle of every datum is looked at, as supports may differ between data.
        """
        with seeded(0), torch.no_grad():
            for start in range(0, len(self.x), self.rows):
                part = self.x[start : start + self.rows].to(self.device)
                programs = self.programs.rows(slice(start, start + len(part)))
                drawn = programs.run_guide(part, 1)
                modelled = programs.run_model(part, 1, drawn.latents)
                gap = support_gap(
                    *({n: s["fn"] for n, s in r.sites.items()} for r in (modelled, drawn))
                )
                if gap is not None:
                    return gap
        return None

    def require_density(self, why: str) -> None:
        """Check that there is a guide, and that it is no point.

        Args:
            why: What a density is needed for, for the message.

        Raises:
            ValueError: If there is none, or it is a point; names the site.
        """
        if self.first is None:
            raise ValueError("guide=None: this draws from the guide; give one.")
        require_density(self.first.guide, why)

    @property
    def data_at_once(self) -> int:
        """Data of a chunk."""
        return self.size.data_for(self.rows, len(self.x))

    def chunks(self) -> Iterator[tuple[Tensor, Programs]]:
        """Each chunk's data, where to compute, and the programs for them."""
        for start in range(0, len(self.x), self.data_at_once):
            part = self.x[start : start + self.data_at_once].to(self.device)
            yield part, self.programs.rows(slice(start, start + len(part)))

    def with_rows(self, rows: int) -> "Evaluation":
        """The same with other chunks."""
        return replace(self, rows=rows)

    def halved(self) -> "Evaluation | None":
        """The same with half the rows in a chunk; None where that makes it no smaller."""
        least = self.size.per_datum if self.size.whole else 1
        return self.with_rows(self.rows // 2) if self.rows // 2 >= least else None

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        return hash_tensors(self.modules.all_tensors), hash_rows(self.x)

    @cached_property
    def _densities(self) -> dict[str, float]:
        """What the programs say of one draw of the first datum, where that is a finite number."""
        programs, x = self.programs.rows(slice(0, 1)), self.x[:1].to(self.device)
        found = {}
        # What does not run on one datum, or at given draws, has no densities to compare.
        with seeded(0), torch.no_grad(), suppress(RuntimeError, IndexError, ValueError):
            drawn = SiteRun({}, {}) if programs.guide is None else programs.run_guide(x, 1)
            modelled = programs.run_model(x, 1, drawn.latents)
            for whose, ran in (("guide", drawn), ("model", modelled)):
                for name, value in log_densities(ran, programs.num_dims).items():
                    found[f"site {name!r} of the {whose}"] = float(value)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def identity(self, settings: str, seed: int | None) -> Identity:
        """What a number that is computed here is computed from.

        It is stated before anything is computed: see :func:`~ppl_vae.identity.identity_of`.

        Args:
            settings: The estimator or the diagnosis with its settings, in words.
            seed: Of its draws.
        """
        (parameters, data), rows, device = self._hashes, self.rows, self.device.type
        if (elsewhere := asked_device()) is not None:
            rows, device = self.size.rows_for(self.x, torch.device(elsewhere)), elsewhere
        cut = rows if self.size.of_draws else None
        found = Identity(parameters, data, settings, seed, cut, device, self.source)
        return state(found if elsewhere else replace(found, densities=self._densities))


@contextmanager
def evaluation(
    programs: Programs,
    x: RowData,
    size: ChunkSize,
    *,
    device: torch.device | str | None = None,
    what: str = "x",
) -> Iterator[Evaluation]:
    """Open programs and data for looking at them.

    Whatever is computed inside runs the programs in evaluation mode; afterwards modes and buffers
    are as they were found. The programs run a few times on the first chunk, one particle each, to
    find their modules and plates and to check that they keep what every estimate takes for granted.

    Args:
        programs: Model and guide.
        x: The data, rows first, as :func:`~ppl_vae.data.as_rows` takes them; of
            :class:`~ppl_vae.data.Rows` the identity tells the source.
        size: How large chunks are to be.
        device: Where to compute; where the modules are, or else the data, if not given.
        what: Name of the data in messages.

    Raises:
        TypeError: If x is nothing that holds rows.
        ValueError: If x holds no data, or has another shape or type than the programs take; if a
            plate subsamples; if the programs do not fit each other (names the site); if they have
            other densities when run again at the same draws.
    """
    given = Rows.of(x, what)
    rows = given.x
    static = programs.modules()
    target = _device(device, static, rows)
    chunk = size.rows_for(rows, target)
    at_once = size.data_for(chunk, len(rows))
    ran = first_run(programs, rows, lambda part: part[:at_once].to(target), what)
    modules, rows = ran.modules, ran.rows
    nesting = max(programs.max_plate_nesting, modules.max_plate_nesting)
    programs = replace(programs, max_plate_nesting=nesting)
    with modules.evaluating():
        with seeded(0), torch.no_grad(), count_evaluations():
            looks = max(1, min(_LOOK, chunk // at_once))
            first = _checked(programs, ran.batch, looks, what)
        yield Evaluation(programs, rows, target, size, chunk, modules, first, given.source)


def _device(wanted: torch.device | str | None, modules: ProgramModules, x: Tensor) -> torch.device:
    there = modules.device
    if wanted is None:
        return x.device if there is None else there
    device = resolve_device(wanted)
    if there is not None and device.type != there.type:
        raise ValueError(
            f"device={str(wanted)!r}, but the model's parameters are on {there}: move it there "
            f"first (module.to({str(wanted)!r})), or leave device out."
        )
    return device if there is None else there


@final
@dataclass(frozen=True)
class FirstRun:
    """Programs that have run on some data.

    Attributes:
        modules: What is behind them.
        rows: All data, in the type that the programs take.
        batch: What they ran on.
    """

    modules: ProgramModules
    rows: Tensor
    batch: Tensor


def first_run(
    programs: Programs, x: Tensor, prepare: Callable[[Tensor], Tensor], what: str = "x"
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
        with suppress(RuntimeError, TypeError, IndexError):
            require_few_rows(programs.model, programs.guide, prepare(x))
        # Pyro's, where rows are not of the shape that the networks take.
        if str(error).startswith("Shape mismatch inside plate") and x.dim() > 1:
            raise _not_run(x, what, error) from error
        dtype = programs.modules().dtype
        if is_out_of_memory(error) or dtype is None:
            raise
        _require_no_single_datum(programs, x.to(dtype), prepare, what)
        if isinstance(error, ValueError):
            raise
        if x.dtype == dtype:
            raise _not_run(x, what, error) from error
    cast = require_lossless(x, dtype, what)
    try:
        batch = prepare(cast)
        return FirstRun(programs.modules(batch), cast, batch)
    except (RuntimeError, IndexError) as error:
        raise _not_run(x, what, error) from error


def _require_no_single_datum(
    programs: Programs, x: Tensor, prepare: Callable[[Tensor], Tensor], what: str
) -> None:
    """Where programs do not run on flat data, see whether these are one row of what they take."""
    if x.dim() != 1:
        return
    try:
        programs.modules(prepare(x[None]))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return
    raise ValueError(_batch_missing(what, 1))


def _not_run(x: Tensor, what: str, error: Exception) -> ValueError:
    reason = str(error).split("\n")[0].rstrip(".")
    return ValueError(
        f"the programs do not run on {what}, rows of shape {tuple(x.shape[1:])} in {x.dtype} "
        f"({reason}): check the shape of the data, rows first, against the model's layers."
    )


def _checked(programs: Programs, x: Tensor, count: int, what: str) -> Particles | None:
    """Particles of each datum, after a look at all that estimates take for granted."""
    programs = programs.rows(slice(0, len(x)))
    drawn = None if programs.guide is None else programs.run_guide(x, count)
    latents, subsamples = ({}, {}) if drawn is None else (drawn.latents, drawn.subsamples)
    modelled = programs.run_model(x, count, latents, subsamples)
    require_all_rows(*([modelled] if drawn is None else [drawn, modelled]))
    require_observed(modelled.sites)
    _require_rows(modelled, x, what)
    dims = programs.num_dims
    particles = None if drawn is None else assemble(modelled, drawn, dims)
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
    with torch.no_grad(), SeenModules().watching():
        ran = programs.run_model(x, 1)
    _require_rows(ran, x, what)


def _require_rows(modelled: SiteRun, x: Tensor, what: str) -> None:
    """There must be as many data in the data plate as rows in x, each of the likelihood's shape."""
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
    """Log-densities at the same draws must be the same."""
    again = log_densities(second, num_dims)
    for name, value in log_densities(first, num_dims).items():
        if not torch.allclose(value, again[name], rtol=1e-4, atol=1e-4, equal_nan=True):
            gap = (value - again[name]).abs().max().item()
            raise ValueError(
                f"site {name!r} of the {whose} has another log-density when run again on the same "
                f"draws (by {gap:.3g} nats): something besides its sample sites is random, such as "
                "dropout of a module that the programs do not show; make it part of a module that "
                "they call, or call .eval() on it."
            )


def _require_own(programs: Programs, x: Tensor, whole: SiteRun) -> None:
    """A datum's log-densities at a draw must be the same whatever is computed beside them."""
    count = len(next(iter(whole.latents.values()))) if whole.latents else 1
    if count * len(x) < 2:
        return  # Nothing stood beside it, and no more rows are to be computed at once.
    # Half of the data, or of few the first twice: batch norm takes no single one.
    rows = torch.arange(max(2, len(x) // 2), device=x.device) * (len(x) > 3)
    dim, dims = programs.max_plate_nesting, programs.num_dims
    latents = {name: z[:1].index_select(dim, rows) for name, z in whole.latents.items()}
    try:
        alone = log_densities(programs.run_model(x[rows], 1, latents), dims)
    except (RuntimeError, IndexError, ValueError):
        return  # What runs on so many rows only says so by itself, at the last rows.
    for name, value in log_densities(whole, dims).items():
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
