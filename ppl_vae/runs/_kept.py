"""Results of a longer piece of work, kept in one file as they are finished."""

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ppl_vae.identity import Identity
from ppl_vae.runs._evaluations import key_of
from ppl_vae.store import Stored

_FORMAT = "ppl_vae results 1"
_REMEDY = "delete it to start anew"


@final
@dataclass
class KeptResults:
    """Results, each kept under what it was computed from; none takes another's place.

    A result is a dataclass of tensors, plain values, lists, tuples, dictionaries and other
    dataclasses. It is read back as it was, bit for bit. Reading runs no code from the file: it may
    name only the classes given here.

    Args:
        path: The file, in the format of :mod:`ppl_vae.store`; written anew with every result.
        classes: Classes of the results; classes of their fields are known with them.

    Raises:
        ValueError: If the file is there and no such file, or a part of one.
    """

    path: Path
    classes: Iterable[type]
    _records: dict[str, Any] = field(init=False, default_factory=dict)
    _tensors: dict[str, dict[str, Tensor]] = field(init=False, default_factory=dict)
    _by_name: dict[str, type] = field(init=False)

    def __post_init__(self) -> None:
        # Names in the file are looked up in this table alone, so that reading imports nothing.
        self._by_name = {kind.__name__: kind for kind in _with_fields(self.classes)}
        if self.path.exists():
            stored = Stored.read(self.path, _FORMAT, "file of diagnoses", _REMEDY)
            self._records = dict(stored.record)
            self._tensors = {key: dict(named) for key, named in stored.tensors.items()}

    def read(self, identity: Identity) -> Any:
        """The result of this identity, or None if there is none.

        Raises:
            ValueError: If the result is damaged.
        """
        for key, kept in self._records.items():
            try:
                if identity.differences(Identity.from_dict(kept["identity"])):
                    continue
                return _Codec(self._by_name, self._tensors.get(key, {})).decode(kept["result"])
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"{self.path} is damaged ({reason}): {_REMEDY}.") from error
        return None

    def write(self, identity: Identity, result: Any) -> None:
        """Keep a result.

        Raises:
            OSError: If the file cannot be written; an earlier one stays whole.
            TypeError: If the result holds what cannot be kept.
        """
        codec = _Codec(self._by_name, {})
        encoded, key = codec.encode(result), key_of(identity)
        self._records[key] = {"identity": identity.to_dict(), "result": encoded}
        self._tensors[key] = codec.tensors
        Stored(self._tensors, self._records).write(self.path, _FORMAT)


def _with_fields(classes: Iterable[type]) -> set[type]:
    """Dataclasses, and all dataclasses that the annotations of their fields name."""
    known: set[type] = set()
    pending = list(classes)
    while pending:
        kind = pending.pop()
        if is_dataclass(kind) and kind not in known:
            known.add(kind)
            pending += typing.get_type_hints(kind).values()
        pending += typing.get_args(kind)
    return known


@final
@dataclass(frozen=True)
class _Codec:
    """Results as JSON and back; their tensors are stored beside, by number."""

    classes: Mapping[str, type]
    tensors: dict[str, Tensor]

    def encode(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.tensors[str(len(self.tensors))] = value
            return {"tensor": str(len(self.tensors) - 1)}
        if isinstance(value, Identity):
            return {"identity": value.to_dict()}
        if is_dataclass(value):
            name = type(value).__name__
            # Refused when it is written: reading it would fail, when the work is done.
            if self.classes.get(name) is not type(value):
                raise TypeError(f"a result of class {name} is none of {', '.join(self.classes)}.")
            named = {f.name: self.encode(getattr(value, f.name)) for f in fields(value)}
            return {"class": name, "fields": named}
        if isinstance(value, dict):
            # Pairs, as JSON turns every key into text.
            return {"items": [[self.encode(each) for each in pair] for pair in value.items()]}
        if isinstance(value, tuple):
            # Named, as JSON has lists only and a result must be read back as it was.
            return {"tuple": [self.encode(entry) for entry in value]}
        if isinstance(value, list):
            return [self.encode(entry) for entry in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a result holds {type(value).__name__}, which cannot be kept.")

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        if "tensor" in value:
            return self.tensors[value["tensor"]]
        if "identity" in value:
            return Identity.from_dict(value["identity"])
        if "class" in value:
            named = {name: self.decode(entry) for name, entry in value["fields"].items()}
            return self.classes[value["class"]](**named)
        if "items" in value:
            return {self.decode(key): self.decode(entry) for key, entry in value["items"]}
        return tuple(self.decode(entry) for entry in value["tuple"])
