"""Figures and tables that runs and studies keep in their folders."""

import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from ppl_vae.arviz import arviz_plots_works, plot_ranks
from ppl_vae.data import load
from ppl_vae.diagnostics import Calibration, GradientBench
from ppl_vae.evidence import Evidence, Sandwich, plot_sandwiches
from ppl_vae.files import write_atomically
from ppl_vae.imputation import ImputedTable
from ppl_vae.netcdf import netcdf_bytes
from ppl_vae.plots import plot_columns, plot_images, png_of
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs import Diagnosis, Run, file_of
from ppl_vae.training import plot_histories

if TYPE_CHECKING:
    from ppl_vae.studies import StudyResults

_LOG = logging.getLogger(__name__)
_NUMBER = "imputation"
"""Column that numbers completed tables, the first in a file of them."""


def write_sample_figures(
    run: Run, *, count: int = 10, file: str | os.PathLike[str] | None = None, seed: int = 0
) -> list[Path]:
    """Draw ``samples.png`` and ``reconstructions.png`` into the run's folder; return their paths.

    Samples are means of p(x|z) for z from the prior; reconstructions are means of p(x|z) for z from
    q(z|x), below the test data x they belong to. There are none of a model without an encoder, nor
    where the data are not there: samples need none. Tables are in their own units.

    Args:
        run: A trained run.
        count: Number of columns of the pictures.
        file: A file of other rows, in place of the test data.
        seed: Seed of the draws.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If count is not between 1 and 100, or rows of the file are not such as the model
            was trained on.
    """
    if not 1 <= count <= 100:
        raise ValueError(f"count must be between 1 and 100 columns, got {count}.")
    shown = {}
    try:
        name = "test data" if file is None else Path(file).name
        shown = {name: load(run.rows("test", count, file).x, run.device)}
    except FileNotFoundError as error:
        if file is not None:
            raise
        _LOG.info("no reconstructions: %s", error)
    with seeded(seed, Stream.SAMPLING), torch.no_grad():
        prior_means = run.vae.generate(count * 5).mean.cpu()
    figures = {"samples.png": _drawn(run, shown, {"samples": prior_means})}
    # Without an encoder there is nothing to reconstruct from.
    if shown and run.config.model.kind.encodes:
        (data,) = shown.values()
        with seeded(seed, Stream.SAMPLING, 1), torch.no_grad():
            rebuilt = run.vae.reconstruct(data).mean.cpu()
        figures["reconstructions.png"] = _drawn(run, shown, {"reconstructions": rebuilt})
    return _write(run.folder, figures)


def _drawn(run: Run, shown: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> bytes:
    """Picture of draws from the prior, or of reconstructions below their data."""
    ((kind, means),) = rows.items()
    schema, shown = run.data.schema, {name: data.cpu() for name, data in shown.items()}
    # There are five times as many samples as columns of the picture.
    count = min(map(len, shown.values()), default=len(means) // 5)
    what, drawn_from = ", ".join(shown) + " and", "q(z|x)"
    if kind == "samples":
        what, drawn_from = "draws from the prior:", "p(z)"
    title = f"{what} mean of p(x|z), z ~ {drawn_from}"
    if (shape := schema.image_shape) is None:
        # Named columns are drawn by quantiles, which need all draws; else each row is a line.
        names = schema.feature_names
        lines = {**shown, kind: means if names else means[:count]}
        restored = {name: schema.restore(each.numpy()) for name, each in lines.items()}
        return png_of(plot_columns(restored, names), title)
    if kind == "samples":
        return png_of(plot_images(list(means.split(count)), shape), title)
    pictures = [*shown.values(), means]
    return png_of(plot_images(pictures, shape, row_names=["data", "reconstruction"]), title)


def write_study_figures(results: "StudyResults") -> list[Path]:
    """Draw ``comparison.png`` and ``curves.png`` into the study's folder; return their paths."""
    comparison = results.comparison()
    if comparison is None:
        return []
    histories = {arm: [cell.history for cell in results.of(arm)] for arm in comparison.arms}
    figures = {
        "comparison.png": png_of(comparison.plot(), results.study.title),
        "curves.png": png_of(plot_histories(histories), "learning curves"),
    }
    return _write(results.folder, figures)


def write_gradient_bench(
    bench: GradientBench, folder: str | os.PathLike[str], title: str
) -> list[Path]:
    """Write ``gradients.csv``, ``gradients.json`` and ``snr.png``; return their paths."""
    files: dict[str, bytes | str] = {
        "gradients.csv": bench.to_frame().to_csv(index=False),
        "gradients.json": json.dumps(bench.summary(), indent=2) + "\n",
        "snr.png": png_of(bench.plot(), title),
    }
    return _write(folder, files)


def write_diagnosis(diagnosis: Diagnosis, folder: str | os.PathLike[str], title: str) -> list[Path]:
    """Write a diagnosis, and figures of its results that have one, beside the run's evaluations.

    ``diagnosis-KEY.nc``, ``diagnosis-KEY.json``, ``diagnosis-KEY-bound_curve.png``, likewise for
    the other parts, and, where the extra ``plots`` is installed, ArviZ's ``ranks``; the key follows
    from what it was computed from. Returns their paths.

    Raises:
        ValueError: If the diagnosis does not say what it was computed from.
    """
    path = file_of(Path(folder), diagnosis)
    files: dict[str, bytes | str] = {
        ".nc": netcdf_bytes(diagnosis.to_datatree({"title": title})),
        ".json": json.dumps(diagnosis.summary(), indent=2) + "\n",
    }
    for name, part in diagnosis.drawn.items():
        files[f"-{name}.png"] = png_of(part.plot(), f"{title}: {name.replace('_', ' ')}")
    calibration = diagnosis.results.get("calibration")
    if isinstance(calibration, Calibration) and arviz_plots_works():
        files["-ranks.png"] = png_of(plot_ranks(calibration), f"{title}: ranks of z*")
    return _write(path.parent, {f"{path.stem}{name}": what for name, what in files.items()})


def write_sandwich(
    sandwiches: Mapping[int, Sandwich],
    folder: str | os.PathLike[str],
    evidence: Evidence,
    title: str,
) -> list[Path]:
    """Draw the sandwiches of an evaluation beside its file; return the picture's path.

    ``evaluations/METHOD-KEY-sandwich.png``: each evaluation has a picture of its own.

    Args:
        sandwiches: Number of temperatures to what it gave.
        folder: The run's.
        evidence: Log p(x) by the annealing that the sandwiches judge.
        title: Title of the picture.

    Raises:
        ValueError: If the evaluation does not say what it was computed from.
    """
    path = file_of(Path(folder), evidence)
    picture = png_of(plot_sandwiches(sandwiches), title)
    return _write(path.parent, {f"{path.stem}-sandwich.png": picture})


def require_place_of_imputation(path: str | os.PathLike[str]) -> None:
    """Check that an imputation may go to a path: nothing else than an earlier one is replaced.

    Raises:
        FileExistsError: If another file is there, or where the single best table goes beside it.
        IsADirectoryError: If a folder is there.
    """
    path = Path(path)
    place = path if path.exists() else _point(path)
    if place.is_dir():
        raise IsADirectoryError(f"{place} is a folder, a file is expected: name another.")
    if place.exists() and (place != path or not _is_imputation(path)):
        raise FileExistsError(
            f"{place} is there and no earlier imputation: choose another name, or move it away."
        )


def _point(path: Path) -> Path:
    return path.with_name(f"{path.stem}-point{path.suffix}")


def _is_imputation(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_NUMBER) + 1) == f"{_NUMBER},".encode()


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table of a run, by the file's ending as .parquet or .csv; return its path.

    Raises:
        OSError: If it cannot be written; an earlier file stays whole.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        write_atomically(path, table.to_csv(index=False))
    else:
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        write_atomically(path, content.getvalue())
    return path


def write_imputation(found: ImputedTable, path: str | os.PathLike[str]) -> list[Path]:
    """Write all completed tables to ``path``, the single best one beside it; return both paths.

    Raises:
        ValueError: If the table has a column ``imputation`` of its own.
        FileExistsError: If there is a file that is no earlier imputation.
        OSError: If one cannot be written.
    """
    # Such a table could also be an earlier imputation, which is not to be written over itself.
    if _NUMBER in found.table:
        raise ValueError(
            f"the table has a column {_NUMBER!r}, the name of the number of each completed table: "
            "give it another name."
        )
    path = Path(path)
    require_place_of_imputation(path)
    numbered = [
        # The number of the imputation comes first, before the columns of the table.
        draw.assign(**{_NUMBER: number}).iloc[:, [-1, *range(draw.shape[1])]]
        for number, draw in enumerate(found.draws, start=1)
    ]
    together = pd.concat(numbered, ignore_index=True).to_csv(index=False)
    point = _point(path)
    write_atomically(path, together)
    write_atomically(point, found.point.to_csv(index=False))
    return [path, point]


def _write(folder: str | os.PathLike[str], files: Mapping[str, bytes | str]) -> list[Path]:
    folder = Path(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]
