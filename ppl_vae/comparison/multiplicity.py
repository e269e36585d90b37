"""Several differences tested at once: adjusted p-values and intervals that hold all together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from ppl_vae.comparison.confidence import ConfidenceDistribution
from ppl_vae.comparison.crossed import CrossedMean, stack
from ppl_vae.comparison.mean_squares import Array


@final
@dataclass(frozen=True)
class PairedTest:
    """What is said of one paired difference among several.

    Attributes:
        interval: Of this difference alone, at the comparison's confidence.
        simultaneous: All of them together hold at the confidence (Bonferroni).
        p_value: Of no difference, two-sided, of this one alone.
        adjusted_p: Holm's: below 0.05 for any true null hypothesis in at most 5% of studies.
        num_seeds: That both arms have.
    """

    interval: tuple[float, float]
    simultaneous: tuple[float, float]
    p_value: float
    adjusted_p: float
    num_seeds: int


def paired_tests(differences: Sequence[CrossedMean], confidence: float) -> list[PairedTest]:
    """Test each difference, and all of them together.

    One difference alone is tested as :mod:`ppl_vae.comparison.confidence` calibrates it; several,
    at far smaller levels, by its cautious form.

    Args:
        differences: One or more.
        confidence: Of each interval, and of all simultaneous ones together.

    References:
        Holm, 1979, A simple sequentially rejective multiple test procedure.
    """
    if not differences:
        return []
    squares, count = stack(differences), len(differences)
    alone = ConfidenceDistribution(squares)
    together = ConfidenceDistribution(squares, cautious=count > 1)
    each = 1 - (1 - confidence) / count
    adjusted = holm(together.p_value())
    return [
        PairedTest((low, high), (lowest, highest), p, adjusted_p, len(mean.per_seed))
        for low, high, lowest, highest, p, adjusted_p, mean in zip(
            *(ends.tolist() for ends in alone.interval(confidence)),
            *(ends.tolist() for ends in together.interval(each)),
            alone.p_value().tolist(),
            adjusted.tolist(),
            differences,
            strict=True,
        )
    ]


def holm(p_values: Float[Array, " tests"]) -> Float[Array, " tests"]:
    """Holm's adjusted p-values: ``max_(j <= i) min(1, (m - j + 1) p_(j))``, ascending.

    As statsmodels' ``multipletests``, which runs the garbage collector every time: a second in a
    process that holds much.
    """
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
