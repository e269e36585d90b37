"""Parts of the ELBO's KL: information about the datum, and distance of q(z) from the prior."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowData, Rows, in_memory
from ppl_vae.diagnostics._estimates import MonteCarlo, over_draws, rows_of, table
from ppl_vae.display import Result, Row
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Variable
from ppl_vae.objectives import dimension_log_densities
from ppl_vae.particles import (
    ChunkSize,
    Particles,
    Program,
    Programs,
    aggregate_log_density,
    evaluation,
)
from ppl_vae.randomness import Stream, seeded

_NEAR_THE_LIMIT = 0.1
"""Nats below log N where the information says more about N than about the guide."""


@final
@dataclass(frozen=True, repr=False)
class ElboSurgery(Result):
    """``ELBO = E log p(x|z) - I_q(n; z) - KL(q(z), p(z))``, mean over N data, in nats per datum.

    q(z) is the guide averaged over these N data. The errors are of the draws, the data held fixed:
    information and marginal KL belong to this set of data, and change with N.

    Attributes:
        elbo: The evidence lower bound.
        log_likelihood: E_q log p(x|z).
        kl: The mean of KL(q(z|x), p(z)); exactly information plus marginal_kl.
        information: Index-code mutual information I_q(n; z), at most log N.
        marginal_kl: KL(q(z), p(z)).
        total_correlation: KL(q(z), prod_j q(z_j)), where guide and prior factorise over the
            dimensions of one site; else None.
        dimension_kl: Sum over dimensions of KL(q(z_j), p(z_j)), likewise; marginal_kl is
            exactly total_correlation plus this.
        per_dimension: Its terms.
        num_data: N.
        num_particles: Draws per datum.
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "surgery"
    _derived: ClassVar[tuple[str, ...]] = ("most_information", "notes")

    elbo: MonteCarlo
    log_likelihood: MonteCarlo
    kl: MonteCarlo
    information: MonteCarlo
    marginal_kl: MonteCarlo
    total_correlation: MonteCarlo | None
    dimension_kl: MonteCarlo | None
    per_dimension: list[MonteCarlo] | None
    num_data: int
    num_particles: int
    identity: Identity | None = None

    @property
    def most_information(self) -> float:
        """The logarithm of N, in nats."""
        return math.log(self.num_data)

    @property
    def notes(self) -> list[str]:
        """Reservations about these numbers."""
        if self.information.value < self.most_information - _NEAR_THE_LIMIT:
            return []
        return [
            "the information has reached its limit log N: the codes of these data hardly overlap, "
            "so that only more data can tell how much there is"
        ]

    def __str__(self) -> str:
        parts = {
            "ELBO": self.elbo,
            "log-likelihood": self.log_likelihood,
            "KL": self.kl,
            f"  information (< {self.most_information:.2f})": self.information,
            "  KL(q(z), p(z))": self.marginal_kl,
            "    total correlation": self.total_correlation,
            "    sum over dimensions": self.dimension_kl,
        }
        rows = {name: str(value) for name, value in parts.items() if value is not None}
        last = f"N = {self.num_data}, K = {self.num_particles}"
        return "\n".join([table("nats per datum", ("mean", "error"), rows), *self.notes, last])

    def _rows(self) -> list[Row]:
        return rows_of(self, MonteCarlo)

    def _arrays(self) -> dict[str, Variable]:
        """The dimension-wise KL by latent dimension, where it is known."""
        kl = [(term.value, term.standard_error) for term in self.per_dimension or []]
        names = "dimension_kl", "dimension_kl_standard_error"
        columns = zip(names, np.array(kl).T, strict=True) if kl else ()
        return {name: (["latent"], column) for name, column in columns}


def elbo_surgery(
    model: Program,
    guide: Program,
    x: RowData,
    *,
    num_particles: int = 10,
    batch_size: int = 100,
    device: torch.device | str | None = None,
    seed: int | None = 0,
) -> ElboSurgery:
    """Take the ELBO apart: ``E log p(x|z) - I_q(n; z) - KL(q(z), p(z))``.

    With n uniform over the N data, ``I = E log q(z|x_n)/q(z)`` and ``KL = E log q(z)/p(z)``, the
    mean over draws z ~ q(z|x_n), K for each datum. q(z) is the mean over all N data, none left out,
    so that the terms are unbiased for these data. Marginal KL further splits into total correlation
    and dimension-wise KL, where guide and prior have independent dimensions.

    Costs K decoder evaluations per datum and K N^2 densities of the guide.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``: all that the guide is to be averaged over.
        num_particles: Number of particles K.
        batch_size: Data handled at once. Another size draws other particles.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws; ``None`` uses the caller's random state.

    Raises:
        ValueError: If there are no data, fewer than 2 particles (no error), or the guide is a
            point.

    References:
        Hoffman and Johnson, 2016, ELBO surgery: yet another way to carve up the variational
        evidence lower bound.
        Chen et al., 2018, Isolating sources of disentanglement in variational autoencoders.
    """
    x = Rows.of(x)
    num_data = len(x)
    if num_particles < 2:
        raise ValueError(
            "elbo_surgery needs data and num_particles >= 2 for its errors, got "
            f"{num_data} data and num_particles={num_particles}."
        )
    parts, programs = [], Programs(model, guide)
    with (
        evaluation(programs, x, ChunkSize.of_data(batch_size), device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        look.require_density("it has no KL to take apart")
        identity = look.identity(f"elbo_surgery({num_particles=})", seed)
        every = in_memory(look.x, "q(z) over all data")
        for part, own in look.chunks():
            # Draws of a batch, but q(z) over all data: part of them would bias its logarithm.
            parts.append(_terms(own.draw(part, num_particles), look.programs, every))
    terms = _join(parts)
    # Terms of (particles, batch) are means over draws; those by dimension follow below.
    named = {name: over_draws(values) for name, values in terms.items() if values.dim() == 2}
    dimensions = terms.get("per_dimension")
    return ElboSurgery(
        elbo=named["elbo"],
        log_likelihood=named["log_likelihood"],
        kl=named["kl"],
        information=named["information"],
        marginal_kl=named["marginal_kl"],
        total_correlation=named.get("total_correlation"),
        dimension_kl=named.get("dimension_kl"),
        per_dimension=(
            None if dimensions is None else [over_draws(terms) for terms in dimensions.unbind(-1)]
        ),
        num_data=num_data,
        num_particles=num_particles,
        identity=identity,
    )


def _terms(
    particles: Particles, programs: Programs, x: Tensor
) -> dict[str, Float[Tensor, "particles batch *latent"]]:
    """Terms of one batch's draws whose means are the quantities, on the CPU."""
    log_guide, log_prior = particles.log_proposal.double(), particles.log_latent_prior.double()
    shape = log_guide.shape
    # (particles, *plates, batch, *event) -> (particles * batch, *plates, *event)
    dim = programs.max_plate_nesting
    points = {name: z.movedim(dim, 1).flatten(0, 1) for name, z in particles.latents.items()}
    aggregate = aggregate_log_density(programs, x, points, device=log_guide.device)
    joint = aggregate.joint.reshape(shape)
    terms = {
        "elbo": particles.log_weight,
        "log_likelihood": particles.log_likelihood,
        "kl": log_guide - log_prior,
        "information": log_guide - joint,
        "marginal_kl": joint - log_prior,
    }
    if aggregate.marginals is not None:
        marginals = aggregate.marginals.reshape(*shape, -1)
        terms |= _by_dimension(particles, joint, marginals)
    return {name: values.double().cpu() for name, values in terms.items()}


def _by_dimension(particles: Particles, joint: Tensor, marginals: Tensor) -> dict[str, Tensor]:
    (name,) = particles.latents
    try:
        _, log_prior = dimension_log_densities(particles, name)
    except ValueError:  # the prior does not factorise
        return {}
    return {
        "total_correlation": joint - marginals.sum(-1),
        "dimension_kl": (marginals - log_prior).sum(-1),
        "per_dimension": marginals - log_prior,
    }


def _join(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    tables = list(parts)
    return {name: torch.cat([table[name] for table in tables], 1) for name in tables[0]}
