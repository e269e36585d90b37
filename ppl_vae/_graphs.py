"""Products of recorded graphs by oneDNN, where it takes less time than the BLAS."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

_MANY_ROWS, _WIDE = 512, 1 << 15
"""Rows and weights from which oneDNN's product takes less time than the BLAS's."""


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

    @torch.library.custom_op(
        "ppl_vae::linear",
        mutates_args=(),
        device_types="cpu",
        schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    )
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

    @linear.register_fake
    def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    return torch.ops.ppl_vae.linear.default
