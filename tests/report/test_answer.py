"""What a comparison came to, in words that follow from its numbers."""

import math
from dataclasses import replace

import pytest
import torch

from ppl_vae.comparison import compare
from ppl_vae.evidence import Evidence
from ppl_vae.report._answer import answer, oriented
from ppl_vae.report._numbers import MINUS

NUM_DATA = 60


def evidence(level, noise):
    draws = torch.Generator().manual_seed(noise)
    shared = torch.randn(NUM_DATA, generator=torch.Generator().manual_seed(0)).double()
    return Evidence(
        log_prob=level + shared + 0.05 * torch.randn(NUM_DATA, generator=draws).double(),
        standard_error=torch.full((NUM_DATA,), 0.01, dtype=torch.float64),
        effective_sample_size=torch.full((NUM_DATA,), 100.0, dtype=torch.float64),
        num_particles=200,
        direction="lower",
        method="iwae",
        seconds=1.0,
    )


def comparison(levels, **options):
    found = {
        arm: {seed: evidence(level, 10 * number + seed) for seed in range(4)}
        for number, (arm, level) in enumerate(levels.items(), start=1)
    }
    return compare(found, **options)


def words(levels, **options):
    sentences = answer(comparison(levels, **options))
    return " ".join(sentence.striptags() for sentence in sentences)


def test_the_best_of_two():
    text = words({"low": -10.0, "high": -8.0})
    assert "high has the highest mean log p(x) of 2 arms: " in text
    assert "best arm with probability > 0.999." in text
    assert "It is higher than low, by 2.000 nats (1.9" in text
    assert "No difference" not in text


def test_the_best_of_many():
    text = words({"low": -10.0, "high": -8.0, "middle": -9.0})
    assert "It is higher than every other arm, by" in text
    assert "over the closest of them, middle" in text


def test_no_difference():
    text = words({"a": -10.0, "b": -10.0, "c": -12.0})
    assert "No difference is shown between it and" in text
    assert "It is higher than c, by" in text


def test_an_arm_without_a_bound_leaves_the_answer_open():
    none = torch.full((NUM_DATA,), math.inf, dtype=torch.float64)
    low = {
        seed: replace(evidence(-12.0, 10 + seed), bias=torch.zeros(NUM_DATA), doubt=none)
        for seed in range(4)
    }
    high = {seed: evidence(-10.0, seed) for seed in range(4)}
    text = " ".join(part.striptags() for part in answer(compare({"low": low, "high": high})))
    assert ", if the estimates in doubt are right." in text
    assert "No difference is shown between it and low: to low it is +1.999" in text
    assert f"({MINUS}\N{INFINITY} to +2.011)" in text


def test_many_arms_are_counted_not_named():
    text = words({"best": -8.0, **{f"low{number}": -10.0 for number in range(7)}, "near": -8.0})
    assert text.count("low") <= 4
    assert " and 4 more" in text


def test_a_reference():
    levels = {"best": -8.0, "plain": -10.0, "worse": -12.0}
    levels |= {f"arm{number}": -10.0 for number in range(11)}
    text = words(levels, reference="plain")
    assert "best minus the reference plain: +" in text
    assert "Of the 13 arms compared with the reference, 1 is higher and 1 lower; for 11 no" in text


@pytest.mark.parametrize("arms", [("a", "b"), ("b", "a")])
def test_a_difference_either_way(arms):
    found = comparison({"a": -10.0, "b": -8.0})
    row = oriented(found, *arms)
    expected = found.arms[arms[0]].mean - found.arms[arms[1]].mean
    assert row.mean == pytest.approx(expected)
    assert row.low < row.mean < row.high
    assert sum(row.points) / 4 == pytest.approx(expected)
    assert oriented(found, "a", "nobody") is None


class TestDoubt:
    """What an arm may be low by is in every interval of a difference."""

    def found(self, doubt, bias=0.0, **options):
        arms = {
            arm: {
                seed: replace(
                    evidence(level, 10 * number + seed),
                    bias=torch.full((NUM_DATA,), bias * (arm == "elbo"), dtype=torch.float64),
                    doubt=torch.full(
                        (NUM_DATA,), doubt if arm == "elbo" else 0.0, dtype=torch.float64
                    ),
                )
                for seed in range(4)
            }
            for number, (arm, level) in enumerate({"elbo": 0.0, "iwae": 0.7}.items(), start=1)
        }
        return compare(arms, **options)

    def test_tables_of_factors_hold_it(self):
        levels = {arm: {"objective": arm, "prior": "normal"} for arm in ("elbo", "iwae")}
        found = self.found(0.9, 0.9, levels=levels)
        table = found.factors["objective"]
        ((pair, test),) = table.tests.items()
        assert test == found.tests[pair]
        assert test.simultaneous[0] < -0.2 < 0.7 < test.simultaneous[1]
