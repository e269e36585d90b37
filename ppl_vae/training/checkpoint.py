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

FORMAT = "ppl_vae checkpoint 1"
_GROUPS = ("parameter", "buffer", "best", "best_buffer", "optimizer")


@final
@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Random numbers and data order are derived from the seed and the epoch, so that the number of
    finished epochs in ``progress`` is all there is to keep of them.

    Attributes:
        progress: Plain values: settings, history.
        parameter: Name to value after the last finished epoch; ``buffer`` likewise.
        best: Name to value at the best validation so far; ``best_buffer`` likewise.
        optimizer: The step's state.
    """

    progress: dict[str, Any]
    parameter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    buffer: Mapping[str, Tensor] = field(default_factory=dict)
    best_buffer: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OSError: If it cannot be written; an earlier checkpoint stays whole.
        """
        tensors = {
            f"{group}/{name}": value.detach().cpu().contiguous().clone()
            for group in _GROUPS
            for name, value in getattr(self, group).items()
        }
        metadata = {"format": FORMAT, "progress": json.dumps(self.progress)}
        write_atomically(path, safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is cut short or is not a checkpoint of this package.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}: train first, or name another run.")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is damaged or no checkpoint ({error}): delete it to train anew, or bring "
                "back a copy."
            ) from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} has format {metadata.get('format')!r}, expected {FORMAT!r}.")
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        for key, value in tensors.items():
            group, name = key.split("/", 1)
            groups[group][name] = value
        return cls(progress=json.loads(metadata["progress"]), **groups)


def load_parameters(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], what: str = "checkpoint"
) -> None:
    """Copy values into existing tensors, in place.

    Raises:
        ValueError: If names or shapes differ; nothing is copied then.
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
    for name, value in target.items():
        value.data.copy_(source[name])
