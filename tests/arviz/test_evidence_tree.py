"""Estimates of log p(x) as a DataTree and back, and as what ArviZ compares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from ppl_vae.arviz import comparison_to_datatree, evidence_from_datatree, evidence_to_datatree
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.netcdf import load_netcdf, save_netcdf


def evidence(linear, seed=0, num_data=6):
    vae, x = linear.mean_field_vae(), linear.simulate(num_data)
    return ImportanceSampling(50)(vae.model, vae.guide, x, seed=seed)


class TestEvidence:
    def test_group(self, linear):
        result, x = evidence(linear), linear.simulate(6)
        tree = evidence_to_datatree(result, x, datum_names=list("abcdef"))
        group = tree["evidence"]
        for name in ("log_prob", "standard_error", "effective_sample_size"):
            np.testing.assert_array_equal(group[name].to_numpy(), getattr(result, name))
            assert group[name].dims == ("datum",)
        for name in ("method", "direction", "num_particles", "mean", "monte_carlo_error"):
            assert group.attrs[name] == getattr(result, name)
        assert group.attrs["data_error"] == result.data_error
        assert group.attrs["total_error"] == result.total_error
        assert group.attrs["warning"] == ""
        assert group.coords["datum"].to_numpy().tolist() == list("abcdef")
        np.testing.assert_array_equal(tree["observed_data"]["x"], x)

    def test_warning(self, linear):
        result = evidence(linear)
        poor = replace(result, effective_sample_size=torch.ones(6, dtype=torch.float64))
        tree = evidence_to_datatree(poor)
        assert tree["evidence"].attrs["warning"] == poor.warning
        assert list(tree.children) == ["evidence"]

    def test_and_back(self, linear):
        result = evidence(linear)
        back = evidence_from_datatree(evidence_to_datatree(result))
        assert back.summary() == result.summary()
        assert torch.equal(back.log_prob, result.log_prob)

    @pytest.mark.parametrize("other", ["nothing", "draws", "comparison"])
    def test_not_evidence(self, other, linear, draws):
        trees = {
            "nothing": xr.DataTree(),
            "draws": draws,
            "comparison": comparison_to_datatree({"a": [evidence(linear)]}),
        }
        with pytest.raises(ValueError, match="group 'evidence' by datum"):
            evidence_from_datatree(trees[other])

    def test_comparison(self, linear):
        results = {arm: [evidence(linear, seed) for seed in (3, 4)] for arm in ("elbo", "iwae:50")}
        tree = comparison_to_datatree(results, seeds=[3, 4])
        log_prob = tree["evidence"]["log_prob"]
        assert log_prob.dims == ("arm", "seed", "datum")
        np.testing.assert_array_equal(
            log_prob.sel(arm="iwae:50", seed=4), results["iwae:50"][1].log_prob
        )

    def test_comparison_of_different_data(self, linear):
        results = {"a": [evidence(linear)], "b": [evidence(linear, num_data=5)]}
        with pytest.raises(ValueError, match=r"same seeds and data, got .*'a': \[6\], 'b': \[5\]"):
            comparison_to_datatree(results)
        for nothing in ({}, {"a": []}):
            with pytest.raises(ValueError, match="same seeds and data"):
                comparison_to_datatree(nothing)

    def test_file_round_trip(self, linear, tmp_path):
        result = evidence(linear)
        path = tmp_path / "evidence.nc"
        save_netcdf(evidence_to_datatree(result, datum_names=list("abcdef")), str(path))
        tree = load_netcdf(str(path))
        assert evidence_from_datatree(tree).summary() == result.summary()
        assert tree["evidence"].coords["datum"].to_numpy().tolist() == list("abcdef")
        assert tree["evidence"].attrs["warning"] == ""

    def test_evidence_of_other_data(self, linear):
        with pytest.raises(ValueError, match="6 data of the evidence, got 5"):
            evidence_to_datatree(evidence(linear), linear.simulate(5))
