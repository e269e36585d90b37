"""DataTrees in netCDF files."""

import os

import arviz_base
import h5py
import pytest
import xarray as xr
from arviz_stats import summary

from ppl_vae.netcdf import load_netcdf, save_netcdf


class TestFiles:
    def test_round_trip(self, draws, tmp_path):
        path = tmp_path / "new" / "draws.nc"
        save_netcdf(draws, path)
        back = load_netcdf(path)
        xr.testing.assert_identical(back, draws)
        by_arviz = arviz_base.convert_to_datatree(str(path), engine="h5netcdf")
        assert len(summary(by_arviz, var_names=["z"])) == 15
        by_arviz.close()

    def test_a_file_that_stands_for_much_is_refused(self, tmp_path):
        path = tmp_path / "draws.nc"
        with h5py.File(path, "w") as file:
            file.create_dataset("posterior/z", (10**10,), "f8", chunks=(10**6,), compression="gzip")
        assert path.stat().st_size < 10_000
        message = r"draws.nc: holds 80,000,000,000 bytes or more when unpacked"
        with pytest.raises(ValueError, match=message) as error:
            load_netcdf(path)
        assert len(str(error.value).splitlines()) == 1

    def test_reading_lets_go_of_the_file(self, draws, tmp_path):
        path = tmp_path / "draws.nc"
        save_netcdf(draws, path)
        back = load_netcdf(path)
        path.unlink()
        assert back["posterior"]["z"].sum() == draws["posterior"]["z"].sum()

    @pytest.mark.parametrize("failing", ["replace", "fsync"])
    def test_a_failed_write_leaves_the_old_file(self, failing, draws, tmp_path, monkeypatch):
        path = tmp_path / "draws.nc"
        save_netcdf(draws, path)
        before = path.read_bytes()

        def fail(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, failing, fail)
        with pytest.raises(OSError, match=r"could not write .*No space left") as error:
            save_netcdf(draws.isel(chain=0), path)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_what_netcdf_cannot_hold_leaves_the_old_file(self, draws, tmp_path):
        path = tmp_path / "draws.nc"
        save_netcdf(draws, path)
        before = path.read_bytes()
        draws.attrs["function"] = {"not": "an attribute"}
        with pytest.raises(TypeError):
            save_netcdf(draws, path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file at .*draws\.nc"):
            load_netcdf(tmp_path / "draws.nc")

    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
    def test_a_part_of_a_file(self, kept, draws, tmp_path):
        path = tmp_path / "draws.nc"
        save_netcdf(draws, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match="not a whole netCDF-4 file") as error:
            load_netcdf(path)
        assert "\n" not in str(error.value)

    def test_not_netcdf(self, tmp_path):
        path = tmp_path / "draws.nc"
        path.write_text("log p(x) = -90\n")
        with pytest.raises(ValueError, match="not a whole netCDF-4 file"):
            load_netcdf(path)
