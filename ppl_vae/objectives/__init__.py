"""Training objectives: bounds on log p(x), each usable in ``pyro.infer.SVI`` and as a module."""

from collections.abc import Sequence
from typing import Any

from ppl_vae.components import Kind
from ppl_vae.objectives._aggregate import MMD, BetaTC, InfoVAE, squared_mmd
from ppl_vae.objectives._base import Claims, Context, Objective, ObjectiveModule
from ppl_vae.objectives._divergences import CUBO, TVO, Renyi, TailAdaptive, VRMax
from ppl_vae.objectives._elbo import ELBO, STL, AnalyticELBO, KLObjective, Reinforce
from ppl_vae.objectives._iwae import (
    CIWAE,
    IWAE,
    IWAESTL,
    MIWAE,
    PIWAE,
    DReG,
    GeneralizedDReG,
)
from ppl_vae.objectives._kl import (
    Beta,
    Capacity,
    CyclicalAnnealing,
    FreeBits,
    KLShaping,
    LinearAnnealing,
    WarmUp,
    dimension_kl,
    dimension_log_densities,
    site_kl,
)
from ppl_vae.objectives._paths import split_parameters
from ppl_vae.objectives._reconstruction import JointDensity, Reconstruction
from ppl_vae.objectives._score import RWS, VIMCO

OBJECTIVES = Kind(
    "objective",
    {
        "elbo": ELBO,
        "elbo-analytic": AnalyticELBO,
        "stl": STL,
        "iwae": IWAE,
        "iwae-stl": IWAESTL,
        "dreg": DReG,
        "gdreg": GeneralizedDReG,
        "vimco": VIMCO,
        "reinforce": Reinforce,
        "rws": RWS,
        "miwae": MIWAE,
        "piwae": PIWAE,
        "ciwae": CIWAE,
        "renyi": Renyi,
        "vr-max": VRMax,
        "cubo": CUBO,
        "tvo": TVO,
        "tail-adaptive": TailAdaptive,
        "mmd": MMD,
        "info-vae": InfoVAE,
        "beta-tc": BetaTC,
        "reconstruction": Reconstruction,
        "joint-density": JointDensity,
    },
    base=Objective,
    context=frozenset({"kl"}),
)
"""Objectives by name."""
SHAPINGS = Kind(
    "KL shaping",
    {
        "beta": Beta,
        "linear": LinearAnnealing,
        "warmup": WarmUp,
        "cyclical": CyclicalAnnealing,
        "free-bits": FreeBits,
        "capacity": Capacity,
    },
)
"""Shapings of the KL terms by name."""

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "IWAESTL",
    "MIWAE",
    "MMD",
    "OBJECTIVES",
    "PIWAE",
    "RWS",
    "SHAPINGS",
    "STL",
    "TVO",
    "VIMCO",
    "AnalyticELBO",
    "Beta",
    "BetaTC",
    "Capacity",
    "Claims",
    "Context",
    "CyclicalAnnealing",
    "DReG",
    "FreeBits",
    "GeneralizedDReG",
    "InfoVAE",
    "JointDensity",
    "KLObjective",
    "KLShaping",
    "LinearAnnealing",
    "Objective",
    "ObjectiveModule",
    "Reconstruction",
    "Reinforce",
    "Renyi",
    "TailAdaptive",
    "VRMax",
    "WarmUp",
    "dimension_kl",
    "dimension_log_densities",
    "outside_objective",
    "over_particles",
    "parse_objective",
    "site_kl",
    "split_parameters",
    "squared_mmd",
    "takes_kl_shaping",
    "with_particles",
]


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
        # Before a K is added to it: what is unknown is told as it was given.
        OBJECTIVES.resolve(OBJECTIVES.split(text.partition("+")[0])[0])
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
