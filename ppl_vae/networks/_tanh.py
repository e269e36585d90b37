"""The hyperbolic tangent of many numbers."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae._graphs import is_recording

_MANY = 1 << 15
"""Numbers from which a function of Python costs less than it saves."""


@final
class Tanh(nn.Tanh):
    """``tanh(x)``; of many numbers in single precision on a CPU as ``2 sigmoid(2 x) - 1``.

    Torch's takes as long as a product with 100 columns, and its sigmoid a sixth of that. The result
    is within 2e-7 of the exact one, three units of the last digit of numbers near 1, and the
    gradient, taken from it, within 4e-7.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it to each number."""
        many = x.device.type == "cpu" and x.dtype is torch.float32 and x.numel() >= _MANY
        # A compiler makes a fast one by itself.
        if not many or is_recording():
            return torch.tanh(x)
        result: Tensor = _BySigmoid.apply(x)
        return result


class _BySigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (2 * x).sigmoid_().mul_(2).sub_(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        tangent: Tensor = tangents[0] * (1 - output * output)
        return tangent

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.tanh_backward(grad_outputs[0], output)
        return slope
