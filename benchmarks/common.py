"""What both benchmarks share: fair timing, the machine in words, the model that is timed."""

import json
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae import VAE
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormalPrior

FEATURES, HIDDEN, LATENT = 784, (200, 200), 50


def make_vae(device: torch.device, seed: int = 0) -> VAE:
    """The model of both benchmarks: 784-200-200-50 and back, tanh."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VAE(
            prior=StandardNormalPrior(LATENT),
            decoder=BernoulliDecoder(MLP(LATENT, HIDDEN[::-1], FEATURES, "tanh")),
            encoder=DiagonalNormalEncoder(MLP(FEATURES, HIDDEN, 2 * LATENT, "tanh")),
        ).to(device)


def synchronize(device: torch.device) -> None:
    """Wait for what was sent to an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleave(
    variants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of one call of each variant in each round.

    Each round calls every variant once in a random order, so that what else the machine does
    falls on all of them alike. Two rounds of warming up are not counted.
    """
    shuffle = random.Random(0).shuffle
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-2, rounds):
        shuffle(names)
        for name in names:
            synchronize(device)
            start = time.perf_counter()
            variants[name]()
            synchronize(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def speedup(baseline: list[float], seconds: list[float]) -> dict[str, float]:
    """Median over rounds of baseline / variant, with its 95 % bootstrap interval over rounds."""
    ratios = np.array(baseline) / np.array(seconds)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {
        "median": round(float(np.median(ratios)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def spread(values: list[float], scale: float) -> dict[str, float]:
    """Median and quartiles of ``scale * values``."""
    lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": round(scale * statistics.median(values), 3),
        "lower_quartile": round(scale * lower, 3),
        "upper_quartile": round(scale * upper, 3),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions; no host names, no paths."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def slug(device: torch.device) -> str:
    """The name of this machine's file of results: the GPU's, else the CPU's."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else _cpu_model()
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write(result: dict[str, Any], out: Path | None) -> None:
    """JSON on stdout and, if asked for, in a file."""
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def simulate(vae: VAE, num_data: int, seed: int) -> Tensor:
    """Binary data from the model itself, shape (num_data, features)."""
    device = next(vae.parameters()).device
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        z = torch.randn(num_data, LATENT, device=device)
        return vae.decoder(z).sample()
