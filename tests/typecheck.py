"""The type checker that the import hook in conftest.py puts on every annotated function."""

import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# int where float is annotated is fine by the typing rules, and beartype's default disagrees.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype, blind to protocols that cannot be checked at run time, and to them only."""
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if _holds_uncheckable_protocol(hint):
            annotations[name] = Any
    return _beartype(function)


def _holds_uncheckable_protocol(hint: Any) -> bool:
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        return not getattr(hint, "_is_runtime_protocol", False)
    return any(map(_holds_uncheckable_protocol, typing.get_args(hint)))
