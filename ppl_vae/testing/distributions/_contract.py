"""Rungs that check the form of a module's distribution, its support, and missing cells."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import same_draws
from ppl_vae.testing._comparison import Answer, Discrepancy, same
from ppl_vae.testing.distributions._functions import BoundedFunctions, means_agree
from ppl_vae.testing.distributions._module_case import ModuleCase, unvalidated
from ppl_vae.testing.distributions._target import TargetDistribution, density_by_feature, target_of

_LEAD = (3, 2)
_EXPANDED = 2000
_DRAWS = 500
_ELSEWHERE = (-1e3, -1.0, -0.25, 0.5, 1.5, 2.5, 1e3)
_REMEDY = (
    "NaN in the data: expected a ValueError or a NaN, found a finite density: refuse NaN, or say "
    "that cells may be missing: accepts_missing = True in a likelihood's distribution, "
    "check_guide(..., missing=True) of a guide"
)


def contract(case: ModuleCase, seed: int) -> Answer:
    """Require a Pyro distribution of vectors; check shapes of batch, draws and densities."""
    found = case()
    if not isinstance(found, TorchDistributionMixin):
        raise AssertionError(
            "forward: expected a distribution of pyro.distributions, found "
            f"{type(found).__module__}.{type(found).__name__}"
        )
    if len(found.event_shape) != 1:
        raise AssertionError(
            "event_shape: expected one dimension, as .to_event(1) makes of the last one, found "
            f"{tuple(found.event_shape)}"
        )
    batch = () if case.given is None else case.given.shape[:-1]
    require_equal("batch_shape", tuple(found.batch_shape), tuple(batch))
    with same_draws(seed), torch.no_grad():
        draws = found.sample(_LEAD)
        log_prob = found.log_prob(draws)
        # A call that draws, or updates a buffer, has another density the second time.
        again = case().log_prob(draws)
    shape = (*_LEAD, *batch)
    require_equal(f"shape of sample({_LEAD})", tuple(draws.shape), (*shape, *found.event_shape))
    require_equal("shape of log_prob", tuple(log_prob.shape), shape)
    require_finite("log_prob of draws", log_prob)
    return [same("log_prob, forward called again", again, log_prob)]


def require_equal(what: str, found: object, expected: object) -> None:
    """Raise an AssertionError where two things differ."""
    if found != expected:
        raise AssertionError(f"{what}: expected {expected}, found {found}")


def require_finite(what: str, found: Tensor) -> None:
    """Raise an AssertionError where a number is NaN or infinite."""
    wrong = found[~found.isfinite()]
    if len(wrong):
        raise AssertionError(f"{what}: expected finite numbers, found {wrong[0].item()}")


def leading_shapes(case: ModuleCase, seed: int) -> Answer:
    """Compare the densities of (particles, batch) values and rows with those one by one."""
    with same_draws(seed), unvalidated():
        found = case()
        draws = found.sample(_LEAD)
        together = found.log_prob(draws).flatten(0, 1)
        one_by_one = torch.stack([found.log_prob(draw) for draw in draws.flatten(0, 1)])
        comparisons = [same("log_prob of (particles, batch) values", together, one_by_one)]
        if case.part == "likelihood":
            comparisons += _leading_rows(case)
    return comparisons


def _leading_rows(case: ModuleCase) -> list[Discrepancy]:
    """Check that a decoder takes z of any leading shape."""
    given = case.given
    if given is None:
        return []
    # Two particles that differ: equal ones would hide that particles and rows are mixed up.
    particles = torch.stack([given, given.roll(1, 0)])
    found, first = case(particles), case(given[0])
    require_equal(
        "batch_shape for z of (particles, batch)", found.batch_shape, particles.shape[:-1]
    )
    require_equal("batch_shape for z of (latent,)", tuple(first.batch_shape), ())
    x = found.sample()
    by_particle = torch.stack([case(z).log_prob(x_z) for z, x_z in zip(particles, x, strict=True)])
    return [
        same("log_prob for z of (particles, batch)", found.log_prob(x), by_particle),
        same("log_prob for z of (latent,)", first.log_prob(x[0, 0]), by_particle[0, 0]),
    ]


def expand(case: ModuleCase, seed: int) -> Answer:
    """Check that expanding keeps the density and gives as many independent draws."""
    with unvalidated():
        found = case.row(0)
        expanded = found.expand((_EXPANDED, *found.batch_shape))
        with same_draws(seed):
            others = expanded.sample()
    event = tuple(found.event_shape)
    shape = (_EXPANDED, *found.batch_shape)
    require_equal("batch_shape of expand", tuple(expanded.batch_shape), shape)
    require_equal("shape of its draws", tuple(others.shape), (*shape, *event))
    target = target_of(case, 0)
    with same_draws(derive_seed(seed, 1)):
        draws, placing = target.draw(_EXPANDED), target.draw(_EXPANDED)
    with unvalidated():
        densities = expanded.log_prob(others).reshape(-1)
    flat = others.reshape(_EXPANDED, -1)
    log_prob = target.log_prob(flat)
    same_distribution = same_draws_of(
        target, placing, draws, flat, "draws of expand() against sample(), mean of"
    )
    return [same("log_prob of expand()", densities, log_prob), *same_distribution]


def same_draws_of(
    target: TargetDistribution, placing: Tensor, draws: Tensor, others: Tensor, what: str
) -> list[Discrepancy]:
    """Compare two samples, by the means of functions fitted to a third one."""
    functions = BoundedFunctions.fit(placing, target.log_prob(placing), 0)
    found, expected = (
        functions.values(points, target.log_prob(points)) for points in (others, draws)
    )
    return means_agree(what, functions.names, found, expected)


def each_datum(case: ModuleCase, seed: int) -> Answer:
    """Check that the distribution of a row is the same whatever the other rows are."""
    given = case.given
    if given is None:
        return "not applicable"
    with same_draws(seed), unvalidated():
        found = case()
        draws = found.sample()
        log_prob = found.log_prob(draws)
        alone = torch.cat([case.row(i).log_prob(draws[i : i + 1]) for i in range(case.num_rows)])
        reversed_ = case(given.flip(0)).log_prob(draws.flip(0)).flip(0)
        # Statistics of a batch are the same in reverse, but not where all rows are equal.
        row = given[:1].expand_as(given)
        equal = case(row).log_prob(draws[:1].expand_as(draws))
    return [
        same("log-density of each row called by itself", alone, log_prob),
        same("log-density of each row, rows in reverse", reversed_, log_prob),
        same("log-density of equal rows", equal, log_prob[:1].expand_as(equal)),
    ]


def features(case: ModuleCase, seed: int) -> Answer:
    """Check that log-densities of single features, if offered, add up to that of the row."""
    with same_draws(seed), unvalidated():
        found = case()
        x = found.sample()
        densities = density_by_feature(found, x)
        if densities is None:
            return "not claimed"
        require_equal("shape of log p(x_d|z)", tuple(densities.shape), tuple(x.shape))
        return [same("sum of log p(x_d|z) over features", densities.sum(-1), found.log_prob(x))]


def support(case: ModuleCase, seed: int) -> Answer:
    """Check that draws are inside, and that values outside raise a ValueError or have -inf."""
    # Refusing is the validation's work, which training switches off after the first epoch.
    with pyro.validation_enabled(True), torch.no_grad():
        found = case()
        with same_draws(seed):
            draws = found.sample((_DRAWS,))
        inside = found.support.check(draws)
        if not bool(inside.all()):
            example = draws[~inside.expand(draws.shape[: inside.dim()])][0]
            raise AssertionError(f"draws: expected all in {found.support}, found {_shown(example)}")
        for value in _strangers(found, draws[0]):
            _require_refused(found, value)
    return []


def _strangers(found: Any, draw: Tensor) -> list[Tensor]:
    """Make values outside of the support: draws with one coordinate elsewhere, or with all."""
    values = []
    for elsewhere in _ELSEWHERE:
        one = draw.clone()
        one[..., 0] = elsewhere
        values += [one, torch.full_like(draw, elsewhere)]
    return [value for value in values if not bool(found.support.check(value).any())]


def _require_refused(found: Any, value: Tensor) -> None:
    try:
        log_prob = found.log_prob(value)
    except ValueError:
        return
    if not bool((log_prob == -torch.inf).all()):
        example = value.reshape(-1, value.shape[-1])[0]
        raise AssertionError(
            f"log_prob outside of {found.support}: expected a ValueError, or -inf, found "
            f"{log_prob.flatten()[0].item():.4g} at {_shown(example)}"
        )


def _shown(vector: Tensor) -> str:
    shown = ", ".join(f"{v:.4g}" for v in vector.flatten()[:4].tolist())
    return f"({shown}{', ...' if vector.numel() > 4 else ''})"


def missing_values(case: ModuleCase, seed: int) -> Answer:
    """Check that a NaN in the data is refused, or its cell left out where that is declared."""
    with same_draws(seed), torch.no_grad():
        if case.part == "guide":
            return _incomplete_rows(case)
        found = case()
        x = found.sample()
        if getattr(found, "accepts_missing", False):
            return _left_out(found, x)
        if _takes(lambda: found.log_prob(_with_a_hole(x))):
            raise AssertionError(_REMEDY)
    return []


def _incomplete_rows(case: ModuleCase) -> Answer:
    """Check that a guide's density is finite, or that it refuses."""
    holed = _with_a_hole(case.rows)

    def log_prob() -> Tensor:
        found = case(holed)
        density: Tensor = found.log_prob(found.sample())
        return density

    if case.missing:
        require_finite("log q(z|x) with a missing cell", log_prob())
    elif _takes(log_prob):
        raise AssertionError(_REMEDY)
    return []


def _with_a_hole(x: Tensor) -> Tensor:
    holed = x.clone()
    holed[0, 0] = torch.nan
    return holed


def _takes(density: Callable[[], Tensor]) -> bool:
    try:
        return bool(density().isfinite().all())
    except (ValueError, RuntimeError):
        return False


def _left_out(found: Any, x: Tensor) -> Answer:
    """Compare the log-density of a likelihood with that of the other cells."""
    densities = density_by_feature(found, x)
    if densities is None:
        raise AssertionError("accepts_missing: expected feature_log_prob(x), found no such method")
    expected = densities.sum(-1)
    expected[0] = expected[0] - densities[0, 0]
    what = "log p(x|z) with a missing cell"
    return [same(what, found.log_prob(_with_a_hole(x)), expected)]
