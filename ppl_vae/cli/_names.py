"""Commands that list what has a name: ``ppl-vae objectives`` and ``ppl-vae parts``."""

import dataclasses
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import as_json
from ppl_vae.cli._output import show


@click.command()
@as_json
def objectives(as_json: bool) -> None:
    """List the objectives and KL shapings, by the names that --objective takes."""
    kinds, shaping = pv.registry.OBJECTIVES, pv.registry.SHAPINGS
    claims = {name: kinds[name].claims for name in kinds}
    rows = [(c.name, c.direction, c.formula, c.use) for c in claims.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    shapings = [shaping.form(name) for name in shaping]
    with_kl = [name for name in kinds if pv.registry.takes_kl_shaping(kinds[name])]
    text = "\n".join(lines)
    text += f"\n\nKL shaping of {', '.join(with_kl)}, as elbo+beta:4: {', '.join(shapings)}"
    values = {
        "objectives": {
            name: dataclasses.asdict(c, dict_factory=_plain) for name, c in claims.items()
        },
        "kl_shapings": shapings,
    }
    show(text, values, as_json)


def _plain(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON has no sets; sorted, so that the output is the same each time.
    return {name: sorted(v) if isinstance(v, frozenset) else v for name, v in fields}


@click.command()
@as_json
def parts(as_json: bool) -> None:
    """List priors, likelihoods, guides, networks, steps, schedules by the names options take."""
    values = {
        f"--{kind}": {components.form(name): components.summary(name) for name in components}
        for kind, components in pv.registry.KINDS.items()
        if kind not in ("objective", "shaping", "method", "engine")
    }
    width = max(len(form) for known in values.values() for form in known)
    lines = []
    for kind, known in values.items():
        lines += [f"{kind}:", *(f"  {form:<{width}}  {text}" for form, text in known.items()), ""]
    lines.append(
        "Arguments in brackets may be left out, or given by name: mixture:covariance=full. A class "
        "of your own is module:Class:ARGUMENTS."
    )
    show("\n".join(lines), values, as_json)
