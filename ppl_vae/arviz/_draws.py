"""DataTrees of latent draws with their weights."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import in_memory
from ppl_vae.evidence import Purpose, Streams
from ppl_vae.names import require_known
from ppl_vae.netcdf import (
    Attribute,
    TreeGroups,
    dimensions_of,
    names_of,
    numpy_of,
    observed_of,
    tree_of,
)
from ppl_vae.particles import (
    ChunkSize,
    Particles,
    Program,
    Programs,
    evaluation,
)

if TYPE_CHECKING:
    import xarray as xr
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import effective_sample_size, normalized_weights

_Draws = dict[str, dict[str, Tensor]]
"""Group to variables of shape (particles, num_data, ...)."""

_OF_THE_GUIDE = "guide_log_likelihood"
"""Group of log p(x|z) at draws that are not the posterior's."""

GROUPS = ("posterior_predictive", "log_prior", "prior", "prior_predictive")
"""Groups that a tree of draws has if they are asked for."""

_OF_POSTERIOR_DRAWS = GROUPS[:2]

_ROWS = 10_000
"""Number of rows, particles times data, decoded at once."""

_WEIGHTED = (
    "Draws from the guide q(z|x): for posterior expectations weight them, for each datum, by the "
    "softmax of sample_stats.log_weight over chains and draws."
)
_RESAMPLED = (
    "Draws from the guide q(z|x), drawn anew for each datum with probabilities softmax(log_weight):"
    " approximate posterior draws of equal weight, with copies; sample_stats.effective_sample_size"
    " counts how many draws they are worth."
)

_OF_THE_MODEL = (
    " Groups prior and prior_predictive are drawn from the model alone, without weights."
)


def particles_to_datatree(
    model: Program,
    guide: Program,
    x: Float[Tensor, "num_data *event"],
    *,
    num_particles: int = 1000,
    chains: int = 4,
    resample: bool = False,
    groups: str | Sequence[str] = (),
    device: torch.device | str | None = None,
    seed: int | None = 0,
    datum_names: Sequence[str | int] | None = None,
) -> "xr.DataTree":
    """Make a tree of the latents' draws with their log-weights, for ArviZ.

    Groups, all log-densities in nats:

    - posterior: each latent site, dimensions (chain, draw, datum, latent). With one latent site the
      last dimension is called ``latent``; with several, or where the site itself is called so,
      ``<site>_dim``. Draws are from the guide and carry weights (below).
    - log_likelihood, or guide_log_likelihood without ``resample``: log p(x|z) under the observed
      site's name, (chain, draw, datum). ``arviz_stats.loo`` and others that take a log-likelihood
      of posterior draws look for the first name, and would be wrong without a word about draws from
      a guide that is narrower than the posterior.
    - sample_stats: log_weight ``log p(x|z) + log p(z) - log q(z|x)``, (chain, draw, datum), and
      effective_sample_size of the weights, (datum,), between 1 and num_particles.
    - observed_data: x, (datum, feature).

    and of those named in ``groups``, by the names that ArviZ's figures look for:

    - posterior_predictive: x drawn anew from p(x|z) at each posterior draw, (chain, draw, datum,
      feature).
    - log_prior: log p(z) of each latent site at the posterior draws, (chain, draw, datum).
    - prior: draws of the latents from p(z), dimensions as in posterior.
    - prior_predictive: x drawn from p(x|z) at the draws of prior, as posterior_predictive.

    Posterior expectations need weights ``v_k = softmax(log_weight)`` over the draws of a datum.
    With ``resample`` (sampling-importance-resampling) each datum's draws are drawn anew with
    probabilities v_k, so that they are posterior draws of equal weight as num_particles grows;
    log_likelihood and log_weight move along with them. Tools that take draws as independent then
    count copies too: go by effective_sample_size.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        num_particles: Number of particles K, draws per datum over all chains.
        chains: Number of chains that the independent draws are cut into; divides num_particles.
        resample: Whether to draw anew with the weights.
        groups: Names of further groups; the first two are of posterior draws and need ``resample``.
        device: Device to compute on; the data's device if not given.
        seed: Seed of the draws; ``None`` uses the caller's random state.
        datum_names: Coordinates of the data; 0, 1, ... if not given.

    Raises:
        ValueError: If there are no data, chains does not divide num_particles, names do not match
            the data or the tree's dimensions, a log-density is not finite (names the site), or a
            group is not known or needs ``resample``.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
    """
    if chains < 1 or num_particles < 1 or num_particles % chains:
        raise ValueError(
            f"chains must divide num_particles, got chains={chains} and "
            f"num_particles={num_particles}."
        )
    groups = [groups] if isinstance(groups, str) else list(groups)
    _require_groups(groups, resample)
    programs = Programs(model, guide)
    # whole: all particles of a datum are drawn in one call, whatever their number.
    size = ChunkSize(num_particles, cpu=_ROWS, gpu=_ROWS, whole=True)
    with (
        evaluation(programs, x, size, device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        x = in_memory(look.x, "the group observed_data")
        parts = []
        for number, (part, own) in enumerate(look.chunks()):
            # The streams of an estimate of log p(x): the same draws for the same chunks.
            streams = Streams(seed, number, 0)
            with streams.stream(Purpose.FORWARD):
                particles = own.draw(part, num_particles)
            # A stream of its own: to ask for further groups does not change the draws.
            with streams.stream(Purpose.PREDICTION):
                further = _further(groups, own, part, particles)
            parts.append(_variables(particles, own.max_plate_nesting) | further)
        draws = _join(parts)
        log_weight = draws["sample_stats"]["log_weight"]
        if resample:
            draws = _resample(draws, log_weight)
    variables = _by_chain(draws, chains)
    # From the weights before resampling: after it all draws have the same weight.
    ess = effective_sample_size(log_weight)
    variables["sample_stats"]["effective_sample_size"] = (["datum"], numpy_of(ess))
    variables["observed_data"] = {name: observed_of(x) for name in draws["log_likelihood"]}
    if not resample:
        # Leave-one-out takes what is called log_likelihood for that of posterior draws.
        variables[_OF_THE_GUIDE] = variables.pop("log_likelihood")
    of_the_model = any(name.startswith("prior") for name in groups)
    attrs: dict[str, Attribute] = {
        "num_particles": num_particles,
        "resampled": int(resample),
        "seed": "none" if seed is None else seed,
        "note": (_RESAMPLED if resample else _WEIGHTED) + _OF_THE_MODEL * of_the_model,
    }
    return tree_of(variables, attrs, {"datum": names_of("datum_names", datum_names, len(x))})


def _require_groups(groups: Collection[str], resample: bool) -> None:
    for name in groups:
        require_known("group", name, GROUPS)
        if name in _OF_POSTERIOR_DRAWS and not resample:
            raise ValueError(f"{name} is of posterior draws: give resample=True.")


def _variables(particles: Particles, data_dim: int) -> _Draws:
    latents = particles.latents.items()
    observed = list(particles.likelihood)
    name = observed[0] if len(observed) == 1 else "x"
    return {
        "posterior": {site: _data_second(z, data_dim).cpu() for site, z in latents},
        "log_likelihood": {name: particles.log_likelihood.cpu()},
        "sample_stats": {"log_weight": particles.log_weight.cpu()},
    }


def _further(
    groups: Collection[str], programs: Programs, x: Tensor, particles: Particles
) -> _Draws:
    """Draw the groups that are asked for, in the order of ``GROUPS``."""
    count, further = particles.num_particles, _Draws()
    if "posterior_predictive" in groups:
        further["posterior_predictive"] = programs.predict(x, count, particles.latents)[1]
    if {"prior", "prior_predictive"} & set(groups):
        latents, data = programs.predict(x, count)
        # One run for both: the data belong to the latents beside them.
        drawn = {"prior": latents, "prior_predictive": data}
        further |= {name: drawn[name] for name in drawn if name in groups}
    data_dim = programs.max_plate_nesting
    moved = {
        group: {name: _data_second(value, data_dim).cpu() for name, value in variables.items()}
        for group, variables in further.items()
    }
    if "log_prior" in groups:
        moved["log_prior"] = {name: value.cpu() for name, value in particles.log_prior.items()}
    return moved


def _data_second(draws: Tensor, data_dim: int) -> Float[Tensor, "particles batch *event"]:
    """Move plates left of the data's to the event; drop those of size 1."""
    particles, *plates, batch = draws.shape[: data_dim + 1]
    event = draws.shape[data_dim + 1 :]
    kept = [size for size in plates if size > 1]
    return draws.movedim(data_dim, 1).reshape(particles, batch, *kept, *event)


def _join(batches: Iterable[_Draws]) -> _Draws:
    parts = list(batches)
    return {
        group: {name: torch.cat([part[group][name] for part in parts], 1) for name in variables}
        for group, variables in parts[0].items()
    }


def _resample(draws: _Draws, log_weight: Float[Tensor, "particles num_data"]) -> _Draws:
    """Resample each datum's draws, with replacement; all variables of a draw stay together."""
    num_particles, num_data = log_weight.shape
    weights = normalized_weights(log_weight.double())
    index = torch.multinomial(weights.mT, num_particles, replacement=True).mT
    datum = torch.arange(num_data)
    return {
        # Draws from the model alone have no weights.
        group: variables
        if group.startswith("prior")
        else {name: values[index, datum] for name, values in variables.items()}
        for group, variables in draws.items()
    }


def _by_chain(draws: _Draws, chains: int) -> TreeGroups:
    sample = ["chain", "draw", "datum"]
    sites = list(draws["posterior"])
    predicted = {"posterior_predictive", "prior_predictive"}
    if clash := {*sites, *draws["log_likelihood"]} & {*sample, "feature"}:
        raise ValueError(f"site {clash.pop()!r} has a name that dimensions of the tree have.")
    return {
        group: {
            name: (
                [
                    *sample,
                    *dimensions_of(
                        "feature" if group in predicted else _latent_dimension(name, sites),
                        values.dim() - 2,
                    ),
                ],
                numpy_of(values.unflatten(0, (chains, -1))),
            )
            for name, values in variables.items()
        }
        for group, variables in draws.items()
    }


def _latent_dimension(name: str, sites: Sequence[str]) -> str:
    return "latent" if len(sites) == 1 and name != "latent" else f"{name}_dim"
