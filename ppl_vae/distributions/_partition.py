"""log Z of a restricted Boltzmann machine: by enumeration, or by annealed importance sampling."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ppl_vae.distributions._boltzmann import Couplings
from ppl_vae.distributions._precision import in_double
from ppl_vae.weights import RunningWeights

_BLOCK = 2**22
"""States times units of the other layer at once."""

_SPACING = ((0.0, 0.0), (1 / 29, 0.5), (9 / 29, 0.9), (1.0, 1.0))
"""Share of all steps, and the s that they lead to: 500, 4,000 and 10,000 of 14,500 steps in
Salakhutdinov and Murray, 2008."""


@final
@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate of log Z, in nats.

    Attributes:
        value: Exact up to rounding, or ``log Z^`` with ``E Z^ = Z``: then ``E log Z^ <= log Z``, so
            that log-probabilities are too large on average, by about half the squared error.
        standard_error: Of the value; 0 if exact. It does not know of a mode that no chain has met.
        exact: Whether all states were summed.
        upper: The estimate from the other side, at least log Z in expectation; None if there is
            none.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool
    upper: Tensor | None = None


def smaller_layer(couplings: Couplings) -> Couplings:
    """The same machine with its smaller layer as the visible one."""
    latent, hidden = couplings.weight.shape
    return couplings if latent <= hidden else couplings.swapped()


def state_log_weights(couplings: Couplings) -> Float[Tensor, " states"]:
    """``log sum_h exp(-E(z, h))`` of every z, numbered as :func:`states` does; differentiable."""
    latent, hidden = couplings.weight.shape
    index = torch.arange(2**latent, device=couplings.weight.device)
    parts = index.split(max(1, _BLOCK // hidden))
    return torch.cat([couplings.log_unnormalised(states(p, couplings.visible)) for p in parts])


def log_total(log_weights: Float[Tensor, " states"]) -> Float[Tensor, ""]:
    """Log Z from the log-weights of every state, summed in double precision."""
    return torch.logsumexp(in_double(log_weights), 0).to(log_weights.dtype)


def states(index: Int[Tensor, " number"], like: Float[Tensor, " latent"]) -> Tensor:
    """The binary vectors of given numbers, shape (number, latent), of the type of ``like``."""
    powers = 2 ** torch.arange(len(like), device=index.device)
    return (index.unsqueeze(-1) // powers % 2).to(like)


def draw_exactly(
    couplings: Couplings, log_weights: Float[Tensor, " states"], number: int
) -> Float[Tensor, "number latent"]:
    """Independent draws of z, given the log-weights of every state of the smaller layer."""
    small = smaller_layer(couplings)
    index = torch.multinomial(torch.softmax(in_double(log_weights), 0), number, replacement=True)
    drawn = states(index, small.visible)
    if small is couplings:
        return drawn
    return torch.bernoulli(torch.sigmoid(couplings.visible_logits(drawn)))


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
    log_weight, _ = _Path.of(couplings, start).forward(len(start), temperatures)
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
    first, z = _Path.of(couplings, start).forward(len(start), temperatures)
    chosen = torch.multinomial(torch.softmax(first.squeeze(-1), 0), len(z), replacement=True)
    drawn = couplings.sweep(z[chosen])
    path = _Path.of(couplings, drawn)
    second, _ = path.forward(len(start), temperatures)
    back, _ = path.backward(drawn, temperatures)
    value, error = _mean_and_error(torch.cat([first, second]))
    upper = -_mean_and_error(back)[0]
    low, high = torch.aminmax(
        torch.stack([*(_mean_and_error(w)[0] for w in (first, second)), upper])
    )
    error = torch.hypot(error, high - low)
    sides = [each.to(start.dtype) for each in (value, error, upper)]
    return LogPartition(sides[0], sides[1], exact=False, upper=sides[2])


def _mean_and_error(log_weight: Float[Tensor, "chains 1"]) -> tuple[Tensor, Tensor]:
    """``log mean w``, and its standard error by the delta method."""
    weights = RunningWeights.of(log_weight)
    return weights.log_mean.squeeze(-1), weights.standard_error.squeeze(-1)


@final
@dataclass(frozen=True, eq=False)
class _Path:
    """``p_s(z) ~ sum_h exp((1 - s) a'z + s (b'z + c'h + z'W h))``, s from 0 to 1.

    At 0 the units are independent, with the base rates of a, and log Z is known.

    Attributes:
        couplings: b, c and W.
        base: a, shape (latent,).
    """

    couplings: Couplings
    base: Float[Tensor, " latent"]

    @classmethod
    def of(cls, couplings: Couplings, start: Float[Tensor, "chains latent"]) -> "_Path":
        """From the rates that ``start`` has after half a sweep.

        Averages of probabilities are never 0 or 1, and are the machine's own where W is 0.
        """
        h = torch.bernoulli(torch.sigmoid(couplings.hidden_logits(start)))
        rates = torch.sigmoid(in_double(couplings.visible_logits(h))).mean(0)
        return cls(couplings, torch.logit(rates, eps=1e-9).to(start.dtype))

    def forward(self, chains: int, temperatures: int) -> tuple[Tensor, Tensor]:
        """Log-weights, (chains, 1), of chains from s = 0 to 1, mean Z in expectation; the ends."""
        z = torch.bernoulli(torch.sigmoid(self.base).expand(chains, -1))
        log_weight, z = self._log_weight(z, _levels(temperatures))
        return self._log_start + log_weight, z

    def backward(
        self, z: Float[Tensor, "chains latent"], temperatures: int
    ) -> tuple[Tensor, Tensor]:
        """Log-weights, (chains, 1), of chains from s = 1 to 0, mean 1/Z from draws of p_1."""
        log_weight, z = self._log_weight(z, _levels(temperatures)[::-1])
        return log_weight - self._log_start, z

    @property
    def _log_start(self) -> Float[Tensor, ""]:
        """Log Z at s = 0."""
        units = len(self.couplings.hidden)
        return functional.softplus(in_double(self.base)).sum() + units * math.log(2)

    def _log_weight(
        self, z: Float[Tensor, "chains latent"], levels: list[float]
    ) -> tuple[Tensor, Tensor]:
        visible, _, weight = self.couplings
        log_weight = in_double(torch.zeros_like(z[:, :1]))
        for before, after in pairwise(levels):
            logits = self.couplings.hidden_logits(z)
            gain = functional.softplus(after * logits) - functional.softplus(before * logits)
            tilt = (after - before) * (z @ (visible - self.base))
            log_weight += (tilt + gain.sum(-1)).unsqueeze(-1)
            h = torch.bernoulli(torch.sigmoid(after * logits))
            field = visible + functional.linear(h, weight)
            z = torch.bernoulli(torch.sigmoid((1 - after) * self.base + after * field))
        return log_weight, z


def _levels(temperatures: int) -> list[float]:
    """Values of s from 0 to 1, densest near 1, where the modes part."""
    steps, values = zip(*_SPACING, strict=True)
    return list(np.interp(np.linspace(0, 1, temperatures + 1), steps, values))
