"""Training steps: one update of all parameters, of model and guide by turns, at a refined guide."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import pyro
import pyro.optim
import torch
from jaxtyping import Float
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import (
    ParameterRecorder,
    Particles,
    Program,
    ProgramModules,
    count_evaluations,
    evaluating,
)
from ppl_vae.refinement import Refinement, require_refinable
from ppl_vae.training._non_finite import checks_finite, require_finite_gradient

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

Whose = Literal["guide", "model", "both"]
"""Programs whose parameters an update changes; those that both programs use are of each."""


@dataclass(eq=False, repr=False)
class Step(ABC):
    """Update of parameters from one batch, and the optimisers that it needs.

    The loss is the objective's divided by the batch size, so that learning rate and gradient
    clipping mean the same for every batch size. A subclass makes its optimisers and writes one
    update; fields of its own, with defaults, are what ``NAME:ARGUMENT`` sets.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
    """

    objective: Objective
    model: Program
    guide: Program
    parameters: dict[str, Tensor]
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        self._optimizers = self.make_optimizers()
        self._never_updated = set(self.parameters)

    @abstractmethod
    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimisers, which have every parameter in one of them."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once; return :func:`batch_sums`."""

    def gradient(
        self, x: Tensor, parameters: dict[str, Tensor], guide: Program
    ) -> tuple[Tensor, Particles, Tensor]:
        """Add the clipped gradient of the loss to the ``.grad`` of parameters.

        Returns:
            The loss, the particles, and the bound per datum.
        """
        particles = self.objective.draw(self.model, guide, x)
        total, bound = self.objective.loss_of(particles)
        loss = total / len(x)
        if checks_finite():
            particles.require_finite()
        # To these parameters alone: the others keep grad None, so that Adam passes over them.
        loss.backward(inputs=list(parameters.values()))
        if checks_finite():
            programs = self.objective.programs(self.model, guide)
            require_finite_gradient(programs, x, particles, parameters)
        # Empty after the first update of each parameter, so that later updates look at nothing.
        if not self._never_updated.isdisjoint(parameters):
            self._warn_of_untrained(parameters)
        if self.clip_norm is not None:
            # After the check: a norm that is NaN would make every parameter's gradient NaN.
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), self.clip_norm)
        return loss.detach(), particles, bound

    def _warn_of_untrained(self, parameters: dict[str, Tensor]) -> None:
        """Name parameters that nothing trains, once."""
        first = [name for name in parameters if name in self._never_updated]
        untrained = [name for name in first if parameters[name].grad is None]
        self._never_updated.difference_update(first)
        if untrained:
            warnings.warn(
                f"{self.objective!r} gives no gradient to {', '.join(untrained)}: they stay as "
                "they are. Take another objective, or freeze them (requires_grad_(False)).",
                stacklevel=2,
            )

    def state(self) -> dict[str, Tensor]:
        """State of the optimisers: ``key/parameter-name`` to tensor."""
        kept = {p: values for each in self._optimizers for p, values in each.state.items()}
        return {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in kept.get(parameter, {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` gave; an empty state is that before the first update."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        for optimizer in self._optimizers:
            own = [names[p] for group in optimizer.param_groups for p in group["params"]]
            # A parameter that no update has reached has no state yet.
            saved = {
                i: {key: state[f"{key}/{name}"] for key in ADAM_STATE}
                for i, name in enumerate(own)
                if f"{ADAM_STATE[0]}/{name}" in state
            }
            # Torch's own loader puts each tensor on the device and in the type where it belongs.
            # Its own groups: the learning rate in them is set anew at every update.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": saved, "param_groups": groups})


@dataclass(eq=False, repr=False)
class AdamStep(Step):
    """A step under one fused Adam for all parameters; nothing waits for the device."""

    _of_program: dict[Whose, dict[str, Tensor]] = field(default_factory=dict, init=False)

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """One Adam."""
        # Fused: one kernel, with the step count on the device, so that nothing waits.
        return [torch.optim.Adam(list(self.parameters.values()), fused=True)]

    def update(
        self, x: Tensor, learning_rate: float, whose: Whose = "both", guide: Program | None = None
    ) -> tuple[Particles, Tensor]:
        """Update once, on fresh draws.

        Args:
            x: The batch.
            learning_rate: Adam's.
            whose: Parameters that are updated; the gradient is clipped by the norm of these.
            guide: The guide to draw from, in place of the step's.

        Returns:
            The particles, and the bound per datum before the update.
        """
        if whose != "both" and not self._of_program:
            self._of_program = self._split(x)
        parameters = self.parameters if whose == "both" else self._of_program[whose]
        (optimizer,) = self._optimizers
        optimizer.param_groups[0]["lr"] = learning_rate
        # Adam passes over a parameter without a gradient, its moments included.
        optimizer.zero_grad(set_to_none=True)
        guide = self.guide if guide is None else guide
        _, particles, bound = self.gradient(x, parameters, guide)
        optimizer.step()
        return particles, bound

    def _split(self, x: Tensor) -> dict[Whose, dict[str, Tensor]]:
        """Parameters of the model and of the guide, as the autograd graph has them."""
        # Looking at the graph is no part of training: a resumed run looks again.
        with evaluating(self.model, self.guide), count_evaluations():
            programs = self.objective.programs(self.model, self.guide)
            theta, phi = split_parameters(programs, x[:2], self.parameters)
        for whose, part in (("model", theta), ("guide", phi)):
            if not part:
                raise ValueError(
                    f"the {whose} has no parameters to train, so that there is nothing to "
                    "alternate between: use step='torch'."
                )
        # Those of neither program count as the model's, so that the warning names them.
        idle = {n: p for n, p in self.parameters.items() if n not in theta and n not in phi}
        return {"guide": phi, "model": theta | idle}


@final
class TorchStep(AdamStep):
    """The objective as a torch module under one fused Adam; nothing waits for the device."""

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        return batch_sums(*self.update(x, learning_rate))


@final
class SVIStep(Step):
    """``pyro.infer.SVI`` with ``pyro.optim.Adam``: Pyro's own path, one optimiser a parameter."""

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Pyro's optimisers."""
        self._adam = pyro.optim.Adam({})
        self._svi = SVI(
            self.model,
            self.guide,
            self._adam,
            loss=self.objective.loss,
            loss_and_grads=self._loss_and_grads,
        )
        self._sums: Tensor | None = None
        self._unseen: list[Tensor] = []
        # SVI clears gradients after an update only: what an interruption left must not be added.
        for parameter in self.parameters.values():
            parameter.grad = None
        # Without gradients a call makes each parameter's optimiser and leaves the parameter alone.
        self._adam(list(self.parameters.values()))
        return list(self._adam.optim_objs.values())

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate
        self._svi.step(x)
        if self._sums is None:
            raise RuntimeError("SVI made a step without evaluating its loss.")
        # SVI updates what a pyro.param statement shows it; a module's methods may make none.
        self._adam(self._unseen)
        for parameter in self._unseen:
            parameter.grad = None
        return self._sums

    def _loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        with ParameterRecorder() as recorder:
            loss, particles, bound = self.gradient(x, self.parameters, guide)
        self._sums = batch_sums(particles, bound)
        # By identity, as Pyro has names of its own for the parameters of modules.
        seen = {id(parameter) for parameter in recorder.parameters.values()}
        self._unseen = [value for value in self.parameters.values() if id(value) not in seen]
        return loss


@final
@dataclass(eq=False, repr=False)
class AlternatingStep(AdamStep):
    """N updates of phi at fixed theta (E-steps), then one of theta at fixed phi (M-step).

    Every update draws afresh from the same batch, so that no update follows the noise of another,
    and uses Adam at the same rate. A parameter that model and guide share is updated in both
    phases. The bound recorded is that of the draws theta was updated on, after the guide's updates
    on the same batch: in training it is a little above that of a batch not seen yet.

    N = 1 is not the joint step: theta moves on new draws of a guide that has moved. It costs twice
    as much; phi's first update is the joint step's. Costs N + 1 times the decoder evaluations of
    the joint step for as many updates of theta.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
        guide_updates: N.

    References:
        Neal and Hinton, 1998, A view of the EM algorithm that justifies incremental, sparse, and
        other variants.
    """

    guide_updates: int = 1

    def __post_init__(self) -> None:
        if self.guide_updates < 1:
            raise ValueError(f"alternating:N needs N >= 1, got {self.guide_updates}.")
        super().__post_init__()

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update phi N times, theta once."""
        for _ in range(self.guide_updates):
            self.update(x, learning_rate, "guide")
        return batch_sums(*self.update(x, learning_rate, "model"))


@final
@dataclass(eq=False, repr=False)
class SemiAmortisedStep(AdamStep):
    """Refine q by N updates for each datum of the batch, then update theta and phi at it.

    With lambda_0 = encoder(x) and lambda_N = lambda_0 + offset: theta follows the objective's
    gradient at lambda_N, phi the gradient at lambda_N through lambda_0 alone, the offset held
    fixed. Kim et al. differentiate through the refinement as well, ``d lambda_N / d lambda_0``,
    which costs second derivatives; here that factor is 1. So phi's gradient is 0 where the
    refinement has converged: the encoder is asked to mend what N updates cannot, and no more.

    The refinement ascends the ELBO, whatever the objective, with as many draws. The bound recorded
    in training is that of the refined guide, on draws of its own; validation is with the guide as
    it is. Costs N + 1 times the decoder evaluations of the ``torch`` step.

    Args:
        objective: The bound to maximise; any but one that simulates data for the guide.
        model: Pyro model.
        guide: Pyro guide of normal sites.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
        refinements: N.

    Raises:
        ValueError: If N is less than 1, or the objective needs the guide for simulated data.

    References:
        Kim et al., 2018, Semi-amortized variational autoencoders.
        Marino, Yue and Mandt, 2018, Iterative amortized inference.
    """

    refinements: int = 20

    def __post_init__(self) -> None:
        if self.refinements < 1:
            raise ValueError(f"semi-amortised:N needs N >= 1, got {self.refinements}.")
        require_refinable(self.objective)
        super().__post_init__()

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Refine, then update once."""
        programs = self.objective.programs(self.model, self.guide)
        refine = Refinement(self.refinements, num_particles=self.objective.num_particles)
        # No seed of its own: the epoch's random state gives every update fresh draws, and resumes.
        refined = refine(programs, x, seed=None)
        return batch_sums(*self.update(x, learning_rate, guide=refined))


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


def find_parameters(modules: ProgramModules) -> dict[str, Tensor]:
    """Name to leaf tensor, each once, of everything trainable behind the programs.

    Args:
        modules: Modules of programs that have run, so that parameters made on first use exist.

    Raises:
        ValueError: If there is nothing to train.
    """
    trainable = {name: value for name, value in modules.parameters.items() if value.requires_grad}
    if not trainable:
        raise ValueError(
            "the model and guide have no parameters to train: make them (methods of) torch "
            "modules, or use pyro.param or pyro.module inside."
        )
    return trainable
