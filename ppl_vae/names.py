"""Words of messages: the nearest name to a wrong one, a wrong value in short."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or nothing: ``did you mean 'IWAE'?``.

    Case does not count: ``iwae`` is near to ``IWAE``.
    """
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line that says that a name is unknown, the nearest one, and all others."""
    names = list(known)
    return " ".join(
        filter(
            None,
            [f"unknown {kind} {name!r}:", did_you_mean(name, names), f"known: {', '.join(names)}."],
        )
    )


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Check a name.

    Raises:
        ValueError: If it is unknown; names the nearest and all others.
    """
    names = list(known)
    if name not in names:
        raise ValueError(unknown_name(kind, name, names))


LONGEST_SHOWN = 60
"""Characters of a value that a message shows at most."""


def describe(value: Any) -> str:
    """A value as a message shows it: its type where it is no number, never a whole tensor."""
    kind = type(value).__name__
    if hasattr(value, "shape"):
        return f"a {kind} of shape {tuple(value.shape)}"
    text = repr(value)
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return text if isinstance(value, int | float) or value is None else f"the {kind} {text}"
