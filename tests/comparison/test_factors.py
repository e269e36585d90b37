from dataclasses import replace

import numpy as np
import pytest
import torch

from comparison.simulated import cells_of, evidence
from ppl_vae.comparison import compare, format_comparison
from ppl_vae.comparison._cells import factor_tables
from ppl_vae.evidence import MeanDoubt

NAMES = [f"{a} {b}" for a in ("elbo", "iwae") for b in ("normal", "vamp", "flow")]
LEVELS = {name: dict(zip(("objective", "prior"), name.split(), strict=True)) for name in NAMES}
EFFECTS = {"elbo": 0.0, "iwae": 1.0, "normal": 0.0, "vamp": 0.5, "flow": 2.0}


@pytest.fixture
def cells():
    generator = np.random.default_rng(0)
    shared = 10 * generator.standard_normal((1, 40))
    return {
        name: cells_of(
            shared
            + sum(EFFECTS[level] for level in LEVELS[name].values())
            + 0.01 * generator.standard_normal((3, 40)),
        )
        for name in NAMES
    }


def test_marginal_means_are_those_over_the_other_factor(cells):
    table = factor_tables(cells, LEVELS, 0.95)["objective"]
    arms = [cells[f"elbo {prior}"].values for prior in ("normal", "vamp", "flow")]
    assert table.cells == 3
    assert table.left_out == ()
    assert table.levels["elbo"].mean == pytest.approx(sum(arms).mean().item() / 3)
    ((pair, difference),) = table.differences.items()
    assert pair == ("iwae", "elbo")
    assert difference.mean == pytest.approx(1.0, abs=0.01)
    assert difference.error < 0.01 < table.levels["elbo"].error


def test_each_pair_of_levels_is_tested_together(cells):
    table = factor_tables(cells, LEVELS, 0.95)["prior"]
    assert list(table.differences) == [("vamp", "normal"), ("flow", "normal"), ("flow", "vamp")]
    assert table.differences["flow", "vamp"].mean == pytest.approx(1.5, abs=0.01)
    for pair, test in table.tests.items():
        low, high = test.simultaneous
        assert low < test.interval[0] < table.differences[pair].mean < test.interval[1] < high


def test_only_balanced_combinations_count(cells):
    del cells["iwae vamp"]
    tables = factor_tables(cells, LEVELS, 0.95)
    assert tables["objective"].cells == 2
    assert tables["objective"].left_out == ("elbo vamp",)
    # The unbalanced mean over priors would be 1 - (0.5 + 2) / 3 + 2 / 2 = 1.17.
    assert tables["objective"].differences["iwae", "elbo"].mean == pytest.approx(1.0, abs=0.01)
    assert tables["prior"].cells == 1
    assert set(tables["prior"].left_out) == {"iwae normal", "iwae flow"}


def test_a_seed_missing_in_one_arm_is_left_out_for_all(cells):
    cells["iwae vamp"] = cells["iwae vamp"].only([0, 2])
    table = factor_tables(cells, LEVELS, 0.95)["prior"]
    assert {len(mean.per_seed) for mean in table.levels.values()} == {2}
    expected = (cells["elbo flow"].values[0] + cells["iwae flow"].values[0]).mean().item() / 2
    assert table.levels["flow"].per_seed[0] == pytest.approx(expected)


def test_monte_carlo_error_of_an_average():
    cells = {name: cells_of(np.zeros((2, 10)), 0.3) for name in NAMES}
    mean = factor_tables(cells, LEVELS, 0.95)["objective"].levels["elbo"]
    assert mean.monte_carlo_error == pytest.approx(0.3 / np.sqrt(3 * 2 * 10))


def test_nothing_balanced_gives_no_table(cells):
    diagonal = {name: cells[name] for name in ("elbo normal", "iwae vamp")}
    assert factor_tables(diagonal, LEVELS, 0.95) == {}


def test_arms_without_levels_are_refused(cells):
    with pytest.raises(ValueError, match="iwae flow"):
        factor_tables(cells, {k: v for k, v in LEVELS.items() if k != "iwae flow"}, 0.95)


class TestDoubt:
    """Differences of levels hold what the arms of either level may be low by."""

    def cells(self, doubts):
        generator = np.random.default_rng(0)
        return {
            name: cells_of(
                sum(EFFECTS[level] for level in LEVELS[name].values())
                + 0.01 * generator.standard_normal((3, 40)),
                doubt=doubts.get(name, MeanDoubt()),
            )
            for name in NAMES
        }

    def test_the_doubt_of_a_mean_of_arms_is_their_mean(self):
        """Of three arms with half widths 0.3 in each of 3 seeds: 0.3 / sqrt(9) = 0.1."""
        doubts = {name: MeanDoubt(0.4, 0.3) for name in NAMES[:3]}
        plain, found = (
            factor_tables(self.cells(each), LEVELS, 0.95)["objective"] for each in ({}, doubts)
        )
        ((pair, mean),) = found.differences.items()
        assert pair == ("iwae", "elbo")
        for name in ("interval", "simultaneous"):
            low, high = getattr(plain.tests[pair], name)
            middle = mean.mean - 0.4
            expected = middle - np.hypot(mean.mean - low, 0.1), high
            assert getattr(found.tests[pair], name) == pytest.approx(expected)
        assert found.tests[pair].p_value == plain.tests[pair].p_value

    def test_a_shift_as_large_as_the_difference_hides_it(self):
        doubts = {name: MeanDoubt(1.5, 0.0) for name in NAMES[:3]}
        table = factor_tables(self.cells(doubts), LEVELS, 0.95)["objective"]
        assert table.tests["iwae", "elbo"].verdict(("iwae", "elbo")) == "no difference shown"
        # Both levels are low alike: 0.5 nats of the arms with either prior.
        prior = factor_tables(self.cells(doubts), LEVELS, 0.95)["prior"]
        plain = factor_tables(self.cells({}), LEVELS, 0.95)["prior"]
        assert prior.tests == plain.tests

    def test_one_arm_without_a_bound_leaves_its_level_open(self):
        tables = factor_tables(self.cells({"elbo vamp": MeanDoubt(above=True)}), LEVELS, 0.95)
        test = tables["objective"].tests["iwae", "elbo"]
        assert test.simultaneous[0] == -np.inf
        assert 1 < test.simultaneous[1] < 1.1
        assert test.verdict(("iwae", "elbo")) == "no difference shown"
        tests = tables["prior"].tests
        assert tests["vamp", "normal"].simultaneous[1] == np.inf
        assert tests["vamp", "normal"].verdict(("vamp", "normal")) == "vamp higher"
        assert tests["flow", "vamp"].verdict(("flow", "vamp")) == "no difference shown"
        assert tests["flow", "normal"].verdict(("flow", "normal")) == "flow higher"

    def test_a_comparison_says_so_in_table_and_values(self):
        noise = 0.1 * np.random.default_rng(1).standard_normal((4, 2, 60))
        names = NAMES[:2] + NAMES[3:5]
        arms = {
            name: {
                seed: replace(
                    evidence(row + 0.7 * name.startswith("iwae")),
                    bias=torch.zeros(60, dtype=torch.float64),
                    doubt=torch.full((60,), np.inf if name == "elbo vamp" else 0.0).double(),
                )
                for seed, row in enumerate(rows)
            }
            for name, rows in zip(names, noise, strict=True)
        }
        found = compare(arms, levels={name: LEVELS[name] for name in names}, replicates=200)
        (values,) = found._values()["factors"]["objective"]["differences"]
        assert values["interval"][0] == -np.inf
        assert 0.6 < values["interval"][1] < 1.0
        text = format_comparison(found, "title")
        (line,) = (line for line in text.splitlines() if line.startswith("iwae - elbo"))
        assert "[-inf, " in line
        assert line.endswith("no difference shown")
        assert "may be low by; errors, P(best) and p do not." in text
        low, high = found.bootstrap["iwae vamp", "elbo vamp"]
        assert low == -np.inf
        assert 0.6 < high < 1.0
