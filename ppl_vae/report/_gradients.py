"""Signal-to-noise ratio of the gradients."""

import math
from collections.abc import Mapping, Sequence

from ppl_vae.plots import Curve, Style, draw_against, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import Figure, Section, Table, TableColumn, csv_uri
from ppl_vae.report._measured import Summary, first, measured_values
from ppl_vae.studies import CellResult

_GROUPS = {"phi": "phi, of the guide", "theta": "theta, of the model"}


def gradients_block(cells: Sequence[CellResult], styles: Mapping[str, Style]) -> Section | None:
    """Signal-to-noise ratio of the gradients of guide and model against K."""
    found = {arm: first(v) for arm, v in measured_values(cells, "gradients", list(styles)).items()}
    if not found:
        return None
    figures = [_ratios(found, styles, group) for group in _GROUPS]
    slopes = Table(
        name="slopes",
        caption="Slope of log signal-to-noise ratio against log K, with its standard error",
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("group"),
            TableColumn("slope", "number", numbers.signed),
            TableColumn("error", "error", numbers.error, heading="±"),
            TableColumn("theory", "number", numbers.signed),
        ],
        rows=[
            [arm, slope["group"], slope["slope"], slope["error"], slope["expected"]]
            for arm, summary in found.items()
            for slope in summary["slopes"]
        ],
    )
    tables = [slopes] if slopes.rows else []
    return Section("gradients", "Signal-to-noise of the gradients", [*figures, *tables], key=True)


def _ratios(found: Mapping[str, Summary], styles: Mapping[str, Style], group: str) -> Figure:
    by_arm = {
        arm: sorted(
            (row for row in summary["rows"] if row["group"] == group),
            key=lambda row: int(row["num_particles"]),
        )
        for arm, summary in found.items()
    }
    known = {
        arm: [row for row in rows if math.isfinite(row["signal_to_noise"]["value"])]
        for arm, rows in by_arm.items()
    }
    curves = [
        Curve(
            styles[arm],
            [row["num_particles"] for row in rows],
            y=[row["signal_to_noise"]["value"] for row in rows],
            low=[row["signal_to_noise"]["low"] for row in rows],
            high=[row["signal_to_noise"]["high"] for row in rows],
        )
        for arm, rows in known.items()
        if rows
    ]
    name = f"snr-{group}"
    return Figure(
        name=name,
        caption=(
            f"Signal-to-noise ratio of the gradient of {_GROUPS[group]}: median over coordinates "
            "of |mean| / standard deviation of one gradient (no unit), with 95% bootstrap "
            "intervals; arrows: upper limits. One seed of each arm."
        ),
        svg=svg_panel(
            lambda ax: draw_against(
                ax, curves, "particles K", "signal-to-noise ratio", log_y=True
            ),
            name,
            f"Signal-to-noise ratio of {_GROUPS[group]} against K",
        ),
        data=csv_uri(
            ["arm", "K", "signal_to_noise", "low", "high"],
            [
                [arm, row["num_particles"],
                 *(row["signal_to_noise"][part] for part in ("value", "low", "high"))]
                for arm, rows in known.items()
                for row in rows
            ],
        ),
    )  # fmt: skip
