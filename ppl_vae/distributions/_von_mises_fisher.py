"""The von Mises-Fisher distribution on the sphere, reparameterised."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import register_kl
from torch.nn import functional

from ppl_vae.distributions._polar_angle import angle_slope, sample_angle
from ppl_vae.distributions._precision import in_double
from ppl_vae.distributions._sphere_cumulants import sphere_cumulants


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
        # As it is given: the normaliser of copies is computed once.
        self.concentration = concentration
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "VonMisesFisher":
        """The same distribution with its batch shape broadcast."""
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
        """Of each coordinate: ``Var(t) mu_i^2 + E (1 - t^2) (1 - mu_i^2) / (m - 1)``, t = mu'z."""
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
            # Once more, since a short remainder is no longer across after rounding.
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
        if self._validate_args:
            _require_unit(value)
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


def _require_unit(value: Tensor) -> None:
    if not bool(constraints.sphere.check(value).all()):
        norm = torch.linalg.vector_norm(value, dim=-1).flatten()
        # A NaN's is the largest of all.
        worst = norm[(norm - 1).abs().nan_to_num(nan=math.inf).argmax()].item()
        raise ValueError(
            f"a latent on the sphere has norm 1, got {worst:.6g}: pair this distribution with one "
            "on the sphere (UniformSpherePrior, VonMisesFisherEncoder), or normalise the values."
        )
