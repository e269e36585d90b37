"""Statistics of comparison: arms over seeds and data, paired."""

from ppl_vae.comparison.comparison import Comparison, compare
from ppl_vae.comparison.crossed import CrossedMean, crossed_mean
from ppl_vae.comparison.factors import FactorTable
from ppl_vae.comparison.multiplicity import PairedTest
from ppl_vae.comparison.power import Power
from ppl_vae.comparison.random_effects import RandomEffects
from ppl_vae.comparison.ranking import Rank
from ppl_vae.comparison.table import format_comparison

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
