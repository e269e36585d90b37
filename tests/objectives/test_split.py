"""Estimators split into direct part, score and path, where the split is not easy."""

import math
import unittest.mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain
from significance import mean_of

from ppl_vae.objectives import (
    CUBO,
    ELBO,
    IWAE,
    IWAESTL,
    PIWAE,
    STL,
    VIMCO,
    DReG,
    GeneralizedDReG,
    Reinforce,
    TailAdaptive,
)
from ppl_vae.objectives._divergences import rank_weights

from .linear import PHI, draw_once
from .replicated import (
    exact_gradient,
    log_evidence,
    log_moment,
    mild_parameters,
    replicates,
    require_gradient,
)

K, COUNT = 3, 30_000
DATUM = torch.tensor([[0.4, -0.3]], dtype=torch.float64)


def entangled(a, g, s):
    """Two layers; a and g are parameters of the model and of the guide, which draws v first."""

    def model(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(a, 1.0).to_event(1))
            v = pyro.sample("v", dist.Normal(g * u, 0.7).to_event(1))
            pyro.sample("x", dist.Normal(v, 0.8).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x / 2 + 0.3 * a, s.exp()).to_event(1))
            pyro.sample("u", dist.Normal(0.4 * v + 0.2 * g, 1.0).to_event(1))

    return model, guide


def entangled_gradients(objective, seed):
    values = torch.tensor([[0.3, -0.5], [0.6, 0.4], [-0.2, -0.3]], dtype=torch.float64)
    leaves = [value.expand(COUNT, 2).clone().requires_grad_() for value in values]
    torch.manual_seed(seed)
    objective.differentiable_loss(*entangled(*leaves), DATUM.expand(COUNT, 2)).backward()
    return torch.cat([leaf.grad for leaf in leaves], 1).T


def check_entangled(objective, reference, significance):
    ours, theirs = entangled_gradients(objective, 1), entangled_gradients(reference, 2)
    significance = significance.split(len(ours))
    for left, right in zip(ours, theirs, strict=True):
        significance.require_equal(mean_of(left), mean_of(right))


@pytest.mark.parametrize(
    ("objective", "reference"),
    [
        (STL(K), ELBO(K)),
        (Reinforce(K), ELBO(K)),
        (DReG(K), IWAE(K)),
        (GeneralizedDReG(K), IWAE(K)),
        (VIMCO(K), IWAE(K)),
    ],
    ids=lambda o: type(o).__name__,
)
def test_parameters_that_model_and_guide_share(objective, reference, significance):
    check_entangled(objective, reference, significance)


def test_of_the_test(significance):
    """Leaving out the score under normalised weights is a bias that is seen."""
    with pytest.raises(AssertionError):
        check_entangled(IWAESTL(K), IWAE(K), significance)


@pytest.mark.parametrize("kind", [STL, IWAESTL, DReG, GeneralizedDReG, TailAdaptive])
@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
def test_at_a_posterior_of_two_layers_the_path_is_zero(kind, order):
    """The guide is the posterior of any theta: what is left is the direct gradient of log p."""
    chain = LinearChain()
    x = chain.simulate(3)
    objective = kind(K)
    particles = objective.draw(chain.model, getattr(chain, order), x)
    loss, bound = objective.loss_of(particles)
    torch.testing.assert_close(bound, chain.log_evidence(x).detach())
    found = torch.autograd.grad(loss, [chain.B], retain_graph=True)
    # At the posterior all weights are 1/K; generalised DReG leaves the likelihood alone.
    expected = torch.autograd.grad(-particles.log_likelihood.mean(0).sum(), [chain.B])
    torch.testing.assert_close(found, expected)


def shaped_latent(how, loc, scale):
    """Six scalars: one event, a matrix, sites of their own, or rows of inner plates."""

    def sample(name, loc, scale):
        if how == "event":
            return pyro.sample(name, dist.Normal(loc, scale).to_event(1))
        if how == "matrix":
            both = (value.expand(loc.shape).unflatten(-1, (2, 3)) for value in (loc, scale))
            return pyro.sample(name, dist.Normal(*both).to_event(2)).flatten(-2)
        columns = zip(loc.unbind(-1), scale.expand(loc.shape).unbind(-1), strict=True)
        sites = [pyro.sample(f"{name}{i}", dist.Normal(*c)) for i, c in enumerate(columns)]
        return torch.stack(sites, -1)

    return sample("z", loc, scale)


def shaped_gradient(objective, how):
    """Of the guide's and the prior's loc and log-scale, on the draws of given noise."""
    leaves = [torch.full((6,), value).double().requires_grad_() for value in (0.2, -0.3, 0.1, 0.4)]
    loc, log_scale, prior_loc, prior_log_scale = leaves
    rows = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(-1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = shaped_latent(how, prior_loc + 0 * x, prior_log_scale.exp())
            pyro.sample("x", dist.Normal(z.square().sum(-1, keepdim=True), 2.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            shaped_latent(how, loc + x, log_scale.exp())

    noise = torch.randn(K, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    queue = {"event": [noise], "matrix": [noise.unflatten(-1, (2, 3))], "sites": noise.unbind(-1)}
    draws = iter(queue[how])
    with unittest.mock.patch(
        "torch.distributions.normal._standard_normal", lambda shape, **_: next(draws).reshape(shape)
    ):
        loss = objective.differentiable_loss(model, guide, rows)
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("how", ["matrix", "sites"])
@pytest.mark.parametrize("kind", [STL, IWAESTL, DReG, GeneralizedDReG, CUBO, TailAdaptive])
def test_the_shape_of_a_latent_does_not_matter(kind, how):
    objective = CUBO(K, order=2) if kind is CUBO else kind(K)
    torch.testing.assert_close(shaped_gradient(objective, how), shaped_gradient(objective, "event"))


@pytest.mark.parametrize("kind", [STL, IWAESTL, DReG, GeneralizedDReG, TailAdaptive])
def test_inner_plates_are_part_of_the_datum(kind):
    """At the posterior of every inner row the path is zero, and phi has no gradient."""
    shift = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(5, 3, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 3, dim=-2):
            w = pyro.sample("w", dist.Normal(x.new_zeros(3, 1), 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x.T)

    def gradient(offset):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 3, dim=-2):
                pyro.sample("w", dist.Normal(x.T / 2 + offset + shift, 0.5**0.5))

        loss = kind(K).differentiable_loss(model, guide, rows)
        return torch.autograd.grad(loss, [shift])[0]

    torch.testing.assert_close(gradient(0.0), torch.zeros(3, 1, dtype=torch.float64))
    # Off by one row, only that row's parameter moves, back to where it should be.
    off = torch.tensor([[0.0], [0.3], [0.0]], dtype=torch.float64)
    found = gradient(off)
    assert found[1] > 0
    torch.testing.assert_close(found[[0, 2]], torch.zeros(2, 1, dtype=torch.float64))


def test_partial_importance_weighting_adds_no_two_gradients():
    """A common mistake: phi with the sum of both bounds' gradients."""
    tight, many, ours = (
        draw_once(objective).gradient for objective in (IWAE(12), IWAE(3), PIWAE(3, num_bounds=4))
    )
    for name in PHI:
        assert not torch.allclose(ours[name], tight[name] + many[name])


class TestChiBound:
    N = 2

    def test_given_a_reference_phi_is_unbiased(self, significance):
        """For E[w^n] exp(-n reference) / n, descended."""
        reference = -4.0
        exact = exact_gradient(
            lambda values: (
                -(
                    (log_moment(values, self.N) + self.N * (log_evidence(values) - reference)).exp()
                    / self.N
                )
            ),
            ("c", "s"),
        )
        gradient = replicates(CUBO(K, order=self.N, log_reference=reference), COUNT)[1]
        require_gradient(significance, gradient, exact, ("c", "s"))
        own = replicates(CUBO(K, order=self.N), COUNT)[1]
        with pytest.raises(AssertionError):
            require_gradient(significance, own, exact, ("c", "s"))

    def test_without_one_its_gradient_tends_to_that_of_the_bound(self, significance):
        """With a bias of order 1/K, which twice the one at 2K less the one at K is free of."""
        exact = exact_gradient(lambda values: -log_moment(values, self.N) / self.N, ("c", "s"))
        few, many = (replicates(CUBO(size, order=self.N), 5_000, size)[1] for size in (40, 80))
        combined = {name: 2 * many[name] - few[name] for name in ("c", "s")}
        require_gradient(significance, combined, exact, ("c", "s"))
        biased = replicates(CUBO(2, order=self.N), COUNT)[1]
        with pytest.raises(AssertionError):
            require_gradient(significance, biased, exact, ("c", "s"))

    def test_the_value_comes_from_below(self, significance):
        values = mild_parameters()
        evidence = log_evidence(values).item()
        exact = evidence + log_moment(values, self.N).item() / self.N
        assert exact > evidence
        significance = significance.split(4)
        bounds = [mean_of(replicates(CUBO(size, order=self.N), COUNT)[0]) for size in (1, 4, 16)]
        for lower, higher in zip(bounds, [*bounds[1:], exact], strict=True):
            significance.require_less(lower, higher)
        # The mean under the logarithm is unbiased.
        moments = (self.N * (replicates(CUBO(16, order=self.N), COUNT)[0] - evidence)).exp()
        significance.require_equal(mean_of(moments), log_moment(values, self.N).exp().item())

    def test_orders_below_one_are_refused(self):
        for order in (0.5, math.nan, math.inf):
            with pytest.raises(ValueError, match="order n >= 1"):
                CUBO(3, order=order)


def argsort_in_place_of_rank(log_weight):
    """The published mistake: the order of the sorted particles taken for their ranks."""
    order = torch.argsort(-log_weight, dim=0) + 1
    weight = 1 / order.to(log_weight.dtype)
    return weight / weight.sum(0)


def check_ranks(weights):
    """What follows from 1 / #{j: w_j >= w_k}."""
    log_weight = torch.tensor([[0.3, 5.0], [2.0, -1.0], [-4.0, 0.0], [1.0, 3.0]]).double()
    found = weights(log_weight)
    expected = torch.tensor([[1 / 3, 1.0], [1.0, 1 / 4], [1 / 4, 1 / 3], [1 / 2, 1 / 2]]).double()
    torch.testing.assert_close(found, expected / (25 / 12))


class TestTailAdaptive:
    LOG_WEIGHT = 3 * torch.randn(
        9, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )

    def test_the_weights_are_of_the_rank(self):
        check_ranks(rank_weights)

    def test_of_the_test(self):
        with pytest.raises(AssertionError):
            check_ranks(argsort_in_place_of_rank)

    @pytest.mark.parametrize("transform", [torch.exp, torch.sinh, lambda w: w / 1e3 + 7])
    def test_a_growing_transform_of_the_weights_leaves_them(self, transform):
        weight = rank_weights(self.LOG_WEIGHT)
        assert torch.equal(rank_weights(transform(self.LOG_WEIGHT)), weight)

    def test_they_grow_with_the_weight_and_sum_to_one(self):
        order = self.LOG_WEIGHT.argsort(0)
        assert (rank_weights(self.LOG_WEIGHT).gather(0, order).diff(dim=0) > 0).all()
        total = rank_weights(self.LOG_WEIGHT).sum(0)
        torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64))

    def test_ties_share(self):
        found = rank_weights(torch.tensor([[1.0], [2.0], [1.0], [2.0]]))
        torch.testing.assert_close(found, torch.tensor([[1 / 6], [1 / 3], [1 / 6], [1 / 3]]))
        torch.testing.assert_close(rank_weights(torch.zeros(4, 2)), torch.full((4, 2), 0.25))

    def test_a_datum_has_its_own_ranks(self):
        for i in (0, 17):
            alone = rank_weights(self.LOG_WEIGHT[:, i : i + 1])
            assert torch.equal(alone[:, 0], rank_weights(self.LOG_WEIGHT)[:, i])
