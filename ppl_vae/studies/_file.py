"""Studies as files: a file to a checked plan, a plan to plain values, a template."""

import json
import os
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.engines import Resources
from ppl_vae.files import not_a_file
from ppl_vae.names import require_known
from ppl_vae.runs import RunConfig, require_ours
from ppl_vae.settings import flat, nested, read, settings_of
from ppl_vae.settings_file import parse_settings, write_yaml_text
from ppl_vae.studies._plan import Method, Study
from ppl_vae.training import LIMITS

_SECTIONS = {
    "budget": LIMITS,
    "evaluation": ("split", "limit", "shards", "methods"),
    "resources": tuple(settings_of(Resources)),
}
"""Entries of a file that hold settings of a study, or of its training, one level down."""
_ENTRIES = (
    "question", "config", "factors", "seeds", "budget", "evaluation", "measures", "reference",
    "confidence", "resources",
)  # fmt: skip
_WIDTH = 100


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
    if not path.is_file():
        raise not_a_file(path, f"no study at {path}: write study_template() there to start from.")
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text, so no study's file.") from error
    return parse_study(text, path, trust=trust)


def parse_study(text: str, path: Path, *, trust: bool = False) -> Study:
    """The study that a text plans, which is or will be the content of the file ``path``.

    Raises:
        ValueError: As :func:`read_study`.
    """
    try:
        values = parse_settings(text, path.suffix)
        if not isinstance(values, dict) or not values:
            raise ValueError("it plans nothing: start from study_template().")
        return study_from_mapping(_beside(values, path), text=text, trust=trust)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _beside(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values, with files of data that are beside the study's under their full names."""
    config = values.get("config")
    if not isinstance(config, dict):
        return values
    located: dict[str, str] = {}
    for name in ("data", "test_data"):
        data = config.get(name, config.get(name.replace("_", "-")))
        if isinstance(data, str) and Path(data).suffix:
            places = [place for place in (Path(data), path.parent / data) if place.exists()]
            if places:
                # In full, since workers and later commands may start in another folder.
                located[name] = str(places[0].resolve())
    return {**values, "config": {**config, **located}} if located else values


def study_from_mapping(values: Mapping[str, Any], text: str = "", *, trust: bool = False) -> Study:
    """The study with these values, as a file has them.

    Args:
        values: Values of the file.
        text: The file's own text.
        trust: As for :func:`read_study`.

    Raises:
        ValueError: If a name is unknown or a value out of range or of a wrong type.
    """
    _require_names("entry", values, _ENTRIES)
    # An entry left empty in YAML is null, and keeps its default.
    given = {name: value for name, value in values.items() if value is not None}
    config, factors = (_mapping(name, given.pop(name, None)) for name in ("config", "factors"))
    sections = {name: _mapping(name, given.pop(name, None)) for name in _SECTIONS}
    for name, section in sections.items():
        kind = name if name == "budget" else f"{name} entry"
        _require_names(kind, section, _SECTIONS[name])
        sections[name] = {key: value for key, value in section.items() if value is not None}
    if "seed" in config:
        raise ValueError("config: seed is not a setting of a study: give seeds.")
    base = RunConfig.from_mapping({**config, **sections["budget"]}, trust=trust)
    given |= {**sections["evaluation"], **sections["resources"]}
    chosen: dict[str, Any] = {}
    if "methods" in given:
        chosen["methods"] = tuple(map(_method, _list("methods", given.pop("methods"))))
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"])
    chosen |= nested(Study, read(Study, given))
    return Study(base, _factors(base, factors, trust), text=text, **chosen)


def study_to_mapping(study: Study) -> dict[str, Any]:
    """The plan as plain values, which :func:`study_from_mapping` takes."""
    usual, own = RunConfig().given(), flat(study)
    own["methods"] = [_method_values(method) for method in study.methods]
    config = study.config.given().items()
    own["config"] = {k: v for k, v in config if v != usual[k] and k != "seed"}
    sections = {
        name: {key: own[key] for key in keys}
        for name, keys in _SECTIONS.items()
        if name != "budget"
    }
    values = {name: {**own, **sections}.get(name) for name in _ENTRIES if name != "budget"}
    return dict(json.loads(json.dumps(values)))


def write_yaml(study: Study) -> str:
    """The plan as a file's text, without comments."""
    return write_yaml_text(study_to_mapping(study))


def study_template(data: str = "digits") -> str:
    """Text of a study's file to start from; what an entry means stands above it.

    Args:
        data: Data set or file of data.
    """
    texts = {name: own.text for name, own in settings_of(RunConfig).items()}
    settings = settings_of(Study)
    texts |= {name: setting.text for name, setting in settings.items()}
    example: dict[str, Any] = {
        "question": "Does a tighter bound give a better model?",
        "config": {
            "data": data, "latent": 20, "hidden": [100, 100], "learning_rate": 3e-3, "patience": 20
        },
        "factors": {"objective": ["elbo", "iwae:50"]},
        "seeds": 5,
        "epochs": 200,
        "methods": ["auto"],
        "cpus": 1,
    }  # fmt: skip
    lines = []
    for name in _ENTRIES:
        keys = [key for key in _SECTIONS.get(name, (name,)) if key in example or key in settings]
        inside = "  " if name in _SECTIONS else ""
        lines += ["", f"{name}:"] if inside else [""]
        for key in keys:
            comment = textwrap.wrap(texts[key], _WIDTH - 4 - len(inside))
            lines += [f"{inside}# {line}" for line in comment]
            value = example.get(key, settings[key].default if key in settings else None)
            if isinstance(value, dict):
                inner = [f"  {each}: {json.dumps(entry)}" for each, entry in value.items()]
                lines += [f"{key}:", *inner]
            else:
                lines.append(f"{inside}{key}: {json.dumps(value)}")
    return "\n".join(lines[1:]) + "\n"


def _require_names(kind: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
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


def _seeds(value: Any) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and value > 0 else value
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"seeds is their number, 1 or more, or a list of them, got {value!r}.")
    return seeds


def _method(value: Any) -> Method:
    if isinstance(value, str):
        return Method(value)
    options = _mapping("method", value)
    if "method" not in options:
        raise ValueError(f"a method is its name, or {{method: iwae, particles: 5000}}: {value!r}.")
    name, label = str(options.pop("method")), str(options.pop("label", ""))
    return Method(name, {key.replace("-", "_"): entry for key, entry in options.items()}, label)


def _method_values(method: Method) -> Any:
    if method == Method(method.name):
        return method.name
    label = {} if method.label == Method(method.name).label else {"label": method.label}
    return {"method": method.name, **method.options, **label}


def _factors(base: RunConfig, values: Mapping[str, Any], trust: bool) -> dict[str, tuple[Any, ...]]:
    """Factor to its levels, each of its setting's own type."""
    factors: dict[str, tuple[Any, ...]] = {}
    for name, levels in values.items():
        setting = name.replace("-", "_")
        require_known("factor", setting, settings_of(RunConfig))
        factors[setting] = tuple(_list(f"factor {name}", levels))
        if not trust:
            # Before anything is parsed: to parse a class path imports its module.
            for level in factors[setting]:
                require_ours({setting: level})
    return factors or {"objective": (base.objective,)}
