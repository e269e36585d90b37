"""Every kind of component by name, and what is written in more than one word: KL shapings, options.

A new component is a class and an entry in its own folder's table; this page collects the tables.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ppl_vae.components import Kind
from ppl_vae.engines import ENGINES
from ppl_vae.evidence import (
    METHODS,
    AnnealedImportanceSampling,
    Enumeration,
    LaplaceApproximation,
    Quadrature,
)
from ppl_vae.guides import GUIDES as ONE_LAYER_GUIDES
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.networks import ENCODER_NETWORKS
from ppl_vae.objectives import OBJECTIVES, SHAPINGS, KLObjective, Objective
from ppl_vae.priors import PRIORS
from ppl_vae.schedules import SCHEDULES
from ppl_vae.settings import Setting
from ppl_vae.training import STEPS
from ppl_vae.vae import Ladder

__all__ = [
    "ENGINES",
    "GUIDES",
    "KINDS",
    "LIKELIHOODS",
    "METHODS",
    "MODEL_KINDS",
    "OBJECTIVES",
    "PRIORS",
    "SCHEDULES",
    "SHAPINGS",
    "STEPS",
    "build_estimator",
    "method_settings",
    "needs_guide_density",
    "outside_objective",
    "over_particles",
    "parse_objective",
    "takes_kl_shaping",
    "with_particles",
]

GUIDES = replace(ONE_LAYER_GUIDES, classes={**ONE_LAYER_GUIDES, "ladder": Ladder})
"""Guides q(z|x) by name, those of a hierarchy too."""

MODEL_KINDS = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "network": ENCODER_NETWORKS,
}
"""Kinds of components that a model is made of, by the settings that name them."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        **MODEL_KINDS,
        "objective": OBJECTIVES,
        "shaping": SHAPINGS,
        "step": STEPS,
        "schedule": SCHEDULES,
        "method": METHODS,
        "engine": ENGINES,
    }
)
"""Every kind, by the setting or option that names a component of it."""


def parse_objective(text: str) -> Objective:
    """The objective that ``text`` names, such as ``iwae:50``, ``elbo+beta:4``, ``module:Class:7``.

    Raises:
        ValueError: If a name is unknown or an argument missing, superfluous or out of range.
    """
    first, plus, shaping = text.partition("+")
    component = OBJECTIVES.parse(first)
    if not plus:
        return component()  # type: ignore[no-any-return]
    if not takes_kl_shaping(component.build):
        with_kl = [name for name, build in OBJECTIVES.items() if takes_kl_shaping(build)]
        raise ValueError(
            f"objective {text!r}: {OBJECTIVES.split(first)[0]} has no KL term to shape; those with "
            f"one: {', '.join(with_kl)}."
        )
    try:
        kl = SHAPINGS.parse(shaping)()
    except ValueError as error:
        raise ValueError(f"objective {text!r}: {error}") from error
    return component(kl=kl)  # type: ignore[no-any-return]


def outside_objective(text: object) -> str | None:
    """Return ``module:Class`` of an objective from outside of this package; import nothing."""
    return OBJECTIVES.outside_class(text.partition("+")[0]) if isinstance(text, str) else None


def takes_kl_shaping(build: Any) -> bool:
    """Whether an objective's class has KL terms of its own."""
    return isinstance(build, type) and issubclass(build, KLObjective)


def over_particles(names: Sequence[str], counts: Sequence[int]) -> dict[str, list[Objective]]:
    """Name without K to the objectives: at each K, or at the K that the name brings along.

    Raises:
        ValueError: If a name is wrong.
    """
    families: dict[str, list[Objective]] = {}
    for text in dict.fromkeys(names):
        family, texts = with_particles(text, counts)
        families.setdefault(family, []).extend(map(parse_objective, texts))
    return families


def with_particles(text: str, counts: Sequence[int], *, keep: bool = True) -> tuple[str, list[str]]:
    """The name without K, and the full names, one for each K.

    Args:
        text: An objective, as ``iwae`` or ``iwae:50``.
        counts: Numbers of particles K.
        keep: A K in the text goes before these.
    """
    first, plus, shaping = text.partition("+")
    name, given = OBJECTIVES.split(first)
    own = [argument for argument in given if _is_particles(argument)]
    rest = [argument for argument in given if argument not in own]
    family = ":".join([name, *filter(None, [",".join(rest)])]) + plus + shaping
    if own and keep:
        return family if name in OBJECTIVES else text, [text]
    # Some objectives need two particles or more: smaller K are left out of their curve.
    least = getattr(OBJECTIVES.get(name), "least_particles", 1)
    # If none is left, the class itself refuses K, with its own reason.
    possible = [K for K in counts if least <= K] or counts
    return family, [f"{name}:{','.join([str(K), *rest])}{plus}{shaping}" for K in possible]


def _is_particles(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    return not equals or name in ("num_particles", "particles_each")


def build_estimator(method: str = "iwae", options: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The estimator that ``method`` names; options that are None keep their defaults.

    Args:
        method: Such as ``iwae``, ``iwae:5000`` or ``ais:num_chains=4``.
        options: Parameters of the class by name; ``num_`` may be left out.

    Raises:
        ValueError: If the name is unknown, or an option is none of the method's.
    """
    name, written = METHODS.split(method)
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
    # These integrate over z without draws.
    if isinstance(estimator, Quadrature | Enumeration):
        return False
    annealing = getattr(estimator, "annealing", estimator)
    if isinstance(annealing, AnnealedImportanceSampling):
        return annealing.start == "guide"
    # Laplace's approximation replaces the guide, whose density is then not asked for.
    return not isinstance(getattr(estimator, "refine", None), LaplaceApproximation)
