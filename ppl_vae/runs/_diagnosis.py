"""What was found out about a trained run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import xarray as xr

from ppl_vae.display import Panel, Result
from ppl_vae.identity import Identity
from ppl_vae.netcdf import Attribute, joined


@final
@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """The parts of a diagnosis, each a result of its own: ``found["gap"]``.

    Attributes:
        parts: Name to result, of those that could be had.
        titles: Name to heading in print; a part without one is in the tree only.
        left_out: Part to the reason why it is not there.
        identity: What all was asked of; every part has one of its own.
    """

    parts: Mapping[str, Result]
    titles: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None

    def __getitem__(self, name: str) -> Any:
        """The part of this name.

        Raises:
            KeyError: If it is not there, with the reason.
        """
        if name not in self.parts:
            raise KeyError(f"no part {name!r}: {self.left_out.get(name, 'there is none')}.")
        return self.parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def __str__(self) -> str:
        texts = [f"{self.titles[name]}\n{part}" for name, part in self._printed.items()]
        texts += [f"left out, {name}: {why}" for name, why in self.left_out.items()]
        return "\n\n".join(texts)

    @property
    def _printed(self) -> dict[str, Result]:
        return {name: part for name, part in self.parts.items() if name in self.titles}

    @property
    def drawn(self) -> dict[str, Result]:
        """Parts with a drawing of their own, besides intervals of their values."""
        return {n: part for n, part in self.parts.items() if "_panels" in vars(type(part))}

    def to_datatree(  # type: ignore[override]
        self, attrs: Mapping[str, Attribute] | None = None
    ) -> xr.DataTree:
        """All parts as groups of one tree, for netCDF and ArviZ; ``attrs`` go to its root.

        Each group has its part's name, but ``prior_sbc``, where ArviZ looks for a calibration, and
        its own attributes, notes and warnings among them.
        """
        trees = [
            part.to_datatree(group="" if part._group == "prior_sbc" else name)
            for name, part in self.parts.items()
        ]
        reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
        own = {**self._attributes(), "left_out": reasons}
        return joined(trees, {**(attrs or {}), **own})

    def _values(self) -> dict[str, Any]:
        values = {name: part.summary() for name, part in self._printed.items()}
        return values | {"left_out": self.left_out, "identity": self.identity}

    def _panels(self) -> list[Panel]:
        return [panel for part in self._printed.values() for panel in part._panels()]
