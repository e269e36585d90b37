"""Samples and reconstructions of each arm: images, columns of a table, lines over features."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.image import imsave

from ppl_vae.plots import (
    HEIGHT,
    MUTED,
    Style,
    columns_height,
    draw_columns,
    draw_profiles,
    image_grid,
    svg_panel,
)
from ppl_vae.report._arms import done
from ppl_vae.report._blocks import Gallery, Picture, Section
from ppl_vae.studies import CellResult

_COLUMNS = 10
_Rows = Float[np.ndarray, "rows features"]


def pictures(
    cells: Sequence[CellResult], styles: Mapping[str, Style], data: Mapping[str, Any]
) -> Section | None:
    """Of the first seed of each arm that has them; None where none has.

    Args:
        cells: Of the study.
        styles: Of the arms to show.
        data: What the study's manifest says of the data.
    """
    found = {arm: _first(cells, arm) for arm in styles}
    shown = {arm: rows for arm, rows in found.items() if rows}
    if not shown:
        return None
    if data.get("image_shape") is not None:
        return _images(shown, tuple(data["image_shape"]))
    return _columns(shown, styles, data.get("feature_names"))


def _first(cells: Sequence[CellResult], arm: str) -> dict[str, _Rows]:
    return next((cell.pictures for cell in done(cells, arm) if cell.pictures), {})


def _section(
    arms: Sequence[str],
    draw: Callable[[str, str, str], Picture],
    captions: Mapping[str, tuple[str, str]],
) -> Section:
    galleries = [
        Gallery(kind, caption, [draw(arm, kind, f"{alt}, {arm}") for arm in arms])
        for kind, (caption, alt) in captions.items()
    ]
    return Section("pictures", "Samples and reconstructions", galleries)


def _images(found: Mapping[str, dict[str, _Rows]], shape: tuple[int, ...]) -> Section:
    def draw(arm: str, kind: str, alt: str) -> Picture:
        rows = found[arm]
        shown = [rows["samples"]] if kind == "samples" else [rows["data"], rows["reconstruction"]]
        return Picture(arm, alt, uri=_png(image_grid(np.concatenate(shown), shape)))

    captions = {
        "reconstructions": (
            "First and second row: test data, and the mean of p(x|z) for z from q(z|x). One seed "
            "of each arm.",
            "Test data and their reconstructions",
        ),
        "samples": (
            "Mean of p(x|z) for z from the prior. The same seed.",
            "Samples from the prior",
        ),
    }
    return _section(list(found), draw, captions)


def _png(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    out = io.BytesIO()
    imsave(out, pixels, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _columns(
    found: Mapping[str, dict[str, _Rows]], styles: Mapping[str, Style], names: Sequence[str] | None
) -> Section:
    numbered = {arm: index for index, arm in enumerate(found)}

    def draw(arm: str, kind: str, alt: str) -> Picture:
        rows, colors = found[arm], (MUTED, styles[arm].color)
        key = "samples" if kind == "samples" else "reconstruction"
        groups = {"data": rows["data"], key: rows[key]}

        def columns(ax: Axes) -> None:
            if names is not None:
                draw_columns(ax, groups, names, colors)
                return
            for each, color in zip(groups.values(), colors, strict=True):
                draw_profiles(ax, each[:_COLUMNS].tolist(), color, "feature")

        height = columns_height(len(names)) if names is not None else HEIGHT
        return Picture(arm, alt, svg=svg_panel(columns, f"{kind}-{numbered[arm]}", alt, height))

    form = (
        "One line a datum over its features." if names is None else
        "Each column: from the 5% to the 95% quantile, thick from 25% to 75%, the mark is the "
        "median, in standard deviations from the data's mean."
    )  # fmt: skip
    captions = {
        "reconstructions": (
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from q(z|x). "
            f"{form} One seed of each arm.",
            "Test data and their reconstructions",
        ),
        "samples": (
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from the prior. The "
            "same seed.",
            "Test data and samples from the prior",
        ),
    }
    return _section(list(found), draw, captions)
