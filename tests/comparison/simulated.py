"""Simulated studies: values by seed and datum with known components of variance."""

from itertools import combinations

import numpy as np
import torch
from scipy.stats import binom

from ppl_vae.comparison._cells import Cells
from ppl_vae.comparison._confidence import MeanSquares, mean_squares
from ppl_vae.evidence import Evidence, MeanDoubt

NO_DOUBT = MeanDoubt()

# Standard deviations of seeds, data and the rest. Errors of the mean from the data alone, half
# from the seeds, nearly all from the seeds, and all from the rest.
COMPONENTS = {
    "data": (0.0, 1.0, 0.3),
    "both": (0.1, 1.0, 1.0),
    "seeds": (0.5, 1.0, 0.5),
    "rest": (0.0, 0.0, 1.0),
}


def simulate(generator, shape, seed_sd, datum_sd, rest_sd, skewness=0.0):
    """Values of mean 0, shape (..., seeds, data); data effects and the rest of this skewness."""
    *cases, seeds, data = shape

    def draw(size):
        if skewness == 0:
            return generator.standard_normal(size)
        if skewness == 2:
            return generator.standard_exponential(size) - 1
        power = 4 / skewness**2
        return (generator.gamma(power, size=size) - power) / power**0.5

    return (
        seed_sd * generator.standard_normal((*cases, seeds, 1))
        + datum_sd * draw((*cases, 1, data))
        + rest_sd * draw((*cases, seeds, data))
    )


def all_pairs(values):
    """Mean squares of the differences of all pairs of arms; values (cases, arms, seeds, data)."""
    pairs = [
        mean_squares(values[:, b] - values[:, a])
        for a, b in combinations(range(values.shape[1]), 2)
    ]
    return MeanSquares(
        **{name: np.stack([getattr(pair, name) for pair in pairs], 1) for name in vars(pairs[0])}
    )


def require_coverage(significance, covered, low=0.93, high=0.97):
    """Fail if as many covered by chance is improbable for every coverage in the range."""
    trials, count = len(covered), int(covered.sum())
    fewest = binom.ppf(significance.rate / 2, trials, low)
    most = binom.isf(significance.rate / 2, trials, high)
    assert fewest <= count <= most, f"covered {count} of {trials}, not {low} to {high}"


def cells_of(values, standard_error=0.0, doubt=NO_DOUBT):
    """Values (seeds, data) as cells of seeds 0, 1, ..."""
    values = torch.as_tensor(values, dtype=torch.float64)
    variance = torch.full_like(values, standard_error**2)
    return Cells(tuple(range(len(values))), values, variance, (doubt,) * len(values))


def evidence(log_prob, standard_error=0.0, ess=100.0):
    log_prob = torch.as_tensor(log_prob, dtype=torch.float64)
    return Evidence(
        log_prob=log_prob,
        standard_error=torch.full_like(log_prob, standard_error),
        effective_sample_size=torch.full_like(log_prob, ess),
        num_particles=100,
        direction="lower",
        method="importance sampling",
        seconds=0.0,
    )


def seeds_of(values, **options):
    """Rows as the evidence of seeds 0, 1, ..."""
    return {seed: evidence(row, **options) for seed, row in enumerate(values)}
