"""Reports and figures of runs and studies, as files."""

from ppl_vae.report._folders import (
    require_place_of_imputation,
    write_diagnosis,
    write_gradient_bench,
    write_imputation,
    write_sample_figures,
    write_sandwich,
    write_study_figures,
    write_table,
)
from ppl_vae.report._study import write_report

__all__ = [
    "require_place_of_imputation",
    "write_diagnosis",
    "write_gradient_bench",
    "write_imputation",
    "write_report",
    "write_sample_figures",
    "write_sandwich",
    "write_study_figures",
    "write_table",
]
