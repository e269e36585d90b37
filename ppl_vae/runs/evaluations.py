"""The store of a run's evaluations: each has a file, named by what it was computed from."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from ppl_vae.arviz import evidence_to_datatree, load_evidence
from ppl_vae.evidence import Evidence
from ppl_vae.identity import Identity
from ppl_vae.netcdf import save_netcdf
from ppl_vae.runs.normalizers import Normalizer

EVALUATIONS = "evaluations"
"""Folder of the files, in the run's folder."""

_DIGITS = 12


def evaluation_file(folder: Path, identity: Identity) -> Path:
    """Where an evaluation is kept: ``evaluations/METHOD-KEY.nc``.

    Args:
        folder: Of the run.
        identity: What it is computed from; its settings begin with the estimator's class.
    """
    (name,) = re.findall(r"^\W*(\w*)", identity.settings)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() or "evaluation"
    return folder / EVALUATIONS / f"{words}-{_key(identity)}.nc"


def _key(identity: Identity) -> str:
    """Names an evaluation before it is made: how it is cut follows from the rest, and is told."""
    return replace(identity, chunk_rows=None).key[:_DIGITS]


def identified(evidence: Evidence, identity: Identity) -> Evidence:
    """The evidence with its identity, and the rows computed at once as the estimator says."""
    own = evidence.identity
    rows = None if own is None else own.chunk_rows
    return replace(evidence, identity=replace(identity, chunk_rows=rows))


def file_of(folder: Path, evidence: Evidence) -> Path:
    """Where the store of a run keeps this evaluation.

    Raises:
        ValueError: If the evidence does not say what it was computed from.
    """
    if evidence.identity is None:
        raise ValueError("evidence without an identity has no file: take it from evaluate_run.")
    return evaluation_file(folder, evidence.identity)


def read_evaluation(path: Path, wanted: Identity) -> Evidence | None:
    """The evaluation in a file; None if there is no such file.

    Raises:
        ValueError: If the file is damaged, or of something else than is wanted.
    """
    if not path.is_file():
        return None
    evidence = load_evidence(path)
    if evidence.identity is None:
        raise ValueError(f"{path} does not say what it was computed from: delete it.")
    wanted.require_same(replace(evidence.identity, chunk_rows=wanted.chunk_rows), str(path))
    return evidence


def save_evaluation(evidence: Evidence, path: Path, normalizers: Sequence[Normalizer] = ()) -> None:
    """Keep an evaluation, atomically.

    Args:
        evidence: With its identity.
        path: The file.
        normalizers: Estimated constants of the model, kept as an attribute ``normalizers`` in JSON.

    Raises:
        OSError: If it cannot be written.
    """
    tree = evidence_to_datatree(evidence)
    if normalizers:
        tree.attrs["normalizers"] = json.dumps([found.to_dict() for found in normalizers])
    save_netcdf(tree, path)


@final
@dataclass(frozen=True)
class Evaluation:
    """A file of the store, and what is in it.

    Attributes:
        path: The file.
        evidence: log p(x) of each datum, with its identity.
    """

    path: Path
    evidence: Evidence

    def summary(self) -> dict[str, Any]:
        """What it is and comes to, as plain values, for JSON."""
        identity = self.evidence.identity
        told = {} if identity is None else identity.to_dict()
        return {"file": str(self.path), **self.evidence.summary(), "identity": told}


def list_evaluations(folder: str | os.PathLike[str]) -> list[Evaluation]:
    """All evaluations of a run, by name; neither the model nor the data are read.

    Raises:
        ValueError: If one is damaged; names the file.
    """
    paths = sorted((Path(folder) / EVALUATIONS).glob("*.nc"))
    return [Evaluation(path, load_evidence(path)) for path in paths]


def format_evaluations(found: list[Evaluation]) -> str:
    """A table of evaluations: method, K, data, mean with its standard error, seed, key.

    ``rows`` is what is computed at once, which the draws follow from.
    """
    head = ("method", "K", "data", "N", "log p(x)", "error", "seed", "rows", "key")
    rows = [head, *(_row(each.evidence) for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(evidence: Evidence) -> tuple[str, ...]:
    counts = str(evidence.num_particles), str(len(evidence))
    mean, error = f"{evidence.mean:.3f}", f"{evidence.total_error:.3f}"
    source, seed, rows, key = "", "", "", ""
    if (identity := evidence.identity) is not None:
        source, seed, key = str(identity.source), str(identity.seed), _key(identity)
        rows = "" if identity.chunk_rows is None else str(identity.chunk_rows)
    return evidence.method, counts[0], source, counts[1], mean, error, seed, rows, key
