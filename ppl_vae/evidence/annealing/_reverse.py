"""Annealing backwards from approximate posterior draws, for data that were not simulated."""

import math
from statistics import NormalDist
from typing import Any

import scipy  # not scipy.special, which it imports at its first use: 0.2 s
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowData
from ppl_vae.evidence._chunked import require_counts
from ppl_vae.evidence._doubt import Doubt
from ppl_vae.evidence._loop import Call, Purpose, Streams
from ppl_vae.evidence._result import Claims, Columns, Evidence
from ppl_vae.evidence._weighing import weight_columns
from ppl_vae.evidence.annealing._ais import ADVICE, AnnealedImportanceSampling
from ppl_vae.evidence.annealing._chains import resampled
from ppl_vae.particles import Evaluation, Program, Programs
from ppl_vae.weights import log_mean_exp, log_sum_of_others

_LEAST_EFFECTIVE = 9.0
"""Chains, effectively: of 37 sets of 300 or 400 data of linear-Gaussian models, with 16 chains, the
24 whose intervals covered less than 91% have fewer in more than 5% of the data."""

_NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)


def reverse_ais(
    ais: AnnealedImportanceSampling,
    model: Program,
    guide: Program | None,
    x: RowData,
    *,
    transitions: int = 100,
    **call: Any,
) -> Evidence:
    """``-log mean W_rev`` of chains annealed backwards from approximate posterior draws.

    Were the draws exact, this would be an upper bound of log p(x) in expectation. They are the ends
    of forward chains, resampled by their weights and moved by some more transitions at b = 1, and
    so it is consistent only, in the number of temperatures and transitions. What breaks the bound:
    a posterior mode that the forward chains missed is missed backwards too, and the result then
    lies below log p(x), in agreement with the forward estimate, by the same amount. For a
    guaranteed upper bound simulate the data: :class:`BidirectionalMonteCarlo`.

    The standard error is by the jackknife over chains, or that of log-normal weights of the same
    spread, if it is larger: 1.96 of it are a 95% interval for few chains. Weights backwards are
    skewed, so that many chains that happen to miss the tail look alike: with fewer than 9 effective
    chains, or log-weights more skewed than normal ones, the error is likely too small, and log p(x)
    too high.

    Args:
        ais: The annealing.
        model: Pyro model with its data plate at dim -1, all latents continuous.
        guide: Pyro guide over the same latents.
        x: The data, shape ``(num_data, *event)``.
        transitions: At b = 1, before the way back.
        call: ``device``, ``seed``, ``progress`` and ``checkpoint``, as for the annealing.

    Raises:
        ValueError: If transitions is less than 1, or as the annealing does.
    """
    require_counts("reverse_ais", transitions=transitions)

    def estimate(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
        annealer = ais.prepare(look, x, streams)
        with streams.stream(Purpose.FORWARD):
            log_weight, chains = annealer.forward()
            # By their weights the chains stand for the posterior, the better the longer they move.
            chains = resampled(chains, log_weight, num_groups=1)
            for _ in range(transitions):
                chains, _ = annealer.move(chains, annealer.last)
        with streams.stream(Purpose.REVERSE):
            log_weight = annealer.reverse(chains)
        # There and back, after one pilot.
        spent = ais.evaluations(annealer) * 2 + ais.num_chains * transitions * ais.leapfrog_steps
        spent -= ais.pilot_evaluations(annealer)
        columns = weight_columns(log_weight, spent, annealer.computed_in)
        error = jackknife_error(log_weight).maximum(log_normal_error(log_weight))
        error = torch.hypot(error.cpu(), columns["rounding"])
        return backwards(columns) | {"standard_error": error}

    settings = f"reverse of {ais!r}, {transitions}"
    results = ais.by_chunk(Call(**call), settings, estimate, Programs(model, guide), x)
    claims = Claims(
        num_particles=ais.num_chains,
        direction="consistent",
        method=(
            f"annealed importance sampling backwards {ais.described}, from approximate posterior "
            f"draws ({transitions} transitions): no guaranteed upper bound"
        ),
        gap=ais.gap,
        least_effective=_LEAST_EFFECTIVE,
        advice=ADVICE,
    )
    return Evidence.from_weights(results.columns, claims, results.identity, results.seconds)


def backwards(columns: Columns) -> dict[str, Tensor]:
    """Values of weights with mean 1 / p(x): their doubt is of the other side, and is left out."""
    of_doubt = {*Doubt._fields, "skewness_z"}
    kept = {name: value for name, value in columns.items() if name not in of_doubt}
    return {**kept, "log_prob": -columns["log_prob"]}


def jackknife_error(log_weight: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    """Standard error of ``log mean W`` by leaving out each chain, times t / 1.96, in nats.

    A few weights backwards are so skewed that the delta method, a first-order expansion, states too
    little. With the quantile of Student's t, 1.96 of these errors are a 95% interval for few
    chains. Infinite where all weights but one are 0; NaN of one chain.

    References:
        Tukey, 1958, Bias and confidence in not quite large samples.
    """
    count = len(log_weight)
    if count < 2:
        return torch.full_like(log_weight[0], math.nan)
    left_out = log_sum_of_others(log_weight)
    # A value without one chain of n shows 1 / (n - 1) of its influence: hence the factor.
    variance = left_out.var(0, correction=0) * (count - 1)
    error = variance.sqrt() * float(scipy.special.stdtrit(count - 1, 0.975) / _NORMAL_QUANTILE)
    return error.nan_to_num(nan=math.inf)


def log_normal_error(log_weight: Float[Tensor, "chains batch"]) -> Float[Tensor, " batch"]:
    r"""Standard error of ``log mean W`` if log W is normal, by an interval for its mean, in nats.

    Few weights seldom show their tail, and those that do not have a jackknife error that is too
    small; the variance s^2 of log W shows how heavy it is. With n chains, log E[W] is estimated by
    the mean of log W plus s^2/2, and lies 95% of the time between this minus and plus

    ``sqrt(z^2 s^2/n + (s^2/2)^2 (1 - (n - 1)/c)^2)``

    with z the normal's 97.5% quantile and c that of chi-squared with n - 1 degrees of freedom,
    97.5% below and 2.5% above. 1.96 of the error reach from ``log mean W`` to the further end. 0
    where some weights are 0; NaN of one chain.

    References:
        Zou, Taleban and Huo, 2009, Confidence interval estimation for lognormal data with
        application to health economics.
    """
    count = len(log_weight)
    if count < 2:
        return torch.full_like(log_weight[0], math.nan)
    variance, estimate = log_weight.var(0), log_mean_exp(log_weight)
    centre = log_weight.mean(0) + 0.5 * variance
    reach = [
        torch.hypot(
            _NORMAL_QUANTILE * (variance / count).sqrt(),
            0.5 * variance * (1 - (count - 1) / float(scipy.special.chdtri(count - 1, tail))),
        )
        for tail in (0.025, 0.975)
    ]
    further = (estimate - (centre - reach[0])).maximum(centre + reach[1] - estimate)
    return (further / _NORMAL_QUANTILE).nan_to_num(nan=0.0)
