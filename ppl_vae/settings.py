"""Settings made of signatures: name, type, default and meaning of all that a callable takes.

A setting is a parameter of a function or a field of a dataclass. Its annotation says what it takes,
and its entry under ``Args:`` or ``Attributes:`` what it means. Options, their help, the entries of
files and the arguments of components are all made of this; nothing of them is written twice.

A dataclass may hold other dataclasses. Outside, in files and on the command line, the fields of all
of them stand side by side, each under its own name.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, final, get_args, get_origin

from ppl_vae.names import describe, require_known, unknown_name

_T = TypeVar("_T")
REQUIRED = inspect.Parameter.empty
"""Default of a setting that has none, and annotation of a parameter without one."""
# Not followed by a closing bracket before an opening one, so not inside of a list.
_COMMA = re.compile(r",(?![^\[]*\])")
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
_LARGEST = 1 << 63
"""Bound of whole numbers: torch has 64 bits, and much larger ones overflow a float."""


@final
@dataclass(frozen=True)
class Setting:
    """Setting of a function or a class.

    Attributes:
        name: Its name, in Python and in files.
        hint: Annotated type.
        default: Value where nothing is given.
        text: Documented meaning.
        unnamed: Whether its value may stand without its name in a call.
        path: Fields that lead from the outermost dataclass to the one that has it.
    """

    name: str
    hint: Any
    default: Any = REQUIRED
    text: str = ""
    unnamed: bool = True
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        # Without the modules of classes, which whoever types the value has nothing of.
        kind = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", inspect.formatannotation(self.hint))
        text = f"{self.name}: {kind}"
        return text if self.default is REQUIRED else f"{text} = {self.default!r}"

    def convert(self, value: Any) -> Any:
        """Convert a value, or text, to the annotated type.

        Raises:
            ValueError: If it is not of that type; names the setting.
        """
        try:
            return convert(value, self.hint)
        except ValueError as error:
            shown = re.sub(r"^the \w+ ", "", describe(value))
            raise ValueError(f"{self.name} cannot be {shown}: it is {error}.") from None


@cache
def settings_of(owner: Callable[..., Any]) -> dict[str, Setting]:
    """Settings of a function or a class by name; those of a dataclass in it stand in its place.

    Raises:
        ValueError: If a name stands for two settings.
    """
    texts = _documented(owner)
    found: dict[str, Setting] = {}
    for parameter in _signature(owner).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        name, hint, default = parameter.name, parameter.annotation, _default_of(owner, parameter)
        # A parameter without an annotation is read by the type of its default.
        if hint is REQUIRED and default is not REQUIRED:
            hint = Any if default is None else type(default)
        unnamed = parameter.kind is not parameter.KEYWORD_ONLY
        added = [Setting(name, hint, default, texts.get(name, ""), unnamed)]
        # A dataclass without a default has no values to show, and stays one setting.
        if is_dataclass(hint) and is_dataclass(default):
            values = flat(default)
            added = [
                replace(inner, default=values[inner.name], path=(name, *inner.path))
                for inner in settings_of(hint).values()  # type: ignore[arg-type]
            ]
        for setting in added:
            if setting.name in found:
                raise ValueError(f"{owner}: {setting.name} stands for two settings.")
            found[setting.name] = setting
    return found


def flat(values: Any) -> dict[str, Any]:
    """Settings of a dataclass and of all that it holds, side by side."""
    found = {}
    owner: Any = type(values)
    for name, setting in settings_of(owner).items():
        holder = values
        for step in setting.path:
            holder = getattr(holder, step)
        found[name] = getattr(holder, name)
    return found


def nested(
    owner: Callable[..., Any], values: Mapping[str, Any], base: Any = None
) -> dict[str, Any]:
    """Arguments of a callable from settings side by side; the inverse of :func:`flat`.

    Args:
        owner: Function or class that takes them.
        values: Setting to value; what is left out keeps its default.
        base: Instance whose values are kept in place of the defaults.

    Raises:
        TypeError: If there is no such setting; names the nearest.
    """
    arguments: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    known = settings_of(owner)
    for name, value in values.items():
        if name not in known:
            raise TypeError(unknown_name("setting", name, known))
        path = known[name].path
        (inside.setdefault(path[0], {}) if path else arguments)[name] = value
    for name, inner in inside.items():
        start = getattr(base, name, None)
        # What is left out of a nested dataclass keeps the value of the base, or else its default.
        if start is None:
            start = _default_of(owner, inspect.signature(owner).parameters[name])
        arguments[name] = changed(start, **inner)
    return arguments


def changed(instance: _T, **values: Any) -> _T:
    """A copy of a dataclass with some settings replaced, wherever in it they are."""
    return replace(instance, **nested(type(instance), values, instance))  # type: ignore[type-var]


def read(
    owner: Callable[..., Any], values: Mapping[str, Any], *, kind: str = "setting"
) -> dict[str, Any]:
    """Check and convert the entries of a file against the settings of what they are for.

    Args:
        owner: Function or class that they are for.
        values: Entries; ``-`` in a name is ``_``.
        kind: Word for an entry in messages.

    Raises:
        ValueError: If a name is unknown or a value of a wrong type.
    """
    known = settings_of(owner)
    given = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name in given:
        require_known(kind, name, known)
    return {name: known[name].convert(value) for name, value in given.items()}


def convert(value: Any, hint: Any) -> Any:
    """Convert a plain value, or the text that stands for one, to an annotated type.

    Text is read as everybody reads it: ``1:30`` is no number, ``yes`` no truth value.

    Raises:
        ValueError: If it is not of the type; says in words what the type is.
    """
    if (reader := _READERS.get(origin_of(hint))) is not None:
        return reader(value, hint)
    # isinstance with a protocol raises, unless it is checkable at run time.
    plain = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    if hint is Any or (plain and isinstance(value, hint)):
        return value
    raise ValueError(in_words(hint))


def in_words(hint: Any) -> str:
    """Describe an annotated type in words: ``a list of whole numbers or null``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        # A function or a class cannot be written down.
        plain = [
            in_words(one) for one in inner if one is not NoneType and origin_of(one) in _READERS
        ]
        return " or ".join([*plain, *(["null"] if NoneType in inner else [])])
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin_of(hint) in (tuple, list, Sequence):
        return f"a list of {in_words(inner[0]).removeprefix('a ')}s".replace("texts", "words")
    if origin_of(hint) in (dict, Mapping):
        return "a mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def origin_of(hint: Any) -> Any:
    """Generic type of an annotation, ``tuple`` of ``tuple[int, ...]``; a plain type is its own."""
    return get_origin(hint) or hint


def _union(value: Any, hint: Any) -> Any:
    # Text comes last: it would take what is meant for every other one.
    for one in sorted(get_args(hint), key=lambda each: each is str):
        try:
            return convert(value, one)
        except ValueError:
            continue
    raise ValueError(in_words(hint))


def _choice(value: Any, hint: Any) -> Any:
    choices = (True, False) if hint is bool else (None,) if hint is NoneType else get_args(hint)
    for choice in choices:
        # In a file's words true, false and null; True is no 1.
        text = json.dumps(choice) if choice is None or choice is True or choice is False else choice
        if value == str(text) or (value == choice and type(value) is type(choice)):
            return choice
    raise ValueError(in_words(hint))


def _number(value: Any, hint: Any) -> Any:
    whole = r"[+-]?\d+"
    pattern = whole if hint is int else rf"[+-]?(\d+\.?\d*|\.\d+)([eE]{whole})?"
    if isinstance(value, str) and re.fullmatch(pattern, value):
        # Only what the pattern takes: float() alone reads nan, inf and 1_000, which nobody means.
        value = hint(value)
    # bool is a subclass of int, and true is no number in a file.
    good = _is_number(value) and (hint is float or isinstance(value, int))
    if not good:
        raise ValueError(in_words(hint))
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise ValueError(f"{in_words(hint)} of 63 bits, below {_LARGEST:,}")
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return hint(value)


def _sequence(value: Any, hint: Any) -> Any:
    one = next(iter(get_args(hint)), str)
    if isinstance(value, str):
        text = value
        bare = text[1:-1] if re.fullmatch(r"\[.*\]", text, re.DOTALL) else text
        value = [entry for entry in split_entries(bare) if entry or one is not str]
        value = [] if bare is not text and not bare.strip() else value
    if not isinstance(value, list | tuple):
        raise ValueError(in_words(hint))
    try:
        # A file's number may stand for a word, as -999 for a missing cell.
        entries = [convert(str(e) if one is str and _is_number(e) else e, one) for e in value]
    except ValueError:
        raise ValueError(in_words(hint)) from None
    return entries if origin_of(hint) is list else tuple(entries)


def _is_number(value: object) -> bool:
    """Whether a file's value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(value: Any, hint: Any) -> dict[str, Any]:
    _, of = get_args(hint) or (str, Any)
    if isinstance(value, str) and of is str:
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError("NAME=TEXT,NAME=TEXT")
        return {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, Mapping):
        raise ValueError(in_words(hint))
    return {str(name): convert(str(v) if of is str else v, of) for name, v in value.items()}


def _signature(owner: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(owner, eval_str=True)
    except NameError:
        # An annotation may name what is imported for a type checker alone.
        return inspect.signature(owner)


def _text(value: Any, hint: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(in_words(hint))
    return value


def _path(value: Any, hint: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(in_words(hint))
    return Path(value)


_READERS: dict[Any, Callable[[Any, Any], Any]] = {
    Union: _union, UnionType: _union,
    Literal: _choice, bool: _choice, NoneType: _choice,
    int: _number, float: _number,
    tuple: _sequence, list: _sequence, Sequence: _sequence,
    dict: _mapping, Mapping: _mapping,
    Path: _path, str: _text,
}  # fmt: skip
"""Reader of each annotated type whose values can be written as text."""


def _default_of(owner: Any, parameter: inspect.Parameter) -> Any:
    """Default of a parameter; of a dataclass's field also one that a factory makes."""
    for each in fields(owner) if is_dataclass(owner) else ():
        if each.name == parameter.name and each.default_factory is not MISSING:
            return each.default_factory()
    return parameter.default


def _documented(owner: Callable[..., Any]) -> dict[str, str]:
    """Map each parameter to its entry under Args or Attributes, without markup."""
    text = inspect.getdoc(owner) or ""
    section = re.search(r"^(?:Args|Attributes):\n((?: .*\n?|\n)+)", text, re.MULTILINE)
    # An entry goes on where lines are indented further than its name.
    entries = re.findall(
        r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE
    )
    return {name: plain_text(" ".join(entry.split())) for name, entry in entries}


def split_entries(text: str) -> list[str]:
    """Split text at commas outside of brackets: ``sizes=[64,64],scale=2`` has two entries."""
    return [entry.strip() for entry in _COMMA.split(text)]


def plain_text(text: str) -> str:
    """Remove the markup of names from documentation."""
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text).replace("``", "").replace("`", "")
