"""Entry to every estimate: programs in evaluation mode, rows, a device, and their identity."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, final

import torch
from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.cpu import suited
from ppl_vae.data import RowData, Rows, RowTensor, row_chunks, rows_hash
from ppl_vae.devices import resolve_device
from ppl_vae.identity import (
    Identity,
    Source,
    asked_device,
    hash_tensors,
    state,
)
from ppl_vae.particles._checks import checked, first_run
from ppl_vae.particles._missing import missing_named
from ppl_vae.particles._modules import ProgramModules
from ppl_vae.particles._particles import Particles, count_evaluations, require_density
from ppl_vae.particles._programs import Programs
from ppl_vae.particles._replays import Replays
from ppl_vae.particles._run import SiteRun
from ppl_vae.particles._sites import log_densities, measure_of
from ppl_vae.particles._supports import support_gap
from ppl_vae.randomness import seeded

PARTICLES_AT_ONCE = 500
_CHECKED_PARTICLES = 2
"""Particles of each datum that the programs are checked with: what depends on z differs in them."""
_FEATURES = 1_000
"""Largest number of features with as many rows in a chunk as suit the device; with more there are
fewer, since a chunk's temporaries grow with both."""


@final
@dataclass(frozen=True)
class ChunkSize:
    """Number of rows, particles times data, that are decoded at once.

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
    cpu: int = 6_000
    gpu: int = 131_072
    whole: bool = False
    of_draws: bool = True

    @classmethod
    def of_data(cls, data_at_once: int) -> "ChunkSize":
        """Give chunks of so many data, with all particles of each."""
        return cls(1, data_at_once, whole=True)

    def data_for(self, rows: int, num_data: int) -> int:
        """Number of data in a chunk of so many rows."""
        together = self.per_datum if self.whole else min(self.per_datum, PARTICLES_AT_ONCE)
        return max(1, min(num_data, rows // together))

    def rows_for(self, x: RowTensor, device: torch.device) -> int:
        """Number of rows for these data on this device."""
        if self.given is not None:
            return self.given
        usual = self.cpu if device.type == "cpu" else self.gpu
        return max(1, min(usual, usual * _FEATURES // max(1, x.shape[1:].numel())))


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Programs in evaluation mode, and the data that they are evaluated on.

    Attributes:
        programs: Model and guide, with the plate nesting that was found.
        x: All rows, shape ``(num_data, *event)``, where they were given.
        device: Where to compute.
        size: Size of chunks as it was asked for.
        rows: Particles times data decoded at once.
        modules: The modules behind the programs.
        first: Two particles of each of the first chunk's data; None without a guide.
        source: Where the data came from.
    """

    programs: Programs
    x: Shaped[RowTensor, "num_data *event"]
    device: torch.device
    size: ChunkSize
    rows: int
    modules: ProgramModules
    first: Particles | None
    source: Source

    def support_gap(self) -> str | None:
        """Description of where the guide's support is a part of the prior's only; None: nowhere.

        One particle of every datum is looked at, as supports may differ between data.
        """
        with seeded(0), torch.no_grad():
            # With one particle of each, a chunk has as many data as rows.
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
        """Number of data in a chunk."""
        return self.size.data_for(self.rows, len(self.x))

    def chunks(self) -> Iterator[tuple[Tensor, Programs]]:
        """Iterate over chunks: their data on the device, and the programs for them."""
        start = 0
        for read in row_chunks(self.x, self.data_at_once):
            part = read.to(self.device)
            yield part, self.programs.rows(slice(start, start + len(part)))
            start += len(part)

    def with_rows(self, rows: int) -> "Evaluation":
        """Copy with another number of rows in a chunk."""
        return replace(self, rows=rows)

    @contextmanager
    def reopened(self) -> "Iterator[Evaluation]":
        """Enter evaluation mode again, for changed parameters; nothing is checked twice."""
        with self.modules.evaluating():
            # A new object, as this one keeps the hash of the parameters that were.
            yield replace(self)

    def halved(self) -> "Evaluation | None":
        """Copy with half the rows in a chunk; None where that makes it no smaller."""
        # Particles of a datum that are held together cannot be divided.
        least = self.size.per_datum if self.size.whole else 1
        return self.with_rows(self.rows // 2) if self.rows // 2 >= least else None

    @cached_property
    def replays(self) -> Replays:
        """Compiled forms of what is computed in every chunk."""
        return Replays(self.modules, math.ceil(len(self.x) / self.data_at_once))

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        return hash_tensors(self.modules.all_tensors), rows_hash(self.x)

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        """Log-densities at one draw of the first datum, those that are finite; what p(x) is."""
        programs, x = self.programs.rows(slice(0, 1)), self.x[:1].to(self.device)
        densities: dict[str, float] = {}
        measure = None
        # What does not run on one datum, or at given draws, has no densities to compare.
        with seeded(0), torch.no_grad(), suppress(RuntimeError, IndexError, ValueError):
            drawn = SiteRun({}, {}) if programs.guide is None else programs.run_guide(x, 1)
            modelled = programs.run_model(x, 1, drawn.latents)
            measure = measure_of(modelled)
            for whose, ran in (("guide", drawn), ("model", modelled)):
                for name, value in log_densities(ran, programs.num_dims).items():
                    densities[f"site {name!r} of the {whose}"] = float(value)
        known = {name: value for name, value in densities.items() if math.isfinite(value)}
        return {"densities": known, "measure": measure}

    def identity(self, settings: str, seed: int | None) -> Identity:
        """Identity of a number that is computed here.

        It is stated before anything is computed: see :func:`~ppl_vae.identity.identity_of`.

        Args:
            settings: The estimator or the diagnosis with its settings, in words.
            seed: Of its draws.
        """
        (parameters, data), rows, device = self._hashes, self.rows, self.device.type
        if (elsewhere := asked_device()) is not None:
            rows, device = self.size.rows_for(self.x, torch.device(elsewhere)), elsewhere
        chunk_rows = rows if self.size.of_draws else None
        stated = Identity(parameters, data, settings, seed, chunk_rows, device, self.source)
        return state(stated if elsewhere else replace(stated, **self._recorded))


@contextmanager
def evaluation(
    programs: Programs,
    x: RowData,
    size: ChunkSize,
    *,
    device: torch.device | str | None = None,
    what: str = "x",
) -> Iterator[Evaluation]:
    """Open programs and data for an estimate or a diagnosis.

    Whatever is computed inside runs the programs in evaluation mode; afterwards modes and buffers
    are as they were found. The programs run a few times on the first chunk, one particle each, to
    find their modules and plates and to check that they keep what every estimate takes for granted.

    Args:
        programs: Model and guide.
        x: The data, rows first, as :func:`~ppl_vae.data.as_rows` takes them; of
            :class:`~ppl_vae.data.Rows` the identity tells the source.
        size: Size of chunks.
        device: Where to compute; where the modules are, or else the data, if not given.
        what: Name of the data in messages.

    Raises:
        TypeError: If x is nothing that holds rows.
        ValueError: If x holds no data, or has another shape or type than the programs take; if a
            plate subsamples; if the programs do not fit each other (names the site); if they have
            other densities when run again at the same draws; if what is computed fails by missing
            cells of x, which the programs do not take.
    """
    given = Rows.of(x, what)
    rows = given.x
    # Found by reference alone, before anything runs: they tell where to compute.
    static = programs.modules()
    target = _device(device, static, rows)
    chunk = size.rows_for(rows, target)
    at_once = size.data_for(chunk, len(rows))
    naming = partial(missing_named, programs, rows, lambda part: part.to(target), what)
    with naming():
        ran = first_run(programs, rows, lambda part: part[:at_once].to(target), what)
    modules, rows = ran.modules, ran.rows
    # At least what was announced, as other data may use plates that these do not.
    nesting = max(programs.max_plate_nesting, modules.max_plate_nesting)
    programs = replace(programs, max_plate_nesting=nesting)
    # Around what the caller computes, too: a missing cell may stand in a later chunk.
    with naming(), suited(modules.num_weights, target), modules.evaluating():
        # The checks take no draws from the stream of the estimate and none of its evaluations.
        with seeded(0), torch.no_grad(), count_evaluations():
            # No more rows at once than a chunk has.
            count = max(1, min(_CHECKED_PARTICLES, chunk // at_once))
            first = checked(programs, ran.batch, count, what)
        yield Evaluation(programs, rows, target, size, chunk, modules, first, given.source)


def _device(
    wanted: torch.device | str | None, modules: ProgramModules, x: RowTensor
) -> torch.device:
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
