"""Chains x data x temperatures per second of annealed importance sampling, plain and compiled.

The model is that of the other benchmarks (784-200-200-50 and back, tanh, Bernoulli), the data are
simulated from it. Timed is the weighted run alone, step sizes found beforehand: T - 1 Hamiltonian
transitions of each chain for each datum. A transition is L gradient evaluations of the decoder.
Plain and compiled runs, those of NumPyro in a process of its own and the decoder's matrix products,
forward and backward, take turns in a random order each round. NumPyro has no such estimator: its
runs are written by hand around its log-density, each one function that is jitted.

    python benchmarks/annealing.py               # JSON on stdout, a table on stderr
    python benchmarks/annealing.py --out FILE    # JSON in a file too
    python benchmarks/annealing.py --numpyro-python PYTHON    # one that has NumPyro
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from common import (
    Seconds,
    compiling,
    interleave,
    machine,
    make_vae,
    simulate,
    speedup,
    spread,
    synchronize,
    write,
)
from variants import Networks, NumPyro, decoder_products

from ppl_vae.capture import Captured
from ppl_vae.devices import resolve_device
from ppl_vae.evidence import AnnealedImportanceSampling, Streams
from ppl_vae.particles import ChunkSize, Programs, evaluation

CPU_ROWS = ((16, 4), (16, 16), (16, 64))
GPU_ROWS = ((16, 64), (16, 512), (16, 2048))


def measure(
    device: torch.device,
    ais: AnnealedImportanceSampling,
    num_data: int,
    rounds: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time one chunk of data; two runs of warming up are not counted."""
    vae = make_vae(device)
    x = simulate(vae, num_data, seed=0)
    programs, size = Programs(vae.model, vae.guide), ChunkSize.of_data(num_data)
    gradients = 1 + (ais.num_temperatures - 1) * ais.leapfrog_steps
    variants: dict[str, Callable[[], Any]] = {}
    pilots = {}
    with ExitStack() as stack, torch.no_grad():
        for name in ("plain", *(() if options.quick else ("compiled",))):
            look = stack.enter_context(evaluation(programs, x, size))
            start = time.perf_counter()
            with compiling(name == "compiled"):
                annealer = ais.prepare(look, x, Streams(0, 0, 0))
                synchronize(device)
                pilots[name] = round(time.perf_counter() - start, 3)
                # Its first transition finds whether the weighted run is compiled.
                annealer.forward()
            runs = list(annealer.path._runs.values())
            if [isinstance(run, Captured) for run in runs] != [name == "compiled"]:
                raise RuntimeError(f"{name}: the weighted run replays {runs}")
            variants[name] = annealer.forward
        rows = ais.num_chains * num_data
        floor = decoder_products(Networks(device, vae), rows, rows, backward=True)
        variants["floor"] = lambda: [floor() for _ in range(gradients)]
        elsewhere: dict[str, Callable[[], Seconds]] = {}
        numpyro = None
        if options.numpyro_python is not None and ais.start == "prior":
            numpyro = NumPyro(
                options.numpyro_python, Networks(device, vae), [x], ais.num_chains, options.threads
            )
            steps = float(annealer.tuning.steps.mean())
            settings = {"temperatures": ais.num_temperatures, "leapfrog": ais.leapfrog_steps}
            elsewhere["numpyro"] = lambda: numpyro("numpyro-annealing", step=steps, **settings)[0]
        times = interleave(variants, rounds, device, elsewhere)
    if numpyro is not None:
        numpyro.close()
    moved = ais.num_chains * num_data * (ais.num_temperatures - 1)
    best = times.get("compiled", times["plain"])
    return {
        "start": ais.start,
        "num_chains": ais.num_chains,
        "num_data": num_data,
        "num_temperatures": ais.num_temperatures,
        "leapfrog_steps": ais.leapfrog_steps,
        "numpyro": None if numpyro is None else numpyro.versions,
        "pilot_seconds": pilots,
        "variants": {
            name: {
                "chains_data_temperatures_per_second": spread([moved / s for s in each.wall], 1),
                "milliseconds_per_gradient": spread(each.wall, 1e3 / gradients),
                "cpu_milliseconds_per_gradient": spread(each.cpu, 1e3 / gradients),
                "compiled_is_faster_by": {
                    "wall": speedup(each.wall, best.wall),
                    "cpu": speedup(each.cpu, best.cpu),
                },
            }
            for name, each in times.items()
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = [
        f"{'start':6} {'chains':>7} {'data':>6} {'L':>3} {'':10} {'chains x data x temps / s':>26} "
        f"{'compiled faster by':>20} {'(CPU)':>20}"
    ]
    for row in results:
        for name, each in row["variants"].items():
            speed = each["chains_data_temperatures_per_second"]
            ratios = each["compiled_is_faster_by"].values()
            cells = (f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios)
            lines.append(
                f"{row['start']:6} {row['num_chains']:7} {row['num_data']:6} "
                f"{row['leapfrog_steps']:3} {name:10} {speed['median']:26,.0f} "
                + " ".join(f"{cell:>20}" for cell in cells)
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
    parser.add_argument("--numpyro-python", help="interpreter that has NumPyro; without it, none")
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
            device,
            AnnealedImportanceSampling(temperatures, chains, leapfrog, start),
            data,
            rounds,
            options,
        )
        for start in ("prior", "guide")
        for chains, data in sizes
    ]
    print(table(results), file=sys.stderr)
    write({"benchmark": "annealing", "machine": machine(device), "results": results}, options.out)


if __name__ == "__main__":
    main()
