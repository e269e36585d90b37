"""The restricted Boltzmann machine over binary vectors, and its log Z by sums or by annealing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import linear, softplus

from ppl_vae.distributions._precision import in_double
from ppl_vae.weights import RunningWeights

_BLOCK = 2**22
"""Largest number of states times units of the other layer computed at once."""

_SPACING = ((0.0, 0.0), (1 / 29, 0.5), (9 / 29, 0.9), (1.0, 1.0))
"""Share of all steps, and the s that they lead to: 500, 4,000 and 10,000 of 14,500 steps in
Salakhutdinov and Murray, 2008."""


class Couplings(NamedTuple):
    """``E(z, h) = -b'z - c'h - z'W h`` over binary z and h.

    Attributes:
        visible: b, shape (latent,).
        hidden: c, shape (hidden,).
        weight: W, shape (latent, hidden).
    """

    visible: Float[Tensor, " latent"]
    hidden: Float[Tensor, " hidden"]
    weight: Float[Tensor, "latent hidden"]

    def log_unnormalised(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """Minus the free energy: ``b'z + sum_j log(1 + exp(c_j + z'W_j))``."""
        return (z * self.visible).sum(-1) + softplus(self.hidden_logits(z)).sum(-1)

    def hidden_logits(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape hidden"]:
        """Logits of h given z: ``c + W'z``."""
        return linear(z, self.weight.mT, self.hidden)

    def visible_logits(self, h: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape latent"]:
        """Logits of z given h: ``b + W h``."""
        return linear(h, self.weight, self.visible)

    def sweep(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Take a sweep of block Gibbs sampling, first all of h given z, then all of z given h."""
        h = torch.bernoulli(torch.sigmoid(self.hidden_logits(z)))
        return torch.bernoulli(torch.sigmoid(self.visible_logits(h)))


@final
class RestrictedBoltzmann(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``p(z) = sum_h exp(b'z + c'h + z'W h) / Z`` over binary z.

    Args:
        couplings: b, c and W; not checked.
        log_partition: Gives log Z, called when a density is first asked for, and then no more.
        draw: Gives so many draws, shape ``(number, latent)``.
        batch_shape: Shape of independent copies.
        validate_args: Whether values are checked.

    References:
        Smolensky, 1986, Information processing in dynamical systems: foundations of harmony theory.
        Hinton, 2002, Training products of experts by minimizing contrastive divergence.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        couplings: Couplings,
        log_partition: Callable[[], Tensor],
        draw: Callable[[int], Tensor],
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.couplings, self.log_partition, self.draw = couplings, log_partition, draw
        event_shape = couplings.visible.shape
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "RestrictedBoltzmann":
        """Broadcast the distribution to a batch shape."""
        return RestrictedBoltzmann(
            self.couplings, self.log_partition, self.draw, batch_shape, self._validate_args
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws in {0, 1}, shape ``(*sample_shape, *batch_shape, latent)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.draw(shape[:-1].numel()).reshape(shape)

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*shape"]:
        """Log-probability in nats, as good as log Z is.

        Raises:
            ValueError: If validation is on (the default) and a value is neither 0 nor 1.
        """
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                "a restricted Boltzmann machine has latents in {0, 1}, got others: pair it with "
                "BernoulliEncoder or another guide of binary latents."
            )
        log_prob = self.couplings.log_unnormalised(value) - self.log_partition()
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


@final
@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate of log Z, in nats.

    Attributes:
        value: Exact up to rounding, or ``log Z^`` with ``E Z^ = Z``: then ``E log Z^ <= log Z``, so
            that log-probabilities are too large on average, by about half the squared error.
        standard_error: Standard error of the value; 0 if exact. It does not know of a mode that no
            chain has met.
        exact: Whether all states were summed.
        upper: The estimate from the other side, at least log Z in expectation; None if there is
            none.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool
    upper: Tensor | None = None


def smaller_layer(couplings: Couplings) -> Couplings:
    """Swap the layers where needed, so that the smaller one is the visible one."""
    visible, hidden, weight = couplings
    # The sum is over 2^units states of the visible layer.
    return couplings if len(visible) <= len(hidden) else Couplings(hidden, visible, weight.mT)


def state_log_weights(couplings: Couplings) -> Float[Tensor, " states"]:
    """``log sum_h exp(-E(z, h))`` of every z, in the order of binary numbers; differentiable."""
    latent, hidden = couplings.weight.shape
    index = torch.arange(2**latent, device=couplings.weight.device)
    chunks = index.split(max(1, _BLOCK // hidden))
    return torch.cat([couplings.log_unnormalised(_states(i, couplings.visible)) for i in chunks])


def log_total(log_weights: Float[Tensor, " states"]) -> Float[Tensor, ""]:
    """Log Z from the log-weights of every state, summed in double precision."""
    return torch.logsumexp(in_double(log_weights), 0).to(log_weights.dtype)


def _states(index: Int[Tensor, " number"], like: Float[Tensor, " latent"]) -> Tensor:
    """Binary digits of numbers, lowest first, shape (number, latent), of the type of ``like``."""
    powers = 2 ** torch.arange(len(like), device=index.device)
    return (index.unsqueeze(-1) // powers % 2).to(like)


def draw_exactly(
    couplings: Couplings, log_weights: Float[Tensor, " states"], number: int
) -> Float[Tensor, "number latent"]:
    """Independent draws of z, given the log-weights of every state of the smaller layer."""
    small = smaller_layer(couplings)
    index = torch.multinomial(torch.softmax(in_double(log_weights), 0), number, replacement=True)
    drawn = _states(index, small.visible)
    if small is couplings:
        return drawn
    # The states are the hidden layer's, whose draws leave z independent Bernoulli units.
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
    log_weight, _ = _Path.from_draws(couplings, start).forward(len(start), temperatures)
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
    first, z = _Path.from_draws(couplings, start).forward(len(start), temperatures)
    chosen = torch.multinomial(torch.softmax(first.squeeze(-1), 0), len(z), replacement=True)
    # Resampling copies chains; a sweep leaves their distribution and moves the copies apart.
    drawn = couplings.sweep(z[chosen])
    path = _Path.from_draws(couplings, drawn)
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
    def from_draws(cls, couplings: Couplings, start: Float[Tensor, "chains latent"]) -> "_Path":
        """Take the rates that ``start`` has after half a sweep.

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

    def backward(self, z: Float[Tensor, "chains latent"], temperatures: int) -> Tensor:
        """Log-weights, (chains, 1), of chains from s = 1 to 0, mean 1/Z from draws of p_1."""
        return self._log_weight(z, _levels(temperatures)[::-1])[0] - self._log_start

    @property
    def _log_start(self) -> Float[Tensor, ""]:
        """Log Z at s = 0."""
        units = len(self.couplings.hidden)
        return softplus(in_double(self.base)).sum() + units * math.log(2)

    def _log_weight(
        self, z: Float[Tensor, "chains latent"], levels: list[float]
    ) -> tuple[Tensor, Tensor]:
        visible, _, weight = self.couplings
        # A thousand small steps add up: in single precision their rounding would show.
        log_weight = in_double(torch.zeros_like(z[:, :1]))
        for before, after in pairwise(levels):
            # The weight first, at the old z; then a sweep that leaves p_s at the new s as it is.
            logits = self.couplings.hidden_logits(z)
            gain = softplus(after * logits) - softplus(before * logits)
            tilt = (after - before) * (z @ (visible - self.base))
            log_weight += (tilt + gain.sum(-1)).unsqueeze(-1)
            h = torch.bernoulli(torch.sigmoid(after * logits))
            field = visible + linear(h, weight)
            z = torch.bernoulli(torch.sigmoid((1 - after) * self.base + after * field))
        return log_weight, z


def _levels(temperatures: int) -> list[float]:
    """Values of s from 0 to 1, densest near 1, where the modes part."""
    steps, values = zip(*_SPACING, strict=True)
    return list(np.interp(np.linspace(0, 1, temperatures + 1), steps, values))
