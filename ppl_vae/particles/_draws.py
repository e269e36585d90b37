"""Random draws of some rows of a batch: those that one process draws for them with all the rows."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

_IN_PLACE = frozenset(
    {"normal_", "uniform_", "exponential_", "cauchy_", "log_normal_", "geometric_", "bernoulli_"}
)
_Functions: TypeAlias = frozenset[Callable[..., Any]]
_BY_SIZE: _Functions = frozenset({torch.rand, torch.randn, torch.randint})
_BY_TENSOR: _Functions = frozenset(
    {
        torch.bernoulli, torch.multinomial, torch.normal, torch.poisson, torch.binomial,
        torch.rand_like, torch.randn_like, torch.randint_like, torch._standard_gamma,
        torch._sample_dirichlet, Tensor.bernoulli, Tensor.multinomial,
    }
)  # fmt: skip
_DROPOUT: _Functions = frozenset(
    {
        functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
        functional.alpha_dropout, functional.feature_alpha_dropout,
    }
)  # fmt: skip


@final
@dataclass(frozen=True)
class Share:
    """Rows ``start:stop`` of a batch of ``size`` data, which one of several workers has.

    Attributes:
        rank: Number of the worker.
        workers: Number of all workers.
        size: Number of data of the batch.
    """

    rank: int
    workers: int
    size: int

    @property
    def start(self) -> int:
        """First row."""
        return self.size * self.rank // self.workers

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.size * (self.rank + 1) // self.workers - self.start

    def of(self, batch: Tensor) -> Tensor:
        """The rows of a batch."""
        return batch[self.start : self.start + self.rows]


@final
class RowDraws(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
    """Draw for all rows of a batch, and take those of the share.

    All workers draw from one stream: a row gets the numbers that it gets in one process, whichever
    worker has it, and what is no row's is drawn alike everywhere. Numbers for the rows of others
    cost a draw each, and no network is run for them. A draw of unclear shape is made once for each
    worker, who takes its own: the law is the same, the numbers are not those of one process. So are
    those of rejection samplers, which take as many numbers as their rows ask for.

    Args:
        share: The rows.
        lead: Size of all dimensions left of that of the rows together.
        functions: Functions whose draws are of rows.
        everything: Whether a draw must be one of rows, as inside of a data plate.
    """

    def __init__(
        self,
        share: Share,
        lead: int = 1,
        functions: _Functions = _BY_SIZE | _BY_TENSOR,
        *,
        everything: bool = True,
    ) -> None:
        super().__init__()
        self._share, self._lead, self._everything = share, lead, everything
        self._functions = functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one function of torch."""
        kwargs = kwargs or {}
        in_place = getattr(func, "__name__", "") in _IN_PLACE and self._everything
        if not in_place and func not in self._functions:
            return func(*args, **kwargs)
        if in_place:
            target, *others = args
            # Drawn apart, then copied: the tensor has room for the share alone.
            draw = _InPlace(func)
            return target.copy_(self._draw(draw, (target, *others), kwargs))
        if func in _BY_SIZE or not any(isinstance(value, Tensor) for value in args):
            args, kwargs = _with_size(args, kwargs)
        return self._draw(func, args, kwargs)

    def _draw(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        places = [self._place(value) for value in args]
        place = next((found for found in places if found is not None), None)
        size = self._place(kwargs.get("size"))
        if place is None and size is None:
            if not self._everything:
                return torch.as_tensor(func(*args, **kwargs))
            drawn = [func(*args, **kwargs) for _ in range(self._share.workers)]
            return torch.as_tensor(drawn[self._share.rank])
        wide = [
            value if found is None else self._widened(value, *found)
            for value, found in zip(args, places, strict=True)
        ]
        if size is not None:
            kwargs = {**kwargs, "size": self._widened(kwargs["size"], *size)}
        dim, blocks = place or size or (0, 1)
        result = func(*wide, **kwargs).unflatten(dim, (blocks, self._share.size))
        taken: Tensor = result.narrow(dim + 1, self._share.start, self._share.rows)
        return taken.flatten(dim, dim + 1)

    def _place(self, value: Any) -> tuple[int, int] | None:
        """The dimension that has the rows, and how many blocks of them; None if there is none."""
        if not isinstance(value, Tensor | tuple | list):
            return None
        shape: Sequence[int] = value.shape if isinstance(value, Tensor) else value
        rows, before = self._share.rows, 1
        # Particles and rows in one dimension, as categorical draws and convolutions have them.
        together = bool(shape) and shape[0] % (rows * self._lead) == 0 and shape[0] > 0
        if together and self._lead > 1:
            return 0, shape[0] // rows
        for dim, size in enumerate(shape):
            if size == rows and before % self._lead == 0:
                return dim, 1
            before *= size
        return (0, shape[0] // rows) if together else None

    def _widened(self, value: Any, dim: int, blocks: int) -> Any:
        """A tensor, or a size, with the rows of all workers; a copy of a row stands for another."""
        share = self._share
        if not isinstance(value, Tensor):
            return (*value[:dim], blocks * share.size, *value[dim + 1 :])
        rows = value.unflatten(dim, (blocks, share.rows))
        index = torch.arange(share.size, device=value.device) - share.start
        return rows.index_select(dim + 1, index.clamp(0, share.rows - 1)).flatten(dim, dim + 1)


@final
@dataclass(frozen=True)
class _InPlace:
    """A function that fills a tensor, as one that gives a new one."""

    function: Callable[..., Any]

    def __call__(self, like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        drawn: Tensor = self.function(torch.empty_like(like), *args, **kwargs)
        return drawn


def _with_size(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with the size by keyword, as a tuple; numbers before a size stay where they are."""
    if "size" in kwargs:
        return args, {**kwargs, "size": tuple(kwargs["size"])}
    if args and isinstance(args[-1], tuple | list):
        return args[:-1], {**kwargs, "size": tuple(args[-1])}
    return (), {**kwargs, "size": args}


@final
class SiteDraws(Messenger):  # type: ignore[misc, unused-ignore]
    """Pyro's handler that draws sample sites of the batch's rows by :class:`RowDraws`.

    Args:
        share: The rows.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def _pyro_sample(self, msg: Any) -> None:
        # The outermost handler sees sites last, expanded to all plates, particles first.
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        shape = msg["fn"].batch_shape
        if not shape or shape[-1] != self._share.rows:
            return
        with RowDraws(self._share, math.prod(shape[:-1])):
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["done"] = True


@contextmanager
def shared_draws(share: Share, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run programs inside on the rows of a share, with the draws that they have among all rows.

    Of sample sites, and of dropout; outside of these nothing is known to be of rows, and all
    workers draw alike.

    Args:
        share: The rows.
        modules: Modules behind the programs.
    """
    with ExitStack() as stack:
        stack.callback(_SHARE.reset, _SHARE.set(share))
        stack.enter_context(SiteDraws(share))
        if any(isinstance(each, _DropoutNd) for each in modules):
            stack.enter_context(RowDraws(share, functions=_DROPOUT, everything=False))
        yield


# By context: programs and steps of users need not know of shares.
_SHARE: ContextVar[Share | None] = ContextVar("share", default=None)


def share_here() -> Share | None:
    """The rows of a batch that programs run on here; None where they are all of it."""
    return _SHARE.get()


def row_draws(share: Share) -> AbstractContextManager[Any]:
    """Change the rows of a share inside, as by dynamic binarisation, with the draws of all rows."""
    return RowDraws(share)
