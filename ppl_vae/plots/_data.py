"""Drawings of data: images, columns of a table, and lines over features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ppl_vae.plots._drawings import draw_on, legend, shortened
from ppl_vae.plots._style import HEIGHT, INK, MUTED, style_of

_IMAGES = 10
"""Number of images in a row."""
_MOST_COLUMNS = 24
_QUANTILES = 0.05, 0.25, 0.5, 0.75, 0.95


def draw_profiles(ax: Axes, rows: Sequence[Sequence[float]], color: str, xlabel: str) -> None:
    """Draw data without names of columns, one line a row."""
    for row in rows:
        ax.plot(range(len(row)), row, color=color, lw=0.9, alpha=0.6)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(xlabel=xlabel)


def draw_columns(
    ax: Axes,
    groups: Mapping[str, Float[np.ndarray, "rows columns"]],
    names: Sequence[str],
    colors: Sequence[str],
) -> None:
    """Draw columns of a table, one below the other, in each the groups of rows to compare.

    Thin: from the 5% to the 95% quantile, thick: from 25% to 75%, mark: the median, all in standard
    deviations from the mean of the first group's column; both stand beside its name. Missing cells
    are left out.
    """
    first = next(iter(groups.values()))
    center, scale = np.nanmean(first, 0), np.nanstd(first, 0)
    count = min(len(names), _MOST_COLUMNS)
    for index, ((label, rows), color) in enumerate(zip(groups.items(), colors, strict=True)):
        # A constant column has no scale, and stays in its own units.
        scaled = (rows - center) / np.where(scale > 0, scale, 1)
        heights = np.arange(count) + 0.3 * (index - (len(groups) - 1) / 2)
        low, first_quarter, median, last_quarter, high = np.nanquantile(
            scaled[:, :count], _QUANTILES, axis=0
        )
        ax.hlines(heights, low, high, color=color, lw=1.2)
        ax.hlines(heights, first_quarter, last_quarter, color=color, lw=4, label=label)
        ax.plot(median, heights, "|", color=INK, markersize=7, markeredgewidth=1.5)
    left_out = f"; {count} of {len(names)} columns" if count < len(names) else ""
    scales = [f"({mean:.4g} \N{PLUS-MINUS SIGN} {sd:.2g})" for mean, sd in
              zip(center, np.nanstd(first, 0), strict=True)]  # fmt: skip
    labels = [f"{shortened(name, 24)} {scale}" for name, scale in zip(names, scales, strict=True)]
    ax.set_yticks(range(count), labels[:count])
    ax.set(ylim=(count - 0.4, -0.6), xlabel=f"standard deviations from the data's mean{left_out}")


def columns_height(count: int) -> float:
    """Compute the inches of a figure with so many columns of data, one below the other."""
    return 0.9 + 0.32 * min(count, _MOST_COLUMNS)


def image_grid(
    images: Float[np.ndarray, "images features"], shape: Sequence[int], columns: int = _IMAGES
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay out images in rows, a white pixel between; grey ones from white (0) to black (1)."""
    values = np.nan_to_num(images).clip(0, 1).reshape(len(images), *shape)
    if len(shape) == 2:
        values = np.repeat(1 - values[:, None], 3, axis=1)
    colors = np.moveaxis(values, 1, -1)
    padded = np.pad(colors, [(0, -len(colors) % columns), (0, 1), (0, 1), (0, 0)],
                    constant_values=1)  # fmt: skip
    rows = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
    # Without the white pixels beside the last column and below the last row.
    joined = rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)[:-1, :-1]
    return np.asarray((255 * joined).round(), dtype=np.uint8)


def plot_images(
    rows: Sequence[Float[Any, "columns features"]],
    image_shape: Sequence[int],
    *,
    row_names: Sequence[str] = (),
    ax: Axes | None = None,
) -> Any:
    """Plot a grid of images, one given batch a row, values in [0, 1] from white to black.

    Args:
        rows: Batches of images, all of one size.
        image_shape: (height, width), or (channels, height, width).
        row_names: Names beside the first rows.
        ax: Axes to draw on; a new figure if not given.

    Returns:
        The axes that were given, or the new figure.
    """
    columns, height = len(rows[0]), image_shape[-2] + 1
    pixels = image_grid(np.concatenate([np.asarray(row) for row in rows]), image_shape, columns)

    def draw(ax: Axes) -> None:
        ax.imshow(pixels, interpolation="nearest")
        ax.set(xticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_yticks([height * (n + 0.5) for n in range(len(row_names))], row_names)
        ax.tick_params(length=0)

    return draw_on([(draw, 0.6 + 6.5 * pixels.shape[0] / pixels.shape[1])], ax)


def plot_columns(
    groups: Mapping[str, Float[Any, "rows columns"]],
    names: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Any:
    """Plot groups of rows of a table, beside each other in every column.

    See :func:`draw_columns`.

    Args:
        groups: Name to rows; the first sets the scale of each column.
        names: Names of the columns. Where they have none, a row is a line over the features.
        ax: Axes to draw on; a new figure if not given.

    Returns:
        The axes that were given, or the new figure.
    """
    arrays = {name: np.asarray(rows, dtype=float) for name, rows in groups.items()}
    colors = [MUTED, *(style_of(index).color for index in range(len(arrays) - 1))]

    def draw(ax: Axes) -> None:
        if names is not None:
            draw_columns(ax, arrays, names, colors)
        for (label, rows), color in zip(arrays.items(), colors, strict=True):
            if names is None:
                draw_profiles(ax, rows.tolist(), color, "feature")
                # One entry in the legend for all lines of a group.
                ax.plot([], [], color=color, label=label)
        legend(ax)

    return draw_on([(draw, HEIGHT if names is None else columns_height(len(names)))], ax)
