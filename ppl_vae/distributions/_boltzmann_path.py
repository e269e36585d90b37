"""Log Z of a restricted Boltzmann machine by annealing, of binary and of normal visible units."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, softplus

from ppl_vae.distributions._boltzmann import (
    BLOCK,
    Couplings,
    LogPartition,
    draw_exactly,
    smaller_layer,
    state_log_weights,
    states,
)
from ppl_vae.distributions._precision import in_double
from ppl_vae.weights import RunningWeights

_SPACING = ((0.0, 0.0), (1 / 29, 0.5), (9 / 29, 0.9), (1.0, 1.0))
"""Share of all steps, and the s that they lead to: 500, 4,000 and 10,000 of 14,500 steps in
Salakhutdinov and Murray, 2008."""


class VisibleUnits(ABC):
    """Independent visible units ``p(z) ~ m(z) exp(theta z)``, by their measure m."""

    @abstractmethod
    def log_measure(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """``sum_i log m(z_i)``."""

    @abstractmethod
    def log_normalizer(self, theta: Float[Tensor, "*shape latent"]) -> Tensor:
        """``log integral m(z) exp(theta z)`` of each unit."""

    @abstractmethod
    def sample(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Draws of each unit."""

    @abstractmethod
    def mean(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Mean of each unit."""


@final
class BinaryUnits(VisibleUnits):
    """z in {0, 1}: theta is the log odds of 1."""

    def log_measure(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """0."""
        return torch.zeros_like(z[..., 0])

    def log_normalizer(self, theta: Float[Tensor, "*shape latent"]) -> Tensor:
        """``log(1 + exp(theta))``."""
        return softplus(theta)

    def sample(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Draws in {0, 1}."""
        # In place, as steps of annealing do little else: a third of the time of torch.bernoulli.
        return torch.rand_like(theta).lt_(torch.sigmoid(theta))

    def mean(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Probability of 1."""
        return torch.sigmoid(theta)


@final
class NormalUnits(VisibleUnits):
    """z real, of variance 1 where nothing else acts on it: theta is the mean."""

    def log_measure(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """``-|z|^2 / 2``."""
        return -0.5 * z.square().sum(-1)

    def log_normalizer(self, theta: Float[Tensor, "*shape latent"]) -> Tensor:
        """``theta^2 / 2 + log(2 pi) / 2``."""
        return 0.5 * theta.square() + 0.5 * math.log(2 * math.pi)

    def sample(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Normal draws."""
        return theta + torch.randn_like(theta)

    def mean(self, theta: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Theta."""
        return theta


BINARY = BinaryUnits()


def annealed(
    couplings: Couplings, start: Float[Tensor, "chains latent"], temperatures: int
) -> LogPartition:
    """Log Z by annealed importance sampling from independent units; ``E Z^ = Z``.

    Args:
        couplings: b, c and W.
        start: Draws of z that the path's base rates are taken from, near the machine's own for a
            short path. There are as many chains, all independent of them.
        temperatures: Values of s after 0.

    References:
        Neal, 2001, Annealed importance sampling.
        Salakhutdinov and Murray, 2008, On the quantitative analysis of deep belief networks.
    """
    log_weight, _ = BoltzmannPath.from_draws(couplings, start).forward(len(start), temperatures)
    value, error = _mean_and_error(log_weight)
    return LogPartition(value.to(start.dtype), error.to(start.dtype), exact=False)


def annealed_from_both_sides(
    couplings: Couplings, start: Float[Tensor, "chains latent"], temperatures: int
) -> LogPartition:
    """:func:`annealed`, with the path taken back too, by whose result it is judged.

    Chains of long Gibbs sampling have the wrong share of modes that lie apart, and a path from
    their rates is long. So a first annealing's chains, resampled by their weights, take their
    place: near draws of the machine, from which a second annealing takes its rates, and the path
    back its start. The value is the mean of both annealings, each unbiased. From exact draws, minus
    the log mean weight back is at least log Z in expectation. What the three estimates span is part
    of the error: too large by half where the path is long enough, and what tells where it is not.

    Args:
        couplings: b, c and W.
        start: Draws of z that the first path's base rates are taken from.
        temperatures: Values of s after 0.

    References:
        Burda, Grosse and Salakhutdinov, 2015, Accurate and conservative estimates of MRF
        log-likelihood using reverse annealing.
    """
    first, z = BoltzmannPath.from_draws(couplings, start).forward(len(start), temperatures)
    chosen = torch.multinomial(torch.softmax(first.squeeze(-1), 0), len(z), replacement=True)
    # Resampling copies chains; a sweep leaves their distribution and moves the copies apart.
    drawn = couplings.sweep(z[chosen])
    path = BoltzmannPath.from_draws(couplings, drawn)
    second, _ = path.forward(len(start), temperatures)
    # Pooled by their weights: both estimate Z without bias.
    value, error = _mean_and_error(torch.cat([first, second]))
    upper = -_mean_and_error(path.backward(drawn, temperatures))[0]
    estimates = torch.stack([_mean_and_error(first)[0], _mean_and_error(second)[0], upper])
    error = torch.hypot(error, estimates.max() - estimates.min())
    value, error, upper = (each.to(start.dtype) for each in (value, error, upper))
    return LogPartition(value, error, exact=False, upper=upper)


def _mean_and_error(log_weight: Float[Tensor, "chains 1"]) -> tuple[Tensor, Tensor]:
    """``log mean w``, and its standard error by the delta method."""
    weights = RunningWeights.of(log_weight)
    return weights.log_mean.squeeze(-1), weights.standard_error.squeeze(-1)


@final
@dataclass(frozen=True, eq=False)
class BoltzmannPath:
    """``p_s(z) ~ m(z) sum_h exp((1 - s) a'z + s (b'z + c'h + z'W h))``, s from 0 to 1.

    At 0 the units are independent, with the base rates of a, and log Z is known.

    Attributes:
        couplings: b, c and W.
        base: a, shape (latent,).
        units: The visible units, by their measure m.
    """

    couplings: Couplings
    base: Float[Tensor, " latent"]
    units: VisibleUnits = BINARY

    @classmethod
    def from_draws(
        cls, couplings: Couplings, start: Float[Tensor, "chains latent"]
    ) -> "BoltzmannPath":
        """Take the rates that ``start`` has after half a sweep.

        Averages of probabilities are never 0 or 1, and are the machine's own where W is 0.
        """
        h = torch.bernoulli(torch.sigmoid(couplings.hidden_logits(start)))
        rates = torch.sigmoid(in_double(couplings.visible_logits(h))).mean(0)
        return cls(couplings, torch.logit(rates, eps=1e-9).to(start.dtype))

    def forward(self, chains: int, temperatures: int) -> tuple[Tensor, Tensor]:
        """Log-weights, (chains, 1), of chains from s = 0 to 1, mean Z in expectation; the ends."""
        z = self.units.sample(self.base.expand(chains, -1))
        log_weight, z = self._log_weight(z, self.levels(temperatures))
        return self._log_start + log_weight, z

    def backward(self, z: Float[Tensor, "chains latent"], temperatures: int) -> Tensor:
        """Log-weights, (chains, 1), of chains from s = 1 to 0, mean 1/Z from draws of p_1."""
        return self._log_weight(z, self.levels(temperatures)[::-1])[0] - self._log_start

    def log_density(
        self, z: Float[Tensor, "*shape latent"], s: Float[Tensor, "*levels"] | float
    ) -> Float[Tensor, "*shape"]:
        """``log p_s(z)`` without its log Z, for s that broadcasts against all but the last dim."""
        visible = torch.as_tensor(s).unsqueeze(-1).to(z)
        theta = (1 - visible) * self.base + visible * self.couplings.visible
        gains = softplus(visible * self.couplings.hidden_logits(z)).sum(-1)
        return self.units.log_measure(z) + (theta * z).sum(-1) + gains

    def sweep(
        self, z: Float[Tensor, "*shape latent"], s: Float[Tensor, "*levels"] | float = 1.0
    ) -> Float[Tensor, "*shape latent"]:
        """Take a sweep of block Gibbs sampling that leaves p_s as it is."""
        level = torch.as_tensor(s).unsqueeze(-1).to(z)
        return self._moved(level * self.couplings.hidden_logits(z), level)

    def state_log_weights(self) -> Float[Tensor, " states"]:
        """Log-weights of all states of the smaller layer; of normal units, of the hidden layer."""
        if isinstance(self.units, BinaryUnits):
            return state_log_weights(smaller_layer(self.couplings))
        visible, hidden, _ = self.couplings
        index = torch.arange(2 ** len(hidden), device=hidden.device)
        found = []
        for part in index.split(max(1, BLOCK // len(visible))):
            h = states(part, hidden)
            theta = self.couplings.visible_logits(h)
            found.append(h @ hidden + self.units.log_normalizer(theta).sum(-1))
        return torch.cat(found)

    def draw_exactly(
        self, log_weights: Float[Tensor, " states"], number: int
    ) -> Float[Tensor, "number latent"]:
        """Independent draws of p_1, given the log-weights of all states."""
        if isinstance(self.units, BinaryUnits):
            return draw_exactly(self.couplings, log_weights, number)
        probability = torch.softmax(in_double(log_weights), 0)
        h = states(torch.multinomial(probability, number, replacement=True), self.couplings.hidden)
        return self.units.sample(self.couplings.visible_logits(h))

    @staticmethod
    def levels(temperatures: int) -> list[float]:
        """Values of s from 0 to 1, densest near 1, where the modes part."""
        steps, values = zip(*_SPACING, strict=True)
        return list(np.interp(np.linspace(0, 1, temperatures + 1), steps, values).tolist())

    @property
    def _log_start(self) -> Float[Tensor, ""]:
        """Log Z at s = 0."""
        hidden = len(self.couplings.hidden)
        return self.units.log_normalizer(in_double(self.base)).sum() + hidden * math.log(2)

    def _moved(self, hidden_logits: Tensor, s: Tensor | float) -> Tensor:
        """All visible units given hidden ones that are drawn by these logits."""
        visible, _, weight = self.couplings
        h = BINARY.sample(hidden_logits)
        if isinstance(s, float):
            # The few couplings are scaled, not what many chains make of them.
            return self.units.sample(linear(h, s * weight, (1 - s) * self.base + s * visible))
        return self.units.sample((1 - s) * self.base + s * linear(h, weight, visible))

    def _log_weight(
        self, z: Float[Tensor, "chains latent"], levels: list[float]
    ) -> tuple[Tensor, Tensor]:
        # A thousand small steps add up: in single precision their rounding would show.
        log_weight = in_double(torch.zeros_like(z[:, :1]))
        visible, hidden, weight = self.couplings
        # The tilt towards b is a linear form of z, as hidden logits are: one product for all.
        forms = torch.cat([weight.mT, (visible - self.base).unsqueeze(0)])
        constants = torch.cat([hidden, hidden.new_zeros(1)])
        for before, after in pairwise(levels):
            # The weight first, at the old z; then a sweep that leaves p_s at the new s as it is.
            both = linear(z, forms, constants)
            logits, tilt = both[:, :-1], (after - before) * both[:, -1:]
            gain = softplus(after * logits) - softplus(before * logits)
            log_weight += tilt + gain.sum(-1, keepdim=True)
            z = self._moved(after * logits, after)
        return log_weight, z
