import dataclasses
import math

import pytest

from ppl_vae.schedules import Burda, Constant, Cosine, Exponential


def test_constant():
    assert [Constant(0.1)(p) for p in (0, 0.3, 1)] == [0.1] * 3


def test_exponential_is_a_line_on_a_log_scale():
    schedule = Exponential(1e-2, 1e-4)
    assert [schedule(p) for p in (0, 0.5, 1)] == pytest.approx([1e-2, 1e-3, 1e-4])


def test_cosine_without_warmup():
    schedule = Cosine(0.4)
    assert [schedule(p) for p in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0])


def test_cosine_with_warmup():
    schedule = Cosine(0.4, warmup=0.2)
    assert [schedule(p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])


def test_burda_stages():
    schedule, start = Burda(1e-3), 0
    for stage in range(8):
        for epoch in (start + 0.01, start + 3**stage - 0.01):
            assert schedule(epoch / 3280) == pytest.approx(1e-3 * 10 ** (-stage / 7))
        start += 3**stage
    assert start == 3280
    assert schedule(0) == pytest.approx(1e-3)
    assert schedule(1) == pytest.approx(1e-4)


@pytest.mark.parametrize("updates_per_epoch", [1, 500, 2500, 2980])
def test_burda_changes_the_rate_with_the_first_update_of_a_stage(updates_per_epoch):
    schedule, first = Burda(), 0
    for stage in range(7):
        first += 3**stage * updates_per_epoch
        # Progress as a budget of 3,280 epochs computes it.
        last, start = (schedule(u / (3280 * updates_per_epoch)) for u in (first - 1, first))
        assert last == pytest.approx(1e-3 * 10 ** (-stage / 7), rel=1e-12)
        assert start == pytest.approx(1e-3 * 10 ** (-(stage + 1) / 7), rel=1e-12)


def test_burda_rounded_is_of_the_authors_code():
    schedule, starts = Burda(rounded=True), [(3**i - 1) / 2 for i in range(8)]
    rates = [schedule((start + 0.5) / 3280) for start in starts]
    # 1e-4 * round(10 ** (1 - (i - 1) / 7), 1) for i = 1..8
    assert rates == pytest.approx(
        [1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4], rel=1e-12
    )


@pytest.mark.parametrize("rate", [0, -1e-3, math.nan, math.inf])
@pytest.mark.parametrize("kind", [Constant, Cosine, Burda, lambda r: Exponential(r, 1e-3)])
def test_rates_are_positive_and_finite(kind, rate):
    with pytest.raises(ValueError, match="learning rate must be positive and finite"):
        kind(rate)


def test_other_impossible_settings():
    with pytest.raises(ValueError, match="final learning rate must be positive"):
        Exponential(1e-3, 0)
    for warmup in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"warm-up must be a fraction in \[0, 1\)"):
            Cosine(1e-3, warmup)


def test_schedules_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(0.1).rate = 0.2
