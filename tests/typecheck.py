"""Checks of the package's annotations while the tests run: types, shapes, dimensions by name.

``jaxtyping.jaxtyped`` checks the parameters of each call twice, on two copies of the function that
it compiles on import, which took half of the suite's time. This one compiles a check when it is
first needed, runs it once, and binds the dimensions of a call together just the same. Arguments and
results of types, shapes and kinds of numbers that the function has had before are not checked
again: loops would spend a third of their time on it. Of the calls that a loop makes after the first
ones of a test, one in 16 is looked at.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from jaxtyping._storage import pop_shape_memo, push_shape_memo
from torch.compiler import is_compiling

# int where float is annotated is fine by the typing rules, and beartype's default disagrees.
_CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)
_beartype = beartype(conf=_CONF)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_FEW = 4
_MANY = 1000
_ALL, _EVERY = 64, 16
"""Calls of a function in one test that are all checked, and how many later calls one stands for."""
_tests = 0


class _Loop:
    """Count of a function's calls in this test."""

    __slots__ = ("calls", "test")

    def __init__(self) -> None:
        self.calls = self.test = 0

    def goes_on(self) -> bool:
        """Whether others stand for this call."""
        if self.test != _tests:
            self.test, self.calls = _tests, 0
        self.calls += 1
        return self.calls > _ALL and self.calls % _EVERY != 0


def begin_test() -> None:
    """Check the first calls of every function anew."""
    global _tests
    _tests += 1


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
    hints: dict[str, Any] = {}
    passed = _passed_by(function)
    loop = _Loop()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal check, hints
        if loop.goes_on() or jaxtyping.config.jaxtyping_disable or is_compiling():
            return function(*args, **kwargs)
        given = tuple(map(_likeness, args))
        if kwargs:
            given += tuple((name, _likeness(value)) for name, value in kwargs.items())
        results = passed.get(given)
        if results is not None:
            result = function(*args, **kwargs)
            found = _likeness(result)
            if found not in results:
                _check_result(function, hints, args, kwargs, result)
                results.add(found)
            return result
        if check is None:
            hints = _hints(function)
            check = _compile(function, hints)
        push_shape_memo({})
        try:
            result = check(*args, **kwargs)
        finally:
            pop_shape_memo()
        if len(passed) > _MANY:
            passed.clear()
        passed[given] = {_likeness(result)}
        return result

    return call


_inside: dict[Any, dict[Any, set[Any]]] = {}


def _passed_by(function: types.FunctionType) -> dict[Any, set[Any]]:
    """What the arguments were like in calls that passed, and what the results were like then.

    A function inside of another is a new one at each call of the other, and to compile a check
    takes longer than most calls: those of the same code and annotations share what has passed.
    """
    if "<locals>" not in function.__qualname__:
        return {}
    annotations = tuple((name, repr(hint)) for name, hint in function.__annotations__.items())
    return _inside.setdefault((function.__code__, annotations), {})


def _likeness(value: Any) -> Any:
    """All of a value that its check looks at: its type, a tensor's shape, a first one inside."""
    kind = type(value)
    if kind in _ARRAYS:
        return kind, value.shape, value.dtype
    if kind is str:  # one of a few words, perhaps
        return value
    if kind is tuple:
        return len(value), *map(_kind, value[:_FEW])
    if kind is list:
        return (kind, _kind(value[0])) if value else kind
    if kind is dict:
        return (kind, _kind(next(iter(value.values())))) if value else kind
    return value if isinstance(value, type) else kind


def _kind(value: Any) -> Any:
    """The same, of a value inside of another: beartype itself looks at one of many."""
    kind = type(value)
    return (kind, value.shape, value.dtype) if kind in _ARRAYS else kind


_ARRAYS = {torch.Tensor, torch.nn.Parameter, np.ndarray}


def _check_result(
    function: types.FunctionType,
    hints: dict[str, Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    result: Any,
) -> None:
    """Check a result of another kind than those of like arguments, dimensions bound by these."""
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs).arguments
    plain = [n for n in given if signature.parameters[n].kind not in _VARIABLE]
    push_shape_memo({})
    try:
        for name, value in (*((n, given[n]) for n in plain), ("return", result)):
            if name in hints and not is_bearable(value, hints[name], conf=_CONF):
                raise TypeError(f"{function.__qualname__}: {name} is no {hints[name]}: {value!r}")
    finally:
        pop_shape_memo()


def _check_dataclass(cls: type) -> None:
    own = vars(cls).get("__init__")
    if dataclasses.is_dataclass(cls) and own is not None and not hasattr(own, "__wrapped__"):
        cls.__init__ = checked(own)  # type: ignore[misc]


def _compile(function: types.FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    """A checked copy of the function, since others read the annotations of the function itself."""
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__annotations__ = hints
    return _beartype(copy)


def _hints(function: types.FunctionType) -> dict[str, Any]:
    return {
        name: _found(hint, function.__globals__) for name, hint in function.__annotations__.items()
    }


def _found(hint: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; Any where it cannot be found or checked at run time."""
    annotated = types.SimpleNamespace(__annotations__={"it": hint})
    try:
        found = typing.get_type_hints(annotated, names, include_extras=True)["it"]
    except Exception:  # such as the parameters of a class that takes them in type stubs alone
        return Any
    return Any if _holds_uncheckable_protocol(found) else found


def _holds_uncheckable_protocol(hint: Any) -> bool:
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        return not getattr(hint, "_is_runtime_protocol", False)
    return any(map(_holds_uncheckable_protocol, _inner(hint)))


def _inner(hint: Any) -> tuple[Any, ...]:
    """The hints inside of a hint, those of Callable's list of parameters as well."""
    inner = typing.get_args(hint)
    lists = [member for member in inner if isinstance(member, list)]
    return (*inner, *(member for each in lists for member in each))
