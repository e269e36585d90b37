"""Chains x data x temperatures per second of annealed importance sampling.

The model is that of the other benchmarks (784-200-200-50 and back, tanh, Bernoulli), the data are
simulated from it. Timed is the weighted run alone, step sizes found beforehand: T - 1 Hamiltonian
transitions of each chain for each datum. A transition is L gradient evaluations of the decoder.

    python benchmarks/annealing.py               # JSON on stdout, a table on stderr
    python benchmarks/annealing.py --out FILE    # JSON in a file too
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, make_vae, simulate, spread, synchronize, write

from ppl_vae.devices import resolve_device
from ppl_vae.evidence import AnnealedImportanceSampling, Streams
from ppl_vae.evidence.annealing._pilot import Annealer
from ppl_vae.particles import Programs

CPU_ROWS = ((16, 4), (16, 16), (16, 64))
GPU_ROWS = ((16, 64), (16, 512), (16, 2048))


def seconds_of(annealer: Annealer, device: torch.device) -> float:
    """Of one weighted run."""
    synchronize(device)
    start = time.perf_counter()
    with torch.no_grad():
        annealer.forward()
    synchronize(device)
    return time.perf_counter() - start


def measure(
    device: torch.device, ais: AnnealedImportanceSampling, num_data: int, rounds: int
) -> dict[str, Any]:
    """Time one chunk of data; two runs of warming up are not counted."""
    vae = make_vae(device)
    x = simulate(vae, num_data, seed=0)
    start = time.perf_counter()
    with torch.no_grad():
        annealer = ais.prepare(Programs(vae.model, vae.guide), x, Streams(0, 0, 0))
    synchronize(device)
    pilot = time.perf_counter() - start
    seconds = [seconds_of(annealer, device) for _ in range(rounds + 2)][2:]
    moved = ais.num_chains * num_data * (ais.num_temperatures - 1)
    return {
        "start": ais.start,
        "num_chains": ais.num_chains,
        "num_data": num_data,
        "num_temperatures": ais.num_temperatures,
        "leapfrog_steps": ais.leapfrog_steps,
        "chains_data_temperatures_per_second": spread([moved / s for s in seconds], 1),
        "milliseconds_per_gradient": spread(
            [s / ((ais.num_temperatures - 1) * ais.leapfrog_steps) for s in seconds], 1e3
        ),
        "pilot_seconds": round(pilot, 3),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = [f"{'start':6} {'chains':>7} {'data':>6} {'L':>3} {'chains x data x temps / s':>26}"]
    for row in results:
        speed = row["chains_data_temperatures_per_second"]
        lines.append(
            f"{row['start']:6} {row['num_chains']:7} {row['num_data']:6} {row['leapfrog_steps']:3} "
            f"{speed['median']:10,.0f} [{speed['lower_quartile']:,.0f}, "
            f"{speed['upper_quartile']:,.0f}]"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each setting")
    parser.add_argument("--temperatures", type=int, default=20, help="of a run")
    parser.add_argument("--leapfrog", type=int, default=5, help="steps of a transition")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    sizes = CPU_ROWS if device.type == "cpu" else GPU_ROWS
    rounds, temperatures, leapfrog = options.rounds, options.temperatures, options.leapfrog
    if options.quick:
        sizes, rounds, temperatures, leapfrog = ((2, 2),), 2, 3, 1
    results = [
        measure(
            device, AnnealedImportanceSampling(temperatures, chains, leapfrog, start), data, rounds
        )
        for start in ("prior", "guide")
        for chains, data in sizes
    ]
    print(table(results), file=sys.stderr)
    write({"benchmark": "annealing", "machine": machine(device), "results": results}, options.out)


if __name__ == "__main__":
    main()
