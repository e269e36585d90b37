"""Studies as files: YAML or TOML to a checked plan, and a plan as plain values."""

import json
import os
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ppl_vae.components import ComponentSpec, require_no_aliases
from ppl_vae.names import require_known
from ppl_vae.runs import RunConfig, type_in_words
from ppl_vae.settings_file import parse_settings, write_yaml_text
from ppl_vae.studies._plan import Method, Resources, Study

BUDGETS = ("epochs", "updates", "seconds", "decoder_evaluations")
"""Limits of a cell's training, of which one is given."""

_PARTS = ("prior", "likelihood", "guide", "network")
_KEYS = (
    "question",
    "config",
    "factors",
    "seeds",
    "budget",
    "evaluation",
    "measures",
    "reference",
    "confidence",
    "resources",
)


def read_study(path: str | os.PathLike[str], *, trust: bool = False) -> Study:
    """The study that a file plans, all of it checked.

    A file of data that is not found from where one is, is looked for beside the study's file.

    Args:
        path: The file.
        trust: Take classes from outside of this package that it names: their code then runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML or TOML, or something in it is unknown or out of range; names
            the file and the entry.
    """
    path = Path(path)
    return parse_study(_text(path), path, trust=trust)


def parse_study(text: str, path: Path, *, trust: bool = False) -> Study:
    """The study that a text plans, which is or will be the content of the file ``path``.

    Raises:
        ValueError: As :func:`read_study`.
    """
    try:
        values = parse_settings(text, path.suffix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{path} plans nothing: ppl-vae study init writes one to start from.")
    try:
        return study_from_mapping(_beside(values, path), text=text, trust=trust)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no study at {path}: ppl-vae study init {path} writes one.")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text, so no study's file.") from error


def _beside(values: dict[str, Any], path: Path) -> dict[str, Any]:
    config = values.get("config")
    if not isinstance(config, dict):
        return values
    found: dict[str, str] = {}
    for name in ("data", "test_data"):
        data = config.get(name, config.get(name.replace("_", "-")))
        if isinstance(data, str) and Path(data).suffix:
            places = [place for place in (Path(data), path.parent / data) if place.exists()]
            if places:
                found[name] = str(places[0].resolve())
    return {**values, "config": {**config, **found}} if found else values


def study_from_mapping(values: Mapping[str, Any], text: str = "", *, trust: bool = False) -> Study:
    """The study with these values, as a file has them.

    Args:
        values: Of the file.
        text: The file's own text.
        trust: As for :func:`read_study`.

    Raises:
        ValueError: If a name is unknown or a value out of range or of a wrong type.
    """
    _require_keys("entry", values, _KEYS)
    evaluation = _mapping("evaluation", values.get("evaluation"))
    _require_keys("evaluation entry", evaluation, ("split", "limit", "shards", "methods"))
    resources = _mapping("resources", values.get("resources"))
    _require_keys("resources entry", resources, ("cpus", "gpus"))
    config = _mapping("config", values.get("config"))
    if "seed" in config:
        raise ValueError("config: seed is not a setting of a study: give seeds.")
    base = _config({**config, **_budget(values.get("budget"))}, trust=trust)
    chosen: dict[str, Any] = {}
    for name in ("question", "reference"):
        if values.get(name) is not None:
            chosen[name] = str(values[name])
    if values.get("confidence") is not None:
        chosen["confidence"] = _number("confidence", values["confidence"])
    if values.get("seeds") is not None:
        chosen["seeds"] = _seeds(values["seeds"])
    if values.get("measures") is not None:
        chosen["measures"] = tuple(map(str, _list("measures", values["measures"])))
    return Study(
        config=base,
        factors=_factors(base, _mapping("factors", values.get("factors")), trust),
        resources=Resources(**resources),
        text=text,
        **chosen,
        **_evaluation(evaluation),
    )


def study_to_mapping(study: Study) -> dict[str, Any]:
    """The plan as plain values, which :func:`study_from_mapping` takes."""
    config = {k: v for k, v in asdict(study.config).items() if k != "seed"}
    values = {
        "question": study.question,
        "config": {k: v for k, v in config.items() if v != getattr(RunConfig, k, None)},
        "factors": {name: list(levels) for name, levels in study.factors.items()},
        "seeds": list(study.seeds),
        "evaluation": {
            "split": study.split,
            "limit": study.limit,
            "shards": study.shards,
            "methods": [_method_values(method) for method in study.methods],
        },
        "measures": list(study.measures),
        "reference": study.reference,
        "confidence": study.confidence,
        "resources": asdict(study.resources),
    }
    return dict(json.loads(json.dumps(values)))


def write_yaml(study: Study) -> str:
    """The plan as a file's text, without comments."""
    return write_yaml_text(study_to_mapping(study))


def _method_values(method: Method) -> Any:
    if method == Method(method.name):
        return method.name
    label = {} if method.label == Method(method.name).label else {"label": method.label}
    return {"method": method.name, **method.options, **label}


def _require_keys(kind: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        require_known(kind, str(key), known)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is a mapping, such as {name}: {{...: ...}}, got {value!r}.")
    return {str(key): entry for key, entry in value.items()}


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is a list, such as {name}: [...], got {value!r}.")
    return list(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is a number, got {value!r}.")
    return float(value)


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = list(range(value)) if isinstance(value, int) and value > 0 else value
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"seeds is their number, 1 or more, or a list of them, got {value!r}.")
    return tuple(seeds)


def _budget(value: Any) -> dict[str, Any]:
    budget = {name: limit for name, limit in _mapping("budget", value).items() if limit is not None}
    _require_keys("budget", budget, BUDGETS)
    if len(budget) > 1:
        raise ValueError(f"budget is one of {', '.join(BUDGETS)}, got {' and '.join(budget)}.")
    return budget


def _evaluation(values: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if values.get("split") is not None:
        require_known("split", str(values["split"]), ("test", "valid", "train"))
        chosen["split"] = values["split"]
    for name in ("limit", "shards"):
        if values.get(name) is not None:
            if type(values[name]) is not int:
                raise ValueError(f"evaluation: {name} is a whole number, got {values[name]!r}.")
            chosen[name] = values[name]
    if values.get("methods") is not None:
        chosen["methods"] = tuple(map(_method, _list("methods", values["methods"])))
    return chosen


def _method(value: Any) -> Method:
    if isinstance(value, str):
        return Method(value)
    options = _mapping("method", value)
    if "method" not in options:
        raise ValueError(f"a method is its name, or {{method: iwae, particles: 5000}}: {value!r}.")
    name, label = str(options.pop("method")), str(options.pop("label", ""))
    return Method(name, {key.replace("-", "_"): entry for key, entry in options.items()}, label)


def _factors(base: RunConfig, values: Mapping[str, Any], trust: bool) -> dict[str, tuple[Any, ...]]:
    """Every level as the setting's own type."""
    if not values:
        return {"objective": (base.objective,)}
    found: dict[str, tuple[Any, ...]] = {}
    for name, levels in values.items():
        setting = name.replace("-", "_")
        require_known("factor", setting, _settings())
        if not isinstance(levels, list | tuple):
            raise ValueError(f"factor {name} is a list of levels, got {levels!r}.")
        given = [_config({setting: level}, setting, trust=trust) for level in levels]
        found[setting] = tuple(getattr(config, setting) for config in given)
    return found


def _settings() -> list[str]:
    return [field.name for field in fields(RunConfig)]


def _config(values: Mapping[str, Any], only: str | None = None, *, trust: bool) -> RunConfig:
    """Settings converted to their annotated types; all, or one, which takes less time."""
    given = {name.replace("-", "_"): value for name, value in values.items()}
    for name in given:
        require_known("setting", name, _settings())
    require_no_aliases(given)
    # Not for the parser, which would import whatever classes are named inside.
    parts = {name: _part(name, given.pop(name)) for name in _PARTS if name in given}
    try:
        parsed = _parser(only).parse_object(given).as_dict()
        _require_as_written(given, parsed)
    except ArgumentError as error:
        wrong = next((n for n in given if f'"{n}"' in str(error) or f"'{n}'" in str(error)), None)
        if wrong is None:
            raise ValueError(" ".join(str(error).split())) from error
        kind = type_in_words(wrong)
        raise ValueError(f"{wrong} cannot be {given[wrong]!r}: it is {kind}.") from error
    return RunConfig.from_mapping({**parsed, **parts}, trust=trust)


def _part(name: str, value: Any) -> ComponentSpec:
    if not isinstance(value, str | Mapping):
        raise ValueError(f"{name} cannot be {value!r}: give a name or a mapping with class_path.")
    return value


def _require_as_written(given: Mapping[str, Any], parsed: Mapping[str, Any]) -> None:
    """Check that text was not taken for another number or truth value than it is in YAML 1.2."""
    for name, value in given.items():
        is_text = isinstance(value, str) and not isinstance(parsed[name], str)
        if is_text and parse_settings(value) != parsed[name]:
            raise ValueError(f"{name} cannot be {value!r}: it is {type_in_words(name)}.")


@cache
def _parser(only: str | None) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    skipped: set[str | int] = set(_PARTS)
    if only is not None:
        skipped |= {name for name in _settings() if name != only}
    parser.add_class_arguments(RunConfig, skip=skipped)
    return parser
