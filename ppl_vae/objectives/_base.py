"""Template of the training objectives, and the claims of an objective."""

import copy
import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias, final

import pyro.infer
import torch
from jaxtyping import Float
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn

from ppl_vae.names import describe
from ppl_vae.particles import Graph, Particles, PlateNestingError, Program, Programs, owners_of
from ppl_vae.weights import log_mean_exp

PerDatum: TypeAlias = Float[Tensor, " batch"]
PerDraw: TypeAlias = Float[Tensor, "particles batch"]

SCORE_FUNCTION = ("Reinforce(K)", "VIMCO(K)", "RWS(K)", "TVO(K, num_terms=S)")
"""The objectives that take latents without a pathwise gradient, as on the command line."""


@final
@dataclass(frozen=True)
class Claims:
    """The claims that :func:`ppl_vae.testing.check_objective` tests and the documentation prints.

    The defaults are those of a plain lower bound that is differentiated through the draws.

    Attributes:
        name: As on the command line, with its arguments.
        formula: What is reported.
        direction: Of the reported value's expectation, against log p(x).
        gradient: What the gradients of theta (the model) and phi (the guide) estimate.
        bias: Of value and gradients.
        cost: Decoder evaluations per datum and update.
        use: When to use it.
        reference: Author, year, title.
        unbiased: Which of ``theta`` and ``phi`` have an unbiased gradient of the expectation of
            the reported value.
        unbiased_at_one: The same with one particle, where that differs.
        exact_at_posterior: With the posterior as the guide, every draw reports log p(x) itself.
        zero_at_posterior: With the posterior as the guide, every draw gives phi a gradient of 0.
        grows: The expectation grows (or stays) with the number of particles.
        per_datum: A datum's value does not depend on the other data of its batch.
    """

    name: str = ""
    formula: str = ""
    direction: Literal["lower", "upper", "neither"] = "lower"
    gradient: str = ""
    bias: str = ""
    cost: str = "K"
    use: str = ""
    reference: str = ""
    unbiased: frozenset[Literal["theta", "phi"]] = frozenset({"theta", "phi"})
    unbiased_at_one: frozenset[Literal["theta", "phi"]] | None = None
    exact_at_posterior: bool = True
    zero_at_posterior: bool = False
    grows: bool = True
    per_datum: bool = True

    def unbiased_with(self, num_particles: int) -> frozenset[Literal["theta", "phi"]]:
        """Parameters whose gradients are unbiased with so many particles."""
        if num_particles == 1 and self.unbiased_at_one is not None:
            return self.unbiased_at_one
        return self.unbiased


@final
@dataclass(frozen=True)
class Context:
    """State of the training that an objective may depend on.

    :func:`~ppl_vae.training.fit` sets it before every update; in your own loop, set
    ``objective.context`` yourself.

    Attributes:
        progress: Fraction of training done, 0 at the first update; a scalar tensor where the update
            is recorded as a graph, for which it is an input.
        num_data: Size of the training set; None if unknown.
        epochs: Passes over the training data done, with their fractions.
        planned: Number of updates that training is to make, by batch size; empty if unknown.
    """

    progress: float | Float[Tensor, ""] = 0.0
    num_data: int | None = None
    epochs: float | Float[Tensor, ""] = 0.0
    planned: Mapping[int, float] = field(default_factory=dict)


class Objective(pyro.infer.ELBO):  # type: ignore[misc, unused-ignore]
    """A bound on log p(x), reported, and a surrogate for it, differentiated.

    ``loss = - scale * sum over the batch of bound(particles)``, in nats, where scale comes from
    plates. A subclass writes ``bound`` and, where the gradient is not that of the bound,
    ``surrogate``; both get per-datum weights and give per-datum values, so that scales,
    subsampling and averages over a batch always act after the logarithm.

    Works as ``pyro.infer.SVI(model, guide, optim, loss=objective)`` and as
    ``objective(model, guide)(x)``.

    Args:
        num_particles: Number of particles K, draws of the latents per datum.

    Raises:
        ValueError: If num_particles is not a positive whole number.
    """

    claims: Claims = Claims()
    graph: ClassVar[Graph] = "path"
    """Kind of gradients through the draws; see :data:`ppl_vae.particles.Graph`."""
    least_particles: ClassVar[int] = 1
    simulates: Literal["nothing", "latents", "data"] = "nothing"
    """Whether draws from the model itself are needed, of the latents alone or of the data too."""
    anneals: bool = False
    """Whether the gradient depends on the progress of training."""
    climbs: bool = True
    """Whether all parameters climb the value ``ascended``; not where it bounds log p(x) from
    above and the guide descends it, so that training may move it either way."""
    couples: str | None = None
    """What the gradient has of all data of a batch together; None where it is a sum over data, so
    that workers may share the batch, and training may divide it."""

    def __init__(self, num_particles: int) -> None:
        least = self.least_particles
        # True is an int in Python, and would pass for one particle.
        whole = isinstance(num_particles, int) and not isinstance(num_particles, bool)
        if not whole or num_particles < least:
            raise ValueError(
                f"{type(self).__name__} needs num_particles >= {least} (a whole number), "
                f"got {describe(num_particles)}."
            )
        # One plate, the data's, until the programs turn out to have more: see draw.
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.context = Context()

    def __repr__(self) -> str:
        names = inspect.signature(type(self).__init__).parameters
        shown = {name: getattr(self, name, None) for name in names}
        arguments = ", ".join(f"{name}={v}" for name, v in shown.items() if v is not None)
        return f"{type(self).__name__}({arguments})"

    def with_plate_nesting(self, used: int) -> "Objective":
        """Return this objective, or a copy where the programs use more plate dimensions."""
        if used <= self.max_plate_nesting:
            return self
        # A copy: the caller may use this objective with other programs.
        deeper = copy.copy(self)
        deeper.max_plate_nesting = used
        return deeper

    def programs(self, model: Program, guide: Program) -> Programs:
        """A model and guide, with the plate dimensions that were found."""
        return Programs(model, guide, int(self.max_plate_nesting))

    @abstractmethod
    def bound(self, particles: Particles) -> PerDatum:
        """Bound on log p(x) that is reported, per datum, in nats."""

    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Term that is differentiated, per datum; unless overridden, the bound itself."""
        return bound

    def ascended(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Value that the gradient climbs, per datum; unless overridden, the bound.

        The surrogate has its gradient, and may have any value.
        """
        return bound

    def ascended_at_end(self, particles: Particles) -> PerDatum:
        """Value that the gradient climbs when training is done, per datum.

        All annealing is complete then, so that values of any two epochs can be compared.
        """
        return self._ascended_at(particles, progress=1.0, epochs=math.inf)

    def ascended_at_start(self, particles: Particles) -> PerDatum:
        """Value that the gradient climbs at the first update, per datum, before any annealing."""
        return self._ascended_at(particles, progress=0.0, epochs=0.0)

    def _ascended_at(self, particles: Particles, progress: float, epochs: float) -> PerDatum:
        context = self.context
        self.context = replace(context, progress=progress, epochs=epochs)
        try:
            return self.ascended(particles, self.bound(particles))
        finally:
            self.context = context

    def draw(
        self,
        model: Program,
        guide: Program,
        x: Float[Tensor, "batch *event"],
        *,
        check_finite: bool = True,
    ) -> Particles:
        """Draw the particles that this objective is computed from.

        Args:
            model: Pyro model.
            guide: Pyro guide.
            x: The batch.
            check_finite: Raise on a non-finite density, on a CPU: a check would make a GPU wait.
        """
        finite = check_finite and x.device.type == "cpu"
        try:
            return self._draw(self.programs(model, guide), x, finite)
        except PlateNestingError as error:
            # As Pyro's own objectives do, this one finds the plates when it first runs.
            self.max_plate_nesting = error.used
        return self._draw(self.programs(model, guide), x, finite)

    def _draw(self, programs: Programs, x: Tensor, finite: bool) -> Particles:
        particles = programs.draw(x, self.num_particles, graph=self.graph, check_finite=finite)
        # Simulated draws enter the surrogate alone, which is not computed without gradients.
        if self.simulates == "nothing" or not torch.is_grad_enabled():
            return particles
        # Without a guide nothing evaluates log q at the simulated data, which only "data" needs.
        simulated = programs if self.simulates == "data" else programs.with_guide(None)
        return replace(particles, simulation=simulated.simulate(x, self.num_particles))

    def loss_of(self, particles: Particles) -> tuple[Tensor, PerDatum]:
        """The differentiable loss, a scalar, and the detached bound per datum.

        The loss has the value ``-scale * bound.sum()`` and the gradient of the surrogate.

        Raises:
            ValueError: If a gradient is asked for that would silently lack a term.
        """
        bound = self.bound(particles)
        if not torch.is_grad_enabled():
            return -(particles.scale * bound).sum(), bound
        self._require_gradient(particles)
        surrogate = self.surrogate(particles, bound)
        # The value is the bound, which SVI logs; the gradient is that of the surrogate.
        value = surrogate if surrogate is bound else surrogate + (bound - surrogate).detach()
        return -(particles.scale * value).sum(), bound.detach()

    def _require_gradient(self, particles: Particles) -> None:
        # Score functions take no gradient through the draws.
        if self.graph == "score":
            return
        for name in particles.not_reparameterized:
            raise ValueError(
                f"guide site {name!r} ({type(particles.guide[name]).__name__}) has no "
                f"reparameterised sampler, so the guide's gradient of {type(self).__name__} would "
                f"silently lack a term: use {', '.join(SCORE_FUNCTION)}, or a reparameterised "
                "guide."
            )

    def differentiable_loss(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        """The loss as a scalar tensor whose gradient is that of the surrogate."""
        return self.loss_of(self.draw(model, guide, x))[0]

    def loss(self, model: Program, guide: Program, x: Tensor) -> float:
        """The negative bound, summed over the batch and scaled, in nats."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, x))

    def loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> float:
        """The loss as a float, after adding its gradient to the parameters' ``.grad``."""
        loss = self.differentiable_loss(model, guide, x)
        # Programs without parameters that require gradients are evaluated all the same.
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def __call__(self, model: Program, guide: Program) -> "ObjectiveModule":
        """The objective for one model and guide, as a torch module from x to the loss."""
        return ObjectiveModule(self, model, guide)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        # Abstract in Pyro's class. Nothing here reads it, but Pyro's own helpers may.
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


class ImportanceWeighted(Objective):
    """An objective that reports ``L_K = log mean_k w_k`` and follows it in a way of its own."""

    def bound(self, particles: Particles) -> PerDatum:
        """Log mean weight, in nats."""
        return log_mean_exp(particles.log_weight)

    @abstractmethod
    def surrogate(self, particles: Particles, bound: PerDatum) -> PerDatum:
        """Term that is differentiated, per datum."""


class ObjectiveModule(nn.Module):
    """An objective bound to a model and guide: ``module(x)`` is the differentiable loss.

    Its parameters are those of the modules that the model and guide refer to.
    """

    def __init__(self, objective: Objective, model: Program, guide: Program) -> None:
        super().__init__()
        self.objective = objective
        # Callables in a tuple are not registered; their owners are, once each.
        self._programs = (model, guide)
        self.owners = nn.ModuleList(owners_of(model, guide))

    def forward(self, x: Float[Tensor, "batch *event"]) -> Tensor:
        """The differentiable loss on a batch, a scalar in nats."""
        return self.objective.differentiable_loss(*self._programs, x)
