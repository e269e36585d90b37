"""A row of a table as a distribution: columns of different kinds, cells that may be missing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions.constraints import Constraint

from ppl_vae.data import Column
from ppl_vae.distributions import sum_features


class ColumnGroup(nn.Module, ABC):
    """Columns of one kind, side by side.

    Attributes:
        places: Their places in a row.
        start: Where the network's outputs for them start, in the order that it gives them.
        expected: Their possible values in words.
        stand_in: A possible value, for cells that are missing.
    """

    places: list[int]
    start: list[float]
    expected: str
    stand_in: ClassVar[float] = 0.0

    @abstractmethod
    def distributions(self, outputs: Float[Tensor, "*shape outputs"]) -> Any:
        """Distributions of the columns, batch shape (*shape, columns of the group)."""

    @abstractmethod
    def possible(self, x: Float[Tensor, "*shape columns"]) -> Tensor:
        """Whether each value is possible."""


class _RowSupport(Constraint):
    """Rows whose every cell is possible, or missing."""

    event_dim = 1

    def __init__(self, groups: Sequence[ColumnGroup], *, discrete: bool) -> None:
        self._groups, self.is_discrete = groups, discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        possible = [
            (group.possible(cells) | cells.isnan()).all(-1)
            for group in self._groups
            for cells in [value[..., group.places]]
        ]
        return torch.stack(possible).all(0)


@final
class TableRow(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``log p(x_observed) = sum over d with x_d not NaN of log p(x_d)``, columns of mixed kinds.

    Args:
        groups: The columns, by kind.
        outputs: Outputs of the network for each group.
        columns: All columns, for messages.
        validate_args: Whether values are checked; None: as Pyro has it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    accepts_missing: ClassVar[bool] = True
    """Whether NaN in x is a missing cell, as the checks of a model's data ask."""

    def __init__(
        self,
        groups: Sequence[ColumnGroup],
        outputs: Sequence[Float[Tensor, "..."]],
        columns: Sequence[Column],
        validate_args: bool | None = None,
    ) -> None:
        self._groups, self._outputs, self._columns = groups, outputs, columns
        order = [place for group in groups for place in group.places]
        # The inverse permutation, from the order of the groups back to that of the columns.
        self._back = torch.tensor(order).argsort().to(outputs[0].device)
        shape = outputs[0].shape[:-1]
        super().__init__(shape, Size((len(columns),)), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """Rows of possible or missing cells."""
        discrete = all(column.kind not in ("real", "positive") for column in self._columns)
        return _RowSupport(self._groups, discrete=discrete)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "TableRow":
        """Broadcast the distribution to a batch shape."""
        outputs = [o.expand(*batch_shape, o.shape[-1]) for o in self._outputs]
        return TableRow(self._groups, outputs, self._columns, validate_args=self._validate_args)

    @property
    def mean(self) -> Float[Tensor, "*shape features"]:
        """Means of numbers, the most probable code of a category or an order."""
        return self._together(
            [
                base.logits.argmax(-1) if isinstance(base, dist.Categorical) else base.mean
                for base in self._bases()
            ]
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Complete rows, shape ``(*sample_shape, *batch_shape, features)``."""
        with torch.no_grad():
            draws = [base.sample(Size(sample_shape)) for base in self._bases()]
        return self._together(draws)

    def log_prob(self, value: Float[Tensor, "*batch features"]) -> Float[Tensor, "*shape"]:
        """Log-density of the observed cells, in nats; 0 for a row without any.

        Raises:
            ValueError: If validation is on (the default) and a cell is impossible; names its place.
        """
        return sum_features(self.feature_log_prob(value))

    def feature_log_prob(
        self, value: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*shape features"]:
        """The terms of :meth:`log_prob`, 0 for missing cells."""
        terms = []
        for group, base in zip(self._groups, self._bases(), strict=True):
            cells = value[..., group.places]

            if self._validate_args and bool(
                (wrong := ~(group.possible(cells) | cells.isnan())).any()
            ):
                place = wrong.nonzero()[0]
                column = self._columns[group.places[int(place[-1])]]
                raise ValueError(
                    f"column {column.name!r} is {column.kind} and takes {group.expected}, got "
                    f"{cells[tuple(place)].item():.6g}: name another kind "
                    f'(columns={{"{column.name}": "real"}}).'
                )
            observed = ~cells.isnan()
            # A possible value in place of NaN: a NaN would pass through the gradient of where.
            possible = torch.where(observed, cells, group.stand_in)
            terms.append(torch.where(observed, base.log_prob(possible), 0.0))
        return self._together(terms)

    def _bases(self) -> list[Any]:
        return [g.distributions(o) for g, o in zip(self._groups, self._outputs, strict=True)]

    def _together(self, by_group: list[Tensor]) -> Tensor:
        """Values of all groups in the order of the columns."""
        # Codes are drawn as integers, and a row has one type.
        like = self._outputs[0].dtype
        return torch.cat([values.to(like) for values in by_group], -1)[..., self._back]
