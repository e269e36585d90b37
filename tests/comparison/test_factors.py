import numpy as np
import pytest

from comparison.simulated import cells_of
from ppl_vae.comparison._cells import factor_tables

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
