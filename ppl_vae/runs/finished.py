"""The finished parts of a longer piece of work, in one JSON file."""

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ppl_vae.files import write_atomically
from ppl_vae.identity import Identity, hash_values

_FORMAT = "ppl_vae parts 2"
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)}


@final
@dataclass
class FinishedParts:
    """Results, each kept under what it was computed from; none takes another's place.

    A result is a dataclass of tensors, plain values, lists, tuples, dictionaries and other
    dataclasses. It is read back as it was, bit for bit. Reading runs no code from the file: it may
    name only the classes given here.

    Args:
        path: The file; written anew, atomically, with every part.
        classes: Of the results; those that their fields are made of are known with them.

    Raises:
        ValueError: If the file is there and no such file, or a part of one.
    """

    path: Path
    classes: Iterable[type]
    _parts: dict[str, Any] = field(init=False, default_factory=dict)
    _by_name: dict[str, type] = field(init=False)

    def __post_init__(self) -> None:
        self._by_name = {kind.__name__: kind for kind in _with_fields(self.classes)}
        if self.path.exists():
            self._parts = self._load()

    def read(self, identity: Identity) -> Any:
        """The part of this identity, or None if there is none.

        Raises:
            ValueError: If the part is damaged.
        """
        part = self._parts.get(identity.key)
        if part is None:
            return None
        try:
            identity.require_same(Identity.from_dict(part["identity"]), str(self.path))
            if hash_values(part["result"]) != part["sha256"]:
                raise ValueError("SHA-256 differs")
            return _decoded(part["result"], self._by_name)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error

    def write(self, identity: Identity, result: Any) -> None:
        """Keep a part.

        Raises:
            OSError: If the file cannot be written; an earlier one stays whole.
            TypeError: If the result holds what cannot be kept.
        """
        encoded = _encoded(result, self._by_name)
        self._parts[identity.key] = {
            "identity": identity.to_dict(), "sha256": hash_values(encoded), "result": encoded
        }  # fmt: skip
        write_atomically(self.path, json.dumps({"format": _FORMAT, "parts": self._parts}) + "\n")

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {_FORMAT!r}")
            return dict(content["parts"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())
        return ValueError(f"{self.path} is damaged ({reason}): delete it to start anew.")


def _with_fields(classes: Iterable[type]) -> set[type]:
    """Dataclasses, and all dataclasses that the annotations of their fields name."""
    known: set[type] = set()
    left = list(classes)
    while left:
        kind = left.pop()
        if is_dataclass(kind) and kind not in known:
            known.add(kind)
            left += typing.get_type_hints(kind).values()
        left += typing.get_args(kind)
    return known


def _encoded(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, Tensor) and str(value.dtype) in _DTYPES:
        flat = value.detach().cpu().flatten().tolist()
        return {"tensor": flat, "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, Identity):
        return {"identity": value.to_dict()}
    if is_dataclass(value):
        name = type(value).__name__
        if classes.get(name) is not type(value):
            raise TypeError(f"a result of class {name} is none of {', '.join(classes)}.")
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"class": name, "fields": {n: _encoded(v, classes) for n, v in named.items()}}
    if isinstance(value, dict):
        return {"items": [[_encoded(k, classes), _encoded(v, classes)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(entry, classes) for entry in value]}
    if isinstance(value, list):
        return [_encoded(entry, classes) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a result holds {type(value).__name__}, which cannot be kept.")


def _decoded(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, classes) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        flat = torch.tensor(value["tensor"], dtype=_DTYPES[value["dtype"]])
        return flat.reshape(value["shape"])
    if "identity" in value:
        return Identity.from_dict(value["identity"])
    if "class" in value:
        named = {name: _decoded(entry, classes) for name, entry in value["fields"].items()}
        return classes[value["class"]](**named)
    if "items" in value:
        return {_decoded(k, classes): _decoded(v, classes) for k, v in value["items"]}
    return tuple(_decoded(entry, classes) for entry in value["tuple"])
