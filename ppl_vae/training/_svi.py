"""Training by Pyro's own path."""

from typing import final

import pyro
import pyro.optim
import torch
from jaxtyping import Float
from pyro.infer import SVI
from torch import Tensor

from ppl_vae.particles import ParameterRecorder, Program
from ppl_vae.training._steps import Step


@final
class SVIStep(Step):
    """``pyro.infer.SVI`` with ``pyro.optim``: Pyro's own path, one optimiser a parameter."""

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Pyro's optimisers."""
        self._optim = pyro.optim.PyroOptim(self._build, {})
        self._svi = SVI(
            self.model,
            self.guide,
            self._optim,
            loss=self.objective.loss,
            loss_and_grads=self._loss_and_grads,
        )
        self._sums: Tensor | None = None
        self._unseen: list[Tensor] = []
        # SVI clears gradients after an update only: what an interruption left must not be added.
        for parameter in self.parameters.values():
            parameter.grad = None
        # Without gradients a call makes each parameter's optimiser and leaves the parameter alone.
        self._optim(list(self.parameters.values()))
        return list(self._optim.optim_objs.values())

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate
        self._svi.step(x)
        if self._sums is None:
            raise RuntimeError("SVI made a step without evaluating its loss.")
        # SVI updates what a pyro.param statement shows it; a module's methods may make none.
        self._optim(self._unseen)
        for parameter in self._unseen:
            parameter.grad = None
        return self._sums

    def _build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Make the optimiser of one parameter."""
        optimizer = self.optimizer.build(parameters)
        for group in optimizer.param_groups:
            # As ``pyro.optim.Adam`` has it, whose last digits are not those of the fused kernel.
            if "fused" in group:
                group["fused"] = None
        return optimizer

    def _loss_and_grads(self, model: Program, guide: Program, x: Tensor) -> Tensor:
        with ParameterRecorder() as recorder:
            found = self.differentiate(x, self.parameters, guide)
        self.take(found, self.parameters)
        self._sums = found.sums
        # By identity, as Pyro has names of its own for the parameters of modules.
        seen = {id(parameter) for parameter in recorder.parameters.values()}
        self._unseen = [value for value in self.parameters.values() if id(value) not in seen]
        return -found.bound.mean()
