"""Steps that give the guide and the model turns: the E-step and the M-step of variational EM."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.objectives import Objective
from ppl_vae.objectives.base import owners_of
from ppl_vae.objectives.splitting import split_parameters
from ppl_vae.particles import Particles, Program, cross_log_guide
from ppl_vae.training.history import parts_of
from ppl_vae.training.step import Loss, adam_state, load_adam
from ppl_vae.weights import log_mean_exp

Phase = Literal["guide", "model", "joint"]
"""Whose parameters an update changes; those that both programs use are in every phase."""

BLOCK = 10
"""Guide updates over which the aggressive step averages the bound before it compares."""
MOST_GUIDE_UPDATES = 100
"""Of the aggressive step for one update of the model."""
MOST_CROSSED = 100
"""Data of a batch that the mutual information is estimated from."""
BATCHES_A_ROUND = 100
"""Between two looks at the mutual information, where the number of training data is unknown."""


@final
class PhasedUpdates:
    """Updates of the guide's, the model's or all parameters, under one Adam.

    Which parameter is whose is read off the autograd graph at the first batch. A phase's gradient
    is taken for its own parameters and clipped by their norm; Adam's moments of the others stay.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None,
    ) -> None:
        self.objective, self.parameters = objective, parameters
        self._programs = (model, guide)
        self._clip_norm = clip_norm
        self._losses: dict[Phase, Loss] = {}
        self.optimizer = torch.optim.Adam(list(parameters.values()), fused=True)

    def __call__(self, phase: Phase, x: Tensor, learning_rate: float) -> tuple[Particles, Tensor]:
        """Update once on fresh draws; the particles, and the bound per datum before the update."""
        if not self._losses:
            self._losses = self._split(x)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        # Adam passes over a parameter without a gradient, its moments included.
        self.optimizer.zero_grad(set_to_none=True)
        _, particles, bound = self._losses[phase].backward(*self._programs, x)
        self.optimizer.step()
        return particles, bound

    def _split(self, x: Tensor) -> dict[Phase, Loss]:
        with _evaluating(*self._programs):
            theta, phi = split_parameters(
                *self._programs,
                x[:2],
                self.parameters,
                max_plate_nesting=int(self.objective.max_plate_nesting),
            )
        for whose, part in (("model", theta), ("guide", phi)):
            if not part:
                raise ValueError(
                    f"the {whose} has no parameters to train, so that there is nothing to "
                    "alternate between: use step='torch'."
                )
        # Those of neither program are in the joint phase and the model's: it warns of them.
        idle = {n: p for n, p in self.parameters.items() if n not in theta and n not in phi}
        return {
            "guide": Loss(self.objective, phi, self._clip_norm),
            "model": Loss(self.objective, theta | idle, self._clip_norm),
            "joint": Loss(self.objective, self.parameters, self._clip_norm),
        }


@contextlib.contextmanager
def _evaluating(*programs: Program) -> Iterator[None]:
    """Evaluation mode: looking at the programs must not move the statistics of a batch norm."""
    modules = [module for owner in owners_of(*programs) for module in owner.modules()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


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
        *,
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


@final
class AggressiveStep:
    """Update phi until the bound stops improving, then theta once; joint updates in the end.

    Against posterior collapse: early in training the guide lags behind the model's posterior, and
    the model learns to do without the latents. While aggressive, phi is updated on fresh draws of
    the batch until the mean bound over 10 updates is no better than over the 10 before (at most 100
    updates), then theta once. After each pass over the training data, the mutual information of x
    and z under the guide, ``I = E_q log q(z|x) - log q(z)``, is compared with that of the pass
    before; once it has stopped climbing, every later update is an ordinary joint one, that of the
    ``torch`` step.

    Three departures from the paper, as a step sees one batch and no validation data: the guide's
    updates are on the batch at hand, not on others; I is estimated from the training batches, by
    their draws under the mean guide of at most 100 data of the batch, hence at most log 100; and it
    is averaged over a pass. Reading the bound waits for the device once in 10 updates. Costs 21 to
    101 times the decoder evaluations of the joint step while aggressive, then as many.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest gradient norm of a phase's parameters.

    References:
        He, Spokoyny, Neubig and Berg-Kirkpatrick, 2019, Lagging inference networks and posterior
        collapse in variational autoencoders.
    """

    def __init__(
        self,
        objective: Objective,
        model: Program,
        guide: Program,
        parameters: dict[str, Tensor],
        clip_norm: float | None = None,
    ) -> None:
        self.parameters = parameters
        self._objective, self._guide = objective, guide
        self._updates = PhasedUpdates(objective, model, guide, parameters, clip_norm)
        self._watch = InformationWatch()

    @property
    def aggressive(self) -> bool:
        """Whether the guide still gets updates of its own."""
        return self._watch.climbing

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update phi as often as it helps, theta once; or both together once."""
        if not self.aggressive:
            return parts_of(*self._updates("joint", x, learning_rate))
        self._fit_guide(x, learning_rate)
        parts = parts_of(*self._updates("model", x, learning_rate))
        nesting = int(self._objective.max_plate_nesting)
        information = batch_information(self._guide, x[:MOST_CROSSED], max_plate_nesting=nesting)
        self._watch.add(information, len(x), self._objective.context.num_data)
        return parts

    def _fit_guide(self, x: Tensor, learning_rate: float) -> None:
        best = float("-inf")
        for _ in range(MOST_GUIDE_UPDATES // BLOCK):
            bounds = [self._updates("guide", x, learning_rate)[1].mean() for _ in range(BLOCK)]
            mean = torch.stack(bounds).mean().item()
            if not mean > best:
                return
            best = mean

    def state(self) -> dict[str, Tensor]:
        """The state of the optimiser and of the watch over the mutual information."""
        return {**adam_state(self._updates.optimizer, self.parameters), **self._watch.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set both."""
        load_adam(self._updates.optimizer, list(self.parameters), state)
        self._watch.load_state(state)


@final
class InformationWatch:
    """Whether the mutual information, averaged over a pass through the data, still climbs."""

    _KEY = "information/"

    def __init__(self) -> None:
        self.climbing = True
        self._previous = self._sum = 0.0
        self._batches = self._data = 0

    def add(self, information: float, size: int, num_data: int | None) -> None:
        """Take in one batch of so many data; at the end of a pass, compare."""
        self._sum += information
        self._batches += 1
        self._data += size
        ended = self._batches >= BATCHES_A_ROUND if num_data is None else self._data >= num_data
        if ended:
            mean = self._sum / self._batches
            self.climbing = mean > self._previous
            self._previous, self._sum, self._batches, self._data = mean, 0.0, 0, 0

    def state(self) -> dict[str, Tensor]:
        """What it remembers, exactly."""
        return {
            f"{self._KEY}{name.lstrip('_')}": torch.tensor(value, dtype=torch.float64)
            for name, value in vars(self).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what was remembered."""
        for name, value in vars(self).items():
            saved = state[f"{self._KEY}{name.lstrip('_')}"].item()
            setattr(self, name, type(value)(saved))


def batch_information(
    guide: Program, x: Float[Tensor, "batch *event"], *, max_plate_nesting: int = 1
) -> float:
    """``mean_j log q(z_j|x_j) - log mean_i q(z_j|x_i)``, one draw a datum, in nats.

    The mutual information of a datum's index and z, with the batch in place of the data: at most
    log B, which a guide reaches that keeps all data apart.
    """
    with torch.no_grad():
        crossed = cross_log_guide(guide, x, max_plate_nesting=max_plate_nesting)
        return float((crossed.diagonal() - log_mean_exp(crossed.mT)).mean())
