"""Kill a study at random moments, go on, and compare its end with that of an undisturbed one.

Prints JSON: the number of kills, and whether all numbers are equal bit for bit.

    python benchmarks/kills.py --kills 20 --out benchmarks/results/kills-DEVICE.json
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

STUDY = """\
config: {data: digits, hidden: [50], latent: 10, validation_particles: 10}
factors: {objective: [elbo, "iwae:5"], prior: [normal, "mixture:5"]}
seeds: 2
budget: {epochs: 15}
evaluation: {methods: [{method: iwae, particles: 300}, {method: psis, particles: 300}]}
resources: {cpus: 1}
"""
_TIMES = ("seconds", "attempts")
_LONGEST = 4.0
"""Seconds into the study, at most, at which it is killed."""


def command(file: Path, folder: Path, engine: str) -> list[str]:
    """The study, carried out by a process of its own."""
    code = "from ppl_vae.cli import main; main()"
    return [sys.executable, "-c", code, "study", "run", str(file), "--out", str(folder),
            "--device", "cpu", "--engine", engine]  # fmt: skip


def disturbed(file: Path, folder: Path, most: int, engine: str, moments: list[float]) -> None:
    """Kill the process at random moments, at most so many times, until it ends by itself."""
    while True:
        _holder(folder).unlink(missing_ok=True)
        process = subprocess.Popen(
            command(file, folder, engine), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Starting takes seconds in which nothing is written.
        while process.poll() is None and not _holder(folder).exists():
            time.sleep(0.01)
        began, wait = time.monotonic(), random.uniform(0, _LONGEST)
        try:
            _, errors = process.communicate(timeout=wait if len(moments) < most else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            moments.append(round(time.monotonic() - began, 2))
            continue
        if process.returncode != 0:
            raise RuntimeError(f"the study failed: {errors.decode()}")
        return


def _holder(folder: Path) -> Path:
    """There from when the study begins; a killed process leaves it behind."""
    return folder / "study.lock.holder"


def equal(a: Path, b: Path) -> dict[str, bool]:
    """File to whether the two studies have the same numbers in it, bit for bit, times apart."""
    found = {}
    for name in ("results.parquet", "cells.parquet", "histories.parquet"):
        first, second = (pd.read_parquet(folder / name) for folder in (a, b))
        if "quantity" in first:
            first, second = (t[t["quantity"] != "seconds"] for t in (first, second))
        first, second = (t.drop(columns=list(_TIMES), errors="ignore") for t in (first, second))
        found[name] = first.reset_index(drop=True).equals(second.reset_index(drop=True))
    first, second = (json.loads((folder / "comparison.json").read_text()) for folder in (a, b))
    found["comparison.json"] = first == second
    return found


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", default="in-process", choices=["in-process", "ray"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        file = place / "study.yaml"
        file.write_text(STUDY)
        subprocess.run(
            command(file, place / "whole", "in-process"), check=True, capture_output=True
        )
        random.seed(arguments.seed)
        moments: list[float] = []
        rounds: list[dict[str, Any]] = []
        while len(moments) < arguments.kills:
            folder = place / f"killed{len(rounds)}"
            disturbed(file, folder, arguments.kills, arguments.engine, moments)
            cells = pd.read_parquet(folder / "cells.parquet")
            leftovers = [path for path in folder.rglob(".*") if path.is_file()]
            rounds.append(
                {
                    "attempts": int(cells["attempts"].sum()),
                    "cells": len(cells),
                    "temporary_files_left": len(leftovers),
                    "equal": equal(place / "whole", folder),
                }
            )
        result = {
            "kills": len(moments),
            "seconds_into_the_study": moments,
            "engine": arguments.engine,
            "studies": rounds,
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if not all(all(found["equal"].values()) for found in rounds):
        sys.exit("the disturbed study came to other numbers")


if __name__ == "__main__":
    main()
