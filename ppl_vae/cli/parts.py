"""``ppl-vae parts``."""

import inspect
import re

import click

import ppl_vae as pv
from ppl_vae.cli.output import show


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else.")
def parts(as_json: bool) -> None:
    """List the priors, likelihoods, guides and networks, by the names that options take."""
    values = {
        f"--{kind}": {pv.runs.form(name, build): _summary(build) for name, build in known.items()}
        for kind, known in pv.runs.PARTS.items()
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


def _summary(build: object) -> str:
    """The first line of its documentation, without markup."""
    line = (inspect.getdoc(build) or "").partition("\n")[0]
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", line).replace("``", "")
