"""``ppl-vae objectives``."""

import dataclasses
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._output import show


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else.")
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
    return {name: sorted(v) if isinstance(v, frozenset) else v for name, v in fields}
