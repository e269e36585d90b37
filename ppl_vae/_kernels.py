"""Kernels of a recorded graph: when compiling pays, and the compiler."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae._graphs import draw_in_full, take_onednn
from ppl_vae.names import warn

_COST = 10.0
"""Seconds that it takes, about, to record and compile a function at one shape the first time on a
machine. Half of it where the compiler has run before, a third where it has compiled this graph."""
_PER_CALL = 2e-3
"""Seconds that a compiled call saves at least: Pyro's handlers and torch's autograd."""
_PER_UNIT = 3e-9
"""Seconds that it saves for each row and unit: operations that are joined to one loop. Units of
networks of as many layers go with the root of the number of their weights."""


def pays(calls: float, rows: int, weights: int) -> bool:
    """Whether so many calls of one shape save the time that compiling takes.

    A rule of counts, not a measurement: the same run is compiled on every machine, or on none.

    Args:
        calls: Number of calls that are planned.
        rows: Rows that the model is run on in a call, particles times batch; twice as many where a
            gradient is taken, which goes back through them.
        weights: Number of all parameters.
    """
    return calls * (_PER_CALL + _PER_UNIT * rows * math.sqrt(weights)) > _COST


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any] | None:
    """The graph's kernels; None, and a warning, on a machine without a compiler."""
    import torch._inductor as inductor

    options: dict[str, Any] = {
        # Torch's own generators, so that a compiled step draws what the plain one draws.
        "fallback_random": True,
        # A pool of processes, each of which imports torch, costs more than it saves.
        "compile_threads": 1,
        # The graph of the whole is made here, whatever the environment says.
        "triton.cudagraphs": False,
    }
    if hasattr(inductor.config.cpp, "use_decompose_tanh"):
        # By exp, which takes half of the time, and is as exact as 1e-7 relative to 1.
        options["cpp.use_decompose_tanh"] = True
    draw_in_full(graph)
    take_onednn(graph, inputs)
    failures: list[Exception] = []
    # Torch's cache wants another surrounding in some versions (2.6), where each process compiles.
    for trusted, surrounding in product((True, False), (_with_cache, nullcontext)):
        try:
            options["cpp.vec_isa_ok"] = _vectors(inductor, trusted=trusted)
            # What torch and its tools warn of on the way is no failure, even where warnings are
            # errors.
            with torch.no_grad(), warnings.catch_warnings(), _quiet(), surrounding():
                warnings.simplefilter("ignore")
                run: Callable[..., Any] = inductor.compile(graph, list(inputs), options=options)
                return run
        except Exception as error:
            failures.append(error)
    reason = str(failures[-1]).strip().split("\n")[0].rstrip(".")
    # Without a compiler, as on a bare machine: the graph saves Pyro's handlers all the same.
    warn(f"torch's kernels are replayed, none compiled: {reason}.")
    return None


def _vectors(inductor: Any, *, trusted: bool) -> bool | None:
    """Torch's setting of vector instructions: those that the processor names, or those it tries.

    For each set it would compile a program, and start a process that imports torch and loads it:
    10 seconds of the first graph on a machine, for what an old compiler alone does not know.
    """
    from torch._inductor import cpu_vec_isa

    setting: bool | None = inductor.config.cpp.vec_isa_ok
    if setting is None and not trusted:
        # What was found first is kept else: the list, and the answers of some sets.
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
        for each in cpu_vec_isa.supported_vec_isa_list:
            forget = getattr(type(each).__bool__, "cache_clear", None)
            if forget is not None:
                forget()
    return True if setting is None and trusted else setting


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch logs of CUDA's tools, which are there on machines without a GPU too."""
    log = logging.getLogger("torch.utils.cpp_extension")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _with_cache() -> AbstractContextManager[Any]:
    """Let the compiler find kernels of the same graph that another process has compiled.

    It looks for them only where there is an environment of shapes, here one of fixed shapes.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
    return tracing(TracingContext(mode))
