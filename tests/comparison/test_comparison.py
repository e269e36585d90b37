"""From evidence to a comparison: pairing, what is missing, what is said, in values and in words."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from comparison.simulated import evidence, seeds_of, simulate
from ppl_vae.comparison import compare, crossed_mean, format_comparison
from ppl_vae.comparison._bootstrap import rank_arms
from ppl_vae.comparison._cells import gather
from ppl_vae.comparison._seeds import random_effects


def study(arms=3, seeds=3, data=40, step=0.1, **options):
    """Arms 0.1 nats apart over shared data effects of 10 nats."""
    generator = np.random.default_rng(0)
    shared = 10 * generator.standard_normal(data)
    return {
        f"arm {arm}": seeds_of(
            shared + step * arm + simulate(generator, (seeds, data), 0.02, 0.1, 0.1), **options
        )
        for arm in range(arms)
    }


class TestPairing:
    def test_differences_are_paired_by_datum_and_seed(self):
        results = study()
        found = compare(results)
        assert list(found.differences) == [
            ("arm 1", "arm 0"), ("arm 2", "arm 0"), ("arm 2", "arm 1"),
        ]  # fmt: skip
        difference = found.differences["arm 2", "arm 0"]
        assert difference.error < 0.05 < 1 < found.arms["arm 0"].error
        a, b = (
            torch.stack([r.log_prob for r in results[arm].values()]) for arm in ("arm 2", "arm 0")
        )
        assert difference == crossed_mean(a - b, torch.zeros_like(a))

    def test_seeds_are_matched_by_number_not_by_order(self):
        results = study()
        shuffled = {**results, "arm 1": dict(reversed(results["arm 1"].items()))}
        assert compare(shuffled).differences == compare(results).differences
        renumbered = {
            **results,
            "arm 1": dict(zip([1, 2, 0], results["arm 1"].values(), strict=True)),
        }
        assert compare(renumbered).differences != compare(results).differences

    def test_a_missing_seed_is_missing_in_the_differences_with_its_arm_only(self):
        results = study()
        del results["arm 1"][1]
        found = compare(results)
        assert found.seeds == {"arm 0": (0, 1, 2), "arm 1": (0, 2), "arm 2": (0, 1, 2)}
        assert found.tests["arm 1", "arm 0"].num_seeds == 2
        assert found.tests["arm 2", "arm 0"].num_seeds == 3
        assert found.num_seeds == 3
        assert any("fewer than 3 seeds: arm 1 (2)" in note for note in found.notes)
        assert any("two seeds" in note for note in found.notes)
        only = {arm: {s: r for s, r in cells.items() if s != 1} for arm, cells in results.items()}
        pair = "arm 1", "arm 0"
        assert found.differences[pair] == compare(only).differences[pair]

    def test_arms_without_a_common_seed_are_not_compared(self):
        results = study(arms=2)
        results["arm 1"] = {seed + 3: result for seed, result in results["arm 1"].items()}
        found = compare(results)
        assert found.differences == found.tests == found.power == {}
        assert len(found.arms) == 2
        assert any("no seed in common" in note for note in found.notes)
        assert "Differences" not in format_comparison(found, "title")

    def test_an_arm_without_results_is_left_out(self):
        found = compare({**study(arms=2), "broken": {}})
        assert "broken" not in found.arms
        assert any("broken is left out" in note for note in found.notes)

    def test_an_arm_with_an_impossible_datum_is_not_judged_by_its_other_runs(self):
        results = study(arms=3)
        results["arm 0"][1].log_prob[3] = -math.inf
        found = compare(results)
        assert set(found.arms) == {"arm 1", "arm 2"}
        assert found.notes[0].startswith(
            "arm 0 is left out: log p(x) is -inf for some data of seed 1"
        )

    def test_a_result_that_is_no_number_is_left_out(self):
        results = study(arms=2)
        results["arm 0"][1].log_prob[3] = math.nan
        found = compare(results)
        assert found.seeds["arm 0"] == (0, 2)
        assert found.notes[0].startswith("arm 0 seed 1 is left out")
        json.dumps(found.summary(), allow_nan=False)


class TestReference:
    def test_all_pairs_up_to_twelve_arms(self):
        found = compare(study(arms=12, seeds=2, data=10), replicates=50)
        assert found.reference is None
        assert len(found.differences) == 66

    def test_more_arms_are_compared_with_the_best(self):
        found = compare(study(arms=13, seeds=2, data=10), replicates=50)
        assert found.reference == next(iter(found.ranking)) == "arm 12"
        assert list(found.differences) == [(f"arm {arm}", "arm 12") for arm in range(12)]
        assert any("optimistic" in note for note in found.notes)
        assert "Differences from arm 12" in format_comparison(found, "title")

    def test_a_reference_of_ones_own(self):
        found = compare(study(), reference="arm 1")
        assert list(found.differences) == [("arm 0", "arm 1"), ("arm 2", "arm 1")]
        assert not any("optimistic" in note for note in found.notes)

    def test_an_unknown_reference_is_refused(self):
        with pytest.raises(ValueError, match="reference must be one of"):
            compare(study(), reference="elbo")


class TestWhatIsSaid:
    def test_what_is_shown(self):
        found = compare(study(step=1.0))
        for pair in found.differences:
            assert found.verdict(pair) == f"{pair[0]} higher"
            assert found.tests[pair].adjusted_p <= 0.05
            assert found.power[pair].more_seeds == 0
        assert list(found.ranking) == ["arm 2", "arm 1", "arm 0"]
        assert found.ranking["arm 2"].best > 0.95

    def test_the_lower_arm_first(self):
        found = compare(study(arms=2, step=-1.0))
        assert found.verdict(("arm 1", "arm 0")) == "arm 0 higher"

    def test_what_is_not_shown(self):
        found = compare(study(arms=2, step=0.0))
        (pair,) = found.differences
        assert found.verdict(pair) == "no difference shown"
        low, high = found.interval(pair)
        assert low < 0 < high
        assert found.power[pair].text

    def test_parts_are_those_of_their_own(self):
        results = study()
        found = compare(results, confidence=0.9, replicates=100, seed=3)
        cells, _ = gather(results)
        assert found.ranking == rank_arms(cells, 0.9, 100, 3)
        assert found.random_effects == {
            arm: random_effects(each, 0.9) for arm, each in cells.items()
        }

    def test_one_seed_is_said_to_show_nothing_of_others(self):
        found = compare(study(seeds=1))
        assert found.random_effects == {}
        assert any("no method can say from one seed" in note for note in found.notes)
        assert "one seed" in format_comparison(found, "title")

    def test_enough_seeds_and_data_need_no_word(self):
        assert compare(study(data=60)).notes == []

    def test_few_data_are_said_to_be_few(self):
        assert any("40 data are few" in note for note in compare(study()).notes)

    def test_a_datum_that_outweighs_the_rest_is_said(self):
        results = study(arms=2, data=60)
        for result in results["arm 1"].values():
            result.log_prob[7] -= 50.0
        (note,) = compare(results).notes
        assert "a few data outweigh the rest in arm 1 - arm 0" in note

    def test_the_bootstrap_is_near(self):
        found = compare(study(seeds=8, data=60))
        for pair, (low, high) in found.bootstrap.items():
            expected = found.tests[pair].interval
            width = expected[1] - expected[0]
            assert [low, high] == pytest.approx(expected, abs=0.15 * width)

    def test_the_same_twice(self):
        assert compare(study()) == compare(study())

    def test_levels_give_tables_of_factors(self):
        results = study(arms=4)
        levels = {f"arm {n}": {"prior": "ab"[n // 2], "guide": "cd"[n % 2]} for n in range(4)}
        found = compare(results, levels=levels)
        assert found.factors["prior"].differences["b", "a"].mean == pytest.approx(0.2, abs=0.1)
        text = format_comparison(found, "title")
        assert "prior, mean over 2 combination(s) of the other factors:" in text
        assert "d - c" in text

    def test_wrong_arguments_are_refused(self):
        with pytest.raises(ValueError, match="same data"):
            compare({"a": {0: evidence([0.0, 1.0])}, "b": {0: evidence([0.0, 1.0, 2.0])}})
        with pytest.raises(ValueError, match="confidence"):
            compare(study(), confidence=95.0)
        with pytest.raises(ValueError, match="finite result"):
            compare({"a": {0: evidence([0.0, math.nan])}})
        one = {0: evidence([0.0]), 1: evidence([0.1])}
        with pytest.raises(ValueError, match="a comparison needs at least 2 data, got 1"):
            compare({"a": one, "b": one})


class TestSummary:
    def test_it_is_json_without_nan(self):
        for results in (study(seeds=1), study(), {"a": {0: evidence([0.0, 1.0])}}):
            found = compare(results)
            text = json.dumps(found.summary(), allow_nan=False)
            assert json.loads(text) == found.summary()

    def test_it_holds_what_the_comparison_holds(self):
        levels = {f"arm {n}": {"prior": "ab"[n // 2], "guide": "cd"[n % 2]} for n in range(4)}
        found = compare(study(arms=4), levels=levels)
        summary = found.summary()
        assert set(summary["arms"]) == set(found.arms)
        arm = summary["arms"]["arm 1"]
        assert arm["mean"] == found.arms["arm 1"].mean
        assert arm["rank"] == found.ranking["arm 1"].rank
        assert arm["best_probability"] == found.ranking["arm 1"].best
        assert arm["random_effects"]["tau"] == found.random_effects["arm 1"].tau
        assert arm["interval"] == list(found.arms["arm 1"].interval())
        for row in summary["differences"]:
            pair = row["a"], row["b"]
            assert row["interval"] == list(found.interval(pair))
            assert row["adjusted_p"] == found.tests[pair].adjusted_p
            assert row["bootstrap_interval"] == list(found.bootstrap[pair])
            assert row["verdict"] == found.verdict(pair)
            assert row["power"]["text"] == found.power[pair].text
        table = summary["factors"]["guide"]
        assert table["levels"]["c"]["mean"] == found.factors["guide"].levels["c"].mean
        assert table["differences"][0]["mean"] == found.factors["guide"].differences["d", "c"].mean


class TestTable:
    def test_two_arms_look_as_ever(self):
        results = study(arms=2, step=1.0, data=60)
        text = format_comparison(compare(results), "title", ["a note"])
        lines = text.splitlines()
        assert lines[0] == "title"
        assert lines[1].startswith("N = 60 data, 3 seed(s)")
        assert lines[2] == "no estimate is in doubt"
        assert lines[4].split() == ["log", "p(x)", "error", "data", "seeds", "MC", "seed", "sd"]
        assert lines[8] == "Differences, paired by datum and seed:"
        assert lines[9].split() == ["mean", "error", "interval", "verdict"]
        assert lines[10].endswith("arm 1 higher")
        assert lines[12].startswith("Per seed: arm 1 - arm 0 +")
        assert text.endswith("a note")
        assert "P(best)" not in text

    def test_more_arms_show_p_values_and_who_is_best(self):
        text = format_comparison(compare(study()), "title")
        assert "P(best)" in text
        assert "p   verdict" in text
        assert "all of them together (Bonferroni, as p)" in text

    def test_the_headline_names_the_estimator(self):
        results = study(arms=2)
        assert "importance sampling with K = 100; nats" in format_comparison(
            compare(results), "title"
        )
        chains = {
            arm: {
                seed: replace(result, method="annealed importance sampling", num_particles=8)
                for seed, result in cells.items()
            }
            for arm, cells in results.items()
        }
        found = compare(chains)
        assert found.methods == ("annealed importance sampling with K = 8",)
        assert "annealed importance sampling with K = 8; nats" in format_comparison(found, "title")
        mixed = compare({**chains, "other": results["arm 0"]})
        assert len(mixed.methods) == 2
        assert "(other results by other settings)" in format_comparison(mixed, "title")

    def test_the_end_of_an_interval_has_the_digits_that_tell_its_side(self):
        found = compare(study(arms=2, step=1.0))
        pair = "arm 1", "arm 0"
        near = replace(found.tests[pair], simultaneous=(0.0002, 0.4))
        text = format_comparison(replace(found, tests={pair: near}), "title")
        assert "[+2e-04, +0.400]" in text

    def test_it_says_what_it_would_take(self):
        text = format_comparison(compare(study(arms=2, step=0.02)), "title")
        assert "To show a difference as large as the estimate (power 80%):" in text
        assert "no number of seeds can" in text or "more seed(s)" in text

    def test_warnings_of_the_evidence_are_kept(self):
        found = compare(study(arms=2, ess=2.0, standard_error=0.1))
        assert found.warnings.keys() == {"arm 0", "arm 1"}
        assert found.summary()["arms"]["arm 0"]["warning"].startswith("not to be trusted")


class TestDoubt:
    """How low an arm may be is part of how far it may be above another."""

    @staticmethod
    def doubted(low):
        """Two arms of which the lower one may be low by as much."""
        results = study(arms=2, step=1.0, data=60)
        zero = torch.zeros(60, dtype=torch.float64)
        limits = {"arm 0": zero + low, "arm 1": zero}
        return {
            arm: {
                seed: replace(result, bias=limits[arm], doubt=limits[arm])
                for seed, result in cells.items()
            }
            for arm, cells in results.items()
        }

    def test_the_interval_reaches_as_much_lower(self):
        pair = ("arm 1", "arm 0")
        plain, found = compare(study(arms=2, step=1.0, data=60)), compare(self.doubted(0.3))
        assert found.interval(pair)[0] == pytest.approx(plain.interval(pair)[0] - 0.3)
        assert found.interval(pair)[1] == pytest.approx(plain.interval(pair)[1])
        assert found.doubts == pytest.approx({"arm 0": 0.3, "arm 1": 0.0})

    def test_nothing_is_shown_that_the_doubt_may_hold(self):
        assert compare(self.doubted(0.01)).verdict(("arm 1", "arm 0")) == "arm 1 higher"
        assert compare(self.doubted(5.0)).verdict(("arm 1", "arm 0")) == "no difference shown"

    def test_the_first_lines_say_what_the_estimates_are_trusted_to(self):
        text = format_comparison(compare(self.doubted(0.0123)), "title")
        assert text.splitlines()[2] == "all estimates are trusted to 0.013 nats"

    def test_the_first_lines_name_what_is_in_doubt(self):
        found = compare(self.doubted(5.0))
        assert found.trust == (
            "in doubt: arm 0 (low by up to 5 nats; about 180M decoder evaluations in place of 18k "
            "bring that below 0.05); the others are trusted to 0.000 nats"
        )
        assert "may be low by 5 nats" in found.warnings["arm 0"]


class TestErrorsThatAllDataShare:
    """As that of a normalising constant, which is one for each run."""

    def arm(self, shift, seeds):
        made = {seed: evidence(np.linspace(-3.0, -2.0, 40) + shift, 0.05) for seed in range(seeds)}
        return {seed: replace(each, shared_error=0.04) for seed, each in made.items()}

    def test_one_seed_is_refused(self):
        with pytest.raises(ValueError, match="all data of rbm share an error"):
            compare({"rbm": self.arm(0.0, 1), "other": self.arm(0.1, 2)})

    def test_two_seeds_have_it_in_their_spread(self):
        cells, _ = gather({"rbm": self.arm(0.0, 2)})
        variance = cells["rbm"].monte_carlo_variance
        torch.testing.assert_close(variance, torch.full((2, 40), 0.03**2, dtype=torch.float64))
