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
    given = [argument for argument in arguments.split(",") if argument]
    named = OBJECTIVES.get(name)
    if named is None:
        # module:Class, or module:Class:K
        own = first.count(":") != 1
        return text, [text] if own else [f"{first}:{K}{plus}{shaping}" for K in counts]
    place = next(
        i for i, a in enumerate(named.arguments) if a in ("num_particles", "particles_each")
    )
    before, after = given[:place], given[place + 1 :]
    family = ":".join([name, *filter(None, [",".join([*before, *after])])]) + plus + shaping
    if len(given) > place and keep:
        return family, [text]
    possible = [K for K in counts if getattr(named.build, "least_particles", 1) <= K] or counts
    full = [f"{name}:{','.join([*before, str(K), *after])}{plus}{shaping}" for K in possible]
    return family, full
