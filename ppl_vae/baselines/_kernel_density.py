"""The kernel density estimate of a generator's draws, as papers once gave it."""

import math
import time

import scipy  # not scipy.optimize, which it imports at its first use
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowData, as_rows, in_memory
from ppl_vae.evidence import Evidence
from ppl_vae.names import require_positive

_CHUNK = 2**24
"""Squared distances held at once."""


def kernel_density_estimate(
    draws: Float[Tensor, "draws features"],
    x: RowData,
    *,
    bandwidth: float | None = None,
    valid: RowData | None = None,
) -> Evidence:
    """``log (1/S) sum_s Normal(x; x_s, h^2 I)``: the old baseline, up to hundreds of nats low.

    It is a lower bound in expectation of log p(x) of the generator with noise h, from S draws of
    its prior that all data share: importance sampling by the prior. In more than a few latent
    dimensions no draw comes near a datum, so that the number tells how many draws there were, and
    with the bandwidth made wide enough for them it ranks models wrongly. It stands here because
    published tables have it: for a number to trust, take
    :func:`~ppl_vae.decoders.log_prob_of`.

    Args:
        draws: Draws of the generator, without noise.
        x: The data.
        bandwidth: h in the units of the data; None: the one of highest value on ``valid``.
        valid: Validation data.

    Returns:
        The value of each datum in nats; its verdict is by the number of draws that came near.

    Raises:
        ValueError: If there is neither a bandwidth nor validation data, or shapes differ.

    References:
        Parzen, 1962, On estimation of a probability density function and mode.
        Theis, van den Oord and Bethge, 2016, A note on the evaluation of generative models.
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    start = time.perf_counter()
    draws = draws.detach().flatten(1).double().cpu()
    if not bool(draws.isfinite().all()):
        raise ValueError("draws are not finite: the generator was trained into NaN.")
    rows = _rows(x, "x", draws)
    text = ""
    if bandwidth is None:
        if valid is None:
            raise ValueError("give a bandwidth, or validation data to choose it by.")
        chosen_on = _rows(valid, "valid", draws)
        bandwidth = _best_bandwidth(draws, chosen_on)
        text = f" chosen on {len(chosen_on)} validation data"
    require_positive(bandwidth=bandwidth)
    squared = _squared(draws, rows)
    log_prob, effective = _estimates(squared, draws, bandwidth)
    error = (1 / effective - 1 / len(draws)).clamp(min=0).sqrt()
    return Evidence(
        log_prob=log_prob,
        standard_error=error,
        effective_sample_size=effective,
        num_particles=len(draws),
        shared_error=_shared_error(squared, bandwidth, error),
        direction="lower",
        method=f"kernel density estimate of bandwidth {bandwidth:.4g}{text}",
        seconds=time.perf_counter() - start,
        advice="take log_prob_of(decoder, x), which looks for z near each datum",
    )


def _shared_error(squared: Tensor, bandwidth: float, error: Tensor) -> float:
    """Part of the errors that is one for all data, as their draws are the same.

    By the delta method the mean over N data has variance ``sum_s (mean_i r_is - 1/S)^2``, with the
    share r_is of draw s in the estimate of datum i. What it exceeds that of independent errors by
    is shared.
    """
    num_draws, num_data = squared.shape
    if num_data == 1:
        return 0.0
    shares = torch.softmax(-squared / (2 * bandwidth**2), 0).mean(1)
    variance = (shares - 1 / num_draws).square().sum() - error.square().sum() / num_data**2
    return math.sqrt(max(0.0, variance.item() / (1 - 1 / num_data)))


def _rows(given: RowData, what: str, draws: Tensor) -> Tensor:
    x = in_memory(as_rows(given, what), what).flatten(1).double().cpu()
    if x.shape[1] != draws.shape[1]:
        raise ValueError(
            f"{what} has {x.shape[1]} values a row and the draws have {draws.shape[1]}: give "
            "draws of these data."
        )
    if not bool(x.isfinite().all()):
        raise ValueError(f"{what} has NaN or infinite values: remove such rows or fill them in.")
    return x


def _squared(draws: Tensor, x: Tensor) -> Float[Tensor, "draws batch"]:
    parts = x.split(max(1, _CHUNK // len(draws)))
    return torch.cat([torch.cdist(draws, part).square() for part in parts], 1)


def _estimates(squared: Tensor, draws: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Value and effective number of draws of each datum."""
    log_kernel = -squared / (2 * bandwidth**2)
    log_norm = 0.5 * draws.shape[1] * math.log(2 * math.pi * bandwidth**2)
    total = log_kernel.logsumexp(0)
    effective = (2 * total - (2 * log_kernel).logsumexp(0)).exp()
    return total - math.log(len(draws)) - log_norm, effective


def _best_bandwidth(draws: Tensor, valid: Tensor) -> float:
    squared = _squared(draws, valid)
    # No bandwidth is of use that is wider than the data are from the draws, root mean square.
    widest = 0.5 * math.log(squared.mean().item() / draws.shape[1])

    def loss(log_bandwidth: float) -> float:
        return -_estimates(squared, draws, math.exp(log_bandwidth))[0].mean().item()

    found = scipy.optimize.minimize_scalar(loss, bounds=(widest - 7, widest), method="bounded")
    return math.exp(found.x)
