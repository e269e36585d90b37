"""Estimators of log p(x) by their names, with the options that each takes."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, final

from ppl_vae.data import RowData
from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    DefensiveSampling,
    Enumeration,
    ImportanceSampling,
    Jackknife,
    LaplaceApproximation,
    ParetoSmoothed,
    Quadrature,
    Sandwich,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)
from ppl_vae.evidence.estimator import Estimator as Estimator
from ppl_vae.particles import Program
from ppl_vae.refinement import Refinement, Refiner
from ppl_vae.runs.naming import require_known


@final
@dataclass(frozen=True)
class Method:
    """An estimator's name on the command line.

    Attributes:
        summary: What it is, in a line.
        build: Makes it from the options given.
        options: Those it takes.
    """

    summary: str
    build: Callable[[Mapping[str, Any]], Any]
    options: tuple[str, ...]


LAPLACE = "laplace"
"""In the place of a number of steps: the guide is a normal at each posterior mode."""
_ANNEALING = ("temperatures", "chains", "leapfrog", "start", "spacing")
_RENAMED = {
    "particles": "num_particles",
    "temperatures": "num_temperatures",
    "chains": "num_chains",
    "leapfrog": "leapfrog_steps",
    "spacing": "schedule",
    "target_se": "target",
    "simulated": "num_data",
}


def _arguments(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {_RENAMED.get(name, name): options[name] for name in names if name in options}


def _ais(options: Mapping[str, Any], **defaults: Any) -> AnnealedImportanceSampling:
    return AnnealedImportanceSampling(**{**defaults, **_arguments(options, *_ANNEALING)})


def _jackknife(options: Mapping[str, Any]) -> Jackknife:
    arguments = _arguments(options, "particles", "order", "refine", "bootstrap")
    return Jackknife(**{"num_particles": 4992, **arguments})


def _bidirectional(options: Mapping[str, Any]) -> BidirectionalMonteCarlo:
    return BidirectionalMonteCarlo(_ais(options), **_arguments(options, "simulated"))


METHODS: dict[str, Method] = {
    "iwae": Method(
        "importance sampling from the guide: a lower bound in expectation",
        lambda o: ImportanceSampling(**_arguments(o, "particles", "refine", "bootstrap")),
        ("particles", "refine", "bootstrap"),
    ),
    "psis": Method(
        "importance sampling with Pareto-smoothed weights: less variance, no bound",
        lambda o: ParetoSmoothed(**_arguments(o, "particles", "refine")),
        ("particles", "refine"),
    ),
    "defensive": Method(
        "importance sampling from a mixture of guide and prior: bounded weights",
        lambda o: DefensiveSampling(**_arguments(o, "particles", "prior_share", "refine")),
        ("particles", "prior_share", "refine"),
    ),
    "jackknife": Method(
        "importance sampling with its leading bias removed: no bound",
        _jackknife,
        ("particles", "order", "refine", "bootstrap"),
    ),
    "sumo": Method(
        "a randomly truncated series: unbiased for log p(x), its variance may be infinite",
        lambda o: SUMO(**_arguments(o, "replicates", "refine")),
        ("replicates", "refine"),
    ),
    "adaptive": Method(
        "importance sampling until each datum's standard error is below a target",
        lambda o: AdaptiveSampling(**_arguments(o, "target_se")),
        ("target_se",),
    ),
    "ais": Method(
        "annealed importance sampling: a lower bound in expectation, whatever the guide",
        _ais,
        _ANNEALING,
    ),
    "smc": Method(
        "sequential Monte Carlo: annealing with resampling",
        lambda o: SequentialMonteCarlo(_ais(o, num_chains=64)),
        _ANNEALING,
    ),
    "ti": Method(
        "thermodynamic integration along the annealing path: a cross-check",
        lambda o: ThermodynamicIntegration(_ais(o, num_temperatures=50)),
        _ANNEALING,
    ),
    "bdmc": Method(
        "annealing sandwiched on simulated data, then on these",
        _bidirectional,
        (*_ANNEALING, "simulated"),
    ),
    "quadrature": Method(
        "numerical integration, for up to 3 latent dimensions", lambda _: Quadrature(), ()
    ),
    "enumeration": Method(
        "the sum over all values of discrete latents", lambda _: Enumeration(), ()
    ),
}
"""Estimators by their names on the command line."""


def build_estimator(method: str = "iwae", options: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The estimator called ``method``; options that are None keep their defaults.

    Raises:
        ValueError: If the name is unknown, or an option is none of the method's.
    """
    require_known("method", method, METHODS)
    given = {name: value for name, value in options.items() if value is not None}
    taken = METHODS[method].options
    for name in given:
        if name not in taken:
            raise ValueError(
                f"{name} is an option of method {', '.join(methods_taking(name))}; "
                f"{method} takes {', '.join(taken) or 'none'}."
            )
    if "refine" in given:
        given["refine"] = _refiner(given["refine"])
    return METHODS[method].build(given)


def _refiner(value: int | str) -> Refiner:
    """Steps of a refinement, or the name of another way to make a guide for each datum."""
    if value == LAPLACE:
        return LaplaceApproximation()
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"refine takes a number of steps, 1 or more, or {LAPLACE}, got {value!r}.")
    return Refinement(value)


def needs_guide_density(estimator: Any) -> bool:
    """Whether an estimator weighs draws by the guide's density, which a point does not have."""
    if isinstance(estimator, Quadrature | Enumeration):
        return False
    inside = [v for v in vars(estimator).values() if isinstance(v, AnnealedImportanceSampling)]
    for annealing in [estimator, *inside]:
        if isinstance(annealing, AnnealedImportanceSampling):
            return annealing.start == "guide"
    return not isinstance(getattr(estimator, "refine", None), LaplaceApproximation)


def methods_taking(option: str) -> list[str]:
    """Names of the methods that take an option."""
    return [name for name, method in METHODS.items() if option in method.options]


def method_default(option: str) -> str:
    """What an option is where it is not given, as help shows it: ``1000; ti 50``.

    The value of most methods stands first, then those that differ, by name.
    """
    values = {name: _value_in(METHODS[name].build({}), option) for name in methods_taking(option)}
    (common, _), *_ = Counter(values.values()).most_common(1)
    others = [f"{name} {value}" for name, value in values.items() if value != common]
    return "; ".join([str(common), *others])


def _value_in(estimator: Any, option: str) -> Any:
    """What an option sets: a field of an estimator, or of the annealing inside it."""
    name = _RENAMED.get(option, option)
    if hasattr(estimator, name):
        return getattr(estimator, name)
    (inside,) = (v for v in vars(estimator).values() if isinstance(v, AnnealedImportanceSampling))
    return getattr(inside, name)


def sandwiches(
    estimator: BidirectionalMonteCarlo, model: Program, guide: Program, x: RowData, **call: Any
) -> dict[int, Sandwich]:
    """The sandwich at the estimator's number of temperatures, and at 1/3, 1/10 and 1/30 of it."""
    longest = estimator.ais.num_temperatures
    lengths = sorted({max(2, longest // part) for part in (30, 10, 3)} | {longest})
    shorter = {T: replace(estimator.ais, num_temperatures=T) for T in lengths}
    return {T: replace(estimator, ais=ais)(model, guide, x, **call) for T, ais in shorter.items()}


def with_gap(estimator: BidirectionalMonteCarlo, gap: float) -> AnnealedImportanceSampling:
    """The annealing that a sandwich judged, carrying the width it found."""
    return replace(estimator.ais, gap=gap)
