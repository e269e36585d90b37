"""A step that trains the model at the guide refined for each datum."""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.refinement import Refinement, require_refinable
from ppl_vae.training._history import parts_of
from ppl_vae.training._step import Loss, adam_state, load_adam


@final
class SemiAmortisedStep:
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
        clip_norm: Largest gradient norm.
        refinements: N.

    Raises:
        ValueError: If N is less than 1, or the objective needs the guide for simulated data.

    References:
        Kim et al., 2018, Semi-amortized variational autoencoders.
        Marino, Yue and Mandt, 2018, Iterative amortized inference.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
        refinements: int = 20,
    ) -> None:
        if refinements < 1:
            raise ValueError(f"semi-amortised:N needs N >= 1, got {refinements}.")
        require_refinable(objective)
        self.parameters = parameters
        self._model, self._guide = model, guide
        self._refinement = Refinement(refinements, num_particles=objective.num_particles)
        self._loss = Loss(objective, parameters, clip_norm)
        self._optimizer = torch.optim.Adam(list(parameters.values()), fused=True)

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Refine, then update once."""
        programs = self._loss.objective.programs(self._model, self._guide)
        refined = self._refinement(programs, x, seed=None)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        _, particles, bound = self._loss.backward(self._model, refined, x)
        self._optimizer.step()
        return parts_of(particles, bound)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        return adam_state(self._optimizer, self.parameters)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimiser's state."""
        load_adam(self._optimizer, list(self.parameters), state)
