"""A network's output read in blocks of one value a feature, and where it starts."""

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.data import RowTensor, column_means, column_moments, column_variances
from ppl_vae.names import require_positive
from ppl_vae.networks import set_output_bias

__all__ = ["column_means", "column_spreads", "column_variances"]


def column_spreads(
    data: Float[RowTensor, "num_data features"] | None,
) -> Float[Tensor, " features"] | Float[Tensor, ""]:
    """Standard deviations of the columns; of a constant one, that of the others.

    Without data, or where nothing varies, it is 1.
    """
    if data is None:
        return torch.tensor(1.0)
    _, variance, varies = column_moments(data)
    pooled = variance[varies].mean() if varies.any() else variance.new_tensor(1.0)
    return torch.where(varies, variance, pooled).sqrt()


ParameterSource = Literal["shared", "feature", "network"]
"""Source of a learned positive parameter: one value for all features, one for each, or a block of
the network's output, so that it depends on z."""

_FLOOR = 1e-3
"""Least value of a learned parameter, in units of its start: no density grows without bound."""

_UNIT = math.log(math.e - 1)
"""Point where softplus is 1."""


@final
class Positive(nn.Module):
    """A positive parameter of p(x|z): ``start (f + (1 - f) softplus(u + log(e - 1)))``.

    It is ``start`` at u = 0 and never less than f = 1/1000 of that.

    Args:
        name: Its name, for messages.
        source: A number, which it then is, or where a learned one comes from.
        start: Value at the start of a learned one, shape (features,), or () without data.

    Raises:
        ValueError: If the number is not positive, or ``feature`` is asked for without data.

    References:
        Mattei and Frellsen, 2018, Leveraging the exact likelihood of deep latent variable models.
    """

    start: Tensor

    def __init__(
        self,
        name: str,
        source: float | ParameterSource,
        start: Float[Tensor, " features"] | Float[Tensor, ""],
    ) -> None:
        super().__init__()
        self.source = source
        if not isinstance(source, str):
            require_positive(**{name: source})
            start = torch.tensor(float(source))
        elif source == "shared":
            # As standard deviations are pooled: by their squares.
            start = start.square().mean().sqrt()
        elif source == "feature" and start.dim() == 0:
            raise ValueError(f"{name} 'feature' has one value a feature: give data to count them.")
        # A buffer, not a frozen parameter: pyro.module warns of each of those at every step.
        self.register_buffer("start", start)
        if source in ("shared", "feature"):
            self.free = nn.Parameter(torch.zeros_like(start))

    @property
    def in_network(self) -> bool:
        """Whether it takes a block of the network's output."""
        return self.source == "network"

    def set_number(self, value: float) -> None:
        """Make the number another one.

        Raises:
            ValueError: If the parameter is learned, or the number not positive.
        """
        if isinstance(self.source, str):
            raise ValueError(f"a parameter that is learned ({self.source}) has no number to set.")
        require_positive(value=value)
        self.source = value
        # What is hashed: the same module with another number is another density.
        self.start.fill_(value)

    def forward(self, free: Float[Tensor, "*shape features"] | None = None) -> Float[Tensor, "..."]:
        """Value of the parameter; ``free`` is its block of the network's output, if any."""
        if not isinstance(self.source, str):
            # From the number itself: a buffer of a model made double has been rounded before.
            return torch.full_like(self.start, self.source)
        # 1 at 0, and linear above, so that a step of the optimiser is a share of the start.
        unit = functional.softplus((self.free if free is None else free) + _UNIT)
        return self.start * (_FLOOR + (1 - _FLOOR) * unit)


def count_blocks(free: int, *sources: float | ParameterSource) -> int:
    """Blocks that a network has: so many free ones, and one for each source that is the network."""
    return free + sum(source == "network" for source in sources)


def read_blocks(
    output: Float[Tensor, "*shape outputs"], free: int, *positives: Positive
) -> tuple[Float[Tensor, "..."], ...]:
    """The free blocks as they are, then the positive parameters.

    Raises:
        ValueError: If the output has no such number of blocks.
    """
    count = count_blocks(free, *(positive.source for positive in positives))
    if output.shape[-1] % count:
        raise ValueError(
            f"the network has {output.shape[-1]} outputs, expected {count} for each feature: "
            "size it by the decoder's num_outputs(features)."
        )
    blocks = output.unflatten(-1, (count, -1)).unbind(-2)
    rest = iter(blocks[free:])
    read = (positive(next(rest)) if positive.in_network else positive() for positive in positives)
    return (*blocks[:free], *read)


def start_blocks(
    network: nn.Module, starts: list[Float[Tensor, " features"]], *positives: Positive
) -> None:
    """Set the network's last bias, so that its free blocks start there and the others at 0."""
    others = [torch.zeros_like(starts[0]) for positive in positives if positive.in_network]
    set_output_bias(network, torch.cat([*starts, *others]))
