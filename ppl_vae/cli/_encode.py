"""Commands that write codes and reconstructions of data: encode, reconstruct."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._options import Command, as_json, folder, opening, settings, typed
from ppl_vae.cli._output import opened, show

_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write, .parquet or .csv.  [default: in the run's folder, by the command's name]",
)


@click.command(cls=Command)
@folder
@settings("runs.encode_run", "asked", without=("run",))
@_out
@opening
@as_json
def encode(
    folder: Path, asked: dict[str, Any], out: Path | None, opening: dict[str, Any], as_json: bool
) -> None:
    """Write the codes of data: mean, sd and draws of every latent site, one row a datum.

    Columns z_mean, z_sd and z_draws hold lists.
    """
    out = _place(out, folder / "codes.parquet", asked)
    table = pv.runs.encode_run(opened(folder, opening), **asked)
    _write(table, out, as_json)


@click.command(cls=Command)
@folder
@settings("runs.reconstruct_run", "asked", without=("run",))
@_out
@opening
@as_json
def reconstruct(
    folder: Path, asked: dict[str, Any], out: Path | None, opening: dict[str, Any], as_json: bool
) -> None:
    """Write the reconstructions of data, with squared error and log p(x|z), one row a datum."""
    out = _place(out, folder / "reconstructed.parquet", asked)
    table = pv.runs.reconstruct_run(opened(folder, opening), **asked)
    _write(table, out, as_json)


def _place(out: Path | None, usual: Path, asked: dict[str, Any]) -> Path:
    """Check where to write, and that no split is asked for of another file's rows."""
    if asked["file"] is not None and "split" in typed(asked):
        raise click.BadParameter("the rows of --data have no splits.", param_hint="--split")
    out = out or usual
    if out.suffix.lower() not in pv.data.TABLE_SUFFIXES:
        raise click.BadParameter(
            f"{out} is written as a table: end its name in .parquet or .csv.", param_hint="--out"
        )
    # In the run's folder an earlier table by this command makes place, and no other file does.
    if out != usual and out.exists():
        raise click.BadParameter(
            f"{out} is there already: choose another name, or remove it.", param_hint="--out"
        )
    return out


def _write(table: Any, out: Path, as_json: bool) -> None:
    path = pv.report.write_table(table, out)
    columns = list(table.columns)
    shown = columns if len(columns) <= 8 else [*columns[:3], "...", *columns[-3:]]
    text = f"{len(table)} rows, columns {', '.join(shown)}\nwritten: {path}"
    show(text, {"rows": len(table), "columns": columns, "file": str(path)}, as_json)
