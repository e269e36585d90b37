"""log Z of a restricted Boltzmann machine: by enumeration, or by annealed importance sampling."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ppl_vae.distributions.boltzmann import Couplings
from ppl_vae.distributions.precision import in_double
from ppl_vae.weights import RunningWeights

_BLOCK = 2**22
"""States times units of the other layer at once."""


@final
@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate of log Z, in nats.

    Attributes:
        value: Exact up to rounding, or ``log Z^`` with ``E Z^ = Z``: then ``E log Z^ <= log Z``, so
            that log-probabilities are too large on average, by about half the squared error.
        standard_error: Of the value; 0 if exact. It does not know of a mode that no chain has met.
        exact: Whether all states were summed.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool


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


def annealed(couplings: Couplings, chains: int, temperatures: int) -> LogPartition:
    """Log Z by annealed importance sampling from independent units.

    The path ``p_s(z) ~ sum_h exp(b'z + c'h + s z'W h)`` takes s from 0, where log Z is known, to 1
    in equal steps, with a sweep of Gibbs sampling at each. ``E Z^ = Z``.

    Args:
        couplings: b, c and W.
        chains: Independent ones, over which the standard error is taken.
        temperatures: Values of s after 0.

    References:
        Neal, 2001, Annealed importance sampling.
        Salakhutdinov and Murray, 2008, On the quantitative analysis of deep belief networks.
    """
    visible, hidden, weight = couplings
    z = torch.bernoulli(torch.sigmoid(visible).expand(chains, -1))
    log_weight = torch.zeros(chains, dtype=torch.float64, device=z.device)
    for step in range(temperatures):
        before, after = step / temperatures, (step + 1) / temperatures
        field = z @ weight
        logits = hidden + after * field
        gain = functional.softplus(logits) - functional.softplus(hidden + before * field)
        log_weight += gain.sum(-1)
        h = torch.bernoulli(torch.sigmoid(logits))
        z = torch.bernoulli(torch.sigmoid(visible + after * (h @ weight.mT)))
    weights = RunningWeights()
    weights.add(log_weight.unsqueeze(-1))
    independent = functional.softplus(visible).sum() + functional.softplus(hidden).sum()
    value = (weights.log_mean.squeeze(-1) + independent).to(visible.dtype)
    return LogPartition(value, weights.standard_error.squeeze(-1).to(visible.dtype), exact=False)
