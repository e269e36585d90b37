"""Which rows of a table are these?"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ppl_vae.priors._values import register

_ROWS = 2_000


@final
class RowIndex(nn.Module):
    """Finds rows of a table by their values, in time that does not grow with the table's length.

    A row's key is a sum of its values' bits, multiplied and mixed, in 64-bit integers: the same on
    every device, in whatever order it is summed. Two rows that differ share one by accident with
    probability 2^-64.

    Args:
        table: The rows, shape (num_data, features).
    """

    multipliers: Int[Tensor, " features"]
    keys: Int[Tensor, " num_data"]
    order: Int[Tensor, " num_data"]

    def __init__(self, table: Float[Tensor, "num_data features"]) -> None:
        super().__init__()
        self._dtype = table.dtype
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(-(2**62), 2**62, (table.shape[1],), generator=generator)
        register(self, learned=False, multipliers=(2 * drawn + 1).to(table.device))
        keys = torch.cat([self._key(rows) for rows in table.split(_ROWS)])
        # Of equal rows the first is found.
        keys, order = keys.sort(stable=True)
        register(self, learned=False, keys=keys, order=order)

    def forward(self, x: Float[Tensor, "batch features"]) -> Int[Tensor, " batch"]:
        """The number of each row in the table, -1 for a row that is not there."""
        keys = self._key(x)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.order[place], -1)

    def _key(self, rows: Tensor) -> Int[Tensor, " rows"]:
        # Adding 0 makes -0 the same as 0.
        values = rows.to(self._dtype).contiguous() + 0.0
        bits = values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)
        product = bits.long() * self.multipliers
        return (product ^ (product >> 32)).sum(-1)
