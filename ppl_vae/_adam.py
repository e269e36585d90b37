"""Adam in one call of torch's fused kernel, and variants of it in calls over all parameters."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

Placement = Literal["outside", "inside", "uncorrected"]
"""Place of Adam's eps: see :class:`~ppl_vae.training.Adam`."""


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient as its parameter lies in memory, where autograd gives a view or an expansion.

    The fused kernel goes through the memory of both at once, whatever their strides are.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _without_gaps(parameter: Tensor) -> bool:
    """Whether a tensor's elements fill its memory, as those of a slice of columns do not."""
    return torch.empty_like(parameter, device="meta").stride() == parameter.stride()


class _Moments(NamedTuple):
    """Parameters that have a gradient, and their state, in the order of the kernel."""

    parameters: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    step: list[Tensor]
    steps: Tensor
    """Counts of updates of all parameters, which the counts of these are elements of."""
    due: Tensor
    """1 for each parameter that has a gradient, 0 for others."""


@final
class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)``: its numbers and its state, in less time around them.

    Torch collects tensors, groups them by device and looks for a capture in every step, 100 to 600
    microseconds that a small network's gradient does not take; here lists are kept from step to
    step, and the counts of updates are elements of one tensor, so that one addition counts them up.
    Tensors that one call of the kernel does not take, of several devices or types, go torch's own
    way, and those with gaps in their memory, which the kernel would write to, without the kernel.

    Args:
        parameters: Leaf tensors.
        betas: Decays of the mean of gradients and of squared gradients.
        eps: Added to the root of the corrected second moment.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self._kept: dict[tuple[bool, ...], _Moments | None] = {}
        self._steps: Tensor | None = None
        parameters = list(parameters)
        fused = all(_without_gaps(parameter) for parameter in parameters)
        super().__init__(parameters, betas=betas, eps=eps, fused=fused)

    # Torch's own methods, without its mark that a compiler shall pass over them: the first call of
    # a function marked so imports the compiler, which takes 3 s.
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Torch's loader comes here with other tensors.
        self._kept, self._steps = {}, None
        super().__setstate__(state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        # Torch wraps every optimiser's step for these, which takes 100 microseconds.
        watched = (
            profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
        )
        return self._watched_update(closure) if watched else self._update(closure)

    # So that torch does not wrap it.
    step.hooked = True  # type: ignore[attr-defined]

    def _update(self, closure: Callable[[], Any] | None = None) -> Any:
        group = self.param_groups[0]
        given = [p.grad for p in group["params"]]
        which = tuple([gradient is not None for gradient in given])
        if which not in self._kept:
            self._kept[which] = self._moments()
        moments = self._kept[which]
        if closure is not None or moments is None:
            return super().step(closure)
        beta1, beta2 = group["betas"]
        with torch.no_grad():
            moments.steps.add_(moments.due)
            torch._fused_adam_(
                moments.parameters,
                [gradient for gradient in given if gradient is not None],
                moments.exp_avg,
                moments.exp_avg_sq,
                [],
                moments.step,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return None

    _watched_update = torch.optim.Optimizer.profile_hook_step(_update)

    def _moments(self) -> _Moments | None:
        """Tensors of one call of the kernel, made if need be; None where there is no one call."""
        group = self.param_groups[0]
        if not group["fused"]:
            return None
        parameters, gradients, means, squares, steps = (list[Tensor]() for _ in range(5))
        self._init_group(group, parameters, gradients, means, squares, [], steps)
        kinds = {(p.device, p.dtype) for p in (*parameters, *gradients)}
        if len(kinds) != 1 or parameters[0].is_complex() or len(self.param_groups) > 1:
            return None
        if self._steps is None:
            count = len(group["params"])
            self._steps = torch.zeros(count, dtype=torch.float32, device=parameters[0].device)
        due = torch.tensor([p.grad is not None for p in group["params"]]).to(self._steps)
        for own, parameter in zip(self._steps, group["params"], strict=True):
            if parameter.grad is not None:
                state = self.state[parameter]
                if state["step"].data_ptr() != own.data_ptr():
                    state["step"] = own.copy_(state["step"])
        counts = [self.state[parameter]["step"] for parameter in parameters]
        return _Moments(parameters, means, squares, counts, self._steps, due)


@final
class AdamVariant(torch.optim.Optimizer):
    """Adam by foreach operations, with torch's names of its state; nothing waits for the device."""

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float],
        eps: float,
        placement: Placement,
        *,
        start: float = 0.0,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": betas, "eps": eps})
        self._placement, self._start, self._norm_eps = placement, start, norm_eps

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update once by the gradients that there are."""
        for group in self.param_groups:
            # By their counts: parameters out of turn are passed over, and corrected for less.
            counted: dict[int, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    counted.setdefault(self._count(p), []).append(p)
            for count, parameters in counted.items():
                self._update(parameters, count, group)

    def _count(self, p: Tensor) -> int:
        """Number of this update of a parameter; its moments are made at the first."""
        state = self.state[p]
        if not state:
            # On the CPU, as torch has it for scales computed there: reading it never waits.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.full_like(p, self._start)
        state["step"] += 1
        return int(state["step"].item())

    def _update(self, parameters: list[Tensor], count: int, group: dict[str, Any]) -> None:
        (beta1, beta2), eps = group["betas"], group["eps"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._norm_eps is not None:
            norms = torch._foreach_norm(gradients)
            torch._foreach_add_(norms, self._norm_eps)
            gradients = list(torch._foreach_div(gradients, norms))
        first = [self.state[p]["exp_avg"] for p in parameters]
        second = [self.state[p]["exp_avg_sq"] for p in parameters]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        corrected1, corrected2 = 1 - beta1**count, 1 - beta2**count
        # The correction of v is moved from v to eps and to the rate, as a number of the host.
        if self._placement == "inside":
            scales = torch._foreach_add(second, eps * corrected2)
            torch._foreach_sqrt_(scales)
        else:
            scales = torch._foreach_sqrt(second)
            outside = self._placement == "outside"
            torch._foreach_add_(scales, eps * math.sqrt(corrected2) if outside else eps)
        rate = group["lr"] * math.sqrt(corrected2) / corrected1
        torch._foreach_addcdiv_(parameters, first, scales, -rate)
