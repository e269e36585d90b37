"""Rows of a table as the input of a network."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.data import Column, standard_moments


@final
class TableInput(nn.Module):
    """Network on numbers standardised, categories one-hot, missing cells 0, and which are there.

    Positive columns and counts by their logarithm (of 1 + x for counts); means and standard
    deviations are those of the training data.

    Args:
        columns: The kinds of the columns.
        data: Training rows, NaN for missing cells.
        network: Maps (batch, :meth:`num_inputs`) to (batch, outputs).

    References:
        Nazabal, Olmos, Ghahramani and Valera, 2020, Handling incomplete heterogeneous data using
        VAEs.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        data: Float[Tensor, "num_data features"],
        network: nn.Module,
    ) -> None:
        super().__init__()
        self.columns, self.network = tuple(columns), network
        numbers = self._numbers(data)
        loc, scale = standard_moments(numbers)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    @staticmethod
    def num_inputs(columns: Sequence[Column]) -> int:
        """Inputs that the network must take."""
        return sum(len(c.labels) if c.kind == "categorical" else 1 for c in columns) + len(columns)

    def forward(self, x: Float[Tensor, "*shape features"]) -> Float[Tensor, "*shape outputs"]:
        """The network's output."""
        # Standardised first: a missing number is then 0, the mean, and the mask tells it from one.
        numbers = ((self._numbers(x) - self.loc) / self.scale).nan_to_num(0.0)
        inputs = [numbers, (~x.isnan()).to(x.dtype)]
        for place, column in enumerate(self.columns):
            if column.kind == "categorical":
                codes = x[..., place]
                hot = functional.one_hot(codes.nan_to_num(0.0).long(), len(column.labels)).to(codes)
                # All zeros where it is missing: code 0 only stood in for it.
                inputs.append(torch.where(codes.isnan().unsqueeze(-1), 0.0, hot))
        output: Tensor = self.network(torch.cat(inputs, -1))
        return output

    def _numbers(self, x: Tensor) -> Tensor:
        """Columns other than categorical ones, on the scale on which they are standardised."""
        transforms = {"positive": torch.log, "count": torch.log1p}
        numbers = [
            transforms.get(column.kind, torch.positive)(x[..., place])
            for place, column in enumerate(self.columns)
            if column.kind != "categorical"
        ]
        return torch.stack(numbers, -1) if numbers else x[..., :0]
