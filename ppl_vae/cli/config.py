"""Options to the settings of a run."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv


def config_of(settings: dict[str, Any]) -> Any:
    """The settings of a run, checked: a ``RunConfig``."""
    try:
        hidden = [int(size) for size in settings["hidden"].split(",") if size.strip()]
    except ValueError as error:
        raise click.BadParameter(
            "give layer sizes such as 200,200", param_hint="--hidden"
        ) from error
    data = settings["data"]
    if Path(data).suffix and Path(data).exists():
        data = str(Path(data).resolve())
    return pv.studies.RunConfig.from_mapping({**settings, "hidden": hidden, "data": data})
