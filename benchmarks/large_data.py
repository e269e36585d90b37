"""What data larger than memory cost before the first update: seconds, and memory that is held.

A file of random numbers in single precision is made in a temporary folder; each measurement has a
process of its own. Memory is what the kernel calls Anonymous, at most, looked at fifty times a
second: pages of the file that it keeps for later are not counted, as it drops them when others
need room. Times are from the end of the imports to the first update.

    python benchmarks/large_data.py               # JSON on stdout
    python benchmarks/large_data.py --rows 100000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import ppl_vae as pv

FEATURES = 784
UPDATES = 20
MODES = ("run", "mapped", "held")
_ROWS_AT_ONCE = 10_000


def make(path: Path, rows: int) -> None:
    """Write a file of uniform numbers."""
    draws = np.random.default_rng(0)
    values = np.lib.format.open_memmap(path, "w+", "f4", (rows, FEATURES))
    for part in np.array_split(values, max(1, rows // _ROWS_AT_ONCE)):
        part[:] = draws.random(part.shape, dtype="f4")
    values.flush()


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/smaps_rollup has no line Anonymous: this needs Linux.")


def measure(mode: str, path: Path) -> dict[str, float]:
    """Train for a few updates; seconds and memory up to the first and to the last."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], anonymous_bytes())

    settings: dict[str, Any] = {"updates": UPDATES}
    # Imported before the clock starts, as a longer run would not notice it.
    import torch._dynamo  # noqa: F401

    from ppl_vae.runs import RunConfig, train_run

    vae = pv.VAE(
        pv.StandardNormalPrior(10),
        pv.NormalDecoder(pv.MLP(10, [50], FEATURES)),
        pv.DiagonalNormalEncoder(pv.MLP(FEATURES, [50], 20)),
    )
    threading.Thread(target=look, daemon=True).start()
    wall, cpu, first = time.perf_counter(), time.process_time(), dict[str, float]()

    def note(*_: Any) -> None:
        first.setdefault("seconds", time.perf_counter() - wall)
        first.setdefault("cpu_seconds", time.process_time() - cpu)

    if mode == "run":
        config = RunConfig.of(
            data=str(path), likelihood="normal", latent=10, hidden=(50,), **settings
        )
        with tempfile.TemporaryDirectory() as folder:
            train_run(config, Path(folder, "run"), progress=False)
        # Its first update is not seen from outside: all of them, and the validation, are in it.
        note()
    else:
        rows = np.load(path, mmap_mode="r" if mode == "mapped" else None)
        pv.fit(
            vae.model, vae.guide, pv.ELBO(), rows, on_start=note, batch_size=100,
            progress=False, **settings,
        )  # fmt: skip
    done.set()
    return {**first, "total_seconds": time.perf_counter() - wall, "anonymous_mb": most[0] / 1e6}


def main() -> None:
    """Measure all, or one in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--mode", choices=MODES, help="measure one, on the file named by --file")
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    if given.mode:
        print(json.dumps(measure(given.mode, given.file)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        make(path, given.rows)
        for mode in MODES:
            command = [sys.executable, __file__, "--mode", mode, "--file", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[mode] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
