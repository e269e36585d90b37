"""A comparison as plain values, for JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ppl_vae.comparison._crossed import CrossedMean
from ppl_vae.comparison._factors import FactorTable, Pair
from ppl_vae.comparison._multiplicity import PairedTest

if TYPE_CHECKING:
    from ppl_vae.comparison._comparison import Comparison


def summary_of(comparison: "Comparison") -> dict[str, Any]:
    """Everything a comparison says."""
    return {
        "unit": "nats per datum",
        "num_data": comparison.num_data,
        "num_seeds": comparison.num_seeds,
        "methods": comparison.methods,
        "num_particles": comparison.num_particles,
        "confidence": comparison.confidence,
        "reference": comparison.reference,
        "notes": comparison.notes,
        "arms": {arm: _arm(comparison, arm) for arm in comparison.arms},
        "differences": [
            {
                **_difference(pair, mean, comparison.tests[pair]),
                "verdict": comparison.verdict(pair),
                "bootstrap_interval": comparison.bootstrap[pair],
                "power": asdict(comparison.power[pair]),
            }
            for pair, mean in comparison.differences.items()
        ],
        "factors": {
            factor: _factor(table, comparison.confidence)
            for factor, table in comparison.factors.items()
        },
    }


def _arm(comparison: "Comparison", arm: str) -> dict[str, Any]:
    rank, effects = comparison.ranking[arm], comparison.random_effects.get(arm)
    return {
        **_mean(comparison.arms[arm]),
        "interval": comparison.arms[arm].interval(comparison.confidence),
        "seeds": comparison.seeds[arm],
        "rank": rank.rank,
        "rank_interval": rank.interval,
        "best_probability": rank.best,
        "random_effects": None if effects is None else asdict(effects),
        "warning": comparison.warnings.get(arm),
    }


def _factor(table: FactorTable, confidence: float) -> dict[str, Any]:
    return {
        "cells": table.cells,
        "left_out": table.left_out,
        "levels": {
            level: {**_mean(mean), "interval": mean.interval(confidence)}
            for level, mean in table.levels.items()
        },
        "differences": [
            _difference(pair, mean, table.tests[pair]) for pair, mean in table.differences.items()
        ],
    }


def _difference(pair: Pair, mean: CrossedMean, test: PairedTest) -> dict[str, Any]:
    return {
        "a": pair[0],
        "b": pair[1],
        **_mean(mean),
        "interval": test.simultaneous,
        "single_interval": test.interval,
        "p_value": test.p_value,
        "adjusted_p": test.adjusted_p,
        "num_seeds": test.num_seeds,
    }


def _mean(mean: CrossedMean) -> dict[str, Any]:
    return {name: value for name, value in vars(mean).items() if name != "squares"}
