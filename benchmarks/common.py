"""What the benchmarks share: fair timing, the machine in words, the model that is timed."""

import json
import math
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae import VAE, _kernels
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.particles import Evaluation
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


class Seconds(NamedTuple):
    """Time by the clock, and that of all the processor's threads."""

    wall: float
    cpu: float


class Times(NamedTuple):
    """Seconds of each round."""

    wall: list[float]
    cpu: list[float]


def measured(function: Callable[[], Any], device: torch.device) -> Seconds:
    """Seconds that a function takes, on an accelerator until it is done."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def interleave(
    variants: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    elsewhere: Mapping[str, Callable[[], Seconds]] | None = None,
) -> dict[str, Times]:
    """Seconds of one call of each variant in each round.

    Each round calls every variant once in a random order, so that what else the machine does
    falls on all of them alike. Two rounds of warming up are not counted. What runs ``elsewhere``,
    in a process of its own, measures itself.
    """
    shuffle = random.Random(0).shuffle
    timed = {name: lambda call=call: measured(call, device) for name, call in variants.items()}
    timed |= elsewhere or {}
    names = list(timed)
    times = {name: Times([], []) for name in names}
    for number in range(-2, rounds):
        shuffle(names)
        for name in names:
            seconds = timed[name]()
            if number >= 0:
                times[name].wall.append(seconds.wall)
                times[name].cpu.append(seconds.cpu)
    return times


def speedup(baseline: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
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


@contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Evaluations inside are compiled, or not, however many there are to come.

    A benchmark repeats a few data, for which compiling does not pay; what it times is one datum of
    many.
    """
    with mock.patch.object(_kernels, "_COST", 0.0 if wanted else math.inf):
        yield


def require_compiled(name: str, look: Evaluation) -> None:
    """Check that what is called compiled is: programs that cannot be run as they are."""
    if name.endswith("compiled") != bool(look.replays._recorded):
        raise RuntimeError(f"{name}: {len(look.replays._recorded)} functions are compiled")


def simulate(vae: VAE, num_data: int, seed: int) -> Tensor:
    """Binary data from the model itself, shape (num_data, features)."""
    device = next(vae.parameters()).device
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        z = torch.randn(num_data, LATENT, device=device)
        return vae.decoder(z).sample()
