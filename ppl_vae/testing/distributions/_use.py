"""Rungs that check a module's use: precision, devices, copies, particles, training."""

import copy
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, biject_to

from ppl_vae.objectives import ELBO, VIMCO, Objective
from ppl_vae.particles import Graph, LatentDensity, Programs, draw_particles
from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import same_draws
from ppl_vae.testing._comparison import Answer, same
from ppl_vae.testing.distributions._contract import require_equal, require_finite
from ppl_vae.testing.distributions._module_case import (
    FullModel,
    ModuleCase,
    full_model,
    move,
    unvalidated,
)
from ppl_vae.testing.distributions._target import density_by_feature
from ppl_vae.training import fit

_PARTICLES = 3
_DRAWS = 16
_FACTORS = (1.0, 1e3, 1e6)
"""Factors on the usual data, where the support has such values: counts of millions, other units."""
_TOLERANCE = 1e-4
"""Tolerance of the log-density of a row, in nats."""
_SAFE = 4.0
"""Factor on what rounding explains: operations come one after the other."""
_ROUNDINGS = 4


def precision_and_device(case: ModuleCase, seed: int) -> Answer:
    """Check that results have the module's precision and device, on a GPU where there is one."""
    _require_registered(case.module)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for dtype in (torch.float32, torch.float64):
        for device in devices:
            _require_there(case, dtype, torch.device(device), seed)
    return []


def _require_registered(module: nn.Module) -> None:
    own = nn.Module().__dict__
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            # torch's own registries, in which parameters and buffers stand.
            if attribute in own and attribute.startswith("_"):
                continue
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Tensor | Distribution):
                    raise AssertionError(
                        f"{'.'.join(filter(None, [name, attribute]))}: expected a parameter or a "
                        f"buffer (self.register_buffer), found a {type(one).__name__} as an "
                        "attribute, which .to(device) leaves behind"
                    )


def _require_there(case: ModuleCase, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    case = case.copied(dtype, device)
    with same_draws(seed), torch.no_grad():
        found = case()
        draws = found.sample()
        log_prob = found.log_prob(draws)
    where = f"module.to({dtype}) on {device.type}"
    require_equal(f"dtype of log_prob, {where}", log_prob.dtype, dtype)
    if not found.support.is_discrete:
        require_equal(f"dtype of draws, {where}", draws.dtype, dtype)
    for what, value in (("draws", draws), ("log_prob", log_prob)):
        require_equal(f"device of {what}, {where}", value.device.type, device.type)
    require_finite(f"log_prob of draws, {where}", log_prob)


def checkpoint(case: ModuleCase, seed: int) -> Answer:
    """Check that the state_dict, in another module with other values, gives the same density."""
    if case.fresh is None:
        other = case.copied()
        state = other.module.state_dict().values()
        # Buffers, too: what they hold must come from the state_dict.
        move([value for value in state if value.is_floating_point()], derive_seed(seed, 1))
    else:
        other = replace(case, module=case.fresh()).copied(torch.float64)
    other.module.load_state_dict(case.module.state_dict())
    return [_same_density(case, other, "after load_state_dict", seed)]


def _same_density(case: ModuleCase, other: ModuleCase, what: str, seed: int) -> Any:
    with same_draws(seed), unvalidated():
        found = case()
        draws = found.sample((4,))
        return same(f"log_prob {what}", other().log_prob(draws), found.log_prob(draws))


def copies(case: ModuleCase, seed: int) -> Answer:
    """Check that copies have the same density, and that the seed decides on the draws."""
    loaded = pickle.loads(pickle.dumps(case.module))
    copied = copy.deepcopy(case.module)
    with unvalidated():
        draws = []
        for _ in range(2):
            with same_draws(seed):
                draws.append(case().sample((4,)))
    return [
        _same_density(case, replace(case, module=loaded), "of a pickled copy", seed),
        _same_density(case, replace(case, module=copied), "of a deep copy", seed),
        same("draws with the same seed", *draws),
    ]


def particles(case: ModuleCase, seed: int) -> Answer:
    """Compare densities of K particles in a model with those of the modules called directly."""
    model = full_model(case, seed)
    drawn = {}
    graphs: tuple[Graph, ...] = ("path", "split", "score")
    for graph in graphs:
        with same_draws(seed):
            drawn[graph] = draw_particles(*model.programs, model.x, _PARTICLES, graph=graph)
    path = drawn["path"]
    require_equal("shape of log-weights", path.log_weight.shape, (_PARTICLES, len(model.x)))
    z = path.latents["z"].detach()
    with unvalidated():
        direct = {
            "log p(z)": (path.log_latent_prior, model.vae.prior().log_prob(z)),
            "log q(z|x)": (path.log_proposal, model.vae.encoder(model.x).log_prob(z)),
            "log p(x|z)": (path.log_likelihood, model.vae.decoder(z).log_prob(model.x)),
        }
    comparisons = [same(f"{name} of particles", *values) for name, values in direct.items()]
    for graph in graphs[1:]:
        what = f"log-weights, graph={graph!r} against 'path'"
        comparisons.append(same(what, drawn[graph].log_weight, path.log_weight))
    return comparisons


def annealing(case: ModuleCase, seed: int) -> Answer:
    """Check densities and gradients at the positions that annealing moves continuous latents to."""
    model = full_model(case, seed)
    with torch.no_grad():
        support = model.vae.prior().support
    try:
        biject_to(support)
    except NotImplementedError:
        return "not applicable"
    if support.is_discrete:
        return "not applicable"
    with same_draws(seed):
        density = LatentDensity(Programs(*model.programs), model.x, _PARTICLES)
        u = density.draw_guide().requires_grad_()
    found, z = density(u), density.unpack(u)["z"].detach()
    (gradient,) = torch.autograd.grad(found.prior.sum() + found.likelihood.sum(), u)
    require_finite("gradient of the log-density by unconstrained latents", gradient)
    with unvalidated():
        prior, guide = model.vae.prior().log_prob(z), model.vae.encoder(model.x).log_prob(z)
    return [
        # Both hold the Jacobian of the unconstrained positions: it cancels in the difference.
        same("log p(z) - log q(z|x) of positions", found.prior - found.guide, prior - guide),
        same("log p(x|z) of positions", found.likelihood, model.vae.decoder(z).log_prob(model.x)),
    ]


def training(case: ModuleCase, seed: int) -> Answer:
    """Train for an epoch, and check that its checkpoint carries over what was learned."""
    model, other = full_model(case, seed), full_model(case, seed)
    move(list(other.vae.parameters()), derive_seed(seed, 1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.safetensors"
        _train(model, file, seed)
        # The same run is finished in the checkpoint: the second call only loads it.
        _train(other, file, seed)
    log_weights = []
    for each in (model, other):
        with same_draws(seed), unvalidated():
            log_weights.append(draw_particles(*each.programs, model.x, graph="score").log_weight)
    reached, loaded = log_weights
    return [same("log-weights of a run from its checkpoint", loaded, reached)]


def _train(model: FullModel, file: Path, seed: int) -> None:
    with torch.no_grad():
        reparameterised = model.vae.encoder(model.x).has_rsample
    objective: Objective = ELBO(2) if reparameterised else VIMCO(2)
    half = (len(model.x) + 1) // 2
    fit(
        *model.programs, objective, model.x, epochs=1, batch_size=half, device="cpu",
        seed=seed % 2**31, checkpoint=file, progress=False,
    )  # fmt: skip


def digits(case: ModuleCase, seed: int) -> Answer:
    """Compare the log-density in single precision with a double copy, at small and large data.

    It may differ by 1e-4 nats a row, and by what the rounding of parameters, of single features'
    log-densities and of their sum explains.
    """
    single = case.copied(torch.float32)
    # From the single copy: both have the same rounded parameters.
    double = single.copied(torch.float64)
    with unvalidated(), same_draws(seed):
        draws = single().sample((_DRAWS,))
        for factor in _FACTORS:
            value = factor * draws
            allowed = single().support.check(value).expand(value.shape[:-1])
            if bool(allowed.any()):
                value = value.where(allowed.unsqueeze(-1), draws)
                _require_digits(single, double, value, allowed, factor, seed)
    return []


def _require_digits(
    single: ModuleCase,
    double: ModuleCase,
    value: Float[Tensor, "*draws features"],
    allowed: Bool[Tensor, "*draws"],
    factor: float,
    seed: int,
) -> None:
    found, wide = single().log_prob(value).double(), value.double()
    expected = double().log_prob(wide)
    terms = density_by_feature(double(), wide)
    # The sum of the terms' sizes is what their rounding is relative to.
    size = expected.abs() if terms is None else terms.abs().sum(-1).abs()
    rounding = torch.finfo(torch.float32).eps * size
    for rounded in _rounded_otherwise(double, seed):
        change = (rounded().log_prob(wide) - expected).abs()
        rounding = torch.maximum(rounding, change)
    excess = (found - expected).abs() - _TOLERANCE - _SAFE * rounding
    # Where double precision itself has no number there is nothing to compare with.
    excess = excess.nan_to_num(nan=torch.inf).where(allowed & expected.isfinite(), -torch.inf)
    worst = int(excess.argmax())
    if float(excess.flatten()[worst]) > 0:
        a, b, c = (x.flatten()[worst].item() for x in (found, expected, _SAFE * rounding))
        raise AssertionError(
            f"log_prob in single precision, at {factor:g} times the usual data: expected {b:.8g} "
            f"as in double precision, found {a:.8g}, off by {a - b:+.2g} nats, of which rounding "
            f"explains {c:.2g}: evaluate differences of large numbers in double precision"
        )


def _rounded_otherwise(case: ModuleCase, seed: int) -> Iterator[ModuleCase]:
    """Yield copies whose parameters and buffers are moved by single precision's rounding."""
    epsilon = torch.finfo(torch.float32).eps
    for number in range(_ROUNDINGS):
        copied = case.copied()
        with same_draws(derive_seed(seed, number)), torch.no_grad():
            for tensor in (*copied.module.parameters(), *copied.module.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(1 + epsilon * (2 * torch.rand_like(tensor) - 1).sign())
        yield copied
