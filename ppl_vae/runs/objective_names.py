"""Objectives by their names: ``NAME[:ARGUMENTS][+KL-SHAPING[:ARGUMENTS]]``."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal, final, get_args, get_origin

from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    MIWAE,
    MMD,
    PIWAE,
    RWS,
    STL,
    TVO,
    VIMCO,
    AnalyticELBO,
    Beta,
    BetaTC,
    Capacity,
    CyclicalAnnealing,
    DReG,
    FreeBits,
    GeneralizedDReG,
    InfoVAE,
    KLObjective,
    KLShaping,
    LinearAnnealing,
    Objective,
    Reinforce,
    Renyi,
    TailAdaptive,
    VRMax,
)
from ppl_vae.runs.naming import require_known, resolve


@final
@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        form: The name with its arguments, as help shows it.
        build: The class, or a function like it.
        arguments: Parameters of ``build`` that the arguments after the colon fill, in order.
        required: How many of them must be given.
    """

    form: str
    build: Any
    arguments: tuple[str, ...]
    required: int


def _objective(cls: type[Objective], *arguments: str, required: int = 0) -> Named:
    return Named(cls.claims.name, cls, arguments, required)


def _free_bits_per_site(nats: float) -> FreeBits:
    """As free-bits, with whole sites as the groups.

    References:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow.
    """
    return FreeBits(nats, per_dimension=False)


_K = "num_particles"
_NAMED: tuple[Named, ...] = (
    _objective(ELBO, _K),
    _objective(AnalyticELBO, _K),
    _objective(STL, _K),
    _objective(IWAE, _K, required=1),
    _objective(IWAESTL, _K, required=1),
    _objective(DReG, _K, required=1),
    _objective(GeneralizedDReG, _K, required=1),
    _objective(VIMCO, _K, required=1),
    _objective(Reinforce, _K, required=1),
    _objective(RWS, _K, "phi", required=1),
    _objective(MIWAE, "num_bounds", "particles_each", required=2),
    _objective(PIWAE, "num_bounds", "particles_each", required=2),
    _objective(CIWAE, _K, "beta", required=2),
    _objective(Renyi, "alpha", _K, required=2),
    _objective(VRMax, _K, required=1),
    _objective(CUBO, "order", _K, required=2),
    _objective(TVO, "num_terms", _K, "partition", "side", required=2),
    _objective(TailAdaptive, _K, required=1),
    _objective(MMD, "weight", _K),
    _objective(InfoVAE, "alpha", "weight", _K),
    _objective(BetaTC, "beta", "alpha", "gamma", _K),
)
OBJECTIVES: dict[str, Named] = {named.form.partition(":")[0]: named for named in _NAMED}
"""Objectives by their names on the command line."""

SHAPINGS: dict[str, Named] = {
    "beta": Named("beta:BETA", Beta, ("beta",), 1),
    "linear": Named("linear:RAMP,START,END", LinearAnnealing, ("ramp", "start", "end"), 0),
    "cyclical": Named("cyclical:CYCLES,RAMP,END", CyclicalAnnealing, ("cycles", "ramp", "end"), 0),
    "free-bits": Named("free-bits:NATS", FreeBits, ("nats",), 1),
    "free-bits-site": Named("free-bits-site:NATS", _free_bits_per_site, ("nats",), 1),
    "capacity": Named("capacity:NATS,GAMMA,RAMP", Capacity, ("nats", "gamma", "ramp"), 1),
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
    """``module:Class[:numbers]``."""
    module, _, rest = text.partition(":")
    attribute, _, arguments = rest.partition(":")
    cls = resolve("objective", f"{module}:{attribute}", {n: o.build for n, o in OBJECTIVES.items()})
    numbers = [_number(text, value) for value in arguments.split(",") if value]
    built = cls(*numbers, **extra)
    if not isinstance(built, Objective):
        raise ValueError(f"objective {text!r} is a {type(built).__name__}, no ppl_vae.Objective.")
    return built


def _build(kind: str, text: str, named: Named, arguments: str, extra: dict[str, Any]) -> Any:
    values = arguments.split(",") if arguments else []
    if not named.required <= len(values) <= len(named.arguments):
        raise ValueError(
            f"{kind} {text!r}: write {named.form}"
            + (", the last of them optional." if named.required < len(named.arguments) else ".")
        )
    parameters = inspect.signature(named.build).parameters
    given = {
        name: _convert(f"{kind} {text!r}", named.form, name, parameters[name].annotation, value)
        for name, value in zip(named.arguments, values, strict=False)
    }
    try:
        return named.build(**given, **extra)
    except ValueError as error:
        raise ValueError(f"{kind} {text!r}: {error}") from error


def _convert(where: str, form: str, name: str, kind: Any, value: str) -> Any:
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        if value not in choices:
            raise ValueError(f"{where}: {name} is one of {', '.join(choices)}, got {value!r}.")
        return value
    wanted = "a whole number" if kind is int else "a number"
    try:
        return int(value) if kind is int else float(value)
    except ValueError:
        raise ValueError(f"{where}: {name} is {wanted}, got {value!r}: write {form}.") from None


def _number(text: str, value: str) -> int | float:
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        raise ValueError(
            f"objective {text!r}: {value!r} is no number; arguments of your own class are numbers."
        ) from None
