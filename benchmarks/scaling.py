"""Time and memory of a training step, plain and compiled, over batch, particles and data.

The model is that of the other benchmarks. A step is timed over batch sizes and numbers of particles
(its cost does not depend on the number of data), an epoch of ``fit`` over numbers of data. Each
number comes from a process of its own, as memory that a process has held once stays with it. Peaks
of steps are above what it holds after the first, which compiles; those of training above what it
holds with model and data in place, what compiling takes included.

    python benchmarks/scaling.py               # JSON on stdout, a table on stderr
    python benchmarks/scaling.py --out FILE    # JSON in a file too
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import torch
from common import FEATURES, machine, make_vae, measured, spread, write
from memory import held_bytes, peak_bytes

from ppl_vae import fit
from ppl_vae.devices import resolve_device
from ppl_vae.objectives import IWAE
from ppl_vae.particles import Programs
from ppl_vae.training import CompiledStep, TorchStep, find_parameters

STEPS = {"plain": TorchStep, "compiled": CompiledStep}
NAMES = {"plain": "torch", "compiled": "compiled"}
SIZES = ((16, 1), (128, 1), (1024, 1), (8192, 1), (100, 5), (100, 50), (100, 200), (100, 500))
NUM_DATA = (1_000, 10_000, 60_000)


def of_steps(
    variant: str, batch_size: int, num_particles: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Time and peak memory of one update, and what it took to compile it."""
    vae = make_vae(device)
    x = torch.bernoulli(torch.full((batch_size, FEATURES), 0.3, device=device))
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x[:2]))
    step = STEPS[variant](IWAE(num_particles), vae.model, vae.guide, parameters)
    with pyro.validation_enabled(False):
        before = held_bytes(device)
        first = measured(lambda: step(x, 1e-3), device)
        recorded = peak_bytes(device)
        held = held_bytes(device)
        times = [measured(lambda: step(x, 1e-3), device) for _ in range(repeats)]
    return {
        "first_seconds": round(first.wall, 3),
        "milliseconds": spread([each.wall for each in times], 1e3),
        "cpu_milliseconds": spread([each.cpu for each in times], 1e3),
        "first_peak_megabytes": round((recorded - before) / 2**20, 1),
        "peak_megabytes": round((peak_bytes(device) - held) / 2**20, 1),
    }


def of_epochs(variant: str, num_data: int, epochs: int, device: torch.device) -> dict[str, Any]:
    """Time of an epoch and peak memory of training, batches of 128 and one particle."""
    vae = make_vae(device)
    x = torch.bernoulli(torch.full((num_data, FEATURES), 0.3))
    held = held_bytes(device)
    start = time.perf_counter()
    result = fit(
        vae.model, vae.guide, IWAE(1), x, epochs=epochs, batch_size=128, step=NAMES[variant],
        device=device.type, progress=False,
    )  # fmt: skip
    seconds = [record.seconds for record in result.history.records]
    return {
        "first_seconds": round(seconds[0], 3),
        "milliseconds": spread(seconds[1:], 1e3),
        "total_seconds": round(time.perf_counter() - start, 3),
        "peak_megabytes": round((peak_bytes(device) - held) / 2**20, 1),
    }


def in_a_process(case: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a case, from a process of its own."""
    command = [sys.executable, __file__, "--device", options.device, "--case", json.dumps(case)]
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(steps: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = [f"{'step':9} {'batch':>6} {'K':>4} {'ms':>9} {'CPU ms':>9} {'first s':>8} {'MB':>8}"]
    lines += [
        f"{row['variant']:9} {row['batch_size']:6} {row['num_particles']:4} "
        f"{row['milliseconds']['median']:9.2f} {row['cpu_milliseconds']['median']:9.2f} "
        f"{row['first_seconds']:8.2f} {row['peak_megabytes']:8.1f}"
        for row in steps
    ]
    lines.append(f"{'epoch':9} {'data':>11} {'ms':>9} {'':9} {'first s':>8} {'MB':>8}")
    lines += [
        f"{row['variant']:9} {row['num_data']:11} {row['milliseconds']['median']:9.2f} {'':9} "
        f"{row['first_seconds']:8.2f} {row['peak_megabytes']:8.1f}"
        for row in epochs
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--repeats", type=int, default=20, help="updates that are timed")
    parser.add_argument("--epochs", type=int, default=4, help="of which the first is apart")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument(
        "--variants", nargs="+", choices=STEPS, help="both if not given; with --quick plain alone"
    )
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    if options.case is not None:
        kind, *arguments = options.case
        measure = of_steps if kind == "steps" else of_epochs
        print(json.dumps(measure(*arguments, device)))
        return
    variants = options.variants or (["plain"] if options.quick else list(STEPS))
    sizes, counts, repeats, epochs = SIZES, NUM_DATA, options.repeats, options.epochs
    if options.quick:
        sizes, counts, repeats, epochs = ((8, 1),), (200,), 2, 2
    steps = [
        {"variant": v, "batch_size": b, "num_particles": k}
        | in_a_process(["steps", v, b, k, repeats], options)
        for b, k in sizes
        for v in variants
    ]
    whole = [
        {"variant": v, "num_data": n} | in_a_process(["epochs", v, n, epochs], options)
        for n in counts
        for v in variants
    ]
    print(table(steps, whole), file=sys.stderr)
    result = {"benchmark": "scaling", "machine": machine(device), "steps": steps, "epochs": whole}
    write(result, options.out)


if __name__ == "__main__":
    main()
