"""Writes docs/objectives.md from the classes, so that the page says what the code says."""

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from ppl_vae.objectives import OBJECTIVES, SHAPINGS, KLObjective

PAGE = Path(__file__).parent / "objectives.md"
DIRECTIONS = {"lower": "lower", "upper": "upper", "neither": "no bound"}

HEAD = """\
# Objectives

<!-- Written by docs/generate_objectives.py from the classes: edit them, not this page. -->

Notation: K particles z_k ~ q(z|x) per datum, log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x),
v_k the weights normalised over the particles of a datum. theta are the parameters of the model, phi
those of the guide. Everything is per datum and in nats; plate scales and averages over a batch act
after the logarithm. Whatever its gradient, an objective reports the value in the table, and that is
what a run records.

Names are those of the command line (`ppl-vae fit --objective dreg:16`); the classes are in
`ppl_vae.objectives`. The number of particles K is the first argument, all others go by name, here
and there alike: `tvo:16,num_terms=8` is `pv.TVO(16, num_terms=8)`. What a name leaves out has the
default of the class. A class of your own is `module:Class:16,parameter=value`. Each works as
`pyro.infer.SVI(model, guide, optim, loss=pv.IWAE(50))` and as `pv.IWAE(50)(model, guide)(x)`.
`ppl_vae.testing.check_objective` tests the claims below, for ours and for yours.
"""

VALUES = """\
## What they report

Direction is that of the expectation of the reported value against log p(x).
"""

GRADIENTS = """\
## What their gradients estimate

Cost is in decoder evaluations per datum and update. Latents without a pathwise gradient (Bernoulli,
categorical) are for the objectives so marked; the others refuse them.
"""

SHAPING = """\
## KL shaping

Appended to {names} with a plus sign, such as `elbo+beta:4`, a shaping multiplies KL terms of the
gradient. The reported value stays the true ELBO. In code: `pv.ELBO(kl=pv.objectives.Beta(4.0))`.
`RAMP` is a fraction of training.
"""


def page() -> str:
    """The whole page."""
    order = {build: name for name, build in OBJECTIVES.items()}
    classes = list(order)
    values = [
        (f"`{c.claims.name}`", f"`{c.claims.formula}`", DIRECTIONS[c.claims.direction],
         c.claims.bias, c.claims.use, c.claims.reference)
        for c in classes
    ]  # fmt: skip
    gradients = [
        (f"`{c.claims.name}`", f"`{c.__name__}`", c.claims.gradient, c.claims.cost,
         "yes" if c.graph == "score" else "no")
        for c in classes
    ]  # fmt: skip
    shapings = [
        (f"`{SHAPINGS.form(name)}`", *_first_line_and_reference(build))
        for name, build in SHAPINGS.items()
    ]
    with_kl = ", ".join(f"`{order[c]}`" for c in classes if issubclass(c, KLObjective))
    parts = [
        HEAD,
        VALUES,
        _table(("name", "reports", "direction", "bias", "use", "reference"), values),
        GRADIENTS,
        _table(("name", "class", "gradients", "cost", "discrete latents"), gradients),
        SHAPING.format(names=with_kl),
        _table(("name", "gradient of", "reference"), shapings),
    ]
    return "\n".join(parts)


def _first_line_and_reference(build: object) -> tuple[str, str]:
    text = inspect.getdoc(build) or ""
    first = text.partition("\n\n")[0].replace("\n", " ")
    reference = text.partition("References:\n")[2].strip().replace("\n", " ")
    return first.replace("``", "`"), " ".join(reference.split())


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
