"""Microseconds per training step: Pyro's SVI as its examples use it, this package, plain torch.

All variants train the same network (784-200-200-50 and back, tanh, Bernoulli) from the same weights
on the same binary data with Adam. They take turns in one process, in a random order each round;
times are medians over rounds, speed-ups medians of within-round ratios.

    python benchmarks/step.py                # JSON on stdout, a table on stderr
    python benchmarks/step.py --out FILE     # JSON in a file too
"""

import argparse
import copy
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from common import FEATURES, LATENT, interleave, machine, make_vae, speedup, spread, write
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.devices import resolve_device
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.particles import Programs
from ppl_vae.training import Step, SVIStep, TorchStep, find_parameters

LEARNING_RATE = 1e-3
BASELINES = ("pyro-example", "pyro-tuned")
Update = Callable[[Tensor], Any]


class Networks(nn.Module):
    """Encoder and decoder as plain torch modules, the weights copied from the package's VAE."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        vae = copy.deepcopy(make_vae(device))
        self.encoder = vae.encoder.network
        self.decoder = vae.decoder.network

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x)."""
        loc, unconstrained = self.encoder(x).chunk(2, dim=-1)
        return loc, functional.softplus(unconstrained) + 1e-6


def pyro_svi(networks: Networks, loss: Any, *, tuned: bool) -> Update:
    """Pyro's own VAE example; if ``tuned``, by logits and without validation."""

    def model(x: Tensor) -> None:
        pyro.module("decoder", networks.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(x.shape[0], LATENT)
            z_scale = x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            output = networks.decoder(z)
            parameters = {"logits": output} if tuned else {"probs": torch.sigmoid(output)}
            obs = dist.Bernoulli(**parameters, validate_args=False).to_event(1)
            pyro.sample("obs", obs, obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", networks.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = networks.encode(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss=loss)
    # Each variant's parameters live in a store of their own, as if it were alone in the process.
    store = pyro.get_param_store()
    store.clear()
    own = store.get_state()

    def update(x: Tensor) -> float:
        store.set_state(own)
        # Pyro validates unless told otherwise, and its example does not tell.
        with pyro.validation_enabled(not tuned):
            return svi.step(x) / len(x)

    return update


def ours(step: type[Step], objective: Objective, x: Tensor) -> Update:
    """This package's training step, as ``fit`` runs it from the second epoch on."""
    vae = make_vae(x.device)
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x))
    bound = step(objective, vae.model, vae.guide, parameters)

    def update(x: Tensor) -> Tensor:
        with pyro.validation_enabled(False):
            return -bound(x, LEARNING_RATE)[0] / len(x)

    return update


def plain_torch(networks: Networks, num_particles: int, *, fused: bool | None) -> Update:
    """The same bound written out by hand; ``fused=None`` is the optimiser as torch makes it."""
    optimizer = torch.optim.Adam(networks.parameters(), lr=LEARNING_RATE, fused=fused)

    def update(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loc, scale = networks.encode(x)
        noise = torch.randn(num_particles, *loc.shape, device=x.device)
        z = loc + scale * noise
        logits = networks.decoder(z)
        log_likelihood = -functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(-1)
        # log p(z) - log q(z|x); log(2 pi) cancels.
        log_ratio = (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
        loss = -torch.logsumexp(log_likelihood + log_ratio, 0).mean() + torch.tensor(
            num_particles
        ).log().to(x.device)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def make_variants(x: Tensor, num_particles: int) -> dict[str, Update]:
    """Name to training step. With several particles, Pyro's analogue of IWAE stands beside."""
    many: dict[str, Any] = {
        "num_particles": num_particles,
        "vectorize_particles": num_particles > 1,
        "max_plate_nesting": 1,
    }
    objective = ELBO() if num_particles == 1 else IWAE(num_particles)
    device = x.device
    variants = {
        "pyro-example": pyro_svi(Networks(device), Trace_ELBO(**many), tuned=False),
        "pyro-tuned": pyro_svi(Networks(device), Trace_ELBO(**many), tuned=True),
        "ours-svi": ours(SVIStep, objective, x),
        "ours-torch": ours(TorchStep, objective, x),
        "plain-torch": plain_torch(Networks(device), num_particles, fused=None),
        "plain-torch-fused": plain_torch(Networks(device), num_particles, fused=True),
    }
    if num_particles > 1:
        renyi = RenyiELBO(alpha=0, **many)
        variants["pyro-renyi"] = pyro_svi(Networks(device), renyi, tuned=False)
    return variants


def measure(
    device: torch.device, batch_size: int, num_particles: int, rounds: int, steps: int
) -> dict[str, Any]:
    """Time every variant at one batch size and number of particles."""
    torch.manual_seed(0)
    means = torch.rand(FEATURES, device=device) ** 3
    batches = [torch.bernoulli(means.expand(batch_size, -1)) for _ in range(8)]
    variants = make_variants(batches[0], num_particles)
    first_loss = {}
    for name, update in variants.items():
        torch.manual_seed(1)
        first_loss[name] = round(float(update(batches[0])), 3)

    def block(update: Update) -> Callable[[], None]:
        feed = itertools.cycle(batches)

        def run() -> None:
            for _ in range(steps):
                update(next(feed))

        return run

    blocks = {name: block(update) for name, update in variants.items()}
    seconds = interleave(blocks, rounds, device)
    return {
        "batch_size": batch_size,
        "num_particles": num_particles,
        "rounds": rounds,
        "steps_per_round": steps,
        "variants": {
            name: {
                "microseconds_per_step": spread(times, 1e6 / steps),
                "speedup_over": {base: speedup(seconds[base], times) for base in BASELINES},
                "first_loss_nats_per_datum": first_loss[name],
            }
            for name, times in seconds.items()
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results for a person to read."""
    lines = []
    for result in results:
        lines.append(f"batch {result['batch_size']}, particles {result['num_particles']}")
        lines.append(f"  {'':18} {'us/step':>9}   times as fast as {BASELINES[0]}, {BASELINES[1]}")
        for name, row in result["variants"].items():
            cells = "  ".join(
                f"{ratio['median']:5.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
                for ratio in row["speedup_over"].values()
            )
            lines.append(f"  {name:18} {row['microseconds_per_step']['median']:9.0f}   {cells}")
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
    parser.add_argument("--quick", action="store_true", help="see that it runs; times mean little")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    rounds = 2 if options.quick else options.rounds
    results = [
        measure(device, 128, 1, rounds, steps=1 if options.quick else 20),
        measure(device, 100, 50, max(2, rounds // 2), steps=1),
    ]
    print(table(results), file=sys.stderr)
    write({"benchmark": "step", "machine": machine(device), "results": results}, options.out)


if __name__ == "__main__":
    main()
