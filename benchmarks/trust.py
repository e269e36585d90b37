"""The automatic estimate against exact values: coverage of what it states, and what it costs.

Linear-Gaussian models with guides that are right, too narrow, too wide and shifted, a kind to a
fifth of the data, and a model whose posterior has two modes. Reported by model and kind: how often
the exact log p(x) is inside [estimate - 1.96 SE, estimate + 1.96 SE + doubt], bias, stages, decoder
evaluations, the verdict; and how many evaluations a fixed K, and a fixed annealing schedule, need
for each kind to be as near to the exact value as the automatic estimate is for its worst kind.

    python benchmarks/trust.py               # JSON on stdout, a table on stderr; half an hour
    python benchmarks/trust.py --out FILE    # JSON in a file too
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from common import machine, write
from torch import Tensor

from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    AutomaticSampling,
    Evidence,
    ImportanceSampling,
)
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.vae import VAE

LATENTS = (1, 2, 3, 5, 10, 20, 50)
KINDS = {
    "right": (1.0, 0.0),
    "scale 0.3": (0.3, 0.0),
    "scale 0.5": (0.5, 0.0),
    "scale 2": (2.0, 0.0),
    "shift 2": (1.0, 2.0),
}
"""Kinds of guides: factor of the scale, shift in posterior standard deviations."""
NOISE, FEATURES, CHAINS = 0.5, 20, 16
MOST = 2**17
"""Decoder evaluations of a datum at which the search for a fixed setting ends."""


class Case(NamedTuple):
    """A model with its guide, data, exact values, and the kind of guide that each datum has."""

    name: str
    vae: VAE
    x: Tensor
    exact: Tensor
    kind: list[str]


def kind_of(x: Tensor, count: int) -> Tensor:
    """Number of the kind of guide that each datum has, by digits of it that mean nothing."""
    return ((x[:, -1] * 1e4).frac().abs() * count).long().clamp_max(count - 1)


def linear(latent: int, num_data: int) -> Case:
    """A linear-Gaussian model whose guide is of another kind for every fifth datum."""
    model = LinearGaussian.random(FEATURES, latent, NOISE, seed=latent)
    settings = torch.tensor(list(KINDS.values()), dtype=torch.float64)

    def encoder(x: Tensor) -> dist.Distribution:
        best = model.mean_field_posterior(x).base_dist
        factor, shift = settings[kind_of(x, len(KINDS))].unsqueeze(-1).unbind(1)
        # In all dimensions together, two posterior standard deviations.
        loc = best.loc + shift * best.scale / latent**0.5
        return dist.Normal(loc, factor * best.scale).to_event(1)

    x = model.simulate(num_data, seed=1)
    kind = [list(KINDS)[number] for number in kind_of(x, len(KINDS))]
    exact = model.log_evidence(x).detach()
    return Case(
        f"linear, {latent} latents", VAE(model.prior, model.decoder, encoder), x, exact, kind
    )


def bimodal(latent: int, num_data: int) -> Case:
    """``x_0 = z_0^2 + noise`` has two modes; every other datum's guide sees one of them only."""
    prior = LinearGaussian(torch.eye(latent, dtype=torch.float64)).prior

    def decoder(z: Tensor) -> dist.Distribution:
        loc = torch.cat([z[..., :1].square(), z[..., 1:]], -1)
        return dist.Normal(loc, NOISE).to_event(1)

    def encoder(x: Tensor) -> dist.Distribution:
        one = kind_of(x, 2).unsqueeze(-1) == 1
        mode = x[:, :1].clamp_min(0).sqrt()
        loc = torch.cat([torch.where(one, mode, 0), x[:, 1:] / (1 + NOISE**2)], -1)
        narrow = NOISE / (2 * mode).clamp_min(1)
        first = torch.where(one, narrow, mode.clamp_min(0.5))
        rest = torch.full_like(x[:, 1:], NOISE / (1 + NOISE**2) ** 0.5)
        return dist.Normal(loc, torch.cat([first, rest], -1)).to_event(1)

    with torch.random.fork_rng():
        torch.manual_seed(2)
        x = decoder(torch.randn(num_data, latent, dtype=torch.float64)).sample()
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    joint = torch.distributions.Normal(0.0, 1.0).log_prob(grid) + torch.distributions.Normal(
        grid.square(), NOISE
    ).log_prob(x[:, :1])
    exact = joint.logsumexp(1) + (grid[1] - grid[0]).log()
    exact = exact + torch.distributions.Normal(0.0, (1 + NOISE**2) ** 0.5).log_prob(x[:, 1:]).sum(1)
    kind = ["one mode seen" if number else "both modes" for number in kind_of(x, 2)]
    name = f"two modes, {latent} latent" + "s" * (latent > 1)
    return Case(name, VAE(prior, decoder, encoder), x, exact, kind)


def rms(found: Evidence, exact: Tensor) -> float:
    """Root mean square error, nats."""
    return float((found.log_prob.double() - exact).square().mean().sqrt())


def needed(
    estimate: Callable[[int], Evidence], start: int, each: int, exact: Tensor, aim: float, most: int
) -> int | None:
    """Decoder evaluations a datum of the smallest setting, doubled from ``start``, in reach."""
    size = start
    while size * each <= most:
        if rms(estimate(size), exact) <= aim:
            return size * each
        size *= 2
    return None


def measure(case: Case, few: int, most: int, seed: int = 0) -> dict[str, Any]:
    """Coverage and cost of one model."""
    programs = case.vae.model, case.vae.guide
    found = AutomaticSampling()(*programs, case.x, seed=seed)
    error = found.log_prob.double() - case.exact
    # An exact value leaves nothing to doubt, and costs what its grid has.
    doubt = torch.zeros_like(error) if found.doubt is None else found.doubt
    evaluations = found.evaluations
    half = 1.96 * found.standard_error + 1e-6
    inside = (error <= half) & (error >= -half - doubt)
    rows = {name: torch.tensor([k == name for k in case.kind]) for name in dict.fromkeys(case.kind)}
    kinds = [
        {
            "kind": name,
            "num_data": int(of.sum()),
            "coverage": float(inside[of].double().mean()),
            "bias": float(error[of].mean()),
            "rms_error": float(error[of].square().mean().sqrt()),
            "unbounded": float(doubt[of].isinf().double().mean()),
            "evaluations": None if evaluations is None else float(evaluations[of].mean()),
        }
        for name, of in rows.items()
    ]  # fmt: skip
    # Nearer than the target is of no use to anybody.
    worst = max(AutomaticSampling().target, *(row["rms_error"] for row in kinds))
    fixed: dict[str, int | None] = {}
    schedule: dict[str, int | None] = {}
    one: int | None = None
    for name, of in rows.items() if "exact" not in str(found.direction) else ():
        x, exact = case.x[of][:few], case.exact[of][:few]

        def by_particles(size: int, x: Tensor = x) -> Evidence:
            return ImportanceSampling(size, rows=50_000)(*programs, x, seed=1)

        def by_annealing(size: int, x: Tensor = x) -> Evidence:
            return AnnealedImportanceSampling(size, CHAINS)(*programs, x, seed=1)

        fixed[name] = needed(by_particles, 16, 1, exact, worst, most)
        # A transition evaluates the density once a leapfrog step, and once where it begins, of
        # whatever data.
        one = one or round(by_annealing(16).evaluations_per_datum / 16)
        schedule[name] = needed(by_annealing, 2, one, exact, worst, most)
    return {
        "model": case.name,
        "coverage": float(inside.double().mean()),
        "stages": found.stage_counts,
        "verdict": (found.warning or "none").split(":")[0],
        "mean_doubt": float(doubt.mean()),
        "mean_error": float(error.mean()),
        "monte_carlo_error": float(found.monte_carlo_error),
        "evaluations": None if evaluations is None else float(evaluations.mean()),
        "fixed_particles": fixed,
        "fixed_schedule": schedule,
        "kinds": kinds,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="there is no other")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--num-data", type=int, default=1000, help="data of a model")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    num_data, few, most = (30, 5, 2**9) if args.quick else (args.num_data, 10, MOST)
    makers: list[tuple[Callable[[int, int], Case], int]] = [(bimodal, 1), (bimodal, 5)]
    makers += [(linear, latent) for latent in ((3,) if args.quick else LATENTS)]
    result: dict[str, Any] = {"machine": machine(torch.device("cpu")), "models": []}
    for make, latent in makers:
        row = measure(make(latent, num_data), few, most)
        result["models"].append(row)
        sys.stderr.write(f"{row}\n")
    write(result, args.out)


if __name__ == "__main__":
    main()
