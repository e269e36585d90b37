"""The ELBO taken apart: log-likelihood, KL of each site, active units."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.plots import ElboTerms, Style, draw_parts, rows_height, svg_panel
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._arms import mean
from ppl_vae.report._blocks import Figure, Section, Table, TableColumn, Value
from ppl_vae.report._measured import Summary, measured_values
from ppl_vae.studies import CellResult


def decompositions(
    cells: Sequence[CellResult], arms: Sequence[str], styles: Mapping[str, Style]
) -> Section | None:
    """``ELBO = log-likelihood - KL``: bars of the arms shown, a table of all."""
    means = {}
    for arm in arms:
        # Arm by arm: of all runs together the summaries would be many.
        for summaries in measured_values(cells, "decomposition", [arm]).values():
            # A guide that is a point has a joint density, and no ELBO to be taken apart.
            if bounds := [summary for summary in summaries.values() if "elbo" in summary]:
                means[arm] = _mean_parts(bounds)
    if not means:
        return None
    sites = list(dict.fromkeys(site for parts in means.values() for site in parts["kl"]))
    rows: list[list[Value]] = [_parts_row(arm, parts, sites) for arm, parts in means.items()]
    columns = [
        TableColumn("arm", "arm"),
        TableColumn("elbo", "number", heading="ELBO"),
        TableColumn("seed_error", "error", numbers.error, heading="± seed error"),
        TableColumn("log_likelihood", "number", heading="log-likelihood"),
        *(TableColumn(f"kl_{site}", "number", heading=f"KL of {site}") for site in sites),
        *(
            TableColumn(
                f"active_{site}", "number", numbers.tenths, heading=f"active units of {site}"
            )
            for site in sites
        ),
        *(TableColumn(f"units_{site}", "number", numbers.count, heading="of") for site in sites),
    ]
    table = Table(
        name="decomposition",
        caption=(
            "ELBO = log-likelihood minus the KL of each latent site, mean over seeds, nats per "
            "datum; active units: latent dimensions whose posterior mean varies with the data"
        ),
        columns=columns,
        rows=rows,
    )
    bars = [
        ElboTerms(
            arm, styles[arm], m["log_likelihood"], list(m["kl"].values()), _active(m["active"])
        )
        for arm, m in means.items()
        if arm in styles
    ]
    figure = Figure(
        name="decomposition-bars",
        caption=(
            "The ELBO taken apart, nats per datum, mean over seeds. Full bar: log-likelihood "
            f"E log p(x|z); pale bar: KL of {', then '.join(sites)}; the mark where it ends is "
            "the ELBO. At the right: active units."
        ),
        svg=svg_panel(
            lambda ax: draw_parts(ax, bars),
            "decomposition",
            "Bars of log-likelihood and KL. "
            + "; ".join(f"{bar.label}: log-likelihood {numbers.nats(bar.log_likelihood)}, "
                        f"KL {numbers.nats(sum(bar.kl))}" for bar in bars),
            rows_height(len(bars)),
        ),
        data=table.data,
    )  # fmt: skip
    return Section("decomposition", "The ELBO taken apart", [figure, table])


def _mean_parts(summaries: Sequence[Summary]) -> dict[str, Any]:
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


def _parts_row(arm: str, parts: Mapping[str, Any], sites: Sequence[str]) -> list[Value]:
    active = [parts["active"].get(site, (None, None)) for site in sites]
    return [
        arm, parts["elbo"], parts["error"], parts["log_likelihood"],
        *(parts["kl"].get(site) for site in sites),
        *(count for count, _ in active), *(latent for _, latent in active),
    ]  # fmt: skip


def _active(units: Mapping[str, tuple[float, int]]) -> str:
    if not units:
        return ""
    count, latent = (sum(side) for side in zip(*units.values(), strict=True))
    return f"{count:.3g} of {latent} active"
