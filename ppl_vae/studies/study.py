"""Arms by seeds: train each, evaluate each on the same data, compare, draw."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from ppl_vae.arviz import comparison_to_datatree
from ppl_vae.comparison.comparison import Comparison, compare
from ppl_vae.evidence import Evidence, ImportanceSampling
from ppl_vae.files import write_atomically
from ppl_vae.netcdf import save_netcdf
from ppl_vae.runs.config import RunConfig
from ppl_vae.runs.run import Run, Split, evaluate_run, train_run
from ppl_vae.studies.arms import folder_name
from ppl_vae.training import History

STILL_IMPROVING = 0.95
"""A best epoch after this fraction of all is taken as a sign that training was cut short."""


@final
@dataclass(frozen=True)
class StudyResult:
    """What a comparison of arms over seeds came to.

    Attributes:
        comparison: Means, differences and their errors.
        notes: What a reader should know before believing them, one sentence each.
        histories: Arm to its learning curves, one a seed.
        runs: Arm to its trained runs, one a seed.
    """

    comparison: Comparison
    notes: list[str]
    histories: dict[str, list[History]]
    runs: dict[str, list[Run]]


def run_study(
    arms: Mapping[str, RunConfig],
    num_seeds: int,
    folder: Path,
    *,
    estimator: ImportanceSampling,
    split: Split = "test",
    limit: int | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> StudyResult:
    """Train and evaluate every (arm, seed), going on from what ``folder`` holds already.

    Seeds are those of the arms' configurations and the next ones. All arms of one seed share the
    streams of random numbers: the data order, the evaluation's draws, and the initial parameters
    where they have the same, so that differences are paired.

    Args:
        arms: Label to configuration, as :func:`~ppl_vae.studies.build_arms` makes them.
        num_seeds: Training runs of each.
        folder: Of the runs and the results.
        estimator: Of log p(x).
        split: The data that log p(x) is estimated on.
        limit: Only so many of them.
        data_root: Folder of the data sets.
        device: Where to compute.
        report: Is told a line when a run is done.
        progress: Show progress bars.

    Raises:
        ValueError: If there are no seeds or no arms, or a setting is wrong.
    """
    if num_seeds < 1:
        raise ValueError(f"a comparison needs 1 seed or more, got {num_seeds}.")
    if not arms:
        raise ValueError("a comparison needs an arm or more.")
    evidence: dict[str, list[Evidence]] = {arm: [] for arm in arms}
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    first = next(iter(arms.values()))
    seeds = range(first.seed, first.seed + num_seeds)
    for seed in seeds:
        for arm, config in arms.items():
            run, fitted = train_run(
                replace(config, seed=seed),
                folder / folder_name(arm, seed),
                data_root=data_root,
                device=device,
                progress=progress,
            )
            result = evaluate_run(
                run, estimator=estimator, split=split, limit=limit, seed=seed,
                progress=progress,
            )  # fmt: skip
            runs[arm].append(run)
            evidence[arm].append(result)
            report(
                f"{arm} seed {seed}: log p(x) = {result.mean:.3f} nats, "
                f"{len(fitted.history)} epochs, kept epoch {fitted.kept_epoch}"
            )
    comparison = compare(evidence)
    notes = _notes(comparison, runs, first.epochs)
    summary = {**comparison.summary(), "notes": notes}
    write_atomically(folder / "comparison.json", json.dumps(summary, indent=2) + "\n")
    save_netcdf(comparison_to_datatree(evidence, seeds=seeds), folder / "comparison.nc")
    histories = {arm: [run.history for run in cells] for arm, cells in runs.items()}
    return StudyResult(comparison, notes, histories, runs)


def _notes(comparison: Comparison, runs: dict[str, list[Run]], epochs: int) -> list[str]:
    """Arms that were still getting better when training ended, and untrustworthy estimates."""
    notes = [f"{arm}: {text}." for arm, text in comparison.warnings.items()]
    rising = []
    for arm, cells in runs.items():
        last = [run for run in cells if (run.history.best_epoch or 0) > STILL_IMPROVING * epochs]
        if last:
            rising.append(f"{arm} ({len(last)} of {len(cells)} runs)")
    if rising:
        notes.append(
            f"still rising at the last epoch was the validation bound of {', '.join(rising)}: with "
            "more --epochs the comparison may come out otherwise."
        )
    return notes
