"""Settings of a diagnosis, and its results together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from ppl_vae.display import Panel, Result
from ppl_vae.identity import Identity
from ppl_vae.names import require_least
from ppl_vae.netcdf import Attribute, joined

if TYPE_CHECKING:
    import xarray as xr


@final
@dataclass(frozen=True)
class DiagnosisSettings:
    """Settings of a diagnosis.

    Attributes:
        particles: Number of particles K of log p(x), for each datum.
        rate_data: Data for the rate-distortion curve; 0 leaves it out.
        temperatures: Steps of the curve's annealing.
        chains: Chains of the curve's annealing, for each datum.
        flow: Find a flow for each datum too, to see what the normal's shape costs; takes zuko and
            some minutes.

    Raises:
        ValueError: If a number is too small.
    """

    particles: int = 5000
    rate_data: int = 20
    temperatures: int = 500
    chains: int = 16
    flow: bool = False

    def __post_init__(self) -> None:
        require_least(2, particles=self.particles)
        require_least(0, rate_data=self.rate_data)
        require_least(2, temperatures=self.temperatures)
        require_least(1, chains=self.chains)


@final
@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """Results of all diagnoses of a run, by name: ``diagnosis["inference_gap"]``.

    Attributes:
        results: Name to result, of those that could be had.
        titles: Name to heading in print; a result without one is in the tree only.
        left_out: Name to the reason why the result is not there.
        identity: Identity of all of them together; every result has one of its own.
        origin: Origin of the run.
    """

    results: Mapping[str, Result]
    titles: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None
    origin: str = ""

    def __getitem__(self, name: str) -> Any:
        """The result of this name.

        Raises:
            KeyError: If it is not there, with the reason.
        """
        if name not in self.results:
            raise KeyError(f"no result {name!r}: {self.left_out.get(name, 'there is none')}.")
        return self.results[name]

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __str__(self) -> str:
        texts = [f"{self.titles[name]}\n{result}" for name, result in self._printed.items()]
        texts += [f"left out, {name}: {why}" for name, why in self.left_out.items()]
        return "\n\n".join(texts)

    @property
    def _printed(self) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if name in self.titles}

    @property
    def drawn(self) -> dict[str, Result]:
        """Results with a drawing of their own, besides intervals of their values."""
        return {n: result for n, result in self.results.items() if "_panels" in vars(type(result))}

    def to_datatree(  # type: ignore[override]
        self, attrs: Mapping[str, Attribute] | None = None
    ) -> "xr.DataTree":
        """All results as groups of one tree, for netCDF and ArviZ; ``attrs`` go to its root.

        Each group has its result's name, but ``prior_sbc``, where ArviZ looks for a calibration,
        and its own attributes, notes and warnings among them.
        """
        trees = [
            result.to_datatree(group="" if result._group == "prior_sbc" else name)
            for name, result in self.results.items()
        ]
        reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
        own = {**self._attributes(), "left_out": reasons, "origin": self.origin}
        return joined(trees, {**(attrs or {}), **own})

    def _values(self) -> dict[str, Any]:
        values = {name: result.summary() for name, result in self._printed.items()}
        return values | {"left_out": self.left_out, "identity": self.identity}

    def _panels(self) -> list[Panel]:
        return [panel for result in self._printed.values() for panel in result._panels()]
