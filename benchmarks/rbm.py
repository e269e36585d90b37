"""log Z of restricted Boltzmann machines by annealing, against the sum over all hidden states.

A machine of 16 hidden units on binarised MNIST and one of 20 on digits are trained by persistent
contrastive divergence. Then log Z is estimated again and again, each time by chains of its own:
counted is how often the 95% interval of either side, and of both together, holds the exact value,
and how far off the value is.

    python benchmarks/rbm.py                        # both, as published: 2 hours of a core
    python benchmarks/rbm.py --temperatures 290     # a fiftieth: minutes
    python benchmarks/rbm.py --machine digits --repetitions 20 --out FILE

MNIST is looked for in the folder PPL_VAE_DATA.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, write

from ppl_vae.baselines import RBM, train
from ppl_vae.baselines._partition import Side, together
from ppl_vae.data import binarize_static, in_memory, load_dataset
from ppl_vae.schedules import Cosine

MACHINES = {"mnist": ("binarized-mnist", 784, 16, 60), "digits": ("digits", 64, 20, 100)}
"""Data set, sizes and epochs."""
CHUNK = 2000
"""Chains annealed at once."""


def trained(name: str) -> tuple[RBM, torch.Tensor]:
    """The machine, trained, and the rows that it was trained on."""
    dataset, visible, hidden, epochs = MACHINES[name]
    data = load_dataset(dataset)
    rows = in_memory(data.train, "this benchmark")[:10_000]
    if name == "digits":
        rows = binarize_static(rows, seed=0)
    torch.manual_seed(0)
    rbm = RBM(visible, hidden, steps=2, learning_rate=Cosine(0.05))
    train(rbm, rows, epochs=epochs, batch_size=100, device="cpu", progress=False)
    return rbm, rows


def log_weights(rbm: RBM, number: int, temperatures: int) -> dict[str, torch.Tensor]:
    """Log-weights of so many independent chains of each way."""
    path = rbm.path()
    states = path.state_log_weights()
    found: dict[str, list[torch.Tensor]] = {"forward": [], "reverse": []}
    for first in range(0, number, CHUNK):
        count = min(CHUNK, number - first)
        found["forward"].append(path.forward(count, temperatures)[0])
        draws = path.draw_exactly(states, count)
        found["reverse"].append(path.backward(draws, temperatures))
    return {name: torch.cat(parts) for name, parts in found.items()}


def measure(name: str, repetitions: int, temperatures: int, chains: int) -> dict[str, Any]:
    """Errors and coverage of repeated estimates."""
    start = time.perf_counter()
    rbm, rows = trained(name)
    exact = rbm.log_partition(exact=True)
    log_prob = rbm.evidence(rows, exact).mean
    print(f"{name}: trained, log Z {exact.value:.3f}, log p(x) {log_prob:.2f}", file=sys.stderr)
    with torch.no_grad():
        weights = log_weights(rbm, repetitions * chains, temperatures)
    split = {way: each.split(chains) for way, each in weights.items()}
    sides: dict[str, list[tuple[float, float, float]]] = {"forward": [], "reverse": [], "both": []}
    for one, other in zip(split["forward"], split["reverse"], strict=True):
        forward, reverse = Side.of(one), Side.of(other, inverse=True)
        value, _, low, high = together(forward, reverse, independent=True)
        sides["forward"].append((forward.value, forward.low, forward.high))
        sides["reverse"].append((reverse.value, reverse.low, reverse.high))
        sides["both"].append((value, low, high))
    result: dict[str, Any] = {
        "visible": rbm.weight.shape[0],
        "hidden": rbm.weight.shape[1],
        "log_z": exact.value,
        "train_log_prob": log_prob,
        "temperatures": temperatures,
        "chains": chains,
        "repetitions": repetitions,
        "seconds": round(time.perf_counter() - start),
    }
    for side, found in sides.items():
        value, low, high = np.array(found).T
        error = value - exact.value
        result[side] = {
            "bias": round(float(error.mean()), 4),
            "root_mean_square_error": round(float(np.sqrt((error**2).mean())), 4),
            "largest_error": round(float(np.abs(error).max()), 4),
            "within_a_tenth": round(float((np.abs(error) < 0.1).mean()), 4),
            "width": round(float((high - low).mean()), 4),
            "coverage": round(float(((low <= exact.value) & (exact.value <= high)).mean()), 4),
        }
        print(f"  {side}: {result[side]}", file=sys.stderr)
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--machine", choices=list(MACHINES), action="append")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--temperatures", type=int, default=14_500)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(1)
    found = {
        name: measure(name, chosen.repetitions, chosen.temperatures, chosen.chains)
        for name in chosen.machine or MACHINES
    }
    write({"machine": machine(torch.device("cpu")), "results": found}, chosen.out)


if __name__ == "__main__":
    main()
