"""Transitions: what they leave invariant, and what they refuse."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from significance import mean_of, variance_of

from ppl_vae.evidence.annealing import _chains as hmc
from ppl_vae.evidence.annealing._chains import Chains, GeometricPath, HamiltonianTransition
from ppl_vae.particles import LatentDensity, Programs

from .cases import MODEL, VAE, X, density_of

ONE = torch.ones(1, dtype=torch.float64)


def path_from(start="prior", num_chains=3, programs=VAE, x=X):
    return GeometricPath(density_of(programs, x, num_chains), start)


def steps(path, size):
    return torch.full_like(path.draw().base[0], size)


class TestPath:
    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_ends(self, start):
        """f_0 is the start's density, f_1 the joint's; between them it is geometric."""
        path = path_from(start)
        chains = path.draw()
        at = path.density(chains.position)
        base = at.prior if start == "prior" else at.guide
        torch.testing.assert_close(chains.log_density(0 * ONE), base)
        torch.testing.assert_close(chains.log_density(ONE), at.prior + at.likelihood)
        between = 0.7 * base + 0.3 * (at.prior + at.likelihood)
        torch.testing.assert_close(chains.log_density(0.3 * ONE), between)

    @pytest.mark.parametrize("start", ["prior", "guide"])
    def test_gradients(self, start):
        """``-M (z - mean)`` at b = 1."""
        chains = path_from(start).draw()
        offset = chains.position - MODEL.posterior(X).mean.detach()
        expected = -offset @ MODEL.posterior_precision.detach()
        torch.testing.assert_close(chains.base_gradient + chains.ratio_gradient, expected)

    def test_a_likelihood_that_ignores_the_latent(self):
        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(x.new_zeros(4), 1.0).to_event(1), obs=x)

        path = GeometricPath(LatentDensity(Programs(model, VAE.guide), X, 3), "prior")
        assert not path.draw().ratio_gradient.any()


class TestInvariance:
    @pytest.mark.parametrize("refreshment", [1.0, 0.4])
    @pytest.mark.parametrize("scaled", [False, True])
    def test_posterior_draws_stay_posterior_draws(self, refreshment, scaled, significance):
        """Mean, variance and covariance of whitened coordinates, after big steps."""
        x = X[:1]
        path = path_from("prior", 30_000, MODEL.vae(), x)
        chains = path.at(path.density.draw_guide())
        transition = HamiltonianTransition(3, refreshment)
        scale = torch.tensor([[0.3, 1.5]], dtype=torch.float64) if scaled else ONE
        for _ in range(3):
            chains, acceptance = transition(path, chains, ONE, steps(path, 0.5), scale)
        factor = torch.linalg.cholesky(MODEL.posterior_precision.detach())
        white = ((chains.position - MODEL.posterior(x).mean.detach()) @ factor)[:, 0]
        assert 0.05 < acceptance.mean() < 0.95
        significance = significance.split(8)
        for column in (*white.T, *chains.momentum[:, 0].T):
            significance.require_equal(mean_of(column), 0.0)
        for column in white.T:
            significance.require_equal(variance_of(column), 1.0)
        significance.require_equal(mean_of(white[:, 0] * white[:, 1]), 0.0)
        momentum = chains.momentum[:, 0]
        significance.require_equal(mean_of(momentum[:, 0] * white[:, 0]), 0.0)

    def test_without_the_acceptance_step_they_would_not(self, significance):
        x = X[:1]
        path = path_from("prior", 30_000, MODEL.vae(), x)
        chains = path.at(path.density.draw_guide())
        stride = torch.full((1, 1, 1), 0.4, dtype=torch.float64)
        for _ in range(3):
            chains = path.leapfrog(chains, ONE, stride, 1)
        factor = torch.linalg.cholesky(MODEL.posterior_precision.detach())
        white = ((chains.position - MODEL.posterior(x).mean.detach()) @ factor)[:, 0]
        with pytest.raises(AssertionError):
            significance.require_equal(variance_of(white[:, 0]), 1.0)

    def test_small_steps_conserve_energy(self):
        path = path_from("guide", 5)
        chains = path.draw()
        _, acceptance = HamiltonianTransition(4)(path, chains, ONE, steps(path, 1e-4), ONE)
        torch.testing.assert_close(acceptance, torch.ones_like(acceptance), rtol=0, atol=1e-6)

    def test_a_trajectory_can_be_run_back(self):
        """Reversibility, to rounding."""
        path = path_from("prior", 5)
        chains = path.draw()
        stride = torch.full((1, 1, 1), 0.2, dtype=torch.float64)
        there = path.leapfrog(chains, ONE, stride, 6)
        back = path.leapfrog(there._replace(momentum=-there.momentum), ONE, stride, 6)
        torch.testing.assert_close(back.position, chains.position)
        torch.testing.assert_close(back.momentum, -chains.momentum)

    @pytest.mark.parametrize("num_steps", [2, 6, 7, 8])
    def test_steps_that_are_taken_at_once_are_those_one_by_one(self, num_steps):
        path = path_from("guide", 5)
        begun = path.draw()
        level, stride = torch.tensor(0.3, dtype=torch.float64), 0.1 + begun.position.square() / 10
        at_once, one_by_one = path.leapfrog(begun, level, stride, num_steps), begun
        for _ in range(num_steps):
            one_by_one = path.leapfrog(one_by_one, level, stride, 1)
        for found, expected in zip(at_once, one_by_one, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_draws_do_not_depend_on_how_chains_are_laid_out():
    """Compiled steps give results in another layout than plain ones."""
    path = path_from("guide", 5)
    begun = path.draw()
    turned = Chains(*(value.mT.contiguous().mT for value in begun))
    assert turned.base.stride() != begun.base.stride()
    size, moved = steps(path, 0.5), []
    for chains in (begun, turned):
        torch.manual_seed(8)
        moved.append(HamiltonianTransition(2, 0.7)(path, chains, ONE, size, ONE)[0])
    for found, expected in zip(moved[1], moved[0], strict=True):
        torch.testing.assert_close(found, expected)


def double_likelihood(x):
    """Latents in single precision, log p(x|z) in double precision."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.double().repeat(1, 1, 2), 1.0).to_event(1), obs=x)


def test_chains_keep_their_type():
    """Compiled steps read the memory of one type; a double step is what a pilot tunes here."""
    path = GeometricPath(LatentDensity(Programs(double_likelihood, None), X, 3), "prior")
    begun = path.draw()
    moved, _ = HamiltonianTransition(2)(path, begun, ONE, 0.1 * ONE.expand(len(X)), ONE)
    assert begun.position.dtype is torch.float32
    assert begun.ratio.dtype is torch.float64
    assert [value.dtype for value in moved] == [value.dtype for value in begun]


def fragile(x):
    """NaN for z above 1, where the start never is."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 0.05).to_event(1))
        scale = (1 - z.sum(-1, keepdim=True)).sqrt()
        pyro.sample("x", dist.Normal(x.new_zeros(4), scale).to_event(1), obs=x)


def fragile_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(2), 0.05).to_event(1))


class TestRejection:
    def fragile_move(self, size=30.0):
        path = GeometricPath(LatentDensity(Programs(fragile, fragile_guide), X, 40), "prior")
        chains = path.draw()
        moved, acceptance = HamiltonianTransition(1)(path, chains, ONE, steps(path, size), ONE)
        return chains, moved, acceptance

    def test_a_nan_leaves_the_chain_where_it_was(self):
        before, after, acceptance = self.fragile_move()
        stayed = (before.position == after.position).all(-1)
        assert stayed.any()
        assert (acceptance[stayed] <= 1).all()
        assert not acceptance.isnan().any()
        for value in after:
            assert value.isfinite().all()
        torch.testing.assert_close(after.ratio[stayed], before.ratio[stayed], rtol=0, atol=0)

    def test_arithmetic_in_place_of_a_choice_would_let_it_through(self, monkeypatch):
        def mixed(accepted, new, old):
            share = accepted.to(new.base.dtype)
            shares = [share.unsqueeze(-1) if a.dim() == 3 else share for a in new]
            triples = zip(shares, new, old, strict=True)
            return Chains(*(share * a + (1 - share) * b for share, a, b in triples))

        monkeypatch.setattr(hmc, "select", mixed)
        _, after, _ = self.fragile_move()
        assert after.ratio.isnan().any()

    def test_a_density_of_plus_infinity_is_no_proposal(self, monkeypatch):
        path = path_from("prior")
        chains = path.draw()

        def infinite(self, chains, level, stride, num_steps):
            return chains._replace(
                position=chains.position + 1, base=torch.full_like(chains.base, math.inf)
            )

        monkeypatch.setattr(GeometricPath, "leapfrog", infinite)
        moved, acceptance = HamiltonianTransition(1)(path, chains, ONE, steps(path, 0.1), ONE)
        assert not acceptance.any()
        torch.testing.assert_close(moved.position, chains.position)
