"""The same arms by each way of estimating log p(x)."""

from ppl_vae.comparison import Comparison
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._arms import done, mean
from ppl_vae.report._blocks import Section, Table, TableColumn, Value
from ppl_vae.studies import StudyResults


def methods(results: StudyResults, comparison: Comparison) -> Section | None:
    """Means of each arm by each method; None where there is one method only."""
    labels = [method.label for method in results.study.methods]
    if len(labels) < 2:
        return None
    rows = [
        row for arm in comparison.ranking for label in labels for row in _row(results, arm, label)
    ]
    table = Table(
        name="methods",
        caption=(
            "Mean log p(x) by each method, over the seeds that it was used on, nats per datum; "
            f"arms are compared by {labels[0]}"
        ),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("method"),
            TableColumn("log_prob", "number", heading="log p(x)"),
            TableColumn("monte_carlo_error", "error", numbers.error, heading="± Monte Carlo error"),
            TableColumn("direction", heading="in expectation"),
            TableColumn(
                "evaluations", "number", numbers.count, heading="decoder evaluations a datum"
            ),
            TableColumn("seeds", "number", numbers.count),
        ],
        rows=rows,
    )
    return Section("methods", "Methods of evaluation", [table])


def _row(results: StudyResults, arm: str, label: str) -> list[list[Value]]:
    """One row, or none where no cell has such an estimate. Holds one cell's values at a time."""
    values, variances, costs, direction = [], [], [], ""
    for cell in done(results.cells, arm):
        evidence = cell.evidence(label)
        if evidence is not None:
            values.append(evidence.mean)
            variances.append(evidence.monte_carlo_error**2)
            costs.append(evidence.evaluations_per_datum)
            direction = evidence.direction
    if not values:
        return []
    error = mean(variances) ** 0.5 / len(values) ** 0.5
    return [[arm, label, mean(values), error, direction, mean(costs), len(values)]]
