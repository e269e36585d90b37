"""Planned comparisons: arms by seeds, carried out on an engine, kept in a folder."""

from ppl_vae.studies._cell import Place, run_cell
from ppl_vae.studies._edit import add_to_study
from ppl_vae.studies._file import (
    read_study,
    study_from_mapping,
    study_template,
    study_to_mapping,
    write_yaml,
)
from ppl_vae.studies._plan import (
    MEASURES,
    Arm,
    CellPlan,
    Method,
    Study,
    build_arms,
    read_cell,
)
from ppl_vae.studies._results import StudyResults, format_status, status_summary
from ppl_vae.studies._study import (
    command_line,
    comparison_summary,
    open_study,
    run_study,
    study_notes,
    write_results,
)

__all__ = [
    "MEASURES",
    "Arm",
    "CellPlan",
    "Method",
    "Place",
    "Study",
    "StudyResults",
    "add_to_study",
    "build_arms",
    "command_line",
    "comparison_summary",
    "format_status",
    "open_study",
    "read_cell",
    "read_study",
    "run_cell",
    "run_study",
    "status_summary",
    "study_from_mapping",
    "study_notes",
    "study_template",
    "study_to_mapping",
    "write_results",
    "write_yaml",
]
