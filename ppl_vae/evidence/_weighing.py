"""Errors of estimates from importance weights: delta method, bootstrap and doubt."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evidence._doubt import NORMAL, doubt_by_normal, doubt_by_tail, skewness_z
from ppl_vae.evidence._result import Columns
from ppl_vae.evidence._tails import LEAST_PARTICLES, pareto_tail
from ppl_vae.weights import RunningWeights

_DRAWN_AT_ONCE = 8_000_000


def measured(weights: RunningWeights, *, tails: bool = True) -> dict[str, Tensor]:
    """Attributes of an ``Evidence`` that the weights of each datum give, on the CPU.

    The standard error is by the delta method, with what rounding leaves open in quadrature.

    Args:
        weights: Of all particles.
        tails: Fit tails, from 100 particles on, and tell by them how low the estimate may be.
    """
    rounding = weights.rounding
    values = {
        "log_prob": weights.log_mean,
        "standard_error": torch.hypot(weights.standard_error, rounding),
        "effective_sample_size": weights.effective_sample_size,
        "rounding": rounding,
    }
    if tails and weights.num_particles >= LEAST_PARTICLES:
        tail = pareto_tail(weights)
        values |= {"pareto_k": tail.pareto_k, "tail_share": tail.tail_share}
        values |= doubt_by_tail(weights, tail)._asdict()
    return {name: value.cpu() for name, value in values.items()}


def weight_columns(
    log_weight: Float[Tensor, "chains batch"], evaluations: int, computed_in: torch.dtype
) -> Columns:
    """``log mean W`` per datum, and what its weights say of it.

    Args:
        log_weight: log W of independent chains.
        computed_in: Type of the log-densities along the path.
        evaluations: Decoder evaluations spent on each datum.

    Raises:
        ValueError: If a weight is not a number, or infinite; names the datum.
    """
    require_numbers(log_weight)
    weights = RunningWeights(len(log_weight))
    weights.add(log_weight, computed_in)
    # Near normal along a path, log W tells more of its mean than a tail of a few chains does.
    doubt = {name: value.cpu() for name, value in doubt_by_normal(log_weight)._asdict().items()}
    columns = measured(weights) | doubt | {"skewness_z": skewness_z(log_weight).cpu()}
    return columns | {"evaluations": torch.full_like(columns["log_prob"], evaluations)}


def require_numbers(log_weight: Float[Tensor, "chains batch"]) -> None:
    """Check that no log-weight is NaN or +inf; a weight of 0 is a weight.

    Raises:
        ValueError: If one is; names the datum.
    """
    wrong = (log_weight.isnan() | log_weight.isposinf()).any(0)
    if bool(wrong.any()):
        datum = int(wrong.nonzero()[0])
        raise ValueError(
            f"an annealed log-weight of datum {datum} of its chunk is not finite: look for a "
            "likelihood that is NaN or infinite where the start puts its draws."
        )


def moved(columns: Columns, log_prob: Tensor, standard_error: Tensor) -> dict[str, Tensor]:
    """The values with another estimate and error by the same weights; the doubt's end stays."""
    values = {**columns, "log_prob": log_prob, "standard_error": standard_error}
    if "doubt" in columns:
        shift = columns["log_prob"] - log_prob
        spread = NORMAL * (columns["standard_error"] - standard_error)
        values["doubt"] = (columns["doubt"] + shift + spread).clamp(min=0)
        values["bias"] = (columns["bias"] + shift).clamp(min=0)
    return values


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
    at_once = max(1, _DRAWN_AT_ONCE // (num_blocks * max(count, batch)))
    estimates = []
    with torch.random.fork_rng(devices=[]):
        for start in range(0, replicates, at_once):
            size = min(at_once, replicates - start)
            drawn = torch.randint(count, (size * num_blocks, count // num_blocks))
            # How often each particle is drawn: all sums are then one matrix product.
            counts = torch.zeros(len(drawn), count, dtype=torch.float64)
            counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
            sums = (counts @ weight).log().unflatten(0, (size, num_blocks)) + shift
            each = statistic(sums.movedim(1, 0).flatten(1))
            estimates.append(each.unflatten(0, (size, batch)))
    return torch.cat(estimates).std(0)
