"""Decoder evaluations of adaptive importance sampling against 5000 for everybody.

A VAE is trained on the embedded digits; log p(x) of its test images is estimated with K = 5000
draws each, and adaptively to a target per datum at which the data-set mean has the same Monte Carlo
error. Evaluations are counted, not timed.

    python benchmarks/adaptive.py               # JSON on stdout, a table on stderr
    python benchmarks/adaptive.py --out FILE    # JSON in a file too
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from common import machine, write

import ppl_vae as pv
from ppl_vae.devices import resolve_device

LATENT = 20


def trained(data: pv.Dataset, epochs: int, device: torch.device) -> pv.VAE:
    """A VAE trained by the importance-weighted bound."""
    torch.manual_seed(0)
    decoder = pv.BernoulliDecoder(pv.MLP(LATENT, [100, 100], data.features), data.train.mean(0))
    encoder = pv.DiagonalNormalEncoder(pv.MLP(data.features, [100, 100], 2 * LATENT))
    vae = pv.VAE(pv.StandardNormal(LATENT), decoder, encoder)
    pv.fit(
        vae.model, vae.guide, pv.IWAE(10), data.train, valid=data.valid, epochs=epochs,
        learning_rate=3e-3, device=device, progress=False,
    )  # fmt: skip
    return vae


def compare(device: torch.device, epochs: int, num_particles: int) -> dict[str, Any]:
    """Count the evaluations of both, at equal Monte Carlo error of the mean."""
    data = pv.load_dataset("digits").binarized("static", seed=0)
    vae = trained(data, epochs, device)
    programs = vae.model, vae.guide
    plain = pv.ImportanceSampling(num_particles)(*programs, data.test, device=device)
    # What each datum may have for the mean to have the error it has with equal draws.
    target = plain.standard_error.square().mean().sqrt().item()
    # A datum without error to speak of needs no more than a few draws.
    adaptive = pv.AdaptiveSampling(target, first=50, most=20 * num_particles)
    found = adaptive(*programs, data.test, device=device, seed=1)
    difference = pv.paired_difference(found, plain)
    return {
        "num_data": len(data.test),
        "latent": LATENT,
        "target_nats": target,
        "fixed": _row(plain),
        "adaptive": _row(found),
        "fewer_evaluations": plain.evaluations_per_datum / found.evaluations_per_datum,
        "error_ratio": found.monte_carlo_error / plain.monte_carlo_error,
        "difference_z": difference.mean / difference.monte_carlo_error,
    }


def _row(evidence: pv.Evidence) -> dict[str, float]:
    return {
        "log_prob": evidence.mean,
        "monte_carlo_error": evidence.monte_carlo_error,
        "evaluations_per_datum": evidence.evaluations_per_datum,
    }


def main() -> None:
    """Print JSON, and a line for people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    size = (2, 200) if arguments.quick else (60, 5000)
    result = {"machine": machine(device), "results": compare(device, *size)}
    row = result["results"]
    sys.stderr.write(
        f"{row['fewer_evaluations']:.2f} times fewer decoder evaluations at "
        f"{row['error_ratio']:.2f} times the Monte Carlo error (z = {row['difference_z']:.1f})\n"
    )
    write(result, arguments.out)


if __name__ == "__main__":
    main()
