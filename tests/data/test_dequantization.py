"""Grey levels with uniform noise within a level."""

import math

import numpy as np
import pytest
import torch
from counted_rows import CountedRows

from ppl_vae.data import load_dataset, read_rows
from ppl_vae.data._dequantization import dequantize


class TestDequantised:
    def test_noise_stays_within_the_level(self):
        digits = load_dataset("digits")
        noisy = digits.dequantized(16, seed=3)
        for name in ("train", "valid", "test"):
            x, given = getattr(noisy, name), getattr(digits, name)
            assert torch.equal((17 * x.double()).floor(), (16 * given.double()).round())
            u = 17 * x.double() - (16 * given.double()).round()
            # Mean and variance of u uniform, of 11,520 numbers or more.
            assert u.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / u.numel()) ** 0.5)
            assert u.var().item() == pytest.approx(1 / 12, abs=4 * (1 / 180 / u.numel()) ** 0.5)
        assert "uniform noise within each of 17 grey levels (seed 3)" in noisy.description
        assert torch.equal(noisy.train, digits.dequantized(16, seed=3).train)
        others = digits.dequantized(16, seed=4)
        assert not torch.equal(noisy.train, others.train)

    def test_a_density_bounds_the_probability_of_levels(self):
        # P(k) of three levels, and the density that is P(k) on the cells of width 1/3.
        probability = torch.tensor([0.2, 0.3, 0.5])
        levels = torch.multinomial(probability, 500, True).unsqueeze(-1) / 2
        x = dequantize(levels, 2, 0, 0, "x")
        density = 3 * probability[(3 * x).floor().long()]
        mass = probability[(2 * levels).round().long()]
        assert torch.allclose(density.log() - math.log(3), mass.log(), atol=1e-6)

    def test_rows_that_are_read_have_the_same_noise(self):
        x = (torch.arange(300).reshape(100, 3) % 256).float() / 255
        here = dequantize(x, 255, 1, 2, "x")
        lazy = dequantize(CountedRows(x), 255, 1, 2, "x")
        assert torch.equal(lazy[:], here)
        assert torch.equal(lazy[torch.tensor([7, 3])], here[[7, 3]])

    @pytest.mark.parametrize("value", [0.5, -1 / 16, 17 / 16, math.nan])
    def test_values_between_levels_are_refused(self, value):
        # Half of 15 levels is none of them.
        x = torch.tensor([[0.0, value]])
        with pytest.raises(ValueError, match="no multiples of 1/15 between 0 and 1"):
            dequantize(x, 15, 0, 0, "x")
        with pytest.raises(ValueError, match="levels must be 1 or more"):
            load_dataset("digits").dequantized(0)

    def test_new_rows_get_noise_of_test_rows(self, tmp_path):
        path = tmp_path / "new.npy"
        np.save(path, load_dataset("digits").test[:5].numpy())
        noisy = load_dataset("digits").dequantized(16)
        assert torch.equal(read_rows(path, noisy.schema), noisy.test[:5])
