"""The state of a training run between two epochs: taken, restored, kept in a file."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.store import Stored
from ppl_vae.training._budget import Spent
from ppl_vae.training._history import History

FORMAT = "ppl_vae checkpoint 3"
_GROUPS = ("parameter", "buffer", "best", "best_buffer", "optimizer", "average", "climbed")
_BEFORE = "whole_"
"""Prefix of the groups of the state before an epoch that was cut short."""
_HASH, _DIGITS = re.compile("[0-9a-f]{64}"), 12
"""A SHA-256 as text, and how many of its digits are shown."""

Tensors = Mapping[str, Tensor]


@final
@dataclass(frozen=True, eq=False)
class Snapshot:
    """State that a run needs to go on as if it had never stopped, in a file or in memory.

    Random numbers and data order are derived from the seed and the epoch, so that the number of
    finished epochs is all there is to keep of them. A file is safetensors: loading it never runs
    code from it.

    Attributes:
        identity: Settings and data of the run, which another must share to go on from here.
        history: Records of the finished epochs.
        spent: Cost of training so far.
        ended: Limit of the budget that training ended at; None while it goes on.
        parameter: Name to value after the last finished epoch.
        buffer: Likewise of what modules keep outside of parameters.
        optimizer: The step's state.
        best: Name to value of the parameters to keep, averaged where they are: those at the best
            validation so far, or the last.
        best_buffer: Likewise of the buffers.
        average: Name to value of the averaged parameters, where they are averaged.
        climbed: What the objective climbs, of some training data before the first update.
        before: Where the budget ended inside an epoch, the state before that epoch: what a run
            with a longer budget goes on from.
    """

    identity: Mapping[str, Any]
    history: History
    spent: Spent
    ended: float | None
    parameter: Tensors
    buffer: Tensors
    optimizer: Tensors
    best: Tensors
    best_buffer: Tensors
    average: Tensors
    climbed: Tensors = field(default_factory=dict)
    before: "Snapshot | None" = None

    def start(self, limit: float) -> "Snapshot":
        """State that a run with this limit goes on from.

        It is this state, unless its budget ended inside an epoch and the new one is longer.
        """
        if self.before is None or self.ended is None or limit <= self.ended:
            return self
        return self.before

    def differences(self, identity: Mapping[str, Any]) -> list[str]:
        """What differs of some settings and data, ``NAME VALUE there, VALUE here`` each.

        Hashes, which name no setting, are cut short and come last.
        """
        named = [
            (name, self.identity.get(name), here)
            for name, here in identity.items()
            if self.identity.get(name) != here
        ]
        named.sort(key=lambda each: any(map(_is_hash, each[1:])))
        return [f"{name} {_shown(there)} there, {_shown(here)} here" for name, there, here in named]

    def require_same_run(self, identity: Mapping[str, Any], where: str) -> None:
        """Check that this is the state of a run with these settings and data.

        Raises:
            ValueError: If one differs; names all that do.
        """
        # Of both: a setting that is at its default may be written on one side alone.
        both = {**dict.fromkeys(self.identity), **identity}
        if other := self.differences(both):
            raise ValueError(
                f"{where} is of a run with other settings: {'; '.join(other)}. Take those, or "
                "another file or folder, or remove it to train anew."
            )

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OSError: If it cannot be written; an earlier file stays whole.
        """
        groups, record = self._groups(), self._record()
        if self.before is not None:
            groups |= {_BEFORE + name: group for name, group in self.before._groups().items()}
            # In the same file, so that no crash can leave the two states out of step.
            record["whole"] = self.before._record()
        Stored(groups, record).write(path, FORMAT)

    @classmethod
    def load(cls, path: Path) -> "Snapshot":
        """Read a file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is cut short or is not a checkpoint of this package.
        """
        remedy = "delete it to train anew, or bring back a copy"
        stored = Stored.read(path, FORMAT, "checkpoint", remedy)
        earlier = stored.record.get("whole")
        before = None if earlier is None else cls._of(earlier, stored.tensors, _BEFORE)
        return cls._of(stored.record, stored.tensors, "", before)

    def _groups(self) -> dict[str, Tensors]:
        return {group: getattr(self, group) for group in _GROUPS}

    def _record(self) -> dict[str, Any]:
        return {
            "run": self.identity,
            "history": self.history.to_json(),
            "spent": asdict(self.spent),
            "ended": self.ended,
        }

    @classmethod
    def _of(
        cls,
        record: dict[str, Any],
        groups: Mapping[str, Tensors],
        prefix: str,
        before: "Snapshot | None" = None,
    ) -> "Snapshot":
        return cls(
            identity=record["run"],
            history=History.from_json(record["history"]),
            spent=Spent(**record["spent"]),
            ended=record["ended"],
            before=before,
            **{name: groups.get(prefix + name, {}) for name in _GROUPS},
        )


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _shown(value: Any) -> str:
    return f"{value[:_DIGITS]}..." if _is_hash(value) else str(value)


def copied(tensors: Tensors) -> dict[str, Tensor]:
    """The same values in tensors of their own."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def load_parameters(target: Tensors, source: Tensors, what: str = "checkpoint") -> None:
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
        # In place, and only after all checks: the optimiser and the modules hold these tensors.
        # Through .data, as autograd refuses to change a leaf that requires a gradient.
        value.data.copy_(source[name])
