"""The ELBO taken apart: log-likelihood, KL per latent site and dimension, active units."""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData, Rows
from ppl_vae.diagnostics._estimates import COLUMNS, DatumMeans, Estimate, table
from ppl_vae.display import Axes, Panel, Result, Row, fields_of
from ppl_vae.identity import Identity
from ppl_vae.names import require_least, require_not_negative
from ppl_vae.netcdf import Attribute, Variable, numpy_of
from ppl_vae.objectives import dimension_kl, site_kl
from ppl_vae.particles import ChunkSize, Particles, Program, Programs, evaluation, point_site
from ppl_vae.randomness import Stream, seeded

_BOOTSTRAP_REPLICATES = 200
"""Enough for a standard error that is itself known to 5 per cent."""


@final
@dataclass(frozen=True, eq=False)
class PerDimension:
    """One value for each latent dimension of a site, shape (latent,), in double precision.

    Attributes:
        value: The estimates.
        standard_error: Their standard errors as estimates for the population, both sources of
            error together.
    """

    value: Float[Tensor, " latent"]
    standard_error: Float[Tensor, " latent"]

    @classmethod
    def of(cls, terms: Float[Tensor, "batch latent"]) -> "PerDimension":
        """Means over the data of one term a datum."""
        return cls(terms.mean(0), terms.std(0) / math.sqrt(len(terms)))


@final
@dataclass(frozen=True)
class ActiveUnits:
    """Number of latent dimensions of a site that vary with the data.

    Attributes:
        count: Dimensions whose activity is above the threshold.
        latent: Dimensions in all.
        standard_error: Of the count, by a bootstrap over the data. It is 0 where no dimension's
            activity comes near the threshold.
    """

    count: int
    latent: int
    standard_error: float


@final
@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Result):
    """``ELBO = E log p(x|z) - sum over sites of KL``, mean over N data, in nats per datum.

    Attributes:
        elbo: The evidence lower bound; exactly log_likelihood minus the sum of kl.
        log_likelihood: E_q log p(x|z).
        kl: Site name to ``E_q [log q(z_site|.) - log p(z_site|.)]``, in the model's order. Where
            the guide draws the sites in another order than the model, a single term is no KL
            divergence and can be negative; their sum is one.
        kl_per_dimension: Site name to the KL of each dimension, for sites where guide and prior
            both factorise over the dimensions and the closed form is known and exact.
        activity: Site name to ``Var_x E_q[z_u|x]``, in the squared units of z, for sites with one
            event dimension. An estimate can be below 0: the Monte Carlo noise is subtracted.
        active_units: Site name to the number of dimensions whose activity exceeds the threshold.
        threshold: The activity above which a unit counts as active.
        num_data: N.
        num_particles: Number of particles K, draws per datum.
        point: Whether the guide is a point: elbo is then log p(x, z) there and no bound, and kl is
            -log p(z).
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "decomposition"

    elbo: Estimate
    log_likelihood: Estimate
    kl: dict[str, Estimate]
    kl_per_dimension: dict[str, PerDimension]
    activity: dict[str, PerDimension]
    active_units: dict[str, ActiveUnits]
    threshold: float
    num_data: int
    num_particles: int
    point: bool = False
    identity: Identity | None = None

    def __str__(self) -> str:
        total = "joint log-density log p(x, z)" if self.point else "ELBO"
        term = "-log p" if self.point else "KL"
        rows = {total: self.elbo, "log-likelihood": self.log_likelihood}
        rows |= {f"{term} {name}": estimate for name, estimate in self.kl.items()}
        units = [
            f"active units of {name}: {units.count} of {units.latent} "
            f"(standard error {units.standard_error:.1f}; Var_x E[z|x] > {self.threshold:g})"
            for name, units in self.active_units.items()
        ]
        text = table("nats per datum", COLUMNS, {name: str(row) for name, row in rows.items()})
        return "\n".join([text, *units, f"N = {self.num_data}, K = {self.num_particles}"])

    def _values(self) -> dict[str, Any]:
        return {self.named(name): value for name, value in fields_of(self).items()}

    def named(self, name: str) -> str:
        """A quantity's name in tables and files: at a point there is neither an ELBO nor a KL."""
        if not self.point:
            return name
        return re.sub(
            "^elbo(?=_|$)", "joint_log_density", re.sub("^kl(?=_|$)", "minus_log_prior", name)
        )

    def _terms(self) -> dict[str, Estimate]:
        terms = {"elbo": self.elbo, "log_likelihood": self.log_likelihood}
        terms |= {f"kl_{site}": estimate for site, estimate in self.kl.items()}
        return {self.named(name): estimate for name, estimate in terms.items()}

    def _rows(self) -> list[Row]:
        return [{"term": name} | fields_of(term) for name, term in self._terms().items()]

    def _arrays(self) -> dict[str, Variable]:
        """``kl_<site>`` and ``activity_<site>`` by latent dimension, with standard errors."""
        by_kind = {"kl": self.kl_per_dimension, "activity": self.activity}
        return {
            self.named(f"{kind}_{site}") + suffix: ([f"{site}_dim"], numpy_of(values))
            for kind, sites in by_kind.items()
            for site, found in sites.items()
            for suffix, values in (("", found.value), ("_standard_error", found.standard_error))
        }

    def _attributes(self) -> dict[str, Attribute]:
        units = {f"active_units_{site}": unit.count for site, unit in self.active_units.items()}
        return {self.named(name): v for name, v in super()._attributes().items()} | units

    def _panels(self) -> list[Panel]:
        if self.point:
            return super()._panels()
        units = ", ".join(f"{u.count} of {u.latent} active" for u in self.active_units.values())
        terms = [estimate.value for estimate in self.kl.values()]
        bar = plots.ElboTerms("ELBO", plots.style_of(0), self.log_likelihood.value, terms, units)

        def draw(ax: Axes) -> None:
            plots.draw_parts(ax, [bar])
            plots.remark(ax, f"full: log-likelihood; pale: KL of {', '.join(self.kl)}; mark: ELBO")

        return [(draw, plots.rows_height(2))]


def decompose(
    model: Program,
    guide: Program,
    x: RowData,
    *,
    num_particles: int = 100,
    batch_size: int = 100,
    device: torch.device | str | None = None,
    seed: int | None = 0,
    threshold: float = 0.01,
) -> Decomposition:
    """Take the ELBO apart: ``E log p(x|z) - sum over sites of KL``, and count active units.

    A latent dimension u is active if ``Var_x E_q[z_u|x]`` exceeds the threshold. E_q[z|x] is the
    mean over particles of the guide's mean (of the draws, where the guide's distribution has no
    known mean). Where that mean has Monte Carlo noise, the noise would add its variance to Var_x,
    so ``mean_x(s^2_k / K)`` is subtracted and the variance is unbiased.

    Costs K decoder evaluations per datum. Memory holds num_particles * batch_size decoded rows at
    once and, per datum, a few numbers for each latent dimension.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        num_particles: Number of particles K.
        batch_size: Data handled at once. Another size draws other particles.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws and the bootstrap; ``None`` uses the caller's random state.
        threshold: Activity above which a unit is active.

    Raises:
        ValueError: If there are fewer than 2 data or 2 particles (no standard error), batch_size
            or threshold is out of range, or a log-density is not finite (names the site).

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders, appendix C.
        Hoffman and Johnson, 2016, ELBO surgery: yet another way to carve up the variational
        evidence lower bound.
    """
    x = Rows.of(x)
    num_data, programs = len(x), Programs(model, guide)
    if num_data < 2:
        raise ValueError(f"decompose needs 2 data or more for a standard error, got {num_data}.")
    if num_particles < 2:
        raise ValueError(
            f"decompose needs num_particles >= 2 for a Monte Carlo error, got {num_particles}."
        )
    require_least(1, batch_size=batch_size)
    require_not_negative(threshold=threshold)
    with (
        evaluation(programs, x, ChunkSize.of_data(batch_size), device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        settings = f"decompose(num_particles={num_particles}, threshold={threshold})"
        identity = look.identity(settings, seed)
        tables, point = [], False
        for part, own in look.chunks():
            particles = own.draw(part, num_particles)
            point = point_site(particles.guide) is not None
            tables.append(_tabulate(particles))
        joined = {
            kind: {name: DatumMeans.joined([t[kind][name] for t in tables]) for name in named}
            for kind, named in tables[0].items()
        }
        units = {name: _active_units(means, threshold) for name, means in joined["mean"].items()}
    return Decomposition(
        elbo=joined["total"]["elbo"].estimate(),
        log_likelihood=joined["total"]["log_likelihood"].estimate(),
        kl={name: terms.estimate() for name, terms in joined["kl"].items()},
        kl_per_dimension={n: PerDimension.of(t.value) for n, t in joined["dimension_kl"].items()},
        activity={name: _activity(means) for name, means in joined["mean"].items()},
        active_units=units,
        threshold=threshold,
        num_data=num_data,
        num_particles=num_particles,
        point=point,
        identity=identity,
    )


_Table = dict[str, dict[str, DatumMeans]]


def _tabulate(particles: Particles) -> _Table:
    """Means of one batch, per kind of quantity and site."""
    kl = {name: site_kl(particles, name) for name in particles.log_prior}
    log_likelihood = particles.log_likelihood
    # Subtracted draw by draw, so that the ELBO's error knows how its parts vary together.
    elbo = log_likelihood.double() - sum(terms.double() for terms in kl.values())
    # One event dimension, and no plate besides the data's.
    vectors = [
        name
        for name in kl
        if particles.guide[name].event_dim == 1 and particles.latents[name].shape[1:-2].numel() == 1
    ]
    by_dimension = {name: dimension_kl(particles, name) for name in vectors}
    terms: dict[str, dict[str, Tensor]] = {
        "total": {"elbo": elbo, "log_likelihood": log_likelihood},
        "kl": kl,
        "dimension_kl": {n: values for n, values in by_dimension.items() if values is not None},
        "mean": {name: _guide_mean(particles, name) for name in vectors},
    }
    return {
        kind: {name: DatumMeans.over_draws(values) for name, values in named.items()}
        for kind, named in terms.items()
    }


def _guide_mean(particles: Particles, name: str) -> Float[Tensor, "particles batch latent"]:
    """Terms whose mean over particles estimates E_q[z|x]: the guide's means, or else its draws.

    The guide's mean does not vary over particles unless it depends on a latent drawn before it.
    """
    draws = particles.latents[name]
    try:
        mean = particles.guide[name].mean
    # Distributions without a known mean raise the one or the other.
    except (NotImplementedError, AttributeError):
        mean = draws
    # A Cauchy has a mean, of NaN.
    known = mean.shape == draws.shape and bool(mean.isfinite().all())
    terms: Tensor = mean if known else draws
    return terms.reshape(particles.num_particles, particles.batch_size, -1)


def _activity(means: DatumMeans) -> PerDimension:
    """``Var_x E_q[z|x]`` as a mean of one term per datum, hence its delta-method error."""
    num_data = len(means.value)
    centred = means.value - means.value.mean(0)
    # The variance of noisy means is too large by the mean of their noise.
    return PerDimension.of(centred.square() * num_data / (num_data - 1) - means.noise)


def _active_units(means: DatumMeans, threshold: float) -> ActiveUnits:
    """The count at the data, and its spread over data drawn again with replacement."""
    num_data, latent = means.value.shape
    centred = means.value - means.value.mean(0)
    # Both moments are means over the data, so that a resample is one product with its weights.
    moments = torch.cat([centred.square() * num_data / (num_data - 1) - means.noise, centred], 1)

    def count(weight: Float[Tensor, " num_data"]) -> Tensor:
        # A resample has a mean of its own, which its variance is about.
        second, first = (weight @ moments).chunk(2)
        return (second - first.square() * num_data / (num_data - 1) > threshold).sum()

    def resampled() -> Tensor:
        """Frequency of each datum in num_data draws with replacement."""
        drawn = torch.randint(num_data, (num_data,))
        return torch.bincount(drawn, minlength=num_data).double() / num_data

    replicates = [count(resampled()) for _ in range(_BOOTSTRAP_REPLICATES)]
    return ActiveUnits(
        count=int(count(torch.full((num_data,), 1 / num_data, dtype=torch.float64))),
        latent=latent,
        standard_error=torch.stack(replicates).double().std().item(),
    )
