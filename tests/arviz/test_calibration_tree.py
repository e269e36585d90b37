"""Ranks where ArviZ looks for them."""

import torch
import xarray as xr

from ppl_vae.arviz import calibration_to_datatree
from ppl_vae.diagnostics import Calibration
from ppl_vae.netcdf import load_netcdf, save_netcdf

RANKS = torch.randint(100, (120, 2), generator=torch.Generator().manual_seed(1))
CALIBRATION = Calibration(RANKS, ("z[0]", "z[1]"), 99)


def test_normalised_ranks_by_chain_and_draw():
    tree = calibration_to_datatree(CALIBRATION)
    group = tree["prior_sbc"]
    assert group["z[1]"].dims == ("chain", "draw")
    assert group["z[1]"].shape == (1, 120)
    found = torch.tensor(group["z[1]"].to_numpy()[0])
    torch.testing.assert_close(found, (RANKS[:, 1].double() + 0.5) / 100)
    assert group.attrs["num_draws"] == 99
    assert group.attrs["calibrated"] == int(CALIBRATION.calibrated)


def test_a_file_holds_it(tmp_path):
    tree = calibration_to_datatree(CALIBRATION)
    save_netcdf(tree, tmp_path / "calibration.nc")
    again = load_netcdf(tmp_path / "calibration.nc")
    xr.testing.assert_equal(again["prior_sbc"].to_dataset(), tree["prior_sbc"].to_dataset())
