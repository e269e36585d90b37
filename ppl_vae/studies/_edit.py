"""Adding seeds and levels to a study's file, whose comments and layout are kept."""

import io
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ppl_vae.files import write_atomically
from ppl_vae.settings_file import parse_settings
from ppl_vae.studies._file import parse_study, read_study
from ppl_vae.studies._plan import Study

_Change = tuple[tuple[str, ...], Any]
"""Keys of a list that gets one more value, or of what is set to the value."""


def add_to_study(
    path: str | os.PathLike[str],
    *,
    seeds: int = 0,
    levels: Mapping[str, Sequence[str]] | None = None,
    trust: bool = False,
) -> Study:
    """Add seeds, the next ones, and levels of factors to a study's file.

    Cells that are done stay as they are; running the study again carries out the new ones.

    Args:
        path: The file, YAML or TOML.
        seeds: How many more.
        levels: Factor to more levels of it. A factor that is not there yet gets the setting that
            all arms had as its first level, which changes the arms' names, so it is refused.
        trust: As for :func:`~ppl_vae.studies.read_study`.

    Returns:
        The study as it is planned now.

    Raises:
        ValueError: If nothing is added, or the new plan is wrong; the file is left as it was.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    before = read_study(path, trust=trust)
    levels = levels or {}
    if seeds < 0 or (seeds == 0 and not any(levels.values())):
        raise ValueError("nothing to add: give seeds=N or levels={FACTOR: [LEVEL]}.")

    text = path.read_text()
    values = parse_settings(text, path.suffix)
    changes: list[_Change] = []
    if isinstance(values.get("seeds"), list):
        # After the largest, as every seed may be there once only.
        changes += [(("seeds",), max(before.seeds) + number) for number in range(1, seeds + 1)]
    elif seeds:
        changes += [(("seeds",), len(before.seeds) + seeds)]
    for factor, added in levels.items():
        if factor not in values.get("factors", {}):
            raise ValueError(
                f"{path} has no factor {factor} (it has {', '.join(before.factors)}): another "
                "factor makes other arms, so plan a study of its own."
            )
        changes += [(("factors", factor), level) for level in added]
    text = _edit_toml(text, changes) if path.suffix == ".toml" else _edit_yaml(text, changes)
    # Checked as a whole before it is written: a file that plans nothing valid is never left behind.
    planned = parse_study(text, path, trust=trust)
    write_atomically(path, text)
    return planned


def _apply(values: Any, change: _Change) -> None:
    (*tables, name), value = change
    for table in tables:
        values = values[table]
    if isinstance(values.get(name), list):
        values[name].append(value)
    else:
        values[name] = value


def _edit_yaml(text: str, changes: Sequence[_Change]) -> str:
    # The loader that keeps comments and quotes, unlike the one for settings.
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    values = yaml.load(text)
    for change in changes:
        _apply(values, change)
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _edit_toml(text: str, changes: Sequence[_Change]) -> str:
    """Try each place where a value may stand; take the first at which the text says the change."""
    for change in changes:
        # tomllib reads only. Trying places keeps comments and layout without a library for writing,
        # and the comparison with the expected values makes a wrong place impossible.
        expected = tomllib.loads(text)
        _apply(expected, change)
        for candidate in _candidates(text, change):
            try:
                if tomllib.loads(candidate) == expected:
                    break
            except tomllib.TOMLDecodeError:
                continue
        else:
            raise ValueError(f"found no place for {change[1]!r} in the text: write it there.")
        text = candidate
    return text


def _candidates(text: str, change: _Change) -> Iterator[str]:
    """Texts with a value in place of each number, before each bracket, or on a first line."""
    (*_, name), value = change
    literal = json.dumps(value, ensure_ascii=False)
    for number in re.finditer(r"\d+", text):
        yield text[: number.start()] + literal + text[number.end() :]
    for bracket in re.finditer(r"\]", text):
        for comma in (", ", " "):
            yield text[: bracket.start()] + comma + literal + text[bracket.start() :]
    yield f"{name} = {literal}\n{text}"
