"""Normal and heavy-tailed priors, and the uniform one on a sphere."""

import math
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_vae.distributions import Normal, VonMisesFisher
from ppl_vae.names import require_positive, require_sizes
from ppl_vae.priors._values import register


@final
class StandardNormalPrior(nn.Module):
    """p(z) = Normal(0, I).

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        require_sizes(latent=latent)
        register(self, learned=False, loc=torch.zeros(latent), scale=torch.ones(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return Normal(self.loc, self.scale, validate_args=False).to_event(1)


@final
class LearnedNormalPrior(nn.Module):
    """p(z) = Normal(loc, diag(scale^2)), both learned; starts at the standard normal.

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        require_sizes(latent=latent)
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return Normal(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)


@final
class FullCovarianceNormalPrior(nn.Module):
    """p(z) = Normal(loc, R R'), both learned; starts at the standard normal.

    R is a Cholesky factor: lower triangular, its diagonal the exponential of what is learned. A
    decoder whose first layer is linear can turn and stretch z itself, and then needs no more than
    :class:`StandardNormalPrior`; what this prior adds is a guide's freedom to be diagonal in other
    axes. A density costs latent^2 operations.

    Args:
        latent: Number of latent dimensions.

    Raises:
        ValueError: If latent is less than 1.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        require_sizes(latent=latent)
        self.loc = nn.Parameter(torch.zeros(latent))
        # At zero the transform below has the identity: the exponential of 0 on the diagonal.
        self.root = nn.Parameter(torch.zeros(latent, latent))

    @property
    def scale_tril(self) -> Tensor:
        """R, shape (latent, latent)."""
        root: Tensor = transform_to(constraints.lower_cholesky)(self.root)
        return root

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)


@final
class LaplacePrior(nn.Module):
    """``p(z) = prod_d Laplace(z_d; loc_d, scale_d)``, with standard deviation ``sqrt(2) scale``.

    Most latents near 0 and a few far off, with tails ``exp(-|z| / scale)``. The locations start at
    0. A decoder whose first layer is linear can move and stretch z itself, so that nothing is lost
    by leaving them as they are.

    Args:
        latent: Number of latent dimensions.
        scale: Scale in units of z; where it is learned, the start.
        learned: Whether the location and scale of each dimension are parameters.

    Raises:
        ValueError: If latent is less than 1 or the scale is not positive.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(self, latent: int, scale: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        require_sizes(latent=latent)
        require_positive(scale=scale)
        zeros = torch.zeros(latent)
        register(self, learned, loc=zeros, log_scale=zeros + math.log(scale))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Laplace(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)


@final
class StudentTPrior(nn.Module):
    """``p(z) = prod_d StudentT(z_d; df_d, loc_d, scale_d)``: tails ``|z|^-(df + 1)``.

    A datum may lie far from all others at little cost. The variance is ``scale^2 df / (df - 2)``
    for df above 2, and infinite below. The locations start at 0. A decoder whose first layer is
    linear can move and stretch z itself, so that nothing but the tails is lost by leaving all three
    as they are.

    Args:
        latent: Number of latent dimensions.
        df: Degrees of freedom; where they are learned, the start.
        scale: Scale in units of z; where it is learned, the start.
        learned: Whether degrees of freedom, location and scale of each dimension are parameters.

    Raises:
        ValueError: If latent is less than 1, or df or scale are not positive.
    """

    log_df: Tensor
    loc: Tensor
    log_scale: Tensor

    def __init__(
        self, latent: int, df: float = 5.0, scale: float = 1.0, learned: bool = False
    ) -> None:
        super().__init__()
        require_sizes(latent=latent)
        require_positive(df=df, scale=scale)
        zeros = torch.zeros(latent)
        start = {"log_df": zeros + math.log(df), "log_scale": zeros + math.log(scale)}
        register(self, learned, loc=zeros, **start)

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        df, scale = self.log_df.exp(), self.log_scale.exp()
        return dist.StudentT(df, self.loc, scale, validate_args=False).to_event(1)


@final
class UniformSpherePrior(nn.Module):
    """``p(z) = Gamma(m/2) / (2 pi^(m/2))`` on the unit sphere of R^m, m = latent.

    Where no region of the latent space should be preferred, and the guide must not be drawn to an
    origin. Pair it with :class:`~ppl_vae.guides.VonMisesFisherEncoder`; their KL is closed form.
    The sphere has no unconstrained coordinates: log p(x) by ImportanceSampling, not by annealing
    or quadrature.

    Args:
        latent: Dimension m of the space around the sphere.

    Raises:
        ValueError: If latent is less than 2.

    References:
        Davidson, Falorsi, De Cao, Kipf and Tomczak, 2018, Hyperspherical variational auto-encoders.
    """

    pole: Tensor
    zero: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        if latent < 2:
            raise ValueError(
                f"latent must be 2 or more, got {latent}: the sphere of a line is two points."
            )
        # At concentration 0 the direction plays no part: any unit vector will do.
        register(self, learned=False, pole=torch.eye(latent)[0], zero=torch.zeros(()))

    def forward(self) -> VonMisesFisher:
        """The prior, event shape (latent,): von Mises-Fisher of concentration 0."""
        return VonMisesFisher(self.pole, self.zero)
