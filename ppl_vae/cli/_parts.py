"""``ppl-vae parts``."""

import click

import ppl_vae as pv
from ppl_vae.cli._output import show


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else.")
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
