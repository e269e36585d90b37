"""Arms are told apart, also by people who do not see all colours, in light and dark."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

# Machado, Oliveira and Fernandes, 2009, A physiologically-based model for simulation of color
# vision deficiency: the full deficiencies.
SEEN = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                 [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, D65
TOLD_APART = 20.0
"""Distance in CIELAB; 2.3 is just noticeable side by side."""


def linear(color):
    levels = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(light):
    x = TO_XYZ @ light.clip(0, 1) / TO_XYZ.sum(1)
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def palette(scheme):
    style = files("ppl_vae.report").joinpath("page", "style.css").read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    part = {"light": light, "dark": dark}[scheme]
    return re.findall(r"--arm-\d: (#\w{6})", part), re.search(r"--paper: (#\w{6})", part)[1]


def closest(colors, seen):
    points = [lab(np.asarray(seen) @ linear(color)) for color in colors]
    return min(np.linalg.norm(a - b) for a, b in combinations(points, 2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("seen", SEEN)
def test_arms_are_told_apart(scheme, seen):
    colors, _ = palette(scheme)
    assert len(colors) == 7
    assert closest(colors, SEEN[seen]) > TOLD_APART


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_arms_stand_out_of_the_paper(scheme):
    """3 to 1, what WCAG 2.1 asks of graphical objects."""
    colors, paper = palette(scheme)
    for color in colors:
        low, high = sorted(TO_XYZ[1] @ linear(c) for c in (color, paper))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_of_the_test():
    colors = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2"]
    assert closest(colors, SEEN["no green"]) < TOLD_APART
