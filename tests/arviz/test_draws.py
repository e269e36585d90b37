"""Draws and their weights as a DataTree."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from arviz_stats import psense_summary, summary
from programs import LinearChain, binary_data, binary_vae
from significance import Estimate

from ppl_vae.arviz import particles_to_datatree
from ppl_vae.arviz._draws import GROUPS
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian


def stacked(variable):
    """(particles, datum, ...)."""
    return torch.tensor(variable.to_numpy()).flatten(0, 1)


class TestSchema:
    def test_groups_and_dimensions(self, draws):
        assert {(group, name): variable.dims for group, node in draws.children.items()
                for name, variable in node.data_vars.items()} == {
            ("posterior", "z"): ("chain", "draw", "datum", "latent"),
            ("guide_log_likelihood", "x"): ("chain", "draw", "datum"),
            ("sample_stats", "log_weight"): ("chain", "draw", "datum"),
            ("sample_stats", "effective_sample_size"): ("datum",),
            ("observed_data", "x"): ("datum", "feature"),
        }  # fmt: skip
        assert draws["posterior"]["z"].shape == (4, 50, 5, 3)

    def test_coordinates(self, linear):
        vae, x = linear.vae(), linear.simulate(3)
        names = ["a", "b", "c"]
        tree = particles_to_datatree(
            vae.model, vae.guide, x, num_particles=6, chains=2, datum_names=names
        )
        for group in tree.children.values():
            assert group.coords["datum"].to_numpy().tolist() == names
        posterior = tree["posterior"].coords
        for dimension, size in {"chain": 2, "draw": 3, "latent": 3}.items():
            assert posterior[dimension].to_numpy().tolist() == list(range(size))
        assert tree["observed_data"].coords["feature"].to_numpy().tolist() == list(range(8))
        np.testing.assert_array_equal(tree["observed_data"]["x"].sel(datum="b"), x[1])

    def test_several_sites_and_other_plates(self):
        chain = LinearChain()
        x = chain.simulate(3)
        tree = particles_to_datatree(chain.model, chain.top_down, x, num_particles=8)
        posterior = tree["posterior"]
        assert posterior["u"].dims == ("chain", "draw", "datum", "u_dim")
        assert posterior["v"].dims == ("chain", "draw", "datum", "v_dim")
        exact = chain.log_evidence(x).expand(8, 3)
        torch.testing.assert_close(stacked(tree["sample_stats"]["log_weight"]), exact)

    def test_inner_plate_becomes_a_latent_dimension(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("part", 2, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("part", 2, dim=-2) as part:
                loc = 10.0 * part[:, None, None] + 100.0 * torch.arange(len(x))[:, None]
                pyro.sample("z", dist.Normal(loc.expand(-1, -1, 3), 1e-3).to_event(1))

        tree = particles_to_datatree(model, guide, torch.zeros(4, 3), num_particles=8)
        z = tree["posterior"]["z"]
        assert z.dims == ("chain", "draw", "datum", "latent_0", "latent_1")
        at = z.sel(chain=0, draw=0, datum=3, latent_0=1, latent_1=2).item()
        assert at == pytest.approx(310, abs=1)

    def test_site_named_latent_scalar_site_images_and_half_precision(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
                loc = (z + b[..., None])[..., None].expand(*b.shape, 2, 2)
                pyro.sample("image", dist.Normal(loc, 1.0).to_event(2), obs=x.float())

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("latent", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("b", dist.Normal(torch.zeros(len(x)), 1.0))

        x = torch.zeros(3, 2, 2, dtype=torch.bfloat16)
        tree = particles_to_datatree(model, guide, x, num_particles=4)
        assert tree["posterior"]["latent"].dims == ("chain", "draw", "datum", "latent_dim")
        assert tree["posterior"]["b"].dims == ("chain", "draw", "datum")
        image = tree["observed_data"]["image"]
        assert image.dims == ("datum", "feature_0", "feature_1")
        assert image.dtype == np.float32
        assert tree["guide_log_likelihood"]["image"].shape == (4, 1, 3)

    def test_attributes_say_how_to_use_the_draws(self, draws):
        note = draws["posterior"].attrs["note"]
        assert "softmax of sample_stats.log_weight" in note
        assert note.count(". ") == 0
        for node in draws.subtree:
            assert node.attrs["inference_library"] == "ppl_vae"
            assert node.attrs["torch_version"] == torch.__version__.split("+")[0]
            assert node.attrs["pyro_version"] == pyro.__version__
            assert node.attrs["num_particles"] == 200
            assert "created_at" not in node.attrs
            assert all(type(value) in (str, int, float) for value in node.attrs.values())

    def test_arviz_summarises_it(self, draws):
        table = summary(draws, var_names=["z"], round_to="none")
        assert len(table) == 5 * 3
        np.testing.assert_allclose(
            table["mean"], draws["posterior"]["z"].mean(["chain", "draw"]).to_numpy().ravel()
        )


class TestWeights:
    def test_log_mean_weight_is_the_importance_sampling_estimate(self, linear):
        vae, x = linear.mean_field_vae(), linear.simulate(5)
        tree = particles_to_datatree(vae.model, vae.guide, x, num_particles=200, seed=3)
        estimate = ImportanceSampling(200)(vae.model, vae.guide, x, seed=3)
        log_mean = stacked(tree["sample_stats"]["log_weight"]).logsumexp(0) - np.log(200)
        torch.testing.assert_close(log_mean, estimate.log_prob)
        ess = torch.tensor(tree["sample_stats"]["effective_sample_size"].to_numpy())
        torch.testing.assert_close(ess, estimate.effective_sample_size)

    def test_batches_leave_draws_and_weights_together(self, linear):
        vae, x = linear.mean_field_vae(), linear.simulate(30)
        tree = particles_to_datatree(vae.model, vae.guide, x, num_particles=1000, resample=True)
        z = stacked(tree["posterior"]["z"])
        log_likelihood = linear.decoder(z).log_prob(x)
        log_weight = log_likelihood + linear.prior().log_prob(z)
        log_weight = log_weight - linear.mean_field_posterior(x).log_prob(z)
        torch.testing.assert_close(log_likelihood, stacked(tree["log_likelihood"]["x"]))
        torch.testing.assert_close(log_weight, stacked(tree["sample_stats"]["log_weight"]))

    @pytest.mark.parametrize("resample", [True, False])
    def test_resampled_draws_have_the_posterior_moments(self, linear, resample, significance):
        vae, x = linear.mean_field_vae(), linear.simulate(300)
        tree = particles_to_datatree(
            vae.model, vae.guide, x, num_particles=1000, resample=resample, seed=8
        )
        root = torch.linalg.cholesky(linear.posterior_precision)
        # Standard normal under the exact posterior; independent over the data.
        white = (stacked(tree["posterior"]["z"]) - linear.posterior(x).mean) @ root
        products = torch.einsum("kni,knj->nij", white, white) / 1000
        moments = [white.mean(0), products.flatten(1)[:, [0, 1, 2, 4, 5, 8]]]
        expected = torch.tensor([0, 0, 0, 1, 0, 0, 1, 0, 1])
        z_scores = []
        limits = significance.split(9)
        for moment, exact in zip(torch.cat(moments, 1).T, expected.tolist(), strict=True):
            estimate = Estimate(moment.mean().item(), moment.std().item() / 300**0.5)
            z_scores.append(abs(estimate.value - exact) / estimate.error)
            if resample:
                limits.require_equal(estimate, exact)
        # The guide's own draws lack the posterior's correlations.
        assert (max(z_scores) < limits.limit) == resample

    def test_resampling_is_said_and_keeps_the_weights_diagnosis(self, linear):
        vae, x = linear.mean_field_vae(), linear.simulate(4)
        plain, resampled = (
            particles_to_datatree(vae.model, vae.guide, x, num_particles=100, resample=resample)
            for resample in (False, True)
        )
        assert "drawn anew" in resampled["posterior"].attrs["note"]
        assert resampled.attrs["resampled"] == 1
        xr.testing.assert_identical(
            *(tree["sample_stats"]["effective_sample_size"] for tree in (plain, resampled))
        )
        before = set(stacked(plain["posterior"]["z"])[:, 0, 0].tolist())
        after = set(stacked(resampled["posterior"]["z"])[:, 0, 0].tolist())
        assert after < before

    def test_same_seed_same_tree(self):
        vae, x = binary_vae(), binary_data(5)
        state = torch.random.get_rng_state()
        first, again, other = (
            particles_to_datatree(vae.model, vae.guide, x, num_particles=8, seed=s, resample=True)
            for s in (1, 1, 2)
        )
        xr.testing.assert_identical(first, again)
        assert not first["posterior"].to_dataset().equals(other["posterior"].to_dataset())
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture(scope="module")
def model():
    return LinearGaussian.random(4, 2, 0.5, seed=3)


@pytest.fixture(scope="module")
def x(model):
    return model.simulate(3, seed=1)


@pytest.fixture(scope="module")
def tree(model, x):
    # The guide is the posterior: weights are equal, and drawing anew changes no distribution.
    vae = model.vae()
    return particles_to_datatree(
        vae.model, vae.guide, x, num_particles=20_000, resample=True, groups=GROUPS
    )


class TestFurtherGroups:
    """Of a linear-Gaussian model, whose predictive distributions are known."""

    def test_schema(self, tree):
        sample = ("chain", "draw", "datum")
        dims = {group: {n: v.dims for n, v in tree[group].data_vars.items()} for group in GROUPS}
        assert dims == {
            "posterior_predictive": {"x": (*sample, "feature")},
            "log_prior": {"z": sample},
            "prior": {"z": (*sample, "latent")},
            "prior_predictive": {"x": (*sample, "feature")},
        }

    def test_log_prior_is_of_the_posterior_draws(self, tree, model):
        z = stacked(tree["posterior"]["z"])
        torch.testing.assert_close(
            stacked(tree["log_prior"]["z"]), model.prior().log_prob(z), rtol=1e-4, atol=1e-4
        )

    @staticmethod
    def moments(draws, mean, covariance, limits):
        """Standardised by the exact distribution: means 0, products the identity's."""
        root = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(root, (draws - mean).mT, upper=False).mT
        count, size = white.shape
        values = torch.cat([white, (white.mT[:, None] * white.mT[None]).flatten(0, 1).mT], 1)
        expected = torch.cat([torch.zeros(size), torch.eye(size).flatten()])
        for column, exact in zip(values.T, expected.tolist(), strict=True):
            error = column.std().item() / count**0.5
            limits.require_equal(Estimate(column.mean().item(), error), exact)

    def test_prior_and_its_predictive(self, tree, model, significance):
        z = stacked(tree["prior"]["z"])[:, 0].double()
        x = stacked(tree["prior_predictive"]["x"])[:, 1].double()
        weight, bias = model.weight.detach().double(), model.bias.detach().double()
        covariance = weight @ weight.mT + model.noise_scale**2 * torch.eye(4).double()
        limits = significance.split(6 + 20)
        self.moments(z, torch.zeros(2), torch.eye(2).double(), limits)
        self.moments(x, bias, covariance, limits)

    def test_posterior_predictive(self, tree, model, x, significance):
        draws = stacked(tree["posterior_predictive"]["x"])[:, 2].double()
        weight, posterior = model.weight.detach().double(), model.posterior(x[2:])
        mean = weight @ posterior.mean[0].detach().double() + model.bias.detach().double()
        latent = weight @ torch.linalg.inv(model.posterior_precision.detach().double()) @ weight.mT
        covariance = latent + model.noise_scale**2 * torch.eye(4).double()
        assert len(draws.unique(dim=0)) > 10_000
        # Drawing anew makes copies, about two of five: moments of those that differ.
        self.moments(draws.unique(dim=0), mean, covariance, significance.split(20))

    @pytest.mark.filterwarnings("ignore")
    def test_arviz_takes_them(self, tree):
        shifts = psense_summary(tree)
        assert list(shifts.index) == [f"z[{datum}, {d}]" for datum in range(3) for d in range(2)]
        assert (shifts[["prior", "likelihood"]] > 0).all().all()

    def test_a_note_says_what_is_of_the_model_alone(self, tree):
        assert "drawn from the model alone" in tree["prior"].attrs["note"]

    def test_asking_for_more_changes_no_draw(self, model, x):
        vae = model.vae()
        plain, more = (
            particles_to_datatree(vae.model, vae.guide, x, num_particles=40, groups=groups)
            for groups in ((), ("prior", "prior_predictive"))
        )
        for group in plain.children:
            xr.testing.assert_equal(plain[group].to_dataset(), more[group].to_dataset())
        assert set(more.children) - set(plain.children) == {"prior", "prior_predictive"}


class TestErrors:
    @pytest.mark.parametrize("group", ["posterior_predictive", "log_prior"])
    def test_groups_of_posterior_draws_need_them(self, group):
        vae = binary_vae()
        with pytest.raises(ValueError, match=f"{group} is of posterior draws: give resample=True"):
            particles_to_datatree(vae.model, vae.guide, binary_data(5), groups=group)

    def test_a_group_that_is_not_known(self):
        vae = binary_vae()
        with pytest.raises(ValueError, match="unknown group 'priors': did you mean 'prior'"):
            particles_to_datatree(vae.model, vae.guide, binary_data(5), groups=["priors"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_particles": 10, "chains": 4}, "chains must divide num_particles, got chains=4"),
            ({"num_particles": 0}, "chains must divide num_particles"),
            ({"chains": 0}, "chains must divide num_particles"),
            ({"datum_names": ["a"]}, "datum_names must name 5, got 1 names"),
        ],
    )
    def test_arguments(self, arguments, message):
        vae = binary_vae()
        with pytest.raises(ValueError, match=message):
            particles_to_datatree(vae.model, vae.guide, binary_data(5), **arguments)

    def test_no_data(self):
        vae = binary_vae()
        with pytest.raises(ValueError, match="x holds no data"):
            particles_to_datatree(vae.model, vae.guide, binary_data(0))

    def test_site_with_the_name_of_a_dimension(self):
        def model(x):
            guide(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("draw", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        with pytest.raises(ValueError, match="site 'draw'"):
            particles_to_datatree(model, guide, torch.zeros(3, 2), num_particles=4)
