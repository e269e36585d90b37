"""The store of a run's evaluations: each has a file, named by what it was computed from."""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torch import nn

from ppl_vae.arviz import evidence_from_datatree, load_evidence
from ppl_vae.display import Result
from ppl_vae.evidence import Evidence
from ppl_vae.files import exclusive, remove_leftovers
from ppl_vae.identity import Identity, hash_values
from ppl_vae.netcdf import load_netcdf, save_netcdf
from ppl_vae.runs._origin import read_config

if TYPE_CHECKING:
    from ppl_vae.runs._run import Run

EVALUATIONS = "evaluations"
"""Folder of the files, in the run's folder."""
_SANDWICH = re.compile(r"(AnnealedImportanceSampling\(.*), gap=([\d.e+-]+)(\)|, [^()]*\))")
"""Annealing that carries the width of the sandwich that judged it; it is the lower side of it."""
_UNSET = re.compile(r", (\w+=None|rows=\d+|tails=True)(?=[,)])")
"""Settings that say nothing, or stand in a column of their own."""
TOLERATED_ERROR = 0.1
"""Largest standard error of log Z, in nats, before every log p(x) is in doubt by it."""
_DIGITS, _SHORT = 12, 6
_LOG = logging.getLogger(__name__)


def key_of(identity: Identity) -> str:
    """Name of a result: digits of its key, then of the densities that its programs gave.

    Programs whose code was changed have the same tensors, so the same key, and other densities.
    Rounded, as they differ in their last digits from machine to machine.
    """
    rounded = {name: f"{round(value, 3):.4g}" for name, value in identity.densities.items()}
    return f"{identity.key[:_DIGITS]}-{hash_values(rounded)[:_SHORT]}"


def file_of(folder: Path, result: Result) -> Path:
    """File in which a run keeps this result: ``evaluations/METHOD-KEY.nc``.

    Raises:
        ValueError: If it does not say what it was computed from.
    """
    identity: Identity | None = getattr(result, "identity", None)
    if identity is None:
        raise ValueError("a result without an identity has no file: take it from evaluate_run.")
    return folder / EVALUATIONS / f"{_words(identity)}-{key_of(identity)}.nc"


def unfinished_file(run: "Run", identity: Identity) -> Path:
    """File in which a computation keeps what it has done so far."""
    return run.folder / f"unfinished-{key_of(identity)}.safetensors"


def shards_folder(run: "Run", identity: Identity) -> Path:
    """Folder in which the workers of an engine keep the shards that they have finished."""
    return run.folder / f"shards-{key_of(identity)}"


@contextmanager
def holding_shards(run: "Run", identity: Identity) -> Iterator[Path]:
    """Hold the folder of the shards, which is shared by name; a second process may not remove it.

    Raises:
        BlockingIOError: If another process is at the same evaluation.
    """
    place = shards_folder(run, identity)
    with exclusive(place / "lock", f"this evaluation of {run.folder}"):
        yield place


def remove_unfinished(run: "Run", identity: Identity) -> None:
    """Remove what this result went on from, and what processes have left that were killed.

    Called where the result is saved, and where it is read back: the process that saved it may have
    been killed before it came to this.
    """
    # A folder of somebody else, which may only be read, serves as well with what is left in it;
    # shards that another process holds, it removes itself.
    with suppress(OSError):
        unfinished_file(run, identity).unlink(missing_ok=True)
        for folder in (run.folder, run.folder / EVALUATIONS):
            if folder.is_dir():
                remove_leftovers(folder)
        if shards_folder(run, identity).is_dir():
            with holding_shards(run, identity) as place:
                shutil.rmtree(place)


def _words(identity: Identity) -> str:
    (name,) = re.findall(r"^\W*(\w*)", identity.settings)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() or "evaluation"


def read_back(run: "Run", identity: Identity) -> Evidence | None:
    """The evaluation that a run has kept, as :func:`find_evaluation`; nothing unfinished stays."""
    kept = find_evaluation(run.folder, identity)
    if kept is not None:
        remove_unfinished(run, identity)
    return kept


def find_evaluation(folder: Path, wanted: Identity) -> Evidence | None:
    """The evaluation of this identity that is kept; None if there is none.

    Where memory was not enough, it was made, and is kept, with fewer rows at once.

    Raises:
        ValueError: If its file is damaged, or of something else.
    """
    rows = wanted.chunk_rows
    while True:
        identity = replace(wanted, chunk_rows=rows or None)
        # By the key alone: densities may differ in their last digits from those that named the
        # file.
        name = f"{_words(identity)}-{identity.key[:_DIGITS]}-*.nc"
        for path in sorted((folder / EVALUATIONS).glob(name)):
            evidence = load_evidence(path)
            if evidence.identity is None:
                raise ValueError(f"{path} does not say what it was computed from: delete it.")
            if evidence.identity.key != identity.key:
                identity.require_same(evidence.identity, str(path))
            # Of the same key, it may still be of programs whose code was changed since.
            if not identity.differences(evidence.identity):
                return evidence
        if not rows:
            return None
        # As chunks are halved where memory runs out; draws follow from their size, so do
        # identities.
        rows //= 2


def save_evaluation(evidence: Evidence, path: Path, run: "Run") -> None:
    """Keep an evaluation, atomically, with estimated constants of the model in ``normalizers``.

    Args:
        evidence: Evaluation with its identity.
        path: The file.
        run: Run that was evaluated.

    Raises:
        OSError: If it cannot be written.
    """
    tree = evidence.to_datatree()
    tree.attrs["origin"] = run.origin
    if normalizers := find_normalizers(run.vae):
        tree.attrs["normalizers"] = json.dumps([each.to_dict() for each in normalizers])
    save_netcdf(tree, path)


@final
@dataclass(frozen=True)
class Normalizer:
    """An estimate of log Z, where p(z) is known up to Z.

    Every log p(x) is too large or too small by the same error, which no interval over draws or
    data holds: not an estimate's, nor that of a difference between two models.

    Attributes:
        name: Name of the module, such as ``prior``.
        value: Estimate of log Z, in nats.
        standard_error: Standard error of the estimate, in nats.
    """

    name: str
    value: float
    standard_error: float

    def __str__(self) -> str:
        if math.isinf(self.standard_error):
            return (
                f"not to be trusted: log Z of {self.name} = {self.value:.3f} is estimated from too "
                "few effective draws to tell its error, which all log p(x) share"
            )
        text = (
            f"log Z of {self.name} = {self.value:.3f} is estimated, with standard error "
            f"{self.standard_error:.2g} nats: all log p(x) share this error, and no interval here "
            "holds it"
        )
        return text if self.standard_error <= TOLERATED_ERROR else f"not to be trusted: {text}"

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values, for JSON, which has no infinity."""
        error = None if math.isinf(self.standard_error) else self.standard_error
        return {"name": self.name, "value": self.value, "standard_error": error}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Normalizer":
        """The inverse of :meth:`to_dict`."""
        error = values["standard_error"]
        return cls(values["name"], values["value"], math.inf if error is None else error)


def find_normalizers(model: nn.Module) -> list[Normalizer]:
    """The estimated constants of a model in evaluation; none where all are known exactly.

    A module of the model states its own by a method ``log_normalizer() -> (log Z, its standard
    error)``, as :class:`~ppl_vae.priors.EnergyPrior` does and a prior of your own may; an error of
    0 is that of a known constant.

    Raises:
        TypeError: If such a method returns something else.
    """
    normalizers = []
    for name, module in model.named_modules():
        method = getattr(module, "log_normalizer", None)
        if not callable(method):
            continue
        stated: Any = method()
        try:
            value, error = stated
            # An error that is no number is one that is not known.
            known = math.inf if math.isnan(float(error)) else float(error)
            normalizers.append(Normalizer(name, float(value), known))
        except (TypeError, ValueError, RuntimeError) as problem:
            raise TypeError(
                f"log_normalizer() of {name} returned {type(stated).__name__}, expected two "
                "numbers: log Z and its standard error in nats."
            ) from problem
    return [each for each in normalizers if each.standard_error != 0]


@final
@dataclass(frozen=True)
class StoredEvaluation:
    """A file of the store, and what is in it.

    Attributes:
        path: The file.
        identity: Identity of what it was computed from.
        evidence: log p(x) of each datum; of a diagnosis, that of its gap, where it has one.
        foreign: Whether it was made of another run and copied here.
    """

    path: Path
    identity: Identity | None
    evidence: Evidence | None
    foreign: bool = False

    def summary(self) -> dict[str, Any]:
        """File, identity and values as plain values, for JSON."""
        values = {} if self.evidence is None else self.evidence.summary()
        identity = None if self.identity is None else self.identity.to_dict()
        return {"file": str(self.path), "foreign": self.foreign, **values, "identity": identity}


def list_evaluations(folder: str | os.PathLike[str]) -> list[StoredEvaluation]:
    """All evaluations and diagnoses of a run, by name; neither the model nor the data are read.

    One that is damaged, or no such file, is named by a warning in the log and left out.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    import h5py

    folder, stored = Path(folder), []
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name that of a run.")
    try:
        origin = read_config(folder).get("origin")
    except (OSError, ValueError):
        origin = None
    for path in sorted((folder / EVALUATIONS).glob("*.nc")):
        try:
            identity, evidence = _read_diagnosis(path) if _is_diagnosis(path) else _read(path)
            with h5py.File(path, "r") as file:
                foreign = origin is not None and file.attrs.get("origin") != origin
        except (ValueError, OSError) as error:
            _LOG.warning("left out, %s", " ".join(str(error).split()))
        else:
            stored.append(StoredEvaluation(path, identity, evidence, foreign))
    return stored


def _read(path: Path) -> tuple[Identity | None, Evidence | None]:
    evidence = load_evidence(path)
    return evidence.identity, evidence


def _read_diagnosis(path: Path) -> tuple[Identity | None, Evidence | None]:
    tree = load_netcdf(path)
    try:
        identity = Identity.from_dict(json.loads(tree.attrs["identity"]))
        has_evidence = "evidence" in tree.children
        return identity, evidence_from_datatree(tree) if has_evidence else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole diagnosis ({error}): delete it.") from error


def _is_diagnosis(path: Path) -> bool:
    return path.name.startswith("diagnosis-")


def format_evaluations(stored: list[StoredEvaluation]) -> str:
    """A table of evaluations: estimator, K, data, mean with its standard error, seed, key.

    The estimator stands with what was set of it; ``rows`` is what is computed at once, which the
    draws follow from; ``model`` names the parameters: a run that was trained further has others. A
    file that was copied from another run is marked as foreign.
    """
    head = ("estimator", "K", "data", "N", "log p(x)", "error", "seed", "rows", "model", "key", "")
    rows = [head, *map(_row, stored)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(each: StoredEvaluation) -> tuple[str, ...]:
    evidence, identity = each.evidence, each.identity
    method, num_particles, num_data, mean, error = "", "", "", "", ""
    source, seed, rows, model, key = "", "", "", "", ""
    if evidence is not None:
        method, num_particles = evidence.method, str(evidence.num_particles)
        num_data = str(len(evidence))
        mean, error = f"{evidence.mean:.3f}", f"{evidence.total_error:.3f}"
    if identity is not None:
        method = _SANDWICH.sub(r"BidirectionalMonteCarlo(\1\3, gap=\2)", identity.settings)
        method = _UNSET.sub("", method)
        source, seed, key = str(identity.source), str(identity.seed), key_of(identity)
        rows = "" if identity.chunk_rows is None else str(identity.chunk_rows)
        model = identity.parameters[:_SHORT]
    if _is_diagnosis(each.path):
        method = "diagnosis"
    mark = "foreign: of another run" if each.foreign else ""
    return (
        method, num_particles, source, num_data, mean, error, seed, rows, model, key, mark
    )  # fmt: skip
