"""Seconds per datum for log p(x), K = 5000: ours, pythae's ``get_nll``, NumPyro, products alone.

All evaluate the same weights (784-200-200-50 and back, tanh, Bernoulli), trained for a moment on
data simulated from a model of the same shape, on the same few data. They take turns in a random
order each round, NumPyro in a process of its own, and every round draws anew, so that the
repetitions also give each estimate's standard error.

    python benchmarks/evidence.py               # JSON on stdout, a table on stderr
    python benchmarks/evidence.py --out FILE    # JSON in a file too
    python benchmarks/evidence.py --numpyro-python PYTHON    # one that has NumPyro

pythae 0.1.2 comes with ``pip install -e '.[bench]'``; without it, the others are timed.
"""

import argparse
import copy
import importlib.util
import itertools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    FEATURES,
    LATENT,
    Seconds,
    compiling,
    interleave,
    machine,
    make_vae,
    require_compiled,
    simulate,
    speedup,
    spread,
    write,
)
from memory import held_bytes, peak_bytes
from torch import Tensor, nn
from torch.nn import functional
from variants import Networks, NumPyro, decoder_products

from ppl_vae import VAE
from ppl_vae.devices import resolve_device
from ppl_vae.evidence import Evidence, ImportanceSampling
from ppl_vae.objectives import ELBO
from ppl_vae.particles import ChunkSize, Evaluation, Programs, evaluation
from ppl_vae.training import TorchStep, find_parameters

PYTHAE = importlib.util.find_spec("pythae") is not None
Estimate = Callable[[], float]


def trained_vae(x: Tensor, steps: int) -> VAE:
    """A VAE after some training, so that its guide is worth sampling from."""
    vae = make_vae(x.device, seed=1)
    step = TorchStep(
        ELBO(), vae.model, vae.guide, find_parameters(Programs(vae.model, vae.guide).modules(x))
    )
    torch.manual_seed(0)
    for batch in torch.randint(len(x), (steps, 128), device=x.device):
        step(x[batch], 1e-3)
    return vae


def teacher(device: torch.device) -> VAE:
    """The model that simulates the data: its last weights enlarged, so that z matters."""
    vae = make_vae(device)
    with torch.no_grad():
        vae.decoder.network.output.weight.mul_(4)
        vae.decoder.network.output.bias.sub_(1)
    return vae


def pythae_vae(vae: VAE) -> Any:
    """The same weights in a pythae VAE, whose encoder gives log-variances, its decoder means."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, network: nn.Module) -> None:
            BaseEncoder.__init__(self)
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            loc, unconstrained = self.network(x).chunk(2, dim=-1)
            scale = functional.softplus(unconstrained) + 1e-6
            return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self, network: nn.Module) -> None:
            BaseDecoder.__init__(self)
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = models.VAEConfig(
        input_dim=(FEATURES,),
        latent_dim=LATENT,
        reconstruction_loss="bce",
        uses_default_encoder=False,
    )
    copied = copy.deepcopy(vae)
    model = models.VAE(config, Encoder(copied.encoder.network), Decoder(copied.decoder.network))
    return model.to(next(vae.parameters()).device).eval()


class Recorder:
    """An estimator that keeps what it returned, round by round."""

    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.values: list[float] = []

    def __call__(self) -> None:
        """Estimate once more."""
        self.values.append(self.estimate())

    @property
    def mean(self) -> float:
        """Over the repetitions."""
        return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """Of :attr:`mean`, from the spread of the repetitions."""
        return float(np.std(self.values, ddof=1) / np.sqrt(len(self.values)))


def make_estimators(
    vae: VAE, x: Tensor, num_particles: int, opened: dict[str, Evaluation], keep: list[Evidence]
) -> dict[str, Recorder]:
    """Name to estimator of the mean log p(x) over the data; "ours" leaves its results in ``keep``.

    Those of ``opened`` have programs and data that are open already, so that what is compiled for
    one round serves all.
    """
    ours = ImportanceSampling(num_particles)

    def called() -> float:
        keep.append(ours(vae.model, vae.guide, x, seed=None))
        return keep[-1].mean

    def of(name: str, look: Evaluation) -> Recorder:
        seeds = itertools.count()

        def estimate() -> float:
            with compiling(name == "ours-compiled"):
                value = ours.on(look, seed=next(seeds)).mean
            require_compiled(name, look)
            return value

        return Recorder(estimate)

    estimators = {"ours": Recorder(called)} | {name: of(name, opened[name]) for name in opened}
    if not PYTHAE:
        return estimators
    model = pythae_vae(vae)

    def pythae(batch_size: int, *, gradients: bool = False) -> Recorder:
        def estimate() -> float:
            with torch.set_grad_enabled(gradients):
                return -float(-model.get_nll(x, num_particles, batch_size))

        return Recorder(estimate)

    # As its documentation calls it, then ever kinder: no autograd, larger batches.
    estimators["pythae-default"] = pythae(100, gradients=True)
    for batch_size in (100, 1000, 5000):
        if batch_size <= num_particles:
            estimators[f"pythae-no-grad-{batch_size}"] = pythae(batch_size)
    return estimators


def compare(
    device: torch.device,
    num_data: int,
    num_particles: int,
    rounds: int,
    train_steps: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time every estimator and compare what they estimate."""
    simulated = simulate(teacher(device), 2000 + num_data, seed=0)
    vae = trained_vae(simulated[num_data:], train_steps)
    x = simulated[:num_data]
    keep: list[Evidence] = []
    numpyro, values = None, list[float]()
    if options.numpyro_python is not None:
        numpyro = NumPyro(
            options.numpyro_python, Networks(device, vae), [x], num_particles, options.threads
        )

    def elsewhere() -> Seconds:
        seconds, loss = numpyro("numpyro-evidence", 1)
        values.append(-loss)
        return seconds

    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(
                evaluation(Programs(vae.model, vae.guide), x, ChunkSize(num_particles))
            )
            for name in ("ours-plain", *(() if options.quick else ("ours-compiled",)))
        }
        estimators = make_estimators(vae, x, num_particles, opened, keep)
        rows = next(iter(opened.values())).rows
        floor = decoder_products(Networks(device, vae), rows, num_data * num_particles)
        torch.manual_seed(2)
        times = interleave(
            {**estimators, "floor": floor},
            rounds,
            device,
            {} if numpyro is None else {"numpyro": elsewhere},
        )
    if numpyro is not None:
        numpyro.close()
        estimators["numpyro"] = Recorder(elsewhere)
        estimators["numpyro"].values = values
    ours = estimators["ours"]
    reference = times["ours-plain" if options.quick else "ours-compiled"]
    results: dict[str, dict[str, Any]] = {}
    for name, each in times.items():
        results[name] = {
            "milliseconds_per_datum": spread(each.wall, 1e3 / num_data),
            "cpu_milliseconds_per_datum": spread(each.cpu, 1e3 / num_data),
            "ours_is_faster_by": speedup(each.wall, times["ours"].wall),
            "ours_compiled_is_faster_by": {
                "wall": speedup(each.wall, reference.wall),
                "cpu": speedup(each.cpu, reference.cpu),
            },
        }
        if name == "floor":
            continue
        estimator = estimators[name]
        results[name] |= {
            "log_prob": estimator.mean,
            "standard_error_from_repetitions": estimator.standard_error,
        }
        if estimator is not ours:
            joint = np.hypot(ours.standard_error, estimator.standard_error)
            results[name]["difference_over_joint_error"] = (ours.mean - estimator.mean) / float(
                joint
            )
    return {
        "num_data": num_data,
        "num_particles": num_particles,
        "rounds": rounds,
        "numpyro": None if numpyro is None else numpyro.versions,
        "estimators": results,
        "ours_stated_standard_error_of_one_round": float(
            np.sqrt(np.mean([evidence.monte_carlo_error**2 for evidence in keep]))
        ),
        "ours_spread_of_rounds": float(np.std(ours.values, ddof=1)),
        "median_effective_sample_size": keep[-1].effective_sample_size.median().item(),
    }


def memory(device: torch.device, num_data: int, num_particles: int) -> dict[str, Any]:
    """Peak memory while ours evaluates many data, above what is held with model and data there.

    An earlier peak can only make the number too large: the data are simulated bit by bit.
    """
    vae = make_vae(device)
    x = torch.empty(num_data, FEATURES, device=device)
    for start in range(0, num_data, 100):
        part = x[start : start + 100]
        part.copy_(simulate(vae, len(part), seed=start))
    held = held_bytes(device)
    ImportanceSampling(num_particles)(vae.model, vae.guide, x)
    return {
        "num_data": num_data,
        "num_particles": num_particles,
        "extra_peak_megabytes": round((peak_bytes(device) - held) / 2**20, 1),
    }


def table(result: dict[str, Any]) -> str:
    """The results for a person to read."""
    lines = [
        f"log p(x) of {result['num_data']} data, K = {result['num_particles']}",
        f"{'':20} {'ms/datum':>9} {'CPU ms':>8} {'compiled faster by':>22} {'(CPU)':>22} "
        f"{'log p(x)':>10} {'error':>7} {'z':>6}",
    ]
    for name, row in result["estimators"].items():
        ratios = row["ours_compiled_is_faster_by"].values()
        cells = (f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios)
        z = row.get("difference_over_joint_error")
        lines.append(
            f"{name:20} {row['milliseconds_per_datum']['median']:9.2f} "
            f"{row['cpu_milliseconds_per_datum']['median']:8.2f} "
            + " ".join(f"{cell:>22}" for cell in cells)
            + (
                f" {row['log_prob']:10.3f} {row['standard_error_from_repetitions']:7.3f}"
                if "log_prob" in row
                else ""
            )
            + ("" if z is None else f" {z:6.2f}")
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--rounds", type=int, default=20, help="evaluations by each estimator")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--numpyro-python", help="interpreter that has NumPyro; without it, none")
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    # Memory first: a peak never falls again, so nothing greedier may run before it.
    if options.quick:
        peaks = [memory(device, num_data=20, num_particles=50)]
        result = compare(
            device, num_data=2, num_particles=200, rounds=2, train_steps=5, options=options
        )
    else:
        peaks = [memory(device, 300, 5000), memory(device, 10_000, 50)]
        result = compare(device, 12, 5000, options.rounds, train_steps=1000, options=options)
    print(table(result), file=sys.stderr)
    for peak in peaks:
        where = f"{peak['num_data']} data, K = {peak['num_particles']}"
        print(f"extra memory: {peak['extra_peak_megabytes']} MB for {where}", file=sys.stderr)
    described = {**machine(device), "pythae": "0.1.2" if PYTHAE else None}
    write(
        {"benchmark": "evidence", "machine": described, "comparison": result, "memory": peaks},
        options.out,
    )


if __name__ == "__main__":
    main()
