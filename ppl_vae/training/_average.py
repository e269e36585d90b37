"""Average of the parameters over the updates of training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from ppl_vae.training._snapshot import copied, load_parameters


@final
class ParameterAverage:
    """``average = decay * average + (1 - decay) * parameters`` after every update.

    It starts at the parameters before the first update, so that after t updates these weigh
    ``decay^t``. Training never sees it: it is what is validated and kept. Buffers, as those of a
    batch norm, are not averaged.

    Args:
        parameters: Name to leaf tensor, changed in place by training.
        decay: Decay, in [0, 1); None: the last values alone, at no cost.

    References:
        Polyak and Juditsky, 1992, Acceleration of stochastic approximation by averaging. Song and
        Ermon, 2020, Improved techniques for training score-based generative models, whose decay is
        this one.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float | None) -> None:
        self._decay = decay
        # Detached, they share memory with the parameters.
        self._last = {name: value.detach() for name, value in parameters.items()}
        self._average = {} if decay is None else copied(self._last)
        self._lists = list(self._average.values()), list(self._last.values())

    @property
    def values(self) -> dict[str, Tensor]:
        """Name to value of the parameters to validate and to keep."""
        return self._last if self._decay is None else self._average

    @property
    def state(self) -> dict[str, Tensor]:
        """Name to tensor of what training does not hold otherwise."""
        return self._average

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :attr:`state` was.

        Raises:
            ValueError: If it is of another model.
        """
        load_parameters(self._average, state)

    def update(self) -> None:
        """Take in the parameters after an update."""
        if self._decay is not None:
            averages, last = self._lists
            torch._foreach_lerp_(averages, last, 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged parameters for a while."""
        if self._decay is None:
            yield
            return
        last = copied(self._last)
        load_parameters(self._last, self._average)
        try:
            yield
        finally:
            load_parameters(self._last, last)
