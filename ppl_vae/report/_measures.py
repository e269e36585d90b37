"""Sections on the measures of a study beside log p(x): bounds, the ELBO's terms, gradients."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ppl_vae.names import plural
from ppl_vae.plots import Curve, ElboTerms, Style, draw_against, draw_parts, rows_height, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import Figure, Section, Table, TableColumn, Value
from ppl_vae.report._numbers import bars, joint_error, known, mean
from ppl_vae.runs import LACKING, RunRecord

Summary = Mapping[str, Any]

_GROUPS = {"phi": "phi, of the guide", "theta": "theta, of the model"}


def done(cells: Sequence[RunRecord], arm: str | None = None) -> Iterator[RunRecord]:
    """Yield the finished cells of an arm, or of all, in order.

    Each is a copy: the results that it reads from its folder and keeps are freed with it.
    """
    for cell in cells:
        if cell.state == "done" and arm in (None, cell.arm):
            yield replace(cell)


def measured(
    cells: Sequence[RunRecord], name: str, arms: Sequence[str]
) -> dict[str, dict[int, Summary]]:
    """Look up the summaries of a measure, by arm and seed, where it was measured."""
    by_arm = {
        arm: {
            cell.seed: _with_nan(cell.measures[name])
            for cell in done(cells, arm)
            if name in cell.measures
        }
        for arm in arms
    }
    return {arm: by_seed for arm, by_seed in by_arm.items() if by_seed}


def _first(cells: Sequence[RunRecord], name: str, arms: Sequence[str]) -> dict[str, Summary]:
    """Look up, by arm, the summary of a measure of the first seed that has one."""
    found = measured(cells, name, arms)
    return {arm: next(iter(by_seed.values())) for arm, by_seed in found.items()}


def _with_nan(value: Any) -> Any:
    """Replace None, which JSON has for NaN, by NaN."""
    if isinstance(value, Mapping):
        return {name: _with_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_nan(entry) for entry in value]
    return math.nan if value is None else value


def bound_curves(cells: Sequence[RunRecord], styles: Mapping[str, Style]) -> Section | None:
    """Make the section of E[L_K] against K, and its limit."""
    by_arm = measured(cells, "bound_curve", list(styles))
    if not by_arm:
        return None
    curves = []
    for arm, summaries in by_arm.items():
        # Keys of JSON are texts, in whose order 16 comes before 2.
        counts = sorted({int(K) for summary in summaries.values() for K in summary["bounds"]})
        bounds = [[s["bounds"][str(K)] for s in summaries.values() if str(K) in s["bounds"]]
                  for K in counts]  # fmt: skip
        values = [[bound["value"] for bound in of_K] for of_K in bounds]
        noise = [[bound["monte_carlo_error"] for bound in of_K] for of_K in bounds]
        means = [mean(each) for each in values]
        errors = [joint_error(*each) for each in zip(values, noise, strict=True)]
        curves.append(Curve(styles[arm], counts, means, *bars(means, errors)))
    rows: list[list[Value]] = [
        [arm, seed, int(K), bound["value"], bound["monte_carlo_error"]]
        for arm, summaries in by_arm.items()
        for seed, summary in summaries.items()
        for K, bound in summary["bounds"].items()
    ]
    figure = Figure.drawn(
        "bound",
        "Importance-weighted bound E[L_K] on K particles, nats per datum: the ELBO at K = 1, "
        "log p(x) for K to infinity. Mean over seeds; bars: two standard errors, of the seeds "
        "and the particles.",
        lambda ax: draw_against(ax, curves, "particles K", "nats per datum"),
        f"Bound against the number of particles, a rising line for each of "
        f"{plural(len(curves), 'arm')}",
        (["arm", "seed", "K", "bound", "monte_carlo_error"], rows),
    )
    return Section("bound", "Bound against K", [figure, _limits(by_arm)], key=True)


def _limits(by_arm: Mapping[str, Mapping[int, Summary]]) -> Table:
    rows: list[list[Value]] = []
    for arm, summaries in by_arm.items():
        limits = [summary["extrapolation"]["limit"] for summary in summaries.values()]
        notes = [note for summary in summaries.values() for note in summary["notes"]]
        values = [limit["value"] for limit in limits]
        error = joint_error(values, [limit["monte_carlo_error"] for limit in limits])
        rows.append([arm, mean(values), error, _joined(notes)])
    # A column of remarks takes the width that a figure beside the table would need.
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


def _joined(notes: Sequence[str]) -> str:
    """Join remarks on several seeds; those that differ only by a leading percentage are one."""
    shares: dict[str, list[int]] = {}
    for note in notes:
        share = re.match(r"\d+(?=%)", note)
        shares.setdefault(note[share.end() :] if share else note, []).extend(
            [int(share[0])] if share else []
        )
    ranges = {text: sorted({min(each), max(each)}) if each else [] for text, each in shares.items()}
    return "; ".join(f"{' to '.join(map(str, ends))}{text}" for text, ends in ranges.items())


def sandwich_block(cells: Sequence[RunRecord], styles: Mapping[str, Style]) -> Section | None:
    """Make the section of bounds of log p(x) on simulated data, against the temperatures."""
    by_arm = _first(cells, "sandwich", list(styles))
    if not by_arm:
        return None
    sides, gaps = [], []
    for arm, summary in by_arm.items():
        temperatures = summary["temperatures"]
        # Each arm simulates its own data: levels of log p(x) do not compare, widths do.
        middle = (summary["lower"][-1] + summary["upper"][-1]) / 2
        for side in ("lower", "upper"):
            values = [value - middle for value in summary[side]]
            ends = bars(values, [known(error) for error in summary[f"{side}_error"]])
            sides.append(Curve(styles[arm], temperatures, values, *ends))
        ends = bars(summary["gap"], [known(error) for error in summary["gap_error"]])
        gaps.append(Curve(styles[arm], temperatures, summary["gap"], *ends))
    names = ("temperatures", "lower", "lower_error", "upper", "upper_error", "gap", "gap_error")
    rows: list[list[Value]] = [
        [arm, *values]
        for arm, summary in by_arm.items()
        for values in zip(*(summary[name] for name in names), strict=True)
    ]
    data = ["arm", *names], rows
    figure = Figure.drawn(
        "sandwich",
        "Bounds of log p(x) on data simulated from each arm's own model, by annealing "
        "backwards (above) and forwards (below), in nats per datum from the middle of the "
        "longest schedule's: in expectation log p(x) lies between the two. Bars: two standard "
        "errors. One seed of each arm.",
        lambda ax: draw_against(ax, sides, "temperatures", "nats from the middle"),
        "Upper and lower bounds against the number of temperatures, closing on each other",
        data,
    )
    widths = Figure.drawn(
        "sandwich-gap",
        "Width of the sandwich, upper minus lower bound, nats per datum: on such data neither "
        "is further from log p(x) on average. Bars: two standard errors; arrows: upper ends of "
        "bars that reach 0.",
        lambda ax: draw_against(ax, gaps, "temperatures", "gap, nats per datum", log_y=True),
        "Gap between the bounds against the number of temperatures",
        data,
    )
    table = Table(
        name="sandwich-bounds",
        caption="Bounds of log p(x) on simulated data, nats per datum, with Monte Carlo errors",
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("temperatures", "number", numbers.count),
            *(
                column
                for name in ("lower", "upper", "gap")
                for column in (
                    TableColumn(name, "number"),
                    TableColumn(f"{name}_error", "error", numbers.error, heading="±"),
                )
            ),
        ],
        rows=rows,
    )
    return Section("sandwich", "Sandwich of log p(x)", [figure, widths, table], key=True)


def decompositions(
    cells: Sequence[RunRecord], arms: Sequence[str], styles: Mapping[str, Style]
) -> Section | None:
    """Make the section of ``ELBO = log-likelihood - KL``, bars of some arms, a table of all."""
    means = {}
    for arm in arms:
        # Arm by arm, so that the summaries of one arm only are in memory.
        for summaries in measured(cells, "decomposition", [arm]).values():
            # A guide that is a point has a joint density, and no ELBO to be taken apart.
            if bounds := [summary for summary in summaries.values() if "elbo" in summary]:
                means[arm] = _mean_terms(bounds)
    if not means:
        return None
    sites = list(dict.fromkeys(site for terms in means.values() for site in terms["kl"]))
    none = (None, None)
    table = Table(
        name="decomposition",
        caption=(
            "ELBO = log-likelihood minus the KL of each latent site, mean over seeds, nats per "
            "datum; active units: latent dimensions whose posterior mean varies with the data"
        ),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("elbo", "number", heading="ELBO"),
            TableColumn("seed_error", "error", numbers.error, heading="± seed error"),
            TableColumn("log_likelihood", "number", heading="log-likelihood"),
            *(TableColumn(f"kl_{s}", "number", heading=f"KL of {s}") for s in sites),
            *(
                TableColumn(f"active_{s}", "number", numbers.tenths, heading=f"active units of {s}")
                for s in sites
            ),
            *(TableColumn(f"units_{s}", "number", numbers.count, heading="of") for s in sites),
        ],
        rows=[
            [
                arm, terms["elbo"], terms["error"], terms["log_likelihood"],
                *(terms["kl"].get(site) for site in sites),
                *(terms["active"].get(site, none)[0] for site in sites),
                *(terms["active"].get(site, none)[1] for site in sites),
            ]
            for arm, terms in means.items()
        ],
    )  # fmt: skip
    drawn = [
        ElboTerms(
            arm, styles[arm], terms["log_likelihood"], list(terms["kl"].values()),
            _active(terms["active"]),
        )
        for arm, terms in means.items()
        if arm in styles
    ]  # fmt: skip
    figure = Figure(
        name="decomposition-bars",
        caption=(
            "The ELBO taken apart, nats per datum, mean over seeds. Full bar: log-likelihood "
            f"E log p(x|z); pale bar: KL of {', then '.join(sites)}; the mark where it ends is "
            "the ELBO. At the right: active units."
        ),
        svg=svg_panel(
            lambda ax: draw_parts(ax, drawn),
            "decomposition",
            "Bars of log-likelihood and KL. "
            + "; ".join(f"{bar.label}: log-likelihood {numbers.nats(bar.log_likelihood)}, "
                        f"KL {numbers.nats(sum(bar.kl))}" for bar in drawn),
            rows_height(len(drawn)),
        ),
        data=table.data,
    )  # fmt: skip
    return Section("decomposition", "The ELBO taken apart", [figure, table])


def _mean_terms(summaries: Sequence[Summary]) -> dict[str, Any]:
    first = summaries[0]
    elbos = [summary["elbo"]["value"] for summary in summaries]
    return {
        "elbo": mean(elbos),
        "error": statistics.stdev(elbos) / math.sqrt(len(elbos)) if len(elbos) > 1 else None,
        "log_likelihood": mean([summary["log_likelihood"]["value"] for summary in summaries]),
        "kl": {site: mean([s["kl"][site]["value"] for s in summaries]) for site in first["kl"]},
        "active": {
            site: (mean([s["active_units"][site]["count"] for s in summaries]), units["latent"])
            for site, units in first["active_units"].items()
        },
    }


def _active(units: Mapping[str, tuple[float, int]]) -> str:
    if not units:
        return ""
    count, latent = (sum(side) for side in zip(*units.values(), strict=True))
    return f"{count:.3g} of {latent} active"


def lacking(cells: Sequence[RunRecord], arms: Sequence[str]) -> Section | None:
    """Make the section of measures that the model of an arm does not have, and why."""
    by_arm = _first(cells, LACKING, arms)
    rows: list[list[Value]] = [
        [arm, name.replace("_", " "), str(reason)]
        for arm, reasons in by_arm.items()
        for name, reason in reasons.items()
    ]
    if not rows:
        return None
    table = Table(
        name="lacking",
        caption="Measures that the model of an arm does not have",
        columns=[TableColumn("arm", "arm"), TableColumn("measure"), TableColumn("reason", "prose")],
        rows=rows,
    )
    return Section("lacking", "What arms do not have", [table])


def gradients_block(cells: Sequence[RunRecord], styles: Mapping[str, Style]) -> Section | None:
    """Make the section of the gradients' signal-to-noise ratios against K."""
    by_arm = _first(cells, "gradients", list(styles))
    if not by_arm:
        return None
    figures = [_ratios(by_arm, styles, group) for group in _GROUPS]
    slopes = Table(
        name="slopes",
        caption="Slope of log signal-to-noise ratio against log K, with its standard error"
        + _without_slope(by_arm),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("group"),
            TableColumn("slope", "number", numbers.signed),
            TableColumn("error", "error", numbers.error, heading="±"),
            TableColumn("theory", "number", numbers.signed),
        ],
        rows=[
            [arm, slope["group"], slope["slope"], slope["error"], slope["expected"]]
            for arm, summary in by_arm.items()
            for slope in summary["slopes"]
        ],
    )
    tables = [slopes] if slopes.rows else []
    return Section("gradients", "Signal-to-noise of the gradients", [*figures, *tables], key=True)


def _without_slope(by_arm: Mapping[str, Summary]) -> str:
    """Words for curves over several K that have no slope, and why."""
    lacking = []
    for arm, summary in by_arm.items():
        found = {slope["group"] for slope in summary["slopes"]}
        # With fewer than two K above 1 no slope is expected.
        counts = Counter(row["group"] for row in summary["rows"] if row["num_particles"] > 1)
        lacking += [f"{arm} {group}" for group, n in counts.items() if n > 1 and group not in found]
    if not lacking:
        return ""
    return (
        f". Without a slope: {', '.join(lacking)}; too few ratios stand out of the noise, which "
        "more replicates would lower"
    )


def _ratios(by_arm: Mapping[str, Summary], styles: Mapping[str, Style], group: str) -> Figure:
    names = ("value", "low", "high")
    points = {
        arm: sorted(
            (
                [row["num_particles"], *(row["signal_to_noise"][name] for name in names)]
                for row in summary["rows"]
                if row["group"] == group and math.isfinite(row["signal_to_noise"]["value"])
            ),
            key=lambda row: int(row[0]),
        )
        for arm, summary in by_arm.items()
    }
    curves = []
    for arm, rows in points.items():
        if rows:
            K, value, low, high = map(list, zip(*rows, strict=True))
            curves.append(Curve(styles[arm], K, value, low, high))
    return Figure.drawn(
        f"snr-{group}",
        f"Signal-to-noise ratio of the gradient of {_GROUPS[group]}: median over coordinates "
        "of |mean| / standard deviation of one gradient (no unit), with 95% bootstrap "
        "intervals; arrows: upper limits. One seed of each arm.",
        lambda ax: draw_against(ax, curves, "particles K", "signal-to-noise ratio", log_y=True),
        f"Signal-to-noise ratio of {_GROUPS[group]} against K",
        (
            ["arm", "K", "signal_to_noise", "low", "high"],
            [[arm, *row] for arm, rows in points.items() for row in rows],
        ),
    )
