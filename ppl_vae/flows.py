"""Normalising flows by zuko, as Pyro distributions; the only module that imports zuko."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final, get_args

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, Transform, constraints
from torch.distributions.transforms import _InverseTransform

FlowKind = Literal["iaf", "maf", "realnvp", "spline"]
"""The kinds of :class:`Flow`."""

_PATCHED = (
    (Distribution, "_validate_args"),
    (Distribution, "arg_constraints"),
    (_InverseTransform, "__name__"),
)
"""Names in torch that importing zuko overwrites, for the whole process."""

_SPLINE_STEP = 0.4
"""Factor of an optimiser's steps in the parameters of splines and rotations."""


def zuko_installed() -> bool:
    """Whether the extra ``flows`` is there."""
    return importlib.util.find_spec("zuko") is not None


def require_zuko() -> Any:
    """The library zuko; torch and Pyro check arguments afterwards as they did before.

    Raises:
        ImportError: If it is not installed.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name in _PATCHED]
    try:
        return importlib.import_module("zuko")
    except ImportError as error:
        raise ImportError(
            "normalising flows need zuko, which is not there: pip install 'ppl_vae[flows]'."
        ) from error
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@final
class Flow(nn.Module):
    """``z = loc + scale * T(noise; context)``, noise ~ Normal(0, I); T starts at the identity.

    A draw's own density comes with the draw. What draws and densities cost, in passes through each
    layer's network, for d latents:

    ======== ================================= ==== ==================
    kind     layers of T                       draw density at given z
    ======== ================================= ==== ==================
    iaf      affine, inverse autoregressive    1    d + 1
    maf      affine, autoregressive            d+1  1
    realnvp  affine, coupling                  2    1
    spline   rational-quadratic, coupling      3    1
    ======== ================================= ==== ==================

    Objectives that take the guide's density at copies of its draws (STL, DReG, RWS) and annealing
    pay for a density. Of one latent only ``spline`` is more than a normal.

    Args:
        latent: Number of latent dimensions.
        kind: ``iaf``, ``maf``, ``realnvp`` or ``spline``.
        context: Size of the vector that T is conditioned on; 0 for none.
        layers: Transforms that T is composed of.
        hidden_sizes: Sizes of the hidden layers of each transform's network.
        bins: Bins of a spline, over 5 scales on both sides of loc; beyond, T is the identity.

    Raises:
        ImportError: If zuko is not installed.
        ValueError: If the kind is unknown or a size is out of range.

    References:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
        Papamakarios, Pavlakou and Murray, 2017, Masked autoregressive flow for density estimation.
        Dinh, Sohl-Dickstein and Bengio, 2017, Density estimation using Real NVP.
        Durkan et al., 2019, Neural spline flows.
    """

    def __init__(
        self,
        latent: int,
        kind: FlowKind,
        *,
        context: int = 0,
        layers: int = 4,
        hidden_sizes: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        if kind not in get_args(FlowKind):
            raise ValueError(f"unknown kind of flow {kind!r}: use {', '.join(get_args(FlowKind))}.")
        smallest = min(hidden_sizes, default=1)
        sizes = {"latent": latent, "layers": layers, "bins": bins, "hidden_sizes": smallest}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"a flow needs {name} of 1 or more (whole numbers), got {size}.")
        flows = require_zuko().flows
        family = {"realnvp": flows.RealNVP, "spline": flows.NSF}.get(kind, flows.MAF)
        coupled = {"bins": bins, "passes": 2} if kind == "spline" else {}
        self.transform: nn.Module = family(
            latent,
            context,
            transforms=layers,
            hidden_features=tuple(hidden_sizes),
            # Bounded, so that far from the data the flow is affine, its tails those of a normal.
            activation=nn.Tanh,
            **coupled,
        ).transform
        # zuko's autoregressive transform takes one pass from its input: iaf draws that way, the
        # others take densities.
        self._towards_latents = kind == "iaf"
        _start_at_identity(self.transform)

    def forward(
        self,
        loc: Float[Tensor, "*batch latent"],
        scale: Float[Tensor, "*batch latent"],
        context: Float[Tensor, "*batch context"] | None = None,
    ) -> dist.Distribution:
        """The distribution of z, event shape (latent,)."""
        shape = self.transform(context)
        return flow_distribution(
            loc, shape if self._towards_latents else shape.inv, AffineTransform(loc, scale, 1)
        )


@final
class RowFlows(nn.Module):
    """``z_i = loc_i + C_i T_i(noise)``, for every row a flow of its own, started at T_i = identity.

    ``T_i(u) = R_n' s_n(R_n ... R_1' s_1(R_1 u))`` with rotations R and monotonic rational-quadratic
    splines s of each dimension, all parameters free: a Gaussianisation flow. Draws and densities
    are both in closed form.

    Args:
        rows: Number of flows.
        latent: Number of latent dimensions.
        layers: Splines that T is composed of; the first has the axes of u, the others start from
            axes drawn from torch's random state, the same for all rows.
        bins: Bins of a spline, over 5 standard deviations of the noise on both sides of 0.

    Raises:
        ImportError: If zuko is not installed.

    References:
        Chen and Gopinath, 2000, Gaussianization.
        Meng et al., 2020, Gaussianization flows.
    """

    def __init__(self, rows: int, latent: int, layers: int = 3, bins: int = 8) -> None:
        super().__init__()
        require_zuko()
        turns = [torch.zeros(latent, latent)]
        turns += [torch.randn(latent, latent) / latent**0.5 for _ in range(layers - 1)]
        # forward multiplies by the factor again.
        shared = (turn.div(_SPLINE_STEP).expand(rows, -1, -1) for turn in turns)
        self.turns = nn.ParameterList(turn.clone() for turn in shared)
        self._sizes = [bins, bins, bins - 1]
        self.splines = nn.ParameterList(
            torch.zeros(rows, latent, sum(self._sizes)) for _ in range(layers)
        )

    def forward(
        self, loc: Float[Tensor, "rows latent"], scale_tril: Float[Tensor, "rows latent latent"]
    ) -> dist.Distribution:
        """The distributions of all rows, event shape (latent,); C lower triangular."""
        transforms = require_zuko().transforms
        steps: list[Any] = []
        for turn, spline in zip(self.turns, self.splines, strict=True):
            rotation = transforms.RotationTransform(_SPLINE_STEP * turn)
            bent = transforms.MonotonicRQSTransform(*(_SPLINE_STEP * spline).split(self._sizes, -1))
            steps += [rotation, transforms.DependentTransform(bent, 1), rotation.inv]
        steps += [transforms.LULinearTransform(scale_tril), AffineTransform(loc, 1.0, 1)]
        return flow_distribution(loc, *steps)


def flow_distribution(like: Float[Tensor, "*batch latent"], *transforms: Any) -> dist.Distribution:
    """``z = T_n(... T_1(noise))``, noise ~ Normal(0, I), as a Pyro distribution.

    Args:
        like: Any tensor of the shape, type and device of z.
        transforms: Transforms of vectors, zuko's or torch's, the first one first.

    Raises:
        ImportError: If zuko is not installed.
    """
    composed = require_zuko().transforms.ComposedTransform(*transforms)
    noise = dist.Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)
    return dist.TransformedDistribution(
        noise.to_event(1), [_Remembering(composed)], validate_args=False
    )


class _Pass(NamedTuple):
    """A pass through a transform, in either direction."""

    noise: Tensor
    z: Tensor
    log_volume: Tensor
    has_graph: bool
    version: int
    """Number of changes of z in place, as torch counts them."""

    def serves(self, z: Tensor) -> bool:
        """Whether z is the draw, unchanged, with the graph that is wanted of it."""
        same = self.z is z and self.version == _version(z)
        # A draw made without a graph would hand on no gradient of the parameters.
        return same and (self.has_graph or not torch.is_grad_enabled())


def _version(z: Tensor) -> int:
    # A tensor of inference mode counts no versions.
    return 0 if z.is_inference() else z._version


@final
class _Remembering(Transform):
    """noise -> z, remembering its last draw, so that the draw's own density needs no inversion."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self._to_latents, self._to_noise = transform, transform.inv
        self._drawn: _Pass | None = None
        self._inverted: _Pass | None = None

    def _call(self, noise: Tensor) -> Tensor:
        z, log_volume = self._to_latents.call_and_ladj(noise)
        self._drawn = _Pass(noise, z, log_volume, torch.is_grad_enabled(), _version(z))
        return self._drawn.z

    def _inverse(self, z: Tensor) -> Tensor:
        if self._drawn is not None and self._drawn.serves(z):
            return self._drawn.noise
        noise, log_volume = self._to_noise.call_and_ladj(z)
        self._inverted = _Pass(noise, z, -log_volume, torch.is_grad_enabled(), _version(z))
        return self._inverted.noise

    def log_abs_det_jacobian(self, noise: Tensor, z: Tensor) -> Tensor:
        """``log |dz/dnoise|``, of the shape of the batch."""
        for last in (self._inverted, self._drawn):
            # The noise is a tensor that one of the passes made or was given.
            if last is not None and last.noise is noise and last.serves(z):
                return last.log_volume
        log_volume: Tensor = self._to_latents.call_and_ladj(noise)[1]
        return log_volume


def _start_at_identity(transform: nn.Module) -> None:
    """Set to 0 what each layer's univariate transforms are made of; zuko's are then identities."""
    for layer in transform.modules():
        network, phi = getattr(layer, "hyper", None), getattr(layer, "phi", None)
        # Of one latent without context, zuko has no network but the parameters themselves.
        last = network[-1] if isinstance(network, nn.Sequential) else phi
        if isinstance(last, nn.Module):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
