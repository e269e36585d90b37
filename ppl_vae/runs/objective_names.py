"""Objectives by their names: ``NAME[:ARGUMENTS][+KL-SHAPING[:ARGUMENTS]]``.

The first argument, the number of particles, stands as it is, all others as ``parameter=value``:
``iwae:50``, ``tvo:16,num_terms=8``.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal, final, get_args, get_origin

from ppl_vae.names import unknown_name
from ppl_vae.objectives import (
    CATALOGUE,
    ELBO,
    MMD,
    STL,
    AnalyticELBO,
    Beta,
    BetaTC,
    Capacity,
    CyclicalAnnealing,
    FreeBits,
    InfoVAE,
    KLObjective,
    KLShaping,
    LinearAnnealing,
    Objective,
)
from ppl_vae.runs.naming import is_class_path, is_ours, require_known, resolve

_NOT_TYPED = ("kl", "max_plate_nesting", "per_dimension")
"""Parameters that have other ways to be given, or none, on the command line."""


@final
@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        form: The name with its arguments, as help shows it.
        build: The class, or a function like it.
        needs_first: Whether the first argument must be given, also where it has a default.
    """

    form: str
    build: Any
    needs_first: bool = False

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Parameters that a name gives: the first as it is, the others as ``parameter=value``."""
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p for p in parameters if p.kind in named and p.name not in _NOT_TYPED}


def _free_bits_per_site(nats: float) -> FreeBits:
    """As free-bits, with whole sites as the groups.

    References:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
    """
    return FreeBits(nats, per_dimension=False)


_OF_ONE_PARTICLE = (ELBO, AnalyticELBO, STL, MMD, InfoVAE, BetaTC)
"""Those that are usual with one particle; a name without K would make an ELBO of the others."""
OBJECTIVES: dict[str, Named] = {
    cls.claims.name.partition(":")[0]: Named(cls.claims.name, cls, cls not in _OF_ONE_PARTICLE)
    for cls in CATALOGUE
}
"""Objectives by their names on the command line."""

SHAPINGS: dict[str, Named] = {
    "beta": Named("beta:BETA", Beta),
    "linear": Named("linear:RAMP,start=START,end=END", LinearAnnealing),
    "cyclical": Named("cyclical:CYCLES,ramp=RAMP,end=END", CyclicalAnnealing),
    "free-bits": Named("free-bits:NATS", FreeBits),
    "free-bits-site": Named("free-bits-site:NATS", _free_bits_per_site),
    "capacity": Named("capacity:NATS,gamma=GAMMA,ramp=RAMP", Capacity),
}
"""KL shapings by their names on the command line."""


def parse_objective(text: str) -> Objective:
    """The objective that ``text`` names, such as ``iwae:50``, ``elbo+beta:4``, ``module:Class:7``.

    Raises:
        ValueError: If a name is unknown or an argument missing, superfluous or out of range.
    """
    first, plus, shaping = text.partition("+")
    extra = {"kl": _parse_shaping(text, shaping)} if plus else {}
    name, _, arguments = first.partition(":")
    if name not in OBJECTIVES and arguments:
        return _imported(first, extra)
    require_known("objective", name, OBJECTIVES)
    named = OBJECTIVES[name]
    if extra and not takes_kl_shaping(name):
        with_kl = [other for other in OBJECTIVES if takes_kl_shaping(other)]
        raise ValueError(
            f"objective {text!r}: {name} has no KL term to shape; those with one: "
            f"{', '.join(with_kl)}."
        )
    objective: Objective = _build("objective", text, named, arguments, extra)
    return objective


def outside_objective(text: object) -> str | None:
    """``module:Class`` where an objective is from outside of this package; imports nothing."""
    if not isinstance(text, str):
        return None
    name = ":".join(text.partition("+")[0].split(":")[:2])
    is_name = name.partition(":")[0] in OBJECTIVES or not is_class_path(name)
    return None if is_name or is_ours(name) else name


def takes_kl_shaping(name: str) -> bool:
    """Whether the objective of this name has KL terms of its own."""
    build = OBJECTIVES[name].build
    return isinstance(build, type) and issubclass(build, KLObjective)


def _parse_shaping(text: str, shaping: str) -> KLShaping:
    name, _, arguments = shaping.partition(":")
    require_known("KL shaping", name, SHAPINGS)
    built: KLShaping = _build("KL shaping of objective", text, SHAPINGS[name], arguments, {})
    return built


def _imported(text: str, extra: dict[str, Any]) -> Objective:
    """``module:Class[:ARGUMENTS]``."""
    module, _, rest = text.partition(":")
    attribute, _, arguments = rest.partition(":")
    known = {name: named.build for name, named in OBJECTIVES.items()}
    cls = resolve("objective", f"{module}:{attribute}", known, Objective)
    built: Objective = _build(
        "objective", text, _own(f"{module}:{attribute}", cls), arguments, extra
    )
    return built


def _own(name: str, cls: Any) -> Named:
    """A class from elsewhere, its form made of its signature."""
    first, *others = [*Named(name, cls).arguments, ""]
    named = [f"{other}={other.upper()}" for other in others if other]
    return Named(f"{name}:{','.join([first.upper(), *named])}" if first else name, cls)


def _build(kind: str, text: str, named: Named, arguments: str, extra: dict[str, Any]) -> Any:
    where, taken = f"{kind} {text!r}", named.arguments
    given = {
        name: _convert(where, named.form, name, taken[name].annotation, value)
        for name, value in _by_name(where, named, arguments).items()
    }
    needed = [name for name, p in taken.items() if p.default is p.empty]
    needed += [next(iter(taken))] if named.needs_first else []
    missing = [name for name in dict.fromkeys(needed) if name not in given]
    if missing:
        raise ValueError(f"{where}: {' and '.join(missing)} must be given: write {named.form}.")
    try:
        return named.build(**given, **extra)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _by_name(where: str, named: Named, arguments: str) -> dict[str, str]:
    """The arguments by their names; only the first may stand without."""
    given: dict[str, str] = {}
    for position, argument in enumerate(arguments.split(",") if arguments else []):
        name, equals, value = argument.partition("=")
        if not equals:
            if position or not named.arguments:
                raise ValueError(
                    f"{where}: all arguments but the first have names: write {named.form}."
                )
            name, value = next(iter(named.arguments)), argument
        name = name.strip()
        if name in given:
            raise ValueError(f"{where}: {name} is given twice.")
        if name not in named.arguments:
            raise ValueError(f"{where}: {unknown_name('argument', name, named.arguments)}")
        given[name] = value.strip()
    return given


def _convert(where: str, form: str, name: str, kind: Any, value: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(
                f"{where}: {name} is one of {', '.join(get_args(kind))}, got {value!r}."
            )
        return value
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is str:
        return value
    wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
    for convert in (int,) if kind is int else () if kind is bool else (int, float):
        try:
            return float(value) if kind is float else convert(value)
        except ValueError:
            pass
    raise ValueError(f"{where}: {name} is {wanted}, got {value!r}: write {form}.")
