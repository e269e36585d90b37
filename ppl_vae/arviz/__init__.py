"""Results as xarray DataTrees in ArviZ's schema."""

from ppl_vae.arviz.diagnostics import (
    bound_curve_to_datatree,
    calibration_to_datatree,
    decomposition_to_datatree,
    elbo_surgery_to_datatree,
    inference_gap_to_datatree,
    rate_distortion_to_datatree,
)
from ppl_vae.arviz.draws import particles_to_datatree
from ppl_vae.arviz.evidence import (
    comparison_to_datatree,
    evidence_from_datatree,
    evidence_to_datatree,
    evidence_to_elpd,
)
from ppl_vae.arviz.evidence_file import load_evidence, read_evidence
from ppl_vae.arviz.ranks import arviz_plots_works, plot_ranks
from ppl_vae.arviz.tree import Attribute, Variable, identity_attribute, joined

__all__ = [
    "Attribute",
    "Variable",
    "arviz_plots_works",
    "bound_curve_to_datatree",
    "calibration_to_datatree",
    "comparison_to_datatree",
    "decomposition_to_datatree",
    "elbo_surgery_to_datatree",
    "evidence_from_datatree",
    "evidence_to_datatree",
    "evidence_to_elpd",
    "identity_attribute",
    "inference_gap_to_datatree",
    "joined",
    "load_evidence",
    "particles_to_datatree",
    "plot_ranks",
    "rate_distortion_to_datatree",
    "read_evidence",
]
