"""Functions of tensors recorded as one graph of torch operations, compiled and replayed.

Pyro runs a program through handlers and dictionaries, which for a small network take as long as its
arithmetic. A recorded graph holds the operations alone. What the function reads by reference, such
as parameters and buffers, is an input of the graph, so that an update of them in place is seen.
Random draws are operations of the graph, so that a replay draws what the function itself would
draw from the same random state, and leaves the generator where the function would.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, fx

from ppl_vae._graphs import lifted, recording, repeated, take_onednn
from ppl_vae._kernels import compile_graph, pays
from ppl_vae.randomness import seeded

__all__ = ["TOLERANCE", "CaptureError", "Captured", "Function", "iterated", "pays"]

Function: TypeAlias = Callable[..., Sequence[Tensor]]
"""Takes tensors, gives tensors; may change buffers in place, and nothing else."""

TOLERANCE = 1e-3
"""Largest relative difference between replay and function; rounding in single precision, which a
discrete draw at its threshold can magnify, stays below, and a number held fixed does not."""
_SMALL = 1e-2
"""Norm, as a share of the largest, below which an output is compared on the scale of this share."""
_NUDGE = 1 + 2.0**-10
"""Factor by which parameters differ between two recordings."""


@final
class CaptureError(ValueError):
    """A function that a recorded graph cannot stand for; says why."""


@final
class Captured:
    """A function recorded at the shapes of some inputs, and compiled.

    Args:
        function: Function of tensors.
        inputs: Tensors to record it at; later calls give tensors of the same shapes.
        others: Other inputs of the same shapes: a number that the function reads off its inputs
            differs between the two.
        held: Parameters and buffers that the function reads by reference.
        tolerance: Largest relative difference between replay and function.
        times: How many times a call applies the function, each time to its own results, which take
            the place of its first inputs.

    Raises:
        CaptureError: If the function reads numbers off tensors, draws by Python or NumPy, or gives
            other results than its graph; names the first operation in question.
    """

    def __init__(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        held: Sequence[Tensor],
        tolerance: float = TOLERANCE,
        times: int = 1,
    ) -> None:
        # Of memory of their own, which later inputs can be copied to.
        inputs = [value.contiguous() for value in inputs]

        def recorded(*, for_compiler: bool) -> fx.GraphModule:
            one, constants = _record_twice(
                function, inputs, others, held, for_compiler=for_compiler
            )
            self._code, self._held = one.code, [value.detach() for value in constants]
            return one if times == 1 else repeated(one, len(constants), times)

        graph = recorded(for_compiler=True)
        run = compile_graph(graph, [*self._held, *inputs])
        self._for_compiler = run is not None
        if run is None:
            # Operations that a compiler joins to one loop take longer than others without one.
            run = graph = recorded(for_compiler=False)
            take_onednn(graph, [*self._held, *inputs])
        self._run = run
        self._strides = [value.stride() for value in [*self._held, *inputs]]
        self._types = [value.dtype for value in inputs]
        if inputs[0].device.type == "cuda":
            self._run = _on_gpu(self._run, [*self._held, *inputs], held)
        self._require_same(iterated(function, times), inputs, held, tolerance)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The function's results, in tensors that later calls leave as they are.

        Raises:
            ValueError: If the inputs are of other types than those that it was recorded at.
        """
        types = [value.dtype for value in inputs]
        # Kernels do not look: they would read the memory as numbers of their own type.
        if types != self._types:
            raise ValueError(
                f"a graph recorded at {self._types} was given {types}: record one for each."
            )
        strides = self._strides[len(self._held) :]
        given = [_laid_out(value, of) for value, of in zip(inputs, strides, strict=True)]
        return list(self._run(*self._held, *given))

    def holding(self, function: Function, inputs: Sequence[Tensor]) -> "Captured | None":
        """The same graph, of another function's tensors; None where it runs other operations.

        Such as the density of another batch, which holds other data. Those in another layout are
        copied: a later change of them in place is not seen.
        """
        with _untouched([]):
            graph, constants = lifted(_record(function, inputs, self._for_compiler))
        if graph.code != self._code:
            return None
        layouts = zip(constants, self._strides, strict=False)
        # Memory that several numbers share holds no others.
        if any(value.stride() != of and 0 in of for value, of in layouts):
            return None
        other = copy.copy(self)
        other._held = [
            _laid_out(value.detach(), of)
            for value, of in zip(constants, self._strides, strict=False)
        ]
        return other

    def _require_same(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        held: Sequence[Tensor],
        tolerance: float,
    ) -> None:
        """Compare a replay with the function, from one random state and the same buffers."""
        with _untouched(held):
            expected = list(function(*inputs))
            after, state = _copies(held), torch.get_rng_state()
        with _untouched(held):
            replayed = self(*inputs)
            if not torch.equal(torch.get_rng_state(), state):
                raise CaptureError(
                    "a replay takes other random numbers than the programs: some that they draw "
                    f"and do not use are left out of a graph (by torch {torch.__version__})."
                )
            differs = _differs([*replayed, *_copies(held)], [*expected, *after])
        if differs > tolerance:
            raise CaptureError(
                f"a replay differs from the programs by {differs:.1e} of the value: they keep a "
                "state outside of parameters and buffers, or change one of these in a way of their "
                "own."
            )


def iterated(function: Function, times: int) -> Function:
    """The function applied several times, its results in the place of its first inputs."""

    def applied(*inputs: Tensor) -> Sequence[Tensor]:
        results: Sequence[Tensor] = ()
        for _ in range(times):
            results = function(*results, *inputs[len(results) :])
        return results

    return applied


def _laid_out(value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor with these strides, which compiled kernels count on; a copy if it has others.

    Half of a network's outputs has other strides than a tensor of its own with the same numbers.
    """
    if value.stride() == strides:
        return value
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(
        value
    )


def _record_twice(
    function: Function,
    inputs: Sequence[Tensor],
    others: Sequence[Tensor],
    held: Sequence[Tensor],
    *,
    for_compiler: bool = True,
) -> tuple[fx.GraphModule, list[Tensor]]:
    """Record twice, with other random draws, inputs and parameters, and compare the records.

    A number that the function has drawn by other means than torch, or read off a tensor, stands in
    the graph as a constant, and nothing in one record tells it from a constant of the program.
    """
    with _untouched(held):
        first = _record(function, inputs, for_compiler)
        with torch.no_grad():
            for value in held:
                if value.is_floating_point():
                    value.mul_(_NUDGE)
        second = _record(function, others, for_compiler)
    lines = [each.code.splitlines() for each in (first, second)]
    for one, other in zip(*lines, strict=False):
        if one != other:
            raise CaptureError(
                "the programs run other operations when run again, which a replay would not "
                f"({_operation(one)}, then {_operation(other)}): do not draw by Python or NumPy, "
                "or read numbers off tensors, as .item() does."
            )
    if len(lines[0]) != len(lines[1]):
        raise CaptureError("the programs run other operations when run again.")
    constants = [_constants(each) for each in (first, second)]
    for name, value in constants[0].items():
        again = constants[1][name]
        if value is not again and not torch.equal(value, again):
            raise CaptureError(
                "the programs make a tensor of other numbers when run again, which a replay would "
                f"not (shape {tuple(value.shape)}): draw by torch, and keep tensors as tensors."
            )
    return lifted(first)


def _record(
    function: Function, inputs: Sequence[Tensor], for_compiler: bool = True
) -> fx.GraphModule:
    # Torch's tools of compilation take seconds to import, which only who compiles should pay for.
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        # Real tensors: Pyro's programs look at shapes and values that fake ones would not have.
        # In a function of its own, as torch would count the self of a method as an input. A list,
        # as a tuple with names would be one more operation.
        with recording() if for_compiler else nullcontext():
            made = make_fx(
                lambda *given: list(function(*given)),
                tracing_mode="real",
                _allow_non_fake_inputs=True,
            )(*inputs)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if "data-dependent" in str(error):
            reason = "they read a number off a tensor, as .item() or an if on its values does"
        raise CaptureError(f"the programs cannot be recorded: {reason}.") from error
    return made


def _constants(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Tensors that a record holds by reference, by name."""
    names = [str(node.target) for node in graph.graph.find_nodes(op="get_attr")]
    return {name: getattr(graph, name) for name in names}


def _operation(line: str) -> str:
    """The operation of a line of a record, without the names of its results."""
    return line.partition(" = ")[2].partition(";")[0].replace("torch.ops.", "")[:80] or line.strip()


def _on_gpu(
    run: Callable[..., Any], inputs: Sequence[Tensor], held: Sequence[Tensor]
) -> Callable[..., Any]:
    """One launch for all kernels; the kernels one by one, if the processor waits for any.

    As it does for Cholesky factors. Found before a CUDA graph is recorded, since a recording that
    fails leaves torch's generator unusable.
    """
    with torch.cuda.device(inputs[-1].device), torch.no_grad():
        with _untouched(held):
            run(*inputs)
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                run(*inputs)
            except RuntimeError:
                return run
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        return _Replay(run, inputs, held)


@final
class _Replay:
    """A CUDA graph: one launch for all kernels, at fixed addresses."""

    def __init__(
        self, run: Callable[..., Any], inputs: Sequence[Tensor], held: Sequence[Tensor]
    ) -> None:
        self._inputs = list(inputs)
        # Parameters and buffers stay where they are; all else is copied in before every replay.
        kept = {value.data_ptr() for value in held}
        self._copied = [i for i, v in enumerate(inputs) if v.data_ptr() not in kept]
        for i in self._copied:
            self._inputs[i] = inputs[i].clone()
        self._graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with _untouched(held):
            # Lazy initialisation, as of cuBLAS, may not happen while a graph is recorded.
            with torch.cuda.stream(side):
                run(*self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self._graph):
                self._outputs = list(run(*self._inputs))

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        for i in self._copied:
            self._inputs[i].copy_(inputs[i], non_blocking=True)
        self._graph.replay()
        # The next replay writes where this one did, and a chain or a sum keeps what it was given.
        outputs = [torch.empty_like(value) for value in self._outputs]
        torch._foreach_copy_(outputs, self._outputs)
        return outputs


@contextmanager
def _untouched(held: Sequence[Tensor]) -> Iterator[None]:
    """Run a function from one random state; leave held tensors and random states alone."""
    before = _copies(held)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - programs may draw from it
    try:
        with seeded(0):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        with torch.no_grad():
            for value, kept in zip(held, before, strict=True):
                value.copy_(kept)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in tensors]


def _differs(values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative difference."""
    norms = [float(value.double().norm()) for value in expected]
    finite = [norm for norm in norms if norm < float("inf")]
    scale = _SMALL * max(finite, default=0.0)
    worst = 0.0
    for value, wanted, norm in zip(values, expected, norms, strict=True):
        # An update that is not finite is found and named elsewhere.
        if norm in finite and norm > 0:
            distance = float((value.double() - wanted.double()).norm())
            worst = max(worst, distance / max(norm, scale))
    return worst
