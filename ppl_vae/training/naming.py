"""Steps by their names: ``NAME[:N]``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

from ppl_vae.names import unknown_name
from ppl_vae.training.aggressive import AggressiveStep
from ppl_vae.training.alternating import AlternatingStep
from ppl_vae.training.semi_amortised import SemiAmortisedStep
from ppl_vae.training.step import Step, SVIStep, TorchStep

StepFactory = Callable[..., Step]
"""Makes a step of (objective, model, guide, parameters, clip_norm)."""


@final
@dataclass(frozen=True)
class NamedStep:
    """What a name stands for: a class, and the argument that the number after the colon fills."""

    make: StepFactory
    argument: str | None = None


STEPS: Mapping[str, NamedStep] = {
    "torch": NamedStep(TorchStep),
    "svi": NamedStep(SVIStep),
    "alternating": NamedStep(AlternatingStep, "guide_updates"),
    "aggressive": NamedStep(AggressiveStep),
    "semi-amortised": NamedStep(SemiAmortisedStep, "refinements"),
}
"""Steps by their names on the command line."""


def parse_step(name: str) -> StepFactory:
    """The step called ``name``, such as ``torch`` or ``alternating:5``.

    Raises:
        ValueError: If the name is unknown, or its number is missing, wrong or one too many.
    """
    known, colon, number = name.partition(":")
    if known not in STEPS:
        forms = [f"{n}:N" if step.argument else n for n, step in STEPS.items()]
        raise ValueError(unknown_name("step", name, forms))
    step = STEPS[known]
    if step.argument is None:
        if colon:
            raise ValueError(f"step {name!r}: {known} takes no number.")
        return step.make
    if not (number.isascii() and number.isdigit() and int(number) >= 1):
        raise ValueError(f"step {name!r}: {known}:N takes a whole number N >= 1, as {known}:5.")
    return partial(step.make, **{step.argument: int(number)})


def describe_step(step: StepFactory) -> str:
    """The step's class and its number, to tell whether a resumed run takes the same."""
    if not isinstance(step, partial):
        return str(getattr(step, "__name__", repr(step)))
    return ":".join([describe_step(step.func), *map(str, step.keywords.values())])
