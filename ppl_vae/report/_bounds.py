"""The bound against K, and log p(x) between two bounds."""

import re
from collections.abc import Mapping, Sequence

from ppl_vae.plots import Curve, Style, draw_against, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._arms import mean
from ppl_vae.report._blocks import Figure, Section, Table, TableColumn, Value, csv_uri
from ppl_vae.report._measured import Summary, around, first, joint_error, known, measured_values
from ppl_vae.studies import CellResult


def bound_curves(cells: Sequence[CellResult], styles: Mapping[str, Style]) -> Section | None:
    """E[L_K] against K, and where it leads."""
    found = measured_values(cells, "bound_curve", list(styles))
    if not found:
        return None
    curves = [_bound_curve(summaries, styles[arm]) for arm, summaries in found.items()]
    rows: list[list[Value]] = [
        [arm, seed, int(K), bound["value"], bound["monte_carlo_error"]]
        for arm, summaries in found.items()
        for seed, summary in summaries.items()
        for K, bound in summary["bounds"].items()
    ]
    figure = Figure(
        name="bound",
        caption=(
            "Importance-weighted bound E[L_K] on K particles, nats per datum: the ELBO at K = 1, "
            "log p(x) for K to infinity. Mean over seeds; bars: two standard errors, of the seeds "
            "and the particles."
        ),
        svg=svg_panel(
            lambda ax: draw_against(ax, curves, "particles K", "nats per datum"),
            "bound",
            f"Bound against the number of particles, a rising line for each of "
            f"{numbers.plural(len(curves), 'arm')}",
        ),
        data=csv_uri(["arm", "seed", "K", "bound", "monte_carlo_error"], rows),
    )
    return Section("bound", "Bound against K", [figure, _limits(found)], key=True)


def _bound_curve(summaries: Mapping[int, Summary], style: Style) -> Curve:
    counts = sorted({int(K) for summary in summaries.values() for K in summary["bounds"]})
    at = [[s["bounds"][str(K)] for s in summaries.values() if str(K) in s["bounds"]]
          for K in counts]  # fmt: skip
    values = [mean([bound["value"] for bound in bounds]) for bounds in at]
    errors = [
        joint_error([b["value"] for b in bounds], [b["monte_carlo_error"] for b in bounds])
        for bounds in at
    ]
    return Curve(style, counts, values, *around(values, [2 * error for error in errors]))


def _limits(found: Mapping[str, Mapping[int, Summary]]) -> Table:
    rows: list[list[Value]] = []
    for arm, summaries in found.items():
        limits = [summary["extrapolation"]["limit"] for summary in summaries.values()]
        notes = [note for summary in summaries.values() for note in summary["notes"]]
        values = [limit["value"] for limit in limits]
        error = joint_error(values, [limit["monte_carlo_error"] for limit in limits])
        rows.append([arm, mean(values), error, _together(notes)])
    remarked = any(row[-1] for row in rows)
    return Table(
        name="limits",
        caption="Limit of the bound for K to infinity, by a parabola in 1/K; nats per datum",
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("limit", "number"),
            TableColumn("error", "error", numbers.error, heading="± error"),
            *([TableColumn("remark", "prose")] if remarked else []),
        ],
        rows=rows if remarked else [row[:-1] for row in rows],
        beside=not remarked,
    )


def _together(notes: Sequence[str]) -> str:
    """Remarks on several seeds; those that differ only by the percentage in front are one."""
    shares: dict[str, list[int]] = {}
    for note in notes:
        share = re.match(r"\d+(?=%)", note)
        shares.setdefault(note[share.end() :] if share else note, []).extend(
            [int(share[0])] if share else []
        )
    return "; ".join(f"{_range(found)}{text}" for text, found in shares.items())


def _range(found: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(found), max(found)}))) if found else ""


def sandwich_block(cells: Sequence[CellResult], styles: Mapping[str, Style]) -> Section | None:
    """Lower and upper bound of log p(x) on simulated data, against the temperatures."""
    found = {arm: first(v) for arm, v in measured_values(cells, "sandwich", list(styles)).items()}
    if not found:
        return None
    sides = [curve for arm, s in found.items() for curve in _sides(s, styles[arm])]
    gaps = [_gap(summary, styles[arm]) for arm, summary in found.items()]
    names = ("temperatures", "lower", "lower_error", "upper", "upper_error", "gap", "gap_error")
    rows: list[list[Value]] = [
        [arm, *values]
        for arm, summary in found.items()
        for values in zip(*(summary[name] for name in names), strict=True)
    ]
    figure = Figure(
        name="sandwich",
        caption=(
            "Bounds of log p(x) on data simulated from each arm's own model, by annealing "
            "backwards (above) and forwards (below), in nats per datum from the middle of the "
            "longest schedule's: in expectation log p(x) lies between the two. Bars: two standard "
            "errors. One seed of each arm."
        ),
        svg=svg_panel(
            lambda ax: draw_against(ax, sides, "temperatures", "nats from the middle"),
            "sandwich",
            "Upper and lower bounds against the number of temperatures, closing on each other",
        ),
        data=csv_uri(["arm", *names], rows),
    )
    widths = Figure(
        name="sandwich-gap",
        caption=(
            "Width of the sandwich, upper minus lower bound, nats per datum: on such data neither "
            "is further from log p(x) on average. Bars: two standard errors; arrows: upper ends of "
            "bars that reach 0."
        ),
        svg=svg_panel(
            lambda ax: draw_against(ax, gaps, "temperatures", "gap, nats per datum", log_y=True),
            "sandwich-gap",
            "Gap between the bounds against the number of temperatures",
        ),
        data=csv_uri(["arm", *names], rows),
    )
    table = Table(
        name="sandwich-bounds",
        caption="Bounds of log p(x) on simulated data, nats per datum, with Monte Carlo errors",
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("temperatures", "number", numbers.count),
            TableColumn("lower", "number"),
            TableColumn("lower_error", "error", numbers.error, heading="±"),
            TableColumn("upper", "number"),
            TableColumn("upper_error", "error", numbers.error, heading="±"),
            TableColumn("gap", "number"),
            TableColumn("gap_error", "error", numbers.error, heading="±"),
        ],
        rows=rows,
    )
    return Section("sandwich", "Sandwich of log p(x)", [figure, widths, table], key=True)


def _sides(summary: Summary, style: Style) -> list[Curve]:
    middle = (summary["lower"][-1] + summary["upper"][-1]) / 2
    curves = []
    for side in ("lower", "upper"):
        values = [value - middle for value in summary[side]]
        halves = [2 * known(error) for error in summary[f"{side}_error"]]
        curves.append(Curve(style, summary["temperatures"], values, *around(values, halves)))
    return curves


def _gap(summary: Summary, style: Style) -> Curve:
    halves = [2 * known(error) for error in summary["gap_error"]]
    return Curve(style, summary["temperatures"], summary["gap"], *around(summary["gap"], halves))
