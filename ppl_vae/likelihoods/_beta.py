"""Data strictly between 0 and 1: independent beta features."""

from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import InDouble, in_double
from ppl_vae.likelihoods._features import FeatureVector
from ppl_vae.likelihoods._outputs import (
    ParameterSource,
    Positive,
    count_blocks,
    read_blocks,
    start_blocks,
)
from ppl_vae.likelihoods._starts import column_means, column_spreads
from ppl_vae.likelihoods._values import Values

_MEAN_MARGIN = 1e-2
"""Means are kept this far from 0 and 1, so that no output bias starts saturated."""


def _into_the_open_interval(x: Tensor) -> Tensor:
    kind = torch.finfo(x.dtype)
    return x.clamp(kind.tiny, 1 - kind.eps / 2)


_VALUES = Values(
    "a beta",
    "data strictly between 0 and 1",
    "rescale them into the open interval, or take another likelihood "
    '(likelihood="continuous-bernoulli" takes 0 and 1)',
    lambda x: (x > 0) & (x < 1),
    _into_the_open_interval,
)


@final
class BetaDecoder(nn.Module):
    """p(x|z) = prod_d Beta(x_d; m_d nu_d, (1 - m_d) nu_d), m = sigmoid(network(z)) the mean.

    For fractions and rates that are never 0 or 1. The precision nu sets the variance,
    m (1 - m) / (1 + nu); below 1/m or 1/(1 - m) the density is infinite at 0 or 1.

    Args:
        network: Maps (..., latent) to (..., 2 * features), logits of the means, then unconstrained
            precisions; to the logits alone with another precision than ``network``.
        precision: A number, or ``network`` (a function of z), ``shared`` (one learned for all
            features), ``feature`` (one for each).
        data: Training data; when given, means start at theirs, a learned precision at that of their
            variances.

    Raises:
        ValueError: If the precision is not positive, or ``feature`` is asked for without data.

    References:
        Ferrari and Cribari-Neto, 2004, Beta regression for modelling rates and proportions.
    """

    def __init__(
        self,
        network: nn.Module,
        precision: float | ParameterSource = "network",
        *,
        data: Float[Tensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.precision = Positive("precision", precision, _precisions(data))
        if data is not None:
            mean = column_means(data).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
            start_blocks(network, [mean.logit()], self.precision)

    @classmethod
    def num_outputs(cls, features: int, precision: float | ParameterSource = "network") -> int:
        """Outputs that the network must have."""
        return features * count_blocks(1, precision)

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        return FeatureVector(_beta(*read_blocks(self.network(z), 1, self.precision)), _VALUES)


def _beta(logits: Tensor, precision: Tensor) -> InDouble:
    """By the logit of its mean and its precision; evaluated in double precision."""
    mean, total = in_double(logits), in_double(precision)
    # Not 1 - mean, which is 0 long before the other shape is.
    shapes = torch.sigmoid(mean) * total, torch.sigmoid(-mean) * total
    return InDouble(dist.Beta(*shapes, validate_args=False), logits.dtype)


def _precisions(data: Tensor | None) -> Tensor:
    """By the method of moments, ``m (1 - m) / v - 1``, within sane bounds."""
    if data is None:
        return torch.tensor(2.0)
    mean = column_means(data).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
    return (mean * (1 - mean) / column_spreads(data).square() - 1).clamp(0.5, 1000.0)
