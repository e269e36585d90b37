"""Changes of recorded graphs: what they hold, and which operations compute it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, fx

_MANY_ROWS, _WIDE = 512, 1 << 13
"""Rows and weights from which oneDNN's product takes less time than the BLAS's."""

_RECORDING = ContextVar("recording", default=False)
_DEFINING = Lock()


@contextmanager
def recording() -> Iterator[None]:
    """Tell functions that their operations become a graph, which a compiler joins to loops."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def is_recording() -> bool:
    """Whether a function is recorded now, so that it may run other operations than at once."""
    return _RECORDING.get()


def lifted(made: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph with the tensors that it holds as its first inputs, and these tensors."""
    _move_literals(made)
    graph, first = made.graph, next(iter(made.graph.nodes))
    inputs: dict[int, fx.Node] = {}
    constants: list[Tensor] = []
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(made, str(node.target))
        # One input a tensor, under however many names: an update must be seen under all of them.
        if id(value) not in inputs:
            with graph.inserting_before(first):
                inputs[id(value)] = graph.placeholder(f"held_{len(constants)}")
            constants.append(value)
        node.replace_all_uses_with(inputs[id(value)])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    # Without the record's attributes, each of which a compiler would make one more input.
    return fx.GraphModule({}, graph), constants


def _move_literals(made: fx.GraphModule) -> None:
    """Hold numbers of the program where they are used, such as the 0 of ``Normal(0.0, scale)``.

    Torch makes a tensor of them on the CPU and sends it to the device, for which it waits.
    """
    aten = torch.ops.aten
    literals: dict[fx.Node, Tensor] = {}
    for node in list(made.graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            continue
        if node.target is aten.lift_fresh_copy.default and source.op == "get_attr":
            literals[node] = getattr(made, str(source.target))
        elif node.target is aten._to_copy.default and source in literals:
            literals[node] = aten._to_copy.default(literals[source], **node.kwargs)
            if literals[node].device != literals[source].device:
                name = f"_literal_{len(literals)}"
                made.register_buffer(name, literals[node])
                with made.graph.inserting_before(node):
                    moved = made.graph.get_attr(name)
                    # A copy, as the literal is one: the programs may change it in place.
                    node.replace_all_uses_with(
                        made.graph.call_function(aten.clone.default, (moved,))
                    )
    made.graph.eliminate_dead_code()


def repeated(one: fx.GraphModule, num_held: int, times: int) -> fx.GraphModule:
    """The graph applied several times, its results in the place of its first inputs each time.

    What only a result in between needs is left out.

    Args:
        one: Its first inputs are tensors that it holds.
        num_held: Number of these.
        times: How many times.
    """
    graph, given = fx.Graph(), one.graph.find_nodes(op="placeholder")
    # Inputs in the order of the graph, whatever it does with them first.
    inputs = [graph.node_copy(node) for node in given]
    results: Sequence[Any] = ()
    for _ in range(times):
        now = [*inputs[:num_held], *results, *inputs[num_held + len(results) :]]
        results = graph.graph_copy(one.graph, dict(zip(given, now, strict=True)))  # type: ignore[assignment]
    graph.output(results)
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule({}, graph)


def draw_in_full(graph: fx.GraphModule) -> None:
    """Draw Bernoulli variables as torch does; the compiler would compare with single precision.

    Probabilities in double precision take other random numbers that way.
    """
    aten = torch.ops.aten
    for node in graph.graph.find_nodes(op="call_function", target=aten.bernoulli.default):
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_function(aten.empty_like.default, node.args)
            drawn = graph.graph.call_function(aten.bernoulli_.Tensor, (drawn, *node.args))
        drawn.meta = dict(node.meta)
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)
    graph.recompile()


def take_onednn(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Compute products of many rows with a wide layer by oneDNN, where the BLAS is MKL.

    On AMD's processors, where MKL multiplies by AVX2, a training step with 50 particles takes 0.91
    of its time. Gradients of weights, which are sums over rows, are faster where they are.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return
    aten, nodes = torch.ops.aten, list(graph.graph.nodes)
    given = dict(zip((node for node in nodes if node.op == "placeholder"), inputs, strict=True))

    def value(node: fx.Node) -> Any:
        return given[node] if node in given else node.meta.get("val")

    for node in nodes:
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, left, right = node.args
        tensors = [value(each) for each in node.args]
        if any(each is None for each in tensors) or not _many_rows(*tensors):
            continue
        with graph.graph.inserting_before(node):
            weight = graph.graph.call_function(aten.t.default, (right,))
            new = graph.graph.call_function(_linear(), (left, weight, *(bias or [None])))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


def _many_rows(*factors: Tensor) -> bool:
    """Whether a product, after a bias if there is one, is of many rows with a wide layer."""
    *bias, left, right = factors
    return (
        all(each.shape == right.shape[1:] for each in bias)
        and left.device.type == "cpu"
        and left.dtype is torch.float32
        and left.is_contiguous()
        and left.shape[0] >= _MANY_ROWS
        and right.numel() >= _WIDE
    )


@lru_cache(maxsize=1)
def _linear() -> Any:
    """Operation ``x @ weight.T + bias`` of oneDNN, which the compiler takes as it is."""
    product = torch.ops.mkldnn._linear_pointwise.default

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = product(x, weight, bias, "none", [], "")
        return result

    def shape_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    schema = "(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
    # A process defines an operation once, in whichever thread and however often this is loaded.
    with _DEFINING:
        if not hasattr(torch.ops.ppl_vae, "linear"):
            torch.library.define("ppl_vae::linear", schema)
            # Not as a custom operation, whose checks take as long as its call of a small product.
            torch.library.impl("ppl_vae::linear", "cpu", linear)
            torch.library.register_fake("ppl_vae::linear", shape_of)
    return torch.ops.ppl_vae.linear.default
