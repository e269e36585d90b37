"""What ArviZ takes: draws, pointwise log p(x), and its figures."""

from ppl_vae.arviz._draws import particles_to_datatree
from ppl_vae.arviz._evidence import (
    comparison_to_datatree,
    evidence_from_datatree,
    evidence_to_elpd,
)
from ppl_vae.arviz._evidence_file import load_evidence, read_evidence
from ppl_vae.arviz._ranks import arviz_plots_works, plot_ranks

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
