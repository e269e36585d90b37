"""One objective at several numbers of particles."""

from collections.abc import Sequence

from ppl_vae.objectives import Objective
from ppl_vae.runs.objective_names import OBJECTIVES, parse_objective


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
        counts: The K.
        keep: A K in the text goes before these.
    """
    first, plus, shaping = text.partition("+")
    name, _, arguments = first.partition(":")
    if name not in OBJECTIVES:
        attribute, _, arguments = arguments.partition(":")
        name = f"{name}:{attribute}"
    given = [argument for argument in arguments.split(",") if argument]
    own = [argument for argument in given if _is_particles(argument)]
    rest = [argument for argument in given if argument not in own]
    family = ":".join([name, *filter(None, [",".join(rest)])]) + plus + shaping
    if own and keep:
        return family if name in OBJECTIVES else text, [text]
    least = getattr(OBJECTIVES[name].build, "least_particles", 1) if name in OBJECTIVES else 1
    possible = [K for K in counts if least <= K] or counts
    return family, [f"{name}:{','.join([str(K), *rest])}{plus}{shaping}" for K in possible]


def _is_particles(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    return not equals or name in ("num_particles", "particles_each")
