"""Names: loaded on first use, the nearest to a wrong one; checks of arguments by their names."""

import ast
import difflib
import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, final

_BETWEEN = ("ppl_vae", "torch", "pyro")
"""Packages whose frames lie between a warning and the line that it is about."""


@final
class ValuesError(ValueError):
    """Values that cannot be taken: an error of two parts, as a caller may know another remedy.

    Attributes:
        problem: What is wrong, and where.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}.")
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again of its one argument, the whole message.
        remedy = str(self).removeprefix(f"{self.problem}: ").removesuffix(".")
        return type(self), (self.problem, remedy)


def names_of_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, from the imports in its stub.

    A name is imported when it is first asked for. A stub, which type checkers read, has lines
    ``from ._module import Name as Name``, or ``from . import module as module``.

    Args:
        package: ``__name__`` of the package.
        file: Its ``__file__``, beside which the stub lies.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    modules = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    known = sorted(modules)

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"no name {name!r} in {package}")
        module = modules[name]
        found = importlib.import_module(f"{package}.{module or name}")
        value = getattr(found, name) if module else found
        # Python asks __getattr__ only for what is not there: the next use is an ordinary one.
        setattr(sys.modules[package], name, value)
        return value

    return load, known.copy, known


def face_with(name: str, package: Path) -> str:
    """Name of the module of a package whose face has a name; empty if none has.

    Faces are read and not imported: ``__all__``, or the imports of a stub.

    Args:
        name: A public name, such as ``open_run``.
        package: Folder of the package.
    """
    for face in sorted(package.glob("*/__init__.py*")):
        for node in ast.parse(face.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=elements)):
                    names = {each.value for each in elements if isinstance(each, ast.Constant)}
                case ast.ImportFrom(names=aliases) if face.suffix == ".pyi":
                    names = {alias.asname for alias in aliases}
                case _:
                    continue
            if name in names:
                return face.parent.name
    return ""


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
            [
                f"unknown {kind} {name!r}:",
                did_you_mean(name, names),
                f"known: {', '.join(names)}." if names else "there are none here.",
            ],
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


def first_few(words: Sequence[str], most: int = 3) -> str:
    """The first words of a list and how many more there are: ``a, b, c and 2 more``."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def plural(number: int, noun: str) -> str:
    """A number and its noun: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def require_instance(name: str, value: object, kind: type, how: str) -> None:
    """Check that an argument is of a class, at the door of what would use its attributes.

    Args:
        name: The argument.
        value: What was given.
        kind: Class that it must be of.
        how: How to get one, for the message.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else describe(value)
        raise TypeError(f"{name} is {got}, expected a {kind.__name__}: {how}.")


def require_callable(**components: object) -> None:
    """Check that components, given by name, are instances that can be called.

    Raises:
        TypeError: If one is not; a class is told from its instances.
    """
    for name, value in components.items():
        if isinstance(value, type):
            raise TypeError(f"{name} is the class {value.__name__}: give an instance of it.")
        if not callable(value):
            raise TypeError(f"{name} is {describe(value)}, expected a module or a function.")


def require_least(least: int, **values: float) -> None:
    """Check that arguments, given by name, are ``least`` or more; raise a ValueError if not."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}.")


def require_positive(**values: float) -> None:
    """Check that arguments, given by name, are positive and finite; raise a ValueError if not."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def require_sizes(**sizes: int) -> None:
    """Check whole numbers of 1 or more.

    Raises:
        ValueError: If one is less; names it.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be 1 or more, got {size}.")


def require_not_negative(**values: float) -> None:
    """Check that arguments, given by name, are 0 or more, and finite; raise a ValueError if not."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more and finite, got {value}.")


def require_share(**values: float) -> None:
    """Check that arguments, given by name, are between 0 and 1; raise a ValueError if not."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")


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


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called this package, whatever of it and of torch lies between.

    Args:
        message: The warning.
        category: Its class.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
