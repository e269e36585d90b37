"""Seconds and memory that the page of a study takes, against the number of its cells.

Prints JSON. The cells are simulated; the page is made of them in a process of its own, and memory
is the peak above what that process held when the study was opened.

    python benchmarks/report.py --cells 250 500 1000 --out benchmarks/results/report-DEVICE.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, write

from ppl_vae.report._study import render
from ppl_vae.studies import open_study

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))
from simulated import OBJECTIVES, write_study

_SEEDS = 5
_NUM_DATA, _EPOCHS = 1000, 100


def simulate(folder: Path, num_cells: int) -> None:
    """A study of so many cells, objectives by latent dimensions by seeds."""
    levels = max(1, num_cells // (_SEEDS * len(OBJECTIVES)))
    factors = {
        "objective": list(OBJECTIVES),
        "latent": [number + 2 for number in range(levels)],
    }
    write_study(
        folder, factors=factors, seeds=_SEEDS, num_data=_NUM_DATA, epochs=_EPOCHS, effect=0.01
    )


def peak_megabytes() -> float:
    """Of this process, since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path) -> dict[str, Any]:
    """Make the page of a study."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    results = open_study(folder)
    opened, held = time.perf_counter(), peak_megabytes()
    comparison = results.comparison()
    compared = time.perf_counter()
    page = render(results, comparison)
    end = time.perf_counter()
    return {
        "cells": len(results.cells),
        "arms": len(results.study.arms),
        "seconds": {
            "open": round(opened - begin, 3),
            "comparison": round(compared - opened, 3),
            "page": round(end - compared, 3),
            "all": round(end - begin, 3),
        },
        "extra_peak_megabytes": round(peak_megabytes() - held, 1),
        "page_megabytes": round(len(page.encode()) / 2**20, 2),
    }


def measure_apart(num_cells: int) -> dict[str, Any]:
    """Make the page in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), num_cells)
        command = [sys.executable, __file__, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--folder", type=Path, help="the page of this study only")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.folder is not None:
        write(measure(chosen.folder), chosen.out)
        return
    torch.set_num_threads(1)
    data = {"num_data": _NUM_DATA, "epochs": _EPOCHS, "seeds": _SEEDS}
    results = [measure_apart(count) for count in chosen.cells]
    write({"machine": machine(torch.device("cpu")), **data, "results": results}, chosen.out)


if __name__ == "__main__":
    main()
