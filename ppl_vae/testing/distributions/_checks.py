"""Checks of a prior, a likelihood or a guide against what the package expects of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import same_draws
from ppl_vae.testing._comparison import Answer, Discrepancy, Report, run_ladder
from ppl_vae.testing.distributions._agreement import Examination, examination
from ppl_vae.testing.distributions._contract import (
    contract,
    each_datum,
    expand,
    features,
    leading_shapes,
    missing_values,
    support,
)
from ppl_vae.testing.distributions._gradients import gradients, pathwise
from ppl_vae.testing.distributions._module_case import ModuleCase
from ppl_vae.testing.distributions._target import target_of, targets_of_features
from ppl_vae.testing.distributions._use import (
    annealing,
    checkpoint,
    copies,
    digits,
    particles,
    precision_and_device,
    training,
)

_Rung = Callable[[ModuleCase, int], Answer]

MOVED: dict[str, _Rung] = {
    "leading shapes": leading_shapes,
    "expand": expand,
    "each datum by itself": each_datum,
    "density by feature": features,
    "digits": digits,
    "support": support,
    "gradients": gradients,
    "pathwise gradient": pathwise,
    "missing values": missing_values,
    "particles": particles,
    "annealing": annealing,
    "training": training,
    "checkpoint": checkpoint,
    "copies": copies,
}
"""Name to the rung, in double precision, of a module whose parameters have been moved."""

_NOT_ASKED = {
    "prior": {"each datum by itself", "density by feature", "digits", "missing values"},
    "likelihood": set[str](),
    "guide": {"density by feature", "digits"},
}

_LEAST_ROWS = 2
_ROWS, _FEATURES = 2, 5
"""Rows, and features of each, that are examined."""


def check_prior(
    prior: nn.Module,
    *,
    fresh: Callable[[], nn.Module] | None = None,
    log_error: float = 0.0,
    seed: int = 0,
    false_alarm: float = 1e-3,
) -> Report:
    """Test that a prior's draws have its density, and that everything here can work with it.

    Its ``forward()`` returns a Pyro distribution of vectors, whose density integrates, or sums, to
    1 (by cubature for one or two latents, by importance sampling for up to 32, over all values of
    discrete ones, in double precision) and is that of the draws, by the means of bounded functions
    of them and, for one latent, Kolmogorov's test. Draws lie in the support, and values outside are
    refused. Every parameter gets a gradient, the density's is the difference quotient, and that of
    reparameterised draws the gradient of the expectation. Expanded, in either precision, on a GPU
    where there is one, copied, pickled, loaded from its ``state_dict`` and from the checkpoint of a
    run it stays what it is. Particles, annealing and an epoch of training take it.

    Most of this is looked at after all parameters have been moved by a fifth of their size, where
    none is 0 or 1 by chance: the module itself is left as it was. What is said of densities and
    draws is said of the seed's random functions of them: a mode that neither draws nor a wide
    proposal come near would be missed. "Not looked" says that there is no way to look, as at more
    than 32 latents: then the report's verdict is not "passed". Small modules take about a second;
    look at one with few latents first.

    Args:
        prior: A module with ``forward() -> Distribution``, event shape (latent,).
        fresh: Makes another one like it, as the program does that loads a checkpoint: its state
            alone must then carry the density over. Without it, a copy with other values is used.
        log_error: Standard error in nats of log p(z), where its constant is an estimate, or draws
            are approximate: mistakes of this size are not told from it.
        seed: The same seed gives the same report.
        false_alarm: Probability that a right prior fails, over all rungs together (Bonferroni).

    Returns:
        What was tested, as a table.

    Raises:
        AssertionError: If a rung fails; one line for each with what was expected and found.
        TypeError: If ``prior`` is no torch module.
        ValueError: If ``false_alarm`` is not between 0 and 1.
    """
    _require_module("check_prior", prior)
    return _check(ModuleCase("prior", prior, fresh=fresh, log_error=log_error), seed, false_alarm)


def check_likelihood(
    decoder: nn.Module,
    z: Shaped[Tensor, "batch latent"],
    *,
    fresh: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    false_alarm: float = 1e-3,
) -> Report:
    """Test that a likelihood's draws have its density, and that everything here can work with it.

    As :func:`check_prior`, for the distributions p(x|z) of the rows of z. Where log-densities of
    single features are offered, by ``Independent`` or a method ``feature_log_prob``, they add up to
    that of the row, and single features' densities and draws are looked at. Rows do not depend on
    each other, and have the same density alone and as (particles, batch). A NaN in the data is
    refused, or, where the distribution says ``accepts_missing``, its cell left out. Rows of
    discrete values that are too many to be summed are looked at by values seen in draws. In single
    precision the log-density is that of a double copy, at data of the usual size, a thousand and a
    million times as large where the support has such, to 1e-4 nats a row and what rounding
    explains.

    Args:
        decoder: A module with ``forward(z) -> Distribution``, event shape (features,).
        z: Latents to look at, such as ``torch.randn(8, 2)``; 2 rows or more.
        fresh: As for :func:`check_prior`.
        seed: The same seed gives the same report.
        false_alarm: As for :func:`check_prior`.

    Returns:
        What was tested, as a table.

    Raises:
        AssertionError: If a rung fails; one line for each with what was expected and found.
        TypeError: If ``decoder`` is no torch module.
        ValueError: If z has fewer than 2 rows, or ``false_alarm`` is not between 0 and 1.
    """
    _require_module("check_likelihood", decoder)
    _require_rows("z", z)
    return _check(ModuleCase("likelihood", decoder, z, fresh), seed, false_alarm)


def check_guide(
    encoder: nn.Module,
    x: Float[Tensor, "batch features"],
    *,
    missing: bool = False,
    fresh: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    false_alarm: float = 1e-3,
) -> Report:
    """Test that a guide's draws have its density, and that everything here can work with it.

    As :func:`check_prior`, for the distributions q(z|x) of the rows of x. In evaluation mode no row
    depends on the others.

    Args:
        encoder: A module with ``forward(x) -> Distribution``, event shape (latent,).
        x: Data to look at, 2 rows or more, without missing cells.
        missing: Whether the guide says that it takes data with cells that are NaN.
        fresh: As for :func:`check_prior`.
        seed: The same seed gives the same report.
        false_alarm: As for :func:`check_prior`.

    Returns:
        What was tested, as a table.

    Raises:
        AssertionError: If a rung fails; one line for each with what was expected and found.
        TypeError: If ``encoder`` is no torch module.
        ValueError: If x has fewer than 2 rows, or ``false_alarm`` is not between 0 and 1.
    """
    _require_module("check_guide", encoder)
    _require_rows("x", x)
    return _check(ModuleCase("guide", encoder, x, fresh, missing), seed, false_alarm)


def _require_module(check: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{check} takes an instance of a torch module, got {module!r}.")


def _require_rows(name: str, rows: Tensor) -> None:
    if rows.dim() != 2 or len(rows) < _LEAST_ROWS or not bool(rows.isfinite().all()):
        raise ValueError(
            f"{name} must be {_LEAST_ROWS} or more rows of finite numbers, shape (batch, size), "
            f"got shape {tuple(rows.shape)}."
        )


def _check(case: ModuleCase, seed: int, false_alarm: float) -> Report:
    name = f"{type(case.module).__name__} ({case.part})"
    first: dict[str, Callable[[], Answer]] = {
        "contract": lambda: contract(case.copied(torch.float64), derive_seed(seed, 0, 0)),
        "precision and device": lambda: precision_and_device(case, derive_seed(seed, 0, 1)),
    }
    # Where one of these fails, the others would say the same.
    run_ladder(name, first, false_alarm)
    moved = case.moved(derive_seed(seed, 1))
    examined = Examined(moved, derive_seed(seed, 2))
    asked = {rung: test for rung, test in MOVED.items() if rung not in _NOT_ASKED[case.part]}
    then = {
        rung: partial(test, moved, derive_seed(seed, 3, number))
        for number, (rung, test) in enumerate(asked.items())
    }
    agreement = {
        "density normalises": lambda: examined.normalised(),
        "draws follow density": lambda: examined.followed(),
    }
    # The first rungs again: one report, and one false-alarm rate over all comparisons.
    return run_ladder(name, {**first, **agreement, **then}, false_alarm)


@final
@dataclass(frozen=True)
class Examined:
    """Examinations of the first rows: of their vectors where possible, and of single features.

    Attributes:
        case: Module, in double precision.
        seed: Seed of all draws.
    """

    case: ModuleCase
    seed: int

    @cached_property
    def examinations(self) -> list[Examination]:
        """Examinations of all distributions that there is a way to examine."""
        found: list[Examination] = []
        likelihood = self.case.part == "likelihood"
        for number in range(min(_ROWS, self.case.num_rows)):
            # One row of a likelihood is enough to see how features depend on each other.
            many = likelihood and number > 0
            seed, target = derive_seed(self.seed, number, 0), target_of(self.case, number)
            whole = None if many else examination(target, seed)
            found += [whole] if whole else []
            if likelihood or whole is None:
                found += self._by_features(number)
        return found

    def _by_features(self, number: int) -> list[Examination]:
        with same_draws(derive_seed(self.seed, number)):
            last = target_of(self.case, number).draw(1).shape[-1] - 1
            places = {round(i * last / (_FEATURES - 1)) for i in range(_FEATURES)}
            targets = targets_of_features(self.case, number, sorted(places))
        found = [
            examination(target, derive_seed(self.seed, number, 1 + i))
            for i, target in enumerate(targets)
        ]
        return [examined for examined in found if examined]

    def normalised(self) -> Answer:
        """Compare every density's integral, or sum, with 1."""
        return self._all(lambda examined: examined.normalised())

    def followed(self) -> Answer:
        """Compare all draws with their density."""
        return self._all(lambda examined: examined.followed())

    def _all(self, question: Callable[[Examination], Answer]) -> Answer:
        answers = [question(examined) for examined in self.examinations]
        made: list[Discrepancy] = [c for a in answers if not isinstance(a, str) for c in a]
        return made or "not looked"
