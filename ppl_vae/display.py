"""How results show themselves: in a line, in a notebook, as plain values and as a table."""

import html
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 200
"""Characters of a result's ``repr``."""


class Result(ABC):
    """A result: a dataclass declared with ``repr=False``, so that it shows no tensors.

    A subclass writes :meth:`summary` and ``__str__``; a notebook shows the latter.
    """

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The same as :meth:`summary`."""
        return self.summary()

    def to_frame(self) -> "pd.DataFrame":
        """One row of :meth:`summary`; values inside others have names such as ``gap.value``."""
        import pandas as pd

        return pd.json_normalize(self.summary())

    def __repr__(self) -> str:
        """Name and single numbers of the summary, as many as stand in one line."""
        text = ""
        for name, value in _scalars(self.summary()):
            more = f"{text}, {name}={value}" if text else f"{name}={value}"
            if len(more) > _LONGEST - len(type(self).__name__) - 7:
                text += ", ..."
                break
            text = more
        return f"{type(self).__name__}({text})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _scalars(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in summary.items():
        shown = value.get("value") if isinstance(value, Mapping) else value
        if isinstance(shown, str | bool):
            yield name, repr(shown)
        elif isinstance(shown, numbers.Real):
            yield name, f"{shown:.5g}"
