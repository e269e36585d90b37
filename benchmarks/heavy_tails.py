"""Coverage of adaptive sampling against its verdict, for guides narrower than the posterior.

200 replicates of one datum of a linear-Gaussian model, by a guide that is the posterior with its
scale multiplied. Reported by number of latents and scale: coverage of the 95% interval, bias,
decoder evaluations, the share of replicates whose tail is too heavy, and the verdict.

    python benchmarks/heavy_tails.py               # JSON on stdout, a table on stderr; minutes
    python benchmarks/heavy_tails.py --out FILE    # JSON in a file too
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from common import machine, write

from ppl_vae.evidence import AdaptiveSampling, Evidence
from ppl_vae.evidence._verdict import TOLERATED_TAIL
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.vae import VAE

LATENTS = (1, 2, 3, 5)
RATIOS = (0.45, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
LEAST_COVERAGE = 0.86


def measure(latent: int, ratio: float, replicates: int) -> dict[str, Any]:
    """One cell of the table."""
    model = LinearGaussian(torch.eye(latent, dtype=torch.float64))

    def encoder(x: torch.Tensor) -> dist.Distribution:
        exact = model.mean_field_posterior(x).base_dist
        return dist.Normal(exact.loc, exact.scale * ratio).to_event(1)

    vae = VAE(model.prior, model.decoder, encoder)
    x = model.simulate(1, seed=3).expand(replicates, -1)
    found = AdaptiveSampling(rows=100_000)(vae.model, vae.guide, x)
    error = (found.log_prob - model.log_evidence(x)).detach()
    covered = (error.abs() <= 1.96 * found.standard_error).double().mean().item()
    return {
        "latents": latent,
        "ratio": ratio,
        "coverage": covered,
        "bias": error.mean().item(),
        "evaluations": found.evaluations_per_datum,
        "heavy": heavy_share(found),
        "verdict": (found.warning or "none").split(":")[0],
    }


def heavy_share(found: Evidence) -> float:
    """Share of data whose tail is heavy and matters."""
    heavy = (found.pareto_k > found.pareto_threshold) & (found.tail_share > TOLERATED_TAIL)
    return heavy.double().mean().item()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="one cell, to see that it runs")
    args = parser.parse_args()
    grid = [(1, 0.6)] if args.quick else [(d, r) for d in LATENTS for r in RATIOS]
    cells = []
    print("latents  ratio  coverage    bias  evaluations  heavy  verdict", file=sys.stderr)
    for latent, ratio in grid:
        cell = measure(latent, ratio, args.replicates)
        cells.append(cell)
        print(
            f"{latent:7}  {ratio:5}  {cell['coverage']:8.3f}  {cell['bias']:+.3f}  "
            f"{cell['evaluations']:11.0f}  {cell['heavy']:5.2f}  {cell['verdict']}",
            file=sys.stderr,
        )
    missed = [
        (c["latents"], c["ratio"])
        for c in cells
        if c["coverage"] < LEAST_COVERAGE and c["verdict"] != "not to be trusted"
    ]
    print(
        f"covered less than {LEAST_COVERAGE:.0%} and trusted: {missed or 'none'}", file=sys.stderr
    )
    write(
        {"machine": machine(torch.device("cpu")), "replicates": args.replicates, "cells": cells},
        args.out,
    )


if __name__ == "__main__":
    main()
