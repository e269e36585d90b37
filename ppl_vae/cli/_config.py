"""Settings of a run from options, and from a file whose values are the options' defaults."""

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

import ppl_vae as pv
from ppl_vae.names import unknown_name
from ppl_vae.settings import convert
from ppl_vae.settings_file import parse_settings

_F = TypeVar("_F", bound=Callable[..., Any])


def config_file(command: _F) -> _F:
    """Option ``--config FILE``, whose settings are defaults of all other options."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        # Eager: the defaults must be set before other options are read.
        is_eager=True,
        expose_value=False,
        callback=_take_settings,
        help="YAML, TOML or JSON with the settings below, or the config.json of a run; options "
        "that are typed go before it.",
    )(command)


def config_of(values: Mapping[str, Any]) -> Any:
    """The settings of a run, checked: a ``RunConfig``."""
    source = click.get_current_context().get_parameter_source
    limits = pv.training.LIMITS
    here = [name for name in limits if source(name) == ParameterSource.COMMANDLINE]
    # A limit on training that is typed replaces that of a file.
    left_out = set(limits) - set(here) if here else set()
    files = {
        name: str(Path(value).resolve())
        # In full, so that the run can be opened from another folder.
        for name in ("data", "test_data")
        if (value := values[name]) and Path(value).suffix and Path(value).exists()
    }
    kept = {name: value for name, value in values.items() if name not in left_out}
    return pv.runs.RunConfig.of(**{**kept, **files})


def _take_settings(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Take a file's settings as the defaults of the options; what is typed goes before.

    Raises:
        click.BadParameter: If the file is not readable as settings, or names no option.
    """
    if path is None:
        return
    options: dict[str, click.Option] = {}
    shown: set[str] = set()
    for option in ctx.command.params:
        if isinstance(option, click.Option) and option is not param and option.name is not None:
            flags = [flag.removeprefix("--").replace("-", "_") for flag in option.opts]
            options |= dict.fromkeys([option.name, *flags], option)
            shown |= {flag for flag in flags if len(flag) > 1}
    defaults: dict[str, Any] = {}
    for name, value in _settings_in(path, options).items():
        taken = options.get(str(name).replace("-", "_"))
        if taken is None:
            raise click.BadParameter(
                f"{path}: {unknown_name('setting', str(name), sorted(shown))}", ctx, param
            )
        if value is not None and taken.is_flag:
            try:
                # click would take yes, on and 1, and fail on what is no text.
                value = convert(value, bool)
            except ValueError as error:
                message = f"{path}: {name} cannot be {value!r}: it is {error}."
                raise click.BadParameter(message, ctx, param) from None
        if value is not None:
            several = taken.multiple and not isinstance(value, list | tuple)
            defaults[str(taken.name)] = [value] if several else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _settings_in(path: Path, options: Container[str]) -> dict[str, Any]:
    try:
        values = parse_settings(path.read_text(), path.suffix)
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise click.BadParameter(f"{path}: {reason}") from error
    of_a_study = {"factors", "seeds", "evaluation"}
    if isinstance(values, dict) and any(name not in options for name in of_a_study & set(values)):
        raise click.BadParameter(f"{path} is a study: ppl-vae study run {path} carries it out")
    # A run's own config.json has its settings one level down.
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = values["config"]
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path} holds no settings: write lines such as epochs: 50")
    # A date of YAML or TOML becomes text, the form that options read.
    return json.loads(json.dumps(values, default=str))  # type: ignore[no-any-return]
