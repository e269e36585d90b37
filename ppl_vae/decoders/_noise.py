"""Normal noise round a decoder's mean, of the size that validation data are likeliest under."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import scipy  # not scipy.optimize, which it imports at its first use
import torch
from torch import Tensor

from ppl_vae.data import RowData, as_rows, in_memory, select
from ppl_vae.decoders._means import Decoder, DecoderOfMeans, decoder_model
from ppl_vae.display import Result, Row
from ppl_vae.evidence import AnnealedImportanceSampling, AutomaticSampling, Estimator, Evidence
from ppl_vae.names import require_least
from ppl_vae.particles import Programs
from ppl_vae.randomness import Stream, generator, seeded

_SEARCH = AnnealedImportanceSampling(num_temperatures=200, num_chains=4, leapfrog_steps=2)
"""Annealing by which noise is chosen."""
_FIRST = 0.7
"""First step down, in units of log s."""
_FAR = 10.0
"""Farthest step down."""
_INTEGRATED = 2
"""Latent dimensions up to which the search integrates."""
_LOST = 0.05
"""Nats that the last step of the search may leave."""
_ROUNDS = 20
_LEAST_ROWS = 2
"""Validation rows: of one, the noise would be that row's distance from the decoder's output."""
_DRAWS = 1000
"""Draws of z that tell how far data are from what the decoder gives."""


@final
@dataclass(frozen=True, repr=False)
class NoiseChoice(Result):
    """Standard deviation of normal noise, and what was tried on the way to it.

    Attributes:
        scale: The one with the highest mean log p(x) of the validation data.
        scales: All that were tried, ascending.
        log_prob: Mean log p(x) of each, in nats per datum.
        standard_error: Its Monte Carlo error; the draws are the same for all.
        num_data: Number of validation data.
        method: Estimator.
    """

    _group: ClassVar[str] = "noise"

    scale: float
    scales: tuple[float, ...]
    log_prob: tuple[float, ...]
    standard_error: tuple[float, ...]
    num_data: int
    method: str

    @property
    def warning(self) -> str | None:
        """Reason not to trust the choice, where it lies at an end of what was searched."""
        if self.scales[0] < self.scale:
            return None
        return (
            "the noise is the least that was tried: the decoder reproduces validation data, under "
            "which log p(x) has no maximum"
        )

    def __str__(self) -> str:
        lines = [f"noise {self.scale:.4g}, chosen on {self.num_data} validation data"]
        lines += [
            f"  {row['scale']:>10.4g}{row['value']:>12.3f}  +- {row['standard_error']:.3f}"
            for row in self._rows()
        ]
        return "\n".join(filter(None, [*lines, self.warning]))

    def _rows(self) -> list[Row]:
        columns = zip(self.scales, self.log_prob, self.standard_error, strict=True)
        return [{"scale": s, "value": v, "standard_error": e} for s, v, e in columns]


def choose_noise(
    decoder: Decoder,
    valid: RowData,
    prior: Callable[[], Any] | None = None,
    *,
    latent: int | None = None,
    estimator: Estimator | AutomaticSampling | None = None,
    limit: int = 100,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> NoiseChoice:
    """Find ``argmax_s sum_i log p_s(x_i)`` over validation data, x = G(z) + s e.

    A search along log s by Brent's method, from the root mean square of x - G(z) over draws of the
    prior downwards. Every s is tried with the same random numbers. As annealing gives a lower bound
    that is the looser the smaller s is, the choice errs on the side of more noise, never of a
    number that is too high: whatever s is, log p(x) of other data is its own.

    Near its maximum a mean over D features falls by D (log s - log s*)^2: the search stops where
    that is 0.05 nats.

    Args:
        decoder: G, a module or function ``z -> mean``.
        valid: Validation data, 2 or more, none of those that log p(x) is wanted of.
        prior: As for :func:`~ppl_vae.decoders.log_prob_of`.
        latent: As there.
        estimator: Estimator of log p(x); None: quadrature up to two latent dimensions, else
            annealing from the prior, 200 temperatures and 4 chains.
        limit: At most so many of the data, a fixed random subset.
        device: Where to compute; where the modules are, or else the data, if not given.
        seed: Seed of the draws.

    Raises:
        ValueError: As :func:`decoder_model`, or if limit is less than 1, or there is one row.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    require_least(1, limit=limit)
    rows = as_rows(valid, "valid")
    if len(rows) < _LEAST_ROWS:
        raise ValueError(
            f"noise auto is chosen on {_LEAST_ROWS} validation rows or more, got {len(rows)}, "
            "as a tenth of a file's rows may be: give rows as valid, or noise a number."
        )
    order = torch.randperm(len(rows), generator=generator(seed, Stream.VALIDATION))[:limit]
    x = in_memory(select(rows, order.sort().values), "validation data")
    model = decoder_model(decoder, x, prior, 1.0, latent=latent)
    # Noise was given, which a decoder that returns distributions refuses.
    likelihood = cast(DecoderOfMeans, model.decoder)
    if estimator is None:
        few = model.prior().event_shape[0] <= _INTEGRATED
        estimator = AutomaticSampling() if few else _SEARCH
    with seeded(seed, Stream.SAMPLING):
        high = math.log(_distance(model, likelihood, x))
    tried: dict[float, Evidence] = {}
    estimate = estimator

    def loss(log_scale: float) -> float:
        # Of data that the decoder reproduces, the density has no upper bound.
        if log_scale < high - _FAR:
            return math.inf
        likelihood.scale.fill_(math.exp(log_scale))
        evidence = estimate(model.model, model.guide, x, device=device, seed=seed)
        tried[log_scale] = evidence
        return -evidence.mean if math.isfinite(evidence.mean) else math.inf

    # Brent's tolerance is relative: an origin far from the search makes it one of log s.
    origin = high - _FAR
    scipy.optimize.minimize_scalar(
        lambda distance: loss(origin + distance),
        bracket=(_FAR - _FIRST, _FAR),
        method="brent",
        options={"xtol": math.sqrt(_LOST / x[0].numel()) / _FAR, "maxiter": _ROUNDS},
    )
    ordered = sorted(tried)
    best = max(ordered, key=lambda log_scale: tried[log_scale].mean)
    results = [tried[log_scale] for log_scale in ordered]
    return NoiseChoice(
        scale=math.exp(best),
        scales=tuple(map(math.exp, ordered)),
        log_prob=tuple(each.mean for each in results),
        standard_error=tuple(each.monte_carlo_error for each in results),
        num_data=len(x),
        method=results[0].procedure,
    )


@torch.no_grad()
def _distance(model: Any, likelihood: DecoderOfMeans, x: Tensor) -> float:
    """Root mean square of x - G(z) over data and draws of the prior."""
    with Programs(model.model, None).modules(x[:1]).evaluating():
        means = likelihood.means(model.prior().sample((_DRAWS,)))
    # E|x - G|^2 = Var x + Var G + |E x - E G|^2, without all pairs.
    x = x.to(means)
    squared = x.var(0, correction=0) + means.var(0) + (x.mean(0) - means.mean(0)).square()
    distance = squared.mean().sqrt().item()
    if not (math.isfinite(distance) and distance > 0):
        raise ValueError(
            f"validation data are {distance} from the decoder's output: look for values that are "
            "not finite, or for data that are all the same."
        )
    return distance
