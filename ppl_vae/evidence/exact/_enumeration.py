"""log p(x) by summing over every configuration of discrete latents."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor
from torch.distributions import constraints
from tqdm.auto import tqdm

from ppl_vae.data import RowData, row_chunks
from ppl_vae.distributions import OneHotBlocks
from ppl_vae.evidence._loop import Call, join_columns
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.particles import (
    ChunkSize,
    Program,
    Programs,
    SiteRun,
    in_words,
    log_densities,
)
from ppl_vae.progress import no_bar
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights

_ROUNDINGS = 8


@final
@dataclass(frozen=True)
class Enumeration:
    """``log sum_z p(x, z)`` per datum, in nats, over every configuration of discrete latents.

    Exact up to rounding, which the standard error states. All latent sites of a datum are
    enumerated together: each element of a Bernoulli vector has 2 values, a Categorical or one-hot
    site, and each one-hot block of a vector of them, as many as its classes, and the
    configurations are all their combinations. Costs one decoder evaluation per configuration and
    datum.

    Args:
        max_configurations: More are refused.
        rows: Configurations times data decoded at once.

    Raises:
        ValueError: If max_configurations or rows is less than 1.
    """

    max_configurations: int = 2**20
    rows: int = 20_000

    def __post_init__(self) -> None:
        for name in ("max_configurations", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")

    def __call__(
        self,
        model: Program,
        guide: Program | None,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Sum p(x_i, z) over z for every datum.

        Args:
            model: Pyro model with its data plate at dim -1 and discrete latents.
            guide: Plays no part; may be None.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Of the one draw that tells the shapes; it does not matter.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If there are no data, a latent is not discrete and finite, or there are too
                many configurations.
        """
        call, programs = Call(device, seed, progress), Programs(model)
        with (
            call.open(programs, x, ChunkSize(1, self.rows, of_draws=False)) as look,
            seeded(seed, Stream.EVALUATION),
            torch.no_grad(),
        ):
            # No draw counts, so that the seed is no part of the identity.
            identity, programs = look.identity(repr(self), None), look.programs
            one = programs.run_model(look.x[:1].to(look.device), 1)
            states = States.of(one, programs.max_plate_nesting - 1)
            self._require_few(states)
            at_once = max(1, self.rows // states.count)
            bar = tqdm(
                row_chunks(look.x, at_once),
                "log p(x)",
                -(-len(look.x) // at_once),
                disable=no_bar(progress),
            )
            columns = [self._sum(programs, part.to(look.device), states) for part in bar]
        claims = Claims(num_particles=states.count, direction="exact", method="enumeration")
        return Evidence.from_weights(join_columns(columns), claims, identity, call.seconds)

    def _require_few(self, states: "States") -> None:
        if states.count > self.max_configurations:
            sizes = ", ".join(f"{n}: {site.count:,}" for n, site in states.sites.items())
            raise ValueError(
                f"the latents of a datum have {states.count:,} configurations ({sizes}), more than "
                f"max_configurations = {self.max_configurations:,}: raise it, or take "
                "ImportanceSampling()."
            )

    def _sum(self, programs: Programs, x: Tensor, states: "States") -> Columns:
        weights = RunningWeights()
        size = max(1, self.rows // len(x))
        for first in range(0, states.count, size):
            index = torch.arange(first, min(first + size, states.count), device=x.device)
            latents = states.at(index, len(x))
            modelled = programs.run_model(x, len(index), latents)
            # In every chunk: a support may depend on the datum, or on a latent enumerated with it.
            states.require_all(modelled)
            densities = list(log_densities(modelled, programs.num_dims).values())
            # Sites add up in double precision: single ones would lose digits at every site.
            weights.add(sum((d.double() for d in densities[1:]), densities[0].double()))
        log_prob = (weights.log_mean + math.log(states.count)).cpu()
        rounding = _ROUNDINGS * torch.finfo(densities[0].dtype).eps * log_prob.abs()
        return {
            "log_prob": log_prob,
            "standard_error": rounding,
            "rounding": rounding,
            "effective_sample_size": torch.full_like(log_prob, states.count),
        }


@final
@dataclass(frozen=True, eq=False)
class SiteStates:
    """The values of one discrete site.

    Attributes:
        values: Of one element, shape ``(number, *element)``.
        plates: Shape of the plates left of the data's.
        elements: Shape of the elements within an event.
        event: Shape of the event.
    """

    values: Tensor
    plates: tuple[int, ...]
    elements: tuple[int, ...]
    event: tuple[int, ...]

    @classmethod
    def of(cls, name: str, prior: Any, value: Tensor, num_plates: int) -> "SiteStates":
        """Make the states of a site from one draw, ``(1, *plates, 1, *event)``.

        Raises:
            ValueError: If the site is not discrete and finite.
        """
        values = _element_values(name, prior.support, value.shape[-1]).to(value)
        shape = tuple(value.shape)
        plates, event = shape[1 : 1 + num_plates], shape[2 + num_plates :]
        elements = event[: len(event) - (values.dim() - 1)]
        if isinstance(prior.support, OneHotBlocks):
            elements = (event[-1] // prior.support.classes,)
        return cls(values, plates, elements, event)

    @property
    def digits(self) -> int:
        """Elements of a datum, over plates and event."""
        return math.prod(self.plates) * math.prod(self.elements)

    @property
    def count(self) -> int:
        """Configurations of a datum."""
        return int(len(self.values) ** self.digits)

    def at(self, index: Int[Tensor, " configurations"], num_data: int) -> Tensor:
        """Configurations by number, ``(configurations, *plates, num_data, *event)``."""
        # Configurations are numbers with one digit for each element.
        powers = len(self.values) ** torch.arange(self.digits, device=index.device)
        digits = index.unsqueeze(-1) // powers % len(self.values)
        value = self.values[digits.reshape(len(index), *self.plates, *self.elements)]
        value = value.reshape(len(index), *self.plates, *self.event)
        data_dim = 1 + len(self.plates)
        shape = (*value.shape[:data_dim], num_data, *value.shape[data_dim:])
        return value.unsqueeze(data_dim).expand(shape)


@final
@dataclass(frozen=True)
class States:
    """All configurations of all sites of a datum, numbered."""

    sites: Mapping[str, SiteStates]

    @classmethod
    def of(cls, modelled: SiteRun, num_plates: int) -> "States":
        """Make the states of a model that has run once, on one datum."""
        return cls(
            {
                name: SiteStates.of(name, modelled.sites[name]["fn"], value, num_plates)
                for name, value in modelled.latents.items()
            }
        )

    def require_all(self, modelled: SiteRun) -> None:
        """Check that every datum's sites, at these configurations, have the values enumerated.

        Raises:
            ValueError: If a support depends on the datum or on another latent; names the site.
        """
        for name, site in self.sites.items():
            support, last = modelled.sites[name]["fn"].support, modelled.latents[name].shape[-1]
            if not torch.equal(_element_values(name, support, last).to(site.values), site.values):
                raise _not_enumerable(name, support)

    @property
    def count(self) -> int:
        """Configurations in all."""
        return math.prod(site.count for site in self.sites.values())

    def at(self, index: Int[Tensor, " configurations"], num_data: int) -> dict[str, Tensor]:
        """Site name to values of the configurations numbered."""
        latents = {}
        for name, site in self.sites.items():
            latents[name] = site.at(index % site.count, num_data)
            index = index // site.count
        return latents


def _element_values(name: str, support: Any, last: int) -> Tensor:
    """Every value of one element of a discrete site, whose last dimension is given."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean:
        return torch.arange(2)
    if support is constraints.one_hot:
        return torch.eye(last)
    if isinstance(support, OneHotBlocks):
        return torch.eye(support.classes)
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        low, high = (torch.as_tensor(b) for b in (support.lower_bound, support.upper_bound))
        if bool((low == low.min()).all() and (high == high.max()).all()):
            return torch.arange(int(low.min()), int(high.max()) + 1)
    raise _not_enumerable(name, support)


def _not_enumerable(name: str, support: Any) -> ValueError:
    return ValueError(
        f"latent site {name!r} has support {in_words(support)}, and Enumeration sums over "
        "finitely many values that are the same for every datum: take ImportanceSampling(), or "
        "Quadrature() for continuous latents."
    )
