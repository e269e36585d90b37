"""Sections of the training runs: learning curves, cost against quality, samples."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import imsave

from ppl_vae.names import plural
from ppl_vae.plots import (
    HEIGHT,
    MUTED,
    Cost,
    Style,
    columns_height,
    draw_bands,
    draw_columns,
    draw_costs,
    draw_profiles,
    image_grid,
    svg_panel,
)
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import (
    Block,
    Figure,
    Gallery,
    Picture,
    Section,
    Table,
    TableColumn,
    Value,
)
from ppl_vae.report._measures import done
from ppl_vae.report._numbers import mean
from ppl_vae.runs import RunRecord
from ppl_vae.training import History, curve_of

_Rows = Float[np.ndarray, "rows features"]
_Quantity = Literal["bound", "validation"]
_TITLES: dict[_Quantity, tuple[str, str]] = {
    "bound": (
        "Training: each arm's own bound",
        "Mean over the epoch's training data of the bound that the arm maximises: bounds of "
        "different objectives do not compare. Of a guide that is a point it is the joint "
        "log-density log p(x, z), which is no bound; a model with a rule of its own has none but "
        "where that raises log p(x).",
    ),
    "validation": (
        "Validation: the same bound for all arms",
        "Importance-weighted bound on the validation data, by which the parameters are chosen; of "
        "a guide that is a point, what is maximised; of a model with a rule of its own, log p(x) "
        "where that is exact.",
    ),
}
_COSTS = {
    "evaluations": "decoder evaluations of training, per run",
    "seconds": "seconds of training and evaluation, per run",
}
_PROFILES = 10
"""Number of rows of data drawn as lines."""


def learning_curves(cells: Sequence[RunRecord], styles: Mapping[str, Style]) -> Section | None:
    """Make the section of bounds against the epoch; None where no run has a history."""
    histories = {arm: _histories(cells, arm) for arm in styles}
    figures = [_curves_figure(histories, styles, quantity) for quantity in _TITLES]
    drawn = [figure for figure in figures if figure is not None]
    return Section("curves", "Learning curves", drawn, key=True) if drawn else None


def _histories(cells: Sequence[RunRecord], arm: str) -> dict[int, History]:
    histories = {cell.seed: cell.history for cell in done(cells, arm)}
    return {seed: history for seed, history in histories.items() if len(history)}


def _curves_figure(
    histories: Mapping[str, dict[int, History]], styles: Mapping[str, Style], quantity: _Quantity
) -> Figure | None:
    all_curves = [
        curve_of(list(by_seed.values()), quantity, styles[arm])
        for arm, by_seed in histories.items()
        if by_seed
    ]
    curves = [curve for curve in all_curves if curve.x]
    if not curves:
        return None
    title, meaning = _TITLES[quantity]
    rows: list[list[Value]] = [
        [arm, seed, epoch, value]
        for arm, by_seed in histories.items()
        for seed, history in by_seed.items()
        for epoch, value in history.by_epoch(quantity).items()
    ]
    return Figure.drawn(
        f"curves-{quantity}",
        f"{title}, in nats per datum. {meaning} Line: mean over seeds; band: from the lowest "
        "to the highest seed, as far as all seeds of the arm trained. The first fifth of "
        "training may lie below the panel.",
        lambda ax: draw_bands(ax, curves, "nats per datum"),
        f"{title} against the epoch, a line with a band over seeds for each of "
        f"{plural(len(curves), 'arm')}",
        (["arm", "seed", "epoch", quantity], rows),
    )


def costs(
    cells: Sequence[RunRecord],
    values: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Style],
) -> Section | None:
    """Make the section of mean log p(x), ``(mean, error)`` by arm, against the cost of training."""
    # Means over seeds, by arm and kind of cost.
    spent: dict[str, dict[str, float]] = {}
    for arm in values:
        if runs := list(done(cells, arm)):
            spent[arm] = {kind: mean([getattr(run, kind) for run in runs]) for kind in _COSTS}
    if not spent:
        return None
    fronts = {
        kind: _front({arm: (by_kind[kind], values[arm][0]) for arm, by_kind in spent.items()})
        for kind in _COSTS
        if any(by_kind[kind] for by_kind in spent.values())
    }
    figures = [
        _cost_figure({a: by_kind[kind] for a, by_kind in spent.items()}, values, styles, front,
                     kind)
        for kind, front in fronts.items()
    ]  # fmt: skip
    table = Table(
        name="cost",
        caption="What a run of each arm cost, mean over seeds, and mean log p(x) in nats per datum",
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("log_prob", "number", heading="log p(x)"),
            TableColumn("error", "error", numbers.error, heading="± total error"),
            TableColumn("evaluations", "number", numbers.count, heading="decoder evaluations"),
            TableColumn("seconds", "number", numbers.tenths),
            TableColumn("front", heading="on the Pareto front of"),
        ],
        rows=[
            [arm, *values[arm], *by_kind.values(),
             ", ".join(kind for kind, front in fronts.items() if arm in front)]
            for arm, by_kind in spent.items()
        ],
    )  # fmt: skip
    blocks: list[Block] = [*figures, *_cost_curves(cells, styles), table]
    return Section("cost", "Cost against quality", blocks, key=True)


def _front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Find arms that no other beats in cost or value without being worse in the other."""
    best, front = float("-inf"), []
    # By rising cost, and of equal costs the best first: only a higher value than before counts.
    for arm, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best:
            best = value
            front.append(arm)
    return front


def _cost_figure(
    spent: Mapping[str, float],
    values: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Style],
    front: Sequence[str],
    kind: str,
) -> Figure:
    points = {arm: Cost(styles[arm], spent[arm], *values[arm]) for arm in styles if arm in spent}
    on_front = [points[arm] for arm in front if arm in points]
    label = _COSTS[kind]
    return Figure.drawn(
        f"cost-{kind}",
        f"Mean log p(x) in nats per datum, with two standard errors, against {label} (mean "
        "over seeds). Rings and dashed steps: the Pareto front, arms that no other arm beats "
        "at the same or a lower cost.",
        lambda ax: draw_costs(ax, list(points.values()), on_front, label),
        f"log p(x) against {label}; on the Pareto front: {', '.join(front)}",
        (
            ["arm", kind, "log_prob", "error", "on_front"],
            [[arm, spent[arm], *values[arm], int(arm in front)] for arm in spent],
        ),
    )


def _cost_curves(cells: Sequence[RunRecord], styles: Mapping[str, Style]) -> list[Figure]:
    """Draw the validation bound against decoder evaluations, where both are recorded."""
    curves, rows = [], list[list[Value]]()
    for arm, style in styles.items():
        histories = list(_histories(cells, arm).values())
        if not histories:
            continue
        curve = curve_of(histories, "validation", style)
        spent = [history.by_epoch("evaluations") for history in histories]
        x = [mean([by_epoch[int(epoch)] for by_epoch in spent]) for epoch in curve.x]
        curves.append(replace(curve, x=x))
        rows += [[arm, *row] for row in zip(x, curve.y, curve.low, curve.high, strict=True)]
    # A log axis has no place for 0, where evaluations were not counted.
    if not any(curve.x for curve in curves) or min(x for c in curves for x in c.x) <= 0:
        return []
    figure = Figure.drawn(
        "cost-curves",
        "Validation bound, the same for all arms, against the decoder evaluations spent on "
        "training so far, nats per datum: at one place on the axis arms have had equal work. "
        "Line: mean over seeds; band: from the lowest to the highest.",
        lambda ax: draw_bands(ax, curves, "nats per datum", "decoder evaluations so far"),
        "Validation bound against decoder evaluations, a line with a band for each arm",
        (["arm", "evaluations", "validation", "low", "high"], rows),
    )
    return [figure]


def pictures(
    cells: Sequence[RunRecord], styles: Mapping[str, Style], data: Mapping[str, Any]
) -> Section | None:
    """Make galleries of the first seed of each arm that has samples; None if there are none.

    Args:
        cells: Cells of the study.
        styles: Styles of the arms to show.
        data: Entry of the study's manifest on the data.
    """
    rows_of = {}
    for arm in styles:
        if rows := next((cell.pictures for cell in done(cells, arm) if cell.pictures), None):
            rows_of[arm] = rows
    if not rows_of:
        return None
    shape, names = data.get("image_shape"), data.get("feature_names")
    if shape is not None:
        means = (
            "First and second row: test data, and the mean of p(x|z) for z from q(z|x). One seed "
            "of each arm.",
            "Mean of p(x|z) for z from the prior. The same seed.",
        )
        samples_alt = "Samples from the prior"
    else:
        form = (
            "One line a datum over its features." if names is None else
            "Each column: from the 5% to the 95% quantile, thick from 25% to 75%, the mark is the "
            "median, in standard deviations from the data's mean."
        )  # fmt: skip
        means = (
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from q(z|x). "
            f"{form} One seed of each arm.",
            "Grey: test data; in the arm's colour: the mean of p(x|z) for z from the prior. The "
            "same seed.",
        )
        samples_alt = "Test data and samples from the prior"
    alts = "Test data and their reconstructions", samples_alt
    galleries = []
    for kind, caption, alt in zip(("reconstructions", "samples"), means, alts, strict=True):
        # Without an encoder there are samples alone.
        shown = {a: r for a, r in rows_of.items() if kind == "samples" or "reconstruction" in r}
        drawn = [
            Picture(arm, f"{alt}, {arm}", uri=_images(rows, kind, tuple(shape)))
            if shape is not None
            else Picture(
                arm,
                f"{alt}, {arm}",
                svg=_columns(rows, names, styles[arm], f"{kind}-{index}", f"{alt}, {arm}"),
            )
            for index, (arm, rows) in enumerate(shown.items())
        ]
        if drawn:
            galleries.append(Gallery(kind, caption, drawn))
    return Section("pictures", "Samples and reconstructions", galleries)


def _images(rows: Mapping[str, _Rows], kind: str, shape: tuple[int, ...]) -> str:
    """Write a grid of images as the URI of a PNG file."""
    shown = [rows["samples"]] if kind == "samples" else [rows["data"], rows["reconstruction"]]
    out = io.BytesIO()
    pixels = image_grid(np.concatenate(shown), shape)
    # Without the version of matplotlib: the same picture has the same bytes.
    imsave(out, pixels, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _columns(
    rows: Mapping[str, _Rows], names: Sequence[str] | None, style: Style, name: str, alt: str
) -> str:
    """Draw data and means of p(x|z) as SVG: columns by name, or lines where there are none."""
    key = "samples" if name.startswith("samples") else "reconstruction"
    groups, colors = {"data": rows["data"], key: rows[key]}, (MUTED, style.color)

    def draw(ax: Axes) -> None:
        if names is not None:
            draw_columns(ax, groups, names, colors)
            return
        for each, color in zip(groups.values(), colors, strict=True):
            draw_profiles(ax, each[:_PROFILES].tolist(), color, "feature")

    return svg_panel(draw, name, alt, HEIGHT if names is None else columns_height(len(names)))
