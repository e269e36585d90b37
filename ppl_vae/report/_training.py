"""Learning curves, and what training cost against what it came to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from ppl_vae.plots import Cost, Style, draw_bands, draw_costs, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._arms import done, mean
from ppl_vae.report._blocks import Block, Figure, Section, Table, TableColumn, Value, csv_uri
from ppl_vae.studies import CellResult
from ppl_vae.training import History, curve_of

_Quantity = Literal["bound", "validation"]
_TITLES: dict[_Quantity, tuple[str, str]] = {
    "bound": (
        "Training: each arm's own bound",
        "Mean over the epoch's training data of the bound that the arm maximises: bounds of "
        "different objectives do not compare. Of a guide that is a point it is the joint "
        "log-density log p(x, z), which is no bound.",
    ),
    "validation": (
        "Validation: the same bound for all arms",
        "Importance-weighted bound on the validation data, by which the parameters are chosen; of "
        "a guide that is a point, what is maximised.",
    ),
}


def learning_curves(cells: Sequence[CellResult], styles: Mapping[str, Style]) -> Section | None:
    """Training and validation bound against the epoch; None where no run has a history."""
    histories = {arm: _histories(cells, arm) for arm in styles}
    figures = [_curves_figure(histories, styles, quantity) for quantity in _TITLES]
    seen = [figure for figure in figures if figure is not None]
    return Section("curves", "Learning curves", seen, key=True) if seen else None


def _histories(cells: Sequence[CellResult], arm: str) -> dict[int, History]:
    found = {cell.seed: cell.history for cell in done(cells, arm)}
    return {seed: history for seed, history in found.items() if len(history)}


def _curves_figure(
    histories: Mapping[str, dict[int, History]],
    styles: Mapping[str, Style],
    quantity: _Quantity,
) -> Figure | None:
    values = {
        arm: {seed: history.by_epoch(quantity) for seed, history in by_seed.items()}
        for arm, by_seed in histories.items()
    }
    found = [
        curve_of(list(by_seed.values()), quantity, styles[arm])
        for arm, by_seed in histories.items()
        if by_seed
    ]
    curves = [curve for curve in found if curve.x]
    if not curves:
        return None
    title, meaning = _TITLES[quantity]
    rows: list[list[Value]] = [
        [arm, seed, epoch, value]
        for arm, by_seed in values.items()
        for seed, by_epoch in by_seed.items()
        for epoch, value in by_epoch.items()
    ]
    return Figure(
        name=f"curves-{quantity}",
        caption=(
            f"{title}, in nats per datum. {meaning} Line: mean over seeds; band: from the lowest "
            "to the highest seed, as far as all seeds of the arm trained. The first fifth of "
            "training may lie below the panel."
        ),
        svg=svg_panel(
            lambda ax: draw_bands(ax, curves, "nats per datum"),
            f"curves-{quantity}",
            f"{title} against the epoch, a line with a band over seeds for each of "
            f"{numbers.plural(len(curves), 'arm')}",
        ),
        data=csv_uri(["arm", "seed", "epoch", quantity], rows),
    )


class _Spent(NamedTuple):
    """Means over the seeds of an arm."""

    evaluations: float
    seconds: float


def costs(
    cells: Sequence[CellResult],
    values: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Style],
) -> Section | None:
    """Mean log p(x) of each arm, ``(mean, error)``, against what its training cost."""
    spent = {arm: _spent(cells, arm) for arm in values}
    known = {arm: found for arm, found in spent.items() if found is not None}
    if not known:
        return None
    kinds = {
        "evaluations": "decoder evaluations of training, per run",
        "seconds": "seconds of training and evaluation, per run",
    }
    fronts = {
        kind: _front({arm: (getattr(found, kind), values[arm][0]) for arm, found in known.items()})
        for kind in kinds
        if any(getattr(found, kind) for found in known.values())
    }
    figures = [
        _cost_figure({a: getattr(found, kind) for a, found in known.items()}, values, styles,
                     front, kind, kinds[kind])
        for kind, front in fronts.items()
    ]  # fmt: skip
    blocks: list[Block] = [
        *figures,
        *_on_the_way(cells, styles),
        _cost_table(known, values, fronts),
    ]
    return Section("cost", "Cost against quality", blocks, key=True)


def _on_the_way(cells: Sequence[CellResult], styles: Mapping[str, Style]) -> list[Figure]:
    """Validation bound against decoder evaluations, where both are recorded."""
    curves, rows = [], list[list[Value]]()
    for arm, style in styles.items():
        histories = list(_histories(cells, arm).values())
        if not histories:
            continue
        curve = curve_of(histories, "validation", style)
        spent = [history.by_epoch("evaluations") for history in histories]
        x = [mean([by_epoch[int(epoch)] for by_epoch in spent]) for epoch in curve.x]
        curves.append(replace(curve, x=x))
        rows += [
            list(row) for row in zip([arm] * len(x), x, curve.y, curve.low, curve.high, strict=True)
        ]
    if not any(curve.x for curve in curves) or min(x for c in curves for x in c.x) <= 0:
        return []
    figure = Figure(
        name="cost-curves",
        caption=(
            "Validation bound, the same for all arms, against the decoder evaluations spent on "
            "training so far, nats per datum: at one place on the axis arms have had equal work. "
            "Line: mean over seeds; band: from the lowest to the highest."
        ),
        svg=svg_panel(
            lambda ax: draw_bands(ax, curves, "nats per datum", "decoder evaluations so far"),
            "cost-curves",
            "Validation bound against decoder evaluations, a line with a band for each arm",
        ),
        data=csv_uri(["arm", "evaluations", "validation", "low", "high"], rows),
    )
    return [figure]


def _spent(cells: Sequence[CellResult], arm: str) -> _Spent | None:
    found = list(done(cells, arm))
    if not found:
        return None
    return _Spent(mean([c.evaluations for c in found]), mean([c.seconds for c in found]))


def _front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Arms that no other arm beats in one of cost and value without being worse in the other."""
    best, front = float("-inf"), []
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
    label: str,
) -> Figure:
    points = {arm: Cost(styles[arm], spent[arm], *values[arm]) for arm in styles if arm in spent}
    rows: list[list[Value]] = [[arm, spent[arm], *values[arm], int(arm in front)] for arm in spent]
    return Figure(
        name=f"cost-{kind}",
        caption=(
            f"Mean log p(x) in nats per datum, with two standard errors, against {label} (mean "
            "over seeds). Rings and dashed steps: the Pareto front, arms that no other arm beats "
            "at the same or a lower cost."
        ),
        svg=svg_panel(
            lambda ax: draw_costs(
                ax, list(points.values()), [points[arm] for arm in front if arm in points], label
            ),
            f"cost-{kind}",
            f"log p(x) against {label}; on the Pareto front: {', '.join(front)}",
        ),
        data=csv_uri(["arm", kind, "log_prob", "error", "on_front"], rows),
    )


def _cost_table(
    spent: Mapping[str, _Spent],
    values: Mapping[str, tuple[float, float]],
    fronts: Mapping[str, Sequence[str]],
) -> Table:
    def on(arm: str) -> str:
        return ", ".join(kind for kind, front in fronts.items() if arm in front)

    return Table(
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
        rows=[[arm, *values[arm], *found, on(arm)] for arm, found in spent.items()],
    )
