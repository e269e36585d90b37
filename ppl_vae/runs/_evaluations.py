"""The store of a run's evaluations: each has a file, named by what it was computed from."""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from ppl_vae.arviz import evidence_from_datatree, load_evidence
from ppl_vae.evidence import Evidence
from ppl_vae.identity import Identity
from ppl_vae.netcdf import load_netcdf, save_netcdf
from ppl_vae.runs._diagnosis import Diagnosis
from ppl_vae.runs._normalizers import Normalizer

EVALUATIONS = "evaluations"
"""Folder of the files, in the run's folder."""

_UNSET = re.compile(r", (\w+=None|rows=\d+|tails=True)(?=[,)])")
"""Settings that say nothing, or stand in a column of their own."""
_DIGITS = 12
_SHORT = 6
_LOG = logging.getLogger(__name__)


def evaluation_file(folder: Path, identity: Identity) -> Path:
    """Where an evaluation is kept: ``evaluations/METHOD-KEY.nc``.

    Args:
        folder: Of the run.
        identity: What it is computed from; its settings begin with the estimator's class.
    """
    (name,) = re.findall(r"^\W*(\w*)", identity.settings)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() or "evaluation"
    return folder / EVALUATIONS / f"{words}-{identity.key[:_DIGITS]}.nc"


def file_of(folder: Path, result: Evidence | Diagnosis) -> Path:
    """Where the store of a run keeps this result.

    Raises:
        ValueError: If it does not say what it was computed from.
    """
    if result.identity is None:
        raise ValueError("a result without an identity has no file: take it from evaluate_run.")
    return evaluation_file(folder, result.identity)


def find_evaluation(folder: Path, wanted: Identity) -> Evidence | None:
    """The evaluation of this identity that is kept; None if there is none.

    Where memory was not enough, it was made, and is kept, with fewer rows at once.

    Raises:
        ValueError: If its file is damaged, or of something else.
    """
    rows = wanted.chunk_rows
    while True:
        identity = replace(wanted, chunk_rows=rows or None)
        path = evaluation_file(folder, identity)
        if path.is_file():
            evidence = load_evidence(path)
            if evidence.identity is None:
                raise ValueError(f"{path} does not say what it was computed from: delete it.")
            identity.require_same(evidence.identity, str(path))
            return evidence
        if not rows:
            return None
        rows //= 2


def save_evaluation(evidence: Evidence, path: Path, normalizers: Sequence[Normalizer] = ()) -> None:
    """Keep an evaluation, atomically.

    Args:
        evidence: With its identity.
        path: The file.
        normalizers: Estimated constants of the model, kept as an attribute ``normalizers`` in JSON.

    Raises:
        OSError: If it cannot be written.
    """
    tree = evidence.to_datatree()
    if normalizers:
        tree.attrs["normalizers"] = json.dumps([found.to_dict() for found in normalizers])
    save_netcdf(tree, path)


@final
@dataclass(frozen=True)
class StoredEvaluation:
    """A file of the store, and what is in it.

    Attributes:
        path: The file.
        identity: What it was computed from.
        evidence: log p(x) of each datum; of a diagnosis, that of its gap, where it has one.
    """

    path: Path
    identity: Identity | None
    evidence: Evidence | None

    def summary(self) -> dict[str, Any]:
        """What it is and comes to, as plain values, for JSON."""
        told = {} if self.evidence is None else self.evidence.summary()
        identity = None if self.identity is None else self.identity.to_dict()
        return {"file": str(self.path), **told, "identity": identity}


def list_evaluations(folder: str | os.PathLike[str]) -> list[StoredEvaluation]:
    """All evaluations and diagnoses of a run, by name; neither the model nor the data are read.

    One that is damaged, or no such file, is named by a warning in the log and left out.
    """
    found = []
    for path in sorted((Path(folder) / EVALUATIONS).glob("*.nc")):
        try:
            found.append(_listed(path))
        except (ValueError, OSError) as error:
            _LOG.warning("left out, %s", " ".join(str(error).split()))
    return found


def _listed(path: Path) -> StoredEvaluation:
    if not _is_diagnosis(path):
        evidence = load_evidence(path)
        return StoredEvaluation(path, evidence.identity, evidence)
    tree = load_netcdf(path)
    try:
        identity = Identity.from_dict(json.loads(tree.attrs["identity"]))
        found = evidence_from_datatree(tree) if "evidence" in tree.children else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole diagnosis ({error}): delete it.") from error
    return StoredEvaluation(path, identity, found)


def _is_diagnosis(path: Path) -> bool:
    return path.name.startswith("diagnosis-")


def format_evaluations(found: list[StoredEvaluation]) -> str:
    """A table of evaluations: estimator, K, data, mean with its standard error, seed, key.

    The estimator stands with what was set of it; ``rows`` is what is computed at once, which the
    draws follow from; ``model`` names the parameters: a run that was trained further has others.
    """
    head = ("estimator", "K", "data", "N", "log p(x)", "error", "seed", "rows", "model", "key")
    rows = [head, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(each: StoredEvaluation) -> tuple[str, ...]:
    evidence, identity = each.evidence, each.identity
    method, counts, numbers = "", ("", ""), ("", "")
    if evidence is not None:
        method, counts = evidence.method, (str(evidence.num_particles), str(len(evidence)))
        numbers = f"{evidence.mean:.3f}", f"{evidence.total_error:.3f}"
    if _is_diagnosis(each.path):
        method = "diagnosis"
    source, seed, rows, model, key = "", "", "", "", ""
    if identity is not None:
        source, seed, key = str(identity.source), str(identity.seed), identity.key[:_DIGITS]
        model = identity.parameters[:_SHORT]
        rows = "" if identity.chunk_rows is None else str(identity.chunk_rows)
        if not _is_diagnosis(each.path):
            method = _UNSET.sub("", identity.settings)
    return method, counts[0], source, counts[1], *numbers, seed, rows, model, key
