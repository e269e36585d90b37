"""A file of log p(x) read at once gives what its tree gives."""

from dataclasses import replace

import pytest
import torch

from ppl_vae.arviz import evidence_from_datatree, load_evidence
from ppl_vae.evidence import ParetoSmoothed
from ppl_vae.netcdf import load_netcdf, save_netcdf


@pytest.fixture
def file(linear, tmp_path):
    vae, x = linear.mean_field_vae(), linear.simulate(6)
    found = ParetoSmoothed(200)(vae.model, vae.guide, x, seed=0)
    path = tmp_path / "evidence.nc"
    save_netcdf(replace(found, gap=0.25, advice="try again").to_datatree(), path)
    return path


def test_the_same_as_by_the_tree(file):
    found, expected = load_evidence(file), evidence_from_datatree(load_netcdf(file))
    for name, value in vars(expected).items():
        here = getattr(found, name)
        if isinstance(value, torch.Tensor):
            assert here.dtype == value.dtype
            assert torch.equal(here, value)
        else:
            assert here == value
    assert found.gap == 0.25
    assert found.pareto_k is not None


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="write one with save_netcdf"):
        load_evidence(tmp_path / "none.nc")


def test_a_part_of_a_file(file):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="no whole file of log p"):
        load_evidence(file)


def test_a_file_of_something_else(draws, tmp_path):
    save_netcdf(draws, tmp_path / "draws.nc")
    with pytest.raises(ValueError, match="no whole file of log p"):
        load_evidence(tmp_path / "draws.nc")
