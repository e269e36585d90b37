"""Names on the command line: looked up, or imported as module:Class."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ppl_vae.names import did_you_mean, unknown_name
from ppl_vae.names import require_known as require_known


def resolve(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The entry called ``name``, or the object at ``module:Class``.

    Raises:
        ValueError: If there is none; says which names are known, or why the module cannot be
            imported.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(unknown_name(kind, name, known))
    imported = _import(kind, name, module, known)
    if not hasattr(imported, attribute):
        hint = did_you_mean(attribute, vars(imported))
        raise ValueError(
            f"{kind} {name!r}: module {module} has no attribute {attribute!r}{hint and f'; {hint}'}"
        )
    return getattr(imported, attribute)


def _import(kind: str, name: str, module: str, known: Mapping[str, Any]) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{kind} {name!r}: importing {module} failed: {error}") from error
        near = did_you_mean(module, known) or f"known: {', '.join(known)};"
        raise ValueError(
            f"{kind} {name!r}: {error}: {near} a class of your own is module:Class, of a module "
            "that Python can import from here."
        ) from error
    except Exception as error:
        # A module of the user's may fail in any way.
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{kind} {name!r}: importing {module} failed: {reason}") from error
