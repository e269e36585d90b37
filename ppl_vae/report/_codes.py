"""Section on codes and reconstructions of a study's arms, and on phases before the last."""

from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import Section, Table, TableColumn, Value
from ppl_vae.report._measures import done, measured
from ppl_vae.report._numbers import mean
from ppl_vae.runs import RunRecord

_NONE = "none"
"""Text in place of a number that a model does not have."""
_COLUMNS = {
    "squared_error": "squared error",
    "log_likelihood": "log p(x|z)",
    "active_share": "active share",
    "hoyer": "Hoyer sparsity",
    "scale": "scale of p(x|z)",
}


def codes(cells: Sequence[RunRecord], arms: Sequence[str]) -> Section | None:
    """Make the section of reconstruction errors and sparsity of codes, and of pretraining."""
    blocks = [block for block in (_table(cells, arms), _pretraining(cells, arms)) if block]
    return Section("codes", "Codes and reconstructions", blocks) if blocks else None


def _table(cells: Sequence[RunRecord], arms: Sequence[str]) -> Table | None:
    by_arm = measured(cells, "codes", arms)
    if not by_arm:
        return None
    rows: list[list[Value]] = []
    for arm, by_seed in by_arm.items():
        finished: list[Mapping[str, Any]] = [cell.fitted for cell in done(cells, arm)]
        summaries = [{**found} for found in by_seed.values()]
        scales = [each["scale"] for each in finished if each.get("scale")]
        values = [_mean_of(summaries, name) for name in list(_COLUMNS)[:-1]]
        rows.append([arm, *values, mean(scales) if scales else _NONE])
    return Table(
        name="codes",
        caption=(
            "Reconstruction of data from one draw of their codes, sums over features, and sparsity "
            "of the codes' means: share above a tenth of the datum's largest, and Hoyer's measure, "
            "0 where all are of one size and 1 where one is not 0. Scale: that of a normal p(x|z) "
            "which gives validation data the highest log p(x). Means over seeds; none: the model "
            "has no such thing"
        ),
        columns=[
            TableColumn("arm", "arm"),
            *(TableColumn(name, "number", heading=text) for name, text in _COLUMNS.items()),
        ],
        rows=rows,
    )


def _mean_of(summaries: Sequence[Mapping[str, Any]], name: str) -> Value:
    values = [summary[name] for summary in summaries if name in summary]
    return mean(values) if values else _NONE


def _pretraining(cells: Sequence[RunRecord], arms: Sequence[str]) -> Table | None:
    rows: list[list[Value]] = []
    for arm in arms:
        phases: dict[str, list[RunRecord]] = {}
        for cell in done(cells, arm):
            for name in cell.phases:
                phases.setdefault(name, []).append(cell)
        for name, of in phases.items():
            histories = [cell.phases[name].records for cell in of]
            rows.append(
                [
                    arm,
                    name,
                    mean([len(records) for records in histories]),
                    mean([records[0].bound for records in histories]),
                    mean([records[-1].bound for records in histories]),
                    mean([sum(record.seconds for record in records) for records in histories]),
                ]
            )
    if not rows:
        return None
    return Table(
        name="pretraining",
        caption=(
            "Phases before the training as one: log p(of what is reconstructed|code) in nats per "
            "datum in the first and the last epoch, means over seeds"
        ),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("phase"),
            TableColumn("epochs", "number", numbers.tenths),
            TableColumn("first", "number", heading="first epoch"),
            TableColumn("last", "number", heading="last epoch"),
            TableColumn("seconds", "number", numbers.tenths),
        ],
        rows=rows,
    )
