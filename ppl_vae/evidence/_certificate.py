"""Certificate of an automatic estimate: data of the model's own, bounded from both sides."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import in_memory, select
from ppl_vae.evidence._choice import Drawn, carried_out
from ppl_vae.evidence._loop import ChunkResults, Purpose, Streams
from ppl_vae.evidence._pilots import BLOCK, Work
from ppl_vae.evidence._result import Claims, Columns, Direction, Evidence
from ppl_vae.evidence._sandwich import Likeness, Sandwich
from ppl_vae.particles import Evaluation
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights, log_sum_of_others

if TYPE_CHECKING:
    from ppl_vae.evidence._stages import Stages

_REAL = 64
"""Largest number of real data that simulated ones are compared with."""
_CLEARLY = 2.33
"""Standard errors of the rank statistic from which on data are called easier: 1% by chance."""

Latents = Mapping[str, Tensor]


def simulated(look: Evaluation, num_simulated: int, seed: int | None) -> tuple[Latents, Tensor]:
    """Latents, and data of the model's own that come from them.

    Where real data lack cells, so do simulated ones, in the patterns of as many real rows: what is
    missing by a pattern of its own leaves z an exact draw of the posterior given the rest.

    Args:
        look: The programs, and real data for their shape.
        num_simulated: Number of data.
        seed: Seed of the draws.
    """
    with seeded(seed, Stream.SAMPLING):
        rows = torch.randint(len(look.x), (num_simulated,)).sort().values
        real = in_memory(select(look.x, rows), "a certificate").to(look.device)
        latents, x = look.programs.simulate_data(real)
    if real.is_floating_point() and bool(real.isnan().any()):
        x = torch.where(real.isnan(), real, x)
    return latents, x


def certified(stages: "Stages", x: Tensor, latents: Latents, method: str) -> Sandwich:
    r"""Both sides of log p(x) of simulated data, each by the stage and the draws it ends at.

    The lower side is the estimate ``log 1/K sum_k w_k``. For the upper one z*, an exact draw of the
    posterior, takes the place of each of the K draws in turn:

        ``-log 1/K sum_k K / (w(z*) + sum_(j != k) w_j)``,

    whose exponential's inverse has mean 1 / p(x): K draws of which one, at random, is of the
    posterior have the density of the K draws times ``mean w / p(x)``. In place of a chain stands
    one that is annealed backwards from z*, by the same steps. Of a mixture, z* takes places of the
    part that it is likely to come from.

    Args:
        stages: Stages for these data.
        x: Simulated data.
        latents: The latents that they come from.
        method: Name of the estimate.

    References:
        Grosse, Ghahramani and Adams, 2015, Sandwiching the marginal likelihood using bidirectional
        Monte Carlo.
        Andrieu, Doucet and Holenstein, 2010, Particle Markov chain Monte Carlo methods.
    """
    dim = stages.look.programs.max_plate_nesting

    def both(look: Evaluation, x: Tensor, streams: Streams) -> Columns:
        with stages.chosen(look, x, streams) as (choice, share):
            return carried_out(choice, share, lambda drawn: _sides(drawn, streams))

    def _sides(drawn: Drawn, streams: Streams) -> dict[str, Tensor]:
        own = drawn.candidate.data[drawn.local] + streams.first
        at = {
            name: value.index_select(dim, own.to(value.device)) for name, value in latents.items()
        }
        each, log_weight = drawn.candidate, drawn.fresh.log_weight.cpu()
        lower = drawn.values(log_weight)
        exact, places = each.plan.exact(each.work, drawn.local, drawn.fresh, at, dim)
        upper = drawn.values(torch.cat([exact.unsqueeze(0), log_weight[1:]]))
        upper["log_prob"] = upper_bound(log_weight.double(), exact, places)
        # Their doubt is of the other side.
        kept = {name: v for name, v in upper.items() if name not in ("bias", "doubt")}
        return lower | {f"upper/{name}": value for name, value in kept.items()}

    results = stages.call.by_chunk(stages.look, f"certificate of {stages.auto!r}", both)
    lower, upper = (_side(side, results, method) for side in ("lower", "upper"))
    return Sandwich(x.cpu(), lower, upper, results.identity)


def upper_bound(
    log_weight: Float[Tensor, "draws batch"],
    exact: Float[Tensor, " batch"],
    places: Float[Tensor, "draws batch"],
) -> Float[Tensor, " batch"]:
    """``-log sum_k s_k / mean(w with the exact draw's in place of w_k)``, in nats.

    Args:
        log_weight: log w_k.
        exact: Log-weight of the exact draw.
        places: Shares s_k, which add up to 1.
    """
    mean = torch.logaddexp(log_sum_of_others(log_weight), exact) - math.log(len(log_weight))
    return -torch.logsumexp(places.log() - mean, 0)


def _side(side: Direction, results: ChunkResults, method: str) -> Evidence:
    shared = ("stage", "evaluations")
    columns = dict(results.columns)
    if side == "upper":
        columns = {
            n.removeprefix("upper/"): v for n, v in columns.items() if n.startswith("upper/")
        }
        columns |= {name: results.columns[name] for name in shared}
        method = f"{method}, one draw of each being exact"
    claims = Claims(
        num_particles=int(results.columns["draws"].max()), direction=side, method=method
    )
    return Evidence.from_weights(columns, claims, results.identity, results.seconds)


def likeness(
    real: "Stages",
    simulated: "Stages",
    found: Sandwich,
    estimate: Evidence | None,
    seed: int | None,
) -> Likeness:
    """How hard simulated data are beside real ones.

    By the effective samples of a block of draws of the guide, which are the same for both, and by
    what the estimate spent on a datum.

    Args:
        real: Stages for the real data.
        simulated: Stages for the simulated ones.
        found: Their sandwich.
        estimate: Estimate of the real data, if it is there.
        seed: Seed of the draws.
    """
    effective = spent = None
    easier = False
    if real.guided:
        theirs, ours = (_effective(each, seed) for each in (simulated, real))
        effective = theirs.median().item(), ours.median().item()
        easier = _mostly_above(theirs, ours)
    if estimate is not None and estimate.evaluations is not None:
        assert found.lower.evaluations is not None
        costs = found.lower.evaluations, estimate.evaluations
        spent = costs[0].mean().item(), costs[1].mean().item()
        easier |= _mostly_above(costs[1], costs[0])
    return Likeness(BLOCK, effective, spent, easier)


def _effective(stages: "Stages", seed: int | None) -> Float[Tensor, " batch"]:
    """Effective samples of a block of draws of the guide, of a sample of the data."""
    look, streams = stages.look, Streams(seed, 0, 0)
    with streams.stream(Purpose.PREDICTION), torch.no_grad():
        rows = torch.randperm(len(look.x))[:_REAL].sort().values
        x = in_memory(select(look.x, rows), "a certificate").to(look.device)
        work = Work(
            stages.programs.rows(rows), x, look.data_at_once, look.replays, stages.defensive
        )
        log_weight, _ = work.log_weights(torch.ones(len(x), dtype=torch.long))
    return RunningWeights.of(log_weight).effective_sample_size


def _mostly_above(a: Tensor, b: Tensor) -> bool:
    """Whether values of a are mostly above those of b, by Mann and Whitney's statistic."""
    larger = (a.unsqueeze(1) > b).double() + 0.5 * (a.unsqueeze(1) == b).double()
    error = math.sqrt((len(a) + len(b) + 1) / (12 * len(a) * len(b)))
    return (larger.mean().item() - 0.5) > _CLEARLY * error
