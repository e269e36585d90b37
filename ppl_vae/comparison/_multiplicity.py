"""Several differences tested at once: adjusted p-values and intervals that hold all together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from ppl_vae.comparison._confidence import ConfidenceDistribution
from ppl_vae.comparison._crossed import CrossedMean, stack


@final
@dataclass(frozen=True)
class PairedTest:
    """What is said of one paired difference among several.

    Attributes:
        interval: Of this difference alone, at the comparison's confidence.
        simultaneous: All of them together hold at the confidence (Bonferroni).
        p_value: Of no difference, two-sided, of this one alone.
        adjusted_p: Bonferroni's, ``min(1, m p)``: the simultaneous interval of confidence
            1 - adjusted_p just reaches 0.
        num_seeds: That both arms have.
    """

    interval: tuple[float, float]
    simultaneous: tuple[float, float]
    p_value: float
    adjusted_p: float
    num_seeds: int

    @property
    def shown(self) -> bool:
        """Whether the difference is called real: its simultaneous interval excludes 0."""
        low, high = self.simultaneous
        return low > 0 or high < 0


def paired_tests(differences: Sequence[CrossedMean], confidence: float) -> list[PairedTest]:
    """Test each difference, and all of them together.

    One difference alone is tested as :mod:`ppl_vae.comparison._confidence` calibrates it; several,
    at far smaller levels, by its cautious form. Intervals and verdicts are one procedure: Holm's
    steps would call more differences real, but with no interval that both shows it and holds
    together with the others.

    Args:
        differences: One or more.
        confidence: Of each interval, and of all simultaneous ones together.

    References:
        Guilbaud, 2008, Simultaneous confidence regions corresponding to Holm's step-down procedure
        and other closed-testing procedures.
    """
    if not differences:
        return []
    squares, count = stack(differences), len(differences)
    alone = ConfidenceDistribution(squares)
    together = ConfidenceDistribution(squares, cautious=count > 1)
    each = 1 - (1 - confidence) / count
    adjusted = np.minimum(count * together.p_value(), 1.0)
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
