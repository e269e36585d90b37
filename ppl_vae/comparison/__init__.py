"""Statistics of comparison: arms over seeds and data, paired."""

from ppl_vae.comparison._comparison import Comparison, compare
from ppl_vae.comparison._crossed import CrossedMean, crossed_mean
from ppl_vae.comparison._factors import FactorTable
from ppl_vae.comparison._multiplicity import PairedTest
from ppl_vae.comparison._power import Power
from ppl_vae.comparison._random_effects import RandomEffects
from ppl_vae.comparison._ranking import Rank
from ppl_vae.comparison._table import format_comparison

__all__ = [
    "Comparison",
    "CrossedMean",
    "FactorTable",
    "PairedTest",
    "Power",
    "RandomEffects",
    "Rank",
    "compare",
    "crossed_mean",
    "format_comparison",
]
