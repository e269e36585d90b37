"""The von Mises-Fisher distribution on the sphere, and the angle of its draws to the mean."""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import register_kl
from torch.nn import functional

from ppl_vae.distributions._precision import in_double
from ppl_vae.distributions._sphere_cumulants import sphere_cumulants

_ROUNDS, _PROPOSALS = 4, 8
"""Rounds, and proposals in each. One is accepted with probability 0.65 or more: none of them with
probability below 1e-14."""

_REACH = 10.0
"""Number of widths of the density beyond which its tail is below 1e-12 of it."""

_NODES = 24
"""Number of nodes of the quadrature, for relative errors below 1e-9."""


def sample_angle(concentration: Float[Tensor, "*shape"], dimension: int) -> Float[Tensor, "*shape"]:
    """Draws of the angle, of density ``h(a) ~ exp(kappa cos a) sin^(m-2) a`` on [0, pi].

    The distribution function of cos a inverted for m = 3, Wood's rejection sampler otherwise. On a
    GPU the number of proposals is fixed, so that no step waits for it.

    Args:
        concentration: kappa, 0 or more.
        dimension: m, 2 or more.

    References:
        Wood, 1994, Simulation of the von Mises Fisher distribution.
        Ulrich, 1984, Computer generation of distributions on the m-sphere.
    """
    # 1 - cos a, which keeps its digits where the angle is small.
    if dimension == 3:
        positive = concentration.clamp(min=torch.finfo(concentration.dtype).eps ** 2)
        versine = -torch.log1p(torch.rand_like(positive) * torch.expm1(-2 * positive)) / positive
    else:
        versine = _reject(concentration, dimension)
    # Not acos(1 - versine), which rounds small angles to 0.
    return 2 * torch.asin(torch.sqrt(versine / 2).clamp(max=1))


def _reject(concentration: Tensor, dimension: int) -> Tensor:
    """Draws of 1 - cos a, cos a proposed as (1 - (1 + b) B) / (1 - (1 - b) B) with B ~ Beta."""
    last = dimension - 1
    # Wood's (sqrt(4 kappa^2 + (m-1)^2) - 2 kappa) / (m - 1), without the difference.
    b = last / (2 * concentration + torch.sqrt(4 * concentration.square() + last**2))
    best, at_best = 2 * b / (1 + b), (1 - b) / (1 + b)
    versine, accepted = torch.zeros_like(b), torch.zeros_like(b, dtype=torch.bool)
    for _ in range(_ROUNDS):
        share = _symmetric_beta(b.new_empty(_PROPOSALS, *b.shape), dimension)
        proposal = 2 * b * share / (1 - (1 - b) * share)
        log_volume = torch.log1p(at_best * (proposal / best - 1) / (1 + at_best))
        log_ratio = concentration * (best - proposal) + last * log_volume
        good = torch.rand_like(share).log() <= log_ratio
        # The first that is accepted; where none is, any, which the next round replaces.
        first = good.byte().argmax(0, keepdim=True)
        versine = torch.where(accepted, versine, proposal.gather(0, first).squeeze(0))
        accepted = accepted | good.any(0)
        if accepted.device.type == "cpu" and bool(accepted.all()):
            break
    return versine


def _symmetric_beta(like: Tensor, dimension: int) -> Tensor:
    """Beta(a, a) draws with a = (m - 1)/2, from two uniforms each.

    References:
        Ulrich, 1984, Computer generation of distributions on the m-sphere.
        Devroye, 1986, Non-uniform random variate generation, IX.4.
    """
    exponent = 2 / (dimension - 2) if dimension > 2 else math.inf
    power = torch.exp(exponent * torch.rand_like(like).log())
    radius = torch.sqrt(1 - power)
    # (1 + radius cos(2 pi U)) / 2, with its digits where it is small.
    return power / (2 * (1 + radius)) + radius * torch.cos(math.pi * torch.rand_like(like)).square()


def angle_slope(
    angle: Float[Tensor, "*shape"], concentration: Float[Tensor, "*shape"], dimension: int
) -> Float[Tensor, "*shape"]:
    """``da/dkappa = -(dH/dkappa) / h``, H the distribution function and h the density of the angle.

    ``dH/dkappa = int_0^a (cos s - A) h(s) ds`` with A the mean of cos a, or minus the integral
    over [a, pi]: on the side where cos s - A has one sign, by Gauss-Legendre quadrature.

    Args:
        angle: a, within (0, pi).
        concentration: kappa.
        dimension: m.

    References:
        Figurnov, Mohamed and Mnih, 2018, Implicit reparameterization gradients.
    """
    a, kappa = in_double(angle), in_double(concentration)
    a = a.clamp(1e-30, math.pi - 4 * torch.finfo(a.dtype).eps)
    ratio = sphere_cumulants(kappa, dimension)[1]
    # The integral of cos s - A over all of [0, pi] is 0, so that either side gives it: on the side
    # away from acos A the integrand keeps its sign, and no digits cancel.
    end = _far_end(a, kappa, dimension, below=torch.cos(a) > ratio)
    a, kappa, ratio, end = (v.unsqueeze(-1) for v in (a, kappa, ratio, end))
    half, middle = (end - a).abs() / 2, (end + a) / 2
    points, weights = _gauss_legendre(a.device, a.dtype)
    s = middle + half * points
    # h(s) / h(a): the constant of the density cancels.
    log_density = kappa * (torch.cos(s) - torch.cos(a))
    log_density = log_density + (dimension - 2) * torch.log(torch.sin(s) / torch.sin(a))
    integrand = (torch.cos(s) - ratio).abs() * torch.exp(log_density)
    return -(half * integrand * weights).sum(-1).to(angle.dtype)


def _far_end(a: Tensor, kappa: Tensor, dimension: int, below: Tensor) -> Tensor:
    """End of the integral from a: 0 or pi, or where the density has vanished before.

    Else a narrow density would fall between the nodes.
    """
    half = (dimension - 2) / 2
    curvature = half + torch.sqrt(half**2 + kappa.square())
    mode = torch.acos((kappa / curvature).nan_to_num(nan=0.0).clamp(max=1))
    reach = _REACH * curvature.rsqrt()
    low = (torch.minimum(a, mode) - reach).clamp(min=0)
    high = (torch.maximum(a, mode) + reach).clamp(max=math.pi)
    return torch.where(below, low, high)


@functools.cache
def _gauss_legendre(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(points).to(device, dtype), torch.from_numpy(weights).to(device, dtype)


@final
class VonMisesFisher(TorchDistribution):  # type: ignore[misc, unused-ignore]
    r"""``p(z) = exp(kappa mu'z - log E exp(kappa mu'u)) / area`` on the unit sphere of R^m.

    u is uniform on the sphere and area its surface, so that the density is per unit of surface and
    kappa = 0 is the uniform distribution. The normaliser holds a modified Bessel function of order
    m/2 - 1; see :func:`~ppl_vae.distributions.sphere_cumulants`.

    Draws are exact, and differentiable in both parameters: in mu by rotation, in kappa by implicit
    differentiation of the distribution function of the angle between z and mu, so that the pathwise
    gradient is unbiased in every dimension. (Differentiating through the accepted proposals of a
    rejection sampler alone is not.) First derivatives of draws only.

    Args:
        loc: mu, unit vectors, shape ``(*batch, m)``, m >= 2; not checked.
        concentration: kappa, 0 or more, shape ``batch``, to which both broadcast; not checked.
        validate_args: Whether values are checked to have norm 1.

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak, 2018, Hyperspherical variational auto-encoders.
        Figurnov, Mohamed and Mnih, 2018, Implicit reparameterization gradients.
        Mardia and Jupp, 2000, Directional statistics.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.sphere
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*locs m"],
        concentration: Float[Tensor, "*concentrations"],
        validate_args: bool | None = None,
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        # Not expanded: the normaliser of copies is computed once.
        self.concentration = concentration
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "VonMisesFisher":
        """Broadcast the distribution to a batch shape."""
        loc = self.loc.expand(*batch_shape, self.dimension)
        return VonMisesFisher(loc, self.concentration, validate_args=self._validate_args)

    @property
    def dimension(self) -> int:
        """m, of the space around the sphere."""
        return int(self.event_shape[0])

    @property
    def mean(self) -> Float[Tensor, "*shape m"]:
        """``A mu`` with ``A = E mu'z``: inside the sphere."""
        ratio = sphere_cumulants(self.concentration, self.dimension)[1]
        return ratio.unsqueeze(-1) * self.loc

    @property
    def variance(self) -> Float[Tensor, "*shape m"]:
        """Variances ``Var(t) mu_i^2 + E (1 - t^2) (1 - mu_i^2) / (m - 1)``, t = mu'z."""
        concentration, m = in_double(self.concentration), self.dimension
        ratio = sphere_cumulants(concentration, m)[1]
        positive = concentration > 0
        across = torch.where(positive, ratio / torch.where(positive, concentration, 1.0), 1 / m)
        along = 1 - ratio.square() - (m - 1) * across
        square = self.loc.square()
        along, across = (v.to(square.dtype).unsqueeze(-1) for v in (along, across))
        return along * square + across * (1 - square)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws on the sphere, shape ``(*sample_shape, *batch_shape, m)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        loc, concentration = self.loc.expand(shape), self.concentration.expand(shape[:-1])
        with torch.no_grad():
            angle = sample_angle(concentration, self.dimension)
            across = torch.randn_like(loc)
            # Twice: of noise nearly along mu a short remainder is left, which rounding turns.
            for _ in range(2):
                across = across - (across * loc).sum(-1, keepdim=True) * loc
                across = functional.normalize(across, dim=-1)
        draws: Tensor = _Draw.apply(loc, concentration, angle, across)
        return draws

    def log_prob(self, value: Float[Tensor, "*batch m"]) -> Float[Tensor, "*shape"]:
        """Log-density per unit of the sphere's surface, in nats.

        Raises:
            ValueError: If validation is on (the default) and a value has another norm than 1.
        """
        if self._validate_args and not bool(constraints.sphere.check(value).all()):
            norm = torch.linalg.vector_norm(value, dim=-1).flatten()
            # A NaN's is the largest of all.
            worst = norm[(norm - 1).abs().nan_to_num(nan=math.inf).argmax()].item()
            raise ValueError(
                f"a latent on the sphere has norm 1, got {worst:.6g}: pair this distribution with "
                "one on the sphere (UniformSpherePrior, VonMisesFisherEncoder), or normalise the "
                "values."
            )
        log_mean = sphere_cumulants(self.concentration, self.dimension)[0]
        inner = (self.loc * value).sum(-1)
        return self.concentration * inner - log_mean - log_area(self.dimension)


def log_area(dimension: int) -> float:
    """Log of the surface of the unit sphere of R^m: ``log 2 + m/2 log pi - log Gamma(m/2)``."""
    half = dimension / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def _kl(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """``E_p (kappa_p mu_p - kappa_q mu_q)'z`` minus the difference of the log-normalisers."""
    log_mean_p, ratio = sphere_cumulants(p.concentration, p.dimension)
    log_mean_q, _ = sphere_cumulants(q.concentration, q.dimension)
    inner = (p.loc * q.loc).sum(-1)
    return (p.concentration - q.concentration * inner) * ratio - log_mean_p + log_mean_q


register_kl(VonMisesFisher, VonMisesFisher)(_kl)


@final
class _Draw(torch.autograd.Function):
    """``z = cos(angle) mu + sin(angle) across``, as a function of mu and kappa.

    A change of mu carries z along by the rotation in the plane of mu and its change, under which
    the distribution is equivariant. Differentiating a direction across mu that is made from noise
    instead has infinite variance for m = 3, and a Householder reflection is singular at one mu.
    """

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, concentration: Tensor, angle: Tensor, across: Tensor
    ) -> Tensor:
        cos, sin = torch.cos(angle).unsqueeze(-1), torch.sin(angle).unsqueeze(-1)
        z = cos * loc + sin * across
        ctx.save_for_backward(loc, concentration, angle, across, z)
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        loc, concentration, angle, across, z = ctx.saved_tensors
        (gradient,) = grad_outputs
        cos, sin = torch.cos(angle), torch.sin(angle)
        along = (gradient * loc).sum(-1)
        by_loc = cos.unsqueeze(-1) * gradient - along.unsqueeze(-1) * z
        by_concentration = None
        if ctx.needs_input_grad[1]:
            by_angle = cos * (gradient * across).sum(-1) - sin * along
            by_concentration = by_angle * angle_slope(angle, concentration, loc.shape[-1])
        return by_loc, by_concentration, None, None
