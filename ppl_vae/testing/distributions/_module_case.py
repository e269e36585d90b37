"""Cases of a prior, decoder or encoder under test, by itself and in a full model."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.randomness import generator
from ppl_vae.reference_models import same_draws
from ppl_vae.vae import VAE

_Part = Literal["prior", "likelihood", "guide"]
_MOVED = 0.2
"""Share of a parameter's size, or of 1 where it is 0, by which it is moved first."""
_FEATURES, _BATCH = 3, 8


@final
@dataclass(frozen=True)
class ModuleCase:
    """Module that gives a distribution for each row it is called on; a prior has no rows.

    Attributes:
        part: Kind of the module.
        module: Module under test.
        given: Rows, shape (batch, size); None for a prior.
        fresh: Makes another module like it, with starting values of its own.
        missing: Whether a guide says that it takes data with NaN cells.
        log_error: Standard error of a constant that its log-density has, in nats.
    """

    part: _Part
    module: nn.Module
    given: Tensor | None = None
    fresh: Callable[[], nn.Module] | None = None
    missing: bool = False
    log_error: float = 0.0

    def __call__(self, given: Tensor | None = None) -> Any:
        """Make the distribution, of all rows or of those given."""
        if self.given is None:
            return self.module()
        return self.module(self.given if given is None else given)

    @property
    def rows(self) -> Tensor:
        """Rows that a likelihood or a guide is called on."""
        if self.given is None:
            raise ValueError(f"a {self.part} has no rows.")
        return self.given

    @property
    def num_rows(self) -> int:
        """Number of rows; 1 for a prior."""
        return 1 if self.given is None else len(self.given)

    def row(self, number: int) -> Any:
        """Make the distribution of one row, batch shape () for a prior and (1,) else."""
        return self() if self.given is None else self(self.given[number : number + 1])

    def symbol(self, number: int) -> str:
        """Symbol of the distribution of a row, for messages."""
        names = {"prior": "p(z)", "likelihood": f"p(x|z[{number}])", "guide": f"q(z|x[{number}])"}
        return names[self.part]

    def copied(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> "ModuleCase":
        """Copy in evaluation mode, in another precision or on another device if one is given."""
        module, given = copy.deepcopy(self.module), self.given
        # Modules in a list or a closure of the module are not reached by its own eval() and to().
        for part in (module, *_borrowed(module)):
            part.eval().to(device=device, dtype=dtype)
        if given is not None:
            # Discrete latents stay whole numbers, as a discrete prior draws them.
            kind = dtype if given.is_floating_point() else None
            given = given.to(device=device, dtype=kind)
        return replace(self, module=module, given=given)

    def moved(self, seed: int) -> "ModuleCase":
        """Copy in double precision with moved parameters, none of which is 0 or 1 by chance.

        At starting values much that is wrong cannot show: a scale is as good as its logarithm's
        exponential where it is 1, and a flow may begin as the identity.
        """
        case = self.copied(torch.float64)
        moved = case.copied()
        move([p for p in moved.module.parameters() if p.requires_grad], seed)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                distribution = moved()
                proper = distribution.log_prob(distribution.sample()).isfinite().all()
        except (ValueError, RuntimeError):
            proper = torch.tensor(False)
        # A parameter may have bounds that a move oversteps: then it is examined where it stands.
        return moved if bool(proper) else case


def _borrowed(module: nn.Module) -> list[nn.Module]:
    """List modules that this one holds without having them registered."""
    values = [value for part in module.modules() for value in vars(part).values()]
    own = set(module.modules())
    return [one for value in values for one in _inside(value, depth=3) if one not in own]


def _inside(value: Any, depth: int) -> list[nn.Module]:
    """List modules in a tuple or list, an object or a method of one."""
    if isinstance(value, nn.Module):
        return [value]
    if depth == 0 or isinstance(value, Tensor):
        return []
    inner = value if isinstance(value, tuple | list) else [*getattr(value, "__dict__", {}).values()]
    owner = getattr(value, "__self__", None)
    return [one for part in [*inner, owner] if part is not None for one in _inside(part, depth - 1)]


def move(tensors: list[Tensor], seed: int) -> None:
    """Add noise to tensors, in place, a fifth of their size."""
    source = generator(seed)
    with torch.no_grad():
        for tensor in tensors:
            size = float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0
            noise = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
            tensor.add_((_MOVED * (size or 1.0) * noise).to(tensor))


@contextmanager
def unvalidated() -> Iterator[None]:
    """Check no value inside, and keep no gradient: for densities far outside the draws."""
    with pyro.validation_enabled(False), torch.no_grad():
        yield


@final
class _Decoder(nn.Module):
    """Normal likelihood of any latents, whole numbers too."""

    def __init__(self, latent: int, features: int) -> None:
        super().__init__()
        self.decoder = NormalDecoder(nn.Linear(latent, features))

    def forward(self, z: Tensor) -> Any:
        weight = next(self.decoder.parameters())
        return self.decoder(z.to(weight.dtype))


@final
class _PriorAsGuide(nn.Module):
    """q(z|x) = p(z): a guide on the support of any prior."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor) -> Any:
        return self.prior().expand((len(x),))


@final
class _GuideAsPrior(nn.Module):
    """p(z) = q(z|x) for one x: a prior on the support of any guide."""

    x: Tensor

    def __init__(self, encoder: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("x", x)

    def forward(self) -> Any:
        return self.encoder(self.x)


@final
@dataclass(frozen=True)
class FullModel:
    """Full model to draw from and to train.

    Attributes:
        vae: Model.
        x: Data for it, shape (batch, features).
    """

    vae: VAE
    x: Tensor

    @property
    def programs(self) -> tuple[Any, Any]:
        """Model and guide."""
        return self.vae.model, self.vae.guide


def full_model(case: ModuleCase, seed: int) -> FullModel:
    """Build a model of a copy of the case and plain modules, in the case's precision."""
    case = case.copied()
    with same_draws(seed), torch.no_grad():
        distribution, module = case(), case.module
        draw, support = distribution.sample(), distribution.support
        size = draw.shape[-1]
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        everywhere = support is constraints.real
        prior: nn.Module
        encoder: nn.Module
        if case.part == "likelihood":
            x, latent = draw, case.rows.shape[-1]
            encoder = DiagonalNormalEncoder(nn.Linear(size, 2 * latent))
            vae = VAE(StandardNormalPrior(latent), module, encoder)
        elif case.part == "prior":
            if everywhere:
                encoder = DiagonalNormalEncoder(nn.Linear(_FEATURES, 2 * size))
            else:
                # A normal guide would draw outside of the support. A copy: the two train apart.
                encoder = _PriorAsGuide(case.copied().module)
            x = torch.randn(_BATCH, _FEATURES)
            vae = VAE(module, _Decoder(size, _FEATURES), encoder)
        else:
            x = case.rows
            if everywhere:
                prior = StandardNormalPrior(size)
            else:
                prior = _GuideAsPrior(case.copied().module, x[:1])
            vae = VAE(prior, _Decoder(size, x.shape[-1]), module)
    dtype = distribution.log_prob(draw).dtype
    return FullModel(vae.to(dtype).eval(), x.to(dtype))
