"""Let the guide catch up before every update of the model, while that brings information."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Programs, cross_log_guide
from ppl_vae.training._steps import AdamStep
from ppl_vae.weights import log_mean_exp

BLOCK = 10
"""Guide updates over which the bound is averaged before it is compared."""
MOST_GUIDE_UPDATES = 100
"""Largest number of guide updates for one update of the model."""
MOST_CROSSED = 100
"""Data of a batch that the mutual information is estimated from."""
BATCHES_A_PASS = 100
"""Batches between two looks at the mutual information, where the number of training data is
unknown."""


@final
@dataclass(eq=False, repr=False)
class AggressiveStep(AdamStep):
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
    is averaged over a pass. Reading bound and information waits for the device. Costs 21 to
    101 times the decoder evaluations of the joint step while aggressive, then as many.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.

    References:
        He, Spokoyny, Neubig and Berg-Kirkpatrick, 2019, Lagging inference networks and posterior
        collapse in variational autoencoders.
    """

    couples = "the mean bound and the mutual information of a batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._information = InformationTrend()

    @property
    def aggressive(self) -> bool:
        """Whether the guide still gets updates of its own."""
        return self._information.climbing

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update phi as often as it helps, theta once; or both together once."""
        if not self.aggressive:
            return self.update(x, learning_rate).sums
        self._fit_guide(x, learning_rate)
        sums = self.update(x, learning_rate, "model").sums
        programs = self.objective.programs(self.model, self.guide)
        # Every draw is weighed under every datum's guide: the cost is quadratic in the batch.
        information = batch_information(programs, x[:MOST_CROSSED])
        self._information.add(information, len(x), self.objective.context.num_data)
        return sums

    def _fit_guide(self, x: Tensor, learning_rate: float) -> None:
        best = -math.inf
        for _ in range(MOST_GUIDE_UPDATES // BLOCK):
            bounds = [self.update(x, learning_rate, "guide").bound.mean() for _ in range(BLOCK)]
            # One wait for the device a block, not one an update.
            mean = torch.stack(bounds).mean().item()
            # Written so that a NaN bound ends the updates too.
            if not mean > best:
                return
            best = mean

    def state(self) -> dict[str, Tensor]:
        """State of the optimiser and of the trend of the mutual information."""
        return {**super().state(), **self._information.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the optimiser and the trend."""
        super().load_state(state)
        self._information.load_state(state)


@final
class InformationTrend:
    """Trend of the mutual information, averaged over passes through the training data."""

    _KEY = "information/"

    def __init__(self) -> None:
        self.climbing = True
        # Nothing to compare the first pass with.
        self._previous, self._sum = -math.inf, 0.0
        self._batches = self._data = 0

    def add(self, information: float, size: int, num_data: int | None) -> None:
        """Add a batch of ``size`` data; at the end of a pass, compare it with the pass before."""
        self._sum += information
        self._batches += 1
        self._data += size
        # Batches differ in their information, so that only means over whole passes are compared.
        ended = self._batches >= BATCHES_A_PASS if num_data is None else self._data >= num_data
        if ended:
            mean = self._sum / self._batches
            self.climbing = mean > self._previous
            self._previous, self._sum, self._batches, self._data = mean, 0.0, 0, 0

    def state(self) -> dict[str, Tensor]:
        """Numbers of the trend, without rounding."""
        return {
            # One type for flag, counts and sums: float64 holds all of them exactly, so that a
            # resumed run switches to joint updates at the same batch.
            f"{self._KEY}{name.lstrip('_')}": torch.tensor(value, dtype=torch.float64)
            for name, value in vars(self).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the numbers of :meth:`state`."""
        for name, value in vars(self).items():
            saved = state[f"{self._KEY}{name.lstrip('_')}"].item()
            setattr(self, name, type(value)(saved))


def batch_information(programs: Programs, x: Float[Tensor, "batch *event"]) -> float:
    """``mean_j log q(z_j|x_j) - log mean_i q(z_j|x_i)``, one draw a datum, in nats.

    The mutual information of a datum's index and z, with the batch in place of the data: at most
    log B, which a guide reaches that keeps all data apart.
    """
    with torch.no_grad():
        crossed = cross_log_guide(programs, x)
        return float((crossed.diagonal() - log_mean_exp(crossed.mT)).mean())
