"""The figure of rank ECDFs, and the numbers it shows."""

import torch

from ppl_vae.diagnostics import Calibration


def ranked(shift, factor, num_simulations=500, seed=0):
    """Ranks of standard normal z* among 99 normal draws of another mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(num_simulations, generator=generator)
    draws = shift + factor * torch.randn(99, num_simulations, generator=generator)
    return (draws < truth).sum(0)


NARROW, WIDE, LOW, RIGHT = (ranked(*p) for p in [(0, 0.5), (0, 2.0), (-0.5, 1.0), (0, 1.0)])
NAMES = ("narrow", "wide", "low", "right")
CALIBRATION = Calibration(torch.stack([NARROW, WIDE, LOW, RIGHT], 1), NAMES, 99)


def test_the_figure_names_those_that_are_wrong_apart_from_the_lines():
    figure = CALIBRATION.plot()
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [
        "calibrated", "narrow: too narrow", "wide: too wide", "low: shifted: too low"
    ]  # fmt: skip
    colors = [line.get_color() for line in ax.get_lines()]
    assert len(set(colors)) == len(colors) == 4
    figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_wrong_ones_leave_the_band_in_their_own_way():
    difference, band = CALIBRATION.ecdf_difference, CALIBRATION.ecdf_band
    narrow, wide, low, right = difference.unbind(1)
    assert narrow[:30].max() > band
    assert narrow[70:].min() < -band
    assert wide[:30].min() < -band
    assert wide[70:].max() > band
    assert low.min() < -band
    assert low.max() < band
    assert right.abs().max() < band
    torch.testing.assert_close(difference[-1], torch.zeros(4, dtype=torch.float64))


def test_ecdf_by_hand():
    ranks = torch.tensor([0, 0, 1, 3]).unsqueeze(1)
    found = Calibration(ranks, ("z",), 3).ecdf_difference[:, 0]
    expected = torch.tensor([0.5 - 0.25, 0.75 - 0.5, 0.75 - 0.75, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_the_band_holds_as_often_as_it_says(significance):
    inside = 0
    for seed in range(200):
        ranks = ranked(0, 1.0, num_simulations=200, seed=seed).unsqueeze(1)
        calibration = Calibration(ranks, ("z",), 99, false_alarm=0.2)
        inside += bool(calibration.ecdf_difference.abs().max() <= calibration.ecdf_band)
    # The band is an upper limit of false alarms: only fewer inside than stated are a fault.
    significance.require_count(min(inside, 160), 200, 0.8)
