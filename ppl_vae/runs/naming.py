"""Names on the command line: looked up, or imported as module:Class."""

import importlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ppl_vae.names import did_you_mean, unknown_name
from ppl_vae.names import require_known as require_known


def resolve(kind: str, name: str, known: Mapping[str, Any], base: type) -> Any:
    """The entry called ``name``, or the class at ``module:Class``.

    A class of this package must be a known one, any other a subclass of ``base``: a path is not a
    way to call functions.

    Raises:
        ValueError: If there is none; says which names are known, or why the module cannot be
            imported.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.partition(":")
    if not is_class_path(name):
        raise ValueError(unknown_name(kind, module, known))
    imported = _import(kind, name, module, known)
    if not hasattr(imported, attribute):
        hint = did_you_mean(attribute, vars(imported))
        raise ValueError(
            f"{kind} {name!r}: module {module} has no attribute {attribute!r}{hint and f'; {hint}'}"
        )
    found = getattr(imported, attribute)
    if any(found is build for build in known.values()):
        return found
    if is_ours(module):
        raise ValueError(
            f"{kind} {name!r} is no {kind} of this package: known: {', '.join(known)}."
        )
    if not (isinstance(found, type) and issubclass(found, base)):
        what = "class" if isinstance(found, type) else type(found).__name__
        wanted = f"{base.__module__.removesuffix('.modules.module')}.{base.__name__}"
        raise ValueError(f"{kind} {name!r} is a {what}, expected a subclass of {wanted}.")
    return found


def is_class_path(name: str) -> bool:
    """Whether a name is of the form ``module:Class``, and not a name with a number behind it."""
    module, _, attribute = name.partition(":")
    return bool(module) and attribute.isidentifier()


def is_ours(path: str) -> bool:
    """Whether a path starts at this package."""
    return re.split(r"[.:]", path, maxsplit=1)[0] == "ppl_vae"


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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{kind} {name!r}: importing {module} failed: {reason}") from error
