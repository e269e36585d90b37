"""The modules behind programs, and their evaluation mode."""

import functools
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from ppl_vae.identity import hash_tensors
from ppl_vae.particles._run import Program

_PLAIN = bool | int | float
_REGISTERED = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, buffers, submodules, hooks and mode."""
_DEEPEST = 12
"""Largest number of references between a program and a module."""


class ParameterRecorder(Messenger):  # type: ignore[misc, unused-ignore]
    """Records the unconstrained tensor behind each ``pyro.param`` statement."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, Tensor] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        unconstrained = getattr(value, "unconstrained", None)
        self.parameters[msg["name"]] = value if unconstrained is None else unconstrained()


@final
@dataclass(frozen=True, eq=False)
class ProgramModules:
    """The modules, parameters and buffers that programs are made of.

    Attributes:
        roots: Modules, none of which is part of another, in the order of the programs.
        params: Name to unconstrained tensor of the ``pyro.param`` statements that ran.
        constants: Name to tensor or number that the programs refer to outside of modules.
        max_plate_nesting: Plate dimensions that were used, where the programs ran.
    """

    roots: tuple[nn.Module, ...]
    params: Mapping[str, Tensor] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    max_plate_nesting: int = 1

    @property
    def modules(self) -> list[nn.Module]:
        """All modules, each once."""
        each = {id(module): module for root in self.roots for module in root.modules()}
        return list(each.values())

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Name to tensor, each once, of modules and then of ``pyro.param`` statements."""
        named: dict[str, Tensor] = {}
        owners = [root for root in self.roots if any(True for _ in root.parameters())]
        for index, root in enumerate(owners):
            prefix = "" if len(owners) == 1 else f"{index}."
            named.update({prefix + name: value for name, value in root.named_parameters()})
        # A tied parameter has several names; the first one stands.
        unique: dict[int, tuple[str, Tensor]] = {}
        for name, value in {**named, **self.params}.items():
            unique.setdefault(id(value), (name, value))
        return dict(unique.values())

    @property
    def num_weights(self) -> int:
        """Number of all parameters."""
        return sum(value.numel() for value in self.parameters.values())

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Name to tensor of the persistent buffers, as batch norm has them."""
        buffers: dict[str, Tensor] = {}
        for index, root in enumerate(self.roots):
            # The state has a tied parameter under each of its names.
            parameters = dict(root.named_parameters(remove_duplicate=False))
            for name, value in root.state_dict(keep_vars=True).items():
                if name not in parameters and isinstance(value, Tensor):
                    buffers[f"{index}.{name}"] = value
        return buffers

    @property
    def unique_buffers(self) -> list[Tensor]:
        """All buffers, each once, also those that no state has."""
        found = {id(b): b for m in self.modules for b in m._buffers.values() if b is not None}
        return list(found.values())

    @property
    def all_tensors(self) -> dict[str, Tensor]:
        """Name to everything that a log-density may depend on besides the data."""
        buffers = {
            f"buffer {index}.{name}": value
            for index, root in enumerate(self.roots)
            for name, value in root.named_buffers()
        }
        named = {f"parameter {name}": value for name, value in self.parameters.items()}
        # Named by value: the path that leads to them says nothing about the density.
        last = {name: name.rsplit(".", 1)[-1] for name in self.constants}
        constants = {hash_tensors({last[n]: v}): v for n, v in self.constants.items()}
        return {**named, **buffers, **constants}

    @property
    def device(self) -> torch.device | None:
        """Device of the parameters and buffers; None if there are none."""
        for value in (*self.parameters.values(), *self.buffers.values()):
            return value.device
        return None

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the first real parameter or buffer; None if there are none."""
        for value in (*self.parameters.values(), *self.buffers.values()):
            if value.is_floating_point():
                return value.dtype
        return None

    def to(self, device: torch.device) -> None:
        """Move the modules to a device."""
        for root in self.roots:
            root.to(device)

    def train(self, mode: bool = True) -> None:
        """Set training mode, or evaluation mode."""
        for root in self.roots:
            root.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Enter evaluation mode; restore mode and buffers afterwards."""
        states = [_ModuleState(module) for module in self.modules]
        for state in states:
            state.module.training = False
        try:
            yield
        finally:
            for state in states:
                state.restore()


def owners_of(*programs: Program) -> list[nn.Module]:
    """The distinct modules that programs refer to, in order; the programs do not run."""
    search = Search()
    for number, program in enumerate(programs):
        search.visit(program, str(number))
    return list(roots_of(list(search.modules.values())))


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Set what programs refer to in evaluation mode; restore mode and buffers afterwards."""
    with ProgramModules(tuple(owners_of(*programs))).evaluating():
        yield


class _ModuleState:
    """Mode and buffers of a module, for restoring them."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self._training = module, module.training
        buffers = {n: b for n, b in module._buffers.items() if b is not None and not is_lazy(b)}
        self._buffers = {name: (value, value.detach().clone()) for name, value in buffers.items()}

    def restore(self) -> None:
        self.module.training = self._training
        for name, (value, before) in self._buffers.items():
            # The tensor first, as a program may have replaced it; then its values.
            self.module._buffers[name] = value
            with torch.no_grad():
                value.copy_(before)


class SeenModules:
    """Modules called in this thread, each put in evaluation mode before its first call."""

    def __init__(self) -> None:
        self.modules: dict[int, nn.Module] = {}
        self._states: dict[int, _ModuleState] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record modules; restore the mode and buffers of each afterwards."""
        thread = threading.get_ident()

        def see(module: nn.Module, args: Any) -> None:
            # The hook is on the modules of all threads.
            if threading.get_ident() != thread:
                return
            _require_width(module, args)
            if id(module) in self._states:
                return
            self.modules[id(module)] = module
            for part in module.modules():
                if id(part) not in self._states:
                    self._states[id(part)] = _ModuleState(part)
                    part.training = False

        # A hook on all modules, as some are reached by no reference.
        handle = register_module_forward_pre_hook(see)
        try:
            yield
        finally:
            handle.remove()
            for state in self._states.values():
                state.restore()


def _require_width(module: nn.Module, args: Any) -> None:
    """Name a layer that is handed another number of features than it has weights for."""
    value = args[0] if args else None
    if not isinstance(module, nn.Linear) or not isinstance(value, Tensor) or not value.dim():
        return
    if value.shape[-1] != module.in_features:
        raise ValueError(
            f"a layer of {module.in_features} inputs was given {value.shape[-1]} (shape "
            f"{tuple(value.shape)}): check the layer sizes against each other, and against the "
            "shape of the data, rows first (x.flatten(1) where layers take flat rows)."
        )


def roots_of(modules: list[nn.Module]) -> tuple[nn.Module, ...]:
    """Modules that are part of no other."""
    unique = {id(module): module for module in modules}
    inner = {
        id(part) for module in unique.values() for part in module.modules() if part is not module
    }
    return tuple(module for key, module in unique.items() if key not in inner)


class Search:
    """Follows references from a program to modules, and to the constants on the way."""

    def __init__(self) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.constants: dict[str, Tensor] = {}
        self._visited: dict[int, Any] = {}

    def visit(self, thing: Any, name: str, depth: int = 0) -> None:
        """Follow one reference, of that name."""
        if isinstance(thing, Tensor):
            self.constants[name] = thing
            return
        if isinstance(thing, nn.Module):
            self.modules.setdefault(id(thing), thing)
        if thing is not None and id(thing) not in self._visited and depth < _DEEPEST:
            # The object itself is kept: an id may come back once an object is gone.
            self._visited[id(thing)] = thing
            for label, value in self._references(thing):
                if not isinstance(value, _PLAIN):
                    self.visit(value, f"{name}.{label}", depth + 1)
                elif _is_setting(thing, value):
                    self.constants[f"{name}.{label}"] = torch.tensor(value, dtype=torch.float64)

    def _references(self, thing: Any) -> list[tuple[str, Any]]:
        if isinstance(thing, functools.partial):
            # Pyro's own kind keeps its function in a slot of its own.
            named = [("func", thing.func), *thing.keywords.items()]
            return [*named, *((str(i), value) for i, value in enumerate(thing.args))]
        if isinstance(thing, types.MethodType):
            return [("self", thing.__self__), ("function", thing.__func__)]
        if isinstance(thing, types.FunctionType):
            return _referred(thing)
        if isinstance(thing, Mapping):
            return [(str(key), value) for key, value in thing.items()]
        if isinstance(thing, list | tuple):
            return [(str(i), value) for i, value in enumerate(thing)]
        if isinstance(thing, nn.Module):
            # Not all that a module refers to is registered in it, as a method of another one.
            own = {**vars(thing), **thing._modules}
            return [(name, value) for name, value in own.items() if name not in _REGISTERED]
        if isinstance(thing, type | types.ModuleType) or not hasattr(thing, "__dict__"):
            return []
        return list(vars(thing).items())


def _is_setting(thing: Any, value: bool | int | float) -> bool:
    """Whether a number is a setting of a program; elsewhere it may be a counter."""
    if isinstance(thing, types.FunctionType | nn.Module):
        return isinstance(value, float)
    frozen = getattr(thing, "__dataclass_params__", None)
    return isinstance(thing, functools.partial) or (frozen is not None and bool(frozen.frozen))


def _referred(function: types.FunctionType) -> list[tuple[str, Any]]:
    """References of a function: its cells, defaults, what it wraps, and globals of its own file.

    Functions of other files are left alone: those of libraries lead everywhere.
    """
    code = function.__code__
    referred: list[tuple[str, Any]] = []
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            referred.append((name, cell.cell_contents))
        except ValueError:  # not assigned yet
            continue
    referred += [(f"default {i}", value) for i, value in enumerate(function.__defaults__ or ())]
    referred += list((function.__kwdefaults__ or {}).items())
    referred += [("wrapped", function.__wrapped__)] if hasattr(function, "__wrapped__") else []
    for name in sorted(_global_names(code)):
        value = function.__globals__.get(name)
        own = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if own or isinstance(value, nn.Module | Tensor | _PLAIN):
            referred.append((name, value))
    return referred


def _global_names(code: types.CodeType) -> set[str]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*(_global_names(each) for each in inner))
