"""A training run in one safetensors file: loading it never runs code from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
from torch import Tensor

from ppl_vae.files import write_atomically
from ppl_vae.identity import hash_tensors, hash_values

FORMAT = "ppl_vae checkpoint 2"
_GROUPS = ("parameter", "buffer", "best", "best_buffer", "optimizer")
_WHOLE = "whole_"


@final
@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Random numbers and data order are derived from the seed and the epoch, so that the number of
    finished epochs in ``progress`` is all there is to keep of them.

    Attributes:
        progress: Plain values: settings, history, what has been spent.
        parameter: Name to value after the last finished epoch; ``buffer`` likewise.
        best: Name to value at the best validation so far; ``best_buffer`` likewise.
        optimizer: The step's state.
        whole: Where the budget ended inside an epoch, the run before that epoch: what a run with a
            longer budget goes on from.
    """

    progress: dict[str, Any]
    parameter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    buffer: Mapping[str, Tensor] = field(default_factory=dict)
    best_buffer: Mapping[str, Tensor] = field(default_factory=dict)
    whole: "Checkpoint | None" = None

    def start(self, limit: float) -> "Checkpoint":
        """What a run whose budget has this limit goes on from.

        Itself, unless its budget ended inside an epoch and the new one is longer.
        """
        if self.whole is None or limit <= self.progress["ended"]:
            return self
        return self.whole

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OSError: If it cannot be written; an earlier checkpoint stays whole.
        """
        groups = self._groups()
        progress = self.progress
        if self.whole is not None:
            groups |= {_WHOLE + name: group for name, group in self.whole._groups().items()}
            progress = {**progress, "whole": self.whole.progress}
        save_groups(path, FORMAT, groups, progress)

    def _groups(self) -> dict[str, Mapping[str, Tensor]]:
        return {group: getattr(self, group) for group in _GROUPS}

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is cut short or is not a checkpoint of this package.
        """
        groups, progress = load_groups(path, FORMAT)
        before = progress.pop("whole", None)
        whole = None if before is None else cls._of(before, groups, _WHOLE)
        return cls._of(progress, groups, "", whole)

    @classmethod
    def _of(
        cls,
        progress: dict[str, Any],
        groups: Mapping[str, Mapping[str, Tensor]],
        prefix: str,
        whole: "Checkpoint | None" = None,
    ) -> "Checkpoint":
        named: dict[str, Any] = {name: groups.get(prefix + name, {}) for name in _GROUPS}
        return cls(progress, whole=whole, **named)


def save_groups(
    path: Path, kind: str, groups: Mapping[str, Mapping[str, Tensor]], values: dict[str, Any]
) -> None:
    """Write groups of named tensors, and plain values, as one safetensors file, atomically.

    A SHA-256 over the tensors and the values goes with them.
    """
    tensors = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, named in groups.items()
        for name, value in named.items()
    }
    metadata = {"format": kind, "progress": json.dumps(values)}
    metadata["sha256"] = _digest(tensors, metadata)
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_groups(path: Path, kind: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups and the values that :func:`save_groups` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is cut short, changed, or of another kind.
    """
    metadata, tensors = _read(path, kind)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return groups, json.loads(metadata["progress"])


def _read(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: train first, or name another run.")
    remedy = "delete it to train anew, or bring back a copy."
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint ({error}): {remedy}") from error
    if metadata.get("format") != kind:
        raise ValueError(f"{path} has format {metadata.get('format')!r}, expected {kind!r}.")
    if metadata.get("sha256") != _digest(tensors, metadata):
        raise ValueError(f"{path} is not as it was written (SHA-256 differs): {remedy}")
    return metadata, tensors


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a file holds, types among it."""
    return hash_values([metadata.get("format"), metadata.get("progress"), hash_tensors(tensors)])


def load_parameters(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], what: str = "checkpoint"
) -> None:
    """Copy values into existing tensors, in place.

    Raises:
        ValueError: If names, shapes or types differ; nothing is copied then.
    """
    missing, extra = target.keys() - source.keys(), source.keys() - target.keys()
    if missing or extra:
        raise ValueError(
            f"the {what} is of another model: it lacks {sorted(missing)}, has {sorted(extra)} more."
        )
    for name, value in target.items():
        if value.shape != source[name].shape:
            raise ValueError(
                f"the {what} is of another model: {name} has shape {tuple(source[name].shape)}, "
                f"expected {tuple(value.shape)}."
            )
        if value.dtype != source[name].dtype:
            raise ValueError(
                f"the {what} is of another model: {name} is {source[name].dtype}, expected "
                f"{value.dtype}."
            )
    for name, value in target.items():
        value.data.copy_(source[name])
