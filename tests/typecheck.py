"""Checks of the package's annotations while the tests run: types, shapes, dimensions by name.

``jaxtyping.jaxtyped`` checks the parameters of each call twice, on two copies of the function that
it compiles on import, which took half of the suite's time. This one compiles a check when it is
first needed, runs it once, and binds the dimensions of a call together just the same.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping._storage import pop_shape_memo, push_shape_memo
from torch.compiler import is_compiling

# int where float is annotated is fine by the typing rules, and beartype's default disagrees.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))


def install(modules: Sequence[str]) -> None:
    """Check every annotated function and dataclass of modules that are imported from now on."""
    # The hook writes jaxtyping.jaxtyped(...) above every function.
    jaxtyping.jaxtyped = lambda typechecker: checked  # type: ignore[assignment]
    jaxtyping.install_import_hook(modules, None)


def checked(function: Any) -> Any:
    """The function, or the dataclass, with its annotations checked at each call."""
    if isinstance(function, type):
        _check_dataclass(function)
        return function
    if not function.__annotations__:
        return function
    check: Callable[..., Any] | None = None
    binds = False

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal check, binds
        if jaxtyping.config.jaxtyping_disable or is_compiling():
            return function(*args, **kwargs)
        if check is None:
            check, binds = _compile(function)
        if not binds:
            return check(*args, **kwargs)
        push_shape_memo({})
        try:
            return check(*args, **kwargs)
        finally:
            pop_shape_memo()

    return call


def _check_dataclass(cls: type) -> None:
    own = vars(cls).get("__init__")
    if dataclasses.is_dataclass(cls) and own is not None and not hasattr(own, "__wrapped__"):
        cls.__init__ = checked(own)  # type: ignore[misc]


def _compile(function: types.FunctionType) -> tuple[Callable[..., Any], bool]:
    """A checked copy of the function, and whether it has dimensions to bind.

    A copy, since others read the annotations of the function itself.
    """
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__annotations__ = {
        name: _found(hint, function.__globals__) for name, hint in function.__annotations__.items()
    }
    return _beartype(copy), any(map(_holds_dimensions, copy.__annotations__.values()))


def _found(hint: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; Any where it cannot be found or checked at run time."""
    annotated = types.SimpleNamespace(__annotations__={"it": hint})
    try:
        found = typing.get_type_hints(annotated, names, include_extras=True)["it"]
    except Exception:  # such as the parameters of a class that takes them in type stubs alone
        return Any
    return Any if _holds_uncheckable_protocol(found) else found


def _holds_dimensions(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_holds_dimensions, _inner(hint)))


def _holds_uncheckable_protocol(hint: Any) -> bool:
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        return not getattr(hint, "_is_runtime_protocol", False)
    return any(map(_holds_uncheckable_protocol, _inner(hint)))


def _inner(hint: Any) -> tuple[Any, ...]:
    """The hints inside of a hint, those of Callable's list of parameters as well."""
    inner = typing.get_args(hint)
    lists = [member for member in inner if isinstance(member, list)]
    return (*inner, *(member for each in lists for member in each))
