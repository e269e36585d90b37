"""Contrastive divergence: the gradient of log p as a mean over data less one over chains."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.distributions import BoltzmannPath
from ppl_vae.names import require_not_negative, require_sizes
from ppl_vae.schedules import Constant, Schedule

Rule = Literal["cd", "pcd"]

_SCALE_RATE = 0.1
"""Learning rate of the logarithm of normal units' scale, in units of the others'."""


@final
class ContrastiveDivergence:
    """Ascent of log p(v) by k sweeps of block Gibbs sampling, with momentum and weight decay.

    ``step = momentum * last step + rate * (<d log f>_data - <d log f>_chains - decay * W)``, with
    log f = log p + log Z. Velocities and chains are state of training.

    Args:
        rule: ``cd`` or ``pcd``.
        steps: Sweeps k of an update.
        chains: Number of persistent chains.
        learning_rate: A number or a schedule.
        momentum: Share of the last step that the next one repeats, in [0, 1).
        weight_decay: Factor of W that is subtracted from its gradient.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Hinton, 2002, Training products of experts by minimizing contrastive divergence.
        Tieleman, 2008, Training restricted Boltzmann machines using approximations to the
        likelihood gradient.
    """

    def __init__(
        self,
        rule: Rule,
        steps: int,
        chains: int,
        learning_rate: float | Schedule,
        momentum: float,
        weight_decay: float,
    ) -> None:
        require_sizes(steps=steps, chains=chains)
        require_not_negative(weight_decay=weight_decay)
        if rule not in ("cd", "pcd"):
            raise ValueError(f"RBM takes rule cd or pcd, got {rule!r}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        self.rule, self.steps, self.num_chains = rule, steps, chains
        self.momentum, self.weight_decay = momentum, weight_decay
        self.learning_rate = learning_rate if callable(learning_rate) else Constant(learning_rate)
        self._velocity: dict[str, Tensor] = {}
        self._chains = torch.zeros(0)

    def settings(self) -> dict[str, Any]:
        """Plain values of all arguments."""
        return {
            "rule": self.rule,
            "steps": self.steps,
            "chains": self.num_chains,
            "learning_rate": repr(self.learning_rate),
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }

    def start(self, parameters: Mapping[str, Tensor], path: BoltzmannPath) -> None:
        """Begin at rest, with chains at the base rates."""
        self._velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._chains = path.units.sample(path.base.expand(self.num_chains, -1))

    def step(
        self,
        parameters: Mapping[str, Tensor],
        statistics: Callable[[Tensor], Mapping[str, Tensor]],
        path: BoltzmannPath,
        u: Float[Tensor, "batch visible"],
        rate: float,
    ) -> None:
        """Move the parameters once.

        Args:
            parameters: Name to parameter, changed in place.
            statistics: Means over a batch of the derivatives of log f, by name.
            path: Path that ends at the machine.
            u: The batch.
            rate: Learning rate.
        """
        moved = self._chains if self.rule == "pcd" else u
        for _ in range(self.steps):
            moved = path.sweep(moved)
        if self.rule == "pcd":
            self._chains = moved
        data, model = statistics(u), statistics(moved)
        for name, parameter in parameters.items():
            gradient = data[name] - model[name]
            if name == "weight":
                gradient = gradient - self.weight_decay * parameter
            scaled = rate * (_SCALE_RATE if name == "log_scale" else 1.0)
            self._velocity[name] = self.momentum * self._velocity[name] + scaled * gradient
            parameter.data += self._velocity[name]

    def state(self) -> dict[str, Tensor]:
        """Velocities and chains."""
        velocities = {f"velocity_{name}": value for name, value in self._velocity.items()}
        return {**velocities, "chains": self._chains}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with these velocities and chains."""
        self._chains = state["chains"]
        names = [name for name in state if name.startswith("velocity_")]
        self._velocity = {name.removeprefix("velocity_"): state[name] for name in names}
