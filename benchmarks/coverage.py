"""Coverage of intervals for a mean over seeds and data, on simulated studies of known truth.

Each study is ``y_si = seed_s + datum_i + rest_si`` with mean 0, as paired differences of log p(x)
are; data effects and the rest are normal or skewed. Counted is how often the 95% interval of each
method holds 0, how often a simultaneous interval excludes 0 among arms without a difference, how
often the intervals and probabilities of ranks are right, and what power the planned seeds have.

    python benchmarks/coverage.py               # JSON on stdout, tables on stderr; half an hour
    python benchmarks/coverage.py --out FILE    # JSON in a file too
    python benchmarks/coverage.py --part ranks  # one of the parts
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, write
from scipy import stats

from ppl_vae.comparison._bootstrap import data_factor, hierarchical_bootstrap, rank_arms
from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._confidence import ConfidenceDistribution, MeanSquares, mean_squares
from ppl_vae.comparison._crossed import CrossedMean, crossed_mean
from ppl_vae.comparison._seeds import power_of, random_effects
from ppl_vae.comparison._trust import MeanDoubt

# Standard deviations of seeds, data and the rest; that of the seeds for N = 200, and scaled by
# sqrt(200 / N), so that each source has the same share of the error at every N.
COMPONENTS = {
    "data": (0.0, 1.0, 0.3),
    "both": (0.1, 1.0, 1.0),
    "seeds": (0.3, 1.0, 0.5),
    "seeds alone": (3.0, 1.0, 0.5),
    "rest": (0.0, 0.0, 1.0),
}
SKEWNESS = {"normal": 0.0, "skewed": 2.0, "very skewed": 4.0}


def _cells(values: np.ndarray) -> Cells:
    """Exact values by seed and datum, of seeds 0, 1, ..."""
    seeds = tuple(range(len(values)))
    return Cells(
        seeds, torch.tensor(values), torch.zeros(values.shape), (MeanDoubt(),) * len(seeds)
    )


def simulate(
    rng: np.random.Generator, shape: tuple[int, ...], components: str, skewness: float = 0.0
) -> np.ndarray:
    """Values of mean 0 with shape (..., seeds, data)."""
    *cases, seeds, data = shape
    seed_sd, datum_sd, rest_sd = COMPONENTS[components]

    def draw(size: tuple[int, ...]) -> np.ndarray:
        if skewness == 0:
            return rng.standard_normal(size)
        power = 4 / skewness**2
        return (rng.standard_gamma(power, size) - power) / power**0.5

    return (
        seed_sd * (200 / data) ** 0.5 * rng.standard_normal((*cases, seeds, 1))
        + datum_sd * draw((*cases, 1, data))
        + rest_sd * draw((*cases, seeds, data))
    )


def closed_forms(values: np.ndarray) -> dict[str, np.ndarray]:
    """Two-sided p-values of 0 for each study, of the methods that resample nothing."""
    squares = mean_squares(values)
    seeds, data = values.shape[1:]
    both = (squares.seed + squares.datum - squares.rest) / (seeds * data)
    parts = np.stack([squares.seed, squares.datum, squares.rest]) / (seeds * data)
    variance = np.maximum(both, parts[:2].max(0))
    counts = np.array([seeds - 1, data - 1, (seeds - 1) * (data - 1)])
    degrees = 1 / ((parts / variance) ** 2 / counts[:, None]).sum(0)
    t = np.abs(squares.mean) / np.sqrt(variance)
    return {
        "default": ConfidenceDistribution(squares).p_value(),
        "behrens-fisher": ConfidenceDistribution(squares, cautious=True).p_value(),
        "satterthwaite": 2 * stats.t.sf(t, degrees),
        "t(S-1)": 2 * stats.t.sf(t, seeds - 1),
    }


def resampled(values: np.ndarray, replicates: int, rng: np.random.Generator) -> dict[str, float]:
    """Coverage of the bootstraps of seeds and data (the pigeonhole bootstrap)."""
    _, seeds, data = values.shape
    of_seeds = rng.multinomial(seeds, [1 / seeds] * seeds, replicates) / seeds
    of_data = rng.multinomial(data, [1 / data] * data, replicates) / data
    covered: dict[str, list[bool]] = {}
    for number, study in enumerate(values):
        for name, (low, high) in _intervals(study, of_seeds, of_data, number).items():
            covered.setdefault(name, []).append(bool(low <= 0 <= high))
    return {name: float(np.mean(found)) for name, found in covered.items()}


def _intervals(
    study: np.ndarray, of_seeds: np.ndarray, of_data: np.ndarray, number: int
) -> dict[str, np.ndarray]:
    seeds, data = study.shape
    mean, per_seed, per_datum = study.mean(), study @ of_data.T, of_seeds @ study
    draws = (of_seeds.T * per_seed).sum(0)
    error = np.sqrt(
        (of_seeds * (per_seed.T - draws[:, None]) ** 2).sum(1) / max(seeds - 1, 1)
        + (of_data * (per_datum - draws[:, None]) ** 2).sum(1) / (data - 1)
    )
    own = np.sqrt(study.mean(1).var(ddof=1) / seeds + study.mean(0).var(ddof=1) / data)
    percentile = np.quantile(draws, [0.025, 0.975])
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = np.nan_to_num((draws - mean) / error, nan=0.0)
    studentised = mean - own * np.quantile(pivots, [0.975, 0.025], method="inverted_cdf")
    half = draws.std() * np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(0.975, seeds - 1)
    cells = [_cells(study)]
    ours = hierarchical_bootstrap(cells, [data_factor(study)], len(draws), number)
    return {
        "percentile": percentile,
        "basic": 2 * mean - percentile[::-1],
        "bootstrap-t": studentised,
        "bootstrap error, t(S-1)": np.array([mean - half, mean + half]),
        "t-corrected bootstrap": np.quantile(ours, [0.025, 0.975]),
    }


def coverage(quick: bool) -> Iterator[dict[str, Any]]:
    """One row for each setting: the share of intervals that hold the truth."""
    many, few, replicates = (200, 20, 50) if quick else (2000, 500, 500)
    numbers = ((2, 3), (50,)) if quick else ((2, 3, 5, 10), (50, 200, 1000))
    settings = product(SKEWNESS.items(), *numbers, COMPONENTS)
    for row, ((skewed, skewness), *shape, components) in enumerate(settings):
        rng = np.random.default_rng([0, row])
        batches = [
            closed_forms(simulate(rng, (200, *shape), components, skewness))
            for _ in range(0, many, 200)
        ]
        shares = {
            name: float(np.mean([batch[name] >= 0.05 for batch in batches])) for name in batches[0]
        }
        if shape[1] == (50 if quick else 200) and skewness <= 2:
            studies = simulate(rng, (few, *shape), components, skewness)
            shares |= resampled(studies, replicates, rng)
        yield {
            "distribution": skewed, "seeds": shape[0], "data": shape[1],
            "variance_from": components, "coverage": shares,
        }  # fmt: skip


def _pairs(values: np.ndarray) -> MeanSquares:
    """Mean squares of all differences of arms, (cases, pairs)."""
    arms = range(values.shape[1])
    each = [vars(mean_squares(values[:, b] - values[:, a])) for a, b in combinations(arms, 2)]
    return MeanSquares(**{name: np.stack([one[name] for one in each], 1) for name in each[0]})


def false_alarms(quick: bool) -> Iterator[dict[str, Any]]:
    """Arms without a difference: any called real, and each alone at 5%."""
    sizes = ((2, 3), (3,)) if quick else ((2, 3, 5, 10), (3, 8))
    for row, (num_seeds, num_arms, components) in enumerate(product(*sizes, COMPONENTS)):
        rng = np.random.default_rng([1, row])
        single, cautious, liberal = [], [], []
        for _ in range(1 if quick else 10):
            found = _pairs(simulate(rng, (100, num_arms, num_seeds, 100), components))
            p = ConfidenceDistribution(found).p_value()
            single.append((p < 0.05).mean())
            liberal.append((p.min(1) < 0.05 / p.shape[1]).mean())
            together = ConfidenceDistribution(found, cautious=True).p_value()
            cautious.append((together.min(1) < 0.05 / p.shape[1]).mean())
        yield {
            "seeds": num_seeds, "arms": num_arms, "variance_from": components,
            "single": float(np.mean(single)), "any_together": float(np.mean(cautious)),
            "any_together_on_single_p": float(np.mean(liberal)),
        }  # fmt: skip


def ranks(quick: bool) -> Iterator[dict[str, Any]]:
    """Five arms whose true means differ at random: is what is said of ranks right?"""
    rng = np.random.default_rng(2)
    studies, replicates, num_arms, num_data = (10, 200, 5, 100) if quick else (500, 1000, 5, 100)
    for num_seeds, components, spread in product((2, 3, 5), COMPONENTS, (0.0, 1.0)):
        error = np.sqrt(
            mean_squares(simulate(rng, (200, num_seeds, num_data), components)).mean.var()
        )
        said, best, held = [], [], []
        for number in range(studies):
            truth = spread * error * 2 * rng.standard_normal(num_arms)
            values = truth[:, None, None] + simulate(
                rng, (num_arms, num_seeds, num_data), components
            )
            cells = {str(arm): _cells(y) for arm, y in enumerate(values)}
            found = rank_arms(cells, 0.95, replicates, number)
            true_rank = stats.rankdata(-truth, method="ordinal")
            for arm in range(num_arms):
                rank = found[str(arm)]
                said.append(rank.best)
                best.append(true_rank[arm] == 1)
                held.append(rank.interval[0] <= true_rank[arm] <= rank.interval[1])
        yield {
            "seeds": num_seeds, "variance_from": components, "spread_over_error": 2 * spread,
            "rank_interval_coverage": float(np.mean(held)) if spread else None,
            "said_and_true": _calibration(np.array(said), np.array(best)) if spread else None,
            "largest_mean_probability": float(
                np.reshape(said, (-1, num_arms)).mean(0).max()
            ) if not spread else None,
        }  # fmt: skip


def _calibration(said: np.ndarray, true: np.ndarray) -> list[dict[str, float]]:
    """Mean probability said and share that was best, in bins of what was said."""
    edges = np.array([0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0001])
    bins = np.digitize(said, edges) - 1
    return [
        {"said": float(said[bins == b].mean()), "true": float(true[bins == b].mean()),
         "count": int((bins == b).sum())}
        for b in range(len(edges) - 1) if (bins == b).any()
    ]  # fmt: skip


def training_runs(quick: bool) -> Iterator[dict[str, Any]]:
    """The random-effects model: tau, the interval on these data, the prediction of a new run."""
    rng = np.random.default_rng(3)
    studies, num_data = (20, 100) if quick else (1000, 100)
    for num_seeds, components in product((2, 3, 5, 10), COMPONENTS):
        seed_sd = COMPONENTS[components][0] * (200 / num_data) ** 0.5
        within, predicted, tau = [], [], []
        for _ in range(studies):
            values = simulate(rng, (num_seeds + 1, num_data), components)
            new, values = values[-1].mean(), values[:-1]
            # A datum's own effect is the same in the new run: "data" moves both alike.
            cells = _cells(values)
            found = random_effects(cells, 0.95)
            assert found is not None
            predicted.append(found.prediction_interval[0] <= new <= found.prediction_interval[1])
            tau.append(found.tau)
            within.append(found.i_squared)
        yield {
            "seeds": num_seeds, "variance_from": components, "true_tau": seed_sd,
            "root_mean_square_tau": float(np.sqrt(np.mean(np.square(tau)))),
            "mean_i_squared": float(np.mean(within)),
            "prediction_coverage": float(np.mean(predicted)),
        }  # fmt: skip


def planned_power(quick: bool) -> Iterator[dict[str, Any]]:
    """Power of the test with as many seeds as were planned from two, the components known."""
    rng = np.random.default_rng(4)
    cases = 100 if quick else 2000
    for components, effect, level in product(("data", "both", "seeds"), (0.2, 0.4), (0.05, 0.005)):
        plan = power_of(_known(components, effect), level, shown=False)
        achieved = None
        if plan.more_seeds is not None and plan.more_seeds < 60:
            shape = cases, 2 + plan.more_seeds, 200
            found = mean_squares(simulate(rng, shape, components) + effect)
            p = ConfidenceDistribution(found, cautious=level < 0.05).p_value()
            achieved = float((p < level).mean())
        yield {
            "variance_from": components, "effect": effect, "level": level,
            "planned_seeds": None if plan.more_seeds is None else 2 + plan.more_seeds,
            "planned_more_data": plan.more_data, "achieved_power": achieved,
        }  # fmt: skip


def _known(components: str, effect: float) -> CrossedMean:
    """A difference over 2 seeds and 200 data whose mean squares are what they are on average."""
    seed, datum, rest = (sd**2 for sd in COMPONENTS[components])
    known = effect, 200 * seed + rest, 2 * datum + rest, rest, 0.0, 2.0, 200.0
    squares = MeanSquares(*map(np.asarray, known))
    found = crossed_mean(torch.zeros(2, 200), torch.zeros(2, 200))
    return replace(found, mean=effect, squares=squares)


PARTS: dict[str, Callable[[bool], Iterator[dict[str, Any]]]] = {
    "coverage": coverage,
    "false_alarms": false_alarms,
    "ranks": ranks,
    "training_runs": training_runs,
    "planned_power": planned_power,
}


def main() -> None:
    """Print JSON, and rows as they are done for people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="there is no other")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (repeat)")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"machine": machine(torch.device("cpu"))}
    for name in arguments.part or PARTS:
        result[name] = []
        for row in PARTS[name](arguments.quick):
            result[name].append(row)
            sys.stderr.write(f"{name}: {row}\n")
    write(result, arguments.out)


if __name__ == "__main__":
    main()
