"""A decoder of tables: outputs of the network for each kind of column, and their start."""

from collections.abc import Callable, Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.data import Column, column_varies, standard_moments
from ppl_vae.likelihoods._counts import negative_binomial
from ppl_vae.likelihoods._table_row import ColumnGroup, TableRow
from ppl_vae.networks import set_output_bias

_FLOOR = 1e-2
"""Least scale of a column, in units of its own spread: no density grows without bound."""
_LEAST_FREQUENCY = 1e-3
"""Distance from 0 and 1 of the frequencies that logits start at."""


@final
class _Numbers(ColumnGroup):
    """Real and positive columns: normal, of the logarithm for positive ones."""

    loc: Tensor
    scale: Tensor
    stand_in = 1.0

    def __init__(self, places: list[int], columns: Sequence[Column], data: Tensor) -> None:
        super().__init__()
        self.places, self.logarithmic = places, columns[places[0]].kind == "positive"
        self.expected = "numbers above 0" if self.logarithmic else "finite numbers"
        self.start = [0.0] * (2 * len(places))
        cells = data[:, places]
        cells = cells.log() if self.logarithmic else cells
        for place, varies in zip(places, column_varies(cells).tolist(), strict=True):
            if not varies:
                # Its density would grow without bound and mean nothing.
                raise ValueError(
                    f"column {columns[place].name!r} is {columns[place].kind} and does not vary in "
                    "the training data, so that it has no density: leave it out."
                )
        loc, scale = standard_moments(cells)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def distributions(self, outputs: Float[Tensor, "*shape outputs"]) -> Any:
        loc, free = outputs.chunk(2, -1)
        loc, scale = self.loc + self.scale * loc, self.scale * _positive(free)
        kind = dist.LogNormal if self.logarithmic else dist.Normal
        return kind(loc, scale, validate_args=False)

    def possible(self, x: Float[Tensor, "*shape columns"]) -> Tensor:
        return x > 0 if self.logarithmic else x.isfinite()


@final
class _Counts(ColumnGroup):
    """Negative binomial: the logarithm of the mean, and the inverse dispersion."""

    log_mean: Tensor
    expected = "whole numbers from 0"

    def __init__(self, places: list[int], columns: Sequence[Column], data: Tensor) -> None:
        super().__init__()
        self.places, self.start = places, [0.0] * (2 * len(places))
        # A column of zeros would have no logarithm.
        mean = data[:, places].nanmean(0).nan_to_num(1.0).clamp(min=1e-2)
        # The network's output is relative to the mean: 0 where nothing is learned yet.
        self.register_buffer("log_mean", mean.log())

    def distributions(self, outputs: Float[Tensor, "*shape outputs"]) -> Any:
        log_mean, free = outputs.chunk(2, -1)
        return negative_binomial(self.log_mean + log_mean, _positive(free))

    def possible(self, x: Float[Tensor, "*shape columns"]) -> Tensor:
        return (x >= 0) & (x == x.round())


@final
class _Categories(ColumnGroup):
    """Binary and categorical columns: logits of the codes, of columns of different sizes."""

    expected = "codes of its labels"

    def __init__(self, places: list[int], columns: Sequence[Column], data: Tensor) -> None:
        super().__init__()
        self.places = places
        self.sizes = [_num_codes(columns[place]) for place in places]
        starts = [_logits(data[:, p], size) for p, size in zip(places, self.sizes, strict=True)]
        # Frequencies are where the network's own bias starts: logits have no other place.
        self.start = torch.cat(starts).tolist()

    def distributions(self, outputs: Float[Tensor, "*shape outputs"]) -> Any:
        return _categorical(outputs.split(self.sizes, -1))

    def possible(self, x: Float[Tensor, "*shape columns"]) -> Tensor:
        return _is_code(x, self.sizes)


@final
class _Orders(ColumnGroup):
    """Ordinal columns: ``P(x <= k) = sigmoid(t_k - f(z))`` with learned t_0 < t_1 < ..."""

    expected = "codes of its labels"

    def __init__(self, places: list[int], columns: Sequence[Column], data: Tensor) -> None:
        super().__init__()
        self.places, self.start = places, [0.0] * len(places)
        self.sizes = [_num_codes(columns[place]) for place in places]
        # The last cumulative frequency is 1 and has no threshold.
        thresholds = [
            _logits(data[:, p], size).softmax(0).cumsum(0)[:-1].logit()
            for p, size in zip(places, self.sizes, strict=True)
        ]
        self.first = nn.Parameter(torch.stack([t[0] for t in thresholds]))
        # Steps by softplus keep the thresholds in order, whatever is learned.
        steps = [t.diff().clamp(min=_LEAST_FREQUENCY).expm1().log() for t in thresholds]
        self.steps = nn.ParameterList(steps)

    def distributions(self, outputs: Float[Tensor, "*shape outputs"]) -> Any:
        logits = []
        for first, steps, loc in zip(self.first, self.steps, outputs.unbind(-1), strict=True):
            rising = torch.cat([first.new_zeros(1), functional.softplus(steps).cumsum(0)])
            below = functional.logsigmoid(first + rising - loc.unsqueeze(-1))
            above = functional.logsigmoid(loc.unsqueeze(-1) - first - rising)
            # P(x = k) = sigmoid(t_k - f) sigmoid(f - t_(k-1)) (1 - exp(t_(k-1) - t_k)).
            within = torch.log(-torch.expm1(-rising.diff()))
            inner = below[..., 1:] + above[..., :-1] + within
            logits.append(torch.cat([below[..., :1], inner, above[..., -1:]], -1))
        return _categorical(logits)

    def possible(self, x: Float[Tensor, "*shape columns"]) -> Tensor:
        return _is_code(x, self.sizes)


_GROUPS: tuple[tuple[tuple[str, ...], Callable[..., ColumnGroup]], ...] = (
    (("real",), _Numbers),
    (("positive",), _Numbers),
    (("count",), _Counts),
    (("binary", "categorical"), _Categories),
    (("ordinal",), _Orders),
)
"""Kinds of columns that are taken together."""


def _categorical(logits: Sequence[Tensor]) -> dist.Categorical:
    """Categorical of columns of different sizes: codes that one does not have get no mass."""
    most = max(own.shape[-1] for own in logits)
    padded = [functional.pad(own, (0, most - own.shape[-1]), value=-1e9) for own in logits]
    return dist.Categorical(logits=torch.stack(padded, -2), validate_args=False)


def _is_code(x: Tensor, sizes: list[int]) -> Tensor:
    return (x >= 0) & (x == x.round()) & (x < torch.tensor(sizes, device=x.device))


def _num_codes(column: Column) -> int:
    return max(len(column.labels), 2)


def _positive(free: Tensor) -> Tensor:
    # softplus(0.5413...) is 1.
    return _FLOOR + (1 - _FLOOR) * functional.softplus(free + 0.5413248546)


def _logits(codes: Tensor, size: int) -> Tensor:
    present = codes[~codes.isnan()].long()
    share = torch.bincount(present, minlength=size).to(codes) / max(len(present), 1)
    return share.clamp(min=_LEAST_FREQUENCY).log()


@final
class TableDecoder(nn.Module):
    """p(x|z) = prod_d p(x_d|z) over columns of different kinds; missing cells are left out.

    A real column is normal, a positive one log-normal, a count negative binomial, a binary one
    Bernoulli, a category categorical, an order a cumulative logit with learned thresholds. Numbers
    are standardised by the training data inside: log p(x) is of the data in their own units. NaN in
    x is a missing cell: the bound of MIWAE, on log p(x_observed), for every objective.

    Args:
        network: Maps (..., latent) to (..., outputs), as many as :meth:`num_outputs` says.
        columns: The kinds of the columns, as :func:`~ppl_vae.data.encode_table` finds them.
        data: Training rows, NaN for missing cells: scales, and where all columns start.

    Raises:
        ValueError: If there are no columns, or not as many as the data have, or a column of numbers
            does not vary.

    References:
        Nazabal, Olmos, Ghahramani and Valera, 2020, Handling incomplete heterogeneous data using
        VAEs.
        Mattei and Frellsen, 2019, MIWAE: deep generative modelling and imputation of incomplete
        data sets.
        McCullagh, 1980, Regression models for ordinal data.
    """

    def __init__(
        self,
        network: nn.Module,
        columns: Sequence[Column] | None,
        data: Float[Tensor, "num_data features"],
    ) -> None:
        super().__init__()
        if not columns:
            raise ValueError(
                "a table's likelihood needs to know its columns: give those of "
                "load_dataset(FILE, columns={}), FILE being .csv or .parquet."
            )
        if len(columns) != data.shape[-1]:
            raise ValueError(
                f"{len(columns)} columns are named, but rows have {data.shape[-1]} cells."
            )
        self.columns = tuple(columns)
        self.network = network
        self.groups = nn.ModuleList(
            build(places, self.columns, data)
            for kinds, build in _GROUPS
            if (places := [i for i, c in enumerate(self.columns) if c.kind in kinds])
        )
        start = [value for group in self.groups for value in group.start]  # type: ignore[union-attr]
        set_output_bias(network, torch.tensor(start, dtype=data.dtype))

    @classmethod
    def num_outputs(cls, features: int, columns: Sequence[Column] | None = None) -> int:
        """Outputs that the network must have."""
        sizes = {"binary": 0, "categorical": 0, "ordinal": 1}
        return sum(sizes.get(column.kind, 2) or _num_codes(column) for column in columns or ())

    def forward(self, z: Float[Tensor, "*shape latent"]) -> TableRow:
        """The distribution of a row, event shape (features,)."""
        groups: list[ColumnGroup] = list(self.groups)  # type: ignore[arg-type]
        outputs = self.network(z).split([len(group.start) for group in groups], -1)
        return TableRow(groups, outputs, self.columns)
