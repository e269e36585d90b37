"""Ranks where ArviZ looks for them, and its figure of them."""

import importlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from arviz_stats.ecdf_utils import ecdf_pit

from ppl_vae.arviz import arviz_plots_works, plot_ranks
from ppl_vae.diagnostics import Calibration
from ppl_vae.netcdf import load_netcdf, save_netcdf
from ppl_vae.plots import png_of

RANKS = torch.randint(100, (120, 2), generator=torch.Generator().manual_seed(1))
CALIBRATION = Calibration(RANKS, ("z[0]", "z[1]"), 99)


def test_randomised_ranks_by_chain_and_draw():
    tree = CALIBRATION.to_datatree()
    group = tree["prior_sbc"]
    assert group["z[1]"].dims == ("chain", "draw")
    assert group["z[1]"].shape == (1, 120)
    found = torch.tensor(group["z[1]"].to_numpy()[0])
    assert torch.equal((found * 100).floor().long(), RANKS[:, 1])
    assert group.attrs["num_draws"] == 99
    assert group.attrs["calibrated"] == int(CALIBRATION.calibrated)
    xr.testing.assert_identical(tree, CALIBRATION.to_datatree())


def test_a_file_holds_it(tmp_path):
    tree = CALIBRATION.to_datatree()
    save_netcdf(tree, tmp_path / "calibration.nc")
    again = load_netcdf(tmp_path / "calibration.nc")
    xr.testing.assert_equal(again["prior_sbc"].to_dataset(), tree["prior_sbc"].to_dataset())


class TestBand:
    """Calibrated dimensions leave ArviZ's band as often as it says."""

    dimensions = 300

    def outside(self, values):
        """How many dimensions' ECDFs leave the 99% band."""
        points, _, low, high = ecdf_pit(np.linspace(0, 1, len(values)), 0.99, 1000)
        below = np.stack([np.searchsorted(np.sort(v), points, "right") for v in values.T], 1)
        ecdf = below / len(values)
        return int(((ecdf < low[:, None]) | (ecdf > high[:, None])).any(0).sum())

    @pytest.fixture
    def calibration(self):
        names = tuple(f"z[{index}]" for index in range(self.dimensions))
        return Calibration(torch.randint(100, (1000, self.dimensions)), names, 99)

    def test_holds(self, calibration, significance):
        tree = calibration.to_datatree()
        ranks = np.stack([value.to_numpy()[0] for value in tree["prior_sbc"].values()], 1)
        significance.require_count(self.outside(ranks), self.dimensions, 0.01)

    def test_ranks_in_the_middle_of_their_steps_do_not(self, calibration, significance):
        found = self.outside(calibration.normalized_ranks.numpy())
        with pytest.raises(AssertionError):
            significance.require_count(found, self.dimensions, 0.01)


class TestFigure:
    def test_shows_the_worst_and_leaves_no_figure_behind(self):
        wrong = torch.cat([RANKS, (RANKS[:, :1] - 50) // 2 + 50], 1)
        calibration = Calibration(wrong, ("z[0]", "z[1]", "wide"), 99)
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
        figure = plot_ranks(calibration, count=1)
        assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["wide"]
        assert png_of(figure, "three").startswith(b"\x89PNG")
        assert plt.get_fignums() == []
        assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002

    def test_the_tree_is_what_arviz_takes(self):
        from arviz_plots import plot_ecdf_pit

        drawn = plot_ecdf_pit(CALIBRATION.to_datatree(), backend="matplotlib")
        assert set(drawn.viz["plot"].data_vars) >= {"z[0]", "z[1]"}
        plt.close(drawn.viz["figure"].item())

    @pytest.mark.parametrize("error", [ModuleNotFoundError("no module"), AttributeError("core")])
    def test_without_arviz_plots(self, error, monkeypatch):
        def fail(name):
            raise error

        monkeypatch.setattr(importlib, "import_module", fail)
        assert not arviz_plots_works()
        with pytest.raises(ImportError, match=r"pip install 'ppl_vae\[plots\]'"):
            plot_ranks(CALIBRATION)
