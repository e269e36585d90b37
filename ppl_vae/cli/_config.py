"""Options to the settings of a run, typed or read from a file."""

import json
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import ppl_vae as pv
from ppl_vae.names import unknown_name
from ppl_vae.settings_file import parse_settings


def import_from_here() -> None:
    """Let classes be found in the folder one works in; last, to shadow nothing."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def config_of(settings: dict[str, Any]) -> Any:
    """The settings of a run, checked: a ``RunConfig``."""
    settings = _one_limit(settings)
    files = {
        name: str(Path(value).resolve())
        for name in ("data", "test_data")
        if (value := settings[name]) and Path(value).suffix and Path(value).exists()
    }
    # Whoever types a class, or has it in a file of settings, wants it imported.
    return pv.runs.RunConfig.from_mapping({**settings, **files}, trust=True)


def _one_limit(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, without a file's limit on training where another one is typed."""
    source = click.get_current_context().get_parameter_source
    limits = ("epochs", *pv.runs.LIMITS)
    typed = [name for name in limits if source(name) == ParameterSource.COMMANDLINE]
    return {k: None if typed and k in limits and k not in typed else v for k, v in settings.items()}


class LayerSizes(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Layer sizes, such as 200,200; a list in a file."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Text or a list to whole numbers."""
        parts = value.split(",") if isinstance(value, str) else value
        parts = [parts] if isinstance(parts, int) else parts
        try:
            return tuple(int(size) for size in parts)
        except (TypeError, ValueError):
            self.fail(f"give layer sizes such as 200,200, got {value!r}", param, ctx)


class ColumnKinds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Columns of a table and their kinds: NAME=KIND,NAME=KIND; a mapping in a file."""

    name = "columns"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """Text or a mapping to a mapping of text."""
        if isinstance(value, Mapping):
            return {str(name): str(kind) for name, kind in value.items()}
        pairs = [pair.partition("=") for pair in str(value).split(",") if pair.strip()]
        if any(not equals for _, equals, _ in pairs):
            self.fail(f"write NAME=KIND,NAME=KIND, got {value!r}", param, ctx)
        return {name.strip(): kind.strip() for name, _, kind in pairs}


class Words(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Words or names, separated by commas; a list in a file."""

    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Text or a list to words; the empty text is none."""
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list | tuple):
            words = [words]
        return tuple(str(word).strip() for word in words if str(word).strip())


class Steps(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of refinement steps, or a word for another way to make a guide for each datum."""

    name = "steps"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Text to a number or that word."""
        word = "laplace"
        if value == word or (isinstance(value, int) and value > 0):
            return value  # type: ignore[no-any-return]
        if not (str(value).isdecimal() and int(value) > 0):
            self.fail(f"give a number of steps, 1 or more, or {word}, got {value!r}", param, ctx)
        return int(value)


class PartSpec(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A prior, likelihood, guide or network: text, or in a file a mapping with class_path."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Mapping[str, Any]:
        """As it is, if it is one of the two."""
        if not isinstance(value, str | Mapping):
            self.fail(f"give a name or a mapping with class_path, got {value!r}", param, ctx)
        if any(kind.outside_class(value) for kind in pv.registry.MODEL_KINDS.values()):
            import_from_here()
        return value


class ObjectiveName(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """An objective: a name with its arguments, or module:Class."""

    name = "objective"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is, as text."""
        if pv.registry.outside_objective(str(value)):
            import_from_here()
        return str(value)


def take_settings(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Take a file's settings as the defaults of the options; what is typed goes before.

    Raises:
        click.BadParameter: If the file is not readable as settings, or names no option.
    """
    if path is None:
        return
    options = {
        name.removeprefix("--").replace("-", "_"): option
        for option in ctx.command.params
        for name in option.opts
        if name.startswith("--") and option is not param
    }
    defaults: dict[str, Any] = {}
    for name, value in _settings(path, options).items():
        option = options.get(str(name).replace("-", "_"))
        if option is None:
            raise click.BadParameter(
                f"{path}: {unknown_name('setting', str(name), sorted(options))}", ctx, param
            )
        if value is not None and option.name is not None:
            several = option.multiple and not isinstance(value, list | tuple)
            defaults[option.name] = [value] if several else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _settings(path: Path, options: Container[str]) -> dict[str, Any]:
    try:
        values = parse_settings(path.read_text(), path.suffix)
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise click.BadParameter(f"{path}: {reason}") from error
    of_a_study = {"factors", "seeds", "evaluation", "methods"}
    if isinstance(values, dict) and any(name not in options for name in of_a_study & set(values)):
        raise click.BadParameter(f"{path} is a study: ppl-vae study run {path} carries it out")
    # A run's own config.json has its settings one level down.
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = values["config"]
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path} holds no settings: write lines such as epochs: 50")
    return json.loads(json.dumps(values, default=str))  # type: ignore[no-any-return]
