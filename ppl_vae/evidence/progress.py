"""The finished part of a long estimate, in one safetensors file."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ppl_vae.evidence.identity import RunIdentity, require_equal
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.files import write_atomically

_FORMAT = "ppl_vae evidence 1"
_SECONDS_BETWEEN = 5.0
_RANDOM = "random/"


@final
@dataclass
class Progress:
    """What a file holds of an estimate, and where its random numbers stood.

    The draws of all chunks are one stream: the generator's state goes into the file, so that a run
    that goes on gives the numbers of one that was never stopped. The file is written anew,
    atomically, every few seconds and when a run is interrupted.

    Args:
        path: The file.
        identity: Of this run.
        device: Where it computes.

    Attributes:
        parts: What is finished, in order of the data.

    Raises:
        ValueError: If the file is damaged, or of a run with other settings, data or parameters.
    """

    path: Path
    identity: RunIdentity
    device: torch.device
    parts: list[Evidence] = field(init=False, default_factory=list)
    _count: int = field(init=False, default=0)
    _states: dict[str, Tensor] = field(init=False, default_factory=dict)
    _written: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path.exists():
            self._load()

    def restore_random_state(self) -> None:
        """Go on with the random numbers where the file's run stopped."""
        if "cpu" in self._states:
            torch.set_rng_state(self._states["cpu"])
        if "cuda" in self._states and self.device.type == "cuda":
            torch.cuda.set_rng_state(self._states["cuda"], self.device)

    def finished_a_group(self) -> None:
        """All parts so far are finished; what comes next starts at this random state."""
        self._count, self._states = len(self.parts), {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            self._states["cuda"] = torch.cuda.get_rng_state(self.device)
        if time.monotonic() - self._written > _SECONDS_BETWEEN:
            self.write()

    def write(self) -> None:
        """Write what is finished.

        Raises:
            OSError: If the file cannot be written; an earlier one stays whole.
        """
        if not self._count:
            return
        finished = concatenate(self.parts[: self._count])
        values = {f.name: getattr(finished, f.name) for f in fields(Evidence)}
        tensors = {n: v.contiguous().clone() for n, v in values.items() if isinstance(v, Tensor)}
        plain = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
        metadata = {
            "format": _FORMAT,
            "settings": self.identity.settings,
            "data": self.identity.data,
            "evidence": json.dumps(plain),
        }
        tensors |= {f"{_RANDOM}{name}": state for name, state in self._states.items()}
        tensors["probe"] = self.identity.probe.contiguous()
        write_atomically(self.path, safetensors.torch.save(tensors, metadata))
        self._written = time.monotonic()

    def _load(self) -> None:
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is damaged or no checkpoint ({error}): delete it to start anew."
            ) from error
        require_equal(str(self.path), "format", metadata.get("format"), _FORMAT)
        self.identity.require_same(str(self.path), metadata, tensors.pop("probe"))
        names = [name for name in tensors if name.startswith(_RANDOM)]
        self._states = {name.removeprefix(_RANDOM): tensors.pop(name) for name in names}
        values: dict[str, Any] = {**json.loads(metadata["evidence"]), **tensors}
        self.parts, self._count = [Evidence(**values)], 1


@contextmanager
def keeping(progress: Progress | None) -> Iterator[None]:
    """Go on from what there is, inside ``seeded``; at an interruption, write what is finished."""
    if progress is None:
        yield
        return
    progress.restore_random_state()
    try:
        yield
    except KeyboardInterrupt:
        progress.write()
        raise
