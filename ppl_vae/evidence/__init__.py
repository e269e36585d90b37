"""Estimators of log p(x), each with its standard error."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ppl_vae.components import Kind
from ppl_vae.evidence._adaptive import AdaptiveSampling
from ppl_vae.evidence._automatic import AutomaticSampling, CostPlan
from ppl_vae.evidence._chunked import Estimator
from ppl_vae.evidence._cost import evaluations_needed
from ppl_vae.evidence._debiased import SUMO, Jackknife
from ppl_vae.evidence._doubt import Doubt, doubt_by_normal
from ppl_vae.evidence._importance_sampling import (
    DefensiveSampling,
    ImportanceSampling,
    ParetoSmoothed,
)
from ppl_vae.evidence._laplace import LaplaceApproximation, LaplaceGuide, laplace_guide
from ppl_vae.evidence._loop import Call, Purpose, Streams
from ppl_vae.evidence._paired import MeanDoubt, PairedDifference, doubt_of, paired_difference
from ppl_vae.evidence._result import (
    OPTIONAL,
    PER_DATUM,
    STAGES,
    Claims,
    Columns,
    Direction,
    Evidence,
    bits_per_dimension,
    checksum,
)
from ppl_vae.evidence._sandwich import Likeness, Sandwich
from ppl_vae.evidence._sharded import Shard, Sharded
from ppl_vae.evidence._tails import pareto_tail
from ppl_vae.evidence._verdict import (
    TOLERATED_DOUBT,
    TOLERATED_FRACTION,
    TOLERATED_GAP,
    required_effective,
)
from ppl_vae.evidence._weighing import require_numbers
from ppl_vae.evidence.annealing._ais import AnnealedImportanceSampling
from ppl_vae.evidence.annealing._bidirectional import (
    BidirectionalMonteCarlo,
    calibrate,
    plot_sandwiches,
    sandwiches,
    with_gap,
)
from ppl_vae.evidence.annealing._pilot import Annealer, Mass
from ppl_vae.evidence.annealing._reverse import reverse_ais
from ppl_vae.evidence.annealing._smc import SequentialMonteCarlo
from ppl_vae.evidence.annealing._thermodynamic import ThermodynamicIntegration
from ppl_vae.evidence.exact._enumeration import Enumeration, SiteStates
from ppl_vae.evidence.exact._quadrature import Quadrature
from ppl_vae.particles import Refiner
from ppl_vae.refinement import Refinement
from ppl_vae.settings import Setting


def _refiner(written: int | str) -> Refiner:
    """Steps of a refinement, or the name of another way to make a guide for each datum."""
    if written == "laplace":
        return LaplaceApproximation()
    steps = int(written) if isinstance(written, str) and written.isdecimal() else written
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"refine takes a number of steps, 1 or more, or laplace, got {written!r}.")
    return Refinement(steps)


METHODS = Kind(
    "method",
    {
        "auto": AutomaticSampling,
        "iwae": ImportanceSampling,
        "psis": ParetoSmoothed,
        "defensive": DefensiveSampling,
        "jackknife": Jackknife,
        "sumo": SUMO,
        "adaptive": AdaptiveSampling,
        "ais": AnnealedImportanceSampling,
        "smc": SequentialMonteCarlo,
        "ti": ThermodynamicIntegration,
        "bdmc": BidirectionalMonteCarlo,
        "quadrature": Quadrature,
        "enumeration": Enumeration,
    },
    context=frozenset({"gap", "tails"}),
    converters={"refine": _refiner},
)
"""Estimators by name."""

__all__ = [
    "METHODS",
    "OPTIONAL",
    "PER_DATUM",
    "STAGES",
    "SUMO",
    "TOLERATED_DOUBT",
    "TOLERATED_FRACTION",
    "TOLERATED_GAP",
    "AdaptiveSampling",
    "AnnealedImportanceSampling",
    "Annealer",
    "AutomaticSampling",
    "BidirectionalMonteCarlo",
    "Call",
    "Claims",
    "Columns",
    "CostPlan",
    "DefensiveSampling",
    "Direction",
    "Doubt",
    "Enumeration",
    "Estimator",
    "Evidence",
    "ImportanceSampling",
    "Jackknife",
    "LaplaceApproximation",
    "LaplaceGuide",
    "Likeness",
    "Mass",
    "MeanDoubt",
    "PairedDifference",
    "ParetoSmoothed",
    "Purpose",
    "Quadrature",
    "Sandwich",
    "SequentialMonteCarlo",
    "Shard",
    "Sharded",
    "SiteStates",
    "Streams",
    "ThermodynamicIntegration",
    "bits_per_dimension",
    "build_estimator",
    "calibrate",
    "checksum",
    "doubt_by_normal",
    "doubt_of",
    "evaluations_needed",
    "laplace_guide",
    "method_for",
    "method_settings",
    "needs_guide_density",
    "paired_difference",
    "pareto_tail",
    "plot_sandwiches",
    "require_numbers",
    "required_effective",
    "reverse_ais",
    "sandwiches",
    "with_gap",
]


def method_for(options: Mapping[str, Any]) -> str:
    """The method that is meant where none is named: ``iwae`` where particles are given."""
    given = {name for name, value in options.items() if value is not None}
    return "iwae" if given & {"particles", "num_particles"} else "auto"


def build_estimator(
    method: str | None = None, options: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """The estimator that ``method`` names; options that are None keep their defaults.

    Args:
        method: Such as ``auto``, ``iwae:5000`` or ``ais:num_chains=4``; None: auto, or iwae where
            particles are given.
        options: Parameters of the class by name; ``num_`` may be left out.

    Raises:
        ValueError: If the name is unknown, or an option is none of the method's.
    """
    name, written = METHODS.split(method_for(options) if method is None else method)
    own = METHODS.parameters(METHODS.resolve(name))
    # Both num_chains and chains are taken, as Python and the command line name it.
    names = {option_of(parameter): parameter for parameter in own} | {n: n for n in own}
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in names:
            taking = [name for name, settings in _methods().items() if option in settings]
            raise ValueError(
                f"{option} is an option of method {', '.join(taking or ['none'])}; {name} takes "
                f"{', '.join(map(option_of, own))}."
            )
    values = [f"{names[option]}={value}" for option, value in given.items()]
    # Back to text, so that options pass the one reader of components and its checks.
    arguments = ",".join([*written, *values])
    return METHODS.parse(f"{name}:{arguments}" if arguments else name)()


def option_of(parameter: str) -> str:
    """The option that sets a parameter of an estimator: its name, without ``num_``."""
    return parameter.removeprefix("num_")


def method_settings() -> dict[str, Setting]:
    """Options of all methods together, none of which is given.

    The text of an option says which methods take it, and what it is where it is not given: the
    default of most methods stands first, then those that differ, by name.
    """
    merged: dict[str, Setting] = {}
    methods = _methods()
    for option in dict.fromkeys(option for own in methods.values() for option in own):
        taking = {name: own[option] for name, own in methods.items() if option in own}
        texts: dict[str, list[str]] = {}
        for name, setting in taking.items():
            texts.setdefault(setting.text.partition("; None: ")[0].rstrip("."), []).append(name)
        (common, _), *_ = Counter(str(each.default) for each in taking.values()).most_common(1)
        others = [f"{n} {own.default}" for n, own in taking.items() if str(own.default) != common]
        first = next(iter(taking.values()))
        unset = first.text.partition("; None: ")[2].rstrip(".")
        usual = unset if common == "None" else common
        default = "; ".join(filter(None, [usual, *others]))
        about = "; ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())
        text = f"{about}; None: {default}." if default else f"{about}."
        # What has a reader of its own is read when the method is built.
        hint = int | str if first.name in METHODS.converters else first.hint
        merged[option] = Setting(option, hint, None, text)
    return merged


def _methods() -> dict[str, dict[str, Setting]]:
    """Method to its options."""
    return {
        name: {option_of(key): own for key, own in METHODS.parameters(build).items()}
        for name, build in METHODS.items()
    }


def needs_guide_density(estimator: Any) -> bool:
    """Whether an estimator weighs draws by the guide's density, which a point does not have."""
    # These integrate over z without draws, or anneal from the prior where there is no density.
    if isinstance(estimator, Quadrature | Enumeration | AutomaticSampling):
        return False
    annealing = getattr(estimator, "annealing", estimator)
    if isinstance(annealing, AnnealedImportanceSampling):
        return annealing.start == "guide"
    # Laplace's approximation replaces the guide, whose density is then not asked for.
    return not isinstance(getattr(estimator, "refine", None), LaplaceApproximation)
