"""Style of figures, and figures as SVG within a page, in its colours and its font."""

import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The page's colours in light; in SVG they give way to the page's variables.
INK: Final = "#1b1f24"
MUTED: Final = "#5b6570"
GRID: Final = "#dfe3e7"
PAPER: Final = "#ffffff"
# Distinguishable without red, green or blue, too, in light and dark: test_colours.py.
ARMS: Final = ("#4a8ae9", "#db710c", "#7d9166", "#973c7b", "#4b2c04", "#2f28cd", "#04001b")
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    color: f"arm-{index}" for index, color in enumerate(ARMS)
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
_Dashes = str | tuple[float, tuple[float, ...]]
_DASHES: tuple[_Dashes, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))

Drawing = Callable[[Axes], None]
"""Function that draws on axes."""

HEIGHT: Final = 3.1
_WIDTH = 5.0
"""Width in inches of 72 units, about as many as a phone has, where text keeps its size."""
_DPI = 130
_KEY = 34 / 72, 14 / 72

_FONT_SIZE = 10.5
_STYLE = {
    # Text stays text: it has the page's font, and can be searched.
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": _FONT_SIZE,
    "axes.labelsize": _FONT_SIZE,
    "xtick.labelsize": _FONT_SIZE - 0.5,
    "ytick.labelsize": _FONT_SIZE - 0.5,
    # Labels are other people's text: a dollar in one begins no formula.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@final
@dataclass(frozen=True)
class Style:
    """Look of an arm in every figure; where colours repeat, shape and dashes differ."""

    color: str
    marker: str
    dashes: _Dashes


def style_of(index: int) -> Style:
    """Choose the style of the arm with this index; different for the first 21."""
    return Style(
        color=ARMS[index % len(ARMS)],
        # 13 markers against 7 colours: a pair of both repeats only after 91 arms.
        marker=_MARKERS[index % len(_MARKERS)],
        dashes=_DASHES[index // len(ARMS) % len(_DASHES)],
    )


@final
class NotebookFigure(Figure):
    """Figure that a notebook shows although pyplot does not keep it."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def new_figure(panels: Sequence[tuple[Drawing, float]]) -> Figure:
    """Draw panels with their heights in inches, two beside each other; pyplot keeps no reference.

    Raises:
        ValueError: If there are no panels.
    """
    if not panels:
        raise ValueError("there is nothing to draw.")
    columns = min(2, len(panels))
    heights = [height for _, height in panels]
    rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    width = _WIDTH * (1.4 if columns == 1 else 2)
    with mpl.rc_context(_STYLE):
        # Not by pyplot, which would keep a reference to every figure.
        figure = NotebookFigure(figsize=(width, sum(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows).ravel()
        for ax, (drawing, _) in zip(grid, panels, strict=False):
            drawing(ax)
        for ax in grid[len(panels) :]:
            ax.remove()
    return figure


def png_of(figure: Figure, title: str = "") -> bytes:
    """Write a figure as the content of a PNG file, with a title above it."""
    if title:
        figure.suptitle(title, fontsize=_FONT_SIZE + 1, parse_math=False)
    out = io.BytesIO()
    with _laid_out(figure, _DPI):
        figure.savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


@contextmanager
def _laid_out(figure: Figure, dpi: float) -> Iterator[None]:
    """Lay a figure out before it is saved: Matplotlib itself draws all of it once more for that."""
    engine, before = figure.get_layout_engine(), figure.dpi
    if engine is None:
        yield
        return
    figure.dpi = dpi
    engine.execute(figure)
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
        figure.dpi = before


def remark(ax: Axes, text: str) -> None:
    """Write above a panel, in small letters, how it is to be read."""
    ax.set_title(text, loc="left", fontsize=_FONT_SIZE - 2.5, color=MUTED)


def svg_panel(draw: Drawing, name: str, description: str, height: float = HEIGHT) -> str:
    """Draw a figure of one panel as an ``<svg>`` element.

    Colours are the page's CSS variables ``--ink``, ``--muted``, ``--grid``, ``--paper`` and
    ``--arm-0`` to ``--arm-6``, so that they follow its light and dark.

    Args:
        draw: Function that draws on axes.
        name: Beginning of all ids; the same figure has the same ids.
        description: Text for people who cannot see the figure.
        height: Height in inches of 72 units.
    """
    # Without a salt ids are random: the same study would have another page each time.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        body = _body(figure, name)
    size = f"0 0 {72 * _WIDTH:g} {72 * height:g}"
    label = html.escape(description)
    return f'<svg viewBox="{size}" role="img" aria-label="{label}">{body}</svg>'


def svg_symbol(style: Style, name: str) -> str:
    """Draw an arm's line and marker as a ``<symbol>`` with this id, for a key beside figures."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_KEY)
        FigureCanvasSVG(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        draw_line(ax, [0, 1], [0.5, 0.5], style, marker=False)
        ax.plot(0.5, 0.5, style.marker, color=style.color, markersize=6.5, clip_on=False)
        body = _body(figure, name)
    return f'<symbol id="{name}" viewBox="0 0 34 14">{body}</symbol>'


def draw_line(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    style: Style,
    *,
    marker: bool = True,
    label: str = "",
) -> None:
    """Draw an arm's line, with its marker at every point if wanted."""
    ax.plot(
        x, y, color=style.color, linestyle=style.dashes, lw=1.5,
        marker=style.marker if marker else "", markersize=5, label=label or None,
    )  # fmt: skip


def _body(figure: Figure, name: str) -> str:
    out = io.StringIO()
    # Transparent: the page's own paper, light or dark, shows through.
    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    # No date and no version: the same figure is the same text.
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _laid_out(figure, figure.dpi):
        figure.savefig(out, format="svg", metadata=unsaid)
    text = out.getvalue()
    text = text[text.index("<svg") :].partition(">")[2].rpartition("</svg>")[0]
    # A <style> would hold for the whole page; nothing refers to the ids of groups.
    text = re.sub(r"<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # Ids are unique within a page, which has many figures.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    # The font is the page's; a rotation by -0 degrees is none.
    text = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", text)
    for color, role in _ROLES.items():
        text = text.replace(color, f"var(--{role})")
    return re.sub(r"\s*\n\s*", "\n", text).strip()
