"""Estimates of log p(x) as a DataTree and back, and as what ArviZ compares."""

import math
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from arviz_stats import compare, loo

from ppl_vae.arviz import (
    comparison_to_datatree,
    evidence_from_datatree,
    evidence_to_elpd,
    particles_to_datatree,
)
from ppl_vae.evidence import ImportanceSampling, ParetoSmoothed, paired_difference
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.netcdf import load_netcdf, save_netcdf
from ppl_vae.vae import VAE


def evidence(linear, seed=0, num_data=6):
    vae, x = linear.mean_field_vae(), linear.simulate(num_data)
    return ImportanceSampling(50)(vae.model, vae.guide, x, seed=seed)


class TestEvidence:
    def test_group(self, linear):
        result = evidence(linear)
        tree = result.to_datatree(datum_names=list("abcdef"))
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

    def test_warning(self, linear):
        result = evidence(linear)
        poor = replace(result, effective_sample_size=torch.ones(6, dtype=torch.float64))
        tree = poor.to_datatree()
        assert tree["evidence"].attrs["warning"] == poor.warning
        assert list(tree.children) == ["evidence"]

    def test_and_back(self, linear):
        result = evidence(linear)
        back = evidence_from_datatree(result.to_datatree())
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
        save_netcdf(result.to_datatree(datum_names=list("abcdef")), str(path))
        tree = load_netcdf(str(path))
        assert evidence_from_datatree(tree).summary() == result.summary()
        assert tree["evidence"].coords["datum"].to_numpy().tolist() == list("abcdef")
        assert tree["evidence"].attrs["warning"] == ""

    def test_names_of_other_data(self, linear):
        with pytest.raises(ValueError, match="datum_names must name 6, got 5"):
            evidence(linear).to_datatree(datum_names=range(5))


class TestPointwise:
    """What ``arviz_stats.compare`` and ``loo`` make of our results."""

    @pytest.fixture
    def arms(self, linear):
        other = LinearGaussian.random(8, 3, noise_scale=1.2)
        x = linear.simulate(60)
        programs = {"right": linear.mean_field_vae(), "wrong": other.mean_field_vae()}
        return {
            name: ImportanceSampling(500)(vae.model, vae.guide, x) for name, vae in programs.items()
        }

    def test_table(self, arms):
        evidence = arms["right"]
        elpd = evidence_to_elpd(evidence, datum_names=[f"x{i}" for i in range(60)])
        np.testing.assert_array_equal(elpd.elpd_i.to_numpy(), evidence.log_prob)
        assert elpd.elpd_i.dims == ("datum",)
        assert elpd.elpd_i.coords["datum"].to_numpy()[-1] == "x59"
        assert elpd.elpd == pytest.approx(60 * evidence.mean)
        assert elpd.se == pytest.approx(60 * evidence.total_error)
        assert (elpd.n_data_points, elpd.n_samples) == (60, 500)
        assert evidence_to_elpd(replace(evidence, pareto_k=None)).pareto_k is None
        assert "elpd_log_evidence" in str(elpd)

    def test_pareto_k_and_warnings_come_along(self, linear):
        vae, x = linear.mean_field_vae(), linear.simulate(6)
        evidence = ParetoSmoothed(200)(vae.model, vae.guide, x)
        elpd = evidence_to_elpd(evidence)
        np.testing.assert_array_equal(elpd.pareto_k.to_numpy(), evidence.pareto_k)
        zero = torch.zeros(6, dtype=torch.float64)
        nothing_wrong = replace(evidence, pareto_k=zero, bias=zero, doubt=zero)
        assert nothing_wrong.warning is None
        assert not evidence_to_elpd(nothing_wrong).warning
        poor = replace(evidence, doubt=torch.full_like(zero, math.inf))
        assert evidence_to_elpd(poor).warning

    @pytest.mark.filterwarnings("ignore:The inplace keyword")
    @pytest.mark.parametrize(
        ("method", "shift"), [("stacking", 0), ("BB-pseudo-BMA", 0), ("BB-pseudo-BMA", -800)]
    )
    def test_compare_is_the_paired_difference(self, arms, method, shift):
        shifted = {n: replace(e, log_prob=e.log_prob + shift) for n, e in arms.items()}
        table = compare({n: evidence_to_elpd(e) for n, e in shifted.items()}, method=method)
        assert list(table.index) == ["right", "wrong"]
        difference = paired_difference(arms["right"], arms["wrong"])
        assert table.loc["wrong", "elpd_diff"] == pytest.approx(60 * difference.mean)
        # ArviZ divides by N where this package divides by N - 1.
        assert table.loc["wrong", "dse"] == pytest.approx(
            60 * difference.total_error * (59 / 60) ** 0.5
        )
        assert table.loc["right", "weight"] > 0.99

    def test_leave_one_out_is_the_harmonic_mean_here(self, linear):
        """It runs on posterior draws; it is far too high, it says so, and is not ours."""
        vae, x = linear.vae(), linear.simulate(40)
        draws = particles_to_datatree(vae.model, vae.guide, x, num_particles=2000, resample=True)
        with pytest.warns(UserWarning, match="Pareto distribution is greater than"):
            found = loo(draws, pointwise=True)
        exact = linear.log_evidence(x).detach().numpy()
        assert found.elpd_i.dims == ("datum",)
        assert (found.elpd_i.to_numpy() - exact).mean() > 0.5
        assert (found.pareto_k > 0.7).mean() > 0.5
        ours = evidence_to_elpd(ImportanceSampling(100)(vae.model, vae.guide, x))
        np.testing.assert_allclose(ours.elpd_i, exact)
        with pytest.raises(ValueError, match="incompatible"):
            compare({"leave one out": found, "evidence": ours})

    def test_leave_one_out_does_not_take_draws_from_the_guide(self, linear):
        """At a tenth of the posterior's scale, all 40 were "good" and 3 nats too high."""
        x = linear.simulate(40)

        def narrow(x):
            exact = linear.mean_field_posterior(x).base_dist
            return dist.Normal(exact.loc, 0.1 * exact.scale).to_event(1)

        vae = VAE(linear.prior, linear.decoder, narrow)
        draws = particles_to_datatree(vae.model, vae.guide, x, num_particles=2000)
        with pytest.raises(TypeError, match="log likelihood not found"):
            loo(draws)
        draws["log_likelihood"] = draws["guide_log_likelihood"]
        fooled = loo(draws, pointwise=True)
        assert (fooled.pareto_k < 0.7).all()
        assert (fooled.elpd_i.to_numpy() - linear.log_evidence(x).detach().numpy()).mean() > 2

    def test_leave_one_out_that_says_it_is_good_is_log_p(self):
        """With posterior draws that are close to the prior's, the harmonic mean has a variance.

        Its k is near 0.55, and as 2,000 draws estimate it, of which 440 differ, up to 0.79.
        """
        model = LinearGaussian.random(4, 2, 3.0, seed=1)
        vae, x = model.mean_field_vae(), model.simulate(40)
        draws = particles_to_datatree(vae.model, vae.guide, x, num_particles=8000, resample=True)
        found = loo(draws, pointwise=True)
        assert (found.pareto_k < 0.7).all()
        error = found.elpd_i.to_numpy() - model.log_evidence(x).detach().numpy()
        assert abs(error.mean()) < 0.02

    def test_names_of_other_data(self, linear):
        with pytest.raises(ValueError, match="datum_names must name 6, got 2"):
            evidence_to_elpd(evidence(linear), datum_names=["a", "b"])
