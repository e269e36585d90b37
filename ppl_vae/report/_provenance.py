"""Sections on the plan, the state of each cell, and how to reproduce the study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppl_vae.comparison import Comparison
from ppl_vae.names import plural
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import Block, Facts, Section, Table, TableColumn, Value, Verbatim
from ppl_vae.runs import RunRecord
from ppl_vae.settings_file import write_yaml_text

if TYPE_CHECKING:
    from ppl_vae.studies import Study, StudyResults

_TIMES = f" {numbers.TIMES} "
_HASH = 12
"""Number of characters of a hash that tell files apart."""


def design(results: "StudyResults", comparison: Comparison | None) -> Section:
    """Make the section of data, arms, factors, seeds, budget and evaluation."""
    study = results.study
    states = [cell.state for cell in results.cells]
    finished = f"{states.count('done'):,} of {len(states):,} done"
    items = [
        ("Data", _data(results.manifest.get("data", {}), study)),
        ("Arms", f"{plural(len(study.arms), 'arm')}: {_product(study)}"),
        *((f"Levels of {name}", ", ".join(levels)) for name, levels in study.levels.items()),
        ("Seeds", f"{len(study.seeds)} per arm: {', '.join(map(str, study.seeds))}"),
        ("Cells", f"one training run for each arm and seed; {finished}"),
        ("Training", _training(study)),
        ("Evaluation", _evaluation(study, comparison)),
        ("Pairing", "all arms of one seed share the order of the data and the evaluation's draws, "
                    "so that differences are paired by seed and datum"),
    ]  # fmt: skip
    if study.measures:
        items.append(("Also measured", ", ".join(study.measures).replace("_", " ")))
    return Section("design", "Design", [Facts(items)])


def _data(data: Mapping[str, Any], study: "Study") -> str:
    text = str(data.get("name", study.config.dataset.data))
    sizes = [
        f"{numbers.count(data[f'num_{split}'])} {name}"
        for split, name in (("train", "training"), ("valid", "validation"), ("test", "test"))
        if f"num_{split}" in data
    ]
    shape = data.get("image_shape")
    if shape:
        sizes.append(f"images of {_TIMES.join(map(str, shape))}")
    elif data.get("features"):
        sizes.append(plural(int(data["features"]), "feature"))
    return f"{text} ({', '.join(sizes)})" if sizes else text


def _product(study: "Study") -> str:
    sizes = [plural(len(levels), "level") for levels in study.levels.values()]
    crossed = [f"{name} ({size})" for name, size in zip(study.levels, sizes, strict=True)]
    return _TIMES.join(crossed) or "one configuration"


def _training(study: "Study") -> str:
    training = study.config.training
    budget = training.budget
    length = f"{budget.limit:,} {budget.kind.replace('_', ' ')}"
    if budget.epochs is not None:
        length = plural(budget.epochs, "epoch")
    ends = ""
    if training.patience is not None:
        length = f"at most {length}"
        ends = f" (after {plural(training.patience, 'epoch')} without a better validation it ends)"
    varied = f"; {', '.join(study.factors)} as the arm says" if study.factors else ""
    ruled = [arm for arm, planned in study.arms.items() if not planned.config.model.kind.ascends]
    if ruled:
        varied += f"; {', '.join(ruled)} by rules of their own, for so many epochs at most"
    return (
        f"{length} per run{ends}, batches of {training.batch_size}, learning rate "
        f"{training.learning_rate:g} ({training.schedule}){varied}"
    )


def _evaluation(study: "Study", comparison: Comparison | None) -> str:
    methods = []
    for method in study.methods:
        options = ", ".join(f"{name} {value}" for name, value in method.options.items())
        methods.append(f"{method.label} ({options})" if options else method.label)
    text = f"log p(x) of the {study.split} data by {', '.join(methods)}"
    if comparison is not None:
        text += f"; N = {comparison.num_data:,}, {'; '.join(comparison.methods)}"
    return text


def cells_table(cells: Sequence[RunRecord], values: Mapping[tuple[str, int], float]) -> Section:
    """Make the table of all planned cells: state, cost and mean log p(x).

    Args:
        cells: All cells.
        values: Mean log p(x) by arm and seed, of finished cells.
    """
    rows: list[list[Value]] = [
        [
            cell.arm, cell.seed, cell.state, values.get((cell.arm, cell.seed)),
            # A cell that nobody began has no cost: empty cells of the table, and no zeros.
            # Of a copy, so that the curves that it reads are let go again.
            *((cell.epochs, cell.kept_epoch, cell.evaluations, replace(cell).history.compiled,
               cell.seconds, cell.attempts) if cell.attempts else [None] * 6),
            cell.reason or "",
        ]
        for cell in cells
    ]  # fmt: skip
    columns = [
        TableColumn("arm", "arm"),
        TableColumn("seed", "number", numbers.count),
        TableColumn("state"),
        TableColumn("log_prob", "number", heading="log p(x)"),
        TableColumn("epochs", "number", numbers.count),
        TableColumn("kept_epoch", "number", numbers.count, heading="epoch kept"),
        TableColumn("evaluations", "number", numbers.count, heading="decoder evaluations"),
        TableColumn("compiled", "number", numbers.tenths, heading="share compiled"),
        TableColumn("seconds", "number", numbers.tenths),
        TableColumn("attempts", "number", numbers.count),
    ]
    # The last column, so that rows can be cut to the columns there are.
    if any(cell.reason for cell in cells):
        columns.append(TableColumn("reason", "prose"))
    table = Table(
        name="cells",
        caption="Cells: one training run each; log p(x) is its mean over the data, nats per datum",
        columns=columns,
        rows=[row[: len(columns)] for row in rows],
    )
    return Section("cells", "Cells", [table])


def reproduction(results: "StudyResults") -> Section:
    """Make the section of command, plan, all settings and versions."""
    manifest, study = results.manifest, results.study
    varied = {"seed", *study.factors}
    if "model" in study.factors and study.config.is_automatic:
        # Each model has its own.
        varied.add("objective")
    shared = {name: value for name, value in study.config.values().items() if name not in varied}
    settings = write_yaml_text(_plain(shared))
    blocks: list[Block] = [
        Verbatim("Command", str(manifest.get("command") or "ppl-vae study run FILE")),
        *([Verbatim("Study file", study.text.strip())] if study.text else []),
        Verbatim("All settings that the arms share", settings.strip()),
        Facts(_versions(manifest)),
    ]
    return Section("reproduction", "To do it again", blocks)


def _versions(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, git = manifest.get("data", {}), manifest.get("git")
    threads = manifest.get("threads")
    items = [
        ("Created", manifest.get("created")),
        ("Engine", manifest.get("engine")),
        ("Platform", manifest.get("platform")),
        ("Device", manifest.get("device")),
        ("Threads", None if threads is None else str(threads)),
        ("Git revision", None if git is None else _revision(git)),
        ("Hash of the data", str(data.get("sha256", ""))[:_HASH]),
        *manifest.get("versions", {}).items(),
    ]
    return [(name, str(text)) for name, text in items if text]


def _revision(git: Mapping[str, Any]) -> str:
    changed = ", with changes that are not committed" if git.get("dirty") else ""
    return f"{str(git.get('revision'))[:_HASH]}{changed}"


def _plain(value: Any) -> Any:
    """Convert tuples to lists, which YAML has."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
