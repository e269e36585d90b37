"""Components by name: what the names of a kind stand for, and the one way to write a component.

A component is written ``NAME``, ``NAME:ARGUMENT,...`` or ``module:Class:ARGUMENT,...``, with
arguments as in a Python call of the class: values in the order of its parameters, as far as these
may stand without a name, then ``parameter=value``. In a file it may be a mapping ``{class_path:
module.Class, init_args: {...}}``. What its user knows and the class asks for by name (``latent``,
``data``, ``objective``, ...) is given to it when it is built.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, final

from ppl_vae._renamed import RENAMED
from ppl_vae.names import did_you_mean, unknown_name
from ppl_vae.settings import REQUIRED, Setting, nested, plain_text, settings_of, split_entries

ComponentSpec = str | Mapping[str, Any]
"""A component as it is written."""

Class = Any
"""A class, or a function that builds like one."""

MODEL_CONTEXT = frozenset(
    ["latent", "features", "data", "data_mean", "encoder", "network", "image_shape", "columns",
     "bodies", "encoders", "conditionals"]
)  # fmt: skip
"""Arguments that the builder of a model fills in for a prior, a likelihood or a guide."""


@final
@dataclass(frozen=True)
class Component:
    """A class and all of its own arguments.

    Attributes:
        kind: Kind of the component, for messages.
        text: The component as it was written.
        build: The class.
        arguments: Its own arguments, those with defaults too.
    """

    kind: "Kind"
    text: str
    build: Class
    arguments: dict[str, Any]

    def __call__(self, *first: Any, **context: Any) -> Any:
        """Build it, with its first arguments and whatever else it asks for of the context.

        Raises:
            ValueError: If the class refuses its arguments; names the component.
        """
        asked = inspect.signature(self.build).parameters
        # By name, so that a class asks only for what it needs.
        given = {name: value for name, value in context.items() if name in asked}
        try:
            return self.build(*first, **given, **nested(self.build, self.arguments))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.kind.name} {self.text}: {error}") from error
        except Exception as error:
            if is_ours(class_path(self.build)):
                raise
            # A class of the user's may fail in any way.
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.kind.name} {self.text} cannot be built: {reason}") from error

    def __str__(self) -> str:
        given = ",".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{class_path(self.build)}:{given}" if given else class_path(self.build)

    def num_outputs(self, size: int, **context: Any) -> int:
        """Outputs that its network must have for ``size`` features or latent dimensions."""
        counted = getattr(self.build, "num_outputs", None)
        if counted is None:
            return size
        _, *asked = inspect.signature(counted).parameters
        known = {**context, **self.arguments}
        return int(counted(size, **{name: known[name] for name in asked if name in known}))

    def as_mapping(self) -> dict[str, Any]:
        """The component as class path and complete arguments, for a file."""
        return {"class_path": class_path(self.build), "init_args": dict(self.arguments)}


@final
@dataclass(frozen=True, eq=False)
class Kind(Mapping[str, Class]):
    """A kind of component: its names, in the order of the documentation, and their classes.

    Attributes:
        name: The kind, in messages.
        classes: Name to class.
        base: What a class from outside of this package must be a subclass of; None: only the
            names are taken.
        context: Parameters that whoever builds a component fills in; all others are its own.
        converters: Parameter to a function from what is written to its value; all others are
            converted by their annotations.
    """

    name: str
    classes: Mapping[str, Class]
    base: type | None = None
    context: frozenset[str] = frozenset()
    converters: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Class:
        return self.classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def parse(self, spec: ComponentSpec) -> Component:
        """Read what ``spec`` names, and check its arguments against the annotations.

        Raises:
            ValueError: If the class is unknown, or an argument unknown, missing or of a wrong type.
        """
        given: Mapping[str, Any]
        if isinstance(spec, Mapping):
            name, given = self._path_of(spec)
            build, text = self.resolve(name), str(spec["class_path"])
        else:
            name, written = self.split(spec)
            build, text = self.resolve(name), repr(spec)
            given = self._by_name(text, build, written)
        return Component(self, text, build, self.checked(text, build, given))

    def split(self, text: str) -> tuple[str, list[str]]:
        """The name, or ``module:Class``, and the arguments behind it."""
        name, _, rest = text.partition(":")
        # A name of the kind has arguments behind its colon; anything else may be module:Class.
        if name not in self and rest:
            attribute, _, rest = rest.partition(":")
            name = f"{name}:{attribute}"
        return name, split_entries(rest) if rest else []

    def outside_class(self, spec: object) -> str | None:
        """Return ``module:Class`` of a component from outside of this package; import nothing."""
        if isinstance(spec, Mapping):
            path = spec.get("class_path")
            is_path = isinstance(path, str) and path not in self and bool(re.search("[.:]", path))
        elif isinstance(spec, str):
            path = self.split(spec)[0]
            is_path = is_class_path(path)
        else:
            return None
        return str(path) if is_path and not is_ours(str(path)) else None

    def parameters(self, build: Class) -> dict[str, Setting]:
        """Parameters of a class that are a component's own, by name."""
        return {n: own for n, own in settings_of(build).items() if n not in self.context}

    def checked(self, text: str, build: Class, given: Mapping[str, Any]) -> dict[str, Any]:
        """Convert all own arguments to their annotated types.

        Raises:
            ValueError: If one is unknown, missing or of a wrong type.
        """
        own = self.parameters(build)
        for name in given:
            if name not in own:
                what = f"{self.name} {text}: {unknown_name('argument', name, own)}"
                raise ValueError(what if own else f"{what} {self._taken(build)}")
        arguments = {}
        for name, setting in own.items():
            if setting.hint is REQUIRED:
                raise ValueError(
                    f"{self.name} {text}: parameter {name!r} of {build.__name__} has no "
                    f"annotation, by which its value is read: write {name}: int, or whatever it is."
                )
            if name not in given and setting.default is REQUIRED:
                raise ValueError(f"{self.name} {text}: {name} must be given. {self._taken(build)}")
            arguments[name] = setting.default
            if name in self.converters and name in given:
                arguments[name] = self.converters[name](given[name])
            elif name in given:
                try:
                    arguments[name] = setting.convert(given[name])
                except ValueError as error:
                    # The rest repeats the type, which the list of parameters says.
                    reason = str(error).partition(": ")[0]
                    raise ValueError(
                        f"{self.name} {text}: {reason}. {self._taken(build)}"
                    ) from None
        return arguments

    def resolve(self, name: str) -> Class:
        """The class called ``name``, or the one at ``module:Class``.

        A class of this package must be one of the kind's, any other a subclass of its base: a
        path is not a way to call functions.

        Raises:
            ValueError: If there is none; says which names are known, or why the module cannot be
                imported.
        """
        if name in self:
            return self[name]
        module, _, attribute = name.partition(":")
        if self.base is None or not is_class_path(name):
            raise ValueError(unknown_name(self.name, name, self))
        imported = self._import(name, module)
        if is_ours(module) and not hasattr(imported, attribute):
            # Files of the last version name classes as they were called then.
            attribute = RENAMED.get(attribute, attribute)
        if not hasattr(imported, attribute):
            hint = did_you_mean(attribute, vars(imported))
            raise ValueError(
                f"{self.name} {name!r}: module {module} has no attribute "
                f"{attribute!r}{hint and f'; {hint}'}"
            )
        build = getattr(imported, attribute)
        # By the class and not by its path: a class may move between modules of this package.
        if any(build is ours for ours in self.values()):
            return build
        if is_ours(module):
            raise ValueError(
                f"{self.name} {name!r} is no {self.name} of this package: known: {', '.join(self)}."
            )
        # Not any callable: a path such as os:system in a file would be a way to run commands.
        if not (isinstance(build, type) and issubclass(build, self.base)):
            what = "class" if isinstance(build, type) else type(build).__name__
            wanted = class_path(self.base).replace(".modules.module.", ".")
            raise ValueError(f"{self.name} {name!r} is a {what}, expected a subclass of {wanted}.")
        return build

    def form(self, name: str) -> str:
        """Form in which a component is written: ``vamp[:COMPONENTS,WEIGHTED]``."""
        own = self.parameters(self[name]).values()
        required = [_form_of(p) for p in own if p.default is REQUIRED]
        optional = [_form_of(p) for p in own if p.default is not REQUIRED]
        text = f"{name}:{','.join(required)}" if required else name
        if not optional:
            return text
        return f"{text}[{',' if required else ':'}{','.join(optional)}]"

    def summary(self, name: str) -> str:
        """The first line of the class's documentation, without markup."""
        return plain_text((inspect.getdoc(self[name]) or "").partition("\n")[0])

    def _path_of(self, spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        for name in spec:
            if name not in ("class_path", "init_args"):
                known = ("class_path", "init_args")
                raise ValueError(unknown_name(f"{self.name} entry", str(name), known))
        path, arguments = spec.get("class_path"), spec.get("init_args") or {}
        if not isinstance(path, str) or not isinstance(arguments, Mapping):
            raise ValueError(
                f"{self.name}: write class_path: module.Class and init_args: a mapping."
            )
        # Dots alone, as other tools write a class path; the last one is before the class.
        if path not in self and ":" not in path and "." in path:
            module, _, name = path.rpartition(".")
            path = f"{module}:{name}"
        return path, dict(arguments)

    def _by_name(self, text: str, build: Class, written: list[str]) -> dict[str, str]:
        own = self.parameters(build)
        unnamed = [name for name, setting in own.items() if setting.unnamed]
        given: dict[str, str] = {}
        for position, value in enumerate(written):
            name, equals, rest = value.partition("=")
            if not equals:
                if position >= len(unnamed):
                    why = "this one needs its name" if len(unnamed) < len(own) else "one too many"
                    raise ValueError(
                        f"{self.name} {text}: argument {value!r}: {why}. {self._taken(build)}"
                    )
                name, rest = unnamed[position], value
            if name in given:
                raise ValueError(f"{self.name} {text}: {name} is given twice.")
            given[name] = rest
        return given

    def _taken(self, build: Class) -> str:
        own = [str(parameter) for parameter in self.parameters(build).values()]
        name = getattr(build, "__name__", "it")
        return f"{name} takes {', '.join(own)}." if own else f"{name} takes no arguments."

    def _import(self, name: str, module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        # A script that is no module ends Python when it is imported, without a word.
        except (Exception, SystemExit) as error:
            # A module of the user's may fail in any way; one that it imports may be missing.
            missing = isinstance(error, ModuleNotFoundError)
            reason = str(error) if missing else f"{type(error).__name__}: {error}"
            what = f"importing {module} failed: {' '.join(reason.split())}"
            # Missing is the module itself or a folder of it, and not one that it imports.
            if missing and f"{module}.".startswith(f"{getattr(error, 'name', None)}."):
                near = did_you_mean(module, self) or f"known: {', '.join(self)};"
                what = (
                    f"{reason}: {near} a class of your own is module:Class, of a module that "
                    "Python can import from here."
                )
            raise ValueError(f"{self.name} {name!r}: {what}") from error


def class_path(build: Class) -> str:
    """``module.Class``, by the folder that exports the class rather than by its private module."""
    # Stored configurations then read the same after a class has moved to another private module.
    public, name = re.sub(r"\._\w+", "", build.__module__), build.__qualname__
    # A folder in a folder has no face: the outer one exports what is in it.
    for folder in (public, public.rpartition(".")[0]):
        if getattr(sys.modules.get(folder), name, None) is build:
            return f"{folder}.{name}"
    return f"{build.__module__}.{name}"


def is_class_path(name: str) -> bool:
    """Whether a name is of the form ``module:Class``, and not a name with a number behind it."""
    module, _, attribute = name.partition(":")
    return bool(module) and attribute.isidentifier()


def is_ours(path: str) -> bool:
    """Whether a path starts at this package."""
    return re.split(r"[.:]", path, maxsplit=1)[0] == "ppl_vae"


def _form_of(setting: Setting) -> str:
    name = setting.name
    return name.upper() if setting.unnamed else f"{name}={name.upper()}"
