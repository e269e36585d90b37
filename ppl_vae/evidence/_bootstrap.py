"""Standard errors by resampling the particles of each datum."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_NUMBERS_AT_ONCE = 8_000_000

Statistic = Callable[[Float[Tensor, "blocks batch"]], Float[Tensor, " batch"]]
"""Log of each block's sum of weights to an estimate of log p(x)."""


def bootstrap_error(
    log_weight: Float[Tensor, "particles batch"],
    replicates: int,
    statistic: Statistic,
    num_blocks: int = 1,
) -> Float[Tensor, " batch"]:
    """Standard deviation of ``statistic`` over resampled particles, per datum, in nats.

    ``replicates`` times K weights are drawn, with replacement, from the K that there are. Where
    weights are skewed it sees what the delta method, a first-order expansion, does not. No
    resampling can see weights that were never drawn: with few effective samples it is too small
    just as the delta method's error is. Data share the positions that are drawn, which leaves each
    datum's error as it is. Starts from the caller's random state, on the CPU, and leaves it as it
    was, so that an estimate has the same value whichever error it comes with.

    Args:
        log_weight: log w, shape (particles, batch), on the CPU.
        replicates: Bootstrap samples, 2 or more.
        statistic: The estimate, from the log of the sum of weights in each block.
        num_blocks: Equal blocks that the weights are split into, in random order.

    Raises:
        ValueError: If there are fewer than 2 replicates.

    References:
        Efron, 1979, Bootstrap methods: another look at the jackknife.
    """
    count, batch = log_weight.shape
    if replicates < 2:
        raise ValueError(f"a bootstrap needs 2 replicates or more, got {replicates}.")
    largest = log_weight.amax(0)
    shift = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    weight = torch.exp(log_weight.double() - shift)
    at_once = max(1, _NUMBERS_AT_ONCE // (num_blocks * max(count, batch)))
    found = []
    with torch.random.fork_rng(devices=[]):
        for start in range(0, replicates, at_once):
            size = min(at_once, replicates - start)
            counts = _counts(size * num_blocks, count // num_blocks, count)
            sums = (counts @ weight).log().unflatten(0, (size, num_blocks)) + shift
            found.append(statistic(sums.movedim(1, 0).flatten(1)).unflatten(0, (size, batch)))
    return torch.cat(found).std(0)


def _counts(rows: int, draws: int, particles: int) -> Float[Tensor, "rows particles"]:
    """How often each particle is drawn, by rows of so many draws."""
    drawn = torch.randint(particles, (rows, draws))
    counts = torch.zeros(rows, particles, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
