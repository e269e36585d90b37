"""Options made of settings: names, types, defaults and help of functions' and classes' signatures.

A command says which functions and classes it sets. Their settings are read when its help or its
work needs them, so that ``ppl-vae --help`` imports none of them.
"""

import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from operator import attrgetter
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args

import click
from click.core import ParameterSource

import ppl_vae as pv
from ppl_vae.cli._output import in_options
from ppl_vae.settings import REQUIRED, Setting, convert, origin_of, settings_of

_F = TypeVar("_F", bound=Callable[..., Any])
_MANY = 14
"""Names of a kind that help lists; of more it shows the first half, and where the others are."""
_NONE = re.compile(r"[;.,] None: (.*?)\.?$")
"""Default in words, as a documented text gives it after ``None:``."""
_FLAGS = {"file": "--data", "name": "--engine"}
"""Setting to its flag, where that is not the name with dashes."""
_METAVARS = {
    int: "N", float: "X", str: "TEXT", Path: "PATH", PathLike: "PATH", Mapping: "NAME=TEXT,...",
}  # fmt: skip

folder = click.argument("folder", type=click.Path(path_type=Path))
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else."
)


class Command(click.Command):
    """Command some of whose options are made of settings, and arrive as one mapping each."""

    @property
    def params(self) -> list[click.Parameter]:
        """All parameters, those made of settings too; click adds to this list."""
        # Expanded on first use: reading the settings imports torch, which help does not need.
        if not self._expanded:
            self._expanded += [p for one in self._declared for p in getattr(one, "options", [one])]
        return self._expanded

    @params.setter
    def params(self, declared: list[click.Parameter]) -> None:
        self._declared = declared
        self._expanded: list[click.Parameter] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; of an option that takes one value, two are an error."""
        # click empties the list, and of two values takes the last without a word.
        given = list(args)
        rest = super().parse_args(ctx, args)
        _require_once(ctx, self.make_parser(ctx).parse_args, given)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the values of each group of options under the group's name."""
        if ctx.params.get("trust"):
            import_from_here()
        for group in self._declared:
            if isinstance(group, SettingOptions):
                names = [str(option.name) for option in group.options]
                ctx.params[group.into] = {name: ctx.params.pop(name) for name in names}
                import_classes_of(ctx.params[group.into])
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by section: those of the command first, then groups of settings."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(option, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SettingOptions(click.Option):
    """Options for the settings of a function or class, declared as one.

    Args:
        read: Function that returns the settings by name.
        into: Parameter of the command that takes their values as a mapping.
        section: Heading in the help; settings of a nested dataclass have its name.
        chosen: Names of the settings that become options; none: all.
        without: Names of those that do not.
        several: Names of settings of which several values may be given.
        instead: What to do in place of giving another setting twice, by its name.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, Setting]],
        into: str,
        section: str,
        *,
        chosen: Container[str] = (),
        without: Container[str] = (),
        several: Container[str],
        instead: Callable[[str], str],
    ) -> None:
        super().__init__([f"--{into}"])
        self.into = into
        self._read, self._section = read, section
        self._several, self._instead = several, instead
        self._takes = lambda name: name not in without and (not chosen or name in chosen)
        self._made: list[click.Option] = []

    @property
    def options(self) -> list[click.Option]:
        """One option for each setting."""
        if not self._made:
            self._made = [
                SettingOption(
                    setting,
                    _FLAGS.get(name, f"--{name.removeprefix('num_').replace('_', '-')}"),
                    setting.path[0].capitalize() if setting.path else self._section,
                    several=name in self._several,
                    instead=self._instead(name),
                )
                for name, setting in self._read().items()
                if self._takes(name)
            ]
        return self._made


class SettingOption(click.Option):
    """Option for a setting: its type, default and help are the setting's."""

    def __init__(
        self, setting: Setting, flag: str, section: str, *, several: bool, instead: str
    ) -> None:
        text, default, words = setting.text, setting.default, ""
        # The text says what None stands for; click shows it as the default.
        if found := _NONE.search(text):
            text, words = f"{text[: found.start()]}.", found[1] if default is None else ""
        self.section, self.setting, self.instead = section, setting, instead
        super().__init__(
            [flag, setting.name],
            is_flag=setting.hint is bool,
            multiple=several,
            default=None if default is REQUIRED else (default,) if several else default,
            type=None if setting.hint is bool else _Value(setting.hint),
            metavar=None if setting.hint is bool else _metavar(setting),
            help=in_options(" ".join(filter(None, [text, _known(setting.name)]))),
            show_default=True,
        )
        self._words = words

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The default as it is typed, or in words."""
        extra, value = super().get_help_extra(ctx), self.setting.default
        if isinstance(value, tuple):
            extra["default"] = ",".join(map(str, value))
        # False, empty and None say nothing as defaults; a 0 does, and is put back below.
        if not extra.get("default") or not value:
            extra.pop("default", None)
        if self._words:
            extra["default"] = self._words
        if value == 0 and value is not False:
            extra["default"] = str(value)
        return extra


class _Value(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Value of an annotated type, as text or from a file."""

    name = "value"

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text, or a value of a file, to the type."""
        try:
            return convert(value, self.hint)
        except ValueError as error:
            # Words of files: nobody types null.
            self.fail(f"{value!r} is not {str(error).removesuffix(' or null')}.", param, ctx)


def _require_once(ctx: click.Context, parse: Callable[..., Any], arguments: list[str]) -> None:
    """Check that no option that takes one value was given two.

    Flags say the same, however often.

    Args:
        ctx: Context of the command.
        parse: click's parser.
        arguments: What was typed, which click has accepted.

    Raises:
        click.UsageError: If one was; names both values, and what to do instead.
    """
    order = parse(args=list(arguments))[2]
    for option in dict.fromkeys(order):
        single = isinstance(option, click.Option) and not (option.is_flag or option.multiple)
        if single and order.count(option) > 1:
            values = _values_of(option, parse, arguments)
            commas = ", with commas between its entries" if _is_list(option) else ""
            instead = getattr(option, "instead", "")
            raise click.UsageError(
                f"{option.opts[0]} takes one value, and is given {' and '.join(values)}: give one"
                f"{commas}{f', or {instead}' if instead else ''}.",
                ctx,
            )


def _is_list(option: click.Parameter) -> bool:
    """Whether an option's value has entries with commas between them."""
    return str(option.metavar or "").endswith(",...")


def _values_of(
    option: click.Parameter, parse: Callable[..., Any], arguments: list[str]
) -> list[str]:
    """All values typed for an option, of which click's parser keeps the last."""
    values: list[str] = []
    for end in range(1, len(arguments) + 1):
        try:
            given, _, order = parse(args=arguments[:end])
        except click.UsageError:
            # The last option's value is not among them yet.
            continue
        if order.count(option) > len(values):
            values.append(str(given[str(option.name)]))
    return values


def settings(
    owner: str | Callable[[], Mapping[str, Setting]],
    into: str,
    section: str = "Options",
    *,
    several: Iterable[str] = (),
    instead: Callable[[str], str] = lambda _name: "",
    **names: Container[str],
) -> Callable[[_F], _F]:
    """Options for the settings of a function or class of ``ppl_vae``, as a decorator.

    Args:
        owner: Where it is: ``runs.RunConfig``; or a function that returns settings by name.
        into: Parameter of the command that takes their values as a mapping.
        section: Heading in the help.
        several: Names of which several values may be given.
        instead: What to do in place of giving another setting twice, by its name.
        names: ``chosen``, or ``without``.
    """

    def read() -> Mapping[str, Setting]:
        if callable(owner):
            return owner()
        return settings_of(attrgetter(owner)(pv))

    def add(command: _F) -> _F:
        group = SettingOptions(
            read, into, section, several=tuple(several), instead=instead, **names
        )
        # Where click's decorators collect options, so that both kinds keep their order.
        declared = command.__dict__.setdefault("__click_params__", [])
        declared.append(group)
        return command

    return add


rows = settings("runs.evaluate_run", "on", without=("run", "estimator", "progress", "engine"))
opening = settings("runs.open_run", "opening", without=("folder",))
methods = settings(lambda: pv.registry.method_settings(), "options", "Method")
engine = settings("engines.Resources.engine", "engine", without=("self",))
resources = settings("engines.Resources", "resources")
place = settings("runs.train_run", "place", chosen=("data_root", "device", "tensorboard"))


def engine_of(asked: dict[str, Any]) -> Any:
    """The engine that options ask for, with its resources."""
    # Made first: a number that cannot be is refused as such, whatever the engine.
    granted = pv.engines.Resources(**asked["resources"])
    if granted.gpus and asked["engine"]["name"] == "in-process":
        raise click.BadParameter("GPUs are granted on --engine ray.", param_hint="--gpus")
    return granted.engine(**asked["engine"])


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Select the values of options that were typed or stand in a file of settings."""
    source = click.get_current_context().get_parameter_source
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {name: value for name, value in values.items() if source(name) in given}


def import_classes_of(values: Mapping[str, Any]) -> None:
    """Let the classes that options name be found: whoever types one wants it imported."""
    kinds = pv.registry.KINDS
    for name in kinds.keys() & values.keys():
        for value in values[name] if isinstance(values[name], list | tuple) else [values[name]]:
            spec = value.partition("+")[0] if isinstance(value, str) else value
            if kinds[name].outside_class(spec):
                import_from_here()


def import_from_here() -> None:
    """Append the working folder to the module search path; last, so that it shadows nothing."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _known(name: str) -> str:
    """Names that an option takes, where it names a component."""
    kinds = pv.registry.KINDS
    names = list(pv.networks.ACTIVATIONS if name == "activation" else kinds.get(name, ()))
    if not names:
        return ""
    listing = "objectives" if name == "objective" else "parts"
    if len(names) > _MANY:
        names = [*names[: _MANY // 2], f"... (ppl-vae {listing} lists them)"]
    own = name in kinds and kinds[name].base is not None
    return f"Known: {', '.join(names)}{'; or module:Class:ARGUMENTS' if own else ''}."


def _metavar(setting: Setting) -> str:
    """Placeholder of a value in the help: ``N``, ``N,...``, ``[test|valid|train]``."""
    if setting.name in pv.registry.KINDS:
        return "NAME"
    hint = setting.hint
    members = get_args(hint) if origin_of(hint) in (Union, UnionType) else (hint,)
    return next(filter(None, map(_stand_in, reversed(members))), "TEXT")


def _stand_in(hint: Any) -> str:
    kind, inner = origin_of(hint), get_args(hint)
    if kind is Literal:
        return f"[{'|'.join(map(str, inner))}]"
    return f"{_stand_in(inner[0])},..." if kind is tuple else _METAVARS.get(kind, "")
