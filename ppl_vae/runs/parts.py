"""Priors, likelihoods, guides and networks by name or class path, with arguments of their own.

A part is written ``NAME``, ``NAME:ARGUMENT,...`` or ``module:Class:ARGUMENT,...``; an argument is a
value, in the order of the class's own parameters, or ``parameter=value``. In a file it may be a
mapping ``{class_path: module.Class, init_args: {...}}``. What a run knows and the class asks for by
name (``latent``, ``data``, ...) is given to it when it is built.
"""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from jsonargparse import ArgumentParser
from torch.nn import Module

from ppl_vae.runs.naming import is_class_path, is_ours, require_known, resolve

PartSpec = str | Mapping[str, Any]
"""A part as it is written."""

_OF_NETWORKS = {"in_features", "out_features", "hidden", "activation", "image_shape"}
_OF_DISTRIBUTIONS = {
    "latent",
    "features",
    "data",
    "data_mean",
    "encoder",
    "network",
    "image_shape",
    "columns",
    "bodies",
    "encoders",
    "conditionals",
}
"""Parameters that a run fills in; all others are a part's own."""

_SEPARATOR = re.compile(r",(?![^\[]*\])")
"""Commas outside brackets: ``sizes=[64,64],scale=2`` are two arguments."""


@final
@dataclass(frozen=True)
class Part:
    """A class and all of its own arguments.

    Attributes:
        kind: ``prior``, ``likelihood``, ``guide`` or ``network``, for messages.
        text: The part as it was written.
        build: The class.
        arguments: Its own arguments, those with defaults too.
    """

    kind: str
    text: str
    build: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, **context: Any) -> Any:
        """Build it, with whatever it asks for of the context.

        Raises:
            ValueError: If the class refuses its arguments; names the part.
        """
        asked = inspect.signature(self.build).parameters
        given = {name: value for name, value in context.items() if name in asked}
        try:
            return self.build(**given, **self.arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.kind} {self.text}: {error}") from error

    def num_outputs(self, size: int, **context: Any) -> int:
        """Outputs that its network must have for ``size`` features or latent dimensions."""
        counted = getattr(self.build, "num_outputs", None)
        if counted is None:
            return size
        asked = inspect.signature(counted).parameters
        known = {**context, **self.arguments}
        first = next(iter(asked))
        return int(counted(size, **{n: v for n, v in known.items() if n in asked and n != first}))

    def as_mapping(self) -> dict[str, Any]:
        """The part as class path and complete arguments, for a file."""
        path = f"{self.build.__module__}.{self.build.__qualname__}"
        return {"class_path": path, "init_args": dict(self.arguments)}


def parse_part(kind: str, spec: PartSpec, known: Mapping[str, Callable[..., Any]]) -> Part:
    """The part that ``spec`` names, its arguments checked against the class's annotations.

    Raises:
        ValueError: If the class is unknown, or an argument unknown, missing or of a wrong type.
    """
    if isinstance(spec, Mapping):
        build, given = _from_mapping(kind, spec, known)
        text = str(spec.get("class_path"))
    else:
        build, values = _from_text(kind, spec, known)
        given, text = _by_name(kind, spec, build, values), repr(spec)
    return Part(kind, text, build, _checked(kind, text, build, given))


def outside_class(spec: object, known: Mapping[str, Any]) -> str | None:
    """``module:Class`` where a part names a class from outside of this package; imports nothing."""
    if isinstance(spec, Mapping):
        path = spec.get("class_path")
        is_path = isinstance(path, str) and path not in known and bool(re.search("[.:]", path))
    elif isinstance(spec, str):
        path = _name_of(spec, known)[0]
        is_path = is_class_path(path)
    else:
        return None
    return str(path) if is_path and not is_ours(str(path)) else None


def _from_mapping(
    kind: str, spec: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    for name in spec:
        require_known(f"{kind} entry", str(name), ("class_path", "init_args"))
    path, arguments = spec.get("class_path"), spec.get("init_args") or {}
    if not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise ValueError(f"{kind}: write class_path: module.Class and init_args: a mapping.")
    if path not in known and ":" not in path and "." in path:
        module, _, name = path.rpartition(".")
        path = f"{module}:{name}"
    return resolve(kind, path, known, Module), dict(arguments)


def _from_text(
    kind: str, text: str, known: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[..., Any], list[str]]:
    name, rest = _name_of(text, known)
    values = [value.strip() for value in _SEPARATOR.split(rest)] if rest else []
    return resolve(kind, name, known, Module), values


def _name_of(text: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """The name, or module:Class, and the arguments behind it."""
    name, _, rest = text.partition(":")
    if name not in known and rest:
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    return name, rest


def _by_name(kind: str, text: str, build: Callable[..., Any], values: list[str]) -> dict[str, str]:
    own = own_parameters(build)
    given: dict[str, str] = {}
    for position, value in enumerate(values):
        name, equals, rest = value.partition("=")
        if not equals:
            if position >= len(own):
                raise ValueError(f"{kind} {text!r}: too many arguments. {_taken(build)}")
            name, rest = own[position].name, value
        if name in given:
            raise ValueError(f"{kind} {text!r}: {name} is given twice.")
        given[name] = rest
    return given


def own_parameters(build: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a class that a run does not fill in."""
    parameters = inspect.signature(build).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in parameters if p.kind in named and p.name not in _filled_in(build)]


def _filled_in(build: Callable[..., Any]) -> set[str]:
    """What a run fills in: a class that has ``out_features`` is a network."""
    is_network = "out_features" in inspect.signature(build).parameters
    return _OF_NETWORKS if is_network else _OF_DISTRIBUTIONS


def _checked(
    kind: str, text: str, build: Callable[..., Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All own arguments, converted to their annotated types."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(build) else parser.add_function_arguments
    asked = inspect.signature(build).parameters
    skipped: set[str | int] = {name for name in _filled_in(build) if name in asked}
    add(build, skip=skipped)
    require_no_aliases(given)
    try:
        found = parser.parse_object(dict(given)).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{kind} {text}: {_reason(error, given)}. {_taken(build)}") from error
    return {p.name: found[p.name] for p in own_parameters(build)}


def require_no_aliases(values: Mapping[str, Any]) -> None:
    """Refuse text with YAML's aliases, which the parser would unfold without a bound.

    Raises:
        ValueError: If a value, or an entry of one, is such a text.
    """
    for name, value in values.items():
        if isinstance(value, str) and re.search(r"&\w", value) and re.search(r"\*\w", value):
            raise ValueError(f"{name} cannot be {value[:100]!r}: aliases are not taken.")
        if isinstance(value, Mapping):
            require_no_aliases(value)
        elif isinstance(value, list | tuple):
            require_no_aliases({f"{name} {number}": v for number, v in enumerate(value)})


def _reason(error: ArgumentError, given: Mapping[str, Any]) -> str:
    """In a few words; the parser's own are of parsers, keys and unions."""
    text = " ".join(str(error).split())
    wrong = re.match(r'Parser key "(\w+)"', text)
    if wrong and wrong[1] in given:
        return f"{wrong[1]} cannot be {given[wrong[1]]!r}"
    return text.rstrip(".")


def _taken(build: Callable[..., Any]) -> str:
    own = [str(p) for p in own_parameters(build)]
    name = getattr(build, "__name__", "it")
    return f"{name} takes {', '.join(own)}." if own else f"{name} takes no arguments."


def form(name: str, build: Callable[..., Any]) -> str:
    """How a known part is written, with its arguments: ``vamp[:COMPONENTS,WEIGHTED]``."""
    own = own_parameters(build)
    required = [p.name.upper() for p in own if p.default is p.empty]
    optional = [p.name.upper() for p in own if p.default is not p.empty]
    text = f"{name}:{','.join(required)}" if required else name
    if not optional:
        return text
    return f"{text}[{',' if required else ':'}{','.join(optional)}]"
