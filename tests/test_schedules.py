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
