"""Supports of distributions: their bounds, in words, and what a guide's leaves out of a prior's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Transform,
    TransformedDistribution,
    constraints,
)

_SLACK = 1e-6
"""Largest relative difference of bounds that is rounding."""


def in_words(support: Any) -> str:
    """A support in short, with bounds that differ between draws or data left out."""
    core = core_of(support)
    bounds = bounds_of(core)
    ends = [torch.as_tensor(bound).unique() for bound in bounds or ()]
    if not ends or any(len(end) > 1 for end in ends):
        return type(core).__name__.lstrip("_")
    return interval(core, *(end.item() for end in ends))


def support_of(distribution: Any) -> Any:
    """Support of a distribution, that of a transformed one from its base; None where unknown."""
    if isinstance(distribution, Independent):
        base = support_of(distribution.base_dist)
        count = distribution.reinterpreted_batch_ndims
        return base if base is None else constraints.independent(base, count)
    # torch gives the whole codomain of the last transform; where a class knows better, it says so.
    if getattr(type(distribution), "support", None) is TransformedDistribution.support:
        image = _image(core_of(support_of(distribution.base_dist)), distribution.transforms)
        if image is not None:
            count = len(distribution.event_shape)
            return constraints.independent(image, count) if count else image
    try:
        return distribution.support
    except NotImplementedError:
        return None


def leaves_its_base(distribution: Any, value: Tensor) -> bool:
    """Whether transforms, of whole vectors too, bring values from outside of a base's support."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if not isinstance(distribution, TransformedDistribution):
        return False
    base = support_of(distribution.base_dist)
    for transform in reversed(distribution.transforms):
        value = transform.inv(value)
    return base is not None and not bool(base.check(value).all())


class TransformedInterval(constraints.Constraint):
    """Image of an interval under monotone transforms of single numbers.

    A value is in it where its inverse is in the interval: by its ends, rounding could say otherwise
    than the density does.
    """

    def __init__(self, base: Any, transforms: Sequence[Transform]) -> None:
        self._base, self._transforms = base, transforms
        ends = [torch.as_tensor(bound) for bound in bounds_of(base) or ()]
        for transform in transforms:
            ends = [transform(end) for end in ends]
        low, high = torch.broadcast_tensors(*ends)
        self.lower_bound, self.upper_bound = low.minimum(high), low.maximum(high)

    def check(self, value: Tensor) -> Tensor:
        for transform in reversed(self._transforms):
            value = transform.inv(value)
        inside: Tensor = self._base.check(value)
        return inside


def _image(base: Any, transforms: Sequence[Transform]) -> TransformedInterval | None:
    """Image of a base's support, where it is less than the last codomain and known."""
    for number, transform in enumerate(transforms):
        if transform.domain.event_dim or transform.codomain.event_dim or not transform.bijective:
            return None
        if not _same_numbers(base, core_of(transform.domain)):
            rest = transforms[number:]
            single = not any(each.domain.event_dim or not each.bijective for each in rest)
            known = base is not None and not base.is_discrete and bounds_of(base) is not None
            return TransformedInterval(base, rest) if single and known else None
        base = core_of(transform.codomain)
    return None


def _same_numbers(a: Any, b: Any) -> bool:
    """Whether two supports have the same bounds, which are no tensors."""
    if a is b:
        return True
    ours, theirs = bounds_of(a), bounds_of(b)
    if ours is None or theirs is None:
        return False
    # Comparing tensors would wait for the device.
    return not any(isinstance(end, Tensor) for end in (*ours, *theirs)) and ours == theirs


def core_of(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def bounds_of(core: Any) -> tuple[float | Tensor, float | Tensor] | None:
    """Least and largest of numbers on a line; None of anything else."""
    if core is constraints.boolean:
        return 0.0, 1.0
    lower, upper = getattr(core, "lower_bound", None), getattr(core, "upper_bound", None)
    if lower is None and upper is None and core is not constraints.real:
        return None
    return -math.inf if lower is None else lower, math.inf if upper is None else upper


def interval(core: Any, low: float, high: float) -> str:
    if (low, high) == (-math.inf, math.inf):
        return "all real numbers"
    kind = "whole numbers" if core.is_discrete else "numbers"
    if high == math.inf:
        return f"{kind} from {low:.4g} on"
    start = "" if low == -math.inf else f" from {low:.4g}"
    return f"{kind}{start} {'to' if start else 'up to'} {high:.4g}"


def support_gap(prior: Mapping[str, Any], guide: Mapping[str, Any]) -> str | None:
    """Name the latent site that a guide draws in a part of the prior's support only; None: no site.

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
        wanted, given = support_of(prior[name]), support_of(proposal)
        if wanted is None or given is None:
            continue
        parts = _where_less(wanted, given)
        if parts is not None:
            return (
                f"at latent site {name!r} the guide's support, {parts[1]}, is a part of the "
                f"prior's, {parts[0]}"
            )
    return None


def _leaves_out_a_value(prior: Any, guide: Any) -> bool:
    """Whether probabilities of 0, as they are given, keep a guide of few values off one of them."""
    ours, theirs = _impossible(prior), _impossible(guide)
    if ours is None or theirs is None or ours.shape[-1] != theirs.shape[-1]:
        return False
    return bool((theirs & ~ours).any())


def _impossible(distribution: Any) -> Tensor | None:
    """Mask of values of probability 0, in the last dimension; None of another distribution."""
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


def _where_less(wanted: Any, given: Any) -> tuple[str, str] | None:
    """Supports in words, where the second is less than the first; else None."""
    ours, theirs = core_of(wanted), core_of(given)
    bounds = bounds_of(ours), bounds_of(theirs)
    if bounds[0] is None or bounds[1] is None:
        # Only the kind is known, as of simplices; on all of space there is more than on any other.
        less = ours is constraints.real and theirs is not constraints.real
        return (in_words(wanted), in_words(given)) if less else None
    if ours.is_discrete != theirs.is_discrete:
        return None
    # Bounds may be numbers, or tensors of different types and devices.
    values = [torch.as_tensor(b, dtype=torch.float64) for pair in bounds for b in pair or ()]
    low, high, guide_low, guide_high = torch.broadcast_tensors(*(v.cpu() for v in values))
    less = (guide_low - low > _slack(low)) | (high - guide_high > _slack(high))
    if not bool(less.any()):
        return None
    where = tuple(less.nonzero()[0])
    ends = [value[where].item() for value in (low, high, guide_low, guide_high)]
    return interval(ours, *ends[:2]), interval(theirs, *ends[2:])


def _slack(bound: Tensor) -> Tensor:
    return _SLACK * (1 + torch.where(bound.isfinite(), bound.abs(), 0.0))
