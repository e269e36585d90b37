"""Finished chunks of a long run, in one safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import safetensors
import safetensors.torch
from torch import Tensor

from ppl_vae.evidence.identity import RunIdentity, require_equal
from ppl_vae.files import write_atomically

Columns = Mapping[str, Tensor]
"""Name to values, one for each datum of a chunk."""

_FORMAT = "ppl_vae annealing 1"
_PROBE = "probe"


@final
@dataclass
class FinishedChunks:
    """The chunks that a file holds, and those that are added to it.

    Attributes:
        path: The file; written anew, atomically, after every chunk.
        identity: Of this run.
        parts: The chunks that are there, in order.

    Raises:
        ValueError: If the file is damaged, or of a run with other settings, data or parameters.
    """

    path: Path
    identity: RunIdentity
    parts: list[Columns] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.parts = self._load()

    def save(self, parts: list[Columns]) -> None:
        """Write all parts.

        Raises:
            OSError: If the file cannot be written; an earlier one stays whole.
        """
        tensors = {
            f"{number}/{name}": value.contiguous().clone()
            for number, part in enumerate(parts)
            for name, value in part.items()
        }
        metadata = {
            "format": _FORMAT,
            "settings": self.identity.settings,
            "data": self.identity.data,
        }
        tensors[_PROBE] = self.identity.probe.contiguous()
        write_atomically(self.path, safetensors.torch.save(tensors, metadata))

    def _load(self) -> list[Columns]:
        metadata, tensors = self._read()
        self.identity.require_same(str(self.path), metadata, tensors.pop(_PROBE))
        parts: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, name = key.split("/", 1)
            parts.setdefault(int(number), {})[name] = value
        return [parts[number] for number in range(len(parts))]

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is damaged or no checkpoint ({error}): delete it to start anew."
            ) from error
        require_equal(str(self.path), "format", metadata.get("format"), _FORMAT)
        return metadata, tensors
