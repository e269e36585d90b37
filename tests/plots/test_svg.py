"""Figures that are part of a page: its colours, ids of their own, other people's text."""

import io
import math
import re
import xml.etree.ElementTree as ET

import pytest

from ppl_vae.plots import (
    ARMS,
    Cost,
    Curve,
    ElboTerms,
    ForestRow,
    draw_against,
    draw_bands,
    draw_costs,
    draw_forest,
    draw_on,
    draw_parts,
    new_figure,
    png_of,
    shortened,
    style_of,
    svg_panel,
    svg_symbol,
)
from ppl_vae.plots._style import _DPI

STYLE = style_of(0)
CURVE = Curve(STYLE, [1, 2, 4], [0.1, 0.2, 0.3], [0.05, 0.15, -0.1], [0.2, 0.3, 0.4])
DRAWINGS = {
    "forest": lambda ax: draw_forest(ax, [ForestRow("a", 1.0, 0.5, 1.5, STYLE, (0.9, 1.1))], "x"),
    "bands": lambda ax: draw_bands(ax, [CURVE], "y"),
    "against": lambda ax: draw_against(ax, [CURVE], "x", "y"),
    "log": lambda ax: draw_against(ax, [CURVE], "x", "y", log_y=True),
    "parts": lambda ax: draw_parts(ax, [ElboTerms("a", STYLE, -9.0, [2.0, 1.0], "2 of 3")]),
    "costs": lambda ax: draw_costs(ax, [Cost(STYLE, 5.0, -1.0, 0.1)], [], "cost"),
}


def parsed(svg):
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_drawing_has_the_pages_colours_and_parses(name):
    svg = svg_panel(DRAWINGS[name], name, "words")
    root = parsed(svg)
    assert root.get("viewBox") == "0 0 360 223.2"
    assert root.get("aria-label") == "words"
    assert "var(--arm-0)" in svg
    assert re.findall(r"(?:fill|stroke): (?!var|none)[^;\"]*", svg) == []
    assert "font-family" not in svg


def test_ids_begin_with_the_name_and_are_the_same_each_time():
    first, again = (svg_panel(DRAWINGS["against"], "one", "") for _ in range(2))
    other = svg_panel(DRAWINGS["against"], "two", "")
    assert first == again
    ids = {element.get("id") for element in parsed(first).iter()} - {None}
    assert ids
    assert all(name.startswith("one-") for name in ids)
    assert ids.isdisjoint(element.get("id") for element in parsed(other).iter())


def test_text_is_text():
    label = '<b onload="x">$\\frac{1}{2}$ & co'
    root = parsed(
        svg_panel(lambda ax: draw_forest(ax, [ForestRow(label, 1, 0, 2)], "x"), "f", label)
    )
    assert root.get("aria-label") == label
    assert label in [element.text for element in root.iter("text")]
    assert list(root.iter("b")) == []


def test_a_difference_that_may_be_none_is_open():
    def faces(low):
        row = ForestRow("a - b", 1.0, low, 2.0)
        svg = svg_panel(lambda ax: draw_forest(ax, [row], "x", zero=True), "f", "")
        # Besides the paper behind the label.
        return svg.count("fill: var(--paper)") == 2

    assert faces(-0.1)
    assert not faces(0.1)


def test_styles_differ():
    styles = [style_of(index) for index in range(3 * len(ARMS))]
    assert len(set(styles)) == len(styles)
    assert len({style.marker for style in styles[:13]}) == 13
    assert 'id="key-3"' in svg_symbol(styles[3], "key-3")


def test_long_labels_lose_their_middle():
    assert shortened("a" * 50) == "a" * 50
    cut = shortened("begin" + "x" * 100 + "end")
    assert len(cut) <= 50
    assert cut.startswith("begin")
    assert cut.endswith("end")


def test_learning_curves_show_what_comes_after_the_start():
    """The lowest values, of the first fifth, do not set the panel's scale."""
    limits = {}

    def draw(ax):
        y = [-1000.0, *[-10.0 + i for i in range(9)]]
        draw_bands(ax, [Curve(STYLE, list(range(10)), y, y, y)], "y")
        limits["y"] = ax.get_ylim()

    svg_panel(draw, "f", "")
    assert limits["y"][0] > -11


def axes_of(rows):
    (ax,) = draw_on([(lambda ax: draw_forest(ax, rows, "x"), 2.0)], None).axes
    return ax


@pytest.mark.parametrize("end", [6000, math.inf])
def test_an_interval_far_beyond_the_others_ends_in_an_arrow(end):
    usual = [ForestRow(name, mean, mean - 1, mean + 1) for name, mean in (("a", 0.0), ("b", 2.0))]
    ax = axes_of([*usual, ForestRow("c", 1.0, -end, end)])
    arrows = {line.get_marker(): line.get_xdata()[0] for line in ax.lines}
    # Three widths of the usual intervals beyond the means.
    assert (arrows["<"], arrows[">"]) == (-6.0, 8.0)
    assert {"<", ">"}.isdisjoint(line.get_marker() for line in axes_of(usual).lines)


def test_an_interval_that_is_open_at_one_end_is_seen():
    """The other side tells its width, also where there is no other interval."""
    ax = axes_of([ForestRow("a", 1.0, -math.inf, 1.5)])
    arrows = {line.get_marker(): line.get_xdata()[0] for line in ax.lines}
    assert arrows["<"] == 1.0 - 3 * (2 * 0.5)
    assert ">" not in arrows
    (bar,) = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_lw() == 2]
    assert list(bar.get_xdata()) == [-2.0, 1.5]
    both = axes_of([ForestRow("a", 1.0, -math.inf, math.inf)])
    assert {"<", ">"} <= {line.get_marker() for line in both.lines}


def test_a_saved_figure_is_the_one_that_matplotlib_saves():
    """Laid out before, instead of by drawing it once more."""

    def figure():
        return new_figure([(DRAWINGS["forest"], 2.0), (DRAWINGS["costs"], 3.0)])

    out = io.BytesIO()
    figure().savefig(out, format="png", dpi=_DPI)
    assert png_of(figure()) == out.getvalue()
