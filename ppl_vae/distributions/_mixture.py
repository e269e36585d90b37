"""A mixture as a distribution that a prior's forward can return."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.utils.checkpoint import checkpoint

from ppl_vae.distributions._precision import in_double

_ELEMENTS = 2**22
"""Largest number of densities, one for each point and component, that are held at once."""

Density = Callable[[Float[Tensor, "points *event"]], Float[Tensor, "points components"]]


def _log_joint(components: Any, log_weights: Float[Tensor, "*components"]) -> Density:
    """Function ``z -> log pi_c + log p_c(z)`` of all points under all components."""
    if isinstance(components, MultivariateNormal) and components.loc.dim() == 2:
        return _log_joint_of_full(components, log_weights)
    normal = _diagonal_normal(components)
    if normal is None:
        return lambda points: components.log_prob(points.unsqueeze(1)) + log_weights
    # - 0.5 sum_d (z_d - m_cd)^2 / s_cd^2 as a product of matrices, (z^2, z) by (1/s^2, m/s^2). The
    # squares cancel where s is small against z: hence doubles, about the mean of all m.
    centre = in_double(normal.loc.detach()).mean(0)
    mean, precision = in_double(normal.loc) - centre, in_double(normal.scale).square().reciprocal()
    coefficients = torch.cat([-0.5 * precision, mean * precision], -1).mT
    log_norm = 0.5 * (math.log(2 * math.pi) - precision.log() + mean.square() * precision)
    constant = log_weights - log_norm.sum(-1)

    def density(points: Tensor) -> Tensor:
        centred = in_double(points) - centre
        return torch.addmm(constant, torch.cat([centred.square(), centred], -1), coefficients)

    return density


def _log_joint_of_full(
    components: MultivariateNormal, log_weights: Float[Tensor, "*components"]
) -> Density:
    """The same of normals with full covariances L L': by the inverse of each L, made once.

    A product of matrices takes half the time of the triangular solve of torch's density, and less
    than half with its gradient.
    """
    loc, root = components.loc, components.scale_tril
    # Made in double precision where that can be had: a near-singular L loses digits.
    double = root if root.device.type == "mps" else root.double()
    eye = torch.eye(double.shape[-1], dtype=double.dtype, device=double.device)
    inverse = torch.linalg.solve_triangular(double, eye, upper=False).to(root.dtype).mT
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = log_weights - log_det - 0.5 * math.log(2 * math.pi) * loc.shape[-1]

    def density(points: Tensor) -> Tensor:
        centred = points - loc.unsqueeze(1)
        standard = centred @ inverse.to(centred.dtype)
        log_joint: Tensor = constant - 0.5 * standard.square().sum(-1).mT
        return log_joint

    return density


def _diagonal_normal(components: Any) -> Normal | None:
    """The normal of which the components are ``to_event(1)``, where doubles can be had."""
    if not isinstance(components, Independent) or components.reinterpreted_batch_ndims != 1:
        return None
    normal = components.base_dist
    if not isinstance(normal, Normal) or len(components.batch_shape) != 1:
        return None
    # Apple's GPUs have no double precision.
    return None if normal.loc.device.type == "mps" else normal


def _draw_each(components: Any, index: Int[Tensor, " draws"]) -> Float[Tensor, "draws *event"]:
    """Draw once from each named component, differentiable where the components' draws are."""
    if isinstance(components, MultivariateNormal):
        noise = torch.randn_like(loc := components.loc[index])
        return loc + (components.scale_tril[index] @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(components, Independent) and isinstance(components.base_dist, Normal):
        loc, scale = components.base_dist.loc[index], components.base_dist.scale[index]
        return loc + scale * torch.randn_like(loc)
    # Of any other kind, as many draws of every component as the most frequent one needs.
    order = index.argsort()
    counts = index.bincount(minlength=components.batch_shape[0])
    firsts = counts.cumsum(0) - counts
    number = torch.empty_like(index)
    number[order] = torch.arange(len(index), device=index.device) - firsts[index[order]]
    shape = (int(counts.max()),)
    draws = components.rsample(shape) if components.has_rsample else components.sample(shape)
    picked: Tensor = draws[number, index]
    return picked


@final
class Mixture(TorchDistribution):  # type: ignore[misc, unused-ignore]
    r"""``p(z) = sum_c pi_c p_c(z)``, hence ``log p(z) = logsumexp_c (log pi_c + log p_c(z))``.

    The components are the batch of one distribution of z: their densities are summed over the
    dimensions of z first, then over components. Unlike ``MixtureSameFamily`` of torch, it has a
    support that annealing can move on, and its density costs little:

    - Under diagonal normals it is one product of matrices, ``sum_d (z_d - m_cd)^2 / s_cd^2``
      multiplied out. The terms cancel, which in single precision would cost 0.01 nats at s = 0.1
      and 1 nat at s = 0.01 (40 latents of spread 2), so that this product is in double precision:
      nearer than the sum of squares in single precision, and faster by a factor of 15 or so.
    - Many points under many components are taken in chunks, whose densities are computed once
      more for a gradient rather than kept.

    A draw takes a component by its weight, and is a differentiable function of that component's
    parameters. While the weights are fixed there is no more to differentiate: ``E f(z) = sum_c pi_c
    E_c f(z)``. No such path leads to weights that need a gradient; then ``has_rsample`` is False.
    Densities are differentiable in everything.

    Args:
        components: p_c, a distribution of batch shape (components,).
        logits: log pi_c up to a constant, shape ``(*batch, components)``.
        validate_args: Whether values are checked to lie in the support.

    Raises:
        ValueError: If there are not as many components as weights.
    """

    # What networks give is not checked, as everywhere here: a non-finite one shows in the density.
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        components: Any,
        logits: Float[Tensor, "*batch components"],
        validate_args: bool | None = None,
    ) -> None:
        if tuple(components.batch_shape) != tuple(logits.shape[-1:]):
            raise ValueError(
                f"a mixture with {logits.shape[-1]} weights needs components of batch shape "
                f"({logits.shape[-1]},), got {tuple(components.batch_shape)}."
            )
        self.components = components
        self.log_weights = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], components.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Mixture":
        """Broadcast the distribution to a batch shape."""
        # Its parameters stay as they are: what all of the batch shares is computed once.
        new = Mixture.__new__(Mixture)
        new.components, new.log_weights = self.components, self.log_weights
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=self._validate_args
        )
        return new

    @property
    def support(self) -> Any:
        """Support of the components."""
        return self.components.support

    @property
    def has_rsample(self) -> bool:
        """Whether draws carry a gradient to everything that needs one."""
        return bool(self.components.has_rsample) and not self.log_weights.requires_grad

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """``sum_c pi_c m_c``."""
        return self._average(self.components.mean)

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        """``sum_c pi_c (v_c + (m_c - mean)^2)``."""
        # About the middle of the means, where the squares do not cancel.
        means = self.components.mean - self.components.mean.mean(0)
        spread = self.components.variance + means.square()
        return self._average(spread) - self._average(means).square()

    def _average(self, values: Float[Tensor, "components *event"]) -> Tensor:
        average = torch.tensordot(self.log_weights.exp(), values, 1)
        expanded: Tensor = average.expand(self.batch_shape + self.event_shape)
        return expanded

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Raises:
            ValueError: If a value has another event shape, or, where validation is on (the
                default), is outside the support.
        """
        self._require_value(value)
        shape = value.shape[: value.dim() - self.event_dim]
        points = value.reshape(-1, *self.event_shape)
        if self.log_weights.dim() == 1:
            density = _log_joint(self.components, self.log_weights)
            log_prob = self._in_chunks(density, points).reshape(shape)
        else:
            density = _log_joint(self.components, torch.zeros_like(self.log_weights[0]))
            by_component = density(points).reshape(*shape, -1) + self.log_weights
            log_prob = torch.logsumexp(by_component, -1)
        shape = torch.broadcast_shapes(self.batch_shape, log_prob.shape)
        return log_prob.to(value.dtype).expand(shape)

    def _in_chunks(self, density: Density, points: Tensor) -> Float[Tensor, " points"]:
        """``logsumexp_c density(z)_c``, for as many points at once as memory should hold."""

        def log_prob(chunk: Tensor) -> Tensor:
            return torch.logsumexp(density(chunk), -1)

        at_once = 1 if _diagonal_normal(self.components) else self.event_shape.numel()
        size = max(1, _ELEMENTS // (len(self.log_weights) * at_once))
        if len(points) <= size:
            return log_prob(points)
        chunks = points.split(size)
        if not torch.is_grad_enabled():
            return torch.cat([log_prob(chunk) for chunk in chunks])
        # All densities would be kept for the gradient; computed again, they are not.
        again = partial(checkpoint, log_prob, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(chunk) for chunk in chunks])

    def _require_value(self, value: Tensor) -> None:
        if value.shape[value.dim() - self.event_dim :] != self.event_shape:
            raise ValueError(
                f"this mixture takes values of event shape {tuple(self.event_shape)}, got shape "
                f"{tuple(value.shape)}."
            )
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                f"a value is outside the mixture's support, {self.support}: look for diverged "
                "parameters (lower the learning rate, clip gradients)."
            )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws as functions of the components' parameters.

        Raises:
            NotImplementedError: If the components have none, or the weights need a gradient.
        """
        if not self.has_rsample:
            raise NotImplementedError(
                "no pathwise gradient leads to these draws: fix the mixture's weights, and take "
                "components that are reparameterised; or use sample()."
            )
        return self._draw(sample_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, shape ``(*sample_shape, *batch_shape, *event_shape)``."""
        with torch.no_grad():
            return self._draw(sample_shape)

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        shape = self._extended_shape(sample_shape)
        index = self._choose(shape[: len(shape) - self.event_dim], len(sample_shape))
        draws: Tensor = _draw_each(self.components, index.flatten()).reshape(shape)
        return draws

    def _choose(self, shape: Sequence[int], sample_dims: int) -> Int[Tensor, "..."]:
        """A component for each draw."""
        # In single precision the running sum of many weights favours some over others.
        choice = dist.Categorical(logits=in_double(self.log_weights.detach()), validate_args=False)
        if choice.batch_shape:
            # Weights of their own for each of the batch; else all draws are alike.
            choice, shape = choice.expand(shape[sample_dims:]), shape[:sample_dims]
        index: Tensor = choice.sample(shape)
        return index
