"""One training update: a protocol, and all parameters at once by torch or by Pyro."""

import warnings
from collections.abc import Mapping
from typing import Protocol, final

import pyro
import pyro.optim
import torch
from jaxtyping import Float
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import ParameterRecorder, Particles, Program
from ppl_vae.training._history import parts_of
from ppl_vae.training._watch import is_watched, require_finite_gradient

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Step(Protocol):
    """Updates parameters from one batch.

    The loss is the objective's divided by the batch size, so that learning rate and gradient
    clipping mean the same for every batch size.
    """

    parameters: dict[str, Tensor]

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
    ) -> None:
        """Bind the step to one model and guide."""
        ...

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once; return the batch sums of :func:`~ppl_vae.training._history.parts_of`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state, key/parameter-name to tensor."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimiser's state, as :meth:`state` gave it."""
        ...


class Loss:
    """The objective per datum, its gradient for some parameters clipped by their global norm."""

    def __init__(
        self, objective: Objective, parameters: dict[str, Tensor], clip_norm: float | None
    ) -> None:
        self.objective = objective
        self.parameters = parameters
        self.clip_norm = clip_norm
        self._checked = False

    def backward(
        self, model: Program, guide: Program, x: Tensor
    ) -> tuple[Tensor, Particles, Tensor]:
        """Add the gradient to the parameters' ``.grad``; the loss, particles, bound per datum."""
        particles = self.objective.draw(model, guide, x)
        total, bound = self.objective.loss_of(particles)
        loss = total / len(x)
        if is_watched():
            particles.require_finite()
        loss.backward(inputs=list(self.parameters.values()))
        if is_watched():
            programs = self.objective.programs(model, guide)
            require_finite_gradient(programs, x, particles, self.parameters)
        if not self._checked:
            self._warn_of_untrained()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.clip_norm)
        return loss.detach(), particles, bound

    def _warn_of_untrained(self) -> None:
        """A parameter that nothing trains is said to be so, once."""
        self._checked = True
        untrained = [name for name, value in self.parameters.items() if value.grad is None]
        if untrained:
            warnings.warn(
                f"{self.objective!r} gives no gradient to {', '.join(untrained)}: they stay as "
                "they are. Take another objective, or freeze them (requires_grad_(False)).",
                stacklevel=2,
            )


@final
class TorchStep:
    """The objective as a torch module under one fused Adam; nothing waits for the device."""

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
    ) -> None:
        self.parameters = parameters
        self._programs = (model, guide)
        self._loss = Loss(objective, parameters, clip_norm)
        self._optimizer = torch.optim.Adam(list(parameters.values()), fused=True)

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        _, particles, bound = self._loss.backward(*self._programs, x)
        self._optimizer.step()
        return parts_of(particles, bound)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        return adam_state(self._optimizer, self.parameters)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimiser's state."""
        load_adam(self._optimizer, list(self.parameters), state)


@final
class SVIStep:
    """``pyro.infer.SVI`` with ``pyro.optim.Adam``: Pyro's own path, one optimiser a parameter."""

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
    ) -> None:
        self.parameters = parameters
        self._loss = Loss(objective, parameters, clip_norm)
        self._optimizer = pyro.optim.Adam({})
        self._svi = SVI(
            model,
            guide,
            self._optimizer,
            loss=objective.loss,
            loss_and_grads=self._loss_and_grads,
        )
        self._parts: Tensor | None = None
        self._unseen: list[Tensor] = []
        # SVI clears gradients after an update only: what an interruption left must not be added.
        for parameter in parameters.values():
            parameter.grad = None

    def _loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        with ParameterRecorder() as recorder:
            loss, particles, bound = self._loss.backward(model, guide, x)
        self._parts = parts_of(particles, bound)
        seen = {id(parameter) for parameter in recorder.parameters.values()}
        self._unseen = [value for value in self.parameters.values() if id(value) not in seen]
        return loss

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        self._optimizer.pt_optim_args = {"lr": learning_rate}
        for optimizer in self._optimizer.optim_objs.values():
            optimizer.param_groups[0]["lr"] = learning_rate
        self._svi.step(x)
        if self._parts is None:
            raise RuntimeError("SVI made a step without evaluating its loss.")
        # SVI updates what a pyro.param statement shows it; a module's methods may make none.
        self._optimizer(self._unseen)
        for parameter in self._unseen:
            parameter.grad = None
        return self._parts

    def state(self) -> dict[str, Tensor]:
        """The optimisers' state."""
        return {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            if parameter in self._optimizer.optim_objs
            for key, value in self._optimizer.optim_objs[parameter].state[parameter].items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimisers' state."""
        for parameter in self.parameters.values():
            parameter.grad = None
        # Without gradients a call makes each parameter's optimiser and leaves the parameter alone.
        self._optimizer(list(self.parameters.values()))
        for name, parameter in self.parameters.items():
            load_adam(self._optimizer.optim_objs[parameter], [name], state)


def adam_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The optimiser's state by name, as :func:`load_adam` takes it."""
    return {
        f"{key}/{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def load_adam(
    optimizer: torch.optim.Optimizer, names: list[str], state: Mapping[str, Tensor]
) -> None:
    """Load named state through torch's own loader, which puts each tensor where it belongs.

    No state is that before the first update.
    """
    # A parameter that no update has reached has no state yet.
    saved = {
        i: {key: state[f"{key}/{name}"] for key in ADAM_STATE}
        for i, name in enumerate(names)
        if f"{ADAM_STATE[0]}/{name}" in state
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved, "param_groups": groups})
