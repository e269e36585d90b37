"""Time per training step: Pyro's SVI, this package, torch by hand, NumPyro, products alone.

All variants train the same network (784-200-200-50 and back, tanh, Bernoulli) from the same weights
on the same binary data with Adam. They take turns, in a random order each round, NumPyro in a
process of its own; times are medians over rounds, ratios medians of within-round ratios, both by
the clock and in seconds of the processor, which other programs on the machine disturb less.

    python benchmarks/step.py                # JSON on stdout, a table on stderr
    python benchmarks/step.py --out FILE     # JSON in a file too
    python benchmarks/step.py --numpyro-python PYTHON    # one that has NumPyro
"""

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from common import FEATURES, Seconds, Times, interleave, machine, speedup, spread, write
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor
from variants import Networks, NumPyro, Update, ours, plain_torch, products_and_adam, pyro_svi

from ppl_vae.devices import resolve_device
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.training import CompiledStep, SVIStep, TorchStep

PLAIN = (
    "pyro-example", "pyro-tuned", "pyro-renyi", "ours-svi", "ours-torch",
    "plain-torch", "plain-torch-fused", "floor",
)  # fmt: skip
COMPILED = ("ours-compiled", "ours-compiled-bf16", "plain-torch-compiled")
NUMPYRO = ("numpyro-jit", "numpyro-scan")
RATIOS = (
    ("pyro-example", "ours-compiled"),
    ("pyro-tuned", "ours-compiled"),
    ("ours-torch", "ours-compiled"),
    ("plain-torch-compiled", "ours-compiled"),
    ("ours-compiled", "numpyro-jit"),
    ("ours-compiled", "numpyro-scan"),
    ("ours-compiled", "floor"),
    ("ours-compiled-bf16", "numpyro-jit"),
    ("ours-compiled-bf16", "numpyro-scan"),
    ("pyro-example", "ours-torch"),
)
BASELINE = "pyro-example"


def makers_of(
    x: Tensor, num_particles: int, names: Sequence[str]
) -> dict[str, Callable[[], Update]]:
    """Name to what makes a training step; Pyro's analogue of IWAE if there are particles."""
    many: dict[str, Any] = {
        "num_particles": num_particles,
        "vectorize_particles": num_particles > 1,
        "max_plate_nesting": 1,
    }
    objective = ELBO() if num_particles == 1 else IWAE(num_particles)

    def plain(*, fused: bool | None, compiled: bool = False) -> Update:
        return plain_torch(Networks(x.device), num_particles, fused=fused, compiled=compiled)

    half = partial(CompiledStep, precision="bf16")

    def svi(loss: Any, *, tuned: bool = False) -> Update:
        return pyro_svi(Networks(x.device), loss, tuned=tuned)

    makers: dict[str, Callable[[], Update]] = {
        "pyro-example": lambda: svi(Trace_ELBO(**many)),
        "pyro-tuned": lambda: svi(Trace_ELBO(**many), tuned=True),
        "ours-svi": lambda: ours(SVIStep, objective, x),
        "ours-torch": lambda: ours(TorchStep, objective, x),
        "ours-compiled": lambda: ours(CompiledStep, objective, x),
        "ours-compiled-bf16": lambda: ours(half, objective, x),
        "plain-torch": lambda: plain(fused=None),
        "plain-torch-fused": lambda: plain(fused=True),
        "plain-torch-compiled": lambda: plain(fused=True, compiled=True),
        "floor": lambda: products_and_adam(Networks(x.device), x, num_particles),
    }
    if num_particles > 1:
        makers["pyro-renyi"] = lambda: svi(RenyiELBO(alpha=0, **many))
    return {name: make for name, make in makers.items() if name in names}


def started(
    makers: dict[str, Callable[[], Update]], x: Tensor
) -> tuple[dict[str, Update], dict[str, float], dict[str, str]]:
    """Training steps after a first one; its losses, by one seed; why others do not run here."""
    variants: dict[str, Update] = {}
    first_loss, failed = {}, {}
    for name, make in makers.items():
        torch.manual_seed(1)
        try:
            update = make()
            loss = update(x)
        except Exception as error:
            # Such as of a compiler that is not there: the others can be timed all the same.
            failed[name] = f"{type(error).__name__}: {error}".split("\n")[0]
            print(f"{name} does not run here: {failed[name]}", file=sys.stderr)
            continue
        variants[name] = update
        # The floor computes none; this package's steps give batch sums of the bound and its terms.
        if loss is not None:
            sums = torch.is_tensor(loss) and loss.ndim
            first_loss[name] = round(float(-loss[0] / len(x) if sums else loss), 3)
    return variants, first_loss, failed


def measure(
    device: torch.device,
    batch_size: int,
    num_particles: int,
    rounds: int,
    steps: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time every variant at one batch size and number of particles."""
    torch.manual_seed(0)
    means = torch.rand(FEATURES, device=device) ** 3
    batches = [torch.bernoulli(means.expand(batch_size, -1)) for _ in range(8)]
    makers = makers_of(batches[0], num_particles, options.variants)
    variants, first_loss, failed = started(makers, batches[0])

    def block(update: Update) -> Callable[[], None]:
        feed = itertools.cycle(batches)

        def run() -> None:
            for _ in range(steps):
                update(next(feed))

        return run

    elsewhere: dict[str, Callable[[], Seconds]] = {}
    numpyro = start_numpyro(options, batches, num_particles)
    if numpyro is not None:
        for name in NUMPYRO:
            if name in options.variants:
                first_loss[name] = round(numpyro(name, 1)[1], 3)
                elsewhere[name] = lambda name=name: numpyro(name, steps)[0]
    blocks = {name: block(update) for name, update in variants.items()}
    times = interleave(blocks, rounds, device, elsewhere)
    if numpyro is not None:
        numpyro.close()
    return {
        "batch_size": batch_size,
        "num_particles": num_particles,
        "rounds": rounds,
        "steps_per_round": steps,
        "failed": failed,
        "numpyro": None if numpyro is None else numpyro.versions,
        "variants": {
            name: {
                "microseconds_per_step": spread(each.wall, 1e6 / steps),
                "cpu_microseconds_per_step": spread(each.cpu, 1e6 / steps),
                "first_loss_nats_per_datum": None
                if name == "floor"
                else round(first_loss[name], 3),
            }
            for name, each in times.items()
        },
        "ratios": ratios(times),
    }


def start_numpyro(
    options: argparse.Namespace, batches: list[Tensor], num_particles: int
) -> NumPyro | None:
    """The process of NumPyro; None if it is not wanted, or the one that is there does not fit."""
    if not set(NUMPYRO).intersection(options.variants):
        return None
    python = options.numpyro_python or sys.executable
    try:
        networks = Networks(batches[0].device)
        return NumPyro(python, networks, batches, num_particles, options.threads)
    except RuntimeError as error:
        if options.numpyro_python:
            raise
        print(f"without NumPyro: {error}", file=sys.stderr)
        return None


def ratios(times: dict[str, Times]) -> dict[str, dict[str, Any]]:
    """Time of one variant over that of another, within rounds."""
    pairs = [*RATIOS, *((BASELINE, name) for name in times if name != BASELINE)]
    return {
        f"{one}/{other}": {
            "wall": speedup(times[one].wall, times[other].wall),
            "cpu": speedup(times[one].cpu, times[other].cpu),
        }
        for one, other in dict.fromkeys(pairs)
        if one in times and other in times
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = []
    for result in results:
        lines.append(f"batch {result['batch_size']}, particles {result['num_particles']}")
        lines.append(f"  {'':36} {'us/step':>9} {'CPU us/step':>12}")
        for name, row in result["variants"].items():
            wall, cpu = row["microseconds_per_step"], row["cpu_microseconds_per_step"]
            lines.append(f"  {name:36} {wall['median']:9.0f} {cpu['median']:12.0f}")
        lines.append(f"  {'ratio of times':36} {'by the clock':>20} {'of the processor':>22}")
        for name, row in result["ratios"].items():
            cells = (f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in row.values())
            lines.append(f"  {name:36} " + " ".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument(
        "--rounds",
        type=int,
        default=80,
        help="blocks of each variant (half with 50)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=(*PLAIN, *COMPILED, *NUMPYRO),
        help="all if not given; with --quick neither those compiled nor NumPyro",
    )
    parser.add_argument("--numpyro-python", help="interpreter that has NumPyro; this one if it has")
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.variants is None:
        here = importlib.util.find_spec("numpyro") is not None
        options.variants = PLAIN if options.quick else PLAIN + COMPILED
        if options.numpyro_python or (here and not options.quick):
            options.variants += NUMPYRO
        elif not options.quick:
            print("without NumPyro: pip install -e '.[bench]'", file=sys.stderr)
    device = resolve_device(options.device)
    rounds = 2 if options.quick else options.rounds
    one, several = (1, 1) if options.quick else (10, 3)
    particles = 5 if options.quick else 50
    # As ``fit`` has it around an epoch; Pyro's own steps turn it on again where they have it.
    with pyro.validation_enabled(False):
        results = [
            measure(device, 128, 1, rounds, one, options),
            measure(device, 100, particles, max(2, rounds // 2), several, options),
        ]
    print(table(results), file=sys.stderr)
    write({"benchmark": "step", "machine": machine(device), "results": results}, options.out)


if __name__ == "__main__":
    main()
