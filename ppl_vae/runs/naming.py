"""Names on the command line: looked up, or imported as module:Class."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def resolve(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The entry called ``name``, or the object at ``module:Class``.

    Raises:
        ValueError: If there is none; says which names are known.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        require_known(kind, name, known)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{kind} {name!r}: {error};{_nearest(module, known)} use one of {', '.join(known)}, or "
            "module:Class of a class that Python can import from here."
        ) from error


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Check a name.

    Raises:
        ValueError: If it is unknown; names the nearest and all others.
    """
    names = list(known)
    if name in names:
        return
    raise ValueError(f"unknown {kind} {name!r}:{_nearest(name, names)} known: {', '.join(names)}.")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" did you mean {near[0]!r}?" if near else ""
