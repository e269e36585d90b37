"""The finished chunks of a long computation, in one safetensors file."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.identity import Identity
from ppl_vae.store import Stored

_FORMAT = "ppl_vae unfinished 3"
_SECONDS_BETWEEN = 5.0
Columns = Mapping[str, Tensor]
"""Name to values, one for each datum of a chunk."""


@final
@dataclass(frozen=True)
class Part:
    """What one chunk came to.

    Attributes:
        columns: Values of its data, on the CPU.
        record: Plain values that belong to the chunk, for JSON.
    """

    columns: Columns
    record: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@final
@dataclass
class Unfinished:
    """Finished chunks and the file that they are kept in.

    Chunks draw from streams of their own, so that those that are left give the same numbers whether
    or not the others were read from a file. The file is written anew, atomically, every few seconds
    and when the computation ends, however it ends.

    Attributes:
        path: The file; None: nothing is kept.
        identity: What the numbers are computed from.
        parts: The chunks that are finished, in order.
    """

    path: Path | None
    identity: Identity
    parts: list[Part] = field(default_factory=list)
    _written: int = 0
    _last: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path | None, identity: Identity) -> "Unfinished":
        """Go on from what there is.

        Raises:
            ValueError: If the file is damaged, or of something else; says what differs.
        """
        if path is None or not path.exists():
            return cls(path, identity)
        stored = _read(path)
        identity.require_same(Identity.from_dict(stored.identity), str(path))
        parts = [Part(stored.tensors[str(n)], each) for n, each in enumerate(stored.record)]
        return cls(path, identity, parts, len(parts))

    def add(self, part: Part) -> None:
        """Take in the next chunk."""
        self.parts.append(part)
        if time.monotonic() - self._last > _SECONDS_BETWEEN:
            self.write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what is finished when the inside ends, or is interrupted."""
        try:
            yield
        finally:
            self.write()

    def write(self) -> None:
        """Write all chunks, if there are new ones.

        Raises:
            OSError: If the file cannot be written; an earlier one stays whole.
        """
        if self.path is None or len(self.parts) == self._written:
            return
        columns = {str(number): part.columns for number, part in enumerate(self.parts)}
        records = [dict(part.record) for part in self.parts]
        Stored(columns, records, self.identity.to_dict()).write(self.path, _FORMAT)
        self._written, self._last = len(self.parts), time.monotonic()


def identity_in(path: Path | None) -> Identity | None:
    """What the numbers in an unfinished file are of; None if there is no such file.

    Raises:
        ValueError: If it is damaged.
    """
    if path is None or not path.exists():
        return None
    return Identity.from_dict(_read(path).identity)


def _read(path: Path) -> Stored:
    return Stored.read(path, _FORMAT, "unfinished estimate", "delete it to start anew")
