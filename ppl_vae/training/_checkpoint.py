"""A training run in one safetensors file: loading it never runs code from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.store import Stored

FORMAT = "ppl_vae checkpoint 3"
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
        Stored(groups, progress).write(path, FORMAT)

    def _groups(self) -> dict[str, Mapping[str, Tensor]]:
        return {group: getattr(self, group) for group in _GROUPS}

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is cut short or is not a checkpoint of this package.
        """
        remedy = "delete it to train anew, or bring back a copy"
        stored = Stored.read(path, FORMAT, "checkpoint", remedy)
        before = stored.record.pop("whole", None)
        whole = None if before is None else cls._of(before, stored.tensors, _WHOLE)
        return cls._of(stored.record, stored.tensors, "", whole)

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
