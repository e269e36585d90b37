"""Settings as text: YAML 1.2, TOML or JSON to plain values, and values to YAML."""

import io
import json
import tomllib
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

# A few lines of nested aliases can stand for billions of entries, which fill the memory.
_LONGEST, _MOST = 10**6, 10**5
"""Characters of a file of settings, and entries in it with aliases written out."""


def parse_settings(text: str, suffix: str = ".yaml") -> Any:
    """Plain values of a text: mappings, lists, text, numbers, truth values, None.

    YAML is that of version 1.2: ``1:30``, ``yes`` and ``on`` are text, ``1e-3`` is a number and
    ``010`` is ten.

    Args:
        text: What the file holds.
        suffix: ``.toml``, ``.json``, or anything else for YAML.

    Raises:
        ValueError: If it is not of that format, or a key stands twice in one mapping.
    """
    if len(text) > _LONGEST:
        raise ValueError(
            f"{len(text):,} characters are no settings, expected {_LONGEST:,} at most."
        )
    try:
        return _parse(text, suffix)
    except RecursionError as error:
        raise ValueError("nested too deeply to be settings.") from error


def _parse(text: str, suffix: str) -> Any:
    if suffix.lower() == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"no readable TOML: {error}") from error
    if suffix.lower() == ".json":
        return _parse_json(text)
    return _parse_yaml(text)


def write_yaml_text(values: Mapping[str, Any]) -> str:
    """Write values as YAML 1.2, which :func:`parse_settings` reads back."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    # So wide that no line is folded.
    yaml.width = 10**6
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _parse_yaml(text: str) -> Any:
    try:
        # The C library behind the other loader reads YAML 1.1.
        yaml = YAML(typ="safe", pure=True)
        node = yaml.compose(text)
        if node is None:
            return None
        # Looked at as nodes, in which an alias is one object, before values are made of them.
        _require_small(node)
        return yaml.load(text)
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ValueError(f"{key!r} stands twice, again in {_line(error)}: keep one.") from error
    except MarkedYAMLError as error:
        raise ValueError(f"no readable YAML: {error.problem} in {_line(error)}") from error
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no readable YAML: {reason}") from error


def _require_small(root: Any) -> None:
    """Refuse aliases that stand for more than a settings file holds.

    Raises:
        ValueError: If all of it, with every alias written out, has too many entries, or no end.
    """
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) in sizes:
            # 0 marks a node whose entries are being counted: to meet it again is a cycle.
            if sizes[id(node)] == 0:
                raise ValueError("an alias stands inside of what it stands for.")
            return sizes[id(node)]
        sizes[id(node)] = 0
        entries = node.value if isinstance(node.value, list) else []
        flat = [part for e in entries for part in (e if isinstance(e, tuple) else (e,))]
        sizes[id(node)] = 1 + sum(map(size, flat))
        return sizes[id(node)]

    if size(root) > _MOST:
        raise ValueError(f"aliases stand for more than {_MOST:,} entries.")


def _line(error: MarkedYAMLError) -> str:
    return f"line {error.problem_mark.line + 1}" if error.problem_mark else "the text"


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # JSON's own reader keeps the last of two equal keys without a word.
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{twice!r} stands twice: keep one.")
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"no readable JSON: {error}") from error
