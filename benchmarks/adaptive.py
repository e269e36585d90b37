"""Decoder evaluations of adaptive importance sampling against 5000 for everybody.

A VAE is trained on the embedded digits; log p(x) of its test images is estimated with K = 5000
draws each, and adaptively: to the largest standard error that any datum has then, and to the one at
which the data-set mean has the same Monte Carlo error. Evaluations are counted, not timed.

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
    vae = pv.VAE(pv.StandardNormalPrior(LATENT), decoder, encoder)
    pv.fit(
        vae.model, vae.guide, pv.IWAE(10), data.train, valid=data.valid, epochs=epochs,
        learning_rate=3e-3, device=device, progress=False,
    )  # fmt: skip
    return vae


def compare(device: torch.device, epochs: int, num_particles: int) -> dict[str, Any]:
    """Count the evaluations of both, at equal errors of every datum, and of the mean."""
    data = pv.load_dataset("digits").binarized("static", seed=0)
    vae = trained(data, epochs, device)
    programs = vae.model, vae.guide
    plain = pv.ImportanceSampling(num_particles)(*programs, data.test, device=device)
    largest, rms = plain.standard_error.max(), plain.standard_error.square().mean().sqrt()
    rows = {}
    # Equal errors of every datum are what adaptive sampling is for. For the mean alone, errors
    # equal over the data are no better a use of draws than draws equal over the data.
    for name, target in (("every datum", largest), ("the mean", rms)):
        adaptive = pv.AdaptiveSampling(target.item(), first=50, most=20 * num_particles)
        rows[name] = _row(adaptive(*programs, data.test, device=device, seed=1), plain)
    return {
        "num_data": len(data.test),
        "latent": LATENT,
        "num_particles": num_particles,
        "largest_error_of_fixed": largest.item(),
        "monte_carlo_error_of_fixed": plain.monte_carlo_error,
        "log_prob_of_fixed": plain.mean,
        "adaptive_at_equal_error_of": rows,
    }


def _row(found: pv.Evidence, plain: pv.Evidence) -> dict[str, float]:
    difference = pv.paired_difference(found, plain)
    return {
        "log_prob": found.mean,
        "largest_error": found.standard_error.max().item(),
        "monte_carlo_error": found.monte_carlo_error,
        "evaluations_per_datum": found.evaluations_per_datum,
        "fewer_evaluations": plain.evaluations_per_datum / found.evaluations_per_datum,
        "difference_z": difference.mean / difference.monte_carlo_error,
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
    for name, row in result["results"]["adaptive_at_equal_error_of"].items():
        sys.stderr.write(
            f"equal error of {name}: {row['fewer_evaluations']:.2f} times fewer decoder "
            f"evaluations (largest error {row['largest_error']:.3f}, of the mean "
            f"{row['monte_carlo_error']:.4f}, z = {row['difference_z']:.1f})\n"
        )
    write(result, arguments.out)


if __name__ == "__main__":
    main()
