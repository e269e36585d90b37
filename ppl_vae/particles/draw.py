"""Running a guide and a model together, and a model by itself."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.particles.counting import add_evaluations
from ppl_vae.particles.particles import Particles, Simulation
from ppl_vae.particles.sites import Program, SiteRun, assemble, log_densities, run

Graph = Literal["path", "split", "score"]
"""How draws and densities hang together in the autograd graph.

``path``: the draws are functions of the guide's parameters, and the densities of the draws.
``split``: the densities are taken at leaf copies of the draws, so that a parameter's direct effect
on a density, and its effect through the draws (``Particles.paths``), can be told apart, whichever
parameters the programs share. ``score``: the draws are constants.
"""


def draw_particles(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "batch *event"],
    num_particles: int = 1,
    *,
    graph: Graph = "path",
    max_plate_nesting: int = 1,
    check_finite: bool = True,
) -> Particles:
    """Run the guide, then the model on the guide's draws, once, for all particles together.

    Args:
        model: A Pyro program; its latent and observed sites stand in a data plate at dim -1.
        guide: A Pyro program over the same latent sites.
        x: A batch, shape ``(batch, *event)``, handed to both.
        num_particles: K.
        graph: How gradients flow through the draws; the values are the same.
        max_plate_nesting: How many plate dimensions the programs use, the data plate included.
            Dimensions left of the data plate are summed.
        check_finite: Raise on a non-finite log-density. It waits for the device, so a step that is
            captured or runs ahead on a GPU turns it off.

    Returns:
        Per-site log-densities of shape (particles, batch), unscaled.

    Raises:
        ValueError: If a site stands outside the data plate or is to be enumerated, the guide
            misses a latent or has one too many, scales differ between sites, a log-density is not
            finite, or a guide to be split gives other densities when run again. Names the site.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be 1 or more, got {num_particles}.")
    plate = num_particles, max_plate_nesting
    drawn = run(guide, x, *plate, detach=graph == "score")
    latents, paths = drawn.latents, None
    if graph == "split":
        paths, latents = latents, {name: _leaf(value) for name, value in latents.items()}
        # A lone site's distribution depends on no latent: its density needs no second run.
        alone = len(latents) == 1
        first = drawn
        drawn = first.at(latents) if alone else run(guide, x, *plate, latents, first.subsamples)
        if check_finite and not alone:
            _require_same(first, drawn, max_plate_nesting + 1)
    modelled = run(model, x, *plate, latents, drawn.subsamples)
    particles = assemble(modelled, drawn, max_plate_nesting + 1, paths)
    add_evaluations(particles.num_particles * particles.batch_size)
    if check_finite:
        particles.require_finite()
    return particles


def evaluate_particles(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "batch *event"],
    latents: Mapping[str, Tensor],
    *,
    max_plate_nesting: int = 1,
) -> Particles:
    """The particles that given latents are, wherever they were drawn.

    Outside the guide's support its log-density is -inf.

    Args:
        model: As for :func:`draw_particles`.
        guide: As for :func:`draw_particles`.
        x: A batch, shape ``(batch, *event)``.
        latents: Site name to values, shape ``(particles, batch, *event)``.
        max_plate_nesting: As for :func:`draw_particles`.

    Raises:
        ValueError: As :func:`draw_particles`.
    """
    count = len(next(iter(latents.values())))
    guided = run(guide, x, count, max_plate_nesting, latents)
    modelled = run(model, x, count, max_plate_nesting, latents, guided.subsamples)
    add_evaluations(count * len(x))
    return assemble(modelled, guided, max_plate_nesting + 1, anywhere=True)


def simulate(
    model: Program,
    guide: Program | None,
    x: Shaped[Tensor, "batch *event"],
    num_particles: int = 1,
    *,
    max_plate_nesting: int = 1,
) -> Simulation:
    """Draw (z, x) ~ p from the model, and take log q(z|x) under the guide if one is given.

    Args:
        model: As for :func:`draw_particles`; it sees x for its shape only.
        guide: As for :func:`draw_particles`, or None to draw the latents alone.
        x: A batch, shape ``(batch, *event)``.
        num_particles: Draws for each row of x.
        max_plate_nesting: As for :func:`draw_particles`.

    Raises:
        ValueError: If the guide is to see simulated data, and the model does not observe exactly
            one site of the shape of x, or subsamples.
    """
    # Where the latents alone are wanted, they carry the gradient of a learned prior.
    with torch.set_grad_enabled(torch.is_grad_enabled() and guide is None):
        drawn = run(model, x, num_particles, max_plate_nesting, simulated=True)
    add_evaluations(num_particles * len(x))
    if guide is None:
        return Simulation(drawn.latents, untrained=drawn.untrained)
    observed = drawn.observed
    shapes = {name: tuple(value.shape[max_plate_nesting:]) for name, value in observed.items()}
    size = num_particles * x.numel()
    alone = list(shapes.values()) == [tuple(x.shape)]
    if not alone or any(v.numel() != size for v in observed.values()) or drawn.subsamples:
        raise ValueError(
            "the guide can see simulated data only if the model observes one site of the shape of "
            f"x, {tuple(x.shape)}, without subsampling; it observes {shapes}."
        )
    (fantasies,) = observed.values()
    rows = fantasies.reshape(-1, *x.shape[1:])
    latents = {
        name: _merge_particles(value, num_particles, len(x), max_plate_nesting)
        for name, value in drawn.latents.items()
    }
    guided = run(guide, rows, 1, max_plate_nesting, latents)
    densities = log_densities(guided, max_plate_nesting + 1).values()
    return Simulation(drawn.latents, sum(densities, torch.zeros(())).reshape(num_particles, len(x)))


@torch.no_grad()
def predict(
    model: Program,
    x: Shaped[Tensor, "batch *event"],
    num_particles: int = 1,
    *,
    latents: Mapping[str, Tensor] | None = None,
    max_plate_nesting: int = 1,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw (z, x) ~ p, or x ~ p(x|z) at given latents.

    Args:
        model: As for :func:`draw_particles`; it sees x for its shape only.
        x: A batch, shape ``(batch, *event)``.
        num_particles: Draws for each row of x.
        latents: Site name to draws, as in :class:`~ppl_vae.particles.Particles`; from the prior if
            None.
        max_plate_nesting: As for :func:`draw_particles`.

    Returns:
        Latents, and draws of the observed sites, by site name; shape ``(particles, *plates, batch,
        *event)``.
    """
    drawn = run(model, x, num_particles, max_plate_nesting, latents, simulated=True)
    return drawn.latents, drawn.observed


def accepts_missing(
    model: Program, x: Shaped[Tensor, "batch *event"], *, max_plate_nesting: int = 1
) -> bool:
    """Whether NaN in x is a missing cell to every likelihood of the model.

    A distribution says so by an attribute ``accepts_missing``, as
    :class:`~ppl_vae.likelihoods.Observed` does.

    Args:
        model: As for :func:`draw_particles`; it sees x for its shape only, and draws from it once.
        x: A batch, shape ``(batch, *event)``.
        max_plate_nesting: As for :func:`draw_particles`.
    """
    with torch.no_grad():
        drawn = run(model, x, 1, max_plate_nesting, simulated=True)
    observed = [drawn.sites[name]["fn"] for name in drawn.observed]
    return all(getattr(likelihood, "accepts_missing", False) for likelihood in observed)


def _require_same(first: SiteRun, second: SiteRun, num_dims: int) -> None:
    """The densities at leaves must be those of the distributions that the draws are from."""
    again = log_densities(second, num_dims)
    for name, value in log_densities(first, num_dims).items():
        if not torch.allclose(value, again[name], rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(
                f"guide site {name!r} has another density when the guide is run again on its own "
                "draws: randomness besides its sample sites, such as dropout, cannot be split by "
                "this objective; switch it off in the guide, or use elbo:K or iwae:K."
            )


def _leaf(value: Tensor) -> Tensor:
    leaf = value.detach()
    return leaf.requires_grad_() if torch.is_grad_enabled() and leaf.is_floating_point() else leaf


def _merge_particles(value: Tensor, num_particles: int, batch: int, nesting: int) -> Tensor:
    """``(particles, *plates, batch, *event)`` -> ``(1, *plates, particles * batch, *event)``."""
    return value.movedim(0, nesting - 1).flatten(nesting - 1, nesting).unsqueeze(0)
