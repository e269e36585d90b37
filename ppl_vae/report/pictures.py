"""Samples and reconstructions of each arm, as images or as lines over the features."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.image import imsave

from ppl_vae.plots.study import draw_profiles
from ppl_vae.plots.svg import MUTED, Style, svg_panel
from ppl_vae.report.arms import done
from ppl_vae.report.blocks import Gallery, Picture, Section
from ppl_vae.studies.results import CellResult

_COLUMNS = 10
_Rows = Float[np.ndarray, "rows features"]


def pictures(
    cells: Sequence[CellResult], styles: Mapping[str, Style], image_shape: Sequence[int] | None
) -> Section | None:
    """Of the first seed of each arm that has them; None where none has."""
    found = {arm: _first(cells, arm) for arm in styles}
    shown = {arm: rows for arm, rows in found.items() if rows}
    if not shown:
        return None
    if image_shape is None:
        return _profiles(shown, styles)
    return _images(shown, tuple(image_shape))


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
        return Picture(arm, alt, uri=_png(_grid(np.concatenate(shown), shape)))

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


def _grid(images: _Rows, shape: tuple[int, ...]) -> UInt8[np.ndarray, "height width 3"]:
    """Images in rows of ten, a pixel of white between; grey ones from white (0) to black (1)."""
    values = np.nan_to_num(images).clip(0, 1).reshape(len(images), *shape)
    if len(shape) == 2:
        values = np.repeat(1 - values[:, None], 3, axis=1)
    colors = np.moveaxis(values, 1, -1)
    padded = np.pad(colors, [(0, -len(colors) % _COLUMNS), (0, 1), (0, 1), (0, 0)],
                    constant_values=1)  # fmt: skip
    rows = padded.reshape(-1, _COLUMNS, *padded.shape[1:]).swapaxes(1, 2)
    joined = rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)[:-1, :-1]
    return (255 * joined).round().astype(np.uint8)


def _png(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    out = io.BytesIO()
    imsave(out, pixels, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _profiles(found: Mapping[str, dict[str, _Rows]], styles: Mapping[str, Style]) -> Section:
    numbered = {arm: index for index, arm in enumerate(found)}

    def draw(arm: str, kind: str, alt: str) -> Picture:
        rows, name = found[arm], f"{kind}-{numbered[arm]}"
        other = rows["samples"][:_COLUMNS] if kind == "samples" else rows["reconstruction"]

        def lines(ax: Axes) -> None:
            draw_profiles(ax, rows["data"].tolist(), MUTED, "feature")
            draw_profiles(ax, other.tolist(), styles[arm].color, "feature")

        return Picture(arm, alt, svg=svg_panel(lines, name, alt, 2.4))

    captions = {
        "reconstructions": (
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from q(z|x). One line "
            "a datum over its features. One seed of each arm.",
            "Test data and their reconstructions",
        ),
        "samples": (
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from the prior. The "
            "same seed.",
            "Test data and samples from the prior",
        ),
    }
    return _section(list(found), draw, captions)
