"""Finished chunks of a long run, in one safetensors file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ppl_vae.files import write_atomically
from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import seeded

Columns = Mapping[str, Tensor]
"""Name to values, one for each datum of a chunk."""

_FORMAT = "ppl_vae annealing 1"
_PROBE = "probe"
_ROUNDING = 1e-4


@final
@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to go on from a file.

    Attributes:
        settings: All settings, the seed and the kind of device in words.
        data: A hash of the data.
        probe: log-densities at fixed draws, which tell one set of parameters from another.
    """

    settings: str
    data: str
    probe: Tensor


def identify(
    settings: str,
    model: Program,
    guide: Program,
    x: Tensor,
    device: torch.device,
    max_plate_nesting: int,
) -> RunIdentity:
    """The identity of a run on these programs and data."""
    with seeded(0), torch.no_grad():
        first = x[:1].to(device)
        particles = draw_particles(model, guide, first, max_plate_nesting=max_plate_nesting)
    parts = [particles.log_likelihood, particles.log_latent_prior, particles.log_proposal]
    return RunIdentity(settings, hash_of(x), torch.cat(parts).double().cpu())


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
        self._require_same("settings", metadata.get("settings"), self.identity.settings)
        self._require_same("data", metadata.get("data"), self.identity.data)
        probe, expected = tensors.pop(_PROBE), self.identity.probe
        if not torch.allclose(probe, expected, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True):
            raise ValueError(
                f"{self.path} is of a run with other parameters of the model or the guide: delete "
                "it, or name another file."
            )
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
        self._require_same("format", metadata.get("format"), _FORMAT)
        return metadata, tensors

    def _require_same(self, what: str, found: str | None, expected: str) -> None:
        if found != expected:
            raise ValueError(
                f"{self.path} is of a run with other {what}, {found}, this one has {expected}: "
                "delete it, or name another file."
            )


def hash_of(x: Tensor) -> str:
    """Of values, shape and type."""
    content = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    digest.update(content.numpy().tobytes())
    return digest.hexdigest()
