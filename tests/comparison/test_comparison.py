import math

import pytest
import torch

from ppl_vae.comparison import compare, crossed_mean, format_comparison
from ppl_vae.evidence import Evidence


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


def simulate(generator, seeds, data, seed_sd, datum_sd, rest_sd):
    return (
        torch.randn(seeds, 1, generator=generator, dtype=torch.float64) * seed_sd
        + torch.randn(1, data, generator=generator, dtype=torch.float64) * datum_sd
        + torch.randn(seeds, data, generator=generator, dtype=torch.float64) * rest_sd
    )


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "rest_sd"), [(1, 0.0, 0.5), (3, 0.0, 0.5), (5, 0.1, 0.5), (10, 0.3, 1.0)]
)
def test_stated_95_percent_interval_covers_in_93_to_97_percent(seeds, seed_sd, rest_sd):
    generator = torch.Generator().manual_seed(1)
    replicates = 1500
    covered = 0
    for _ in range(replicates):
        y = simulate(generator, seeds, 200, seed_sd, 1.0, rest_sd)
        low, high = crossed_mean(y, torch.zeros_like(y)).interval()
        covered += low < 0 < high
    # Binomial noise of 1,500 replicates is 0.56 points: three of it around the allowed band.
    noise = 3 * math.sqrt(0.95 * 0.05 / replicates)
    assert 0.93 - noise < covered / replicates < 0.97 + noise


def test_ignoring_seeds_would_fail_the_coverage_test():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(500):
        y = simulate(generator, 3, 200, 0.5, 1.0, 0.5)
        naive = y.flatten().std() / math.sqrt(y.numel())
        covered += abs(y.mean()) < 1.96 * naive
    assert covered / 500 < 0.9


def test_variance_components_are_unbiased():
    generator = torch.Generator().manual_seed(3)
    sds = {"seed": 0.3, "datum": 1.0, "rest": 0.5}
    seeds, data, replicates = 6, 100, 400
    results = [
        crossed_mean(
            simulate(generator, seeds, data, sds["seed"], sds["datum"], sds["rest"]),
            torch.zeros(seeds, data),
        )
        for _ in range(replicates)
    ]
    truth = {
        "error": sds["seed"] ** 2 / seeds
        + sds["datum"] ** 2 / data
        + sds["rest"] ** 2 / seeds / data,
        "data_error": sds["datum"] ** 2 / data,
        "seed_error": sds["seed"] ** 2 / seeds,
    }
    for name, variance in truth.items():
        values = torch.tensor([getattr(result, name) ** 2 for result in results])
        z = (values.mean() - variance) / (values.std() / math.sqrt(replicates))
        assert abs(z) < 5, name


def test_one_seed_gives_the_error_over_data_alone():
    y = torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = crossed_mean(y, torch.full_like(y, 0.01))
    assert result.error == pytest.approx(y.std().item() / math.sqrt(50))
    assert result.monte_carlo_error == pytest.approx(0.1 / math.sqrt(50))
    assert result.data_error == pytest.approx(math.sqrt(y.var().item() - 0.01) / math.sqrt(50))
    assert math.isnan(result.seed_spread)


def test_differences_are_paired_by_datum_and_seed():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 40, generator=generator, dtype=torch.float64) * 10
    noise = torch.randn(3, 40, generator=generator, dtype=torch.float64) * 0.01
    result = compare(
        {"a": [evidence(y) for y in base], "b": [evidence(y) for y in base + 0.5 + noise]}
    )
    difference = result.differences["b", "a"]
    assert difference.error < 0.02 < result.arms["a"].error
    assert difference.mean == pytest.approx(0.5, abs=6 * difference.error)
    assert result.verdict(("b", "a")) == "b higher"


def test_no_difference_is_called_real_when_the_interval_holds_zero():
    generator = torch.Generator().manual_seed(5)
    replicates, false = 1000, 0
    for _ in range(replicates):
        arms = {
            name: [evidence(y) for y in simulate(generator, 3, 50, 0.1, 0.5, 0.3)]
            for name in ("a", "b", "c")
        }
        result = compare(arms)
        assert len(result.differences) == 3
        for pair in result.differences:
            low, high = result.interval(pair)
            assert (result.verdict(pair) == "no difference shown") == (low <= 0 <= high)
        false += any(result.verdict(pair) != "no difference shown" for pair in result.differences)
    assert false / replicates < 0.05 + 3 * math.sqrt(0.05 * 0.95 / replicates)


def test_table_states_verdict_errors_and_warnings():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    text = format_comparison(
        compare(
            {
                "elbo": [evidence(y, 0.1) for y in base],
                "iwae:5": [evidence(y + 3, 0.1, ess=2.0) for y in base],
            }
        ),
        "title",
        ["a note"],
    )
    assert "iwae:5 - elbo" in text
    assert "iwae:5 higher" in text
    assert text.endswith("a note")
    assert "One seed" not in text


def test_one_seed_is_said_to_show_nothing_of_others():
    text = format_comparison(compare({"a": [evidence([0.0, 1.0, 3.0])]}), "title")
    assert "One seed" in text


def test_arms_on_different_data_are_refused():
    with pytest.raises(ValueError, match="same seeds and data"):
        compare({"a": [evidence([0.0, 1.0])], "b": [evidence([0.0, 1.0, 2.0])]})
    with pytest.raises(ValueError, match="same seeds and data"):
        compare({"a": [evidence([0.0, 1.0])], "b": [evidence([0.0, 1.0])] * 2})


def test_summary_is_json_without_nan():
    import json

    summary = compare({"a": [evidence([0.0, 1.0])], "b": [evidence([0.0, 2.0])]}).summary()
    json.dumps(summary, allow_nan=False)
