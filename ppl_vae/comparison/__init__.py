"""Statistics of paired comparisons: arms over seeds and data."""

from ppl_vae.comparison._bootstrap import Rank
from ppl_vae.comparison._cells import FactorTable
from ppl_vae.comparison._comparison import Comparison, compare
from ppl_vae.comparison._crossed import CrossedMean, PairedTest, crossed_mean
from ppl_vae.comparison._seeds import Power, RandomEffects
from ppl_vae.comparison._table import format_comparison
from ppl_vae.comparison._trust import Lowness, Trust, lowness

__all__ = [
    "Comparison",
    "CrossedMean",
    "FactorTable",
    "Lowness",
    "PairedTest",
    "Power",
    "RandomEffects",
    "Rank",
    "Trust",
    "compare",
    "crossed_mean",
    "format_comparison",
    "lowness",
]
