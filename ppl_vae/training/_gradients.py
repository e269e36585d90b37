"""The gradient that an update takes, as one pure function, and the sum of it over chunks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae._adam import laid_out
from ppl_vae.names import plural, warn
from ppl_vae.objectives import Objective
from ppl_vae.particles import Particles, Programs, share_here
from ppl_vae.training._non_finite import checks_finite, counted_from, require_finite_gradient
from ppl_vae.training._precision import Precision, products_in


@final
@dataclass(frozen=True)
class Differentiated:
    """Results of one draw of an objective.

    Attributes:
        sums: Batch sums as of :func:`batch_sums`.
        bound: The bound per datum, detached.
        gradients: Gradient of the loss for each parameter, clipped; None where nothing leads there.
        compiled: Whether a graph was replayed.
    """

    sums: Float[Tensor, " terms"]
    bound: Float[Tensor, " batch"]
    gradients: Sequence[Tensor | None]
    compiled: bool = False

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite; waits for the device."""
        given = [value for value in self.gradients if value is not None]
        return all(bool(value.isfinite().all()) for value in (self.sums, self.bound, *given))


def warn_of_strays(
    objective: Objective,
    programs: Programs,
    x: Float[Tensor, "batch *event"],
    parameters: Mapping[str, Tensor],
) -> None:
    """Warn of parameters that the loss depends on and that nothing updates.

    A parameter of no module that the programs show, such as one of a function's surroundings, asks
    for a gradient, gets none, and stays as it is without a word.

    Args:
        objective: The bound to maximise.
        programs: Model and guide.
        x: Some data.
        parameters: Name to leaf tensor, those that are updated.
    """
    known = {id(value) for value in parameters.values()}
    model, guide = programs.model, programs.required_guide
    try:
        with torch.enable_grad():
            loss, _ = objective.loss_of(objective.draw(model, guide, x, check_finite=False))
    except ValueError:
        # Of data or parameters that cannot be, which the update that comes to them names.
        return
    # Objectives cut graphs at latents, which are leaves then, but no parameters.
    leaves = [leaf for leaf in _leaves(loss) if isinstance(leaf, nn.Parameter)]
    strays = [leaf for leaf in leaves if id(leaf) not in known]
    if strays:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in strays)
        warn(
            f"model or guide compute with {plural(len(strays), 'parameter')} of shape {shapes} "
            "that no module of theirs has, and that will not be trained: make the program a "
            "method of a module that has it, use pyro.param, or freeze it "
            "(requires_grad_(False))."
        )


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors that a gradient of this one would be accumulated in."""
    seen, waiting, found = set(), [value.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            found.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found


def differentiate(
    objective: Objective,
    programs: Programs,
    x: Float[Tensor, "batch *event"],
    parameters: Mapping[str, Tensor],
    clip_norm: float | None = None,
    *,
    precision: Precision = "single",
    check_finite: bool = True,
    first: int = 0,
) -> Differentiated:
    """Draw, and differentiate the objective's loss divided by the batch size.

    Nothing is changed but what the programs themselves change, as the statistics of a batch norm,
    and nothing waits for the device: a graph of it can stand for it.

    Args:
        objective: The bound to maximise.
        programs: Model and guide.
        x: The batch.
        parameters: Name to leaf tensor, those that the gradient is taken of.
        clip_norm: Largest norm of all gradients together; None: no clipping. Where x is a worker's
            share of a batch, whose norm is not known here, nothing is clipped.
        precision: Precision of matrix products, forward and backward.
        check_finite: Raise on a density that is not finite, on a CPU: a GPU would have to wait.
        first: Number of data of the batch before these, for messages.

    Raises:
        NonFiniteDensityError: If a density is not finite.
    """
    leaves, share = list(parameters.values()), share_here()
    size = len(x) if share is None else share.size
    with products_in(precision):
        with counted_from(first):
            particles = objective.draw(
                programs.model, programs.required_guide, x, check_finite=check_finite
            )
            total, bound = objective.loss_of(particles)
            if checks_finite():
                particles.require_finite()
        found = torch.autograd.grad(total / size, leaves, allow_unused=True)
    gradients: list[Tensor | None] = [
        None if value is None else laid_out(value, leaf)
        for value, leaf in zip(found, leaves, strict=True)
    ]
    if checks_finite():
        named = dict(zip(parameters, gradients, strict=True))
        require_finite_gradient(programs, x, particles, parameters, named, first)
    if share is None:
        gradients = clipped(gradients, clip_norm)
    return Differentiated(batch_sums(particles, bound), bound, gradients)


def over_chunks(
    chunks: Sequence[slice],
    gradient_of: Callable[[slice], Differentiated],
    clip_norm: float | None = None,
) -> Differentiated:
    """Results for a batch, from those of chunks of its data one after another.

    Args:
        chunks: Rows of each chunk, in order.
        gradient_of: Gives the results of a chunk, its gradient divided by the chunk's size.
        clip_norm: Largest norm of all gradients together; None: no clipping.
    """
    parts: list[Differentiated] = []
    total: list[Tensor | None] = []
    for rows in chunks:
        part = gradient_of(rows)
        share = (rows.stop - rows.start) / chunks[-1].stop
        total = total or [None] * len(part.gradients)
        for i, (before, value) in enumerate(zip(total, part.gradients, strict=True)):
            if value is not None:
                total[i] = value * share if before is None else before.add_(value, alpha=share)
        # Without its gradient, so that no more than two are held at once.
        parts.append(Differentiated(part.sums, part.bound, (), part.compiled))
    sums = torch.stack([part.sums for part in parts]).sum(0)
    bound = torch.cat([part.bound for part in parts])
    compiled = all(part.compiled for part in parts)
    return Differentiated(sums, bound, clipped(total, clip_norm), compiled)


def clipped(gradients: Sequence[Tensor | None], most: float | None) -> list[Tensor | None]:
    """Gradients times ``min(1, most / norm)``, as of torch's ``clip_grad_norm_``."""
    if most is None or all(value is None for value in gradients):
        return list(gradients)
    # Not in place, as two parameters of a sum may share one gradient.
    norms = torch._foreach_norm([value for value in gradients if value is not None])
    factor = (most / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    return [None if value is None else value * factor for value in gradients]


def batch_sums(particles: Particles, bound: Float[Tensor, " batch"]) -> Float[Tensor, " terms"]:
    """Batch sums, detached: the bound, log p(x|z), and log q - log p of each site in order.

    The last two are means over particles, so that their data means add up to the ELBO.
    """
    count = particles.num_particles
    sums = [bound.sum(), particles.log_likelihood.detach().sum() / count]
    # Sums, not means: batches differ in size, and the epoch divides once by its number of data.
    for name, log_prior in particles.log_prior.items():
        sums.append((particles.log_guide[name] - log_prior).detach().sum() / count)
    return torch.stack(sums)
