"""Systematic resampling, by datum and group."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ppl_vae.evidence.annealing._path import Chains


def systematic_ancestors(
    log_weight: Float[Tensor, "groups chains batch"],
) -> Int[Tensor, "groups chains batch"]:
    """Indices of chains, each drawn ``K w_k / sum w`` times on average.

    One uniform number for each datum and group moves a comb of K teeth over the cumulative weights:
    every chain has as many descendants as it should, rounded up or down.

    References:
        Carpenter, Clifford and Fearnhead, 1999, An improved particle filter for
        non-linear problems.
    """
    count = log_weight.shape[1]
    weight = torch.softmax(log_weight.double(), 1).transpose(1, 2).contiguous()
    cumulative = weight.cumsum(-1)
    offset = torch.rand_like(cumulative[..., :1])
    teeth = (torch.arange(count, device=weight.device) + offset) / count * cumulative[..., -1:]
    return torch.searchsorted(cumulative, teeth).clamp(max=count - 1).transpose(1, 2)


def resampled(
    chains: Chains,
    log_weight: Float[Tensor, "chains batch"],
    num_groups: int,
    where: Bool[Tensor, "groups batch"] | None = None,
) -> Chains:
    """Chains in place of which their ancestors stand, within groups of consecutive chains.

    Args:
        chains: Of all groups, one group after the other.
        log_weight: Their weights.
        num_groups: How many groups.
        where: Which groups of which data to resample; all if not given.
    """
    grouped = log_weight.unflatten(0, (num_groups, -1))
    size = grouped.shape[1]
    ancestors = systematic_ancestors(grouped)
    if where is not None:
        themselves = torch.arange(size, device=ancestors.device).reshape(1, -1, 1)
        ancestors = torch.where(where.unsqueeze(1), ancestors, themselves)
    first = size * torch.arange(num_groups, device=ancestors.device).reshape(-1, 1, 1)
    rows = (first + ancestors).flatten(0, 1)
    return Chains(*(_rows_of(value, rows) for value in chains))


def _rows_of(value: Tensor, rows: Tensor) -> Tensor:
    if value.dim() == 3:
        rows = rows.unsqueeze(-1).expand(-1, -1, value.shape[-1])
    return value.gather(0, rows)
