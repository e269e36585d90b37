"""More seeds or levels in a study's file, its comments and layout kept."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from ruamel.yaml import YAML

from ppl_vae.files import write_atomically
from ppl_vae.studies._file import parse_study, read_study
from ppl_vae.studies._plan import Study


def add_to_study(
    path: Path,
    *,
    seeds: int = 0,
    levels: Mapping[str, Sequence[str]] | None = None,
    trust: bool = False,
) -> Study:
    """Add seeds, the next ones, and levels of factors to a study's file.

    Cells that are done stay as they are; ``ppl-vae study run`` carries out the new ones.

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
    before = read_study(path, trust=trust)
    levels = levels or {}
    if seeds < 0 or (seeds == 0 and not any(levels.values())):
        raise ValueError("nothing to add: give seeds=N or levels={FACTOR: [LEVEL]}.")

    def change(values: Any) -> None:
        if seeds:
            values["seeds"] = _with_more_seeds(values.get("seeds"), before.seeds, seeds)
        for factor, added in levels.items():
            if factor not in values.get("factors", {}):
                raise ValueError(
                    f"{path} has no factor {factor} (it has {', '.join(before.factors)}): another "
                    "factor makes other arms, so plan a study of its own."
                )
            for level in added:
                values["factors"][factor].append(level)

    text = _changed(path, change)
    planned = parse_study(text, path, trust=trust)
    write_atomically(path, text)
    return planned


def _with_more_seeds(there: Any, seeds: tuple[int, ...], more: int) -> Any:
    """A number stays a number; a list gets the next ones."""
    first = max(seeds) + 1
    if isinstance(there, list):
        there.extend(range(first, first + more))
        return there
    return len(seeds) + more


def _changed(path: Path, change: Callable[[Any], None]) -> str:
    text = path.read_text()
    if path.suffix == ".toml":
        document = tomlkit.parse(text)
        change(document)
        return tomlkit.dumps(document)
    yaml = _yaml()
    values = yaml.load(text)
    change(values)
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    return yaml
