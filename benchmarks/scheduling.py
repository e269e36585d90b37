"""What it costs to have a cell run: milliseconds per cell, and memory of the process that asks.

The cells do nothing. ``bare`` are tasks of an engine alone; ``study`` are whole studies, in which
each cell has a folder, a lock, a log and a record of what became of it, and tables are made in the
end. Each measurement has a process of its own. Counted is the time from the first outcome to the
last, so that neither imports nor the start of a cluster or its workers is in it.

    python benchmarks/scheduling.py               # JSON on stdout, a table on stderr
    python benchmarks/scheduling.py --out FILE    # JSON in a file too
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import machine, write
from evidence import held_bytes

from ppl_vae.engines import Engine, InProcess, Outcome, RayEngine, Task
from ppl_vae.studies import _cell as cell
from ppl_vae.studies import read_study, run_study

CPU = torch.device("cpu")
ENGINES = ("in-process", "ray")
KINDS = ("bare", "study")
CELLS = (100, 1_000)
STUDY = """
config: {data: digits, epochs: 1}
factors: {objective: [elbo, "iwae:5", stl, "dreg:5", "vimco:5"]}
seeds: SEEDS
measures: []
"""


class Timed:
    """An engine that notes when outcomes come, and the memory of this process then."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.times: list[float] = []
        self.megabytes: list[float] = []

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Run the tasks."""
        for outcome in self.engine.run(tasks):
            if outcome.error is not None:
                raise RuntimeError(outcome.traceback)
            self.times.append(time.perf_counter())
            self.megabytes.append(held_bytes(CPU) / 2**20)
            yield outcome


def nothing(number: int) -> int:
    """What a bare task does."""
    return number


def empty_cell(plan: Any, study: Path, place: Any) -> Any:
    """A cell of a study with everything around it, and nothing in it."""
    cell._carry_out = lambda plan, place, attempt: attempt.done()
    return cell.run_cell(plan, study, place)


def run_bare(engine: Engine, cells: int) -> None:
    """Tasks and nothing else."""
    for _ in engine.run(Task(str(n), nothing, (n,)) for n in range(cells)):
        pass


def run_whole_study(engine: Engine, cells: int) -> None:
    """Five arms by as many seeds as make so many cells."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(STUDY.replace("SEEDS", str(cells // 5)), encoding="utf-8")
        run_study(read_study(file), Path(folder) / "study", engine=engine, work=empty_cell)


def measure(engine: str, kind: str, cells: int) -> dict[str, Any]:
    """One measurement, in this process."""
    timed = Timed(InProcess(1) if engine == "in-process" else RayEngine())
    begun = time.perf_counter()
    {"bare": run_bare, "study": run_whole_study}[kind](timed, cells)
    ended = time.perf_counter()
    spent = timed.times[-1] - timed.times[0]
    return {
        "engine": engine,
        "kind": kind,
        "cells": cells,
        "milliseconds_per_cell": round(1e3 * spent / (cells - 1), 3),
        "seconds_to_the_first": round(timed.times[0] - begun, 2),
        "seconds_after_the_last": round(ended - timed.times[-1], 2),
        "megabytes_at_the_first": round(timed.megabytes[0], 1),
        "megabytes_added_at_most": round(max(timed.megabytes) - timed.megabytes[0], 1),
    }


def measure_apart(engine: str, kind: str, cells: int) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    one = [sys.executable, __file__, "--one", engine, kind, str(cells)]
    done = subprocess.run(one, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    head = f"{'engine':10} {'kind':6} {'cells':>6} {'ms per cell':>12} {'MB':>8} {'added MB':>9}"
    rows = [
        f"{row['engine']:10} {row['kind']:6} {row['cells']:6} "
        f"{row['milliseconds_per_cell']:12.2f} {row['megabytes_at_the_first']:8.1f} "
        f"{row['megabytes_added_at_most']:9.1f}"
        for row in results
    ]
    return "\n".join([head, *rows])


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        engine, kind, cells = options.one
        print(json.dumps(measure(engine, kind, int(cells))))
        return
    engines = ("in-process",) if options.quick else options.engines
    results = [
        measure_apart(engine, kind, cells)
        for engine in engines
        for kind in options.kinds
        for cells in ((10,) if options.quick else CELLS)
    ]
    print(table(results), file=sys.stderr)
    write({"benchmark": "scheduling", "machine": machine(CPU), "results": results}, options.out)


if __name__ == "__main__":
    main()
