"""What a study's folder holds, read without a model or data."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from ppl_vae.arviz import evidence_from_datatree
from ppl_vae.evidence import Evidence
from ppl_vae.netcdf import load_netcdf
from ppl_vae.training import History

State = Literal["waiting", "running", "done", "failed"]
CELL, MEASURES, PICTURES, HISTORY = "cell.json", "measures.json", "pictures.npz", "history.csv"


@final
@dataclass(frozen=True)
class CellResult:
    """One training run of a study, and what was measured of it.

    Attributes:
        arm: Label of the combination of levels.
        levels: Factor to the label of its level.
        seed: Of everything random in it.
        folder: Where it is kept.
        state: What has become of it.
        reason: Why it failed, in a line.
        attempts: How often it was started.
        seconds: Wall-clock time of training and evaluation.
        updates: Updates of the parameters.
        evaluations: Decoder evaluations spent in training.
        epochs: Epochs trained.
        kept_epoch: The epoch whose parameters were kept.
    """

    arm: str
    levels: dict[str, str]
    seed: int
    folder: Path
    state: State
    reason: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    updates: int = 0
    evaluations: int = 0
    epochs: int = 0
    kept_epoch: int | None = None

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm} seed {self.seed}"

    @cached_property
    def history(self) -> History:
        """Learning curves; empty where training has not begun."""
        path = self.folder / HISTORY
        return History.from_csv(path.read_text()) if path.is_file() else History()

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Measure to its summary as plain values.

        ``decomposition``, ``bound_curve``, ``gradients``, ``sandwich``: ``summary()`` of the class
        in :mod:`ppl_vae.diagnostics` (or :class:`~ppl_vae.evidence.Sandwich`); those that the study
        asked for.
        """
        path = self.folder / MEASURES
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """``data`` and ``reconstruction`` (rows, features), ``samples`` (rows, features)."""
        path = self.folder / PICTURES
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def evidence(self, method: str) -> Evidence | None:
        """Estimated log p(x) of each datum by a method of the study; None where it is not there."""
        path = self.folder / evidence_file(method)
        return evidence_from_datatree(load_netcdf(path)) if path.is_file() else None


def evidence_file(method: str) -> str:
    """Name of the file in a cell's folder that a method's log p(x) is in."""
    return "evidence.nc" if method == "iwae" else f"evidence-{method}.nc"
