"""Supports of distributions: where a density is 0, and whether a guide reaches all of a prior's."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, constraints

from ppl_vae.randomness import seeded

_SLACK = 1e-6
"""Relative difference of bounds that is rounding."""


def support_gap(prior: Mapping[str, Any], guide: Mapping[str, Any]) -> str | None:
    """Says which latent site a guide draws in a part of the prior's support only; None: no site.

    What lies outside is never drawn, so that weights estimate the integral of p(x, z) over the
    guide's support: a lower bound of p(x), however many they are.

    Args:
        prior: Site name to distribution in the model.
        guide: Site name to distribution in the guide.
    """
    for name, proposal in guide.items():
        if _leaves_out_a_value(prior[name], proposal):
            return (
                f"at latent site {name!r} the guide gives probability 0 to a value that the prior "
                "can take"
            )
        wanted, given = _support_of(prior[name]), _support_of(proposal)
        if wanted is None or given is None:
            continue
        parts = _where_less(wanted, given)
        if parts is not None:
            return (
                f"at latent site {name!r} the guide's support, {parts[1]}, is a part of the "
                f"prior's, {parts[0]}"
            )
    return None


def log_prob_or_zero_density(
    distribution: Any, value: Tensor, num_dims: int, *, anywhere: bool
) -> Tensor | None:
    """Log-density with -inf at values outside the support; None where these are a mistake.

    They are none where the support depends on what was drawn before, as that of
    ``Uniform(0, z)``: its density at x is 0 under a draw z < x.

    Args:
        distribution: With batch dimensions from the particles to the data.
        value: Of its event shape, or NaN, which is outside every support and a mistake.
        num_dims: Batch dimensions.
        anywhere: Values outside are no mistake, whatever the support, as those of a guide's
            density at draws of the prior.
    """
    support = _support_of(distribution)
    if support is None or not (anywhere or _depends_on_draws(support, distribution, num_dims)):
        return None
    outside = ~support.check(value)
    if not bool(outside.any()) or bool(value.isnan().any()):
        return None
    return _log_prob_but_for(distribution, value, outside, -math.inf)


def log_prob_or_nan(distribution: Any, value: Tensor) -> Tensor | None:
    """Log-density with NaN where the value is; None where no value is NaN.

    A value that is no number is trouble of computing, and no mistake about supports.
    """
    bad = value.isnan()
    if not bool(bad.any()):
        return None
    event_dim = len(distribution.event_shape)
    bad = bad.flatten(value.dim() - event_dim).any(-1) if event_dim else bad
    return _log_prob_but_for(distribution, value, bad, math.nan)


def _log_prob_but_for(distribution: Any, value: Tensor, left_out: Tensor, instead: float) -> Tensor:
    """Log-density, with a number instead of it at values that it is not asked at."""
    with torch.no_grad(), seeded(0):
        inside = distribution.sample()
    if not bool(inside.isfinite().all()):
        # The distribution's own parameters are no numbers.
        return torch.full(left_out.shape, math.nan, dtype=value.dtype, device=value.device)
    event = left_out.reshape(*left_out.shape, *[1] * len(distribution.event_shape))
    log_prob: Tensor = distribution.log_prob(torch.where(event, inside.to(value), value))
    return torch.where(left_out, instead, log_prob)


def in_words(support: Any) -> str:
    """A support in short, with bounds that differ between draws or data left out."""
    core = _core(support)
    bounds = _bounds(core)
    ends = [torch.as_tensor(bound).unique() for bound in bounds or ()]
    if not ends or any(len(end) > 1 for end in ends):
        return type(core).__name__.lstrip("_")
    return _interval(core, *(end.item() for end in ends))


def _leaves_out_a_value(prior: Any, guide: Any) -> bool:
    """Whether probabilities of 0, as they are given, keep a guide of few values off one of them."""
    ours, theirs = _impossible(prior), _impossible(guide)
    if ours is None or theirs is None or ours.shape[-1] != theirs.shape[-1]:
        return False
    return bool((theirs & ~ours).any())


def _impossible(distribution: Any) -> Tensor | None:
    """Which values have probability 0, in the last dimension; None of another distribution."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    core = getattr(distribution, "_categorical", distribution)
    if not isinstance(core, Bernoulli | Categorical):
        return None
    # As given: those that torch computes from logits round to 0 and 1.
    given, by_logits = core._param, "logits" in core.__dict__ and core._param is core.logits
    low = given == (-math.inf if by_logits else 0.0)
    if isinstance(core, Categorical):
        return low
    return torch.stack([low, given == (math.inf if by_logits else 1.0)], -1)


def _support_of(distribution: Any) -> Any:
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _core(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _bounds(core: Any) -> tuple[float | Tensor, float | Tensor] | None:
    """Of numbers on a line, the least and the largest; None of anything else."""
    if core is constraints.boolean:
        return 0.0, 1.0
    lower, upper = getattr(core, "lower_bound", None), getattr(core, "upper_bound", None)
    if lower is None and upper is None and core is not constraints.real:
        return None
    return -math.inf if lower is None else lower, math.inf if upper is None else upper


def _where_less(wanted: Any, given: Any) -> tuple[str, str] | None:
    """Both supports in words, where the second is less than the first."""
    ours, theirs = _core(wanted), _core(given)
    bounds = _bounds(ours), _bounds(theirs)
    if bounds[0] is None or bounds[1] is None:
        # Only the kind is known, as of simplices; on all of space there is more than on any other.
        less = ours is constraints.real and theirs is not constraints.real
        return (in_words(wanted), in_words(given)) if less else None
    if ours.is_discrete != theirs.is_discrete:
        return None
    values = [torch.as_tensor(b, dtype=torch.float64) for pair in bounds for b in pair or ()]
    low, high, guide_low, guide_high = torch.broadcast_tensors(*(v.cpu() for v in values))
    less = (guide_low - low > _slack(low)) | (high - guide_high > _slack(high))
    if not bool(less.any()):
        return None
    where = tuple(less.nonzero()[0])
    ends = [value[where].item() for value in (low, high, guide_low, guide_high)]
    return _interval(ours, *ends[:2]), _interval(theirs, *ends[2:])


def _slack(bound: Tensor) -> Tensor:
    return _SLACK * (1 + torch.where(bound.isfinite(), bound.abs(), 0.0))


def _interval(core: Any, low: float, high: float) -> str:
    if low == -math.inf and high == math.inf:
        return "all real numbers"
    kind = "whole numbers" if core.is_discrete else "numbers"
    if high == math.inf:
        return f"{kind} from {low:.4g} on"
    return (
        f"{kind} up to {high:.4g}" if low == -math.inf else f"{kind} from {low:.4g} to {high:.4g}"
    )


def _depends_on_draws(support: Any, distribution: Any, num_dims: int) -> bool:
    """Whether bounds differ between particles, or may do so where there is but one."""
    for bound in _bounds(_core(support)) or ():
        if not isinstance(bound, Tensor) or bound.dim() < num_dims:
            continue
        if len(bound) == 1 or not bool((bound == bound[:1]).all()):
            return True
    return False
