"""Checks that cells of a study whose data have the same settings were trained on the same data.

A file may be written anew between two commands, under the same name. Its cells would then be
compared as if their arms were all that differs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.data import DATASETS, Dataset
from ppl_vae.names import first_few
from ppl_vae.runs import CHECKPOINT, CONFIG, RunConfig, RunRecord, read_config
from ppl_vae.studies._plan import CELLS, CellPlan, Study

_NAMED = 6
"""Largest number of cells that a message names."""


def data_settings(config: RunConfig) -> str:
    """All settings that say which data a run has: equal ones stand for equal data."""
    # The likelihood too: columns are read, and grey values drawn, as it takes them.
    return repr([config.dataset, str(config.components.likelihood)])


def require_data_of_cells(study: Study, folder: Path, loaded: Mapping[str, Dataset]) -> None:
    """Check, before anything is trained, that trained cells had the data that are there now.

    Args:
        study: The plan.
        folder: Folder of the study.
        loaded: Settings of data to the data, of all arms.

    Raises:
        ValueError: If a cell had others; names it, and what holds the data.
    """
    other = [plan for plan in study.cells if _has_other_data(plan, folder, loaded)]
    if other:
        cells = first_few([plan.name for plan in other], _NAMED)
        raise ValueError(
            f"{folder} holds {len(other)} of {len(study.cells)} cells that were trained on other "
            f"data than {_holders(study)} now ({cells}): choose another folder, or bring the data "
            "back as they were."
        )


def _has_other_data(plan: CellPlan, study: Path, loaded: Mapping[str, Dataset]) -> bool:
    folder = study / CELLS / plan.folder
    # Without a finished epoch it belongs to nobody, and is begun anew.
    if not (folder / CHECKPOINT).is_file() or not (folder / CONFIG).is_file():
        return False
    trained_on: Any = read_config(folder).get("data_sha256")
    return bool(trained_on != loaded[data_settings(plan.config)].fingerprint())


def require_one_data(study: Study, folder: Path, cells: Iterable[RunRecord]) -> None:
    """Check that finished cells whose data have the same settings had the same data.

    Args:
        study: The plan.
        folder: Folder of the study.
        cells: Records of its cells.

    Raises:
        ValueError: If two had others; names the cells by their data.
    """
    by_settings: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.state == "done" and cell.data_sha256 is not None:
            key = data_settings(study.arms[cell.arm].config)
            by_settings.setdefault(key, {}).setdefault(cell.data_sha256, []).append(cell.name)
    for groups in by_settings.values():
        if len(groups) > 1:
            named = "; others ".join(first_few(names, _NAMED) for names in groups.values())
            raise ValueError(
                f"{folder} holds cells that were trained on different data under the name of "
                f"{_holders(study)}, so that they cannot be compared ({named}): run the study into "
                f"another folder, or delete the cells of other data than today's in "
                f"{folder / CELLS} and run it again."
            )


def _holders(study: Study) -> str:
    """Names of what holds the study's data, without folders."""
    chosen = study.config.dataset
    names = [name for name in (chosen.data, chosen.test_data) if name is not None]
    return " and ".join(name if name in DATASETS else Path(name).name for name in names)
