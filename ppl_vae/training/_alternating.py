"""The guide and the model by turns: the E-step and the M-step of variational EM."""

from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.particles import Program
from ppl_vae.training._history import parts_of
from ppl_vae.training._phases import PhasedUpdates
from ppl_vae.training._step import adam_state, load_adam


@final
class AlternatingStep:
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
        clip_norm: Largest gradient norm of a phase's parameters.
        guide_updates: N.

    References:
        Neal and Hinton, 1998, A view of the EM algorithm that justifies incremental, sparse, and
        other variants.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
        guide_updates: int = 1,
    ) -> None:
        if guide_updates < 1:
            raise ValueError(f"alternating:N needs N >= 1, got {guide_updates}.")
        self.parameters, self.guide_updates = parameters, guide_updates
        self._updates = PhasedUpdates(objective, model, guide, parameters, clip_norm)

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update phi N times, theta once."""
        for _ in range(self.guide_updates):
            self._updates("guide", x, learning_rate)
        return parts_of(*self._updates("model", x, learning_rate))

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        return adam_state(self._updates.optimizer, self.parameters)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimiser's state."""
        load_adam(self._updates.optimizer, list(self.parameters), state)
