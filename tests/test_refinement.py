"""Offsets at the guide's sites, and the refinement that finds them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae, param_guide, param_model
from significance import mean_of
from torch.distributions import kl_divergence

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import ELBO, IWAE, RWS, STL, VIMCO, Objective
from ppl_vae.particles import Offset, OffsetGuide, Programs, draw_particles, zero_offsets
from ppl_vae.refinement import Refinement, refine

MODEL = LinearGaussian.random(6, 3, 0.8, seed=2)
X = MODEL.simulate(7)
ZEROS = torch.zeros(3, dtype=torch.float64)


def bad_guide(x):
    """The same for every datum, and for none of them right."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(ZEROS + 0.5, 1.5).to_event(1))


def correlated_guide(x):
    factor = torch.tensor([[1.0, 0, 0], [0.5, 0.8, 0], [-0.3, 0.2, 1.1]], dtype=torch.float64)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(ZEROS, scale_tril=factor))


def normal_of(guide, x=X):
    """Mean and standard deviation of z for each datum, without a particle dimension."""
    q = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    return q.mean, q.stddev


class ExactELBO(Objective):
    """``log p(x) - KL(q, posterior)`` in closed form: a refinement without noise."""

    def __init__(self, x, model=MODEL):
        super().__init__(1)
        self.evidence, self.posterior = model.log_evidence(x).detach(), model.posterior(x)

    def bound(self, particles):
        q = particles.guide["z"]
        q = dist.MultivariateNormal(
            q.mean, covariance_matrix=torch.diag_embed(q.variance), validate_args=False
        )
        return self.evidence - kl_divergence(q, self.posterior).squeeze(0)


class TestOffsets:
    def test_loc_and_scale_of_a_normal(self):
        shift, stretch = torch.randn(2, 7, 3, dtype=torch.float64)
        guide = OffsetGuide(bad_guide, {"z": Offset(shift, stretch, 1)}, 7)
        loc, scale = normal_of(guide)
        torch.testing.assert_close(loc, 0.5 + shift)
        torch.testing.assert_close(scale, 1.5 * stretch.exp())

    def test_loc_and_covariance_of_a_multivariate_normal(self):
        shift, stretch = torch.randn(2, 7, 3, dtype=torch.float64)
        guide = OffsetGuide(correlated_guide, {"z": Offset(shift, stretch, 1)}, 7)
        trace = pyro.poutine.trace(guide).get_trace(X)
        plain = pyro.poutine.trace(correlated_guide).get_trace(X)
        q, start = trace.nodes["z"]["fn"], plain.nodes["z"]["fn"]
        factor = torch.diag_embed(stretch.exp())
        torch.testing.assert_close(q.mean, start.mean + shift)
        expected = factor @ start.covariance_matrix @ factor
        torch.testing.assert_close(q.covariance_matrix, expected)

    @pytest.mark.parametrize("graph", ["path", "split", "score"])
    @pytest.mark.parametrize(
        ("model", "guide"),
        [(MODEL.vae().model, bad_guide), (MODEL.vae().model, correlated_guide)],
        ids=["normal", "multivariate"],
    )
    def test_zero_offsets_change_nothing(self, model, guide, graph):
        zero = zero_offsets(guide, X)
        draws = []
        for program in (guide, zero):
            torch.manual_seed(3)
            draws.append(draw_particles(model, program, X, 4, graph=graph))
        torch.testing.assert_close(draws[0].log_weight, draws[1].log_weight)
        torch.testing.assert_close(draws[0].latents, draws[1].latents)

    @pytest.mark.parametrize("order", ["top_down", "bottom_up"])
    def test_each_conditional_of_several_sites(self, order):
        """q(u|x) q(v|u, x): the second is moved for every draw of the first alike."""
        chain = LinearChain()
        x = chain.simulate(5)
        zero = zero_offsets(getattr(chain, order), x)
        generator = torch.Generator().manual_seed(1)
        offsets = {
            name: offset.map(
                lambda v: 0.3 * torch.randn(v.shape, dtype=v.dtype, generator=generator)
            )
            for name, offset in zero.offsets.items()
        }
        moved = draw_particles(chain.model, OffsetGuide(zero.guide, offsets, 5), x, 6)
        assert list(moved.log_guide) == list(offsets)
        # The same draws under the unmoved guide: its conditionals, to be moved by hand.
        fixed = pyro.poutine.condition(getattr(chain, order), moved.latents)
        with pyro.plate("particles", 6, dim=-2):
            plain = pyro.poutine.trace(fixed).get_trace(x)
        for name, offset in offsets.items():
            q = plain.nodes[name]["fn"]
            by_hand = dist.MultivariateNormal(
                q.mean + offset.loc_offset,
                scale_tril=offset.log_scale_offset.exp().unsqueeze(-1) * q.scale_tril,
            ).log_prob(moved.latents[name])
            torch.testing.assert_close(moved.log_guide[name], by_hand)

    def test_plates_left_of_the_data(self):
        def guide(x):
            with pyro.plate("groups", 4, dim=-2), pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def model(x):
            guide(x)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

        x = torch.zeros(5, 2)
        zero = zero_offsets(guide, x)
        assert zero.offsets["z"].loc_offset.shape == (4, 5, 3)
        assert zero.rows(slice(1, 3)).offsets["z"].loc_offset.shape == (4, 2, 3)
        particles = draw_particles(model, zero, x, 6)
        assert particles.latents["z"].shape == (6, 4, 5, 3)

    def test_rows_are_those_of_the_data(self):
        refined = refine(MODEL.vae().model, bad_guide, X, steps=3)
        loc, scale = normal_of(refined)
        for start, stop in ((0, 3), (3, 6), (6, 9)):
            part = refined.rows(slice(start, stop))
            torch.testing.assert_close(
                normal_of(part, X[start:stop]), (loc[start:stop], scale[start:stop])
            )

    def test_another_batch(self):
        refined = refine(MODEL.vae().model, bad_guide, X, steps=1)
        with pytest.raises(ValueError, match=r"^[^\n]*batch of 7 data, got 3[^\n]*$"):
            refined(X[:3])


class TestTheOptimum:
    def test_is_the_mean_field_posterior_from_any_start(self):
        refined = refine(
            MODEL.vae().model, bad_guide, X, ExactELBO(X), steps=600, learning_rate=0.1
        )
        exact = MODEL.mean_field_posterior(X).base_dist
        torch.testing.assert_close(
            normal_of(refined), (exact.loc, exact.scale), rtol=1e-6, atol=1e-7
        )
        bound = ExactELBO(X).bound(draw_particles(MODEL.vae().model, refined, X))
        gap = MODEL.log_evidence(X) - bound
        torch.testing.assert_close(gap, MODEL.mean_field_gap().expand(7))

    def test_is_the_same_however_the_guide_lies_in_memory(self):
        """Adam's kernel goes through offsets and gradients as they lie, not as they are indexed."""

        def columns_first(x):
            loc = (0.5 * x.mT[:3].contiguous()).mT
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 1.5).to_event(1))

        refined = refine(
            MODEL.vae().model, columns_first, X, ExactELBO(X), steps=600, learning_rate=0.1
        )
        exact = MODEL.mean_field_posterior(X).base_dist
        torch.testing.assert_close(
            normal_of(refined), (exact.loc, exact.scale), rtol=1e-6, atol=1e-7
        )

    def test_without_noise_where_the_posterior_is_in_the_family(self):
        """Orthogonal loadings: q can be the posterior, where the default gradient has no noise."""
        orthogonal = LinearGaussian(2 * torch.eye(5, 3, dtype=torch.float64), noise_scale=0.7)
        x = orthogonal.simulate(20)
        vae = orthogonal.vae()
        refined = refine(vae.model, bad_guide, x, steps=600)
        weights = draw_particles(vae.model, refined, x, 4).log_weight
        torch.testing.assert_close(weights, orthogonal.log_evidence(x).expand(4, -1))

    def test_with_noise_it_comes_nearer_with_steps_and_draws(self, significance):
        """The excess KL over the best of the family is never negative, and falls."""
        x = MODEL.simulate(300)
        exact, model = ExactELBO(x), MODEL.vae().model
        best = MODEL.log_evidence(x) - MODEL.mean_field_gap()

        def excess(**kwargs):
            refined = refine(model, bad_guide, x, STL(kwargs.pop("K")), **kwargs)
            return (best - exact.bound(draw_particles(model, refined, x))).detach()

        rough, longer, finer = excess(K=2), excess(K=2, steps=200), excess(K=16, steps=200)
        for value in (rough, longer, finer):
            assert value.min() > -1e-9
        significance = significance.split(2)
        significance.require_less(mean_of(longer - rough), 0.0)
        significance.require_less(mean_of(finer - longer), 0.0)

    def test_of_a_correlated_guide_keeps_the_correlations(self):
        refined = refine(MODEL.vae().model, correlated_guide, X, steps=5)
        q = pyro.poutine.trace(refined).get_trace(X).nodes["z"]["fn"]
        start = pyro.poutine.trace(correlated_guide).get_trace(X).nodes["z"]["fn"]

        def correlation(normal):
            scale = normal.stddev.unsqueeze(-1)
            return normal.covariance_matrix / (scale * scale.mT)

        torch.testing.assert_close(correlation(q), correlation(start))
        assert not torch.allclose(q.mean, start.mean)

    @pytest.mark.parametrize("objective", [None, ELBO(8), IWAE(8), VIMCO(8), RWS(8)], ids=repr)
    def test_every_kind_of_gradient_raises_the_bound(self, objective, significance):
        x = MODEL.simulate(200)
        model = MODEL.vae().model
        refined = refine(model, bad_guide, x, objective, steps=60)
        exact = ExactELBO(x)
        gain = exact.bound(draw_particles(model, refined, x)) - exact.bound(
            draw_particles(model, bad_guide, x)
        )
        significance.require_less(mean_of(-gain.detach()), 0.0)

    def test_several_sites(self, significance):
        chain = LinearChain()
        x = chain.simulate(300)

        def far(x):
            with pyro.plate("data", len(x)):
                for name, size in (("u", 2), ("v", 3)):
                    loc = torch.zeros(size, dtype=torch.float64)
                    pyro.sample(name, dist.Normal(loc, 1.5).to_event(1))

        refined = refine(chain.model, far, x, steps=50)
        torch.manual_seed(0)
        before, after = (
            draw_particles(chain.model, g, x, 50).log_weight.mean(0).detach()
            for g in (far, refined)
        )
        significance = significance.split(2)
        significance.require_less(mean_of(before - after), 0.0)
        significance.require_less(mean_of(after - chain.log_evidence(x).detach()), 0.0)


class TestEachDatumByItself:
    def test_in_a_batch_of_others_without_noise(self):
        model = MODEL.vae().model
        whole = normal_of(refine(model, bad_guide, X, ExactELBO(X), steps=20))
        for i in range(7):
            one = X[i : i + 1]
            alone = normal_of(refine(model, bad_guide, one, ExactELBO(one), steps=20), one)
            torch.testing.assert_close(alone, (whole[0][i : i + 1], whole[1][i : i + 1]))

    @pytest.mark.parametrize("objective", [None, IWAE(4), VIMCO(4)], ids=repr)
    def test_on_the_same_draws_with_other_batch_mates(self, objective):
        model = MODEL.vae().model
        other = X.clone()
        other[1:] = 5 * torch.randn(6, 6, dtype=torch.float64)
        first, second = (normal_of(refine(model, bad_guide, x, objective), x) for x in (X, other))
        torch.testing.assert_close(first[0][0], second[0][0])
        torch.testing.assert_close(first[1][0], second[1][0])
        assert not torch.allclose(first[0][1:], second[0][1:])


class TestNothingElseChanges:
    def test_parameters_and_their_gradients(self):
        vae = binary_vae()
        for parameter in vae.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        start = [p.detach().clone() for p in vae.parameters()]
        refined = refine(vae.model, vae.guide, binary_data(10), IWAE(3), steps=5)
        for parameter, value in zip(vae.parameters(), start, strict=True):
            assert torch.equal(parameter, value)
            assert torch.equal(parameter.grad, torch.full_like(parameter, 3.0))
        assert not any(t.requires_grad for o in refined.offsets.values() for t in o.tensors)

    def test_the_store_of_pyro_params(self):
        x = LinearChain().simulate(10).float()
        param_model(x), param_guide(x)
        start = {n: v.detach().clone() for n, v in pyro.get_param_store().items()}
        refine(param_model, param_guide, x, steps=3)
        for name, value in pyro.get_param_store().items():
            assert torch.equal(value, start[name])

    def test_random_numbers(self):
        model = MODEL.vae().model
        state = torch.get_rng_state()
        first, again, other = (
            normal_of(refine(model, bad_guide, X, STL(2), seed=seed)) for seed in (1, 1, 2)
        )
        torch.set_rng_state(state)
        refine(model, bad_guide, X, STL(2), seed=5)
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(first[0], again[0])
        assert not torch.equal(first[0], other[0])

    def test_works_where_gradients_are_off(self):
        with torch.no_grad():
            inside = normal_of(refine(MODEL.vae().model, bad_guide, X))
        assert torch.equal(inside[0], normal_of(refine(MODEL.vae().model, bad_guide, X))[0])

    def test_no_steps(self):
        refined = refine(MODEL.vae().model, bad_guide, X, steps=0)
        torch.testing.assert_close(normal_of(refined), normal_of(bad_guide))


def guide_with(site, plate=True, **kwargs):
    def guide(x):
        with pyro.plate("data", len(x), **kwargs):
            if plate:
                pyro.sample("z", site)
        if not plate:
            pyro.sample("z", site)

    return guide


class TestErrors:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("site", "kind"),
        [
            (dist.Categorical(torch.ones(3)), "Categorical"),
            (dist.LogNormal(torch.zeros(3), 1.0).to_event(1), "LogNormal"),
            (dist.Laplace(torch.zeros(3), 1.0).to_event(1), "Laplace"),
        ],
    )
    def test_sites_of_another_kind(self, site, kind):
        with pytest.raises(ValueError, match=rf"^guide site 'z' is a {kind}[^\n]*$"):
            refine(MODEL.vae().model, guide_with(site), X)

    def test_a_site_outside_the_data_plate(self):
        guide = guide_with(dist.Normal(ZEROS, 1.0).to_event(1), plate=False)
        with pytest.raises(ValueError, match=r"^guide site 'z' has batch shape \(\), expected 7"):
            refine(MODEL.vae().model, guide, X)

    def test_a_plate_that_subsamples(self):
        guide = guide_with(dist.Normal(ZEROS, 1.0).to_event(1), subsample_size=3)
        with pytest.raises(ValueError, match="plate 'data' subsamples"):
            refine(MODEL.vae().model, guide, X)

    def test_an_objective_that_simulates_data(self):
        with pytest.raises(ValueError, match="asks the guide about simulated data"):
            refine(MODEL.vae().model, bad_guide, X, RWS(3, phi="sleep"))

    @pytest.mark.usefixtures("unchecked_types")
    @pytest.mark.parametrize("make", [Refinement, lambda **kw: refine(None, None, X, **kw)])
    def test_settings(self, make):
        for steps in (-1, 2.5):
            with pytest.raises(ValueError, match=f"whole number.*, got {steps}"):
                make(steps=steps)
        for rate in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"positive learning_rate, got {rate}"):
                make(learning_rate=rate)

    def test_no_draws(self):
        with pytest.raises(ValueError, match="num_particles >= 1, got 0"):
            Refinement(num_particles=0)


def test_the_settings_are_their_own_key():
    one = Refinement(5, 0.2, 3)
    assert repr(one) == "Refinement(steps=5, learning_rate=0.2, num_particles=3)"
    assert one == Refinement(5, 0.2, 3)
    expected = refine(MODEL.vae().model, bad_guide, X, STL(3), steps=5, learning_rate=0.2, seed=4)
    found = one(Programs(MODEL.vae().model, bad_guide), X, seed=4)
    assert torch.equal(normal_of(found)[0], normal_of(expected)[0])
