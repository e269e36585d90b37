"""Options whose defaults, and the names in whose help, are those of the objects that they set."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

import ppl_vae as pv

_F = TypeVar("_F", bound=Callable[..., Any])


class Setting(click.Option):
    """Option that reads its default where it is defined, when help or the command needs it.

    Args:
        declarations: Names of the option, as click takes them.
        of: Callable that has the default in its signature, as a path in ``ppl_vae``:
            ``runs.RunConfig``. None: the option has no default.
        parameter: Its parameter, by default the option's own name.
        otherwise: What help says where the default is None, or a function that tells it.
        names: Names that replace ``{names}`` in the help.
        attributes: Further arguments of ``click.Option``.
    """

    def __init__(
        self,
        declarations: Sequence[str],
        *,
        of: str | None = None,
        parameter: str | None = None,
        otherwise: str | Callable[[], str] = "",
        names: Callable[[], Iterable[str]] | None = None,
        **attributes: Any,
    ) -> None:
        attributes.setdefault("type", str)
        if of is not None:
            attributes["default"] = self._read_default
        super().__init__(declarations, show_default=True, **attributes)
        self.of, self.parameter = of, parameter or self.name
        self.otherwise, self.names = otherwise, names

    def _read_default(self) -> Any:
        value = default_of(str(self.of), str(self.parameter))
        return (value,) if self.multiple and isinstance(value, str) else value

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """The value, also where click would show a function."""
        return super().get_default(ctx, call=True)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The default as it is typed, or in words."""
        extra = super().get_help_extra(ctx)
        value = self.get_default(ctx) if self.of is not None else None
        if isinstance(value, tuple) and not self.multiple:
            extra["default"] = ",".join(map(str, value))
        elif value is None or value == {}:
            extra.pop("default", None)
            text = self.otherwise if isinstance(self.otherwise, str) else self.otherwise()
            if text:
                extra["default"] = text
        return extra

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help, names filled in."""
        record = super().get_help_record(ctx)
        if record is None or self.names is None:
            return record
        return record[0], record[1].replace("{names}", ", ".join(self.names()))


def setting(*declarations: str, **attributes: Any) -> Callable[[_F], _F]:
    """A :class:`Setting` as a decorator, as ``click.option`` is one."""
    return click.option(*declarations, cls=Setting, **attributes)


def default_of(path: str, parameter: str) -> Any:
    """Default of a parameter, or of a field, of the callable at ``path`` in ``ppl_vae``.

    Raises:
        AttributeError, KeyError: If there is none.
    """
    owner: Any = pv
    for name in path.split("."):
        owner = getattr(owner, name)
    if dataclasses.is_dataclass(owner):
        field = {field.name: field for field in dataclasses.fields(owner)}[parameter]
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return inspect.signature(owner).parameters[parameter].default
