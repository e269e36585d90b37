"""Optimisers as values: those of torch, and variants of Adam that published recipes used."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor

from ppl_vae._adam import AdamVariant, FusedAdam, Placement
from ppl_vae.components import Kind
from ppl_vae.names import require_not_negative


class OptimizerSettings(ABC):
    """An optimiser without its parameters and its learning rate.

    The rate is no field of it, but the setting ``learning_rate`` alone: schedules, warm-up and the
    history are functions of that one number, and every update sets the optimiser's rate from it. A
    rate written here would be a second number, which nothing reads.

    A subclass is a frozen dataclass: its ``repr`` is how a checkpoint knows it again. State that
    the optimiser keeps of a parameter must be tensors, which a checkpoint holds.
    """

    @abstractmethod
    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Make the optimiser of these parameters; its rate is set before every update."""


@final
@dataclass(frozen=True)
class Adam(OptimizerSettings):
    """``p - rate * m_hat / (sqrt(v_hat) + eps)``, the moments of the gradient g corrected for bias.

    ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``, after t updates
    ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``.

    Attributes:
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of squared gradients, in [0, 1).
        eps: Bounds the step where gradients vanish.
        eps_placement: ``outside`` of the root: sqrt(v_hat) + eps; ``inside`` of it:
            sqrt(v_hat + eps); ``uncorrected``: (sqrt(v) + eps) / sqrt(1 - beta2^t), by which eps is
            larger early in training.
        second_moment_start: Value of v before the first update; its share of v_hat stays large
            for 1 / (1 - beta2) updates.

    Raises:
        ValueError: If a value is out of range.

    References:
        Kingma and Ba, 2015, Adam: a method for stochastic optimization; ``uncorrected`` is the
        form at the end of their section 2. Burda, Grosse and Salakhutdinov, 2016, Importance
        weighted autoencoders, whose code has it, with v = 1 at the start.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_placement: Placement = "outside"
    second_moment_start: float = 0.0

    def __post_init__(self) -> None:
        _require_moments(self.beta1, self.beta2, self.eps)
        require_not_negative(second_moment_start=self.second_moment_start)
        if self.eps_placement not in ("outside", "inside", "uncorrected"):
            raise ValueError(
                f"eps_placement is outside, inside or uncorrected, got {self.eps_placement!r}."
            )

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Torch's fused Adam where that is the same, else one of foreach operations."""
        betas = self.beta1, self.beta2
        if self.eps_placement == "outside" and self.second_moment_start == 0:
            # Fused: one kernel, with the step count on the device, so that nothing waits.
            return FusedAdam(parameters, betas, self.eps)
        start = self.second_moment_start
        return AdamVariant(parameters, betas, self.eps, self.eps_placement, start=start)


@final
@dataclass(frozen=True)
class NormalizedAdam(OptimizerSettings):
    """Adam on ``g / (|g| + norm_eps)``, the gradient of each parameter tensor over its norm.

    The eps of Adam is ``uncorrected``, as in the published code.

    Attributes:
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of squared gradients, in [0, 1).
        eps: Bounds the step where gradients vanish.
        norm_eps: Bounds the normalised gradient where the norm vanishes.

    Raises:
        ValueError: If a value is out of range.

    References:
        Tomczak and Welling, 2018, VAE with a VampPrior: ``AdamNormGrad`` of their code.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    norm_eps: float = 1e-7

    def __post_init__(self) -> None:
        _require_moments(self.beta1, self.beta2, self.eps)
        require_not_negative(norm_eps=self.norm_eps)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Adam of foreach operations."""
        betas = self.beta1, self.beta2
        return AdamVariant(parameters, betas, self.eps, "uncorrected", norm_eps=self.norm_eps)


@final
@dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """Adam after ``p (1 - rate * weight_decay)``, which no gradient's size changes.

    Attributes:
        weight_decay: Decay of every parameter, times the learning rate.
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of squared gradients, in [0, 1).
        eps: Added to the root of the corrected second moment.

    Raises:
        ValueError: If a value is out of range.

    References:
        Loshchilov and Hutter, 2019, Decoupled weight decay regularization.
    """

    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _require_moments(self.beta1, self.beta2, self.eps)
        require_not_negative(weight_decay=self.weight_decay)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Torch's fused AdamW."""
        return torch.optim.AdamW(
            parameters,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


@dataclass(frozen=True)
class _WithMoments(OptimizerSettings):
    """One of torch's optimisers with two moments."""

    kind: ClassVar[Callable[..., torch.optim.Optimizer]]

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _require_moments(self.beta1, self.beta2, self.eps)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Torch's own."""
        betas = self.beta1, self.beta2
        return type(self).kind(
            parameters, betas=betas, eps=self.eps, capturable=_on_cuda(parameters)
        )


@final
@dataclass(frozen=True)
class RAdam(_WithMoments):
    """Adam whose adaptive scale is left out while its variance is too large, early in training.

    Attributes:
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of squared gradients, in [0, 1).
        eps: Added to the root of the second moment.

    Raises:
        ValueError: If a value is out of range.

    References:
        Liu et al., 2020, On the variance of the adaptive learning rate and beyond.
    """

    kind = torch.optim.RAdam


@final
@dataclass(frozen=True)
class Adamax(_WithMoments):
    """``p - rate * m_hat / u``, ``u = max(beta2 u, |g| + eps)``: Adam of the infinity norm.

    Attributes:
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the largest gradient, in [0, 1).
        eps: Bounds the step where gradients vanish.

    Raises:
        ValueError: If a value is out of range.

    References:
        Kingma and Ba, 2015, Adam: a method for stochastic optimization, section 7.1.
    """

    kind = torch.optim.Adamax


@final
@dataclass(frozen=True)
class SGD(OptimizerSettings):
    """``p - rate * b``, ``b = momentum b + g``; b is g at the first update.

    Attributes:
        momentum: Decay of the sum of gradients, in [0, 1); 0: b is g.
        nesterov: Step along ``g + momentum b`` in place of b.

    Raises:
        ValueError: If the momentum is out of range, or 0 with ``nesterov``.

    References:
        Sutskever, Martens, Dahl and Hinton, 2013, On the importance of initialization and momentum
        in deep learning.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _require_decay("momentum", self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0, got 0.")

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Torch's fused SGD."""
        return torch.optim.SGD(
            parameters, momentum=self.momentum, nesterov=self.nesterov, fused=True
        )


OPTIMIZERS = Kind(
    "optimizer",
    {
        "adam": Adam,
        "adamw": AdamW,
        "adamax": Adamax,
        "normalized-adam": NormalizedAdam,
        "radam": RAdam,
        "sgd": SGD,
    },
)
"""Optimisers by name."""


def optimizer_name(optimizer: OptimizerSettings) -> str:
    """Text that names an optimiser of this package, with the values that are no defaults."""
    name = next(name for name, build in OPTIMIZERS.items() if build is type(optimizer))
    values = {
        each.name: getattr(optimizer, each.name)
        for each in fields(optimizer)  # type: ignore[arg-type]
        if getattr(optimizer, each.name) != each.default
    }
    # Truth values as a file has them.
    written = {key: str(v).lower() if isinstance(v, bool) else v for key, v in values.items()}
    arguments = ",".join(f"{key}={value}" for key, value in written.items())
    return f"{name}:{arguments}" if arguments else name


def _on_cuda(parameters: list[Tensor]) -> bool:
    """Whether torch's step counts may be on the device, so that nothing waits for it."""
    return all(p.is_cuda for p in parameters)


def _require_moments(beta1: float, beta2: float, eps: float) -> None:
    _require_decay("beta1", beta1)
    _require_decay("beta2", beta2)
    require_not_negative(eps=eps)


def _require_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}.")
