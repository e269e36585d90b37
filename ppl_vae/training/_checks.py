"""What training data must be, checked before the first update."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.data import require_lossless
from ppl_vae.objectives import Objective
from ppl_vae.particles import (
    FirstRun,
    Particles,
    Program,
    Programs,
    first_run,
    is_point,
    require_rows,
)
from ppl_vae.randomness import Stream, generator, seeded


def require_data(
    parts: dict[str, Tensor],
    programs: Programs,
    device: torch.device,
    seed: int,
) -> None:
    """Check that there are rows, without NaN unless that is a missing cell to the model.

    Args:
        parts: Name to data, for messages; ``train`` among them.
        programs: Their model is asked whether it takes missing cells, by its likelihoods.
        device: Where the model is.
        seed: Of the draw that the model is asked with.

    Raises:
        ValueError: If there are no rows or some hold what cannot be trained on; names the first.
    """
    missing = any(bool(x.isnan().any()) for x in parts.values())
    if missing:
        with seeded(seed, Stream.TRAINING):
            few = parts["train"][:2].to(device, programs.modules().dtype)
            missing = programs.accepts_missing(few)
    for name, x in parts.items():
        _require_rows(name, x, missing)


def _require_rows(name: str, x: Tensor, missing: bool) -> None:
    if len(x) == 0:
        raise ValueError(f"{name} holds no data.")
    bad = (x.isinf() if missing else ~x.isfinite()).reshape(len(x), -1).any(1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has {int(bad.sum())} rows with NaN or infinite values, the first at row "
            f"{int(bad.nonzero()[0])}: remove or fill them in, or leave missing cells out of the "
            "likelihood with ObservedDecoder."
        )


def fitting_rows(
    programs: Programs, train: Tensor, valid: Tensor | None, prepare: Callable[[Tensor], Tensor]
) -> tuple[FirstRun, Tensor | None]:
    """Programs that ran on training data, and both sets of rows in the type that they take.

    Args:
        programs: Model and guide.
        train: Training data.
        valid: Validation data.
        prepare: Makes of training data a small batch.

    Raises:
        ValueError: If rows would be rounded, or are no data of the model.
    """
    ran = first_run(programs, train, prepare, "train")
    nesting = max(programs.max_plate_nesting, ran.modules.max_plate_nesting)
    require_rows(replace(programs, max_plate_nesting=nesting), ran.batch, "train")
    if valid is None:
        return ran, None
    if valid.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"valid has rows of shape {tuple(valid.shape[1:])}, train of {tuple(train.shape[1:])}: "
            "give both alike, rows first."
        )
    return ran, require_lossless(valid, ran.rows.dtype, "valid")


def require_maximum(
    objective: Objective,
    model: Program,
    guide: Program,
    x: Tensor,
    parameters: Mapping[str, Tensor],
) -> None:
    """Check that an objective has a maximum where the guide is a point.

    A point has no density that pays for the prior's: a prior that is trained, or that follows
    another latent, closes in on the points, and its density there grows without end.

    Args:
        objective: Is asked whether the prior's density is part of what is ascended.
        model: As trained.
        guide: As trained.
        x: Some data.
        parameters: What is trained.

    Raises:
        ValueError: If it has none, or is shaped by a KL that a point does not have.
    """
    with torch.enable_grad():
        programs = objective.programs(model, guide)
        particles = programs.draw(x, graph="split", check_finite=False)
    points = [name for name, site in particles.guide.items() if is_point(site)]
    if not points:
        return
    shaping = getattr(objective, "kl", None)
    if shaping is not None and shaping.measures_kl:
        raise ValueError(
            f"guide site {points[0]!r} is a Delta, a point without a KL, and {shaping} measures "
            "the KL: leave it out, or take a factor such as beta, or a guide with a density."
        )
    ascended = _ascended_densities(objective, model, guide, x)
    for name in points:
        # A discrete latent has a probability, which ends at 1.
        if name in ascended and not particles.prior[name].support.is_discrete:
            _require_fixed_prior(particles, name, parameters)


def _ascended_densities(
    objective: Objective, model: Program, guide: Program, x: Tensor
) -> set[str]:
    """Sites whose prior's density is part of what the objective ends at ascending."""
    with torch.enable_grad():
        particles = objective.draw(model, guide, x)
        leaves = {n: p.detach().requires_grad_() for n, p in particles.log_prior.items()}
        value = objective.ascended_at_end(replace(particles, log_prior=leaves)).sum()
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None and bool(gradient.any())
    }


def _require_fixed_prior(particles: Particles, name: str, parameters: Mapping[str, Tensor]) -> None:
    """The prior's density at a site must depend on nothing else that can move."""
    others = {
        f"latent site {other!r}": value
        for other, value in particles.latents.items()
        if other != name and value.requires_grad
    }
    movable = {**{f"parameter {key}": value for key, value in parameters.items()}, **others}
    density = particles.log_prior[name].sum()
    if not density.requires_grad:
        return
    found = torch.autograd.grad(density, list(movable.values()), allow_unused=True)
    causes = [key for key, slope in zip(movable, found, strict=True) if slope is not None]
    if causes:
        listed = ", ".join(causes[:3]) + (", ..." if len(causes) > 3 else "")
        raise ValueError(
            f"guide site {name!r} is a Delta, a point without a density, and its prior depends on "
            f"{listed}: it can close in on the points, so that the joint density there has no "
            "maximum; take a prior without parameters, such as the standard normal, or a guide "
            "with a density, such as the normal."
        )


def fixed_subset(x: Tensor, size: int) -> Tensor:
    """At most ``size`` rows at random, the same ones for every run.

    Neighbouring rows are often alike, so the first ones would not do.
    """
    return x[torch.randperm(len(x), generator=generator(0, Stream.VALIDATION))[:size]]
