"""Each diagnostic as a group of a DataTree."""

import numpy as np
import pytest
import xarray as xr
from programs import LinearChain

from ppl_vae.diagnostics import (
    GapSettings,
    bound_against_particles,
    decompose,
    elbo_surgery,
    inference_gap,
    predictive_check,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.evidence import AnnealedImportanceSampling, ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.netcdf import joined, load_netcdf, save_netcdf
from ppl_vae.refinement import Refinement

MODEL = LinearGaussian.random(6, 2, noise_scale=0.8)
VAE, X = MODEL.mean_field_vae(), MODEL.simulate(12)
PROGRAMS = VAE.model, VAE.guide


@pytest.fixture(scope="module")
def gap():
    evidence = ImportanceSampling(50)(*PROGRAMS, X)
    return inference_gap(*PROGRAMS, X, evidence, GapSettings(Refinement(2), num_particles=10))


@pytest.fixture(scope="module")
def curve():
    annealing = AnnealedImportanceSampling(4, leapfrog_steps=1, mass="guide")
    return rate_distortion(*PROGRAMS, X, (0.5, 1.0), annealing=annealing)


@pytest.fixture(scope="module")
def check():
    return predictive_check(*PROGRAMS, X, num_replicates=300)


class TestDecomposition:
    def test_terms_and_dimensions(self):
        found = decompose(*PROGRAMS, X, num_particles=10)
        group = found.to_datatree()["decomposition"]
        assert group["term"].to_numpy().tolist() == ["elbo", "log_likelihood", "kl_z"]
        assert group["value"].sel(term="kl_z") == found.kl["z"].value
        assert group["total_error"].sel(term="elbo") == found.elbo.total_error
        np.testing.assert_array_equal(group["kl_z"], found.kl_per_dimension["z"].value)
        np.testing.assert_array_equal(
            group["activity_z_standard_error"], found.activity["z"].standard_error
        )
        assert group["activity_z"].dims == ("z_dim",)
        assert group.attrs["active_units_z"] == found.active_units["z"].count

    def test_several_sites(self):
        chain = LinearChain()
        found = decompose(chain.model, chain.top_down, chain.simulate(4), num_particles=4)
        group = found.to_datatree()["decomposition"]
        assert {"u_dim", "v_dim"} <= set(group.dims)


class TestSurgery:
    def test_terms(self):
        found = elbo_surgery(*PROGRAMS, X)
        group = found.to_datatree()["surgery"]
        assert group["value"].sel(term="information") == found.information.value
        assert group["standard_error"].sel(term="kl") == found.kl.standard_error
        assert group["dimension_kl"].dims == ("latent",)
        assert group["dimension_kl"][1] == found.per_dimension[1].value
        assert group.attrs["most_information"] == pytest.approx(np.log(12))
        assert group.attrs["notes"] == "; ".join(found.notes)

    def test_what_is_not_known_is_not_there(self):
        chain = LinearChain()
        found = elbo_surgery(chain.model, chain.top_down, chain.simulate(4))
        group = found.to_datatree()["surgery"]
        assert "dimension_kl" not in group
        assert "total_correlation" not in group["term"].to_numpy().tolist()


class TestGap:
    def test_by_datum_and_in_the_mean(self, gap):
        names = [f"x{i}" for i in range(12)]
        group = gap.to_datatree(datum_names=names)["inference_gap"]
        np.testing.assert_array_equal(group["amortization"], gap.per_datum["amortization"])
        assert group["datum"].to_numpy().tolist() == names
        assert group["value"].sel(term="approximation") == gap.approximation.value
        assert "correlation" not in group["term"].to_numpy().tolist()
        assert group.attrs["direction"] == "lower"
        assert "log p(x) is estimated" in group.attrs["notes"]

    def test_group_and_names(self, gap):
        assert list(gap.to_datatree(group="train").children) == ["train"]
        with pytest.raises(ValueError, match="datum_names must name 12, got 1"):
            gap.to_datatree(datum_names=["a"])


class TestCurves:
    def test_bound(self):
        found = bound_against_particles(*PROGRAMS, X, (1, 2, 5, 10))
        group = found.to_datatree()["bound_curve"]
        assert group["particles"].to_numpy().tolist() == [1, 2, 5, 10]
        assert group["value"].sel(particles=5) == found.bounds[5].value
        assert group.attrs["limit"] == found.extrapolation.limit.value
        assert group.attrs["limit_total_error"] == found.extrapolation.limit.total_error

    def test_rate_distortion(self, curve):
        group = curve.to_datatree()["rate_distortion"]
        assert group["rate"].dims == ("beta", "datum")
        np.testing.assert_array_equal(group["rate"].sel(beta=1.0), curve.rate.value[1])
        np.testing.assert_array_equal(
            group["log_normalizer_standard_error"], curve.log_normalizer.standard_error
        )
        assert group["distortion"].mean("datum")[0] == pytest.approx(
            curve.points[0].distortion.value
        )
        assert group.attrs["guide_rate"] == curve.guide_rate.value


class TestPredictiveCheck:
    def test_data_and_replicates_by_statistic(self, check):
        tree = check.to_datatree()
        group = tree["predictive_check"]
        assert group["statistic"].to_numpy().tolist() == list(check.names)
        assert group["p_value"].sel(statistic="mean") == check.p_values["mean"]
        for index, name in enumerate(check.names):
            of = "posterior_predictive" if name == "squared_residual" else "prior_predictive"
            np.testing.assert_array_equal(tree[of][name][0], check.replicated[:, index])
            assert tree["observed_data"][name] == check.observed[index].item()
        assert set(tree["posterior_predictive"].data_vars) == {"squared_residual"}

    def test_arviz_draws_it(self, check):
        plot = pytest.importorskip("arviz_plots").plot_ppc_tstat
        drawn = plot(
            check.to_datatree(), group="prior_predictive", var_names=["mean", "correlation"],
            t_stat="mean", visuals={"observed_tstat": {}}, backend="matplotlib",
        )  # fmt: skip
        assert drawn.viz["observed_tstat"]["mean"].size == 1
        assert drawn.viz["dist"]["correlation"].size == 1


class TestJoined:
    def test_a_file_holds_all(self, gap, curve, tmp_path):
        calibration = simulation_based_calibration(*PROGRAMS, X, num_simulations=100)
        whole = joined(
            [
                gap.to_datatree(),
                curve.to_datatree(),
                calibration.to_datatree(),
            ],
            {"title": "three"},
        )
        save_netcdf(whole, tmp_path / "whole.nc")
        back = load_netcdf(tmp_path / "whole.nc")
        xr.testing.assert_identical(back, whole)
        assert set(back.children) == {"inference_gap", "rate_distortion", "prior_sbc"}
        assert back.attrs["title"] == "three"
        assert back["prior_sbc"].attrs["num_draws"] == 99
        assert "num_draws" not in back.attrs

    def test_two_groups_of_one_name(self, curve):
        tree = curve.to_datatree()
        with pytest.raises(ValueError, match="two trees have a group 'rate_distortion'"):
            joined([tree, tree], {})
