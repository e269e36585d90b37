"""Statistics of comparison: arms over seeds and data, paired."""

from ppl_vae.comparison.comparison import Comparison, compare
from ppl_vae.comparison.crossed import CrossedMean, crossed_mean
from ppl_vae.comparison.table import format_comparison

__all__ = ["Comparison", "CrossedMean", "compare", "crossed_mean", "format_comparison"]
