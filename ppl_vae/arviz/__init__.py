"""Draws, pointwise log p(x) and ranks in ArviZ's form, and estimates read back from files."""

from ppl_vae.arviz._draws import particles_to_datatree
from ppl_vae.arviz._results import (
    arviz_plots_works,
    comparison_to_datatree,
    evidence_from_datatree,
    evidence_to_elpd,
    load_evidence,
    plot_ranks,
    read_evidence,
)

__all__ = [
    "arviz_plots_works",
    "comparison_to_datatree",
    "evidence_from_datatree",
    "evidence_to_elpd",
    "load_evidence",
    "particles_to_datatree",
    "plot_ranks",
    "read_evidence",
]
