"""The one file format: named tensors, plain values and an identity, sealed by a hash.

Checkpoints of training, unfinished estimates, finished parts of a diagnosis and what a run keeps of
its data are such files: safetensors, so that reading one never runs code from it. Records without
tensors, which people read too, are JSON sealed the same way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
from torch import Tensor

from ppl_vae.files import not_a_file, write_atomically
from ppl_vae.identity import hash_tensors, hash_values

_SEAL = "sha256"


@final
@dataclass(frozen=True)
class Stored:
    """Content of a file in the package's format.

    Attributes:
        tensors: Group to name to tensor; read, on the CPU.
        record: Plain values, as JSON has them.
        identity: Plain values that say what all of it was computed from.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    record: Any
    identity: Any = None

    def write(self, path: Path, kind: str) -> None:
        """Write the file atomically, with a SHA-256 over everything in it.

        Args:
            path: The file.
            kind: Name and version of what it holds.

        Raises:
            OSError: If it cannot be written; an earlier file stays whole.
        """
        tensors = {
            # Cloned: safetensors refuses tensors that share memory, as tied parameters do.
            f"{group}/{name}": value.detach().cpu().contiguous().clone()
            for group, named in self.tensors.items()
            for name, value in named.items()
        }
        metadata = {
            "format": kind,
            "identity": json.dumps(self.identity),
            "record": json.dumps(self.record),
        }
        # The file's own format checks shapes and sizes, not values: a flipped bit would be read.
        metadata[_SEAL] = _digest(tensors, metadata)
        write_atomically(path, safetensors.torch.save(tensors, metadata))

    @classmethod
    def read(cls, path: Path, kind: str, what: str, remedy: str) -> "Stored":
        """Read the content of a file.

        Args:
            path: The file.
            kind: Name and version that it must have.
            what: Word for the file, for messages.
            remedy: Advice for a damaged file, for messages.

        Raises:
            FileNotFoundError: If there is no such file.
            IsADirectoryError: If a folder is in its place.
            ValueError: If it is cut short, changed, or of another kind.
        """
        if not path.is_file():
            raise not_a_file(path, f"no {what} at {path}: make it first, or name another.")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or no {what} ({error}): {remedy}.") from error
        # Before the hash: a file of another version is named as such, not as damaged.
        if metadata.get("format") != kind:
            raise ValueError(
                f"{path} has format {metadata.get('format')!r}, expected {kind!r}: {remedy}."
            )
        if metadata.get(_SEAL) != _digest(tensors, metadata):
            raise ValueError(f"{path} is not as it was written (SHA-256 differs): {remedy}.")
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            # At the first slash only: names may contain slashes, groups do not.
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = value
        return cls(groups, json.loads(metadata["record"]), json.loads(metadata["identity"]))


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a file holds, types among it."""
    words = [metadata.get(name) for name in ("format", "identity", "record")]
    return hash_values([*words, hash_tensors(tensors)])


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON, atomically, with a hash of all of them.

    Raises:
        OSError: If the file cannot be written; an earlier one stays whole.
    """
    # Through JSON, so that what is hashed is what is read.
    plain = json.loads(json.dumps(dict(values)))
    sealed = {**plain, _SEAL: hash_values(plain)}
    write_atomically(path, json.dumps(sealed, indent=2) + "\n")


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Read the values that :func:`write_sealed` wrote.

    Args:
        path: The file.
        remedy: Advice for a damaged file, for the message.

    Raises:
        ValueError: If the file is not as it was written; names it.
    """
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise TypeError("no mapping")
        if values.pop(_SEAL, None) != hash_values(values):
            raise ValueError("it is not as it was written: SHA-256 differs")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}.") from error
    return values
